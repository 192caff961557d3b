//! Faults of the driver or its library as a whole: F01 to F04, F14, F28, F30.

use fake_nvml::{Behaviour, EVERY_SYMBOL};

use crate::cell::Case;
use crate::scene::{Phase, Scene, TARGET};

const UNKNOWN: &str = "Unknown(SurveyFailed) Keep NotHealthy";

/// Nobody can be asked: nothing is offered, nothing is lost, and all is well once somebody can.
fn unasked(fault: &'static str, variant: &'static str, nvml: &'static str) -> Case {
    Case::of(fault, variant)
        .nvml(nvml)
        .target(UNKNOWN)
        .others(UNKNOWN)
        .target_at(Phase::Start, "no row")
        .others_at(Phase::Start, "no row")
}

/// The first failure may pass: all stay what they were and take nothing new.
fn once(fault: &'static str, variant: &'static str, nvml: &'static str) -> Case {
    unasked(fault, variant, nvml).target("Healthy SurveyMissed").others("Healthy SurveyMissed")
}

/// The second makes them unknown.
fn twice(fault: &'static str, variant: &'static str, nvml: &'static str) -> Case {
    unasked(fault, variant, nvml).rounds(&[10, 10])
}

fn init(code: u32) -> impl Fn(&mut Scene) {
    move |scene| scene.fails("nvmlInit_v2", Behaviour::Return(code))
}

pub fn cases() -> Vec<Case> {
    vec![
        unasked("F01", "no library", "LibraryMissing").strikes(|scene| scene.library = None),
        unasked("F01", "a file that is no library", "LibraryMissing")
            .strikes(|scene| scene.library = Some("/proc/version".into())),
        unasked("F01", "a library that may not be loaded", "LibraryMissing")
            .strikes(|scene| scene.library = Some("/dev".into())),
        unasked("F01", "a library that is not NVML", "SymbolMissing")
            .strikes(|scene| scene.library = Some(other_library())),
        unasked("F02", "the driver is not loaded", "DriverNotLoaded 9").strikes(|scene| init(9)(scene)),
        unasked("F02", "no permission", "PermissionDenied 4").strikes(|scene| init(4)(scene)),
        unasked("F02", "the library is not found", "LibraryMissing 12").strikes(|scene| init(12)(scene)),
        unasked("F02", "the devices are not in the control group", "PermissionDenied 17")
            .strikes(|scene| init(17)(scene)),
        unasked("F02", "an unknown error", "Error 999").strikes(|scene| init(999)(scene)).also(|_, status, phase| {
            let said = status.conditions.iter().any(|one| one.message.contains("lost its devices"));
            let expected = phase != Phase::Start;
            (said == expected).then_some(()).ok_or(format!("that the container lost its devices is said: {said}"))
        }),
        unasked("F03", "library and driver differ", "VersionMismatch 18").strikes(|scene| init(18)(scene)),
        Case::of("F04", "no device")
            .strikes(|scene| scene.scenario.count = Some(0))
            .target("Unknown(DeviceMissing) Keep NotHealthy")
            .others("Unknown(DeviceMissing) Keep NotHealthy")
            .target_at(Phase::Start, "no row")
            .others_at(Phase::Start, "no row")
            .also(|_, status, _| {
                (status.installed == Some(0)).then_some(()).ok_or(format!("{:?} installed", status.installed))
            }),
        Case::of("F04", "4,294,967,295 devices").strikes(|scene| scene.scenario.count = Some(u32::MAX)).also(
            |_, status, _| {
                let certain = status.conditions.iter().any(|one| one.type_ == "DevicesHealthy" && one.status == "True");
                (!certain).then_some(()).ok_or("all devices are called healthy".to_owned())
            },
        ),
        Case::of("F04", "the count changes between calls")
            .strikes(|scene| {
                // The target stands last, and is not among those that are counted first.
                let devices = &mut scene.scenario.devices;
                devices.sort_by_key(|device| device.uuid == fake_nvml::Device::bare(TARGET).uuid);
                scene.scenario.counts = vec![2, 3, 1];
            })
            .target("Unknown(DeviceMissing) Keep NotHealthy")
            .target_at(Phase::Start, "no row"),
        once("F14", "initialisation hangs", "Unresponsive")
            .hangs()
            .strikes(|scene| scene.fails("nvmlInit_v2", Behaviour::Hang)),
        twice("F14", "initialisation hangs again", "Unresponsive")
            .hangs()
            .strikes(|scene| scene.fails("nvmlInit_v2", Behaviour::Hang)),
        twice("F14", "a call hangs", "Unresponsive").hangs().strikes(|scene| {
            let calls = [
                "nvmlDeviceGetMemoryInfo_v2",
                "nvmlDeviceGetUUID",
                "nvmlDeviceGetFieldValues",
                "nvmlDeviceGetHandleByIndex_v2",
            ];
            let call = scene.seed.choose(&calls);
            scene.fails_of_target(call, Behaviour::Hang);
        }),
        twice("F14", "each call takes 45 s", "Unresponsive")
            .hangs()
            .strikes(|scene| scene.fails(EVERY_SYMBOL, Behaviour::DelayMilliseconds(45_000))),
        Case::of("F14", "the wait for events hangs")
            .hangs()
            .deafens()
            .strikes(|scene| scene.fails("nvmlEventSetWait_v2", Behaviour::Hang))
            .also(|stage, _, _| match stage.watch_state() {
                Some(koinon_agent::survey::WatchState::Failed {
                    failure: koinon_agent::survey::Failure::Hung, ..
                }) => Ok(()),
                other => Err(format!("the watch is {other:?}")),
            }),
        unasked("F28", "every call returns 1", "Error 1")
            .strikes(|scene| scene.fails(EVERY_SYMBOL, Behaviour::Return(1))),
        Case::of("F28", "the driver is loaded again while it is watched")
            .heard(0)
            .unheard_at_the_start()
            .strikes(|scene| scene.scenario.driver_loads += 1)
            .leaves(|scene| scene.scenario.driver_loads += 1),
        once("F30", "the library crashes", "Crashed").strikes(|scene| scene.fails("nvmlInit_v2", Behaviour::Crash)),
        twice("F30", "the library crashes again", "Crashed")
            .strikes(|scene| scene.fails("nvmlInit_v2", Behaviour::Crash)),
        twice("F30", "the library crashes in the middle of a survey", "Crashed").strikes(|scene| {
            let calls = ["nvmlDeviceGetName", "nvmlDeviceGetTemperature", "nvmlDeviceGetUUID"];
            let call = scene.seed.choose(&calls);
            scene.fails_of_target(call, Behaviour::Crash);
        }),
        twice("F30", "the library crashes eight times", "Crashed")
            .strikes(|scene| scene.fails("nvmlDeviceGetCount_v2", Behaviour::Crash))
            .rounds(&[10, 10, 10, 20, 40, 80, 160, 300])
            .also(|stage, _, _| (stage.pause() == 300).then_some(()).ok_or(format!("it waits {} s", stage.pause()))),
    ]
}

/// A library of the C runtime, of which there is one wherever the tests run.
fn other_library() -> std::path::PathBuf {
    let folders = ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/usr/lib"];
    let found = folders.iter().map(|folder| std::path::Path::new(folder).join("libc.so.6")).find(|path| path.exists());
    found.expect("this machine has no libc.so.6 where it is looked for")
}
