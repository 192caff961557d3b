//! `Proposal`: a change that the cooperative votes about.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::catalogue::Action;
use crate::envelope::Envelope;

/// A change that the cooperative votes about. Without an envelope it is a draft, whose condition prints the command that
/// signs it. With one, only the envelope counts: where the other fields differ from it the proposal says EnvelopeMismatch.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "koinon.dev",
    version = "v1alpha1",
    kind = "Proposal",
    namespaced,
    status = "ProposalStatus",
    derive = "PartialEq",
    cel,
    shortname = "kprop",
    category = "koinon",
    doc = "A change that the cooperative votes about.",
    printcolumn(name = "Title", type_ = "string", json_path = ".spec.title"),
    printcolumn(name = "Author", type_ = "string", json_path = ".status.author"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "For", type_ = "integer", json_path = ".status.tally.approve"),
    printcolumn(name = "Against", type_ = "integer", json_path = ".status.tally.reject"),
    printcolumn(name = "Veto", type_ = "integer", json_path = ".status.tally.veto", priority = 1),
    printcolumn(name = "Electors", type_ = "integer", json_path = ".status.tally.electors"),
    printcolumn(name = "Closes", type_ = "string", json_path = ".status.closesTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.action) || has(self.envelope)").message("a draft needs an action"))]
#[x_kube(validation = Rule::new("!has(oldSelf.envelope) || self == oldSelf").message("a signed proposal is immutable; propose anew"))]
#[x_kube(validation = Rule::new("!has(self.envelope) || self.envelope.payloadType == 'application/vnd.koinon.proposal.v1+json'").message("the envelope does not carry a proposal"))]
#[x_kube(validation = Rule::new("!has(self.envelope) || size(self.envelope.payload) <= 54616").message("a proposal may have at most 40 KiB"))]
#[x_kube(validation = Rule::new("has(self.envelope) || !has(self.action) || !has(self.action.expel) || (has(self.action.expel.evidence) && size(self.action.expel.evidence) > 0)").message("an expulsion names the evidence that it rests on"))]
#[x_kube(validation = Rule::new("has(self.envelope) || !has(self.action) || !has(self.action.liftQuarantine) || size(self.action.liftQuarantine.proofs) > 0").message("name the proofs that were weighed"))]
#[x_kube(validation = Rule::new("has(self.envelope) || !has(self.action) || !has(self.action.resetKeys) || (size(self.action.resetKeys.keys.governance) > 0 && size(self.action.resetKeys.keys.governance) < 4)").message("a member has between 1 and 3 governance keys"))]
#[x_kube(validation = Rule::new("has(self.envelope) || !has(self.action) || !has(self.action.setPlacementRules) || !has(self.action.setPlacementRules.minEvidence) || self.action.setPlacementRules.minEvidence != 'Attested'").message("Attested is not available in this release, so that nothing could be placed; Challenged is the strongest level"))]
#[x_kube(validation = Rule::new("has(self.envelope) || !has(self.action) || !has(self.action.setPlacementRules) || !has(self.action.setPlacementRules.challenges) || self.action.setPlacementRules.challenges.everySeconds >= 200 * (self.action.setPlacementRules.challenges.challengers + 1) * self.action.setPlacementRules.challenges.mostSeconds").message("challenges would take more than a hundredth of a GPU's time; raise everySeconds to 200 * (challengers + 1) * mostSeconds"))]
#[x_kube(validation = Rule::new("has(self.envelope) || !has(self.action) || !has(self.action.setPlacementRules) || !has(self.action.setPlacementRules.challenges) || self.action.setPlacementRules.challenges.everySeconds <= self.action.setPlacementRules.challenges.freshSeconds / 10 * 9").message("what is measured would end before it may be measured anew; everySeconds may be nine tenths of freshSeconds"))]
#[x_kube(validation = Rule::new("has(self.envelope) || !has(self.action) || !has(self.action.setPlacementRules) || !has(self.action.setPlacementRules.challenges) || self.action.setPlacementRules.challenges.classes.all(c, self.action.setPlacementRules.challenges.classes[c].compute.least < self.action.setPlacementRules.challenges.classes[c].compute.most && self.action.setPlacementRules.challenges.classes[c].recall.least < self.action.setPlacementRules.challenges.classes[c].recall.most && 4 * self.action.setPlacementRules.challenges.classes[c].recall.most <= self.action.setPlacementRules.challenges.classes[c].compute.least && self.action.setPlacementRules.challenges.classes[c].compute.most + self.action.setPlacementRules.challenges.classes[c].recall.most <= 1000 * self.action.setPlacementRules.challenges.mostSeconds)").message("of each class both windows must be open, recall end within a quarter of the shortest computation, and both together within mostSeconds"))]
pub struct ProposalSpec {
    /// What it is, in one line.
    #[schemars(schema_with = "crate::schema::line")]
    pub title: String,
    /// Why, at length.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "crate::schema::text")]
    pub text: String,
    /// Which of the charter's procedures decides it.
    pub class: ProposalClass,
    /// What changes if it passes. A signed action that this version does not know is absent here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// The signed proposal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
}

/// The charter's procedures. Each has its own periods, quorum and threshold.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum ProposalClass {
    /// Models, engines, quotas.
    #[default]
    Routine,
    /// Money and credit.
    Economic,
    /// A new member.
    Admit,
    /// The rules themselves.
    Charter,
    /// Removing a member for cause.
    Expel,
    /// Removing somebody from a role.
    Recall,
    /// Stopping a proposal that passed and waits.
    Cancel,
    /// Against a danger, for a short time.
    Emergency,
}

/// Where a proposal stands.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProposalStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The proposal's id: the digest of its payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The member that proposed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The part of the rules that it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ProposalState>,
    /// The votes as this cluster knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tally: Option<Tally>,
    /// From when votes count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens_time: Option<Time>,
    /// Until when votes count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes_time: Option<Time>,
    /// When it may be enacted at the earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_time: Option<Time>,
    /// When it may be enacted at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_time: Option<Time>,
    /// The version that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<String>,
    /// Signed, Accepted, Anchored, Enacted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Votes on a proposal.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Votes for it.
    pub approve: i32,
    /// Votes against it.
    pub reject: i32,
    /// Votes that only count as turnout.
    pub abstain: i32,
    /// Vetoes.
    pub veto: i32,
    /// All votes together.
    pub turnout: i32,
    /// Those who may vote.
    pub electors: i32,
}

/// Where a proposal stands. Only Enacted changes what anybody does.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum ProposalState {
    /// Not signed.
    #[default]
    Draft,
    /// Signed, and not anchored yet.
    Submitted,
    /// Not a valid proposal; a condition says why.
    Invalid,
    /// Opens later.
    Pending,
    /// Votes are taken.
    Open,
    /// The ballot box is being sealed.
    Closing,
    /// Voted down.
    Rejected,
    /// Too few voted.
    QuorumNotMet,
    /// Vetoed.
    Vetoed,
    /// Taken back by its author.
    Withdrawn,
    /// The member that it is about has shown that it is not so.
    Refuted,
    /// The member that it is about was not heard.
    Unheard,
    /// Rests on a version that is no longer in force.
    Stale,
    /// Repeats what was rejected a short while ago.
    CoolDown,
    /// No quorum sealed it in time.
    Stalled,
    /// Passed, and waiting for its time lock.
    Queued,
    /// Passed, and the member that it is about has appealed: it is voted on once more.
    Appealed,
    /// In force.
    Enacted,
    /// Cancelled by a vote.
    Cancelled,
    /// Another proposal took its slot.
    Superseded,
    /// Not enacted in time.
    Expired,
}
