//! What remains of the logs up to a checkpoint: enough to go on deciding as if everything were still here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ForkProof, Limits, Past, Recollection, Replica};
use crate::body::entry::Head;
use crate::body::proposal::Scope;
use crate::ids::{BoxRoot, Digest, MemberId, PolicyHash, PublicKey, Seq, StatementId, UnixSeconds};

/// What remains of everything up to a checkpoint. A function of the entries up to there and of nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settled {
    /// The logs that it goes up to.
    pub logs: BTreeMap<PublicKey, SettledLog>,
    /// The versions, chain by chain in an order in which they can be made again.
    pub versions: Vec<SettledVersion>,
    /// Entries that are still needed.
    pub kept: BTreeSet<StatementId>,
}

/// One log up to a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SettledLog {
    /// Its last entry, which is kept: the next one follows it.
    pub head: Head,
    /// The latest time of its entries, by its operator's clock.
    pub last_at: UnixSeconds,
    /// The proposals that are anchored in it. How many of them are open limits how many more there may be.
    pub proposals: Vec<SettledProposal>,
}

/// A proposal that is anchored below a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SettledProposal {
    /// Where.
    pub seq: Seq,
    /// Which.
    pub id: StatementId,
    /// When its vote closes.
    pub closes_at: UnixSeconds,
}

/// A version that was made below a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SettledVersion {
    /// Its chain.
    pub scope: Scope,
    /// Its name.
    pub version: PolicyHash,
    /// What was enacted.
    pub proposal: StatementId,
    /// The box.
    pub root: BoxRoot,
    /// The attempt in which it succeeded.
    pub term: u32,
    /// From when on everybody can have known it.
    pub settled_at: UnixSeconds,
}

impl Settled {
    /// What members vote on: the digest of this, in the one form in which it is written.
    pub fn digest(&self) -> Digest {
        // Lists and maps in their own order, no floats, no field that may be absent: there is one form.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }
}

/// Why entries up to a position cannot be told from the others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPrefix {
    /// The log is not held so far, or another entry stands there.
    #[error("entry {seq} of log {log} is not held here, or is another one: wait until all logs have arrived")]
    NotHeld {
        /// Which log.
        log: PublicKey,
        /// Which position.
        seq: Seq,
    },
    /// The log has two branches there.
    #[error("log {0} forked before that position: leave it out")]
    Forked(PublicKey),
    /// Something later was settled before, or another branch.
    #[error("log {log} was settled up to {settled} before: name that position or one that follows it")]
    Earlier {
        /// Which log.
        log: PublicKey,
        /// Up to where.
        settled: Seq,
    },
}

impl Replica {
    /// This replica as it was when every log of `heads` ended there, and no other log had begun. What was settled later is
    /// not known in it, nor what stands beside these entries.
    pub(crate) fn up_to(&self, heads: &BTreeMap<PublicKey, Head>) -> Result<Self, NoPrefix> {
        let mut before = self.clone();
        before.limits = Limits::NONE;
        (before.forks, before.conflicts, before.reported) = Default::default();
        (before.early, before.noted) = Default::default();
        before.floor.clone_from(heads);
        for (log, settled) in self.settled.iter().flat_map(|settled| &settled.logs) {
            if heads.get(log).is_none_or(|head| head.seq < settled.head.seq) {
                return Err(NoPrefix::Earlier { log: *log, settled: settled.head.seq });
            }
        }
        if let Some((log, head)) = heads.iter().find(|(log, _)| !self.chains.contains_key(log)) {
            return Err(NoPrefix::NotHeld { log: *log, seq: head.seq });
        }
        for (log, chain) in &mut before.chains {
            let head = heads.get(log);
            match head.map(|head| (head, chain.get(&head.id).map(super::Entry::seq))) {
                Some((head, found)) if found != Some(head.seq) => {
                    return Err(NoPrefix::NotHeld { log: *log, seq: head.seq });
                }
                Some((head, _)) if self.forks.get(log).is_some_and(|fork| fork.seq <= head.seq) => {
                    return Err(NoPrefix::Forked(*log));
                }
                _ => chain.cut(head.copied()),
            }
        }
        let held: Vec<(PublicKey, Vec<StatementId>)> =
            before.chains.iter().map(|(log, chain)| (*log, chain.first().map(super::Entry::id).collect())).collect();
        for (log, ids) in held {
            before.read_evidence(&log, &ids);
            before.read_seal_evidence(&log, &ids);
        }
        // Evidence brings entries with it that stand later.
        for (log, chain) in &mut before.chains {
            chain.cut(heads.get(log).copied());
        }
        Ok(before)
    }

    /// Forgets what a checkpoint has settled and nobody needs any more.
    pub(crate) fn settle(&mut self, settled: Arc<Settled>) {
        for (log, of_log) in &settled.logs {
            if let Some(chain) = self.chains.get_mut(log).filter(|chain| chain.get(&of_log.head.id).is_some()) {
                chain.settle(of_log.head, &settled.kept);
            }
        }
        self.settled = Some(settled);
    }

    /// Begins with what a store has of entries that were forgotten. To be called before anything is taken.
    pub(crate) fn recall(&mut self, recollection: Recollection) {
        let (settled, recalled) = recollection.into_parts();
        (self.settled, self.recalled) = (Some(settled), recalled);
        let known: Vec<(PublicKey, MemberId)> =
            std::mem::take(&mut self.chains).into_iter().map(|(log, chain)| (log, chain.owner().clone())).collect();
        for (log, owner) in known {
            self.know(log, owner);
        }
    }

    /// The forgotten entries of `log` that may leave the store as well, for an archive: all but those from the last settled day
    /// on, because what a log has used of a day decides for everybody which of its next entries count.
    pub fn archivable(&self, log: &PublicKey) -> Vec<Past> {
        let settled = self.settled.as_ref().and_then(|settled| settled.logs.get(log));
        let Some(last) = settled.map(|of_log| of_log.last_at.day()) else { return Vec::new() };
        let held = self.all(log).map(|entry| (entry.seq(), entry.statement.header().issued_at));
        let all = held.chain(self.past(log, Seq(0)).map(|past| (past.seq, past.issued_at)));
        let first = all.filter(|(_, at)| at.day() >= last).map(|(seq, _)| seq).min();
        self.past(log, Seq(0)).filter(|past| first.is_none_or(|first| past.seq < first)).collect()
    }

    /// What remains of the entries that were forgotten.
    pub fn settled(&self) -> Option<&Arc<Settled>> {
        self.settled.as_ref()
    }

    /// Up to where the cooperative has settled each log, as was noticed last.
    pub(crate) fn floor(&self) -> &BTreeMap<PublicKey, Head> {
        &self.floor
    }

    /// Takes notice of what the cooperative has settled: a conflict up to there has no effect. `true` if that hides one.
    pub(crate) fn note_floor(&mut self, floor: BTreeMap<PublicKey, Head>) -> bool {
        if self.floor == floor {
            return false;
        }
        self.floor = floor;
        let is_below = |(log, fork): (&PublicKey, &ForkProof)| self.floor.get(log).is_some_and(|f| fork.seq <= f.seq);
        let below: Vec<PublicKey> = self.forks.iter().filter(|fork| is_below(*fork)).map(|(log, _)| *log).collect();
        for log in &below {
            self.forks.remove(log);
            // The earliest one hid those that came later.
            let above = self.floor.get(log).map_or(Seq(0), |floor| Seq(floor.seq.0.saturating_add(1)));
            let later = self.chains.get(log).and_then(|chain| chain.first_fork(above));
            self.forks.extend(later.map(|fork| (*log, fork)));
        }
        !below.is_empty()
    }

    /// The entries of `log` that stand beside what was settled, or follow such: another branch, which has no effect.
    pub(crate) fn beside_settled(&self, log: &PublicKey) -> BTreeSet<StatementId> {
        let (Some(floor), Some(chain)) = (self.floor.get(log), self.chains.get(log)) else { return BTreeSet::new() };
        chain.beside(*floor)
    }

    /// The first log of `floor` of which `heads` names nothing that is settled there or follows that.
    pub(crate) fn falls_behind(
        &self,
        floor: &BTreeMap<PublicKey, Head>,
        heads: &BTreeMap<PublicKey, Head>,
    ) -> Option<NoPrefix> {
        let leads = |log: &PublicKey, settled: &Head| {
            let chain = self.chains.get(log).zip(heads.get(log));
            chain.is_some_and(|(chain, head)| chain.leads(*settled, *head))
        };
        let behind = floor.iter().find(|(log, settled)| !leads(log, settled));
        behind.map(|(log, settled)| NoPrefix::Earlier { log: *log, settled: settled.seq })
    }
}
