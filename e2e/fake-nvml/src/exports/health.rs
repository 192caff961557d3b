//! What has gone wrong inside a device.

use std::os::raw::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEccCounterType_t, nvmlEccSramErrorStatus_t, nvmlEnableState_t, nvmlMemoryErrorType_t,
    nvmlMemoryLocation_t, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED, nvmlReturn_t, nvmlRowRemapperHistogramValues_t,
};

use super::exports;
use crate::reply::{check_out, choose, put, put_if_given, put_versioned};
use crate::scenario::{Device, Ecc, EccError, EccLocation, EccScope, EccTotals, Sram, Switch};

const ERRORS: [EccError; 2] = [EccError::Corrected, EccError::Uncorrected];
const SCOPES: [EccScope; 2] = [EccScope::Volatile, EccScope::Aggregate];
const LOCATIONS: [EccLocation; 8] = [
    EccLocation::L1Cache,
    EccLocation::L2Cache,
    EccLocation::Dram,
    EccLocation::RegisterFile,
    EccLocation::TextureMemory,
    EccLocation::TextureShm,
    EccLocation::Cbu,
    EccLocation::Sram,
];

exports! {
    /// Error correction now, and after a reset.
    fn nvmlDeviceGetEccMode(
        device: nvmlDevice_t,
        current: *mut nvmlEnableState_t,
        pending: *mut nvmlEnableState_t,
    ) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            check_out(current).and(check_out(pending))?;
            let ecc = found.errors.ecc.as_ref().ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
            unsafe { put(current, ecc.current.code()).and(put(pending, ecc.pending.code())) }
        })
    }

    /// Over all places.
    fn nvmlDeviceGetTotalEccErrors(
        device: nvmlDevice_t,
        errorType: nvmlMemoryErrorType_t,
        counterType: nvmlEccCounterType_t,
        eccCounts: *mut c_ulonglong,
    ) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            let (error, scope) = (choose(&ERRORS, errorType)?, choose(&SCOPES, counterType)?);
            let count = found.counting(scope).and_then(|ecc| ecc.totals.count(error, scope));
            unsafe { put_if_given(eccCounts, count) }
        })
    }

    /// In one place.
    fn nvmlDeviceGetMemoryErrorCounter(
        device: nvmlDevice_t,
        errorType: nvmlMemoryErrorType_t,
        counterType: nvmlEccCounterType_t,
        locationType: nvmlMemoryLocation_t,
        count: *mut c_ulonglong,
    ) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            let asked = (choose(&ERRORS, errorType)?, choose(&SCOPES, counterType)?, choose(&LOCATIONS, locationType)?);
            let counters = found.counting(asked.1).map_or(&[][..], |ecc| ecc.locations.as_slice());
            let counter = counters.iter().find(|counter| (counter.error, counter.scope, counter.location) == asked);
            unsafe { put_if_given(count, counter.map(|counter| counter.count)) }
        })
    }

    /// In the memories on the chip.
    fn nvmlDeviceGetSramEccErrorStatus(device: nvmlDevice_t, status: *mut nvmlEccSramErrorStatus_t) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_versioned(status, found.errors.sram.map(sram_status)) })
    }

    /// Not supported while the device is divided.
    fn nvmlDeviceGetRemappedRows(
        device: nvmlDevice_t,
        corrRows: *mut c_uint,
        uncRows: *mut c_uint,
        isPending: *mut c_uint,
        failureOccurred: *mut c_uint,
    ) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            [corrRows, uncRows, isPending, failureOccurred].into_iter().try_for_each(check_out)?;
            let rows = found.errors.remapped_rows.filter(|_| !found.is_divided());
            let rows = rows.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
            unsafe {
                put(corrRows, rows.correctable)
                    .and(put(uncRows, rows.uncorrectable))
                    .and(put(isPending, rows.pending.into()))
                    .and(put(failureOccurred, rows.failed.into()))
            }
        })
    }

    /// Banks by how many rows they can still replace.
    fn nvmlDeviceGetRowRemapperHistogram(
        device: nvmlDevice_t,
        values: *mut nvmlRowRemapperHistogramValues_t,
    ) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            let banks = found.errors.row_remapper.filter(|_| !found.is_divided());
            let banks = banks.map(|banks| nvmlRowRemapperHistogramValues_t {
                max: banks.max,
                high: banks.high,
                partial: banks.partial,
                low: banks.low,
                none: banks.none,
            });
            unsafe { put_if_given(values, banks) }
        })
    }
}

impl Device {
    /// Its error correction, if that counts such errors now: not while it is off, and volatile errors not while the device
    /// is divided.
    pub(super) fn counting(&self, scope: EccScope) -> Option<&Ecc> {
        let ecc = self.errors.ecc.as_ref()?;
        let counts = ecc.current == Switch::Enabled && !(scope == EccScope::Volatile && self.is_divided());
        counts.then_some(ecc)
    }
}

impl EccTotals {
    pub(super) fn count(&self, error: EccError, scope: EccScope) -> Option<u64> {
        match (error, scope) {
            (EccError::Corrected, EccScope::Volatile) => self.corrected_volatile,
            (EccError::Corrected, EccScope::Aggregate) => self.corrected_aggregate,
            (EccError::Uncorrected, EccScope::Volatile) => self.uncorrected_volatile,
            (EccError::Uncorrected, EccScope::Aggregate) => self.uncorrected_aggregate,
        }
    }
}

fn sram_status(sram: Sram) -> nvmlEccSramErrorStatus_t {
    nvmlEccSramErrorStatus_t {
        version: 0,
        aggregateUncParity: sram.aggregate_uncorrected_parity,
        aggregateUncSecDed: sram.aggregate_uncorrected_sec_ded,
        aggregateCor: sram.aggregate_corrected,
        volatileUncParity: sram.volatile_uncorrected_parity,
        volatileUncSecDed: sram.volatile_uncorrected_sec_ded,
        volatileCor: sram.volatile_corrected,
        aggregateUncBucketL2: sram.uncorrected_l2,
        aggregateUncBucketSm: sram.uncorrected_sm,
        aggregateUncBucketPcie: sram.uncorrected_pcie,
        aggregateUncBucketMcu: sram.uncorrected_mcu,
        aggregateUncBucketOther: sram.uncorrected_other,
        bThresholdExceeded: sram.threshold_exceeded.into(),
    }
}
