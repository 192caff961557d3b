//! The questions. They are asked only in the surveying process, and none of them changes a device.
//!
//! A device is asked at most 60 times, its instances apart, and an instance 6 times.

mod device;
mod links;
mod mig;
mod processes;
mod raw;
mod trace;

use std::ffi::OsStr;
use std::path::Path;

use nvml_wrapper::error::NvmlError;

pub(super) use raw::{Event, EventSet, Handle, Library};
pub(super) use trace::Trace;

use super::MAX_DEVICES;
use super::failure::Failure;
use super::wire::{Answer, Failed, Raw, RawConfidential, Readings};

/// Asks everything once. May block for ever, or end the process: its caller is in another one.
pub(super) fn survey(asked: &OsStr, trace: Trace) -> Answer {
    let library = match Library::open(asked, trace) {
        Ok(library) => library,
        Err(failed) => return Answer::Failed(failed),
    };
    let count = match counted(&library) {
        Ok(count) => count,
        Err(failed) => return Answer::Failed(failed),
    };
    let mut readings = Readings {
        driver_version: library.driver_version(),
        nvml_version: library.nvml_version(),
        cuda_version: library.cuda_version(),
        confidential: RawConfidential {
            capabilities: library.confidential_capabilities().map(|caps| (caps.cpuCaps, caps.gpusCaps)),
            state: library.confidential_state().map(|state| (state.ccFeature, state.devToolsMode)),
            ready: library.confidential_ready(),
        },
        library_file: super::file::loaded(Path::new(asked)),
        count,
        devices: (0..count.min(MAX_DEVICES)).map(|index| device::device(&library, index)).collect(),
        errors: Vec::new(),
    };
    readings.errors = library.errors();
    Answer::Read(readings)
}

/// The number of devices, without which NVML is of no use.
pub(super) fn counted(library: &Library) -> Result<u32, Failed> {
    match library.count() {
        Raw::Value(count) => Ok(count),
        Raw::Code(code) => Err(failed(NvmlError::from(code))),
        _ => Err(failed(NvmlError::FailedToLoadSymbol("nvmlDeviceGetCount_v2".to_owned()))),
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
