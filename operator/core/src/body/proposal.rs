//! What people sign: proposals, votes, leaving. None of these has a position; they count from their anchor.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::catalogue::{Engine, ModelRelease};
use super::charter::Class;
use crate::dsse::Envelope;
use crate::ids::{
    EngineName, IdError, Line, ManifestDigest, MemberId, PolicyHash, Prose, StatementId, UnixSeconds, as_string,
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
    /// The charter's numbers (no action under `rules: 1`).
    Charter,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 4] = [Self::Membership, Self::Releases, Self::Engines, Self::Charter];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Membership => "membership",
            Self::Releases => "releases",
            Self::Engines => "engines",
            Self::Charter => "charter",
        }
    }
}
impl FromStr for Scope {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| IdError::new("a scope", "must be membership, releases, engines or charter", text))
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

impl Action {
    /// The policy chain that it changes.
    pub fn scope(&self) -> Scope {
        match self {
            Self::AddModelRelease(_) | Self::WithdrawModelRelease(_) => Scope::Releases,
            Self::AddEngine(_) | Self::RemoveEngine(_) => Scope::Engines,
            Self::Admit(_) => Scope::Membership,
        }
    }

    /// The class that decides it.
    pub fn class(&self) -> Class {
        match self {
            Self::Admit(_) => Class::Admit,
            _ => Class::Routine,
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
    /// One line.
    pub title: Line,
    /// The case for it.
    #[serde(default)]
    pub text: Prose,
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
