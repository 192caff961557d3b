//! The agent's metrics.

use std::time::Duration;

use koinon_api::gpu_node::{Device, HealthState};
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::survey::{Failure, Survey};

const STATES: [(HealthState, &str); 4] = [
    (HealthState::Healthy, "healthy"),
    (HealthState::Degraded, "degraded"),
    (HealthState::Unhealthy, "unhealthy"),
    (HealthState::Unknown, "unknown"),
];

/// What came of one heartbeat.
#[derive(Debug, Clone, Copy)]
pub enum Beat {
    /// The Lease was renewed.
    Renewed,
    /// It was not, because nobody can vouch for the status.
    Withheld,
    /// The API server did not take it.
    Failed,
}

impl Beat {
    const ALL: [Self; 3] = [Self::Renewed, Self::Withheld, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::Renewed => "renewed",
            Self::Withheld => "withheld",
            Self::Failed => "failed",
        }
    }
}

/// Registered once a process.
#[derive(Debug, Clone)]
pub struct Metrics {
    devices: IntGaugeVec,
    available: IntGauge,
    seconds: Histogram,
    failures: IntCounterVec,
    stuck: IntGauge,
    success: Gauge,
    writes: IntCounterVec,
    beats: IntCounterVec,
    registry: Registry,
}

impl Metrics {
    /// Every series of a closed label exists from the start, so that its first event is seen as an increase.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            devices: IntGaugeVec::new(
                Opts::new(
                    "koinon_node_devices",
                    "GPUs of this node by health, those that are lately missing included.",
                ),
                &["state"],
            )?,
            available: IntGauge::new("koinon_nvml_available", "Whether the last survey reached NVML.")?,
            seconds: Histogram::with_opts(
                HistogramOpts::new("koinon_survey_seconds", "How long surveys took, those that failed included.")
                    .buckets(vec![0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0]),
            )?,
            failures: IntCounterVec::new(
                Opts::new("koinon_survey_failures_total", "Surveys that found nothing out, by why."),
                &["reason"],
            )?,
            stuck: IntGauge::new(
                "koinon_survey_stuck_processes",
                "Surveying processes that hang in the driver and did not end when killed.",
            )?,
            success: Gauge::new(
                "koinon_survey_last_success_timestamp_seconds",
                "When a survey last reached NVML, in Unix time; absent before the first.",
            )?,
            writes: IntCounterVec::new(
                Opts::new("koinon_gpunode_writes_total", "Writes of the GPUNode's status, by result."),
                &["result"],
            )?,
            beats: IntCounterVec::new(
                Opts::new("koinon_heartbeats_total", "Heartbeats, by what came of them."),
                &["result"],
            )?,
            registry: registry.clone(),
        };
        registry.register(Box::new(metrics.devices.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        registry.register(Box::new(metrics.stuck.clone()))?;
        registry.register(Box::new(metrics.writes.clone()))?;
        registry.register(Box::new(metrics.beats.clone()))?;
        for (_, state) in STATES {
            metrics.devices.with_label_values(&[state]);
        }
        for failure in Failure::ALL {
            metrics.failures.with_label_values(&[failure.name()]);
        }
        for result in ["written", "failed"] {
            metrics.writes.with_label_values(&[result]);
        }
        for beat in Beat::ALL {
            metrics.beats.with_label_values(&[beat.name()]);
        }
        Ok(metrics)
    }

    /// After each survey.
    pub fn surveyed(&self, survey: &Survey, took: Duration, stuck: usize, unix_seconds: i64) {
        self.seconds.observe(took.as_secs_f64());
        self.stuck.set(i64::try_from(stuck).unwrap_or(i64::MAX));
        self.available.set(i64::from(survey.failure().is_none()));
        // Not before there is something to say: unknown is not zero. The registry refuses the second registration.
        let _ = self.registry.register(Box::new(self.available.clone()));
        match survey.failure() {
            Some(failure) => self.failures.with_label_values(&[failure.name()]).inc(),
            None => {
                // A double holds every second of the next millions of years.
                #[allow(clippy::cast_precision_loss)]
                self.success.set(unix_seconds as f64);
                let _ = self.registry.register(Box::new(self.success.clone()));
            }
        }
    }

    /// After each change of the devices.
    pub fn devices(&self, devices: &[Device]) {
        for (state, name) in STATES {
            let count = devices.iter().filter(|device| device.health.state == state).count();
            self.devices.with_label_values(&[name]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// After each write of the status.
    pub fn wrote(&self, taken: bool) {
        self.writes.with_label_values(&[if taken { "written" } else { "failed" }]).inc();
    }

    /// After each heartbeat.
    pub fn beat(&self, beat: Beat) {
        self.beats.with_label_values(&[beat.name()]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(registry: &Registry) -> Vec<String> {
        registry.gather().iter().map(|family| family.name().to_owned()).collect()
    }

    #[test]
    fn a_success_that_never_was_is_absent_and_failures_are_there_from_the_start() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let failures = registry.gather().into_iter().find(|family| family.name() == "koinon_survey_failures_total");
        assert_eq!(failures.map(|family| family.get_metric().len()), Some(Failure::ALL.len()));
        let success = "koinon_survey_last_success_timestamp_seconds".to_owned();
        assert!(!names(&registry).contains(&success));
        let failed = Survey::failed(Failure::Hung, None, "");
        metrics.surveyed(&failed, Duration::from_secs(10), 1, 100);
        assert!(!names(&registry).contains(&success));
        let found = Survey { nvml: crate::survey::Nvml::Available, ..failed };
        for second in [110, 120] {
            metrics.surveyed(&found, Duration::from_millis(20), 0, second);
        }
        assert!(names(&registry).contains(&success));
        assert!(names(&registry).iter().all(|name| name.starts_with("koinon_")));
    }
}
