//! Which hosts are not asked again for a while, because they refused or ended a copy.
//!
//! In memory: forgetting it at a restart costs one more refusal.

use std::collections::BTreeMap;
use std::time::Duration;

use koinon_core::body::latest::RefusalReason;
use koinon_core::ids::{Epoch, MemberId, ObjectUid, ReplicaIndex};

/// The first pause. Capacity comes and goes within seconds.
const FIRST: Duration = Duration::from_secs(5);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(300);
/// A copy that ran into a fault of its host's is not tried there again at once.
const AFTER_A_FAULT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
struct Refusal {
    until: Duration,
    pause: Duration,
    why: String,
    last: (ReplicaIndex, Epoch),
}

/// What hosts refused lately, by job and host.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    refused: BTreeMap<(ObjectUid, MemberId), Refusal>,
}

impl Refusals {
    /// Notes that `host` refused or ended a copy. The same copy is noted once.
    pub fn note(
        &mut self,
        job: &ObjectUid,
        host: &MemberId,
        copy: (ReplicaIndex, Epoch),
        reason: RefusalReason,
        why: String,
        now: Duration,
    ) {
        let first = match reason {
            // The next epoch is the remedy, and nothing is wrong with the host; or nobody refused.
            RefusalReason::StaleEpoch | RefusalReason::NoLongerRequested => return,
            RefusalReason::WeightsFailed | RefusalReason::DigestMismatch | RefusalReason::EngineFailed => AFTER_A_FAULT,
            _ => FIRST,
        };
        let key = (job.clone(), host.clone());
        let pause = match self.refused.get(&key) {
            Some(known) if known.last == copy => return,
            Some(known) => (known.pause * 2).clamp(first, LONGEST),
            None => first,
        };
        self.refused.insert(key, Refusal { until: now.saturating_add(pause), pause, why, last: copy });
    }

    /// Why `host` is not asked for `job` now.
    #[must_use]
    pub fn lately(&self, job: &ObjectUid, host: &MemberId, now: Duration) -> Option<&str> {
        let refusal = self.refused.get(&(job.clone(), host.clone()))?;
        (now < refusal.until).then_some(refusal.why.as_str())
    }

    /// Whether any host refused `job` a short while ago.
    #[must_use]
    pub fn any(&self, job: &ObjectUid, now: Duration) -> bool {
        self.refused.iter().any(|((of, _), refusal)| of == job && now < refusal.until)
    }

    /// A copy of `job` is Ready at `host`: what was wrong there is over.
    pub fn forgive(&mut self, job: &ObjectUid, host: &MemberId) {
        self.refused.remove(&(job.clone(), host.clone()));
    }

    /// Keeps only what concerns jobs that still exist.
    pub fn retain(&mut self, exists: impl Fn(&ObjectUid) -> bool) {
        self.refused.retain(|(job, _), _| exists(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(refusals: &mut Refusals, epoch: u64, reason: RefusalReason, now: u64) {
        let (job, host) = ids();
        let copy = (ReplicaIndex(0), Epoch(epoch));
        refusals.note(&job, &host, copy, reason, "has 0 free".to_owned(), Duration::from_secs(now));
    }

    fn ids() -> (ObjectUid, MemberId) {
        ("0c1f".parse().unwrap(), "bilbao".parse().unwrap())
    }

    fn asked(refusals: &Refusals, now: u64) -> bool {
        let (job, host) = ids();
        refusals.lately(&job, &host, Duration::from_secs(now)).is_none()
    }

    #[test]
    fn a_host_that_refused_is_asked_again_after_ever_longer_pauses() {
        let mut refusals = Refusals::default();
        note(&mut refusals, 1, RefusalReason::InsufficientGPUs, 0);
        assert!(!asked(&refusals, 4) && asked(&refusals, 5));
        note(&mut refusals, 2, RefusalReason::InsufficientGPUs, 5);
        assert!(!asked(&refusals, 14) && asked(&refusals, 15));
        for epoch in 3..20 {
            note(&mut refusals, epoch, RefusalReason::InsufficientGPUs, 15);
        }
        assert!(!asked(&refusals, 314) && asked(&refusals, 315));
    }

    #[test]
    fn the_same_refusal_seen_again_does_not_prolong_the_pause() {
        let mut refusals = Refusals::default();
        note(&mut refusals, 1, RefusalReason::InsufficientGPUs, 0);
        note(&mut refusals, 1, RefusalReason::InsufficientGPUs, 4);
        assert!(asked(&refusals, 5));
    }

    #[test]
    fn a_stale_epoch_is_answered_at_once_with_a_higher_one() {
        let mut refusals = Refusals::default();
        note(&mut refusals, 1, RefusalReason::StaleEpoch, 0);
        assert!(asked(&refusals, 0));
    }

    #[test]
    fn a_copy_that_became_ready_forgives() {
        let mut refusals = Refusals::default();
        note(&mut refusals, 1, RefusalReason::EngineFailed, 0);
        assert!(!asked(&refusals, 59));
        let (job, host) = ids();
        refusals.forgive(&job, &host);
        assert!(asked(&refusals, 1));
    }
}
