//! How a device is connected.

use std::os::raw::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    NVML_NVLINK_MAX_LINKS, nvmlDevice_t, nvmlEnableState_t, nvmlNvLinkErrorCounter_t,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED, nvmlReturn_t,
};

use super::exports;
use crate::reply::{check_out, choose, put_if_given};
use crate::scenario::{Device, NvLink};

exports! {
    /// In use.
    fn nvmlDeviceGetCurrPcieLinkGeneration(device: nvmlDevice_t, currLinkGen: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(currLinkGen, found.pcie.generation) })
    }

    /// Lanes in use.
    fn nvmlDeviceGetCurrPcieLinkWidth(device: nvmlDevice_t, currLinkWidth: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(currLinkWidth, found.pcie.width) })
    }

    /// Possible here.
    fn nvmlDeviceGetMaxPcieLinkGeneration(device: nvmlDevice_t, maxLinkGen: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(maxLinkGen, found.pcie.max_generation) })
    }

    /// Lanes possible here.
    fn nvmlDeviceGetMaxPcieLinkWidth(device: nvmlDevice_t, maxLinkWidth: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(maxLinkWidth, found.pcie.max_width) })
    }

    /// Packets sent twice.
    fn nvmlDeviceGetPcieReplayCounter(device: nvmlDevice_t, value: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(value, found.pcie.replays) })
    }

    /// A link that the device does not have is an invalid argument.
    fn nvmlDeviceGetNvLinkState(device: nvmlDevice_t, link: c_uint, isActive: *mut nvmlEnableState_t) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            check_out(isActive)?;
            let link = link_of(found, link)?;
            unsafe { put_if_given(isActive, Some(link.active.into())) }
        })
    }

    /// Errors of one kind on one link.
    fn nvmlDeviceGetNvLinkErrorCounter(
        device: nvmlDevice_t,
        link: c_uint,
        counter: nvmlNvLinkErrorCounter_t,
        counterValue: *mut c_ulonglong,
    ) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            check_out(counterValue)?;
            let link = link_of(found, link)?;
            let known = [link.replays, link.recoveries, link.crc_flit, link.crc_data, link.ecc_data];
            unsafe { put_if_given(counterValue, choose(&known, counter)?) }
        })
    }
}

fn link_of(device: &Device, link: c_uint) -> Result<NvLink, nvmlReturn_t> {
    if link >= NVML_NVLINK_MAX_LINKS {
        return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
    }
    if device.nvlink.is_empty() {
        return Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
    }
    choose(&device.nvlink, link)
}
