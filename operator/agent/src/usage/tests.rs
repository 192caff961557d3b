use std::fs;

use koinon_core::gpu::device::Process;
use koinon_core::gpu::device::{
    Clocks, Confidential, Ecc, Identity, Memory, NvLink, Pcie, Power, ProcessKind, Remap, Thermal, Utilisation,
};
use koinon_core::gpu::reading::Reading::{Known, Unsupported};
use koinon_core::gpu::usage::{Attribution, Clean, DeviceUse, PodRef, Use, Why};
use koinon_core::ids::{Bytes, UnixMicros};
use serde_json::json;
use tempfile::TempDir;

use super::cluster::tests::{Api, ONE, TWO, pod};
use super::podresources::tests::{Kubelet as Served, holding_pod};
use super::*;

const NOW: Taken = Taken { at: UnixMicros(0), uptime_milliseconds: 3_600_000 };

fn device(pids: &[u32]) -> Device {
    let used = Known(Bytes(1 << 30));
    let process = |pid: &u32| Process { pid: *pid, kind: ProcessKind::Compute, used: used.clone(), place: None };
    Device {
        id: "GPU-a".parse().unwrap(),
        index: 0,
        identity: Identity {
            product: Unsupported,
            brand: Unsupported,
            architecture: Unsupported,
            compute_capability: Unsupported,
            minor: Unsupported,
            pci_bus_id: Unsupported,
            serial: Unsupported,
            vbios: Unsupported,
        },
        memory: Memory {
            total: Known(Bytes(80 << 30)),
            reserved: Unsupported,
            used: Known(Bytes((pids.len() as u64) << 30)),
        },
        mig: Unsupported,
        instances: Vec::new(),
        ecc: Ecc {
            mode: Unsupported,
            volatile_uncorrected: Unsupported,
            volatile_corrected: Unsupported,
            aggregate_uncorrected: Unsupported,
            aggregate_corrected: Unsupported,
            sram_threshold_exceeded: Unsupported,
        },
        remap: Remap {
            correctable: Unsupported,
            uncorrectable: Unsupported,
            pending: Unsupported,
            failed: Unsupported,
            availability: Unsupported,
        },
        recovery: Unsupported,
        nvlink: NvLink {
            links: Unsupported,
            active: Unsupported,
            replay_errors: Unsupported,
            recovery_errors: Unsupported,
            crc_errors: Unsupported,
        },
        pcie: Pcie {
            generation: Unsupported,
            max_generation: Unsupported,
            width: Unsupported,
            max_width: Unsupported,
            replays: Unsupported,
        },
        thermal: Thermal {
            gpu: Unsupported,
            memory: Unsupported,
            margin: Unsupported,
            gpu_max_operating: Unsupported,
            memory_max_operating: Unsupported,
        },
        power: Power { milliwatts: Unsupported, limit_milliwatts: Unsupported, millijoules: Unsupported },
        clocks: Clocks {
            sm_megahertz: Unsupported,
            sm_max_megahertz: Unsupported,
            memory_megahertz: Unsupported,
            throttle: Unsupported,
        },
        utilisation: Utilisation { gpu_percent: Unsupported, memory_percent: Unsupported },
        persistence: Unsupported,
        confidential: Confidential { capable: Unsupported, mode: Unsupported, ready: Unsupported },
        processes: Known(pids.iter().map(process).collect()),
    }
}

/// A node with a kubelet, a /proc and an API server that knows the pods `one` and `two`; `one` holds `GPU-a` if `held`.
struct Node {
    kubelet: Served,
    proc: TempDir,
    api: Api,
    observer: Observer,
}

impl Node {
    fn new(held: bool) -> Self {
        let devices: &[&str] = if held { &["GPU-a"] } else { &[] };
        let kubelet = Served::listing(vec![holding_pod("one", devices), holding_pod("two", &[])]);
        let proc = tempfile::tempdir().unwrap();
        let api = Api::with_pods(json!([pod("one", ONE), pod("two", TWO)]));
        let args = UsageArgs {
            pod_resources: Some(kubelet.socket()),
            host_proc: Some(proc.path().to_owned()),
            gpu_resources: vec!["nvidia.com/gpu".to_owned()],
            gpu_drivers: Vec::new(),
        };
        let observer = Observer::new(&args, "node-1".parse().unwrap(), api.client());
        let node = Self { kubelet, proc, api, observer };
        node.process(1, "/init.scope");
        node
    }

    fn process(&self, pid: u32, cgroup: &str) {
        let folder = self.proc.path().join(pid.to_string());
        fs::create_dir_all(&folder).unwrap();
        let numbers = vec!["0"; 18].join(" ");
        fs::write(folder.join("stat"), format!("{pid} (x) S {numbers} 700 0 0\n")).unwrap();
        fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
    }

    fn process_of(&self, pid: u32, uid: &str) {
        self.process(pid, &format!("/kubepods/burstable/pod{uid}/{}", "a".repeat(64)));
    }

    async fn observe(&mut self, pids: &[u32]) -> (DeviceUse, Observed) {
        let observed = self.observer.observe(&[device(pids)], NOW).await;
        (observed.usage.devices[&"GPU-a".parse().unwrap()].clone(), observed)
    }
}

fn of(name: &str) -> PodRef {
    PodRef { namespace: "team".parse().unwrap(), name: name.parse().unwrap() }
}

#[tokio::test]
async fn kubelet_proc_and_api_server_together_say_whose_a_device_is() {
    let mut node = Node::new(true);
    node.process_of(42, ONE);
    let (found, observed) = node.observe(&[42]).await;
    assert_eq!((found.state, found.clean), (Use::Held { pods: [of("one")].into() }, Clean::Yes));
    assert_eq!(found.processes.unwrap(), [((ProcessKind::Compute, Attribution::Pod), 1)].into());
    assert_eq!(observed.usage.allocatable, Some(BTreeSet::new()));
    let complaints = (observed.kubelet, observed.allocatable, observed.processes, observed.cluster);
    assert_eq!(complaints, (None, None, None, Vec::new()));
}

#[test]
fn what_is_given_out_is_counted_by_its_name_and_shares_as_such() {
    let name = |resource: &str, id: &str| DeviceName::Plugin { resource: resource.to_owned(), id: id.to_owned() };
    let gpus = ["GPU-a::0", "GPU-a::1", "GPU-b::0"].map(|id| name("nvidia.com/gpu", id));
    let other = [name("nvidia.com/mig-1g.10gb", "MIG-c"), name("example.com/nic", "eth0")];
    let holding = koinon_core::gpu::usage::Holding { pod: of("one"), claim: None, device: gpus[0].clone() };
    let said = Allocation {
        holdings: vec![holding],
        allocatable: Some(gpus.into_iter().chain(other).collect()),
        ..Allocation::default()
    };
    let given = resources(&said, &Relevant::default());
    let of = |allocatable, held| Given { allocatable, held };
    let all = [("nvidia.com/gpu".to_owned(), of(3, 1)), ("nvidia.com/mig-1g.10gb".to_owned(), of(1, 0))];
    assert_eq!(given, all.into());
    assert!(
        resources(&Allocation { allocatable: None, ..said }, &Relevant::default()).is_empty(),
        "unknown is not zero"
    );
}

#[tokio::test]
async fn a_pod_beside_the_scheduler_is_an_intruder_and_a_host_process_an_orphan() {
    let mut node = Node::new(false);
    node.process_of(42, TWO);
    let (found, _) = node.observe(&[42]).await;
    assert_eq!(found.state, Use::Intruder { pods: [(of("two"), TWO.parse().unwrap())].into() });
    let mut node = Node::new(false);
    node.process(42, "/system.slice/miner.service");
    let (found, _) = node.observe(&[42]).await;
    assert_eq!(found.state, Use::Orphaned { since_milliseconds: 7000, processes: 1 });
    assert_eq!(node.api.asked().len(), 0, "no uid was in question");
}

#[tokio::test]
async fn nothing_is_free_while_the_kubelet_does_not_answer() {
    let mut node = Node::new(false);
    assert_eq!(node.observe(&[]).await.0.state, Use::Free);
    node.kubelet.stop();
    fs::remove_file(node.kubelet.socket()).unwrap();
    let (found, observed) = node.observe(&[]).await;
    assert_eq!((found.state, found.holders), (Use::Unknown(Why::KubeletUnknown), None));
    assert!(matches!(observed.kubelet, Some(KubeletError::Connect { .. })), "{:?}", observed.kubelet);
}

#[tokio::test]
async fn nothing_is_free_while_processes_cannot_be_seen_and_a_held_device_stays_held() {
    for held in [false, true] {
        let mut node = Node::new(held);
        node.observer.host_proc = None;
        let (found, observed) = node.observe(&[]).await;
        let unseen = Use::Unknown(Why::Processes(Gap::NoPermission));
        assert_eq!(found.state, if held { Use::Held { pods: [of("one")].into() } } else { unseen });
        assert_eq!((found.clean, found.quiet, found.processes), (Clean::Unknown, Some(true), None));
        assert_eq!(observed.processes, Some(Blind::NotGiven));
    }
}

#[tokio::test]
async fn where_proc_hides_processes_those_that_the_driver_lists_are_unknown() {
    let mut node = Node::new(false);
    fs::remove_dir_all(node.proc.path().join("1")).unwrap();
    let (found, observed) = node.observe(&[42]).await;
    assert_eq!(found.state, Use::Unknown(Why::ProcessOwner));
    assert!(matches!(observed.processes, Some(Blind::Hidden { .. })));
}

#[tokio::test]
async fn without_the_api_server_a_pods_process_on_a_free_device_is_unknown() {
    let mut node = Node::new(false);
    node.process_of(42, TWO);
    node.api.forbid();
    let (found, observed) = node.observe(&[42]).await;
    assert_eq!(found.state, Use::Unknown(Why::ProcessOwner));
    assert!(matches!(&observed.cluster[..], [ClusterError::Failed { what: "pods", .. }]), "{:?}", observed.cluster);
}

#[tokio::test]
async fn what_stood_the_last_time_is_remembered() {
    let mut node = Node::new(false);
    node.process(42, "/system.slice/x.service");
    node.observe(&[]).await;
    assert_eq!(node.observe(&[42]).await.0.state, Use::Unknown(Why::Settling));
    let later = Taken { uptime_milliseconds: NOW.uptime_milliseconds + 61_000, ..NOW };
    let observed = node.observer.observe(&[device(&[42])], later).await;
    let state = &observed.usage.devices[&"GPU-a".parse().unwrap()].state;
    assert_eq!(*state, Use::Orphaned { since_milliseconds: NOW.uptime_milliseconds, processes: 1 });
}

#[tokio::test]
async fn a_proc_that_hangs_costs_one_thread_and_two_seconds_once() {
    let mut node = Node::new(false);
    // Whoever opens a pipe waits until somebody opens its other end.
    let pipe = node.proc.path().join("1/stat");
    fs::remove_file(&pipe).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for _ in 0..3 {
        let (found, observed) = node.observe(&[42]).await;
        assert_eq!((found.state, observed.processes), (Use::Unknown(Why::ProcessOwner), Some(Blind::Stuck)));
    }
    assert!(node.observer.stuck.is_some());
    // It comes back, and everything is as before.
    fs::write(&pipe, "").unwrap();
    while matches!(node.observer.stuck.as_mut().unwrap().try_recv(), Err(TryRecvError::Empty)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fs::remove_file(&pipe).unwrap();
    node.process(1, "/init.scope");
    assert_eq!(node.observe(&[]).await.0.state, Use::Free);
}
