//! `GPUNode`: what NVML says about one node. Cluster-scoped, written by that node's agent alone.

mod device;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use device::{
    Allocation, AllocationState, Confidential, Device, DeviceHealth, DeviceMemory, Ecc, GuestWork, HealthAction,
    HealthState, Holder, Mig, MigMode, NotShareableReason, NvLink, Pcie, Processes, RecoveryAction, Remap, Sharing,
    SharingMode, Xid, XidSource,
};

/// The GPUs of one node as its agent reads them through NVML: a claim, to be held against the scheduler's. The object's
/// name is the node's, and the Node owns it. Written on change; telemetry goes to metrics, not here.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "koinon.dev",
    version = "v1alpha1",
    kind = "GPUNode",
    plural = "gpunodes",
    status = "GPUNodeStatus",
    derive = "PartialEq",
    cel,
    shortname = "kgnode",
    category = "koinon",
    doc = "The GPUs of one node, as its agent reads them through NVML.",
    printcolumn(name = "NVML", type_ = "string", json_path = ".status.nvml.state"),
    printcolumn(name = "Devices", type_ = "integer", json_path = ".status.installed"),
    printcolumn(name = "Healthy", type_ = "integer", json_path = ".status.healthy"),
    printcolumn(name = "Driver", type_ = "string", json_path = ".status.driver.version"),
    printcolumn(name = "Changed", type_ = "date", json_path = ".status.surveyTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GPUNodeSpec {}

/// The last survey of a node.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.healthy) || !has(self.installed) || self.healthy <= self.installed").message("no more devices can be healthy than are installed"))]
pub struct GPUNodeStatus {
    /// The agent that wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentInfo>,
    /// How NVML answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvml: Option<Nvml>,
    /// The driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
    /// Where the agent learnt who holds which device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// When a survey first found what stands here. That it still holds is what the agent's Lease says, which is renewed
    /// only while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survey_time: Option<Time>,
    /// How many devices the last survey found. Absent if it found out nothing, which is not the same as none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub installed: Option<i32>,
    /// How many of them are healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub healthy: Option<i32>,
    /// The devices and their instances, by UUID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["uuid".into()]))]
    #[schemars(length(max = 128))]
    pub devices: Vec<Device>,
    /// NVMLAvailable, DevicesHealthy, HoldersKnown, ProcessesKnown, KernelLogRead, Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Who wrote a survey.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentInfo {
    /// The agent's version.
    #[schemars(schema_with = "crate::schema::line")]
    pub version: String,
    /// The node's boot, so that a reboot is told from a restart of the agent.
    #[serde(rename = "bootID")]
    #[schemars(schema_with = "crate::schema::line")]
    pub boot_id: String,
    /// Rises with each status that is written, from 1 at each boot.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub sequence: i64,
    /// What the agent has to remember of the node over its own restarts, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub memory: Option<String>,
    /// Limits of the health rules that its owner has set to something else than the rules have: seconds, thousandths or counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub limits: BTreeMap<String, i64>,
    /// The digest of the voted table of XIDs by which it judges, beside the built-in one. Absent: that alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::digest")]
    pub xid_table: Option<String>,
}

/// How NVML answered.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Nvml {
    /// Whether the library can be used, and if not, why.
    pub state: NvmlState,
    /// The last return code that was not success, raw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_return_code: Option<i32>,
    /// The file that was loaded, or tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::line")]
    pub library_path: Option<String>,
}

/// Whether NVML can be used.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum NvmlState {
    /// It answers.
    Available,
    /// There is no library where the agent looked.
    LibraryMissing,
    /// The library lacks a function that the survey needs.
    SymbolMissing,
    /// The kernel has no driver loaded.
    DriverNotLoaded,
    /// The agent may not open the devices.
    PermissionDenied,
    /// Library and driver are of different versions.
    VersionMismatch,
    /// The survey did not end in time and was killed.
    Unresponsive,
    /// The library crashed the surveying process.
    Crashed,
    /// Any other error.
    #[default]
    Error,
}

/// Where the agent learnt who holds which device.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scheduler {
    /// What gives devices out on this node.
    pub source: SchedulerSource,
    /// Whether the kubelet says which pod holds which device. If not, pods are counted and nothing is known of devices.
    pub pod_resources: PodResources,
    /// By which names the kubelet gives GPUs out, and how many of each. Absent while it does not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 32))]
    pub resources: Vec<SchedulerResource>,
}

/// What the kubelet gives out under one name. Of devices that are shared it counts the shares.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SchedulerResource {
    /// The resource, as `nvidia.com/gpu`.
    #[schemars(schema_with = "crate::schema::line")]
    pub name: String,
    /// How many it may give to pods, those that pods have counted.
    #[schemars(range(min = 0))]
    pub allocatable: i32,
    /// How many pods have.
    #[schemars(range(min = 0))]
    pub held: i32,
}

/// What gives the devices of a node out.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum SchedulerSource {
    /// A device plugin of the kubelet.
    DevicePlugin,
    /// A driver for dynamic resource allocation.
    DRA,
    /// Nothing that the agent knows of.
    #[default]
    None,
}

/// Whether the kubelet says which pod holds which device.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum PodResources {
    /// It does.
    Available,
    /// It was asked and did not answer.
    Unavailable,
    /// The agent was not given a way to ask.
    #[default]
    NotConfigured,
}

/// The driver of a node.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Driver {
    /// The driver's version.
    #[schemars(schema_with = "crate::schema::line")]
    pub version: String,
    /// NVML's own version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::line")]
    pub nvml_version: Option<String>,
    /// The newest CUDA that the driver supports, as `13000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda_version: Option<i32>,
}
