//! One node: how many of its devices may be given away.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::FRESH;
use super::device::{DeviceFacts, Dirt, Division, Health, Hold, Registration, Sharing};
use crate::ids::{DeviceId, GpuClass, NodeName, Seconds};

/// What the API server says of a node's GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerFacts {
    /// The node's allocatable GPUs: those that the device plugin or the DRA driver calls healthy.
    pub allocatable: u32,
    /// What pods request that are bound to the node and have no reservation. The pods of placements are not counted: their
    /// reservation is.
    pub requested_by_others: u32,
    /// Of the allocatable: those that somebody holds and that are given out to nobody else any more. A device plugin does not
    /// count them in the first place.
    pub withdrawn: u32,
    /// How they are shared between pods.
    pub sharing: Sharing,
}

/// Whether new pods may come to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// They may.
    Open,
    /// The kubelet does not say that it is ready.
    NotReady,
    /// Somebody cordoned it. That is never undone here.
    Cordoned,
    /// The owner empties it.
    Drained,
}

/// All that is known of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub node: NodeName,
    /// Since when the agent's heartbeat has not changed; none if it was never seen.
    pub heartbeat_age: Option<Seconds>,
    /// Whether new pods may come.
    pub admission: Admission,
    /// By its agent's last survey.
    pub devices: Vec<DeviceFacts>,
    /// None if node or pods could not be read.
    pub scheduler: Option<SchedulerFacts>,
    /// GPUs that reservations hold, whether their pods run yet or not.
    pub reserved: u32,
}

/// Why a node takes nothing new, whatever it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The agent is not heard, so its figures may be past.
    AgentSilent {
        /// For how long; none if it never was.
        age: Option<Seconds>,
        /// For how long it may be.
        limit: Seconds,
    },
    /// The kubelet is not ready.
    NotReady,
    /// It is cordoned.
    Cordoned,
    /// The owner empties it.
    Drained,
    /// What the scheduler gives out is not known.
    SchedulerUnknown,
    /// Pods share its devices.
    Shared(Sharing),
    /// A process of some pod is on a device that the pod does not hold.
    Intruder,
    /// The kubelet chooses which device a pod gets, and may choose one that is not healthy.
    UnfitGivenOut {
        /// How many such devices there are to be chosen, now or once their holders end; at least.
        unfit: u32,
    },
}

/// NVML and the scheduler tell different stories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disagreement {
    /// The device plugin registers fewer devices than are healthy.
    SchedulerKnowsFewer {
        /// What the scheduler may give out.
        allocatable: u32,
        /// What NVML calls healthy and whole.
        healthy: u32,
    },
    /// The scheduler gives out devices that NVML does not call healthy and whole.
    NvmlKnowsFewer {
        /// What the scheduler may give out.
        allocatable: u32,
        /// What NVML calls healthy and whole.
        healthy: u32,
    },
}

/// The devices of one class on one node. Each is counted once by health, and at most once by use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeClass {
    /// All of them.
    pub installed: u32,
    /// Those that work.
    pub healthy: u32,
    /// Those that work, and should be looked at.
    pub degraded: u32,
    /// Those that must not be used.
    pub unhealthy: u32,
    /// Those of which nobody can tell.
    pub unknown: u32,
    /// Of those that work: held by pods without a reservation.
    pub owner_requested: u32,
    /// Of those that work: held by reservations.
    pub leased: u32,
    /// Of those that work: used by something that no pod accounts for.
    pub orphaned: u32,
    /// Held by pods or reservations, and not known to work.
    pub stranded: u32,
    /// What may still be given away, before the owner's reserve.
    pub free: u32,
}

/// What one node has to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCapacity {
    /// Its name.
    pub node: NodeName,
    /// Why it takes nothing new.
    pub closed: Option<Closed>,
    /// By class.
    pub classes: BTreeMap<GpuClass, NodeClass>,
    /// Devices without a class. They are never offered.
    pub unclassified: u32,
    /// How many GPUs reservations may hold on this node in all. Never less than they hold: nothing is taken from what runs.
    pub reservable: u32,
    /// Where the two sources differ; none also where one of them is silent.
    pub disagreement: Option<Disagreement>,
}

/// What one node has to give, from what is known of it.
#[must_use]
pub fn of_node(facts: &NodeFacts) -> NodeCapacity {
    let node = Node::of(facts);
    let scheduler = facts.scheduler.unwrap_or_default();
    let closed = node.closed(facts);
    let (others, reserved) = (scheduler.requested_by_others, facts.reserved);
    // What is held on devices that do not count as fit takes nothing from those that do.
    let on_fit = |requested: u32, hold: Hold| {
        let (fit, unfit) = (node.held(hold, true), node.held(hold, false));
        requested.saturating_sub(unfit).max(fit)
    };
    let by_devices = node.fit().saturating_sub(on_fit(others, Hold::Other));
    let by_scheduler = scheduler.allocatable.saturating_sub(others);
    let free = match closed {
        None => {
            by_devices.saturating_sub(on_fit(reserved, Hold::Reservation)).min(by_scheduler.saturating_sub(reserved))
        }
        Some(_) => 0,
    };
    let mut classes = node.classes(free);
    node.count_holders(&mut classes, reserved, others);
    NodeCapacity {
        node: facts.node.clone(),
        closed,
        classes,
        unclassified: count(node.devices.iter().filter(|device| device.class.is_none())),
        reservable: free.saturating_add(reserved),
        disagreement: node.disagreement(facts),
    }
}

/// Whether a heartbeat of this age still speaks for its node.
#[must_use]
pub fn is_fresh(age: Option<Seconds>) -> bool {
    // A heartbeat from the future is no better than an old one: one of the two clocks is wrong.
    age.is_some_and(|age| age <= FRESH && age >= Seconds(-FRESH.0))
}

impl SchedulerFacts {
    /// The devices that the next pod may get, or that a pod has which got them so.
    fn given_out(&self) -> u32 {
        self.allocatable.saturating_sub(self.withdrawn)
    }
}

impl Default for SchedulerFacts {
    fn default() -> Self {
        Self { allocatable: 0, requested_by_others: 0, withdrawn: 0, sharing: Sharing::Exclusive }
    }
}

/// The devices as they count: what cannot be told apart, or comes from a silent agent, may be in any state.
struct Node {
    devices: Vec<DeviceFacts>,
    sharing: Sharing,
    silent: bool,
}

impl Node {
    fn of(facts: &NodeFacts) -> Self {
        let silent = !is_fresh(facts.heartbeat_age);
        let mut seen: BTreeMap<&DeviceId, u32> = BTreeMap::new();
        for device in &facts.devices {
            *seen.entry(&device.id).or_default() += 1;
        }
        let counted = |device: &DeviceFacts| {
            let certain = !silent && seen.get(&device.id) == Some(&1);
            let health = if certain { device.health } else { Health::Unknown };
            DeviceFacts { health, ..device.clone() }
        };
        Self {
            devices: facts.devices.iter().map(counted).collect(),
            sharing: facts.scheduler.unwrap_or_default().sharing,
            silent,
        }
    }

    fn is_fit(&self, device: &DeviceFacts) -> bool {
        device.unfit(self.sharing).is_none()
    }

    fn fit(&self) -> u32 {
        count(self.devices.iter().filter(|device| self.is_fit(device)))
    }

    fn held(&self, hold: Hold, fit: bool) -> u32 {
        count(self.devices.iter().filter(|device| device.hold == hold && self.is_fit(device) == fit))
    }

    fn closed(&self, facts: &NodeFacts) -> Option<Closed> {
        if self.silent {
            return Some(Closed::AgentSilent { age: facts.heartbeat_age, limit: FRESH });
        }
        let scheduler = match (facts.admission, facts.scheduler) {
            (Admission::NotReady, _) => return Some(Closed::NotReady),
            (Admission::Cordoned, _) => return Some(Closed::Cordoned),
            (Admission::Drained, _) => return Some(Closed::Drained),
            (Admission::Open, None) => return Some(Closed::SchedulerUnknown),
            (Admission::Open, Some(scheduler)) => scheduler,
        };
        if !scheduler.sharing.keeps_tenants_apart() {
            return Some(Closed::Shared(scheduler.sharing));
        }
        if self.devices.iter().any(|device| device.dirt == Some(Dirt::Intruder)) {
            return Some(Closed::Intruder);
        }
        let unfit = self.unfit_given_out(scheduler);
        (unfit > 0).then_some(Closed::UnfitGivenOut { unfit })
    }

    /// Devices that are not fit to be shared and that the scheduler may give out all the same, at least.
    ///
    /// Numbers alone never say that it is these which are left out of what is given out, even if they add up: the plugin may
    /// leave out a sound one. And whoever holds one keeps it from others only until its pod ends, which may be before the next
    /// pod comes.
    fn unfit_given_out(&self, scheduler: SchedulerFacts) -> u32 {
        let may_be = |device: &&DeviceFacts| !self.is_fit(device) && device.registration != Registration::No;
        let named = count(self.devices.iter().filter(may_be));
        // What is given out beyond those that are known is unknown to NVML, or a share of one.
        let known = self.fit().saturating_add(named);
        named.saturating_add(scheduler.given_out().saturating_sub(known))
    }

    /// By class, with what is free of each if `free` are in all.
    fn classes(&self, free: u32) -> BTreeMap<GpuClass, NodeClass> {
        let open = |device: &&DeviceFacts| self.is_fit(device) && matches!(device.hold, Hold::Free | Hold::Unknown);
        // Devices that something else may hold, or that only one source believes in, may be of any class.
        let doubtful = count(self.devices.iter().filter(open)).saturating_sub(free);
        let mut classes: BTreeMap<GpuClass, NodeClass> = BTreeMap::new();
        for device in &self.devices {
            let Some(class) = &device.class else { continue };
            let counts = classes.entry(class.clone()).or_default();
            counts.count(device);
            if open(&device) {
                counts.free = counts.free.saturating_add(1);
            }
        }
        for counts in classes.values_mut() {
            counts.free = counts.free.saturating_sub(doubtful).min(counts.unused());
        }
        classes
    }

    /// Of those who hold devices the kubelet may name only some, or none. The others are counted where there is room.
    fn count_holders(&self, classes: &mut BTreeMap<GpuClass, NodeClass>, reserved: u32, others: u32) {
        let named = |hold: Hold| count(self.devices.iter().filter(|device| device.hold == hold));
        let mut leased = reserved.saturating_sub(named(Hold::Reservation));
        let mut owners = others.saturating_sub(named(Hold::Other));
        for counts in classes.values_mut() {
            let more = counts.unused().saturating_sub(counts.free).min(leased);
            counts.leased += more;
            leased -= more;
            let more = counts.unused().saturating_sub(counts.free).min(owners);
            counts.owner_requested += more;
            owners -= more;
        }
        for counts in classes.values_mut() {
            let more = counts.not_working().saturating_sub(counts.stranded).min(leased.saturating_add(owners));
            counts.stranded += more;
            let of_leased = more.min(leased);
            leased -= of_leased;
            owners = owners.saturating_sub(more - of_leased);
        }
    }

    fn disagreement(&self, facts: &NodeFacts) -> Option<Disagreement> {
        // What pods hold and whether something else uses a device is no question of which devices there are.
        let whole = |device: &&DeviceFacts| {
            device.health == Health::Healthy
                && device.class.is_some()
                && matches!(device.division, Division::Whole | Division::Instance)
        };
        let healthy = count(self.devices.iter().filter(whole));
        match facts.scheduler {
            _ if self.silent => None,
            None => None,
            Some(scheduler) => {
                let allocatable = scheduler.given_out();
                match allocatable.cmp(&healthy) {
                    Ordering::Less => Some(Disagreement::SchedulerKnowsFewer { allocatable, healthy }),
                    Ordering::Greater => Some(Disagreement::NvmlKnowsFewer { allocatable, healthy }),
                    Ordering::Equal => None,
                }
            }
        }
    }
}

impl NodeClass {
    fn count(&mut self, device: &DeviceFacts) {
        self.installed += 1;
        match device.health {
            Health::Healthy => self.healthy += 1,
            Health::Degraded => self.degraded += 1,
            Health::Unhealthy => self.unhealthy += 1,
            Health::Unknown => self.unknown += 1,
        }
        match (device.hold, device.dirt) {
            (Hold::Reservation | Hold::Other, _) if !device.works() => self.stranded += 1,
            (Hold::Reservation, _) => self.leased += 1,
            (Hold::Other, _) => self.owner_requested += 1,
            // What could not be found out is no finding.
            (Hold::Free | Hold::Unknown, Some(Dirt::Intruder | Dirt::Orphan | Dirt::Leak)) if device.works() => {
                self.orphaned += 1;
            }
            (Hold::Free | Hold::Unknown, _) => {}
        }
    }

    /// Of those that work: what nobody is known to use.
    fn unused(&self) -> u32 {
        let used = self.leased.saturating_add(self.owner_requested).saturating_add(self.orphaned);
        self.healthy.saturating_add(self.degraded).saturating_sub(used)
    }

    fn not_working(&self) -> u32 {
        self.unhealthy.saturating_add(self.unknown)
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
