//! Dynamic resource allocation: drivers name each device in resource slices, and the scheduler writes into the status of a
//! resource claim which of them it gets (`resource.k8s.io/v1`, Kubernetes 1.34).

mod claims;
mod pools;
pub mod trim;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use k8s_openapi::api::resource::v1alpha3::DeviceTaintRule;
use koinon_core::capacity::Sharing;
use koinon_core::gpu::scheduler::{Devices, Doubt, Source};
use koinon_core::ids::{DeviceId, NodeName};

use super::{Hold, SchedulerSource, View, Withheld};
use crate::placement::lean::{Node, Pod};
use pools::Pools;

/// The driver whose devices are GPUs. NVIDIA's other one, for compute domains, gives out none.
pub const GPU_DRIVER: &str = "gpu.nvidia.com";

/// What is read of the API. Complete sets, each empty where the cluster does not serve it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Objects<'a> {
    /// What drivers publish.
    pub slices: &'a [Arc<ResourceSlice>],
    /// What is asked for and given.
    pub claims: &'a [Arc<ResourceClaim>],
    /// Taints that somebody else than the driver puts on devices.
    pub taint_rules: &'a [Arc<DeviceTaintRule>],
}

/// What the scheduler calls each device that has an id and is called so alone: its pool and its name, of the one driver that is
/// looked at.
#[must_use]
pub fn places(objects: &Objects<'_>) -> BTreeMap<(NodeName, DeviceId), (String, String)> {
    Pools::of(objects.slices, &[]).named()
}

/// The slices and claims of a cluster.
#[derive(Debug)]
pub struct Dra {
    nodes: BTreeMap<NodeName, Part>,
}

/// What one node has.
#[derive(Debug)]
struct Part {
    sharing: Sharing,
    listed: BTreeSet<DeviceId>,
    withheld: BTreeMap<DeviceId, Withheld>,
    holds: Vec<Hold>,
    doubts: BTreeSet<Doubt>,
}

impl Dra {
    /// Over complete sets of objects.
    #[must_use]
    pub fn of(nodes: &[Arc<Node>], pods: &[Arc<Pod>], objects: &Objects<'_>) -> Self {
        let pools = Pools::of(objects.slices, objects.taint_rules);
        let given = claims::given(objects.claims, pods, &pools);
        let by_labels: BTreeMap<NodeName, Sharing> =
            nodes.iter().filter_map(|node| Some((node.name.clone()?, node.sharing))).collect();
        let mut parts: BTreeMap<NodeName, Part> = BTreeMap::new();
        for node in pools.nodes().chain(given.nodes()) {
            parts.entry(node.clone()).or_insert_with(|| Part {
                sharing: by_labels.get(node).copied().unwrap_or_default(),
                listed: BTreeSet::new(),
                withheld: BTreeMap::new(),
                holds: Vec::new(),
                doubts: BTreeSet::new(),
            });
        }
        for (name, part) in &mut parts {
            pools.describe(name, &mut part.listed, &mut part.withheld, &mut part.doubts);
            if pools.has_instances(name) {
                part.sharing = part.sharing.max(Sharing::Mig);
            }
            for (id, sharing) in given.shared(name) {
                part.listed.remove(id);
                part.withheld.entry(id.clone()).or_insert(Withheld::Shared(*sharing));
            }
            part.holds = given.holds(name);
            part.doubts.extend(given.doubts(name));
        }
        Self { nodes: parts }
    }
}

impl SchedulerSource for Dra {
    fn view(&self, node: &NodeName, _: &str) -> Option<View> {
        let part = self.nodes.get(node)?;
        Some(View {
            source: Source::Dra,
            sharing: part.sharing,
            listed: Devices::Named(part.listed.clone()),
            withheld: part.withheld.clone(),
            holds: part.holds.clone(),
            doubts: part.doubts.clone(),
        })
    }
}
