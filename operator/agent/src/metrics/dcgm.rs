//! The same values under the names, units and labels of dcgm-exporter, for dashboards that were made for it.
//!
//! Names, units and labels are those of its `etc/default-counters.csv` and its template; where both exporters run, one of them
//! has to be silent, so these are shown on request only.

use koinon_core::gpu::device::{Device, Instance, Memory};
use koinon_core::gpu::reading::Reading;
use koinon_core::ids::{Bytes, Line, NodeName};
use koinon_telemetry::Kind::{self, Counter, Gauge};

use super::counters::{Counters, DriverCounter, float};
use super::devices::distinct;
use super::family::{Family, Sample};

const LABELS: [&str; 9] = [
    "gpu",
    "UUID",
    "pci_bus_id",
    "device",
    "modelName",
    "GPU_I_PROFILE",
    "GPU_I_ID",
    "hostname",
    "DCGM_FI_DRIVER_VERSION",
];

const MEBIBYTE: f64 = 1_048_576.0;

const fn family(name: &'static str, kind: Kind, help: &'static str) -> Family {
    Family { name, kind, labels: &LABELS, help }
}

macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal $help:literal;)+) => {
        $(static $constant: Family = family($name, $kind, $help);)+
        /// All of them.
        pub(super) static ALL: &[&Family] = &[$(&$constant),+];
    };
}

families! {
    SM_CLOCK = Gauge "DCGM_FI_DEV_SM_CLOCK" "Clock of the multiprocessors in MHz.";
    MEM_CLOCK = Gauge "DCGM_FI_DEV_MEM_CLOCK" "Clock of the memory in MHz.";
    MEMORY_TEMP = Gauge "DCGM_FI_DEV_MEMORY_TEMP" "Temperature of the memory in degrees Celsius.";
    GPU_TEMP = Gauge "DCGM_FI_DEV_GPU_TEMP" "Temperature of the chip in degrees Celsius.";
    POWER_USAGE = Gauge "DCGM_FI_DEV_POWER_USAGE" "Power in W.";
    ENERGY = Counter "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION" "Energy in mJ.";
    PCIE_REPLAYS = Counter "DCGM_FI_DEV_PCIE_REPLAY_COUNTER" "Packets sent again.";
    GPU_UTIL = Gauge "DCGM_FI_DEV_GPU_UTIL" "Use of the chip in per cent.";
    MEM_COPY_UTIL = Gauge "DCGM_FI_DEV_MEM_COPY_UTIL" "Use of the memory's interface in per cent.";
    XID_ERRORS = Gauge "DCGM_FI_DEV_XID_ERRORS" "The last XID since the agent started, 0 if none.";
    FB_FREE = Gauge "DCGM_FI_DEV_FB_FREE" "Memory free in MiB.";
    FB_USED = Gauge "DCGM_FI_DEV_FB_USED" "Memory used in MiB.";
    FB_RESERVED = Gauge "DCGM_FI_DEV_FB_RESERVED" "Memory reserved in MiB.";
    UNCORRECTABLE_ROWS = Counter "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS" "Rows remapped for uncorrectable errors.";
    CORRECTABLE_ROWS = Counter "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS" "Rows remapped for correctable errors.";
    ROW_REMAP_FAILURE = Gauge "DCGM_FI_DEV_ROW_REMAP_FAILURE" "Whether remapping a row failed.";
    SBE_VOLATILE = Counter "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL" "Corrected memory errors since the driver was loaded.";
    DBE_VOLATILE = Counter "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL" "Uncorrected memory errors since the driver was loaded.";
    SBE_AGGREGATE = Counter "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL" "Corrected memory errors in the device's life.";
    DBE_AGGREGATE = Counter "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL" "Uncorrected memory errors in the device's life.";
    NVLINK_REPLAY = Counter "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL" "Packets sent again over links.";
    NVLINK_RECOVERY = Counter "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL" "Recoveries of links.";
}

/// Everything that both know. The counters have been brought up to this survey.
pub(super) fn samples(
    devices: &[Device],
    driver: Option<&str>,
    node: &NodeName,
    counters: &mut Counters,
) -> Vec<Sample> {
    let mut all = Vec::new();
    for (device, instances) in distinct(devices) {
        let labels = Labels { device, node, driver: driver.unwrap_or_default() };
        let whole = labels.of(None);
        readings(device, &whole, &mut all);
        counts(device, &whole, counters, &mut all);
        for instance in instances {
            memory(&instance.memory, &labels.of(Some(instance)), &mut all);
        }
    }
    all
}

struct Labels<'a> {
    device: &'a Device,
    node: &'a NodeName,
    driver: &'a str,
}

impl Labels<'_> {
    fn of(&self, instance: Option<&Instance>) -> [String; 9] {
        let text = |reading: &Reading<Line>| reading.known().map(|line| line.as_str().to_owned()).unwrap_or_default();
        let identity = &self.device.identity;
        [
            self.device.index.to_string(),
            self.device.id.to_string(),
            text(&identity.pci_bus_id),
            identity.minor.known().map(|minor| format!("nvidia{minor}")).unwrap_or_default(),
            text(&identity.product),
            instance.and_then(profile).unwrap_or_default(),
            instance.and_then(|one| one.place.known()).map(|place| place.gpu_instance.to_string()).unwrap_or_default(),
            self.node.to_string(),
            self.driver.to_owned(),
        ]
    }
}

/// As NVIDIA names profiles: compute slices, and memory in GiB, rounded up.
fn profile(instance: &Instance) -> Option<String> {
    let (slices, total) = (instance.slices.known()?, instance.memory.total.known()?);
    Some(format!("{slices}g.{}gb", total.0.div_ceil(1 << 30)))
}

fn say<T: Copy>(
    all: &mut Vec<Sample>,
    family: &'static Family,
    labels: &[String; 9],
    reading: &Reading<T>,
    value: impl FnOnce(T) -> f64,
) {
    if let Reading::Known(known) = reading {
        let labels = labels.each_ref().map(String::as_str);
        all.push(Sample::new(family, &labels, value(*known)));
    }
}

fn readings(device: &Device, labels: &[String; 9], all: &mut Vec<Sample>) {
    say(all, &SM_CLOCK, labels, &device.clocks.sm_megahertz, f64::from);
    say(all, &MEM_CLOCK, labels, &device.clocks.memory_megahertz, f64::from);
    say(all, &GPU_TEMP, labels, &device.thermal.gpu, f64::from);
    say(all, &MEMORY_TEMP, labels, &device.thermal.memory, f64::from);
    say(all, &POWER_USAGE, labels, &device.power.milliwatts, |milliwatts| f64::from(milliwatts) / 1000.0);
    say(all, &GPU_UTIL, labels, &device.utilisation.gpu_percent, f64::from);
    say(all, &MEM_COPY_UTIL, labels, &device.utilisation.memory_percent, f64::from);
    say(all, &UNCORRECTABLE_ROWS, labels, &device.remap.uncorrectable, float);
    say(all, &CORRECTABLE_ROWS, labels, &device.remap.correctable, float);
    say(all, &ROW_REMAP_FAILURE, labels, &device.remap.failed, |failed| f64::from(u8::from(failed)));
    memory(&device.memory, labels, all);
}

fn memory(memory: &Memory, labels: &[String; 9], all: &mut Vec<Sample>) {
    let mebibytes = |bytes: Bytes| (float(bytes.0) / MEBIBYTE).floor();
    say(all, &FB_USED, labels, &memory.used, mebibytes);
    say(all, &FB_RESERVED, labels, &memory.reserved, mebibytes);
    if let (Reading::Known(total), Reading::Known(used)) = (&memory.total, &memory.used) {
        let reserved = memory.reserved.known().map_or(0, |reserved| reserved.0);
        let free = Reading::Known(Bytes(total.0.saturating_sub(used.0).saturating_sub(reserved)));
        say(all, &FB_FREE, labels, &free, mebibytes);
    }
}

fn counts(device: &Device, labels: &[String; 9], counters: &mut Counters, all: &mut Vec<Sample>) {
    let last = counters.last_xid(&device.id).map_or(0, |xid| xid.0);
    say(all, &XID_ERRORS, labels, &Reading::Known(last), f64::from);
    let ecc = &device.ecc;
    for (family, counter, reading) in [
        (&ENERGY, DriverCounter::EnergyMillijoules, &device.power.millijoules),
        (&PCIE_REPLAYS, DriverCounter::PcieReplays, &device.pcie.replays),
        (&SBE_VOLATILE, DriverCounter::VolatileCorrected, &ecc.volatile_corrected),
        (&DBE_VOLATILE, DriverCounter::VolatileUncorrected, &ecc.volatile_uncorrected),
        (&SBE_AGGREGATE, DriverCounter::AggregateCorrected, &ecc.aggregate_corrected),
        (&DBE_AGGREGATE, DriverCounter::AggregateUncorrected, &ecc.aggregate_uncorrected),
        (&NVLINK_REPLAY, DriverCounter::NvlinkReplay, &device.nvlink.replay_errors),
        (&NVLINK_RECOVERY, DriverCounter::NvlinkRecovery, &device.nvlink.recovery_errors),
    ] {
        say(all, family, labels, reading, |raw| float(counters.level(&device.id, counter, raw)));
    }
}
