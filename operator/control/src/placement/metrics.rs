//! Metrics of placing.

use std::collections::BTreeMap;

use koinon_api::common::Evidence;
use koinon_api::placement::{PlacementState, Side};
use koinon_core::body::latest::RefusalReason;
use koinon_core::capacity::{Disagreement, PoolCapacity};
use koinon_core::ids::MemberId;
use koinon_telemetry::Registrar;
use prometheus::{GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::passes::Passes;
use super::reclaim::metrics::ReclaimMetrics;
use super::starts::StartMetrics;
use super::taints::PoolTaints;
use crate::challenges::metrics::ChallengeMetrics;

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
    /// How its loops keep up.
    pub passes: Passes,
    /// What is measured of other members' GPUs.
    pub challenges: ChallengeMetrics,
    devices: IntGaugeVec,
    stale_nodes: IntGaugeVec,
    disagreement: IntGaugeVec,
    evidence: IntGaugeVec,
    placements: IntGaugeVec,
    refusals: IntCounterVec,
    lease_remaining: GaugeVec,
    jobs: IntGaugeVec,
    reconcile_errors: IntCounterVec,
    breaker: IntGauge,
    taints: IntGaugeVec,
    /// Of what the owner takes back.
    pub reclaim: ReclaimMetrics,
    /// Of copies that start.
    pub starts: StartMetrics,
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
    /// Used by something that no pod accounts for.
    Orphaned,
    /// Held, and not known to work.
    Stranded,
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
            DeviceState::OwnerRequested => "owner",
            DeviceState::OwnerReserve => "reserved",
            DeviceState::Leased => "leased",
            DeviceState::Orphaned => "orphaned",
            DeviceState::Stranded => "stranded",
            DeviceState::Offered => "offered",
        }
    }
}

/// How far the figures of a pool can be believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Belief {
    /// Nodes whose agent is not heard.
    pub stale_nodes: u32,
    /// GPUs that NVML calls healthy and the scheduler does not know.
    pub nvml_only: u32,
    /// GPUs that the scheduler gives out and NVML does not call healthy.
    pub scheduler_only: u32,
    /// GPUs that work, by level.
    pub evidence: BTreeMap<Evidence, u32>,
}

impl Belief {
    /// Of a pool's nodes.
    #[must_use]
    pub fn of(capacity: &PoolCapacity, disagreements: impl Iterator<Item = Disagreement>) -> Self {
        let mut belief = Self { stale_nodes: capacity.stale_nodes, ..Self::default() };
        for disagreement in disagreements {
            match disagreement {
                Disagreement::SchedulerKnowsFewer { allocatable, healthy } => {
                    belief.nvml_only = belief.nvml_only.saturating_add(healthy.saturating_sub(allocatable));
                }
                Disagreement::NvmlKnowsFewer { allocatable, healthy } => {
                    belief.scheduler_only = belief.scheduler_only.saturating_add(allocatable.saturating_sub(healthy));
                }
            }
        }
        belief
    }
}

const LEVELS: [(Evidence, &str); 4] = [
    (Evidence::Claimed, "claimed"),
    (Evidence::SchedulerConsistent, "scheduler_consistent"),
    (Evidence::Challenged, "challenged"),
    (Evidence::Attested, "attested"),
];

/// Which part failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// All of them, for closed labels.
    pub const ALL: [Part; 4] = [Part::Pools, Part::Jobs, Part::Guests, Part::Probe];

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
    with(&Registrar::new(registry))
}

pub(crate) fn with(new: &Registrar<'_>) -> Result<PlacementMetrics, prometheus::Error> {
    let metrics = PlacementMetrics {
        passes: Passes::register(new)?,
        challenges: ChallengeMetrics::register(new)?,
        reclaim: ReclaimMetrics::register(new)?,
        starts: StartMetrics::register(new)?,
        breaker: new.gauge(
            "koinon_quarantine_breaker_open",
            "1 while so many devices failed at once that nothing more is drained for their sake.",
        )?,
        taints: new.gauges(
            "koinon_pool_taints",
            "Nodes and devices of a pool that ask for a taint: those that have it (tainted), those that keep it until somebody \
             says that they are well (kept), and those that must do without (held_back). Only of pools whose owner asks for taints.",
            &["pool", "state"],
        )?,
        devices: new.gauges(
            "koinon_pool_devices",
            "GPUs of a pool, by class and state.",
            &["pool", "class", "state"],
        )?,
        stale_nodes: new.gauges("koinon_pool_stale_nodes", "Nodes of a pool whose agent is not heard.", &["pool"])?,
        disagreement: new.gauges(
            "koinon_pool_capacity_disagreement_devices",
            "GPUs of a pool that only NVML calls healthy (nvml_only), or that the scheduler gives out all the same (scheduler_only).",
            &["pool", "kind"],
        )?,
        evidence: new.gauges(
            "koinon_pool_evidence_devices",
            "GPUs of a pool that work, by how far they can be believed.",
            &["pool", "level"],
        )?,
        placements: new.gauges("koinon_placements", "Placements, by side and state.", &["side", "state"])?,
        refusals: new.counters("koinon_placement_refusals_total", "Requests refused here, by reason.", &["reason"])?,
        lease_remaining: new.floats(
            "koinon_lease_remaining_seconds",
            "Until the leases of the home's placements here lapse without another renewal.",
            &["home"],
        )?,
        jobs: new.gauges("koinon_jobs", "InferenceJobs, by what they wait for.", &["state"])?,
        reconcile_errors: new.counters(
            "koinon_placement_errors_total",
            "Attempts that failed and are made again, by part.",
            &["part"],
        )?,
    };
    // A counter that does not exist yet cannot be alerted on.
    for part in Part::ALL {
        metrics.reconcile_errors.with_label_values(&[part.as_str()]).inc_by(0);
    }
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
        self.passes.failed(part);
        self.reconcile_errors.with_label_values(&[part.as_str()]).inc();
    }

    /// Whether the fleet breaker is open.
    pub fn breaker(&self, open: bool) {
        self.breaker.set(open.into());
    }

    /// Forgets what is tainted, before it is counted anew.
    pub fn forget_taints(&self) {
        self.taints.reset();
    }

    /// What is tainted of a pool.
    pub fn taints(&self, pool: &str, said: &PoolTaints) {
        for (state, of) in [("tainted", &said.tainted), ("kept", &said.kept), ("held_back", &said.held_back)] {
            self.taints.with_label_values(&[pool, state]).set(i64::try_from(of.len()).unwrap_or(i64::MAX));
        }
    }

    /// Forgets all devices, before they are counted anew: pools and classes go.
    pub fn forget_devices(&self) {
        for figures in [&self.devices, &self.stale_nodes, &self.disagreement, &self.evidence] {
            figures.reset();
        }
        self.reclaim.forget_pools();
    }

    /// How far the figures of a pool can be believed.
    pub fn belief(&self, pool: &str, belief: &Belief) {
        self.stale_nodes.with_label_values(&[pool]).set(belief.stale_nodes.into());
        for (kind, count) in [("nvml_only", belief.nvml_only), ("scheduler_only", belief.scheduler_only)] {
            self.disagreement.with_label_values(&[pool, kind]).set(count.into());
        }
        for (level, word) in LEVELS {
            let count = belief.evidence.get(&level).copied().unwrap_or(0);
            self.evidence.with_label_values(&[pool, word]).set(count.into());
        }
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
        let capacity = PoolCapacity { stale_nodes: 2, ..PoolCapacity::default() };
        let disagreements = [
            Disagreement::SchedulerKnowsFewer { allocatable: 6, healthy: 8 },
            Disagreement::NvmlKnowsFewer { allocatable: 8, healthy: 5 },
        ];
        let mut belief = Belief::of(&capacity, disagreements.into_iter());
        assert_eq!((belief.stale_nodes, belief.nvml_only, belief.scheduler_only), (2, 2, 3));
        belief.evidence = BTreeMap::from([(Evidence::Claimed, 5)]);
        metrics.belief("shared", &belief);
        metrics.taints("shared", &PoolTaints::default());
        let families = registry.gather();
        assert!(families.iter().all(|family| family.name().starts_with("koinon_")));
        let count =
            |name: &str| families.iter().find(|family| family.name() == name).map(|family| family.get_metric().len());
        assert_eq!(count("koinon_placements"), Some(PLACEMENT_STATES.len()));
        assert_eq!((count("koinon_pool_evidence_devices"), count("koinon_pool_stale_nodes")), (Some(4), Some(1)));
        metrics.forget_devices();
        metrics.forget_taints();
        assert!(!registry.gather().iter().any(|family| family.name().starts_with("koinon_pool_")));
        assert_eq!(count("koinon_jobs"), Some(JobState::ALL.len()));
        assert_eq!(count("koinon_placement_refusals_total"), Some(RefusalReason::ALL.len()));
        assert!(register(&registry).is_err());
    }
}
