//! Metrics of placing.

use koinon_api::placement::{PlacementState, Side};
use koinon_core::body::latest::RefusalReason;
use koinon_core::ids::MemberId;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// What a job waits for, or that it waits for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobState {
    /// At least one replica is routable.
    Ready,
    /// It breaks a rule of its own.
    NotAccepted,
    /// Its model is not approved.
    NotApproved,
    /// No host has granted it yet.
    Unplaced,
    /// Its hosts are loading.
    Loading,
}

impl JobState {
    /// All of them, for closed labels.
    pub const ALL: [JobState; 5] =
        [JobState::Ready, JobState::NotAccepted, JobState::NotApproved, JobState::Unplaced, JobState::Loading];

    /// The word in the label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Ready => "Ready",
            JobState::NotAccepted => "NotAccepted",
            JobState::NotApproved => "NotApproved",
            JobState::Unplaced => "Unplaced",
            JobState::Loading => "Loading",
        }
    }
}

/// Where a placement can stand, for closed labels.
pub const PLACEMENT_STATES: [PlacementState; 7] = [
    PlacementState::Requested,
    PlacementState::Granted,
    PlacementState::Loading,
    PlacementState::Ready,
    PlacementState::Draining,
    PlacementState::Released,
    PlacementState::Refused,
];

/// The metrics of the placement side.
#[derive(Clone, Debug)]
pub struct PlacementMetrics {
    devices: IntGaugeVec,
    placements: IntGaugeVec,
    refusals: IntCounterVec,
    lease_remaining: GaugeVec,
    jobs: IntGaugeVec,
    reconcile_errors: IntCounterVec,
}

/// What a pool's devices of one class are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// All of them.
    Installed,
    /// Those that work.
    Healthy,
    /// Those that work and should be looked at.
    Degraded,
    /// Those that must not be used.
    Unhealthy,
    /// Those of which nobody can tell.
    Unknown,
    /// Held by the owner's pods.
    OwnerRequested,
    /// Kept free for the owner.
    OwnerReserve,
    /// Held by reservations.
    Leased,
    /// What others may ask for.
    Offered,
}

impl DeviceState {
    fn as_str(self) -> &'static str {
        match self {
            DeviceState::Installed => "installed",
            DeviceState::Healthy => "healthy",
            DeviceState::Degraded => "degraded",
            DeviceState::Unhealthy => "unhealthy",
            DeviceState::Unknown => "unknown",
            DeviceState::OwnerRequested => "owner_requested",
            DeviceState::OwnerReserve => "owner_reserve",
            DeviceState::Leased => "leased",
            DeviceState::Offered => "offered",
        }
    }
}

/// Which part failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Pools and the offer.
    Pools,
    /// Jobs and their placements at home.
    Jobs,
    /// Placements at the host.
    Guests,
    /// The NetworkPolicy probe.
    Probe,
}

impl Part {
    /// The word in the label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Part::Pools => "pools",
            Part::Jobs => "jobs",
            Part::Guests => "guests",
            Part::Probe => "probe",
        }
    }
}

/// Makes and registers them.
///
/// # Errors
/// When one of the names is registered already.
pub fn register(registry: &Registry) -> Result<PlacementMetrics, prometheus::Error> {
    let gauges = |name: &str, help: &str, labels: &[&str]| {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(gauges.clone()))?;
        Ok::<_, prometheus::Error>(gauges)
    };
    let counters = |name: &str, help: &str, labels: &[&str]| {
        let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(counters.clone()))?;
        Ok::<_, prometheus::Error>(counters)
    };
    let lease_remaining = GaugeVec::new(
        Opts::new(
            "koinon_lease_remaining_seconds",
            "Until the leases of the home's placements here lapse without another renewal.",
        ),
        &["home"],
    )?;
    registry.register(Box::new(lease_remaining.clone()))?;
    let metrics = PlacementMetrics {
        devices: gauges("koinon_devices", "GPUs of a pool, by class and state.", &["pool", "class", "state"])?,
        placements: gauges("koinon_placements", "Placements, by side and state.", &["side", "state"])?,
        refusals: counters("koinon_placement_refusals_total", "Requests refused here, by reason.", &["reason"])?,
        lease_remaining,
        jobs: gauges("koinon_jobs", "InferenceJobs, by what they wait for.", &["state"])?,
        reconcile_errors: counters(
            "koinon_placement_errors_total",
            "Attempts that failed and are made again, by part.",
            &["part"],
        )?,
    };
    // A counter that does not exist yet cannot be alerted on.
    for reason in RefusalReason::ALL {
        metrics.refusals.with_label_values(&[reason.as_str()]).inc_by(0);
    }
    Ok(metrics)
}

impl PlacementMetrics {
    /// One more refusal.
    pub fn refused(&self, reason: RefusalReason) {
        self.refusals.with_label_values(&[reason.as_str()]).inc();
    }

    /// An attempt failed.
    pub fn failed(&self, part: Part) {
        self.reconcile_errors.with_label_values(&[part.as_str()]).inc();
    }

    /// Forgets all devices, before they are counted anew: pools and classes go.
    pub fn forget_devices(&self) {
        self.devices.reset();
    }

    /// Counts the devices of one class of a pool.
    pub fn devices(&self, pool: &str, class: &str, state: DeviceState, count: u32) {
        self.devices.with_label_values(&[pool, class, state.as_str()]).set(count.into());
    }

    /// Counts the placements of one side.
    pub fn placements(&self, side: Side, states: impl Iterator<Item = PlacementState>) {
        let side = match side {
            Side::Home => "home",
            Side::Host => "host",
        };
        let states: Vec<PlacementState> = states.collect();
        for state in PLACEMENT_STATES {
            let count = states.iter().filter(|one| **one == state).count();
            let word = format!("{state:?}");
            self.placements.with_label_values(&[side, word.as_str()]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Counts the jobs.
    pub fn jobs(&self, states: &[JobState]) {
        for state in JobState::ALL {
            let count = states.iter().filter(|one| **one == state).count();
            self.jobs.with_label_values(&[state.as_str()]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// How long the leases of a home still hold; `None` where it holds nothing here.
    pub fn lease_remaining(&self, home: &MemberId, seconds: Option<i64>) {
        match seconds {
            #[allow(clippy::cast_precision_loss)] // a gauge is a float, and no lease comes near 2^52 seconds
            Some(seconds) => self.lease_remaining.with_label_values(&[home.as_str()]).set(seconds as f64),
            None => {
                let _ = self.lease_remaining.remove_label_values(&[home.as_str()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_figure_and_every_name_belongs_to_koinon() {
        let registry = Registry::new();
        let metrics = register(&registry).unwrap();
        metrics.placements(Side::Host, [PlacementState::Ready].into_iter());
        metrics.jobs(&[JobState::Unplaced]);
        metrics.lease_remaining(&"aarhus".parse().unwrap(), Some(12));
        let families = registry.gather();
        assert!(families.iter().all(|family| family.name().starts_with("koinon_")));
        let count =
            |name: &str| families.iter().find(|family| family.name() == name).map(|family| family.get_metric().len());
        assert_eq!(count("koinon_placements"), Some(PLACEMENT_STATES.len()));
        assert_eq!(count("koinon_jobs"), Some(JobState::ALL.len()));
        assert_eq!(count("koinon_placement_refusals_total"), Some(RefusalReason::ALL.len()));
        assert!(register(&registry).is_err());
    }
}
