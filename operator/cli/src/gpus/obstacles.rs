//! What keeps a device from being shared, from the objects of the cluster. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use koinon_api::conditions::{self, ConditionType};
use koinon_api::gpu_node::{Device, HealthAction, HealthState, NotShareableReason, NvmlState};
use koinon_api::{GPUNode, GPUPool, labels};
use koinon_core::capacity::FRESH;
use koinon_core::ids::UnixSeconds;
use kube::ResourceExt as _;
use serde::Serialize;

use super::Row;
use crate::output::{age, one_line};

/// Something that keeps a device from being shared, and what would take it away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Obstacle {
    /// What it is.
    pub(super) what: String,
    /// What would take it away.
    pub(super) remedy: String,
}

impl Obstacle {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// What was read of the cluster.
pub(super) struct Site {
    gpu_nodes: Vec<GPUNode>,
    nodes: BTreeMap<String, Node>,
    /// When each agent was last heard, by the clock of its node.
    heard: BTreeMap<String, UnixSeconds>,
    /// The oldest first: of two that select a device it has it.
    pools: Vec<GPUPool>,
    /// By this machine's clock.
    pub(super) now: UnixSeconds,
}

impl Site {
    /// What was read.
    pub(super) fn new(
        gpu_nodes: Vec<GPUNode>,
        nodes: Vec<Node>,
        leases: &[Lease],
        mut pools: Vec<GPUPool>,
        now: UnixSeconds,
    ) -> Self {
        let renewed = |lease: &Lease| {
            let at = lease.spec.as_ref()?.renew_time.as_ref()?;
            Some((lease.name_any(), UnixSeconds(at.0.as_second())))
        };
        pools.sort_by_key(|pool| (pool.creation_timestamp().map(|time| time.0), pool.name_any()));
        Self {
            gpu_nodes,
            nodes: nodes.into_iter().map(|node| (node.name_any(), node)).collect(),
            heard: leases.iter().filter_map(renewed).collect(),
            pools,
            now,
        }
    }
}

/// Every device, in the order of nodes and of their places there. A divided one is there as its instances.
pub(super) fn rows(site: &Site) -> Vec<Row> {
    let mut gpu_nodes: Vec<&GPUNode> = site.gpu_nodes.iter().collect();
    gpu_nodes.sort_by_key(|node| node.name_any());
    let mut rows = Vec::new();
    for gpu_node in gpu_nodes {
        let Some(status) = &gpu_node.status else { continue };
        let name = gpu_node.name_any();
        let parents: BTreeSet<&str> = status.devices.iter().filter_map(|device| device.parent.as_deref()).collect();
        let of_node = node_obstacles(site, gpu_node);
        let mut devices: Vec<&Device> = status.devices.iter().collect();
        devices.sort_by_key(|device| (device.index, device.uuid.clone()));
        for device in devices.into_iter().filter(|device| !parents.contains(device.uuid.as_str())) {
            let (pool, of_pool) = pool_obstacles(site, &name, device);
            let mut obstacles: Vec<Obstacle> = device_obstacles(device).into_iter().collect();
            obstacles.extend(of_node.iter().cloned());
            obstacles.extend(of_pool);
            rows.push(Row {
                node: name.clone(),
                pool: pool.map(|pool| pool.name_any()),
                device: device.clone(),
                limits: status.agent.as_ref().map(|agent| agent.limits.clone()).unwrap_or_default(),
                xid_table: status.agent.as_ref().and_then(|agent| agent.xid_table.clone()),
                driver: status.driver.as_ref().map(|driver| driver.version.clone()),
                shared: obstacles.is_empty(),
                obstacles,
            });
        }
    }
    rows
}

fn node_obstacles(site: &Site, gpu_node: &GPUNode) -> Vec<Obstacle> {
    let name = gpu_node.name_any();
    let mut obstacles = Vec::new();
    let silent = site.heard.get(&name).map(|heard| site.now.since(*heard));
    if silent.is_none_or(|silent| silent > FRESH) {
        let since =
            silent.map_or_else(|| "was never heard".to_owned(), |silent| format!("is silent for {}", age(silent.0)));
        obstacles.push(Obstacle::new(
            format!("the agent of {name} {since}, so its figures may be past"),
            format!("kubectl get pods --all-namespaces --field-selector spec.nodeName={name}, and the log of koinon-agent there"),
        ));
    }
    let status = gpu_node.status.as_ref();
    if status.and_then(|status| status.nvml.as_ref()).is_some_and(|nvml| nvml.state != NvmlState::Available) {
        let said = status.and_then(|status| conditions::find(&status.conditions, ConditionType::NVMLAvailable));
        let said = said.map(|said| one_line(&said.message)).unwrap_or_default();
        obstacles.push(Obstacle::new(format!("NVML of {name} does not answer"), said));
    }
    let Some(node) = site.nodes.get(&name) else {
        obstacles.push(Obstacle::new(format!("there is no Node {name}"), "nothing: its GPUNode goes with it"));
        return obstacles;
    };
    let ready = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = ready.is_some_and(|all| all.iter().any(|ready| ready.type_ == "Ready" && ready.status == "True"));
    if !ready {
        obstacles.push(Obstacle::new(format!("{name} is not Ready"), format!("kubectl describe node {name}")));
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
        let remedy = format!("kubectl uncordon {name}, if whoever cordoned it agrees");
        obstacles.push(Obstacle::new(format!("{name} is cordoned"), remedy));
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    if taints.iter().any(|taint| taint.key == labels::UNHEALTHY_TAINT) {
        let what =
            format!("{name} is tainted, as one of its GPUs must not be used and spec.taint of its pool asks for it");
        obstacles.push(Obstacle::new(what, "mend that GPU; the taint goes once a survey calls it well"));
    }
    obstacles
}

fn pool_obstacles<'a>(site: &'a Site, node: &str, device: &Device) -> (Option<&'a GPUPool>, Vec<Obstacle>) {
    let empty = BTreeMap::new();
    let labels = site.nodes.get(node).and_then(|node| node.metadata.labels.as_ref()).unwrap_or(&empty);
    let class = device.class.as_deref().unwrap_or_default();
    let selects = |pool: &&GPUPool| {
        let spec = &pool.spec;
        spec.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && (spec.classes.is_empty() || spec.classes.iter().any(|shared| shared == class))
    };
    let Some(pool) = site.pools.iter().find(selects) else {
        let remedy =
            format!("apply a GPUPool whose nodeSelector fits the labels of {node} and whose classes name {class}");
        return (None, vec![Obstacle::new("no GPUPool shares it", remedy)]);
    };
    let name = pool.name_any();
    let mut obstacles = Vec::new();
    if !pool.spec.open_at(site.now.0) {
        let remedy = "wait, or change spec.hours of the GPUPool";
        obstacles.push(Obstacle::new(format!("it is outside the hours of pool {name}"), remedy));
    }
    let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let inconsistent =
        conditions::find(conditions, ConditionType::SchedulerConsistent).filter(|said| said.status != "True");
    // The condition names the nodes that it is about, the first few of them.
    if let Some(said) = inconsistent.filter(|said| said.message.contains(node)) {
        let what = format!("NVML and the scheduler tell different stories ({})", said.reason);
        obstacles.push(Obstacle::new(what, one_line(&said.message)));
    }
    let of_class = pool.status.as_ref().and_then(|status| status.classes.iter().find(|one| one.class == class));
    let kept = of_class.filter(|one| one.offered == 0 && one.owner_reserve > 0);
    if let (true, Some(kept)) = (device.shareable && obstacles.is_empty(), kept) {
        let what = format!("the last {} free of {class} are kept for the owner", kept.owner_reserve);
        obstacles.push(Obstacle::new(what, format!("a lower spec.reserve of pool {name}")));
    }
    (Some(pool), obstacles)
}

fn device_obstacles(device: &Device) -> Option<Obstacle> {
    if device.shareable {
        return None;
    }
    let reasons = device.health.reasons.join(", ");
    let obstacle = match device.not_shareable_reason {
        // An agent of the release before wrote no more than its health.
        None if device.health.state == HealthState::Healthy && device.allocation.is_none() => return None,
        None | Some(NotShareableReason::NotHealthy) => {
            let what = if reasons.is_empty() {
                format!("it is {:?}", device.health.state)
            } else {
                format!("it is {:?}: {reasons}", device.health.state)
            };
            Obstacle::new(what, remedy_of(device.health.state, device.health.action))
        }
        Some(NotShareableReason::SurveyMissed) => Obstacle::new(
            "the last survey did not come back",
            "nothing yet; if it stays so, the log of koinon-agent on its node",
        ),
        Some(NotShareableReason::NodeFault) => Obstacle::new(
            "another device of its node fell off the bus",
            "reboot the node; kubectl koinon gpus --why names that device",
        ),
        Some(NotShareableReason::Divided) => Obstacle::new(
            "it is in MIG mode and has no instances",
            "nvidia-smi mig -cgi … -C makes some; nvidia-smi -mig 0 makes it whole again",
        ),
        Some(NotShareableReason::DivisionUnknown) => Obstacle::new(
            "whether it is divided into instances could not be read",
            "see the log of koinon-agent on its node",
        ),
        Some(NotShareableReason::Shared) => Obstacle::new(
            "several pods share it (time-slicing, MPS or the like), and one that crashes takes the others with it",
            "a device plugin without sharing, or MIG instances",
        ),
        Some(NotShareableReason::NotRegistered) => Obstacle::new(
            "the scheduler does not give it out: the device plugin or the DRA driver does not list it, or it is tainted",
            "restart the device plugin on its node; one that has called a device unhealthy does not take that back by itself",
        ),
        Some(NotShareableReason::Held) => Obstacle::new(
            format!("{} holds it", holders(device)),
            "wait until that pod has ended; kubectl koinon reclaim if it belongs to another member",
        ),
        Some(NotShareableReason::Intruder) => Obstacle::new(
            "a pod computes on it that does not hold it",
            "find that pod in the log of koinon-agent; take NVIDIA_VISIBLE_DEVICES, hostPath devices and privileges from it",
        ),
        Some(NotShareableReason::Orphaned) => Obstacle::new(
            "a process computes on it that belongs to no pod",
            "nvidia-smi on its node names the process; Koinon ends nothing that it did not start",
        ),
        Some(NotShareableReason::Leaked) => {
            Obstacle::new("its memory is in use, by no process", "nvidia-smi --gpu-reset, once nothing runs on it")
        }
        Some(NotShareableReason::UsageUnknown) => Obstacle::new(
            "what uses it could not be found out",
            "set agent.hostPID and agent.podResources.enabled of the chart, and see the log of koinon-agent on its node",
        ),
        Some(NotShareableReason::NoClass) => Obstacle::new(
            "its product or memory could not be read, so nobody could ask for it",
            "see the log of koinon-agent on its node",
        ),
    };
    Some(obstacle)
}

/// Who holds a device.
pub(super) fn holders(device: &Device) -> String {
    let holders = device.allocation.iter().flat_map(|allocation| &allocation.holders);
    let names: Vec<String> = holders.map(|holder| format!("{}/{}", holder.namespace, holder.name)).collect();
    if names.is_empty() { "a pod".to_owned() } else { names.join(", ") }
}

fn remedy_of(state: HealthState, action: Option<HealthAction>) -> &'static str {
    match (action, state) {
        (Some(HealthAction::ResetGPU), _) => "nvidia-smi --gpu-reset -i UUID on its node, once nothing runs on it",
        (Some(HealthAction::ResetWhenIdle), _) => {
            "nvidia-smi --gpu-reset -i UUID on its node, when what runs on it has ended"
        }
        (Some(HealthAction::RebootNode), _) => "drain its node and restart it",
        (Some(HealthAction::RestartVM), _) => "drain its node and restart the virtual machine",
        (Some(HealthAction::DrainP2P), _) => "let what talks to its peers end",
        (Some(HealthAction::Replace), _) => "have it replaced: its maker's diagnosis (dcgmi diag -r 3) first",
        (Some(HealthAction::Investigate), _) => "look at the kernel log of its node, then dcgmi diag -r 2",
        (Some(HealthAction::CheckCooling), _) => "look at fans, air and power supply of its node",
        (Some(HealthAction::Watch), _) => "nothing yet: it returns by itself once it has been quiet for long enough",
        (Some(HealthAction::ApplyConfig), _) => {
            "apply what waits for a reset: nvidia-smi -q shows the pending settings"
        }
        (Some(HealthAction::RestartWorkload), _) => "nothing: the program that it reports starts anew",
        (None, HealthState::Unknown) => "see kubectl get gpunode NODE -o yaml and the log of koinon-agent on its node",
        (None, _) => "see kubectl get gpunode NODE -o yaml",
    }
}
