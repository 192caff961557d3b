//! Runs seeds of the simulation: `simulate --seeds 0..20000`, or one of them with `--seed 123 --trace`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use koinon_core::sealing::Promise;
use koinon_sim::simulation::{Options, Report, run};

const USAGE: &str = "usage: simulate (--seed N | --seeds A..B) [--members N] [--class NAME] [--without PROMISE] \
                     [--too-many] [--trace]";

struct Asked {
    seeds: std::ops::Range<u64>,
    options: Options,
}

fn read(mut words: impl Iterator<Item = String>) -> Option<Asked> {
    let mut asked = Asked { seeds: 0..1000, options: Options::default() };
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
            "--members" => asked.options.members = Some(words.next()?.parse().ok()?),
            "--class" => asked.options.class = Some(words.next()?.parse().ok()?),
            "--without" => {
                let name = words.next()?;
                asked.options.without = Some(Promise::ALL.into_iter().find(|p| format!("{p:?}") == name)?);
            }
            "--too-many" => asked.options.too_many = true,
            "--trace" => asked.options.trace = true,
            _ => return None,
        }
    }
    Some(asked)
}

fn main() -> ExitCode {
    let Some(asked) = read(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let (next, options) = (AtomicU64::new(asked.seeds.start), asked.options);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let report = std::thread::scope(|scope| {
        let work = || {
            let mut report = Report::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= asked.seeds.end {
                    return report;
                }
                let run = run(seed, &options);
                for violation in &run.violations {
                    println!("seed {seed} ({}, {} members): {violation}", run.plan.class, run.plan.members);
                }
                report.add(&run);
            }
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut all = Report::default();
        threads.into_iter().filter_map(|thread| thread.join().ok()).for_each(|report| all.merge(&report));
        all
    });
    print!("{report}");
    if report.violating() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
