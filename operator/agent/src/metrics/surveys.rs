//! How surveys go.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use koinon_telemetry::{Kind, Registrar};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, IntCounterVec, IntGauge};

use super::counters::float;
use super::family::{Family, Sample, desc, gathered};
use crate::events::{Counts, KernelLogState};
use crate::survey::{Failure, Survey, WatchState};

/// Most functions and codes that are told apart.
const MAX_ERROR_SERIES: usize = 64;

static NVML_UP: Family = Family {
    name: "koinon_agent_nvml_up",
    kind: Kind::Gauge,
    labels: &["reason"],
    help: "1 if the last survey reached NVML, 0 with the reason if not.",
};
static LAST_SUCCESS: Family = Family {
    name: "koinon_agent_last_success_timestamp_seconds",
    kind: Kind::Gauge,
    labels: &[],
    help: "When a survey last reached NVML, in Unix time; absent before the first.",
};
static LIBRARY: Family = Family {
    name: "koinon_agent_nvml_library_info",
    kind: Kind::Gauge,
    labels: &["path", "sha256"],
    help: "Always 1; the labels say which file answered as NVML.",
};
static EVENTS_HEARD: Family = Family {
    name: "koinon_agent_driver_events_heard",
    kind: Kind::Gauge,
    labels: &[],
    help: "1 while the driver's events are heard between surveys.",
};
static KERNEL_LOG: Family = Family {
    name: "koinon_agent_kernel_log_readable",
    kind: Kind::Gauge,
    labels: &[],
    help: "1 while the kernel's log is read for errors of GPUs; absent unless it was asked for.",
};
static LOST_RECORDS: Family = Family {
    name: "koinon_agent_kernel_log_lost_records_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Records that the kernel overwrote before they were read; absent unless its log was asked for.",
};
static DROPPED: Family = Family {
    name: "koinon_agent_xid_events_dropped_total",
    kind: Kind::Counter,
    labels: &[],
    help: "XIDs beyond NVIDIA's catalogue for which there was no place.",
};
static FAMILIES: [&Family; 7] =
    [&NVML_UP, &LAST_SUCCESS, &LIBRARY, &EVENTS_HEARD, &KERNEL_LOG, &LOST_RECORDS, &DROPPED];

fn kind(name: &str) -> Kind {
    FAMILIES.iter().find(|family| family.name == name).map_or(Kind::Gauge, |family| family.kind)
}

/// What a survey came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Every device said who it is.
    Ok,
    /// NVML counted more devices than said who they are.
    Partial,
    /// No answer in time.
    Timeout,
    /// Any other failure.
    Error,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Ok, Self::Partial, Self::Timeout, Self::Error];

    fn of(survey: &Survey) -> Self {
        match survey.failure() {
            Some(Failure::Hung | Failure::Unresponsive) => Self::Timeout,
            Some(_) => Self::Error,
            None if survey.lost_unidentified > 0 || survey.other_unidentified > 0 => Self::Partial,
            None => Self::Ok,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partial => "partial",
            Self::Timeout => "timeout",
            Self::Error => "error",
        }
    }
}

/// The file that was loaded as NVML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryFile {
    /// Where it was found.
    pub path: String,
    /// Its digest, as lower case hex digits.
    pub sha256: String,
}

/// The metrics of surveys. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct SurveyMetrics {
    results: IntCounterVec,
    failures: IntCounterVec,
    errors: IntCounterVec,
    /// Those of the errors that have a series of their own.
    told: Arc<Mutex<BTreeSet<(String, u32)>>>,
    seconds: Histogram,
    stuck: IntGauge,
    standing: Standing,
}

impl SurveyMetrics {
    pub(super) fn register(new: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            results: new.counters("koinon_agent_surveys_total", "Surveys, by what came of them.", &["result"])?,
            failures: new.counters(
                "koinon_agent_survey_failures_total",
                "Surveys that found nothing out, by why.",
                &["reason"],
            )?,
            errors: new.counters(
                "koinon_agent_nvml_errors_total",
                "Errors that NVML's functions returned, by return code; that something is not supported or not there is none.",
                &["symbol", "code"],
            )?,
            told: Arc::default(),
            seconds: new.histogram(
                "koinon_agent_survey_duration_seconds",
                "How long surveys took, those that failed included.",
                vec![0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0],
            )?,
            stuck: new.gauge(
                "koinon_agent_nvml_stuck_workers",
                "Surveying processes that hang in the driver and did not end when killed.",
            )?,
            standing: new.keep(Standing::new()?, kind)?,
        };
        for outcome in Outcome::ALL {
            metrics.results.with_label_values(&[outcome.as_str()]);
        }
        for failure in Failure::ALL {
            metrics.failures.with_label_values(&[failure.name()]);
        }
        Ok(metrics)
    }

    pub(super) fn surveyed(&self, survey: &Survey, took: Duration, stuck: usize, unix_seconds: i64) {
        self.seconds.observe(took.as_secs_f64());
        self.stuck.set(i64::try_from(stuck).unwrap_or(i64::MAX));
        self.results.with_label_values(&[Outcome::of(survey).as_str()]).inc();
        let failure = survey.failure();
        if let Some(failure) = failure {
            self.failures.with_label_values(&[failure.name()]).inc();
        }
        for error in &survey.errors {
            self.returned(&error.symbol, error.code, error.count);
        }
        self.standing.change(|known| {
            known.surveyed = Some(failure);
            if failure.is_none() {
                known.last_success = Some(unix_seconds);
            }
        });
    }

    /// Whatever a driver returns over the years, the series stay few.
    fn returned(&self, symbol: &str, code: u32, count: u32) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (symbol.to_owned(), code);
        let own = told.contains(&key) || (told.len() < MAX_ERROR_SERIES && told.insert(key));
        let code = code.to_string();
        let labels = if own { [symbol, code.as_str()] } else { ["other", "other"] };
        self.errors.with_label_values(&labels).inc_by(count.into());
    }

    pub(super) fn listening(&self, watch: &WatchState, kernel_log: &KernelLogState, counts: Counts) {
        let listening = matches!(watch, WatchState::Listening { .. });
        let kernel_log = (*kernel_log != KernelLogState::NotAsked).then(|| *kernel_log == KernelLogState::Reading);
        self.standing.change(|known| known.hearing = Some(Hearing { listening, kernel_log, counts }));
    }

    pub(super) fn library(&self, file: Option<&LibraryFile>) {
        self.standing.change(|known| known.library = file.cloned());
    }
}

#[derive(Debug)]
struct Hearing {
    listening: bool,
    /// None where nobody asked for the kernel's log.
    kernel_log: Option<bool>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Known {
    hearing: Option<Hearing>,
    /// None before the first survey: unknown is not down.
    surveyed: Option<Option<Failure>>,
    last_success: Option<i64>,
    library: Option<LibraryFile>,
}

/// Series whose labels change as a whole, so that no scrape sees one gone and the next not yet there.
#[derive(Clone, Debug)]
struct Standing {
    descs: Arc<[Desc]>,
    known: Arc<Mutex<Known>>,
}

impl Standing {
    fn new() -> Result<Self, prometheus::Error> {
        let descs = FAMILIES.iter().map(|family| desc(family)).collect::<Result<Arc<[Desc]>, _>>()?;
        Ok(Self { descs, known: Arc::default() })
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Collector for Standing {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut samples = Vec::new();
        self.change(|known| {
            if let Some(failure) = known.surveyed {
                let (reason, up) = failure.map_or(("Available", 1.0), |failure| (failure.name(), 0.0));
                samples.push(Sample::new(&NVML_UP, &[reason], up));
            }
            if let Some(seconds) = known.last_success {
                // A double holds every second of the next millions of years.
                #[allow(clippy::cast_precision_loss)]
                samples.push(Sample::new(&LAST_SUCCESS, &[], seconds as f64));
            }
            if let Some(Hearing { listening, kernel_log, counts }) = &known.hearing {
                samples.push(Sample::new(&EVENTS_HEARD, &[], f64::from(u8::from(*listening))));
                samples.push(Sample::new(&DROPPED, &[], float(counts.dropped)));
                if let Some(reading) = kernel_log {
                    samples.push(Sample::new(&KERNEL_LOG, &[], f64::from(u8::from(*reading))));
                    samples.push(Sample::new(&LOST_RECORDS, &[], float(counts.lost_records)));
                }
            }
            if let Some(LibraryFile { path, sha256 }) = &known.library {
                samples.push(Sample::new(&LIBRARY, &[path, sha256], 1.0));
            }
        });
        gathered(samples)
    }
}
