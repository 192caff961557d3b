//! What operators write into their logs: anchors, seals, proofs of forks, the resumption after a lost log.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::proposal::Scope;
use crate::dsse::Envelope;
use crate::ids::{BoxRoot, PolicyHash, PublicKey, Seq, StatementId, UnixSeconds};

/// Gives a human statement its place: it counts from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Anchor {
    /// The statement, verbatim.
    pub statement: Envelope,
}

/// The result of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It takes effect at its time.
    Passed,
    /// Too few yes.
    Rejected,
    /// Too few took part.
    QuorumNotMet,
    /// Enough vetoes.
    Vetoed,
    /// It was pinned to a membership that had long been replaced.
    Stale,
    /// Its author took it back in time (rules 2).
    Withdrawn,
    /// The member that it is about has shown that it is not so (rules 2).
    Refuted,
    /// The member that it is about was not heard (rules 2).
    Unheard,
    /// The same was refused not long ago, and too few want it nevertheless (rules 2).
    CoolDown,
}

impl Outcome {
    /// The lowest rules that know it.
    pub fn since_rules(self) -> u32 {
        match self {
            Self::Passed | Self::Rejected | Self::QuorumNotMet | Self::Vetoed | Self::Stale => 1,
            Self::Withdrawn | Self::Refuted | Self::Unheard | Self::CoolDown => 2,
        }
    }
}

/// What one operator held of a ballot box when it closed. A vote is in the box if enough operators offer it, so that
/// nobody alone can bring in one that came late (rules 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BoxOffer {
    /// Of which proposal.
    pub proposal: StatementId,
    /// The log entries that belong into its box: anchors of votes, delegations, recusals, and of a withdrawal;
    /// and the close seals of an earlier vote that refused the same.
    pub entries: BTreeSet<StatementId>,
}

/// What one operator holds to be the content of a ballot box.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CloseSeal {
    /// Of which proposal.
    pub proposal: StatementId,
    /// Counts this operator's seals on it; higher whenever the box grew.
    pub round: u32,
    /// The Merkle root over the sorted ids in the box.
    pub root: BoxRoot,
    /// How many there are.
    pub count: u32,
    /// The newest membership version that the operator knew.
    pub membership_head: PolicyHash,
    /// What the box amounts to.
    pub outcome: Outcome,
    /// When the box closed: the proposal's time, or the last vote's where all have voted.
    pub closed_at: UnixSeconds,
    /// What the box rests on (rules 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
}

/// What a close seal of rules 2 rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Basis {
    /// Where the proposal would be enacted. A member seals one thing as passed for it, ever.
    pub slot: Slot,
    /// The box offers from which anybody can compute the box; none for a leaving, whose box is itself.
    pub offers: BTreeSet<StatementId>,
}

/// Where in a policy chain something is enacted. A member signs one thing for it, ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Slot {
    /// The chain.
    pub scope: Scope,
    /// The version that is followed.
    pub parent: PolicyHash,
    /// The attempt.
    pub term: u32,
}

/// One operator's signature under an enactment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnactSeal {
    /// Where.
    pub slot: Slot,
    /// What: a proposal, or a member's leaving.
    pub proposal: StatementId,
    /// On which box.
    pub root: BoxRoot,
    /// The version that results.
    pub version: PolicyHash,
}

/// One operator signs no more in a slot or a lower term, and says what it has signed there (rules 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SlotStatus {
    /// Which slot.
    pub slot: Slot,
    /// What it signed the enactment of there, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<StatementId>,
}

/// Two payloads of one position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Evidence {
    /// Of which log.
    pub log: PublicKey,
    /// At which position.
    pub seq: Seq,
    /// One payload.
    pub first: StatementId,
    /// The other.
    pub second: StatementId,
    /// Both envelopes if they fit, otherwise none: then they are fetched by id.
    #[serde(default)]
    pub envelopes: Vec<Envelope>,
}

/// Two seals of one operator that contradict each other, verbatim (rules 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SealEvidence {
    /// One entry.
    pub first: Envelope,
    /// The other.
    pub second: Envelope,
}

/// The last known entry of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Head {
    /// Its position.
    pub seq: Seq,
    /// Its id.
    pub id: StatementId,
}

/// The first entry of a log that follows a lost one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogResume {
    /// The lost log.
    pub old_log: PublicKey,
    /// Its last entry that anybody knows; absent if nobody knows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_head: Option<Head>,
}
