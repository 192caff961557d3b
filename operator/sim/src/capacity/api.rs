//! The API server: what is stored, and what each operator has heard of it so far.

use std::collections::{BTreeMap, VecDeque};

use koinon_core::gpu::usage::PodRef;
use koinon_core::ids::{Epoch, NodeName, ObjectUid};
use koinon_core::placement::ReplicaKey;
use koinon_core::placement::reservations::NodeReservations;

use super::plan::Second;
use super::status::Status;

/// Operators of the member; the second one acts only where operators are at fault.
pub(super) const OPERATORS: usize = 2;

/// One copy of a replica.
pub(super) type Copy = (ReplicaKey, Epoch);

/// Objects of one kind.
#[derive(Clone, Debug)]
pub(super) struct Kind<K, V> {
    /// As they are.
    pub real: BTreeMap<K, V>,
    heard: [Heard<K, V>; OPERATORS],
}

#[derive(Clone, Debug)]
struct Heard<K, V> {
    seen: BTreeMap<K, V>,
    /// What is on its way, in order.
    coming: VecDeque<(Second, K, Option<V>)>,
}

impl<K: Ord + Clone, V: Clone> Kind<K, V> {
    pub fn new() -> Self {
        let heard = || Heard { seen: BTreeMap::new(), coming: VecDeque::new() };
        Self { real: BTreeMap::new(), heard: [heard(), heard()] }
    }

    /// Stores `value`, or takes the object away; `arrives` says when each operator hears of it.
    pub fn put(&mut self, key: K, value: Option<V>, arrives: [Second; OPERATORS]) {
        for (heard, at) in self.heard.iter_mut().zip(arrives) {
            // One kind arrives in the order in which it happened.
            let at = heard.coming.back().map_or(at, |(last, ..)| at.max(*last));
            heard.coming.push_back((at, key.clone(), value.clone()));
        }
        match value {
            Some(value) => self.real.insert(key, value),
            None => self.real.remove(&key),
        };
    }

    /// Lets what is due arrive. Answers whether anything did.
    pub fn deliver(&mut self, who: usize, now: Second) -> bool {
        let Some(heard) = self.heard.get_mut(who) else { return false };
        let mut any = false;
        while heard.coming.front().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, key, value)) = heard.coming.pop_front() else { break };
            any = true;
            match value {
                Some(value) => heard.seen.insert(key, value),
                None => heard.seen.remove(&key),
            };
        }
        any
    }

    pub fn seen(&self, who: usize) -> &BTreeMap<K, V> {
        self.heard.get(who).map_or(&self.real, |heard| &heard.seen)
    }
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub uid: ObjectUid,
    pub gpus: u32,
    /// The only node that it may run on.
    pub wants: Option<NodeName>,
    pub bound: Option<NodeName>,
    pub nominated: Option<NodeName>,
    /// It has ended and stands there still.
    pub over: bool,
    /// When it will be gone.
    pub terminating: Option<Second>,
    /// The copy that it is of.
    pub copy: Option<Copy>,
    /// When its owner takes it away.
    pub until: Second,
}

impl Pod {
    /// The node where it holds what it requests.
    pub fn holds_on(&self) -> Option<&NodeName> {
        self.bound.as_ref().or(self.nominated.as_ref()).filter(|_| !self.over)
    }
}

/// A Node, as far as its GPUs go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeObject {
    pub ready: bool,
    pub cordoned: bool,
    pub allocatable: u32,
}

/// A copy as its host wrote it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub node: NodeName,
    pub gpus: u32,
    /// It ends.
    pub ending: bool,
    /// Pods made for it so far.
    pub pods: u32,
    /// When the next of them is made.
    pub due: Second,
}

/// Everything that is stored.
#[derive(Clone, Debug)]
pub(super) struct Api {
    pub pods: Kind<PodRef, Pod>,
    pub nodes: Kind<NodeName, NodeObject>,
    pub statuses: Kind<NodeName, Status>,
    /// When each agent renewed its Lease, by its own clock.
    pub beats: Kind<NodeName, i64>,
    /// With the number of times that each was written.
    pub records: Kind<NodeName, (u64, NodeReservations)>,
    pub placements: BTreeMap<Copy, Placement>,
}

impl Api {
    pub fn new() -> Self {
        Self {
            pods: Kind::new(),
            nodes: Kind::new(),
            statuses: Kind::new(),
            beats: Kind::new(),
            records: Kind::new(),
            placements: BTreeMap::new(),
        }
    }

    /// The records as they are now.
    pub fn fresh(&self) -> BTreeMap<NodeName, NodeReservations> {
        self.records.real.iter().map(|(node, (_, record))| (node.clone(), record.clone())).collect()
    }
}
