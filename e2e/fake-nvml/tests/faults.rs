//! What goes wrong with the library as a whole, or changes under a client.

#![allow(unsafe_code)] // for counting through the raw symbol.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, not their helpers.

mod common;

use std::time::{Duration, Instant};

use common::{Loaded, zeroed};
use fake_nvml::{Behaviour, Device, DeviceState, EVERY_SYMBOL, Event, Fault, SYMBOLS, Scenario};
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;

fn code<T>(answer: Result<T, nvml_wrapper::error::NvmlError>) -> u32 {
    answer.map_or_else(u32::from, |_| 0)
}

fn uuid(nvml: &Nvml, index: u32) -> Result<String, u32> {
    nvml.device_by_index(index).and_then(|device| device.uuid()).map_err(u32::from)
}

#[test]
fn a_fault_of_every_symbol_strikes_every_call_and_ends_with_the_file() {
    let sound = Scenario::known(vec![Device::h100(1)]);
    let node = Loaded::with(&sound);
    let nvml = node.nvml();
    let device = nvml.device_by_index(0).unwrap();
    for behaviour in [999, 1, 15, 29, 12_345] {
        node.becomes(&sound.clone().with_fault(EVERY_SYMBOL, None, Behaviour::Return(behaviour)));
        let codes = [
            code(nvml.device_count()),
            code(device.uuid()),
            code(nvml.create_event_set()),
            code(nvml.sys_nvml_version()),
        ];
        assert_eq!(codes, [behaviour; 4]);
        node.becomes(&sound);
        assert_eq!(code(device.uuid()), 0);
    }
    node.becomes(&sound.clone().with_fault(EVERY_SYMBOL, Some(0), Behaviour::Return(15)));
    assert_eq!((code(nvml.device_count()), code(device.uuid()), code(device.name())), (0, 15, 15));
}

#[test]
fn each_symbol_can_return_any_code() {
    let node = Loaded::with(&Scenario::known(vec![Device::h100(1)]));
    let nvml = node.nvml();
    let device = nvml.device_by_index(0).unwrap();
    for symbol in SYMBOLS.iter().filter(|symbol| **symbol != "nvmlErrorString") {
        node.becomes(&Scenario::known(vec![Device::h100(1)]).with_fault(symbol, None, Behaviour::Return(28)));
        let struck = [
            ("nvmlDeviceGetCount_v2", code(nvml.device_count())),
            ("nvmlDeviceGetUUID", code(device.uuid())),
            ("nvmlDeviceGetFieldValues", code(device.field_values_for(&[nvml_wrapper::structs::device::FieldId(1)]))),
        ];
        for (asked, code) in struck {
            assert_eq!(code, if asked == *symbol { 28 } else { 0 }, "{asked} while {symbol} is struck");
        }
    }
}

#[test]
fn a_driver_that_was_loaded_again_wants_a_new_initialisation() {
    let loads = |driver_loads| Scenario { driver_loads, ..Scenario::of(vec![Device::h100(1)]) };
    let node = Loaded::with(&loads(0));
    let nvml = node.nvml();
    let set = nvml.create_event_set().unwrap();
    assert_eq!(code(nvml.device_count()), 0);
    node.becomes(&loads(1));
    assert_eq!((code(nvml.device_count()), uuid(&nvml, 0), code(set.wait(0))), (1, Err(1), 1));
    // SAFETY: without arguments.
    assert_eq!(unsafe { node.raw.nvmlInit_v2() }, 0);
    assert_eq!((code(nvml.device_count()), uuid(&nvml, 0).is_ok()), (0, true));
    assert_eq!(code(set.wait(0)), 2, "what clients had before is gone");
    // SAFETY: without arguments.
    assert_eq!(unsafe { node.raw.nvmlShutdown() }, 0, "the count began anew");
    assert_eq!(code(nvml.device_count()), 1);
}

#[test]
fn after_the_last_shutdown_a_set_of_events_is_no_more() {
    let node = Loaded::with(&Scenario::of(vec![Device::h100(1)]));
    let nvml = &node.raw;
    let (mut set, mut data) = (std::ptr::null_mut(), zeroed());
    // SAFETY: pointers to locals.
    unsafe {
        assert_eq!((nvml.nvmlInit_v2(), nvml.nvmlEventSetCreate(&mut set)), (0, 0));
        assert_eq!(nvml.nvmlEventSetWait_v2(set, &mut data, 0), 10);
        assert_eq!((nvml.nvmlShutdown(), nvml.nvmlInit_v2()), (0, 0));
        assert_eq!(nvml.nvmlEventSetWait_v2(set, &mut data, 0), 2);
        assert_eq!(nvml.nvmlShutdown(), 0);
    }
}

#[test]
fn a_thread_that_hangs_in_a_wait_leaves_the_others() {
    let hang = Scenario::of(vec![Device::h100(1)]).with_fault("nvmlEventSetWait_v2", None, Behaviour::Hang);
    let node = Loaded::with(&hang);
    // Never closed: a thread stays in it for good.
    let nvml: &'static Nvml = Box::leak(Box::new(node.nvml()));
    let set = nvml.create_event_set().unwrap();
    let waiting = std::thread::spawn(move || set.wait(0).is_ok());
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(300) {
        assert_eq!(nvml.device_count().unwrap(), 1);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!waiting.is_finished(), "its time was over at once");
    // The other tests count initialisations.
    // SAFETY: without arguments.
    assert_eq!(unsafe { node.raw.nvmlShutdown() }, 0);
}

#[test]
fn the_count_may_change_from_call_to_call() {
    let node = Loaded::with(&Scenario { counts: vec![2, 0, u32::MAX, 1], ..Scenario::of(vec![Device::h100(1)]) });
    let nvml = node.nvml();
    let counted: Vec<u32> = (0..6).map(|_| nvml.device_count().unwrap()).collect();
    assert_eq!(counted, [2, 0, u32::MAX, 1, 1, 1]);
}

#[test]
fn a_handle_follows_its_device_when_others_vanish_and_come() {
    let node = Loaded::with(&Scenario::of(vec![Device::h100(1), Device::h100(2)]));
    let nvml = node.nvml();
    let (first, second) = (nvml.device_by_index(0).unwrap(), nvml.device_by_index(1).unwrap());
    node.becomes(&Scenario::of(vec![Device::h100(2), Device::h100(3)]));
    assert_eq!(code(first.uuid()), 15, "it was taken out");
    assert!(second.uuid().unwrap().ends_with('2'), "it is the first now");
    assert!(uuid(&nvml, 0).unwrap().ends_with('2'));
    assert!(uuid(&nvml, 1).unwrap().ends_with('3'), "and one that came");
    node.becomes(&Scenario::of(vec![Device::h100(1)]));
    assert!(first.uuid().unwrap().ends_with('1'), "it is back");
}

#[test]
fn a_device_that_falls_off_the_bus_says_so_first_and_then_nothing() {
    let node = Loaded::with(&Scenario::of(vec![Device::h100(1), Device::h100(2)]));
    let nvml = node.nvml();
    let set = nvml.create_event_set().unwrap();
    let set = nvml.device_by_index(0).unwrap().register_events(EventTypes::CRITICAL_XID_ERROR, set).unwrap();
    let lost = Device::h100(1).but(|device| device.state = DeviceState::Lost);
    node.becomes(&Scenario { events: vec![Event::xid(0, 79)], ..Scenario::of(vec![lost, Device::h100(2)]) });
    let event = set.wait(10_000).unwrap();
    assert_eq!(event.event_type, EventTypes::CRITICAL_XID_ERROR);
    assert_eq!((code(event.device.uuid()), uuid(&nvml, 0)), (15, Err(15)));
    assert!(uuid(&nvml, 1).unwrap().ends_with('2'));
    assert_eq!(nvml.device_count().unwrap(), 2);
}

#[test]
fn a_wait_may_be_slow_or_fail_without_an_event() {
    let wait = |behaviour| Scenario::of(vec![Device::h100(1)]).with_fault("nvmlEventSetWait_v2", None, behaviour);
    let node = Loaded::with(&wait(Behaviour::Return(15)));
    let nvml = node.nvml();
    let set = nvml.create_event_set().unwrap();
    assert_eq!(code(set.wait(60_000)), 15);
    node.becomes(&wait(Behaviour::DelayMilliseconds(300)));
    let started = Instant::now();
    assert_eq!(code(set.wait(0)), 10);
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_value_may_go_wrong_only_after_some_calls() {
    let behaviour = Behaviour::Return(21);
    let fault = Fault { symbol: "nvmlDeviceGetName".to_owned(), device: Some(1), after_calls: 2, behaviour };
    let scenario = Scenario { faults: vec![fault], ..Scenario::of(vec![Device::h100(1), Device::h100(2).divided(2)]) };
    let node = Loaded::with(&scenario);
    let nvml = node.nvml();
    let device = nvml.device_by_index(1).unwrap();
    let instance = device.mig_device_by_index(0).unwrap();
    assert_eq!([code(device.name()), code(instance.name())], [0, 0]);
    assert_eq!([code(instance.name()), code(device.name())], [21, 21], "instances count for their device");
    assert_eq!(code(nvml.device_by_index(0).unwrap().name()), 0);
}

#[test]
fn counters_and_sizes_may_step_backwards_with_the_file() {
    let with = |energy, memory| {
        Scenario::of(vec![Device::h100(1).but(|device| {
            device.telemetry.energy_millijoules = Some(energy);
            device.memory_bytes = Some(memory);
        })])
    };
    let node = Loaded::with(&with(1_000_000, 80 << 30));
    let nvml = node.nvml();
    let device = nvml.device_by_index(0).unwrap();
    let seen = || (device.total_energy_consumption().unwrap(), device.memory_info().unwrap().total);
    assert_eq!(seen(), (1_000_000, 80 << 30));
    node.becomes(&with(5, 72 << 30));
    assert_eq!(seen(), (5, 72 << 30));
}
