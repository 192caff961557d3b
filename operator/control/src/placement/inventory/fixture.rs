//! Small clusters for tests.

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use koinon_core::ids::{Epoch, ReplicaIndex};
use koinon_core::placement::ReplicaKey;
use serde_json::json;

use super::*;

const GPU: &str = "nvidia.com/gpu";

pub fn class() -> GpuClass {
    "h100-80".parse().unwrap()
}

pub fn device(node: &str, index: usize, health: &serde_json::Value) -> serde_json::Value {
    json!({"uuid": format!("GPU-{node}-{index}"), "index": index, "product": "NVIDIA H100 80GB HBM3",
        "class": "h100-80", "memory": {"totalBytes": 85_520_809_984_i64}, "mig": {"mode": "Disabled"},
        "health": health, "allocation": {"state": "Free", "registered": true}})
}

/// As its agent writes it.
pub fn gpu_node_said(name: &str, devices: usize) -> serde_json::Value {
    let devices: Vec<_> = (0..devices).map(|index| device(name, index, &json!({"state": "Healthy"}))).collect();
    json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": name}, "spec": {},
        "status": {"scheduler": {"source": "DevicePlugin", "podResources": "Available"}, "devices": devices}})
}

pub fn gpu_node(name: &str, devices: usize) -> Arc<GpuNode> {
    Arc::new(serde_json::from_value(gpu_node_said(name, devices)).unwrap())
}

pub fn node(name: &str, allocatable: u32) -> serde_json::Value {
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "pool": "shared"}},
        "status": {"allocatable": {GPU: allocatable.to_string()}, "conditions": [{"type": "Ready", "status": "True"}]}})
}

pub fn pool(name: &str, created: i64, spec: serde_json::Value) -> Arc<GPUPool> {
    let mut pool: GPUPool = serde_json::from_value(json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUPool",
        "metadata": {"name": name}, "spec": spec}))
    .unwrap();
    pool.metadata.creation_timestamp = koinon_api::time::from_unix(created);
    Arc::new(pool)
}

pub fn pod(namespace: &str, placement: Option<&str>, node: &str, gpus: u32) -> Arc<Pod> {
    let labels = placement.map_or(json!({}), |name| json!({"koinon.dev/placement": name}));
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": namespace, "labels": labels},
            "spec": {"nodeName": node, "containers": [{"name": "c", "resources": {"limits": {GPU: gpus.to_string()}}}]}}))
        .unwrap(),
    )
}

pub fn record(node: &str, home: &str, gpus: u32) -> NodeReservations {
    let mut record = NodeReservations::new(node.parse().unwrap());
    let replica = ReplicaKey {
        home: home.parse().unwrap(),
        job: "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11".parse().unwrap(),
        replica: ReplicaIndex(0),
    };
    record.reserve(&replica, Epoch(1), gpus, 64, None).unwrap();
    record
}

#[derive(Clone)]
pub struct Cluster {
    pub me: MemberId,
    pub pools: Vec<Arc<GPUPool>>,
    pub gpu_nodes: Vec<Arc<GpuNode>>,
    pub nodes: Vec<Arc<Node>>,
    pub pods: Vec<Arc<Pod>>,
    pub slices: Vec<Arc<ResourceSlice>>,
    pub claims: Vec<Arc<ResourceClaim>>,
    pub ages: BTreeMap<NodeName, Seconds>,
    pub records: BTreeMap<NodeName, NodeReservations>,
    pub placements: Vec<Arc<Placement>>,
    pub holes: bool,
}

impl Cluster {
    pub fn of(nodes: &[(&str, usize)], pools: Vec<Arc<GPUPool>>) -> Self {
        let names = || nodes.iter().map(|(name, _)| name.parse::<NodeName>().unwrap());
        Cluster {
            me: "bilbao".parse().unwrap(),
            pools,
            gpu_nodes: nodes.iter().map(|(name, devices)| gpu_node(name, *devices)).collect(),
            nodes: nodes
                .iter()
                .map(|(name, devices)| Arc::new(serde_json::from_value(node(name, *devices as u32)).unwrap()))
                .collect(),
            pods: vec![],
            slices: vec![],
            claims: vec![],
            ages: names().map(|name| (name, Seconds(3))).collect(),
            records: BTreeMap::new(),
            placements: vec![],
            holes: false,
        }
    }

    /// What the scheduler may give out of `node`.
    pub fn allocatable(&mut self, name: &str, amount: u32) {
        self.nodes.retain(|other| other.name.as_ref().is_none_or(|other| other.as_str() != name));
        self.nodes.push(Arc::new(serde_json::from_value(node(name, amount)).unwrap()));
    }

    pub fn with(mut self, record: NodeReservations) -> Self {
        self.records.insert(record.node().clone(), record);
        self
    }

    pub fn look(&self) -> Inventory {
        take(&Inputs {
            me: Some(&self.me),
            pools: &self.pools,
            gpu_nodes: &self.gpu_nodes,
            nodes: &self.nodes,
            pods: &self.pods,
            dra: scheduler::dra::Objects { slices: &self.slices, claims: &self.claims, taint_rules: &[] },
            heartbeat_ages: &self.ages,
            records: &self.records,
            placements: &self.placements,
            holes: self.holes,
            now: UnixSeconds(1_795_000_000),
        })
    }

    pub fn figures(&self) -> capacity::PoolClass {
        self.look().pools["all"].capacity.classes[&class()]
    }

    pub fn room(&self, count: u32, own: bool) -> Vec<String> {
        let rooms = self.look().room(&class(), count, own, |_| true, &self.records);
        rooms.into_iter().map(|room| room.node.to_string()).collect()
    }
}
