//! Arguments that a careful client never passes: the library must refuse them as the driver's own does.

#![allow(unsafe_code)]
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, not their helpers.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::os::raw::{c_char, c_void};

use common::{Loaded, zeroed};
use fake_nvml::{Blob, Confidential, Device, Event, MemoryUse, SYMBOLS, Scenario};
use nvml_wrapper_sys::bindings::*;

const NULL: u32 = 2;

/// Arguments of one call: which pointer is null, and what the version word holds.
#[derive(Default)]
struct Arguments {
    /// Counted from 0 in the order of the arguments.
    null: Option<usize>,
    /// In place of the right version word.
    version: Option<u32>,
    seen: Cell<usize>,
    versioned: Cell<bool>,
    kept: RefCell<Vec<Box<[u64]>>>,
}

impl Arguments {
    /// Where the call writes a `T`; it is zero before.
    fn out<T>(&self) -> *mut T {
        let index = self.seen.replace(self.seen.get() + 1);
        if self.null == Some(index) {
            return std::ptr::null_mut();
        }
        let mut memory = vec![0u64; size_of::<T>().div_ceil(8)].into_boxed_slice();
        let pointer = memory.as_mut_ptr().cast();
        self.kept.borrow_mut().push(memory);
        pointer
    }

    /// Where the call writes a struct that begins with a version word.
    fn versioned<T>(&self, version: u32) -> *mut T {
        self.versioned.set(true);
        let pointer: *mut T = self.out();
        if !pointer.is_null() {
            let right = u32::try_from(size_of::<T>()).unwrap() | version << 24;
            // SAFETY: every such struct begins with it.
            unsafe { pointer.cast::<u32>().write(self.version.unwrap_or(right)) };
        }
        pointer
    }

    /// Text that the call reads.
    fn text(&self, text: &str) -> *const c_char {
        let pointer: *mut [u8; 96] = self.out();
        if !pointer.is_null() {
            // SAFETY: room for 96 bytes, the rest of them zero.
            unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), pointer.cast(), text.len()) };
        }
        pointer.cast()
    }
}

type Ask = fn(&NvmlLib, nvmlDevice_t, &Arguments) -> u32;

/// One symbol, and how it is called rightly.
macro_rules! calls {
    ($( $name:ident ( $nvml:ident, $device:ident, $a:ident ) [$($argument:expr),*]; )+) => {
        &[$( (stringify!($name), (|$nvml, $device, $a| {
            let _ = ($device, $a);
            // SAFETY: every pointer is null on purpose, or points to memory of the right type that outlives the call.
            unsafe { $nvml.$name($($argument),*) }
        }) as Ask) ),+]
    };
}

const OF_A_DEVICE: &[(&str, Ask)] = calls! {
    nvmlDeviceGetUUID(n, d, a) [d, a.out::<[c_char; 96]>().cast(), 96];
    nvmlDeviceGetName(n, d, a) [d, a.out::<[c_char; 96]>().cast(), 96];
    nvmlDeviceGetSerial(n, d, a) [d, a.out::<[c_char; 30]>().cast(), 30];
    nvmlDeviceGetVbiosVersion(n, d, a) [d, a.out::<[c_char; 32]>().cast(), 32];
    nvmlDeviceGetPciInfo_v3(n, d, a) [d, a.out()];
    nvmlDeviceGetMinorNumber(n, d, a) [d, a.out()];
    nvmlDeviceGetBrand(n, d, a) [d, a.out()];
    nvmlDeviceGetArchitecture(n, d, a) [d, a.out()];
    nvmlDeviceGetCudaComputeCapability(n, d, a) [d, a.out(), a.out()];
    nvmlDeviceGetNumGpuCores(n, d, a) [d, a.out()];
    nvmlDeviceGetPersistenceMode(n, d, a) [d, a.out()];
    nvmlDeviceGetComputeMode(n, d, a) [d, a.out()];
    nvmlDeviceGetMemoryInfo_v2(n, d, a) [d, a.versioned(2)];
    nvmlDeviceGetUtilizationRates(n, d, a) [d, a.out()];
    nvmlDeviceGetTemperature(n, d, a) [d, 0, a.out()];
    nvmlDeviceGetTemperatureThreshold(n, d, a) [d, 0, a.out()];
    nvmlDeviceGetMarginTemperature(n, d, a) [d, a.versioned(1)];
    nvmlDeviceGetPowerUsage(n, d, a) [d, a.out()];
    nvmlDeviceGetEnforcedPowerLimit(n, d, a) [d, a.out()];
    nvmlDeviceGetTotalEnergyConsumption(n, d, a) [d, a.out()];
    nvmlDeviceGetClockInfo(n, d, a) [d, 1, a.out()];
    nvmlDeviceGetCurrentClocksThrottleReasons(n, d, a) [d, a.out()];
    nvmlDeviceGetPerformanceState(n, d, a) [d, a.out()];
    nvmlDeviceGetEccMode(n, d, a) [d, a.out(), a.out()];
    nvmlDeviceGetTotalEccErrors(n, d, a) [d, 1, 0, a.out()];
    nvmlDeviceGetMemoryErrorCounter(n, d, a) [d, 1, 0, 2, a.out()];
    nvmlDeviceGetSramEccErrorStatus(n, d, a) [d, a.versioned(1)];
    nvmlDeviceGetRemappedRows(n, d, a) [d, a.out(), a.out(), a.out(), a.out()];
    nvmlDeviceGetRowRemapperHistogram(n, d, a) [d, a.out()];
    nvmlDeviceGetFieldValues(n, d, a) [d, 1, a.out()];
    nvmlDeviceGetCurrPcieLinkGeneration(n, d, a) [d, a.out()];
    nvmlDeviceGetCurrPcieLinkWidth(n, d, a) [d, a.out()];
    nvmlDeviceGetMaxPcieLinkGeneration(n, d, a) [d, a.out()];
    nvmlDeviceGetMaxPcieLinkWidth(n, d, a) [d, a.out()];
    nvmlDeviceGetPcieReplayCounter(n, d, a) [d, a.out()];
    nvmlDeviceGetNvLinkState(n, d, a) [d, 17, a.out()];
    nvmlDeviceGetNvLinkErrorCounter(n, d, a) [d, 17, 3, a.out()];
    nvmlDeviceGetComputeRunningProcesses_v3(n, d, a) [d, a.out(), std::ptr::null_mut()];
    nvmlDeviceGetGraphicsRunningProcesses_v3(n, d, a) [d, a.out(), std::ptr::null_mut()];
    nvmlDeviceGetMPSComputeRunningProcesses_v3(n, d, a) [d, a.out(), std::ptr::null_mut()];
    nvmlDeviceGetMigMode(n, d, a) [d, a.out(), a.out()];
    nvmlDeviceGetMaxMigDeviceCount(n, d, a) [d, a.out()];
    nvmlDeviceGetSupportedEventTypes(n, d, a) [d, a.out()];
    nvmlDeviceRegisterEvents(n, d, a) [d, 8, a.out::<[u64; 8]>().cast()];
    nvmlDeviceGetConfComputeGpuAttestationReport(n, d, a) [d, a.out()];
    nvmlDeviceGetConfComputeGpuCertificate(n, d, a) [d, a.out()];
    nvmlDeviceGetMigDeviceHandleByIndex(n, d, a) [d, 0, a.out()];
};

const OF_AN_INSTANCE: &[(&str, Ask)] = calls! {
    nvmlDeviceGetDeviceHandleFromMigDeviceHandle(n, d, a) [d, a.out()];
    nvmlDeviceGetGpuInstanceId(n, d, a) [d, a.out()];
    nvmlDeviceGetComputeInstanceId(n, d, a) [d, a.out()];
    nvmlDeviceGetAttributes_v2(n, d, a) [d, a.out()];
};

const OF_THE_NODE: &[(&str, Ask)] = calls! {
    nvmlSystemGetDriverVersion(n, d, a) [a.out::<[c_char; 80]>().cast(), 80];
    nvmlSystemGetNVMLVersion(n, d, a) [a.out::<[c_char; 80]>().cast(), 80];
    nvmlSystemGetCudaDriverVersion_v2(n, d, a) [a.out()];
    nvmlSystemGetConfComputeSettings(n, d, a) [a.versioned(1)];
    nvmlSystemGetConfComputeState(n, d, a) [a.out()];
    nvmlSystemGetConfComputeCapabilities(n, d, a) [a.out()];
    nvmlSystemGetConfComputeGpusReadyState(n, d, a) [a.out()];
    nvmlDeviceGetCount_v2(n, d, a) [a.out()];
    nvmlDeviceGetHandleByIndex_v2(n, d, a) [0, a.out()];
    nvmlDeviceGetHandleByUUID(n, d, a) [a.text("GPU-fa4e0000-0000-4000-8000-000000000001"), a.out()];
    nvmlDeviceGetHandleByPciBusId_v2(n, d, a) [a.text("00000000:01:00.0"), a.out()];
    nvmlEventSetCreate(n, d, a) [a.out()];
};

/// Those that fit no table: they make or end what the others need, or read what they are given.
const APART: &[&str] = &[
    "nvmlInit_v2",
    "nvmlInitWithFlags",
    "nvmlShutdown",
    "nvmlErrorString",
    "nvmlDeviceQueryDrainState",
    "nvmlEventSetWait_v2",
    "nvmlEventSetFree",
];

fn everything() -> Device {
    Device::h100(1).but(|device| {
        let blob = Some(Blob::of(b"evidence"));
        device.confidential = Confidential {
            attestation_report: blob.clone(),
            cec_attestation_report: blob.clone(),
            certificate_chain: blob.clone(),
            attestation_certificate_chain: blob,
        };
        if let Some(pci) = &mut device.board.pci {
            pci.bus = 1;
        }
    })
}

fn device(nvml: &NvmlLib) -> nvmlDevice_t {
    let mut device = std::ptr::null_mut();
    // SAFETY: a pointer to a local.
    assert_eq!(unsafe { nvml.nvmlDeviceGetHandleByIndex_v2(0, &mut device) }, 0);
    device
}

fn instance(nvml: &NvmlLib) -> nvmlDevice_t {
    let mut instance = std::ptr::null_mut();
    // SAFETY: a pointer to a local.
    assert_eq!(unsafe { nvml.nvmlDeviceGetMigDeviceHandleByIndex(device(nvml), 0, &mut instance) }, 0);
    instance
}

/// Calls each symbol rightly, and then with one pointer after the other null, and with wrong version words.
fn each_pointer_and_version(nvml: &NvmlLib, table: &[(&str, Ask)], handle: nvmlDevice_t) {
    for (symbol, ask) in table {
        let right = Arguments::default();
        let expected = match *symbol {
            // Memory that is no set of events.
            "nvmlDeviceRegisterEvents" => 2,
            // The device is not divided.
            "nvmlDeviceGetMigDeviceHandleByIndex" => 6,
            _ => 0,
        };
        assert_eq!(ask(nvml, handle, &right), expected, "{symbol} with right arguments");
        assert!(right.seen.get() > 0, "{symbol}");
        for null in 0..right.seen.get() {
            let wrong = Arguments { null: Some(null), ..Arguments::default() };
            assert_eq!(ask(nvml, handle, &wrong), NULL, "{symbol} with pointer {null} null");
        }
        if right.versioned.get() {
            for version in [0, 1, 1 << 24, 40 | 9 << 24, u32::MAX] {
                let wrong = Arguments { version: Some(version), ..Arguments::default() };
                assert_eq!(ask(nvml, handle, &wrong), 25, "{symbol} with version {version:#x}");
            }
        }
    }
}

#[test]
fn the_tables_hold_every_symbol_once() {
    let tabled = [OF_A_DEVICE, OF_AN_INSTANCE, OF_THE_NODE].into_iter().flatten().map(|(symbol, _)| *symbol);
    let all: Vec<&str> = tabled.chain(APART.iter().copied()).collect();
    assert_eq!(all.len(), SYMBOLS.len());
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), SYMBOLS.iter().copied().collect());
    assert_eq!(SYMBOLS.len(), 70);
}

#[test]
fn a_null_pointer_and_a_wrong_version_are_refused_in_every_call() {
    let node = Loaded::with(&Scenario::known(vec![everything()]));
    let _nvml = node.nvml();
    each_pointer_and_version(&node.raw, OF_THE_NODE, std::ptr::null_mut());
    each_pointer_and_version(&node.raw, OF_A_DEVICE, device(&node.raw));
    node.becomes(&Scenario::known(vec![everything().divided(7)]));
    each_pointer_and_version(&node.raw, OF_AN_INSTANCE, instance(&node.raw));
}

#[test]
fn a_handle_of_nobody_is_refused_in_every_call() {
    let node = Loaded::with(&Scenario::known(vec![everything()]));
    let _nvml = node.nvml();
    let mut elsewhere = [0u64; 8];
    let inside = device(&node.raw).cast::<u8>().wrapping_add(1).cast();
    for foreign in [std::ptr::null_mut(), elsewhere.as_mut_ptr().cast(), inside] {
        for (symbol, ask) in OF_A_DEVICE.iter().chain(OF_AN_INSTANCE) {
            assert_eq!(ask(&node.raw, foreign, &Arguments::default()), 2, "{symbol}");
        }
    }
}

#[test]
fn nothing_answers_before_the_initialisation_or_after_the_last_shutdown() {
    let node = Loaded::with(&Scenario::known(vec![everything()]));
    let handle = {
        let _nvml = node.nvml();
        device(&node.raw)
    };
    for (symbol, ask) in OF_THE_NODE.iter().chain(OF_A_DEVICE).chain(OF_AN_INSTANCE) {
        assert_eq!(ask(&node.raw, handle, &Arguments::default()), 1, "{symbol}");
        // What is not initialised does not look at its arguments.
        let null = Arguments { null: Some(0), ..Arguments::default() };
        assert_eq!(ask(&node.raw, std::ptr::null_mut(), &null), 1, "{symbol}");
    }
    let mut pci: nvmlPciInfo_t = zeroed();
    let mut data: nvmlEventData_t = zeroed();
    let mut state = 0;
    // SAFETY: pointers to locals, or null.
    unsafe {
        assert_eq!(node.raw.nvmlDeviceQueryDrainState(&mut pci, &mut state), 1);
        assert_eq!(node.raw.nvmlEventSetWait_v2(std::ptr::null_mut(), &mut data, 0), 1);
        assert_eq!(node.raw.nvmlEventSetFree(std::ptr::null_mut()), 1);
        assert_eq!(node.raw.nvmlShutdown(), 1);
        assert!(!node.raw.nvmlErrorString(15).is_null(), "this one needs no initialisation");
    }
}

#[test]
fn initialisations_are_counted() {
    let node = Loaded::with(&Scenario::of(vec![Device::h100(1)]));
    let nvml = &node.raw;
    let mut count = 0;
    // SAFETY: a pointer to a local.
    unsafe {
        assert_eq!((nvml.nvmlInit_v2(), nvml.nvmlInitWithFlags(1)), (0, 0));
        assert_eq!(nvml.nvmlShutdown(), 0);
        assert_eq!(nvml.nvmlDeviceGetCount_v2(&mut count), 0, "the second user is still there");
        assert_eq!(nvml.nvmlShutdown(), 0);
        assert_eq!(nvml.nvmlDeviceGetCount_v2(&mut count), 1, "after the last shutdown");
        assert_eq!(nvml.nvmlShutdown(), 1);
    }
}

#[test]
fn a_buffer_that_is_too_small_is_refused_and_not_written() {
    let node = Loaded::with(&Scenario::known(vec![everything()]));
    let _nvml = node.nvml();
    let (nvml, device) = (&node.raw, device(&node.raw));
    type Text = fn(&NvmlLib, nvmlDevice_t, *mut c_char, u32) -> u32;
    // SAFETY: each is called with a buffer of 96 bytes and a length within it.
    let texts: [(&str, u32, Text); 6] = unsafe {
        [
            ("uuid", 40, |n, d, text, length| n.nvmlDeviceGetUUID(d, text, length)),
            ("name", 21, |n, d, text, length| n.nvmlDeviceGetName(d, text, length)),
            ("serial", 13, |n, d, text, length| n.nvmlDeviceGetSerial(d, text, length)),
            ("vbios", 14, |n, d, text, length| n.nvmlDeviceGetVbiosVersion(d, text, length)),
            ("driver", 8, |n, _, text, length| n.nvmlSystemGetDriverVersion(text, length)),
            ("nvml", 11, |n, _, text, length| n.nvmlSystemGetNVMLVersion(text, length)),
        ]
    };
    for (what, characters, ask) in texts {
        let mut text: [c_char; 96] = [1; 96];
        for short in [0, 1, characters] {
            assert_eq!(ask(nvml, device, text.as_mut_ptr(), short), 7, "{what} in {short} bytes");
            assert!(text.iter().all(|byte| *byte == 1), "{what}: a refused call writes nothing");
        }
        assert_eq!(ask(nvml, device, text.as_mut_ptr(), characters + 1), 0, "{what}");
        let end = usize::try_from(characters).unwrap();
        assert_eq!((text[end], text[end + 1]), (0, 1), "{what}: nothing is written past the final zero");
        assert!(text[..end].iter().all(|byte| *byte > 1), "{what}");
    }
}

#[test]
fn a_number_that_names_nothing_is_refused() {
    let node = Loaded::with(&Scenario::known(vec![everything()]));
    let _nvml = node.nvml();
    let (nvml, device) = (&node.raw, device(&node.raw));
    let (mut small, mut large, mut other) = (0u32, 0u64, std::ptr::null_mut());
    // SAFETY: pointers to locals.
    unsafe {
        for wrong in [8, 99, u32::MAX] {
            assert_eq!(nvml.nvmlDeviceGetTemperature(device, wrong, &mut small), 2);
            assert_eq!(nvml.nvmlDeviceGetTemperatureThreshold(device, wrong, &mut small), 2);
            assert_eq!(nvml.nvmlDeviceGetClockInfo(device, wrong, &mut small), 2);
            assert_eq!(nvml.nvmlDeviceGetTotalEccErrors(device, wrong, 0, &mut large), 2);
            assert_eq!(nvml.nvmlDeviceGetTotalEccErrors(device, 0, wrong, &mut large), 2);
            assert_eq!(nvml.nvmlDeviceGetMemoryErrorCounter(device, wrong, 0, 2, &mut large), 2);
            assert_eq!(nvml.nvmlDeviceGetMemoryErrorCounter(device, 0, wrong, 2, &mut large), 2);
            assert_eq!(nvml.nvmlDeviceGetMemoryErrorCounter(device, 0, 0, wrong, &mut large), 2);
            assert_eq!(nvml.nvmlDeviceGetNvLinkErrorCounter(device, 0, wrong, &mut large), 2);
            assert_eq!(nvml.nvmlDeviceGetNvLinkState(device, wrong.saturating_add(10), &mut small), 2);
            assert_eq!(nvml.nvmlDeviceGetHandleByIndex_v2(wrong, &mut other), 2);
            assert_eq!(nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, wrong, &mut other), 2);
        }
        let mut field: nvmlFieldValue_t = zeroed();
        for count in [0, -1] {
            assert_eq!(nvml.nvmlDeviceGetFieldValues(device, count, &mut field), 2);
        }
        let mut room = 1;
        assert_eq!(nvml.nvmlDeviceGetComputeRunningProcesses_v3(device, &mut room, std::ptr::null_mut()), 2);
        for (address, code) in [(c"nonsense", 2), (c"0000:99:00.0", 6)] {
            assert_eq!(nvml.nvmlDeviceGetHandleByPciBusId_v2(address.as_ptr(), &mut other), code);
        }
        assert_eq!(nvml.nvmlDeviceGetHandleByUUID(c"GPU-fa4e0000-9".as_ptr(), &mut other), 6);
        let mut pci: nvmlPciInfo_t = zeroed();
        assert_eq!(nvml.nvmlDeviceQueryDrainState(&mut pci, &mut small), 6, "no device is at 0:0:0");
        pci.bus = 1;
        assert_eq!(nvml.nvmlDeviceQueryDrainState(&mut pci, &mut small), 0);
        assert_eq!(nvml.nvmlDeviceQueryDrainState(&mut pci, std::ptr::null_mut()), 2);
        assert_eq!(nvml.nvmlDeviceQueryDrainState(std::ptr::null_mut(), &mut small), 2);
    }
}

#[test]
fn a_link_that_no_product_has_is_wrong_and_not_unsupported() {
    let node = Loaded::with(&Scenario::of(vec![Device::l4(1)]));
    let _nvml = node.nvml();
    let device = device(&node.raw);
    let (mut state, mut count) = (0, 0);
    for (link, code) in [(0, 3), (17, 3), (18, 2)] {
        // SAFETY: pointers to locals.
        let codes = unsafe {
            (
                node.raw.nvmlDeviceGetNvLinkState(device, link, &mut state),
                node.raw.nvmlDeviceGetNvLinkErrorCounter(device, link, 0, &mut count),
            )
        };
        assert_eq!(codes, (code, code), "link {link}");
    }
}

#[test]
fn a_set_of_events_of_nobody_is_refused() {
    let node = Loaded::with(&Scenario::of(vec![everything()]).but(|node| node.events = vec![Event::xid(0, 79)]));
    let _nvml = node.nvml();
    let (nvml, device) = (&node.raw, device(&node.raw));
    let mut data: nvmlEventData_t = zeroed();
    let mut elsewhere = [0u64; 8];
    // SAFETY: pointers to locals, or null on purpose.
    unsafe {
        let mut set = std::ptr::null_mut();
        assert_eq!(nvml.nvmlEventSetCreate(&mut set), 0);
        for foreign in [std::ptr::null_mut(), elsewhere.as_mut_ptr().cast::<c_void>(), device.cast::<c_void>()] {
            assert_eq!(nvml.nvmlEventSetWait_v2(foreign.cast(), &mut data, 0), 2);
            assert_eq!(nvml.nvmlDeviceRegisterEvents(device, 8, foreign.cast()), 2);
            assert_eq!(nvml.nvmlEventSetFree(foreign.cast()), 2);
        }
        assert_eq!(nvml.nvmlDeviceRegisterEvents(device, 0, set), 2);
        assert_eq!(nvml.nvmlDeviceRegisterEvents(device, 8, set), 0);
        assert_eq!(nvml.nvmlEventSetWait_v2(set, std::ptr::null_mut(), 0), 2, "and the event is not lost by it");
        assert_eq!(nvml.nvmlEventSetWait_v2(set, &mut data, 0), 0);
        assert_eq!(nvml.nvmlEventSetFree(set), 0);
        assert_eq!(nvml.nvmlEventSetFree(set), 2, "it is free already");
    }
}

#[test]
fn memory_that_is_more_than_full_has_nothing_free() {
    let used = MemoryUse { reserved_bytes: u64::MAX, used_bytes: u64::MAX };
    let node = Loaded::with(&Scenario::of(vec![Device { memory: used, ..everything() }]));
    let memory = node.nvml();
    let memory = memory.device_by_index(0).unwrap().memory_info().unwrap();
    assert_eq!((memory.total, memory.free, memory.used), (85_520_809_984, 0, u64::MAX));
}
