//! `Placement`: one copy of one replica, seen from its home or from its host.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{EngineRef, ModelRef, OnPartition};

/// One copy of one replica of a job. At home it stands beside its job and remembers what was asked of whom under which
/// epoch; at the host it stands in the guest namespace and owns everything that is rendered. Nobody writes one by hand.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "koinon.dev",
    version = "v1alpha1",
    kind = "Placement",
    namespaced,
    status = "PlacementStatus",
    derive = "PartialEq",
    cel,
    shortname = "kpl",
    category = "koinon",
    doc = "One copy of one replica of a job, seen from its home or from its host.",
    printcolumn(name = "Side", type_ = "string", json_path = ".spec.side"),
    printcolumn(name = "Home", type_ = "string", json_path = ".spec.home"),
    printcolumn(name = "Host", type_ = "string", json_path = ".spec.host"),
    printcolumn(name = "Job", type_ = "string", json_path = ".spec.job.name"),
    printcolumn(name = "Replica", type_ = "integer", json_path = ".spec.replica"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".spec.epoch"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".spec.gpu.count"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(
        name = "Routable",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Routable\")].status",
        priority = 1
    ),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.claim) || self.side == 'Host'").message("a Placement keeps a claim at the host only"))]
#[x_kube(validation = Rule::new("has(self.claim) == has(oldSelf.claim)").message("the claim is kept as it was granted"))]
#[x_kube(validation = Rule::new("(self.side == 'Host') == has(self.template)").message("a Placement at the host, and only there, keeps the template that it was granted with"))]
pub struct PlacementSpec {
    /// Which side this is.
    #[x_kube(validation = Rule::new("self == oldSelf").message("side is immutable"))]
    pub side: Side,
    /// The member that asked.
    #[schemars(schema_with = "crate::schema::member")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("home is immutable"))]
    pub home: String,
    /// The member whose GPUs it uses.
    #[schemars(schema_with = "crate::schema::member")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("host is immutable; another host is another Placement"))]
    pub host: String,
    /// The job, at home.
    #[x_kube(validation = Rule::new("self == oldSelf").message("job is immutable"))]
    pub job: JobRef,
    /// The replica's number.
    #[schemars(range(min = 0, max = 1023))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("replica is immutable"))]
    pub replica: i32,
    /// Which copy of the replica this is. Only the highest is routed to. It grows when the same copy is granted anew.
    #[schemars(range(min = 1))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("an epoch never goes back"))]
    pub epoch: i64,
    /// The statement that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::digest")]
    pub request: Option<String>,
    /// The name that applications call it by.
    #[schemars(schema_with = "crate::schema::dns_label")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("servedName is immutable"))]
    pub served_name: String,
    /// The model.
    #[x_kube(validation = Rule::new("self == oldSelf").message("model is immutable"))]
    pub model: ModelRef,
    /// The engine and its options.
    #[x_kube(validation = Rule::new("self == oldSelf").message("engine is immutable; another one is another Placement"))]
    pub engine: EngineRef,
    /// The GPUs.
    #[x_kube(validation = Rule::new("self == oldSelf").message("gpu is immutable; other GPUs are another Placement"))]
    pub gpu: PlacedGpus,
    /// The most tokens in one conversation.
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_model_len: i32,
    /// The most calls worked on at a time.
    #[schemars(range(min = 1, max = 65_536))]
    pub max_concurrency: i32,
    /// How long a grant lasts without renewal, and what follows.
    pub lease: LeaseTerms,
    /// At the host: the pod template that was granted, as JSON. An upgraded operator renders from this and restarts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "template")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the template is kept as it was granted"))]
    pub template: Option<String>,
    /// At the host, where GPUs are given out by DRA: the claim on them that was granted, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "template")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the claim is kept as it was granted"))]
    pub claim: Option<String>,
}

/// Which side of a placement an object is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Side {
    /// The one that asks and routes.
    #[default]
    Home,
    /// The one that runs it.
    Host,
}

/// A job, by the names that its home gave it.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobRef {
    /// Its namespace at home.
    #[schemars(schema_with = "crate::schema::dns_label")]
    pub namespace: String,
    /// Its name.
    #[schemars(schema_with = "crate::schema::object_name")]
    pub name: String,
    /// Its UID.
    #[schemars(schema_with = "uid")]
    pub uid: String,
}

/// The GPUs of a placement.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlacedGpus {
    /// The class.
    #[schemars(schema_with = "crate::schema::gpu_class")]
    pub class: String,
    /// How many, on one node.
    #[schemars(range(min = 0, max = 1024))]
    pub count: i32,
}

/// How long a grant lasts without renewal.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseTerms {
    /// Seconds from one renewal to the end of the grant.
    #[schemars(range(min = 1, max = 86_400))]
    pub seconds: i32,
    /// What happens then.
    #[serde(default)]
    pub on_partition: OnPartition,
}

/// Where a placement stands.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlacementStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<PlacementState>,
    /// Why, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::reason")]
    pub reason: Option<String>,
    /// The numbers that decided, as `needed` and `largestNode`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub numbers: BTreeMap<String, i64>,
    /// When it ends although it runs, where that is announced. It may be taken back until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_time: Option<Time>,
    /// Where calls are sent: at home the host's gateway, at the host the engine's Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "address")]
    pub gateway: Option<String>,
    /// Bytes of weights that the host has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub loaded_bytes: Option<i64>,
    /// Bytes of weights in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub total_bytes: Option<i64>,
    /// At the host: what was reserved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["node".into()]))]
    #[schemars(length(max = 64))]
    pub nodes: Vec<PlacedNode>,
    /// Granted, Loaded, Ready, Reclaiming, Routable, Released.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What was reserved on one node.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlacedNode {
    /// The node.
    #[schemars(schema_with = "crate::schema::object_name")]
    pub node: String,
    /// How many GPUs.
    #[schemars(range(min = 0))]
    pub gpus: i32,
}

/// Where a placement stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum PlacementState {
    /// The host was asked.
    #[default]
    Requested,
    /// GPUs are reserved.
    Granted,
    /// Weights are fetched, or the engine starts.
    Loading,
    /// The engine answers.
    Ready,
    /// It may finish what it works on.
    Draining,
    /// It holds nothing any more.
    Released,
    /// The host said no.
    Refused,
}

fn uid(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", "maxLength": 36})
}

fn template(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "minLength": 2, "maxLength": 65_536})
}

fn address(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "pattern": "^https?://[^\\s/]+(/[^\\s]*)?$", "maxLength": 512})
}
