//! One device of a node, in its status. A value that the device does not have is absent, and so is one that could not be
//! read; which of the two it is, is what `health` is about.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One device, or one instance of a divided one.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// The device's own name, which survives reboots and moves.
    #[schemars(schema_with = "uuid")]
    pub uuid: String,
    /// Its place in NVML's list, which does not. An instance has its parent's.
    #[schemars(range(min = 0))]
    pub index: i32,
    /// The device that this is an instance of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "uuid")]
    pub parent: Option<String>,
    /// The product, as `NVIDIA H100 80GB HBM3`. Absent if it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::line")]
    pub product: Option<String>,
    /// The class that follows from product and memory, as `h100-80`, or of an instance `h100-80-1g-10gb`. Absent if one of
    /// them is; such a device is not offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::gpu_class")]
    pub class: Option<String>,
    /// As `Tesla`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::line")]
    pub brand: Option<String>,
    /// As `Hopper`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::line")]
    pub architecture: Option<String>,
    /// As `9.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::line")]
    pub compute_capability: Option<String>,
    /// The number of its device file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub minor: Option<i32>,
    /// Its address on the bus.
    #[serde(default, rename = "pciBusID", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::line")]
    pub pci_bus_id: Option<String>,
    /// SHA-256 of the maker's number, a line break and the UUID, so that its owner recognises it and nobody reads it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::digest")]
    pub serial_hash: Option<String>,
    /// Its memory. Absent if it could not be read, which is not the same as none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<DeviceMemory>,
    /// Whether it is divided. Absent if that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<Mig>,
    /// How many may be on it at the same time, by what the kubelet gives out. Absent while the kubelet does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
    /// Error correction, where the device has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc: Option<Ecc>,
    /// Replaced rows of memory, where the device can replace them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remap: Option<Remap>,
    /// What the driver recommends, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_action: Option<RecoveryAction>,
    /// The errors that the driver reported, the latest kinds first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub xids: Vec<Xid>,
    /// Links to other devices, where it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvlink: Option<NvLink>,
    /// What its link to the host can do; what it does at the moment is in the agent's metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcie: Option<Pcie>,
    /// Confidential computing, where processor and device can do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidential_compute: Option<Confidential>,
    /// What computes on it. Absent if that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<Processes>,
    /// Who holds it. Absent if nobody can say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// Whether it works.
    pub health: DeviceHealth,
    /// Whether it could be given to others now, as far as its node can tell: its pool, its reservations and the scheduler
    /// may still say otherwise.
    #[serde(default)]
    pub shareable: bool,
    /// The first reason why it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_shareable_reason: Option<NotShareableReason>,
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
    /// What is in use by no process, in steps of 256 MiB. Absent if some process does not say how much it uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub unattributed_bytes: Option<i64>,
}

/// Whether a device is divided.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mig {
    /// The mode in force.
    pub mode: MigMode,
    /// The mode after the next reset, if it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_mode: Option<MigMode>,
    /// Of an instance: its GPU instance within the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub gpu_instance: Option<i32>,
    /// Of an instance: its compute instance within that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub compute_instance: Option<i32>,
    /// Of an instance: the compute slices that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub slices: Option<i32>,
}

/// Whether a device is divided into instances.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum MigMode {
    /// It is whole.
    Disabled,
    /// It may be divided.
    Enabled,
    /// It is itself an instance.
    Instance,
    /// It cannot be divided.
    #[default]
    NotSupported,
}

/// How many may be on a device at the same time.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sharing {
    /// Whether one has it for itself.
    pub mode: SharingMode,
    /// As how many devices the kubelet gives it out, if as more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2))]
    pub replicas: Option<i32>,
}

/// Whether one pod has a device for itself.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum SharingMode {
    /// It has.
    #[default]
    Exclusive,
    /// It has an instance, which the hardware keeps apart from the others.
    MIG,
    /// Several share it, by time slices, MPS or something like them: the names under which it is given out do not say which. Of
    /// the node that is told by the condition SchedulerConsistent of its GPUPool.
    Shared,
}

/// Error correction.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ecc {
    /// Whether it is on.
    pub enabled: bool,
    /// Whether it will be after the next reset, if that is different.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<bool>,
    /// Errors since the driver was loaded that were not corrected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub volatile_uncorrected: Option<i64>,
    /// Errors in the device's life that were not corrected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub aggregate_uncorrected: Option<i64>,
    /// Whether its SRAM had more errors than its maker allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sram_threshold_exceeded: Option<bool>,
}

/// Replaced rows of memory.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Remap {
    /// Rows replaced for errors that were corrected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub correctable: Option<i64>,
    /// Rows replaced for errors that were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub uncorrectable: Option<i64>,
    /// Whether a replacement waits for the next reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<bool>,
    /// Whether one failed: there are no spare rows left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<bool>,
}

/// What the driver recommends.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum RecoveryAction {
    /// Nothing.
    None,
    /// To reset the device.
    GPUReset,
    /// To restart the node.
    NodeReboot,
    /// To let what talks to the device's peers end.
    DrainP2P,
    /// To let all work on it end, then reset it.
    DrainAndReset,
    /// Something that this release does not know.
    Unknown,
}

/// An error that the driver reported, and how often.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Xid {
    /// Its number in NVIDIA's catalogue.
    #[schemars(range(min = 0))]
    pub code: i64,
    /// How often it was reported.
    #[schemars(range(min = 1))]
    pub count: i64,
    /// When it was first reported.
    pub first_seen_time: Time,
    /// When it was last reported.
    pub last_seen_time: Time,
    /// Who reported it first.
    pub source: XidSource,
    /// The GPU instance that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub gpu_instance: Option<i32>,
    /// The compute instance that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub compute_instance: Option<i32>,
}

/// Who reported an error.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum XidSource {
    /// An event of NVML.
    NVML,
    /// A line of the kernel's log.
    KernelLog,
    /// A change of what the driver recommends.
    RecoveryAction,
}

/// Links to other devices.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NvLink {
    /// How many should be up: as many as most devices of this product on the node have.
    #[schemars(range(min = 0))]
    pub expected: i32,
    /// How many are.
    #[schemars(range(min = 0))]
    pub active: i32,
}

/// The link to the host.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pcie {
    /// The highest generation of device and slot.
    #[schemars(range(min = 0))]
    pub max_generation: i32,
    /// The most lanes of device and slot.
    #[schemars(range(min = 0))]
    pub max_width: i32,
}

/// Confidential computing.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Confidential {
    /// Whether it is on.
    pub enabled: bool,
    /// Whether it can be debugged, so that it proves nothing.
    pub dev_tools: bool,
    /// Whether the device takes work in that state.
    pub ready: bool,
}

/// What computes on a device.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Processes {
    /// Those that compute.
    #[schemars(range(min = 0))]
    pub compute: i32,
    /// Those that draw.
    #[schemars(range(min = 0))]
    pub graphics: i32,
    /// Those that compute as clients of MPS.
    #[schemars(range(min = 0))]
    pub mps: i32,
    /// Those of them that belong to no pod which holds the device.
    #[schemars(range(min = 0))]
    pub unattributed: i32,
    /// Since when there is one of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unattributed_since_time: Option<Time>,
}

/// Who holds a device, by the kubelet and by what runs on it.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// In one word.
    pub state: AllocationState,
    /// The pods that hold it; several only where it is shared. Where the state is Unknown: those that held it when that was
    /// last known. They are told because their work may have to end, and nobody counts on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub holders: Vec<Holder>,
    /// Whether the scheduler may give it out. Absent if only numbers are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered: Option<bool>,
}

/// Who holds a device, in one word.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum AllocationState {
    /// Nobody, and nothing runs on it.
    Free,
    /// A pod.
    Held,
    /// A pod computes on it that does not hold it: it went around the device plugin.
    Intruder,
    /// A process computes on it that belongs to no pod.
    Orphaned,
    /// Its memory is in use, by no process.
    Leaked,
    /// Nobody can say.
    #[default]
    Unknown,
}

/// A pod that holds a device.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Its namespace.
    #[schemars(schema_with = "crate::schema::object_name")]
    pub namespace: String,
    /// Its name.
    #[schemars(schema_with = "crate::schema::object_name")]
    pub name: String,
}

/// Whether a device works.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceHealth {
    /// The verdict. Unknown is not healthy.
    pub state: HealthState,
    /// Why, in CamelCase, the gravest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::reasons")]
    pub reasons: Vec<String>,
    /// What its owner should do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<HealthAction>,
    /// What becomes of work of other members that runs on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_work: Option<GuestWork>,
    /// Since when it is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_time: Option<Time>,
    /// What the agent has to remember of it over its own restarts, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub memory: Option<String>,
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

/// What the owner of a device should do, the mildest first.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum HealthAction {
    /// Keep an eye on it.
    Watch,
    /// Nothing: the program that it reports starts anew.
    RestartWorkload,
    /// Bring the settings that wait for a reset into force.
    ApplyConfig,
    /// Look at cooling and power supply.
    CheckCooling,
    /// Find out what is wrong.
    Investigate,
    /// Let what talks to its peers end.
    DrainP2P,
    /// Reset it once nothing runs on it.
    ResetWhenIdle,
    /// Restart the virtual machine that it belongs to.
    RestartVM,
    /// Reset it.
    ResetGPU,
    /// Restart its node.
    RebootNode,
    /// Replace it.
    Replace,
}

/// What becomes of work of other members on a device.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum GuestWork {
    /// It stays.
    Keep,
    /// It is started anew where it is.
    RestartWorkload,
    /// It leaves the device.
    Drain,
    /// It leaves the node.
    DrainNode,
}

/// Why a device could not be given to others.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum NotShareableReason {
    /// It is not healthy.
    NotHealthy,
    /// It was healthy, and the last survey did not come back.
    SurveyMissed,
    /// Another device of its node fell off the bus, so that the node takes no foreign work before it was rebooted.
    NodeFault,
    /// It is handed out in instances.
    Divided,
    /// Whether it is, could not be read.
    DivisionUnknown,
    /// Pods share it.
    Shared,
    /// The scheduler does not give it out.
    NotRegistered,
    /// A pod holds it.
    Held,
    /// A pod computes on it that does not hold it.
    Intruder,
    /// A process computes on it that belongs to no pod.
    Orphaned,
    /// Its memory is in use, by no process.
    Leaked,
    /// What uses it could not be found out.
    UsageUnknown,
    /// Its product or memory could not be read, so that nobody could ask for it.
    NoClass,
}

fn uuid(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "pattern": "^(GPU|MIG)-[0-9a-zA-Z/-]{1,90}$", "maxLength": 96})
}
