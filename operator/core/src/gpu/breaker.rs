//! The fleet breaker (R16): many devices that fail at once are more likely a wrong rule, a driver or a power cut than that many
//! faults, so beyond a share of a member's devices nothing more is drained for their sake until the owner has looked.
//!
//! It changes no verdict. A device that is unhealthy takes nothing new, breaker or not; an open breaker only keeps the work on it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::words::Work;
use crate::ids::{DeviceId, NodeName, Seconds, UnixSeconds};

/// From where on the breaker opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct BreakerLimits {
    /// Within how long.
    pub period: Seconds,
    /// More than this share of the devices that were healthy, in per cent.
    pub percent: u32,
    /// And at least so many.
    pub devices: u32,
}

impl Default for BreakerLimits {
    /// More than 20 % and at least three within ten minutes.
    fn default() -> Self {
        Self { period: Seconds(600), percent: 20, devices: 3 }
    }
}

impl BreakerLimits {
    /// The most of `all` that may be kept from everybody, the owner included, for faults that nobody has looked at: the share
    /// from which on the breaker would open, and one where that is less.
    #[must_use]
    pub fn most_of(&self, all: u32) -> u32 {
        let share = u64::from(all) * u64::from(self.percent.min(100)) / 100;
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }
}

/// A device of a member: ids are unique within a node, and may be copied to another.
pub type FleetDevice = (NodeName, DeviceId);

/// What the breaker remembers. It must outlive the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Breaker {
    /// Since it is open, why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opened: Option<Opened>,
    /// The owner's reset that was used last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset: Option<UnixSeconds>,
}

/// Why the breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opened {
    /// When.
    pub at: UnixSeconds,
    /// Devices quarantined within the period.
    pub quarantined: u32,
    /// Devices that were healthy before.
    pub healthy: u32,
}

/// What the breaker says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerVerdict {
    /// Whether work on devices that failed is to be left alone.
    pub open: bool,
    /// Devices quarantined within the period.
    pub quarantined: u32,
    /// Devices that are healthy, those of the period counted as they were before it.
    pub healthy: u32,
}

impl BreakerVerdict {
    /// What becomes of work on a device about which `work` was found: with an open breaker it goes on.
    #[must_use]
    pub fn allows(self, work: Work) -> Work {
        match work {
            Work::Drain | Work::DrainNode if self.open => Work::Keep,
            work => work,
        }
    }
}

/// Judges a fleet. `quarantined` are all devices that are unhealthy, with when they became so; `healthy` counts those that are;
/// `reset` is when the owner last asked for a reset, and each is used once. Only that closes an open breaker.
#[must_use]
pub fn judge(
    before: &Breaker,
    quarantined: &BTreeMap<FleetDevice, UnixSeconds>,
    healthy: u32,
    reset: Option<UnixSeconds>,
    limits: &BreakerLimits,
    now: UnixSeconds,
) -> (Breaker, BreakerVerdict) {
    let mut breaker = before.clone();
    if reset.is_some() && reset != breaker.reset {
        breaker = Breaker { opened: None, reset };
    }
    // What a clock that is ahead calls the future has happened. What the owner has seen before the reset does not count again.
    let counts = |at: UnixSeconds| now.since(at) < limits.period && breaker.reset.is_none_or(|reset| at > reset);
    let recent = quarantined.values().filter(|at| counts(**at)).count();
    let recent = u32::try_from(recent).unwrap_or(u32::MAX);
    let were = healthy.saturating_add(recent);
    let share = u64::from(recent) * 100 > u64::from(were) * u64::from(limits.percent);
    if breaker.opened.is_none() && recent >= limits.devices.max(1) && share {
        breaker.opened = Some(Opened { at: now, quarantined: recent, healthy: were });
    }
    let verdict = BreakerVerdict { open: breaker.opened.is_some(), quarantined: recent, healthy: were };
    (breaker, verdict)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_795_000_000);

    fn fleet(ages: &[i64]) -> BTreeMap<FleetDevice, UnixSeconds> {
        let device = |at: usize| ("node-1".parse().unwrap(), format!("GPU-{at}").parse().unwrap());
        ages.iter().enumerate().map(|(at, age)| (device(at), UnixSeconds(NOW.0 - age))).collect()
    }

    fn fresh(ages: &[i64], healthy: u32) -> BreakerVerdict {
        judge(&Breaker::default(), &fleet(ages), healthy, None, &BreakerLimits::default(), NOW).1
    }

    #[test]
    fn it_opens_above_a_fifth_and_not_at_it() {
        // 3 of 15 are a fifth, 3 of 14 are more.
        assert!(!fresh(&[0, 10, 20], 12).open);
        assert_eq!(fresh(&[0, 10, 20], 11), BreakerVerdict { open: true, quarantined: 3, healthy: 14 });
    }

    #[test]
    fn a_fifth_may_be_kept_from_everybody_and_always_one() {
        let most = |all| BreakerLimits::default().most_of(all);
        assert_eq!([0, 1, 9, 10, 14, 15, 5_000].map(most), [1, 1, 1, 2, 2, 3, 1_000]);
        assert_eq!(BreakerLimits { percent: 300, ..BreakerLimits::default() }.most_of(u32::MAX), u32::MAX);
    }

    #[test]
    fn two_devices_never_open_it() {
        assert!(!fresh(&[0, 0], 0).open);
        assert!(fresh(&[0, 0, 0], 0).open);
    }

    #[test]
    fn what_is_ten_minutes_old_no_longer_counts() {
        assert!(fresh(&[0, 0, 599], 0).open);
        assert!(!fresh(&[0, 0, 600], 0).open);
    }

    #[test]
    fn a_quarantine_from_a_clock_that_is_ahead_counts() {
        assert!(fresh(&[0, 0, -3_600], 0).open);
    }

    #[test]
    fn only_a_new_reset_of_the_owner_closes_it() {
        let limits = BreakerLimits::default();
        let (open, verdict) = judge(&Breaker::default(), &fleet(&[0, 0, 0]), 5, None, &limits, NOW);
        assert_eq!(open.opened, Some(Opened { at: NOW, quarantined: 3, healthy: 8 }));
        assert_eq!(
            (verdict.allows(Work::DrainNode), verdict.allows(Work::RestartWorkload)),
            (Work::Keep, Work::RestartWorkload)
        );
        let later = UnixSeconds(NOW.0 + 86_400);
        let (still, verdict) = judge(&open, &BTreeMap::new(), 100, None, &limits, later);
        assert!(still == open && verdict.open);

        let (closed, verdict) = judge(&open, &fleet(&[0, 0, 0]), 5, Some(NOW), &limits, NOW);
        assert!(closed.opened.is_none() && !verdict.open);
        assert_eq!(verdict.allows(Work::Drain), Work::Drain);
        // Three more after it open it again, and the old reset does not close it.
        let (again, verdict) = judge(&closed, &fleet(&[-1, -2, -3]), 5, Some(NOW), &limits, UnixSeconds(NOW.0 + 4));
        assert!(again.opened.is_some() && verdict.open);
        let (again, _) = judge(&again, &BTreeMap::new(), 8, Some(NOW), &limits, UnixSeconds(NOW.0 + 3_600));
        assert!(again.opened.is_some());
    }

    #[test]
    fn it_outlives_the_operator() {
        let (open, _) = judge(&Breaker::default(), &fleet(&[0, 0, 0]), 5, None, &BreakerLimits::default(), NOW);
        let text = serde_json::to_string(&open).unwrap();
        assert_eq!(serde_json::from_str::<Breaker>(&text).unwrap(), open);
    }

    proptest! {
        #[test]
        fn it_never_panics_and_never_closes_by_itself(
            ages in prop::collection::vec(any::<i64>(), 0..20), healthy: u32, reset: Option<i64>, now: i64, percent: u32,
        ) {
            let device = |at: usize| ("node-1".parse().unwrap(), format!("GPU-{at}").parse().unwrap());
            let all = ages.iter().enumerate().map(|(at, age)| (device(at), UnixSeconds(*age))).collect();
            let limits = BreakerLimits { percent, ..BreakerLimits::default() };
            let (breaker, _) = judge(&Breaker::default(), &all, healthy, reset.map(UnixSeconds), &limits, UnixSeconds(now));
            let (after, _) = judge(&breaker, &all, healthy, reset.map(UnixSeconds), &limits, UnixSeconds(now));
            prop_assert_eq!(after, breaker);
        }
    }
}
