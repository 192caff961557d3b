//! Checks of alerts and dashboards: Prometheus' own, and that they speak of what exists. A metric that is misspelt, or that a
//! release renamed, is no error for Prometheus: it is silent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use koinon_e2e::command;
use koinon_e2e::toolchain::checkout;
use serde_json::Value;

use crate::promql::{Named, named};
use crate::test::Tally;

/// Labels that Prometheus gives to every series, by how it found the process.
const OF_TARGETS: [&str; 6] = ["instance", "job", "namespace", "pod", "node", "service"];
/// How urgent an alert is: somebody gets up, somebody looks during the day, the board talks about it.
const SEVERITIES: [&str; 3] = ["page", "ticket", "board"];

/// Runs every check and counts it as a test.
pub fn check(tally: &mut Tally, promtool: &Path) -> Result<()> {
    let files = rule_files()?;
    ensure!(files.len() > 1, "charts/koinon/rules has {} files of alerts", files.len());
    let metrics = Metrics::read()?;
    for file in &files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let run = |args: [&str; 3]| {
            command::run(Command::new(promtool).current_dir(charts().join("rules")).args(args)).map(drop)
        };
        tally.record(
            &format!("charts::rules::{name}::prometheus_reads_every_alert"),
            run(["check", "rules", &format!("{name}.yaml")]),
        );
        tally.record(
            &format!("charts::rules::{name}::alerts_fire_when_they_should"),
            run(["test", "rules", &format!("{name}_test.yaml")]),
        );
        let alerts = alerts(file)?;
        tally.record(&format!("charts::rules::{name}::every_alert_says_what_to_do"), all(&alerts, says_what_to_do));
        tally.record(
            &format!("charts::rules::{name}::every_alert_is_tried_firing_and_silent"),
            tests(file).and_then(|tests| all(&alerts, |alert| tried(alert, &tests))),
        );
        tally.record(
            &format!("charts::rules::{name}::every_alert_speaks_of_metrics_that_exist"),
            all(&alerts, |alert| metrics.known(&alert.expr).and_then(|()| metrics.told(alert))),
        );
    }
    tally.record("charts::runbooks::every_page_is_an_alerts", no_page_is_left_over(&files));
    for dashboard in files_in(&charts().join("dashboards"), "json")? {
        let name = dashboard.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let exprs = expressions(&dashboard);
        let known = exprs.and_then(|exprs| {
            prometheus_reads(promtool, &exprs)?;
            exprs.iter().try_for_each(|expr| metrics.known(expr))
        });
        tally.record(&format!("charts::dashboards::{name}::every_panel_shows_metrics_that_exist"), known);
        tally.record(
            &format!("charts::dashboards::{name}::every_legend_names_a_label"),
            legends(&dashboard)
                .and_then(|legends| legends.iter().try_for_each(|(expr, label)| metrics.has(&named(expr), label))),
        );
    }
    Ok(())
}

fn charts() -> PathBuf {
    checkout().join("charts/koinon")
}

fn files_in(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    ensure!(!files.is_empty(), "{} has no .{extension} files", folder.display());
    Ok(files)
}

/// The files of alerts; those that try them are beside them.
fn rule_files() -> Result<Vec<PathBuf>> {
    let mut files = files_in(&charts().join("rules"), "yaml")?;
    files.retain(|path| !path.to_string_lossy().ends_with("_test.yaml"));
    Ok(files)
}

/// One rule that alerts.
#[derive(Debug, Default)]
struct Alert {
    name: String,
    expr: String,
    severity: String,
    annotations: BTreeMap<String, String>,
}

fn alerts(file: &Path) -> Result<Vec<Alert>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let parsed: Value = serde_yaml::from_str(&text).with_context(|| format!("reading {} as YAML", file.display()))?;
    let rules = items(&parsed["groups"]).flat_map(|group| items(&group["rules"]));
    let alerts: Vec<Alert> = rules
        .map(|rule| Alert {
            name: text_of(&rule["alert"]),
            expr: text_of(&rule["expr"]),
            severity: text_of(&rule["labels"]["severity"]),
            annotations: rule["annotations"]
                .as_object()
                .map(|all| all.iter().map(|(name, text)| (name.clone(), text_of(text))).collect())
                .unwrap_or_default(),
        })
        .collect();
    ensure!(!alerts.is_empty(), "{} has no alerts", file.display());
    Ok(alerts)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn all(alerts: &[Alert], check: impl Fn(&Alert) -> Result<()>) -> Result<()> {
    alerts.iter().try_for_each(|alert| check(alert).with_context(|| format!("alert {}", alert.name)))
}

fn says_what_to_do(alert: &Alert) -> Result<()> {
    ensure!(alert.name.starts_with("Koinon"), "its name does not begin with Koinon");
    ensure!(SEVERITIES.contains(&alert.severity.as_str()), "its severity {:?} is none", alert.severity);
    for annotation in ["summary", "runbook"] {
        let said = alert.annotations.get(annotation).map(String::as_str).unwrap_or_default();
        ensure!(!said.trim().is_empty(), "it has no {annotation}");
    }
    let page = page_of(&alert.name);
    let url = alert.annotations.get("runbook_url").map(String::as_str).unwrap_or_default();
    ensure!(url == page, "its runbook_url is {url:?}, not {page}");
    let text = fs::read_to_string(checkout().join(&page)).with_context(|| format!("reading {page}"))?;
    ensure!(text.starts_with(&format!("# {}\n", alert.name)), "{page} is not headed by its name");
    for heading in ["## What it means", "## What is felt", "## How to check", "## What to do", "## When to escalate"] {
        let section = text.split(heading).nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap_or_default();
        ensure!(!section.trim().is_empty(), "{page} says nothing under {heading:?}");
    }
    Ok(())
}

fn page_of(alert: &str) -> String {
    format!("charts/koinon/runbooks/{alert}.md")
}

fn no_page_is_left_over(files: &[PathBuf]) -> Result<()> {
    let mut names = BTreeSet::new();
    for file in files {
        names.extend(alerts(file)?.into_iter().map(|alert| page_of(&alert.name)));
    }
    for page in files_in(&charts().join("runbooks"), "md")? {
        let page = page.strip_prefix(checkout())?.to_string_lossy().into_owned();
        ensure!(names.contains(&page), "{page} is no alert's");
    }
    Ok(())
}

/// What `promtool` is asked to find at one time.
#[derive(Debug)]
struct Try {
    expr: String,
    found: usize,
    series: usize,
}

fn tests(file: &Path) -> Result<Vec<Try>> {
    let path = file.with_file_name(format!("{}_test.yaml", file.file_stem().unwrap_or_default().to_string_lossy()));
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let parsed: Value = serde_yaml::from_str(&text).with_context(|| format!("reading {} as YAML", path.display()))?;
    let tries = items(&parsed["tests"]).flat_map(|test| {
        let series = items(&test["input_series"]).count();
        items(&test["promql_expr_test"]).map(move |one| Try {
            expr: text_of(&one["expr"]),
            found: items(&one["exp_samples"]).count(),
            series,
        })
    });
    Ok(tries.collect())
}

/// Silence is tried by a time at which nothing fires, or by series beside those that fire: what is found is compared as a whole.
fn tried(alert: &Alert, tests: &[Try]) -> Result<()> {
    let name = format!("alertname=\"{}\"", alert.name);
    let mine: Vec<&Try> = tests.iter().filter(|one| one.expr.contains(&name)).collect();
    ensure!(mine.iter().any(|one| one.found > 0), "no test lets it fire");
    ensure!(mine.iter().any(|one| one.found == 0 || one.series > one.found), "no test leaves it silent");
    Ok(())
}

/// The list of metrics that the code makes: `operator/koinon/tests/metrics.rs` holds it against the code.
struct Metrics {
    labels: BTreeMap<String, BTreeSet<String>>,
}

impl Metrics {
    fn read() -> Result<Self> {
        let path = charts().join("metrics.tsv");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut metrics = Self { labels: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut columns = line.split('\t');
            let (name, kind) = (columns.next().unwrap_or_default(), columns.next().unwrap_or_default());
            let labels = columns.next().unwrap_or_default().split(',').filter(|label| !label.is_empty());
            let mut labels: BTreeSet<String> = labels.map(str::to_owned).collect();
            if kind == "histogram" {
                for suffix in ["_sum", "_count"] {
                    metrics.labels.insert(format!("{name}{suffix}"), labels.clone());
                }
                labels.insert("le".to_owned());
                metrics.labels.insert(format!("{name}_bucket"), labels);
            } else {
                metrics.labels.insert(name.to_owned(), labels);
            }
        }
        ensure!(metrics.labels.len() > 100, "{} lists {} metrics", path.display(), metrics.labels.len());
        Ok(metrics)
    }

    /// Fails unless every metric and every label in an expression exists.
    fn known(&self, expr: &str) -> Result<()> {
        let named = named(expr);
        ensure!(!named.metrics.is_empty(), "{expr:?} names no metric");
        for (metric, selected) in &named.metrics {
            let Some(labels) = self.labels.get(metric) else { bail!("there is no metric {metric}, in {expr:?}") };
            for label in selected {
                let exists = labels.contains(label) || OF_TARGETS.contains(&label.as_str());
                ensure!(exists, "{metric} has no label {label}, in {expr:?}");
            }
        }
        named.grouped.iter().try_for_each(|label| self.has(&named, label))
    }

    /// Fails unless some metric of the expression has the label.
    fn has(&self, named: &Named, label: &str) -> Result<()> {
        let mut labels = named.metrics.keys().filter_map(|metric| self.labels.get(metric));
        let exists = OF_TARGETS.contains(&label) || labels.any(|labels| labels.contains(label));
        ensure!(exists, "none of {:?} has a label {label}", named.metrics.keys());
        Ok(())
    }

    /// Fails unless the labels in an alert's texts exist.
    fn told(&self, alert: &Alert) -> Result<()> {
        let named = named(&alert.expr);
        for text in alert.annotations.values() {
            for rest in text.split("$labels.").skip(1) {
                let end = rest.find(|one: char| !one.is_ascii_alphanumeric() && one != '_').unwrap_or(rest.len());
                self.has(&named, &rest[..end])?;
            }
        }
        Ok(())
    }
}

fn dashboard(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {} as JSON", path.display()))
}

/// As a panel's query, with what Grafana would fill in.
fn filled(expr: &str) -> String {
    expr.replace("$__rate_interval", "5m").replace("$__range", "1h")
}

fn targets(dashboard: &Value) -> impl Iterator<Item = (String, String)> {
    let targets = items(&dashboard["panels"]).flat_map(|panel| items(&panel["targets"]));
    targets.map(|target| (filled(&text_of(&target["expr"])), text_of(&target["legendFormat"])))
}

/// Every query of a dashboard: of its panels, and of its variables.
fn expressions(path: &Path) -> Result<Vec<String>> {
    let dashboard = dashboard(path)?;
    for field in ["uid", "title"] {
        ensure!(!text_of(&dashboard[field]).is_empty(), "{} has no {field}", path.display());
    }
    let mut all: Vec<String> = targets(&dashboard).map(|(expr, _)| expr).collect();
    ensure!(all.len() > 10, "{} has {} queries", path.display(), all.len());
    for variable in items(&dashboard["templating"]["list"]).filter(|variable| variable["type"] == "query") {
        let query = text_of(&variable["query"]["query"]);
        let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (metric, label) =
            inner.and_then(|inner| inner.rsplit_once(", ")).context("a variable is no label_values")?;
        all.push(format!("count by ({label}) ({metric})"));
    }
    Ok(all)
}

/// Each label that a legend shows, with the query that it belongs to.
fn legends(path: &Path) -> Result<Vec<(String, String)>> {
    let dashboard = dashboard(path)?;
    let of_one = |(expr, legend): (String, String)| {
        let labels = legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next().map(str::to_owned));
        labels.map(|label| (expr.clone(), label)).collect::<Vec<_>>()
    };
    let found: Vec<_> = targets(&dashboard).flat_map(of_one).collect();
    ensure!(!found.is_empty(), "{} has no legends", path.display());
    Ok(found)
}

/// Lets Prometheus' own parser read the queries, as rules that would record them.
fn prometheus_reads(promtool: &Path, exprs: &[String]) -> Result<()> {
    let rule = |(at, expr): (usize, &String)| serde_json::json!({"record": format!("check:{at}"), "expr": expr});
    let rules: Vec<Value> = exprs.iter().enumerate().map(rule).collect();
    let file = tempfile::NamedTempFile::new().context("making a temporary file")?;
    fs::write(file.path(), serde_json::json!({"groups": [{"name": "check", "rules": rules}]}).to_string())?;
    command::run(Command::new(promtool).args(["check", "rules"]).arg(file.path())).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::read().unwrap()
    }

    #[test]
    fn a_metric_or_label_that_does_not_exist_is_found() {
        let known = |expr: &str| metrics().known(expr);
        known("max by (pod, member) (koinon_peer_up{member=\"bilbao\"}) == 0").unwrap();
        known("histogram_quantile(0.9, sum by (le) (rate(koinon_agent_survey_duration_seconds_bucket[5m])))").unwrap();
        for wrong in [
            "koinon_peer_upp == 0",
            "koinon_peer_up{peer=\"bilbao\"} == 0",
            "max by (peer) (koinon_peer_up) == 0",
            "rate(koinon_agent_survey_duration_seconds[5m])",
            "vector(1)",
        ] {
            assert!(known(wrong).is_err(), "{wrong}");
        }
        let text = "{{ $labels.peer }} is gone".to_owned();
        let alert = Alert {
            expr: "koinon_peer_up".to_owned(),
            annotations: [("summary".to_owned(), text)].into(),
            ..Alert::default()
        };
        assert!(metrics().told(&alert).is_err());
    }

    #[test]
    fn an_alert_that_only_fires_or_never_does_is_not_tried() {
        let alert = Alert { name: "KoinonA".to_owned(), ..Alert::default() };
        let one = |found, series| Try { expr: "ALERTS{alertname=\"KoinonA\"}".to_owned(), found, series };
        assert!(tried(&alert, &[one(1, 1)]).is_err(), "never silent");
        assert!(tried(&alert, &[one(0, 1)]).is_err(), "never firing");
        assert!(tried(&alert, &[one(1, 1), one(0, 1)]).is_ok() && tried(&alert, &[one(1, 2)]).is_ok());
    }
}
