//! What people sign: proposals, votes, leaving. None of these has a position; they count from their anchor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::catalogue::{Engine, ModelRelease};
use super::charter::{Class, ClassRules, Deliberation, Parameters};
use super::hearing::EvidenceRef;
use super::norms::{AuditRate, Checkpoint, OperatorRelease, PlacementRules, Prices, Shares};
use super::standing::{Confirm, LiftQuarantine, MarkDormant, Reactivate, Reinstate, ResetKeys, Suspend};
use crate::dsse::Envelope;
use crate::ids::{
    EngineName, IdError, Line, ManifestDigest, MemberId, PolicyHash, Prose, Seconds, StatementId, UnixSeconds,
    as_string,
};

/// A chain of policy versions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Who is a member.
    Membership,
    /// Which models may be placed.
    Releases,
    /// Which engines there are.
    Engines,
    /// The charter's numbers, and the rules in force.
    Charter,
    /// Who may do new work (rules 2).
    Standing,
    /// Where work may run, and how much of it one member may hold (rules 2).
    Placement,
    /// What work costs, and how much of it is checked (rules 2).
    Economy,
    /// The release of the operator that members are asked to run (rules 2).
    Operators,
    /// What is settled for good (rules 2).
    Checkpoints,
    /// What stops other proposals. It has no versions: a certificate is enough.
    Cancellations,
}

impl Scope {
    /// All scopes that have versions.
    pub const ALL: [Self; 9] = [
        Self::Membership,
        Self::Releases,
        Self::Engines,
        Self::Charter,
        Self::Standing,
        Self::Placement,
        Self::Economy,
        Self::Operators,
        Self::Checkpoints,
    ];

    /// The lowest rules that know it.
    pub fn since_rules(self) -> u32 {
        match self {
            Self::Membership | Self::Releases | Self::Engines | Self::Charter => 1,
            Self::Standing | Self::Placement | Self::Economy | Self::Operators | Self::Checkpoints => 2,
            Self::Cancellations => 2,
        }
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Membership => "membership",
            Self::Releases => "releases",
            Self::Engines => "engines",
            Self::Charter => "charter",
            Self::Standing => "standing",
            Self::Placement => "placement",
            Self::Economy => "economy",
            Self::Operators => "operators",
            Self::Checkpoints => "checkpoints",
            Self::Cancellations => "cancellations",
        }
    }
}
impl FromStr for Scope {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::ALL.into_iter().chain([Self::Cancellations]).find(|scope| scope.as_str() == text).ok_or_else(|| {
            let rule = "must be membership, releases, engines, charter, standing, placement, economy, operators, \
                        checkpoints or cancellations";
            IdError::new("a scope", rule, text)
        })
    }
}
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
as_string!(Scope);

/// What a proposal would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Action {
    /// Approve a model.
    AddModelRelease(ModelRelease),
    /// Approve a model no longer; what runs is drained.
    WithdrawModelRelease(WithdrawModelRelease),
    /// Add or replace an engine of the catalogue.
    AddEngine(AddEngine),
    /// Remove an engine from the catalogue.
    RemoveEngine(RemoveEngine),
    /// Admit a member.
    Admit(Admit),
    /// Decide by later rules from here on.
    SetRules(SetRules),
    /// Change the charter's numbers (rules 2).
    ChangeCharter(Box<ChangeCharter>),
    /// Stop a proposal that has passed and is not in force yet (rules 2).
    CancelProposal(CancelProposal),
    /// Expel a member (rules 2).
    Expel(Expel),
    /// Give a member that lost its keys others (rules 2).
    ResetKeys(ResetKeys),
    /// Count a new member from now on (rules 2).
    Confirm(Confirm),
    /// Count a silent member no more (rules 2).
    MarkDormant(MarkDormant),
    /// Count a dormant member again (rules 2).
    Reactivate(Reactivate),
    /// Let a member work again although there are proofs against its operator (rules 2).
    LiftQuarantine(LiftQuarantine),
    /// No new work of or for a member; it goes on speaking, voting and sealing (rules 2).
    Suspend(Suspend),
    /// Let a suspended member work again (rules 2).
    Reinstate(Reinstate),
    /// Where work for other members may run (rules 2).
    SetPlacementRules(PlacementRules),
    /// How much of the others' GPUs one member may hold (rules 2).
    SetShares(Shares),
    /// What work costs (rules 2).
    SetPrices(Prices),
    /// How much of what is served is checked (rules 2).
    SetAuditRate(AuditRate),
    /// Which release of the operator members are asked to run (rules 2).
    AdviseOperatorRelease(OperatorRelease),
    /// Settle everything up to here for good (rules 2).
    Checkpoint(Checkpoint),
}

/// See [`Action::WithdrawModelRelease`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WithdrawModelRelease {
    /// Which model.
    pub manifest_digest: ManifestDigest,
}

/// See [`Action::AddEngine`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddEngine {
    /// The entry.
    pub engine: Engine,
}

/// See [`Action::RemoveEngine`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoveEngine {
    /// Its name.
    pub name: EngineName,
}

/// See [`Action::Admit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Admit {
    /// The applicant's signed application, verbatim.
    pub application: Envelope,
}

/// See [`Action::SetRules`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetRules {
    /// The next version of the rules.
    pub rules: u32,
    /// What they ask the charter for beyond its earlier numbers.
    pub deliberation: Deliberation,
}

/// See [`Action::ChangeCharter`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeCharter {
    /// All periods and limits.
    pub parameters: Parameters,
    /// All classes.
    pub classes: BTreeMap<Class, ClassRules>,
}

/// See [`Action::CancelProposal`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CancelProposal {
    /// Which one.
    pub proposal: StatementId,
}

/// See [`Action::Expel`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expel {
    /// Which member.
    pub member: MemberId,
    /// What for: at least one reference.
    #[serde(default)]
    pub evidence: Vec<EvidenceRef>,
    /// The appeal that this is the second vote on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appeal: Option<StatementId>,
}

impl Action {
    /// The lowest rules under which it can be proposed.
    pub fn since_rules(&self) -> u32 {
        match self {
            Self::ChangeCharter(_) | Self::CancelProposal(_) | Self::Expel(_) => 2,
            Self::ResetKeys(_) | Self::Confirm(_) | Self::MarkDormant(_) | Self::Reactivate(_) => 2,
            Self::LiftQuarantine(_) | Self::Suspend(_) | Self::Reinstate(_) => 2,
            Self::SetPlacementRules(_) | Self::SetShares(_) | Self::SetPrices(_) | Self::SetAuditRate(_) => 2,
            Self::AdviseOperatorRelease(_) | Self::Checkpoint(_) => 2,
            _ => 1,
        }
    }

    /// The policy chain that it changes.
    pub fn scope(&self) -> Scope {
        match self {
            Self::AddModelRelease(_) | Self::WithdrawModelRelease(_) => Scope::Releases,
            Self::AddEngine(_) | Self::RemoveEngine(_) => Scope::Engines,
            Self::Admit(_) | Self::Expel(_) => Scope::Membership,
            Self::ResetKeys(_) | Self::Confirm(_) | Self::MarkDormant(_) | Self::Reactivate(_) => Scope::Membership,
            Self::SetRules(_) | Self::ChangeCharter(_) => Scope::Charter,
            Self::LiftQuarantine(_) | Self::Suspend(_) | Self::Reinstate(_) => Scope::Standing,
            Self::SetPlacementRules(_) | Self::SetShares(_) => Scope::Placement,
            Self::SetPrices(_) | Self::SetAuditRate(_) => Scope::Economy,
            Self::AdviseOperatorRelease(_) => Scope::Operators,
            Self::Checkpoint(_) => Scope::Checkpoints,
            Self::CancelProposal(_) => Scope::Cancellations,
        }
    }

    /// The class that decides it.
    pub fn class(&self) -> Class {
        match self {
            Self::Admit(_) | Self::ResetKeys(_) | Self::Confirm(_) => Class::Admit,
            Self::SetRules(_) | Self::ChangeCharter(_) => Class::Charter,
            Self::CancelProposal(_) => Class::Cancel,
            Self::Expel(_) => Class::Expel,
            // As a removal from an office: no few friends can veto it, and nobody's vote is another's.
            Self::Suspend(_) | Self::Reinstate(_) => Class::Recall,
            Self::MarkDormant(_) | Self::Reactivate(_) | Self::LiftQuarantine(_) => Class::Routine,
            Self::SetShares(_) | Self::SetPrices(_) | Self::SetAuditRate(_) => Class::Economic,
            Self::SetPlacementRules(_) | Self::AdviseOperatorRelease(_) | Self::Checkpoint(_) => Class::Routine,
            Self::AddModelRelease(_) | Self::WithdrawModelRelease(_) | Self::AddEngine(_) | Self::RemoveEngine(_) => {
                Class::Routine
            }
        }
    }

    /// Its name, as in conditions and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AddModelRelease(_) => "addModelRelease",
            Self::WithdrawModelRelease(_) => "withdrawModelRelease",
            Self::AddEngine(_) => "addEngine",
            Self::RemoveEngine(_) => "removeEngine",
            Self::Admit(_) => "admit",
            Self::SetRules(_) => "setRules",
            Self::ChangeCharter(_) => "changeCharter",
            Self::CancelProposal(_) => "cancelProposal",
            Self::Expel(_) => "expel",
            Self::ResetKeys(_) => "resetKeys",
            Self::Confirm(_) => "confirm",
            Self::MarkDormant(_) => "markDormant",
            Self::Reactivate(_) => "reactivate",
            Self::LiftQuarantine(_) => "liftQuarantine",
            Self::Suspend(_) => "suspend",
            Self::Reinstate(_) => "reinstate",
            Self::SetPlacementRules(_) => "setPlacementRules",
            Self::SetShares(_) => "setShares",
            Self::SetPrices(_) => "setPrices",
            Self::SetAuditRate(_) => "setAuditRate",
            Self::AdviseOperatorRelease(_) => "adviseOperatorRelease",
            Self::Checkpoint(_) => "checkpoint",
        }
    }
}

/// Something to vote on. Who may vote, what it follows and when everything happens is frozen in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Proposal {
    /// How it is decided.
    pub class: Class,
    /// The policy chain that it changes.
    pub scope: Scope,
    /// The version that it follows.
    pub parent: PolicyHash,
    /// The membership version whose members vote and seal.
    pub membership: PolicyHash,
    /// The charter version by whose numbers it is decided. It makes a proposal one of rules 2; under rules 1 there is only
    /// the founding charter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charter: Option<PolicyHash>,
    /// The change.
    pub action: Action,
    /// From when votes count.
    pub opens_at: UnixSeconds,
    /// Until when votes count.
    pub closes_at: UnixSeconds,
    /// When it takes effect.
    pub eta: UnixSeconds,
    /// Until when it may be enacted.
    pub expires_at: UnixSeconds,
    /// Which attempt to follow `parent`; higher when an earlier one ended without effect.
    pub term: u32,
    /// The member that it is about, who does not vote on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<MemberId>,
    /// Members with an interest in it, who do not vote on it either; each of them signs it as well (rules 2).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub interested: BTreeSet<MemberId>,
    /// One line.
    pub title: Line,
    /// The case for it.
    #[serde(default)]
    pub text: Prose,
}

impl Proposal {
    /// The middle of its vote.
    pub fn half_time(&self) -> UnixSeconds {
        self.opens_at.plus(Seconds(self.closes_at.since(self.opens_at).0 / 2))
    }

    /// The rules by which it is judged, for ever.
    pub fn since_rules(&self) -> u32 {
        if self.charter.is_some() || !self.interested.is_empty() { 2 } else { self.action.since_rules() }
    }
}

/// A choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Choice {
    /// For it.
    Yes,
    /// Against it.
    No,
    /// Counts for the turnout only.
    Abstain,
    /// Against it, and blocks it where the class lets a share of vetoes block.
    Veto,
}

/// Why a veto is cast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ground {
    /// It breaks the law.
    Legal,
    /// It endangers people or machines.
    Safety,
    /// It endangers the cooperative's means.
    Solvency,
    /// It breaks the charter.
    Charter,
}

/// A vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Vote {
    /// On what.
    pub proposal: StatementId,
    /// How.
    pub choice: Choice,
    /// Orders one author's votes on one proposal; the highest counts.
    pub vseq: u32,
    /// Needed for a veto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground: Option<Ground>,
    /// For the others to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Prose>,
}

/// A member leaves. Nobody votes on it; a seal quorum only gives it its place in the membership chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Leave {
    /// For the others to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Prose>,
}

/// The author of a proposal takes it back (rules 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Withdrawal {
    /// Which one.
    pub proposal: StatementId,
}

/// Another member votes for this one where it does not vote itself; one hop, never further (rules 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delegation {
    /// Who votes; absent to end an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<MemberId>,
    /// On what.
    pub classes: BTreeSet<Class>,
    /// Orders one author's delegations; the highest counts.
    pub vseq: u32,
    /// Until when votes may close that it is used for.
    pub not_after: UnixSeconds,
}

/// A member declares an interest: on this proposal it counts as abstaining (rules 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recusal {
    /// On which one.
    pub proposal: StatementId,
}
