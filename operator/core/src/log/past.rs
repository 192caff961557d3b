//! Entries that a checkpoint has settled and that are no longer held here: where each stands, so that it can be found where
//! it is kept, and what to know of it without reading it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::budget::{Usage, spend};
use super::chain::{Chain, Standing};
use super::{Replica, Settled};
use crate::body::charter::Budgets;
use crate::ids::{Digest, PublicKey, Seq, StatementId, UnixSeconds};
use crate::statement::{Position, Statement};

/// What remains of an entry that is no longer held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// Its position.
    pub seq: Seq,
    /// Its id, by which it is kept elsewhere.
    pub id: StatementId,
    /// When it was signed, by its operator's clock.
    pub issued_at: UnixSeconds,
    /// What a person signed that it gave a place.
    pub said: Option<StatementId>,
}

impl Past {
    pub(super) fn of(statement: &Statement) -> Self {
        Self {
            seq: statement.log_seq().unwrap_or_default(),
            id: statement.id(),
            issued_at: statement.header().issued_at,
            said: statement.nested().map(Statement::id),
        }
    }
}

/// The entries of one log that are no longer held.
#[derive(Clone, Debug, Default)]
pub(super) struct PastLog {
    entries: BTreeMap<(Seq, StatementId), (UnixSeconds, Option<StatementId>)>,
    said: BTreeMap<StatementId, (Seq, StatementId)>,
}

impl PastLog {
    pub(super) fn insert(&mut self, past: Past) {
        self.entries.insert((past.seq, past.id), (past.issued_at, past.said));
        self.said.extend(past.said.map(|said| (said, (past.seq, past.id))));
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// From a position on.
    pub(super) fn from(&self, from: Seq) -> impl Iterator<Item = Past> {
        // No id is smaller than all zeros.
        let first = (from, StatementId(Digest([0; 32])));
        self.entries.range(first..).map(|((seq, id), (at, said))| Past {
            seq: *seq,
            id: *id,
            issued_at: *at,
            said: *said,
        })
    }

    /// The entry that gave a place to what a person signed.
    pub(super) fn that_says(&self, said: &StatementId) -> Option<Past> {
        let (seq, id) = *self.said.get(said)?;
        let (issued_at, said) = *self.entries.get(&(seq, id))?;
        Some(Past { seq, id, issued_at, said })
    }
}

/// One entry below a checkpoint, as far as the chain needs it.
#[derive(Clone, Debug)]
struct Brief {
    past: Past,
    prev: Digest,
    size: usize,
}

/// What a member that forgot finds in its store when it starts again: what remains, and the entries that are still needed.
#[derive(Clone, Debug)]
pub struct Recollection {
    settled: Arc<Settled>,
    logs: BTreeMap<PublicKey, RecalledLog>,
}

/// One log of it.
#[derive(Clone, Debug, Default)]
pub(super) struct RecalledLog {
    briefs: BTreeMap<StatementId, Brief>,
    held: BTreeMap<StatementId, Arc<Statement>>,
}

/// An entry that is needed, with what its log had used of the day up to it.
pub(super) struct Recalled {
    pub(super) statement: Arc<Statement>,
    pub(super) standing: Standing,
    pub(super) usage: Usage,
}

impl Recollection {
    /// The beginning of one, from what remains of what was forgotten.
    pub fn new(settled: Settled) -> Self {
        Self { settled: Arc::new(settled), logs: BTreeMap::new() }
    }

    /// Takes note of an entry that was settled; what was not comes back, to be taken as ever.
    pub fn take(&mut self, statement: Statement) -> Option<Statement> {
        let log = statement.header().key;
        let Position::Log { seq, prev } = *statement.position() else { return Some(statement) };
        let Some(of_log) = self.settled.logs.get(&log).filter(|of_log| seq <= of_log.head.seq) else {
            return Some(statement);
        };
        let recalled = self.logs.entry(log).or_default();
        let id = statement.id();
        recalled.briefs.insert(id, Brief { past: Past::of(&statement), prev, size: statement.size() });
        if id == of_log.head.id || self.settled.kept.contains(&id) {
            recalled.held.insert(id, Arc::new(statement));
        }
        None
    }

    /// The entries that would be needed and were not found. With any of them missing nothing can be recalled.
    pub fn missing(&self) -> impl Iterator<Item = StatementId> {
        let found = |id: &StatementId| self.logs.values().any(|log| log.held.contains_key(id));
        let heads = self.settled.logs.values().map(|of_log| of_log.head.id);
        heads.chain(self.settled.kept.iter().copied()).filter(move |id| !found(id))
    }

    pub(super) fn into_parts(self) -> (Arc<Settled>, BTreeMap<PublicKey, RecalledLog>) {
        (self.settled, self.logs)
    }
}

impl RecalledLog {
    /// What is held of it, in order, and what is not.
    pub(super) fn unfold(self, budgets: &Budgets) -> (Vec<Recalled>, PastLog) {
        // Only what is settled is still needed, so what it follows is the branch that was settled. Where entries of that lie in
        // an archive they are missing from the count of their day; only that of the last one still matters.
        let mut branch: BTreeMap<Seq, &Brief> = BTreeMap::new();
        for id in self.held.keys() {
            let mut next = self.briefs.get(id);
            while let Some(brief) = next.filter(|brief| branch.insert(brief.past.seq, brief).is_none()) {
                next = self.briefs.get(&StatementId(brief.prev));
            }
        }
        let (mut usage, mut recalled) = (Usage::default(), Vec::new());
        for brief in branch.into_values() {
            let (used, over) = spend(&usage, brief.past.issued_at, brief.size, budgets);
            usage = used;
            if let Some(statement) = self.held.get(&brief.past.id).cloned() {
                let standing = over.map_or(Standing::Valid, Standing::OverBudget);
                recalled.push(Recalled { statement, standing, usage });
            }
        }
        let mut past = PastLog::default();
        self.briefs
            .iter()
            .filter(|(id, _)| !self.held.contains_key(*id))
            .for_each(|(_, brief)| past.insert(brief.past));
        (recalled, past)
    }
}

impl Replica {
    /// The entries of `log` from position `from` on that were forgotten here.
    pub fn past(&self, log: &PublicKey, from: Seq) -> impl Iterator<Item = Past> {
        self.chains.get(log).into_iter().flat_map(move |chain| chain.past().from(from))
    }

    /// Where an entry stands that was forgotten here.
    pub fn place_of_past(&self, id: &StatementId) -> Option<(PublicKey, Seq)> {
        let place = |(log, chain): (&PublicKey, &Chain)| Some((*log, chain.place_of(id)?));
        self.chains.iter().find_map(place).filter(|_| self.get(id).is_none())
    }

    /// How many entries of `log` were forgotten here.
    pub fn past_count(&self, log: &PublicKey) -> usize {
        self.chains.get(log).map_or(0, |chain| chain.past().len())
    }

    /// The forgotten entry of `log` that gave a place to what a person signed.
    pub fn past_that_says(&self, log: &PublicKey, said: &StatementId) -> Option<Past> {
        self.chains.get(log)?.past().that_says(said)
    }
}
