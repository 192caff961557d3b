//! Small types that several kinds share.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A place in which a member runs one cluster.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Site {
    /// The site's name within its member.
    #[schemars(schema_with = "crate::schema::member")]
    pub name: String,
    /// The region in the owner's words, as `eu-south`.
    #[schemars(schema_with = "crate::schema::dns_label")]
    pub region: String,
    /// The country under whose law the machines stand, as `ES`.
    #[schemars(schema_with = "crate::schema::jurisdiction")]
    pub jurisdiction: String,
}

/// Where other members reach this one. No addresses at all mean outbound only: a home, never a host.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// URLs of the peer endpoint, usually on port 7443.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::urls")]
    pub peer: Vec<String>,
    /// URLs of the gateway for members, usually on port 7444.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::urls")]
    pub gateway: Vec<String>,
}

/// The name of an object in the same namespace.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// The object's name.
    #[schemars(schema_with = "crate::schema::object_name")]
    pub name: String,
}

/// How well a claim about GPUs is supported, from weakest to strongest.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Evidence {
    /// Only the owner says so.
    #[default]
    Claimed,
    /// The owner's NVML survey and its scheduler agree.
    SchedulerConsistent,
    /// A peer's challenge was answered in time.
    Challenged,
    /// The hardware signed for itself.
    Attested,
}

/// What an owner does with foreign work.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum GuestMode {
    /// Foreign work may run here.
    #[default]
    Accept,
    /// What runs may stay until it ends; nothing new comes.
    Drain,
    /// All foreign work ends now; its GPUs are free within two minutes.
    Stop,
}

/// What a probe found about NetworkPolicies in a cluster, and what its owner makes of it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum NetworkPolicyState {
    /// The probe was held back, as it should be.
    Enforced,
    /// The probe got through.
    Unenforced,
    /// The probe got through, and the owner accepts that openly.
    AcceptedUnenforced,
    /// Not probed yet, or the probe could not run.
    #[default]
    Unknown,
}

/// What a copy of a model does while its home cannot be heard.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum OnPartition {
    /// It keeps serving whoever still reaches it.
    #[default]
    KeepServing,
    /// It ends when its lease runs out.
    StopWhenLeaseLapses,
}

/// A model by content. Two jobs that name the same digest and quantisation are served by the same weights.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelRef {
    /// Where the weights come from, as `hf://Qwen/Qwen3-32B` or `https://models.example/tiny.gguf`.
    #[schemars(schema_with = "crate::schema::uri")]
    pub uri: String,
    /// The revision at the source, as a commit.
    #[schemars(schema_with = "crate::schema::token")]
    pub revision: String,
    /// The digest over the model's manifest. It is what is served; the URI only says where to fetch it.
    #[schemars(schema_with = "crate::schema::digest")]
    pub manifest_digest: String,
    /// The quantisation of the weights in small letters, as `bf16` or `q4-k-m`. Part of the model's identity.
    #[schemars(schema_with = "crate::schema::dns_label")]
    pub quantization: String,
}

/// An engine of the voted catalogue, and what is asked of it.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineRef {
    /// The engine's name in the catalogue.
    #[schemars(schema_with = "crate::schema::dns_label")]
    pub name: String,
    /// Options that the catalogue allows for this engine. Numbers as numbers, the rest as strings: `threads: 4`, `mlock: "true"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "options")]
    pub options: BTreeMap<String, IntOrString>,
}

fn options(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "maxProperties": 64,
        "additionalProperties": {"x-kubernetes-int-or-string": true, "maxLength": 63}})
}
