use koinon_core::gpu::device::{ConfidentialMode, InstancePlace, ProcessKind, RecoveryAction};
use koinon_core::ids::{Bytes, UnixMicros};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ONE: &str = "GPU-fa4e0000-0000-4000-8000-000000000001";
const INSTANCE: &str = "MIG-fa4e0000-0000-4000-8000-00000000000a";
const TAKEN: Taken = Taken { at: UnixMicros(7), uptime_milliseconds: 5 };

/// A device that says who it is, and what else is given.
fn device(index: u32, uuid: &str, said: Value) -> Value {
    let mut said = said;
    said["uuidAgain"] = json!({"value": uuid});
    json!({"index": index, "uuid": {"value": uuid}, "said": said})
}

fn survey(devices: &[Value]) -> Survey {
    survey_with(json!({}), devices)
}

fn survey_with(confidential: Value, devices: &[Value]) -> Survey {
    let answer = json!({"read": {
        "driverVersion": {"value": "0.0-fake"}, "nvmlVersion": {"code": 3}, "cudaVersion": "noSymbol",
        "confidential": confidential, "count": devices.len(), "devices": devices,
    }});
    judge(format!("\n{MARK}{answer}\n").as_bytes(), TAKEN)
}

fn one(said: Value) -> Device {
    let survey = survey(&[device(0, ONE, said)]);
    assert_eq!(survey.failure(), None, "{survey:?}");
    survey.devices.into_iter().next().unwrap()
}

fn shown<T: std::fmt::Debug>(reading: &Reading<T>) -> Reading<String> {
    match reading {
        Reading::Known(value) => Reading::Known(format!("{value:?}")),
        Reading::Unsupported => Reading::Unsupported,
        Reading::Unknown(gap) => Reading::Unknown(*gap),
    }
}

/// A field of the answer, a value and how it is read, values that no device has, and where it is read.
struct Case {
    path: &'static [&'static str],
    good: Value,
    read: &'static str,
    bad: Value,
    at: fn(&Device) -> Reading<String>,
    /// A field, whose number an older library takes for a wrong argument.
    field: bool,
}

macro_rules! case {
    (field $path:tt, $good:expr, $read:expr, $bad:tt, $($at:ident).+) => {
        Case { field: true, ..case!($path, $good, $read, $bad, $($at).+) }
    };
    ($path:tt, $good:expr, $read:expr, $bad:tt, $($at:ident).+) => {
        Case { path: &$path, good: json!($good), read: $read, bad: json!($bad), at: |d| shown(&d.$($at).+), field: false }
    };
}

/// Every value that is read by itself. Those that depend on others have tests of their own below.
fn cases() -> Vec<Case> {
    vec![
        case!(["product"], "NVIDIA H100", r#"Text("NVIDIA H100")"#, ["", "\n"], identity.product),
        case!(["brand"], 2, r#"Text("Tesla")"#, [], identity.brand),
        case!(["brand"], 15, r#"Text("GeForce RTX")"#, [], identity.brand),
        case!(["brand"], 28, r#"Text("number 28")"#, [], identity.brand),
        case!(["architecture"], 9, r#"Text("Hopper")"#, [], identity.architecture),
        case!(["architecture"], 15, r#"Text("number 15")"#, [], identity.architecture),
        case!(["computeCapability"], [9, 0], "(9, 0)", [[-1, 0], [9, 1000]], identity.compute_capability),
        case!(["minor"], 3, "3", [], identity.minor),
        case!(["busId"], "00000000:3b:00.0", r#"Text("00000000:3B:00.0")"#, ["", "3B:00"], identity.pci_bus_id),
        case!(["serial"], "1650423013443", r#"Text("1650423013443")"#, [""], identity.serial),
        case!(["vbios"], "96.00.74.00.01", r#"Text("96.00.74.00.01")"#, [""], identity.vbios),
        case!(["mig"], [0, 1], "Setting { current: false, pending: true }", [[2, 0], [0, 2]], mig),
        case!(["ecc", "mode"], [1, 0], "Setting { current: true, pending: false }", [[0, 9]], ecc.mode),
        case!(["ecc", "volatileUncorrected"], 1, "1", [281_474_976_710_657_u64], ecc.volatile_uncorrected),
        case!(["ecc", "volatileCorrected"], 2, "2", [18_446_744_073_709_551_615_u64], ecc.volatile_corrected),
        case!(["ecc", "aggregateUncorrected"], 3, "3", [18_446_744_073_709_551_615_u64], ecc.aggregate_uncorrected),
        case!(["ecc", "aggregateCorrected"], 0, "0", [18_446_744_073_709_551_615_u64], ecc.aggregate_corrected),
        case!(["ecc", "sramThresholdExceeded"], 1, "true", [2, 4_294_967_295_u32], ecc.sram_threshold_exceeded),
        case!(field ["remap", "correctable"], 4, "4", [-1], remap.correctable),
        case!(field ["remap", "uncorrectable"], 8, "8", [-1, 9_223_372_036_854_775_807_i64], remap.uncorrectable),
        case!(field ["remap", "pending"], 1, "true", [2, -1], remap.pending),
        case!(field ["remap", "failed"], 0, "false", [7], remap.failed),
        case!(
            ["remap", "availability"],
            [640, 1, 2, 3, 4],
            "RemapAvailability { max: 640, high: 1, partial: 2, low: 3, none: 4 }",
            [[4_294_967_295_u32, 0, 0, 0, 0]],
            remap.availability
        ),
        case!(["pcie", "generation"], 5, "5", [0, 17], pcie.generation),
        case!(["pcie", "maxGeneration"], 5, "5", [0, 17], pcie.max_generation),
        case!(["pcie", "width"], 16, "16", [0, 33], pcie.width),
        case!(["pcie", "maxWidth"], 16, "16", [0, 33], pcie.max_width),
        case!(field ["pcie", "replays"], 9, "9", [-1], pcie.replays),
        case!(["thermal", "gpu"], 61, "61", [151, 255, 4_294_967_245_u32], thermal.gpu),
        case!(["thermal", "gpu"], 4_294_967_286_u32, "-10", [], thermal.gpu),
        case!(field ["thermal", "memory"], 72, "72", [151, -51], thermal.memory),
        case!(["thermal", "margin"], -3, "-3", [151, -51], thermal.margin),
        case!(["thermal", "memoryMax"], 95, "95", [255], thermal.memory_max_operating),
        case!(["power"], 700_000, "700000", [10_000_001, 4_294_967_295_u32], power.milliwatts),
        case!(["powerLimit"], 700_000, "700000", [10_000_001], power.limit_milliwatts),
        case!(field["energy"], 123_456_789, "123456789", [10_000_000_000_000_001_u64, -1], power.millijoules),
        case!(["clocks", "sm"], 1980, "1980", [10_001], clocks.sm_megahertz),
        case!(["clocks", "smMax"], 1980, "1980", [10_001], clocks.sm_max_megahertz),
        case!(["clocks", "memory"], 2619, "2619", [10_001], clocks.memory_megahertz),
        case!(["clocks", "throttle"], 72, "Throttle(72)", [], clocks.throttle),
        case!(["utilisation"], [100, 7], "100", [[101, 7]], utilisation.gpu_percent),
        case!(["utilisation"], [0, 7], "7", [[0, 101]], utilisation.memory_percent),
        case!(["persistence"], 1, "true", [2], persistence),
    ]
}

fn said(path: &[&str], raw: Value) -> Value {
    path.iter().rev().fold(raw, |inner, name| json!({*name: inner}))
}

#[test]
fn every_value_is_known_unsupported_or_unknown_with_its_gap_and_never_made_up() {
    for case in cases() {
        let read = |raw: Value| (case.at)(&one(said(case.path, raw)));
        let path = case.path;
        assert_eq!(read(json!({"value": case.good})), Reading::Known(case.read.to_owned()), "{path:?}");
        for unsupported in [json!({"code": 3}), json!({"code": 13}), json!("noSymbol")] {
            assert_eq!(read(unsupported), Reading::Unsupported, "{path:?}");
        }
        for (raw, gap) in [
            (json!({"code": 15}), Gap::Lost),
            (json!({"code": 28}), Gap::Lost),
            (json!({"code": 16}), Gap::ResetRequired),
            (json!({"code": 4}), Gap::NoPermission),
            (json!({"code": 18}), Gap::VersionMismatch),
            (json!({"code": 25}), Gap::VersionMismatch),
            (json!({"code": 27}), Gap::NotReady),
            (json!({"code": 23}), Gap::Code(23)),
            (json!({"code": 29}), Gap::Code(29)),
            (json!({"code": 999}), Gap::Code(999)),
            (json!("notText"), Gap::Implausible),
            (json!("unstable"), Gap::Unstable),
            (json!("tooMany"), Gap::Implausible),
            (json!("notAsked"), Gap::NotAsked),
        ] {
            assert_eq!(read(raw), Reading::Unknown(gap), "{path:?}");
        }
        let old = if case.field { Reading::Unsupported } else { Reading::Unknown(Gap::Code(2)) };
        assert_eq!(read(json!({"code": 2})), old, "{path:?}");
        for bad in case.bad.as_array().unwrap() {
            assert_eq!(read(json!({"value": bad})), Reading::Unknown(Gap::Implausible), "{path:?}: {bad}");
        }
        assert_eq!((case.at)(&one(json!({}))), Reading::Unknown(Gap::NotAsked), "{path:?}");
    }
}

#[test]
fn a_number_that_nvml_itself_calls_unknown_is_unsupported() {
    let device = one(json!({"brand": {"value": 0}, "architecture": {"value": u32::MAX}}));
    assert_eq!(device.identity.brand, Reading::Unsupported);
    assert_eq!(device.identity.architecture, Reading::Unsupported);
}

#[test]
fn memory_is_read_in_three_parts_and_an_older_driver_tells_two() {
    let memory = |raw: Value| one(json!({"memory": raw})).memory;
    let whole = memory(json!({"value": {"total": 85_520_809_984_u64, "reserved": 500, "used": 0}}));
    assert_eq!(whole.total, Reading::Known(Bytes(85_520_809_984)));
    assert_eq!((whole.reserved, whole.used), (Reading::Known(Bytes(500)), Reading::Known(Bytes(0))));
    assert_eq!(memory(json!({"value": {"total": 1, "reserved": null, "used": 0}})).reserved, Reading::Unsupported);
    for bytes in [0, u64::MAX, 17 << 40] {
        let memory = memory(json!({"value": {"total": bytes, "reserved": u64::MAX, "used": u64::MAX}}));
        let implausible = Reading::Unknown(Gap::Implausible);
        assert_eq!((memory.total, memory.reserved), (implausible.clone(), implausible.clone()));
        assert_eq!(memory.used, implausible);
    }
    assert_eq!(memory(json!({"code": 3})).total, Reading::Unsupported);
    assert_eq!(memory(json!({"code": 15})).used, Reading::Unknown(Gap::Lost));
}

#[test]
fn the_recovery_action_is_the_drivers_own_or_follows_from_the_older_fields() {
    let recovery = |action: Value, reset: Value, drain: Value| {
        one(json!({"recovery": {"action": action, "reset": reset, "drainAndReset": drain}})).recovery
    };
    let none = || json!({"code": 3});
    for (number, action) in [
        (0, RecoveryAction::None),
        (1, RecoveryAction::GpuReset),
        (2, RecoveryAction::NodeReboot),
        (3, RecoveryAction::DrainP2p),
        (4, RecoveryAction::DrainAndReset),
        (77, RecoveryAction::Other(77)),
    ] {
        // What is newer holds, whatever the older fields say.
        assert_eq!(recovery(json!({"value": number}), json!({"value": 1}), none()), Reading::Known(action));
    }
    assert_eq!(recovery(json!({"value": -1}), none(), none()), Reading::Unknown(Gap::Implausible));
    assert_eq!(recovery(json!({"code": 15}), json!({"value": 0}), none()), Reading::Unknown(Gap::Lost));
    let (yes, no) = (|| json!({"value": 1}), || json!({"value": 0}));
    assert_eq!(recovery(none(), yes(), no()), Reading::Known(RecoveryAction::GpuReset));
    assert_eq!(recovery(json!({"code": 2}), no(), yes()), Reading::Known(RecoveryAction::DrainAndReset));
    assert_eq!(recovery(none(), no(), none()), Reading::Known(RecoveryAction::None));
    assert_eq!(recovery(none(), no(), json!({"code": 999})), Reading::Unknown(Gap::Code(999)));
    assert_eq!(recovery(none(), none(), none()), Reading::Unsupported);
}

fn link(state: Value, errors: Value) -> Value {
    json!({"state": state, "errors": {"replay": errors, "recovery": {"value": 0}, "crc": {"code": 3}}})
}

#[test]
fn links_that_are_up_are_counted_and_their_errors_summed() {
    let nvlink = |links: Vec<Value>, total: Value| {
        one(json!({"nvlink": {"count": {"value": links.len()}, "links": links, "total": {"crc": total}}})).nvlink
    };
    let value = |number: i64| json!({"value": number});
    // Asleep is up; one that is down need not count its errors.
    let mixed = vec![link(value(1), value(5)), link(value(2), value(2)), link(value(0), json!({"code": 999}))];
    let found = nvlink(mixed.clone(), value(11));
    assert_eq!((found.links, found.active), (Reading::Known(3), Reading::Known(2)));
    assert_eq!((found.replay_errors, found.recovery_errors), (Reading::Known(7), Reading::Known(0)));
    assert_eq!(found.crc_errors, Reading::Known(11), "of all links together");
    assert_eq!(nvlink(mixed, json!({"code": 2})).crc_errors, Reading::Unsupported);

    let unread = nvlink(vec![link(value(1), value(5)), link(json!({"code": 15}), value(1))], value(0));
    assert_eq!(unread.active, Reading::Unknown(Gap::Lost), "an unread link is neither up nor down");
    let uncounted = nvlink(vec![link(value(1), json!({"code": 27}))], value(0));
    assert_eq!(uncounted.replay_errors, Reading::Unknown(Gap::NotReady));
    assert_eq!(nvlink(vec![link(value(7), value(0))], value(0)).active, Reading::Unknown(Gap::Implausible));
    assert_eq!(nvlink(vec![link(json!({"code": 3}), value(0))], value(0)).active, Reading::Unsupported);

    let none = nvlink(Vec::new(), json!({"code": 3}));
    assert_eq!((none.links, none.active), (Reading::Known(0), Reading::Known(0)));
    for (count, links) in [
        (json!({"code": 3}), Reading::Unsupported),
        (json!({"code": 15}), Reading::Unknown(Gap::Lost)),
        (json!({"value": 65}), Reading::Unknown(Gap::Implausible)),
    ] {
        let nvlink = one(json!({"nvlink": {"count": count}})).nvlink;
        assert_eq!((nvlink.links, nvlink.active), (links.clone(), links));
    }
    let unasked = one(json!({"nvlink": {"count": {"value": 18}}})).nvlink;
    assert_eq!(unasked.active, Reading::Unknown(Gap::NotAsked));
}

#[test]
fn the_highest_temperature_of_normal_operation_follows_from_the_margin_where_no_threshold_is_told() {
    let max = |thermal: Value| one(json!({"thermal": thermal})).thermal.gpu_max_operating;
    let (gpu, margin) = (json!({"value": 30}), json!({"value": 57}));
    assert_eq!(max(json!({"gpuMax": {"value": 87}})), Reading::Known(87));
    let absent = json!({"code": 3});
    let derived = json!({"gpu": gpu, "margin": margin, "gpuMax": absent, "gpuMaxMargin": {"value": 2}});
    assert_eq!(max(derived), Reading::Known(85));
    assert_eq!(max(json!({"gpu": gpu, "gpuMax": absent, "gpuMaxMargin": {"value": 2}})), Reading::Unsupported);
    assert_eq!(max(json!({"gpuMax": {"value": 255}})), Reading::Unknown(Gap::Implausible));
    assert_eq!(max(json!({"gpuMax": {"code": 15}, "gpu": gpu})), Reading::Unknown(Gap::Lost));
    let absurd =
        json!({"gpu": {"value": 150}, "margin": {"value": 150}, "gpuMax": absent, "gpuMaxMargin": {"value": -50}});
    assert_eq!(max(absurd), Reading::Unknown(Gap::Implausible));
}

fn instance(uuid: Value) -> Value {
    json!({
        "uuid": uuid, "gpuInstance": {"value": 7}, "computeInstance": {"value": 0}, "slices": {"value": 1},
        "memory": {"value": {"total": 10_000_000_000_u64, "reserved": 0, "used": 0}},
    })
}

#[test]
fn a_divided_device_has_its_instances() {
    let list = json!({"value": [instance(json!({"value": INSTANCE}))]});
    let device = one(json!({"mig": {"value": [1, 1]}, "instances": list}));
    assert!(device.mig.get().unwrap().current);
    let [instance] = device.instances.as_slice() else { panic!("{:?}", device.instances) };
    assert_eq!(instance.id.as_str(), INSTANCE);
    let place = InstancePlace { gpu_instance: 7, compute_instance: 0 };
    assert_eq!((&instance.place, &instance.slices), (&Reading::Known(place), &Reading::Known(1)));
    assert_eq!(instance.memory.total, Reading::Known(Bytes(10_000_000_000)));
    let whole = one(json!({"mig": {"value": [0, 0]}, "instances": {"value": []}}));
    assert!(whole.instances.is_empty() && !whole.mig.get().unwrap().current);
}

#[test]
fn without_the_whole_list_of_its_instances_it_is_not_known_how_a_device_is_divided() {
    for (list, gap) in [
        (json!("unstable"), Gap::Unstable),
        (json!({"code": 15}), Gap::Lost),
        (json!({"value": [instance(json!({"code": 4}))]}), Gap::NoPermission),
        (json!({"value": [instance(json!({"value": "MIG-../../etc"}))]}), Gap::Implausible),
    ] {
        let device = one(json!({"mig": {"value": [1, 1]}, "instances": list}));
        assert_eq!(device.mig, Reading::Unknown(gap));
        assert!(device.instances.is_empty());
    }
    let unlisted = one(json!({"mig": {"value": [1, 1]}, "instances": {"code": 3}}));
    assert!(unlisted.mig.get().unwrap().current && unlisted.instances.is_empty());
}

#[test]
fn a_process_in_two_lists_is_one_and_an_unread_list_is_not_an_empty_one() {
    let none = u32::MAX;
    let lists = |compute: Value, graphics: Value, mps: Value| {
        one(json!({"mig": {"value": [0, 0]}, "processes": {"compute": compute, "graphics": graphics, "mps": mps}}))
            .processes
    };
    let empty = || json!({"value": []});
    assert_eq!(lists(empty(), empty(), empty()), Reading::Known(Vec::new()));
    let found = lists(
        json!({"value": [[10, 500, none, none], [11, u64::MAX, none, none]]}),
        json!({"value": [[10, 500, none, none]]}),
        json!({"value": [[11, 70, none, none]]}),
    );
    let found = found.known().unwrap();
    let told: Vec<_> = found.iter().map(|p| (p.pid, p.kind, p.used.get(), p.place)).collect();
    assert_eq!(
        told,
        [(10, ProcessKind::Compute, Some(Bytes(500)), None), (11, ProcessKind::Mps, Some(Bytes(70)), None)]
    );
    let unknown = lists(json!({"value": [[10, u64::MAX, none, none]]}), empty(), json!({"code": 3}));
    assert_eq!(unknown.known().unwrap()[0].used, Reading::Unsupported, "not available is not zero");
    for (failed, gap) in [
        (json!("unstable"), Gap::Unstable),
        (json!("tooMany"), Gap::Implausible),
        (json!({"code": 4}), Gap::NoPermission),
        (json!({"value": [[5_000_000, 1, none, none]]}), Gap::Implausible),
    ] {
        assert_eq!(lists(empty(), failed, empty()), Reading::Unknown(gap));
    }
    assert_eq!(lists(json!({"code": 3}), json!("noSymbol"), json!({"code": 3})), Reading::Unsupported);
}

#[test]
fn a_process_of_an_instance_is_told_from_the_same_process_in_another() {
    let device = one(json!({
        "mig": {"value": [1, 1]}, "instances": {"value": []},
        "processes": {"compute": {"value": [[10, 1, 7, 0], [10, 2, 8, 0]]}, "graphics": {"code": 3}, "mps": {"code": 3}},
    }));
    let places: Vec<_> =
        device.processes.known().unwrap().iter().map(|process| process.place.unwrap().gpu_instance).collect();
    assert_eq!(places, [7, 8]);
}

#[test]
fn confidential_computing_is_said_of_each_device() {
    let read = |raw: Value| survey_with(raw, &[device(0, ONE, json!({}))]).devices[0].confidential.clone();
    for (state, mode) in [
        ([1, 0], ConfidentialMode::On),
        ([1, 1], ConfidentialMode::DevTools),
        ([0, 1], ConfidentialMode::DevTools),
        ([0, 0], ConfidentialMode::Off),
    ] {
        let raw = json!({"capabilities": {"value": [3, 1]}, "state": {"value": state}, "ready": {"value": 0}});
        let found = read(raw);
        assert_eq!(
            (found.mode, found.capable, found.ready),
            (Reading::Known(mode), Reading::Known(true), Reading::Known(false))
        );
    }
    let absent = json!({"capabilities": {"value": [0, 1]}, "state": {"code": 3}, "ready": {"value": 2}});
    let found = read(absent);
    assert_eq!((found.capable, found.mode), (Reading::Known(false), Reading::Unsupported));
    assert_eq!(found.ready, Reading::Unknown(Gap::Implausible));
}

#[test]
fn a_device_without_a_usable_uuid_is_counted_but_not_listed() {
    let lost = json!({"index": 0, "uuid": {"code": 15}});
    let gone = json!({"index": 1, "uuid": {"code": 28}});
    let odd = device(2, "GPU-fa4e0000-../../etc/passwd", json!({}));
    let survey = survey(&[lost, gone, odd, device(3, ONE, json!({}))]);
    assert_eq!((survey.devices.len(), survey.lost_unidentified, survey.other_unidentified), (1, 2, 1));
    assert_eq!((survey.devices[0].index, survey.taken), (3, TAKEN));
}

#[test]
fn a_device_that_ends_as_another_than_it_began_is_not_believed() {
    let mut renumbered = device(0, ONE, json!({}));
    renumbered["said"]["uuidAgain"] = json!({"value": "GPU-fa4e0000-0000-4000-8000-000000000002"});
    let mut vanished = device(1, ONE, json!({}));
    vanished["said"]["uuidAgain"] = json!({"code": 15});
    let survey = survey(&[renumbered, vanished]);
    assert_eq!((survey.devices.len(), survey.lost_unidentified, survey.other_unidentified), (0, 1, 1));
}

#[test]
fn a_name_cannot_break_a_line_or_a_label() {
    let product = |text: String| one(json!({"product": {"value": text}})).identity.product;
    assert_eq!(product("H100\n\u{202e}\"} 1\u{7}\0".to_owned()).known().unwrap().as_str(), "H100 ?\"} 1??");
    assert_eq!(product("x".repeat(100_000)).known().unwrap().as_str().len(), 95);
}

#[test]
fn what_the_library_prints_beside_the_answer_is_passed_over() {
    let failed = json!({"failed": {"failure": "driverNotLoaded", "code": 9, "message": "driver\nnot loaded"}});
    let nvml = judge(format!("NVRM: hello\n{MARK}{failed}\ngoodbye\n").as_bytes(), TAKEN).nvml;
    let message = "driver not loaded".to_owned();
    assert_eq!(nvml, Nvml::Failed { failure: Failure::DriverNotLoaded, code: Some(9), message });
}

#[test]
fn no_answer_two_answers_and_half_an_answer_are_garbled() {
    let one = format!("\n{MARK}{}\n", json!({"failed": {"failure": "error", "message": ""}})).into_bytes();
    for output in
        [b"".to_vec(), b"hello\n".to_vec(), [one.clone(), one.clone()].concat(), one[..one.len() - 4].to_vec()]
    {
        assert_eq!(judge(&output, TAKEN).failure(), Some(Failure::Garbled), "{}", String::from_utf8_lossy(&output));
    }
}

#[test]
fn more_devices_than_the_cap_are_garbled() {
    let devices: Vec<Value> = (0..=MAX_DEVICES).map(|index| device(index, ONE, json!({}))).collect();
    assert_eq!(survey(&devices).failure(), Some(Failure::Garbled));
}

#[test]
fn errors_are_those_of_nvmls_functions_and_not_too_many() {
    let errors: Vec<Value> = ["nvmlDeviceGetUUID", "printf", "nvml", "nvml{x}", ""]
        .into_iter()
        .map(str::to_owned)
        .chain((0..100).map(|number| format!("nvmlNew{number}")))
        .map(|symbol| json!({"symbol": symbol, "code": 15, "count": 1}))
        .collect();
    let answer = json!({"read": {"driverVersion": {"code": 15}, "nvmlVersion": {"code": 15}, "cudaVersion": {"code": 15},
        "count": 0, "devices": [], "errors": errors}});
    let survey = judge(format!("{MARK}{answer}\n").as_bytes(), TAKEN);
    assert_eq!(survey.errors.len(), MAX_ERRORS);
    let symbols: Vec<&str> = survey.errors.iter().map(|error| error.symbol.as_str()).collect();
    assert_eq!(symbols[..2], ["nvmlDeviceGetUUID", "nvmlNew0"]);
}

proptest! {
    #[test]
    fn any_output_is_judged_without_a_panic_and_yields_no_more_than_the_cap(
        noise in proptest::collection::vec(any::<u8>(), 0..400),
        marked in any::<bool>(),
    ) {
        let output = if marked { [MARK.as_bytes(), &noise].concat() } else { noise };
        prop_assert!(judge(&output, TAKEN).devices.len() <= MAX_DEVICES as usize);
    }

    #[test]
    fn any_numbers_are_judged_without_a_panic(numbers in proptest::collection::vec(any::<u32>(), 8), wide in any::<i64>()) {
        let [a, b, c, d, e, f, g, h] = numbers.try_into().unwrap();
        let value = |number: u32| json!({"value": number});
        let _ = one(json!({
            "computeCapability": {"value": [a.cast_signed(), b.cast_signed()]},
            "thermal": {"gpu": value(c), "margin": {"value": d.cast_signed()}, "gpuMaxMargin": {"value": wide}},
            "mig": {"value": [e, f]}, "instances": {"value": [instance(json!({"value": INSTANCE}))]},
            "nvlink": {"count": {"value": wide}, "links": [link(json!({"value": wide}), json!({"value": wide}))]},
            "recovery": {"action": {"value": wide}},
            "processes": {"compute": {"value": [[g, wide.cast_unsigned(), h, a]]}},
        }));
    }
}
