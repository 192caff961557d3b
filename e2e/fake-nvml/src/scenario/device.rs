//! One physical GPU, and the instances into which it may be divided.

use serde::{Deserialize, Serialize};

use super::health::Errors;
use super::links::{NvLink, Pcie};
use super::processes::Processes;
use super::telemetry::Telemetry;
use super::values::{Confidential, Field, Pci, Switch, Text};

/// Leaves empty groups out of the file.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One physical GPU. Whatever is absent, the library does not support.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    /// Must begin with [`UUID_MARK`](crate::UUID_MARK). Two devices may have the same, since broken firmware does that.
    pub uuid: String,
    /// May be longer than any buffer of a client, which then gets `NVML_ERROR_INSUFFICIENT_SIZE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Text>,
    /// All of it, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Whether it is divided into instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<Mig>,
    /// Whether the driver still reaches the device.
    #[serde(default)]
    pub state: DeviceState,
    /// What the device plugin tells the kubelet.
    #[serde(default)]
    pub plugin: PluginView,
    /// Which product it is, and where it sits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub board: Board,
    /// How much of the memory is in use. Counts only where `memoryBytes` is given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory: MemoryUse,
    /// What it does at the moment.
    #[serde(default, skip_serializing_if = "is_default")]
    pub telemetry: Telemetry,
    /// What has gone wrong inside it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub errors: Errors,
    /// Answers of `nvmlDeviceGetFieldValues` that differ from, or add to, those that follow from the other values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
    /// The link to the host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pcie: Pcie,
    /// The links to other GPUs in their order, at most 18. None at all: the device has no NVLink.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nvlink: Vec<NvLink>,
    /// Who uses it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub processes: Processes,
    /// How many instances it can have at most. The library says 0 while MIG mode is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_mig_instances: Option<u32>,
    /// The instances that exist; only while MIG mode is on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mig_instances: Vec<MigInstance>,
    /// The bits of the event types for which clients may register.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_types: Option<u64>,
    /// Whether the driver is letting go of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Switch>,
    /// The device's own evidence of what it is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub confidential: Confidential,
}

/// Which product a device is, and where it sits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Board {
    /// The number on the board.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Text>,
    /// The version of the firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vbios: Option<Text>,
    /// N of `/dev/nvidiaN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor: Option<u32>,
    /// NVML's number, so that it may be one that no client knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brand: Option<u32>,
    /// NVML's number, so that it may be one that no client knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<u32>,
    /// Major and minor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<(i32, i32)>,
    /// CUDA cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// Where it is on the bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<Pci>,
    /// Whether the driver keeps the device ready without a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Switch>,
    /// NVML's number: 0 shared, 2 prohibited, 3 one process at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_mode: Option<u32>,
}

/// How much of a memory is in use, in bytes. What is neither reserved nor used is free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemoryUse {
    /// By driver and firmware.
    #[serde(default)]
    pub reserved_bytes: u64,
    /// By processes, or by nobody any more.
    #[serde(default)]
    pub used_bytes: u64,
}

/// Whether the driver still reaches a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// It answers.
    #[default]
    Healthy,
    /// Every call about it returns `NVML_ERROR_GPU_IS_LOST`, the look-up of its handle included.
    Lost,
}

/// What the device plugin tells the kubelet about a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PluginView {
    /// The same as NVML says.
    #[default]
    Follow,
    /// Healthy, whatever NVML says: a plugin that has not noticed.
    Healthy,
    /// Unhealthy, whatever NVML says: a plugin that never takes a verdict back.
    Unhealthy,
    /// Not registered.
    Absent,
}

/// Multi-Instance GPU mode, now and after the next reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mig {
    /// In force.
    pub current: Switch,
    /// In force after a reset.
    pub pending: Switch,
}

/// A part of a divided GPU, with a handle of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MigInstance {
    /// Its place below the device; places without an instance are `NVML_ERROR_NOT_FOUND`.
    pub index: u32,
    /// Must begin with [`MIG_UUID_MARK`](crate::MIG_UUID_MARK).
    pub uuid: String,
    /// The GPU instance.
    pub gi: u32,
    /// The compute instance within it.
    pub ci: u32,
    /// The product and the profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Text>,
    /// All of its memory, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// How much of that is in use.
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory: MemoryUse,
    /// Its share of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
}

/// An instance's share of its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attributes {
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Engines that move data.
    pub copy_engines: u32,
    /// Engines that decode video.
    pub decoders: u32,
    /// Engines that encode video.
    pub encoders: u32,
    /// Engines that decode images.
    pub jpeg_engines: u32,
    /// Engines that compute optical flow.
    pub ofa_engines: u32,
    /// Slices of the GPU instance.
    pub gi_slices: u32,
    /// Slices of the compute instance.
    pub ci_slices: u32,
    /// In units of 1024 × 1024 bytes.
    pub memory_mebibytes: u64,
}

impl Device {
    /// The same device after a change: `Device::h100(1).but(|d| d.telemetry.power_milliwatts = Some(u32::MAX))`.
    #[must_use]
    pub fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Whether clients see instances, so that the driver no longer answers some questions about the whole.
    pub(crate) fn is_divided(&self) -> bool {
        self.mig_enabled() && !self.mig_instances.is_empty()
    }

    pub(crate) fn mig_enabled(&self) -> bool {
        self.mig.is_some_and(|mig| mig.current == Switch::Enabled)
    }
}
