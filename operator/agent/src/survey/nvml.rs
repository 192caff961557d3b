//! The calls themselves. Runs only in the surveying process, and nothing here changes a device.

use std::ffi::OsStr;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::MAX_DEVICES;
use super::wire::{Answer, Failed, Failure, Raw, RawDevice, Readings};

/// Asks everything once. May block for ever, or end the process: its caller is in another one.
pub(super) fn survey(library: &OsStr) -> Answer {
    let nvml = match Nvml::builder().lib_path(library).init() {
        Ok(nvml) => nvml,
        Err(error) => return Answer::Failed(failed(error)),
    };
    let count = match nvml.device_count() {
        Ok(count) => count,
        Err(error) => return Answer::Failed(failed(error)),
    };
    let answer = Answer::Read(Readings {
        driver_version: raw(nvml.sys_driver_version()),
        nvml_version: raw(nvml.sys_nvml_version()),
        cuda_version: raw(nvml.sys_cuda_driver_version()),
        count,
        devices: (0..count.min(MAX_DEVICES)).map(|index| device(&nvml, index)).collect(),
    });
    // The process ends with its answer, and the kernel closes what the library opened. A shutdown could only add a hang, or
    // a panic where the library lacks the function.
    std::mem::forget(nvml);
    answer
}

fn device(nvml: &Nvml, index: u32) -> RawDevice {
    match nvml.device_by_index(index) {
        Ok(device) => RawDevice {
            index,
            uuid: raw(device.uuid()),
            product: raw(device.name()),
            memory_bytes: raw(device.memory_info().map(|memory| memory.total)),
            mig: raw(device.mig_mode().map(|mode| (mode.current, mode.pending))),
        },
        // One device that is gone says nothing of the others.
        Err(error) => {
            let code = u32::from(error);
            RawDevice {
                index,
                uuid: Raw::Code(code),
                product: Raw::Code(code),
                memory_bytes: Raw::Code(code),
                mig: Raw::Code(code),
            }
        }
    }
}

fn raw<T>(answer: Result<T, NvmlError>) -> Raw<T> {
    match answer {
        Ok(value) => Raw::Value(value),
        Err(NvmlError::FailedToLoadSymbol(_)) => Raw::NoSymbol,
        Err(NvmlError::Utf8Error(_)) => Raw::NotText,
        // Also the codes 23 to 30, which the wrapper has no names for.
        Err(error) => Raw::Code(u32::from(error)),
    }
}

fn failed(error: NvmlError) -> Failed {
    let failure = match &error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => Failure::LibraryMissing,
        NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => Failure::SymbolMissing,
        NvmlError::DriverNotLoaded => Failure::DriverNotLoaded,
        // 17 is what a container gets whose control group no longer admits the devices.
        NvmlError::NoPermission | NvmlError::OperatingSystem => Failure::NoPermission,
        NvmlError::LibRmVersionMismatch => Failure::VersionMismatch,
        _ => Failure::Error,
    };
    let message = error.to_string();
    let code = match error {
        NvmlError::LibloadingError(_) | NvmlError::FailedToLoadSymbol(_) => None,
        reached => Some(u32::from(reached)),
    };
    Failed { failure, code, message }
}
