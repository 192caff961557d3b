//! What a node is like: its driver, its processes, what its kubelet and its kernel say. A fault is a change of it.

use std::path::PathBuf;

use fake_nvml::{Behaviour, Device, DeviceState, Event, Fault, Process, ProcessList, Scenario, Switch};

use crate::common::library;
use crate::kubelet::Says;
use crate::random::Seed;

/// The device that the fault strikes.
pub const TARGET: u64 = 1;
/// One that has nothing to do with it.
pub const BYSTANDER: u64 = 2;
/// The one that has a fault of its own in the last of the phases.
pub const OTHER: u64 = 3;
/// The pod that holds the target, in the phase in which one does, and the number of its process.
pub const POD: (&str, &str) = ("train", "11111111-1111-4111-8111-111111111111");
pub const POD_PROCESS: u32 = 4242;
/// A pod that holds nothing.
pub const IDLE_POD: (&str, &str) = ("idle", "22222222-2222-4222-8222-222222222222");
const GPU: &str = "nvidia.com/gpu";

/// When a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Before the agent's first survey.
    Start,
    /// After three sound surveys.
    Steady,
    /// The same, and a pod holds the device.
    Held,
    /// The same as steady, and another device of the node already has a fault.
    Other,
}

impl Phase {
    pub const ALL: [Self; 4] = [Self::Start, Self::Steady, Self::Held, Self::Other];

    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Steady => "steady",
            Self::Held => "in allocation",
            Self::Other => "during another fault",
        }
    }
}

/// A process of the node, whether or not the driver lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostProcess {
    pub pid: u32,
    /// Milliseconds after the node booted.
    pub started: u64,
    pub cgroup: String,
}

/// A node at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    pub scenario: Scenario,
    /// What stands at the path of the library; none if nothing does.
    pub library: Option<PathBuf>,
    pub processes: Vec<HostProcess>,
    pub kubelet: Says,
    /// Lines that the kernel has logged.
    pub kernel_log: Vec<String>,
    /// Added to the node's clock, in seconds; its uptime knows nothing of it.
    pub clock: i64,
    pub seed: Seed,
}

impl Scene {
    /// A sound node of three H100, in an order that the seed chooses.
    pub fn sound(phase: Phase, seed: Seed) -> Self {
        let held = phase == Phase::Held;
        let mut devices = vec![Device::h100(TARGET), Device::h100(BYSTANDER), Device::h100(OTHER)];
        seed.shuffle(&mut devices);
        let mut scene = Self {
            kubelet: Says::default(),
            scenario: Scenario::known(devices),
            library: Some(library()),
            processes: vec![HostProcess { pid: 1, started: 10, cgroup: "/init.scope".to_owned() }],
            kernel_log: vec!["6,1,1,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module".to_owned()],
            clock: 0,
            seed,
        };
        if held {
            let cgroup = format!("/kubepods/burstable/pod{}/{}", POD.1, "a".repeat(64));
            scene.processes.push(HostProcess { pid: POD_PROCESS, started: 7_000, cgroup });
            scene.computes(POD_PROCESS, 20 << 30);
        }
        let registered = [TARGET, BYSTANDER, OTHER].map(|serial| (GPU.to_owned(), Device::bare(serial).uuid));
        let holds = if held { vec![registered[0].clone()] } else { Vec::new() };
        let pods = vec![(POD.0.to_owned(), holds), (IDLE_POD.0.to_owned(), Vec::new())];
        scene.kubelet = Says { registered: registered.into(), pods };
        scene
    }

    /// The same after another device got a fault of its own: which one, the seed chooses.
    #[must_use]
    pub fn with_another_fault(mut self) -> Self {
        let lost = self.seed.bit(0);
        let other = self.device(OTHER);
        if lost {
            other.state = DeviceState::Lost;
        } else {
            other.board.persistence = Some(Switch::Disabled);
        }
        self
    }

    pub fn device(&mut self, serial: u64) -> &mut Device {
        let uuid = Device::bare(serial).uuid;
        self.scenario.devices.iter_mut().find(|device| device.uuid == uuid).unwrap()
    }

    pub fn target(&mut self) -> &mut Device {
        self.device(TARGET)
    }

    pub fn index(&self, serial: u64) -> u32 {
        let uuid = Device::bare(serial).uuid;
        let index = self.scenario.devices.iter().position(|device| device.uuid == uuid);
        u32::try_from(index.unwrap()).unwrap()
    }

    /// A device is no longer there.
    pub fn unplug(&mut self, serial: u64) {
        let uuid = Device::bare(serial).uuid;
        self.scenario.devices.retain(|device| device.uuid != uuid);
    }

    /// A fault in each call of a symbol.
    pub fn fails(&mut self, symbol: &str, behaviour: Behaviour) {
        let fault = Fault { symbol: symbol.to_owned(), device: None, after_calls: 0, behaviour };
        self.scenario.faults.push(fault);
    }

    /// A fault in each call of a symbol about the target.
    pub fn fails_of_target(&mut self, symbol: &str, behaviour: Behaviour) {
        let device = Some(self.index(TARGET));
        self.scenario.faults.push(Fault { symbol: symbol.to_owned(), device, after_calls: 0, behaviour });
    }

    /// An XID of the target.
    pub fn xid(&mut self, code: u64) {
        let event = Event::xid(self.index(TARGET), code);
        self.scenario.events.push(event);
    }

    /// A line about an XID of the target in the kernel's log.
    pub fn logs_xid(&mut self, code: u64) {
        let number = self.kernel_log.len() + 1;
        let line = format!("4,{number},{number},-;NVRM: Xid (PCI:0000:01:00): {code}, pid=77, name=python");
        self.kernel_log.push(line);
    }

    /// A process computes on the target, beside those that do.
    pub fn computes(&mut self, pid: u32, bytes: u64) {
        let target = self.target();
        let list = target.processes.compute.get_or_insert_with(ProcessList::default);
        list.list.push(Process::new(pid, bytes));
        target.memory.used_bytes += bytes;
    }

    /// A device is registered with the kubelet.
    pub fn register(&mut self, resource: &str, id: &str) {
        self.kubelet.registered.push((resource.to_owned(), id.to_owned()));
    }
}
