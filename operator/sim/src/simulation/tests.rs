//! The simulation in the small; `cargo run --release -p koinon-sim --example simulate` runs it in the large.

use super::*;

#[test]
fn no_seed_breaks_a_rule() {
    let mut report = Report::default();
    for seed in 0..60 {
        let run = run(seed, &Options::default());
        assert!(run.violations.is_empty(), "seed {seed}: {:?}", run.violations);
        report.add(&run);
    }
    println!("{report}");
    assert!(report.count(Fate::Enacted) > 60, "hardly anything was decided:\n{report}");
}
