//! `Statement`: a signed envelope, kept as it came.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::envelope::Envelope;

/// A signed statement, byte for byte. The name of an own log entry is its position, so that creating it reserves the
/// position; every other statement is named by its id, so that both sides of a fork can be kept and shown.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "koinon.dev",
    version = "v1alpha1",
    kind = "Statement",
    namespaced,
    status = "StatementStatus",
    derive = "PartialEq",
    cel,
    shortname = "kstmt",
    doc = "A signed statement of the cooperative's log, byte for byte.",
    printcolumn(name = "Author", type_ = "string", json_path = ".metadata.labels.koinon\\.dev/author"),
    printcolumn(name = "Kind", type_ = "string", json_path = ".metadata.labels.koinon\\.dev/kind"),
    printcolumn(name = "Log", type_ = "string", json_path = ".metadata.labels.koinon\\.dev/log", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a statement is immutable; say something new in a new one"))]
pub struct StatementSpec {
    /// The signed envelope.
    pub envelope: Envelope,
}

/// What this cluster makes of a statement that a person applied, or that a later version wrote. Absent for all others:
/// their effect shows in other resources.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatementStatus {
    /// Effective.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
