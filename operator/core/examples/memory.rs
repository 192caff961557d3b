//! What an operator that holds a long history holds in memory: `cargo run --release --features testkit --example memory`.

// It runs by hand on Linux, and says what it does not find.
#![allow(clippy::unwrap_used)]

use koinon_core::log::Limits;
use koinon_core::policy::Commons;
use koinon_core::testkit::history::{Until, history};

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn main() {
    let wanted: usize = std::env::args().nth(1).map_or(100_000, |text| text.parse().unwrap());
    let past = history(10, wanted, Until::Enacted);
    let envelopes: Vec<Vec<u8>> = past.entries.iter().map(|entry| entry.envelope().to_json()).collect();
    let (founding, written) = (past.founding, envelopes.iter().map(Vec::len).sum::<usize>());
    drop((past.entries, past.votes));
    let before = resident();
    let read = |bytes: &Vec<u8>| koinon_core::statement::Statement::from_json(bytes).unwrap();
    let (commons, refused) = Commons::load(founding, Limits::default(), envelopes.iter().map(read));
    assert!(refused.is_empty());
    let (entries, after) = (envelopes.len() as u64, resident());
    println!("{entries} entries, {written} bytes as envelopes ({} each)", written as u64 / entries);
    println!("{} bytes resident for them ({} each)", after - before, (after - before) / entries);
    drop(commons);
    println!("{} bytes resident without them", resident().saturating_sub(before));
}
