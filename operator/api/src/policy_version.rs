//! `PolicyVersion`: one link in the chain of decisions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// One version of one part of the rules. Each names the version before it, so the head of a scope names its whole history.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "koinon.dev",
    version = "v1alpha1",
    kind = "PolicyVersion",
    namespaced,
    status = "PolicyVersionStatus",
    derive = "PartialEq",
    cel,
    shortname = "kpol",
    category = "koinon",
    doc = "One version of one part of the cooperative's rules.",
    printcolumn(name = "Scope", type_ = "string", json_path = ".status.scope"),
    printcolumn(name = "Height", type_ = "integer", json_path = ".status.height"),
    printcolumn(name = "Head", type_ = "boolean", json_path = ".status.head"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PolicyVersionSpec {}

/// What a version is.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyVersionStatus {
    /// The part of the rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::scope")]
    pub scope: Option<String>,
    /// The version itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::digest")]
    pub version: Option<String>,
    /// The version before it. Absent for the founding one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::digest")]
    pub parent: Option<String>,
    /// How many versions lie before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub height: Option<i64>,
    /// True: nothing came after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<bool>,
    /// The proposal that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::digest")]
    pub proposal: Option<String>,
    /// The root of the ballot box that was sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::digest")]
    pub root: Option<String>,
    /// The members whose seals enacted it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::members")]
    pub sealed_by: Vec<String>,
    /// Enacted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
