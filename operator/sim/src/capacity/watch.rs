//! The invariants, looked at after every step.

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::capacity::{
    Admission, DeviceFacts, Dirt, Division, Health, Hold, NodeCapacity, NodeFacts, PoolCapacity, Registration,
    is_fresh, least_reserve, of_node, of_pool,
};
use koinon_core::gpu::health::History;
use koinon_core::gpu::words::Work;
use koinon_core::ids::{DeviceId, GpuClass, NodeName};
use koinon_core::placement::reservations::NodeReservations;

use super::api::{Copy, OPERATORS, Pod};
use super::hardware::Machine;
use super::metamorphic;
use super::operator::Promise;
use super::plan::Second;
use super::report::Lag;
use super::status::Status;
use super::world::World;

/// How often the figures are compared with those of an observer that knows less, or hears in another order.
const COMPARED: Second = 30;
/// Between a fault and the status that tells of it a device may already have been reset.
const TOLD: Second = 400;

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Violation {
    /// More is offered, leased, orphaned and the owner's than works.
    #[error("{class} of {observer}: offered + leased + orphaned + owner's are more than healthy + degraded: {figures}")]
    TooMuchInUse {
        /// Who computed it.
        observer: String,
        /// Of what.
        class: GpuClass,
        /// The figures.
        figures: String,
    },
    /// The four health counts do not add up.
    #[error("{class} of {observer}: the health counts do not add up to installed: {figures}")]
    HealthCounts {
        /// Who computed it.
        observer: String,
        /// Of what.
        class: GpuClass,
        /// The figures.
        figures: String,
    },
    /// More is free, or called healthy, than a plain count of the same inputs finds.
    #[error("{node} of {observer}: {what}: {found} where {most} are known to be so")]
    MoreThanKnown {
        /// Who computed it.
        observer: String,
        /// Where.
        node: NodeName,
        /// Which figure.
        what: &'static str,
        /// The figure.
        found: u32,
        /// The plain count.
        most: u32,
    },
    /// Two pods of placements hold one device, or one placement holds twice.
    #[error("{device} is held by more than one placement, or its placement holds twice")]
    HeldTwice {
        /// Which.
        device: DeviceId,
    },
    /// A guest got a device that was not fit, and whoever reserved had been told so: at the moment of the decision the
    /// status that called it anything but healthy, undivided, registered and clean was in its cache. Promised is that for
    /// devices that the plugin listed or might have listed, whoever held them; not for one that the plugin had struck off and
    /// listed again, nor for one that it listed after what the operator had heard: see [`Lag`].
    #[error("a guest got {device}, which was known to be {known} when it was reserved")]
    Unfit {
        /// Which.
        device: DeviceId,
        /// As what it was known.
        known: String,
    },
    /// A record holds more than there are devices that work.
    #[error("{node} has {reserved} reserved, of {works} devices that nobody else holds")]
    Overreserved {
        /// Where.
        node: NodeName,
        /// How many.
        reserved: u32,
        /// Of how many.
        works: u32,
    },
    /// A lower epoch followed a higher one.
    #[error("{node} went back to an epoch that was over")]
    EpochBack {
        /// Where.
        node: NodeName,
    },
    /// Who knew less offered more.
    #[error("to know less frees more, {free} instead of {most}: {what}")]
    UnknownFrees {
        /// What was taken away.
        what: String,
        /// With less knowledge.
        free: u32,
        /// With it.
        most: u32,
    },
    /// Another order gave other bytes.
    #[error("another order of {0} gives other bytes")]
    Order(&'static str),
    /// A device is called healthy by a survey that failed twice, or that did not read what decides.
    #[error("{device} is called healthy, and {unread}")]
    Believed {
        /// Which.
        device: DeviceId,
        /// What was not read.
        unread: &'static str,
    },
    /// Work was ended although nothing was certain, or the breaker was open.
    #[error("work was ended on a device that is {0:?}")]
    Drained(Health),
    /// The breaker closed without its owner.
    #[error("the breaker closed by itself")]
    BreakerClosed,
    /// A device that was unhealthy is used again, and was neither reset nor called well.
    #[error("{device} is no longer unhealthy, and nobody did anything about it")]
    Forgiven {
        /// Which.
        device: DeviceId,
    },
    /// One line of the kernel's log was counted twice.
    #[error("{device} has {counted} reports of XID {xid}, and {told} were ever made")]
    CountedTwice {
        /// Which.
        device: DeviceId,
        /// The error.
        xid: u32,
        /// As often as its agent counts.
        counted: u64,
        /// As often as it was reported.
        told: u64,
    },
    /// The code panicked.
    #[error("panic")]
    Panic,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub violations: BTreeSet<Violation>,
    /// What was known when each copy's devices were reserved.
    pub promises: BTreeMap<Copy, Promise>,
    pub lag: Lag,
    /// Since when statuses call a device something else than healthy.
    unwell: BTreeMap<DeviceId, Second>,
    /// Since when they call it unhealthy, if they do.
    condemned: BTreeMap<DeviceId, Second>,
    highest: BTreeMap<koinon_core::placement::ReplicaKey, koinon_core::ids::Epoch>,
    /// Since when guests are on devices that they are to leave.
    staying: BTreeMap<(DeviceId, koinon_core::gpu::usage::PodRef), Second>,
    /// Devices that were offered, and that could have been.
    pub offered: (u64, u64),
}

impl Watch {
    pub fn found(&mut self, violation: Violation) {
        self.violations.insert(violation);
    }

    /// An agent writes a status.
    pub fn said(&mut self, machine: &Machine, before: Option<&Status>, next: &Status, now: Second) {
        for row in &next.rows {
            if row.health == Health::Healthy {
                self.unwell.remove(&row.id);
            } else {
                self.unwell.entry(row.id.clone()).or_insert(now);
            }
            let was = before.and_then(|status| status.rows.iter().find(|old| old.id == row.id)).map(|old| old.health);
            // Under the id of another one that has vanished nobody can tell that it is not that one.
            let of = |parent: &DeviceId| machine.gpu_of(&row.id).is_none_or(|gpu| gpu.id == *parent);
            let itself = row.parent.as_ref().is_none_or(of);
            match row.health {
                Health::Unhealthy if was != Some(Health::Unhealthy) && itself => {
                    self.condemned.insert(row.id.clone(), now);
                }
                Health::Healthy | Health::Degraded => {
                    if let Some(since) = self.condemned.remove(&row.id)
                        && itself
                        && machine.gpu_of(&row.id).is_none_or(|gpu| gpu.reset_at + TOLD < since)
                    {
                        self.found(Violation::Forgiven { device: row.id.clone() });
                    }
                }
                _ => {}
            }
        }
    }

    /// An agent judges.
    pub fn counted(&mut self, machine: &Machine, history: &History) {
        for (id, device) in &history.devices {
            for record in &device.xids {
                let told = machine.told.get(&(id.clone(), record.code)).copied().unwrap_or(0);
                if record.count > told {
                    let (device, xid, counted) = (id.clone(), record.code.0, record.count);
                    self.violations.insert(Violation::CountedTwice { device, xid, counted, told });
                }
            }
        }
    }

    /// The owner calls a device well, and with it its instances.
    pub fn cleared(&mut self, id: &DeviceId) {
        let of = id.as_str().replacen("GPU", "MIG", 1);
        self.condemned.retain(|known, _| known != id && !known.as_str().starts_with(&of));
    }

    /// A record is written on these facts.
    pub fn reserved(&mut self, node: &NodeName, record: &NodeReservations, facts: &NodeFacts) {
        let free = |device: &&DeviceFacts| device.health == Health::Healthy && device.hold != Hold::Other;
        let held = |device: &&DeviceFacts| device.hold == Hold::Reservation && device.health != Health::Healthy;
        let works = count(facts.devices.iter().filter(free)).saturating_add(count(facts.devices.iter().filter(held)));
        // What was reserved before may have lost its devices since.
        if record.reserved() > works.max(facts.reserved) {
            self.found(Violation::Overreserved { node: node.clone(), reserved: record.reserved(), works });
        }
        for held in record.held() {
            let highest = self.highest.entry(held.replica.clone()).or_insert(held.epoch);
            if held.epoch < *highest {
                self.violations.insert(Violation::EpochBack { node: node.clone() });
            }
            *highest = held.epoch.max(*highest);
        }
    }

    /// Work is ended for the sake of a device.
    pub fn drained(&mut self, health: Health, breaker_open: bool) {
        self.lag.drained += 1;
        if health != Health::Unhealthy || breaker_open {
            self.found(Violation::Drained(health));
        }
    }
}

/// A kubelet gives a device to a pod.
pub(super) fn given(world: &mut World, at: usize, pod: &Pod, unit: &DeviceId) {
    let Some(copy) = &pod.copy else { return };
    let works = world.machines[at].gpu_of(unit).is_some_and(super::hardware::Gpu::works);
    let now = world.now;
    let again = world.api.placements.get(copy).is_some_and(|placement| placement.pods > 1);
    let Watch { lag, promises, unwell, violations, .. } = &mut world.watch;
    lag.given += 1;
    lag.again += u64::from(again);
    lag.broken += u64::from(!works);
    let Some(promise) = promises.get(copy) else { return };
    lag.waited += now.saturating_sub(promise.at);
    let known: Vec<&DeviceFacts> = promise.facts.devices.iter().filter(|device| device.id == *unit).collect();
    let fit = |device: &DeviceFacts| {
        let whole = matches!(device.division, Division::Whole | Division::Instance);
        device.health == Health::Healthy && whole && device.dirt.is_none()
    };
    let held = |device: &DeviceFacts| matches!(device.hold, Hold::Reservation | Hold::Other);
    // What had been heard of the plugin was older than what it lists: the Node's figure, or names in the status.
    let listed = u32::try_from(promise.listed.len()).unwrap_or(u32::MAX);
    let stale = promise.facts.scheduler.is_some_and(|scheduler| scheduler.allocatable != listed)
        || promise
            .facts
            .devices
            .iter()
            .any(|one| one.registration == Registration::Yes && !promise.listed.contains(&one.id));
    match known.as_slice() {
        [] => lag.unlisted += 1,
        [device] if !promise.listed.contains(unit) && !fit(device) => lag.relisted += 1,
        [device] if stale && device.registration == Registration::Unknown && !fit(device) => lag.relisted += 1,
        [device] if held(device) && device.registration == Registration::No && !fit(device) => lag.freed += 1,
        [device] if fit(device) => {
            if let Some(since) = unwell.get(unit) {
                lag.late += 1;
                lag.late_seconds += now.saturating_sub(*since);
                lag.late_most = lag.late_most.max(now.saturating_sub(*since));
            }
        }
        _ => {
            let known = format!("{known:?}");
            violations.insert(Violation::Unfit { device: unit.clone(), known });
        }
    }
}

/// Looks at everything.
pub(super) fn look(world: &mut World) {
    let mut found = BTreeSet::new();
    let rules = world.rules();
    let fresh = world.api.fresh();
    linger(world);
    let compare = world.now.is_multiple_of(COMPARED);
    let mut all_facts = Vec::new();
    for who in 0..OPERATORS {
        let ages = world.operators[who].ages(world.now);
        let seen =
            world.api.records.seen(who).iter().map(|(node, (_, record))| (node.clone(), record.clone())).collect();
        for (records, name) in [(&fresh, "fresh records"), (&seen, "cached records")] {
            let view = world.view(who, &ages, records);
            let (nodes, pool) = view.capacity(&rules);
            let observer = format!("operator {who} with {name}");
            let facts = view.all();
            check(&observer, &facts, &nodes, &pool, &mut found);
            if compare {
                all_facts.extend(facts);
            }
        }
    }
    let ages = world.true_ages();
    let truth = super::view::View {
        statuses: &world.api.statuses.real,
        nodes: &world.api.nodes.real,
        pods: &world.api.pods.real,
        ages: &ages,
        records: &fresh,
    };
    let (nodes, pool) = truth.capacity(&rules);
    let facts = truth.all();
    check("one who sees everything", &facts, &nodes, &pool, &mut found);
    for kubelet in &world.kubelets {
        let mut holders: BTreeMap<&Copy, &koinon_core::gpu::usage::PodRef> = BTreeMap::new();
        for (device, key) in &kubelet.held {
            let Some(copy) = world.api.pods.real.get(key).and_then(|pod| pod.copy.as_ref()) else { continue };
            let ending = |key| world.api.pods.real.get(key).is_some_and(|pod| pod.terminating.is_some());
            if *holders.entry(copy).or_insert(key) != key && !ending(key) {
                found.insert(Violation::HeldTwice { device: device.clone() });
            }
        }
    }
    if compare {
        all_facts.extend(facts);
        for facts in &all_facts {
            metamorphic::facts(facts, &mut found);
        }
        metamorphic::order(world, &all_facts, &mut found);
    }
    world.watch.violations.extend(found);
}

/// Guests on devices that they are to leave, from when the status says of the device that they are, until they are told so.
fn linger(world: &mut World) {
    let mut staying = BTreeMap::new();
    for (machine, kubelet) in world.machines.iter().zip(&world.kubelets) {
        let Some(status) = world.api.statuses.real.get(&machine.name) else { continue };
        let leave = |row: &super::status::Row| row.health == Health::Unhealthy && row.work >= Work::Drain;
        let left: BTreeSet<&DeviceId> = status.rows.iter().filter(|row| leave(row)).map(|row| &row.id).collect();
        for (unit, key) in kubelet.held.iter().filter(|(unit, _)| left.contains(unit)) {
            let copy = world.api.pods.real.get(key).and_then(|pod| pod.copy.as_ref());
            if copy.and_then(|copy| world.api.placements.get(copy)).is_some_and(|placement| !placement.ending) {
                let since = world.watch.staying.get(&(unit.clone(), key.clone())).copied();
                staying.insert((unit.clone(), key.clone()), since.unwrap_or(world.now));
            }
        }
    }
    let longest = staying.values().map(|since| world.now.saturating_sub(*since)).max().unwrap_or(0);
    if world.breaker.opened.is_none() {
        world.watch.lag.stay_most = world.watch.lag.stay_most.max(longest);
    }
    world.watch.staying = staying;
}

fn check(
    observer: &str,
    facts: &[NodeFacts],
    nodes: &[NodeCapacity],
    pool: &PoolCapacity,
    found: &mut BTreeSet<Violation>,
) {
    for (class, figures) in &pool.classes {
        let works = figures.healthy + figures.degraded;
        let (observer, class, shown) = (observer.to_owned(), class.clone(), format!("{figures:?}"));
        if works + figures.unhealthy + figures.unknown != figures.installed {
            found.insert(Violation::HealthCounts { observer, class, figures: shown });
        } else if figures.offered + figures.leased + figures.orphaned + figures.owner_requested > works {
            found.insert(Violation::TooMuchInUse { observer, class, figures: shown });
        }
    }
    for (facts, capacity) in facts.iter().zip(nodes) {
        let sum = |of: fn(&koinon_core::capacity::NodeClass) -> u32| capacity.classes.values().map(of).sum::<u32>();
        let plain = Plain::of(facts);
        for (what, figure, most) in [
            ("free", sum(|class| class.free), plain.free),
            ("healthy", sum(|class| class.healthy), plain.healthy),
            ("reservable", capacity.reservable, plain.free.saturating_add(facts.reserved)),
        ] {
            if figure > most {
                let (observer, node) = (observer.to_owned(), facts.node.clone());
                found.insert(Violation::MoreThanKnown { observer, node, what, found: figure, most });
            }
        }
    }
}

/// The figures of one node as anybody would count them by hand, as upper bounds.
struct Plain {
    free: u32,
    healthy: u32,
}

impl Plain {
    fn of(facts: &NodeFacts) -> Self {
        let alone = |device: &&DeviceFacts| facts.devices.iter().filter(|other| other.id == device.id).count() == 1;
        let fresh = is_fresh(facts.heartbeat_age) && facts.heartbeat_age.is_some_and(|age| age.0.abs() <= 30);
        let sound = |device: &&DeviceFacts| alone(device) && device.health == Health::Healthy;
        let healthy = if fresh { count(facts.devices.iter().filter(sound)) } else { 0 };
        let unheld = |device: &&DeviceFacts| matches!(device.hold, Hold::Free | Hold::Unknown);
        let fit = |device: &&DeviceFacts| {
            let whole = matches!(device.division, Division::Whole | Division::Instance);
            let kept = device.registration != Registration::No && device.dirt.is_none();
            sound(device) && whole && kept && device.class.is_some()
        };
        let named_unfit = |device: &DeviceFacts| {
            // What stands on a device that somebody holds is its holder's.
            let dirt = if unheld(&device) { device.dirt } else { None };
            !fit(&&DeviceFacts { dirt, ..device.clone() }) && device.registration != Registration::No
        };
        let intruded = facts.devices.iter().any(|device| device.dirt == Some(Dirt::Intruder));
        let shut = !fresh || intruded || facts.admission != Admission::Open || facts.devices.iter().any(named_unfit);
        let by_scheduler = facts.scheduler.map_or(0, |scheduler| {
            scheduler.allocatable.saturating_sub(scheduler.requested_by_others).saturating_sub(facts.reserved)
        });
        let open = count(facts.devices.iter().filter(unheld).filter(fit));
        Self { free: if shut { 0 } else { open.min(by_scheduler) }, healthy }
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

/// How much of what could be offered is.
pub(super) fn measure(world: &mut World) {
    let records = world.api.fresh();
    // Idle and healthy ones of whole devices, and of instances: two classes, each with a reserve of its own.
    let mut classes = [(0_u32, 0_u32); 2];
    for (machine, kubelet) in world.machines.iter().zip(&world.kubelets) {
        let Some(node) = world.api.nodes.real.get(&machine.name).filter(|node| node.ready && !node.cordoned) else {
            continue;
        };
        let sound = machine.units().into_iter().filter(|(_, works)| *works).map(|(unit, _)| unit);
        let units: Vec<DeviceId> =
            sound.filter(|unit| machine.gpu_of(unit).is_some_and(|gpu| gpu.ailment.is_none())).collect();
        let divided = machine.gpus.iter().any(|gpu| !gpu.slices.is_empty());
        let (idle, healthy) = &mut classes[usize::from(divided)];
        *healthy += count(units.iter());
        let free = count(units.iter().filter(|unit| !kubelet.held.contains_key(*unit))).min(node.allocatable);
        let holds = |key: &&koinon_core::gpu::usage::PodRef| kubelet.held.values().any(|holder| holder == *key);
        let pods = world.api.pods.real.iter().filter(|(_, pod)| pod.holds_on() == Some(&machine.name));
        let coming: u32 =
            pods.clone().filter(|(key, pod)| !holds(key) && pod.copy.is_none()).map(|(_, pod)| pod.gpus).sum();
        let reserved = records.get(&machine.name).map_or(0, NodeReservations::reserved);
        let taken: u32 = pods.filter(|(key, pod)| holds(key) && pod.copy.is_some()).map(|(_, pod)| pod.gpus).sum();
        *idle += free.saturating_sub(coming).saturating_sub(reserved.saturating_sub(taken));
    }
    let reserve = |healthy| world.plan.reserve.unwrap_or_else(|| least_reserve(healthy));
    let expected: u32 = classes.iter().map(|(idle, healthy)| idle.saturating_sub(reserve(*healthy))).sum();
    let ages = world.operators[0].ages(world.now);
    let view = world.view(0, &ages, &records);
    let nodes: Vec<NodeCapacity> = view.all().iter().map(of_node).collect();
    let offered: u32 = of_pool(&nodes, &world.rules()).classes.values().map(|class| class.offered).sum();
    if offered < expected {
        world.say(|_| format!("{offered} of {expected} are offered: {nodes:?}"));
    }
    let (sum, all) = &mut world.watch.offered;
    *sum += u64::from(offered.min(expected));
    *all += u64::from(expected);
}
