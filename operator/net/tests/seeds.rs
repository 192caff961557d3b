//! Everything that the fuzzers begin with goes through what they call, and so does each of it with a few bytes changed: what
//! they once found stays found, on every machine, without a fuzzer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // clippy knows tests by their attribute, not their helpers.

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The bytes that a fuzz target begins with, by their names.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let into = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("seeds-{target}"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds.py");
    let made = Command::new("python3").arg(script).arg(&into).output().expect("python3 writes the seeds");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let found = std::fs::read_dir(into.join(target)).unwrap().map(|file| file.unwrap().path());
    let mut seeds: Vec<_> = found
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

/// What makes a number, a string or an end of something else.
const BYTES: &[u8] = b"\0\x01\x7f\x80\xff-0129eE.\"\\{}[]:,nt\n ";

fn change(seed: &[u8], others: &[(String, Vec<u8>)], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(3) {
        let (at, to) = (numbers.below(bytes.len()), numbers.below(bytes.len() + 1));
        match numbers.below(5) {
            0 if !bytes.is_empty() => bytes[at] = BYTES[numbers.below(BYTES.len())],
            1 => bytes.insert(to, BYTES[numbers.below(BYTES.len())]),
            2 if at < to => drop(bytes.drain(at..to)),
            3 if at < to => bytes.extend_from_within(at..to),
            _ => {
                let other = &others[numbers.below(others.len())].1;
                let from = numbers.below(other.len() + 1);
                bytes.truncate(to);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

/// A panic names the seed and its number, so that it can be tried again.
fn replay(target: &str, each: usize, run: fn(&[u8])) {
    let seeds = seeds(target);
    assert!(seeds.len() > 1, "there is something to begin with");
    for (name, seed) in &seeds {
        run(seed);
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for number in 0..each {
            let bytes = change(seed, &seeds, &mut numbers);
            let held = std::panic::catch_unwind(|| run(&bytes));
            assert!(held.is_ok(), "{target}: change {number} of seed {name} is {:?}", String::from_utf8_lossy(&bytes));
        }
    }
}

#[test]
fn envelopes() {
    replay("envelope", 200, fuzz::targets::envelope);
}

#[test]
fn statements() {
    replay("statement", 60, fuzz::targets::statement);
}

#[test]
fn logs() {
    replay("commons", 6, fuzz::targets::commons);
}

#[test]
fn messages_of_peers() {
    replay("peer", 200, fuzz::targets::peer);
}

#[test]
fn pasted_text() {
    replay("text", 2_000, fuzz::targets::text);
}

#[test]
fn challenges() {
    replay("challenge", 2_000, fuzz::targets::challenge);
}
