//! The truth: which devices work, who computes on them, and when they were reset.

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::gpu::device::InstancePlace;
use koinon_core::gpu::health::BootId;
use koinon_core::gpu::xid::Xid;
use koinon_core::ids::{DeviceId, NodeName, ObjectUid, UnixSeconds};
use koinon_core::testkit::T0;

use super::name;
use super::plan::{Built, Second};

/// What ails a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ailment {
    /// It fell off the bus.
    Lost,
    /// Its memory had an error that was not corrected.
    DoubleBit,
    /// A row is to be replaced at the next reset.
    RemapPending,
    /// A row could not be replaced.
    RemapFailed,
    /// Its firmware answers nobody any more.
    Hung,
    /// The driver asks for a reset.
    ResetRequired,
    /// A setting waits for the next reset.
    Settings,
    /// It is too hot.
    Hot,
    /// The power supply of its node asks it to slow down.
    Braked,
    /// Programs fault on it, and it is well.
    Program,
    /// An error that nobody here knows.
    Strange,
}

impl Ailment {
    pub const ALL: [Self; 11] = [
        Self::Lost,
        Self::DoubleBit,
        Self::RemapPending,
        Self::RemapFailed,
        Self::Hung,
        Self::ResetRequired,
        Self::Settings,
        Self::Hot,
        Self::Braked,
        Self::Program,
        Self::Strange,
    ];

    /// Whether programs compute on a device that has it.
    pub fn works(self) -> bool {
        !matches!(self, Self::Lost | Self::DoubleBit | Self::RemapFailed | Self::Hung | Self::ResetRequired)
    }

    pub fn ends_with_reset(self) -> bool {
        matches!(self, Self::DoubleBit | Self::RemapPending | Self::ResetRequired | Self::Settings)
    }

    pub fn ends_by_itself(self) -> bool {
        matches!(self, Self::Hot | Self::Braked | Self::Program | Self::Strange)
    }

    pub fn xid(self) -> Option<Xid> {
        Some(Xid(match self {
            Self::Lost => 79,
            Self::DoubleBit => 48,
            Self::RemapPending => 63,
            Self::RemapFailed => 64,
            Self::Hung => 119,
            Self::ResetRequired => 95,
            Self::Program => 31,
            Self::Strange => 999,
            Self::Settings | Self::Hot | Self::Braked => return None,
        }))
    }
}

/// One instance of a divided device.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    pub id: DeviceId,
    pub place: InstancePlace,
}

/// One device.
#[derive(Clone, Debug)]
pub(super) struct Gpu {
    pub id: DeviceId,
    /// Its position in the library's order.
    pub index: u32,
    pub minor: u32,
    pub plain: bool,
    pub slices: Vec<Slice>,
    pub ailment: Option<Ailment>,
    /// Whether the driver lists it at all.
    pub listed: bool,
    pub uncorrected: u64,
    /// When the counter of energy began.
    pub energy_since: Second,
    /// When it was last reset, or its node booted.
    pub reset_at: Second,
}

impl Gpu {
    pub fn works(&self) -> bool {
        self.listed && self.ailment.is_none_or(Ailment::works)
    }

    /// What a pod can get: the device, or its instances.
    pub fn units(&self) -> Vec<DeviceId> {
        if self.slices.is_empty() {
            vec![self.id.clone()]
        } else {
            self.slices.iter().map(|slice| slice.id.clone()).collect()
        }
    }

    fn reset(&mut self, now: Second) {
        if self.ailment.is_some_and(Ailment::ends_with_reset) {
            self.ailment = None;
        }
        (self.energy_since, self.reset_at) = (now, now);
    }
}

/// A process that computes.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub pid: u32,
    /// Whose it is; none if it is the host's own.
    pub pod: Option<ObjectUid>,
    pub unit: DeviceId,
    pub started: Second,
    pub until: Second,
}

/// What the kernel wrote of an error.
#[derive(Clone, Debug)]
pub(super) struct LogLine {
    pub at: UnixSeconds,
    pub device: Option<DeviceId>,
    pub xid: Xid,
}

/// One machine.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub name: NodeName,
    pub boots: u32,
    pub booted: Second,
    /// Until when it is off.
    pub down_until: Second,
    /// How far its clock is ahead of the true time.
    pub clock: i64,
    pub gpus: Vec<Gpu>,
    pub processes: Vec<Process>,
    /// Units whose memory is in use by no process.
    pub leaks: BTreeSet<DeviceId>,
    pub log: Vec<LogLine>,
    /// How many lines ever told of each error of each device.
    pub told: BTreeMap<(DeviceId, Xid), u64>,
    pids: u32,
}

impl Machine {
    pub fn new(number: usize, built: &[Built]) -> Self {
        let gpu = |(index, built): (usize, &Built)| {
            let index = u32::try_from(index).unwrap_or(0);
            let slice = |at: u32| Slice {
                id: name(&format!("MIG-{number}-{index}-{at}")),
                place: InstancePlace { gpu_instance: at + 1, compute_instance: 0 },
            };
            Gpu {
                id: name(&format!("GPU-{number}-{index}")),
                index,
                minor: index,
                plain: built.plain,
                slices: (0..built.slices).map(slice).collect(),
                ailment: None,
                listed: true,
                uncorrected: 0,
                energy_since: 0,
                reset_at: 0,
            }
        };
        Self {
            name: name(&format!("node-{number}")),
            boots: 0,
            booted: 0,
            down_until: 0,
            clock: 0,
            gpus: built.iter().enumerate().map(gpu).collect(),
            processes: Vec::new(),
            leaks: BTreeSet::new(),
            log: Vec::new(),
            told: BTreeMap::new(),
            pids: 1_000,
        }
    }

    pub fn is_up(&self, now: Second) -> bool {
        now >= self.down_until
    }

    /// The time by its own clock.
    pub fn unix(&self, now: Second) -> UnixSeconds {
        UnixSeconds(T0.0.saturating_add(i64::try_from(now).unwrap_or(0)).saturating_add(self.clock))
    }

    pub fn uptime_milliseconds(&self, now: Second) -> u64 {
        // An hour passed before the run began.
        let before = if self.boots == 0 { 3_600 } else { 0 };
        (now.saturating_sub(self.booted) + before) * 1_000
    }

    pub fn boot(&self) -> BootId {
        name(&format!("boot-{}", self.boots))
    }

    pub fn gpu_of(&self, unit: &DeviceId) -> Option<&Gpu> {
        self.gpus.iter().find(|gpu| gpu.id == *unit || gpu.slices.iter().any(|slice| slice.id == *unit))
    }

    /// Everything that a pod can get, and whether it works.
    pub fn units(&self) -> BTreeMap<DeviceId, bool> {
        self.gpus.iter().flat_map(|gpu| gpu.units().into_iter().map(|unit| (unit, gpu.works()))).collect()
    }

    pub fn report(&mut self, device: Option<DeviceId>, xid: Xid, now: Second) {
        let at = self.unix(now);
        if let Some(device) = &device {
            *self.told.entry((device.clone(), xid)).or_default() += 1;
        }
        self.log.push(LogLine { at, device, xid });
    }

    /// Makes a device ill.
    pub fn fall_ill(&mut self, at: usize, ailment: Ailment, now: Second) {
        let Some(gpu) = self.gpus.get_mut(at).filter(|gpu| gpu.ailment.is_none()) else { return };
        if gpu.plain && matches!(ailment, Ailment::DoubleBit | Ailment::RemapPending | Ailment::RemapFailed) {
            return;
        }
        gpu.ailment = Some(ailment);
        if ailment == Ailment::DoubleBit {
            gpu.uncorrected += 1;
        }
        let id = gpu.id.clone();
        if ailment == Ailment::Braked {
            for gpu in self.gpus.iter_mut().filter(|gpu| gpu.ailment.is_none()) {
                gpu.ailment = Some(ailment);
            }
        }
        if let Some(xid) = ailment.xid() {
            self.report(Some(id), xid, now);
        }
    }

    pub fn start(&mut self, pod: Option<ObjectUid>, unit: &DeviceId, now: Second, until: Second) {
        self.pids += 1;
        self.processes.push(Process { pid: self.pids, pod, unit: unit.clone(), started: now, until });
    }

    pub fn reset(&mut self, at: usize, now: Second) {
        let Some(gpu) = self.gpus.get_mut(at) else { return };
        gpu.reset(now);
        for unit in gpu.units() {
            self.leaks.remove(&unit);
        }
    }

    pub fn reboot(&mut self, now: Second, back: Second) {
        self.boots += 1;
        (self.booted, self.down_until) = (back, back);
        self.processes.clear();
        self.leaks.clear();
        self.log.clear();
        for gpu in &mut self.gpus {
            if gpu.ailment != Some(Ailment::RemapFailed) {
                gpu.ailment = None;
            }
            gpu.listed = true;
            gpu.uncorrected = 0;
            gpu.reset(back.max(now));
        }
    }
}
