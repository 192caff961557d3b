//! Confidential computing that proves nothing: F29.

use fake_nvml::{Blob, ConfidentialCompute};
use koinon_api::gpu_node::Confidential;

use crate::cell::Case;
use crate::observed;
use crate::scene::{Scene, TARGET};

fn on(scene: &mut Scene, change: impl FnOnce(&mut ConfidentialCompute)) {
    let confidential = scene.scenario.confidential_compute.as_mut().unwrap();
    (confidential.environment, confidential.enabled) = (2, true);
    change(confidential);
}

pub fn cases() -> Vec<Case> {
    let waits = "Degraded(PendingConfig) ApplyConfig Keep NotHealthy";
    vec![
        Case::of("F29", "open to tools").strikes(|scene| on(scene, |confidential| confidential.dev_tools = true)).also(
            |_, status, _| {
                let said = observed::row(status, TARGET).and_then(|row| row.confidential_compute.clone());
                let wanted = Confidential { enabled: true, dev_tools: true, ready: true };
                (said.as_ref() == Some(&wanted)).then_some(()).ok_or(format!("{said:?}"))
            },
        ),
        // Every device of the node waits for its owner's word, and takes no work before.
        Case::of("F29", "not ready for work")
            .strikes(|scene| on(scene, |confidential| confidential.gpus_ready = Some(false)))
            .target(waits)
            .others(waits),
        Case::of("F29", "a report that claims to be longer than its buffer").strikes(|scene| {
            on(scene, |_| {});
            let blob = Blob { claimed_bytes: Some(u32::MAX), ..Blob::of(&[1, 2, 3]) };
            scene.target().confidential.attestation_report = Some(blob.clone());
            scene.target().confidential.certificate_chain = Some(blob);
        }),
    ]
}
