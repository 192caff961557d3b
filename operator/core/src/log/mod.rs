//! The commons as one member holds it: a gapless hash chain for every operator key.
//!
//! Entries may come in any order, twice, from anybody; what a replica holds in the end depends on the set alone.
//!
//! Guarantees
//! - An entry is stored only behind the entry that it names; later ones wait, within bounds.
//! - A second payload of a position is stored beside the first and proves the fork. Both branches are kept and
//!   served, so that every member finds the same proof whichever branch came first.
//! - An entry beyond its author's budget has no effect anywhere, because the budget is counted along its own chain.
//!
//! Caveat: of three or more branches two are kept. Where the fork begins is the same everywhere even then.

mod budget;
mod chain;
mod fork;
mod growth;
mod past;
mod seals;
mod settled;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use budget::{BudgetLeft, OverBudget};
pub use chain::{Entry, Standing};
pub use fork::ForkProof;
pub use past::{Past, Recollection};
pub use seals::SealConflict;
pub use settled::{NoPrefix, Settled, SettledLog, SettledProposal, SettledVersion};

use crate::body::Body;
use crate::body::charter::Budgets;
use crate::body::entry::Head;
use crate::founding::Founding;
use crate::ids::{CoopId, Digest, MemberId, PublicKey, Seq, StatementId, UnixSeconds};
use crate::statement::{Position, Statement};
use chain::{Chain, Placed};
use past::RecalledLog;

/// What one member is willing to store of one author. Local: others may be more generous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries that wait for one before them.
    pub waiting_entries: usize,
    /// Payload bytes of entries that wait.
    pub waiting_bytes: usize,
    /// Payload bytes of one log; beyond them its author alone is no longer stored.
    pub stored_bytes: usize,
    /// What becomes of the entries that stand in a proof.
    pub proved: Proved,
}

/// See [`Limits::proved`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proved {
    /// They are stored like any others, where they follow what is held.
    Taken,
    /// They are only noted, so that what is held is exactly what was given.
    Noted,
}

impl Limits {
    /// Everything: for whoever reads a history once, and stores none of it for ever.
    pub const NONE: Self = Self {
        waiting_entries: usize::MAX / 2,
        waiting_bytes: usize::MAX / 2,
        stored_bytes: usize::MAX / 2,
        proved: Proved::Taken,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self { waiting_entries: 512, waiting_bytes: 4 << 20, stored_bytes: 32 << 20, proved: Proved::Taken }
    }
}

/// What became of an entry that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is stored, together with entries that had waited for it.
    Stored {
        /// All that are stored now, in an order in which they can be stored elsewhere.
        ids: Vec<StatementId>,
        /// The proof that the log forked, if that is news.
        fork: Option<Box<ForkProof>>,
    },
    /// It is held already.
    Known,
    /// It waits for what comes before it.
    Waiting,
}

/// Why an entry was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has no position in a log.
    #[error("a {0} statement is no log entry")]
    NotAnEntry(String),
    /// It belongs to another cooperative.
    #[error("the entry belongs to cooperative {seen}, this one is {expected}")]
    OtherCooperative {
        /// This cooperative.
        expected: CoopId,
        /// The entry's.
        seen: CoopId,
    },
    /// Nobody here has this log.
    #[error("log {0} belongs to no member of this cooperative")]
    UnknownLog(PublicKey),
    /// The log is another member's.
    #[error("log {log} belongs to {owner}, the entry names {author} as its author")]
    OtherAuthor {
        /// The log.
        log: PublicKey,
        /// Whose it is.
        owner: MemberId,
        /// Who the entry says it is.
        author: MemberId,
    },
    /// The first entry of a log must follow the cooperative itself.
    #[error("the first entry of log {0} does not name the cooperative as the one before it")]
    WrongStart(PublicKey),
    /// Too many entries wait already.
    #[error("entry {seq} of log {log} is too far ahead: the next one needed is {next}")]
    TooFarAhead {
        /// The log.
        log: PublicKey,
        /// The entry's number.
        seq: Seq,
        /// The number that is needed.
        next: Seq,
    },
    /// Two branches of a fork are held already.
    #[error("position {seq} of log {log} has two payloads already, which prove the fork")]
    ThirdBranch {
        /// The log.
        log: PublicKey,
        /// The position.
        seq: Seq,
    },
    /// This member stores no more of that author.
    #[error(
        "log {log} of {owner} holds {stored} bytes, {cap} are allowed here: raise the local cap to store more of it"
    )]
    Capped {
        /// The log.
        log: PublicKey,
        /// Whose it is.
        owner: MemberId,
        /// Bytes held.
        stored: usize,
        /// Bytes allowed.
        cap: usize,
    },
}

impl Refused {
    /// A short name for metrics and events.
    pub fn category(&self) -> &'static str {
        match self {
            Self::NotAnEntry(_) => "NotAnEntry",
            Self::OtherCooperative { .. } => "OtherCooperative",
            Self::UnknownLog(_) => "UnknownLog",
            Self::OtherAuthor { .. } => "OtherAuthor",
            Self::WrongStart(_) => "WrongStart",
            Self::TooFarAhead { .. } => "TooFarAhead",
            Self::ThirdBranch { .. } => "ThirdBranch",
            Self::Capped { .. } => "Capped",
        }
    }
}

/// Entries of one log that somebody should be asked for, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// Which log.
    pub log: PublicKey,
    /// The first one.
    pub from: Seq,
    /// The last one.
    pub to: Seq,
}

/// All logs of a cooperative as one member holds them.
#[derive(Clone, Debug)]
pub struct Replica {
    coop: CoopId,
    budgets: Budgets,
    limits: Limits,
    chains: BTreeMap<PublicKey, Chain>,
    /// Proofs about logs, by evidence or by both payloads being here; the earliest position of each log.
    forks: BTreeMap<PublicKey, ForkProof>,
    /// Proofs of two seals that stand in somebody's log, by their names.
    conflicts: BTreeMap<Digest, SealConflict>,
    /// What stands in the logs as evidence, judged once, when it is stored: verifying it costs two signatures, and its
    /// author may repeat it thousands of times.
    reported: Reported,
    /// What remains of entries that were forgotten.
    settled: Option<Arc<Settled>>,
    /// The logs among them that are not known yet.
    recalled: BTreeMap<PublicKey, RecalledLog>,
    /// Up to where the cooperative has settled each log.
    floor: BTreeMap<PublicKey, Head>,
    /// Evidence about logs that nobody here has yet, with the logs in which it stands: it is read again when they are known.
    early: BTreeMap<PublicKey, BTreeSet<(PublicKey, StatementId)>>,
    /// Entries that stand in proofs and were not stored: see [`Proved::Noted`].
    noted: BTreeMap<StatementId, Arc<Statement>>,
    /// What was stored since somebody last asked, also what came in with a proof.
    news: Vec<StatementId>,
}

/// The forks that somebody's log tells of.
#[derive(Clone, Debug, Default)]
struct Reported {
    /// Proved by the payloads in it.
    proved: BTreeSet<(PublicKey, Seq)>,
    /// Named only, as (log, position, first, second).
    named: BTreeSet<(PublicKey, Seq, Digest, Digest)>,
}

impl Reported {
    /// Whether others see `fork` by it; a claim without payloads counts only where they do not fit.
    fn shows(&self, fork: &ForkProof) -> bool {
        self.proved.contains(&(fork.log, fork.seq))
            || self.named.contains(&(fork.log, fork.seq, fork.first.0.0, fork.second.0.0))
                && fork.to_evidence().envelopes.is_empty()
    }
}

impl Replica {
    /// An empty replica that takes the founders' logs.
    pub fn new(founding: &Founding, limits: Limits) -> Self {
        let mut replica = Self {
            coop: founding.coop(),
            budgets: founding.charter().parameters.budgets,
            limits,
            chains: BTreeMap::new(),
            forks: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            reported: Reported::default(),
            settled: None,
            recalled: BTreeMap::new(),
            floor: BTreeMap::new(),
            early: BTreeMap::new(),
            noted: BTreeMap::new(),
            news: Vec::new(),
        };
        for founder in &founding.charter().founders {
            replica.know(founder.keys.operator, founder.id.clone());
        }
        replica
    }

    /// Takes the log of a member from now on. A log that is known stays its first owner's. True if something was here already
    /// that has an effect only now.
    pub fn know(&mut self, log: PublicKey, owner: MemberId) -> bool {
        let recalled = self.settled.clone().and_then(|settled| {
            let last = settled.logs.get(&log)?.head.seq;
            Some(Chain::recalled(log, owner.clone(), (last, self.recalled.remove(&log)?), &self.budgets))
        });
        let is_recalled = recalled.is_some();
        self.chains.entry(log).or_insert_with(|| recalled.unwrap_or_else(|| Chain::new(log, owner)));
        if is_recalled {
            let held: Vec<StatementId> = self.entries(&log).map(Entry::id).collect();
            self.read_evidence(&log, &held);
            self.read_seal_evidence(&log, &held);
        }
        let early = self.early.remove(&log).unwrap_or_default();
        for (carrier, entry) in &early {
            self.read_evidence(carrier, &[*entry]);
            self.read_seal_evidence(carrier, &[*entry]);
        }
        is_recalled || !early.is_empty()
    }

    /// Whether entries of `log` are taken.
    pub fn knows(&self, log: &PublicKey) -> bool {
        self.chains.contains_key(log)
    }

    /// Takes one entry.
    pub fn insert(&mut self, statement: impl Into<Arc<Statement>>) -> Result<Inserted, Refused> {
        let statement = statement.into();
        let Position::Log { seq, prev } = *statement.position() else {
            return Err(Refused::NotAnEntry(statement.kind().to_string()));
        };
        if statement.coop() != self.coop {
            return Err(Refused::OtherCooperative { expected: self.coop, seen: statement.coop() });
        }
        let log = statement.header().key;
        let chain = self.chains.get_mut(&log).ok_or(Refused::UnknownLog(log))?;
        if chain.owner() != statement.author() {
            let author = statement.author().clone();
            return Err(Refused::OtherAuthor { log, owner: chain.owner().clone(), author });
        }
        if seq == Seq(0) && prev != self.coop.0 {
            return Err(Refused::WrongStart(log));
        }
        let placed = chain.place(statement, &self.budgets, &self.limits)?;
        Ok(match placed {
            Placed::Known => Inserted::Known,
            Placed::Waiting => Inserted::Waiting,
            Placed::Stored { ids, proof } => {
                self.news.extend(&ids);
                self.read_evidence(&log, &ids);
                self.read_seal_evidence(&log, &ids);
                let fork = proof.filter(|proof| self.note_fork((**proof).clone()));
                Inserted::Stored { ids, fork }
            }
        })
    }

    /// Everything that was stored since this was last asked, each behind the one that it follows: also what came in with a
    /// proof, which is to be kept like any other entry.
    pub(crate) fn take_news(&mut self) -> Vec<StatementId> {
        std::mem::take(&mut self.news)
    }

    /// Remembers a proof that a log forked; `true` if it is news, that is the first or an earlier position.
    pub fn note_fork(&mut self, proof: ForkProof) -> bool {
        let known = self.forks.get(&proof.log);
        // Below what is settled a conflict has no effect: whoever finds an old key could undo what was built since.
        let is_settled = self.floor.get(&proof.log).is_some_and(|floor| proof.seq <= floor.seq);
        let news = !is_settled && known.is_none_or(|known| proof.seq < known.seq);
        // Of several proofs of one position the one with the smallest ids, so that all show the same.
        let place = |proof: &ForkProof| (proof.seq, proof.first.0, proof.second.0);
        if !is_settled && known.is_none_or(|known| place(&proof) < place(known)) {
            self.forks.insert(proof.log, proof);
        }
        news
    }

    /// Takes over what evidence entries prove, together with the payloads in them: a member that holds one branch
    /// gets the beginning of the other one from here.
    fn read_evidence(&mut self, log: &PublicKey, ids: &[StatementId]) {
        let Some(chain) = self.chains.get(log) else { return };
        let bodies = ids.iter().filter_map(|id| match chain.get(id)?.statement.body() {
            Body::Evidence(evidence) => Some((*id, (**evidence).clone())),
            _ => None,
        });
        for (id, evidence) in bodies.collect::<Vec<_>>() {
            let (first, second) = (evidence.first.0, evidence.second.0);
            self.reported.named.insert((evidence.log, evidence.seq, first, second));
            let Some(proof) = ForkProof::of_evidence(&evidence, self.coop) else { continue };
            self.reported.proved.insert((proof.log, proof.seq));
            let (about, both) = (proof.log, proof.entries().collect());
            self.note_fork(proof);
            self.take_proved(about, (*log, id), both);
        }
    }

    /// What becomes of the entries in a proof about `log` that stands in the entry `carrier`.
    fn take_proved(&mut self, log: PublicKey, carrier: (PublicKey, StatementId), both: Vec<Statement>) {
        if !self.knows(&log) {
            self.early.entry(log).or_default().insert(carrier);
            return;
        }
        for entry in both {
            if self.limits.proved == Proved::Noted {
                self.noted.insert(entry.id(), Arc::new(entry));
                continue;
            }
            // Refused means here that it is held, or follows what is not: the proof counts all the same.
            let _ = self.insert(entry);
        }
    }

    /// Entries that stand in proofs and are not held, with whether they follow what is; see [`Proved::Noted`]. What does
    /// not follow is on a branch that nobody gave.
    pub fn unlisted(&self) -> impl Iterator<Item = (&Statement, bool)> {
        let others = self.noted.values().filter(|entry| !self.contains(&entry.id()));
        others.filter_map(|entry| {
            let chain = self.chains.get(&entry.header().key).filter(|chain| chain.owner() == entry.author())?;
            let begins = matches!(*entry.position(), Position::Log { seq: Seq(0), prev } if prev != self.coop.0);
            Some((&**entry, chain.takes(entry) && !begins))
        })
    }

    /// Proofs that stand in nobody's log yet: whoever holds one publishes it, because heads show one branch only.
    pub fn unreported_forks(&self) -> Vec<ForkProof> {
        self.forks.values().filter(|fork| !self.reported.shows(fork)).cloned().collect()
    }

    /// The proof that `log` forked, if there is one above what is settled.
    pub fn fork(&self, log: &PublicKey) -> Option<&ForkProof> {
        self.forks.get(log)
    }

    /// Every proof that has an effect.
    pub fn forks(&self) -> impl Iterator<Item = &ForkProof> {
        self.forks.values()
    }

    /// The entries of `log` that may decide something: within budget and before any fork.
    pub fn effective(&self, log: &PublicKey) -> impl Iterator<Item = &Entry> {
        let end = self.forks.get(log).map_or(Seq(u64::MAX), |fork| fork.seq);
        self.entries(log).take_while(move |e| e.seq() < end).filter(|e| e.standing == Standing::Valid)
    }

    /// The entries of `log` within budget on either branch. Seals count from here: evidence never un-counts a
    /// certificate, or a member could undo decisions by forking its own past.
    pub fn signed(&self, log: &PublicKey) -> impl Iterator<Item = &Entry> {
        self.chains.get(log).into_iter().flat_map(|chain| chain.both(Seq(0))).filter(|e| e.standing == Standing::Valid)
    }

    /// Every stored entry of `log`, on either branch, within budget or not.
    pub fn all(&self, log: &PublicKey) -> impl Iterator<Item = &Entry> {
        self.chains.get(log).into_iter().flat_map(|chain| chain.both(Seq(0)))
    }

    /// The entry at every position of `log`; where it forked, the one that came first.
    pub fn entries(&self, log: &PublicKey) -> impl Iterator<Item = &Entry> {
        self.chains.get(log).into_iter().flat_map(Chain::first)
    }

    /// The first empty position of `log`.
    pub fn next_seq(&self, log: &PublicKey) -> Seq {
        self.chains.get(log).map_or(Seq(0), Chain::next)
    }

    /// The logs and their owners.
    pub fn logs(&self) -> impl Iterator<Item = (&PublicKey, &MemberId)> {
        self.chains.iter().map(|(log, chain)| (log, chain.owner()))
    }

    /// The entry with this id.
    pub fn get(&self, id: &StatementId) -> Option<&Entry> {
        self.chains.values().find_map(|chain| chain.get(id))
    }

    /// Whether the entry with this id is stored, here or, where it was forgotten, elsewhere.
    pub fn contains(&self, id: &StatementId) -> bool {
        self.chains.values().any(|chain| chain.contains(id))
    }

    /// The last entry of every log that has one.
    pub fn heads(&self) -> BTreeMap<PublicKey, Head> {
        self.chains.iter().filter_map(|(log, chain)| Some((*log, chain.head()?))).collect()
    }

    /// The last entry of `log`.
    pub fn head(&self, log: &PublicKey) -> Option<Head> {
        self.chains.get(log)?.head()
    }

    /// Where the next entry of `log` stands.
    pub fn next_position(&self, log: &PublicKey) -> Position {
        match self.head(log) {
            None => Position::Log { seq: Seq(0), prev: self.coop.0 },
            Some(head) => Position::Log { seq: Seq(head.seq.0.saturating_add(1)), prev: Digest(head.id.0.0) },
        }
    }

    /// What to ask for, given another member's heads and the entries that wait here.
    pub fn wants(&self, heads: &BTreeMap<PublicKey, Head>) -> Vec<Range> {
        let mut wanted: BTreeSet<Range> = self.missing().into_iter().collect();
        for (log, head) in heads {
            if let Some(chain) = self.chains.get(log) {
                wanted.extend(chain.wants(*head).map(|(from, to)| Range { log: *log, from, to }));
            }
        }
        wanted.into_iter().collect()
    }

    /// The gaps before entries that wait.
    pub fn missing(&self) -> Vec<Range> {
        self.chains
            .iter()
            .flat_map(|(log, chain)| chain.missing().into_iter().map(|(from, to)| Range { log: *log, from, to }))
            .collect()
    }

    /// Up to `limit` entries of `log` from position `from` on, both payloads of a forked position, as they are served.
    pub fn range(&self, log: &PublicKey, from: Seq, limit: usize) -> Vec<Arc<Statement>> {
        let Some(chain) = self.chains.get(log) else { return Vec::new() };
        chain.both(from).take(limit).map(|e| Arc::clone(&e.statement)).collect()
    }

    /// Payload bytes held of `log`.
    pub fn stored_bytes(&self, log: &PublicKey) -> usize {
        self.chains.get(log).map_or(0, Chain::stored_bytes)
    }

    /// Whether the local cap stops `log` from growing here.
    pub fn capped(&self, log: &PublicKey) -> bool {
        self.chains.get(log).is_some_and(Chain::capped)
    }

    /// How many entries wait for one before them.
    pub fn waiting(&self) -> usize {
        self.chains.values().map(Chain::waiting).sum()
    }

    /// What `log` may still add on the day of `at`.
    pub fn budget_left(&self, log: &PublicKey, at: UnixSeconds) -> BudgetLeft {
        let last = self.chains.get(log).and_then(Chain::last).map(|e| e.usage).unwrap_or_default();
        budget::left(&last, at, &self.budgets)
    }

    /// The cooperative.
    pub fn coop(&self) -> CoopId {
        self.coop
    }
}
