//! Leases at the host: how long a granted copy may run without word from its home.

use std::collections::BTreeSet;

use super::{OnPartition, ReplicaKey};
use crate::ids::{Epoch, Seconds, UnixSeconds};

/// A granted copy and the last word about it, on the host's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// When the host granted it.
    pub granted_at: UnixSeconds,
    /// When the home last listed it, since the grant.
    pub renewed_at: Option<UnixSeconds>,
    /// The lease time that the grant named.
    pub period: Seconds,
    /// What silence means.
    pub on_partition: OnPartition,
    /// The charter's longest time without a renewal, also for [`OnPartition::KeepServing`].
    pub longest_silence: Seconds,
}

/// Whether a copy may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// It may, for this long without another renewal.
    Held {
        /// Time until it lapses.
        remaining: Seconds,
    },
    /// It may not: drain it.
    Lapsed {
        /// Since when.
        since: UnixSeconds,
    },
}

impl Lease {
    /// The state at `now`.
    ///
    /// A grant that was never renewed always lapses: its home may not know of it.
    #[must_use]
    pub fn state(&self, now: UnixSeconds) -> LeaseState {
        let until = match (self.renewed_at, self.on_partition) {
            (None, _) => self.granted_at.plus(self.period),
            (Some(renewed), OnPartition::StopWhenLeaseLapses) => renewed.plus(self.period),
            (Some(renewed), OnPartition::KeepServing) => renewed.plus(self.longest_silence),
        };
        if now < until { LeaseState::Held { remaining: until.since(now) } } else { LeaseState::Lapsed { since: until } }
    }
}

/// One copy that a home lists or a host holds.
pub type Copy = (ReplicaKey, Epoch);

/// What follows from a home's new complete list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Omitted {
    /// Drain these: the home no longer renews them.
    Drain(BTreeSet<Copy>),
    /// So many are missing that the list itself may be wrong: keep them until a list that is at least one lease
    /// younger says the same.
    Doubtful(BTreeSet<Copy>),
}

/// Fewest held copies for which the mass-loss guard acts; below it every omission is a plain decision.
pub const GUARD_FROM: usize = 3;

/// Compares what a home holds here with its new complete list.
///
/// `doubted_since` is when an earlier list of this home first omitted more than half.
#[must_use]
pub fn omitted(
    held: &BTreeSet<Copy>,
    listed: &BTreeSet<Copy>,
    doubted_since: Option<UnixSeconds>,
    list_issued_at: UnixSeconds,
    period: Seconds,
) -> Omitted {
    let missing: BTreeSet<Copy> = held.difference(listed).cloned().collect();
    let many = held.len() >= GUARD_FROM && missing.len() * 2 > held.len();
    let confirmed = doubted_since.is_some_and(|since| list_issued_at.since(since) >= period);
    if many && !confirmed { Omitted::Doubtful(missing) } else { Omitted::Drain(missing) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ReplicaIndex;

    const T0: UnixSeconds = UnixSeconds(1_000);

    fn lease(renewed_at: Option<i64>, on_partition: OnPartition) -> Lease {
        Lease {
            granted_at: T0,
            renewed_at: renewed_at.map(UnixSeconds),
            period: Seconds(60),
            on_partition,
            longest_silence: Seconds(86_400),
        }
    }

    #[test]
    fn a_grant_that_was_never_renewed_lapses_whatever_the_job_prefers() {
        for on_partition in [OnPartition::KeepServing, OnPartition::StopWhenLeaseLapses] {
            let lease = lease(None, on_partition);
            assert_eq!(lease.state(UnixSeconds(1_059)), LeaseState::Held { remaining: Seconds(1) });
            assert_eq!(lease.state(UnixSeconds(1_060)), LeaseState::Lapsed { since: UnixSeconds(1_060) });
        }
    }

    #[test]
    fn a_renewed_copy_keeps_serving_only_where_its_job_says_so() {
        let now = UnixSeconds(5_000);
        assert!(matches!(lease(Some(1_010), OnPartition::KeepServing).state(now), LeaseState::Held { .. }));
        assert_eq!(
            lease(Some(1_010), OnPartition::StopWhenLeaseLapses).state(now),
            LeaseState::Lapsed { since: UnixSeconds(1_070) }
        );
    }

    #[test]
    fn keeping_on_ends_with_the_charter_s_longest_silence() {
        let lease = lease(Some(1_010), OnPartition::KeepServing);
        assert!(matches!(lease.state(UnixSeconds(1_010 + 86_400)), LeaseState::Lapsed { .. }));
    }

    fn copies(count: u32) -> BTreeSet<Copy> {
        (0..count)
            .map(|index| {
                let replica = ReplicaKey {
                    home: "aarhus".parse().unwrap(),
                    job: "6b0f".parse().unwrap(),
                    replica: ReplicaIndex(index),
                };
                (replica, Epoch(1))
            })
            .collect()
    }

    #[test]
    fn an_omitted_copy_is_drained() {
        let outcome = omitted(&copies(2), &copies(1), None, T0, Seconds(60));
        assert!(matches!(outcome, Omitted::Drain(missing) if missing.len() == 1));
    }

    #[test]
    fn a_list_that_drops_most_copies_is_doubted_until_a_later_one_says_the_same() {
        let (held, empty) = (copies(4), BTreeSet::new());
        assert!(matches!(omitted(&held, &empty, None, T0, Seconds(60)), Omitted::Doubtful(_)));
        assert!(matches!(omitted(&held, &empty, Some(T0), UnixSeconds(1_059), Seconds(60)), Omitted::Doubtful(_)));
        let later = omitted(&held, &empty, Some(T0), UnixSeconds(1_060), Seconds(60));
        assert!(matches!(later, Omitted::Drain(missing) if missing.len() == 4));
    }
}
