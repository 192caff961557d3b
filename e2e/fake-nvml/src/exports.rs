//! The C symbols. One entry each; whatever is not here is absent, so that a client's unexpected call shows as a missing
//! symbol and not as a quiet stub. Nothing that sets, resets or clears belongs here.

use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{
    NVML_DEVICE_MIG_DISABLE, NVML_DEVICE_MIG_ENABLE, nvmlDevice_t, nvmlMemory_v2_t,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED, nvmlReturn_t,
};

use crate::library::Symbol;
use crate::reply::{check_version, put, put_if_given, put_text};
use crate::scenario::{Mig, MigMode, ProductName};

/// Defines the symbols, lists them, and holds their signatures against the ones that clients are compiled with.
macro_rules! exports {
    ($( $(#[doc = $doc:literal])+ fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty $body:block )+) => {
        /// Every symbol that the library exports.
        pub const SYMBOLS: &[&str] = &[$(stringify!($name)),+];

        $(
            $(#[doc = $doc])+
            ///
            /// # Safety
            /// As in NVIDIA's documentation: pointers are null, or valid for what the function writes.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
                #[allow(dead_code)]
                const SYMBOL: Symbol = Symbol(stringify!($name));
                $body
            }
        )+

        /// Compiles only while every signature is the one that clients call.
        #[cfg(test)]
        #[allow(dead_code)]
        fn signatures(library: &mut nvml_wrapper_sys::bindings::NvmlLib) {
            $( library.$name = Ok($name); )+
        }
    };
}

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
    fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> nvmlReturn_t {
        SYMBOL.on_system(|scenario| unsafe { put_if_given(version, scenario.cuda_driver_version) })
    }

    /// The number of devices, or what the scenario claims it to be.
    fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_system(|scenario| {
            let devices = c_uint::try_from(scenario.devices.len()).ok();
            unsafe { put_if_given(count, scenario.count.or(devices)) }
        })
    }

    /// Fails for a lost device, as the driver does.
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) -> nvmlReturn_t {
        SYMBOL.handle_of_index(index, |handle| unsafe { put(device, handle) })
    }

    /// Always given.
    fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_text(uuid, length, Some(found.uuid.as_bytes())) })
    }

    /// The bytes of the scenario, whatever they are.
    fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            let bytes = found.name.as_ref().and_then(ProductName::bytes);
            unsafe { put_text(name, length, bytes.as_deref()) }
        })
    }

    /// All of it free: nothing runs on a fake device.
    fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            let Some(given) = (unsafe { memory.as_mut() }) else {
                return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
            };
            check_version::<nvmlMemory_v2_t>(given.version, 2)?;
            let total = found.memory_bytes.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
            *given = nvmlMemory_v2_t { version: given.version, total, reserved: 0, free: total, used: 0 };
            Ok(())
        })
    }

    /// Whether the device is divided into instances.
    fn nvmlDeviceGetMigMode(device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            if current.is_null() || pending.is_null() {
                return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
            }
            let Mig { current: now, pending: next } = found.mig.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
            unsafe { put(current, mig_code(now)).and(put(pending, mig_code(next))) }
        })
    }
}

fn mig_code(mode: MigMode) -> c_uint {
    match mode {
        MigMode::Disabled => NVML_DEVICE_MIG_DISABLE,
        MigMode::Enabled => NVML_DEVICE_MIG_ENABLE,
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
        12 => c"fake: library not found",
        15 => c"fake: GPU is lost",
        18 => c"fake: driver and library differ in version",
        25 => c"fake: argument version mismatch",
        _ => c"fake: unknown error",
    }
}
