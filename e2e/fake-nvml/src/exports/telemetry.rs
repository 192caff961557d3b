//! What a device does at the moment.

use std::os::raw::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlClockType_t, nvmlDevice_t, nvmlMarginTemperature_t, nvmlPstates_t, nvmlReturn_t, nvmlTemperatureSensors_t,
    nvmlTemperatureThresholds_t, nvmlUtilization_t,
};

use super::exports;
use crate::reply::{choose, put_if_given, put_versioned};

exports! {
    /// Not supported while the device is divided.
    fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, utilization: *mut nvmlUtilization_t) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            let given = found.telemetry.utilisation.filter(|_| !found.mig_enabled());
            let given = given.map(|given| nvmlUtilization_t { gpu: given.gpu_percent, memory: given.memory_percent });
            unsafe { put_if_given(utilization, given) }
        })
    }

    /// NVML knows one sensor, the GPU's.
    fn nvmlDeviceGetTemperature(
        device: nvmlDevice_t,
        sensorType: nvmlTemperatureSensors_t,
        temp: *mut c_uint,
    ) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            let celsius = choose(&[found.telemetry.temperature_celsius], sensorType)?;
            unsafe { put_if_given(temp, celsius) }
        })
    }

    /// Of the acoustic thresholds, which datacenter products do not have, none is supported.
    fn nvmlDeviceGetTemperatureThreshold(
        device: nvmlDevice_t,
        thresholdType: nvmlTemperatureThresholds_t,
        temp: *mut c_uint,
    ) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            let given = &found.telemetry.thresholds;
            let known = [given.shutdown, given.slowdown, given.memory_maximum, given.gpu_maximum, None, None, None, None];
            let celsius = choose(&known, thresholdType)?;
            unsafe { put_if_given(temp, celsius) }
        })
    }

    /// Degrees until the device slows down.
    fn nvmlDeviceGetMarginTemperature(
        device: nvmlDevice_t,
        marginTempInfo: *mut nvmlMarginTemperature_t,
    ) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            let margin = found.telemetry.margin_celsius;
            let filled = margin.map(|celsius| nvmlMarginTemperature_t { version: 0, marginTemperature: celsius });
            unsafe { put_versioned(marginTempInfo, filled) }
        })
    }

    /// Milliwatts.
    fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, power: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(power, found.telemetry.power_milliwatts) })
    }

    /// Milliwatts.
    fn nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, limit: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(limit, found.telemetry.power_limit_milliwatts) })
    }

    /// Millijoules.
    fn nvmlDeviceGetTotalEnergyConsumption(device: nvmlDevice_t, energy: *mut c_ulonglong) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(energy, found.telemetry.energy_millijoules) })
    }

    /// Megahertz.
    fn nvmlDeviceGetClockInfo(device: nvmlDevice_t, type_: nvmlClockType_t, clock: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            let clocks = &found.telemetry.clocks;
            let megahertz = choose(&[clocks.graphics, clocks.sm, clocks.memory, clocks.video], type_)?;
            unsafe { put_if_given(clock, megahertz) }
        })
    }

    /// Why the clocks are not higher.
    fn nvmlDeviceGetCurrentClocksThrottleReasons(
        device: nvmlDevice_t,
        clocksThrottleReasons: *mut c_ulonglong,
    ) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe {
            put_if_given(clocksThrottleReasons, found.telemetry.throttle_reasons)
        })
    }

    /// 0 is the fastest.
    fn nvmlDeviceGetPerformanceState(device: nvmlDevice_t, pState: *mut nvmlPstates_t) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(pState, found.telemetry.performance_state) })
    }
}
