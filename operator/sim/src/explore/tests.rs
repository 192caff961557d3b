use koinon_core::sealing::{Promise, Promises};

use super::*;

/// More than any of them has.
const LIMIT: usize = 100_000;

fn visit(scenario: &Scenario, promises: Promises) -> Report {
    let report = explore(scenario, promises, LIMIT);
    eprintln!("{}: {} states, {} replicas", scenario.name, report.states, report.replicas);
    report
}

/// What is found without `promise` in `scenario`, and after how many steps; the fold must agree.
fn without(promise: Promise, scenario: &Scenario) -> Option<(Broken, usize)> {
    let report = visit(scenario, Promises::all_but(promise));
    assert!(report.complete || report.violation.is_some());
    report.violation.map(|trace| {
        assert!(trace.confirmed, "{trace}");
        (trace.broken, trace.steps.len())
    })
}

#[test]
fn with_every_promise_kept_nothing_is_reached_that_must_never_happen() {
    for scenario in scenarios::small() {
        let report = visit(&scenario, Promises::KEPT);
        assert!(report.violation.is_none(), "{}:\n{}", scenario.name, report.violation.unwrap());
        assert!(report.complete, "{}", scenario.name);
        assert!(!report.enacted.is_empty(), "nothing happens in {}", scenario.name);
    }
}

#[test]
fn a_member_that_forgets_what_it_has_signed_is_found_although_it_keeps_every_promise() {
    let report = visit(&scenarios::restored(false), Promises::KEPT);
    let trace = report.violation.unwrap();
    assert_eq!((trace.broken, trace.confirmed), (Broken::TwoChildren, true), "{trace}");
    assert!(trace.steps.iter().any(|step| step.contains("restored from a backup")), "{trace}");
}

#[test]
fn without_the_promise_after_a_resumption_a_slot_has_two_children() {
    assert_eq!(without(Promise::NothingOld, &scenarios::restored(true)), Some((Broken::TwoChildren, 9)));
}

#[test]
fn without_cancel_or_enact_a_cancelled_proposal_is_enacted() {
    assert_eq!(without(Promise::CancelOrEnact, &scenarios::cancellation()), Some((Broken::CancelledAndEnacted, 6)));
}

#[test]
fn without_no_shrink_a_box_is_enacted_beside_a_larger_one_that_was_vetoed() {
    assert_eq!(without(Promise::NoShrink, &scenarios::growing_box()), Some((Broken::TwoOutcomes, 6)));
}

#[test]
fn what_is_passed_over_changes_nothing() {
    for mut scenario in [scenarios::one_slot(), scenarios::restored(true)] {
        let less = visit(&scenario, Promises::KEPT);
        // Every replica is also built in another order here.
        (scenario.every_seal_counts, scenario.twice) = (true, true);
        let all = visit(&scenario, Promises::KEPT);
        assert!(all.replicas >= less.replicas && all.violation.is_none());
        assert_eq!((all.states, &all.enacted), (less.states, &less.enacted));
    }
}
