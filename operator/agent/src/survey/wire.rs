//! What the surveying process says to the agent: one line on its standard output.

use serde::{Deserialize, Serialize};

/// Begins the line. Whatever else a driver's library prints on standard output is passed over.
pub(super) const MARK: &str = "koinon-survey/1 ";

/// 128 devices need about 64 KiB.
pub(super) const MAX_OUTPUT_BYTES: usize = 1024 * 1024;

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

/// The ways in which NVML fails as a whole. All of them leave the state of the devices unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Failure {
    /// No library of that name: no driver on this node, or it is not mounted.
    LibraryMissing,
    /// A library without the symbols of NVML.
    SymbolMissing,
    /// The kernel module is not loaded.
    DriverNotLoaded,
    /// The process may not use the devices.
    NoPermission,
    /// Library and kernel module are of different versions: a driver upgrade without a restart.
    VersionMismatch,
    /// Any other return code.
    Error,
    /// No answer before the deadline.
    Hung,
    /// The surveying process died.
    Crashed,
    /// The surveying process answered something that is no answer.
    Garbled,
    /// Too many surveying processes hang and cannot be killed, so no further one is started.
    Unresponsive,
    /// The surveying process could not be started.
    NotStarted,
}

impl Failure {
    /// All of them, for metrics that must exist before the first failure.
    pub const ALL: [Self; 11] = [
        Self::LibraryMissing,
        Self::SymbolMissing,
        Self::DriverNotLoaded,
        Self::NoPermission,
        Self::VersionMismatch,
        Self::Error,
        Self::Hung,
        Self::Crashed,
        Self::Garbled,
        Self::Unresponsive,
        Self::NotStarted,
    ];

    /// As a label and a reason.
    pub fn name(self) -> &'static str {
        match self {
            Self::LibraryMissing => "LibraryMissing",
            Self::SymbolMissing => "SymbolMissing",
            Self::DriverNotLoaded => "DriverNotLoaded",
            Self::NoPermission => "NoPermission",
            Self::VersionMismatch => "VersionMismatch",
            Self::Error => "Error",
            Self::Hung => "Hung",
            Self::Crashed => "Crashed",
            Self::Garbled => "Garbled",
            Self::Unresponsive => "Unresponsive",
            Self::NotStarted => "NotStarted",
        }
    }
}

/// What NVML answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Readings {
    pub(super) driver_version: Raw<String>,
    pub(super) nvml_version: Raw<String>,
    pub(super) cuda_version: Raw<i32>,
    pub(super) count: u32,
    /// At most [`super::MAX_DEVICES`], in the order of their indices.
    pub(super) devices: Vec<RawDevice>,
}

/// One index that NVML counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawDevice {
    pub(super) index: u32,
    pub(super) uuid: Raw<String>,
    pub(super) product: Raw<String>,
    pub(super) memory_bytes: Raw<u64>,
    /// Current and pending mode.
    pub(super) mig: Raw<(u32, u32)>,
}

/// What one call came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
}
