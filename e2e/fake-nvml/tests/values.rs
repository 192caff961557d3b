//! Every value of a device arrives at a client as the scenario says it, and what the scenario does not give is not supported.

#![allow(unsafe_code)] // for the symbols that the wrapper does not wrap.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, not their helpers.

mod common;

use common::{Loaded, distinct, raw, same, sampled, zeroed};
use fake_nvml::{
    Blob, Confidential, ConfidentialCompute, Device, EccCounter, EccError, EccLocation, EccScope, Mig, RemappedRows,
    RowRemapper, Scenario, Sram, Switch, Text,
};
use nvml_wrapper::enum_wrappers::device::{
    Brand, Clock, ComputeMode, EccCounter as Scope, MemoryError, MemoryLocation, PerformanceState, TemperatureSensor,
    TemperatureThreshold,
};
use nvml_wrapper::enum_wrappers::nv_link::ErrorCounter;
use nvml_wrapper::enums::device::DeviceArchitecture;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper_sys::bindings::*;

fn text(text: Option<&Text>) -> Option<String> {
    text.map(|text| String::from_utf8(text.bytes().unwrap()).unwrap())
}

fn reads(found: &nvml_wrapper::Device<'_>, given: &Device) {
    reads_identity(found, given);
    reads_telemetry(found, given);
    reads_errors(found, given);
    reads_links(found, given);
}

fn reads_identity(found: &nvml_wrapper::Device<'_>, given: &Device) {
    let board = &given.board;
    same("uuid", found.uuid(), Some(given.uuid.clone()));
    same("name", found.name(), text(given.name.as_ref()));
    same("serial", found.serial(), text(board.serial.as_ref()));
    same("vbios", found.vbios_version(), text(board.vbios.as_ref()));
    same("minor", found.minor_number(), board.minor);
    same("cores", found.num_cores(), board.cores);
    same("persistence", found.is_in_persistent_mode(), board.persistence.map(|mode| mode == Switch::Enabled));
    same("compute mode", found.compute_mode(), board.compute_mode.map(|mode| ComputeMode::try_from(mode).unwrap()));
    same("brand", found.brand(), board.brand.map(|brand| Brand::try_from(brand).unwrap()));
    let architecture = board.architecture.map(|number| DeviceArchitecture::try_from(number).unwrap());
    same("architecture", found.architecture(), architecture);
    let capability = found.cuda_compute_capability().map(|found| (found.major, found.minor));
    same("compute capability", capability, board.compute_capability);
    let address = board.pci.as_ref();
    let place = found.pci_info().map(|pci| (pci.domain, pci.bus, pci.device, pci.pci_device_id, pci.pci_sub_system_id));
    same("pci", place, address.map(|a| (a.domain, a.bus, a.device, a.device_id, Some(a.subsystem_id))));
    let bus_id = address.map(|a| format!("{:08X}:{:02X}:{:02X}.0", a.domain, a.bus, a.device));
    same("bus id", found.pci_info().map(|pci| pci.bus_id), bus_id);
    let memory = found.memory_info().map(|memory| (memory.total, memory.reserved, memory.free, memory.used));
    let (reserved, used) = (given.memory.reserved_bytes, given.memory.used_bytes);
    same("memory", memory, given.memory_bytes.map(|total| (total, reserved, total - reserved - used, used)));
    let mode = |mig: Mig| (u32::from(mig.current == Switch::Enabled), u32::from(mig.pending == Switch::Enabled));
    same("mig", found.mig_mode().map(|mig| (mig.current, mig.pending)), given.mig.map(mode));
    same("instances", found.mig_device_count(), given.max_mig_instances.map(|_| 0));
    let events = found.supported_event_types().map(|types| types.bits());
    same("event types", events, given.event_types);
    if given.board.pci.is_some() {
        same("draining", found.is_drain_enabled(None), given.draining.map(|draining| draining == Switch::Enabled));
    }
}

fn reads_telemetry(found: &nvml_wrapper::Device<'_>, given: &Device) {
    let telemetry = &given.telemetry;
    let percent = found.utilization_rates().map(|both| (both.gpu, both.memory));
    same("utilisation", percent, telemetry.utilisation.map(|both| (both.gpu_percent, both.memory_percent)));
    same("temperature", found.temperature(TemperatureSensor::Gpu), telemetry.temperature_celsius);
    let limits = &telemetry.thresholds;
    for (threshold, limit) in [
        (TemperatureThreshold::Shutdown, limits.shutdown),
        (TemperatureThreshold::Slowdown, limits.slowdown),
        (TemperatureThreshold::MemoryMax, limits.memory_maximum),
        (TemperatureThreshold::GpuMax, limits.gpu_maximum),
        (TemperatureThreshold::AcousticMin, None),
        (TemperatureThreshold::GpsCurr, None),
    ] {
        same(&format!("{threshold:?}"), found.temperature_threshold(threshold), limit);
    }
    same("power", found.power_usage(), telemetry.power_milliwatts);
    same("limit", found.enforced_power_limit(), telemetry.power_limit_milliwatts);
    same("energy", found.total_energy_consumption(), telemetry.energy_millijoules);
    let clocks = &telemetry.clocks;
    for (clock, megahertz) in [
        (Clock::Graphics, clocks.graphics),
        (Clock::SM, clocks.sm),
        (Clock::Memory, clocks.memory),
        (Clock::Video, clocks.video),
    ] {
        same(&format!("{clock:?}"), found.clock_info(clock), megahertz);
    }
    same("throttling", found.current_throttle_reasons().map(|bits| bits.bits()), telemetry.throttle_reasons);
    let state = telemetry.performance_state.map(|state| PerformanceState::try_from(state).unwrap());
    same("performance state", found.performance_state(), state);
    let version = u32::try_from(size_of::<nvmlMarginTemperature_t>()).unwrap() | 1 << 24;
    let mut margin = nvmlMarginTemperature_t { version, marginTemperature: 0 };
    // SAFETY: a pointer to a local with its version.
    let code = unsafe { found.nvml().lib().nvmlDeviceGetMarginTemperature(found.handle(), &mut margin) };
    raw("margin", code, margin.marginTemperature, telemetry.margin_celsius);
}

fn reads_errors(found: &nvml_wrapper::Device<'_>, given: &Device) {
    let errors = &given.errors;
    let ecc = errors.ecc.as_ref();
    let mode = found.is_ecc_enabled().map(|mode| (mode.currently_enabled, mode.pending_enabled));
    same("ecc", mode, ecc.map(|ecc| (ecc.current == Switch::Enabled, ecc.pending == Switch::Enabled)));
    let totals = ecc.map(|ecc| ecc.totals).unwrap_or_default();
    for (error, scope, total) in [
        (MemoryError::Corrected, Scope::Volatile, totals.corrected_volatile),
        (MemoryError::Corrected, Scope::Aggregate, totals.corrected_aggregate),
        (MemoryError::Uncorrected, Scope::Volatile, totals.uncorrected_volatile),
        (MemoryError::Uncorrected, Scope::Aggregate, totals.uncorrected_aggregate),
    ] {
        same(&format!("{error:?} {scope:?}"), found.total_ecc_errors(error, scope), total);
    }
    for (here, location) in [
        (EccLocation::L1Cache, MemoryLocation::L1Cache),
        (EccLocation::L2Cache, MemoryLocation::L2Cache),
        (EccLocation::Dram, MemoryLocation::Device),
        (EccLocation::RegisterFile, MemoryLocation::RegisterFile),
        (EccLocation::TextureMemory, MemoryLocation::Texture),
        (EccLocation::TextureShm, MemoryLocation::Shared),
        (EccLocation::Cbu, MemoryLocation::Cbu),
        (EccLocation::Sram, MemoryLocation::SRAM),
    ] {
        let counters = ecc.map_or(&[][..], |ecc| ecc.locations.as_slice());
        let given = |counter: &&EccCounter| {
            (counter.error, counter.scope, counter.location) == (EccError::Uncorrected, EccScope::Aggregate, here)
        };
        let count = counters.iter().find(given).map(|counter| counter.count);
        let answer = found.memory_error_counter(MemoryError::Uncorrected, Scope::Aggregate, location);
        same(&format!("{here:?}"), answer, count);
    }
    let lib = found.nvml().lib();
    let version = u32::try_from(size_of::<nvmlEccSramErrorStatus_t>()).unwrap() | 1 << 24;
    let mut sram = nvmlEccSramErrorStatus_t { version, ..zeroed() };
    let (mut rows, mut banks): ([u32; 4], nvmlRowRemapperHistogramValues_t) = (zeroed(), zeroed());
    let [correctable, uncorrectable, pending, failed] = &mut rows;
    // SAFETY: pointers to locals, the struct with its version.
    let (of_sram, of_rows, of_banks) = unsafe {
        (
            lib.nvmlDeviceGetSramEccErrorStatus(found.handle(), &mut sram),
            lib.nvmlDeviceGetRemappedRows(found.handle(), correctable, uncorrectable, pending, failed),
            lib.nvmlDeviceGetRowRemapperHistogram(found.handle(), &mut banks),
        )
    };
    let seen = Sram {
        aggregate_uncorrected_parity: sram.aggregateUncParity,
        aggregate_uncorrected_sec_ded: sram.aggregateUncSecDed,
        aggregate_corrected: sram.aggregateCor,
        volatile_uncorrected_parity: sram.volatileUncParity,
        volatile_uncorrected_sec_ded: sram.volatileUncSecDed,
        volatile_corrected: sram.volatileCor,
        uncorrected_l2: sram.aggregateUncBucketL2,
        uncorrected_sm: sram.aggregateUncBucketSm,
        uncorrected_pcie: sram.aggregateUncBucketPcie,
        uncorrected_mcu: sram.aggregateUncBucketMcu,
        uncorrected_other: sram.aggregateUncBucketOther,
        threshold_exceeded: sram.bThresholdExceeded == 1,
    };
    raw("sram", of_sram, seen, errors.sram);
    let [correctable, uncorrectable, pending, failed] = rows;
    let seen = RemappedRows { correctable, uncorrectable, pending: pending == 1, failed: failed == 1 };
    raw("remapped rows", of_rows, seen, errors.remapped_rows);
    let nvmlRowRemapperHistogramValues_t { max, high, partial, low, none } = banks;
    raw("row remapper", of_banks, RowRemapper { max, high, partial, low, none }, errors.row_remapper);
}

fn reads_links(found: &nvml_wrapper::Device<'_>, given: &Device) {
    same("pcie generation", found.current_pcie_link_gen(), given.pcie.generation);
    same("pcie width", found.current_pcie_link_width(), given.pcie.width);
    same("pcie maximum generation", found.max_pcie_link_gen(), given.pcie.max_generation);
    same("pcie maximum width", found.max_pcie_link_width(), given.pcie.max_width);
    same("pcie replays", found.pcie_replay_counter(), given.pcie.replays);
    for number in 0..18 {
        let link = found.link_wrapper_for(number);
        let Some(expected) = given.nvlink.get(usize::try_from(number).unwrap()) else {
            let code = if given.nvlink.is_empty() { 3 } else { 2 };
            assert_eq!(link.is_active().map_err(u32::from).err(), Some(code), "link {number}");
            continue;
        };
        same(&format!("link {number}"), link.is_active(), Some(expected.active));
        same("replays", link.error_counter(ErrorCounter::DlReplay), expected.replays);
        same("recoveries", link.error_counter(ErrorCounter::DlRecovery), expected.recoveries);
        same("crc flit", link.error_counter(ErrorCounter::DlCrcFlit), expected.crc_flit);
        same("crc data", link.error_counter(ErrorCounter::DlCrcData), expected.crc_data);
    }
}

#[test]
fn every_value_of_every_product_arrives() {
    let devices = vec![Device::h100(1), Device::a100(2), Device::l4(3), distinct(), Device::bare(4)];
    let node = Loaded::with(&Scenario::known(devices.clone()));
    let nvml = node.nvml();
    assert_eq!(nvml.device_count().unwrap(), 5);
    for (index, given) in (0..).zip(&devices) {
        reads(&nvml.device_by_index(index).unwrap(), given);
        assert_eq!(nvml.device_by_uuid(given.uuid.as_str()).unwrap().uuid().unwrap(), given.uuid);
        if given.board.pci.is_some() {
            let address = nvml.device_by_index(index).unwrap().pci_info().unwrap().bus_id;
            assert_eq!(nvml.device_by_pci_bus_id(address.as_str()).unwrap().uuid().unwrap(), given.uuid);
        }
    }
}

#[test]
fn a_full_description_leaves_nothing_out() {
    let gaps = |device: &Device| {
        let text = serde_json::to_value(device).unwrap();
        let groups =
            ["name", "memoryBytes", "mig", "board", "memory", "telemetry", "errors", "pcie", "nvlink", "processes"];
        groups.into_iter().filter(|group| text.get(group).is_none()).collect::<Vec<_>>()
    };
    assert_eq!(gaps(&Device::h100(1)), Vec::<&str>::new());
    assert_eq!(gaps(&Device::a100(1)), Vec::<&str>::new());
    assert_eq!(gaps(&Device::l4(1)), ["mig", "errors", "nvlink"]);
    assert_eq!(gaps(&Device::bare(1)).len(), 10);
}

#[test]
fn the_node_is_described() {
    let node = Loaded::with(&Scenario::known(vec![Device::h100(1)]));
    let nvml = node.nvml();
    assert_eq!(nvml.sys_driver_version().unwrap(), "0.0-fake");
    assert_eq!(nvml.sys_nvml_version().unwrap(), "13.0.0-fake");
    assert_eq!(nvml.sys_cuda_driver_version().unwrap(), 13_000);
    let device = nvml.device_by_index(0).unwrap();
    assert_eq!(device.is_cc_enabled().ok(), Some(false));
    assert_eq!(device.get_confidential_compute_state().ok(), Some(true));
    let on =
        ConfidentialCompute { environment: 2, enabled: true, dev_tools: true, multi_gpu: 1, gpus_ready: Some(false) };
    node.becomes(&Scenario::known(vec![Device::h100(1)]).but(|node| node.confidential_compute = Some(on)));
    assert_eq!(device.is_cc_enabled().ok(), Some(true));
    assert_eq!(device.is_cc_dev_mode_enabled().ok(), Some(true));
    assert_eq!(device.is_multi_gpu_protected_pcie_enabled().ok(), Some(true));
    assert_eq!(device.get_confidential_compute_state().ok(), Some(false));
    assert_eq!(device.check_confidential_compute_status().ok(), Some(false));
    node.becomes(&Scenario::of(vec![Device::h100(1)]));
    same("nvml", nvml.sys_nvml_version(), None);
    same("cuda", nvml.sys_cuda_driver_version(), None);
    same("settings", device.is_cc_enabled(), None);
    same("ready", device.get_confidential_compute_state(), None);
    same("state", device.check_confidential_compute_status(), None);
}

#[test]
fn evidence_arrives_and_its_size_may_be_a_lie() {
    let blob = |text: &str| Some(Blob::of(text.as_bytes()));
    let given = Confidential {
        attestation_report: blob("report"),
        cec_attestation_report: blob("controller"),
        certificate_chain: blob("chain"),
        attestation_certificate_chain: blob("attestation chain"),
    };
    let mut device = Device { confidential: given, ..Device::h100(1) };
    let node = Loaded::with(&Scenario::of(vec![device.clone()]));
    let nvml = node.nvml();
    let found = nvml.device_by_index(0).unwrap();
    let report = found.confidential_compute_gpu_attestation_report([7; 32]).unwrap();
    assert_eq!((report.attestation_report.as_slice(), report.attestation_report_size), (&b"report"[..], 6));
    assert_eq!(report.cec_attestation_report, b"controller");
    assert!(report.is_cec_attestation_report_present);
    let certificate = found.confidential_compute_gpu_certificate().unwrap();
    assert_eq!(certificate.cert_chain, b"chain");
    assert_eq!(certificate.attestation_cert_chain, b"attestation chain");

    device.confidential.attestation_report.as_mut().unwrap().claimed_bytes = Some(8193);
    node.becomes(&Scenario::of(vec![device]));
    let mut buffer: nvmlConfComputeGpuAttestationReport_t = zeroed();
    buffer.nonce = [9; 32];
    // SAFETY: a pointer to a local.
    let code = unsafe { node.raw.nvmlDeviceGetConfComputeGpuAttestationReport(found.handle(), &mut buffer) };
    assert_eq!((code, buffer.attestationReportSize, buffer.nonce), (0, 8193, [9; 32]));
    assert_eq!(&buffer.attestationReport[..7], b"report\0");
    let slice = std::panic::AssertUnwindSafe(|| found.confidential_compute_gpu_attestation_report([0; 32]).map(drop));
    assert!(std::panic::catch_unwind(slice).is_err(), "the wrapper believes the size");

    node.becomes(&Scenario::of(vec![Device::h100(1)]));
    same("report", found.confidential_compute_gpu_attestation_report([0; 32]).map(drop), None);
    same("certificate", found.confidential_compute_gpu_certificate().map(drop), None);
}

#[test]
fn error_correction_that_is_off_counts_nothing() {
    let mut device = distinct();
    device.errors.ecc.as_mut().unwrap().current = Switch::Disabled;
    let node = Loaded::with(&Scenario::of(vec![device]));
    let nvml = node.nvml();
    let found = nvml.device_by_index(0).unwrap();
    assert!(!found.is_ecc_enabled().unwrap().currently_enabled);
    same("total", found.total_ecc_errors(MemoryError::Corrected, Scope::Aggregate), None);
    let counter = found.memory_error_counter(MemoryError::Corrected, Scope::Aggregate, MemoryLocation::Device);
    same("place", counter, None);
    assert_eq!(sampled(&found.field_values_for(&[FieldId(3)]).unwrap(), 0), Err(3));
}

#[test]
fn impossible_values_arrive_as_they_are() {
    let mut device = Device::h100(1);
    device.telemetry.temperature_celsius = Some(255);
    device.telemetry.power_milliwatts = Some(u32::MAX);
    device.telemetry.utilisation = Some(fake_nvml::Utilisation { gpu_percent: 101, memory_percent: u32::MAX });
    device.memory_bytes = Some(900 << 30);
    device.name = Some(Text::Text("x".repeat(96)));
    let node = Loaded::with(&Scenario::of(vec![device.clone()]));
    let nvml = node.nvml();
    let found = nvml.device_by_index(0).unwrap();
    assert_eq!(found.temperature(TemperatureSensor::Gpu).unwrap(), 255);
    assert_eq!(found.power_usage().unwrap(), u32::MAX);
    assert_eq!(found.utilization_rates().unwrap().gpu, 101);
    assert_eq!(found.memory_info().unwrap().total, 900 << 30);
    assert_eq!(found.name().map_err(u32::from), Err(7), "no client has room for it");
    device.name = Some(Text::Text("x".repeat(95)));
    node.becomes(&Scenario::of(vec![device]));
    assert_eq!(found.name().unwrap().len(), 95);
}
