//! How the loops of placing keep up: each looks at the whole state again and again, and a look that never ends, or always
//! fails, leaves everything as it was.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use koinon_telemetry::{Kind, Registrar};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, HistogramVec, IntCounterVec, Opts};
use tokio::time::Instant;

use super::metrics::Part;

/// The metrics of all loops. Clones share them.
#[derive(Clone, Debug)]
pub struct Passes {
    results: IntCounterVec,
    seconds: HistogramVec,
    loops: Loops,
}

#[derive(Debug, Default)]
struct Track {
    /// Since when something waits to be looked at.
    waits: Option<Instant>,
    /// Since when it is being looked at.
    began: Option<Instant>,
    failed: bool,
    failures: u32,
}

/// One loop; it has figures for as long as it lives.
#[derive(Clone, Debug)]
pub struct Passing {
    part: Part,
    passes: Passes,
    track: Arc<Mutex<Track>>,
}

impl Passes {
    pub(super) fn register(new: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        let passes = Self {
            results: new.counters(
                "koinon_reconcile_total",
                "Looks at the whole state, by who looked and whether all of it succeeded.",
                &["controller", "result"],
            )?,
            seconds: new.histograms(
                "koinon_reconcile_duration_seconds",
                "How long looks at the whole state took.",
                &["controller"],
                vec![0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0],
            )?,
            loops: new.keep(Loops::new()?, |_| Kind::Gauge)?,
        };
        for part in Part::ALL {
            for result in ["ok", "error"] {
                passes.results.with_label_values(&[part.as_str(), result]);
            }
        }
        Ok(passes)
    }

    /// The loop of this part, which begins now.
    #[must_use]
    pub fn of(&self, part: Part) -> Passing {
        let track = Arc::new(Mutex::new(Track::default()));
        self.loops.lock().insert(part, Arc::downgrade(&track));
        Passing { part, passes: self.clone(), track }
    }

    /// Something failed in this part's loop, which goes on with the rest.
    pub(super) fn failed(&self, part: Part) {
        if let Some(track) = self.loops.lock().get(&part).and_then(Weak::upgrade) {
            locked(&track).failed = true;
        }
    }
}

impl Passing {
    /// Something waits to be looked at.
    pub fn waits(&self) {
        locked(&self.track).waits.get_or_insert_with(Instant::now);
    }

    /// A look begins: it answers all that waits.
    pub fn begins(&self) {
        let mut track = locked(&self.track);
        *track = Track { began: Some(Instant::now()), failures: track.failures, ..Track::default() };
    }

    /// It has ended; nothing if none had begun.
    pub fn ends(&self) {
        let mut track = locked(&self.track);
        let Some(began) = track.began.take() else { return };
        track.failures = if track.failed { track.failures.saturating_add(1) } else { 0 };
        let result = if track.failed { "error" } else { "ok" };
        self.passes.results.with_label_values(&[self.part.as_str(), result]).inc();
        self.passes.seconds.with_label_values(&[self.part.as_str()]).observe(began.elapsed().as_secs_f64());
    }
}

fn locked(track: &Mutex<Track>) -> MutexGuard<'_, Track> {
    track.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of the loops that live.
#[derive(Clone, Debug)]
struct Loops {
    oldest: GaugeVec,
    failures: GaugeVec,
    tracks: Arc<Mutex<BTreeMap<Part, Weak<Mutex<Track>>>>>,
}

impl Loops {
    fn new() -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str| GaugeVec::new(Opts::new(name, help), &["controller"]);
        Ok(Self {
            oldest: gauges(
                "koinon_reconcile_oldest_item_seconds",
                "For how long the oldest change waits to be looked at, or is being looked at; 0 if none does.",
            )?,
            failures: gauges("koinon_reconcile_consecutive_failures", "Looks in a row in which something failed.")?,
            tracks: Arc::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Part, Weak<Mutex<Track>>>> {
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Loops {
    fn desc(&self) -> Vec<&Desc> {
        [self.oldest.desc(), self.failures.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.oldest.reset();
        self.failures.reset();
        for (part, track) in self.lock().iter() {
            let Some(track) = track.upgrade() else { continue };
            let track = locked(&track);
            let age = |since: Option<Instant>| since.map_or(0.0, |since| since.elapsed().as_secs_f64());
            self.oldest.with_label_values(&[part.as_str()]).set(age(track.waits).max(age(track.began)));
            self.failures.with_label_values(&[part.as_str()]).set(track.failures.into());
        }
        [self.oldest.collect(), self.failures.collect()].concat()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::{Registry, TextEncoder};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_or_always_fails_shows_and_a_loop_that_is_gone_does_not() {
        let registry = Registry::new();
        let passes = Passes::register(&Registrar::new(&registry)).unwrap();
        let scrape = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let figure = |name: &str| {
            let line = format!("koinon_reconcile_{name} ");
            scrape().lines().find_map(|found| found.strip_prefix(&line)?.parse::<f64>().ok())
        };
        let (oldest, failures) =
            ("oldest_item_seconds{controller=\"jobs\"}", "consecutive_failures{controller=\"jobs\"}");
        assert_eq!(
            figure("total{controller=\"jobs\",result=\"error\"}"),
            Some(0.0),
            "a counter is there before its event"
        );
        assert_eq!(figure(oldest), None, "no loop, no figure");
        let jobs = passes.of(Part::Jobs);
        assert_eq!(figure(oldest), Some(0.0));
        jobs.waits();
        tokio::time::advance(Duration::from_secs(5)).await;
        jobs.waits();
        assert_eq!(figure(oldest), Some(5.0), "of what waits longest");
        for round in 1..=2 {
            jobs.begins();
            tokio::time::advance(Duration::from_secs(7)).await;
            assert_eq!(figure(oldest), Some(7.0));
            passes.failed(Part::Jobs);
            passes.failed(Part::Pools);
            jobs.ends();
            jobs.ends();
            assert_eq!((figure(failures), figure(oldest)), (Some(f64::from(round)), Some(0.0)));
        }
        jobs.begins();
        jobs.ends();
        assert_eq!(figure(failures), Some(0.0));
        assert_eq!(figure("total{controller=\"jobs\",result=\"error\"}"), Some(2.0));
        assert_eq!(figure("duration_seconds_sum{controller=\"jobs\"}"), Some(14.0));
        drop(jobs);
        assert_eq!(figure(oldest), None);
    }
}
