//! Whether a device can be believed: its state with reasons, from readings, reports, history and time.
//!
//! ```text
//!  survey ─▶ rules (R1 to R14) ─┐
//!  XIDs ───▶ events (policy) ───┼─▶ findings in the history ─▶ judge ─▶ verdicts of devices, instances and node
//!  resets, clears, reboots ─────┘        (each with its own end)
//! ```
//!
//! Healthy needs proof: everything that decides was read and speaks for the device. What is degraded clears by itself, what is
//! unhealthy only by a reset, a reboot or its owner's word. What is unknown is neither: it takes nothing new, and loses nothing.

mod events;
pub mod history;
pub mod input;
mod judge;
pub mod limits;
mod rules;
mod weigh;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use history::{DeviceHistory, History, Incident};
pub use input::{BootId, DeviceReset, Inputs, LostDevice, NodeContext, OwnerClear, PerMille, Survey, SurveyFailure};
pub use judge::judge;
pub use limits::{BOUNDS, Bound, LimitError, Limits};

use super::device::InstancePlace;
use super::words::{Action, Offer, Reason, Work, words};
use super::xid::Xid;
use crate::capacity::Health;
use crate::ids::{DeviceId, ObjectUid, UnixSeconds};

/// Most reasons of one verdict.
pub const MAX_REASONS: usize = 8;
/// Most notices of one judgement.
pub const MAX_NOTICES: usize = 64;

/// What is held of one device or instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it works. Only healthy ones are for others.
    pub state: Health,
    /// Why it is not simply healthy, the worst first; at most eight.
    pub reasons: Vec<Reason>,
    /// What the owner should do.
    pub action: Action,
    /// What becomes of foreign work on it.
    pub work: Work,
    /// What new work it may take now. Nothing also while a survey is missing that would still be needed to change the state.
    pub offer: Offer,
    /// Since when it is in this state, by the node's clock.
    pub since: UnixSeconds,
}

/// What is held of a node's devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// By device: all that were read, and those that are missing.
    pub devices: BTreeMap<DeviceId, Verdict>,
    /// By instance of a divided device.
    pub instances: BTreeMap<DeviceId, Verdict>,
    /// The node.
    pub node: NodeVerdict,
    /// What workloads and their owners should hear; at most 64.
    pub notices: BTreeSet<Notice>,
    /// Devices whose evidence of confidential computing no longer holds.
    pub evidence_dropped: BTreeSet<DeviceId>,
    /// What the next judgement needs.
    pub history: History,
}

/// What is held of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeVerdict {
    /// No foreign work may come to any of its devices: one of several fell off the bus.
    pub cordon: bool,
    /// A device needs the node to be rebooted.
    pub reboot: bool,
    /// Devices get less power than they ask for.
    pub power: bool,
    /// XIDs of the node as a whole that follow one another: one fault.
    pub incident: Option<Incident>,
    /// Devices that did not say their id and that no missing one can be.
    pub unidentified: u32,
}

/// Something to tell about a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// What.
    pub kind: NoticeKind,
    /// On which device.
    pub device: DeviceId,
    /// In which instance.
    pub place: Option<InstancePlace>,
    /// Which workload, if it is known.
    pub workload: Option<ObjectUid>,
    /// What was reported.
    pub xid: Xid,
}

words!(
    /// What to tell about a workload.
    NoticeKind, "a notice", {
        /// It alone faults on this device again and again: the fault is its own.
        TenantFault = "TenantFault",
        /// It faulted, and starts again.
        Restart = "Restart",
    }
);
