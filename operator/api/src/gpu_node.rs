//! `GPUNode`: what NVML says about one node. Cluster-scoped, written by that node's agent alone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// The devices, by UUID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["uuid".into()]))]
    #[schemars(length(max = 128))]
    pub devices: Vec<Device>,
    /// NVMLAvailable, DevicesHealthy, Ready.
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

/// One device.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// The device's own name, which survives reboots and moves.
    #[schemars(schema_with = "uuid")]
    pub uuid: String,
    /// Its place in NVML's list, which does not.
    #[schemars(range(min = 0))]
    pub index: i32,
    /// The product, as `NVIDIA H100 80GB HBM3`. Absent if it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::line")]
    pub product: Option<String>,
    /// The class that follows from product and memory, as `h100-80`. Absent if either is; such a device is not offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::gpu_class")]
    pub class: Option<String>,
    /// Its address on the bus.
    #[serde(default, rename = "pciBusID", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::line")]
    pub pci_bus_id: Option<String>,
    /// Its memory. Absent if it could not be read, which is not the same as none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<DeviceMemory>,
    /// Whether it is divided. Absent if that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<Mig>,
    /// Whether it works.
    pub health: DeviceHealth,
    /// Since when surveys no longer find it. After a day without it is no longer listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_since_time: Option<Time>,
}

/// The memory of a device.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceMemory {
    /// All of it.
    #[schemars(range(min = 0))]
    pub total_bytes: i64,
    /// What the driver keeps for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub reserved_bytes: Option<i64>,
}

/// Whether a device is divided.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mig {
    /// The mode in force.
    pub mode: MigMode,
}

/// Whether a device is divided into instances.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum MigMode {
    /// It is whole.
    Disabled,
    /// It may be divided.
    Enabled,
    /// It cannot be divided.
    #[default]
    NotSupported,
}

/// Whether a device works.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceHealth {
    /// The verdict. Unknown is not healthy.
    pub state: HealthState,
    /// Why, in CamelCase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::reasons")]
    pub reasons: Vec<String>,
}

/// A device's health.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum HealthState {
    /// It works.
    Healthy,
    /// It works, and should be looked at.
    Degraded,
    /// It must not be used.
    Unhealthy,
    /// Nobody can tell.
    #[default]
    Unknown,
}

fn uuid(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "pattern": "^(GPU|MIG)-[0-9a-zA-Z/-]{1,90}$", "maxLength": 96})
}
