//! `InferenceJob`: a model that a team wants served.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{EngineRef, Evidence, ModelRef, OnPartition};
use crate::placement::PlacementState;

/// A model that a team wants served, on whosever GPUs. Ready means that at least one replica is routable.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "koinon.dev",
    version = "v1alpha1",
    kind = "InferenceJob",
    namespaced,
    status = "InferenceJobStatus",
    derive = "PartialEq",
    cel,
    shortname = "kjob",
    category = "koinon",
    doc = "A model that a team wants served, on whosever GPUs.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    validation = Rule::new("size(self.metadata.name) <= 40").message("a job's name may have at most 40 characters, so that the names made of it fit"),
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.servedName"),
    printcolumn(name = "Engine", type_ = "string", json_path = ".spec.engine.name"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Routable", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Members", type_ = "string", json_path = ".status.placements[*].member"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct InferenceJobSpec {
    /// The name that applications call it by, unique in its namespace: a DNS label.
    #[schemars(schema_with = "crate::schema::dns_label")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("servedName is immutable; applications call it"))]
    pub served_name: String,
    /// The model, by content.
    #[x_kube(validation = Rule::new("self == oldSelf").message("model is immutable and never swapped; make another job for another model"))]
    pub model: ModelRef,
    /// The engine of the catalogue that serves it.
    pub engine: EngineRef,
    /// The most tokens in one conversation.
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_model_len: i32,
    /// The most calls that one replica works on at a time.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_concurrency: i32,
    /// How many copies are wanted.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 64))]
    pub replicas: i32,
    /// How a change is carried out.
    #[serde(default)]
    pub rollout: Rollout,
    /// The GPUs of one replica.
    pub gpu: GpuNeed,
    /// Where it may run.
    #[serde(default)]
    pub placement: PlacementRules,
}

fn default_concurrency() -> i32 {
    16
}

fn default_replicas() -> i32 {
    1
}

/// How a change is carried out.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.maxSurge + self.maxUnavailable > 0").message("one of maxSurge and maxUnavailable must be above 0, or no change could ever begin"))]
pub struct Rollout {
    /// Replicas above the wanted number during a change.
    #[serde(default)]
    #[schemars(range(min = 0, max = 64))]
    pub max_surge: i32,
    /// Replicas below the wanted number during a change.
    #[serde(default = "default_unavailable")]
    #[schemars(range(min = 0, max = 64))]
    pub max_unavailable: i32,
    /// How long a replica may take from grant to Ready.
    #[serde(default = "default_deadline")]
    #[schemars(range(min = 10, max = 86_400))]
    pub progress_deadline_seconds: i32,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { max_surge: 0, max_unavailable: default_unavailable(), progress_deadline_seconds: default_deadline() }
    }
}

fn default_unavailable() -> i32 {
    1
}

fn default_deadline() -> i32 {
    3600
}

/// The GPUs of one replica.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.count == 0 || self.count >= self.tensorParallel").message("tensorParallel needs at least as many GPUs: raise count, or leave it at 0 to have it computed"))]
pub struct GpuNeed {
    /// The class, as `h100-80`. `kubectl get koffer` lists what members share.
    #[schemars(schema_with = "crate::schema::gpu_class")]
    pub class: String,
    /// How many, on one node. 0: computed by the sizing rule, and shown in the status.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1024))]
    pub count: i32,
    /// Over how many the model is divided. 0: computed.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1024))]
    pub tensor_parallel: i32,
}

/// Where a job may run.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.scope == 'Cooperative' || !has(self.members)").message("members need scope Cooperative; a Local job runs in its own cluster"))]
#[x_kube(validation = Rule::new("!has(self.members) || !has(self.excludeMembers) || !self.members.exists(m, m in self.excludeMembers)").message("a member is both in members and in excludeMembers"))]
pub struct PlacementRules {
    /// Local: this cluster, in the team's namespace and quota. Cooperative: any member, if the release is approved.
    #[serde(default)]
    pub scope: Scope,
    /// The members that may host it. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::members")]
    pub members: Vec<String>,
    /// Members that may not host it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::members")]
    pub exclude_members: Vec<String>,
    /// Jurisdictions in which it may run. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::jurisdictions")]
    pub jurisdictions: Vec<String>,
    /// The least that must support a host's figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_evidence: Option<Evidence>,
    /// The most replicas on one member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub max_per_member: Option<i32>,
    /// What a copy does while this cluster cannot be heard.
    #[serde(default)]
    pub on_partition: OnPartition,
}

/// How far away a job may run.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Scope {
    /// In its own cluster.
    Local,
    /// At any member.
    #[default]
    Cooperative,
}

/// Where a job stands.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InferenceJobStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Replicas that have a host.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub replicas: i32,
    /// Replicas that calls are routed to.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub ready_replicas: i32,
    /// The selector of the replicas' Placements, for those who scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The replicas. During a move a replica has two, with different epochs; calls are routed to one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["replica".into(), "epoch".into()]))]
    #[schemars(length(max = 256))]
    pub placements: Vec<JobPlacement>,
    /// What was computed for one replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// Accepted, Approved, Placed, Ready, Reclaiming.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One copy of a replica.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobPlacement {
    /// The replica's number.
    #[schemars(range(min = 0))]
    pub replica: i32,
    /// The copy's epoch.
    #[schemars(range(min = 0))]
    pub epoch: i64,
    /// The host.
    #[schemars(schema_with = "crate::schema::member")]
    pub member: String,
    /// Where it stands.
    pub state: PlacementState,
    /// Why, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::reason")]
    pub reason: Option<String>,
}

/// What was computed for one replica.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resolved {
    /// GPUs of one replica.
    #[schemars(range(min = 0))]
    pub gpus: i32,
    /// Over how many the model is divided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub tensor_parallel: Option<i32>,
    /// How that was found, with the numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::line")]
    pub explanation: Option<String>,
}
