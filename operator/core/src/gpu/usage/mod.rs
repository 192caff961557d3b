//! Who uses and who holds each device of a node: the driver's processes against what the kubelet gave out.
//!
//! The driver lists processes by number; whose they are is found out at the node and comes in here as [`Owner`]. The kubelet
//! says which pod holds which device. A device that nobody holds and nothing uses is free; each other case has its own name,
//! and what could not be read is unknown, which is neither free nor clean.
//!
//! ```text
//!  processes of a device ─┐                        held by a pod          not held
//!  owner of each process ─┼─▶ attribution ─┬─ pod that holds it     Held        (cannot be)
//!  kubelet: who holds     ┤                ├─ another pod that lives Intruder    Intruder
//!  pods and their uids ───┘                ├─ no pod that lives      Held        Orphaned, after the grace
//!  memory in use ─────────────────────────▶└─ none, memory in use    Held        Leaked, after the grace
//! ```

#[cfg(test)]
mod fixture;
mod judge;
mod names;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::device::{Device, ProcessKind};
use super::reading::Gap;
use crate::capacity::Dirt;
use crate::ids::{Bytes, DeviceId, Namespace, ObjectUid, dns_label, name_type};

pub use judge::judge;
pub use names::{DeviceName, DraDevice, Relevant};

name_type!(
    /// The name of a pod within its namespace.
    PodName, "a pod name", |t| (!(t.len() <= 253 && t.split('.').all(|label| dns_label(label, 253))))
        .then_some("must be a DNS subdomain of at most 253 characters"));
name_type!(
    /// A container as its runtime names it.
    ContainerId, "a container id", |t| (!((12..=64).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))))
        .then_some("must be 12 to 64 lower case hex digits"));

/// A pod by its names, which is how the kubelet tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRef {
    /// Where it stands.
    pub namespace: Namespace,
    /// Its name there.
    pub name: PodName,
}

/// A resource claim that several pods may share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimRef {
    /// Where it stands.
    pub namespace: Namespace,
    /// Its name there.
    pub name: PodName,
}

/// What was found out of the process behind a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// When it started, in milliseconds since the node booted; none if that could not be read or it is gone.
    pub started_milliseconds: Option<u64>,
    /// Whose it is.
    pub owner: Owner,
}

/// Whose a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A container of a pod, by the control group that it runs in.
    Pod {
        /// The pod's uid; of a static pod the digest of its manifest.
        uid: ObjectUid,
        /// The container, where the group's name tells it.
        container: Option<ContainerId>,
    },
    /// It runs, and in no pod.
    Host,
    /// It no longer runs; or its number is now that of one that started after the survey.
    Gone,
    /// It may run, and whose it is cannot be told.
    Unreadable,
}

/// What a kubelet says of its node, or why it said nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kubelet {
    /// It answered.
    Said(Allocation),
    /// It did not, or nobody asked. Not the same as nobody holding anything.
    Unknown,
}

/// Who holds what on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Every pod of the node that the kubelet counts as active, also those that hold no device.
    pub pods: BTreeSet<PodRef>,
    /// What they hold.
    pub holdings: Vec<Holding>,
    /// Devices that device plugins registered as healthy, held or not. None: not said.
    pub allocatable: Option<Vec<DeviceName>>,
}

/// One device of one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holding {
    /// Who holds it.
    pub pod: PodRef,
    /// Through which claim; none for a device of a device plugin.
    pub claim: Option<ClaimRef>,
    /// The device as the scheduler names it.
    pub device: DeviceName,
}

/// The pods of a node that have not ended, as the API server knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// It answered. A static pod has two uids: its mirror's, and the one that its control groups are named by.
    Known(BTreeMap<PodRef, BTreeSet<ObjectUid>>),
    /// It did not.
    Unknown,
}

/// From when on something counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a process without a pod, or memory without a process, is put down to somebody who is just leaving.
    pub grace_milliseconds: u64,
    /// Memory without a process that every driver keeps; at least this much is never called leaked …
    pub unattributed: Bytes,
    /// … nor this share of the device's memory, in per cent.
    pub unattributed_percent: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { grace_milliseconds: 60_000, unattributed: Bytes(512 << 20), unattributed_percent: 1 }
    }
}

/// Everything that was found out about a node's use at one time.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The devices with their processes.
    pub devices: &'a [Device],
    /// What was found out of each process, by its number. What is missing is unreadable.
    pub processes: &'a BTreeMap<u32, Found>,
    /// Who holds what.
    pub kubelet: &'a Kubelet,
    /// Which pods there are.
    pub pods: &'a Pods,
    /// The devices of resource slices by their names there.
    pub slices: &'a BTreeMap<DraDevice, DeviceId>,
    /// Which names of resources and drivers stand for GPUs.
    pub relevant: &'a Relevant,
    /// Devices that several pods may hold, where that is known otherwise than by their names.
    pub shared: &'a BTreeSet<DeviceId>,
    /// When, in milliseconds since the node booted.
    pub uptime_milliseconds: u64,
    /// From when on something counts.
    pub limits: Limits,
}

/// What was already so the last time. Kept by the agent in memory only; after a restart it is none, and processes are then as
/// old as they themselves are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// When that was.
    pub(super) at: u64,
    /// Since when a process without a pod has been seen on a device, by its number and start.
    pub(super) processes: BTreeMap<(DeviceId, u32, Option<u64>), u64>,
    /// Since when a device has had too much memory in use without a process.
    pub(super) memory: BTreeMap<DeviceId, u64>,
    /// Since when a device that is held has had no process.
    pub(super) idle: BTreeMap<DeviceId, u64>,
    /// Since when a device has been in its state.
    pub(super) states: BTreeMap<DeviceId, (Use, u64)>,
}

/// Who uses a node's devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeUse {
    /// Each device and each instance by its id.
    pub devices: BTreeMap<DeviceId, DeviceUse>,
    /// Held GPUs that no device of the node goes by the name of. While there are any, no device counts as free. One that is
    /// called by its UUID is not among them: it is none of the others.
    pub unnamed: BTreeSet<Holding>,
    /// Devices that device plugins offer to pods, held or not; none while that is unknown. Those of DRA are not among them.
    pub allocatable: Option<BTreeSet<DeviceId>>,
    /// For the next time.
    pub standing: Standing,
}

/// Who uses one device or instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceUse {
    /// All in all.
    pub state: Use,
    /// Since when, in milliseconds since the node booted, as far back as this agent saw it.
    pub since_milliseconds: u64,
    /// Who holds it by the kubelet, whatever uses it. None while the kubelet says nothing.
    pub holders: Option<BTreeSet<PodRef>>,
    /// Whether several pods may hold it.
    pub shared: bool,
    /// As how many devices the kubelet gives it out. None while the kubelet does not say.
    pub replicas: Option<u32>,
    /// Its processes by kind and by whose they are. None where the list could not be had.
    pub processes: Option<BTreeMap<(ProcessKind, Attribution), u32>>,
    /// How long the oldest process that nobody holding the device accounts for has stood, in whole seconds.
    pub oldest_unattributed_seconds: Option<u64>,
    /// Memory in use without a process. None if what some process uses is unknown.
    pub unattributed: Option<Bytes>,
    /// Whether the next pod would have it for itself.
    pub clean: Clean,
    /// Whether all memory in use, by whomever, is less than what counts as leaked. Says something even where processes
    /// cannot be seen.
    pub quiet: Option<bool>,
    /// For how long it has been held and had no process, in whole seconds.
    pub idle_seconds: Option<u64>,
}

impl DeviceUse {
    /// Whether the kubelet's word on who holds the device can be relied on: it spoke, and nothing contradicts it.
    pub fn is_told(&self) -> bool {
        match &self.state {
            _ if self.holders.is_none() => false,
            Use::Unknown(Why::Processes(_) | Why::ProcessesUnsupported) => {
                self.holders.as_ref().is_some_and(|pods| !pods.is_empty() || self.quiet.is_some())
            }
            Use::Unknown(_) => false,
            Use::Free | Use::Held { .. } | Use::Intruder { .. } | Use::Orphaned { .. } | Use::Leaked { .. } => true,
        }
    }

    /// What keeps the device from being free although nobody may hold it.
    pub fn dirt(&self) -> Option<Dirt> {
        let held = self.holders.as_ref().is_some_and(|pods| !pods.is_empty());
        match &self.state {
            Use::Free | Use::Held { .. } => None,
            Use::Intruder { .. } => Some(Dirt::Intruder),
            Use::Orphaned { .. } => Some(Dirt::Orphan),
            Use::Leaked { .. } => Some(Dirt::Leak),
            // Pods are counted by the operator then; what belongs to none of them is in the way whoever holds the device. So is
            // memory of which nobody can say whose it is.
            Use::Unknown(Why::KubeletUnknown) => {
                let unseen = self.processes.is_none() && self.quiet != Some(true);
                (unseen || self.has_remains()).then_some(Dirt::Unknown)
            }
            // Without a view of the node's processes, memory tells whether a device that nobody holds is in use. A list that
            // could not be read this time tells nothing: what stood on the device may still stand there.
            Use::Unknown(Why::Processes(Gap::NoPermission) | Why::ProcessesUnsupported) if self.holders.is_some() => {
                match self.quiet {
                    _ if held => None,
                    Some(true) => None,
                    Some(false) => Some(Dirt::Leak),
                    None => Some(Dirt::Unknown),
                }
            }
            Use::Unknown(_) => Some(Dirt::Unknown),
        }
    }

    /// Whether a process without a pod is on it, or memory without a process, for however short a time.
    fn has_remains(&self) -> bool {
        let host = |processes: &BTreeMap<(ProcessKind, Attribution), u32>| {
            processes.keys().any(|(_, whose)| *whose == Attribution::Host)
        };
        self.clean == Clean::No || self.processes.as_ref().is_some_and(host)
    }

    /// [`Self::unattributed`] in steps of 256 MiB, so that a status does not change with every allocation.
    pub fn unattributed_in_steps(&self) -> Option<Bytes> {
        self.unattributed.map(in_steps)
    }
}

fn in_steps(bytes: Bytes) -> Bytes {
    const STEP: u64 = 256 << 20;
    Bytes(bytes.0 / STEP * STEP)
}

/// Whose a process is, seen from the device that it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribution {
    /// A pod's that holds the device.
    Pod,
    /// A pod's that lives and does not hold it.
    PodMismatch,
    /// No living pod's: the host's own, one left over from a container, or one that only the driver still knows.
    Host,
    /// That could not be told.
    Unknown,
}

/// How a device is used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// By nobody, and nobody holds it.
    Free,
    /// By those who hold it, if at all.
    Held {
        /// One, unless the device is shared.
        pods: BTreeSet<PodRef>,
    },
    /// By pods that do not hold it. They came past the scheduler.
    Intruder {
        /// Who they are.
        pods: BTreeSet<(PodRef, ObjectUid)>,
    },
    /// By processes of no living pod, although nobody holds it.
    Orphaned {
        /// Since when, in milliseconds since the node booted.
        since_milliseconds: u64,
        /// How many.
        processes: u32,
    },
    /// By nobody, and yet its memory is in use. A reset frees it.
    Leaked {
        /// How much, in steps of 256 MiB.
        bytes: Bytes,
    },
    /// That cannot be told.
    Unknown(Why),
}

/// Why it cannot be told how a device is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Several devices go by this id.
    DuplicateId,
    /// The kubelet did not say who holds what.
    KubeletUnknown,
    /// Some GPU is held under a name that none of the node's devices has: it may be this one.
    UnnamedHolding,
    /// Several pods hold it, and it is not shared.
    SeveralHolders,
    /// The driver's list of processes could not be read.
    Processes(Gap),
    /// The driver lists no processes for this device.
    ProcessesUnsupported,
    /// A process uses it, and whose it is cannot be told.
    ProcessOwner,
    /// A process uses some instance of the device, and which one cannot be told.
    Unplaced,
    /// How much of its memory is in use could not be read.
    Memory,
    /// What stands on it has stood for less than the grace: somebody may just be leaving.
    Settling,
}

/// Whether the next pod would have a device for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clean {
    /// No process older than the grace is without its holder, and no memory without a process.
    Yes,
    /// There is such a process or such memory.
    No,
    /// That could not be found out.
    Unknown,
}
