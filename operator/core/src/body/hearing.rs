//! Whom a decision is about is told of it, and is heard (rules 2).

use serde::{Deserialize, Serialize};

use crate::ids::StatementId;

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
