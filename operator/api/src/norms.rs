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
    /// How members test each other's GPUs. Absent: nobody does, and nothing counts as Challenged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenges: Option<Challenges>,
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

/// How members test each other's GPUs: by a real computation on them, in a job as any other, whose answer all can check.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Challenges {
    /// The engine of the catalogue that computes the answer.
    #[schemars(schema_with = "crate::schema::dns_label")]
    pub engine: String,
    /// The manifest digest of the release under which the job is placed.
    #[schemars(schema_with = "crate::schema::digest")]
    pub model: String,
    /// The least time between two challenges of one host's class by one member. At most nine tenths of freshSeconds, and at
    /// least 200 times mostSeconds for each of challengers + 1, so that they take at most a hundredth of a GPU's time.
    #[schemars(range(min = 400, max = 86_400))]
    pub every_seconds: i64,
    /// How many other owners must have measured a class before it counts as Challenged, or for less.
    #[schemars(range(min = 1, max = 4))]
    pub challengers: i32,
    /// How long a measurement counts.
    #[schemars(range(min = 60, max = 86_400))]
    pub fresh_seconds: i64,
    /// How long one challenge may hold GPUs.
    #[schemars(range(min = 1, max = 600))]
    pub most_seconds: i64,
    /// What is asked of each class. Others are not challenged.
    #[schemars(schema_with = "challenged_classes")]
    pub classes: BTreeMap<String, ClassChallenge>,
}

/// What is asked of the GPUs of one class.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassChallenge {
    /// How much each device computes.
    pub size: ChallengeSize,
    /// How long computing may take.
    pub compute: ChallengeWindow,
    /// How long hashing what was computed may take: at most a quarter of the shortest computation.
    pub recall: ChallengeWindow,
}

/// A product of matrices, of rows × depth and depth × rows numbers of 8 bits.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChallengeSize {
    /// Rows of the result, in steps of 128. √(0.9 · memory / 4) fill the memory of a device.
    pub rows: i32,
    /// Products in each sum of it, in steps of 64.
    pub depth: i32,
}

/// From when to when an answer fits the class, in milliseconds, both included.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChallengeWindow {
    /// Faster is no device of the class.
    pub least: i32,
    /// Slower is none either, or one that others use as well.
    pub most: i32,
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

fn challenged_classes(_: &mut SchemaGenerator) -> Schema {
    let window = || {
        json_schema!({"type": "object", "required": ["least", "most"], "properties": {
            "least": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 600_000},
            "most": {"type": "integer", "format": "int32", "minimum": 2, "maximum": 600_000}}})
    };
    json_schema!({"type": "object", "minProperties": 1, "maxProperties": 32, "additionalProperties": {"type": "object",
        "required": ["size", "compute", "recall"], "properties": {
            "size": {"type": "object", "required": ["rows", "depth"], "properties": {
                "rows": {"type": "integer", "format": "int32", "minimum": 128, "maximum": 262_144, "multipleOf": 128},
                "depth": {"type": "integer", "format": "int32", "minimum": 64, "maximum": 65_536, "multipleOf": 64}}},
            "compute": window(), "recall": window()}}})
}

fn prices(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "maxProperties": 128, "additionalProperties": {"type": "integer", "format": "int64",
        "minimum": 0, "maximum": 1_000_000_000}})
}
