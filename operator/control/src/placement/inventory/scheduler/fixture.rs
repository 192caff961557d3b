//! Slices, claims and pods for tests.

use serde_json::{Value, json};

use super::*;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use k8s_openapi::api::resource::v1alpha3::DeviceTaintRule;

pub const GPU: &str = "nvidia.com/gpu";

/// The objects of a small cluster.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub nodes: Vec<Arc<Node>>,
    pub pods: Vec<Arc<Pod>>,
    pub slices: Vec<Arc<ResourceSlice>>,
    pub claims: Vec<Arc<ResourceClaim>>,
    pub rules: Vec<Arc<DeviceTaintRule>>,
}

impl World {
    pub fn view(&self, node: &str) -> Option<View> {
        let objects = dra::Objects { slices: &self.slices, claims: &self.claims, taint_rules: &self.rules };
        Sources::of(&self.nodes, &self.pods, &objects).view(&node.parse().unwrap(), GPU)
    }

    /// What is free of a node by the account alone.
    pub fn free(&self, node: &str) -> u32 {
        let Some(view) = self.view(node) else { return 0 };
        let facts = view.account(|_| false).facts();
        facts.map_or(0, |facts| facts.allocatable.saturating_sub(facts.requested_by_others))
    }
}

pub fn id(node: &str, number: usize) -> DeviceId {
    format!("GPU-{node}-{number}").parse().unwrap()
}

pub fn from<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

pub fn node(name: &str, gpus: u32) -> Arc<Node> {
    from(json!({"metadata": {"name": name}, "status": {"allocatable": {GPU: gpus.to_string()}}}))
}

pub fn device(node: &str, number: usize) -> Value {
    json!({"name": format!("gpu-{number}"), "attributes": {"uuid": {"string": id(node, number).as_str()},
        "type": {"string": "gpu"}}})
}

/// A slice of a pool that is called like its node, one of `of`.
pub fn slice(node: &str, generation: i64, of: i64, devices: Vec<Value>) -> Arc<ResourceSlice> {
    from(
        json!({"metadata": {"name": format!("{node}-{generation}-{}", devices.len())}, "spec": {"driver": dra::GPU_DRIVER,
        "nodeName": node, "pool": {"name": node, "generation": generation, "resourceSliceCount": of}, "devices": devices}}),
    )
}

/// A claim that has these devices of the pool and is reserved for the pod.
pub fn claim(name: &str, pool: &str, devices: &[&str], pod: Option<&str>) -> Value {
    let results: Vec<Value> = devices
        .iter()
        .map(|device| json!({"request": "gpus", "driver": dra::GPU_DRIVER, "pool": pool, "device": device}))
        .collect();
    let users: Vec<Value> =
        pod.iter().map(|pod| json!({"resource": "pods", "name": pod, "uid": format!("uid-{pod}")})).collect();
    json!({"metadata": {"name": name, "namespace": "jobs"},
        "spec": {"devices": {"requests": [{"name": "gpus", "exactly": {"deviceClassName": "c", "count": devices.len()}}]}},
        "status": {"allocation": {"devices": {"results": results}}, "reservedFor": users}})
}

/// A pod that uses the claim of this name.
pub fn user(name: &str, node: &str, claim: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "jobs", "uid": format!("uid-{name}")},
        "spec": {"nodeName": node, "containers": [],
            "resourceClaims": [{"name": "gpus", "resourceClaimName": claim}]},
        "status": {"phase": "Running"}})
}

/// A pod that asks for GPUs by number.
pub fn asker(name: &str, node: &str, gpus: u32) -> Value {
    json!({"metadata": {"name": name, "namespace": "jobs"}, "spec": {"nodeName": node, "containers": [
        {"name": "c", "resources": {"limits": {GPU: gpus.to_string()}}}]}})
}

pub fn rule(selector: Value, effect: &str) -> Arc<DeviceTaintRule> {
    from(json!({"metadata": {"name": "r"}, "spec": {"deviceSelector": selector,
        "taint": {"key": "maintenance", "effect": effect}}}))
}
