//! What somebody concludes from the objects that it has heard of: the operator's inventory.
//!
//! The same steps as in the operator, whose own are bound to Kubernetes' types.

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::capacity::{
    Admission, Hold, NodeCapacity, NodeFacts, PoolCapacity, PoolRules, SchedulerFacts, of_node, of_pool,
};
use koinon_core::gpu::usage::PodRef;
use koinon_core::ids::{DeviceId, NodeName, Seconds};
use koinon_core::placement::ReplicaKey;
use koinon_core::placement::reservations::NodeReservations;

use super::api::{NodeObject, Pod};
use super::status::Status;

/// What somebody knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub statuses: &'a BTreeMap<NodeName, Status>,
    pub nodes: &'a BTreeMap<NodeName, NodeObject>,
    pub pods: &'a BTreeMap<PodRef, Pod>,
    pub ages: &'a BTreeMap<NodeName, Seconds>,
    pub records: &'a BTreeMap<NodeName, NodeReservations>,
}

impl View<'_> {
    /// What is known of one node while `record` holds what it holds.
    pub fn facts(&self, name: &NodeName, record: Option<&NodeReservations>) -> Option<NodeFacts> {
        let status = self.statuses.get(name)?;
        let node = self.nodes.get(name);
        let reserved: BTreeSet<&ReplicaKey> =
            record.into_iter().flat_map(|record| record.held()).map(|held| &held.replica).collect();
        let has_reservation = |pod: &Pod| pod.copy.as_ref().is_some_and(|(replica, _)| reserved.contains(replica));
        let here: BTreeMap<&PodRef, &Pod> = self.pods.iter().filter(|(_, pod)| pod.holds_on() == Some(name)).collect();
        let by_others = here.values().filter(|pod| !has_reservation(pod));
        let requested_by_others = by_others.fold(0_u32, |sum, pod| sum.saturating_add(pod.gpus));
        let divided: BTreeSet<&DeviceId> = status.rows.iter().filter_map(|row| row.parent.as_ref()).collect();
        let hold = |holders: Option<&Vec<PodRef>>| match holders.map(Vec::as_slice) {
            None => Hold::Unknown,
            Some([]) => Hold::Free,
            Some(pods) if pods.iter().all(|pod| here.get(pod).is_some_and(|pod| has_reservation(pod))) => {
                Hold::Reservation
            }
            Some(_) => Hold::Other,
        };
        let devices = status.rows.iter().filter(|row| !divided.contains(&row.id)).map(|row| {
            let mut facts = row.facts();
            facts.hold = hold(row.allocation.as_ref().and_then(|allocation| allocation.relied()));
            facts
        });
        Some(NodeFacts {
            node: name.clone(),
            heartbeat_age: self.ages.get(name).copied(),
            admission: match node {
                Some(node) if !node.ready => Admission::NotReady,
                Some(node) if node.cordoned => Admission::Cordoned,
                Some(_) => Admission::Open,
                None => Admission::NotReady,
            },
            devices: devices.collect(),
            scheduler: node.map(|node| SchedulerFacts {
                allocatable: node.allocatable,
                requested_by_others,
                ..SchedulerFacts::default()
            }),
            reserved: record.map_or(0, NodeReservations::reserved),
        })
    }

    /// All nodes.
    pub fn all(&self) -> Vec<NodeFacts> {
        self.statuses.keys().filter_map(|name| self.facts(name, self.records.get(name))).collect()
    }

    /// What there is to give.
    pub fn capacity(&self, rules: &PoolRules) -> (Vec<NodeCapacity>, PoolCapacity) {
        let nodes: Vec<NodeCapacity> = self.all().iter().map(of_node).collect();
        let pool = of_pool(&nodes, rules);
        (nodes, pool)
    }
}
