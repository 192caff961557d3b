//! A node with healthy devices, and time that goes on, for the tests beside this file.

mod clearing;
mod properties;
mod reports;
mod rules;
mod surveys;

use std::collections::BTreeMap;

use super::*;
use crate::gpu::device::*;
use crate::gpu::reading::{Gap, Reading};
use crate::gpu::words::Cause as Why;
use crate::gpu::xid::policy::XidPolicy;
use crate::gpu::xid::{XidEvent, XidSource};
use crate::ids::{Bytes, Line};

use Reading::Known;

pub(super) const GIB: u64 = 1 << 30;
pub(super) const OFF: Setting = Setting { current: false, pending: false };
pub(super) const ON: Setting = Setting { current: true, pending: true };

/// An H100 of which everything was read and nothing is wrong.
pub(super) fn device(name: &str) -> Device {
    let memory = Memory { total: Known(Bytes(80 * GIB)), reserved: Known(Bytes(GIB)), used: Known(Bytes(0)) };
    Device {
        id: name.parse().unwrap(),
        index: 0,
        identity: Identity {
            product: Known("NVIDIA H100 80GB HBM3".parse().unwrap()),
            brand: Known("Nvidia".parse().unwrap()),
            architecture: Known("Hopper".parse().unwrap()),
            compute_capability: Known((9, 0)),
            minor: Known(0),
            pci_bus_id: Known("00000000:3B:00.0".parse().unwrap()),
            serial: Known("1650".parse().unwrap()),
            vbios: Known("96.00".parse().unwrap()),
        },
        memory,
        mig: Known(OFF),
        instances: Vec::new(),
        ecc: Ecc {
            mode: Known(ON),
            volatile_uncorrected: Known(0),
            volatile_corrected: Known(0),
            aggregate_uncorrected: Known(0),
            aggregate_corrected: Known(0),
            sram_threshold_exceeded: Known(false),
        },
        remap: Remap {
            correctable: Known(0),
            uncorrectable: Known(0),
            pending: Known(false),
            failed: Known(false),
            availability: Known(RemapAvailability { max: 640, high: 0, partial: 0, low: 0, none: 0 }),
        },
        recovery: Known(RecoveryAction::None),
        nvlink: NvLink {
            links: Known(18),
            active: Known(18),
            replay_errors: Known(0),
            recovery_errors: Known(0),
            crc_errors: Known(0),
        },
        pcie: Pcie {
            generation: Known(5),
            max_generation: Known(5),
            width: Known(16),
            max_width: Known(16),
            replays: Known(0),
        },
        thermal: Thermal {
            gpu: Known(40),
            memory: Known(45),
            margin: Known(40),
            gpu_max_operating: Known(87),
            memory_max_operating: Known(95),
        },
        power: Power { milliwatts: Known(70_000), limit_milliwatts: Known(700_000), millijoules: Known(1) },
        clocks: Clocks {
            sm_megahertz: Known(1_980),
            sm_max_megahertz: Known(1_980),
            memory_megahertz: Known(2_619),
            throttle: Known(Throttle(0)),
        },
        utilisation: Utilisation { gpu_percent: Known(0), memory_percent: Known(0) },
        persistence: Known(true),
        confidential: Confidential {
            capable: Known(true),
            mode: Known(ConfidentialMode::Off),
            ready: Reading::Unsupported,
        },
        processes: Known(Vec::new()),
    }
}

pub(super) fn instance(name: &str, gpu_instance: u32) -> Instance {
    Instance {
        id: name.parse().unwrap(),
        place: Known(InstancePlace { gpu_instance, compute_instance: 0 }),
        slices: Known(1),
        memory: Memory { total: Known(Bytes(10 * GIB)), reserved: Known(Bytes(0)), used: Known(Bytes(0)) },
    }
}

/// A node, what its agent remembers, and what its next survey will read.
#[derive(Clone)]
pub(super) struct Node {
    pub history: History,
    pub devices: Vec<Device>,
    pub lost: Vec<LostDevice>,
    /// A survey that fails instead.
    pub failed: Option<(SurveyFailure, u32)>,
    pub context: NodeContext,
    pub events: Vec<XidEvent>,
    pub resets: Vec<DeviceReset>,
    pub clears: BTreeMap<DeviceId, OwnerClear>,
    pub canary: BTreeMap<DeviceId, PerMille>,
    pub nominal: BTreeMap<Line, Bytes>,
    pub policy: XidPolicy,
    pub limits: Limits,
    pub now: UnixSeconds,
}

impl Node {
    /// A node that has been up for a day, with devices `GPU-0` and so on, judged once.
    pub fn of(count: usize) -> Self {
        let mut node = Self {
            history: History::default(),
            devices: (0..count).map(|at| device(&format!("GPU-{at}"))).collect(),
            lost: Vec::new(),
            failed: None,
            context: NodeContext {
                boot: "boot-1".parse().unwrap(),
                uptime_milliseconds: 86_400_000,
                driver: Some("580.95.05".parse().unwrap()),
                ready_since: Some(UnixSeconds(1_795_000_000 - 86_000)),
            },
            events: Vec::new(),
            resets: Vec::new(),
            clears: BTreeMap::new(),
            canary: BTreeMap::new(),
            nominal: BTreeMap::new(),
            policy: XidPolicy::builtin(),
            limits: Limits::default(),
            now: UnixSeconds(1_795_000_000),
        };
        node.judge();
        node
    }

    /// Judges now. What was reported, reset or cleared is used up.
    pub fn judge(&mut self) -> Judgement {
        let survey = match self.failed {
            Some((failure, in_a_row)) => Survey::Failed { failure, in_a_row },
            None => Survey::Read { devices: &self.devices, lost: &self.lost },
        };
        let judgement = judge(
            self.history.clone(),
            &Inputs {
                survey,
                node: &self.context,
                events: &self.events,
                resets: &self.resets,
                clears: &self.clears,
                canary: &self.canary,
                nominal: &self.nominal,
                policy: &self.policy,
                limits: &self.limits,
                now: self.now,
            },
        );
        self.events.clear();
        self.resets.clear();
        // What an agent keeps across its restarts is what it wrote.
        let text = serde_json::to_string(&judgement.history).unwrap();
        self.history = serde_json::from_str(&text).unwrap();
        assert_eq!(self.history, judgement.history);
        judgement
    }

    /// Lets time go on, then judges.
    pub fn after(&mut self, seconds: i64) -> Judgement {
        self.pass(seconds);
        self.judge()
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now = UnixSeconds(self.now.0 + seconds);
        self.context.uptime_milliseconds += u64::try_from(seconds).unwrap() * 1_000;
    }

    /// Judges every `step` seconds until `seconds` have passed.
    pub fn over(&mut self, seconds: i64, step: i64) -> Judgement {
        let mut last = None;
        for _ in 0..seconds / step {
            last = Some(self.after(step));
        }
        last.unwrap()
    }

    pub fn reboot(&mut self) {
        let number: u32 = self.context.boot.as_str().trim_start_matches("boot-").parse().unwrap();
        self.context.boot = format!("boot-{}", number + 1).parse().unwrap();
        self.context.uptime_milliseconds = 60_000;
    }

    pub fn reset(&mut self, name: &str) {
        self.resets.push(DeviceReset { device: name.parse().unwrap(), at: self.now });
    }

    /// A report of now about device `at`.
    pub fn event(&self, at: usize, code: u32) -> XidEvent {
        XidEvent {
            at: self.now,
            device: Some(format!("GPU-{at}").parse().unwrap()),
            xid: Xid(code),
            source: XidSource::KernelLog,
            place: None,
            detail: None,
            workload: None,
        }
    }

    pub fn report(&mut self, at: usize, code: u32) {
        let event = self.event(at, code);
        self.events.push(event);
    }

    pub fn fault(&mut self, workload: Option<&str>) {
        let event = XidEvent { workload: workload.map(|name| name.parse().unwrap()), ..self.event(0, 13) };
        self.events.push(event);
    }
}

impl Judgement {
    pub(super) fn of(&self, name: &str) -> &Verdict {
        let id: DeviceId = name.parse().unwrap();
        self.devices.get(&id).or_else(|| self.instances.get(&id)).unwrap_or_else(|| panic!("no verdict of {name}"))
    }

    pub(super) fn state(&self, name: &str) -> Health {
        self.of(name).state
    }
}

impl Verdict {
    pub(super) fn says(&self, reason: Why) -> bool {
        self.reasons.contains(&Reason::Known(reason))
    }
}
