//! One device, or why it cannot be told which one it is.

use std::collections::BTreeMap;

use koinon_core::gpu::device::{
    Clocks, Confidential, Device, Ecc, Identity, Instance, InstancePlace, Memory, NvLink, Pcie, Power, Process,
    ProcessKind, Remap, RemapAvailability, Setting, Thermal, Throttle, Utilisation,
};
use koinon_core::gpu::reading::{Gap, Reading};

use super::super::wire::{
    Raw, RawDevice, RawEcc, RawInstance, RawLink, RawLinkErrors, RawLinks, RawMemory, RawProcess, RawProcesses,
    RawRemap, RawThermal, code,
};
use super::text::{bus_id, gpu_id, instance_id, name};
use super::values::{
    architecture, brand, bytes, celsius, count, field, flag, megahertz, millijoules, milliwatts, on_or_off,
    pcie_generation, pcie_width, percent, reading, recovery, setting, signed_count, unsigned_celsius,
};

/// What NVML writes where a process has no instance, or its memory is not known.
const NONE: u32 = u32::MAX;
const NOT_AVAILABLE: u64 = u64::MAX;
/// The kernel's own limit for the number of a process.
const MAX_PID: u32 = 4_194_304;
/// More links than any device has.
const MAX_LINKS: u32 = 64;

/// A device that says who it is, before and after all else.
pub(super) fn device(raw: RawDevice, confidential: &Confidential) -> Result<Device, Gap> {
    let told = |uuid| match reading(uuid, |text: String| gpu_id(&text)) {
        Reading::Known(id) => Ok(id),
        Reading::Unsupported => Err(Gap::Code(code::NOT_SUPPORTED)),
        Reading::Unknown(gap) => Err(gap),
    };
    let id = told(raw.uuid)?;
    let said = *raw.said.ok_or(Gap::NotAsked)?;
    if told(said.uuid_again)? != id {
        return Err(Gap::Unstable);
    }
    let (mig, instances) = divided(said.mig, said.instances);
    let divided = !matches!(mig, Reading::Unsupported | Reading::Known(Setting { current: false, .. }));
    Ok(Device {
        id,
        index: raw.index,
        identity: Identity {
            product: reading(said.product, |text| name(&text)),
            brand: brand(said.brand),
            architecture: architecture(said.architecture),
            compute_capability: reading(said.compute_capability, |(major, minor)| {
                let small = |number: i32| u32::try_from(number).ok().filter(|number| *number < 1000);
                Some((small(major)?, small(minor)?))
            }),
            minor: reading(said.minor, Some),
            pci_bus_id: reading(said.bus_id, |text| bus_id(&text)),
            serial: reading(said.serial, |text| name(&text)),
            vbios: reading(said.vbios, |text| name(&text)),
        },
        memory: memory(said.memory),
        mig,
        instances,
        ecc: ecc(said.ecc),
        remap: remap(said.remap),
        recovery: recovery(said.recovery),
        nvlink: nvlink(said.nvlink),
        pcie: Pcie {
            generation: reading(said.pcie.generation, pcie_generation),
            max_generation: reading(said.pcie.max_generation, pcie_generation),
            width: reading(said.pcie.width, pcie_width),
            max_width: reading(said.pcie.max_width, pcie_width),
            replays: field(said.pcie.replays, signed_count),
        },
        thermal: thermal(said.thermal),
        power: Power {
            milliwatts: reading(said.power, milliwatts),
            limit_milliwatts: reading(said.power_limit, milliwatts),
            millijoules: field(said.energy, millijoules),
        },
        clocks: Clocks {
            sm_megahertz: reading(said.clocks.sm, megahertz),
            sm_max_megahertz: reading(said.clocks.sm_max, megahertz),
            memory_megahertz: reading(said.clocks.memory, megahertz),
            throttle: reading(said.clocks.throttle, |bits| Some(Throttle(bits))),
        },
        utilisation: Utilisation {
            gpu_percent: reading(said.utilisation.clone(), |(gpu, _)| percent(gpu)),
            memory_percent: reading(said.utilisation, |(_, memory)| percent(memory)),
        },
        persistence: reading(said.persistence, on_or_off),
        confidential: confidential.clone(),
        processes: processes(said.processes, divided),
    })
}

/// A device of zero bytes is none; what is used may be zero.
fn memory(raw: Raw<RawMemory>) -> Memory {
    let read = |of: fn(RawMemory) -> u64| reading(raw.clone(), |memory| bytes(of(memory)));
    Memory {
        total: read(|memory| memory.total).plausible(|total| total.0 > 0),
        reserved: match raw {
            Raw::Value(RawMemory { reserved: None, .. }) => Reading::Unsupported,
            _ => read(|memory| memory.reserved.unwrap_or(0)),
        },
        used: read(|memory| memory.used),
    }
}

/// Without the whole list of its instances it is not known how a device is divided: an empty list would say that it is not.
fn divided(mode: Raw<(u32, u32)>, list: Raw<Vec<RawInstance>>) -> (Reading<Setting>, Vec<Instance>) {
    let mode = reading(mode, setting);
    if mode.get().is_none_or(|mode| !mode.current) {
        return (mode, Vec::new());
    }
    let raw = match reading(list, Some) {
        Reading::Known(raw) => raw,
        // A divided device none of whose instances can be named: nothing of it can be given to anybody.
        Reading::Unsupported => return (mode, Vec::new()),
        Reading::Unknown(gap) => return (Reading::Unknown(gap), Vec::new()),
    };
    let mut mode = mode;
    let mut instances = Vec::new();
    for raw in raw {
        let id = match reading(raw.uuid, |text| instance_id(&text)) {
            Reading::Known(id) => id,
            Reading::Unsupported => {
                mode = Reading::Unknown(Gap::Code(code::NOT_SUPPORTED));
                continue;
            }
            Reading::Unknown(gap) => {
                mode = Reading::Unknown(gap);
                continue;
            }
        };
        let small = |number: u32| (number < 1024).then_some(number);
        let (gpu, compute) = (reading(raw.gpu_instance, small), reading(raw.compute_instance, small));
        let place = match (&gpu, &compute) {
            (Reading::Known(gpu), Reading::Known(compute)) => {
                Reading::Known(InstancePlace { gpu_instance: *gpu, compute_instance: *compute })
            }
            (Reading::Unknown(gap), _) | (_, Reading::Unknown(gap)) => Reading::Unknown(*gap),
            _ => Reading::Unsupported,
        };
        let slices = reading(raw.slices, |slices| (1..=64).contains(&slices).then_some(slices));
        instances.push(Instance { id, place, slices, memory: memory(raw.memory) });
    }
    (mode, instances)
}

fn ecc(raw: RawEcc) -> Ecc {
    Ecc {
        mode: reading(raw.mode, setting),
        volatile_uncorrected: reading(raw.volatile_uncorrected, count),
        volatile_corrected: reading(raw.volatile_corrected, count),
        aggregate_uncorrected: reading(raw.aggregate_uncorrected, count),
        aggregate_corrected: reading(raw.aggregate_corrected, count),
        sram_threshold_exceeded: reading(raw.sram_threshold_exceeded, on_or_off),
    }
}

fn remap(raw: RawRemap) -> Remap {
    Remap {
        correctable: field(raw.correctable, signed_count),
        uncorrectable: field(raw.uncorrectable, signed_count),
        pending: field(raw.pending, flag),
        failed: field(raw.failed, flag),
        availability: reading(raw.availability, |[max, high, partial, low, none]| {
            let sane = [max, high, partial, low, none].iter().all(|banks| *banks <= 1 << 20);
            sane.then_some(RemapAvailability { max, high, partial, low, none })
        }),
    }
}

fn thermal(raw: RawThermal) -> Thermal {
    let gpu = reading(raw.gpu, unsigned_celsius);
    let margin = reading(raw.margin, |margin| celsius(i64::from(margin)));
    let gpu_max_operating = match reading(raw.gpu_max, unsigned_celsius) {
        // Newer devices tell the limit as a margin, from which the temperature follows.
        Reading::Unsupported => match (gpu.get(), margin.get(), field(raw.gpu_max_margin, celsius)) {
            (Some(gpu), Some(margin), Reading::Known(limit)) => {
                Reading::Known(gpu.saturating_add(margin).saturating_sub(limit))
                    .plausible(|limit| celsius(i64::from(*limit)).is_some())
            }
            _ => Reading::Unsupported,
        },
        told => told,
    };
    Thermal {
        gpu,
        memory: field(raw.memory, celsius),
        margin,
        gpu_max_operating,
        memory_max_operating: reading(raw.memory_max, unsigned_celsius),
    }
}

fn nvlink(raw: RawLinks) -> NvLink {
    let links = field(raw.count, |count| u32::try_from(count).ok().filter(|count| *count <= MAX_LINKS));
    let active = match links {
        Reading::Known(0) => Reading::Known(0),
        Reading::Known(_) if raw.links.is_empty() => Reading::Unknown(Gap::NotAsked),
        Reading::Known(_) => active(&raw.links),
        Reading::Unsupported => Reading::Unsupported,
        Reading::Unknown(gap) => Reading::Unknown(gap),
    };
    let errors = |of: fn(&RawLinkErrors) -> &Raw<i64>| match sum(&raw.links, of) {
        Reading::Unsupported => field(of(&raw.total).clone(), signed_count),
        summed => summed,
    };
    NvLink {
        active,
        replay_errors: errors(|errors| &errors.replay),
        recovery_errors: errors(|errors| &errors.recovery),
        crc_errors: errors(|errors| &errors.crc),
        links,
    }
}

/// Whether a link is up: 1 is, and so is 2, which sleeps while nobody needs it.
fn up(link: &RawLink) -> Reading<bool> {
    field(link.state.clone(), |state| match state {
        0 => Some(false),
        1 | 2 => Some(true),
        _ => None,
    })
}

fn active(links: &[RawLink]) -> Reading<u32> {
    let mut active = None;
    for link in links {
        match up(link) {
            Reading::Known(up) => active = Some(active.unwrap_or(0) + u32::from(up)),
            Reading::Unsupported => {}
            Reading::Unknown(gap) => return Reading::Unknown(gap),
        }
    }
    active.map_or(Reading::Unsupported, Reading::Known)
}

/// Over the links that count; one that is down need not.
fn sum(links: &[RawLink], of: fn(&RawLinkErrors) -> &Raw<i64>) -> Reading<u64> {
    let mut sum = None;
    for link in links {
        match field(of(&link.errors).clone(), signed_count) {
            Reading::Known(errors) => sum = Some(errors.saturating_add(sum.unwrap_or(0))),
            Reading::Unsupported => {}
            Reading::Unknown(_) if up(link) == Reading::Known(false) => {}
            Reading::Unknown(gap) => return Reading::Unknown(gap),
        }
    }
    sum.map_or(Reading::Unsupported, Reading::Known)
}

/// A process that draws and computes stands in two lists with the same memory; the kind that shares the most counts.
fn processes(raw: RawProcesses, divided: bool) -> Reading<Vec<Process>> {
    let mut found: BTreeMap<(u32, Option<InstancePlace>), Process> = BTreeMap::new();
    let mut supported = false;
    for (list, kind) in
        [(raw.mps, ProcessKind::Mps), (raw.compute, ProcessKind::Compute), (raw.graphics, ProcessKind::Graphics)]
    {
        let list = match reading(list, Some) {
            Reading::Known(list) => list,
            Reading::Unsupported => continue,
            Reading::Unknown(gap) => return Reading::Unknown(gap),
        };
        supported = true;
        for raw in list {
            let Some(process) = process(raw, kind, divided) else { return Reading::Unknown(Gap::Implausible) };
            let known = found.entry((process.pid, process.place)).or_insert_with(|| process.clone());
            if known.used.known().is_none() {
                known.used = process.used;
            }
        }
    }
    if supported { Reading::Known(found.into_values().collect()) } else { Reading::Unsupported }
}

fn process(RawProcess(pid, used, gpu, compute): RawProcess, kind: ProcessKind, divided: bool) -> Option<Process> {
    let used = if used == NOT_AVAILABLE {
        Reading::Unsupported
    } else {
        bytes(used).map_or(Reading::Unknown(Gap::Implausible), Reading::Known)
    };
    let place = (divided && gpu != NONE).then_some(InstancePlace { gpu_instance: gpu, compute_instance: compute });
    (pid <= MAX_PID).then_some(Process { pid, kind, used, place })
}
