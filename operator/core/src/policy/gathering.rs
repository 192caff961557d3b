//! Reading a replica once, and then only what is appended to it.
//!
//! What is gathered depends on the entries that are held, on where logs forked, and on what was settled. While only the
//! first of these grows, and only at the ends of the logs, what is gathered grows with it; whatever else happens, all of it
//! is read anew. Everything gathered has its place by what it is and never by when it came, so both are equal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ancestry::{Ancestries, Ancestry};
use super::gather::{At, Forked, Gathered, as_proposal};
use crate::body::Body;
use crate::body::entry::Head;
use crate::body::proposal::Action;
use crate::ids::{Digest, MemberId, PublicKey, Seq, StatementId, UnixSeconds};
use crate::log::{Entry, Replica, Settled, Standing};
use crate::statement::{Position, Statement};

/// What is gathered from a replica, and from where on to go on.
#[derive(Clone, Debug)]
pub(super) struct Gathering {
    pub gathered: Gathered,
    forks: BTreeMap<PublicKey, Seq>,
    floor: BTreeMap<PublicKey, Head>,
    settled: Option<Arc<Settled>>,
    tips: BTreeMap<PublicKey, Tip>,
}

/// The end of a log up to which it was read.
#[derive(Clone, Debug, Default)]
struct Tip {
    next: Seq,
    rewrites: u64,
    /// What follows each entry of the last position.
    last: BTreeMap<Digest, Last>,
}

#[derive(Clone, Debug, Default)]
struct Last {
    ancestry: Ancestry,
    /// When it was written, if it may have an effect.
    at: Option<UnixSeconds>,
}

/// What entries that were appended may have changed.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    /// The reading of these proposals.
    pub about: BTreeSet<StatementId>,
    /// The reading of those that wait for one of these.
    pub entries: Vec<StatementId>,
    /// The reading of those that propose the same as one of these, which may have been refused.
    pub refused: BTreeSet<StatementId>,
    /// The reading of any proposal.
    pub everything: bool,
}

fn forks(replica: &Replica) -> BTreeMap<PublicKey, Seq> {
    replica.forks().map(|fork| (fork.log, fork.seq)).collect()
}

fn time(entry: &Entry) -> Option<UnixSeconds> {
    (entry.standing == Standing::Valid).then(|| entry.statement.header().issued_at)
}

/// Whether the log of a member is read for signs of life from here on.
fn is_about_silence(entry: &Statement) -> bool {
    let action = entry.nested().and_then(as_proposal).map(|proposal| &proposal.action);
    matches!(action, Some(Action::MarkDormant(_) | Action::Reactivate(_)))
}

impl Gathering {
    /// Reads all of `replica`.
    pub fn of(replica: &Replica, forked: Forked) -> Self {
        let mut gathering = Self {
            gathered: Gathered::new(forked),
            forks: forks(replica),
            floor: replica.floor().clone(),
            settled: replica.settled().cloned(),
            tips: BTreeMap::new(),
        };
        for (log, owner) in replica.logs() {
            let tip = gathering.read_log(replica, log, owner);
            gathering.tips.insert(*log, tip);
        }
        gathering.gathered.note_signs(replica);
        gathering
    }

    fn read_log(&mut self, replica: &Replica, log: &PublicKey, owner: &MemberId) -> Tip {
        let beside = replica.beside_settled(log);
        let mut entries: Vec<&Entry> = replica.all(log).filter(|entry| !beside.contains(&entry.id())).collect();
        // Which branch of a fork came first is this member's accident.
        entries.sort_by_key(|e| (e.seq(), e.id()));
        let settled = replica.settled().and_then(|settled| settled.logs.get(log));
        if let Some(settled) = settled.filter(|settled| settled.last_at != UnixSeconds(i64::MIN)) {
            self.gathered.last_at.insert(*log, settled.last_at);
        }
        let fork = self.forks.get(log).copied();
        let mut ancestries = Ancestries::new(settled);
        let mut news = News::default();
        let mut last_effective = None;
        for entry in &entries {
            if entry.standing == Standing::Valid && fork.is_none_or(|fork| entry.seq() < fork) {
                last_effective = Some(entry.id());
            }
            let ancestry = ancestries.of(entry, owner);
            let at = At { log, owner, fork, ancestry: &ancestry, coop: replica.coop() };
            self.gathered.add(entry, &at, &mut news);
        }
        let next = replica.next_seq(log);
        let ends = entries.iter().rev().take_while(|entry| entry.seq().0.saturating_add(1) == next.0);
        let last = ends.filter_map(|entry| {
            let ancestry = ancestries.after(entry.id())?;
            Some((entry.id().0, Last { ancestry, at: time(entry) }))
        });
        let tip = Tip { next, rewrites: replica.rewrites(log), last: last.collect() };
        if !ancestries.key_steps.is_empty() {
            let head = last_effective.and_then(|last| ancestries.keys_after(last));
            self.gathered.key_heads.extend(head.map(|head| (*log, head)));
            self.gathered.key_steps.insert(*log, ancestries.key_steps);
        }
        tip
    }

    /// Reads what was appended to `replica` since. Nothing if something else has become of it: then this is good for nothing
    /// any more.
    pub fn follow(&mut self, replica: &Replica) -> Option<News> {
        let same_settled = match (&self.settled, replica.settled()) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        if !same_settled || self.forks != forks(replica) || self.floor != *replica.floor() {
            return None;
        }
        let mut news = News::default();
        for (log, owner) in replica.logs() {
            let mut tip = self.tips.remove(log).unwrap_or_default();
            if tip.rewrites != replica.rewrites(log) {
                return None;
            }
            for entry in replica.since(log, tip.next) {
                tip.last = self.append(replica, entry, (log, owner), &tip.last, &mut news)?;
            }
            tip.next = replica.next_seq(log);
            self.tips.insert(*log, tip);
        }
        Some(news)
    }

    fn append(
        &mut self,
        replica: &Replica,
        entry: &Entry,
        (log, owner): (&PublicKey, &MemberId),
        before: &BTreeMap<Digest, Last>,
        news: &mut News,
    ) -> Option<BTreeMap<Digest, Last>> {
        let Position::Log { seq, prev } = *entry.statement.position() else { return None };
        let is_settled = replica.settled().is_some_and(|settled| settled.logs.contains_key(log));
        let before = match before.get(&prev) {
            Some(before) => before.clone(),
            // Its predecessor was forgotten, or stands beside what was settled.
            None if seq > Seq(0) || is_settled => return None,
            None => Last::default(),
        };
        // Beside what is settled it may have no effect; where something is said a second time, which is the first place
        // depends on both; and signs of life were not noted before anybody asked for them.
        let is_below = self.floor.get(log).is_some_and(|floor| seq <= floor.seq);
        if is_below || self.gathered.knows(entry, owner) || is_about_silence(&entry.statement) {
            return None;
        }
        let fork = self.forks.get(log).copied();
        let mut ancestries = Ancestries::behind_entry(prev, before.ancestry);
        let ancestry = ancestries.of(entry, owner);
        let at = At { log, owner, fork, ancestry: &ancestry, coop: replica.coop() };
        self.gathered.add(entry, &at, news);
        let after = ancestries.after(entry.id())?;
        let is_effective = fork.is_none_or(|fork| seq < fork);
        if !ancestries.key_steps.is_empty() {
            news.everything = true;
            self.gathered.key_steps.entry(*log).or_default().append(&mut ancestries.key_steps);
            // Which keys are in force before the fork is known only where a step was known there.
            if !is_effective {
                return None;
            }
        }
        if is_effective && self.gathered.key_steps.contains_key(log) {
            self.gathered.key_heads.insert(*log, Arc::clone(&after.keys));
        }
        if self.gathered.watched.contains(owner) && entry.standing == Standing::Valid {
            self.gathered.note_sign(entry, log, owner, before.at);
            news.entries.push(entry.id());
        }
        Some(BTreeMap::from([(entry.id().0, Last { ancestry: after, at: time(entry) })]))
    }
}

impl Gathered {
    /// Whether what a person signed has a place already.
    fn knows(&self, entry: &Entry, owner: &MemberId) -> bool {
        let Some(inner) = entry.statement.nested().filter(|inner| inner.author() == owner) else { return false };
        let id = inner.id();
        let about = |known: &BTreeMap<StatementId, BTreeMap<StatementId, super::gather::Anchored>>,
                     on: &StatementId| {
            known.get(on).is_some_and(|known| known.contains_key(&id))
        };
        match inner.body() {
            Body::Proposal(_) => self.proposals.contains_key(&id),
            Body::Vote(vote) => about(&self.votes, &vote.proposal),
            Body::Leave(_) => self.leaves.contains_key(&id),
            Body::EmergencyOrder(_) => self.orders.contains_key(&id),
            Body::CoSignature(signature) => about(&self.co_signatures, &signature.order),
            Body::Appeal(appeal) => about(&self.appeals, &appeal.proposal),
            _ => false,
        }
    }
}
