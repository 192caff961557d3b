//! What the agent makes of each way in which a driver can fail: the real surveying process, the real library call, a fault
//! from the scenario.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Node, PATIENT, health, healthy};
use fake_nvml::{Behaviour, Device, DeviceState, Fault, Mig, MigMode, ProductName, SYMBOLS, Scenario};
use koinon_agent::survey::{Failure, MAX_DEVICES, Nvml, Survey, Surveyor};
use koinon_core::capacity::Health;
use koinon_core::gpu::reading::{Gap, Reading};
use koinon_core::ids::Bytes;

fn two_gpus() -> Scenario {
    Scenario::of(vec![Device::h100(1), Device::h100(2)])
}

fn unhealthy(reason: &str) -> (Health, String) {
    (Health::Unhealthy, reason.to_owned())
}

fn message(survey: &Survey) -> &str {
    match &survey.nvml {
        Nvml::Available => "available",
        Nvml::Failed { message, .. } => message,
    }
}

#[tokio::test]
async fn a_sound_node_is_described_device_by_device() {
    let survey = Node::with(&Scenario { cuda_driver_version: Some(13_000), ..two_gpus() }).survey().await;
    assert_eq!(survey.nvml, Nvml::Available);
    assert_eq!(survey.driver.known().map(|version| version.as_str()), Some("0.0-fake"));
    assert_eq!(survey.library, Reading::Unsupported);
    assert_eq!(survey.cuda, Reading::Known(13_000));
    assert_eq!(health(&survey), [healthy(), healthy()]);
    let second = &survey.devices[1];
    assert_eq!((second.index, second.id.as_str()), (1, "GPU-fa4e0000-0000-4000-8000-000000000002"));
    assert_eq!(second.identity.product.known().map(|name| name.as_str()), Some("NVIDIA H100 80GB HBM3"));
    assert_eq!(second.memory.total, Reading::Known(Bytes(85_520_809_984)));
    assert_eq!(second.mig.known().map(|mig| (mig.current, mig.pending)), Some((false, false)));
}

/// The calls about each device, by index, and those about the node.
fn calls(trace: &str) -> (BTreeMap<String, usize>, usize) {
    let mut of_devices: BTreeMap<String, usize> = BTreeMap::new();
    let mut of_node = 0;
    for line in trace.lines() {
        match line.split(' ').nth(1) {
            Some("-") | None => of_node += 1,
            Some(device) => *of_devices.entry(device.to_owned()).or_default() += 1,
        }
    }
    (of_devices, of_node)
}

#[tokio::test]
async fn a_survey_asks_no_more_than_sixty_times_of_each_device_and_changes_nothing() {
    let node = Node::with(&two_gpus());
    node.survey().await;
    let trace = node.trace();
    let (of_devices, of_node) = calls(&trace);
    assert_eq!(of_devices.len(), 2, "{trace}");
    assert!(of_devices.values().all(|calls| (6..=60).contains(calls)), "{of_devices:?}");
    assert!(of_node <= 10, "{trace}");
    let asked = trace.lines().filter_map(|line| line.split(' ').next());
    assert!(asked.into_iter().all(|call| call.contains("Get") || call == "nvmlInit_v2"), "{trace}");
}

#[tokio::test]
async fn a_trace_of_the_calls_is_what_the_library_saw_and_holds_no_value() {
    let node = Node::with(&two_gpus().with_fault("nvmlDeviceGetName", Some(1), Behaviour::Return(27)));
    let path = node.folder.path().join("calls");
    let mut command = node.command(&common::library());
    command.arguments.extend(["--nvml-trace".into(), path.clone().into_os_string()]);
    let survey = Surveyor::new(command, PATIENT).survey().await;
    assert_eq!(survey.devices.len(), 2);
    let traced = std::fs::read_to_string(&path).unwrap();
    let called: Vec<(&str, &str)> = traced
        .lines()
        .map(|line| {
            let parts: Vec<&str> = line.split(' ').collect();
            let [symbol, code, size] = parts[..] else { panic!("{line}") };
            assert!(symbol.starts_with("nvml") && size.parse::<usize>().is_ok(), "{line}");
            (symbol, code)
        })
        .collect();
    let seen = node.trace();
    // The wrapper asks for the driver's version once more, to know its numbering of fields.
    let seen: Vec<(&str, &str)> = seen
        .lines()
        .enumerate()
        .filter(|(number, line)| !(*number == 1 && line.starts_with("nvmlSystemGetDriverVersion")))
        .map(|(_, line)| (line.split(' ').next().unwrap(), line.rsplit(' ').next().unwrap()))
        .collect();
    let present: Vec<(&str, &str)> = called.iter().copied().filter(|(_, code)| *code != "absent").collect();
    assert_eq!(present, seen);
    assert!(called.contains(&("nvmlDeviceGetName", "27")), "{traced}");
    for secret in ["fa4e0000", "H100", "0.0-fake"] {
        assert!(!traced.contains(secret), "{traced}");
    }
}

#[tokio::test]
async fn a_trace_that_cannot_be_written_is_said_and_no_survey_is_taken() {
    let node = Node::with(&two_gpus());
    let mut command = node.command(&common::library());
    command.arguments.extend(["--nvml-trace".into(), "/nonexistent/calls".into()]);
    let survey = Surveyor::new(command, PATIENT).survey().await;
    assert!(message(&survey).contains("--nvml-trace"), "{}", message(&survey));
    assert_eq!(node.trace(), "");
}

#[tokio::test]
async fn a_node_without_gpus_is_not_a_failure() {
    let survey = Node::with(&Scenario::of(vec![])).survey().await;
    assert_eq!((survey.nvml, survey.count, survey.devices.len()), (Nvml::Available, Some(0), 0));
}

#[tokio::test]
async fn a_missing_library_is_named() {
    let node = Node::with(&two_gpus());
    let mut surveyor = Surveyor::new(node.command(Path::new("/nonexistent/libnvidia-ml.so.1")), PATIENT);
    let survey = surveyor.survey().await;
    assert_eq!(survey.failure(), Some(Failure::LibraryMissing));
    assert!(message(&survey).contains("/nonexistent/libnvidia-ml.so.1"), "{}", message(&survey));
}

#[tokio::test]
async fn a_file_that_is_no_library_counts_as_missing() {
    let node = Node::with(&two_gpus());
    let text = node.folder.path().join("scenario.json");
    let survey = Surveyor::new(node.command(&text), PATIENT).survey().await;
    assert_eq!(survey.failure(), Some(Failure::LibraryMissing));
}

#[tokio::test]
async fn another_library_is_not_taken_for_nvml() {
    let node = Node::with(&two_gpus());
    let survey = Surveyor::new(node.command(Path::new("libc.so.6")), PATIENT).survey().await;
    assert_eq!(survey.failure(), Some(Failure::SymbolMissing));
    assert!(message(&survey).contains("nvmlInit_v2"), "{}", message(&survey));
}

#[tokio::test]
async fn each_code_of_a_failed_initialisation_has_its_reason() {
    for (code, failure) in [
        (4, Failure::NoPermission),
        (9, Failure::DriverNotLoaded),
        (12, Failure::LibraryMissing),
        (13, Failure::SymbolMissing),
        (17, Failure::NoPermission),
        (18, Failure::VersionMismatch),
        (27, Failure::Error),
        (999, Failure::Error),
    ] {
        let survey = Node::with(&two_gpus().with_fault("nvmlInit_v2", None, Behaviour::Return(code))).survey().await;
        assert!(
            matches!(survey.nvml, Nvml::Failed { failure: seen, code: Some(with), .. } if seen == failure && with == code),
            "{code}: {:?}",
            survey.nvml
        );
        assert!(survey.devices.is_empty());
        assert_eq!(survey.count, None, "no count is not a count of zero");
    }
}

#[tokio::test]
async fn an_unknown_error_after_a_good_time_hints_at_devices_that_the_container_lost() {
    let unknown = || two_gpus().with_fault("nvmlInit_v2", None, Behaviour::Return(999));
    let node = Node::with(&unknown());
    let mut surveyor = node.surveyor(PATIENT);
    assert!(!message(&surveyor.survey().await).contains("made anew"));
    node.becomes(&two_gpus());
    assert_eq!(surveyor.survey().await.failure(), None);
    node.becomes(&unknown());
    let survey = surveyor.survey().await;
    assert_eq!(survey.failure(), Some(Failure::Error));
    assert!(message(&survey).contains("must be made anew"), "{}", message(&survey));
}

#[tokio::test]
async fn a_count_that_fails_is_not_a_count_of_zero() {
    let survey =
        Node::with(&two_gpus().with_fault("nvmlDeviceGetCount_v2", None, Behaviour::Return(999))).survey().await;
    assert_eq!((survey.failure(), survey.count), (Some(Failure::Error), None));
}

#[tokio::test]
async fn a_count_beyond_reason_is_cut_at_the_cap() {
    let survey = Node::with(&Scenario { count: Some(u32::MAX), ..two_gpus() }).survey().await;
    assert_eq!(survey.count, Some(u32::MAX));
    assert_eq!(health(&survey), [healthy(), healthy()]);
    assert_eq!(survey.other_unidentified, MAX_DEVICES - 2);
}

#[tokio::test]
async fn more_devices_than_the_cap_are_not_described() {
    let survey = Node::with(&Scenario::of((1..=200).map(Device::h100).collect())).survey().await;
    assert_eq!((survey.count, survey.devices.len()), (Some(200), MAX_DEVICES as usize));
}

#[tokio::test]
async fn a_lost_device_leaves_the_others_healthy() {
    let lost = Device { state: DeviceState::Lost, ..Device::h100(1) };
    let survey = Node::with(&Scenario::of(vec![lost, Device::h100(2)])).survey().await;
    assert_eq!(survey.nvml, Nvml::Available);
    assert_eq!((health(&survey), survey.lost_unidentified), (vec![healthy()], 1));
    assert_eq!(survey.devices[0].id.as_str(), "GPU-fa4e0000-0000-4000-8000-000000000002");
}

#[tokio::test]
async fn a_device_that_is_lost_while_it_is_asked_is_unhealthy() {
    for code in [15, 28] {
        let scenario = two_gpus().with_fault("nvmlDeviceGetMemoryInfo_v2", Some(0), Behaviour::Return(code));
        let survey = Node::with(&scenario).survey().await;
        assert_eq!(health(&survey), [unhealthy("GPULost"), healthy()]);
        assert_eq!(survey.devices[0].memory.total, Reading::Unknown(Gap::Lost));
    }
}

#[tokio::test]
async fn a_device_that_needs_a_reset_is_unhealthy() {
    let scenario = two_gpus().with_fault("nvmlDeviceGetMigMode", Some(1), Behaviour::Return(16));
    let survey = Node::with(&scenario).survey().await;
    assert_eq!(health(&survey), [healthy(), unhealthy("ResetRequired")]);
}

#[tokio::test]
async fn a_driver_that_hangs_is_given_up_at_the_deadline() {
    for symbol in ["nvmlInit_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMemoryInfo_v2"] {
        let node = Node::with(&two_gpus().with_fault(symbol, None, Behaviour::Hang));
        let mut surveyor = node.surveyor(Duration::from_secs(1));
        let started = Instant::now();
        let survey = tokio::time::timeout(PATIENT, surveyor.survey()).await.expect("the survey hangs with the driver");
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        assert!(node.trace().contains("hang"), "it never came to the call: {}", node.trace());
        assert_eq!(survey.failure(), Some(Failure::Hung));
        assert!(survey.devices.is_empty(), "half a survey is not one");
        assert_eq!(surveyor.stuck(), 0);

        node.becomes(&two_gpus());
        let mut surveyor = node.surveyor(PATIENT);
        assert_eq!(health(&surveyor.survey().await), [healthy(), healthy()], "it did not recover");
    }
}

#[tokio::test]
async fn the_agent_goes_on_while_a_driver_hangs() {
    let node = Node::with(&two_gpus().with_fault("nvmlInit_v2", None, Behaviour::Hang));
    let mut surveyor = node.surveyor(Duration::from_secs(1));
    let mut beats = 0;
    let survey = {
        let survey = tokio::time::timeout(PATIENT, surveyor.survey());
        tokio::pin!(survey);
        loop {
            tokio::select! {
                survey = &mut survey => break survey.expect("the survey hangs with the driver"),
                () = tokio::time::sleep(Duration::from_millis(50)) => beats += 1,
            }
        }
    };
    assert_eq!(survey.failure(), Some(Failure::Hung));
    assert!(beats >= 10, "only {beats} beats in a second");
}

#[tokio::test]
async fn a_slow_driver_is_waited_for() {
    let slow = two_gpus().with_fault("nvmlDeviceGetUUID", Some(0), Behaviour::DelayMilliseconds(700));
    assert_eq!(health(&Node::with(&slow).survey().await), [healthy(), healthy()]);
}

#[tokio::test]
async fn a_driver_that_crashes_takes_only_the_surveying_process_with_it() {
    for symbol in ["nvmlInit_v2", "nvmlDeviceGetName"] {
        let survey = Node::with(&two_gpus().with_fault(symbol, None, Behaviour::Crash)).survey().await;
        assert_eq!(survey.failure(), Some(Failure::Crashed));
        assert!(message(&survey).contains("signal: 11"), "{}", message(&survey));
    }
}

#[tokio::test]
async fn devices_with_one_uuid_are_both_unknown() {
    let survey = Node::with(&Scenario::of(vec![Device::h100(1), Device::h100(1), Device::h100(3)])).survey().await;
    let twice = (Health::Unknown, "DuplicateUUID".to_owned());
    assert_eq!(health(&survey), [twice.clone(), twice, healthy()]);
}

#[tokio::test]
async fn a_hostile_name_is_made_harmless() {
    let newline = Device { name: Some("H100\n# HELP \u{1b}[31m".into()), ..Device::h100(1) };
    let longest = Device { name: Some(ProductName::Text("\u{fc}".repeat(47))), ..Device::h100(2) };
    let binary = Device { name: Some(ProductName::Hex { hex: "fffe00".replace("00", "41") }), ..Device::h100(3) };
    let survey = Node::with(&Scenario::of(vec![newline, longest, binary])).survey().await;
    let names: Vec<Option<&str>> =
        survey.devices.iter().map(|device| device.identity.product.known().map(|name| name.as_str())).collect();
    assert_eq!(names, [Some("H100 # HELP ?[31m"), Some("?".repeat(47).as_str()), None]);
    assert_eq!(survey.devices[2].identity.product, Reading::Unknown(Gap::Implausible));
}

#[tokio::test]
async fn a_hostile_uuid_names_no_device() {
    let hostile = Device { uuid: "GPU-fa4e0000-../../../etc".to_owned(), ..Device::h100(1) };
    let survey = Node::with(&Scenario::of(vec![hostile, Device::h100(2)])).survey().await;
    assert_eq!((survey.devices.len(), survey.other_unidentified), (1, 1));
}

#[tokio::test]
async fn a_divided_gpu_is_seen_as_such() {
    let mig = Mig { current: MigMode::Enabled, pending: MigMode::Disabled };
    let survey = Node::with(&Scenario::of(vec![Device { mig: Some(mig), ..Device::h100(1) }])).survey().await;
    assert_eq!(survey.devices[0].mig.known().map(|mig| (mig.current, mig.pending)), Some((true, false)));
}

#[tokio::test]
async fn whatever_call_is_not_supported_the_survey_completes_and_invents_nothing() {
    for symbol in SYMBOLS.iter().filter(|symbol| symbol.contains("Get")) {
        let survey = Node::with(&two_gpus().with_fault(symbol, None, Behaviour::Return(3))).survey().await;
        assert!(!matches!(survey.failure(), Some(Failure::Hung | Failure::Crashed | Failure::Garbled)), "{symbol}");
        // What has neither name nor memory is not called healthy; all else a device may simply not have.
        let known = !["nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo_v2"].contains(symbol);
        assert!(health(&survey).iter().all(|health| (*health == healthy()) == known), "{symbol}");
        for device in &survey.devices {
            assert_ne!(device.memory.total, Reading::Known(Bytes(0)), "{symbol}");
        }
    }
}

/// Without these a device is not known well enough to be called healthy.
const ESSENTIAL: [&str; 13] = [
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetEccMode",
    "nvmlDeviceGetTotalEccErrors",
    "nvmlDeviceGetSramEccErrorStatus",
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetNvLinkState",
    "nvmlDeviceGetPersistenceMode",
];

#[tokio::test]
async fn whatever_call_returns_a_code_that_the_wrapper_has_no_name_for_the_survey_completes() {
    let sound = Node::with(&two_gpus());
    sound.survey().await;
    let trace = sound.trace();
    // A fault in what the agent does not ask would strike nothing.
    let asks = |symbol: &str| trace.lines().any(|line| line.starts_with(&format!("{symbol} 0 ")));
    let mut wrong = Vec::new();
    for symbol in SYMBOLS.iter().filter(|symbol| asks(symbol)) {
        for code in [23, 25, 27, 29, 12_345] {
            let mut scenario = two_gpus();
            let behaviour = Behaviour::Return(code);
            let fault = Fault { symbol: (*symbol).to_owned(), device: Some(0), after_calls: 0, behaviour };
            scenario.faults.push(fault);
            let survey = Node::with(&scenario).survey().await;
            let sound = health(&survey).iter().filter(|health| **health == healthy()).count();
            let expected = if ESSENTIAL.contains(symbol) { 1 } else { 2 };
            if (&survey.nvml, sound) != (&Nvml::Available, expected) {
                wrong.push(format!("{symbol} returns {code}: {sound} healthy, {expected} expected"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
