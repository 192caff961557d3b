//! What a node's devices are judged by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use crate::gpu::device::Device;
use crate::gpu::reading::Gap;
use crate::gpu::xid::XidEvent;
use crate::gpu::xid::policy::XidPolicy;
use crate::ids::{DeviceId, Line, UnixSeconds, name_type};

name_type!(
    /// The kernel's id of one boot of a node.
    BootId, "a boot id", |text| (!(!text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_graphic())))
        .then_some("must be 1 to 64 visible ASCII characters"));

/// Everything by which the devices of one node are judged at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What the survey came to.
    pub survey: Survey<'a>,
    /// The node.
    pub node: &'a NodeContext,
    /// Reports that no earlier judgement was given. In any order.
    pub events: &'a [XidEvent],
    /// Devices that were seen to be reset since the last judgement.
    pub resets: &'a [DeviceReset],
    /// The owner's word that a device is well, by device.
    pub clears: &'a BTreeMap<DeviceId, OwnerClear>,
    /// What the throughput canary last measured, by device; nothing where it did not run (R14).
    pub canary: &'a BTreeMap<DeviceId, PerMille>,
    /// The memory that a product is sold with, by its name, as its driver reports it (R12).
    pub nominal: &'a BTreeMap<Line, crate::ids::Bytes>,
    /// What XIDs mean.
    pub policy: &'a XidPolicy,
    /// From where on something counts.
    pub limits: &'a Limits,
    /// By the node's clock, which may jump.
    pub now: UnixSeconds,
}

/// What a survey came to.
#[derive(Clone, Copy, Debug)]
pub enum Survey<'a> {
    /// It came back.
    Read {
        /// The devices that said their id. Two with one id may stand here.
        devices: &'a [Device],
        /// The others.
        lost: &'a [LostDevice],
    },
    /// It did not.
    Failed {
        /// How.
        failure: SurveyFailure,
        /// How many surveys failed one after the other, this one counted.
        in_a_row: u32,
    },
}

/// A device that the library counts and that did not say its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LostDevice {
    /// Its position in the library's order.
    pub index: u32,
    /// Why it did not.
    pub gap: Gap,
}

/// A device was reset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceReset {
    /// Which.
    pub device: DeviceId,
    /// When, by the node's clock. What is reported for a later moment is not answered by it.
    pub at: UnixSeconds,
}

/// How a survey failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SurveyFailure {
    /// It did not come back within its deadline.
    Deadline,
    /// Its process died.
    Crashed,
    /// Its process hangs and cannot be ended.
    Stuck,
    /// There is no library, no driver, no permission, or their versions do not fit: nobody to ask.
    Unavailable,
}

/// What is known of the node itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeContext {
    /// Which boot this is.
    pub boot: BootId,
    /// Since that boot, in milliseconds; never runs backwards.
    pub uptime_milliseconds: u64,
    /// The driver's version, if it was read.
    pub driver: Option<Line>,
    /// Since when the kubelet calls the node ready, if it is known.
    pub ready_since: Option<UnixSeconds>,
}

/// The owner's word that a device is well again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnerClear {
    /// When it was given. Each is used once.
    pub at: UnixSeconds,
    /// Why. Without a reason it does not count.
    pub reason: Line,
}

/// A share in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PerMille(pub u32);
