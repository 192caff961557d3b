//! The library and the node as a whole.

use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::nvmlReturn_t;

use super::exports;
use crate::reply::{put_if_given, put_text};

exports! {
    /// Counts one more user of the library.
    fn nvmlInit_v2() -> nvmlReturn_t {
        SYMBOL.initialise()
    }

    /// As `nvmlInit_v2`. No flag changes what a scenario holds.
    fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
        SYMBOL.initialise()
    }

    /// Counts one user less.
    fn nvmlShutdown() -> nvmlReturn_t {
        SYMBOL.shut_down()
    }

    /// Never fails, and needs no initialisation.
    fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
        error_text(result).as_ptr()
    }

    /// Always marked as fake.
    fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
        SYMBOL.on_system(|scenario| unsafe { put_text(version, length, Some(scenario.driver_version.as_bytes())) })
    }

    /// The library's own version.
    fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
        SYMBOL.on_system(|scenario| {
            unsafe { put_text(version, length, scenario.nvml_version.as_ref().map(|text| text.as_bytes())) }
        })
    }

    /// 13000 is CUDA 13.0.
    fn nvmlSystemGetCudaDriverVersion_v2(cudaDriverVersion: *mut c_int) -> nvmlReturn_t {
        SYMBOL.on_system(|scenario| unsafe { put_if_given(cudaDriverVersion, scenario.cuda_driver_version) })
    }

    /// The number of devices, or what the scenario claims it to be.
    fn nvmlDeviceGetCount_v2(deviceCount: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_library(|call| {
            let scenario = call.scenario;
            let asked = usize::try_from(call.earlier).unwrap_or(usize::MAX);
            let in_turn = scenario.counts.get(asked).or(scenario.counts.last()).copied();
            let devices = c_uint::try_from(scenario.devices.len()).ok();
            unsafe { put_if_given(deviceCount, in_turn.or(scenario.count).or(devices)) }
        })
    }
}

fn error_text(code: nvmlReturn_t) -> &'static CStr {
    match code {
        0 => c"fake: success",
        1 => c"fake: not initialised",
        2 => c"fake: invalid argument",
        3 => c"fake: not supported",
        4 => c"fake: no permission",
        6 => c"fake: not found",
        7 => c"fake: insufficient size",
        9 => c"fake: driver not loaded",
        10 => c"fake: time is over",
        12 => c"fake: library not found",
        13 => c"fake: function not found",
        15 => c"fake: GPU is lost",
        16 => c"fake: reset required",
        17 => c"fake: operating system",
        18 => c"fake: driver and library differ in version",
        20 => c"fake: memory",
        21 => c"fake: no data",
        23 => c"fake: insufficient resources",
        25 => c"fake: argument version mismatch",
        27 => c"fake: not ready",
        28 => c"fake: GPU not found",
        29 => c"fake: invalid state",
        _ => c"fake: unknown error",
    }
}
