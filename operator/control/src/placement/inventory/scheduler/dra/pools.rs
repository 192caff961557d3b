//! The devices that drivers publish, by node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::resource::v1::{Device, ResourceSlice};
use k8s_openapi::api::resource::v1alpha3::{DeviceTaintRule, DeviceTaintSelector};
use koinon_core::capacity::Sharing;
use koinon_core::gpu::scheduler::Doubt;
use koinon_core::ids::{DeviceId, NodeName};

use super::{GPU_DRIVER, Withheld};

/// Attributes may stand with or without their driver's domain.
const UUID: &str = "uuid";
const TYPE: &str = "type";
/// The value of [`TYPE`] for instances of a divided GPU.
const INSTANCE: &str = "mig";
/// The only effect of a taint that keeps nothing away.
const NO_EFFECT: &str = "None";

/// What the scheduler names a device by: pool and device, of the one driver that is looked at.
pub(super) type Key = (String, String);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    node: NodeName,
    /// None for what has no id yet, such as an instance that is only made for a claim.
    id: Option<DeviceId>,
    instance: bool,
    withheld: Option<Withheld>,
    /// Devices that draw on one set cannot all be given out: a GPU, and the instances into which it could be divided.
    counters: BTreeSet<(String, String)>,
}

/// All pools of the driver.
#[derive(Debug, Default)]
pub(super) struct Pools {
    /// More than one where a driver calls several by one name.
    entries: BTreeMap<Key, BTreeSet<Entry>>,
    /// The same by node.
    by_node: BTreeMap<NodeName, Vec<Entry>>,
    /// The nodes of each pool, also of slices that are out of date.
    places: BTreeMap<String, BTreeSet<NodeName>>,
    doubts: BTreeMap<NodeName, BTreeSet<Doubt>>,
}

impl Pools {
    pub(super) fn of(slices: &[Arc<ResourceSlice>], rules: &[Arc<DeviceTaintRule>]) -> Self {
        let mut by_pool: BTreeMap<&str, Vec<&ResourceSlice>> = BTreeMap::new();
        for slice in slices.iter().filter(|slice| slice.spec.driver == GPU_DRIVER) {
            by_pool.entry(&slice.spec.pool.name).or_default().push(slice);
        }
        let mut pools = Self::default();
        for (name, slices) in by_pool {
            pools.take(name, &slices, rules);
        }
        pools.withhold_twins();
        for entry in pools.entries.values().flatten() {
            pools.by_node.entry(entry.node.clone()).or_default().push(entry.clone());
        }
        pools
    }

    fn take(&mut self, name: &str, slices: &[&ResourceSlice], rules: &[Arc<DeviceTaintRule>]) {
        let places: BTreeSet<NodeName> = slices.iter().flat_map(|slice| nodes_of(slice)).collect();
        let newest = slices.iter().map(|slice| slice.spec.pool.generation).max().unwrap_or(0);
        let current: Vec<_> = slices.iter().filter(|slice| slice.spec.pool.generation == newest).collect();
        let complete =
            current.iter().all(|slice| usize::try_from(slice.spec.pool.resource_slice_count) == Ok(current.len()));
        if !complete {
            for node in &places {
                self.doubts.entry(node.clone()).or_default().insert(Doubt::PoolIncomplete);
            }
        }
        let mut named_twice = BTreeSet::new();
        for slice in current {
            for device in slice.spec.devices.iter().flatten() {
                let Some(entry) = entry(slice, device, rules) else { continue };
                let key = (name.to_owned(), device.name.clone());
                let known = self.entries.entry(key.clone()).or_default();
                if !known.is_empty() {
                    named_twice.insert(key);
                }
                known.insert(entry);
            }
        }
        for key in named_twice {
            let entries = self.entries.remove(&key).unwrap_or_default();
            for entry in &entries {
                // The scheduler gives out nothing of a pool in which names repeat.
                self.doubts.entry(entry.node.clone()).or_default().insert(Doubt::PoolIncomplete);
            }
            self.entries.insert(key, entries.into_iter().map(Entry::ambiguous).collect());
        }
        self.places.insert(name.to_owned(), places);
    }

    /// Of two devices that go by one id nobody can say which one a survey saw.
    fn withhold_twins(&mut self) {
        let mut seen: BTreeMap<DeviceId, u32> = BTreeMap::new();
        for id in self.entries.values().flatten().filter_map(|entry| entry.id.as_ref()) {
            *seen.entry(id.clone()).or_default() += 1;
        }
        let is_twin = |entry: &Entry| entry.id.as_ref().and_then(|id| seen.get(id)).is_some_and(|times| *times > 1);
        for entries in self.entries.values_mut().filter(|entries| entries.iter().any(is_twin)) {
            let all = std::mem::take(entries).into_iter();
            *entries = all.map(|entry| if is_twin(&entry) { entry.ambiguous() } else { entry }).collect();
        }
    }

    fn on(&self, node: &NodeName) -> impl Iterator<Item = &Entry> {
        self.by_node.get(node).into_iter().flatten()
    }

    /// Every node on which a pool is, or was said to be.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.places.values().flatten()
    }

    /// Tells what `node` has.
    pub(super) fn describe(
        &self,
        node: &NodeName,
        listed: &mut BTreeSet<DeviceId>,
        withheld: &mut BTreeMap<DeviceId, Withheld>,
        doubts: &mut BTreeSet<Doubt>,
    ) {
        for entry in self.on(node) {
            match (&entry.id, &entry.withheld) {
                (Some(id), None) => {
                    listed.insert(id.clone());
                }
                (Some(id), Some(why)) => {
                    withheld.insert(id.clone(), why.clone());
                }
                (None, _) => {}
            }
        }
        doubts.extend(self.doubts.get(node).into_iter().flatten());
    }

    /// The devices that go by one id and one name.
    pub(super) fn named(&self) -> BTreeMap<(NodeName, DeviceId), Key> {
        let alone = self.entries.iter().filter_map(|(key, entries)| {
            let mut entries = entries.iter().filter(|entry| entry.withheld != Some(Withheld::Ambiguous));
            let (first, None) = (entries.next()?, entries.next()) else { return None };
            Some(((first.node.clone(), first.id.clone()?), key.clone()))
        });
        alone.collect()
    }

    /// Whether instances of divided GPUs are among the devices of `node`.
    pub(super) fn has_instances(&self, node: &NodeName) -> bool {
        self.on(node).any(|entry| entry.instance)
    }

    /// Where a device is; none if no slice names it, or several do.
    pub(super) fn node_of(&self, key: &Key) -> Option<&NodeName> {
        only(self.entries.get(key)?.iter().map(|entry| &entry.node))
    }

    /// The one node of a pool; none if it has several, or is not known.
    pub(super) fn only_node_of(&self, pool: &str) -> Option<&NodeName> {
        only(self.places.get(pool)?.iter())
    }

    /// The ids that cannot be given to anybody else while the device has a holder: its own, and those of what it is a part
    /// of or made of.
    pub(super) fn ids_of(&self, key: &Key) -> BTreeSet<DeviceId> {
        let mut ids = BTreeSet::new();
        for entry in self.entries.get(key).into_iter().flatten() {
            let related = |other: &&Entry| !other.counters.is_disjoint(&entry.counters);
            ids.extend(self.on(&entry.node).filter(related).filter_map(|other| other.id.clone()));
            ids.extend(entry.id.clone());
        }
        ids
    }
}

impl Entry {
    fn ambiguous(self) -> Self {
        Self { withheld: Some(Withheld::Ambiguous), ..self }
    }
}

/// The one that they all are.
fn only<'a>(mut all: impl Iterator<Item = &'a NodeName>) -> Option<&'a NodeName> {
    let first = all.next()?;
    all.all(|other| other == first).then_some(first)
}

fn nodes_of(slice: &ResourceSlice) -> BTreeSet<NodeName> {
    let devices = slice.spec.devices.iter().flatten().filter_map(|device| device.node_name.as_deref());
    slice.spec.node_name.as_deref().into_iter().chain(devices).filter_map(|name| name.parse().ok()).collect()
}

/// None for a device that is on no node in particular.
fn entry(slice: &ResourceSlice, device: &Device, rules: &[Arc<DeviceTaintRule>]) -> Option<Entry> {
    let node = slice.spec.node_name.as_deref().or(device.node_name.as_deref())?.parse().ok()?;
    let taint = taint_of(device).or_else(|| {
        let rule = rules.iter().find(|rule| keeps_away(&rule.spec.taint.effect) && applies(rule, slice, device))?;
        Some(rule.spec.taint.key.clone())
    });
    let shared = device.allow_multiple_allocations.unwrap_or(false);
    let withheld = taint.map(Withheld::Tainted).or_else(|| shared.then_some(Withheld::Shared(Sharing::External)));
    let pool = &slice.spec.pool.name;
    let sets = device.consumes_counters.iter().flatten();
    Some(Entry {
        node,
        id: text(device, UUID).and_then(|uuid| uuid.parse().ok()),
        instance: text(device, TYPE) == Some(INSTANCE),
        withheld,
        counters: sets.map(|set| (pool.clone(), set.counter_set.clone())).collect(),
    })
}

fn text<'a>(device: &'a Device, name: &str) -> Option<&'a str> {
    let attributes = device.attributes.as_ref()?;
    let value = attributes.get(name).or_else(|| attributes.get(&format!("{GPU_DRIVER}/{name}")));
    value.and_then(|value| value.string.as_deref())
}

/// An effect that a later Kubernetes may add is taken for one that keeps away.
fn keeps_away(effect: &str) -> bool {
    effect != NO_EFFECT
}

fn taint_of(device: &Device) -> Option<String> {
    device.taints.iter().flatten().filter(|taint| keeps_away(&taint.effect)).map(|taint| taint.key.clone()).min()
}

/// Whether a rule may mean a device. What its classes and expressions leave out is not looked at: at the most a device is
/// withheld that the rule does not mean.
fn applies(rule: &DeviceTaintRule, slice: &ResourceSlice, device: &Device) -> bool {
    let everything = DeviceTaintSelector::default();
    let selector = rule.spec.device_selector.as_ref().unwrap_or(&everything);
    let fits = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
    fits(&selector.driver, &slice.spec.driver)
        && fits(&selector.pool, &slice.spec.pool.name)
        && fits(&selector.device, &device.name)
}
