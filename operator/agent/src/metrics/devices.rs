//! What is known of a node's devices, as samples. Values in base units; what is unsupported or unknown has no sample.

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::capacity::Health;
use koinon_core::gpu::device::{Device, Instance, InstancePlace, Memory, ProcessKind, RecoveryAction, Throttle};
use koinon_core::gpu::health::{Judgement, MAX_REASONS, Verdict};
use koinon_core::gpu::reading::Reading;
use koinon_core::gpu::usage::{Attribution, DeviceUse, NodeUse, Use};
use koinon_core::ids::{DeviceId, Line};

use super::counters::{Counters, DriverCounter, float};
use super::family::{Family, Sample};
use super::names;

/// More are not rendered: no node has them, and a library that says so is lying.
pub(super) const MAX_DEVICES: usize = 128;
/// A GPU divides into at most seven; two more for what may come.
pub(super) const MAX_INSTANCES: usize = 9;
const ATTRIBUTIONS: [(Attribution, &str); 4] = [
    (Attribution::Pod, "pod"),
    (Attribution::PodMismatch, "pod_mismatch"),
    (Attribution::Host, "host"),
    (Attribution::Unknown, "unknown"),
];
const KINDS: [(ProcessKind, &str); 3] =
    [(ProcessKind::Compute, "compute"), (ProcessKind::Graphics, "graphics"), (ProcessKind::Mps, "mps")];
const STATES: [(Health, &str); 4] = [
    (Health::Healthy, "healthy"),
    (Health::Degraded, "degraded"),
    (Health::Unhealthy, "unhealthy"),
    (Health::Unknown, "unknown"),
];
/// `nvmlClocksEventReasons` of the NVML header, under names that alerts can select by: `hw_` is what the hardware did by itself.
pub(super) const THROTTLE: [(u64, &str); 8] = [
    (0x1, "idle"),
    (0x2, "applications_clocks"),
    (0x4, "sw_power_cap"),
    (Throttle::HW_SLOWDOWN, "hw_slowdown"),
    (0x10, "sync_boost"),
    (Throttle::SW_THERMAL, "sw_thermal"),
    (Throttle::HW_THERMAL, "hw_thermal"),
    (Throttle::HW_POWER_BRAKE, "hw_power_brake"),
];

/// The devices that can be told apart, with those of their instances that can. Of two that give one id neither's values are
/// anybody's.
pub(super) fn distinct(devices: &[Device]) -> Vec<(&Device, Vec<&Instance>)> {
    let mut times: BTreeMap<&DeviceId, u32> = BTreeMap::new();
    for device in devices {
        *times.entry(&device.id).or_default() += 1;
        for instance in &device.instances {
            *times.entry(&instance.id).or_default() += 1;
        }
    }
    let once = |id: &DeviceId| times.get(id) == Some(&1);
    let whole = devices.iter().filter(|device| once(&device.id)).take(MAX_DEVICES);
    whole
        .map(|device| (device, device.instances.iter().filter(|one| once(&one.id)).take(MAX_INSTANCES).collect()))
        .collect()
}

/// What stands in samples, and of whom.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) of: BTreeSet<DeviceId>,
    pub(super) samples: Vec<Sample>,
}

/// What a survey read, and who uses what; brings the counters up to it.
pub(super) fn read(
    devices: &[Device],
    driver: Option<&str>,
    usage: Option<&NodeUse>,
    counters: &mut Counters,
) -> Shown {
    let distinct = distinct(devices);
    let instances = distinct.iter().flat_map(|(_, instances)| instances.iter().map(|one| &one.id));
    let of: BTreeSet<DeviceId> =
        devices.iter().take(MAX_DEVICES).map(|device| &device.id).chain(instances).cloned().collect();
    let like = links_of_their_like(&distinct);
    let mut all = Samples(Vec::new());
    for (device, instances) in &distinct {
        let uuid = device.id.as_str();
        all.identity(device, driver);
        all.memory(uuid, &device.memory);
        all.gauges(uuid, device);
        all.faults(uuid, device);
        all.counters(device, counters);
        all.links(device, &like, counters);
        for instance in instances {
            let place = instance.place.known().copied();
            let number = |of: fn(InstancePlace) -> u32| place.map_or_else(String::new, |place| of(place).to_string());
            let labels = [
                instance.id.as_str(),
                uuid,
                &number(|place| place.gpu_instance),
                &number(|place| place.compute_instance),
            ];
            all.say(&names::INSTANCE_INFO, &labels, 1.0);
            all.memory(instance.id.as_str(), &instance.memory);
        }
    }
    for (id, used) in usage.iter().flat_map(|usage| &usage.devices).filter(|(id, _)| of.contains(*id)) {
        all.usage(id.as_str(), used);
    }
    Shown { of, samples: all.0 }
}

/// What is held of devices and instances, those that are missing included.
pub(super) fn judged(judgement: &Judgement) -> Shown {
    let mut all = Samples(Vec::new());
    let mut of = BTreeSet::new();
    let instances = judgement.instances.iter().take(MAX_DEVICES * MAX_INSTANCES);
    for (id, verdict) in judgement.devices.iter().take(MAX_DEVICES).chain(instances) {
        all.health(id.as_str(), verdict);
        of.insert(id.clone());
    }
    Shown { of, samples: all.0 }
}

/// Of the links up in devices of one product the number that most of at least two have; of two numbers the larger.
fn links_of_their_like<'a>(devices: &[(&'a Device, Vec<&'a Instance>)]) -> BTreeMap<&'a str, u32> {
    let mut seen: BTreeMap<&str, BTreeMap<u32, u32>> = BTreeMap::new();
    for (device, _) in devices {
        if let (Some(product), Some(active)) = (device.identity.product.known(), device.nvlink.active.known()) {
            *seen.entry(product.as_str()).or_default().entry(*active).or_default() += 1;
        }
    }
    let most = |counts: BTreeMap<u32, u32>| {
        let (links, devices) = counts.into_iter().max_by_key(|(links, devices)| (*devices, *links))?;
        (devices > 1).then_some(links)
    };
    seen.into_iter().filter_map(|(product, counts)| Some((product, most(counts)?))).collect()
}

struct Samples(Vec<Sample>);

impl Samples {
    fn say(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        self.0.push(Sample::new(family, labels, value));
    }

    fn read<T: Copy>(
        &mut self,
        family: &'static Family,
        labels: &[&str],
        reading: &Reading<T>,
        value: impl FnOnce(T) -> f64,
    ) {
        if let Reading::Known(known) = reading {
            self.say(family, labels, value(*known));
        }
    }

    fn identity(&mut self, device: &Device, driver: Option<&str>) {
        let text = |reading: &Reading<Line>| reading.known().map(|line| line.as_str().to_owned()).unwrap_or_default();
        let identity = &device.identity;
        let labels = [
            device.id.as_str(),
            &text(&identity.product),
            &text(&identity.architecture),
            driver.unwrap_or_default(),
            &text(&identity.vbios),
            &text(&identity.pci_bus_id),
        ];
        self.say(&names::INFO, &labels, 1.0);
    }

    fn memory(&mut self, uuid: &str, memory: &Memory) {
        self.read(&names::MEMORY_TOTAL, &[uuid], &memory.total, |bytes| float(bytes.0));
        self.read(&names::MEMORY_USED, &[uuid], &memory.used, |bytes| float(bytes.0));
        self.read(&names::MEMORY_RESERVED, &[uuid], &memory.reserved, |bytes| float(bytes.0));
    }

    fn gauges(&mut self, uuid: &str, device: &Device) {
        let percent = |percent: u32| f64::from(percent) / 100.0;
        self.read(&names::UTILIZATION, &[uuid], &device.utilisation.gpu_percent, percent);
        self.read(&names::MEMORY_UTILIZATION, &[uuid], &device.utilisation.memory_percent, percent);
        self.read(&names::TEMPERATURE, &[uuid, "gpu"], &device.thermal.gpu, f64::from);
        self.read(&names::TEMPERATURE, &[uuid, "memory"], &device.thermal.memory, f64::from);
        self.read(&names::TEMPERATURE_MARGIN, &[uuid], &device.thermal.margin, f64::from);
        let thousandths = |milli: u32| f64::from(milli) / 1000.0;
        self.read(&names::POWER, &[uuid], &device.power.milliwatts, thousandths);
        self.read(&names::POWER_LIMIT, &[uuid], &device.power.limit_milliwatts, thousandths);
        let hertz = |mega: u32| f64::from(mega) * 1e6;
        self.read(&names::CLOCK, &[uuid, "sm"], &device.clocks.sm_megahertz, hertz);
        self.read(&names::CLOCK, &[uuid, "memory"], &device.clocks.memory_megahertz, hertz);
        for (bit, reason) in THROTTLE {
            self.read(&names::THROTTLE_ACTIVE, &[uuid, reason], &device.clocks.throttle, |bits| flag(bits.has(bit)));
        }
    }

    fn faults(&mut self, uuid: &str, device: &Device) {
        let remap = &device.remap;
        self.read(&names::REMAPPED_ROWS, &[uuid, "correctable"], &remap.correctable, float);
        self.read(&names::REMAPPED_ROWS, &[uuid, "uncorrectable"], &remap.uncorrectable, float);
        self.read(&names::REMAP_PENDING, &[uuid], &remap.pending, flag);
        self.read(&names::REMAP_FAILED, &[uuid], &remap.failed, flag);
        if let Reading::Known(action) = device.recovery {
            let action = match action {
                RecoveryAction::None => "None",
                RecoveryAction::GpuReset => "GPUReset",
                RecoveryAction::NodeReboot => "NodeReboot",
                RecoveryAction::DrainP2p => "DrainP2P",
                RecoveryAction::DrainAndReset => "DrainAndReset",
                RecoveryAction::Other(_) => "Unknown",
            };
            self.say(&names::RECOVERY_ACTION, &[uuid, action], 1.0);
        }
    }

    fn counters(&mut self, device: &Device, counters: &mut Counters) {
        let uuid = device.id.as_str();
        let mut level = |counter, reading: &Reading<u64>| {
            reading.known().map(|raw| float(counters.level(&device.id, counter, *raw)))
        };
        let ecc = &device.ecc;
        let errors = [
            ("uncorrected", "volatile", level(DriverCounter::VolatileUncorrected, &ecc.volatile_uncorrected)),
            ("corrected", "volatile", level(DriverCounter::VolatileCorrected, &ecc.volatile_corrected)),
            ("uncorrected", "aggregate", level(DriverCounter::AggregateUncorrected, &ecc.aggregate_uncorrected)),
            ("corrected", "aggregate", level(DriverCounter::AggregateCorrected, &ecc.aggregate_corrected)),
        ];
        let links = [
            ("replay", level(DriverCounter::NvlinkReplay, &device.nvlink.replay_errors)),
            ("recovery", level(DriverCounter::NvlinkRecovery, &device.nvlink.recovery_errors)),
            ("crc", level(DriverCounter::NvlinkCrc, &device.nvlink.crc_errors)),
        ];
        let energy = level(DriverCounter::EnergyMillijoules, &device.power.millijoules);
        let replays = level(DriverCounter::PcieReplays, &device.pcie.replays);
        for (kind, scope, count) in errors {
            self.known(&names::ECC_ERRORS, &[uuid, kind, scope], count);
        }
        for (kind, count) in links {
            self.known(&names::NVLINK_ERRORS, &[uuid, kind], count);
        }
        self.known(&names::ENERGY, &[uuid], energy.map(|millijoules| millijoules / 1000.0));
        self.known(&names::PCIE_REPLAYS, &[uuid], replays);
    }

    fn known(&mut self, family: &'static Family, labels: &[&str], value: Option<f64>) {
        if let Some(value) = value {
            self.say(family, labels, value);
        }
    }

    /// How many links should be up is what most devices of the product have, or this one once had: a card may have links that
    /// lead nowhere.
    fn links(&mut self, device: &Device, like: &BTreeMap<&str, u32>, counters: &mut Counters) {
        let Some(active) = device.nvlink.active.known() else { return };
        let like = device.identity.product.known().and_then(|product| like.get(product.as_str()));
        let expected = counters.most_links(&device.id, *active).max(like.copied().unwrap_or(0));
        self.say(&names::NVLINK_LINKS, &[device.id.as_str(), "active"], f64::from(*active));
        self.say(&names::NVLINK_LINKS, &[device.id.as_str(), "expected"], f64::from(expected));
    }

    fn health(&mut self, uuid: &str, verdict: &Verdict) {
        for (state, word) in STATES {
            self.say(&names::HEALTH_STATE, &[uuid, word], flag(verdict.state == state));
        }
        for reason in verdict.reasons.iter().take(MAX_REASONS) {
            self.say(&names::HEALTH_REASON, &[uuid, reason.as_str()], 1.0);
        }
        self.say(&names::HEALTH_ACTION, &[uuid, verdict.action.as_str()], 1.0);
    }

    fn usage(&mut self, uuid: &str, usage: &DeviceUse) {
        if let Some(processes) = &usage.processes {
            for (kind, kind_word) in KINDS {
                for (attribution, word) in ATTRIBUTIONS {
                    let count = processes.get(&(kind, attribution)).copied().unwrap_or(0);
                    self.say(&names::PROCESSES, &[uuid, kind_word, word], f64::from(count));
                }
            }
        }
        let orphaned = match &usage.state {
            Use::Orphaned { processes, .. } => Some(*processes),
            Use::Unknown(_) => None,
            Use::Free | Use::Held { .. } | Use::Intruder { .. } | Use::Leaked { .. } => Some(0),
        };
        self.known(&names::ORPHANED_PROCESSES, &[uuid], orphaned.map(f64::from));
        self.known(&names::MEMORY_UNATTRIBUTED, &[uuid], usage.unattributed.map(|bytes| float(bytes.0)));
    }
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}
