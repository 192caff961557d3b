//! Visits every state of the small cooperatives, with every promise kept and with each of them broken.
//!
//! `explore NAME` visits one scenario, `explore NAME PROMISE` the same without one promise, `explore table` what each promise
//! prevents. One at a time: the largest take some GiB of memory.

use std::process::ExitCode;
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
        let found = match (&report.violation, report.complete) {
            (Some(trace), _) => format!("{} after {} steps", trace.broken, trace.steps.len()),
            (None, true) => "nothing: everybody checks it too".to_owned(),
            (None, false) => format!("nothing in the first {} states", report.states),
        };
        rows.push(format!("| {promise:?} | {} | {found} |", scenario.name));
    }
    println!("\n| promise | scenario | found without it |\n|---|---|---|\n{}", rows.join("\n"));
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let all = || scenarios::small().into_iter().chain(scenarios::large());
    let named = |name: &str| all().find(|scenario| scenario.name == name);
    let broken = |name: &str| Promise::ALL.into_iter().find(|promise| format!("{promise:?}") == name);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let found = match arguments[..] {
        ["table"] => {
            table();
            return ExitCode::SUCCESS;
        }
        [name] => named(name).map(|scenario| (scenario, Promises::KEPT)),
        [name, promise] => named(name).zip(broken(promise).map(Promises::all_but)),
        _ => None,
    };
    let Some((scenario, promises)) = found else {
        eprintln!("usage: explore table | SCENARIO [PROMISE]\n\nscenarios:");
        all().for_each(|scenario| eprintln!("  {:<20} {}", scenario.name, scenario.what));
        eprintln!("promises: {:?}", Promise::ALL);
        return ExitCode::FAILURE;
    };
    let report = run(&scenario, promises);
    // A state that must not be reached ends it with an error, unless a promise was broken to find one.
    if promises == Promises::KEPT && report.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
