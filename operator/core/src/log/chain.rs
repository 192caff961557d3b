//! One log: its entries, the other branch if it forked, and the entries that wait for one before them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::budget::{OverBudget, Usage, spend};
use super::past::{Past, PastLog, RecalledLog};
use super::{ForkProof, Limits, Refused};
use crate::body::charter::Budgets;
use crate::body::entry::Head;
use crate::ids::{Digest, MemberId, PublicKey, Seq, StatementId};
use crate::statement::{Position, Statement};

/// Whether an entry may have an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Valid,
    /// Its author had used up the day.
    OverBudget(OverBudget),
}

/// A stored entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it says.
    pub statement: Arc<Statement>,
    /// Whether it may have an effect.
    pub standing: Standing,
    pub(super) usage: Usage,
}

impl Entry {
    /// Its number.
    pub fn seq(&self) -> Seq {
        self.statement.log_seq().unwrap_or_default()
    }
    /// Its id.
    pub fn id(&self) -> StatementId {
        self.statement.id()
    }
    /// The entry that it follows; the first one follows the cooperative.
    pub(super) fn prev(&self) -> Option<StatementId> {
        match *self.statement.position() {
            Position::Log { seq, prev } if seq > Seq(0) => Some(StatementId(prev)),
            _ => None,
        }
    }
}

/// What became of an entry that was offered to its log.
pub(super) enum Placed {
    Known,
    Waiting,
    Stored { ids: Vec<StatementId>, proof: Option<Box<ForkProof>> },
}

/// The payloads of one position: one, or the two that prove a fork.
#[derive(Clone, Debug)]
struct Level {
    first: Entry,
    second: Option<Entry>,
}

impl Level {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.first).chain(&self.second)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Chain {
    log: PublicKey,
    owner: MemberId,
    levels: BTreeMap<Seq, Level>,
    /// Up to here everything is settled: what is not held of it any more is not needed.
    settled: Option<Seq>,
    past: PastLog,
    /// Where everything stands that is held, and what was forgotten.
    places: BTreeMap<StatementId, Seq>,
    waiting: BTreeMap<(Seq, StatementId), Arc<Statement>>,
    waiting_bytes: usize,
    stored_bytes: usize,
    capped: bool,
    /// How often something else than an entry behind the last one was stored or forgotten.
    rewrites: u64,
}

impl Chain {
    pub(super) fn new(log: PublicKey, owner: MemberId) -> Self {
        Self {
            log,
            owner,
            levels: BTreeMap::new(),
            settled: None,
            past: PastLog::default(),
            places: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            stored_bytes: 0,
            capped: false,
            rewrites: 0,
        }
    }

    /// A log up to a checkpoint, as a store has it.
    pub(super) fn recalled(
        log: PublicKey,
        owner: MemberId,
        (settled, recalled): (Seq, RecalledLog),
        budgets: &Budgets,
    ) -> Self {
        let (held, past) = recalled.unfold(budgets);
        let mut chain = Self { settled: Some(settled), ..Self::new(log, owner) };
        chain.places.extend(past.from(Seq(0)).map(|past| (past.id, past.seq)));
        chain.past = past;
        for recalled in held {
            let (statement, standing, usage) = (recalled.statement, recalled.standing, recalled.usage);
            let entry = Entry { statement, standing, usage };
            chain.stored_bytes += entry.statement.size();
            chain.places.insert(entry.id(), entry.seq());
            chain.levels.insert(entry.seq(), Level { first: entry, second: None });
        }
        chain
    }

    pub(super) fn owner(&self) -> &MemberId {
        &self.owner
    }
    pub(super) fn stored_bytes(&self) -> usize {
        self.stored_bytes
    }
    pub(super) fn capped(&self) -> bool {
        self.capped
    }
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
    pub(super) fn rewrites(&self) -> u64 {
        self.rewrites
    }

    /// The entry at every position; where the log forked, the one that came first.
    pub(super) fn first(&self) -> impl Iterator<Item = &Entry> {
        self.levels.values().map(|level| &level.first)
    }

    /// Both payloads of every position from `from` on.
    pub(super) fn both(&self, from: Seq) -> impl Iterator<Item = &Entry> {
        self.levels.range(from..).flat_map(|(_, level)| level.entries())
    }

    pub(super) fn head(&self) -> Option<Head> {
        self.last().map(|e| Head { seq: e.seq(), id: e.id() })
    }

    pub(super) fn last(&self) -> Option<&Entry> {
        self.levels.last_key_value().map(|(_, level)| &level.first)
    }

    pub(super) fn get(&self, id: &StatementId) -> Option<&Entry> {
        let seq = self.places.get(id)?;
        self.at(*seq).find(|e| e.id() == *id)
    }

    /// Whether it is held, or was forgotten.
    pub(super) fn contains(&self, id: &StatementId) -> bool {
        self.places.contains_key(id)
    }

    /// Where something stands that is held, or was forgotten.
    pub(super) fn place_of(&self, id: &StatementId) -> Option<Seq> {
        self.places.get(id).copied()
    }

    /// What was forgotten.
    pub(super) fn past(&self) -> &PastLog {
        &self.past
    }

    /// The number of the first position that is empty.
    pub(super) fn next(&self) -> Seq {
        self.levels.last_key_value().map_or(Seq(0), |(last, _)| Seq(last.0.saturating_add(1)))
    }

    fn at(&self, seq: Seq) -> impl Iterator<Item = &Entry> {
        self.levels.get(&seq).into_iter().flat_map(Level::entries)
    }

    fn is_full(&self, seq: Seq) -> bool {
        self.at(seq).count() > 1
    }

    /// The entry that `prev` names at the position before `seq`: `None` if it is not here, `Some(None)` for the first.
    fn before(&self, seq: Seq, prev: Digest) -> Option<Option<&Entry>> {
        match seq.0.checked_sub(1) {
            None => Some(None),
            Some(before) => self.at(Seq(before)).find(|e| e.id().0 == prev).map(Some),
        }
    }

    pub(super) fn place(
        &mut self,
        statement: Arc<Statement>,
        budgets: &Budgets,
        limits: &Limits,
    ) -> Result<Placed, Refused> {
        let id = statement.id();
        let seq = statement.log_seq().unwrap_or_default();
        // Where all is settled, whatever turns up changes nothing.
        let is_settled = self.settled.is_some_and(|settled| seq <= settled);
        if is_settled || self.places.contains_key(&id) || self.waiting.contains_key(&(seq, id)) {
            return Ok(Placed::Known);
        }
        if !self.links(&statement) {
            return self.wait(statement, limits);
        }
        let mut stored = Placed::Stored { ids: Vec::new(), proof: None };
        self.store(statement, budgets, limits, &mut stored)?;
        // What waited for it follows. What cannot be stored is dropped: it can be fetched again when there is room.
        while let Some(next) = self.next_waiting() {
            let _ = self.store(next, budgets, limits, &mut stored);
        }
        Ok(stored)
    }

    fn links(&self, statement: &Statement) -> bool {
        match *statement.position() {
            Position::Log { seq, prev } => self.before(seq, prev).is_some(),
            _ => false,
        }
    }

    /// Whether an entry that is not held would be stored.
    pub(super) fn takes(&self, statement: &Statement) -> bool {
        self.links(statement) && !self.is_full(statement.log_seq().unwrap_or_default())
    }

    fn next_waiting(&mut self) -> Option<Arc<Statement>> {
        let key = *self.waiting.iter().find(|(_, s)| self.links(s))?.0;
        let statement = self.waiting.remove(&key)?;
        self.waiting_bytes -= statement.size();
        Some(statement)
    }

    fn store(
        &mut self,
        statement: Arc<Statement>,
        budgets: &Budgets,
        limits: &Limits,
        stored: &mut Placed,
    ) -> Result<(), Refused> {
        let (Position::Log { seq, prev }, Placed::Stored { ids, proof }) = (statement.position(), stored) else {
            return Ok(());
        };
        let (seq, prev, cap) = (*seq, *prev, limits.stored_bytes);
        if self.stored_bytes + statement.size() > cap {
            self.capped = true;
            return Err(Refused::Capped { log: self.log, owner: self.owner.clone(), stored: self.stored_bytes, cap });
        }
        if self.is_full(seq) {
            return Err(Refused::ThirdBranch { log: self.log, seq });
        }
        let before = self.before(seq, prev).flatten().map(|e| e.usage).unwrap_or_default();
        let (usage, over) = spend(&before, statement.header().issued_at, statement.size(), budgets);
        let entry = Entry { standing: over.map_or(Standing::Valid, Standing::OverBudget), usage, statement };
        self.stored_bytes += entry.statement.size();
        self.places.insert(entry.id(), seq);
        ids.push(entry.id());
        match self.levels.get_mut(&seq) {
            None => {
                self.levels.insert(seq, Level { first: entry, second: None });
            }
            Some(level) => {
                // Along one insertion positions only rise, so the first proof found is the earliest.
                if proof.is_none() {
                    *proof = ForkProof::of(&level.first.statement, &entry.statement).map(Box::new);
                }
                level.second = Some(entry);
                self.rewrites += 1;
            }
        }
        Ok(())
    }

    fn wait(&mut self, statement: Arc<Statement>, limits: &Limits) -> Result<Placed, Refused> {
        let seq = statement.log_seq().unwrap_or_default();
        if seq.0.checked_sub(1).is_some_and(|before| self.is_full(Seq(before))) {
            // It follows a third payload, which is never stored: it would wait for ever.
            return Err(Refused::ThirdBranch { log: self.log, seq });
        }
        let key = (seq, statement.id());
        self.waiting_bytes += statement.size();
        self.waiting.insert(key, statement);
        while self.waiting.len() > limits.waiting_entries || self.waiting_bytes > limits.waiting_bytes {
            // The one farthest ahead is needed last.
            let Some((last, dropped)) = self.waiting.pop_last() else { break };
            self.waiting_bytes -= dropped.size();
            if last == key {
                return Err(Refused::TooFarAhead { log: self.log, seq, next: self.next() });
            }
        }
        Ok(Placed::Waiting)
    }

    /// The first position from `from` on that has two payloads.
    pub(super) fn first_fork(&self, from: Seq) -> Option<ForkProof> {
        let mut forked =
            self.levels.range(from..).filter_map(|(_, level)| Some((&level.first, level.second.as_ref()?)));
        forked.find_map(|(first, second)| ForkProof::of(&first.statement, &second.statement))
    }

    /// The entries that do not lead to `settled` and do not follow it, if it is held and the log forked before it: whatever
    /// they say came after that was settled.
    pub(super) fn beside(&self, settled: Head) -> BTreeSet<StatementId> {
        let forked = self.first_fork(Seq(0)).is_some_and(|fork| fork.seq <= settled.seq);
        let mut branch = BTreeSet::new();
        let mut next = self.get(&settled.id).filter(|_| forked);
        if next.is_none() {
            return branch;
        }
        while let Some(entry) = next {
            branch.insert(entry.id());
            next = entry.prev().and_then(|prev| self.get(&prev));
        }
        // Of what was settled earlier only this branch is left, with gaps in it.
        let earlier = self.settled.filter(|earlier| *earlier <= settled.seq);
        let mut beside = BTreeSet::new();
        for entry in self.both(earlier.unwrap_or(Seq(0))) {
            let follows = entry.seq() > settled.seq && entry.prev().is_some_and(|prev| branch.contains(&prev));
            if follows {
                branch.insert(entry.id());
            }
            if !branch.contains(&entry.id()) {
                beside.insert(entry.id());
            }
        }
        beside
    }

    /// Whether `later` is `earlier` or follows it.
    pub(super) fn leads(&self, earlier: Head, later: Head) -> bool {
        let mut next = self.get(&later.id);
        while let Some(entry) = next.filter(|entry| entry.seq() > earlier.seq) {
            next = entry.prev().and_then(|prev| self.get(&prev));
        }
        next.is_some_and(|entry| entry.id() == earlier.id)
    }

    /// Forgets everything that does not lead to `last`, or everything.
    pub(super) fn cut(&mut self, last: Option<Head>) {
        let beside = last.map(|last| self.beside(last)).unwrap_or_default();
        for entry in
            self.take_out(|entry| last.is_none_or(|last| entry.seq() > last.seq) || beside.contains(&entry.id()))
        {
            self.places.remove(&entry.id());
        }
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.rewrites += 1;
    }

    /// Forgets what is settled up to `last` but for `keep` and `last` itself, which the next entry follows; and what stands
    /// beside it.
    pub(super) fn settle(&mut self, last: Head, keep: &BTreeSet<StatementId>) {
        let beside = self.beside(last);
        let is_forgotten =
            |entry: &Entry| beside.contains(&entry.id()) || entry.seq() < last.seq && !keep.contains(&entry.id());
        for entry in self.take_out(is_forgotten) {
            self.past.insert(Past::of(&entry.statement));
        }
        self.settled = self.settled.max(Some(last.seq));
        self.capped = false;
        self.rewrites += 1;
    }

    /// Takes out of what is held what is to go; its place is still known.
    fn take_out(&mut self, goes: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let (mut gone, mut held) = (Vec::new(), BTreeMap::new());
        for (seq, level) in std::mem::take(&mut self.levels) {
            let (out, mut stays): (Vec<Entry>, Vec<Entry>) =
                std::iter::once(level.first).chain(level.second).partition(&goes);
            gone.extend(out);
            if !stays.is_empty() {
                let first = stays.remove(0);
                held.insert(seq, Level { first, second: stays.pop() });
            }
        }
        self.levels = held;
        self.stored_bytes -= gone.iter().map(|entry| entry.statement.size()).sum::<usize>();
        gone
    }

    /// What lies before the entries that wait: a gap, or the branch that one of them continues.
    pub(super) fn missing(&self) -> Vec<(Seq, Seq)> {
        let next = self.next();
        let before = |seq: Seq| Seq(seq.0.saturating_sub(1));
        let waiting = || self.waiting.keys().map(|(seq, _)| before(*seq));
        let gap = waiting().find(|last| *last >= next).map(|last| (next, last));
        let branch = waiting().find(|last| *last < next && !self.is_full(*last)).map(|last| (last, last));
        branch.into_iter().chain(gap).collect()
    }

    /// What to ask a member for whose last entry is `head`.
    pub(super) fn wants(&self, head: Head) -> Option<(Seq, Seq)> {
        let is_settled = self.settled.is_some_and(|settled| head.seq <= settled);
        if is_settled || self.places.contains_key(&head.id) || self.capped {
            return None;
        }
        if head.seq < self.next() {
            // A payload of a position that is held already: worth having only if it is the second one.
            return (!self.is_full(head.seq)).then_some((head.seq, head.seq));
        }
        Some((self.next(), head.seq))
    }
}
