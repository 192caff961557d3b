//! Reserving GPUs durably, by compare-and-swap on one record a node.
//!
//! Guarantees, also when two operators of one member both believe that they lead, and whenever a process dies:
//! - The GPUs that are reserved on a node never exceed what the caller found reservable there.
//! - An epoch of a replica is reserved once: whoever asks again finds it, whoever asks with a lower one is refused.
//!
//! A replica may end up reserved on two nodes when two operators reserve it in the same instant. Nothing is granted
//! twice by that: the Placement's name is the same for both, so one of them runs, and the other record is given back.

mod configmap;
#[cfg(test)]
mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use koinon_core::ids::{Epoch, NodeName};
use koinon_core::placement::ReplicaKey;
use koinon_core::placement::reservations::{NodeReservations, Refusal, Reservation, Reserved};
use thiserror::Error;

pub use configmap::{ConfigMaps, read, selector};

use super::reader::ReadError;
use super::writer::WriteError;

/// How often one node's record may be lost to another writer before the attempt is left to the next look.
const MOST_CONFLICTS: usize = 8;

/// The version of a record that a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub(crate) String);

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The record.
    pub record: NodeReservations,
    /// Its version; `None` where there is none yet.
    pub version: Option<Version>,
}

/// Why a record could not be read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Somebody else wrote since it was read.
    #[error("the reservations of {0} were changed meanwhile")]
    Conflict(NodeName),
    /// A record is there that cannot be read: nothing may be reserved before a person has looked at it.
    #[error(
        "reading the reservations in ConfigMap {name}: {why}; restore it, or delete it once no guest runs on the node"
    )]
    Unreadable {
        /// The ConfigMap.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The API server could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The API server could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Where the records are kept. Reads are never from a cache.
pub trait RecordStore: Send + Sync {
    /// All records, by node.
    fn list(&self) -> impl Future<Output = Result<BTreeMap<NodeName, Read>, StoreError>> + Send;

    /// Stores `record` if its node's record is still at `expected` (`None`: if there is none).
    fn write(
        &self,
        record: &NodeReservations,
        expected: Option<&Version>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Why nothing was reserved.
#[derive(Debug, Error)]
pub enum ReservationError {
    /// The record says no. Ask again with the numbers in mind.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Every node's record kept changing; nothing is known to be wrong.
    #[error("the reservations of {0} kept changing; another try follows")]
    Contended(NodeName),
    /// No node was asked.
    #[error("no node has room")]
    NoNode,
    /// The records could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is asked of the reservations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// For which replica.
    pub replica: ReplicaKey,
    /// Under which epoch.
    pub epoch: Epoch,
    /// How many GPUs, all on one node.
    pub gpus: u32,
}

/// What was reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Where.
    pub node: NodeName,
    /// How.
    pub how: Reserved,
}

/// The records and the rules by which they change.
#[derive(Clone, Debug)]
pub struct Reservations<S> {
    store: S,
}

impl<S: RecordStore> Reservations<S> {
    /// The reservations in `store`.
    pub fn new(store: S) -> Self {
        Self { store }
    }

    /// All records, freshly read.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn records(&self) -> Result<BTreeMap<NodeName, NodeReservations>, StoreError> {
        Ok(self.store.list().await?.into_iter().map(|(node, read)| (node, read.record)).collect())
    }

    /// Reserves on the first of `nodes` that has room; one of them that holds the replica already comes first.
    ///
    /// `reservable` says how many GPUs may be reserved on a node in all, given its record as it was read: it must count
    /// what the record holds exactly once.
    ///
    /// # Errors
    /// See [`ReservationError`]; [`ReservationError::Refused`] carries the refusal of the last node that was asked.
    pub async fn reserve(
        &self,
        ask: &Ask,
        nodes: &[NodeName],
        reservable: impl Fn(&NodeReservations) -> u32,
    ) -> Result<Held, ReservationError> {
        let mut refused = ReservationError::NoNode;
        for node in self.in_order(ask, nodes).await? {
            match self.reserve_on(ask, &node, &reservable).await {
                Err(ReservationError::Refused(refusal)) => match refusal {
                    // Another node would refuse for the same reason, or must not be asked.
                    Refusal::EpochFenced { .. } | Refusal::EpochEnded { .. } | Refusal::Changed { .. } => {
                        return Err(refusal.into());
                    }
                    Refusal::NotEnough { .. } => refused = refusal.into(),
                },
                Err(ReservationError::Contended(node)) => refused = ReservationError::Contended(node),
                done => return done,
            }
        }
        Err(refused)
    }

    async fn in_order(&self, ask: &Ask, nodes: &[NodeName]) -> Result<Vec<NodeName>, StoreError> {
        let records = self.store.list().await?;
        let holding = records
            .iter()
            .filter(|(node, read)| {
                nodes.contains(node) && read.record.held().iter().any(|held| held.replica == ask.replica)
            })
            .map(|(node, _)| node.clone());
        let mut order: Vec<NodeName> = holding.collect();
        order.extend(nodes.iter().filter(|node| !order.contains(node)).cloned().collect::<Vec<_>>());
        Ok(order)
    }

    async fn reserve_on(
        &self,
        ask: &Ask,
        node: &NodeName,
        reservable: &impl Fn(&NodeReservations) -> u32,
    ) -> Result<Held, ReservationError> {
        for _ in 0..MOST_CONFLICTS {
            let mut records = self.store.list().await?;
            let read = records
                .remove(node)
                .unwrap_or_else(|| Read { record: NodeReservations::new(node.clone()), version: None });
            let elsewhere = records.values().filter_map(|other| other.record.highest(&ask.replica)).max();
            let mut record = read.record;
            let capacity = reservable(&record);
            let how = record.reserve(&ask.replica, ask.epoch, ask.gpus, capacity, elsewhere)?;
            if how == Reserved::Already {
                return Ok(Held { node: node.clone(), how });
            }
            match self.store.write(&record, read.version.as_ref()).await {
                Ok(()) => return Ok(Held { node: node.clone(), how }),
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ReservationError::Contended(node.clone()))
    }

    /// Gives back what `replica` holds under `epoch` on `node`; whether there was anything.
    ///
    /// # Errors
    /// When the record cannot be read or written.
    pub async fn release(&self, node: &NodeName, replica: &ReplicaKey, epoch: Epoch) -> Result<bool, ReservationError> {
        self.change(node, |record| record.release(replica, epoch)).await
    }

    async fn change(
        &self,
        node: &NodeName,
        change: impl Fn(&mut NodeReservations) -> bool,
    ) -> Result<bool, ReservationError> {
        for _ in 0..MOST_CONFLICTS {
            let Some(read) = self.store.list().await?.remove(node) else { return Ok(false) };
            let mut record = read.record;
            if !change(&mut record) {
                return Ok(false);
            }
            match self.store.write(&record, read.version.as_ref()).await {
                Ok(()) => return Ok(true),
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ReservationError::Contended(node.clone()))
    }
}

/// Where each replica's GPUs are, from all records.
#[must_use]
pub fn holdings(records: &BTreeMap<NodeName, NodeReservations>) -> BTreeMap<ReplicaKey, Vec<(NodeName, Reservation)>> {
    let mut holdings: BTreeMap<ReplicaKey, Vec<(NodeName, Reservation)>> = BTreeMap::new();
    for (node, record) in records {
        for held in record.held() {
            holdings.entry(held.replica.clone()).or_default().push((node.clone(), held.clone()));
        }
    }
    holdings
}

/// The highest epoch that any record remembers for each replica of `home`.
#[must_use]
pub fn highest(records: &BTreeMap<NodeName, NodeReservations>, replica: &ReplicaKey) -> Option<Epoch> {
    records.values().filter_map(|record| record.highest(replica)).max()
}

/// The nodes whose record holds something.
#[must_use]
pub fn busy(records: &BTreeMap<NodeName, NodeReservations>) -> BTreeSet<NodeName> {
    records.iter().filter(|(_, record)| !record.held().is_empty()).map(|(node, _)| node.clone()).collect()
}

#[cfg(test)]
mod tests;
