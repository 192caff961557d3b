//! The simulation in the small; `cargo run --release -p koinon-sim --example capacity` runs it in the large.

use super::*;

fn runs(seeds: std::ops::Range<u64>, faults: &[Fault], minutes: u32) -> Report {
    let options = Options { faults: Some(faults.iter().copied().collect()), minutes: Some(minutes), trace: false };
    let mut report = Report::default();
    for seed in seeds {
        let run = run(seed, &options);
        assert!(run.violations.is_empty(), "seed {seed} with {faults:?}: {:#?}", run.violations);
        report.add(&run);
    }
    report
}

#[test]
fn where_nothing_goes_wrong_nearly_all_that_is_idle_is_offered_and_everything_promised_is_fit() {
    let report = runs(0..4, &[], 15);
    assert!(report.lag().given > 10, "hardly anything was given:\n{report}");
    assert_eq!((report.lag().late, report.lag().freed, report.lag().broken), (0, 0, 0), "{report}");
    assert!(report.offered_per_mille() >= 900, "{report}");
}

/// A pod that is made again gets whatever its kubelet chooses, also a device that failed meanwhile.
#[test]
fn no_guest_stays_on_a_device_that_failed_for_longer_than_a_survey_and_two_passes_take() {
    let report = runs(0..6, &[Fault::Ailments], 40);
    assert!(report.lag().drained > 0, "nothing failed under a guest:\n{report}");
    assert!(report.lag().stay_most <= 15, "{report}");
}

#[test]
fn no_fault_alone_breaks_a_rule() {
    for fault in Fault::ALL {
        runs(1..2, &[fault], 15);
    }
}

#[test]
fn all_faults_at_once_break_no_rule() {
    let report = runs(100..106, &Fault::ALL, 20);
    assert!(report.lag().given > 0 && report.offered_per_mille() < 900, "nothing went wrong:\n{report}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let options = Options { minutes: Some(10), ..Options::default() };
    let [one, other] = [run(7, &options), run(7, &options)];
    assert_eq!((one.lag, one.offered), (other.lag, other.offered));
}
