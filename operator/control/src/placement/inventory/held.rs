//! What reservations of others hold, by class. A record counts GPUs alone; of which class they are, its Placement says.

use std::collections::BTreeMap;

use koinon_api::placement::Side;
use koinon_core::capacity::NodeCapacity;
use koinon_core::ids::{GpuClass, NodeName};
use koinon_core::placement::ReplicaKey;

use super::Inputs;
use crate::kinds::placement_host_list as list;

/// GPUs that reservations of other members hold, by node and class. One whose Placement is not there yet counts for every class
/// of its node: what others may hold is then underestimated for a moment, and never exceeded.
#[must_use]
pub fn foreign(
    inputs: &Inputs<'_>,
    capacities: &BTreeMap<NodeName, NodeCapacity>,
) -> BTreeMap<(NodeName, GpuClass), u32> {
    let hosted = inputs.placements.iter().filter(|placement| placement.spec.side == Side::Host);
    let classes: BTreeMap<ReplicaKey, GpuClass> =
        hosted.filter_map(|placement| Some((list::key(placement)?, placement.spec.gpu.class.parse().ok()?))).collect();
    let mut foreign: BTreeMap<(NodeName, GpuClass), u32> = BTreeMap::new();
    let mut add = |node: &NodeName, class: &GpuClass, gpus: u32| {
        let sum = foreign.entry((node.clone(), class.clone())).or_default();
        *sum = sum.saturating_add(gpus);
    };
    for (node, record) in inputs.records {
        for held in record.held().iter().filter(|held| inputs.me != Some(&held.replica.home)) {
            match classes.get(&held.replica) {
                Some(class) => add(node, class, held.gpus),
                None => {
                    let here = capacities.get(node).into_iter().flat_map(|capacity| capacity.classes.keys());
                    here.for_each(|class| add(node, class, held.gpus));
                }
            }
        }
    }
    foreign
}
