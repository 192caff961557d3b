//! A device plugin: the node says how many, pods say how many they want, and which is the kubelet's affair.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use koinon_core::gpu::scheduler::{Devices, Source};
use koinon_core::ids::NodeName;
use kube::ResourceExt;

use super::{Hold, SchedulerSource, View, by_node, holder_of, sharing, stage_of};
use crate::placement::inventory::requests;

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
        let nodes = nodes.iter().filter_map(|node| Some((node.name_any().parse().ok()?, node))).collect();
        Self { nodes, pods: by_node(pods) }
    }
}

impl SchedulerSource for DevicePlugin<'_> {
    fn view(&self, node: &NodeName, resource: &str) -> Option<View> {
        let object = self.nodes.get(node)?;
        let mut holds: Vec<Hold> = Vec::new();
        for pod in self.pods.get(node).into_iter().flatten() {
            let gpus = requests::of_pod(pod, resource);
            if gpus > 0 {
                holds.push(Hold { holder: holder_of(pod), stage: stage_of(pod), devices: Devices::Counted(gpus) });
            }
        }
        holds.sort();
        Some(View {
            source: Source::DevicePlugin,
            sharing: sharing::of_node(object),
            listed: Devices::Counted(allocatable(object, resource)),
            withheld: BTreeMap::new(),
            holds,
            doubts: BTreeSet::new(),
        })
    }
}

fn allocatable(node: &Node, resource: &str) -> u32 {
    let amounts = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    match amounts.and_then(|amounts| amounts.get(resource)).map(|quantity| requests::whole(&quantity.0)) {
        // What cannot be read promises nothing.
        None | Some(u32::MAX) => 0,
        Some(amount) => amount,
    }
}
