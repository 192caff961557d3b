//! Which devices there are, and which products.

use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{
    nvmlBrandType_t, nvmlComputeMode_t, nvmlDevice_t, nvmlDeviceArchitecture_t, nvmlEnableState_t, nvmlPciInfo_t,
    nvmlReturn_t,
};

use super::exports;
use crate::handles::{Subject, bus_address, bytes};
use crate::reply::{check_out, put, put_if_given, put_text};
use crate::scenario::{Pci, Switch};

exports! {
    /// Fails for a lost device, as the driver does.
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) -> nvmlReturn_t {
        SYMBOL.find(Subject::Index(index), |handle| unsafe { put(device, handle) })
    }

    /// Of a device, or of an instance. Of two devices with one UUID, the first.
    fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) -> nvmlReturn_t {
        SYMBOL.find(Subject::Uuid(unsafe { text_of(&uuid) }), |handle| unsafe { put(device, handle) })
    }

    /// Of the device at an address such as `00000000:1B:00.0`.
    fn nvmlDeviceGetHandleByPciBusId_v2(pciBusId: *const c_char, device: *mut nvmlDevice_t) -> nvmlReturn_t {
        let address = unsafe { text_of(&pciBusId) }.and_then(bus_address);
        SYMBOL.find(Subject::Pci(address), |handle| unsafe { put(device, handle) })
    }

    /// Always given.
    fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) -> nvmlReturn_t {
        SYMBOL.on_part(device, |found, instance| {
            let text = instance.map_or(&found.uuid, |instance| &instance.uuid);
            unsafe { put_text(uuid, length, Some(text.as_bytes())) }
        })
    }

    /// The bytes of the scenario, whatever they are.
    fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) -> nvmlReturn_t {
        SYMBOL.on_part(device, |found, instance| {
            let text = instance.map_or(&found.name, |instance| &instance.name);
            unsafe { put_text(name, length, bytes(text.as_ref()).as_deref()) }
        })
    }

    /// The number on the board.
    fn nvmlDeviceGetSerial(device: nvmlDevice_t, serial: *mut c_char, length: c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            unsafe { put_text(serial, length, bytes(found.board.serial.as_ref()).as_deref()) }
        })
    }

    /// The version of the firmware.
    fn nvmlDeviceGetVbiosVersion(device: nvmlDevice_t, version: *mut c_char, length: c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            unsafe { put_text(version, length, bytes(found.board.vbios.as_ref()).as_deref()) }
        })
    }

    /// Where the device sits.
    fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(pci, found.board.pci.as_ref().map(pci_info)) })
    }

    /// N of `/dev/nvidiaN`.
    fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minorNumber: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(minorNumber, found.board.minor) })
    }

    /// Product line.
    fn nvmlDeviceGetBrand(device: nvmlDevice_t, type_: *mut nvmlBrandType_t) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(type_, found.board.brand) })
    }

    /// Generation of the product.
    fn nvmlDeviceGetArchitecture(device: nvmlDevice_t, arch: *mut nvmlDeviceArchitecture_t) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(arch, found.board.architecture) })
    }

    /// Which code runs on it.
    fn nvmlDeviceGetCudaComputeCapability(device: nvmlDevice_t, major: *mut c_int, minor: *mut c_int) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            let (first, second) = found.board.compute_capability.unzip();
            unsafe { check_out(minor).and(put_if_given(major, first)).and_then(|()| put_if_given(minor, second)) }
        })
    }

    /// CUDA cores.
    fn nvmlDeviceGetNumGpuCores(device: nvmlDevice_t, numCores: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(numCores, found.board.cores) })
    }

    /// Whether the driver keeps the device ready without a client.
    fn nvmlDeviceGetPersistenceMode(device: nvmlDevice_t, mode: *mut nvmlEnableState_t) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(mode, found.board.persistence.map(Switch::code)) })
    }

    /// Who may use the device.
    fn nvmlDeviceGetComputeMode(device: nvmlDevice_t, mode: *mut nvmlComputeMode_t) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| unsafe { put_if_given(mode, found.board.compute_mode) })
    }

    /// Whether the driver is letting go of the device. Only domain, bus and device of the argument count.
    fn nvmlDeviceQueryDrainState(pciInfo: *mut nvmlPciInfo_t, currentState: *mut nvmlEnableState_t) -> nvmlReturn_t {
        let address = unsafe { pciInfo.as_ref() }.map(|pci| (pci.domain, pci.bus, pci.device));
        SYMBOL.on(Subject::Pci(address), |call, target| {
            let draining = call.scenario.device(target)?.draining;
            unsafe { put_if_given(currentState, draining.map(Switch::code)) }
        })
    }
}

/// The text that a client passes, none where it passes a null pointer. It lives as long as the client's pointer.
///
/// # Safety
/// `text` is null, or points to text with a final zero that outlives the call.
unsafe fn text_of(text: &*const c_char) -> Option<&[u8]> {
    // SAFETY: not null, and ended by a zero by the caller's promise.
    if text.is_null() { None } else { Some(unsafe { CStr::from_ptr(*text) }.to_bytes()) }
}

fn pci_info(pci: &Pci) -> nvmlPciInfo_t {
    let given = bytes(pci.bus_id.as_ref());
    let text = |digits: usize| {
        let from_numbers = || format!("{:0digits$X}:{:02X}:{:02X}.0", pci.domain, pci.bus, pci.device).into_bytes();
        given.clone().unwrap_or_else(from_numbers)
    };
    nvmlPciInfo_t {
        busIdLegacy: in_buffer(&text(4)),
        domain: pci.domain,
        bus: pci.bus,
        device: pci.device,
        pciDeviceId: pci.device_id,
        pciSubSystemId: pci.subsystem_id,
        busId: in_buffer(&text(8)),
    }
}

/// Cut where the buffer ends, the final zero included.
fn in_buffer<const N: usize>(text: &[u8]) -> [c_char; N] {
    let mut buffer = [0; N];
    for (place, byte) in buffer.iter_mut().zip(text.iter().take(N.saturating_sub(1))) {
        *place = c_char::from_ne_bytes([*byte]);
    }
    buffer
}
