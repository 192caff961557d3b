//! `GPUOffer`: what another member said last about its GPUs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::{Evidence, GuestMode, NetworkPolicyState};

/// What a member last said about the GPUs that it shares. Facts stand in `status`; the object's name is the member's id.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "koinon.dev",
    version = "v1alpha1",
    kind = "GPUOffer",
    plural = "gpuoffers",
    namespaced,
    status = "GPUOfferStatus",
    derive = "PartialEq",
    cel,
    shortname = "koffer",
    category = "koinon",
    doc = "What a member last said about the GPUs that it shares.",
    printcolumn(name = "Member", type_ = "string", json_path = ".status.member"),
    printcolumn(name = "Classes", type_ = "string", json_path = ".status.classes[*].class"),
    printcolumn(name = "Offered", type_ = "integer", json_path = ".status.offered"),
    printcolumn(name = "LargestBlock", type_ = "integer", json_path = ".status.largestBlock"),
    printcolumn(name = "Evidence", type_ = "string", json_path = ".status.classes[*].evidence"),
    printcolumn(name = "Guests", type_ = "string", json_path = ".status.guests"),
    printcolumn(name = "NetworkPolicy", type_ = "string", json_path = ".status.networkPolicy", priority = 1),
    printcolumn(name = "Fresh", type_ = "string", json_path = ".status.conditions[?(@.type==\"Fresh\")].status"),
    printcolumn(name = "AsOf", type_ = "date", json_path = ".status.asOfTime")
)]
#[serde(rename_all = "camelCase")]
pub struct GPUOfferSpec {}

/// A member's offer.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GPUOfferStatus {
    /// Whose offer it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::member")]
    pub member: Option<String>,
    /// The statement that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::digest")]
    pub statement: Option<String>,
    /// What is offered, by class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["class".into()]))]
    #[schemars(length(max = 64))]
    pub classes: Vec<OfferClass>,
    /// Devices offered, over all classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub offered: Option<i32>,
    /// The most devices on one node, over all classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub largest_block: Option<i32>,
    /// What the owner does with foreign work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guests: Option<GuestMode>,
    /// What the owner's probe found about NetworkPolicies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicyState>,
    /// The jurisdiction of the machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::jurisdiction")]
    pub jurisdiction: Option<String>,
    /// Where its gateway is reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::urls")]
    pub gateway: Vec<String>,
    /// Manifest digests of the weights that it has in its cache.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::digests")]
    pub weights: Vec<String>,
    /// When the offer was made, by its author's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of_time: Option<Time>,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after_time: Option<Time>,
    /// What members measured of it under the rules in force, as far as this member could check it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub challenges: Vec<OfferChallenge>,
    /// Fresh, Usable, Challenged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What is offered of one class.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfferClass {
    /// The class, as `h100-80`.
    #[schemars(schema_with = "crate::schema::gpu_class")]
    pub class: String,
    /// The product.
    #[schemars(schema_with = "crate::schema::line")]
    pub product: String,
    /// The memory of one device.
    #[schemars(range(min = 0))]
    pub memory_bytes: i64,
    /// Devices offered.
    #[schemars(range(min = 0))]
    pub offered: i32,
    /// The most of them on one node.
    #[schemars(range(min = 0))]
    pub largest_block: i32,
    /// The most that any one node has, free or not; absent where the member did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub largest_node: Option<i32>,
    /// How far this member believes the figures: no further than their owner says, but for what others measured.
    pub evidence: Evidence,
    /// What the owner says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Evidence>,
    /// Where it is Challenged: for jobs of how many devices on one node at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub challenged_devices: Option<i32>,
    /// Where it is Challenged: until when, if nobody measures it anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_until_time: Option<Time>,
}

/// What one member measured of a class.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfferChallenge {
    /// The class.
    #[schemars(schema_with = "crate::schema::gpu_class")]
    pub class: String,
    /// Who measured.
    #[schemars(schema_with = "crate::schema::member")]
    pub by: String,
    /// Fits, TooFast, TooSlow, Refuted, or Nothing, which proves nothing.
    #[schemars(schema_with = "crate::schema::reason")]
    pub result: String,
    /// Devices asked at once.
    #[schemars(range(min = 0))]
    pub devices: i32,
    /// Milliseconds for computing and for hashing what was computed, or why there was no right answer.
    #[schemars(schema_with = "crate::schema::line")]
    pub message: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_time: Option<Time>,
}
