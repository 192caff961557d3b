//! The job of a challenge, and what its placement says of it. Pure.

use std::collections::BTreeMap;

use koinon_api::common::{EngineRef, ModelRef, OnPartition};
use koinon_api::conditions::{self, ConditionType};
use koinon_api::inference_job::{GpuNeed, InferenceJob, InferenceJobSpec, PlacementRules, Rollout, Scope};
use koinon_api::labels;
use koinon_api::placement::{Placement, PlacementState, Side};
use koinon_core::belief::draw::Target;
use koinon_core::body::catalogue::ModelRelease;
use koinon_core::body::challenges::Challenges;

/// What an answer may have, in tokens: more than its bytes.
const MAX_MODEL_LEN: i32 = 65_536;

/// The job, in the release namespace under a name that ends in `nonce`. Nothing in it says what will be asked.
#[must_use]
pub fn job(
    namespace: &str,
    target: &Target,
    devices: u8,
    rules: &Challenges,
    release: &ModelRelease,
    nonce: &str,
) -> InferenceJob {
    let name = format!("challenge-{nonce}");
    let spec = InferenceJobSpec {
        served_name: name.clone(),
        model: ModelRef {
            uri: release.uri.to_string(),
            revision: release.revision.to_string(),
            manifest_digest: release.manifest_digest.to_string(),
            quantization: release.quantization.to_string(),
        },
        engine: EngineRef { name: rules.engine.to_string(), options: BTreeMap::new() },
        max_model_len: MAX_MODEL_LEN,
        max_concurrency: 1,
        replicas: 1,
        rollout: Rollout {
            progress_deadline_seconds: i32::try_from(rules.most_seconds.0).unwrap_or(i32::MAX).clamp(10, 86_400),
            ..Rollout::default()
        },
        gpu: GpuNeed { class: target.class.to_string(), count: devices.into(), tensor_parallel: 0 },
        placement: PlacementRules {
            scope: Scope::Cooperative,
            members: vec![target.host.to_string()],
            on_partition: OnPartition::StopWhenLeaseLapses,
            ..PlacementRules::default()
        },
    };
    let mut job = InferenceJob::new(&name, spec);
    job.metadata.namespace = Some(namespace.to_owned());
    job.metadata.labels = Some(BTreeMap::from([
        (labels::CHALLENGE.to_owned(), target.host.to_string()),
        ("app.kubernetes.io/managed-by".to_owned(), "koinon".to_owned()),
    ]));
    job
}

/// Whether this is a job of that kind: made in the release namespace, where nothing runs, to run at one other member.
#[must_use]
pub fn is_challenge(job: &InferenceJob, namespace: &str, me: &str, rules: Option<&Challenges>) -> bool {
    let Some(rules) = rules else { return false };
    let of = job.metadata.labels.as_ref().and_then(|labels| labels.get(labels::CHALLENGE));
    let placement = &job.spec.placement;
    job.metadata.namespace.as_deref() == Some(namespace)
        && of.is_some_and(|of| of != me && placement.members == [of.clone()])
        && placement.scope == Scope::Cooperative
        && job.spec.model.manifest_digest == rules.model.to_string()
        && job.spec.engine.name == rules.engine.as_str()
}

/// Where a challenge stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The host has not granted it yet.
    Asked,
    /// It has; what is missing is said.
    Granted(String),
    /// It can be called.
    Routable,
    /// The host ended it.
    Ended(String),
}

/// Where the job of that UID stands, by its copies here.
#[must_use]
pub fn stage<'a>(uid: &str, placements: impl IntoIterator<Item = &'a Placement>) -> Stage {
    let mut stage = Stage::Asked;
    for placement in placements.into_iter().filter(|p| p.spec.side == Side::Home && p.spec.job.uid == uid) {
        let Some(status) = &placement.status else { continue };
        let state = status.state.unwrap_or_default();
        if conditions::is_true(&status.conditions, ConditionType::Routable) {
            return Stage::Routable;
        }
        let why = || {
            let numbers: Vec<String> = status.numbers.iter().map(|(name, number)| format!("{name} {number}")).collect();
            format!("{state:?} {} {}", status.reason.as_deref().unwrap_or_default(), numbers.join(", "))
                .trim()
                .to_owned()
        };
        match state {
            PlacementState::Granted | PlacementState::Loading | PlacementState::Ready => stage = Stage::Granted(why()),
            PlacementState::Draining | PlacementState::Released | PlacementState::Refused if stage == Stage::Asked => {
                stage = Stage::Ended(why());
            }
            _ => {}
        }
    }
    stage
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
