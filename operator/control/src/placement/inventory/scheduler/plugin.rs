//! A device plugin: the node says how many, pods say how many they want, and which is the kubelet's affair.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use koinon_core::gpu::scheduler::{Devices, Source};
use koinon_core::ids::NodeName;

use super::{Hold, SchedulerSource, View, by_node, holder_of, stage_of};
use crate::placement::lean::{Node, Pod};

/// The extended resources of a cluster's nodes.
#[derive(Debug)]
pub struct DevicePlugin<'a> {
    nodes: BTreeMap<NodeName, &'a Arc<Node>>,
    pods: BTreeMap<NodeName, Vec<&'a Arc<Pod>>>,
}

impl<'a> DevicePlugin<'a> {
    /// Over complete sets of nodes and pods.
    #[must_use]
    pub fn of(nodes: &'a [Arc<Node>], pods: &'a [Arc<Pod>]) -> Self {
        let nodes = nodes.iter().filter_map(|node| Some((node.name.clone()?, node))).collect();
        Self { nodes, pods: by_node(pods) }
    }
}

impl SchedulerSource for DevicePlugin<'_> {
    fn view(&self, node: &NodeName, resource: &str) -> Option<View> {
        let object = self.nodes.get(node)?;
        let mut holds: Vec<Hold> = Vec::new();
        for pod in self.pods.get(node).into_iter().flatten() {
            let gpus = pod.requests(resource);
            if gpus > 0 {
                holds.push(Hold { holder: holder_of(pod), stage: stage_of(pod), devices: Devices::Counted(gpus) });
            }
        }
        holds.sort();
        Some(View {
            source: Source::DevicePlugin,
            sharing: object.sharing,
            listed: Devices::Counted(object.allocatable(resource)),
            withheld: BTreeMap::new(),
            holds,
            doubts: BTreeSet::new(),
        })
    }
}
