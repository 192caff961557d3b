//! Visits every state of the small cooperatives, with every promise kept and with each of them broken.
//!
//! `explore` runs all of it; `explore NAME` one scenario, `explore NAME PROMISE` one scenario without one promise.

use std::time::Instant;

use koinon_core::sealing::{Promise, Promises};
use koinon_sim::explore::{Report, Scenario, explore, scenarios};

/// More states than any of them has: none is left half visited unnoticed.
const LIMIT: usize = 5_000_000;

fn run(scenario: &Scenario, promises: Promises) -> Report {
    let began = Instant::now();
    let report = explore(scenario, promises, LIMIT);
    let (seconds, all) = (began.elapsed().as_secs_f32(), if report.complete { "" } else { ", not all" });
    println!(
        "{}: {} states{all}, {} replicas, {seconds:.1} s: {}",
        scenario.name, report.states, report.replicas, scenario.what
    );
    let enacted: Vec<String> = report.enacted.iter().map(|(name, term)| format!("{name} in term {term}")).collect();
    println!("  enacted somewhere: {}", enacted.join(", "));
    if let Some(trace) = &report.violation {
        println!("{trace}");
    }
    report
}

fn table() {
    println!("\nwithout a promise, the shortest way to what it prevents\n");
    let mut rows = Vec::new();
    for (promise, scenario) in scenarios::broken() {
        println!("without {promise:?}");
        let report = run(&scenario, Promises::all_but(promise));
        let found = report.violation.map_or_else(
            || "nothing: everybody checks it too".to_owned(),
            |trace| format!("{} after {} steps", trace.broken, trace.steps.len()),
        );
        rows.push(format!("| {promise:?} | {} | {found} |", scenario.name));
    }
    println!("\n| promise | scenario | found without it |\n|---|---|---|\n{}", rows.join("\n"));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |scenario: &Scenario| arguments.first().is_none_or(|name| name == scenario.name);
    let broken =
        Promise::ALL.into_iter().find(|promise| arguments.get(1).is_some_and(|name| *name == format!("{promise:?}")));
    let promises = broken.map_or(Promises::KEPT, Promises::all_but);
    for scenario in scenarios::small().into_iter().chain(scenarios::large()).filter(wanted) {
        run(&scenario, promises);
    }
    if arguments.is_empty() {
        table();
    }
}
