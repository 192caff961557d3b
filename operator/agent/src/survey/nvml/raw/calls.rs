//! The calls that one call answers with one value.

use std::os::raw::{c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlConfComputeSystemCaps_t, nvmlConfComputeSystemState_t, nvmlDevice_t, nvmlDeviceAttributes_t,
    nvmlEccSramErrorStatus_v1_t, nvmlMarginTemperature_v1_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlPciInfo_t,
    nvmlRowRemapperHistogramValues_t, nvmlUtilization_t,
};

use super::super::super::wire::Raw;
use super::{GetText, Handle, Library, Symbol, handle, symbol, text, version};

/// Questions about a device that one call answers with one value.
macro_rules! ask_device {
    ($($name:ident: $symbol:ident -> $type:ty = $blank:expr;)+) => {
        $(pub(in crate::survey) fn $name(&self, device: Handle) -> Raw<$type> {
            self.get(symbol!(self, $symbol), device, $blank)
        })+
    };
}

/// The same, with a number that says of what.
macro_rules! ask_device_of {
    ($($name:ident: $symbol:ident -> $type:ty;)+) => {
        $(pub(in crate::survey) fn $name(&self, device: Handle, of: u32) -> Raw<$type> {
            self.get_of(symbol!(self, $symbol), device, of)
        })+
    };
}

macro_rules! ask_device_text {
    ($($name:ident: $symbol:ident[$size:literal];)+) => {
        $(pub(in crate::survey) fn $name(&self, device: Handle) -> Raw<String> {
            self.text::<$size, GetText>(symbol!(self, $symbol), |function, buffer, size| {
                // SAFETY: as said above; the buffer is as long as is told.
                unsafe { function(device.0, buffer, size) }
            })
        })+
    };
}

impl Library {
    pub(in crate::survey) fn driver_version(&self) -> Raw<String> {
        self.system_text::<80>(symbol!(self, nvmlSystemGetDriverVersion))
    }

    pub(in crate::survey) fn nvml_version(&self) -> Raw<String> {
        self.system_text::<80>(symbol!(self, nvmlSystemGetNVMLVersion))
    }

    pub(in crate::survey) fn cuda_version(&self) -> Raw<c_int> {
        self.system(symbol!(self, nvmlSystemGetCudaDriverVersion_v2), 0)
    }

    pub(in crate::survey) fn confidential_capabilities(&self) -> Raw<nvmlConfComputeSystemCaps_t> {
        let blank = nvmlConfComputeSystemCaps_t { cpuCaps: 0, gpusCaps: 0 };
        self.system(symbol!(self, nvmlSystemGetConfComputeCapabilities), blank)
    }

    pub(in crate::survey) fn confidential_state(&self) -> Raw<nvmlConfComputeSystemState_t> {
        let blank = nvmlConfComputeSystemState_t { environment: 0, ccFeature: 0, devToolsMode: 0 };
        self.system(symbol!(self, nvmlSystemGetConfComputeState), blank)
    }

    pub(in crate::survey) fn confidential_ready(&self) -> Raw<c_uint> {
        self.system(symbol!(self, nvmlSystemGetConfComputeGpusReadyState), 0)
    }

    pub(in crate::survey) fn count(&self) -> Raw<c_uint> {
        self.system(symbol!(self, nvmlDeviceGetCount_v2), 0)
    }

    pub(in crate::survey) fn device(&self, index: u32) -> Raw<Handle> {
        self.ask(symbol!(self, nvmlDeviceGetHandleByIndex_v2), size_of::<nvmlDevice_t>(), |function| {
            let mut device = std::ptr::null_mut();
            // SAFETY: as said above.
            let code = unsafe { function(index, &raw mut device) };
            (code, device)
        })
        .and_then(handle)
    }

    ask_device_text! {
        uuid: nvmlDeviceGetUUID[96];
        name: nvmlDeviceGetName[96];
        serial: nvmlDeviceGetSerial[30];
        vbios: nvmlDeviceGetVbiosVersion[32];
    }

    ask_device! {
        brand: nvmlDeviceGetBrand -> c_uint = 0;
        architecture: nvmlDeviceGetArchitecture -> c_uint = 0;
        minor: nvmlDeviceGetMinorNumber -> c_uint = 0;
        memory_v1: nvmlDeviceGetMemoryInfo -> nvmlMemory_t = nvmlMemory_t { total: 0, free: 0, used: 0 };
        max_instances: nvmlDeviceGetMaxMigDeviceCount -> c_uint = 0;
        gpu_instance: nvmlDeviceGetGpuInstanceId -> c_uint = 0;
        compute_instance: nvmlDeviceGetComputeInstanceId -> c_uint = 0;
        pcie_generation: nvmlDeviceGetCurrPcieLinkGeneration -> c_uint = 0;
        pcie_max_generation: nvmlDeviceGetMaxPcieLinkGeneration -> c_uint = 0;
        pcie_width: nvmlDeviceGetCurrPcieLinkWidth -> c_uint = 0;
        pcie_max_width: nvmlDeviceGetMaxPcieLinkWidth -> c_uint = 0;
        power: nvmlDeviceGetPowerUsage -> c_uint = 0;
        power_limit: nvmlDeviceGetEnforcedPowerLimit -> c_uint = 0;
        throttle: nvmlDeviceGetCurrentClocksThrottleReasons -> c_ulonglong = 0;
        utilisation: nvmlDeviceGetUtilizationRates -> nvmlUtilization_t = nvmlUtilization_t { gpu: 0, memory: 0 };
        persistence: nvmlDeviceGetPersistenceMode -> c_uint = 0;
        supported_events: nvmlDeviceGetSupportedEventTypes -> c_ulonglong = 0;
        spare_rows: nvmlDeviceGetRowRemapperHistogram -> nvmlRowRemapperHistogramValues_t =
            nvmlRowRemapperHistogramValues_t { max: 0, high: 0, partial: 0, low: 0, none: 0 };
        attributes: nvmlDeviceGetAttributes_v2 -> nvmlDeviceAttributes_t = nvmlDeviceAttributes_t {
            multiprocessorCount: 0,
            sharedCopyEngineCount: 0,
            sharedDecoderCount: 0,
            sharedEncoderCount: 0,
            sharedJpegCount: 0,
            sharedOfaCount: 0,
            gpuInstanceSliceCount: 0,
            computeInstanceSliceCount: 0,
            memorySizeMB: 0,
        };
    }

    ask_device_of! {
        clock: nvmlDeviceGetClockInfo -> c_uint;
        max_clock: nvmlDeviceGetMaxClockInfo -> c_uint;
        temperature: nvmlDeviceGetTemperature -> c_uint;
        temperature_threshold: nvmlDeviceGetTemperatureThreshold -> c_uint;
        link_state: nvmlDeviceGetNvLinkState -> c_uint;
    }

    /// The instance in one slot of a divided device.
    pub(in crate::survey) fn instance(&self, device: Handle, slot: u32) -> Raw<Handle> {
        self.ask(symbol!(self, nvmlDeviceGetMigDeviceHandleByIndex), size_of::<nvmlDevice_t>(), |function| {
            let mut instance = std::ptr::null_mut();
            // SAFETY: as said above.
            let code = unsafe { function(device.0, slot, &raw mut instance) };
            (code, instance)
        })
        .and_then(handle)
    }

    /// Major and minor.
    pub(in crate::survey) fn compute_capability(&self, device: Handle) -> Raw<(c_int, c_int)> {
        self.get_two(symbol!(self, nvmlDeviceGetCudaComputeCapability), device, 0)
    }

    /// In force and after the next reset.
    pub(in crate::survey) fn mig_mode(&self, device: Handle) -> Raw<(c_uint, c_uint)> {
        self.get_two(symbol!(self, nvmlDeviceGetMigMode), device, 0)
    }

    /// In force and after the next reset.
    pub(in crate::survey) fn ecc_mode(&self, device: Handle) -> Raw<(c_uint, c_uint)> {
        self.get_two(symbol!(self, nvmlDeviceGetEccMode), device, 0)
    }

    /// Errors of one sort (0 corrected, 1 not) over one time (0 since the driver was loaded, 1 in the device's life).
    pub(in crate::survey) fn ecc_errors(&self, device: Handle, sort: u32, time: u32) -> Raw<c_ulonglong> {
        self.ask(symbol!(self, nvmlDeviceGetTotalEccErrors), size_of::<c_ulonglong>(), |function| {
            let mut count = 0;
            // SAFETY: as said above.
            let code = unsafe { function(device.0, sort, time, &raw mut count) };
            (code, count)
        })
    }

    pub(in crate::survey) fn bus_id(&self, device: Handle) -> Raw<String> {
        let blank = nvmlPciInfo_t {
            busIdLegacy: [0; 16],
            domain: 0,
            bus: 0,
            device: 0,
            pciDeviceId: 0,
            pciSubSystemId: 0,
            busId: [0; 32],
        };
        self.get(symbol!(self, nvmlDeviceGetPciInfo_v3), device, blank).and_then(|info| text(&info.busId))
    }

    pub(in crate::survey) fn memory(&self, device: Handle) -> Raw<nvmlMemory_v2_t> {
        let blank = nvmlMemory_v2_t { version: version::<nvmlMemory_v2_t>(2), total: 0, reserved: 0, free: 0, used: 0 };
        self.get(symbol!(self, nvmlDeviceGetMemoryInfo_v2), device, blank)
    }

    pub(in crate::survey) fn margin(&self, device: Handle) -> Raw<c_int> {
        let version = version::<nvmlMarginTemperature_v1_t>(1);
        let blank = nvmlMarginTemperature_v1_t { version, marginTemperature: 0 };
        self.get(symbol!(self, nvmlDeviceGetMarginTemperature), device, blank).map(|info| info.marginTemperature)
    }

    pub(in crate::survey) fn sram_threshold_exceeded(&self, device: Handle) -> Raw<c_uint> {
        let blank = nvmlEccSramErrorStatus_v1_t {
            version: version::<nvmlEccSramErrorStatus_v1_t>(1),
            aggregateUncParity: 0,
            aggregateUncSecDed: 0,
            aggregateCor: 0,
            volatileUncParity: 0,
            volatileUncSecDed: 0,
            volatileCor: 0,
            aggregateUncBucketL2: 0,
            aggregateUncBucketSm: 0,
            aggregateUncBucketPcie: 0,
            aggregateUncBucketMcu: 0,
            aggregateUncBucketOther: 0,
            bThresholdExceeded: 0,
        };
        self.get(symbol!(self, nvmlDeviceGetSramEccErrorStatus), device, blank).map(|info| info.bThresholdExceeded)
    }
}
