//! One node, from its survey, its kubelet and its pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Taint, Toleration};
use koinon_api::gpu_node::{AllocationState, HealthState, MigMode, NotShareableReason};
use koinon_api::gpu_pool::GpuAccess;
use koinon_api::{GPUPool, labels, names};
use koinon_core::capacity::{
    self, Admission, DeviceFacts, Dirt, Division, Health, Hold, NodeCapacity, NodeFacts, Registration,
};
use koinon_core::gpu::scheduler::{Account, Devices, Source};
use koinon_core::ids::{Bytes, DeviceId, GpuClass, Line, MemberId, NodeName, Seconds};
use koinon_core::placement::reservations::{NodeReservations, Reservation};
use kube::ResourceExt;

use super::Inputs;
use super::scheduler::{Holder, HolderKind, Sources, View};
use crate::placement::lean::words::{Labels, Word};
use crate::placement::lean::{Device, GpuNode, Node};

/// What a device of a class is called and how much memory it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// The product.
    pub name: Line,
    /// Its memory; the smallest where devices of one class differ.
    pub memory: Bytes,
}

/// What is known of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    name: NodeName,
    labels: Labels,
    heartbeat_age: Option<Seconds>,
    admission: Admission,
    gpu_node: Arc<GpuNode>,
    /// Which of its devices the pool's way of asking stands for; none if it is all of them, as it is where none is divided.
    some: Option<Box<[usize]>>,
    scheduler: Option<View>,
    /// By which pool the GPUs are counted, and as what; none if no pool selects the node.
    counted_as: Option<(String, String)>,
    me: Option<MemberId>,
}

impl NodeView {
    /// By which pool its GPUs are counted, the oldest that selects it, and as what.
    #[must_use]
    pub fn counted_as(&self) -> Option<&(String, String)> {
        self.counted_as.as_ref()
    }

    /// Whether somebody names what is given out of its devices and who holds it: the scheduler, or the kubelet.
    #[must_use]
    pub fn names_its_devices(&self) -> bool {
        let by_scheduler = self.scheduler.as_ref().is_some_and(|view| view.source == Source::Dra);
        let mut healthy = self.named().filter(|(_, device)| device.state == HealthState::Healthy);
        by_scheduler || self.gpu_node.kubelet_answers && healthy.all(|(_, device)| device.registered.is_some())
    }

    /// What the scheduler knows the node by.
    #[must_use]
    pub fn hostname(&self) -> &str {
        self.labels.get("kubernetes.io/hostname").unwrap_or(self.name.as_str())
    }

    /// What the devices of `class` are.
    #[must_use]
    pub fn product(&self, class: &GpuClass) -> Option<Product> {
        let models = self.devices().filter(|device| device.class() == Some(class)).map(|device| &device.model);
        let mut known = models.filter_map(|model| Some((model.product.as_ref()?, Bytes(model.memory?))));
        let (name, first) = known.next()?;
        let memory = known.map(|(_, memory)| memory).fold(first, Ord::min);
        Some(Product { name: name.parse().ok()?, memory })
    }

    /// The devices that it is about.
    fn devices(&self) -> impl Iterator<Item = &Device> {
        let all = self.gpu_node.devices.iter().enumerate();
        // They are in order, and so are those that count.
        all.filter(|(index, _)| self.some.as_ref().is_none_or(|some| some.binary_search(index).is_ok()))
            .map(|(_, one)| one)
    }

    /// Whether the owner empties it.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.admission == Admission::Drained
    }

    /// Whether the pool's selector names this node.
    #[must_use]
    pub fn selected_by(&self, pool: &GPUPool) -> bool {
        self.labels.have(&pool.spec.node_selector)
    }

    /// What it has to give while `record` holds what it holds.
    #[must_use]
    pub fn capacity(&self, record: Option<&NodeReservations>) -> NodeCapacity {
        let held: &[Reservation] = record.map_or(&[], NodeReservations::held);
        let reserved: BTreeSet<(String, String)> = held.iter().flat_map(|held| self.pods_of(held)).collect();
        // Own placements are reserved like foreign ones, and so are never counted by their pods.
        let is_reserved = |holder: &Holder| {
            holder.placement.as_deref().and_then(stem).is_some_and(|stem| {
                [holder.namespace.as_str(), ANY]
                    .iter()
                    .any(|at| reserved.contains(&((*at).to_owned(), stem.to_owned())))
            })
        };
        let account = self.scheduler.as_ref().map(|view| view.account(is_reserved));
        let facts = NodeFacts {
            node: self.name.clone(),
            heartbeat_age: self.heartbeat_age,
            admission: self.admission,
            devices: self.named().map(|(id, device)| self.facts(id, device, account.as_ref(), is_reserved)).collect(),
            scheduler: account.as_ref().and_then(Account::facts),
            reserved: record.map_or(0, NodeReservations::reserved),
        };
        capacity::of_node(&facts)
    }

    /// What the scheduler gives out here, and to whom; none where that is not known.
    #[must_use]
    pub fn scheduler(&self) -> Option<&View> {
        self.scheduler.as_ref()
    }

    /// Where devices are given out by name, the scheduler's word on a device goes before the kubelet's, which only hears of it
    /// later.
    fn facts(
        &self,
        id: &DeviceId,
        device: &Device,
        account: Option<&Account>,
        has_reservation: impl Fn(&Holder) -> bool,
    ) -> DeviceFacts {
        let holds = || self.scheduler.iter().flat_map(|view| &view.holds).map(|hold| &hold.holder);
        let pod = |(namespace, name): &(Word, Word)| {
            let is_it = |holder: &&Holder| *holder.namespace == **namespace && *holder.name == **name;
            holds().filter(|holder| holder.kind == HolderKind::Pod).find(is_it)
        };
        let by_kubelet = match device.known_holders() {
            None => Hold::Unknown,
            Some([]) => Hold::Free,
            Some(pods) if pods.iter().all(|one| pod(one).is_some_and(&has_reservation)) => Hold::Reservation,
            Some(_) => Hold::Other,
        };
        let mut facts = facts(id, device, by_kubelet);
        if let Some(account) = account.filter(|account| account.source == Source::Dra) {
            if account.held_by_others.named.contains(&facts.id) {
                facts.hold = Hold::Other;
            } else if account.held_by_placements.named.contains(&facts.id) {
                facts.hold = Hold::Reservation;
            }
            facts.registration = account.registration(&facts.id);
        }
        facts
    }

    /// Its devices that have a name.
    fn named(&self) -> impl Iterator<Item = (&DeviceId, &Device)> {
        self.devices().filter_map(|device| Some((device.id.as_ref()?, device)))
    }

    /// The devices of `class`, by their names.
    pub fn devices_of<'a>(&'a self, class: &'a GpuClass) -> impl Iterator<Item = &'a DeviceId> {
        self.named().filter(move |(_, device)| device.class() == Some(class)).map(|(id, _)| id)
    }

    /// How many GPUs reservations may hold here in all, given what `record` holds.
    #[must_use]
    pub fn reservable(&self, record: &NodeReservations) -> u32 {
        self.capacity(Some(record)).reservable
    }

    /// The namespace and the stem of the pods that a reservation accounts for. Only where we ourselves put them: a label
    /// alone would let anybody hide what their pods hold.
    fn pods_of(&self, held: &Reservation) -> Option<(String, String)> {
        let replica = i32::try_from(held.replica.replica.0).ok()?;
        let name = names::host_placement(held.replica.home.as_str(), held.replica.job.as_str(), replica, 0);
        let stem = stem(&name)?.to_owned();
        let own = self.me.as_ref() == Some(&held.replica.home);
        // Own jobs may run in their team's namespace, which the record does not name.
        let namespace = if own { ANY.to_owned() } else { names::guest_namespace(held.replica.home.as_str()) };
        Some((namespace, stem))
    }
}

/// Stands for every namespace; no namespace can be called so.
const ANY: &str = "*";

fn stem(name: &str) -> Option<&str> {
    name.rsplit_once('-').map(|(stem, _)| stem)
}

/// All nodes that have GPUs by either source.
pub(super) fn views(inputs: &Inputs<'_>, pools: &[&Arc<GPUPool>]) -> BTreeMap<NodeName, NodeView> {
    let nodes: BTreeMap<&NodeName, &Arc<Node>> =
        inputs.nodes.iter().filter_map(|node| Some((node.name.as_ref()?, node))).collect();
    let sources = Sources::of(inputs.nodes, inputs.pods, &inputs.dra);
    let mut views = BTreeMap::new();
    for gpu_node in inputs.gpu_nodes {
        let Some(name) = &gpu_node.name else { continue };
        let node = nodes.get(name);
        let mut view = NodeView {
            heartbeat_age: inputs.heartbeat_ages.get(name).copied(),
            labels: node.map(|node| node.labels.clone()).unwrap_or_default(),
            admission: Admission::NotReady,
            gpu_node: gpu_node.clone(),
            some: None,
            scheduler: None,
            counted_as: None,
            me: inputs.me.cloned(),
            name: name.clone(),
        };
        let pool = pools.iter().find(|pool| view.selected_by(pool));
        view.counted_as = pool.map(|pool| (pool.name_any(), pool.spec.pod.gpus().to_string()));
        let access = pool.map_or(GpuAccess::Resource(labels::GPU_RESOURCE), |pool| pool.spec.pod.gpus());
        view.some = view.asked_for(access);
        if let Some(node) = node {
            let tolerations = pool.map(|pool| pool.spec.pod.tolerations.as_slice()).unwrap_or_default();
            view.admission = admission(node, tolerations);
            if view.admission != Admission::NotReady && is_drained(&view, pools) {
                view.admission = Admission::Drained;
            }
            view.scheduler = asked_as(&sources, &view.name, access).filter(|_| !inputs.holes);
        }
        views.insert(name.clone(), view);
    }
    views
}

/// What the scheduler gives out of a node to those who ask as the pool does. Whoever asks a plugin's way where devices are
/// given out by name gets none, and the other way about.
fn asked_as(sources: &Sources<'_>, node: &NodeName, access: GpuAccess<'_>) -> Option<View> {
    let (wanted, resource) = match access {
        GpuAccess::Resource(resource) => (Source::DevicePlugin, resource),
        GpuAccess::DeviceClass(_) => (Source::Dra, labels::GPU_RESOURCE),
    };
    let mut view = sources.view(node, resource)?;
    if view.source != wanted {
        view.listed = match view.listed {
            Devices::Counted(_) => Devices::Counted(0),
            Devices::Named(_) => Devices::Named(BTreeSet::new()),
        };
    }
    Some(view)
}

/// Whether the owner empties the node. A device belongs to one pool, and what empties a node is about the whole of it.
fn is_drained(view: &NodeView, pools: &[&Arc<GPUPool>]) -> bool {
    let names = |pool: &GPUPool| pool.spec.drain.nodes.iter().any(|node| node == view.name.as_str());
    pools.iter().any(|pool| names(pool) && view.selected_by(pool))
}

/// A device by itself. Which pods have reservations is only known where this is asked.
fn facts(id: &DeviceId, device: &Device, hold: Hold) -> DeviceFacts {
    DeviceFacts {
        id: id.clone(),
        class: device.class().cloned(),
        health: match device.state {
            HealthState::Healthy => Health::Healthy,
            HealthState::Degraded => Health::Degraded,
            HealthState::Unhealthy => Health::Unhealthy,
            HealthState::Unknown => Health::Unknown,
        },
        division: match device.mig {
            Some(MigMode::Disabled | MigMode::NotSupported) => Division::Whole,
            Some(MigMode::Instance) => Division::Instance,
            Some(MigMode::Enabled) => Division::Divided,
            None => Division::Unknown,
        },
        hold,
        dirt: match device.allocation {
            Some(AllocationState::Intruder) => Some(Dirt::Intruder),
            Some(AllocationState::Orphaned) => Some(Dirt::Orphan),
            Some(AllocationState::Leaked) => Some(Dirt::Leak),
            _ => match device.not_shareable_reason {
                Some(
                    NotShareableReason::UsageUnknown | NotShareableReason::SurveyMissed | NotShareableReason::NodeFault,
                ) => Some(Dirt::Unknown),
                _ => None,
            },
        },
        registration: match device.registered {
            Some(true) => Registration::Yes,
            Some(false) => Registration::No,
            None => Registration::Unknown,
        },
    }
}

impl NodeView {
    /// Which devices stand for those that the pool shares, by their position; none if all do.
    fn asked_for(&self, access: GpuAccess<'_>) -> Option<Box<[usize]>> {
        let devices = &self.gpu_node.devices;
        let parents: BTreeSet<&str> = devices.iter().filter_map(|device| device.parent.as_deref()).collect();
        // A divided device is there as its instances.
        let divided = |device: &Device| device.id.as_ref().is_some_and(|id| parents.contains(id.as_str()));
        let counts = |device: &Device| !divided(device) && self.stands_for(device, access);
        if devices.iter().all(counts) {
            return None;
        }
        Some(devices.iter().enumerate().filter(|(_, device)| counts(device)).map(|(index, _)| index).collect())
    }

    /// Whether pods get the device by asking as the pool does. Of divided devices a resource is either of one profile, or of
    /// all instances where there is only one; claims name what they want.
    fn stands_for(&self, device: &Device, access: GpuAccess<'_>) -> bool {
        let GpuAccess::Resource(resource) = access else { return true };
        let profile = resource.strip_prefix(MIG_RESOURCE);
        match (&device.parent, profile) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(_), None) => self.labels.get(MIG_STRATEGY) == Some("single"),
            (Some(_), Some(profile)) => {
                // `1g.10gb` of a class that ends so with a dash.
                let class = device.class().map_or("", GpuClass::as_str);
                class.ends_with(&format!("-{}", profile.replace('.', "-")))
            }
        }
    }
}

/// How the device plugin calls instances where it registers each profile by itself, followed by the profile.
const MIG_RESOURCE: &str = "nvidia.com/mig-";
/// How GPU Feature Discovery says which way instances are registered.
const MIG_STRATEGY: &str = "nvidia.com/mig.strategy";

fn admission(node: &Node, tolerations: &[Toleration]) -> Admission {
    let kept_out = node.taints.iter().any(|taint| taint.effect != "PreferNoSchedule" && !tolerated(taint, tolerations));
    if !node.ready {
        Admission::NotReady
    } else if node.unschedulable || kept_out {
        Admission::Cordoned
    } else {
        Admission::Open
    }
}

fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.as_deref().filter(|effect| !effect.is_empty());
        let key = toleration.key.as_deref().filter(|key| !key.is_empty());
        let exists = toleration.operator.as_deref() == Some("Exists");
        let value = exists || toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("");
        effect.is_none_or(|effect| effect == taint.effect) && key.map_or(exists, |key| key == taint.key) && value
    })
}
