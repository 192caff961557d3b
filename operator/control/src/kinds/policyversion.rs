//! `PolicyVersion`: every version of every policy chain, with the seals that enacted it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::conditions::{ConditionType, Reason, Verdict};
use koinon_api::names;
use koinon_api::policy_version::{PolicyVersion, PolicyVersionSpec, PolicyVersionStatus};
use koinon_core::body::Scope;
use koinon_core::policy::Version;

use crate::context::CooperativeView;
use crate::kinds::projections::{Moment, Projected, set};

impl Projected for PolicyVersion {
    type Status = PolicyVersionStatus;

    fn bare(name: &str) -> Self {
        PolicyVersion::new(name, PolicyVersionSpec {})
    }

    fn status(&self) -> Option<&PolicyVersionStatus> {
        self.status.as_ref()
    }

    fn set_status(&mut self, status: PolicyVersionStatus) {
        self.status = Some(status);
    }

    fn conditions(status: &PolicyVersionStatus) -> &[Condition] {
        &status.conditions
    }
}

/// The status of every version of every scope.
pub(crate) fn statuses(
    view: &CooperativeView,
    moment: &Moment,
    stored: impl Fn(&str) -> Option<Arc<PolicyVersion>>,
) -> BTreeMap<String, PolicyVersionStatus> {
    let mut statuses = BTreeMap::new();
    for scope in Scope::ALL {
        let chain = view.state.chain(scope);
        let head = chain.last().map(|version| version.hash);
        for version in chain {
            let name = names::policy_version(scope.as_str(), &version.hash.to_string());
            let status = status(view, version, head == Some(version.hash), moment, stored(&name).as_deref());
            statuses.insert(name, status);
        }
    }
    statuses
}

fn status(
    view: &CooperativeView,
    version: &Version,
    head: bool,
    moment: &Moment,
    stored: Option<&PolicyVersion>,
) -> PolicyVersionStatus {
    let seals = view.state.enact_seals().iter().filter(|sealed| sealed.seal.version == version.hash);
    let sealed_by: BTreeSet<String> = seals.map(|sealed| sealed.by.to_string()).collect();
    let message = match (version.enacted.is_some(), head) {
        (false, _) => "stands in the founding charter".to_owned(),
        (true, true) => format!("sealed by {} members; it is in force", sealed_by.len()),
        (true, false) => format!("sealed by {} members; a later version is in force", sealed_by.len()),
    };
    let mut status = PolicyVersionStatus {
        scope: Some(version.scope.to_string()),
        version: Some(version.hash.to_string()),
        parent: version.parent.map(|parent| parent.to_string()),
        height: i64::try_from(version.number).ok(),
        head: Some(head),
        proposal: version.enacted.as_ref().map(|enacted| enacted.proposal.to_string()),
        root: version.enacted.as_ref().map(|enacted| enacted.root.to_string()),
        sealed_by: sealed_by.into_iter().collect(),
        conditions: stored.and_then(|stored| stored.status.clone()).unwrap_or_default().conditions,
    };
    let enacted = Verdict::yes(Reason::Enacted, message);
    set(&mut status.conditions, ConditionType::Enacted, enacted, None, moment);
    status
}
