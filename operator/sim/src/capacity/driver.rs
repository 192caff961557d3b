//! What a driver says of a machine: the truth, badly read.

use koinon_core::gpu::device::*;
use koinon_core::gpu::health::LostDevice;
use koinon_core::gpu::reading::Gap;
use koinon_core::gpu::reading::Reading::{self, Known, Unknown, Unsupported};
use koinon_core::ids::{Bytes, DeviceId};

use super::hardware::{Ailment, Gpu, Machine};
use super::name;
use super::plan::Second;
use crate::dice::Dice;

const GIB: u64 = 1 << 30;
const OFF: Setting = Setting { current: false, pending: false };
const ON: Setting = Setting { current: true, pending: true };

/// How a driver errs just now.
#[derive(Clone, Debug, Default)]
pub(super) struct Mood {
    /// Chance in a hundred that a value of a device is not read.
    pub unread: usize,
    /// Whether processes can be seen.
    pub no_processes: bool,
    /// A device that gives the id of the one before it.
    pub twin: Option<usize>,
    /// A device that does not say its id.
    pub nameless: Option<usize>,
}

/// What was read: the devices that said their id, and the others.
pub(super) type Read = (Vec<Device>, Vec<LostDevice>);

/// Reads all devices of a machine.
pub(super) fn read(machine: &Machine, mood: &Mood, now: Second, dice: &mut Dice) -> Read {
    let (mut devices, mut lost) = (Vec::new(), Vec::new());
    for (at, gpu) in machine.gpus.iter().enumerate().filter(|(_, gpu)| gpu.listed) {
        if mood.nameless == Some(at) {
            let gap = if gpu.ailment == Some(Ailment::Lost) { Gap::Lost } else { Gap::NotAsked };
            lost.push(LostDevice { index: gpu.index, gap });
            continue;
        }
        let mut device = one(machine, gpu, now);
        if mood.twin == Some(at)
            && let Some(before) = at.checked_sub(1).and_then(|before| machine.gpus.get(before))
        {
            device.id = before.id.clone();
        }
        if dice.percent(mood.unread) {
            for _ in 0..=dice.below(3) {
                blind(&mut device, dice.below(VALUES), Gap::NotAsked);
            }
        }
        if mood.no_processes {
            device.processes = Unknown(Gap::NoPermission);
        }
        devices.push(device);
    }
    dice.shuffle(&mut devices);
    (devices, lost)
}

fn used(machine: &Machine, unit: &DeviceId) -> u64 {
    let processes = machine.processes.iter().filter(|process| process.unit == *unit).count() as u64;
    processes * 4 * GIB + if machine.leaks.contains(unit) { 8 * GIB } else { 0 }
}

fn one(machine: &Machine, gpu: &Gpu, now: Second) -> Device {
    let has = |ailment: Ailment| gpu.ailment == Some(ailment);
    let ecc = |value| if gpu.plain { Unsupported } else { Known(value) };
    let flag = |value: bool| if gpu.plain { Unsupported } else { Known(value) };
    let in_use: u64 = gpu.units().iter().map(|unit| used(machine, unit)).sum();
    let process = |process: &super::hardware::Process| Process {
        pid: process.pid,
        kind: ProcessKind::Compute,
        used: Known(Bytes(4 * GIB)),
        place: gpu.slices.iter().find(|slice| slice.id == process.unit).map(|slice| slice.place),
    };
    let mine = machine.processes.iter().filter(|process| gpu.units().contains(&process.unit));
    let waits = Setting { current: true, pending: !has(Ailment::Settings) };
    let mut device = Device {
        id: gpu.id.clone(),
        index: gpu.index,
        identity: Identity {
            product: Known(name("NVIDIA H100 80GB HBM3")),
            brand: Known(name("Nvidia")),
            architecture: Known(name("Hopper")),
            compute_capability: Known((9, 0)),
            minor: Known(gpu.minor),
            pci_bus_id: Known(name(&format!("00000000:{:02X}:00.0", gpu.minor))),
            serial: Known(name(&format!("{}", 1_650 + gpu.minor))),
            vbios: Known(name("96.00")),
        },
        memory: Memory { total: Known(Bytes(80 * GIB)), reserved: Known(Bytes(GIB)), used: Known(Bytes(in_use)) },
        mig: Known(if gpu.slices.is_empty() { OFF } else { ON }),
        instances: gpu
            .slices
            .iter()
            .map(|slice| Instance {
                id: slice.id.clone(),
                place: Known(slice.place),
                slices: Known(2),
                memory: Memory {
                    total: Known(Bytes(20 * GIB)),
                    reserved: Known(Bytes(GIB / 8)),
                    used: Known(Bytes(used(machine, &slice.id))),
                },
            })
            .collect(),
        ecc: Ecc {
            mode: if gpu.plain { Unsupported } else { Known(waits) },
            volatile_uncorrected: ecc(gpu.uncorrected),
            volatile_corrected: ecc(0),
            aggregate_uncorrected: ecc(gpu.uncorrected),
            aggregate_corrected: ecc(0),
            sram_threshold_exceeded: flag(false),
        },
        remap: Remap {
            correctable: ecc(0),
            uncorrectable: ecc(0),
            pending: flag(has(Ailment::RemapPending)),
            failed: flag(has(Ailment::RemapFailed)),
            availability: Unsupported,
        },
        recovery: Known(if has(Ailment::ResetRequired) { RecoveryAction::GpuReset } else { RecoveryAction::None }),
        nvlink: NvLink {
            links: ecc(18).map(|_| 18),
            active: if gpu.plain { Unsupported } else { Known(18) },
            replay_errors: ecc(0),
            recovery_errors: ecc(0),
            crc_errors: ecc(0),
        },
        pcie: Pcie {
            generation: Known(5),
            max_generation: Known(5),
            width: Known(16),
            max_width: Known(16),
            replays: Known(0),
        },
        thermal: Thermal {
            gpu: Known(if has(Ailment::Hot) { 95 } else { 40 }),
            memory: Known(45),
            margin: Known(40),
            gpu_max_operating: Known(87),
            memory_max_operating: Known(95),
        },
        power: Power {
            milliwatts: Known(70_000),
            limit_milliwatts: Known(700_000),
            millijoules: Known((now.saturating_sub(gpu.energy_since)) * 70_000 + 1),
        },
        clocks: Clocks {
            sm_megahertz: Known(1_980),
            sm_max_megahertz: Known(1_980),
            memory_megahertz: Known(2_619),
            throttle: Known(Throttle(if has(Ailment::Braked) { Throttle::HW_POWER_BRAKE } else { 0 })),
        },
        utilisation: Utilisation { gpu_percent: Known(0), memory_percent: Known(0) },
        persistence: Known(true),
        confidential: Confidential { capable: Known(false), mode: Known(ConfidentialMode::Off), ready: Unsupported },
        processes: Known(mine.map(process).collect()),
    };
    if has(Ailment::Lost) {
        for value in 0..VALUES {
            blind(&mut device, value, Gap::Lost);
        }
    }
    device
}

/// Whether something is missing without which nobody can call a device healthy.
pub(super) fn is_unread(device: &Device) -> bool {
    let missing = [
        device.recovery.gap(),
        device.ecc.volatile_uncorrected.gap(),
        device.remap.pending.gap(),
        device.remap.failed.gap(),
        device.nvlink.active.gap(),
        device.thermal.gpu.gap(),
        device.clocks.throttle.gap(),
        device.memory.total.gap(),
    ];
    missing.iter().any(Option::is_some)
}

/// How many values [`blind`] knows.
pub(super) const VALUES: usize = 20;

/// Makes one value of a device unreadable. Answers whether it was there before.
pub(super) fn blind(device: &mut Device, which: usize, gap: Gap) -> bool {
    fn hide<T>(reading: &mut Reading<T>, gap: Gap) -> bool {
        let known = reading.known().is_some();
        if known {
            *reading = Unknown(gap);
        }
        known
    }
    match which {
        0 => hide(&mut device.identity.product, gap),
        1 => hide(&mut device.memory.total, gap),
        2 => hide(&mut device.memory.used, gap),
        3 => hide(&mut device.mig, gap),
        4 => hide(&mut device.ecc.mode, gap),
        5 => hide(&mut device.ecc.volatile_uncorrected, gap),
        6 => hide(&mut device.ecc.sram_threshold_exceeded, gap),
        7 => hide(&mut device.remap.pending, gap),
        8 => hide(&mut device.remap.failed, gap),
        9 => hide(&mut device.remap.uncorrectable, gap),
        10 => hide(&mut device.recovery, gap),
        11 => hide(&mut device.nvlink.active, gap),
        12 => hide(&mut device.thermal.gpu, gap),
        13 => hide(&mut device.thermal.gpu_max_operating, gap),
        14 => hide(&mut device.clocks.throttle, gap),
        15 => hide(&mut device.persistence, gap),
        16 => hide(&mut device.power.millijoules, gap),
        17 => hide(&mut device.processes, gap),
        18 => hide(&mut device.identity.minor, gap),
        _ => {
            let instances = device.instances.iter_mut();
            instances.fold(false, |any, one| hide(&mut one.memory.total, gap) | hide(&mut one.place, gap) | any)
        }
    }
}
