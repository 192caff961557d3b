//! Arguments that a careful client never passes: the library must refuse them as the driver's own does.
//!
//! One test, because the library has one state a process, and the order of its calls is what is asked here.

#![allow(unsafe_code)]
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, not their helpers.

use std::os::raw::c_char;
use std::path::{Path, PathBuf};

use nvml_wrapper_sys::bindings::{NvmlLib, nvmlMemory_v2_t};

fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("deps/libfake_nvml.so")
}

#[test]
fn a_wrong_argument_gets_the_code_of_the_real_library() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = folder.path().join("scenario.json");
    let one = fake_nvml::Scenario::of(vec![fake_nvml::Device::h100(1)]);
    std::fs::write(&scenario, serde_json::to_string(&one).unwrap()).unwrap();
    // SAFETY: this process has one thread that reads the environment, this one.
    unsafe { std::env::set_var("FAKE_NVML_SCENARIO", &scenario) };

    let mut count = 0;
    let mut device = std::ptr::null_mut();
    let mut text: [c_char; 96] = [1; 96];
    let version = u32::try_from(size_of::<nvmlMemory_v2_t>()).unwrap() | 2 << 24;
    let mut memory = nvmlMemory_v2_t { version, total: 0, reserved: 0, free: 0, used: 0 };
    // SAFETY: every pointer is null on purpose or points to a local of the right type and size.
    unsafe {
        let nvml = NvmlLib::new(library()).unwrap();
        assert_eq!(nvml.nvmlDeviceGetCount_v2(&mut count), 1, "before the initialisation");
        assert_eq!(nvml.nvmlShutdown(), 1, "before the initialisation");
        assert_eq!(nvml.nvmlInit_v2(), 0);
        assert_eq!(nvml.nvmlInitWithFlags(1), 0);

        assert_eq!(nvml.nvmlDeviceGetCount_v2(std::ptr::null_mut()), 2);
        assert_eq!(nvml.nvmlDeviceGetHandleByIndex_v2(1, &mut device), 2, "there is one device");
        assert_eq!(nvml.nvmlDeviceGetHandleByIndex_v2(0, std::ptr::null_mut()), 2);
        assert_eq!(nvml.nvmlDeviceGetHandleByIndex_v2(0, &mut device), 0);

        assert_eq!(nvml.nvmlDeviceGetUUID(std::ptr::null_mut(), text.as_mut_ptr(), 96), 2);
        assert_eq!(nvml.nvmlDeviceGetUUID((&raw mut count).cast(), text.as_mut_ptr(), 96), 2, "a handle of nobody");
        assert_eq!(nvml.nvmlDeviceGetUUID(device, std::ptr::null_mut(), 96), 2);
        // 40 characters and a zero.
        assert_eq!(nvml.nvmlDeviceGetUUID(device, text.as_mut_ptr(), 40), 7);
        assert_eq!(text[0], 1, "a refused call writes nothing");
        assert_eq!(nvml.nvmlDeviceGetUUID(device, text.as_mut_ptr(), 41), 0);
        assert_eq!((text[40], text[41]), (0, 1), "nothing is written past the final zero");

        memory.version = 0;
        assert_eq!(nvml.nvmlDeviceGetMemoryInfo_v2(device, &mut memory), 25);
        memory.version = version & 0xffff | 1 << 24;
        assert_eq!(nvml.nvmlDeviceGetMemoryInfo_v2(device, &mut memory), 25);
        memory.version = version;
        assert_eq!(nvml.nvmlDeviceGetMemoryInfo_v2(device, &mut memory), 0);
        assert_eq!(nvml.nvmlDeviceGetMemoryInfo_v2(device, std::ptr::null_mut()), 2);
        assert_eq!(nvml.nvmlDeviceGetMigMode(device, &mut count, std::ptr::null_mut()), 2);

        assert_eq!(nvml.nvmlShutdown(), 0);
        assert_eq!(nvml.nvmlDeviceGetCount_v2(&mut count), 0, "the second user is still there");
        assert_eq!(nvml.nvmlShutdown(), 0);
        assert_eq!(nvml.nvmlDeviceGetCount_v2(&mut count), 1, "after the last shutdown");
        assert!(!nvml.nvmlErrorString(15).is_null());
    }
}
