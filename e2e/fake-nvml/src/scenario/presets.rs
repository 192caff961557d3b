//! Devices and nodes that tests start from. Values of products are those of their data sheets and of `nvidia-smi -q` on an
//! idle, healthy one.

use super::health::{
    Ecc, EccCounter, EccError, EccLocation, EccScope, EccTotals, Errors, RemappedRows, RowRemapper, Sram,
};
use super::links::{NvLink, Pcie};
use super::processes::{ProcessList, Processes};
use super::telemetry::{Clocks, MarginLimits, Telemetry, Thresholds, Utilisation};
use super::{
    Attributes, Behaviour, Board, Confidential, ConfidentialCompute, DRIVER_MARK, Device, DeviceState, Fault,
    MIG_UUID_MARK, MemoryUse, Mig, MigInstance, Pci, PluginView, Scenario, Switch, UUID_MARK,
};

const MEBIBYTE: u64 = 1024 * 1024;
/// XID, single and double bit errors, and performance states: what a datacenter product reports.
const DATACENTER_EVENTS: u64 = 0x1 | 0x2 | 0x4 | 0x8;
/// NVML's number for products that bear no other brand than the maker's.
const BRAND_NVIDIA: u32 = 14;
const GPU_IDLE: u64 = 1;

impl Device {
    /// A device of which only the UUID is known: `GPU-fa4e0000-0000-4000-8000-<serial in 12 digits>`.
    pub fn bare(serial: u64) -> Self {
        Self {
            uuid: format!("{UUID_MARK}0000-4000-8000-{serial:012}"),
            name: None,
            memory_bytes: None,
            mig: None,
            state: DeviceState::Healthy,
            plugin: PluginView::Follow,
            board: Board::default(),
            memory: MemoryUse::default(),
            telemetry: Telemetry::default(),
            errors: Errors::default(),
            fields: Vec::new(),
            pcie: Pcie::default(),
            nvlink: Vec::new(),
            processes: Processes::default(),
            max_mig_instances: None,
            mig_instances: Vec::new(),
            event_types: None,
            draining: None,
            confidential: Confidential::default(),
        }
    }

    /// An idle, healthy H100 of 80 GB in an SXM socket. Nothing that its driver gives is missing.
    pub fn h100(serial: u64) -> Self {
        Self {
            name: Some("NVIDIA H100 80GB HBM3".into()),
            memory_bytes: Some(81_559 * MEBIBYTE),
            mig: Some(OFF),
            max_mig_instances: Some(7),
            board: Board {
                vbios: Some("96.00.74.00.01".into()),
                architecture: Some(9),
                compute_capability: Some((9, 0)),
                cores: Some(16_896),
                ..board(serial, 0x2330_10de, 0x16c1_10de)
            },
            memory: MemoryUse { reserved_bytes: 551 * MEBIBYTE, used_bytes: 0 },
            telemetry: Telemetry {
                memory_temperature_celsius: Some(40),
                margin_celsius: Some(55),
                thresholds: thresholds(92, 89, 95, 87),
                margin_limits: Some(MarginLimits { shutdown: -8, slowdown: -2, memory_maximum: 0, gpu_maximum: 0 }),
                ..idle(
                    32,
                    70_120,
                    700_000,
                    Clocks { graphics: Some(345), sm: Some(345), memory: Some(2619), video: Some(765) },
                )
            },
            errors: Errors { sram: Some(Sram::default()), ..sound(2560) },
            pcie: pcie(5),
            nvlink: vec![NvLink::sound(); 18],
            ..datacenter(serial)
        }
    }

    /// An idle, healthy A100 of 80 GB in an SXM socket. It has neither margins nor counters of memories on the chip.
    pub fn a100(serial: u64) -> Self {
        Self {
            name: Some("NVIDIA A100-SXM4-80GB".into()),
            memory_bytes: Some(81_920 * MEBIBYTE),
            mig: Some(OFF),
            max_mig_instances: Some(7),
            board: Board {
                vbios: Some("92.00.45.00.03".into()),
                architecture: Some(7),
                compute_capability: Some((8, 0)),
                cores: Some(6912),
                ..board(serial, 0x20b2_10de, 0x1463_10de)
            },
            memory: MemoryUse { reserved_bytes: 584 * MEBIBYTE, used_bytes: 0 },
            telemetry: Telemetry {
                memory_temperature_celsius: Some(38),
                thresholds: thresholds(92, 89, 95, 85),
                ..idle(
                    31,
                    62_300,
                    400_000,
                    Clocks { graphics: Some(210), sm: Some(210), memory: Some(1593), video: Some(585) },
                )
            },
            errors: sound(640),
            pcie: pcie(4),
            nvlink: vec![NvLink::sound(); 12],
            ..datacenter(serial)
        }
    }

    /// A small inference card like an L4, here without error correction, NVLink, instances and row remapping: what it does
    /// not have is not supported, and that is no fault of it.
    pub fn l4(serial: u64) -> Self {
        Self {
            name: Some("NVIDIA L4".into()),
            memory_bytes: Some(23_034 * MEBIBYTE),
            board: Board {
                vbios: Some("95.04.29.00.06".into()),
                architecture: Some(8),
                compute_capability: Some((8, 9)),
                cores: Some(7424),
                ..board(serial, 0x27b8_10de, 0x16ca_10de)
            },
            memory: MemoryUse { reserved_bytes: 434 * MEBIBYTE, used_bytes: 0 },
            telemetry: Telemetry {
                thresholds: Thresholds { memory_maximum: None, ..thresholds(97, 94, 0, 85) },
                ..idle(
                    35,
                    12_150,
                    72_000,
                    Clocks { graphics: Some(210), sm: Some(210), memory: Some(405), video: Some(795) },
                )
            },
            pcie: pcie(4),
            processes: nobody(),
            event_types: Some(0x4 | 0x8),
            draining: Some(Switch::Disabled),
            ..Self::bare(serial)
        }
    }

    /// The device divided into so many instances of the smallest profile, at most 7. Their memory is a seventh of it.
    #[must_use]
    pub fn divided(mut self, instances: u32) -> Self {
        self.mig = Some(Mig { current: Switch::Enabled, pending: Switch::Enabled });
        let digits = self.uuid.strip_prefix(UUID_MARK).unwrap_or(&self.uuid).to_owned();
        let memory_bytes = self.memory_bytes.map(|bytes| bytes / 8);
        self.mig_instances = (0..instances.min(7))
            .map(|index| MigInstance {
                index,
                uuid: format!("{MIG_UUID_MARK}{index:04}{}", digits.get(4..).unwrap_or_default()),
                // Drivers number instances of the smallest profile from 7 on.
                gi: 7 + index,
                ci: 0,
                name: self.name.as_ref().and_then(|name| match name {
                    super::Text::Text(name) => Some(format!("{name} MIG 1g.10gb").as_str().into()),
                    super::Text::Hex { .. } => None,
                }),
                memory_bytes,
                memory: MemoryUse::default(),
                attributes: Some(Attributes {
                    multiprocessors: 16,
                    copy_engines: 1,
                    decoders: 1,
                    encoders: 0,
                    jpeg_engines: 1,
                    ofa_engines: 0,
                    gi_slices: 1,
                    ci_slices: 1,
                    memory_mebibytes: memory_bytes.unwrap_or(0) / MEBIBYTE,
                }),
            })
            .collect();
        self
    }
}

const OFF: Mig = Mig { current: Switch::Disabled, pending: Switch::Disabled };

/// What all datacenter products with error correction share.
fn datacenter(serial: u64) -> Device {
    Device {
        processes: nobody(),
        event_types: Some(DATACENTER_EVENTS),
        draining: Some(Switch::Disabled),
        ..Device::bare(serial)
    }
}

fn board(serial: u64, device_id: u32, subsystem_id: u32) -> Board {
    // Every device has a bus of its own, so that two of one node never share an address.
    let small = u32::try_from(serial % 65_536).unwrap_or(0);
    Board {
        serial: Some(format!("1650{serial:09}").as_str().into()),
        minor: Some(small),
        brand: Some(BRAND_NVIDIA),
        pci: Some(Pci { domain: small / 256, bus: small % 256, device: 0, device_id, subsystem_id, bus_id: None }),
        persistence: Some(Switch::Enabled),
        compute_mode: Some(0),
        ..Board::default()
    }
}

fn idle(celsius: u32, power: u32, limit: u32, clocks: Clocks) -> Telemetry {
    Telemetry {
        utilisation: Some(Utilisation { gpu_percent: 0, memory_percent: 0 }),
        temperature_celsius: Some(celsius),
        power_milliwatts: Some(power),
        power_limit_milliwatts: Some(limit),
        energy_millijoules: Some(1_234_567_890),
        clocks,
        throttle_reasons: Some(GPU_IDLE),
        performance_state: Some(0),
        ..Telemetry::default()
    }
}

fn thresholds(shutdown: u32, slowdown: u32, memory_maximum: u32, gpu_maximum: u32) -> Thresholds {
    Thresholds {
        shutdown: Some(shutdown),
        slowdown: Some(slowdown),
        memory_maximum: Some(memory_maximum),
        gpu_maximum: Some(gpu_maximum),
    }
}

fn sound(banks: u32) -> Errors {
    let counter = |error, scope, location| EccCounter { error, scope, location, count: 0 };
    let scopes = [EccScope::Volatile, EccScope::Aggregate];
    let places = [EccLocation::Dram, EccLocation::Sram];
    Errors {
        ecc: Some(Ecc {
            current: Switch::Enabled,
            pending: Switch::Enabled,
            totals: EccTotals {
                corrected_volatile: Some(0),
                corrected_aggregate: Some(0),
                uncorrected_volatile: Some(0),
                uncorrected_aggregate: Some(0),
            },
            locations: [EccError::Corrected, EccError::Uncorrected]
                .into_iter()
                .flat_map(|error| scopes.into_iter().map(move |scope| (error, scope)))
                .flat_map(|(error, scope)| places.into_iter().map(move |place| counter(error, scope, place)))
                .collect(),
        }),
        sram: None,
        remapped_rows: Some(RemappedRows::default()),
        row_remapper: Some(RowRemapper { max: banks, ..RowRemapper::default() }),
        recovery_action: Some(0),
    }
}

fn pcie(generation: u32) -> Pcie {
    Pcie {
        generation: Some(generation),
        max_generation: Some(generation),
        width: Some(16),
        max_width: Some(16),
        replays: Some(0),
    }
}

/// Every kind is supported, and there is no process of any.
fn nobody() -> Processes {
    let none = Some(ProcessList::default());
    Processes { compute: none.clone(), graphics: none.clone(), mps: none }
}

impl Scenario {
    /// These devices and no fault. The library's version, CUDA's and confidential computing are not supported.
    pub fn of(devices: Vec<Device>) -> Self {
        Self {
            driver_version: DRIVER_MARK.to_owned(),
            nvml_version: None,
            cuda_driver_version: None,
            driver_loads: 0,
            count: None,
            counts: Vec::new(),
            devices,
            faults: Vec::new(),
            events: Vec::new(),
            last_xid_only: false,
            confidential_compute: None,
        }
    }

    /// These devices on a node of which everything is known: CUDA 13, confidential computing off.
    pub fn known(devices: Vec<Device>) -> Self {
        Self {
            nvml_version: Some("13.0.0-fake".to_owned()),
            cuda_driver_version: Some(13_000),
            confidential_compute: Some(ConfidentialCompute {
                environment: 0,
                enabled: false,
                dev_tools: false,
                multi_gpu: 0,
                gpus_ready: Some(true),
            }),
            ..Self::of(devices)
        }
    }

    /// The same with one more fault, in every call of `symbol`.
    #[must_use]
    pub fn with_fault(mut self, symbol: &str, device: Option<u32>, behaviour: Behaviour) -> Self {
        self.faults.push(Fault { symbol: symbol.to_owned(), device, after_calls: 0, behaviour });
        self
    }

    /// The same after a change: `Scenario::of(devices).but(|node| node.last_xid_only = true)`.
    #[must_use]
    pub fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}
