//! What a client hears that waits for events.

#![allow(unsafe_code)] // for null handles, which the wrapper does not show.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy knows tests by their attribute, not their helpers.

mod common;

use std::time::{Duration, Instant};

use common::{Loaded, zeroed};
use fake_nvml::{Device, Event, Scenario};
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use nvml_wrapper_sys::bindings::nvmlEventData_t;

fn two_gpus(events: Vec<Event>) -> Scenario {
    Scenario { events, ..Scenario::of(vec![Device::h100(1), Device::h100(2)]) }
}

/// A set with the XIDs and memory errors of these devices.
fn listening<'nvml>(nvml: &'nvml Nvml, devices: &[u32]) -> EventSet<'nvml> {
    let mut set = nvml.create_event_set().unwrap();
    let types = EventTypes::CRITICAL_XID_ERROR | EventTypes::DOUBLE_BIT_ECC_ERROR | EventTypes::SINGLE_BIT_ECC_ERROR;
    for index in devices {
        set = nvml.device_by_index(*index).unwrap().register_events(types, set).unwrap();
    }
    set
}

/// The XIDs that are there now, with the UUID's last digit of their devices.
fn heard(set: &EventSet<'_>) -> Vec<(char, u64)> {
    let mut all = Vec::new();
    while let Ok(event) = set.wait(0) {
        let Some(XidError::Value(code)) = event.event_data else { panic!("{event:?}") };
        all.push((event.device.uuid().unwrap().chars().last().unwrap(), code));
    }
    all
}

#[test]
fn a_client_hears_each_event_of_its_devices_once() {
    let node = Loaded::with(&two_gpus(vec![Event::xid(0, 79), Event::xid(1, 48), Event::xid(0, 63)]));
    let nvml = node.nvml();
    let set = listening(&nvml, &[0, 1]);
    assert_eq!(heard(&set), [('1', 79), ('2', 48), ('1', 63)]);
    assert_eq!(heard(&set), []);
    assert_eq!(heard(&listening(&nvml, &[0, 1])), [], "another set of the same process has heard them too");
}

#[test]
fn a_client_does_not_hear_what_it_did_not_ask_for() {
    let corrected = Event::xid(0, 0).but(|event| event.types = 1);
    let clock = Event::xid(0, 0).but(|event| event.types = 16);
    let node = Loaded::with(&two_gpus(vec![clock, Event::xid(1, 48), corrected]));
    let nvml = node.nvml();
    let set = listening(&nvml, &[0]);
    assert_eq!(set.wait(0).unwrap().event_type, EventTypes::SINGLE_BIT_ECC_ERROR);
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)), "the XID is of the other device");
    let nobody = nvml.create_event_set().unwrap();
    assert!(matches!(nobody.wait(0), Err(NvmlError::Timeout)));
    assert_eq!(heard(&listening(&nvml, &[1])), [('2', 48)]);
}

#[test]
fn a_wait_lasts_until_its_time_is_over_or_an_event_comes() {
    let node = Loaded::with(&two_gpus(vec![Event::xid(0, 79).but(|event| event.after_milliseconds = 600)]));
    let nvml = node.nvml();
    let set = listening(&nvml, &[0]);
    let started = Instant::now();
    assert!(matches!(set.wait(250), Err(NvmlError::Timeout)));
    assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
    assert!(set.wait(20_000).is_ok());
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(550) && elapsed < Duration::from_secs(15), "{elapsed:?}");
}

#[test]
fn a_wait_does_not_hold_up_other_calls() {
    let node = Loaded::with(&two_gpus(vec![]));
    let nvml = node.nvml();
    let set = listening(&nvml, &[0]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || set.wait(1500).is_err());
        std::thread::sleep(Duration::from_millis(100));
        let started = Instant::now();
        assert_eq!(nvml.device_count().unwrap(), 2);
        assert!(started.elapsed() < Duration::from_millis(1000), "{:?}", started.elapsed());
        assert!(waiting.join().unwrap());
    });
}

#[test]
fn an_event_that_is_added_is_heard_and_those_before_it_are_not_heard_again() {
    let node = Loaded::with(&two_gpus(vec![Event::xid(0, 31)]));
    let nvml = node.nvml();
    let set = listening(&nvml, &[0]);
    assert_eq!(heard(&set), [('1', 31)]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            node.becomes(&two_gpus(vec![Event::xid(0, 31), Event::xid(0, 94)]));
        });
        let event = set.wait(20_000).unwrap();
        assert!(matches!(event.event_data, Some(XidError::Value(94))), "{event:?}");
    });
    assert_eq!(heard(&set), []);
    node.becomes(&two_gpus(vec![]));
    assert_eq!(heard(&set), []);
    node.becomes(&two_gpus(vec![Event::xid(0, 31)]));
    assert_eq!(heard(&set), [('1', 31)], "it stood no longer in the scenario, so it has happened anew");
}

#[test]
fn of_two_xids_before_a_wait_only_the_last_code_may_arrive() {
    let later = Event::xid(0, 45).but(|event| event.after_milliseconds = 1);
    let scenario = two_gpus(vec![Event::xid(0, 48), later, Event::xid(1, 13)]);
    let node = Loaded::with(&Scenario { last_xid_only: true, ..scenario });
    let nvml = node.nvml();
    let set = listening(&nvml, &[0, 1]);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(heard(&set), [('1', 45), ('2', 13), ('1', 45)]);
}

#[test]
fn a_storm_delivers_every_event_and_keeps_its_rate() {
    let all_at_once = Event::xid(0, 92).but(|event| event.times = 1000);
    let node = Loaded::with(&two_gpus(vec![all_at_once]));
    let nvml = node.nvml();
    let set = listening(&nvml, &[0]);
    assert_eq!(heard(&set).len(), 1000);
    let steady = Event::xid(0, 92).but(|event| (event.times, event.every_milliseconds) = (4, 100));
    let started = Instant::now();
    node.becomes(&two_gpus(vec![steady]));
    for _ in 0..4 {
        set.wait(20_000).unwrap();
    }
    assert!(started.elapsed() >= Duration::from_millis(280), "{:?}", started.elapsed());
    assert!(matches!(set.wait(150), Err(NvmlError::Timeout)));
}

#[test]
fn a_driver_may_deliver_a_null_handle_and_a_type_that_nobody_knows() {
    let unknown = Event::xid(0, 3).but(|event| (event.types, event.unasked) = (0x8000, true));
    let of_nobody = Event::xid(0, 79).but(|event| event.device = None);
    let divided = Event::xid(1, 94).but(|event| (event.gi, event.ci) = (Some(7), Some(0)));
    let node = Loaded::with(&two_gpus(vec![unknown, of_nobody, divided]));
    let nvml = node.nvml();
    let set = listening(&nvml, &[1]);
    let event = set.wait(0).unwrap();
    assert_eq!(
        (event.event_type, event.event_data.is_none()),
        (EventTypes::empty(), true),
        "the wrapper drops the bit"
    );
    let mut data: nvmlEventData_t = zeroed();
    // SAFETY: a set that the library gave, and pointers to locals.
    let mut wait = || unsafe {
        assert_eq!(node.raw.nvmlEventSetWait_v2(set.handle(), &mut data, 0), 0);
        (data.device.is_null(), data.eventType, data.eventData, data.gpuInstanceId, data.computeInstanceId)
    };
    assert_eq!(wait(), (true, 8, 79, u32::MAX, u32::MAX));
    assert_eq!(wait(), (false, 8, 94, 7, 0));
}

#[test]
fn only_supported_types_can_be_asked_for() {
    let deaf = Device { event_types: None, ..Device::h100(3) };
    let node = Loaded::with(&Scenario::of(vec![Device::h100(1), deaf, Device::h100(4).divided(1)]));
    let nvml = node.nvml();
    let ask = |device: nvml_wrapper::Device<'_>, types| {
        let set = nvml.create_event_set().unwrap();
        device.register_events(types, set).map(drop).map_err(|failed| u32::from(failed.error))
    };
    assert_eq!(ask(nvml.device_by_index(0).unwrap(), EventTypes::CRITICAL_XID_ERROR), Ok(()));
    let unknown = EventTypes::CRITICAL_XID_ERROR | EventTypes::CLOCK_CHANGE;
    assert_eq!(ask(nvml.device_by_index(0).unwrap(), unknown), Err(3));
    assert_eq!(ask(nvml.device_by_index(1).unwrap(), EventTypes::CRITICAL_XID_ERROR), Err(3));
    let instance = nvml.device_by_index(2).unwrap().mig_device_by_index(0).unwrap();
    assert_eq!(ask(instance, EventTypes::CRITICAL_XID_ERROR), Err(3));
}

#[test]
fn sets_are_limited_and_freed_ones_can_be_had_again() {
    let node = Loaded::with(&two_gpus(vec![]));
    let nvml = node.nvml();
    for _ in 0..200 {
        nvml.create_event_set().unwrap().release_events().unwrap();
    }
    let kept: Vec<EventSet<'_>> = std::iter::from_fn(|| nvml.create_event_set().ok()).take(1000).collect();
    assert_eq!(kept.len(), 64);
    assert_eq!(nvml.create_event_set().map(drop).map_err(u32::from), Err(23));
}
