//! Every value of the survey, through the real surveying process and the real library calls, for devices as their drivers
//! describe them and for devices that lie.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // clippy knows tests by their attribute, not their helpers.

mod common;

use std::collections::BTreeMap;

use common::{Node, health, healthy};
use fake_nvml::{
    Behaviour, ConfidentialCompute, Device, Fault, Field, FieldValue, NvLink, Process, ProcessList, SYMBOLS, Scenario,
    Text, without_symbol,
};
use koinon_agent::survey::{Failure, Nvml, Survey};
use koinon_core::capacity::Health;
use koinon_core::gpu::device::{
    self, ConfidentialMode, ProcessKind, RecoveryAction, RemapAvailability, Setting, Throttle,
};
use koinon_core::gpu::reading::{Gap, Reading};
use koinon_core::ids::Bytes;

async fn survey(scenario: &Scenario) -> Survey {
    let survey = Node::with(scenario).survey().await;
    assert_eq!(survey.nvml, Nvml::Available);
    survey
}

async fn one(device: Device) -> device::Device {
    survey(&Scenario::known(vec![device])).await.devices.into_iter().next().unwrap()
}

fn text<T: ToString>(reading: &Reading<T>) -> String {
    reading.known().unwrap().to_string()
}

/// How often each device was asked, its instances apart.
fn calls(trace: &str) -> BTreeMap<String, usize> {
    let mut calls = BTreeMap::new();
    for device in trace.lines().filter_map(|line| line.split(' ').nth(1)).filter(|device| *device != "-") {
        *calls.entry(device.to_owned()).or_default() += 1;
    }
    calls
}

#[tokio::test]
async fn all_that_the_driver_of_an_h100_tells_is_read() {
    let device = one(Device::h100(7).but(|d| {
        d.telemetry.throttle_reasons = Some(0x48);
        d.errors.remapped_rows =
            Some(fake_nvml::RemappedRows { correctable: 1, uncorrectable: 2, pending: true, failed: false });
    }))
    .await;
    let identity = &device.identity;
    assert_eq!(text(&identity.product), "NVIDIA H100 80GB HBM3");
    assert_eq!((text(&identity.brand), text(&identity.architecture)), ("NVIDIA".to_owned(), "Hopper".to_owned()));
    assert_eq!((identity.compute_capability.get(), identity.minor.get()), (Some((9, 0)), Some(7)));
    assert_eq!(text(&identity.pci_bus_id), "00000000:07:00.0");
    assert_eq!(
        (text(&identity.serial), text(&identity.vbios)),
        ("1650000000007".to_owned(), "96.00.74.00.01".to_owned())
    );
    assert_eq!(device.memory.total, Reading::Known(Bytes(81_559 << 20)));
    assert_eq!((device.memory.reserved.get(), device.memory.used.get()), (Some(Bytes(551 << 20)), Some(Bytes(0))));
    assert_eq!(device.mig.get(), Some(Setting { current: false, pending: false }));
    assert_eq!(device.ecc.mode.get(), Some(Setting { current: true, pending: true }));
    for counter in [
        &device.ecc.volatile_corrected,
        &device.ecc.volatile_uncorrected,
        &device.ecc.aggregate_corrected,
        &device.ecc.aggregate_uncorrected,
    ] {
        assert_eq!(counter.get(), Some(0));
    }
    assert_eq!(device.ecc.sram_threshold_exceeded.get(), Some(false));
    assert_eq!((device.remap.correctable.get(), device.remap.uncorrectable.get()), (Some(1), Some(2)));
    assert_eq!((device.remap.pending.get(), device.remap.failed.get()), (Some(true), Some(false)));
    let banks = RemapAvailability { max: 2560, high: 0, partial: 0, low: 0, none: 0 };
    assert_eq!(device.remap.availability.get(), Some(banks));
    assert_eq!(device.recovery.get(), Some(RecoveryAction::None));
    assert_eq!((device.nvlink.links.get(), device.nvlink.active.get()), (Some(18), Some(18)));
    assert_eq!((device.pcie.generation.get(), device.pcie.max_generation.get()), (Some(5), Some(5)));
    assert_eq!(
        (device.pcie.width.get(), device.pcie.max_width.get(), device.pcie.replays.get()),
        (Some(16), Some(16), Some(0))
    );
    let thermal = &device.thermal;
    assert_eq!((thermal.gpu.get(), thermal.memory.get(), thermal.margin.get()), (Some(32), Some(40), Some(55)));
    assert_eq!((thermal.gpu_max_operating.get(), thermal.memory_max_operating.get()), (Some(87), Some(95)));
    assert_eq!((device.power.milliwatts.get(), device.power.limit_milliwatts.get()), (Some(70_120), Some(700_000)));
    assert_eq!(device.power.millijoules.get(), Some(1_234_567_890));
    assert_eq!((device.clocks.sm_megahertz.get(), device.clocks.memory_megahertz.get()), (Some(345), Some(2619)));
    assert_eq!(device.clocks.throttle.get(), Some(Throttle(0x48)));
    assert_eq!((device.utilisation.gpu_percent.get(), device.utilisation.memory_percent.get()), (Some(0), Some(0)));
    assert_eq!(device.persistence.get(), Some(true));
    assert_eq!(device.processes, Reading::Known(Vec::new()));
    assert_eq!(device.confidential.mode.get(), Some(ConfidentialMode::Off));
    assert_eq!(device.confidential.ready.get(), Some(true));
}

#[tokio::test]
async fn what_a_device_does_not_have_is_unsupported_and_no_fault_of_it() {
    let found = survey(&Scenario::known(vec![Device::l4(1), Device::bare(2)])).await;
    let [l4, bare] = found.devices.as_slice() else { panic!("{found:?}") };
    assert_eq!(
        (&l4.ecc.mode, &l4.mig, &l4.recovery),
        (&Reading::Unsupported, &Reading::Unsupported, &Reading::Unsupported)
    );
    assert_eq!((&l4.nvlink.active, &l4.remap.pending), (&Reading::Unsupported, &Reading::Unsupported));
    assert_eq!((&bare.thermal.gpu, &bare.processes), (&Reading::Unsupported, &Reading::Unsupported));
    assert_eq!(bare.memory.total, Reading::Unsupported);
    let told = health(&found);
    let incomplete = |told: &(Health, String)| *told == (Health::Unknown, "IncompleteReading".to_owned());
    assert!(
        told.iter().zip(&found.devices).all(|(told, device)| match device.memory.total {
            // What has no memory that anybody knows of is nothing to compute on.
            Reading::Unsupported => incomplete(told),
            _ => *told == healthy(),
        }),
        "{told:?}"
    );
}

#[tokio::test]
async fn no_device_is_asked_more_than_sixty_times_nor_an_instance_more_than_six() {
    let growing = ProcessList { list: vec![Process::new(1, 1); 60], grows_by: 40, grows_times: None };
    for (what, device) in [
        ("an H100", Device::h100(1)),
        ("an A100", Device::a100(1)),
        ("one that is divided", Device::h100(1).divided(7)),
        ("one whose processes grow", Device::h100(1).but(|d| d.processes.compute = Some(growing.clone()))),
        (
            "one that claims 64 links",
            Device::h100(1).but(|d| d.fields.push(Field::of(91, FieldValue::UnsignedInt(64)))),
        ),
    ] {
        let node = Node::with(&Scenario::known(vec![device]));
        node.survey().await;
        let trace = node.trace();
        for (of, calls) in calls(&trace) {
            let most = if of.contains('/') { 6 } else { 60 + 7 };
            assert!(calls <= most, "{what}: {of} was asked {calls} times");
        }
        let whole = calls(&trace)["0"];
        let slots = trace.lines().filter(|line| line.starts_with("nvmlDeviceGetMigDeviceHandleByIndex")).count();
        eprintln!("{what}: {whole} calls, {slots} of them for slots");
        assert!(whole - slots.min(whole) <= 60, "{what}: {trace}");
        assert!(trace.lines().all(|line| line.contains("Get") || line.starts_with("nvmlInit_v2")), "{trace}");
        assert!(!trace.contains("Attestation") && !trace.contains("Certificate"), "{trace}");
    }
}

#[tokio::test]
async fn instances_are_read_and_slots_without_one_passed_over() {
    let device = one(Device::h100(1).divided(7).but(|d| {
        d.mig_instances.remove(2);
    }))
    .await;
    assert_eq!(device.mig.get(), Some(Setting { current: true, pending: true }));
    let found: Vec<_> = device
        .instances
        .iter()
        .map(|instance| {
            (instance.place.get().unwrap().gpu_instance, instance.slices.get(), instance.memory.total.get())
        })
        .collect();
    let memory = Some(Bytes((81_559 << 20) / 8));
    assert_eq!(found, [7, 8, 10, 11, 12, 13].map(|gpu| (gpu, Some(1), memory)));
    assert!(device.instances.iter().all(|instance| instance.id.as_str().starts_with("MIG-fa4e0000-")));
}

#[tokio::test]
async fn a_device_that_is_divided_anew_while_it_is_read_is_read_again_and_then_not_known() {
    let divided = || Scenario::known(vec![Device::h100(1).divided(3)]);
    let fault = |after_calls, behaviour| Fault {
        symbol: "nvmlDeviceGetGpuInstanceId".to_owned(),
        device: Some(0),
        after_calls,
        behaviour,
    };
    let always = divided().but(|s| s.faults.push(fault(1, Behaviour::Return(6))));
    let found = survey(&always).await;
    assert_eq!(found.devices[0].mig, Reading::Unknown(Gap::Unstable));
    assert_eq!(health(&found)[0], (Health::Unknown, "IncompleteReading".to_owned()));
    assert!(found.devices[0].instances.is_empty(), "half a list is none");
}

#[tokio::test]
async fn processes_are_read_whatever_their_number_and_a_list_that_never_stands_still_is_not_known() {
    let with = |compute: ProcessList| Device::h100(1).but(|d| d.processes.compute = Some(compute));
    let many: Vec<Process> = (1..=500).map(|pid| Process::new(pid, 1 << 20)).collect();
    let found = one(with(ProcessList::of(many))).await;
    let found = found.processes.known().unwrap();
    assert_eq!(found.len(), 500);
    assert!(
        found
            .iter()
            .all(|p| p.kind == ProcessKind::Compute && p.used.get() == Some(Bytes(1 << 20)) && p.place.is_none())
    );

    let grown = ProcessList { list: vec![Process::new(1, 1); 70], grows_by: 20, grows_times: Some(1) };
    assert!(one(with(grown)).await.processes.known().is_some(), "it stands still at the second look");

    // Each look finds three times as many as the one before had room for.
    let list = (1..=65).map(|pid| Process::new(pid, 1)).collect();
    let racing = ProcessList { list, grows_by: 400, grows_times: None };
    let lost = one(with(racing)).await.processes;
    assert!(matches!(lost, Reading::Unknown(Gap::Unstable | Gap::Implausible)), "{lost:?}");

    let crowd = (1..=10_000).map(|pid| Process::new(pid, 1)).collect();
    assert_eq!(one(with(ProcessList::of(crowd))).await.processes, Reading::Unknown(Gap::Implausible));

    let unknown = Process { pid: 9, used_bytes: None, gi: None, ci: None };
    let found = one(with(ProcessList::of(vec![unknown]))).await;
    assert_eq!(found.processes.known().unwrap()[0].used, Reading::Unsupported, "not available is not zero");
}

#[tokio::test]
async fn links_that_are_down_are_told_from_links_that_are_up() {
    let down = NvLink { active: false, ..NvLink::sound() };
    let device = one(Device::h100(1).but(|d| {
        d.nvlink[3] = down;
        d.nvlink[17] = down;
    }))
    .await;
    assert_eq!((device.nvlink.links.get(), device.nvlink.active.get()), (Some(18), Some(16)));
}

#[tokio::test]
async fn links_are_read_by_one_call_where_the_driver_knows_their_fields() {
    let field = |id, scope, value| Field { scope: Some(scope), ..Field::of(id, FieldValue::UnsignedLongLong(value)) };
    let device = Device::a100(1).but(|d| {
        for link in 0..12 {
            d.fields.push(field(165, link, u64::from(link != 5)));
            d.fields.push(field(161, link, 2));
            d.fields.push(field(162, link, u64::from(link)));
            d.fields.push(field(163, link, 0));
        }
    });
    let node = Node::with(&Scenario::known(vec![device]));
    let nvlink = node.survey().await.devices[0].nvlink.clone();
    assert_eq!((nvlink.links.get(), nvlink.active.get()), (Some(12), Some(11)));
    assert_eq!(
        (nvlink.replay_errors.get(), nvlink.recovery_errors.get(), nvlink.crc_errors.get()),
        (Some(24), Some(66), Some(0))
    );
    assert!(!node.trace().contains("nvmlDeviceGetNvLinkState"), "{}", node.trace());
}

#[tokio::test]
async fn an_answer_that_bears_another_number_is_still_the_answer_to_its_question() {
    let device = one(Device::h100(1).but(|d| {
        d.fields.push(Field { labelled: Some(230), ..Field::of(142, FieldValue::UnsignedInt(2)) });
    }))
    .await;
    assert_eq!((device.remap.correctable.get(), device.recovery.get()), (Some(2), Some(RecoveryAction::None)));
}

#[tokio::test]
async fn what_no_device_has_is_not_believed() {
    let device = one(Device::h100(1).but(|d| {
        d.telemetry.temperature_celsius = Some(255);
        d.telemetry.memory_temperature_celsius = Some(255);
        d.telemetry.power_milliwatts = Some(u32::MAX);
        d.telemetry.clocks.sm = Some(u32::MAX);
        d.telemetry.utilisation = Some(fake_nvml::Utilisation { gpu_percent: 101, memory_percent: 7 });
        d.memory_bytes = Some(900 << 50);
        d.errors.recovery_action = Some(99);
        d.pcie.width = Some(0);
        d.board.serial = Some(Text::Hex { hex: "fffe41".to_owned() });
        d.board.brand = Some(15);
        d.board.architecture = Some(15);
    }))
    .await;
    let implausible = Some(Gap::Implausible);
    assert_eq!((device.thermal.gpu.gap(), device.thermal.memory.gap()), (implausible, implausible));
    assert_eq!((device.power.milliwatts.gap(), device.clocks.sm_megahertz.gap()), (implausible, implausible));
    assert_eq!((device.utilisation.gpu_percent.gap(), device.utilisation.memory_percent.get()), (implausible, Some(7)));
    assert_eq!((device.memory.total.gap(), device.pcie.width.gap()), (implausible, implausible));
    assert_eq!(device.identity.serial.gap(), implausible);
    assert_eq!(device.recovery.get(), Some(RecoveryAction::Other(99)));
    // Fifteen is the return code of a lost GPU, and here a brand and an architecture.
    assert_eq!(text(&device.identity.brand), "GeForce RTX");
    assert_eq!(text(&device.identity.architecture), "number 15");
}

#[tokio::test]
async fn confidential_computing_that_can_be_debugged_is_told_apart() {
    let on = |dev_tools, ready| ConfidentialCompute {
        environment: 2,
        enabled: true,
        dev_tools,
        multi_gpu: 0,
        gpus_ready: Some(ready),
    };
    for (dev_tools, ready, mode) in [(false, true, ConfidentialMode::On), (true, false, ConfidentialMode::DevTools)] {
        let scenario =
            Scenario::known(vec![Device::h100(1)]).but(|s| s.confidential_compute = Some(on(dev_tools, ready)));
        let found = survey(&scenario).await;
        assert_eq!((found.confidential.mode.get(), found.confidential.ready.get()), (Some(mode), Some(ready)));
        assert_eq!(found.devices[0].confidential, found.confidential);
    }
}

#[tokio::test]
async fn a_device_that_changes_its_identity_while_it_is_read_is_nobody() {
    let again = Fault {
        symbol: "nvmlDeviceGetUUID".to_owned(),
        device: Some(0),
        after_calls: 1,
        behaviour: Behaviour::Return(15),
    };
    let found = survey(&Scenario::known(vec![Device::h100(1), Device::h100(2)]).but(|s| s.faults.push(again))).await;
    assert_eq!((found.devices.len(), found.lost_unidentified), (1, 1));
}

/// Without any one of its functions the library is one of an older driver.
#[tokio::test]
async fn whatever_function_the_library_lacks_the_survey_completes_and_the_devices_are_well() {
    let node = Node::with(&Scenario::known(vec![Device::h100(1)]));
    let asked = {
        node.survey().await;
        node.trace()
    };
    let path = node.folder.path().join("libnvidia-ml.so.1");
    let mut tried = 0;
    for symbol in SYMBOLS.iter().filter(|symbol| asked.lines().any(|line| line.split(' ').next() == Some(**symbol))) {
        without_symbol(&common::library(), symbol, &path).unwrap();
        let mut surveyor = koinon_agent::survey::Surveyor::new(node.command(&path), common::PATIENT);
        let found = surveyor.survey().await;
        tried += 1;
        match *symbol {
            "nvmlInit_v2" | "nvmlDeviceGetCount_v2" => {
                assert_eq!(found.failure(), Some(Failure::SymbolMissing), "{symbol}")
            }
            "nvmlDeviceGetHandleByIndex_v2" | "nvmlDeviceGetUUID" => {
                assert_eq!((found.devices.len(), found.other_unidentified), (0, 1), "{symbol}");
            }
            _ => {
                let [device] = found.devices.as_slice() else { panic!("{symbol}: {found:?}") };
                let known = !["nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo_v2"].contains(symbol);
                assert_eq!(health(&found)[0] == healthy(), known, "{symbol}: {device:?}");
            }
        }
    }
    assert!(tried >= 40, "only {tried} functions were asked");
}

#[tokio::test]
async fn an_older_driver_tells_the_memory_in_two_parts() {
    let scenario = Scenario::known(vec![Device::h100(1)]);
    let node = Node::with(&scenario);
    let path = node.folder.path().join("libnvidia-ml.so.1");
    without_symbol(&common::library(), "nvmlDeviceGetMemoryInfo_v2", &path).unwrap();
    let found = koinon_agent::survey::Surveyor::new(node.command(&path), common::PATIENT).survey().await;
    let memory = &found.devices[0].memory;
    // The fake library lacks the old form too, which is then as unsupported as the new one.
    assert_eq!((&memory.total, &memory.reserved), (&Reading::Unsupported, &Reading::Unsupported));
    assert_eq!(health(&found)[0], (Health::Unknown, "IncompleteReading".to_owned()));
}
