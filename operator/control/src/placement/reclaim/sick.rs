//! Which copies a device that failed takes along.
//!
//! Only what a heard agent says ends anything: a device that is unknown, missing, or seen by nobody for a while ends nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use koinon_api::Placement;
use koinon_api::gpu_node::{GuestWork, HealthState};
use koinon_api::reclaim::node_of;
use koinon_core::body::latest::RefusalReason;
use koinon_core::capacity::is_fresh;
use koinon_core::ids::{NodeName, Seconds};
use kube::ResourceExt;

use crate::kinds::placement_host_state::End;
use crate::placement::lean::{Device, GpuNode, Pod};

/// Most reasons of a device that are told.
const TOLD_REASONS: usize = 3;

/// The devices that work of others is to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sick {
    /// What is wrong under a Placement, by its namespace and name.
    placements: BTreeMap<(String, String), String>,
    /// What is wrong with a whole node.
    nodes: BTreeMap<NodeName, String>,
}

/// What is known of devices and of those who hold them.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The agents' surveys.
    pub gpu_nodes: &'a [Arc<GpuNode>],
    /// How old their heartbeats are.
    pub ages: &'a BTreeMap<NodeName, Seconds>,
    /// All pods.
    pub pods: &'a [Arc<Pod>],
    /// Whether so many devices failed at once that nothing new is drained for their sake.
    pub breaker_open: bool,
}

impl Sick {
    /// Looks for them.
    #[must_use]
    pub fn find(inputs: &Inputs<'_>) -> Self {
        let mut sick = Self::default();
        if inputs.breaker_open {
            return sick;
        }
        let mut holders: BTreeMap<(&str, &str), String> = BTreeMap::new();
        for node in inputs.gpu_nodes {
            let Some(name) = &node.name else { continue };
            let mut failed = node.devices.iter().filter(|device| device.state == HealthState::Unhealthy).peekable();
            // What a silent agent said last may be over, and so may whatever it was about.
            if failed.peek().is_none() || !is_fresh(inputs.ages.get(name).copied()) {
                continue;
            }
            for device in failed {
                match device.guest_work() {
                    Some(GuestWork::DrainNode) => {
                        sick.nodes.entry(name.clone()).or_insert_with(|| wrong(name, device));
                    }
                    Some(GuestWork::Drain) => {
                        for holder in holders_of(device) {
                            holders.entry(holder).or_insert_with(|| wrong(name, device));
                        }
                    }
                    // The engine's own process ended, or will: the kubelet starts its container again, on the same device. A
                    // copy that was ended for it would be made again on one that is no better.
                    Some(GuestWork::RestartWorkload | GuestWork::Keep) | None => {}
                }
            }
        }
        if holders.is_empty() {
            return sick;
        }
        for pod in inputs.pods {
            let Some(wrong) = holders.get(&(&*pod.namespace, &*pod.name)) else { continue };
            if let Some(placement) = &pod.placement {
                let key = (pod.namespace.to_string(), placement.to_string());
                sick.placements.entry(key).or_insert_with(|| wrong.clone());
            }
        }
        sick
    }

    /// Why a foreign Placement ends for a device's sake.
    #[must_use]
    pub fn end_of(&self, placement: &Placement) -> Option<End> {
        let key = (placement.namespace().unwrap_or_default(), placement.name_any());
        let node = || self.nodes.get(&node_of(placement)?);
        let wrong = self.placements.get(&key).or_else(node)?;
        Some(End::new(RefusalReason::DeviceUnhealthy, wrong.clone()))
    }
}

/// Who holds a device, or held it when that was last known: of a device that fell off the bus, or whose driver hangs, nothing
/// newer can be told. A pod keeps its device until it ends, so that one which is still there has it still.
fn holders_of(device: &Device) -> impl Iterator<Item = (&str, &str)> {
    device.holders.iter().map(|(namespace, name)| (&**namespace, &**name))
}

fn wrong(node: &NodeName, device: &Device) -> String {
    let reasons: Vec<&str> = device.reasons().take(TOLD_REASONS).collect();
    let reasons = if reasons.is_empty() { "no reason is given".to_owned() } else { reasons.join(", ") };
    let all =
        if device.guest_work() == Some(GuestWork::DrainNode) { "; all work of others leaves the node" } else { "" };
    format!("GPU {} of {node} must not be used ({reasons}){all}", device.shown())
}

#[cfg(test)]
mod tests {
    use koinon_api::labels;
    use serde_json::{Value, json};

    use super::*;

    const NS: &str = "koinon-guest-aarhus";

    /// Device 0 of n1, held by the pod of copy `a`; device 1 by that of `b`.
    fn gpu_node(health: &Value) -> Arc<GpuNode> {
        let device = |index: usize, copy: &str, health: &Value| {
            json!({"uuid": format!("GPU-{index}"), "index": index, "class": "h100-80", "health": health,
                "allocation": {"state": "Held", "holders": [{"namespace": NS, "name": format!("{copy}-7f9c")}]}})
        };
        let sound = json!({"state": "Healthy"});
        node(vec![device(0, "a", health), device(1, "b", &sound)])
    }

    fn node(devices: Vec<Value>) -> Arc<GpuNode> {
        let node = json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": "n1"}, "spec": {},
            "status": {"devices": devices}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn pods() -> Vec<Arc<Pod>> {
        let pod = |copy: &str| json!({"metadata": {"name": format!("{copy}-7f9c"), "namespace": NS, "labels": {labels::PLACEMENT: copy}}});
        ["a", "b"].map(|copy| Arc::new(serde_json::from_value(pod(copy)).unwrap())).into()
    }

    /// Which of the copies end, and why.
    fn ends_by(gpu_node: Arc<GpuNode>, age: Option<i64>, breaker_open: bool) -> Vec<(String, String)> {
        let ages = age.map(|age| ("n1".parse().unwrap(), Seconds(age))).into_iter().collect();
        let (pods, gpu_nodes) = (pods(), [gpu_node]);
        let sick = Sick::find(&Inputs { gpu_nodes: &gpu_nodes, ages: &ages, pods: &pods, breaker_open });
        let spec = json!({"side": "Host", "home": "aarhus", "host": "bilbao", "replica": 0, "epoch": 1, "servedName": "t",
            "job": {"namespace": "team", "name": "t", "uid": "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11"},
            "model": {"uri": "https://m.example/t", "revision": "1", "manifestDigest": "", "quantization": "f32"},
            "engine": {"name": "e"}, "gpu": {"class": "h100-80", "count": 1}, "maxModelLen": 1, "maxConcurrency": 1,
            "lease": {"seconds": 20}, "template": "{}"});
        let copy = |name: &str| {
            let mut copy = Placement::new(name, serde_json::from_value(spec.clone()).unwrap());
            copy.metadata.namespace = Some(NS.to_owned());
            copy.metadata.annotations = Some([(labels::NODE.to_owned(), "n1".to_owned())].into());
            copy
        };
        let ended = ["a", "b"].map(|name| Some((name.to_owned(), sick.end_of(&copy(name))?)));
        let ended =
            ended.into_iter().flatten().inspect(|(_, end)| assert_eq!(end.reason, RefusalReason::DeviceUnhealthy));
        ended.map(|(name, end)| (name, end.message)).collect()
    }

    fn ends(health: Value) -> Vec<(String, String)> {
        ends_by(gpu_node(&health), Some(3), false)
    }

    #[test]
    fn a_device_that_failed_ends_the_copy_that_holds_it_and_says_which_and_why() {
        let ended = ends(json!({"state": "Unhealthy", "guestWork": "Drain", "reasons": ["XID48", "RemapPending"]}));
        let why = "GPU GPU-0 of n1 must not be used (XID48, RemapPending)";
        assert_eq!(ended, [("a".to_owned(), why.to_owned())]);
    }

    #[test]
    fn where_the_rule_says_so_all_work_leaves_the_node() {
        let ended = ends(json!({"state": "Unhealthy", "guestWork": "DrainNode", "reasons": ["FellOffTheBus"]}));
        assert_eq!(ended.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn what_may_stay_or_starts_again_by_itself_is_not_ended() {
        for health in [
            json!({"state": "Unhealthy", "guestWork": "Keep"}),
            json!({"state": "Unhealthy", "guestWork": "RestartWorkload"}),
            json!({"state": "Unhealthy"}),
            json!({"state": "Degraded", "guestWork": "Drain"}),
            json!({"state": "Unknown", "guestWork": "Drain"}),
            json!({"state": "Unknown", "guestWork": "DrainNode"}),
        ] {
            assert_eq!(ends(health.clone()), [], "{health}");
        }
    }

    #[test]
    fn what_a_silent_agent_said_ends_nothing() {
        for work in ["Drain", "DrainNode"] {
            let node = || gpu_node(&json!({"state": "Unhealthy", "guestWork": work}));
            for age in [None, Some(31), Some(-3600)] {
                assert_eq!(ends_by(node(), age, false), [], "{work} at {age:?}");
            }
            assert!(!ends_by(node(), Some(30), false).is_empty());
        }
    }

    #[test]
    fn an_open_breaker_keeps_the_work_on_devices_that_fail() {
        for work in ["Drain", "DrainNode"] {
            assert_eq!(ends_by(gpu_node(&json!({"state": "Unhealthy", "guestWork": work})), Some(3), true), []);
        }
    }

    #[test]
    fn a_device_whose_holder_nobody_knows_ends_nothing() {
        let lost = |allocation: Value| json!({"uuid": "GPU-0", "index": 0, "health": {"state": "Unhealthy", "guestWork": "Drain"}, "allocation": allocation});
        let named = json!([{"namespace": NS, "name": "a-7f9c"}]);
        for allocation in [
            Value::Null,
            json!({"state": "Held"}),
            json!({"state": "Unknown"}),
            json!({"state": "Held", "holders": [{"namespace": "default", "name": "a-7f9c"}]}),
        ] {
            assert_eq!(ends_by(node(vec![lost(allocation.clone())]), Some(3), false), [], "{allocation}");
        }
        assert_eq!(ends_by(node(vec![lost(json!({"state": "Held", "holders": named}))]), Some(3), false).len(), 1);
    }

    /// It fell off the bus, or the survey hangs on it: its holder is the one that it had.
    #[test]
    fn a_device_that_is_no_longer_found_ends_the_copy_that_had_it_while_its_pod_is_there() {
        let gone = json!({"uuid": "GPU-0", "index": 0, "missingSinceTime": "2026-11-21T00:00:00Z",
            "health": {"state": "Unhealthy", "guestWork": "Drain", "reasons": ["GPULost"]},
            "allocation": {"state": "Unknown", "holders": [{"namespace": NS, "name": "a-7f9c"}, {"namespace": NS, "name": "c-1"}]}});
        let ended = ends_by(node(vec![gone]), Some(3), false);
        assert_eq!(ended.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a"]);
    }

    /// Nobody chooses which device the pod gets that takes the place of one that ended.
    #[test]
    fn the_pod_that_is_made_again_on_a_device_that_failed_ends_its_copy_too() {
        let sick = |holder: &str| {
            let held = json!({"state": "Held", "holders": [{"namespace": NS, "name": holder}]});
            let health = json!({"state": "Unhealthy", "guestWork": "Drain", "reasons": ["XID95"]});
            node(vec![json!({"uuid": "GPU-9", "index": 9, "health": health, "allocation": held})])
        };
        assert_eq!(ends_by(sick("a-0b1d"), Some(3), false), [], "of a pod that is not known yet nothing is");
        assert_eq!(ends_by(sick("b-7f9c"), Some(3), false).len(), 1);
    }
}
