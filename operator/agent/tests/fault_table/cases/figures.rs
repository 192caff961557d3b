//! Figures that no device has, and times and counters that run backwards: F26, F27.

use fake_nvml::{Field, FieldValue, Utilisation};
use koinon_api::gpu_node::GPUNodeStatus;

use crate::cell::Case;
use crate::observed;
use crate::scene::{Scene, TARGET};

const DAY: i64 = 86_400;

fn energy(scene: &mut Scene, millijoules: u64) {
    scene.target().telemetry.energy_millijoules = Some(millijoules);
}

fn failed(scene: &mut Scene, failed: bool) {
    scene.target().errors.remapped_rows.as_mut().unwrap().failed = failed;
}

fn sampled(scene: &mut Scene, at: i64) {
    let fields = [142, 143, 144, 145, 230]
        .map(|id| Field { timestamp_microseconds: Some(at), ..Field::of(id, FieldValue::UnsignedInt(0)) });
    scene.target().fields.extend(fields);
}

/// Since when a device is in its state is no time ahead of the node's clock.
fn since(status: &GPUNodeStatus) -> Result<(), String> {
    let row = observed::row(status, TARGET).ok_or("no row")?;
    let (since, now) = (row.health.since_time.clone().ok_or("no time")?, status.survey_time.clone().ok_or("no time")?);
    let year = 365 * DAY;
    ((now.0.as_second() - since.0.as_second()).abs() < year)
        .then_some(())
        .ok_or(format!("since {since:?}, now {now:?}"))
}

pub fn cases() -> Vec<Case> {
    let unread = "Unknown(IncompleteReading) Keep NotHealthy";
    let replace = "Unhealthy(RemapFailed) Replace Drain NotHealthy";
    vec![
        // A sensor that is broken says nothing of how hot the device is, so that nobody knows.
        Case::of("F26", "255 degrees")
            .strikes(|scene| scene.target().telemetry.temperature_celsius = Some(255))
            .target(unread),
        Case::of("F26", "4,294,967,295 milliwatts")
            .strikes(|scene| scene.target().telemetry.power_milliwatts = Some(u32::MAX)),
        Case::of("F26", "a utilisation of 101 per cent").strikes(|scene| {
            scene.target().telemetry.utilisation = Some(Utilisation { gpu_percent: 101, memory_percent: 255 });
        }),
        Case::of("F26", "a flag that is neither 0 nor 1")
            .strikes(|scene| scene.target().fields.push(Field::of(145, FieldValue::UnsignedInt(77))))
            .target(unread),
        Case::of("F27", "samples of tomorrow").strikes(|scene| sampled(scene, 4_000_000_000_000_000)),
        Case::of("F27", "samples of 1970").strikes(|scene| sampled(scene, -5)),
        Case::of("F27", "the counter of energy begins anew").strikes(|scene| energy(scene, 5)),
        // A device that was reset is well again after three clean surveys and five minutes.
        Case::of("F27", "the counter of energy begins anew on a device that was to be replaced")
            .strikes(|scene| failed(scene, true))
            .goes_on(|scene, round| {
                if round == 1 {
                    failed(scene, false);
                    energy(scene, 5);
                }
            })
            .rounds(&[10, 10, 150, 150, 150]),
        Case::of("F27", "the counter of energy goes on, on a device that was to be replaced")
            .strikes(|scene| failed(scene, true))
            .goes_on(|scene, round| {
                if round == 1 {
                    failed(scene, false);
                    energy(scene, 2_000_000_000);
                }
            })
            .rounds(&[10, 10, 150, 150, 150])
            .target(replace)
            .after(replace),
        Case::of("F27", "the node's clock is set back by a day")
            .strikes(|scene| scene.clock = -DAY)
            .rounds(&[10, 10])
            .also(|_, status, _| since(status)),
        Case::of("F27", "the node's clock is set ahead by a day, with something against the device")
            .strikes(|scene| {
                scene.clock = DAY;
                failed(scene, true);
            })
            .goes_on(|scene, round| {
                if round == 1 {
                    failed(scene, false);
                    scene.clock = -DAY;
                }
            })
            .rounds(&[10, 10, 10])
            .target(replace)
            .after(replace)
            .also(|_, status, _| since(status)),
    ]
}
