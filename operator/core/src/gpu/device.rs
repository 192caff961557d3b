//! One device in one survey. Units are in the names of the fields; nothing here has been judged yet.

use serde::{Deserialize, Serialize};

use super::reading::Reading;
use crate::ids::{Bytes, DeviceId, Line, UnixMicros};

/// What a survey read of one device. Two with one id may stand in one survey: firmware has done that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// What it is known by, across reboots and moves.
    pub id: DeviceId,
    /// Position in the library's order, which changes between boots.
    pub index: u32,
    /// What it is.
    pub identity: Identity,
    /// Its memory.
    pub memory: Memory,
    /// Whether it is divided, now and after the next reset.
    pub mig: Reading<Setting>,
    /// The instances into which it is divided.
    pub instances: Vec<Instance>,
    /// Errors of its memory that were corrected or not.
    pub ecc: Ecc,
    /// Rows of its memory that were replaced by spare ones.
    pub remap: Remap,
    /// What the driver itself recommends.
    pub recovery: Reading<RecoveryAction>,
    /// Its links to other devices.
    pub nvlink: NvLink,
    /// Its place on the bus.
    pub pcie: Pcie,
    /// How warm it is.
    pub thermal: Thermal,
    /// What it draws.
    pub power: Power,
    /// How fast it runs.
    pub clocks: Clocks,
    /// How busy it is.
    pub utilisation: Utilisation,
    /// Whether the driver keeps it initialised while nobody uses it.
    pub persistence: Reading<bool>,
    /// Whether it computes in confidence.
    pub confidential: Confidential,
    /// What uses it. Unknown where the list could not be had as a whole: not the same as nobody.
    pub processes: Reading<Vec<Process>>,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// As `NVIDIA H100 80GB HBM3`; printable ASCII.
    pub product: Reading<Line>,
    /// As `Tesla`.
    pub brand: Reading<Line>,
    /// As `Hopper`.
    pub architecture: Reading<Line>,
    /// As 9.0.
    pub compute_capability: Reading<(u32, u32)>,
    /// The number of its device file.
    pub minor: Reading<u32>,
    /// As `00000000:3B:00.0`.
    pub pci_bus_id: Reading<Line>,
    /// The maker's number. It stays with the owner.
    pub serial: Reading<Line>,
    /// The version of its firmware.
    pub vbios: Reading<Line>,
}

/// The memory of a device or instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: Reading<Bytes>,
    /// What the driver keeps for itself.
    pub reserved: Reading<Bytes>,
    /// What is in use, the driver's part left out.
    pub used: Reading<Bytes>,
}

/// A mode in force, and the one after the next reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// In force.
    pub current: bool,
    /// After the next reset.
    pub pending: bool,
}

/// A Multi-Instance GPU instance: a device of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its own id.
    pub id: DeviceId,
    /// Its GPU instance and compute instance, as XIDs and processes name them.
    pub place: Reading<InstancePlace>,
    /// Compute slices of the parent that it has.
    pub slices: Reading<u32>,
    /// Its memory.
    pub memory: Memory,
}

/// The numbers by which an instance is named within its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstancePlace {
    /// The GPU instance.
    pub gpu_instance: u32,
    /// The compute instance within it.
    pub compute_instance: u32,
}

/// Error correction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ecc {
    /// Whether it is on.
    pub mode: Reading<Setting>,
    /// Errors since the driver was loaded that were not corrected.
    pub volatile_uncorrected: Reading<u64>,
    /// And that were.
    pub volatile_corrected: Reading<u64>,
    /// Errors in the device's life that were not corrected.
    pub aggregate_uncorrected: Reading<u64>,
    /// And that were.
    pub aggregate_corrected: Reading<u64>,
    /// Whether its SRAM has had more errors than its maker allows.
    pub sram_threshold_exceeded: Reading<bool>,
}

/// Row remapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remap {
    /// Rows replaced for errors that were corrected.
    pub correctable: Reading<u64>,
    /// Rows replaced for errors that were not.
    pub uncorrectable: Reading<u64>,
    /// Whether a replacement waits for the next reset.
    pub pending: Reading<bool>,
    /// Whether one failed: there are no spare rows.
    pub failed: Reading<bool>,
    /// Banks by how many spare rows they have left.
    pub availability: Reading<RemapAvailability>,
}

/// Banks by how many spare rows they have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RemapAvailability {
    pub max: u32,
    pub high: u32,
    pub partial: u32,
    pub low: u32,
    pub none: u32,
}

/// What the driver recommends: NVML's field 230, `NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecoveryAction {
    /// 0.
    None,
    /// 1.
    GpuReset,
    /// 2.
    NodeReboot,
    /// 3: let what talks to its peers end.
    DrainP2p,
    /// 4: let all work on it end, then reset.
    DrainAndReset,
    /// A code that this release does not know.
    Other(u32),
}

/// Links to other devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvLink {
    /// Links that the device has.
    pub links: Reading<u32>,
    /// Links that are up.
    pub active: Reading<u32>,
    /// Errors of all links together since they came up.
    pub replay_errors: Reading<u64>,
    /// As above.
    pub recovery_errors: Reading<u64>,
    /// As above.
    pub crc_errors: Reading<u64>,
}

/// The link to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pcie {
    /// In use; lower while idle.
    pub generation: Reading<u32>,
    /// The most that device and slot can.
    pub max_generation: Reading<u32>,
    /// In use.
    pub width: Reading<u32>,
    /// The most that device and slot can.
    pub max_width: Reading<u32>,
    /// Packets sent again since the driver was loaded.
    pub replays: Reading<u64>,
}

/// Temperatures in whole degrees Celsius.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thermal {
    /// Of the chip.
    pub gpu: Reading<i32>,
    /// Of the memory.
    pub memory: Reading<i32>,
    /// How far the chip is from slowing down.
    pub margin: Reading<i32>,
    /// The chip's highest temperature of normal operation.
    pub gpu_max_operating: Reading<i32>,
    /// The memory's.
    pub memory_max_operating: Reading<i32>,
}

/// Power.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Power {
    /// Now.
    pub milliwatts: Reading<u32>,
    /// The limit in force.
    pub limit_milliwatts: Reading<u32>,
    /// Since the driver was loaded.
    pub millijoules: Reading<u64>,
}

/// Clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Of the multiprocessors.
    pub sm_megahertz: Reading<u32>,
    /// The most that they can.
    pub sm_max_megahertz: Reading<u32>,
    /// Of the memory.
    pub memory_megahertz: Reading<u32>,
    /// Why they are lower than they could be.
    pub throttle: Reading<Throttle>,
}

/// `nvmlClocksEventReasons`, as its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle(pub u64);

impl Throttle {
    /// `HwSlowdown`: heat, power brake or too high a draw.
    pub const HW_SLOWDOWN: u64 = 0x8;
    /// `SwThermalSlowdown`.
    pub const SW_THERMAL: u64 = 0x20;
    /// `HwThermalSlowdown`.
    pub const HW_THERMAL: u64 = 0x40;
    /// `HwPowerBrakeSlowdown`: the machine's power supply asks for less.
    pub const HW_POWER_BRAKE: u64 = 0x80;

    /// Whether any of `bits` is among them.
    pub fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }
}

/// Shares of the driver's last sample period, in per cent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Utilisation {
    /// In which something was computed.
    pub gpu_percent: Reading<u32>,
    /// In which memory was read or written.
    pub memory_percent: Reading<u32>,
}

/// Confidential computing, which the driver decides for the whole node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfidentialMode {
    /// Off.
    Off,
    /// On, and debuggable: proves nothing.
    DevTools,
    /// On.
    On,
}

/// Confidential computing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confidential {
    /// Whether processor and GPU can do it.
    pub capable: Reading<bool>,
    /// Whether they do.
    pub mode: Reading<ConfidentialMode>,
    /// Whether the GPU takes work in that state.
    pub ready: Reading<bool>,
}

/// A process that uses the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number in the host's own numbering.
    pub pid: u32,
    /// For what.
    pub kind: ProcessKind,
    /// Memory that it holds there.
    pub used: Reading<Bytes>,
    /// In which instance; none on a device that is whole.
    pub place: Option<InstancePlace>,
}

/// For what a process uses a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProcessKind {
    /// Computing.
    Compute,
    /// Drawing.
    Graphics,
    /// Computing as a client of MPS, which shares the device.
    Mps,
}

/// When a survey was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// By the node's clock, which may jump.
    pub at: UnixMicros,
    /// Since the node booted, in milliseconds; never runs backwards.
    pub uptime_milliseconds: u64,
}
