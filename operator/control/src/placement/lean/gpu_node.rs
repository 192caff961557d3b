//! A GPUNode: what its agent says of each device, as far as somebody decides by it.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use koinon_api::GPUNode;
use koinon_api::gpu_node::{
    self as api, AllocationState, GuestWork, HealthAction, HealthState, MigMode, NotShareableReason, PodResources,
};
use koinon_core::ids::{DeviceId, GpuClass, Line, NodeName, UnixSeconds};
use kube::ResourceExt;
use serde::Deserialize;

use super::words::{Word, word};
use crate::cache::Kept;

/// A GPUNode.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(from = "GPUNode")]
pub struct GpuNode {
    /// The node; none if no node can be called so.
    pub name: Option<NodeName>,
    /// Whether its agent hears from the kubelet who holds what.
    pub kubelet_answers: bool,
    /// Its devices and their instances.
    pub devices: Box<[Device]>,
}

/// What devices of one kind have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Model {
    /// The class; none if it is not said or is none.
    pub class: Option<GpuClass>,
    /// The product; none if it is no line.
    pub product: Option<Word>,
    /// Its memory in bytes.
    pub memory: Option<u64>,
}

/// One device, or one instance of a divided one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name; none if it is none.
    pub id: Option<DeviceId>,
    /// What it is.
    pub model: Arc<Model>,
    /// Of an instance: the device that it is an instance of, also where that has no name.
    pub parent: Option<Word>,
    /// Whether it works.
    pub state: HealthState,
    /// What is wrong with it; nothing with most.
    pub wrong: Option<Box<Wrong>>,
    /// Whether it is divided.
    pub mig: Option<MigMode>,
    /// Who holds it, in one word; none if nobody can say.
    pub allocation: Option<AllocationState>,
    /// Whether the scheduler may give it out.
    pub registered: Option<bool>,
    /// Why it could not be given to others.
    pub not_shareable_reason: Option<NotShareableReason>,
    /// Namespace and name of the pods that hold it.
    pub holders: Box<[(Word, Word)]>,
}

/// What is wrong with a device that is not healthy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Why, the gravest first.
    pub reasons: Box<[Word]>,
    /// What becomes of work of others on it.
    pub guest_work: Option<GuestWork>,
    /// What its owner should do.
    pub action: Option<HealthAction>,
    /// Since when.
    pub since: Option<UnixSeconds>,
}

static MODELS: LazyLock<Mutex<HashSet<Arc<Model>>>> = LazyLock::new(Mutex::default);
/// More kinds of devices than any fleet has: beyond them models are not shared, so that hostile ones cannot fill the memory.
const MOST_MODELS: usize = 1024;

impl Model {
    fn shared(self) -> Arc<Self> {
        let mut models = MODELS.lock().unwrap_or_else(PoisonError::into_inner);
        match models.get(&self) {
            Some(known) => known.clone(),
            None => {
                let made = Arc::new(self);
                if models.len() < MOST_MODELS {
                    models.insert(made.clone());
                }
                made
            }
        }
    }
}

impl Device {
    /// The class.
    #[must_use]
    pub fn class(&self) -> Option<&GpuClass> {
        self.model.class.as_ref()
    }

    /// What becomes of work of others on it, where its health says so.
    #[must_use]
    pub fn guest_work(&self) -> Option<GuestWork> {
        self.wrong.as_ref()?.guest_work
    }

    /// What its owner should do, where its health says so.
    #[must_use]
    pub fn action(&self) -> Option<HealthAction> {
        self.wrong.as_ref()?.action
    }

    /// Why it is not healthy, the gravest first.
    pub fn reasons(&self) -> impl Iterator<Item = &str> {
        self.wrong.iter().flat_map(|wrong| &wrong.reasons).map(|reason| &**reason)
    }

    /// Whether it is called so.
    #[must_use]
    pub fn is(&self, id: &DeviceId) -> bool {
        self.id.as_ref() == Some(id)
    }

    /// Since when it is not healthy.
    #[must_use]
    pub fn since(&self) -> Option<UnixSeconds> {
        self.wrong.as_ref()?.since
    }

    /// Its name for people.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.id.as_ref().map_or("without a name", DeviceId::as_str)
    }

    /// Who holds it; none where nobody can say.
    #[must_use]
    pub fn known_holders(&self) -> Option<&[(Word, Word)]> {
        self.allocation.filter(|state| *state != AllocationState::Unknown).map(|_| &*self.holders)
    }
}

impl From<&api::Device> for Device {
    fn from(device: &api::Device) -> Self {
        let memory = device.memory.as_ref().and_then(|memory| u64::try_from(memory.total_bytes).ok());
        let model = Model {
            class: device.class.as_ref().and_then(|class| class.parse().ok()),
            product: device.product.as_deref().filter(|product| product.parse::<Line>().is_ok()).map(word),
            memory,
        };
        let (health, allocation) = (&device.health, device.allocation.as_ref());
        let wrong = (health.state != HealthState::Healthy).then(|| Wrong {
            reasons: health.reasons.iter().map(|reason| word(reason)).collect(),
            guest_work: health.guest_work,
            action: health.action,
            since: health.since_time.as_ref().map(|time| UnixSeconds(koinon_api::time::to_unix(time))),
        });
        let holders = allocation.into_iter().flat_map(|allocation| &allocation.holders);
        Self {
            id: device.uuid.parse().ok(),
            model: model.shared(),
            parent: device.parent.as_deref().map(word),
            state: health.state,
            wrong: wrong.map(Box::new),
            mig: device.mig.as_ref().map(|mig| mig.mode),
            allocation: allocation.map(|allocation| allocation.state),
            registered: allocation.and_then(|allocation| allocation.registered),
            not_shareable_reason: device.not_shareable_reason,
            holders: holders.map(|holder| (word(&holder.namespace), word(&holder.name))).collect(),
        }
    }
}

impl From<GPUNode> for GpuNode {
    fn from(node: GPUNode) -> Self {
        let status = node.status.as_ref();
        let scheduler = status.and_then(|status| status.scheduler.as_ref());
        Self {
            name: node.name_any().parse().ok(),
            kubelet_answers: scheduler.is_some_and(|scheduler| scheduler.pod_resources == PodResources::Available),
            devices: status.iter().flat_map(|status| &status.devices).map(Device::from).collect(),
        }
    }
}

impl Kept<GPUNode> for GpuNode {
    fn keep(node: GPUNode) -> Option<Self> {
        Some(node.into())
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }
}
