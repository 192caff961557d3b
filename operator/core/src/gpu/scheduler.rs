//! What the cluster's own scheduler gives out of a node's GPUs, and to whom it has given them: the second of two accounts,
//! beside the driver's.
//!
//! There are two ways in which a cluster gives out GPUs. A *device plugin* lets the scheduler count; which device a pod gets
//! its kubelet decides. With *dynamic resource allocation* the scheduler itself chooses devices by name. Both become one
//! [`Account`], in which devices are named where they can be and counted where not. What is not known of it only ever
//! lowers what may be offered.

use std::collections::BTreeSet;

use crate::capacity::{Registration, SchedulerFacts, Sharing};
use crate::ids::DeviceId;

/// By which way a node's GPUs are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// By number, as an extended resource.
    DevicePlugin,
    /// By name, from resource slices to resource claims.
    Dra,
}

/// Devices, by name where the source names them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Devices {
    /// These.
    Named(BTreeSet<DeviceId>),
    /// So many, and which is not known.
    Counted(u32),
}

impl Devices {
    /// How many.
    #[must_use]
    pub fn count(&self) -> u32 {
        match self {
            Self::Named(names) => u32::try_from(names.len()).unwrap_or(u32::MAX),
            Self::Counted(count) => *count,
        }
    }
}

/// Devices of several holders together. Those that are only counted may be any of the node's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// By name.
    pub named: BTreeSet<DeviceId>,
    /// Besides them.
    pub counted: u32,
}

impl Held {
    /// Adds what another holder has. One device that two hold is one device.
    pub fn add(&mut self, devices: &Devices) {
        match devices {
            Devices::Named(names) => self.named.extend(names.iter().cloned()),
            Devices::Counted(count) => self.counted = self.counted.saturating_add(*count),
        }
    }

    /// How many at the most.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.named.len()).unwrap_or(u32::MAX).saturating_add(self.counted)
    }
}

/// What keeps an account from being believed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// Some object from which it is made could not be read.
    Unreadable,
    /// A driver has not published all slices of the pool's newest generation; the scheduler waits for them too.
    PoolIncomplete,
    /// Both ways give out GPUs of this node, each as if it were alone.
    BothSources,
    /// A claim holds a device of which nobody can say on which node it is.
    HolderWithoutPlace,
    /// A pod of this node names a claim that is not known yet.
    ClaimMissing,
}

/// What the scheduler gives out of one node, and has given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// By which way.
    pub source: Source,
    /// How far the node's tenants are kept apart.
    pub sharing: Sharing,
    /// What may be given out, held or not. Not what is tainted, in doubt, or shared by itself.
    pub listed: Devices,
    /// What is held without a reservation.
    pub held_by_others: Held,
    /// What the pods of reservations hold.
    pub held_by_placements: Held,
    /// What is not known.
    pub doubts: BTreeSet<Doubt>,
}

impl Account {
    /// What may be counted on. None where the account cannot be believed.
    ///
    /// A device that is held and no longer given out counts on both sides: it was given out, and its holder has it.
    #[must_use]
    pub fn facts(&self) -> Option<SchedulerFacts> {
        if !self.doubts.is_empty() {
            return None;
        }
        let withdrawn = match &self.listed {
            Devices::Counted(_) => 0,
            Devices::Named(names) => {
                let held = self.held_by_others.named.union(&self.held_by_placements.named);
                u32::try_from(held.filter(|id| !names.contains(*id)).count()).unwrap_or(u32::MAX)
            }
        };
        let allocatable = self.listed.count().saturating_add(withdrawn);
        let requested_by_others = self.held_by_others.count();
        Some(SchedulerFacts { allocatable, requested_by_others, withdrawn, sharing: self.sharing })
    }

    /// Whether a device is given out; not known where devices are only counted.
    #[must_use]
    pub fn registration(&self, id: &DeviceId) -> Registration {
        match &self.listed {
            Devices::Named(names) if names.contains(id) => Registration::Yes,
            Devices::Named(_) => Registration::No,
            Devices::Counted(_) => Registration::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u32]) -> BTreeSet<DeviceId> {
        numbers.iter().map(|number| format!("GPU-{number}").parse().unwrap()).collect()
    }

    fn account(listed: Devices) -> Account {
        Account {
            source: Source::Dra,
            sharing: Sharing::Exclusive,
            listed,
            held_by_others: Held::default(),
            held_by_placements: Held::default(),
            doubts: BTreeSet::new(),
        }
    }

    #[test]
    fn a_device_that_is_held_and_no_longer_given_out_takes_nothing_from_the_others() {
        let mut named = account(Devices::Named(ids(&[1, 2, 3])));
        named.held_by_others.add(&Devices::Named(ids(&[3, 4])));
        let facts = named.facts().unwrap();
        assert_eq!((facts.allocatable, facts.requested_by_others, facts.withdrawn), (4, 2, 1));
        assert_eq!(named.registration(&ids(&[3]).pop_first().unwrap()), Registration::Yes);
        assert_eq!(named.registration(&ids(&[4]).pop_first().unwrap()), Registration::No);
        let counted = account(Devices::Counted(3));
        let facts = counted.facts().unwrap();
        assert_eq!((facts.allocatable, facts.withdrawn), (3, 0));
        assert_eq!(counted.registration(&ids(&[1]).pop_first().unwrap()), Registration::Unknown);
    }

    #[test]
    fn an_account_in_doubt_says_nothing() {
        let doubted = Account { doubts: BTreeSet::from([Doubt::PoolIncomplete]), ..account(Devices::Counted(8)) };
        assert_eq!(doubted.facts(), None);
    }

    #[test]
    fn a_device_that_two_hold_is_one_and_those_that_are_counted_add_up() {
        let mut held = Held::default();
        held.add(&Devices::Named(ids(&[1, 2])));
        held.add(&Devices::Named(ids(&[2])));
        held.add(&Devices::Counted(2));
        held.add(&Devices::Counted(u32::MAX));
        assert_eq!((held.named.len(), held.counted, held.count()), (2, u32::MAX, u32::MAX));
    }
}
