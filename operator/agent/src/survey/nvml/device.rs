//! One device.

use super::super::wire::{
    Raw, RawClocks, RawDevice, RawEcc, RawLinkErrors, RawMemory, RawPcie, RawRecovery, RawRemap, RawThermal, Said,
};
use super::links::links;
use super::mig::instances;
use super::processes::processes;
use super::raw::{Handle, Library};

/// NVML's `NVML_TEMPERATURE_THRESHOLD_*`.
mod threshold {
    pub(super) const MEMORY_MAX: u32 = 2;
    pub(super) const GPU_MAX: u32 = 3;
}

/// NVML's `NVML_CLOCK_*`.
mod clock {
    pub(super) const SM: u32 = 1;
    pub(super) const MEMORY: u32 = 2;
}

const GPU_SENSOR: u32 = 0;
/// NVML's numbers for sorts and times of memory errors.
const CORRECTED: u32 = 0;
const UNCORRECTED: u32 = 1;
const VOLATILE: u32 = 0;
const AGGREGATE: u32 = 1;

/// So often a device is asked at most,
const MOST: u32 = 60;
/// of which so often before it has said who it is, and after it has said all else.
const BEFORE: u32 = 2;
const AFTER: u32 = 1;

/// What one index says. One device that is gone says nothing of the others.
pub(super) fn device(library: &Library, index: u32) -> RawDevice {
    let handle = match library.device(index) {
        Raw::Value(handle) => handle,
        not => return RawDevice { index, uuid: not.map(|_| String::new()), said: None },
    };
    let uuid = library.uuid(handle);
    let said = matches!(uuid, Raw::Value(_)).then(|| Box::new(said(library, handle)));
    RawDevice { index, uuid, said }
}

fn said(library: &Library, handle: Handle) -> Said {
    let before = library.calls();
    let mig = library.mig_mode(handle);
    // Instances are devices of their own, also where it is counted how often one is asked.
    let (instances, asked) = {
        let before = library.calls();
        (instances(library, handle, &mig), library.calls().saturating_sub(before))
    };
    let spent = || library.calls().saturating_sub(before).saturating_sub(asked).saturating_add(BEFORE);
    let fields = Fields::read(library, handle);
    let sort_and_time = |sort, time| library.ecc_errors(handle, sort, time);
    Said {
        product: library.name(handle),
        brand: library.brand(handle),
        architecture: library.architecture(handle),
        compute_capability: library.compute_capability(handle),
        minor: library.minor(handle),
        bus_id: library.bus_id(handle),
        serial: library.serial(handle),
        vbios: library.vbios(handle),
        memory: memory(library, handle),
        mig,
        instances,
        ecc: RawEcc {
            mode: library.ecc_mode(handle),
            volatile_corrected: sort_and_time(CORRECTED, VOLATILE),
            volatile_uncorrected: sort_and_time(UNCORRECTED, VOLATILE),
            aggregate_corrected: sort_and_time(CORRECTED, AGGREGATE),
            aggregate_uncorrected: sort_and_time(UNCORRECTED, AGGREGATE),
            sram_threshold_exceeded: library.sram_threshold_exceeded(handle),
        },
        remap: RawRemap {
            correctable: fields.get(142),
            uncorrectable: fields.get(143),
            pending: fields.get(144),
            failed: fields.get(145),
            availability: library
                .spare_rows(handle)
                .map(|rows| [rows.max, rows.high, rows.partial, rows.low, rows.none]),
        },
        recovery: RawRecovery { action: fields.get(230), reset: fields.get(226), drain_and_reset: fields.get(227) },
        nvlink: links(
            library,
            handle,
            fields.get(91),
            RawLinkErrors { replay: fields.get(52), recovery: fields.get(59), crc: fields.get(38) },
        ),
        pcie: RawPcie {
            generation: library.pcie_generation(handle),
            max_generation: library.pcie_max_generation(handle),
            width: library.pcie_width(handle),
            max_width: library.pcie_max_width(handle),
            replays: fields.get(94),
        },
        thermal: RawThermal {
            gpu: library.temperature(handle, GPU_SENSOR),
            memory: fields.get(82),
            margin: library.margin(handle),
            gpu_max: library.temperature_threshold(handle, threshold::GPU_MAX),
            memory_max: library.temperature_threshold(handle, threshold::MEMORY_MAX),
            gpu_max_margin: fields.get(196),
        },
        power: library.power(handle),
        power_limit: library.power_limit(handle),
        energy: fields.get(83),
        clocks: RawClocks {
            sm: library.clock(handle, clock::SM),
            sm_max: library.max_clock(handle, clock::SM),
            memory: library.clock(handle, clock::MEMORY),
            throttle: library.throttle(handle),
        },
        utilisation: library.utilisation(handle).map(|busy| (busy.gpu, busy.memory)),
        persistence: library.persistence(handle),
        processes: processes(library, handle, MOST.saturating_sub(spent()).saturating_sub(AFTER)),
        uuid_again: library.uuid(handle),
    }
}

/// The memory of a device or instance. Drivers before 510 know only the first form of the question.
pub(super) fn memory(library: &Library, handle: Handle) -> Raw<RawMemory> {
    match library.memory(handle) {
        Raw::NoSymbol => {
            library.memory_v1(handle).map(|memory| RawMemory { total: memory.total, reserved: None, used: memory.used })
        }
        answer => {
            answer.map(|memory| RawMemory { total: memory.total, reserved: Some(memory.reserved), used: memory.used })
        }
    }
}

/// The fields that need no scope, by one call. None of 251 to 273 is among them: their numbers differ between drivers.
struct Fields(Raw<Vec<Raw<i64>>>);

impl Fields {
    const WANTED: [u32; 15] = [142, 143, 144, 145, 226, 227, 230, 82, 196, 91, 52, 59, 38, 83, 94];

    fn read(library: &Library, handle: Handle) -> Self {
        Self(library.fields(handle, &Self::WANTED.map(|id| (id, 0))))
    }

    /// By its place among the questions, whatever number the answer carries.
    fn get(&self, id: u32) -> Raw<i64> {
        let place = Self::WANTED.iter().position(|wanted| *wanted == id);
        match (&self.0, place) {
            (Raw::Value(values), Some(place)) => values.get(place).cloned().unwrap_or_default(),
            (Raw::Value(_), None) => Raw::NotAsked,
            (failed, _) => failed.clone().and_then(|_| Raw::NotAsked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_whose_number_differs_between_drivers_is_asked() {
        assert!(Fields::WANTED.iter().all(|id| !(251..=273).contains(id)));
    }

    #[test]
    fn a_field_is_found_by_its_place() {
        let values = (0..15).map(|place| Raw::Value(place * 10)).collect();
        let fields = Fields(Raw::Value(values));
        assert_eq!((fields.get(142), fields.get(230)), (Raw::Value(0), Raw::Value(60)));
        assert_eq!(fields.get(1), Raw::NotAsked);
        assert_eq!(Fields(Raw::Code(15)).get(142), Raw::Code(15));
        assert_eq!(Fields(Raw::Value(Vec::new())).get(142), Raw::NotAsked);
    }
}
