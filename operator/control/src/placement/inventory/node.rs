//! One node, from its survey, its kubelet and its pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use koinon_api::gpu_node::{Device, HealthState, MigMode};
use koinon_api::{GPUPool, labels, names};
use koinon_core::capacity::{self, Admission, DeviceFacts, Division, Health, NodeCapacity, NodeFacts, SchedulerFacts};
use koinon_core::ids::{Bytes, GpuClass, Line, MemberId, NodeName, Seconds};
use koinon_core::placement::reservations::{NodeReservations, Reservation};
use kube::ResourceExt;

use super::{Inputs, requests};

/// What a device of a class is called and how much memory it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// The product.
    pub name: Line,
    /// Its memory; the smallest where devices of one class differ.
    pub memory: Bytes,
}

/// A pod that requests GPUs, as far as a reservation could have been made for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    namespace: String,
    /// The Placement's name without its epoch.
    stem: Option<String>,
    gpus: u32,
}

/// What is known of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    name: NodeName,
    labels: BTreeMap<String, String>,
    heartbeat_age: Option<Seconds>,
    admission: Admission,
    devices: Vec<DeviceFacts>,
    products: BTreeMap<GpuClass, Product>,
    allocatable: Option<u32>,
    holders: Vec<Holder>,
    me: Option<MemberId>,
    /// The resource under which its GPUs are requested.
    pub resource: String,
}

impl NodeView {
    /// What the scheduler knows the node by.
    #[must_use]
    pub fn hostname(&self) -> &str {
        self.labels.get("kubernetes.io/hostname").map_or(self.name.as_str(), String::as_str)
    }

    /// What the devices of `class` are.
    #[must_use]
    pub fn product(&self, class: &GpuClass) -> Option<&Product> {
        self.products.get(class)
    }

    /// Whether the pool's selector names this node.
    #[must_use]
    pub fn selected_by(&self, pool: &GPUPool) -> bool {
        pool.spec.node_selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// What it has to give while `record` holds what it holds.
    #[must_use]
    pub fn capacity(&self, record: Option<&NodeReservations>) -> NodeCapacity {
        let held: &[Reservation] = record.map_or(&[], NodeReservations::held);
        let reserved: BTreeSet<(String, String)> = held.iter().flat_map(|held| self.pods_of(held)).collect();
        let by_others = self.holders.iter().filter(|holder| {
            let key = holder.stem.clone().map(|stem| (holder.namespace.clone(), stem));
            !key.is_some_and(|key| reserved.contains(&key) || reserved.contains(&(ANY.to_owned(), key.1)))
        });
        // Own placements are reserved like foreign ones, and so are never counted by their pods.
        let requested_by_others = by_others.fold(0_u32, |sum, holder| sum.saturating_add(holder.gpus));
        let facts = NodeFacts {
            node: self.name.clone(),
            heartbeat_age: self.heartbeat_age,
            admission: self.admission,
            devices: self.devices.clone(),
            scheduler: self.allocatable.map(|allocatable| SchedulerFacts { allocatable, requested_by_others }),
            reserved: record.map_or(0, NodeReservations::reserved),
        };
        capacity::of_node(&facts)
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
    let nodes: BTreeMap<String, &Arc<Node>> = inputs.nodes.iter().map(|node| (node.name_any(), node)).collect();
    let mut views = BTreeMap::new();
    for gpu_node in inputs.gpu_nodes {
        let name = gpu_node.name_any();
        let Ok(parsed) = name.parse::<NodeName>() else { continue };
        let node = nodes.get(&name);
        let mut view = NodeView {
            heartbeat_age: inputs.heartbeat_ages.get(&parsed).copied(),
            labels: node.and_then(|node| node.metadata.labels.clone()).unwrap_or_default(),
            admission: Admission::NotReady,
            devices: Vec::new(),
            products: BTreeMap::new(),
            allocatable: None,
            holders: Vec::new(),
            me: inputs.me.cloned(),
            resource: labels::GPU_RESOURCE.to_owned(),
            name: parsed.clone(),
        };
        let pool = pools.iter().find(|pool| view.selected_by(pool));
        if let Some(pool) = pool {
            view.resource = pool.spec.pod.resource_name.clone();
        }
        for device in gpu_node.status.iter().flat_map(|status| &status.devices) {
            view.see(device);
        }
        if let Some(node) = node {
            let tolerations = pool.map(|pool| pool.spec.pod.tolerations.as_slice()).unwrap_or_default();
            view.admission = admission(node, tolerations);
            view.allocatable = (!inputs.holes).then(|| allocatable(node, &view.resource));
        }
        views.insert(parsed, view);
    }
    for pod in inputs.pods {
        let Some(view) =
            requests::node_of(pod).and_then(|name| name.parse().ok()).and_then(|name: NodeName| views.get_mut(&name))
        else {
            continue;
        };
        let gpus = requests::of_pod(pod, &view.resource);
        if gpus > 0 {
            let placement = pod.labels().get(labels::PLACEMENT);
            let stem = placement.and_then(|name| stem(name)).map(ToOwned::to_owned);
            view.holders.push(Holder { namespace: pod.namespace().unwrap_or_default(), stem, gpus });
        }
    }
    views
}

impl NodeView {
    fn see(&mut self, device: &Device) {
        let Ok(id) = device.uuid.parse() else { return };
        let class: Option<GpuClass> = device.class.as_ref().and_then(|class| class.parse().ok());
        let memory = device.memory.as_ref().and_then(|memory| u64::try_from(memory.total_bytes).ok()).map(Bytes);
        if let (Some(class), Some(name), Some(memory)) = (&class, &device.product, memory)
            && let Ok(name) = name.parse::<Line>()
        {
            let product = self.products.entry(class.clone()).or_insert(Product { name, memory });
            product.memory = product.memory.min(memory);
        }
        self.devices.push(DeviceFacts {
            id,
            class,
            health: match device.health.state {
                HealthState::Healthy => Health::Healthy,
                HealthState::Degraded => Health::Degraded,
                HealthState::Unhealthy => Health::Unhealthy,
                HealthState::Unknown => Health::Unknown,
            },
            division: match device.mig.as_ref().map(|mig| mig.mode) {
                Some(MigMode::Disabled | MigMode::NotSupported) => Division::Whole,
                Some(MigMode::Enabled) => Division::Divided,
                None => Division::Unknown,
            },
        });
    }
}

fn allocatable(node: &Node, resource: &str) -> u32 {
    let amounts = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    match amounts.and_then(|amounts| amounts.get(resource)).map(|quantity| requests::whole(&quantity.0)) {
        // What cannot be read promises nothing.
        None | Some(u32::MAX) => 0,
        Some(amount) => amount,
    }
}

fn admission(node: &Node, tolerations: &[Toleration]) -> Admission {
    let spec = node.spec.as_ref();
    let kept_out = spec.and_then(|spec| spec.taints.as_ref()).is_some_and(|taints| {
        taints.iter().any(|taint| taint.effect != "PreferNoSchedule" && !tolerated(taint, tolerations))
    });
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .is_some_and(|conditions| conditions.iter().any(|ready| ready.type_ == "Ready" && ready.status == "True"));
    if !ready {
        Admission::NotReady
    } else if spec.and_then(|spec| spec.unschedulable).unwrap_or(false) || kept_out {
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
