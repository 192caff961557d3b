//! What an entry's own chain says: it follows from the entry's id alone, whatever else of its log is known.
//!
//! Two branches of a fork each have their own ancestry, so that learning of the other one changes nothing that was
//! concluded from this one: a member could otherwise undo decisions by forking its own past.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::keys::KeyHistory;
use crate::body::Body;
use crate::ids::{Digest, MemberId, Seq, StatementId, UnixSeconds};
use crate::log::{Entry, SettledLog, Standing};
use crate::statement::{Position, Statement};

/// What came before an entry in its own chain.
#[derive(Clone, Debug, Default)]
pub(super) struct Ancestry {
    /// What was said about keys.
    pub keys: Arc<KeyHistory>,
    /// The proposals of its author, and when each of them closes.
    pub proposals: Arc<BTreeMap<StatementId, UnixSeconds>>,
}

/// The ancestries of one log's entries, read in the order of their positions.
#[derive(Default)]
pub(super) struct Ancestries<'a> {
    after: BTreeMap<Digest, Ancestry>,
    /// What remains of the beginning of the log.
    settled: Option<&'a SettledLog>,
    /// The ancestry of whatever follows the last entry that was read of that: there is one branch.
    last: Ancestry,
    /// Every key history that differs from the one before it.
    pub key_steps: Vec<Arc<KeyHistory>>,
}

impl<'a> Ancestries<'a> {
    /// Of a log that begins with what remains of it.
    pub fn new(settled: Option<&'a SettledLog>) -> Self {
        Self { settled, ..Self::default() }
    }

    /// Of what follows the entry `prev`, in a log that was read up to there.
    pub fn behind_entry(prev: Digest, ancestry: Ancestry) -> Self {
        Self { after: BTreeMap::from([(prev, ancestry)]), ..Self::default() }
    }

    /// The ancestry of whatever follows the entry `id`.
    pub fn after(&self, id: StatementId) -> Option<Ancestry> {
        self.after.get(&id.0).cloned()
    }

    /// The ancestry of an entry whose predecessor was forgotten.
    fn behind(&self, seq: Seq) -> Ancestry {
        let Some(settled) = self.settled.filter(|settled| seq <= settled.head.seq) else { return Ancestry::default() };
        let earlier = settled.proposals.iter().filter(|proposal| proposal.seq < seq);
        let proposals = earlier.map(|proposal| (proposal.id, proposal.closes_at)).collect();
        Ancestry { keys: Arc::clone(&self.last.keys), proposals: Arc::new(proposals) }
    }

    /// The ancestry of `entry`, which is noted for those that follow it.
    pub fn of(&mut self, entry: &Entry, owner: &MemberId) -> Ancestry {
        let Position::Log { seq, prev } = *entry.statement.position() else { return Ancestry::default() };
        let before = self.after.get(&prev).cloned().unwrap_or_else(|| self.behind(seq));
        let mut after = before.clone();
        if entry.standing == Standing::Valid {
            if let Some(keys) = before.keys.and(&entry.statement, owner) {
                after.keys = Arc::new(keys);
                self.key_steps.push(Arc::clone(&after.keys));
            }
            let own = |inner: &&Statement| inner.author() == owner && inner.coop() == entry.statement.coop();
            if let Some(inner) = entry.statement.nested().filter(own)
                && let Body::Proposal(proposal) = inner.body()
            {
                let mut proposals = BTreeMap::clone(&before.proposals);
                proposals.insert(inner.id(), proposal.closes_at);
                after.proposals = Arc::new(proposals);
            }
        }
        self.last = after.clone();
        self.after.insert(entry.id().0, after);
        before
    }

    /// What was said about keys up to and with the entry `id`.
    pub fn keys_after(&self, id: StatementId) -> Option<Arc<KeyHistory>> {
        self.after.get(&id.0).map(|after| Arc::clone(&after.keys))
    }
}
