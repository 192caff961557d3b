//! The durable record of which replica holds how many GPUs of one node.
//!
//! One record a node, written only by its host's operator and only by compare-and-swap: the loser of a race reads
//! again and decides again. That, not leadership, is what makes a double grant impossible.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ReplicaKey;
use crate::ids::{Epoch, MemberId, NodeName};

/// Most replicas whose highest epoch one node's record remembers; about 100 bytes each keeps the record under the
/// API server's 1 MiB for an object.
pub const MAX_REMEMBERED: usize = 4096;

/// One replica's GPUs on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reservation {
    /// Whose they are.
    pub replica: ReplicaKey,
    /// Under which epoch.
    pub epoch: Epoch,
    /// How many whole devices.
    pub gpus: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Highest {
    replica: ReplicaKey,
    epoch: Epoch,
}

/// What [`NodeReservations::reserve`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// The record changed and must be written before anything is granted.
    New,
    /// A lower epoch of the same replica held these GPUs; its copy is now the new epoch's.
    TakenOver {
        /// The epoch that held them.
        from: Epoch,
    },
    /// The record says so already.
    Already,
}

/// Why GPUs are not reserved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A copy with a higher epoch was asked for before.
    #[error("epoch {asked} of {replica} is fenced: epoch {highest} was seen on {node}")]
    EpochFenced {
        /// The replica.
        replica: ReplicaKey,
        /// The epoch of the request.
        asked: Epoch,
        /// The highest epoch seen here.
        highest: Epoch,
        /// The node whose record says so.
        node: NodeName,
    },
    /// The same epoch was ended here; an epoch is never used twice.
    #[error("epoch {epoch} of {replica} was released on {node} already; ask with a higher epoch")]
    EpochEnded {
        /// The replica.
        replica: ReplicaKey,
        /// The epoch.
        epoch: Epoch,
        /// The node whose record says so.
        node: NodeName,
    },
    /// The replica holds another number of GPUs under this epoch.
    #[error("epoch {epoch} of {replica} holds {held} GPUs on {node} and asks for {asked}; ask with a higher epoch")]
    Changed {
        /// The replica.
        replica: ReplicaKey,
        /// The epoch.
        epoch: Epoch,
        /// What it holds.
        held: u32,
        /// What it asks for.
        asked: u32,
        /// The node.
        node: NodeName,
    },
    /// There are not enough unreserved GPUs.
    #[error("asks for {asked} GPUs on {node}, which has {free} of {capacity} unreserved")]
    NotEnough {
        /// What it asks for.
        asked: u32,
        /// What is unreserved.
        free: u32,
        /// What may be reserved in all.
        capacity: u32,
        /// The node.
        node: NodeName,
    },
}

/// The record of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeReservations {
    node: NodeName,
    #[serde(default)]
    held: Vec<Reservation>,
    #[serde(default)]
    highest: Vec<Highest>,
}

impl NodeReservations {
    /// The record of a node on which nothing was ever reserved.
    #[must_use]
    pub fn new(node: NodeName) -> Self {
        Self { node, held: Vec::new(), highest: Vec::new() }
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// What is held, in the order in which it was reserved.
    #[must_use]
    pub fn held(&self) -> &[Reservation] {
        &self.held
    }

    /// How many GPUs are held.
    #[must_use]
    pub fn reserved(&self) -> u32 {
        self.held.iter().fold(0, |sum, reservation| sum.saturating_add(reservation.gpus))
    }

    /// The highest epoch of `replica` that this node has seen, also after its release.
    #[must_use]
    pub fn highest(&self, replica: &ReplicaKey) -> Option<Epoch> {
        self.highest.iter().find(|seen| &seen.replica == replica).map(|seen| seen.epoch)
    }

    /// Reserves `gpus` for `replica` under `epoch`, of at most `capacity` that may be reserved on this node in all.
    ///
    /// `elsewhere` is the highest epoch of the replica in the records of the host's other nodes.
    ///
    /// # Guarantees
    /// - Asking again for what is held changes nothing.
    /// - A lower epoch than any seen is refused; so is one that was released.
    /// - A higher epoch of a replica that holds GPUs here takes them over, so that re-granting a running copy needs
    ///   no second set of GPUs.
    ///
    /// # Errors
    /// See [`Refusal`]; the record is then unchanged.
    pub fn reserve(
        &mut self,
        replica: &ReplicaKey,
        epoch: Epoch,
        gpus: u32,
        capacity: u32,
        elsewhere: Option<Epoch>,
    ) -> Result<Reserved, Refusal> {
        let node = self.node.clone();
        let here = self.highest(replica);
        if let Some(highest) = here.max(elsewhere).filter(|&highest| highest > epoch) {
            return Err(Refusal::EpochFenced { replica: replica.clone(), asked: epoch, highest, node });
        }
        let holding = self.held.iter().position(|held| &held.replica == replica);
        if let Some(held) = holding.map(|at| &self.held[at]).filter(|held| held.epoch == epoch) {
            return if held.gpus == gpus {
                Ok(Reserved::Already)
            } else {
                Err(Refusal::Changed { replica: replica.clone(), epoch, held: held.gpus, asked: gpus, node })
            };
        }
        if here.max(elsewhere) == Some(epoch) {
            return Err(Refusal::EpochEnded { replica: replica.clone(), epoch, node });
        }
        let own = holding.map_or(0, |at| self.held[at].gpus);
        let free = capacity.saturating_sub(self.reserved().saturating_sub(own));
        if gpus > free {
            return Err(Refusal::NotEnough { asked: gpus, free, capacity, node });
        }
        if here.is_none() && self.highest.len() >= MAX_REMEMBERED {
            self.forget_oldest();
        }
        let reservation = Reservation { replica: replica.clone(), epoch, gpus };
        let outcome = match holding {
            Some(at) => {
                let from = std::mem::replace(&mut self.held[at], reservation).epoch;
                Reserved::TakenOver { from }
            }
            None => {
                self.held.push(reservation);
                Reserved::New
            }
        };
        self.note(replica, epoch);
        Ok(outcome)
    }

    /// Gives back what `replica` holds under `epoch`; whether that changed anything.
    ///
    /// The epoch stays remembered.
    pub fn release(&mut self, replica: &ReplicaKey, epoch: Epoch) -> bool {
        let before = self.held.len();
        self.held.retain(|held| &held.replica != replica || held.epoch != epoch);
        self.held.len() != before
    }

    /// Forgets the oldest epoch of the home that has the most remembered, of a replica that holds nothing.
    ///
    /// A home that asks for ever new jobs so loses its own fences, and no other home's. What a forgotten fence kept out is
    /// an older request that the same home would have to sign again.
    fn forget_oldest(&mut self) {
        let held: BTreeSet<&ReplicaKey> = self.held.iter().map(|held| &held.replica).collect();
        let mut oldest: BTreeMap<&MemberId, (usize, usize)> = BTreeMap::new();
        for (at, seen) in self.highest.iter().enumerate().filter(|(_, seen)| !held.contains(&seen.replica)) {
            oldest.entry(&seen.replica.home).or_insert((0, at)).0 += 1;
        }
        let most = oldest.values().max_by_key(|(count, _)| *count).map(|(_, at)| *at);
        if let Some(at) = most {
            self.highest.remove(at);
        }
    }

    fn note(&mut self, replica: &ReplicaKey, epoch: Epoch) {
        match self.highest.iter_mut().find(|seen| &seen.replica == replica) {
            Some(seen) => seen.epoch = seen.epoch.max(epoch),
            None => self.highest.push(Highest { replica: replica.clone(), epoch }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::ReplicaIndex;

    #[test]
    fn a_home_that_asks_without_end_forgets_its_own_fences_and_no_other_homes() {
        let mut record = NodeReservations::new("n1".parse().unwrap());
        let of = |home: &str, index| ReplicaKey { home: home.parse().unwrap(), ..replica(index) };
        let (kept, held) = (of("bilbao", 0), of("aarhus", u32::MAX));
        record.reserve(&kept, Epoch(7), 1, 8, None).unwrap();
        record.release(&kept, Epoch(7));
        record.reserve(&held, Epoch(3), 1, 8, None).unwrap();
        for index in 0..u32::try_from(MAX_REMEMBERED + 10).unwrap() {
            record.reserve(&of("aarhus", index), Epoch(1), 1, 8, None).unwrap();
            record.release(&of("aarhus", index), Epoch(1));
        }
        assert_eq!((record.highest(&kept), record.highest(&held)), (Some(Epoch(7)), Some(Epoch(3))));
        assert_eq!(record.highest(&of("aarhus", 0)), None);
        assert!(serde_json::to_string(&record).unwrap().len() < 900_000, "an object of the API server holds 1 MiB");
    }

    fn replica(index: u32) -> ReplicaKey {
        ReplicaKey {
            home: "aarhus".parse().unwrap(),
            job: "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11".parse().unwrap(),
            replica: ReplicaIndex(index),
        }
    }

    fn node() -> NodeReservations {
        NodeReservations::new("bilbao-1".parse().unwrap())
    }

    #[test]
    fn the_last_gpu_is_reserved_once() {
        let mut record = node();
        assert_eq!(record.reserve(&replica(0), Epoch(1), 1, 1, None), Ok(Reserved::New));
        let refused = record.reserve(&replica(1), Epoch(1), 1, 1, None).unwrap_err();
        assert_eq!(refused.to_string(), "asks for 1 GPUs on bilbao-1, which has 0 of 1 unreserved");
    }

    #[test]
    fn asking_again_for_what_is_held_changes_nothing() {
        let mut record = node();
        record.reserve(&replica(0), Epoch(1), 4, 8, None).unwrap();
        let before = record.clone();
        assert_eq!(record.reserve(&replica(0), Epoch(1), 4, 8, None), Ok(Reserved::Already));
        assert_eq!(record, before);
    }

    #[test]
    fn a_lower_epoch_is_refused_with_the_number_that_fences_it_also_after_release() {
        let mut record = node();
        record.reserve(&replica(0), Epoch(7), 1, 8, None).unwrap();
        assert!(record.release(&replica(0), Epoch(7)));
        let refused = record.reserve(&replica(0), Epoch(6), 1, 8, None).unwrap_err();
        assert!(matches!(refused, Refusal::EpochFenced { highest: Epoch(7), .. }));
        let again = record.reserve(&replica(0), Epoch(7), 1, 8, None).unwrap_err();
        assert!(matches!(again, Refusal::EpochEnded { .. }));
    }

    #[test]
    fn an_epoch_seen_on_another_node_fences_here_too() {
        let refused = node().reserve(&replica(0), Epoch(3), 1, 8, Some(Epoch(4))).unwrap_err();
        assert!(matches!(refused, Refusal::EpochFenced { highest: Epoch(4), .. }));
    }

    #[test]
    fn a_higher_epoch_takes_over_the_gpus_of_the_running_copy() {
        let mut record = node();
        record.reserve(&replica(0), Epoch(1), 8, 8, None).unwrap();
        assert_eq!(record.reserve(&replica(0), Epoch(2), 8, 8, None), Ok(Reserved::TakenOver { from: Epoch(1) }));
        assert_eq!(record.reserved(), 8);
        assert!(!record.release(&replica(0), Epoch(1)));
    }

    #[test]
    fn the_record_survives_being_stored() {
        let mut record = node();
        record.reserve(&replica(0), Epoch(1), 3, 8, None).unwrap();
        record.reserve(&replica(1), Epoch(9), 2, 8, None).unwrap();
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<NodeReservations>(&text).unwrap(), record);
    }

    proptest! {
        /// Writers that race with stale copies, where only the one whose version is current may store.
        #[test]
        fn compare_and_swap_never_hands_out_more_gpus_than_there_are(
            steps in prop::collection::vec((0_usize..3, 0_u32..4, 1_u64..6, 1_u32..5, any::<bool>()), 1..120)
        ) {
            const CAPACITY: u32 = 8;
            let mut stored = (0_u64, node());
            let mut writers = [stored.clone(), stored.clone(), stored.clone()];
            let mut highest = BTreeMap::new();
            for (writer, index, epoch, gpus, refresh) in steps {
                if refresh {
                    writers[writer] = stored.clone();
                }
                let (version, mut record) = writers[writer].clone();
                let decided = if epoch == 5 {
                    record.release(&replica(index), Epoch(gpus.into()));
                    None
                } else {
                    match record.reserve(&replica(index), Epoch(epoch), gpus, CAPACITY, None) {
                        Ok(_) => Some((index, epoch)),
                        Err(_) => continue,
                    }
                };
                if version == stored.0 {
                    stored = (version + 1, record);
                    writers[writer] = stored.clone();
                    if let Some((index, epoch)) = decided {
                        let seen = highest.entry(index).or_insert(epoch);
                        prop_assert!(epoch >= *seen, "epoch {epoch} stored after {seen}");
                        *seen = epoch;
                    }
                }
                prop_assert!(stored.1.reserved() <= CAPACITY);
                for held in stored.1.held() {
                    let same = stored.1.held().iter().filter(|other| other.replica == held.replica).count();
                    prop_assert_eq!(same, 1);
                }
            }
        }
    }
}
