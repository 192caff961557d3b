//! Events in storms, half lost or without a device: F11 to F13.

use fake_nvml::Event;
use koinon_api::gpu_node::GPUNodeStatus;

use crate::cell::Case;
use crate::observed;
use crate::scene::{Phase, Scene, TARGET};

/// Codes of applications' faults, which make no device worse as long as they are few.
const HARMLESS: std::ops::Range<u64> = 96..106;

fn storm(scene: &mut Scene, codes: impl Iterator<Item = u64>, times: u32) {
    let index = scene.index(TARGET);
    let mut events: Vec<Event> = codes
        .map(|code| Event::xid(index, code).but(|event| (event.times, event.every_milliseconds) = (times, 1)))
        .collect();
    let seed = scene.seed;
    seed.shuffle(&mut events);
    scene.scenario.events.extend(events);
}

/// Whether an XID is among those that the row shows.
fn shows(status: &GPUNodeStatus, code: i64) -> Result<(), String> {
    let xids: Vec<i64> =
        observed::row(status, TARGET).into_iter().flat_map(|row| &row.xids).map(|xid| xid.code).collect();
    xids.contains(&code).then_some(()).ok_or(format!("it shows XIDs {xids:?}"))
}

pub fn cases() -> Vec<Case> {
    let doubled = "Unhealthy(DoubleBitError) ResetGPU Drain NotHealthy";
    let nobody = "Degraded(UnattributedXID) Investigate Keep NotHealthy";
    let reset = "Unhealthy(ResetRequired) ResetGPU Drain NotHealthy";
    vec![
        Case::of("F11", "a thousand events of one code in a second")
            .heard(1_000)
            .strikes(|scene| storm(scene, std::iter::once(31), 1_000))
            // One fault of an application, and a minute later the row says so.
            .rounds(&[10, 61])
            .also(|_, status, _| shows(status, 31)),
        Case::of("F11", "forty codes in storms, and one double bit error among them")
            .heard(1_001)
            .strikes(|scene| {
                storm(scene, HARMLESS.chain(126..136).chain(68..73).chain(75..78).chain(80..87), 25);
                storm(scene, std::iter::once(48), 1);
                storm(scene, [99_999, 77_777, 66_666, 55_555, 44_444].into_iter(), 25);
            })
            .target("Unhealthy(DoubleBitError, UnknownXID) ResetGPU Drain NotHealthy")
            .after("Unhealthy(DoubleBitError, UnknownXID) ResetGPU Drain NotHealthy")
            .also(|_, status, _| shows(status, 48)),
        Case::of("F12", "two at once of which NVML tells the last, and the kernel's log tells both")
            // The last one twice by NVML, and the first by the kernel.
            .heard(3)
            .strikes(|scene| {
                scene.scenario.last_xid_only = true;
                scene.xid(48);
                scene.xid(13);
                scene.logs_xid(48);
                scene.logs_xid(13);
            })
            .target(doubled)
            .after(doubled),
        // Without the kernel's log the first is lost, and its counter tells.
        Case::of("F12", "two at once of which NVML tells the last, and nobody else tells the first")
            .heard(2)
            .strikes(|scene| {
                scene.scenario.last_xid_only = true;
                scene.xid(48);
                scene.xid(13);
                scene.target().errors.ecc.as_mut().unwrap().totals.uncorrected_volatile = Some(1);
            })
            .target("Unhealthy(UncorrectedErrors) ResetGPU Drain NotHealthy")
            .after("Unhealthy(UncorrectedErrors) ResetGPU Drain NotHealthy"),
        Case::of("F13", "an error of no device")
            .heard(1)
            .strikes(|scene| {
                let event = Event::xid(0, 79).but(|event| event.device = None);
                scene.scenario.events.push(event);
            })
            .target(nobody)
            .others(nobody)
            .after(nobody),
        Case::of("F13", "an event of an unknown type, behind which a reset is required")
            .heard(0)
            .strikes(|scene| {
                let event =
                    Event::xid(scene.index(TARGET), 2).but(|event| (event.types, event.unasked) = (0x8000, true));
                scene.scenario.events.push(event);
                scene.target().errors.recovery_action = Some(1);
            })
            .target(reset)
            .after(reset),
        Case::of("F13", "an event of no type and no device")
            .heard(0)
            .strikes(|scene| {
                // A bit that nothing has a name for.
                let event =
                    Event::xid(0, 0).but(|event| (event.types, event.unasked, event.device) = (1 << 40, true, None));
                scene.scenario.events.push(event);
            })
            .target_at(Phase::Held, "Healthy Held"),
    ]
}
