//! The ways in which a survey, or the waiting for events, fails as a whole.

use serde::{Deserialize, Serialize};

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
