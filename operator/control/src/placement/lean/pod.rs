//! A Pod: what it holds of its node. Those that hold nothing, which are most of a cluster's, are not kept at all.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1;
use koinon_api::labels;
use koinon_core::ids::NodeName;
use kube::ResourceExt;
use serde::Deserialize;

use super::node::is_extended;
use super::words::{Word, word};
use crate::cache::Kept;
use crate::placement::inventory::requests;

/// A Pod.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(from = "v1::Pod")]
pub struct Pod {
    /// Its namespace.
    pub namespace: Word,
    /// Its name.
    pub name: Box<str>,
    /// Which of that name.
    pub uid: Option<Box<str>>,
    /// The Placement that its labels name. A label alone proves nothing.
    pub placement: Option<Box<str>>,
    /// The node on which it holds what it requests: bound or promised, and not ended.
    pub node: Option<NodeName>,
    /// The node that it is bound to, ended or not.
    pub bound: Option<NodeName>,
    /// It is about to end.
    pub terminating: bool,
    /// The claims that it uses; none in place of one whose name is not known yet.
    pub claims: Box<[Option<Box<str>>]>,
    /// How many of each extended resource the scheduler sets aside for it.
    requests: Box<[(Word, u32)]>,
    /// All that is known of a copy's own pod, for whoever follows the copy.
    pub copy: Option<Box<v1::Pod>>,
}

impl Pod {
    /// How many of an extended resource the scheduler sets aside for it.
    #[must_use]
    pub fn requests(&self, resource: &str) -> u32 {
        self.requests.iter().find(|(name, _)| **name == *resource).map_or(0, |(_, amount)| *amount)
    }

    /// Whether anybody here has a use for it.
    fn matters(&self) -> bool {
        let holds = self.node.is_some() && !self.requests.is_empty();
        holds || self.placement.is_some() || !self.claims.is_empty()
    }
}

impl From<v1::Pod> for Pod {
    fn from(mut pod: v1::Pod) -> Self {
        let placement = pod.labels().get(labels::PLACEMENT).map(|name| name.as_str().into());
        let node = |name: Option<&str>| name.and_then(|name| name.parse().ok());
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let resources: BTreeSet<&String> = resources(&pod).filter(|resource| is_extended(resource)).collect();
        let requested = resources.into_iter().map(|resource| (word(resource), requests::of_pod(&pod, resource)));
        let claims: Box<[_]> = claims(&pod);
        let mut kept = Self {
            namespace: word(&pod.namespace().unwrap_or_default()),
            name: pod.name_any().into(),
            // Whose claims are reserved is told by it; nobody else asks.
            uid: pod.metadata.uid.as_deref().filter(|_| !claims.is_empty()).map(Into::into),
            placement,
            node: node(requests::node_of(&pod)),
            bound: node(bound),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            claims,
            requests: requested.filter(|(_, amount)| *amount > 0).collect(),
            copy: None,
        };
        if kept.placement.is_some() {
            trim(&mut pod);
            kept.copy = Some(Box::new(pod));
        }
        kept
    }
}

impl Kept<v1::Pod> for Pod {
    fn keep(pod: v1::Pod) -> Option<Self> {
        Some(Self::from(pod)).filter(Self::matters)
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }
}

/// What its containers request or are limited to.
fn resources(pod: &v1::Pod) -> impl Iterator<Item = &String> {
    let spec = pod.spec.iter();
    let containers = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let wants = containers.filter_map(|container| container.resources.as_ref());
    wants.flat_map(|wants| wants.requests.iter().chain(&wants.limits)).flat_map(BTreeMap::keys)
}

fn claims(pod: &v1::Pod) -> Box<[Option<Box<str>>]> {
    let statuses = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    let made: BTreeMap<&str, &Option<String>> =
        statuses.map(|status| (status.name.as_str(), &status.resource_claim_name)).collect();
    let claims = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
    let mut names = Vec::new();
    for claim in claims {
        match (&claim.resource_claim_name, made.get(claim.name.as_str())) {
            (Some(name), _) | (None, Some(Some(name))) => names.push(Some(name.as_str().into())),
            // Made from a template, which then turned out to need none.
            (None, Some(None)) => {}
            (None, None) => names.push(None),
        }
    }
    names.into()
}

/// What is kept of a copy's own pod says where it runs and how it stands.
fn trim(pod: &mut v1::Pod) {
    pod.metadata.annotations = None;
    let Some(spec) = &mut pod.spec else { return };
    spec.volumes = None;
    spec.tolerations = None;
    spec.affinity = None;
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let (name, resources) = (std::mem::take(&mut container.name), container.resources.take());
        let restart_policy = container.restart_policy.take();
        *container = v1::Container { name, resources, restart_policy, ..Default::default() };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn kept(labels: &Value, spec: &Value, phase: &str) -> bool {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "labels": labels}, "spec": spec, "status": {"phase": phase}});
        Pod::keep(serde_json::from_value::<v1::Pod>(pod).unwrap()).is_some()
    }

    #[test]
    fn a_pod_is_kept_for_what_it_holds_or_for_the_copy_that_it_is() {
        let with =
            |limits: Value| json!({"nodeName": "n1", "containers": [{"name": "c", "resources": {"limits": limits}}]});
        let (gpus, plain) = (with(json!({"nvidia.com/gpu": "1"})), with(json!({"cpu": "1", "hugepages-2Mi": "2Mi"})));
        let claims = json!({"containers": [], "resourceClaims": [{"name": "gpus", "resourceClaimName": "c"}]});
        let unbound = json!({"containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]});
        let copy = json!({labels::PLACEMENT: "aarhus-1"});
        for (labels, spec, phase, wanted) in [
            (json!({}), &gpus, "Running", true),
            (json!({}), &gpus, "Succeeded", false),
            (json!({}), &plain, "Running", false),
            (json!({}), &unbound, "Pending", false),
            // Somebody's claim may still be reserved for it.
            (json!({}), &claims, "Succeeded", true),
            (copy, &plain, "Failed", true),
        ] {
            assert_eq!(kept(&labels, spec, phase), wanted, "{labels} {spec} {phase}");
        }
    }

    #[test]
    fn what_is_kept_of_requests_is_what_the_scheduler_counts() {
        let limits = |gpus: &str| json!({"limits": {"nvidia.com/gpu": gpus, "example.com/nic": "1"}});
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1",
            "containers": [{"name": "a", "resources": limits("2")}, {"name": "b", "resources": limits("1")}],
            "initContainers": [{"name": "i", "resources": {"requests": {"nvidia.com/gpu": "5"}}}]}});
        let pod: v1::Pod = serde_json::from_value(pod).unwrap();
        let lean = Pod::from(pod.clone());
        for resource in ["nvidia.com/gpu", "example.com/nic", "example.com/none"] {
            assert_eq!(lean.requests(resource), requests::of_pod(&pod, resource), "{resource}");
        }
        assert_eq!(lean.requests("nvidia.com/gpu"), 5);
    }
}
