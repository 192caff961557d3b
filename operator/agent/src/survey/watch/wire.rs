//! What the watching process says to the agent, line by line.

use serde::{Deserialize, Serialize};

use super::super::wire::Failed;

/// Begins each line.
pub(super) const MARK: &str = "koinon-watch/1 ";
/// A line is longer only if something else than our child wrote it.
pub(super) const MAX_LINE_BYTES: usize = 4 * 1024;

/// NVML's `nvmlEventType*`.
pub(super) mod kind {
    pub(in crate::survey) const SINGLE_BIT_ECC: u64 = 0x1;
    pub(in crate::survey) const PSTATE: u64 = 0x4;
    pub(in crate::survey) const XID: u64 = 0x8;
    pub(in crate::survey) const CLOCK: u64 = 0x10;
    pub(in crate::survey) const POWER_SOURCE: u64 = 0x80;
    pub(in crate::survey) const SINGLE_BIT_ECC_STORM: u64 = 0x200;
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Line {
    /// NVML could not be used, or no longer.
    Failed(Failed),
    /// So many of so many devices tell of their events.
    Registered { devices: u32, of: u32 },
    /// Something happened.
    Event(RawEvent),
    /// The wait failed with this return code.
    Error(u32),
    /// Nothing happened for as long as was waited.
    Beat,
}

/// An event, or several alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawEvent {
    /// None where NVML names no device, or one that does not say who it is.
    pub(super) uuid: Option<String>,
    /// The bits of its types; those that nobody knows included.
    pub(super) kind: u64,
    /// The code of an XID.
    pub(super) data: u64,
    /// All ones stand for none.
    pub(super) gpu_instance: u32,
    pub(super) compute_instance: u32,
    pub(super) times: u64,
}
