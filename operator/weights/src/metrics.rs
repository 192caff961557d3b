//! The cache's metrics.

use koinon_telemetry::{Described, Registrar};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::wire::ModelState;

/// The cache's metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Bytes received from sources.
    pub fetched_bytes: IntCounter,
    /// Bytes sent to engine pods.
    pub served_bytes: IntCounter,
    /// Fetches that ended, by `Ready` or the reason of the failure.
    pub fetches: IntCounterVec,
    /// Models removed to make room.
    pub evictions: IntCounter,
    models: IntGaugeVec,
    stored: IntGauge,
}

/// Every metric of a cache of weights, with or without series.
///
/// # Errors
/// When two have one name.
pub fn described() -> Result<Vec<Described>, prometheus::Error> {
    let registry = Registry::new();
    let new = Registrar::new(&registry);
    Metrics::with(&new)?;
    Ok(new.described())
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Self::with(&Registrar::new(registry))
    }

    fn with(new: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            fetched_bytes: new.counter("koinon_weights_fetched_bytes_total", "Bytes received from model sources.")?,
            served_bytes: new.counter("koinon_weights_served_bytes_total", "Bytes of models sent to engine pods.")?,
            fetches: new.counters(
                "koinon_weights_fetches_total",
                "Fetches of a model that ended, by Ready or the reason of the failure.",
                &["result"],
            )?,
            evictions: new.counter("koinon_weights_evictions_total", "Models removed to make room for others.")?,
            models: new.gauges("koinon_weights_models", "Models in the cache, by state.", &["state"])?,
            stored: new.gauge("koinon_weights_stored_bytes", "Bytes that models take, or have been promised.")?,
        })
    }

    pub(crate) fn count(&self, models: impl Iterator<Item = (ModelState, u64)>) {
        let (mut fetching, mut ready, mut failed, mut stored) = (0, 0, 0, 0_u64);
        for (state, bytes) in models {
            stored = stored.saturating_add(bytes);
            match state {
                ModelState::Absent => {}
                ModelState::Fetching { .. } => fetching += 1,
                ModelState::Ready { .. } => ready += 1,
                ModelState::Failed(_) => failed += 1,
            }
        }
        for (state, count) in [("Fetching", fetching), ("Ready", ready), ("Failed", failed)] {
            self.models.with_label_values(&[state]).set(count);
        }
        self.stored.set(i64::try_from(stored).unwrap_or(i64::MAX));
    }
}
