//! `ModelRelease`: a model that the cooperative approved.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A release of a model that the cooperative decided about. Facts stand in `status`; `spec` is the local owner's stance
/// and may be applied before the facts are known. The name follows from the manifest digest: `m-` and its first 40 digits.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "koinon.dev",
    version = "v1alpha1",
    kind = "ModelRelease",
    namespaced,
    status = "ModelReleaseStatus",
    derive = "PartialEq",
    cel,
    shortname = "krel",
    category = "koinon",
    doc = "A release of a model that the cooperative decided about.",
    printcolumn(name = "URI", type_ = "string", json_path = ".status.uri"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision", priority = 1),
    printcolumn(name = "Quantization", type_ = "string", json_path = ".status.quantization"),
    printcolumn(name = "License", type_ = "string", json_path = ".status.license"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Denied", type_ = "boolean", json_path = ".spec.denied"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ModelReleaseSpec {
    /// True: this cluster neither serves it for others nor asks others to serve it.
    #[serde(default)]
    pub denied: bool,
    /// Why, for those who read it later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::line")]
    pub reason: Option<String>,
}

/// What was decided about a release.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelReleaseStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the weights come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The revision at the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The digest over the model's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    /// The quantisation of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// The licence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// The engines that may serve it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub engines: Vec<String>,
    /// Bytes of GPU memory that one copy needs, where the proposer knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<i64>,
    /// Whether it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ReleaseState>,
    /// The version of the releases that this is taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<String>,
    /// Enacted, Usable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Whether a release is in force.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum ReleaseState {
    /// It may be served.
    #[default]
    Enacted,
    /// It may not any more.
    Withdrawn,
}
