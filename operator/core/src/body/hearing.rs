//! Whom a decision is about is told of it, and is heard (rules 2).

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, Line, Prose, StatementId};

/// One operator's word on whether the member that a proposal is about knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NoticeSent {
    /// Which proposal.
    pub proposal: StatementId,
    /// What its author knows.
    pub notice: Notice,
}

/// See [`NoticeSent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Notice {
    /// It is about this operator's member, which has it.
    Received,
    /// The member has it: it says so itself.
    Delivered,
    /// The member was not heard for as long as the charter has an operator try.
    Tried,
}

/// What an expulsion or an appeal rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum EvidenceRef {
    /// A log entry that proves something by itself.
    Entry(StatementId),
    /// A document.
    Document(Document),
}

/// See [`EvidenceRef::Document`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    /// The digest of its bytes.
    pub digest: Digest,
    /// What it shows, in one line.
    pub text: Line,
}

/// References that one proposal or appeal can name.
pub const MAX_EVIDENCE: usize = 16;

/// What the member that is to be expelled says to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reply {
    /// Which proposal.
    pub proposal: StatementId,
    /// Its side.
    pub text: Prose,
}

/// The member that was expelled asks for another vote, before the expulsion takes effect, on what was not known before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Appeal {
    /// The proposal that passed.
    pub proposal: StatementId,
    /// Something that the proposal does not name.
    pub evidence: Vec<EvidenceRef>,
    /// Its side.
    pub text: Prose,
}
