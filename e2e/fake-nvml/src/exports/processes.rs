//! Who uses a device.

use std::os::raw::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlProcessInfo_t, nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED, nvmlReturn_t,
};

use super::exports;
use crate::handles::Subject;
use crate::library::Symbol;
use crate::reply::check_out;
use crate::scenario::{Process, ProcessList, Processes};

/// NVML's mark for memory that is not available, and for a process that runs on no instance.
const NOT_AVAILABLE: u64 = u64::MAX;
const NO_INSTANCE: u32 = u32::MAX;

exports! {
    /// With a CUDA context of their own.
    fn nvmlDeviceGetComputeRunningProcesses_v3(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        infos: *mut nvmlProcessInfo_t,
    ) -> nvmlReturn_t {
        unsafe { list(SYMBOL, device, infoCount, infos, |processes| processes.compute.as_ref()) }
    }

    /// That draw.
    fn nvmlDeviceGetGraphicsRunningProcesses_v3(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        infos: *mut nvmlProcessInfo_t,
    ) -> nvmlReturn_t {
        unsafe { list(SYMBOL, device, infoCount, infos, |processes| processes.graphics.as_ref()) }
    }

    /// Clients of the Multi-Process Service.
    fn nvmlDeviceGetMPSComputeRunningProcesses_v3(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        infos: *mut nvmlProcessInfo_t,
    ) -> nvmlReturn_t {
        unsafe { list(SYMBOL, device, infoCount, infos, |processes| processes.mps.as_ref()) }
    }
}

/// Fills the client's buffer if it is large enough, and says how many there are if it is not. An instance has the processes
/// that run on it.
///
/// # Safety
/// `count` is null or holds how many processes fit at `infos`, which is null or has room for them.
unsafe fn list(
    symbol: Symbol,
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
    of_kind: fn(&Processes) -> Option<&ProcessList>,
) -> nvmlReturn_t {
    symbol.on(Subject::Handle(device), |call, target| {
        check_out(count)?;
        // SAFETY: not null and aligned, and set by the client.
        let room = unsafe { count.read() };
        if infos.is_null() && room > 0 {
            return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
        }
        let kind = of_kind(&call.scenario.device(target)?.processes);
        let instance = call.scenario.instance(target);
        let mut processes = kind.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?.after(call.earlier);
        if let Some(instance) = instance {
            processes.retain(|process| (process.gi, process.ci) == (Some(instance.gi), Some(instance.ci)));
        }
        let found = c_uint::try_from(processes.len()).unwrap_or(c_uint::MAX);
        // SAFETY: as above.
        unsafe { count.write(found) };
        if found > room {
            return Err(nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE);
        }
        for (place, process) in processes.iter().enumerate() {
            // SAFETY: `place < found <= room`, and the client has room for so many.
            unsafe { infos.add(place).write(info(process)) };
        }
        Ok(())
    })
}

fn info(process: &Process) -> nvmlProcessInfo_t {
    nvmlProcessInfo_t {
        pid: process.pid,
        usedGpuMemory: process.used_bytes.unwrap_or(NOT_AVAILABLE),
        gpuInstanceId: process.gi.unwrap_or(NO_INSTANCE),
        computeInstanceId: process.ci.unwrap_or(NO_INSTANCE),
    }
}
