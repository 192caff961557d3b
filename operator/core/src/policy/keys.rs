//! Which key may speak for a member, at every position of its logs.
//!
//! ```text
//! log begins: keys of the charter, application or reset ─▶ key update ─▶ revocation ─▶ …      (along the entry's own chain)
//! ```
//!
//! What people sign is judged by the set in force where it is anchored. An entry names the one before it, so its id fixes
//! everything that led there: no later entry, fork or other log can change what a key was good for at that place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::chain::Membership;
use super::gather::{Anchored, Gathered};
use super::{Enactment, State};
use crate::body::Body;
use crate::body::keys::{KeyRevocation, KeyUpdate};
use crate::body::member::{Member, MemberKeys};
use crate::ids::{MemberId, PublicKey, StatementId};
use crate::statement::Statement;

/// Why a statement about keys has no effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    /// Its number does not follow.
    #[error("key set {seen} does not follow: the next one is {expected}")]
    NotNext {
        /// The statement's.
        seen: u32,
        /// The number of the next set.
        expected: u32,
    },
    /// No or too many keys, or one twice.
    #[error("a set has between 1 and 3 different governance keys")]
    KeyCount,
    /// Neither the set in force nor the recovery keys agree.
    #[error("it is signed neither by a governance key in force nor by more than half of the recovery keys")]
    NotAllowed,
    /// Somebody else may hold the key.
    #[error("the new key {0} has not signed too, which proves that its owner holds it")]
    NotProved(PublicKey),
    /// The key was used before.
    #[error("key {0} is or was a key of a member: make another one")]
    Used(PublicKey),
    /// It is no governance key, or was taken back before.
    #[error("key {0} is no governance key in force")]
    NotInForce(PublicKey),
    /// Another member's log, or none.
    #[error("log {0} is none of its author's")]
    OtherLog(PublicKey),
}

impl KeyProblem {
    /// A short name, the same in every implementation of the audit.
    pub fn category(&self) -> &'static str {
        match self {
            Self::NotNext { .. } => "NotNext",
            Self::KeyCount => "KeyCount",
            Self::NotAllowed => "NotAllowed",
            Self::NotProved(_) => "NotProved",
            Self::Used(_) => "Used",
            Self::NotInForce(_) => "NotInForce",
            Self::OtherLog(_) => "OtherLog",
        }
    }
}

/// A statement about keys where it was anchored, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// Whose keys.
    pub member: MemberId,
    /// The statement.
    pub id: StatementId,
    /// What it says.
    pub body: Body,
    /// Why it changed nothing, if so.
    pub problem: Option<KeyProblem>,
}

/// A log and the keys with which its owner began it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKeys {
    /// Whose.
    pub owner: MemberId,
    /// The keys at its beginning.
    pub keys: MemberKeys,
    /// How many logs the owner had before.
    pub generation: u32,
    /// The number of the membership version that put another log in its place.
    pub replaced: Option<u64>,
}

/// The governance keys in force at one place, and those that may never be used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    /// Counted from the beginning of the log.
    pub number: u32,
    /// The keys.
    pub governance: BTreeSet<PublicKey>,
    /// Keys that were in force before.
    pub retired: BTreeSet<PublicKey>,
}

impl KeySet {
    fn first(keys: &MemberKeys) -> Self {
        Self { number: 0, governance: keys.governance.iter().copied().collect(), retired: BTreeSet::new() }
    }

    fn update(
        &mut self,
        keys: &MemberKeys,
        update: &KeyUpdate,
        signers: &BTreeSet<PublicKey>,
    ) -> Result<(), KeyProblem> {
        let expected = self.number.saturating_add(1);
        if update.number != expected {
            return Err(KeyProblem::NotNext { seen: update.number, expected });
        }
        let next: BTreeSet<PublicKey> = update.governance.iter().copied().collect();
        if next.is_empty() || next.len() > 3 || next.len() != update.governance.len() {
            return Err(KeyProblem::KeyCount);
        }
        let other_roles = |key: &PublicKey| keys.recovery.contains(key) || keys.operator == *key;
        if let Some(key) = next.iter().find(|key| self.retired.contains(*key) || other_roles(key)) {
            return Err(KeyProblem::Used(*key));
        }
        if self.governance.is_disjoint(signers) && !is_recovery(keys, signers) {
            return Err(KeyProblem::NotAllowed);
        }
        if let Some(key) = next.iter().find(|key| !self.governance.contains(*key) && !signers.contains(*key)) {
            return Err(KeyProblem::NotProved(*key));
        }
        self.retired.extend(self.governance.difference(&next));
        (self.number, self.governance) = (expected, next);
        Ok(())
    }

    fn revoke(
        &mut self,
        keys: &MemberKeys,
        revocation: &KeyRevocation,
        signers: &BTreeSet<PublicKey>,
    ) -> Result<(), KeyProblem> {
        if !is_recovery(keys, signers) {
            return Err(KeyProblem::NotAllowed);
        }
        // A key that was replaced can be taken back too: what it signed before may still stand in a box.
        let is_of_this_log = self.governance.remove(&revocation.key) || self.retired.contains(&revocation.key);
        if !is_of_this_log && revocation.log == keys.operator {
            return Err(KeyProblem::NotInForce(revocation.key));
        }
        self.retired.insert(revocation.key);
        Ok(())
    }

    fn step(&mut self, keys: &MemberKeys, statement: &Statement) -> Result<(), KeyProblem> {
        let signers = statement.signers().copied().collect();
        match statement.body() {
            Body::KeyUpdate(update) => self.update(keys, update, &signers),
            Body::KeyRevocation(revocation) => self.revoke(keys, revocation, &signers),
            _ => Ok(()),
        }
    }
}

/// Whether more than half of the recovery keys signed: one of one, two of three.
fn is_recovery(keys: &MemberKeys, signers: &BTreeSet<PublicKey>) -> bool {
    let signed = keys.recovery.iter().filter(|key| signers.contains(*key)).count();
    2 * signed > keys.recovery.len()
}

/// The statements about keys on the way to an entry, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyHistory(Vec<Arc<Statement>>);

impl KeyHistory {
    /// This and `carrier`, if that says something about the keys of `owner`.
    pub fn and(&self, carrier: &Arc<Statement>, owner: &MemberId) -> Option<Self> {
        let inner = carrier.nested().filter(|inner| inner.author() == owner && inner.coop() == carrier.coop())?;
        let is_about_keys = matches!(inner.body(), Body::KeyUpdate(_) | Body::KeyRevocation(_));
        is_about_keys.then(|| Self(self.0.iter().chain([carrier]).cloned().collect()))
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The set that is in force behind it, in a log that began with `keys`.
    pub fn set(&self, keys: &MemberKeys) -> KeySet {
        let mut set = KeySet::first(keys);
        for statement in self.statements() {
            // What does not hold has no effect: the operator anchored it without looking.
            let _ = set.step(keys, statement);
        }
        set
    }

    /// The newest statement in it, with its entry and what became of it.
    fn last(&self, keys: &MemberKeys) -> Option<(StatementId, KeyChange)> {
        let (carrier, earlier) = self.0.split_last()?;
        let statement = carrier.nested()?;
        let problem = Self(earlier.to_vec()).set(keys).step(keys, statement).err();
        let (member, id, body) = (statement.author().clone(), statement.id(), statement.body().clone());
        Some((carrier.id(), KeyChange { member, id, body, problem }))
    }

    fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.0.iter().filter_map(|carrier| carrier.nested())
    }
}

/// All logs that there are or were.
pub(super) type Logs = BTreeMap<PublicKey, LogKeys>;

/// The governance keys in force where `anchored` stands, if its log is known to be its author's.
pub(super) fn in_force(logs: &Logs, anchored: &Anchored) -> Option<KeySet> {
    let log = logs.get(&anchored.anchor.log)?;
    let owns = anchored.statement().is_some_and(|statement| *statement.author() == log.owner);
    owns.then(|| anchored.keys.set(&log.keys))
}

/// Whether `log` had been replaced in the version `pinned`.
pub(super) fn is_closed(logs: &Logs, pinned: &Membership, log: &PublicKey) -> bool {
    logs.get(log).and_then(|log| log.replaced).is_some_and(|by| by <= pinned.number)
}

/// Whether `anchored` is signed by a governance key that was in force where it stands, in a log that its author had not
/// replaced before `pinned`.
pub(super) fn governs(logs: &Logs, pinned: &Membership, anchored: &Anchored) -> bool {
    let Some(header) = anchored.statement().map(Statement::header) else { return false };
    let in_force = || match logs.get(&anchored.anchor.log) {
        // Most members never change their keys.
        Some(log) if anchored.keys.is_empty() => {
            header.author == log.owner && log.keys.governance.contains(&header.key)
        }
        _ => in_force(logs, anchored).is_some_and(|set| set.governance.contains(&header.key)),
    };
    !is_closed(logs, pinned, &anchored.anchor.log) && in_force()
}

/// What a revocation takes back where it stands: from one position of one log on whatever one key signed.
pub(super) fn revoked<'a>(logs: &Logs, anchored: &'a Anchored) -> Option<&'a KeyRevocation> {
    let statement = anchored.statement()?;
    let Body::KeyRevocation(revocation) = statement.body() else { return None };
    let log = logs.get(&anchored.anchor.log)?;
    let of_author = |log: &PublicKey| logs.get(log).is_some_and(|of| of.owner == *statement.author());
    let holds = |said: &Statement, revoked: &KeyRevocation| {
        of_author(&revoked.log) && is_recovery(&log.keys, &said.signers().copied().collect())
    };
    // A second one for the same key would only fill boxes. But whoever stole a key may have said so first, in vain.
    let repeated = || {
        anchored.keys.statements().any(|earlier| match earlier.body() {
            Body::KeyRevocation(before) => before.key == revocation.key && holds(earlier, before),
            _ => false,
        })
    };
    let counts = of_author(&anchored.anchor.log) && holds(statement, revocation) && !repeated();
    counts.then_some(revocation)
}

impl State {
    /// Every log that is or was a member's.
    pub fn logs(&self) -> &BTreeMap<PublicKey, LogKeys> {
        &self.logs
    }

    /// The governance keys that are in force at the end of the member's log.
    pub fn key_set(&self, member: &MemberId) -> Option<&KeySet> {
        self.key_sets.get(&self.member(member)?.member.keys.operator)
    }

    /// Every statement about keys in its author's own logs, by the entry that anchors it.
    pub fn key_changes(&self) -> &BTreeMap<StatementId, KeyChange> {
        &self.key_changes
    }

    /// Whose key this is or was, in whatever role.
    pub fn key_owner(&self, key: &PublicKey) -> Option<&MemberId> {
        let holds = |log: &PublicKey, began: &LogKeys| {
            let later = self.keys_ever.get(log).is_some_and(|ever| ever.contains(key));
            later || began.keys.all().any(|known| known == *key)
        };
        self.logs.iter().find(|(log, began)| holds(log, began)).map(|(_, began)| &began.owner)
    }

    /// Whose key this was when its log began. Later keys are left out, so that a rotation changes nothing about an order.
    pub(super) fn key_began(&self, key: &PublicKey) -> Option<&MemberId> {
        self.logs.values().find(|log| log.keys.all().any(|known| known == *key)).map(|log| &log.owner)
    }

    /// Every governance key that the log's owner had in it, on whatever branch: it only ever grows.
    pub(super) fn keys_ever(&self, log: &PublicKey) -> Option<&BTreeSet<PublicKey>> {
        self.keys_ever.get(log)
    }

    /// Whether a statement about the keys of its author would have an effect if it were anchored next.
    pub fn check_keys(&self, statement: &Statement) -> Result<(), KeyProblem> {
        let author = statement.author();
        let not_allowed = || KeyProblem::NotAllowed;
        let member = self.member(author).ok_or_else(not_allowed)?;
        let log = self.logs.get(&member.member.keys.operator).ok_or_else(not_allowed)?;
        let mut set = self.key_set(author).ok_or_else(not_allowed)?.clone();
        match statement.body() {
            Body::KeyUpdate(update) => {
                let is_new = |key: &&PublicKey| !set.governance.contains(*key) && self.key_owner(key).is_some();
                if let Some(key) = update.governance.iter().find(is_new) {
                    return Err(KeyProblem::Used(*key));
                }
            }
            Body::KeyRevocation(KeyRevocation { log, .. })
                if self.logs.get(log).is_none_or(|log| log.owner != *author) =>
            {
                return Err(KeyProblem::OtherLog(*log));
            }
            _ => {}
        }
        set.step(&log.keys, statement)
    }

    /// Notes the log with which `member` begins, and that it has none any more that it had before.
    pub(super) fn begin_log(&mut self, member: &Member, enacted: Option<&Enactment>) {
        let number = enacted.and_then(|e| self.membership_version(&e.version)).map(|m| m.number);
        let mut generation = 0;
        for log in self.logs.values_mut().filter(|log| log.owner == member.id) {
            generation += 1;
            log.replaced = log.replaced.or(number);
        }
        let (owner, keys) = (member.id.clone(), member.keys.clone());
        self.key_sets.remove(&keys.operator);
        self.logs.insert(keys.operator, LogKeys { owner, keys, generation, replaced: None });
    }

    /// Reads the sets in force at the ends of the logs, every key that was in one, and which appeals are signed by one.
    pub(super) fn read_keys(&mut self, gathered: &Gathered) {
        self.appeals = gathered.appealed(&self.logs);
        for (log, began) in &self.logs {
            // What is gathered does not change within a fold: a log that was read before is read as before.
            if self.key_sets.contains_key(log) {
                continue;
            }
            let steps = gathered.key_steps.get(log).into_iter().flatten();
            let sets = steps.map(|history| history.set(&began.keys));
            let ever =
                sets.flat_map(|set| set.governance.into_iter().chain(set.retired)).chain(began.keys.governance.clone());
            self.keys_ever.insert(*log, ever.collect());
            let set = gathered.key_heads.get(log).map_or_else(|| KeySet::first(&began.keys), |h| h.set(&began.keys));
            self.key_sets.insert(*log, set);
        }
    }

    /// Shows members with the keys that they have now, and how they came by them.
    pub(super) fn show_keys(&mut self, gathered: &Gathered) {
        for (log, began) in &self.logs {
            let steps = gathered.key_steps.get(log).into_iter().flatten();
            self.key_changes.extend(steps.filter_map(|history| history.last(&began.keys)));
        }
        for member in self.members.values_mut() {
            if let Some(set) = self.key_sets.get(&member.member.keys.operator) {
                // In the order of the charter or the last update where nothing was taken away.
                let listed = &mut member.member.keys.governance;
                if listed.iter().copied().collect::<BTreeSet<_>>() != set.governance {
                    *listed = set.governance.iter().copied().collect();
                }
            }
        }
    }
}

impl Anchored {
    /// Whether one of `revocations` takes this back.
    pub(super) fn is_revoked(&self, revocations: &[(MemberId, KeyRevocation)]) -> bool {
        let Some(statement) = self.statement() else { return false };
        let (author, key) = (statement.author(), statement.header().key);
        revocations.iter().any(|(whose, revoked)| {
            let same = (whose, revoked.key, revoked.log) == (author, key, self.anchor.log);
            same && self.anchor.seq >= revoked.since_seq
        })
    }
}

/// What the statements of a box take back.
pub(super) fn revocations<'a>(logs: &Logs, said: impl Iterator<Item = &'a Anchored>) -> Vec<(MemberId, KeyRevocation)> {
    let one = |anchored: &Anchored| Some((anchored.statement()?.author().clone(), revoked(logs, anchored)?.clone()));
    said.filter_map(one).collect()
}
