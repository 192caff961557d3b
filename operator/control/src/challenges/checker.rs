//! Checking what others show of their challenges: a few rows of each, one transcript at a time, and never more than a part of
//! one processor. Members draw different rows, so that together they check most of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use koinon_core::challenge::{Check, Transcript};
use koinon_core::ids::{CoopId, Digest, MemberId};

/// Rows of each device that are computed again.
const ROWS: usize = 1;
/// After each check it rests this many times as long as that took, so that it takes a quarter of one processor at most.
const REST: u32 = 3;

/// A transcript as one author shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint(MemberId, Digest);

impl Fingerprint {
    /// Of what `author` shows.
    #[must_use]
    pub fn of(author: &MemberId, transcript: &Transcript) -> Self {
        Self(author.clone(), Digest::of(transcript.text().as_bytes()))
    }
}

/// What was checked, and what came of it. What is no longer said is forgotten.
#[derive(Clone, Debug, Default)]
pub struct Checked(BTreeMap<Fingerprint, bool>);

impl Checked {
    /// Whether it was checked and found right.
    #[must_use]
    pub fn holds(&self, which: &Fingerprint) -> bool {
        self.0.get(which).copied().unwrap_or(false)
    }

    /// Whether nobody has looked at it yet.
    #[must_use]
    pub fn is_new(&self, which: &Fingerprint) -> bool {
        !self.0.contains_key(which)
    }

    /// Keeps what came of it.
    pub fn note(&mut self, which: Fingerprint, holds: bool) {
        self.0.insert(which, holds);
    }

    /// Forgets all others.
    pub fn retain(&mut self, said: &BTreeSet<Fingerprint>) {
        self.0.retain(|which, _| said.contains(which));
    }
}

/// What a check found, and how long it has to rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// What is wrong with it.
    pub fault: Option<String>,
    /// Until the next one.
    pub rest: Duration,
}

/// Computes rows of `transcript` again, chosen by `choice`, which nobody else knows.
pub async fn look(transcript: Transcript, coop: CoopId, choice: [u8; 32]) -> Looked {
    let began = Instant::now();
    let checking = tokio::task::spawn_blocking(move || check(&transcript, coop, &choice));
    let fault = checking.await.unwrap_or_else(|error| Some(error.to_string()));
    Looked { fault, rest: began.elapsed().saturating_mul(REST) }
}

fn check(transcript: &Transcript, coop: CoopId, choice: &[u8]) -> Option<String> {
    if transcript.occasion.coop != coop {
        return Some("it was made in another cooperative".to_owned());
    }
    let checked = Check::sample(transcript, ROWS, choice).and_then(Check::finish);
    checked.err().map(|refuted| refuted.to_string())
}
