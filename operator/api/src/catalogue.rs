//! What can be voted into the catalogue: releases of models and engines. Written as the wire writes it, field by field, so
//! that a typed copy can be compared with the signed payload.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::charter::{CancelProposal, ChangeCharter, SetRules};
use crate::envelope::Envelope;
use crate::norms::{AuditRate, Checkpoint, OperatorRelease, PlacementRules, Prices, Shares};
use crate::standing::{Expel, LiftQuarantine, MemberName, ResetKeys};

/// What a proposal changes. Exactly one of these.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Lets jobs of every member serve this release.
    AddModelRelease(Release),
    /// Takes a release back. What runs is drained.
    WithdrawModelRelease(ReleaseName),
    /// Puts an engine into the catalogue.
    AddEngine(AddEngine),
    /// Takes an engine out of the catalogue.
    RemoveEngine(EngineName),
    /// Admits a member.
    Admit(Admit),
    /// Raises the rules.
    SetRules(SetRules),
    /// Changes the charter's numbers.
    ChangeCharter(Box<ChangeCharter>),
    /// Stops a proposal that has passed and is not in force yet.
    CancelProposal(CancelProposal),
    /// Expels a member.
    Expel(Expel),
    /// Gives a member that lost its keys others.
    ResetKeys(ResetKeys),
    /// Counts a new member from then on: it votes and seals.
    Confirm(MemberName),
    /// Counts a silent member no more.
    MarkDormant(MemberName),
    /// Counts a dormant member again.
    Reactivate(MemberName),
    /// Lets a member work again although there are proofs against its operator.
    LiftQuarantine(LiftQuarantine),
    /// Stops new work of and for a member, which goes on speaking, voting and sealing.
    Suspend(MemberName),
    /// Lets a suspended member work again.
    Reinstate(MemberName),
    /// Sets where work for other members may run.
    SetPlacementRules(PlacementRules),
    /// Sets how much of the others' GPUs one member may hold.
    SetShares(Shares),
    /// Sets what work costs.
    SetPrices(Prices),
    /// Sets how much of what is served is checked.
    SetAuditRate(AuditRate),
    /// Names the release of the operator that members are asked to run.
    AdviseOperatorRelease(OperatorRelease),
    /// Settles everything up to some entries for good.
    Checkpoint(Checkpoint),
}

/// A release of a model: what it is, where it is found, and which engines may serve it.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Where the weights come from.
    #[schemars(schema_with = "crate::schema::uri")]
    pub uri: String,
    /// The revision at the source.
    #[schemars(schema_with = "crate::schema::token")]
    pub revision: String,
    /// The digest over the model's manifest.
    #[schemars(schema_with = "crate::schema::digest")]
    pub manifest_digest: String,
    /// The quantisation of the weights, in small letters.
    #[schemars(schema_with = "crate::schema::dns_label")]
    pub quantization: String,
    /// The licence, as an SPDX id or the model's own name for it.
    #[schemars(schema_with = "crate::schema::token")]
    pub license: String,
    /// Names of the catalogue's engines that may serve it. Empty: any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::dns_labels")]
    pub engines: Vec<String>,
    /// Bytes of GPU memory that one copy needs, where the proposer knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub memory_bytes: Option<i64>,
}

/// A release by its digest.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseName {
    /// The digest over the model's manifest.
    #[schemars(schema_with = "crate::schema::digest")]
    pub manifest_digest: String,
}

/// An engine to be added.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddEngine {
    /// The engine.
    pub engine: Engine,
}

/// An engine by its name.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineName {
    /// The engine's name in the catalogue.
    #[schemars(schema_with = "crate::schema::dns_label")]
    pub name: String,
}

/// A member to be admitted.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Admit {
    /// The applicant's own application, as it was signed.
    pub application: Envelope,
}

/// An entry of the engine catalogue: the only source of images and arguments of foreign work.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Engine {
    /// The engine's name in the catalogue.
    #[schemars(schema_with = "crate::schema::dns_label")]
    pub name: String,
    /// The image, by digest.
    #[schemars(schema_with = "image")]
    pub image: String,
    /// Arguments. `{modelPath}`, `{servedName}`, `{port}`, `{maxModelLen}`, `{maxConcurrency}` and `{gpuCount}` are filled in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "args")]
    pub args: Vec<String>,
    /// Options that a job may set, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub options: BTreeMap<String, EngineOption>,
    /// The port of the engine's API.
    #[schemars(range(min = 1024, max = 65535))]
    pub port: i32,
    /// The path that answers 200 once the model is served.
    #[schemars(schema_with = "path")]
    pub health_path: String,
    /// Folders that the engine must be able to write, besides `/tmp` and its home.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "paths")]
    pub writable_paths: Vec<String>,
    /// What one copy gets besides GPUs.
    pub resources: EngineResources,
}

/// An option of an engine.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.min) || !has(self.max) || self.min <= self.max").message("an option's min must not exceed its max"))]
#[x_kube(validation = Rule::new("(self.type == 'enum') == (has(self.values) && size(self.values) > 0)").message("an option has values if, and only if, its type is enum"))]
pub struct EngineOption {
    /// What kind of value it takes.
    #[serde(rename = "type")]
    pub type_: OptionType,
    /// The smallest value of an integer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// The largest value of an integer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
    /// The allowed words of an enum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::words")]
    pub values: Vec<String>,
    /// The argument that carries the value, as `--threads`. A boolean is given as the argument alone, or not at all.
    #[schemars(schema_with = "flag")]
    pub flag: String,
}

/// The kinds of values that options take.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OptionType {
    /// A whole number within bounds.
    #[default]
    Integer,
    /// A switch.
    Boolean,
    /// One of some words.
    Enum,
}

/// What one copy of an engine gets besides GPUs. Requests equal limits.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineResources {
    /// CPU, as a quantity.
    #[schemars(schema_with = "quantity")]
    pub cpu: String,
    /// Memory, as a quantity.
    #[schemars(schema_with = "quantity")]
    pub memory: String,
    /// The size of `/dev/shm`, as a quantity. It counts against the memory.
    #[schemars(schema_with = "quantity")]
    pub shm: String,
}

fn image(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": crate::schema::IMAGE, "maxLength": 472})
}

fn args(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 64, "items": {"type": "string", "minLength": 1, "maxLength": 512}})
}

fn path(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "^/[A-Za-z0-9._/-]+$", "maxLength": 255})
}

fn paths(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 16, "items": {"type": "string", "maxLength": 255,
        "pattern": "^/[A-Za-z0-9._/-]+$"}})
}

fn flag(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "^-[A-Za-z0-9_-]+$", "maxLength": 63})
}

fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "^[0-9]{1,15}(m|k|M|G|T|Ki|Mi|Gi|Ti)?$", "maxLength": 17})
}
