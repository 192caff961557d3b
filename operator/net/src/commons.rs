//! What the operator offers to those who read from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use koinon_core::body::entry::Head;
use koinon_core::dsse::Envelope;
use koinon_core::ids::{MemberId, PublicKey, Seq, StatementId};
use thiserror::Error;
use tokio::sync::watch;

use crate::wire::{JoinAccepted, JoinRefused, JoinRequest};

/// The last entry of each log, by operator key.
pub type Heads = BTreeMap<PublicKey, Head>;

/// What a key may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everything in the commons, and the Latest statements for this member.
    Member(MemberId),
    /// The commons, until the proposal to admit it ends.
    Applicant,
    /// The commons: the key was this member's, and whoever holds it must be able to learn what replaced it.
    FormerPin(MemberId),
    /// The logs up to the expulsion and nothing else.
    Expelled {
        /// The last entry of each log that it may read; logs that are not named are not served.
        until: Heads,
    },
    /// Nothing.
    Unknown,
}

impl Access {
    /// The name in labels and messages.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Access::Member(_) => "member",
            Access::Applicant => "applicant",
            Access::FormerPin(_) => "formerPin",
            Access::Expelled { .. } => "expelled",
            Access::Unknown => "unknown",
        }
    }

    /// Whether documents are served.
    pub(crate) fn reads_documents(&self) -> bool {
        matches!(self, Access::Member(_) | Access::Applicant | Access::FormerPin(_))
    }

    /// The last position of `log` that is served; `None` where the log is not served at all.
    pub(crate) fn last_seq(&self, log: &PublicKey) -> Option<Seq> {
        match self {
            Access::Member(_) | Access::Applicant | Access::FormerPin(_) => Some(Seq(u64::MAX)),
            Access::Expelled { until } => until.get(log).map(|head| head.seq),
            Access::Unknown => None,
        }
    }

    /// The part of `heads` that is served.
    pub(crate) fn cut(&self, heads: Heads) -> Heads {
        match self {
            Access::Expelled { until } => heads
                .into_iter()
                .filter_map(|(log, head)| {
                    let last = until.get(&log)?;
                    Some((log, if head.seq <= last.seq { head } else { *last }))
                })
                .collect(),
            Access::Unknown => Heads::new(),
            Access::Member(_) | Access::Applicant | Access::FormerPin(_) => heads,
        }
    }
}

/// An entry with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its log.
    pub log: PublicKey,
    /// Its position in that log.
    pub seq: Seq,
    /// Its id.
    pub id: StatementId,
    /// What is sent, byte for byte as it was received.
    pub envelope: Arc<Envelope>,
}

/// An own Latest statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// Its id.
    pub id: StatementId,
    /// What is sent.
    pub envelope: Arc<Envelope>,
}

/// Why the commons cannot be read at this moment; readers are told to come again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the commons cannot be read now: {0}")]
pub struct CommonsError(pub String);

/// What a node offers to its readers, and knows about what it reads itself.
///
/// Everything is asked often and by several connections at once. [`Commons::changes`] moves after any change of the
/// answers; between two moves, connections assume that the answers are the same.
pub trait Commons: Send + Sync + 'static {
    /// What `key` may read now.
    fn access(&self, key: &PublicKey) -> Access;

    /// Where each log ends; only what has been read back from the store counts.
    fn heads(&self) -> Heads;

    /// Whether the statement is already stored, so that it need not be delivered again.
    fn holds(&self, id: &StatementId) -> bool;

    /// Entries of `log` from position `from` on, in order, at most `limit`. Where a log is forked, all entries of a
    /// position follow each other.
    fn range<'a>(
        &'a self,
        log: &'a PublicKey,
        from: Seq,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Entry>, CommonsError>>;

    /// For each forked log the entries at the position where it forked, so that every reader gets the proof however far
    /// its own copy of the log has come. Empty in a healthy cooperative.
    fn forks(&self) -> Vec<Entry>;

    /// A document that a stored entry refers to.
    fn document<'a>(&'a self, id: &'a StatementId) -> BoxFuture<'a, Result<Option<Arc<Envelope>>, CommonsError>>;

    /// The own Latest statements that are addressed to `reader` or to everybody; empty where this replica leads
    /// nothing.
    fn latest_for(&self, reader: &MemberId) -> Vec<Latest>;

    /// Moves after every change of access, heads, forks or Latest statements.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Takes the application of whoever has proven to hold `key`.
    ///
    /// The implementation checks that the application names `key` as its operator key, and that the secret is of an
    /// open invite; it marks the invite as used before it accepts. The same request of the same key is accepted again,
    /// because its first answer may have been lost on the way.
    fn join<'a>(&'a self, key: &'a PublicKey, request: JoinRequest)
    -> BoxFuture<'a, Result<JoinAccepted, JoinRefused>>;
}
