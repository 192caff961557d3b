//! Values by number, each with a type, a time and a code of its own.

use std::os::raw::{c_int, c_longlong};
use std::time::{SystemTime, UNIX_EPOCH};

use nvml_wrapper_sys::bindings::field_id::{
    NVML_FI_DEV_ECC_CURRENT, NVML_FI_DEV_ECC_DBE_AGG_TOTAL, NVML_FI_DEV_ECC_DBE_VOL_TOTAL, NVML_FI_DEV_ECC_PENDING,
    NVML_FI_DEV_ECC_SBE_AGG_TOTAL, NVML_FI_DEV_ECC_SBE_VOL_TOTAL, NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
    NVML_FI_DEV_MEMORY_TEMP, NVML_FI_DEV_NVLINK_LINK_COUNT, NVML_FI_DEV_PCIE_REPLAY_COUNTER, NVML_FI_DEV_REMAPPED_COR,
    NVML_FI_DEV_REMAPPED_FAILURE, NVML_FI_DEV_REMAPPED_PENDING, NVML_FI_DEV_REMAPPED_UNC,
    NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT, NVML_FI_DEV_TEMPERATURE_MEM_MAX_TLIMIT,
    NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT, NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT,
    NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
};
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlFieldValue_t, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED, nvmlReturn_enum_NVML_SUCCESS, nvmlReturn_t, nvmlValue_t,
};

use super::exports;
use crate::reply::check_out;
use crate::scenario::{Device, EccError, EccScope, FieldValue};

exports! {
    /// Answers in the order of the questions, and each for itself: what is not given is not supported, and the call succeeds.
    fn nvmlDeviceGetFieldValues(device: nvmlDevice_t, valuesCount: c_int, values: *mut nvmlFieldValue_t) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            check_out(values)?;
            let count = usize::try_from(valuesCount).ok().filter(|count| *count > 0);
            let count = count.ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)?;
            // SAFETY: the client passes so many fields whose ids are set.
            let asked = unsafe { std::slice::from_raw_parts_mut(values, count) };
            asked.iter_mut().for_each(|field| answer(found, field));
            Ok(())
        })
    }
}

/// Fields 251 to 273 bear other numbers from driver 580.82 on, so none of them is derived here.
fn derived(device: &Device, id: u32) -> Option<FieldValue> {
    use FieldValue::{SignedInt, UnsignedInt, UnsignedLongLong};
    let telemetry = &device.telemetry;
    let ecc = device.errors.ecc.as_ref();
    let total = |error, scope| device.counting(scope)?.totals.count(error, scope).map(UnsignedLongLong);
    let rows = device.errors.remapped_rows.filter(|_| !device.is_divided());
    let limits = telemetry.margin_limits;
    match id {
        NVML_FI_DEV_ECC_CURRENT => ecc.map(|ecc| UnsignedInt(ecc.current.code())),
        NVML_FI_DEV_ECC_PENDING => ecc.map(|ecc| UnsignedInt(ecc.pending.code())),
        NVML_FI_DEV_ECC_SBE_VOL_TOTAL => total(EccError::Corrected, EccScope::Volatile),
        NVML_FI_DEV_ECC_DBE_VOL_TOTAL => total(EccError::Uncorrected, EccScope::Volatile),
        NVML_FI_DEV_ECC_SBE_AGG_TOTAL => total(EccError::Corrected, EccScope::Aggregate),
        NVML_FI_DEV_ECC_DBE_AGG_TOTAL => total(EccError::Uncorrected, EccScope::Aggregate),
        NVML_FI_DEV_MEMORY_TEMP => telemetry.memory_temperature_celsius.map(UnsignedInt),
        NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION => telemetry.energy_millijoules.map(UnsignedLongLong),
        NVML_FI_DEV_NVLINK_LINK_COUNT => {
            u32::try_from(device.nvlink.len()).ok().filter(|links| *links > 0).map(UnsignedInt)
        }
        NVML_FI_DEV_PCIE_REPLAY_COUNTER => device.pcie.replays.map(UnsignedInt),
        NVML_FI_DEV_REMAPPED_COR => rows.map(|rows| UnsignedInt(rows.correctable)),
        NVML_FI_DEV_REMAPPED_UNC => rows.map(|rows| UnsignedInt(rows.uncorrectable)),
        NVML_FI_DEV_REMAPPED_PENDING => rows.map(|rows| UnsignedInt(rows.pending.into())),
        NVML_FI_DEV_REMAPPED_FAILURE => rows.map(|rows| UnsignedInt(rows.failed.into())),
        NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT => limits.map(|limits| SignedInt(limits.shutdown)),
        NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT => limits.map(|limits| SignedInt(limits.slowdown)),
        NVML_FI_DEV_TEMPERATURE_MEM_MAX_TLIMIT => limits.map(|limits| SignedInt(limits.memory_maximum)),
        NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT => limits.map(|limits| SignedInt(limits.gpu_maximum)),
        NVML_FI_DEV_GET_GPU_RECOVERY_ACTION => device.errors.recovery_action.map(UnsignedInt),
        _ => None,
    }
}

fn answer(device: &Device, field: &mut nvmlFieldValue_t) {
    let scoped = |scope: Option<u32>| scope.is_none_or(|scope| scope == field.scopeId);
    let given = device.fields.iter().find(|given| given.id == field.fieldId && scoped(given.scope));
    let (value, code, timestamp) = match given {
        None => (derived(device, field.fieldId), None, None),
        Some(given) => (given.value, given.code, given.timestamp_microseconds),
    };
    let absent = value.is_none().then_some(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
    field.timestamp = timestamp.unwrap_or_else(now);
    field.latencyUsec = 0;
    field.nvmlReturn = code.or(absent).unwrap_or(nvmlReturn_enum_NVML_SUCCESS);
    if let Some(value) = value {
        (field.valueType, field.value) = in_union(value);
    }
    if let Some(label) = given.and_then(|given| given.labelled) {
        field.fieldId = label;
    }
}

fn now() -> c_longlong {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    c_longlong::try_from(since.as_micros()).unwrap_or(c_longlong::MAX)
}

/// The type's number, and the union with the bytes that the type does not use at zero.
fn in_union(value: FieldValue) -> (u32, nvmlValue_t) {
    let mut union = nvmlValue_t { ullVal: 0 };
    let kind = match value {
        FieldValue::Double(value) => {
            union.dVal = value;
            0
        }
        FieldValue::UnsignedInt(value) => {
            union.uiVal = value;
            1
        }
        FieldValue::UnsignedLong(value) => {
            union.ulVal = value;
            2
        }
        FieldValue::UnsignedLongLong(value) => {
            union.ullVal = value;
            3
        }
        FieldValue::SignedLongLong(value) => {
            union.sllVal = value;
            4
        }
        FieldValue::SignedInt(value) => {
            union.siVal = value;
            5
        }
        FieldValue::UnsignedShort(value) => {
            union.usVal = value;
            6
        }
    };
    (kind, union)
}
