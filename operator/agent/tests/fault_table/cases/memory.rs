//! Errors of memory: F08 to F10, F21.

use fake_nvml::{Device, EccTotals, RemappedRows};
use koinon_core::gpu::xid::Xid;

use crate::cell::Case;
use crate::observed;
use crate::scene::{Phase, Scene, TARGET};

/// Three minutes of surveys.
const THREE_MINUTES: [u64; 18] = [10; 18];
/// A million errors a minute, in the ten seconds between two surveys.
const STORM: u64 = 166_667;

fn counts(scene: &mut Scene, change: impl FnOnce(&mut EccTotals)) {
    change(&mut scene.target().errors.ecc.as_mut().unwrap().totals);
}

fn uncorrected(scene: &mut Scene) {
    counts(scene, |totals| totals.uncorrected_volatile = Some(1));
}

fn remaps(scene: &mut Scene, rows: RemappedRows) {
    scene.target().errors.remapped_rows = Some(rows);
}

pub fn cases() -> Vec<Case> {
    let doubled = "Unhealthy(UncorrectedErrors, DoubleBitError) ResetGPU Drain NotHealthy";
    let pending = "Degraded(RemapPending) ResetWhenIdle Keep NotHealthy";
    let failed = "Unhealthy(RemapFailed) Replace Drain NotHealthy";
    let mismatch = "Unhealthy(CapacityMismatch) Investigate Drain NotHealthy";
    let shrunk = "Unhealthy(CapacityMismatch, MemoryReduced) Investigate Drain NotHealthy";
    vec![
        Case::of("F08", "an uncorrected error, by its counter alone")
            .strikes(uncorrected)
            .target("Unhealthy(UncorrectedErrors) ResetGPU Drain NotHealthy")
            .after("Unhealthy(UncorrectedErrors) ResetGPU Drain NotHealthy"),
        Case::of("F08", "an uncorrected error, XID 48")
            .heard(1)
            .strikes(|scene| {
                uncorrected(scene);
                scene.xid(48);
            })
            .target(doubled)
            .after(doubled),
        Case::of("F08", "XIDs 48 and 63, and a row to be remapped")
            .heard(2)
            .strikes(|scene| {
                uncorrected(scene);
                both(scene, 48, 63);
                remaps(scene, RemappedRows { uncorrectable: 1, pending: true, ..RemappedRows::default() });
            })
            .target("Unhealthy(UncorrectedErrors, DoubleBitError, RemapPending) ResetGPU Drain NotHealthy")
            .after(doubled),
        Case::of("F08", "XIDs 48 and 64")
            .heard(2)
            .strikes(|scene| {
                uncorrected(scene);
                both(scene, 48, 64);
            })
            .target("Unhealthy(RemapFailed, UncorrectedErrors, DoubleBitError) Replace Drain NotHealthy")
            .after("Unhealthy(RemapFailed, UncorrectedErrors, DoubleBitError) Replace Drain NotHealthy"),
        Case::of("F09", "a million corrected errors a minute, XID 92")
            .heard(1)
            .strikes(|scene| scene.xid(92))
            .goes_on(|scene, round| {
                let errors = u64::from(round + 1) * STORM;
                counts(scene, |totals| totals.corrected_volatile = Some(errors));
                // Each of them changes what the status says, and nothing that anybody decides by.
                remaps(scene, RemappedRows { correctable: round, ..RemappedRows::default() });
            })
            .rounds(&THREE_MINUTES)
            .target("Degraded(HighCorrectedRate) Watch Keep NotHealthy")
            .after("Degraded(HighCorrectedRate) Watch Keep NotHealthy")
            // One for the first survey, one for the other device's fault, one for this fault, and one a minute.
            .also(|stage, _, _| at_most(stage.writes(), 1 + 1 + 1 + 3)),
        Case::of("F10", "a row to be remapped at the next reset")
            .strikes(|scene| remaps(scene, RemappedRows { uncorrectable: 1, pending: true, ..RemappedRows::default() }))
            .target(pending),
        Case::of("F10", "a row could not be remapped")
            .strikes(|scene| remaps(scene, RemappedRows { failed: true, ..RemappedRows::default() }))
            .target(failed)
            .after(failed),
        // A divided device does not tell of remapped rows, and that is no fault of it.
        Case::of("F10", "remapped rows are not told while the device is divided")
            .strikes(|scene| {
                let divided = scene.target().clone().divided(1);
                *scene.target() = divided;
            })
            .target("Healthy Divided")
            .target_at(Phase::Held, "Healthy Divided")
            .also(|_, status, _| {
                let remap = observed::row(status, TARGET).and_then(|row| row.remap.clone());
                remap.is_none().then_some(()).ok_or(format!("it remaps {remap:?}"))
            }),
        Case::of("F21", "the memory shrinks, XID 168")
            .heard(1)
            .strikes(|scene| {
                scene.target().memory_bytes = Some(70 << 30);
                scene.xid(Xid(168).0.into());
            })
            .target(shrunk)
            .after(shrunk),
        Case::of("F21", "a memory of 900 GiB")
            .strikes(|scene| scene.target().memory_bytes = Some(900 << 30))
            .target(mismatch)
            .after(mismatch),
        // Another product's name on the same memory.
        Case::of("F21", "a memory that is not the product's")
            .strikes(|scene| {
                scene.scenario.devices.iter_mut().for_each(|device| device.name = Device::h100(1).name);
                scene.target().name = Some("NVIDIA H200 141GB HBM3e".into());
            })
            .target(mismatch)
            .after(mismatch),
    ]
}

/// Two XIDs at once, in either order.
fn both(scene: &mut Scene, one: u64, other: u64) {
    let turned = scene.seed.bit(0);
    let (first, second) = if turned { (other, one) } else { (one, other) };
    scene.xid(first);
    scene.xid(second);
}

fn at_most(writes: usize, most: usize) -> Result<(), String> {
    (writes <= most).then_some(()).ok_or(format!("{writes} writes in three minutes, at most {most} are allowed"))
}
