//! Devices and nodes to judge in tests.

use super::*;
use crate::gpu::device::{
    Clocks, Confidential, Ecc, Identity, Memory, NvLink, Pcie, Power, Process, Remap, Thermal, Utilisation,
};
use crate::gpu::reading::Reading::{self, Known, Unsupported};

pub(super) const GIB: u64 = 1 << 30;
pub(super) const HOUR: u64 = 3_600_000;

pub(super) fn memory(used: Reading<u64>) -> Memory {
    Memory { total: Known(Bytes(80 * GIB)), reserved: Unsupported, used: used.map(Bytes) }
}

/// A device that says nothing but its id, that it has 80 GiB, none of them in use, and that nobody uses it.
pub(super) fn device(id: &str, index: u32) -> Device {
    Device {
        id: id.parse().unwrap(),
        index,
        identity: Identity {
            product: Unsupported,
            brand: Unsupported,
            architecture: Unsupported,
            compute_capability: Unsupported,
            minor: Known(index),
            pci_bus_id: Unsupported,
            serial: Unsupported,
            vbios: Unsupported,
        },
        memory: memory(Known(0)),
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
        processes: Known(Vec::new()),
    }
}

pub(super) fn process(pid: u32, used: Reading<u64>) -> Process {
    Process { pid, kind: ProcessKind::Compute, used: used.map(Bytes), place: None }
}

pub(super) fn pod(name: &str) -> PodRef {
    PodRef { namespace: "team".parse().unwrap(), name: name.parse().unwrap() }
}

pub(super) fn uid(name: &str) -> ObjectUid {
    format!("uid-{name}").parse().unwrap()
}

pub(super) fn holding(name: &str, id: &str) -> Holding {
    let device = DeviceName::Plugin { resource: "nvidia.com/gpu".to_owned(), id: id.to_owned() };
    Holding { pod: pod(name), claim: None, device }
}

/// One GPU `GPU-a`, the living pods `one` and `two`, nothing held; and what has happened so far.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) devices: Vec<Device>,
    pub(super) processes: BTreeMap<u32, Found>,
    pub(super) kubelet: Kubelet,
    pub(super) pods: Pods,
    pub(super) slices: BTreeMap<DraDevice, DeviceId>,
    pub(super) shared: BTreeSet<DeviceId>,
    pub(super) now: u64,
    pub(super) standing: Option<Standing>,
}

impl Node {
    pub(super) fn new() -> Self {
        let pods = ["one", "two"].map(pod);
        Self {
            devices: vec![device("GPU-a", 0)],
            processes: BTreeMap::new(),
            kubelet: Kubelet::Said(Allocation { pods: pods.clone().into(), ..Allocation::default() }),
            pods: Pods::Known(pods.into_iter().map(|pod| (pod.clone(), [uid(pod.name.as_str())].into())).collect()),
            slices: BTreeMap::new(),
            shared: BTreeSet::new(),
            now: HOUR,
            standing: None,
        }
    }

    pub(super) fn held(mut self, holdings: &[(&str, &str)]) -> Self {
        if let Kubelet::Said(allocation) = &mut self.kubelet {
            allocation.holdings = holdings.iter().map(|(pod, id)| holding(pod, id)).collect();
            allocation.pods.extend(holdings.iter().map(|(name, _)| pod(name)));
        }
        self
    }

    /// A process of 1 GiB on the first device that has run for an hour.
    pub(super) fn running(mut self, pid: u32, owner: Owner) -> Self {
        let Known(processes) = &mut self.devices[0].processes else { panic!("the device lists no processes") };
        processes.push(process(pid, Known(GIB)));
        self.devices[0].memory = memory(Known(processes.len() as u64 * GIB));
        self.processes.insert(pid, Found { started_milliseconds: Some(5), owner });
        self
    }

    pub(super) fn ended(mut self) -> Self {
        self.devices[0].processes = Known(Vec::new());
        self.devices[0].memory = memory(Known(0));
        self
    }

    pub(super) fn later(mut self, seconds: u64) -> Self {
        self.now += seconds * 1000;
        self
    }

    pub(super) fn evidence<'a>(&'a self, relevant: &'a Relevant) -> Evidence<'a> {
        Evidence {
            devices: &self.devices,
            processes: &self.processes,
            kubelet: &self.kubelet,
            pods: &self.pods,
            slices: &self.slices,
            relevant,
            shared: &self.shared,
            uptime_milliseconds: self.now,
            limits: Limits::default(),
        }
    }

    pub(super) fn all(&mut self) -> NodeUse {
        let found = judge(&self.evidence(&Relevant::default()), self.standing.as_ref());
        self.standing = Some(found.standing.clone());
        found
    }

    pub(super) fn of(&mut self, id: &str) -> DeviceUse {
        self.all().devices.remove(&id.parse().unwrap()).unwrap()
    }

    pub(super) fn first(&mut self) -> DeviceUse {
        self.of("GPU-a")
    }
}
