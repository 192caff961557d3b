//! The list of every metric that some part of Koinon can show, held against the code that makes them.
//!
//! Alerts and dashboards may name only what is in the list (`cargo xtask test --only charts`): a misspelt name would be silent.

#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, not their helpers.

use std::path::PathBuf;

use koinon_telemetry::Described;

/// Beside the alerts and dashboards that rest on it.
fn list() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../charts/koinon/metrics.tsv")
}

fn made() -> Vec<Described> {
    let parts = [
        koinon_telemetry::metrics::described().unwrap(),
        koinon_control::metrics::described().unwrap(),
        koinon_agent::metrics::described().unwrap(),
        koinon_gateway::metrics::described().unwrap(),
        koinon_weights::metrics::described().unwrap(),
    ];
    let mut all = parts.concat();
    all.sort();
    all
}

#[test]
fn the_list_of_metrics_is_what_the_code_makes() {
    let mut wanted =
        "# Every metric by name, kind and labels; made by the test of the same name in operator/koinon.\n".to_owned();
    for metric in made() {
        wanted += &format!("{metric}\n");
    }
    if std::env::var_os("KOINON_WRITE_METRICS").is_some() {
        std::fs::write(list(), &wanted).unwrap();
    }
    let found = std::fs::read_to_string(list()).unwrap_or_default();
    let missing: Vec<&str> = wanted.lines().filter(|line| !found.lines().any(|other| other == *line)).collect();
    let gone: Vec<&str> = found.lines().filter(|line| !wanted.lines().any(|other| other == *line)).collect();
    assert!(
        wanted == found,
        "{} is out of date: it lacks {missing:#?} and has {gone:#?}; run this test with KOINON_WRITE_METRICS=1",
        list().display()
    );
}

#[test]
fn every_metric_has_one_name_that_says_its_unit_and_kind() {
    let all = made();
    for metric in &all {
        let name = metric.name.as_str();
        assert!(name.starts_with("koinon_"), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind == koinon_telemetry::Kind::Counter, "{name}");
        assert!(!["_milliseconds", "_percent", "_megabytes", "_ms"].iter().any(|unit| name.ends_with(unit)), "{name}");
        // Nodes tell of their devices; what tells of the whole cooperative must not grow with its hardware.
        let of_a_device = metric.labels.iter().any(|label| label == "uuid");
        assert!(!of_a_device || name.starts_with("koinon_gpu_"), "{name}");
        assert!(metric.labels.iter().all(|label| !["pod", "user", "prompt", "le"].contains(&label.as_str())), "{name}");
    }
    let mut names: Vec<&str> = all.iter().map(|metric| metric.name.as_str()).collect();
    let before = names.len();
    names.dedup();
    assert_eq!(names.len(), before, "two parts show one metric");
    assert!(before > 100, "{before}");
}
