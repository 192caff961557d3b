//! What a history amounts to, with the entries that prove it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::members::{BranchReport, KeyReport, MemberReport, NoticeReport, OrderReport};
use crate::body::entry::{Outcome, Slot};
use crate::body::proposal::{Choice, Scope};
use crate::ids::{
    BoxRoot, CoopId, EngineName, Line, ManifestDigest, MemberId, PolicyHash, PublicKey, Seq, StatementId, UnixSeconds,
};

/// Everything that the entries of a bundle amount to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The cooperative.
    pub coop: CoopId,
    /// What people call it.
    pub name: Line,
    /// When the bundle was exported.
    pub as_of: UnixSeconds,
    /// The rules in force.
    pub rules: u32,
    /// How many entries there are.
    pub entries: u64,
    /// The newest version of every policy.
    pub heads: BTreeMap<Scope, PolicyHash>,
    /// Every decision since the founding, in the order of the versions of each policy.
    pub decisions: Vec<Decision>,
    /// Every proposal that was anchored.
    pub proposals: Vec<ProposalReport>,
    /// Every wish to leave.
    pub leaves: Vec<LeaveReport>,
    /// Members, present and past.
    pub members: Vec<MemberReport>,
    /// Models that were voted on.
    pub releases: Vec<ReleaseReport>,
    /// The engine catalogue.
    pub engines: Vec<EngineReport>,
    /// What operators have said of the slots that they ended, by the newest membership.
    pub ended: Vec<EndedReport>,
    /// Votes on what is not known, with the id that they name.
    pub stray_votes: Vec<(StatementId, VoteReport)>,
    /// Seals that contradict each other.
    pub faults: Vec<FaultReport>,
    /// Logs that forked.
    pub forks: Vec<ForkReport>,
    /// Entries on branches that the bundle does not hold, of which proofs tell. Members hold two branches of a log: those
    /// that were shown others than these may conclude something else from what stands there.
    pub branches: Vec<BranchReport>,
    /// What people said about their keys.
    pub keys: Vec<KeyReport>,
    /// Emergency orders.
    pub orders: Vec<OrderReport>,
}

/// One seal or entry: whose, and when by its signer's clock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Signed {
    /// The entry.
    pub id: StatementId,
    /// Whose.
    pub by: MemberId,
    /// When.
    pub at: UnixSeconds,
}

/// One version of a policy and what proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// The chain.
    pub scope: Scope,
    /// Counted from the charter, which is 0.
    pub number: u64,
    /// The version.
    pub version: PolicyHash,
    /// The version before it.
    pub parent: Option<PolicyHash>,
    /// The proposal, or the statement with which a member left.
    pub child: StatementId,
    /// The box.
    pub root: BoxRoot,
    /// The attempt in which it succeeded.
    pub term: u32,
    /// From when on everybody can have known it.
    pub settled_at: UnixSeconds,
    /// The close seals.
    pub close_seals: Vec<Signed>,
    /// The enact seals.
    pub enact_seals: Vec<Signed>,
}

/// Where a proposal stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// The name of its phase.
    pub phase: &'static str,
    /// What the phase is about, the same in every implementation: a version, another proposal, a reason's name.
    pub detail: String,
    /// For people, where there is more to say.
    pub why: Option<String>,
}

/// A proposal, its votes and its seals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProposalReport {
    /// Its id.
    pub id: StatementId,
    /// Whose.
    pub author: MemberId,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// The name of what it would change.
    pub action: &'static str,
    /// What it would change.
    pub change: Value,
    /// Its title.
    pub title: Line,
    /// The rules by which it is judged.
    pub rules: u32,
    /// Where it would be enacted.
    pub slot: Slot,
    /// Where it stands.
    pub standing: Standing,
    /// Who seals it.
    pub sealers: BTreeSet<MemberId>,
    /// How many must agree on its box.
    pub quorum: usize,
    /// How many must sign its enactment.
    pub enact_quorum: usize,
    /// Its box; none for one that may not be voted on.
    pub ballot: Option<BoxReport>,
    /// What operators said of whether the member that it is about was told.
    pub notices: Vec<NoticeReport>,
    /// The boxes that enough sealers agree on.
    pub certificates: Vec<CertificateReport>,
    /// Its votes.
    pub votes: Vec<VoteReport>,
}

/// A ballot box.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BoxReport {
    /// Its root.
    pub root: BoxRoot,
    /// How many are in it.
    pub count: usize,
    /// When it closed.
    pub closed_at: UnixSeconds,
    /// Whether it closed because all had voted.
    pub all_voted: bool,
    /// What it amounts to with everything that is not a vote.
    pub outcome: Outcome,
    /// The count.
    pub tally: TallyReport,
}

/// A count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TallyReport {
    /// How many may vote.
    pub electors: u32,
    /// For it.
    pub yes: u32,
    /// Against it.
    pub no: u32,
    /// For the turnout only.
    pub abstain: u32,
    /// Against it and toward the block.
    pub veto: u32,
    /// How many must take part.
    pub turnout_needed: u32,
    /// How many yes are needed at least.
    pub min_yes: u32,
    /// What it amounts to.
    pub outcome: Outcome,
}

/// A box that enough sealers agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateReport {
    /// In which attempt.
    pub term: u32,
    /// The box.
    pub root: BoxRoot,
    /// How many are in it.
    pub count: u32,
    /// The newest membership version that its sealers knew.
    pub membership_head: PolicyHash,
    /// What it amounts to.
    pub outcome: Outcome,
    /// When it closed.
    pub closed_at: UnixSeconds,
    /// The seals.
    pub seals: Vec<Signed>,
}

/// A vote and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VoteReport {
    /// The vote.
    pub id: StatementId,
    /// Whose.
    pub author: MemberId,
    /// How.
    pub choice: Choice,
    /// Its number among its author's votes.
    pub vseq: u32,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// Whether it counts, by name.
    pub verdict: &'static str,
    /// The same for people.
    pub why: String,
}

/// A wish to leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaveReport {
    /// The statement.
    pub id: StatementId,
    /// Whose.
    pub author: MemberId,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// The version with which it left.
    pub enacted: Option<PolicyHash>,
    /// The seals that bind a slot to it.
    pub certificates: Vec<CertificateReport>,
}

/// A model that was voted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseReport {
    /// The model.
    pub digest: ManifestDigest,
    /// The version that approved it.
    pub since: PolicyHash,
    /// The version that withdrew it.
    pub withdrawn: Option<PolicyHash>,
}

/// An engine of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineReport {
    /// Its name.
    pub name: EngineName,
    /// Its image.
    pub image: String,
}

/// A slot in which operators sign no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndedReport {
    /// Which slot.
    pub slot: Slot,
    /// `open` while too few have said so, `free`, or what alone may follow.
    pub what: String,
}

/// Two seals that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultReport {
    /// What was done.
    pub fault: &'static str,
    /// Whose seals.
    pub member: MemberId,
    /// On what: a proposal or a chain.
    pub about: String,
    /// One seal.
    pub first: StatementId,
    /// The other.
    pub second: StatementId,
}

/// A log that forked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForkReport {
    /// Whose log.
    pub member: MemberId,
    /// The log.
    pub log: PublicKey,
    /// At which position.
    pub seq: Seq,
    /// One payload.
    pub first: StatementId,
    /// The other.
    pub second: StatementId,
}
