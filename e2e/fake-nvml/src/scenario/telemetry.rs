//! What a device does at the moment.

use serde::{Deserialize, Serialize};

/// What a device does at the moment. Values may be impossible ones: real firmware has returned such.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Telemetry {
    /// Of the last sample period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation: Option<Utilisation>,
    /// Of the GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_celsius: Option<u32>,
    /// Of the memory; field 82.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_temperature_celsius: Option<u32>,
    /// Distance to the temperature at which the device slows down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin_celsius: Option<i32>,
    /// Temperatures at which the driver acts.
    #[serde(default, skip_serializing_if = "super::device::is_default")]
    pub thresholds: Thresholds,
    /// The same as distances; fields 193 to 196. From Ada on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin_limits: Option<MarginLimits>,
    /// Drawn now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_milliwatts: Option<u32>,
    /// The lowest of all limits in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_limit_milliwatts: Option<u32>,
    /// Drawn since the driver was loaded; also field 83.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_millijoules: Option<u64>,
    /// In megahertz.
    #[serde(default, skip_serializing_if = "super::device::is_default")]
    pub clocks: Clocks,
    /// NVML's bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_reasons: Option<u64>,
    /// 0 is the fastest, 15 the slowest, 32 unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub performance_state: Option<u32>,
}

/// Of the last sample period, in per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Utilisation {
    /// Of the time in which a kernel ran.
    pub gpu_percent: u32,
    /// Of the time in which memory was read or written.
    pub memory_percent: u32,
}

/// Temperatures at which the driver acts, in degrees Celsius.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Thresholds {
    /// The device turns itself off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<u32>,
    /// The device slows itself down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowdown: Option<u32>,
    /// The driver slows down for the memory's sake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_maximum: Option<u32>,
    /// The driver slows down for the GPU's sake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_maximum: Option<u32>,
}

/// Margins at which the driver acts, in degrees Celsius; below zero is beyond the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MarginLimits {
    /// The device turns itself off.
    pub shutdown: i32,
    /// The device slows itself down.
    pub slowdown: i32,
    /// The driver slows down for the memory's sake.
    pub memory_maximum: i32,
    /// The driver slows down for the GPU's sake.
    pub gpu_maximum: i32,
}

/// Frequencies, in megahertz.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Clocks {
    /// Of graphics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graphics: Option<u32>,
    /// Of the streaming multiprocessors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sm: Option<u32>,
    /// Of the memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u32>,
    /// Of the video engines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<u32>,
}
