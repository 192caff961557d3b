//! What the driver tells without being asked.

use std::os::raw::{c_uint, c_ulonglong};
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED, nvmlReturn_enum_NVML_ERROR_TIMEOUT, nvmlReturn_t,
};

use super::exports;
use crate::handles::Subject;
use crate::reply::{put, put_if_given};

exports! {
    /// The types for which a client may register.
    fn nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, eventTypes: *mut c_ulonglong) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(eventTypes, found.event_types) })
    }

    /// An empty set.
    fn nvmlEventSetCreate(set: *mut nvmlEventSet_t) -> nvmlReturn_t {
        SYMBOL.on_library(|call| {
            if set.is_null() {
                return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
            }
            unsafe { put(set, call.library.delivery.create()?) }
        })
    }

    /// Adds event types of a device to a set. All of them must be supported.
    fn nvmlDeviceRegisterEvents(device: nvmlDevice_t, eventTypes: c_ulonglong, set: nvmlEventSet_t) -> nvmlReturn_t {
        SYMBOL.on(Subject::Handle(device), |call, target| {
            call.library.delivery.knows(set)?;
            if eventTypes == 0 {
                return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
            }
            let supported = call.scenario.device(target)?.event_types.filter(|_| target.instance.is_none());
            match supported {
                Some(supported) if eventTypes & !supported == 0 => {
                    call.library.delivery.register(set, device, eventTypes)
                }
                _ => Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED),
            }
        })
    }

    /// Blocks until an event is due, or for all of the time.
    fn nvmlEventSetWait_v2(set: nvmlEventSet_t, data: *mut nvmlEventData_t, timeoutms: c_uint) -> nvmlReturn_t {
        let time = Duration::from_millis(u64::from(timeoutms));
        SYMBOL.wait(time, nvmlReturn_enum_NVML_ERROR_TIMEOUT, |call| {
            if data.is_null() {
                return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
            }
            let library = call.library;
            match library.delivery.next(&mut library.handles, call.scenario, set, Instant::now())? {
                None => Ok(false),
                Some(event) => unsafe { put(data, event) }.map(|()| true),
            }
        })
    }

    /// The set is no more.
    fn nvmlEventSetFree(set: nvmlEventSet_t) -> nvmlReturn_t {
        SYMBOL.on_library(|call| call.library.delivery.free(set))
    }
}
