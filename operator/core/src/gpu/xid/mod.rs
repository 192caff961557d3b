//! What the driver reports as an XID: an error of a device by its number in NVIDIA's catalogue.
//!
//! ```text
//!  catalogue.tsv ─▶ catalogue ─┐
//!  a voted extension ──────────┴─▶ policy (what a report means) ◀── nvlink (links.tsv, registers), recovery
//! ```

pub mod catalogue;
pub mod links;
pub mod policy;
pub mod recovery;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::device::InstancePlace;
use super::words::words;
use crate::ids::{DeviceId, ObjectUid, UnixSeconds};

/// A number of NVIDIA's XID catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Xid(pub u32);

/// One report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct XidEvent {
    /// When it was heard, by the node's clock.
    pub at: UnixSeconds,
    /// Of which device. None: the report names none that is known, so it may be any of the node's.
    pub device: Option<DeviceId>,
    /// Which error.
    pub xid: Xid,
    /// Who said so.
    pub source: XidSource,
    /// In which instance, where the report names one.
    pub place: Option<InstancePlace>,
    /// What follows the number in the kernel's line, for codes whose meaning depends on it; at most 128 printable characters.
    pub detail: Option<String>,
    /// Whose process it was, by an id that survives the restart of its pod: a placement's uid, or the pod's owner's.
    pub workload: Option<ObjectUid>,
}

words!(
    /// Who reported an error.
    XidSource, "a source of XIDs", {
        /// An event of NVML, which tells of several at once only the last.
        Nvml = "NVML",
        /// A line of the kernel's log.
        KernelLog = "KernelLog",
        /// The recovery action that the driver recommends changed.
        RecoveryAction = "RecoveryAction",
    }
);

words!(
    /// The sort of an error, the mildest first: a label of metrics.
    XidClass, "a class of XIDs", {
        /// Worth a line, no more.
        Info = "info",
        /// An application's fault: it is started again.
        App = "app",
        /// Nobody here knows the code.
        Unknown = "unknown",
        /// What follows depends on more than the code.
        Workflow = "workflow",
        /// The device needs a reset.
        Reset = "reset",
        /// The node needs a reboot.
        Reboot = "reboot",
    }
);
