//! One device: whether it may be given to others.

use serde::{Deserialize, Serialize};

use crate::ids::{DeviceId, GpuClass};

/// What a survey says of a device. Only the first lets it take new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Health {
    /// It works.
    Healthy,
    /// It works, and should be looked at.
    Degraded,
    /// It must not be used.
    Unhealthy,
    /// Nobody can tell.
    Unknown,
}

/// Whether a device is handed out as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Division {
    /// Yes.
    Whole,
    /// It is itself an instance of a divided one, with memory and compute of its own.
    Instance,
    /// No, but in instances.
    Divided,
    /// Nobody can tell.
    Unknown,
}

/// Who may be on a device at the same time. Ordered by how little of it one tenant has for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    /// One tenant has the whole device.
    #[default]
    Exclusive,
    /// One tenant has an instance, which hardware keeps apart from the others.
    Mig,
    /// Tenants share memory and faults as clients of one server: NVIDIA's Multi-Process Service.
    Mps,
    /// Tenants take turns and share memory and faults: "if one workload crashes, they all do" (NVIDIA's device plugin,
    /// README, "Shared Access to GPUs").
    TimeSliced,
    /// Something else divides it in its own way, such as HAMi; or it is shared in a way that is not known.
    External,
}

impl Sharing {
    /// Whether a stranger may be given a device so shared: only one that nobody else is on.
    #[must_use]
    pub fn keeps_tenants_apart(self) -> bool {
        matches!(self, Self::Exclusive | Self::Mig)
    }
}

/// Who holds a device, by the kubelet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// Nobody.
    Free,
    /// A pod for which there is a reservation.
    Reservation,
    /// Any other pod.
    Other,
    /// The kubelet does not say.
    Unknown,
}

/// What keeps a device from being free although nobody may hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dirt {
    /// A process of a pod that does not hold the device: somebody went around the device plugin.
    Intruder,
    /// A process that belongs to no pod.
    Orphan,
    /// Memory in use by no process.
    Leak,
    /// What uses it could not be found out.
    Unknown,
}

/// Whether the scheduler may give a device out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Registration {
    /// It may.
    Yes,
    /// The device plugin or the DRA driver does not list it, or it is tainted.
    No,
    /// Only their number is known.
    Unknown,
}

/// One device of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its UUID.
    pub id: DeviceId,
    /// None if its product or memory is not known.
    pub class: Option<GpuClass>,
    /// Whether it works.
    pub health: Health,
    /// Whether it is one.
    pub division: Division,
    /// Who holds it.
    pub hold: Hold,
    /// What else uses it.
    pub dirt: Option<Dirt>,
    /// Whether the scheduler may give it out.
    pub registration: Registration,
}

/// Why a device is not given to others, whatever its node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotShareable {
    /// Its product or memory is not known, so nobody could ask for it.
    NoClass,
    /// It is not healthy.
    Health(Health),
    /// It is handed out in instances.
    Divided,
    /// Whether it is handed out in instances is not known.
    DivisionUnknown,
    /// Pods would share it.
    Shared(Sharing),
    /// The scheduler does not give it out.
    NotRegistered,
    /// A pod holds it.
    Held,
    /// Something else uses it.
    Dirty(Dirt),
}

impl DeviceFacts {
    /// Whether pods may compute on it: it works, at least for now.
    pub fn works(&self) -> bool {
        matches!(self.health, Health::Healthy | Health::Degraded)
    }

    /// What keeps this device from being anybody's but its present holder's.
    pub(super) fn unfit(&self, sharing: Sharing) -> Option<NotShareable> {
        if self.health != Health::Healthy {
            return Some(NotShareable::Health(self.health));
        }
        match self.division {
            Division::Divided => return Some(NotShareable::Divided),
            Division::Unknown => return Some(NotShareable::DivisionUnknown),
            Division::Whole | Division::Instance => {}
        }
        if !sharing.keeps_tenants_apart() {
            return Some(NotShareable::Shared(sharing));
        }
        match (self.registration, self.hold, self.dirt) {
            (Registration::No, _, _) => Some(NotShareable::NotRegistered),
            (_, Hold::Free | Hold::Unknown, Some(dirt)) => Some(NotShareable::Dirty(dirt)),
            _ if self.class.is_none() => Some(NotShareable::NoClass),
            _ => None,
        }
    }
}

/// Whether a device by itself may be given to others now.
///
/// # Errors
/// The first reason why not, the gravest first.
pub fn shareable(device: &DeviceFacts, sharing: Sharing) -> Result<(), NotShareable> {
    match device.unfit(sharing) {
        Some(why) => Err(why),
        None if matches!(device.hold, Hold::Reservation | Hold::Other) => Err(NotShareable::Held),
        None => Ok(()),
    }
}
