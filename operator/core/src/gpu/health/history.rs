//! What is remembered of a node's devices between two judgements, and across restarts of its agent.
//!
//! It is small and bounded, because it stands in the status of the node's object, and it may have been changed there: every
//! list is cut to its bound before it is used, and no time in it lies ahead.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::input::{BootId, NodeContext};
use crate::capacity::Health;
use crate::gpu::device::InstancePlace;
use crate::gpu::words::{Action, Offer, Reason, Work, badness};
use crate::gpu::xid::{Xid, XidSource};
use crate::ids::{Bytes, DeviceId, Line, ObjectUid, Seconds, UnixSeconds};

/// Most devices of one node.
pub const MAX_DEVICES: usize = 128;
/// Most findings that stand about one device.
pub const MAX_FINDINGS: usize = 16;
/// Most XIDs remembered of one device.
pub const MAX_XIDS: usize = 16;
pub(super) const MAX_FAULTS: usize = 8;
/// Most faults counted of one workload: as many as decide.
pub(super) const MAX_TIMES: usize = 8;
const MAX_CHANGES: usize = 16;
pub(super) const SLOWDOWN_WINDOW: i64 = 10;

/// A time on the node's own scale, in milliseconds: it follows the uptime, stands still while the node is off, and neither
/// jumps nor runs backwards, so that nothing measured on it can be shortened by a clock that is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Steady(pub i64);

impl Steady {
    /// Whether `period` has passed since `earlier`.
    #[must_use]
    pub fn is_after(self, earlier: Self, period: Seconds) -> bool {
        self.0.saturating_sub(earlier.0) >= period.0.saturating_mul(1_000)
    }

    /// Whether no more than `period` lies between the two.
    #[must_use]
    pub fn is_near(self, other: Self, period: Seconds) -> bool {
        self.0.abs_diff(other.0) <= period.0.max(0).unsigned_abs().saturating_mul(1_000)
    }

    /// This time and `period` later.
    #[must_use]
    pub fn plus(self, period: Seconds) -> Self {
        Self(self.0.saturating_add(period.0.saturating_mul(1_000)))
    }
}

/// What is remembered of a node's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct History {
    /// When it was last judged; none before the first time.
    pub clock: Option<Clock>,
    /// Its driver.
    pub driver: Option<DriverSeen>,
    /// XIDs of the node that belong together.
    pub incident: Option<Incident>,
    /// By device.
    pub devices: BTreeMap<DeviceId, DeviceHistory>,
}

/// When a node was last judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Clock {
    /// In which boot.
    pub boot: BootId,
    /// How long after it, in milliseconds.
    pub uptime: u64,
    /// On the node's own scale.
    pub steady: Steady,
}

/// A driver and since when it is the one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DriverSeen {
    /// Its version.
    pub version: Line,
    /// Since when; none if no other was seen before it.
    pub since: Option<Steady>,
}

/// XIDs that concern the node as a whole and follow one another without a long silence: one fault, however many devices tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// When it began, by the node's clock.
    pub since: UnixSeconds,
    /// The last XID of it.
    pub last: Steady,
    /// The devices that told.
    pub devices: BTreeSet<DeviceId>,
}

/// What is remembered of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceHistory {
    /// What it was last called.
    pub state: Health,
    /// Since when, by the node's clock.
    pub since: UnixSeconds,
    /// When a survey last read it.
    pub seen: Steady,
    /// What stands against it.
    pub findings: Vec<Finding>,
    /// Healthy or degraded, whichever it was last.
    pub settled: Option<Health>,
    /// When it changed between the two.
    pub changes: Vec<Steady>,
    /// Until when it stays degraded because it changed too often.
    pub pinned: Option<Steady>,
    /// What it reported.
    pub xids: Vec<XidRecord>,
    /// Faults of applications, by workload.
    pub faults: Vec<Faults>,
    /// What it is compared with.
    pub baseline: Baseline,
    /// Clean surveys since the last reset or reboot.
    pub clean: Option<Clean>,
    /// Conditions that count only once they last.
    pub conditions: Conditions,
    /// The owner's clear that was used last, by its time.
    pub cleared: Option<UnixSeconds>,
}

impl Default for DeviceHistory {
    fn default() -> Self {
        Self {
            state: Health::Unknown,
            since: UnixSeconds(0),
            seen: Steady(0),
            findings: Vec::new(),
            settled: None,
            changes: Vec::new(),
            pinned: None,
            xids: Vec::new(),
            faults: Vec::new(),
            baseline: Baseline::default(),
            clean: None,
            conditions: Conditions::default(),
            cleared: None,
        }
    }
}

/// Something that stands against a device until its own rule ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Why.
    pub reason: Reason,
    /// What it makes of the device.
    pub state: Health,
    /// What the owner should do.
    pub action: Action,
    /// What becomes of foreign work.
    pub work: Work,
    /// What new work is still possible.
    pub offer: Offer,
    /// The only instance that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<InstancePlace>,
    /// What ends it.
    pub ends: Ends,
    /// Since when, by the node's clock.
    pub since: UnixSeconds,
    /// And on its own scale.
    pub raised: Steady,
    /// When it was last seen or reported.
    pub last: Steady,
    /// Raised during the start-up grace, in which it does not yet make the device unhealthy (R15).
    #[serde(default)]
    pub young: bool,
    /// The report that brought it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xid: Option<Xid>,
}

/// What ends a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ends {
    /// A survey that reads the opposite.
    Reading,
    /// A time without another report.
    Quiet(Seconds),
    /// A reset or reboot and then clean surveys.
    Reset {
        /// Whether there was one since.
        armed: bool,
    },
}

/// Reports of one code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct XidRecord {
    /// Which.
    pub code: Xid,
    /// How many.
    pub count: u64,
    /// The first, by the node's clock.
    pub first: UnixSeconds,
    /// The last.
    pub last: UnixSeconds,
    /// The last, on the node's own scale.
    pub heard: Steady,
    /// Who reported them.
    pub source: XidSource,
    /// In which instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<InstancePlace>,
}

/// Faults of one workload's processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Faults {
    /// Who reported them: two reporters tell of the same faults, so they are not added up.
    pub source: XidSource,
    /// In which instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<InstancePlace>,
    /// Whose; none if nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<ObjectUid>,
    /// When.
    pub times: Vec<Steady>,
}

/// What a device's readings are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Baseline {
    /// Its memory since this boot.
    pub memory_total: Option<Bytes>,
    /// Its count of memory errors that were not corrected.
    pub volatile_uncorrected: Option<u64>,
    /// The most links that it or most of its like ever had up.
    pub nvlink: Option<u32>,
}

/// Clean surveys in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Clean {
    /// How many.
    pub count: u32,
    /// The first of them.
    pub first: Steady,
}

/// Conditions that count only once they last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conditions {
    /// The chip is at its highest temperature.
    pub gpu_hot: Option<Span>,
    /// The memory is.
    pub memory_hot: Option<Span>,
    /// The power brake is on.
    pub brake: Option<Span>,
    /// The host link is slow under load.
    pub pcie: Option<Span>,
    /// Minutes of the node's own scale in which heat slowed it down.
    pub slowdown: Vec<i64>,
}

/// From when to when a condition was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// First.
    pub since: Steady,
    /// Last.
    pub last: Steady,
}

/// How the node's own time went on since the last judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tick {
    pub now: Steady,
    /// How far back reports may lie that nobody has judged yet, in milliseconds.
    pub reach: i64,
    pub rebooted: bool,
    /// Whether the node is in its start-up grace (R15).
    pub young: bool,
}

impl History {
    /// Goes on to the time of `node`.
    pub(super) fn tick(&mut self, node: &NodeContext) -> Tick {
        let uptime = i64::try_from(node.uptime_milliseconds).unwrap_or(i64::MAX);
        let (before, reach, rebooted) = match &self.clock {
            None => (Steady(0), uptime, false),
            Some(clock) if clock.boot == node.boot => {
                let passed = node.uptime_milliseconds.saturating_sub(clock.uptime);
                (clock.steady, i64::try_from(passed).unwrap_or(i64::MAX), false)
            }
            // For how long it was off only the clock could say, and that may be wrong.
            Some(clock) => (clock.steady, uptime, true),
        };
        let now = if self.clock.is_none() { before } else { Steady(before.0.saturating_add(reach)) };
        self.clock = Some(Clock { boot: node.boot.clone(), uptime: node.uptime_milliseconds, steady: now });
        self.cut(now);
        Tick { now, reach, rebooted, young: false }
    }

    /// Cuts every list to its bound, and every time to `now`: what was stored may have been changed.
    fn cut(&mut self, now: Steady) {
        let back = |time: &mut Steady| *time = (*time).min(now);
        if let Some(driver) = &mut self.driver {
            driver.since.iter_mut().for_each(back);
        }
        if let Some(incident) = &mut self.incident {
            back(&mut incident.last);
            while incident.devices.len() > MAX_DEVICES {
                incident.devices.pop_last();
            }
        }
        for device in self.devices.values_mut() {
            back(&mut device.seen);
            for finding in &mut device.findings {
                back(&mut finding.raised);
                back(&mut finding.last);
            }
            device.xids.iter_mut().for_each(|record| back(&mut record.heard));
            device.faults.iter_mut().flat_map(|faults| &mut faults.times).for_each(back);
            device.changes.iter_mut().for_each(back);
            let Conditions { gpu_hot, memory_hot, brake, pcie, slowdown } = &mut device.conditions;
            for span in [gpu_hot, memory_hot, brake, pcie].into_iter().flatten() {
                back(&mut span.since);
                back(&mut span.last);
            }
            let minute = now.0.div_euclid(60_000);
            slowdown.retain(|at| *at <= minute && at.saturating_add(SLOWDOWN_WINDOW) > minute);
            slowdown.sort_unstable();
            slowdown.dedup();
            if let Some(clean) = &mut device.clean {
                back(&mut clean.first);
            }
            device.cut();
        }
    }
}

impl Finding {
    /// Whatever was stored, a finding says one thing: nothing unhealthy ends by itself or takes new work, nothing milder ends
    /// any work.
    fn mend(&mut self) {
        if self.state == Health::Unhealthy {
            (self.work, self.offer) = (self.work.max(Work::Drain), Offer::Nothing);
            if !matches!(self.ends, Ends::Reset { .. }) {
                self.ends = Ends::Reset { armed: false };
            }
        } else {
            self.state = Health::Degraded;
            (self.work, self.offer) = (self.work.min(Work::RestartWorkload), self.offer.max(Offer::SingleOnly));
        }
    }
}

impl DeviceHistory {
    pub(super) fn cut(&mut self) {
        self.findings.iter_mut().for_each(Finding::mend);
        // The worst stay, and of those the ones that are furthest from their end.
        self.findings.sort_by_key(|one| {
            let rank = std::cmp::Reverse((badness(one.state), one.ends != Ends::Reset { armed: true }, one.action));
            (rank, one.reason.clone(), one.place)
        });
        let mut kept = BTreeSet::new();
        self.findings.retain(|one| kept.insert((one.reason.clone(), one.place)));
        self.findings.truncate(MAX_FINDINGS);
        self.changes.sort_unstable();
        let surplus = self.changes.len().saturating_sub(MAX_CHANGES);
        self.changes.drain(..surplus);
        self.xids.truncate(MAX_XIDS);
        for faults in &mut self.faults {
            faults.times.sort_unstable();
            let surplus = faults.times.len().saturating_sub(MAX_TIMES);
            faults.times.drain(..surplus);
        }
        self.faults.truncate(MAX_FAULTS);
    }

    /// Whether something makes it unhealthy that no reset or reboot has answered yet.
    pub(super) fn is_condemned(&self) -> bool {
        self.findings.iter().any(|one| one.ends == Ends::Reset { armed: false })
    }

    /// Adds `found`, or makes what stands for the same reason as bad and as lasting.
    pub(super) fn raise(&mut self, found: Finding) {
        let same = |one: &&mut Finding| one.reason == found.reason && one.place == found.place;
        let Some(stands) = self.findings.iter_mut().find(same) else {
            self.findings.push(found);
            return;
        };
        stands.last = stands.last.max(found.last);
        stands.action = stands.action.max(found.action);
        stands.work = stands.work.max(found.work);
        stands.offer = stands.offer.max(found.offer);
        stands.xid = found.xid.or(stands.xid);
        let worse = badness(found.state) > badness(stands.state);
        stands.ends = match (stands.ends, found.ends) {
            (Ends::Reset { .. }, Ends::Reset { armed }) => Ends::Reset { armed },
            (reset @ Ends::Reset { .. }, _) | (_, reset @ Ends::Reset { .. }) => reset,
            (Ends::Quiet(one), Ends::Quiet(other)) => Ends::Quiet(one.max(other)),
            (quiet @ Ends::Quiet(_), Ends::Reading) | (Ends::Reading, quiet @ Ends::Quiet(_)) => quiet,
            (Ends::Reading, Ends::Reading) => Ends::Reading,
        };
        if worse {
            (stands.state, stands.young) = (found.state, found.young);
            (stands.since, stands.raised) = (found.since, found.raised);
        }
    }
}
