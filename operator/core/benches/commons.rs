//! What counting, replaying and growing cost, always beside what verifying the same signatures costs in the same run:
//! seconds say something about a machine, ratios about the code.

// A bench that cannot make its history is a mistake in the bench.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use criterion::{BatchSize, Criterion, criterion_group};
use ed25519_dalek::{Signature, VerifyingKey};
use koinon_core::dsse::{pae, verifies};
use koinon_core::ids::PublicKey;
use koinon_core::log::{Limits, Replica};
use koinon_core::policy::{Commons, State};
use koinon_core::statement::Statement;
use koinon_core::testkit::history::{History, Until, history};

/// How often the shortest of several runs is looked for: others use the machine too.
const RUNS: usize = 5;

/// Every signature in some entries, also those of the people that operators only anchor, ready to be verified.
struct Signatures(Vec<(PublicKey, Vec<u8>, [u8; 64])>);

impl Signatures {
    fn of(entries: &[Arc<Statement>]) -> Self {
        let all = entries.iter().flat_map(|entry| std::iter::successors(Some(&**entry), |s| s.nested()));
        let signed = all.flat_map(|statement| {
            let envelope = statement.envelope();
            let message = pae(&envelope.payload_type, &envelope.payload_bytes().unwrap());
            let of_key = move |s: &koinon_core::dsse::Signature| {
                (s.keyid, message.clone(), STANDARD.decode(&s.sig).unwrap().try_into().unwrap())
            };
            envelope.signatures.iter().map(of_key)
        });
        Self(signed.collect())
    }

    /// One by one, by the one strict rule, as whoever has nothing but the bytes.
    fn verify(&self) {
        assert!(self.0.iter().all(|(key, message, signature)| {
            let key = VerifyingKey::from_bytes(&key.0).unwrap();
            key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
        }));
    }

    /// The same with the keys that signed at hand.
    fn verify_with_keys(&self) {
        assert!(self.0.iter().all(|(key, message, signature)| verifies(key, message, signature)));
    }
}

/// A past as it is offered: entries that were read, and the bytes that they were read from.
struct Offered {
    past: History,
    entries: Vec<Arc<Statement>>,
    bytes: Vec<Vec<u8>>,
}

impl Offered {
    fn new(mut past: History) -> Self {
        let entries: Vec<Arc<Statement>> = past.entries.drain(..).map(Arc::new).collect();
        let bytes = entries.iter().map(|entry| entry.envelope().to_json()).collect();
        Self { past, entries, bytes }
    }

    /// The commons with the first `entries`.
    fn held(&self, entries: usize) -> Commons {
        let mut commons = Commons::new(self.past.founding.clone(), Limits::default());
        assert!(commons.insert_all(self.entries[..entries].iter().cloned()).is_empty());
        commons
    }

    fn fold(&self, commons: &Commons) {
        drop(black_box(State::fold(&self.past.founding, commons.replica())));
    }
}

fn read(bytes: &[Vec<u8>]) -> Vec<Statement> {
    bytes.iter().map(|bytes| Statement::from_json(bytes).unwrap()).collect()
}

/// The shortest of several runs, each on something that was made for it.
fn shortest_on<T>(mut make: impl FnMut() -> T, mut what: impl FnMut(&mut T)) -> Duration {
    let run = |_| {
        let mut on = make();
        let begun = Instant::now();
        what(&mut on);
        begun.elapsed()
    };
    (0..RUNS).map(run).min().unwrap_or_default()
}

fn shortest(mut what: impl FnMut()) -> Duration {
    shortest_on(|| (), |()| what())
}

fn tell(what: &str, took: Duration, verifying: Duration) {
    let (took, verifying) = (took.as_secs_f64(), verifying.as_secs_f64());
    println!("{what:<48} {:>10.3} ms {:>9.3} x", took * 1e3, took / verifying);
}

/// Ten thousand anchored votes of a hundred members on a hundred proposals, from bytes to the count.
fn votes(criterion: &mut Criterion) {
    let offered = Offered::new(history(100, 100 * 101, Until::Voted));
    let before = offered.past.admitted;
    let (entries, bytes) = (&offered.entries[before..], &offered.bytes[before..]);
    let signatures = Signatures::of(entries);
    let verifying = shortest(|| signatures.verify());
    tell(&format!("verify {} signatures one by one", signatures.0.len()), verifying, verifying);
    let with_keys = shortest(|| signatures.verify_with_keys());
    tell("verify them with the keys at hand", with_keys, verifying);
    tell("read (and verify) the entries", shortest(|| drop(black_box(read(bytes)))), verifying);
    let take = |commons: &mut Commons| assert!(commons.insert_all(entries.iter().cloned()).is_empty());
    tell("store and count them, once read", shortest_on(|| offered.held(before), take), verifying);
    let count = |commons: &mut Commons| {
        assert!(commons.insert_all(read(bytes)).is_empty());
        assert!(commons.state().proposals().values().rev().all(|proposal| proposal.held.tally.counts.turnout() > 0));
    };
    let counting = shortest_on(|| offered.held(before), count);
    tell("from bytes to the count", counting, verifying);
    let speed = |verifying: Duration| verifying.as_secs_f64() / counting.as_secs_f64() * 100.0;
    println!("10000 votes are counted at {:.1} % of the speed of verifying them one by one", speed(verifying));
    println!("  ({:.1} % of that with the keys at hand)", speed(with_keys));
    let mut group = criterion.benchmark_group("10000 votes");
    group.sample_size(10);
    group.bench_function("verify one by one", |b| b.iter(|| signatures.verify()));
    group.bench_function("from bytes to the count", |b| {
        b.iter_batched_ref(|| offered.held(before), count, BatchSize::PerIteration);
    });
    group.finish();
}

/// A hundred thousand entries of ten members, from the beginning and one by one at the end.
fn replay(criterion: &mut Criterion) {
    let offered = Offered::new(history(10, 100_100, Until::Enacted));
    let mut group = criterion.benchmark_group("replay");
    group.sample_size(10);
    for entries in [1_000, 10_000, 100_000] {
        let some = &offered.entries[..entries];
        let signatures = Signatures::of(some);
        let verifying = shortest(|| signatures.verify());
        tell(&format!("verify the signatures of {entries} entries"), verifying, verifying);
        let fresh = || Commons::new(offered.past.founding.clone(), Limits::default());
        let replaying = shortest_on(fresh, |commons| {
            assert!(commons.insert_all(read(&offered.bytes[..entries])).is_empty());
        });
        tell("  replay them, from bytes", replaying, verifying);
        let storing = shortest(|| {
            let mut replica = Replica::new(&offered.past.founding, Limits::default());
            some.iter().for_each(|entry| drop(black_box(replica.insert(entry.clone()))));
        });
        tell("  store them, once read", storing, verifying);
        let commons = offered.held(entries);
        tell("  fold them", shortest(|| offered.fold(&commons)), verifying);
        insert(&offered, entries, 41, verifying / entries as u32);
        group.bench_function(format!("fold {entries} entries"), |b| b.iter(|| offered.fold(&commons)));
    }
    group.finish();
}

/// What the next entries cost, one by one on top of the first `before`: those of one whole decision. The time of each.
fn insert(offered: &Offered, before: usize, next: usize, verifying: Duration) -> Duration {
    let one_by_one = |commons: &mut Commons| {
        for entry in &offered.entries[before..before + next] {
            commons.insert_all([entry.clone()]);
        }
    };
    let each = shortest_on(|| offered.held(before), one_by_one) / next as u32;
    tell("  insert one more (average of a decision)", each, verifying);
    each
}

/// A decision of four members, and of a hundred.
fn growth(_: &mut Criterion) {
    let mut costs = Vec::new();
    for members in [4, 10, 25, 50, 100] {
        let decision = 4 * members + 1;
        let offered = Offered::new(history(members, 10 * decision, Until::Enacted));
        let all = offered.entries.len();
        let signatures = Signatures::of(&offered.entries[all - decision..]);
        let verifying = shortest(|| signatures.verify());
        println!("{members} members, {all} entries");
        tell("  verify the signatures of one decision", verifying, verifying);
        let next = &offered.bytes[all - decision..];
        let deciding = shortest_on(|| offered.held(all - decision), |commons| drop(commons.insert_all(read(next))));
        tell("  take the decision, from bytes", deciding, verifying);
        let each = insert(&offered, all - decision, decision, verifying / decision as u32);
        costs.push((members as f64, verifying.as_secs_f64(), deciding.as_secs_f64(), each.as_secs_f64()));
    }
    let (few, many) = (costs[0], costs[costs.len() - 1]);
    let exponent = |few_cost: f64, many_cost: f64| (many_cost / few_cost).ln() / (many.0 / few.0).ln();
    println!("from {} to {} members (entries of a decision: {:.2})", few.0, many.0, exponent(17.0, 401.0));
    println!("  exponent of verifying a decision {:.2}", exponent(few.1, many.1));
    println!("  exponent of taking a decision    {:.2}", exponent(few.2, many.2));
    println!("  exponent of one more entry       {:.2}", exponent(few.3, many.3));
}

criterion_group!(benches, votes, replay, growth);
criterion::criterion_main!(benches);
