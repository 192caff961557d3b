//! The fake library loaded into the test's own process.

#![allow(dead_code)] // each test file uses a part of it.
#![allow(unsafe_code)] // the environment, and the C symbols that the wrapper does not know.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy knows tests by their attribute, not their helpers.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use fake_nvml::{Device, EccTotals, NvLink, RemappedRows, RowRemapper, Scenario, Sram, Switch};
use nvml_wrapper::Nvml;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper_sys::bindings::NvmlLib;
use tempfile::TempDir;

/// The folder into which cargo puts what it builds for this test: `target/<profile>`.
pub fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

pub fn library() -> PathBuf {
    let path = built().join("deps/libfake_nvml.so");
    assert!(path.exists(), "{} is missing: run `cargo build -p fake-nvml`", path.display());
    path
}

/// The library has one state a process, so one test at a time uses it.
static ALONE: Mutex<()> = Mutex::new(());
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    // SAFETY: the only other reader of this variable is the library, which is not loaded yet.
    unsafe { std::env::set_var("FAKE_NVML_SCENARIO", folder.path().join("scenario.json")) };
    folder
});

/// A node whose library is in this process, for as long as this lives.
pub struct Loaded {
    _alone: MutexGuard<'static, ()>,
    /// Open until the end, so that the state of the library does not depend on who else has it open.
    pub raw: NvmlLib,
}

impl Loaded {
    pub fn with(scenario: &Scenario) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the file is our own library.
        let raw = unsafe { NvmlLib::new(library()) }.unwrap();
        // So that no event of an earlier test counts as heard.
        write(&Scenario::of(vec![]));
        // SAFETY: without arguments.
        unsafe { assert_eq!((raw.nvmlInit_v2(), raw.nvmlShutdown()), (0, 0)) };
        write(scenario);
        Self { _alone: alone, raw }
    }

    pub fn becomes(&self, scenario: &Scenario) {
        write(scenario);
    }

    pub fn nvml(&self) -> Nvml {
        Nvml::builder().lib_path(library().as_os_str()).init().unwrap()
    }
}

fn write(scenario: &Scenario) {
    scenario.check().unwrap();
    // A rename, so that the library never sees half a file.
    let fresh = FOLDER.path().join("fresh");
    std::fs::write(&fresh, serde_json::to_string(scenario).unwrap()).unwrap();
    std::fs::rename(fresh, FOLDER.path().join("scenario.json")).unwrap();
}

/// A zeroed struct of C.
pub fn zeroed<T>() -> T {
    // SAFETY: only for structs of numbers, arrays of them, and pointers.
    unsafe { std::mem::zeroed() }
}

/// What is absent must be code 3, and nothing else.
#[track_caller]
pub fn same<T: PartialEq + Debug>(what: &str, answer: Result<T, NvmlError>, expected: Option<T>) {
    match expected {
        Some(expected) => assert_eq!(answer.ok(), Some(expected), "{what}"),
        None => assert_eq!(answer.map_err(u32::from).err(), Some(3), "{what}"),
    }
}

/// As [`same`], for a call on a raw symbol.
#[track_caller]
pub fn raw<T: PartialEq + Debug>(what: &str, code: u32, value: T, expected: Option<T>) {
    assert_eq!((code == 0).then_some(value), expected, "{what}");
    assert!(code == 0 || code == 3, "{what} is {code}");
}

/// A device of which no two values are the same, so that none can be taken for another.
pub fn distinct() -> Device {
    Device::h100(5).but(|device| {
        device.memory.used_bytes = 1234;
        let telemetry = &mut device.telemetry;
        telemetry.utilisation = Some(fake_nvml::Utilisation { gpu_percent: 97, memory_percent: 61 });
        telemetry.margin_celsius = Some(-3);
        telemetry.throttle_reasons = Some(0x40);
        telemetry.performance_state = Some(2);
        telemetry.clocks.graphics = Some(1979);
        let ecc = device.errors.ecc.as_mut().unwrap();
        ecc.pending = Switch::Disabled;
        ecc.totals = EccTotals {
            corrected_volatile: Some(11),
            corrected_aggregate: Some(12),
            uncorrected_volatile: Some(13),
            uncorrected_aggregate: Some(u64::MAX),
        };
        for (count, counter) in ecc.locations.iter_mut().enumerate() {
            counter.count = 100 + u64::try_from(count).unwrap();
        }
        device.errors.sram = Some(Sram {
            aggregate_uncorrected_parity: 21,
            aggregate_uncorrected_sec_ded: 22,
            aggregate_corrected: 23,
            volatile_uncorrected_parity: 24,
            volatile_uncorrected_sec_ded: 25,
            volatile_corrected: 26,
            uncorrected_l2: 27,
            uncorrected_sm: 28,
            uncorrected_pcie: 29,
            uncorrected_mcu: 30,
            uncorrected_other: 31,
            threshold_exceeded: true,
        });
        device.errors.remapped_rows =
            Some(RemappedRows { correctable: 41, uncorrectable: 42, pending: true, failed: false });
        device.errors.row_remapper = Some(RowRemapper { max: 51, high: 52, partial: 53, low: 54, none: 55 });
        device.pcie.generation = Some(1);
        device.pcie.width = Some(8);
        device.pcie.replays = Some(7);
        for (number, link) in (0u64..).zip(&mut device.nvlink) {
            *link = NvLink {
                active: number % 2 == 0,
                replays: Some(number),
                recoveries: Some(100 + number),
                crc_flit: Some(200 + number),
                crc_data: Some(300 + number),
                ecc_data: None,
            };
        }
        device.draining = Some(Switch::Enabled);
    })
}

pub type Samples = Vec<Result<nvml_wrapper::struct_wrappers::device::FieldValueSample, NvmlError>>;

/// The value of one field, or its code.
pub fn sampled(samples: &Samples, position: usize) -> Result<SampleValue, u32> {
    let sample = samples[position].as_ref().unwrap();
    match &sample.value {
        Ok(value) => Ok(value.clone()),
        Err(NvmlError::NotSupported) => Err(3),
        Err(NvmlError::NoData) => Err(21),
        Err(other) => panic!("{other}"),
    }
}
