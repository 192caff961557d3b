//! How many GPUs may be given away, from what is known of them.
//!
//! ```text
//! offered = min(NVML-derived, scheduler-derived) − reservations − owner's reserve
//! ```
//!
//! NVML-derived are the healthy, undivided devices that a fresh survey names; scheduler-derived are the node's allocatable
//! ones; from both go those that pods without a reservation request. Which devices such pods hold is not known here, so
//! every figure is a lower bound: a GPU that idles for a while costs less than one that is promised twice. What is unknown
//! is neither healthy nor free, and takes nothing away from work that runs.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Bytes, DeviceId, GpuClass, NodeName, Seconds};

/// A node whose agent was not heard for longer than this offers nothing new. The agent renews its Lease every 10 s.
pub const FRESH: Seconds = Seconds(30);

/// What a survey says of a device. Only the first lets it take new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// It works.
    Healthy,
    /// It works, and should be looked at.
    Degraded,
    /// It must not be used.
    Unhealthy,
    /// Nobody can tell.
    Unknown,
}

/// Whether a device is handed out as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Division {
    /// Yes.
    Whole,
    /// No, but in instances.
    Divided,
    /// Nobody can tell.
    Unknown,
}

/// One device of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its UUID.
    pub id: DeviceId,
    /// None if its product or memory is not known.
    pub class: Option<GpuClass>,
    /// Whether it works.
    pub health: Health,
    /// Whether it is one.
    pub division: Division,
}

/// What the API server says of a node's GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerFacts {
    /// The node's allocatable GPUs: those that the device plugin calls healthy.
    pub allocatable: u32,
    /// What pods request that are bound to the node and have no reservation. The pods of placements are not counted: their
    /// reservation is.
    pub requested_by_others: u32,
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
    /// What the scheduler gives out is not known.
    SchedulerUnknown,
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
    /// Held by pods without a reservation.
    pub owner_requested: u32,
    /// Held by reservations.
    pub leased: u32,
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

/// What the owner says of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolRules {
    /// GPUs of each class that stay free for the owner.
    pub reserve: u32,
    /// The classes that are shared; none listed means all.
    pub classes: BTreeSet<GpuClass>,
    /// Outside the owner's hours, so that nothing new may come.
    pub shut: bool,
}

/// The devices of one class in a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolClass {
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
    /// Held by pods without a reservation.
    pub owner_requested: u32,
    /// Held by reservations.
    pub leased: u32,
    /// Kept free for the owner: the reserve, or what is left of it.
    pub owner_reserve: u32,
    /// What others may ask for.
    pub offered: u32,
    /// The most of these on one node: the largest single job that fits.
    pub largest_node: u32,
}

/// What a pool has to give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolCapacity {
    /// By class.
    pub classes: BTreeMap<GpuClass, PoolClass>,
    /// Its nodes.
    pub nodes: u32,
    /// Those of them whose agent is not heard.
    pub stale_nodes: u32,
}

/// What one node has to give, from what is known of it.
#[must_use]
pub fn of_node(facts: &NodeFacts) -> NodeCapacity {
    let silent = !is_fresh(facts.heartbeat_age);
    let closed = match (facts.admission, facts.scheduler) {
        _ if silent => Some(Closed::AgentSilent { age: facts.heartbeat_age, limit: FRESH }),
        (Admission::NotReady, _) => Some(Closed::NotReady),
        (Admission::Cordoned, _) => Some(Closed::Cordoned),
        (Admission::Open, None) => Some(Closed::SchedulerUnknown),
        (Admission::Open, Some(_)) => None,
    };
    let mut seen: BTreeMap<&DeviceId, u32> = BTreeMap::new();
    for device in &facts.devices {
        *seen.entry(&device.id).or_default() += 1;
    }
    let mut classes: BTreeMap<GpuClass, NodeClass> = BTreeMap::new();
    // Healthy and whole, by class: what NVML alone would give away.
    let mut sound: BTreeMap<&GpuClass, u32> = BTreeMap::new();
    let mut unclassified = 0;
    for device in &facts.devices {
        let Some(class) = &device.class else {
            unclassified += 1;
            continue;
        };
        // Two devices that cannot be told apart, and any device of a silent node, may be in any state.
        let certain = !silent && seen.get(&device.id) == Some(&1);
        let health = if certain { device.health } else { Health::Unknown };
        if health == Health::Healthy && device.division == Division::Whole {
            *sound.entry(class).or_default() += 1;
        }
        classes.entry(class.clone()).or_default().count(health);
    }
    let healthy: u32 = sound.values().sum();
    let scheduler = facts.scheduler.unwrap_or(SchedulerFacts { allocatable: 0, requested_by_others: 0 });
    let usable = healthy.min(scheduler.allocatable);
    let for_reservations = match closed {
        None => usable.saturating_sub(scheduler.requested_by_others),
        Some(_) => 0,
    };
    let reservable = for_reservations.max(facts.reserved);
    // Devices that something else may hold, or that only one source believes in, may be of any class.
    let doubtful = healthy.saturating_sub(for_reservations.saturating_sub(facts.reserved));
    let (mut leased, mut owners) = (facts.reserved, scheduler.requested_by_others);
    for (class, counts) in &mut classes {
        counts.free = sound.get(class).copied().unwrap_or(0).saturating_sub(doubtful);
        counts.leased = counts.installed.min(leased);
        counts.owner_requested = counts.installed.saturating_sub(counts.leased).min(owners);
        leased -= counts.leased;
        owners -= counts.owner_requested;
    }
    let disagreement = match facts.scheduler {
        Some(SchedulerFacts { allocatable, .. }) if !silent && allocatable < healthy => {
            Some(Disagreement::SchedulerKnowsFewer { allocatable, healthy })
        }
        Some(SchedulerFacts { allocatable, .. }) if !silent && allocatable > healthy => {
            Some(Disagreement::NvmlKnowsFewer { allocatable, healthy })
        }
        _ => None,
    };
    NodeCapacity { node: facts.node.clone(), closed, classes, unclassified, reservable, disagreement }
}

/// What a pool has to give, from what its nodes have.
#[must_use]
pub fn of_pool(nodes: &[NodeCapacity], rules: &PoolRules) -> PoolCapacity {
    let mut pool = PoolCapacity::default();
    for node in nodes {
        pool.nodes = pool.nodes.saturating_add(1);
        if matches!(node.closed, Some(Closed::AgentSilent { .. })) {
            pool.stale_nodes = pool.stale_nodes.saturating_add(1);
        }
        let shared = |class: &GpuClass| rules.classes.is_empty() || rules.classes.contains(class);
        for (class, counts) in node.classes.iter().filter(|(class, _)| shared(class)) {
            pool.classes.entry(class.clone()).or_default().add(counts);
        }
    }
    for class in pool.classes.values_mut() {
        class.owner_reserve = rules.reserve.min(class.offered);
        class.offered = if rules.shut { 0 } else { class.offered - class.owner_reserve };
        class.largest_node = class.largest_node.min(class.offered);
    }
    pool
}

/// The class that a device's product and memory make, such as `h100-80` of an `NVIDIA H100 80GB HBM3`: the words of the
/// product's name up to the first with a digit, and the memory that the driver reports in GiB, rounded up. None if no name
/// can be made of it.
#[must_use]
pub fn class_of(product: &str, memory: Bytes) -> Option<GpuClass> {
    const BRANDS: [&str; 4] = ["nvidia", "tesla", "geforce", "quadro"];
    /// `RTX PRO 6000` is the longest.
    const MOST_WORDS: usize = 3;
    const GIBIBYTE: u64 = 1 << 30;
    let lower = product.to_ascii_lowercase();
    let words = lower
        .split(|character: char| !character.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty() && !BRANDS.contains(word))
        .take(MOST_WORDS);
    let mut name: Vec<&str> = Vec::new();
    for word in words {
        name.push(word);
        if word.bytes().any(|byte| byte.is_ascii_digit()) {
            break;
        }
    }
    if name.is_empty() || memory.0 == 0 {
        return None;
    }
    format!("{}-{}", name.join("-"), memory.0.div_ceil(GIBIBYTE)).parse().ok()
}

fn is_fresh(age: Option<Seconds>) -> bool {
    // A heartbeat from the future is no better than an old one: one of the two clocks is wrong.
    age.is_some_and(|age| age <= FRESH && age >= Seconds(-FRESH.0))
}

impl NodeClass {
    fn count(&mut self, health: Health) {
        self.installed += 1;
        match health {
            Health::Healthy => self.healthy += 1,
            Health::Degraded => self.degraded += 1,
            Health::Unhealthy => self.unhealthy += 1,
            Health::Unknown => self.unknown += 1,
        }
    }
}

impl PoolClass {
    fn add(&mut self, node: &NodeClass) {
        let NodeClass { installed, healthy, degraded, unhealthy, unknown, owner_requested, leased, free } = *node;
        self.installed += installed;
        self.healthy += healthy;
        self.degraded += degraded;
        self.unhealthy += unhealthy;
        self.unknown += unknown;
        self.owner_requested += owner_requested;
        self.leased += leased;
        self.offered += free;
        self.largest_node = self.largest_node.max(free);
    }
}

#[cfg(test)]
#[path = "capacity_tests.rs"]
mod tests;
