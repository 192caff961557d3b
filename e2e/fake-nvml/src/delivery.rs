//! Event sets, and which events each client process has heard.

use std::ptr;
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_RESOURCES,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT, nvmlReturn_t,
};

use crate::handles::{Handles, Target};
use crate::scenario::{Event, Scenario};

/// As handles of devices are, these are real memory.
static SLOTS: [[u64; 8]; 64] = [[0xfa4e_0001; 8]; 64];
/// NVML's mark for an event of a device that is not divided.
const NO_INSTANCE: u32 = u32::MAX;

/// Event sets, and which events this process has heard.
#[derive(Default)]
pub(crate) struct Delivery {
    /// In the order of [`SLOTS`]; none where a set was freed.
    sets: Vec<Option<Set>>,
    heard: Vec<Heard>,
}

/// For which event types of which devices a set is registered.
#[derive(Default)]
struct Set(Vec<(nvmlDevice_t, u64)>);

// SAFETY: a handle is an address that is compared and never followed.
unsafe impl Send for Set {}

/// How often an event was delivered since it first stood in a scenario.
struct Heard {
    event: Event,
    since: Instant,
    times: u32,
}

impl Delivery {
    /// Goes on with the events that still stand in the scenario, and begins with the new ones.
    pub(crate) fn follow(&mut self, events: &[Event], now: Instant) {
        let mut before = std::mem::take(&mut self.heard);
        self.heard = events
            .iter()
            .map(|event| match before.iter().position(|heard| heard.event == *event) {
                Some(known) => before.swap_remove(known),
                None => Heard { event: event.clone(), since: now, times: 0 },
            })
            .collect();
    }

    pub(crate) fn create(&mut self) -> Result<nvmlEventSet_t, nvmlReturn_t> {
        let slot = self.sets.iter().position(Option::is_none).unwrap_or(self.sets.len());
        let memory = SLOTS.get(slot).ok_or(nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_RESOURCES)?;
        if slot == self.sets.len() {
            self.sets.push(None);
        }
        if let Some(place) = self.sets.get_mut(slot) {
            *place = Some(Set::default());
        }
        Ok(ptr::from_ref(memory).cast_mut().cast())
    }

    pub(crate) fn free(&mut self, handle: nvmlEventSet_t) -> Result<(), nvmlReturn_t> {
        let slot = self.slot(handle)?;
        self.sets.get_mut(slot).and_then(Option::take).map(drop).ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)
    }

    pub(crate) fn free_all(&mut self) {
        self.sets.clear();
    }

    pub(crate) fn register(
        &mut self,
        handle: nvmlEventSet_t,
        device: nvmlDevice_t,
        types: u64,
    ) -> Result<(), nvmlReturn_t> {
        let slot = self.slot(handle)?;
        let set =
            self.sets.get_mut(slot).and_then(Option::as_mut).ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)?;
        match set.0.iter_mut().find(|(known, _)| *known == device) {
            Some((_, known)) => *known |= types,
            None => set.0.push((device, types)),
        }
        Ok(())
    }

    /// Whether this is a set that exists.
    pub(crate) fn knows(&self, handle: nvmlEventSet_t) -> Result<(), nvmlReturn_t> {
        self.slot(handle).map(drop)
    }

    fn slot(&self, handle: nvmlEventSet_t) -> Result<usize, nvmlReturn_t> {
        let slot = SLOTS.iter().position(|slot| ptr::addr_eq(slot, handle));
        slot.filter(|slot| self.sets.get(*slot).is_some_and(Option::is_some))
            .ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)
    }

    /// The event that has waited longest for this set, if one has.
    pub(crate) fn next(
        &mut self,
        handles: &mut Handles,
        scenario: &Scenario,
        set: nvmlEventSet_t,
        now: Instant,
    ) -> Result<Option<nvmlEventData_t>, nvmlReturn_t> {
        let slot = self.slot(set)?;
        let Some(Some(set)) = self.sets.get(slot) else { return Ok(None) };
        let mut longest: Option<(Instant, usize, nvmlDevice_t)> = None;
        for (index, heard) in self.heard.iter().enumerate() {
            if heard.times >= heard.happened(now) {
                continue;
            }
            let device = handle_of(handles, scenario, &heard.event)?;
            let due = heard.due(heard.times);
            if set.asked_for(&heard.event, device) && longest.is_none_or(|(earliest, ..)| due < earliest) {
                longest = Some((due, index, device));
            }
        }
        let Some((_, index, device)) = longest else { return Ok(None) };
        let Some(heard) = self.heard.get_mut(index) else { return Ok(None) };
        heard.times = heard.times.saturating_add(1);
        let event = heard.event.clone();
        let data = if scenario.last_xid_only && event.is_xid() { self.last_xid(&event, now) } else { event.data };
        Ok(Some(nvmlEventData_t {
            device,
            eventType: event.types,
            eventData: data,
            gpuInstanceId: event.gi.unwrap_or(NO_INSTANCE),
            computeInstanceId: event.ci.unwrap_or(NO_INSTANCE),
        }))
    }

    /// The code of the last XID that happened to the device of this one.
    fn last_xid(&self, of: &Event, now: Instant) -> u64 {
        let happened = self.heard.iter().filter(|heard| heard.event.is_xid() && heard.event.device == of.device);
        let last =
            happened.filter_map(|heard| Some((heard.due(heard.happened(now).checked_sub(1)?), heard.event.data)));
        // Of several at one instant the one that stands last.
        last.max_by_key(|(due, _)| *due).map_or(of.data, |(_, code)| code)
    }
}

/// Null for an event of no device, as a broken driver delivers it.
fn handle_of(handles: &mut Handles, scenario: &Scenario, event: &Event) -> Result<nvmlDevice_t, nvmlReturn_t> {
    match event.device.map(usize::try_from) {
        Some(Ok(device)) => handles.handle(scenario, Target { device, instance: None }),
        _ => Ok(ptr::null_mut()),
    }
}

impl Set {
    fn asked_for(&self, event: &Event, device: nvmlDevice_t) -> bool {
        let concerns = |registered: nvmlDevice_t| device.is_null() || registered == device;
        event.unasked || self.0.iter().any(|(registered, types)| concerns(*registered) && types & event.types != 0)
    }
}

impl Heard {
    /// When it happens for the given time, counted from 0.
    fn due(&self, time: u32) -> Instant {
        let later = self.event.every_milliseconds.saturating_mul(u64::from(time));
        self.since + Duration::from_millis(self.event.after_milliseconds.saturating_add(later).min(MAX_MILLISECONDS))
    }

    /// How often it has happened.
    fn happened(&self, now: Instant) -> u32 {
        let since_first = now.saturating_duration_since(self.since).as_millis();
        let Some(since_first) = since_first.checked_sub(u128::from(self.event.after_milliseconds)) else { return 0 };
        let repeats = since_first.checked_div(u128::from(self.event.every_milliseconds));
        let so_far = repeats.map_or(u32::MAX, |repeats| u32::try_from(repeats).unwrap_or(u32::MAX).saturating_add(1));
        so_far.min(self.event.times)
    }
}

/// A year, so that no sum of times overflows.
const MAX_MILLISECONDS: u64 = 365 * 24 * 3600 * 1000;
