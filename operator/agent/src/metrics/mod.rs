//! The agent's metrics.
//!
//! ```text
//!  surveys       how the asking goes
//!  devices       one survey, its verdicts and its processes ─▶ samples ─┐
//!  counters      what is counted over surveys, XIDs ─────────▶ samples ─┼─▶ collector ─▶ scrape
//!  dcgm          the same under dcgm-exporter's names ───────▶ samples ─┘
//! ```
//!
//! Series of one device are bounded by its hardware. What is unsupported or unknown has no series; a device that is gone has
//! none either.

mod collector;
mod counters;
mod dcgm;
mod devices;
mod family;
mod library;
mod names;
mod surveys;
#[cfg(test)]
mod tests;

use std::time::Duration;

use koinon_api::gpu_node::{Device, HealthState};
use koinon_telemetry::{Described, Registrar};
use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use crate::events::{Counts, KernelLogState};
use crate::survey::{Survey, WatchState};
use surveys::SurveyMetrics;

pub use collector::{DcgmNames, DeviceMetrics};
pub use counters::{ALERTED, UNATTRIBUTED};
pub use library::Library;
pub use surveys::LibraryFile;

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
    /// Of each device: to be told what was seen of them and which XIDs were heard.
    pub gpus: DeviceMetrics,
    surveys: SurveyMetrics,
    devices: IntGaugeVec,
    writes: IntCounterVec,
    beats: IntCounterVec,
}

/// Every metric of an agent, with or without series.
///
/// # Errors
/// When two have one name.
pub fn described() -> Result<Vec<Described>, prometheus::Error> {
    let registry = Registry::new();
    let new = Registrar::new(&registry);
    Metrics::with(&new, DcgmNames::Off)?;
    Ok(new.described())
}

impl Metrics {
    /// Every series of a closed label exists from the start, so that its first event is seen as an increase.
    ///
    /// # Errors
    /// When one of the names is registered already.
    pub fn register(registry: &Registry, dcgm: DcgmNames) -> Result<Self, prometheus::Error> {
        Self::with(&Registrar::new(registry), dcgm)
    }

    fn with(new: &Registrar<'_>, dcgm: DcgmNames) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            gpus: DeviceMetrics::register(new, dcgm)?,
            surveys: SurveyMetrics::register(new)?,
            devices: new.gauges(
                "koinon_node_devices",
                "GPUs of this node by health, those that are lately missing included.",
                &["state"],
            )?,
            writes: new.counters(
                "koinon_gpunode_writes_total",
                "Writes of the GPUNode's status, by result.",
                &["result"],
            )?,
            beats: new.counters("koinon_heartbeats_total", "Heartbeats, by what came of them.", &["result"])?,
        };
        for (_, state) in STATES {
            metrics.devices.with_label_values(&[state]);
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
        self.surveys.surveyed(survey, took, stuck, unix_seconds);
    }

    /// After each survey: from where errors are heard between surveys.
    pub fn listening(&self, watch: &WatchState, kernel_log: &KernelLogState, counts: Counts) {
        self.surveys.listening(watch, kernel_log, counts);
    }

    /// Which file answered as NVML; none while that is not known.
    pub fn library(&self, file: Option<&LibraryFile>) {
        self.surveys.library(file);
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
