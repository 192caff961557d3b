//! What the surveying process says to the agent: one line on its standard output. Nothing in it has been believed yet.

use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// Begins the line. Whatever else a driver's library prints on standard output is passed over.
pub(super) const MARK: &str = "koinon-survey/2 ";

/// 128 devices with all their links need about 512 KiB, and 1,024 processes on each of them 5 MiB more.
pub(super) const MAX_OUTPUT_BYTES: usize = 8 * 1024 * 1024;

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Answer {
    /// NVML could not be used at all.
    Failed(Failed),
    /// NVML was asked, call by call.
    Read(Readings),
}

/// Why NVML could not be used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// NVML's return code, where a call was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<u32>,
    pub(super) message: String,
}

/// What NVML answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Readings {
    pub(super) driver_version: Raw<String>,
    pub(super) nvml_version: Raw<String>,
    pub(super) cuda_version: Raw<i32>,
    #[serde(default)]
    pub(super) confidential: RawConfidential,
    /// The file that was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) library_file: Option<String>,
    pub(super) count: u32,
    /// At most [`super::MAX_DEVICES`], in the order of their indices.
    pub(super) devices: Vec<RawDevice>,
    /// What the functions returned besides values.
    #[serde(default)]
    pub(super) errors: Vec<CallErrors>,
}

/// How often a function returned an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CallErrors {
    /// Its name.
    pub symbol: String,
    /// NVML's return code.
    pub code: u32,
    /// How often.
    pub count: u32,
}

/// Confidential computing, of the node as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawConfidential {
    /// Of the processors and of the GPUs.
    pub(super) capabilities: Raw<(u32, u32)>,
    /// Whether it is on, and whether it can be debugged.
    pub(super) state: Raw<(u32, u32)>,
    pub(super) ready: Raw<u32>,
}

/// One index that NVML counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawDevice {
    pub(super) index: u32,
    pub(super) uuid: Raw<String>,
    /// Absent if it did not say who it is: nobody would know of what the rest speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) said: Option<Box<Said>>,
}

/// What one device said of itself. What is left out was not asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Said {
    /// Its UUID once more, after all else: an index or handle that meanwhile names another device shows here.
    pub(super) uuid_again: Raw<String>,
    pub(super) product: Raw<String>,
    pub(super) brand: Raw<u32>,
    pub(super) architecture: Raw<u32>,
    pub(super) compute_capability: Raw<(i32, i32)>,
    pub(super) minor: Raw<u32>,
    pub(super) bus_id: Raw<String>,
    pub(super) serial: Raw<String>,
    pub(super) vbios: Raw<String>,
    pub(super) memory: Raw<RawMemory>,
    /// Current and pending mode.
    pub(super) mig: Raw<(u32, u32)>,
    pub(super) instances: Raw<Vec<RawInstance>>,
    pub(super) ecc: RawEcc,
    pub(super) remap: RawRemap,
    pub(super) recovery: RawRecovery,
    pub(super) nvlink: RawLinks,
    pub(super) pcie: RawPcie,
    pub(super) thermal: RawThermal,
    pub(super) power: Raw<u32>,
    pub(super) power_limit: Raw<u32>,
    /// Field 83, in millijoules.
    pub(super) energy: Raw<i64>,
    pub(super) clocks: RawClocks,
    /// Of computing and of memory.
    pub(super) utilisation: Raw<(u32, u32)>,
    pub(super) persistence: Raw<u32>,
    pub(super) processes: RawProcesses,
}

/// In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawMemory {
    pub(super) total: u64,
    /// None from a driver that does not tell it from what is used.
    pub(super) reserved: Option<u64>,
    pub(super) used: u64,
}

/// An instance of a divided device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawInstance {
    pub(super) uuid: Raw<String>,
    pub(super) gpu_instance: Raw<u32>,
    pub(super) compute_instance: Raw<u32>,
    pub(super) slices: Raw<u32>,
    pub(super) memory: Raw<RawMemory>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawEcc {
    /// Current and pending mode.
    pub(super) mode: Raw<(u32, u32)>,
    pub(super) volatile_corrected: Raw<u64>,
    pub(super) volatile_uncorrected: Raw<u64>,
    pub(super) aggregate_corrected: Raw<u64>,
    pub(super) aggregate_uncorrected: Raw<u64>,
    pub(super) sram_threshold_exceeded: Raw<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawRemap {
    /// Field 142.
    pub(super) correctable: Raw<i64>,
    /// Field 143.
    pub(super) uncorrectable: Raw<i64>,
    /// Field 144.
    pub(super) pending: Raw<i64>,
    /// Field 145.
    pub(super) failed: Raw<i64>,
    /// Banks by spare rows: max, high, partial, low, none.
    pub(super) availability: Raw<[u32; 5]>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawRecovery {
    /// Field 230.
    pub(super) action: Raw<i64>,
    /// Field 226, by which drivers before field 230 ask for a reset.
    pub(super) reset: Raw<i64>,
    /// Field 227, likewise.
    pub(super) drain_and_reset: Raw<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawLinks {
    /// Field 91.
    pub(super) count: Raw<i64>,
    pub(super) links: Vec<RawLink>,
    /// Fields 52, 59 and 38: of all links together, from drivers that do not tell them link by link.
    pub(super) total: RawLinkErrors,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawLink {
    /// Field 165.
    pub(super) state: Raw<i64>,
    /// Fields 161 to 163.
    pub(super) errors: RawLinkErrors,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawLinkErrors {
    pub(super) replay: Raw<i64>,
    pub(super) recovery: Raw<i64>,
    pub(super) crc: Raw<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawPcie {
    pub(super) generation: Raw<u32>,
    pub(super) max_generation: Raw<u32>,
    pub(super) width: Raw<u32>,
    pub(super) max_width: Raw<u32>,
    /// Field 94.
    pub(super) replays: Raw<i64>,
}

/// In degrees Celsius.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawThermal {
    pub(super) gpu: Raw<u32>,
    /// Field 82.
    pub(super) memory: Raw<i64>,
    pub(super) margin: Raw<i32>,
    pub(super) gpu_max: Raw<u32>,
    pub(super) memory_max: Raw<u32>,
    /// Field 196: the margin at which the chip is at its highest temperature of normal operation.
    pub(super) gpu_max_margin: Raw<i64>,
}

/// In megahertz.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawClocks {
    pub(super) sm: Raw<u32>,
    pub(super) sm_max: Raw<u32>,
    pub(super) memory: Raw<u32>,
    pub(super) throttle: Raw<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawProcesses {
    pub(super) compute: Raw<Vec<RawProcess>>,
    pub(super) graphics: Raw<Vec<RawProcess>>,
    pub(super) mps: Raw<Vec<RawProcess>>,
}

/// A process: its number, the bytes that it uses, its GPU instance and its compute instance. All ones stand for none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct RawProcess(pub(super) u32, pub(super) u64, pub(super) u32, pub(super) u32);

/// What one call came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Raw<T> {
    /// A value.
    Value(T),
    /// An NVML return code.
    Code(u32),
    /// The library has no such function.
    NoSymbol,
    /// Bytes that are not text.
    NotText,
    /// It changed each time that it was asked.
    Unstable,
    /// More than a device can have.
    TooMany,
    /// Nobody asked.
    #[default]
    NotAsked,
}

impl<T> Raw<T> {
    /// The same about what the value is made into.
    pub(super) fn map<U>(self, make: impl FnOnce(T) -> U) -> Raw<U> {
        self.and_then(|value| Raw::Value(make(value)))
    }

    /// The same, where what the value is made into may be none.
    pub(super) fn and_then<U>(self, make: impl FnOnce(T) -> Raw<U>) -> Raw<U> {
        match self {
            Self::Value(value) => make(value),
            Self::Code(code) => Raw::Code(code),
            Self::NoSymbol => Raw::NoSymbol,
            Self::NotText => Raw::NotText,
            Self::Unstable => Raw::Unstable,
            Self::TooMany => Raw::TooMany,
            Self::NotAsked => Raw::NotAsked,
        }
    }

    /// Whether neither device nor driver has such a value.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self, Self::NoSymbol | Self::Code(code::NOT_SUPPORTED | code::FUNCTION_NOT_FOUND))
    }

    /// The same about a field: an older library takes the number of a newer field for a wrong argument.
    pub(super) fn is_unsupported_field(&self) -> bool {
        self.is_unsupported() || matches!(self, Self::Code(code::INVALID_ARGUMENT))
    }
}

/// NVML return codes that decide something. The wrapper has no name for those from 23 on.
pub(super) mod code {
    pub(in crate::survey) const UNINITIALIZED: u32 = 1;
    pub(in crate::survey) const INVALID_ARGUMENT: u32 = 2;
    pub(in crate::survey) const NOT_SUPPORTED: u32 = 3;
    pub(in crate::survey) const NO_PERMISSION: u32 = 4;
    pub(in crate::survey) const NOT_FOUND: u32 = 6;
    pub(in crate::survey) const TIMEOUT: u32 = 10;
    pub(in crate::survey) const FUNCTION_NOT_FOUND: u32 = 13;
    pub(in crate::survey) const GPU_IS_LOST: u32 = 15;
    pub(in crate::survey) const RESET_REQUIRED: u32 = 16;
    pub(in crate::survey) const LIBRARY_RM_VERSION_MISMATCH: u32 = 18;
    pub(in crate::survey) const ARGUMENT_VERSION_MISMATCH: u32 = 25;
    pub(in crate::survey) const NOT_READY: u32 = 27;
    pub(in crate::survey) const GPU_NOT_FOUND: u32 = 28;
    pub(in crate::survey) const UNKNOWN: u32 = 999;
}
