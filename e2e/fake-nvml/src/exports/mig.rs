//! Devices that are divided into instances.

use std::os::raw::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlDeviceAttributes_t, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED, nvmlReturn_t,
};

use super::exports;
use crate::handles::{Subject, Target};
use crate::reply::{check_out, put, put_if_given};
use crate::scenario::{Attributes, Mig};

exports! {
    /// Whether the device is divided into instances.
    fn nvmlDeviceGetMigMode(device: nvmlDevice_t, currentMode: *mut c_uint, pendingMode: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            check_out(currentMode).and(check_out(pendingMode))?;
            let Mig { current, pending } = found.mig.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
            unsafe { put(currentMode, current.code()).and(put(pendingMode, pending.code())) }
        })
    }

    /// How many instances there can be, not how many there are; none while MIG mode is off.
    fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            let most = found.max_mig_instances.map(|most| if found.mig_enabled() { most } else { 0 });
            unsafe { put_if_given(count, most) }
        })
    }

    /// A place without an instance is not found.
    fn nvmlDeviceGetMigDeviceHandleByIndex(
        device: nvmlDevice_t,
        index: c_uint,
        migDevice: *mut nvmlDevice_t,
    ) -> nvmlReturn_t {
        SYMBOL.on(Subject::Handle(device), |call, target| {
            check_out(migDevice)?;
            let found = call.scenario.device(target)?;
            if target.instance.is_some() || found.max_mig_instances.is_some_and(|most| index >= most) {
                return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
            }
            if found.mig.is_none() {
                return Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
            }
            let instance = found.mig_instances.iter().position(|instance| found.mig_enabled() && instance.index == index);
            let instance = instance.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_FOUND)?;
            let part = Target { instance: Some(instance), ..target };
            unsafe { put(migDevice, call.library.handles.handle(call.scenario, part)?) }
        })
    }

    /// The device of an instance.
    fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(migDevice: nvmlDevice_t, device: *mut nvmlDevice_t) -> nvmlReturn_t {
        SYMBOL.on(Subject::Handle(migDevice), |call, target| {
            if target.instance.is_none() {
                return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
            }
            let whole = Target { instance: None, ..target };
            unsafe { put(device, call.library.handles.handle(call.scenario, whole)?) }
        })
    }

    /// Of an instance only.
    fn nvmlDeviceGetGpuInstanceId(device: nvmlDevice_t, id: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_part(device, |_, instance| unsafe { put_if_given(id, instance.map(|instance| instance.gi)) })
    }

    /// Of an instance only.
    fn nvmlDeviceGetComputeInstanceId(device: nvmlDevice_t, id: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_part(device, |_, instance| unsafe { put_if_given(id, instance.map(|instance| instance.ci)) })
    }

    /// Of an instance only.
    fn nvmlDeviceGetAttributes_v2(device: nvmlDevice_t, attributes: *mut nvmlDeviceAttributes_t) -> nvmlReturn_t {
        SYMBOL.on_part(device, |_, instance| {
            let share = instance.and_then(|instance| instance.attributes);
            unsafe { put_if_given(attributes, share.map(share_of)) }
        })
    }
}

fn share_of(share: Attributes) -> nvmlDeviceAttributes_t {
    nvmlDeviceAttributes_t {
        multiprocessorCount: share.multiprocessors,
        sharedCopyEngineCount: share.copy_engines,
        sharedDecoderCount: share.decoders,
        sharedEncoderCount: share.encoders,
        sharedJpegCount: share.jpeg_engines,
        sharedOfaCount: share.ofa_engines,
        gpuInstanceSliceCount: share.gi_slices,
        computeInstanceSliceCount: share.ci_slices,
        memorySizeMB: share.memory_mebibytes,
    }
}
