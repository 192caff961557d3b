//! What an entry's own chain says: it follows from the entry's id alone, whatever else of its log is known.
//!
//! Two branches of a fork each have their own ancestry, so that learning of the other one changes nothing that was
//! concluded from this one: a member could otherwise undo decisions by forking its own past.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::keys::KeyHistory;
use crate::body::Body;
use crate::ids::{Digest, MemberId, StatementId, UnixSeconds};
use crate::log::{Entry, Standing};
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
pub(super) struct Ancestries {
    after: BTreeMap<Digest, Ancestry>,
    /// Every key history that differs from the one before it.
    pub key_steps: Vec<Arc<KeyHistory>>,
}

impl Ancestries {
    /// The ancestry of `entry`, which is noted for those that follow it.
    pub fn of(&mut self, entry: &Entry, owner: &MemberId) -> Ancestry {
        let Position::Log { prev, .. } = *entry.statement.position() else { return Ancestry::default() };
        let before = self.after.get(&prev).cloned().unwrap_or_default();
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
        self.after.insert(entry.id().0, after);
        before
    }

    /// What was said about keys up to and with the entry `id`.
    pub fn keys_after(&self, id: StatementId) -> Option<Arc<KeyHistory>> {
        self.after.get(&id.0).map(|after| Arc::clone(&after.keys))
    }
}
