//! What the cluster's scheduler gives out of each node's GPUs, and to whom, from the objects of the API server. Pure.
//!
//! ```text
//!  nodes, pods ───────────────────────▶ DevicePlugin ─┐
//!                                                     ├─▶ one View a node ─▶ Account (core) ─▶ what may be offered
//!  slices, claims, taint rules, pods ─▶ Dra ──────────┘
//! ```

pub mod dra;
pub mod plugin;
pub mod sharing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use koinon_core::capacity::Sharing;
use koinon_core::gpu::scheduler::{Account, Devices, Doubt, Held, Source};
use koinon_core::ids::{DeviceId, NodeName};

use crate::placement::lean::{Node, Pod};
pub use dra::Dra;
pub use plugin::DevicePlugin;

/// One way in which a cluster gives out GPUs.
pub trait SchedulerSource {
    /// What it gives out of `node`, on which pools ask for GPUs as `resource`. None if it has no part in that node.
    fn view(&self, node: &NodeName, resource: &str) -> Option<View>;
}

/// Why a device is not given out although its source knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Withheld {
    /// It has a taint of this key that keeps new work away.
    Tainted(String),
    /// Several may hold it at the same time.
    Shared(Sharing),
    /// Another device goes by the same id.
    Ambiguous,
}

/// What a source says of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Which source.
    pub source: Source,
    /// How far the node's tenants are kept apart.
    pub sharing: Sharing,
    /// What may be given out, held or not.
    pub listed: Devices,
    /// What is known and may not.
    pub withheld: BTreeMap<DeviceId, Withheld>,
    /// What is held or asked for, in the order of the holders.
    pub holds: Vec<Hold>,
    /// What is not known.
    pub doubts: BTreeSet<Doubt>,
}

/// Devices that are somebody's, or are about to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hold {
    /// Whose.
    pub holder: Holder,
    /// How far that has come.
    pub stage: Stage,
    /// Which.
    pub devices: Devices,
}

/// Who holds devices.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Pod or claim.
    pub kind: HolderKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Placement that its labels name. A label alone proves nothing.
    pub placement: Option<String>,
}

/// What a holder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HolderKind {
    /// A pod.
    Pod,
    /// A resource claim that no pod, or more than one, uses.
    Claim,
}

/// How far a hold has come. In each of them the devices are not free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The scheduler means the pod for this node and makes room for it.
    Nominated,
    /// The pod is bound to the node, whether its containers run yet or not.
    Bound,
    /// The pod is about to end, and has not.
    Terminating,
    /// A claim has the devices and no pod uses it, not yet or no more.
    Allocated,
}

impl View {
    /// The account for the arithmetic, with what the pods of reservations hold kept apart.
    #[must_use]
    pub fn account(&self, reserved: impl Fn(&Holder) -> bool) -> Account {
        let (mut held_by_others, mut held_by_placements) = (Held::default(), Held::default());
        for hold in &self.holds {
            let held = if reserved(&hold.holder) { &mut held_by_placements } else { &mut held_by_others };
            held.add(&hold.devices);
        }
        Account {
            source: self.source,
            sharing: self.sharing,
            listed: self.listed.clone(),
            held_by_others,
            held_by_placements,
            doubts: self.doubts.clone(),
        }
    }

    /// Whether it surely has nothing, and nobody has anything of it.
    fn is_idle(&self) -> bool {
        self.listed.count() == 0 && self.withheld.is_empty() && self.holds.is_empty() && self.doubts.is_empty()
    }
}

/// Both sources of a cluster.
#[derive(Debug)]
pub struct Sources<'a> {
    plugin: DevicePlugin<'a>,
    dra: Dra,
}

impl<'a> Sources<'a> {
    /// Both, over complete sets of objects.
    #[must_use]
    pub fn of(nodes: &'a [Arc<Node>], pods: &'a [Arc<Pod>], objects: &dra::Objects<'_>) -> Self {
        Self { plugin: DevicePlugin::of(nodes, pods), dra: Dra::of(nodes, pods, objects) }
    }

    /// What is said of `node`: by the source that has a part in it. None if the node is not known.
    ///
    /// Where both do, each gives out the same devices as if it were alone, and nothing can be counted on.
    #[must_use]
    pub fn view(&self, node: &NodeName, resource: &str) -> Option<View> {
        let (counted, named) = (self.plugin.view(node, resource), self.dra.view(node, resource));
        match (counted, named) {
            // A driver that has nothing to give out is no second source.
            (Some(counted), Some(named)) if named.is_idle() => Some(counted),
            (Some(counted), Some(mut named)) if !counted.is_idle() => {
                named.doubts.insert(Doubt::BothSources);
                named.sharing = named.sharing.max(counted.sharing);
                named.holds.extend(counted.holds);
                named.holds.sort();
                Some(named)
            }
            (_, Some(named)) => Some(named),
            (counted, None) => counted,
        }
    }
}

/// The pods that have not ended, by the node that they are on or promised to.
fn by_node<'a>(pods: impl IntoIterator<Item = &'a Arc<Pod>>) -> BTreeMap<NodeName, Vec<&'a Arc<Pod>>> {
    let mut found: BTreeMap<NodeName, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = &pod.node {
            found.entry(node.clone()).or_default().push(pod);
        }
    }
    found
}

fn holder_of(pod: &Pod) -> Holder {
    Holder {
        kind: HolderKind::Pod,
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        placement: pod.placement.as_deref().map(str::to_owned),
    }
}

fn stage_of(pod: &Pod) -> Stage {
    if pod.terminating {
        Stage::Terminating
    } else if pod.bound.is_some() {
        Stage::Bound
    } else {
        Stage::Nominated
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
