//! What can be voted about all work, written as the wire writes it. Each replaces the one before it as a whole.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::charter::Fraction;
use crate::common::Evidence;
use crate::gpu_node::{GuestWork, HealthState};

/// Where work for other members may run.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlacementRules {
    /// Only in these jurisdictions, in alphabetical order. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "jurisdictions")]
    pub jurisdictions: Vec<String>,
    /// Models that may be served in fewer still, by the digests of their manifests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "residency")]
    pub residency: BTreeMap<String, Vec<String>>,
    /// The weakest evidence of capacity that counts.
    #[serde(default)]
    pub min_evidence: Evidence,
    /// Most replicas of one job at one member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub max_replicas_per_member: Option<i64>,
    /// What errors of GPUs mean beyond the table of each release, in the order of their codes. A row only ever makes a code that a
    /// release knows stricter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub xids: Vec<XidRow>,
}

/// What one error of a GPU means.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct XidRow {
    /// Its number in NVIDIA's catalogue of XIDs.
    #[schemars(range(min = 1, max = 9999))]
    pub code: i32,
    /// Its sort.
    pub class: XidClass,
    /// What becomes of the device.
    pub state: HealthState,
    /// Why, as one word.
    #[schemars(schema_with = "word")]
    pub reason: String,
    /// What the owner should do.
    pub action: XidAction,
    /// What new work the device may take.
    pub offer: XidOffer,
    /// What becomes of work of others on it.
    pub work: GuestWork,
    /// How long without another report until a degraded device is no longer so.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2_592_000))]
    pub hold_seconds: i64,
}

/// The sort of an error, the mildest first.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum XidClass {
    /// Worth a line, no more.
    Info,
    /// An application's fault.
    App,
    /// Nobody knows the code.
    Unknown,
    /// What follows depends on more than the code.
    Workflow,
    /// The device needs a reset.
    Reset,
    /// The node needs a restart.
    Reboot,
}

/// What the owner should do, the mildest first.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[allow(missing_docs)]
pub enum XidAction {
    None,
    Watch,
    RestartWorkload,
    ApplyConfig,
    CheckCooling,
    Investigate,
    DrainP2P,
    ResetWhenIdle,
    RestartVM,
    ResetGPU,
    RebootNode,
    Replace,
}

/// What new work a device may take.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum XidOffer {
    /// All.
    Any,
    /// Only work of one GPU, of its owner.
    SingleOnly,
    /// None.
    Nothing,
}

/// How much of the others' GPUs one member may hold.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shares {
    /// The part of what a host offers that one home may hold there; one GPU it always may.
    pub host_share: Fraction,
    /// The most GPUs that one home may hold at one host, however many that offers. Absent: not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub most_gpus: Option<i64>,
}

/// What one GPU costs for a second, in millionths of a compute unit.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Prices {
    /// By class. A class that is not here costs nothing.
    #[schemars(schema_with = "prices")]
    pub gpu_second_micros: BTreeMap<String, i64>,
}

/// How much of what is served is computed once more by another member.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditRate {
    /// Of ten thousand requests.
    #[schemars(range(min = 0, max = 10_000))]
    pub per_ten_thousand: i32,
}

/// The release of the operator that members are asked to run.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorRelease {
    /// Its version, such as 1.4.0.
    #[schemars(schema_with = "crate::schema::line")]
    pub version: String,
    /// The digest of its image.
    #[schemars(schema_with = "crate::schema::digest")]
    pub image: String,
}

/// What is settled for good.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// The last entry of each log that is settled, by the log's key.
    #[schemars(extend("maxProperties" = 128))]
    pub logs: BTreeMap<String, LogHead>,
    /// The digest of what remains of them.
    #[schemars(schema_with = "crate::schema::digest")]
    pub state: String,
}

/// An entry of a log.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogHead {
    /// Its position.
    #[schemars(range(min = 0))]
    pub seq: i64,
    /// Its id.
    #[schemars(schema_with = "crate::schema::digest")]
    pub id: String,
}

fn word(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "^[A-Z][A-Za-z0-9]*$", "maxLength": 63})
}

fn jurisdictions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 128, "items": {"type": "string", "maxLength": 2,
        "pattern": crate::schema::JURISDICTION}})
}

fn residency(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "maxProperties": 128, "additionalProperties": {"type": "array", "minItems": 1,
        "maxItems": 128, "items": {"type": "string", "maxLength": 2, "pattern": crate::schema::JURISDICTION}}})
}

fn prices(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "maxProperties": 128, "additionalProperties": {"type": "integer", "format": "int64",
        "minimum": 0, "maximum": 1_000_000_000}})
}
