//! Runs seeds of the GPUs' simulation: `capacity --seeds 0..2000`, or one of them with `--seed 123 --trace`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use koinon_sim::capacity::{Fault, Options, Report, run};

const USAGE: &str = "\
usage: capacity (--seed N | --seeds A..B) [--faults none|all|NAME,NAME] [--minutes N] [--first] [--shrink] [--trace]

Runs the GPUs of one made-up member, checks the invariants after every step, and prints a table.
  --faults   instead of what each seed says
  --minutes  of the run's own time; 40 unless said
  --first    stop at the first seed that breaks a rule
  --shrink   of a seed that breaks a rule, leave out every fault that it does not need
  --trace    print what happens, and what the rules are applied to";

struct Asked {
    seeds: std::ops::Range<u64>,
    options: Options,
    first: bool,
    shrink: bool,
}

fn faults(text: &str) -> Option<BTreeSet<Fault>> {
    match text {
        "none" => Some(BTreeSet::new()),
        "all" => Some(Fault::ALL.into()),
        some => some.split(',').map(|name| name.parse().ok()).collect(),
    }
}

fn read(mut words: impl Iterator<Item = String>) -> Option<Asked> {
    let mut asked = Asked { seeds: 0..200, options: Options::default(), first: false, shrink: false };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seed" => {
                let seed = words.next()?.parse().ok()?;
                asked.seeds = seed..seed + 1;
            }
            "--seeds" => {
                let (from, to) = words.next()?.split_once("..").map(|(a, b)| (a.to_owned(), b.to_owned()))?;
                asked.seeds = from.parse().ok()?..to.parse().ok()?;
            }
            "--faults" => asked.options.faults = Some(faults(&words.next()?)?),
            "--minutes" => asked.options.minutes = Some(words.next()?.parse().ok()?),
            "--first" => asked.first = true,
            "--shrink" => asked.shrink = true,
            "--trace" => asked.options.trace = true,
            _ => return None,
        }
    }
    Some(asked)
}

/// The faults without which the seed breaks no rule.
fn shrunk(seed: u64, options: &Options) -> BTreeSet<Fault> {
    let mut needed = run(seed, options).plan.faults;
    for fault in Fault::ALL {
        let mut fewer = needed.clone();
        let less = fewer.remove(&fault);
        let options = Options { faults: Some(fewer.clone()), trace: false, ..options.clone() };
        if less && !run(seed, &options).violations.is_empty() {
            needed = fewer;
        }
    }
    needed
}

fn main() -> ExitCode {
    let Some(asked) = read(std::env::args().skip(1)) else {
        let list: Vec<String> = Fault::ALL.iter().map(|fault| format!("{fault:?}")).collect();
        eprintln!("{USAGE}\nfaults: {}", list.join(", "));
        return ExitCode::from(2);
    };
    let mut report = Report::default();
    for seed in asked.seeds {
        let run = run(seed, &asked.options);
        for violation in &run.violations {
            println!("seed {seed} ({}): {violation}", run.plan.kind());
        }
        report.add(&run);
        if !run.violations.is_empty() {
            if asked.shrink {
                println!("seed {seed} needs {:?}", shrunk(seed, &asked.options));
            }
            if asked.first {
                println!("found with seed {seed}");
                break;
            }
        }
    }
    print!("{report}");
    if report.violating() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
