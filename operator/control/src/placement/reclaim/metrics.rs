//! Metrics of what an owner takes back: whether it gets its GPUs within the notice that it declared.

use koinon_api::Placement;
use koinon_api::reclaim::{Asked, Cause, Mark};
use koinon_core::body::latest::RefusalReason;
use koinon_core::ids::{Seconds, UnixSeconds};
use koinon_telemetry::Registrar;
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use crate::kinds::placement_host_state as state;

/// From what a failed device takes along at once to a notice of a week.
const BUCKETS: [f64; 14] =
    [1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0, 604_800.0];

/// Why GPUs come back, for closed labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReclaimReason {
    /// `GPUPool.spec.limits`.
    Limit,
    /// `GPUPool.spec.drain`.
    Drain,
    /// A person set the mark.
    ByHand,
    /// A device failed.
    DeviceUnhealthy,
    /// What another version knows.
    Other,
}

impl ReclaimReason {
    const ALL: [Self; 5] = [Self::Limit, Self::Drain, Self::ByHand, Self::DeviceUnhealthy, Self::Other];

    fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "Limit",
            Self::Drain => "Drain",
            Self::ByHand => "ByHand",
            Self::DeviceUnhealthy => "DeviceUnhealthy",
            Self::Other => "Other",
        }
    }

    /// Of a mark.
    #[must_use]
    pub fn of(mark: Option<&Mark>) -> Self {
        match mark.map(|mark| mark.cause) {
            Some(Cause::Limit) => Self::Limit,
            Some(Cause::Drain) => Self::Drain,
            Some(Cause::Other) | None => Self::Other,
        }
    }
}

/// What became of a reclaim, for closed labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReclaimResult {
    /// The GPUs are free.
    Released,
    /// The owner thought again.
    Kept,
}

impl ReclaimResult {
    const ALL: [Self; 2] = [Self::Released, Self::Kept];

    fn as_str(self) -> &'static str {
        match self {
            Self::Released => "Released",
            Self::Kept => "Kept",
        }
    }
}

/// The metrics.
#[derive(Clone, Debug)]
pub struct ReclaimMetrics {
    reclaims: IntCounterVec,
    late: IntCounterVec,
    seconds: HistogramVec,
    notice: IntGaugeVec,
}

impl ReclaimMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When one of the names is registered already.
    pub(crate) fn register(new: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            reclaims: new.counters(
                "koinon_reclaims_total",
                "Placements that had to leave, by why and what became of it.",
                &["reason", "result"],
            )?,
            late: new.counters(
                "koinon_reclaims_late_total",
                "Placements whose GPUs were free only after the notice that their pool declares, by why they had to leave.",
                &["reason"],
            )?,
            seconds: new.histograms(
                "koinon_reclaim_seconds",
                "From the decision that a Placement leaves until its GPUs were free, by why.",
                &["reason"],
                BUCKETS.to_vec(),
            )?,
            notice: new.gauges(
                "koinon_reclaim_notice_seconds",
                "Within how long a pool's GPUs are to be back.",
                &["pool"],
            )?,
        };
        // What does not exist yet cannot be alerted on.
        for reason in ReclaimReason::ALL {
            let _ = metrics.seconds.with_label_values(&[reason.as_str()]);
            let _ = metrics.late.with_label_values(&[reason.as_str()]);
            for result in ReclaimResult::ALL {
                metrics.reclaims.with_label_values(&[reason.as_str(), result.as_str()]).inc_by(0);
            }
        }
        Ok(metrics)
    }

    /// The owner thought again about a copy that was told to go.
    pub fn kept(&self, mark: &Mark) {
        let reason = ReclaimReason::of(Some(mark));
        self.reclaims.with_label_values(&[reason.as_str(), ReclaimResult::Kept.as_str()]).inc();
    }

    /// The GPUs of a copy are free. What a failed device takes along has no notice.
    pub fn released(&self, placement: &Placement, notice: Option<Seconds>, now: UnixSeconds) {
        let Some((reason, took)) = reclaimed(placement, now) else { return };
        self.reclaims.with_label_values(&[reason.as_str(), ReclaimResult::Released.as_str()]).inc();
        if let Some(took) = took {
            if reason != ReclaimReason::DeviceUnhealthy && notice.is_some_and(|notice| took > notice) {
                self.late.with_label_values(&[reason.as_str()]).inc();
            }
            #[allow(clippy::cast_precision_loss)] // a histogram is of floats, and no notice comes near 2^52 seconds
            self.seconds.with_label_values(&[reason.as_str()]).observe(took.0.max(0) as f64);
        }
    }

    /// Within how long a pool's GPUs are to be back.
    pub fn notice(&self, pool: &str, seconds: i32) {
        self.notice.with_label_values(&[pool]).set(seconds.into());
    }

    /// Forgets all pools, before they are told anew.
    pub fn forget_pools(&self) {
        self.notice.reset();
    }
}

/// Why a copy that is released had to leave, if it had to, and how long that took from the decision on.
fn reclaimed(placement: &Placement, now: UnixSeconds) -> Option<(ReclaimReason, Option<Seconds>)> {
    let status = placement.status.as_ref()?;
    if state::ending(status) == Some(RefusalReason::DeviceUnhealthy) {
        return Some((ReclaimReason::DeviceUnhealthy, state::ended_at(status).map(|at| now.since(at))));
    }
    // Also where it left by itself before its time: the owner waited no longer than that.
    let asked = Asked::of(placement)?;
    let reason = if asked.ours { ReclaimReason::of(asked.mark.as_ref()) } else { ReclaimReason::ByHand };
    Some((reason, asked.at.map(|at| now.since(at))))
}

#[cfg(test)]
mod tests {
    use koinon_api::labels;
    use kube::ResourceExt;
    use prometheus::Registry;
    use serde_json::json;

    use super::*;

    const T0: UnixSeconds = UnixSeconds(1_795_000_000);

    fn copy(status: serde_json::Value) -> Placement {
        let spec = json!({"side": "Host", "home": "aarhus", "host": "bilbao", "replica": 0, "epoch": 1, "servedName": "t",
            "job": {"namespace": "team", "name": "t", "uid": "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11"},
            "model": {"uri": "https://m.example/t", "revision": "1", "manifestDigest": "", "quantization": "f32"},
            "engine": {"name": "e"}, "gpu": {"class": "h100-80", "count": 1}, "maxModelLen": 1, "maxConcurrency": 1,
            "lease": {"seconds": 20}, "template": "{}"});
        let mut copy = Placement::new("t", serde_json::from_value(spec).unwrap());
        copy.status = Some(serde_json::from_value(status).unwrap());
        copy
    }

    #[test]
    fn every_series_is_there_from_the_start() {
        let registry = Registry::new();
        ReclaimMetrics::register(&Registrar::new(&registry)).unwrap();
        let series: usize = registry.gather().iter().map(|family| family.get_metric().len()).sum();
        assert_eq!(series, 5 * 2 + 2 * 5);
    }

    #[test]
    fn what_had_to_leave_is_timed_from_the_decision_and_what_left_by_itself_is_not_counted() {
        let mut marked = copy(json!({"state": "Draining", "reason": "Reclaimed"}));
        let change = Mark { cause: Cause::Limit, ..Mark::default() }.put(T0);
        for name in [labels::RECLAIM, labels::RECLAIM_WHY] {
            let value = change["metadata"]["annotations"][name].as_str().unwrap();
            marked.annotations_mut().insert(name.to_owned(), value.to_owned());
        }
        let now = UnixSeconds(T0.0 + 70);
        let metrics = ReclaimMetrics::register(&Registrar::new(&Registry::new())).unwrap();
        for (notice, late) in [(Some(Seconds(70)), 0), (None, 0), (Some(Seconds(69)), 1)] {
            metrics.released(&marked, notice, now);
            assert_eq!(metrics.late.with_label_values(&["Limit"]).get(), late, "with a notice of {notice:?}");
        }
        assert_eq!(reclaimed(&marked, now), Some((ReclaimReason::Limit, Some(Seconds(70)))));
        marked.annotations_mut().remove(labels::RECLAIM_WHY);
        assert_eq!(reclaimed(&marked, now), Some((ReclaimReason::ByHand, Some(Seconds(70)))));
        let granted = json!({"type": "Granted", "status": "False", "reason": "DeviceUnhealthy", "message": "",
            "lastTransitionTime": koinon_api::time::from_unix(T0.0 + 61)});
        let sick = copy(json!({"state": "Draining", "reason": "DeviceUnhealthy", "conditions": [granted]}));
        assert_eq!(reclaimed(&sick, now), Some((ReclaimReason::DeviceUnhealthy, Some(Seconds(9)))));
        assert_eq!(reclaimed(&copy(json!({"state": "Draining", "reason": "NoLongerRequested"})), now), None);
    }
}
