//! Who may take the Lease, decided from what was read and from the own monotonic clock.
//!
//! The times written in a Lease come from another machine's clock and are never compared with ours: a foreign claim has
//! ended when *we* have seen it unchanged for its whole duration.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::time::Instant;

/// A duration that somebody else wrote is believed within these bounds only: zero would let everybody in at once, and a
/// century would lock everybody out.
const DURATION_BOUNDS: (i32, i32) = (1, 3600);

/// What to do next about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Nobody ever held it: create it.
    Create,
    /// It is free or has ended: replace it, with this number of transitions.
    Take(i32),
    /// It is ours: renew it.
    Renew(i32),
    /// Somebody holds it; look again at this moment.
    Wait(Instant),
}

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    holder: Option<String>,
    renewed: Option<MicroTime>,
    transitions: Option<i32>,
}

/// One claimant's memory of the Lease.
#[derive(Debug)]
pub(super) struct Election {
    identity: String,
    duration: Duration,
    seen: Option<(Seen, Instant)>,
}

impl Election {
    pub(super) fn new(identity: String, duration: Duration) -> Self {
        Election { identity, duration, seen: None }
    }

    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// The next move after `lease` was read at `now`.
    pub(super) fn next(&mut self, lease: Option<&LeaseSpec>, now: Instant) -> Move {
        let Some(spec) = lease else {
            return Move::Create;
        };
        let transitions = spec.lease_transitions.unwrap_or(0);
        match spec.holder_identity.as_deref() {
            None | Some("") => return Move::Take(transitions.saturating_add(1)),
            Some(holder) if holder == self.identity => return Move::Renew(transitions),
            Some(_) => {}
        }
        let seen = Seen {
            holder: spec.holder_identity.clone(),
            renewed: spec.renew_time.clone(),
            transitions: spec.lease_transitions,
        };
        let since = match &self.seen {
            Some((before, since)) if *before == seen => *since,
            _ => {
                self.seen = Some((seen, now));
                now
            }
        };
        let theirs = spec.lease_duration_seconds.unwrap_or(0).clamp(DURATION_BOUNDS.0, DURATION_BOUNDS.1);
        let ends = since + self.duration.max(Duration::from_secs(theirs.unsigned_abs().into()));
        if now >= ends { Move::Take(transitions.saturating_add(1)) } else { Move::Wait(ends) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    const DURATION: Duration = Duration::from_secs(15);

    fn held(holder: &str, second: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(3),
            renew_time: Some(MicroTime(Timestamp::from_second(second).unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_missing_lease_is_created_and_a_vacated_one_taken_at_once() {
        let mut election = Election::new("a".into(), DURATION);
        let now = Instant::now();
        assert_eq!(election.next(None, now), Move::Create);
        assert_eq!(election.next(Some(&held("", 1)), now), Move::Take(4));
    }

    #[test]
    fn a_foreign_lease_is_taken_only_after_it_stood_unchanged_for_its_duration() {
        let mut election = Election::new("a".into(), DURATION);
        let start = Instant::now();
        // Its renewTime is half a century old, which says nothing about the clock of its holder.
        assert_eq!(election.next(Some(&held("b", 1)), start), Move::Wait(start + DURATION));
        let later = start + Duration::from_secs(14);
        assert_eq!(election.next(Some(&held("b", 2)), later), Move::Wait(later + DURATION), "renewed: counts anew");
        assert_eq!(election.next(Some(&held("b", 2)), later + DURATION), Move::Take(4));
    }

    #[test]
    fn a_duration_beyond_reason_locks_nobody_out_for_ever() {
        let mut election = Election::new("a".into(), DURATION);
        let start = Instant::now();
        let lease = LeaseSpec { lease_duration_seconds: Some(i32::MAX), ..held("b", 1) };
        assert_eq!(election.next(Some(&lease), start), Move::Wait(start + Duration::from_secs(3600)));
        let lease = LeaseSpec { lease_duration_seconds: Some(-5), ..held("b", 2) };
        assert_eq!(election.next(Some(&lease), start), Move::Wait(start + DURATION), "never shorter than our own");
    }
}
