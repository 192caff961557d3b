//! What is told of surveys.

use std::time::Duration;

use koinon_core::gpu::device::Taken;
use koinon_core::ids::UnixMicros;
use prometheus::{Registry, TextEncoder};

use super::super::{DcgmNames, LibraryFile, Metrics};
use super::{series, value};
use crate::events::{Counts, KernelLogState};
use crate::survey::{CallErrors, Failure, Nvml, Survey, WatchState};

#[test]
fn how_surveys_go_is_told_by_result_and_reason() {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry, DcgmNames::Off).unwrap();
    let scrape = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let before = scrape();
    assert!(!before.contains("koinon_agent_nvml_up") && !before.contains("koinon_agent_last_success"), "{before}");
    assert_eq!(before.matches("koinon_agent_survey_failures_total{").count(), Failure::ALL.len());
    assert_eq!(before.matches("koinon_agent_surveys_total{").count(), 4);

    let taken = Taken { at: UnixMicros(0), uptime_milliseconds: 0 };
    let failed = Survey::failed(taken, Failure::Hung, None, "");
    metrics.surveyed(&failed, Duration::from_secs(10), 1, 100);
    let text = scrape();
    assert_eq!(value(&text, "koinon_agent_nvml_up", &["Hung"]), Some(0.0));
    assert_eq!(value(&text, "koinon_agent_surveys_total", &["timeout"]), Some(1.0));
    assert_eq!(value(&text, "koinon_agent_nvml_stuck_workers", &[]), Some(1.0));
    assert!(!text.contains("koinon_agent_last_success"), "a success that never was is absent");

    let found = Survey { nvml: Nvml::Available, other_unidentified: 1, ..failed };
    metrics.surveyed(&found, Duration::from_millis(20), 0, 110);
    let counts = Counts { dropped: 3, lost_records: 4 };
    metrics.listening(&WatchState::default(), &KernelLogState::NotAsked, counts);
    assert!(!scrape().contains("koinon_agent_kernel_log"), "nobody asked for it");
    metrics.listening(&WatchState::default(), &KernelLogState::Reading, counts);
    let text = scrape();
    assert_eq!(value(&text, "koinon_agent_driver_events_heard", &[]), Some(0.0));
    assert_eq!(value(&text, "koinon_agent_kernel_log_readable", &[]), Some(1.0));
    assert_eq!(value(&text, "koinon_agent_kernel_log_lost_records_total", &[]), Some(4.0));
    assert_eq!(value(&text, "koinon_agent_xid_events_dropped_total", &[]), Some(3.0));
    let file = LibraryFile { path: "/lib/libnvidia-ml.so.1".to_owned(), sha256: "ab".repeat(32) };
    metrics.library(Some(&file));
    let text = scrape();
    assert_eq!(value(&text, "koinon_agent_nvml_up", &["Available"]), Some(1.0));
    assert_eq!(text.matches("koinon_agent_nvml_up{").count(), 1, "only what holds");
    assert_eq!(value(&text, "koinon_agent_surveys_total", &["partial"]), Some(1.0));
    assert_eq!(value(&text, "koinon_agent_last_success_timestamp_seconds", &[]), Some(110.0));
    assert_eq!(value(&text, "koinon_agent_nvml_library_info", &["/lib/libnvidia-ml.so.1", "abab"]), Some(1.0));
    assert!(series(&text).iter().all(|line| line.starts_with("koinon_")));
}

#[test]
fn errors_of_the_driver_are_counted_by_function_and_code_in_few_series() {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry, DcgmNames::Off).unwrap();
    let taken = Taken { at: UnixMicros(0), uptime_milliseconds: 0 };
    let error = |symbol: &str, code| CallErrors { symbol: symbol.to_owned(), code, count: 2 };
    let survey = |errors| Survey { nvml: Nvml::Available, errors, ..Survey::failed(taken, Failure::Hung, None, "") };
    let lost = survey(vec![error("nvmlDeviceGetMemoryInfo_v2", 15)]);
    for _ in 0..2 {
        metrics.surveyed(&lost, Duration::ZERO, 0, 100);
    }
    metrics.surveyed(&survey((0..100).map(|code| error("nvmlDeviceGetUUID", code)).collect()), Duration::ZERO, 0, 110);
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let name = "koinon_agent_nvml_errors_total";
    assert_eq!(value(&text, name, &["nvmlDeviceGetMemoryInfo_v2", "15"]), Some(4.0));
    assert_eq!(value(&text, name, &["other"]), Some(74.0));
    assert_eq!(text.matches("koinon_agent_nvml_errors_total{").count(), 65);
}
