//! What counting, replaying and growing cost, always beside what verifying the same signatures costs in the same run:
//! seconds say something about a machine, ratios about the code.

// A bench that cannot make its history is a mistake in the bench.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group};
use koinon_core::log::{Limits, Replica};
use koinon_core::policy::{Commons, State};
use koinon_core::statement::Statement;
use koinon_core::testkit::history::{History, Until, history};

/// How often the shortest of several runs is looked for: others use the machine too.
const RUNS: usize = 5;

fn verify(statements: &[Statement]) {
    for statement in statements {
        black_box(statement.envelope().verify(statement.kind().max_payload()).unwrap());
    }
}

fn held(past: &History, entries: usize) -> Commons {
    Commons::load(past.founding.clone(), Limits::default(), past.entries[..entries].iter().cloned()).0
}

fn shortest(mut what: impl FnMut()) -> Duration {
    let run = |_| {
        let begun = Instant::now();
        what();
        begun.elapsed()
    };
    (0..RUNS).map(run).min().unwrap_or_default()
}

fn tell(what: &str, took: Duration, verifying: Duration) {
    println!(
        "{what:<44} {:>10.3} ms {:>8.3} x",
        took.as_secs_f64() * 1e3,
        took.as_secs_f64() / verifying.as_secs_f64()
    );
}

/// Ten thousand votes of a hundred members on a hundred proposals.
fn votes(criterion: &mut Criterion) {
    let past = history(100, 100 * 101, Until::Voted);
    let votes = &past.votes[..10_000];
    let (with, without) = (held(&past, past.entries.len()), held(&past, past.admitted));
    let fold = |commons: &Commons| drop(black_box(State::fold(&past.founding, commons.replica())));
    let verifying = shortest(|| verify(votes));
    tell("verify 10000 votes one by one", verifying, verifying);
    let counting = shortest(|| fold(&with)).saturating_sub(shortest(|| fold(&without)));
    tell("count them, beyond what was before them", counting, verifying);
    let speed = verifying.as_secs_f64() / (verifying + counting).as_secs_f64();
    println!("verifying and counting at {:.1} % of the speed of verifying", speed * 100.0);
    let mut group = criterion.benchmark_group("10000 votes");
    group.sample_size(10);
    group.bench_function("verify one by one", |b| b.iter(|| verify(votes)));
    group.bench_function("fold with them", |b| b.iter(|| fold(&with)));
    group.bench_function("fold without them", |b| b.iter(|| fold(&without)));
    group.finish();
}

/// A hundred thousand entries of ten members, from the beginning and one by one at the end.
fn replay(criterion: &mut Criterion) {
    let past = history(10, 100_100, Until::Enacted);
    let mut group = criterion.benchmark_group("replay");
    group.sample_size(10);
    for entries in [1_000, 10_000, 100_000] {
        let some = &past.entries[..entries];
        let verifying = shortest(|| verify(some));
        tell(&format!("verify {entries} entries one by one"), verifying, verifying);
        let storing = shortest(|| {
            let mut replica = Replica::new(&past.founding, Limits::default());
            some.iter().for_each(|entry| drop(black_box(replica.insert(entry.clone()))));
        });
        tell(&format!("store {entries} entries"), storing, verifying);
        let commons = held(&past, entries);
        let folding = shortest(|| drop(black_box(State::fold(&past.founding, commons.replica()))));
        tell(&format!("fold {entries} entries"), folding, verifying);
        insert(&commons, &past.entries[entries..entries + 41], verifying / entries as u32);
        group.bench_function(format!("fold {entries} entries"), |b| {
            b.iter(|| State::fold(&past.founding, commons.replica()))
        });
        group.bench_function(format!("insert one after {entries} entries"), |b| {
            let next = past.entries[entries].clone();
            let fresh = || (commons.clone(), next.clone());
            b.iter_batched(fresh, |(mut commons, next)| commons.insert(next), BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// What the entries of one whole decision cost, one by one, on top of `commons`.
fn insert(commons: &Commons, next: &[Statement], verifying: Duration) {
    let each = shortest(|| {
        let mut commons = commons.clone();
        for entry in next {
            commons.insert(entry.clone()).unwrap();
        }
    });
    tell("insert one entry (average of a decision)", each / next.len() as u32, verifying);
}

/// A decision of four members, and of a hundred.
fn growth(_: &mut Criterion) {
    for members in [4, 10, 25, 50, 100] {
        let past = history(members, 10 * (4 * members + 1), Until::Enacted);
        let decision = 4 * members + 1;
        let before = past.entries.len() - decision;
        let verifying = shortest(|| verify(&past.entries[before..]));
        println!("{members} members, {} entries", past.entries.len());
        let commons = held(&past, past.entries.len());
        let folding = shortest(|| drop(black_box(State::fold(&past.founding, commons.replica()))));
        tell("  fold, for each entry", folding / past.entries.len() as u32, verifying / decision as u32);
        insert(&held(&past, before), &past.entries[before..], verifying / decision as u32);
    }
}

criterion_group!(benches, votes, replay, growth);
criterion::criterion_main!(benches);
