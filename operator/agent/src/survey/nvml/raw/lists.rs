//! The calls that answer with many values, and those about events.

use std::os::raw::{c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlFieldValue_t, nvmlProcessInfo_t, nvmlReturn_t, nvmlValue_t,
};

use super::super::super::wire::Raw;
use super::{Handle, Library, SUCCESS, Symbol, UNKNOWN, symbol};

const INSUFFICIENT_SIZE: nvmlReturn_t = 7;

/// The answer to a list of a size that nobody knows before.
pub(in crate::survey) enum Listed<T> {
    Whole(Vec<T>),
    /// The buffer was too small for so many.
    More(u32),
    Not(Raw<()>),
}

/// Which list of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::survey) enum List {
    Compute,
    Graphics,
    Mps,
}

/// Events that are waited for together.
pub(in crate::survey) struct EventSet(nvmlEventSet_t);

/// One event, with what it says of itself.
#[derive(Debug, Clone, Copy)]
pub(in crate::survey) struct Event {
    /// None where the library names no device.
    pub(in crate::survey) device: Option<Handle>,
    pub(in crate::survey) kind: u64,
    pub(in crate::survey) data: u64,
    pub(in crate::survey) gpu_instance: u32,
    pub(in crate::survey) compute_instance: u32,
}

type GetList = unsafe extern "C" fn(nvmlDevice_t, *mut c_uint, *mut nvmlProcessInfo_t) -> nvmlReturn_t;

impl Library {
    /// The processes of one list, if they are at most `room`.
    pub(in crate::survey) fn processes(&self, list: List, device: Handle, room: u32) -> Listed<nvmlProcessInfo_t> {
        let symbol: Symbol<GetList> = match list {
            List::Compute => symbol!(self, nvmlDeviceGetComputeRunningProcesses_v3),
            List::Graphics => symbol!(self, nvmlDeviceGetGraphicsRunningProcesses_v3),
            List::Mps => symbol!(self, nvmlDeviceGetMPSComputeRunningProcesses_v3),
        };
        let mut count = room;
        let blank = nvmlProcessInfo_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 };
        let mut found = vec![blank; usize::try_from(room).unwrap_or(0)];
        let asked = self.ask(symbol, size_of::<nvmlProcessInfo_t>(), |function| {
            // SAFETY: as said above; `count` says how many there is room for.
            (unsafe { function(device.0, &raw mut count, found.as_mut_ptr()) }, ())
        });
        match asked {
            Raw::Value(()) if count <= room => {
                found.truncate(usize::try_from(count).unwrap_or(0));
                Listed::Whole(found)
            }
            Raw::Value(()) | Raw::Code(INSUFFICIENT_SIZE) => Listed::More(count),
            other => Listed::Not(other),
        }
    }

    /// Fields by number and scope. The answers stand in the order of the questions: the library gives some of them other numbers.
    pub(in crate::survey) fn fields(&self, device: Handle, wanted: &[(u32, u32)]) -> Raw<Vec<Raw<i64>>> {
        let mut fields: Vec<nvmlFieldValue_t> = wanted
            .iter()
            .map(|(id, scope)| nvmlFieldValue_t {
                fieldId: *id,
                scopeId: *scope,
                timestamp: 0,
                latencyUsec: 0,
                valueType: 0,
                // What the library forgets to fill is no success, and so no zero.
                nvmlReturn: UNKNOWN,
                value: nvmlValue_t { ullVal: 0 },
            })
            .collect();
        let count = c_int::try_from(fields.len()).unwrap_or(0);
        self.ask(symbol!(self, nvmlDeviceGetFieldValues), size_of::<nvmlFieldValue_t>(), |function| {
            // SAFETY: as said above; `count` is the number of `fields`.
            (unsafe { function(device.0, count, fields.as_mut_ptr()) }, ())
        })
        .map(|()| fields.iter().map(number).collect())
    }

    pub(in crate::survey) fn event_set(&self) -> Raw<EventSet> {
        self.ask(symbol!(self, nvmlEventSetCreate), size_of::<nvmlEventSet_t>(), |function| {
            let mut set = std::ptr::null_mut();
            // SAFETY: as said above.
            let code = unsafe { function(&raw mut set) };
            (code, set)
        })
        .and_then(|set| if set.is_null() { Raw::Code(UNKNOWN) } else { Raw::Value(EventSet(set)) })
    }

    /// Adds events of a device to the set.
    pub(in crate::survey) fn register(&self, set: &EventSet, device: Handle, kinds: u64) -> Raw<()> {
        self.ask(symbol!(self, nvmlDeviceRegisterEvents), size_of::<c_ulonglong>(), |function| {
            // SAFETY: as said above; the set was made by the library and is not freed before the process ends.
            (unsafe { function(device.0, kinds, set.0) }, ())
        })
    }

    /// The next event; the code is 10 if none came in time.
    pub(in crate::survey) fn wait(&self, set: &EventSet, milliseconds: u32) -> Raw<Event> {
        self.ask(symbol!(self, nvmlEventSetWait_v2), size_of::<nvmlEventData_t>(), |function| {
            let mut event = nvmlEventData_t {
                device: std::ptr::null_mut(),
                eventType: 0,
                eventData: 0,
                gpuInstanceId: u32::MAX,
                computeInstanceId: u32::MAX,
            };
            // SAFETY: as above.
            let code = unsafe { function(set.0, &raw mut event, milliseconds) };
            (code, event)
        })
        .map(|event| Event {
            device: (!event.device.is_null()).then_some(Handle(event.device)),
            kind: event.eventType,
            data: event.eventData,
            gpu_instance: event.gpuInstanceId,
            compute_instance: event.computeInstanceId,
        })
    }
}

/// What a field holds. More than fits is the most that does, which nothing on a device counts to.
fn number(field: &nvmlFieldValue_t) -> Raw<i64> {
    if field.nvmlReturn != SUCCESS {
        return Raw::Code(field.nvmlReturn);
    }
    let value = field.value;
    // SAFETY: all of the union's bytes were initialised, and each pattern of them is a value of each of its numbers.
    let number = unsafe {
        match field.valueType {
            // Towards zero, and no number at all is the most: a device has no such value.
            0 if value.dVal.is_finite() => value.dVal as i64,
            0 => i64::MAX,
            1 => i64::from(value.uiVal),
            2 => i64::try_from(value.ulVal).unwrap_or(i64::MAX),
            3 => i64::try_from(value.ullVal).unwrap_or(i64::MAX),
            4 => value.sllVal,
            5 => i64::from(value.siVal),
            6 => i64::from(value.usVal),
            _ => i64::MAX,
        }
    };
    Raw::Value(number)
}
