//! Who uses and who holds the devices of this node.
//!
//! Everything is asked within a deadline, and what is not answered is unknown: a device is free only where the driver, the
//! kubelet and the node's processes all say so. What it comes to is decided by `core`.
//!
//! ```text
//!  devices of a survey ─┐
//!  kubelet (who holds) ─┼─▶ core::gpu::usage::judge ─▶ who uses each device
//!  /proc (whose process)┤        ▲
//!  API server (pod uids)┘        └── what was so the last time
//! ```
//!
//! The order matters. The survey comes first, then the kubelet, then `/proc`, then the API server: a process that is seen on a
//! device began before the kubelet was asked, and its pod was given its devices before that.

mod cgroup;
mod cluster;
mod messages;
mod podresources;
mod proc;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use koinon_core::gpu::device::{Device, Taken};
use koinon_core::gpu::reading::{Gap, Reading};
use koinon_core::gpu::usage::{
    Allocation, DeviceName, Evidence, Found, Kubelet, Limits, NodeUse, Pods, Relevant, Standing, judge,
};
use koinon_core::ids::{DeviceId, NodeName};
use tokio::sync::oneshot::{self, error::TryRecvError};

pub use cluster::ClusterError;
pub use podresources::{Answer, KubeletError, ask};
pub use proc::{Blind, HostProc, MAX_PROCESSES};

/// Ten thousand processes take a third of a second.
const PROC_DEADLINE: Duration = Duration::from_secs(2);

/// Where the node says who uses its devices.
#[derive(Debug, Clone, Args)]
pub struct UsageArgs {
    /// The socket of the kubelet's PodResources API, in a mount of the folder that it stands in.
    #[arg(long, env = "KOINON_POD_RESOURCES")]
    pub pod_resources: Option<PathBuf>,
    /// A /proc that shows every process of the node. The pod needs hostPID.
    #[arg(long, env = "KOINON_HOST_PROC")]
    pub host_proc: Option<PathBuf>,
    /// Extended resources that stand for GPUs. A name that ends in - is the beginning of names.
    #[arg(
        long,
        env = "KOINON_GPU_RESOURCES",
        value_delimiter = ',',
        default_value = "nvidia.com/gpu,nvidia.com/gpu.shared,nvidia.com/mig-"
    )]
    pub gpu_resources: Vec<String>,
    /// Drivers of resource slices whose devices are GPUs.
    #[arg(long, env = "KOINON_GPU_DRIVERS", value_delimiter = ',', default_value = "gpu.nvidia.com")]
    pub gpu_drivers: Vec<String>,
}

impl Default for UsageArgs {
    /// What the flags are if none is given.
    fn default() -> Self {
        let Relevant { resources, drivers } = Relevant::default();
        let all = |names: BTreeSet<String>| names.into_iter().collect();
        Self { pod_resources: None, host_proc: None, gpu_resources: all(resources), gpu_drivers: all(drivers) }
    }
}

/// What was found out, and what could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Who uses each device.
    pub usage: NodeUse,
    /// By which names GPUs are given out, where the kubelet says that.
    pub resources: BTreeMap<String, Given>,
    /// Why the kubelet's word is missing. Then no device counts as free.
    pub kubelet: Option<KubeletError>,
    /// Why it is not known which devices the kubelet may give out.
    pub allocatable: Option<KubeletError>,
    /// Why processes cannot be put down to pods. Then no device that nobody holds counts as free.
    pub processes: Option<Blind>,
    /// Why the uids of pods, or the devices of resource slices, are not known.
    pub cluster: Vec<ClusterError>,
}

/// How many GPUs the kubelet gives out by one name, and has given; shares count as such.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given {
    /// Those that pods may have, or have.
    pub allocatable: u32,
    /// Those that pods have.
    pub held: u32,
}

/// By name, what an allocation says of resources that stand for GPUs. Nothing if it does not say what there is.
fn resources(allocation: &Allocation, relevant: &Relevant) -> BTreeMap<String, Given> {
    let mut given: BTreeMap<String, Given> = BTreeMap::new();
    let Some(allocatable) = &allocation.allocatable else { return given };
    let mut add = |name: &DeviceName, count: fn(&mut Given) -> &mut u32| {
        if let DeviceName::Plugin { resource, .. } = name
            && relevant.has(name)
        {
            let count = count(given.entry(resource.clone()).or_default());
            *count = count.saturating_add(1);
        }
    };
    allocatable.iter().for_each(|name| add(name, |given| &mut given.allocatable));
    allocation.holdings.iter().for_each(|holding| add(&holding.device, |given| &mut given.held));
    given
}

/// Finds out, again and again, who uses the node's devices.
pub struct Observer {
    pod_resources: Option<PathBuf>,
    host_proc: Option<PathBuf>,
    relevant: Relevant,
    cluster: cluster::Cluster,
    limits: Limits,
    standing: Option<Standing>,
    /// A look into /proc that did not come back.
    stuck: Option<oneshot::Receiver<Result<BTreeMap<u32, Found>, Blind>>>,
}

impl Observer {
    /// One for `node`.
    pub fn new(args: &UsageArgs, node: NodeName, client: kube::Client) -> Self {
        let UsageArgs { pod_resources, host_proc, gpu_resources, gpu_drivers } = args;
        let set = |names: &[String]| names.iter().filter(|name| !name.is_empty()).cloned().collect();
        Self {
            pod_resources: pod_resources.clone(),
            host_proc: host_proc.clone(),
            relevant: Relevant { resources: set(gpu_resources), drivers: set(gpu_drivers) },
            cluster: cluster::Cluster::new(client, node),
            limits: Limits::default(),
            standing: None,
            stuck: None,
        }
    }

    /// Who uses the devices that a survey has just found. Takes at most seven seconds, usually some milliseconds.
    pub async fn observe(&mut self, devices: &[Device], taken: Taken) -> Observed {
        let (answer, kubelet_error) = match self.ask_kubelet().await {
            Ok(answer) => (Some(answer), None),
            Err(error) => (None, Some(error)),
        };
        let (found, blind) = match self.look_up(devices, taken.uptime_milliseconds).await {
            Ok(found) => (found, None),
            Err(blind) => (BTreeMap::new(), Some(blind)),
        };
        let (allocation, without_allocatable) = match answer {
            Some(Answer { allocation, without_allocatable }) => (Some(allocation), without_allocatable),
            None => (None, None),
        };
        let (pods, slices) = self.cluster.ask(&found, allocation.as_ref()).await;
        let mut cluster = Vec::new();
        let pods = pods.unwrap_or_else(|error| {
            cluster.push(error);
            Pods::Unknown
        });
        let slices = slices.unwrap_or_else(|error| {
            cluster.push(error);
            BTreeMap::new()
        });
        let seen = seen(devices, blind.as_ref());
        let resources = allocation.as_ref().map(|said| resources(said, &self.relevant)).unwrap_or_default();
        let kubelet = allocation.map_or(Kubelet::Unknown, Kubelet::Said);
        let evidence = Evidence {
            devices: &seen,
            processes: &found,
            kubelet: &kubelet,
            pods: &pods,
            slices: &slices,
            relevant: &self.relevant,
            shared: &BTreeSet::<DeviceId>::new(),
            uptime_milliseconds: taken.uptime_milliseconds,
            limits: self.limits,
        };
        let usage = judge(&evidence, self.standing.as_ref());
        self.standing = Some(usage.standing.clone());
        Observed {
            usage,
            resources,
            kubelet: kubelet_error,
            allocatable: without_allocatable,
            processes: blind,
            cluster,
        }
    }

    async fn ask_kubelet(&self) -> Result<Answer, KubeletError> {
        ask(self.pod_resources.as_deref().ok_or(KubeletError::NotGiven)?).await
    }

    async fn look_up(&mut self, devices: &[Device], surveyed: u64) -> Result<BTreeMap<u32, Found>, Blind> {
        if let Some(stuck) = &mut self.stuck {
            if matches!(stuck.try_recv(), Err(TryRecvError::Empty)) {
                return Err(Blind::Stuck);
            }
            self.stuck = None;
        }
        let listed = devices.iter().filter_map(|device| device.processes.known()).flatten();
        let pids: BTreeSet<u32> = listed.map(|process| process.pid).collect();
        let root = self.host_proc.clone();
        let (answer, mut answered) = oneshot::channel();
        // Even /proc can block while a driver holds a process's locks. A thread of its own, because the runtime would wait for
        // one of its own before the agent could end.
        let thread = std::thread::Builder::new().name("host-proc".to_owned()).spawn(move || {
            let found = HostProc::open(root.as_deref()).map(|proc| proc.look_up(&pids, surveyed));
            // Nobody listens any more only while the agent ends.
            let _ = answer.send(found);
        });
        thread.map_err(|error| Blind::NoThread(error.kind()))?;
        match tokio::time::timeout(PROC_DEADLINE, &mut answered).await {
            Ok(found) => found.unwrap_or(Err(Blind::Stuck)),
            Err(_) => {
                self.stuck = Some(answered);
                Err(Blind::Stuck)
            }
        }
    }
}

/// The devices with the processes that a driver told this agent of. In another pid namespace than the processes' a driver
/// leaves them out, and an empty list says nothing.
fn seen(devices: &[Device], blind: Option<&Blind>) -> Vec<Device> {
    let mut devices = devices.to_vec();
    if matches!(blind, Some(Blind::NotGiven | Blind::OwnOnly(_))) {
        for device in &mut devices {
            device.processes = Reading::Unknown(Gap::NoPermission);
        }
    }
    devices
}

#[cfg(test)]
mod tests;
