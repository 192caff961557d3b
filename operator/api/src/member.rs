//! `Member`: one owner in the cooperative, as the signed log tells.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Endpoints, Site};

/// One member of the cooperative. The facts stand in `status`, written by this cluster's operator from the signed log;
/// `spec` is the local owner's stance and may be applied before the facts are known. The object's name is the member's id.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "koinon.dev",
    version = "v1alpha1",
    kind = "Member",
    namespaced,
    status = "MemberStatus",
    derive = "PartialEq",
    cel,
    shortname = "kmem",
    category = "koinon",
    doc = "One member of the cooperative, as the signed log tells.",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?$')").message("the name is the member's id: a DNS label of at most 30 characters"),
    printcolumn(name = "Owner", type_ = "string", json_path = ".status.owner"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Liveness", type_ = "string", json_path = ".status.liveness"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Cordoned", type_ = "boolean", json_path = ".spec.cordoned", priority = 1),
    printcolumn(name = "Seen", type_ = "date", json_path = ".status.lastSeenTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MemberSpec {
    /// True: give this member no new work, and take none from it. What runs goes on.
    #[serde(default)]
    pub cordoned: bool,
    /// Why, for those who read it later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::line")]
    pub reason: Option<String>,
}

/// What the log and the wire tell about a member.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The legal owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The owner's declared control group: one vote each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_group: Option<String>,
    /// The site of the member's seat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Site>,
    /// The member's keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<MemberKeys>,
    /// Where it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
    /// Where it stands in the membership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<MemberState>,
    /// Whether it is heard. The own member is Self.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Liveness>,
    /// When it was last heard directly. Written when liveness changes and at most once a minute otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_time: Option<Time>,
    /// The version of the membership that this is taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership_version: Option<String>,
    /// The number of its governance keys' set: how often they were replaced since its log began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_set: Option<i64>,
    /// While it is Probationary: from when a vote may confirm it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probation_ends_time: Option<Time>,
    /// While it is Dormant: since when it is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dormant_since_time: Option<Time>,
    /// Proofs against its operator that no vote has lifted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub proofs: Vec<Proof>,
    /// Reachable, LogIntact, MayWork, Usable, Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What proves that an operator did what an honest one does not do.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// Its name, by which a vote lifts it.
    #[schemars(schema_with = "crate::schema::digest")]
    pub proof: String,
    /// What was done, and where.
    #[schemars(schema_with = "crate::schema::line")]
    pub offence: String,
    /// The two log entries that show it.
    #[schemars(schema_with = "crate::schema::digests")]
    pub entries: Vec<String>,
}

/// A member's public keys.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberKeys {
    /// Kept offline; they replace the others.
    #[schemars(schema_with = "crate::schema::public_keys")]
    pub recovery: Vec<String>,
    /// People vote with these.
    #[schemars(schema_with = "crate::schema::public_keys")]
    pub governance: Vec<String>,
    /// The operator's machine key.
    #[schemars(schema_with = "crate::schema::public_key")]
    pub operator: String,
}

/// Where a member stands in the membership.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum MemberState {
    /// Its application waits for the vote.
    #[default]
    Applying,
    /// It takes part.
    Active,
    /// It is new: it works within limits, and has no vote until it is confirmed.
    Probationary,
    /// It fell silent: it works while it is heard, and has no vote until a vote counts it again.
    Dormant,
    /// It has said that it leaves: it gets nothing new.
    Leaving,
    /// It may speak and vote, and does no work: a vote or an order says so.
    Suspended,
    /// It may speak and vote, and does no work: its operator's own signatures prove what an honest one does not do.
    Quarantined,
    /// It left.
    Left,
    /// It was expelled.
    Expelled,
}

/// Whether a member is heard.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Liveness {
    /// This member itself.
    #[serde(rename = "Self")]
    Own,
    /// Heard within the charter's limit.
    Fresh,
    /// Not heard for a while: no new work.
    #[default]
    Suspect,
    /// Not heard for long: its replicas are placed elsewhere.
    Lost,
}
