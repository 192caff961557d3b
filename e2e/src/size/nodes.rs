//! The objects of a cluster with GPUs, as its kubelets, its feature discovery, its agents and its users would make them. Pure.

use serde_json::{Value, json};

/// GPUs of a node.
pub const GPUS: usize = 8;
/// The extended resource under which a device plugin gives them out.
const RESOURCE: &str = "nvidia.com/gpu";
/// The namespace of the owner's own work.
pub const WORK: &str = "work";

/// One half of the nodes each: failures happen on the first kind only, all other changes on the second only, so that what an
/// offer loses can be put down to the failure that took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `h100-80`.
    Failing,
    /// `a100-80`.
    Changing,
}

impl Kind {
    /// Which kind a node is.
    pub fn of(node: usize) -> Self {
        if node % 8 < 4 { Self::Failing } else { Self::Changing }
    }

    /// Its class.
    pub fn class(self) -> &'static str {
        match self {
            Self::Failing => "h100-80",
            Self::Changing => "a100-80",
        }
    }

    fn product(self) -> &'static str {
        match self {
            Self::Failing => "NVIDIA H100 80GB HBM3",
            Self::Changing => "NVIDIA A100-SXM4-80GB",
        }
    }
}

/// The name of a node.
pub fn name(node: usize) -> String {
    format!("gpu-{node:05}")
}

/// The GPUs that the owner's pods hold on a node from the start, a pod each. A quarter of the nodes is full, a quarter has more
/// than half in use, a quarter little, a quarter nothing.
pub fn held(node: usize) -> &'static [usize] {
    match node % 4 {
        0 => &[8],
        1 => &[4, 1],
        2 => &[2],
        _ => &[],
    }
}

/// GPUs of a node that nobody holds from the start.
pub fn free(node: usize) -> usize {
    GPUS - held(node).iter().sum::<usize>()
}

/// A Node as a kubelet registers it, with the labels of GPU Feature Discovery and as many images as a kubelet reports of a busy
/// node.
pub fn node(number: usize) -> Value {
    let (name, kind) = (name(number), Kind::of(number));
    let images: Vec<Value> = (0..25)
        .map(|image| {
            let digest = format!("{image:064x}");
            json!({"names": [format!("registry.example/team/image-{image}@sha256:{digest}"), format!("registry.example/team/image-{image}:v1")],
                "sizeBytes": 1_000_000 * (image + 1)})
        })
        .collect();
    let amounts = json!({"cpu": "192", "memory": "2113363068Ki", "pods": "110", "ephemeral-storage": "28120324824Ki",
        "hugepages-1Gi": "0", "hugepages-2Mi": "0", RESOURCE: GPUS.to_string()});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels(number, &name, kind), "annotations": {
            "node.alpha.kubernetes.io/ttl": "0", "volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "status": {"capacity": amounts, "allocatable": amounts, "images": images, "nodeInfo": {
            "architecture": "amd64", "bootID": "7f8a6a0c-35a7-4c4c-9b0b-1d3f4b6a1d11",
            "containerRuntimeVersion": "containerd://1.7.35", "kernelVersion": "6.8.0-1021-nvidia",
            "kubeProxyVersion": "", "kubeletVersion": "v1.34.4", "machineID": format!("{number:032x}"),
            "operatingSystem": "linux", "osImage": "Ubuntu 24.04.2 LTS", "systemUUID": uuid(number, 99)}},
    })
}

fn labels(number: usize, name: &str, kind: Kind) -> Value {
    let product = kind.product().replace(' ', "-");
    json!({
        "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux", "kubernetes.io/hostname": name,
        "node.kubernetes.io/instance-type": "8-gpu", "topology.kubernetes.io/region": "eu-south",
        "topology.kubernetes.io/zone": format!("eu-south-{}", number % 3), "example.org/rack": format!("r{}", number / 8),
        "nvidia.com/cuda.driver-version.full": "580.82.07", "nvidia.com/cuda.driver-version.major": "580",
        "nvidia.com/cuda.driver-version.minor": "82", "nvidia.com/cuda.driver-version.revision": "07",
        "nvidia.com/cuda.runtime-version.full": "13.0", "nvidia.com/cuda.runtime-version.major": "13",
        "nvidia.com/cuda.runtime-version.minor": "0", "nvidia.com/gfd.timestamp": (1_795_000_000 + number).to_string(),
        "nvidia.com/gpu.compute.major": "9", "nvidia.com/gpu.compute.minor": "0", "nvidia.com/gpu.count": GPUS.to_string(),
        "nvidia.com/gpu.family": "hopper", "nvidia.com/gpu.machine": "8-GPU-System", "nvidia.com/gpu.memory": "81559",
        "nvidia.com/gpu.mode": "compute", "nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.replicas": "1", "nvidia.com/gpu.sharing-strategy": "none", "nvidia.com/mig.capable": "true",
        "nvidia.com/mig.strategy": "single", "nvidia.com/mps.capable": "false", "nvidia.com/vgpu.present": "false",
    })
}

fn uuid(node: usize, device: usize) -> String {
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        node * 2_654_435_761 % 0xffff_ffff,
        device,
        node % 4096,
        device,
        node
    )
}

/// Every pod of a node at the start: those that hold GPUs, and one that holds none, as daemons do.
pub fn pods(node: usize) -> Vec<Value> {
    let holders = held(node).iter().enumerate().map(|(number, gpus)| pod(&holder(node, number), node, *gpus));
    holders.chain([pod(&format!("daemon-{node:05}"), node, 0)]).collect()
}

/// The name of a pod that holds GPUs of a node from the start.
fn holder(node: usize, number: usize) -> String {
    format!("training-{node:05}-{number}")
}

/// A pod bound to a node.
pub fn pod(name: &str, node: usize, gpus: usize) -> Value {
    let mut limits = json!({"cpu": "8", "memory": "64Gi"});
    if gpus > 0 {
        limits[RESOURCE] = gpus.to_string().into();
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": WORK, "labels": {"app": "work", "team": "research", "job": name}},
        "spec": {
            "nodeName": self::name(node), "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "work", "image": "registry.example/team/image-1:v1", "resources": {"limits": limits},
                "env": [{"name": "NCCL_DEBUG", "value": "WARN"}]}],
        },
    })
}

/// What an agent says of a node, made from what the real agent said of one: with this node's own names, and with who holds
/// what.
#[derive(Clone, Debug)]
pub struct Said {
    node: usize,
    status: Value,
}

impl Said {
    /// What is said at the start; `template` is the status that an agent wrote.
    pub fn first(template: &Value, node: usize) -> Self {
        let (mut status, kind) = (template.clone(), Kind::of(node));
        let holders =
            held(node).iter().enumerate().flat_map(|(pod, gpus)| std::iter::repeat_n(holder(node, pod), *gpus));
        let mut holders = holders.collect::<Vec<_>>().into_iter();
        for (index, device) in status["devices"].as_array_mut().into_iter().flatten().enumerate() {
            device["uuid"] = format!("GPU-{}", uuid(node, index)).into();
            device["product"] = kind.product().into();
            device["class"] = kind.class().into();
            if device["serialHash"].is_string() {
                device["serialHash"] = format!("sha256:{node:060x}{index:04x}").into();
            }
            hold(device, holders.next().as_deref());
        }
        Self { node, status }
    }

    /// The node that it is about.
    pub fn node(&self) -> usize {
        self.node
    }

    /// What stands in the API server once it is written.
    pub fn status(&self) -> &Value {
        &self.status
    }

    /// The next status says this of a device. `now` is a time as Kubernetes writes it.
    pub fn say(&mut self, device: usize, what: &Change, now: &str) {
        let next = self.status["agent"]["sequence"].as_i64().unwrap_or(0) + 1;
        self.status["agent"]["sequence"] = next.into();
        self.status["surveyTime"] = now.into();
        let told = &mut self.status["devices"][device];
        match what {
            Change::Fails => {
                told["health"] = json!({"state": "Unhealthy", "reasons": ["Xid79"], "action": "RebootNode",
                    "guestWork": "Drain", "sinceTime": now});
                told["xids"] =
                    json!([{"code": 79, "count": 1, "firstSeenTime": now, "lastSeenTime": now, "source": "NVML"}]);
                told["shareable"] = false.into();
                told["notShareableReason"] = "NotHealthy".into();
            }
            Change::Degrades => {
                told["health"] = json!({"state": "Degraded", "reasons": ["Thermal"],
                "action": "CheckCooling", "guestWork": "Keep", "sinceTime": now})
            }
            Change::Recovers => told["health"] = json!({"state": "Healthy", "sinceTime": now}),
            Change::IsHeldBy(pod) => hold(told, Some(pod)),
            Change::IsFreed => hold(told, None),
        }
        let devices = self.status["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
        self.status["healthy"] = devices.iter().filter(|device| device["health"]["state"] == "Healthy").count().into();
    }
}

/// What an agent finds changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The device fell off the bus.
    Fails,
    /// It works, slower.
    Degrades,
    /// It works again.
    Recovers,
    /// The kubelet gave it to a pod.
    IsHeldBy(String),
    /// Its pod ended.
    IsFreed,
}

fn hold(device: &mut Value, pod: Option<&str>) {
    let (state, holders) = match pod {
        Some(name) => ("Held", json!([{"namespace": WORK, "name": name}])),
        None => ("Free", json!([])),
    };
    device["allocation"] = json!({"state": state, "holders": holders, "registered": true});
    device["shareable"] = pod.is_none().into();
    match pod {
        Some(_) => device["notShareableReason"] = "Held".into(),
        None => {
            device.as_object_mut().and_then(|device| device.remove("notShareableReason"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn template() -> Value {
        let devices: Vec<Value> =
            (0..GPUS).map(|index| json!({"uuid": "GPU-x", "index": index, "health": {"state": "Healthy"}})).collect();
        json!({"agent": {"sequence": 1}, "installed": GPUS, "healthy": GPUS, "devices": devices})
    }

    #[test]
    fn no_two_devices_of_a_cluster_have_one_name() {
        let names = |node| {
            let said = Said::first(&template(), node);
            said.status()["devices"].as_array().unwrap().iter().map(|one| one["uuid"].to_string()).collect::<Vec<_>>()
        };
        let all: BTreeSet<String> = (0..5000).flat_map(names).collect();
        assert_eq!(all.len(), 5000 * GPUS);
    }

    #[test]
    fn what_agents_say_is_held_is_what_pods_ask_for() {
        for node in 0..8 {
            let asked: usize = pods(node)
                .iter()
                .filter_map(|pod| {
                    pod["spec"]["containers"][0]["resources"]["limits"][RESOURCE].as_str()?.parse::<usize>().ok()
                })
                .sum();
            let said = Said::first(&template(), node);
            let devices = said.status()["devices"].as_array().unwrap();
            let held = devices.iter().filter(|device| device["allocation"]["state"] == "Held").count();
            assert_eq!((asked, held), (GPUS - free(node), GPUS - free(node)), "node {node}");
        }
    }

    #[test]
    fn a_device_that_fails_is_no_longer_counted_as_healthy() {
        let mut said = Said::first(&template(), 3);
        said.say(2, &Change::Fails, "2026-11-18T00:00:00Z");
        assert_eq!((&said.status()["healthy"], &said.status()["agent"]["sequence"]), (&json!(GPUS - 1), &json!(2)));
        said.say(2, &Change::Recovers, "2026-11-18T00:01:00Z");
        assert_eq!(said.status()["healthy"], json!(GPUS));
    }
}
