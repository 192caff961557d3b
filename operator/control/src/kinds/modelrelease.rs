//! `ModelRelease`: which models the cooperative has approved.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::conditions::{ConditionType, Reason, Verdict};
use koinon_api::model_release::{ModelRelease, ModelReleaseSpec, ModelReleaseStatus, ReleaseState};
use koinon_api::names;
use koinon_core::policy::{self, Suspension};

use crate::context::CooperativeView;
use crate::kinds::projections::{Moment, Projected, set};

impl Projected for ModelRelease {
    type Status = ModelReleaseStatus;

    fn bare(name: &str) -> Self {
        ModelRelease::new(name, ModelReleaseSpec::default())
    }

    fn status(&self) -> Option<&ModelReleaseStatus> {
        self.status.as_ref()
    }

    fn set_status(&mut self, status: ModelReleaseStatus) {
        self.status = Some(status);
    }

    fn conditions(status: &ModelReleaseStatus) -> &[Condition] {
        &status.conditions
    }
}

/// The status of every release that was ever enacted.
pub(crate) fn statuses(
    view: &CooperativeView,
    moment: &Moment,
    stored: impl Fn(&str) -> Option<Arc<ModelRelease>>,
) -> BTreeMap<String, ModelReleaseStatus> {
    let releases = view.state.releases().iter();
    releases
        .map(|(digest, release)| {
            let name = names::model_release(&digest.to_string());
            let frozen = view.state.frozen(digest, moment.now);
            let status = status(release, frozen, moment, stored(&name).as_deref());
            (name, status)
        })
        .collect()
}

fn status(
    found: &policy::ReleaseState,
    frozen: Option<Suspension>,
    moment: &Moment,
    stored: Option<&ModelRelease>,
) -> ModelReleaseStatus {
    let release = &found.release;
    let generation = stored.and_then(|stored| stored.metadata.generation);
    let denied = stored.is_some_and(|stored| stored.spec.denied);
    let (state, version, enacted) = match &found.withdrawn {
        None => (ReleaseState::Enacted, found.since, Verdict::yes(Reason::Enacted, "the cooperative has approved it")),
        Some(version) => (
            ReleaseState::Withdrawn,
            *version,
            Verdict::no(Reason::Withdrawn, "the cooperative has withdrawn it; running copies drain"),
        ),
    };
    let usable = match (&found.withdrawn, frozen, denied) {
        (Some(_), _, _) => enacted.clone(),
        (None, Some(by), _) => {
            Verdict::no(Reason::ReleaseFrozen, format!("no new copy begins, by {by}; what runs goes on"))
        }
        (None, None, true) => Verdict::no(Reason::DeniedLocally, "this cluster's owner denies it (spec.denied)"),
        (None, None, false) => Verdict::yes(Reason::Enacted, "jobs may use it"),
    };
    let mut status = ModelReleaseStatus {
        observed_generation: generation,
        uri: Some(release.uri.to_string()),
        revision: Some(release.revision.to_string()),
        manifest_digest: Some(release.manifest_digest.to_string()),
        quantization: Some(release.quantization.to_string()),
        license: Some(release.license.to_string()),
        engines: release.engines.iter().map(ToString::to_string).collect(),
        memory_bytes: release.memory_bytes.and_then(|bytes| i64::try_from(bytes.0).ok()),
        state: Some(state),
        policy_version: Some(version.to_string()),
        conditions: stored.and_then(|stored| stored.status.clone()).unwrap_or_default().conditions,
    };
    set(&mut status.conditions, ConditionType::Enacted, enacted, generation, moment);
    set(&mut status.conditions, ConditionType::Usable, usable, generation, moment);
    status
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use koinon_api::{conditions, time};
    use koinon_core::body::Stop;
    use koinon_core::ids::UnixSeconds;
    use koinon_core::testkit::T0;

    use super::*;
    use crate::placement::fixture::{digest, rules_stopping};

    #[test]
    fn a_frozen_release_stays_enacted_and_is_not_usable_until_the_order_lapses() {
        let rules = rules_stopping("aarhus", Stop::Release(digest()));
        let order = *rules.view().state.emergencies().keys().next().unwrap();
        let usable = |now: UnixSeconds| {
            let moment = Moment { now, time: time::from_unix(now.0).unwrap(), monotonic: Duration::ZERO };
            let status = statuses(rules.view(), &moment, |_| None).into_values().next().unwrap();
            assert_eq!(status.state, Some(ReleaseState::Enacted));
            let usable = conditions::find(&status.conditions, ConditionType::Usable).unwrap();
            (usable.status.clone(), usable.reason.clone(), usable.message.clone())
        };
        let (status, reason, message) = usable(T0);
        assert_eq!((status.as_str(), reason.as_str()), ("False", "ReleaseFrozen"));
        assert!(message.starts_with(&format!("no new copy begins, by order {order} until ")), "{message}");
        assert_eq!(usable(rules.view().state.next_lapse(T0).unwrap()).0, "True");
    }
}
