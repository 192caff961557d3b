//! `Vote`: one member's choice on one proposal.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::envelope::Envelope;

/// One member's choice on one proposal, signed with a governance key. Without an envelope it is a draft, whose condition
/// prints the command that signs it. It may be signed offline and applied from git in any order, any number of times.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "koinon.dev",
    version = "v1alpha1",
    kind = "Vote",
    namespaced,
    status = "VoteStatus",
    derive = "PartialEq",
    cel,
    shortname = "kvote",
    category = "koinon",
    doc = "One member's choice on one proposal.",
    printcolumn(name = "Proposal", type_ = "string", json_path = ".spec.proposal", priority = 1),
    printcolumn(name = "Author", type_ = "string", json_path = ".status.author"),
    printcolumn(name = "Choice", type_ = "string", json_path = ".spec.choice"),
    printcolumn(name = "Counted", type_ = "boolean", json_path = ".status.counted"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.choice != 'Veto' || has(self.ground)").message("a veto needs a ground"))]
#[x_kube(validation = Rule::new("!has(oldSelf.envelope) || self == oldSelf").message("a signed vote is immutable; sign another with a higher vseq"))]
#[x_kube(validation = Rule::new("!has(self.envelope) || self.envelope.payloadType == 'application/vnd.koinon.vote.v1+json'").message("the envelope does not carry a vote"))]
#[x_kube(validation = Rule::new("!has(self.envelope) || size(self.envelope.payload) <= 54616").message("a vote may have at most 40 KiB"))]
pub struct VoteSpec {
    /// The id of the proposal.
    #[schemars(schema_with = "crate::schema::digest")]
    pub proposal: String,
    /// The choice.
    pub choice: Choice,
    /// Orders several votes of one member on one proposal: the highest counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub vseq: Option<i64>,
    /// What a veto rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground: Option<Ground>,
    /// The reason, for the others to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::text")]
    pub reason: Option<String>,
    /// The signed vote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
}

/// A choice. Statements write `yes` and `no`; here the words differ, because YAML reads those two as booleans.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Choice {
    /// For it.
    Approve,
    /// Against it.
    Reject,
    /// Turnout only.
    #[default]
    Abstain,
    /// Against it, on a ground that the charter recognises.
    Veto,
}

/// What a veto may rest on.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Ground {
    /// It would break a law.
    #[default]
    Legal,
    /// It would endanger somebody.
    Safety,
    /// It would ruin a member or the cooperative.
    Solvency,
    /// It would break the charter.
    Charter,
}

/// What became of a vote.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VoteStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The vote's id: the digest of its payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The member that voted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Whether it is part of the tally. Absent while that is not decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<bool>,
    /// Why it is, or is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::reason")]
    pub reason: Option<String>,
    /// When it was anchored, by the clock of the operator that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchored_time: Option<Time>,
    /// Signed, Accepted, Anchored, Counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
