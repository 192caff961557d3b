//! Devices that are lost, gone, new or divided: F05 to F07, F15 to F17.

use fake_nvml::{Behaviour, Device, DeviceState, Mig, Switch};
use koinon_api::gpu_node::{GPUNodeStatus, HealthState};

use crate::cell::Case;
use crate::observed;
use crate::scene::{Phase, Scene, TARGET};

const LOST: &str = "Unhealthy(GPULost) RebootNode Drain NotHealthy";
const LOST_NOW: &str = "Unhealthy(GPULost, DeviceMissing) RebootNode Drain NotHealthy";
const LOST_IN_PART: &str = "Unhealthy(GPULost, IncompleteReading) RebootNode Drain NotHealthy";
const FALLEN: &str = "Unhealthy(GPULost, FallenOffBus) RebootNode DrainNode NotHealthy";
const FALLEN_NOW: &str = "Unhealthy(GPULost, FallenOffBus, DeviceMissing) RebootNode DrainNode NotHealthy";
const RESET: &str = "Unhealthy(ResetRequired) ResetGPU Drain NotHealthy";
const RESET_NOW: &str = "Unhealthy(ResetRequired, IncompleteReading) ResetGPU Drain NotHealthy";
const UNREAD: &str = "Unknown(IncompleteReading) Keep NotHealthy";
const MISSING: &str = "Unknown(DeviceMissing) Keep NotHealthy";
/// What a device without a fault of its own is called, of which nobody can tell that it is not the one that is meant.
const MAY_BE: &str = "Degraded(UnattributedXID) Investigate Keep NotHealthy";
/// A device that was added, and its instances.
const NEW: u64 = 4;

/// The target returns a code to a call without which it is not known well enough.
fn returns(variant: &'static str, code: fn(&mut Scene)) -> Case {
    Case::of("F07", variant).strikes(code)
}

fn memory_returns(scene: &mut Scene, code: u32) {
    scene.fails_of_target("nvmlDeviceGetMemoryInfo_v2", Behaviour::Return(code));
}

pub fn cases() -> Vec<Case> {
    [lost(), replugged(), divided()].concat()
}

fn lost() -> Vec<Case> {
    vec![
        // What never said its name has no row; the node counts it all the same.
        Case::of("F05", "lost when its handle is looked up")
            .strikes(|scene| scene.target().state = DeviceState::Lost)
            .target(LOST_NOW)
            .target_at(Phase::Start, "no row")
            .after(LOST)
            .after_at(Phase::Start, "Healthy shareable")
            .also(|_, status, _| (status.installed == Some(3)).then_some(()).ok_or(format!("{:?}", status.installed))),
        Case::of("F05", "lost from some call on")
            .strikes(|scene| {
                let calls = [
                    "nvmlDeviceGetMemoryInfo_v2",
                    "nvmlDeviceGetMigMode",
                    "nvmlDeviceGetName",
                    "nvmlDeviceGetTemperature",
                ];
                let call = scene.seed.choose(&calls);
                scene.fails_of_target(call, Behaviour::Return(15));
            })
            .target(LOST_IN_PART)
            .after(LOST),
        Case::of("F06", "fallen off the bus, and the driver tells")
            .heard(1)
            .strikes(|scene| {
                scene.xid(79);
                scene.target().state = DeviceState::Lost;
            })
            .target(FALLEN_NOW)
            .target_at(Phase::Start, "no row")
            .others("Healthy NodeFault")
            // Nobody registers for the events of a device that does not say who it is.
            .unheard_at_the_start()
            .others_at(Phase::Start, "Healthy shareable")
            .after(FALLEN)
            .after_at(Phase::Start, "Healthy shareable"),
        Case::of("F06", "fallen off the bus, and only the kernel tells")
            .heard(1)
            .strikes(|scene| {
                scene.logs_xid(79);
                scene.target().state = DeviceState::Lost;
            })
            .target(FALLEN_NOW)
            .target_at(Phase::Start, "no row")
            .others("Healthy NodeFault")
            .others_at(Phase::Start, MAY_BE)
            .after(FALLEN)
            .after_at(Phase::Start, "Healthy shareable"),
        returns("28, not found", |scene| memory_returns(scene, 28)).target(LOST_IN_PART).after(LOST),
        returns("16, reset required", |scene| memory_returns(scene, 16)).target(RESET_NOW).after(RESET),
        returns("25, another version of the argument", |scene| memory_returns(scene, 25)).target(UNREAD),
        returns("27, not ready", |scene| memory_returns(scene, 27)).target(UNREAD),
        returns("29, in a state in which it does not answer", |scene| memory_returns(scene, 29)).target(UNREAD),
        // It is there and does not say who it is: nobody knows that it is lost.
        returns("27, not ready when its handle is looked up", |scene| {
            scene.fails_of_target("nvmlDeviceGetHandleByIndex_v2", Behaviour::Return(27));
        })
        .target(MISSING)
        .target_at(Phase::Start, "no row"),
    ]
}

fn replugged() -> Vec<Case> {
    vec![
        Case::of("F15", "unplugged: its UUID vanishes and the others move up")
            .ran_before()
            .strikes(|scene| scene.unplug(TARGET))
            .target(MISSING)
            // Of two that are missing one is known to be lost, and nobody can tell which.
            .also(|_, status, _| {
                let row = observed::row(status, TARGET).ok_or("its row is gone")?;
                row.missing_since_time.is_some().then_some(()).ok_or("since when it is missing is not said".to_owned())
            }),
        Case::of("F15", "unplugged for a day")
            .ran_before()
            .strikes(|scene| scene.unplug(TARGET))
            .rounds(&[10, 86_390, 10])
            .target("no row"),
        Case::of("F15", "the indices change places")
            .ran_before()
            .strikes(|scene| scene.scenario.devices.rotate_left(1))
            .also(|_, status, _| {
                let wanted = status.devices.iter().filter(|row| row.missing_since_time.is_none()).count();
                let indices: std::collections::BTreeSet<i32> =
                    status.devices.iter().filter(|row| row.missing_since_time.is_none()).map(|row| row.index).collect();
                (indices.len() == wanted).then_some(()).ok_or(format!("indices {indices:?}"))
            }),
        Case::of("F16", "plugged in, and not yet known to the scheduler")
            .ran_before()
            .strikes(|scene| scene.scenario.devices.insert(0, Device::h100(NEW)))
            .also(|_, status, _| is(&observed::text(status, NEW), "Healthy NotRegistered")),
        Case::of("F16", "plugged in, and known to the scheduler a minute later")
            .ran_before()
            .strikes(|scene| scene.scenario.devices.insert(0, Device::h100(NEW)))
            .goes_on(|scene, round| {
                if round == 1 {
                    scene.register("nvidia.com/gpu", &Device::bare(NEW).uuid);
                }
            })
            .rounds(&[10, 60])
            .also(|_, status, _| is(&observed::text(status, NEW), "Healthy shareable")),
    ]
}

fn divided() -> Vec<Case> {
    vec![
        Case::of("F17", "divided into seven")
            .strikes(|scene| divide(scene, 7))
            .target("Healthy Divided")
            .target_at(Phase::Held, "Healthy Divided")
            .also(|_, status, _| instances(status, 7)),
        Case::of("F17", "a division waits for a reset")
            .strikes(|scene| scene.target().mig = Some(Mig { current: Switch::Disabled, pending: Switch::Enabled }))
            .target("Degraded(PendingConfig) ApplyConfig Keep NotHealthy"),
        Case::of("F17", "instances vanish while they are read")
            .strikes(|scene| {
                divide(scene, 7);
                let calls =
                    ["nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetComputeInstanceId", "nvmlDeviceGetAttributes_v2"];
                let call = scene.seed.choose(&calls);
                scene.fails_of_target(call, Behaviour::Return(6));
            })
            .target(UNREAD)
            .also(|_, status, _| instances(status, 0)),
        Case::of("F17", "no instance tells how much memory it has")
            .strikes(|scene| {
                divide(scene, 2);
                scene.target().mig_instances.iter_mut().for_each(|instance| instance.memory_bytes = None);
            })
            .target("Healthy Divided")
            .target_at(Phase::Held, "Healthy Divided")
            .also(|_, status, _| {
                let rows = parts(status);
                let unread = rows.iter().all(|row| row.health.state == HealthState::Unknown && !row.shareable);
                (rows.len() == 2 && unread).then_some(()).ok_or(format!("{rows:?}"))
            }),
    ]
}

/// The target in so many instances, each of which the device plugin registers.
fn divide(scene: &mut Scene, into: u32) {
    let divided = scene.target().clone().divided(into);
    for instance in &divided.mig_instances {
        scene.register("nvidia.com/mig-1g.10gb", &instance.uuid);
    }
    *scene.target() = divided;
}

fn parts(status: &GPUNodeStatus) -> Vec<&koinon_api::gpu_node::Device> {
    let parent = Device::bare(TARGET).uuid;
    status.devices.iter().filter(|device| device.parent.as_ref() == Some(&parent)).collect()
}

/// So many instances, each of which is well and free.
fn instances(status: &GPUNodeStatus, wanted: usize) -> Result<(), String> {
    let rows = parts(status);
    let texts: Vec<String> = rows.iter().map(|row| observed::of_row(row)).collect();
    let free = |text: &String| ["Healthy shareable", "Healthy Held", "Healthy UsageUnknown"].contains(&text.as_str());
    let well = texts.len() == wanted && texts.iter().all(free);
    well.then_some(()).ok_or(format!("instances {texts:?}"))
}

fn is(seen: &str, wanted: &str) -> Result<(), String> {
    (seen == wanted).then_some(()).ok_or(format!("the new device is {seen}"))
}
