//! The namespace of a home's work, and what confines everything in it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, ResourceQuotaSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use koinon_api::{labels, names};
use koinon_core::ids::MemberId;

use super::MANAGED_BY;

/// The name of the quota.
pub const QUOTA: &str = "koinon-guest";
/// The policy that refuses what no other allows.
pub const DEFAULT_DENY: &str = "koinon-default-deny";
/// The policy that lets the gateway in.
pub const GATEWAY_IN: &str = "koinon-gateway-in";
/// The policy that lets the weights cache be read.
pub const WEIGHTS_OUT: &str = "koinon-weights-out";

/// The namespace, under Pod Security *restricted*.
#[must_use]
pub fn namespace(home: &MemberId, release_namespace: &str) -> Namespace {
    let mut labels = managed();
    labels.insert(labels::RELEASE_NAMESPACE_LABEL.to_owned(), release_namespace.to_owned());
    labels.insert(labels::GUEST_OF.to_owned(), home.as_str().to_owned());
    for mode in ["enforce", "audit", "warn"] {
        labels.insert(format!("pod-security.kubernetes.io/{mode}"), "restricted".to_owned());
        labels.insert(format!("pod-security.kubernetes.io/{mode}-version"), "latest".to_owned());
    }
    Namespace {
        metadata: ObjectMeta {
            name: Some(names::guest_namespace(home.as_str())),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

/// What the home's granted placements may use together: nothing beyond them fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// How many placements.
    pub placements: u32,
    /// GPUs by what a quota calls them.
    pub gpus: BTreeMap<String, u32>,
}

/// The quota. A pod that is being replaced still counts, so there is room for one more than are granted.
#[must_use]
pub fn quota(home: &MemberId, granted: &Granted) -> ResourceQuota {
    let count = |amount: u32| Quantity(amount.to_string());
    let mut hard = BTreeMap::from([
        ("pods".to_owned(), count(granted.placements.saturating_mul(2))),
        ("services".to_owned(), count(granted.placements)),
        ("services.loadbalancers".to_owned(), count(0)),
        ("services.nodeports".to_owned(), count(0)),
        ("persistentvolumeclaims".to_owned(), count(0)),
        ("count/deployments.apps".to_owned(), count(granted.placements)),
        ("count/jobs.batch".to_owned(), count(0)),
        ("count/cronjobs.batch".to_owned(), count(0)),
        ("count/statefulsets.apps".to_owned(), count(0)),
        ("count/daemonsets.apps".to_owned(), count(0)),
    ]);
    for (key, amount) in &granted.gpus {
        hard.insert(key.clone(), count(*amount));
    }
    ResourceQuota {
        metadata: within(home, QUOTA),
        spec: Some(ResourceQuotaSpec { hard: Some(hard), ..ResourceQuotaSpec::default() }),
        status: None,
    }
}

/// Nothing in, nothing out, but the gateway in and the weights cache out. Not even DNS: names would carry data out.
#[must_use]
pub fn network_policies(home: &MemberId, release_namespace: &str) -> [NetworkPolicy; 3] {
    let everything = || LabelSelector::default();
    let engines = || matching([(labels::PART, labels::PART_ENGINE)]);
    let part = |component: &str| NetworkPolicyPeer {
        namespace_selector: Some(matching([("kubernetes.io/metadata.name", release_namespace)])),
        pod_selector: Some(matching([("app.kubernetes.io/component", component)])),
        ip_block: None,
    };
    let tcp = |port: IntOrString| {
        vec![NetworkPolicyPort { port: Some(port), protocol: Some("TCP".to_owned()), end_port: None }]
    };
    let deny = NetworkPolicySpec {
        pod_selector: Some(everything()),
        policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
        ..NetworkPolicySpec::default()
    };
    let gateway_in = NetworkPolicySpec {
        pod_selector: Some(engines()),
        policy_types: Some(vec!["Ingress".to_owned()]),
        ingress: Some(vec![NetworkPolicyIngressRule {
            from: Some(vec![part("gateway")]),
            ports: Some(tcp(IntOrString::String(labels::ENGINE_PORT_NAME.to_owned()))),
        }]),
        ..NetworkPolicySpec::default()
    };
    let weights_out = NetworkPolicySpec {
        pod_selector: Some(engines()),
        policy_types: Some(vec!["Egress".to_owned()]),
        egress: Some(vec![NetworkPolicyEgressRule {
            to: Some(vec![part("weights")]),
            ports: Some(tcp(IntOrString::Int(labels::WEIGHTS_PORT))),
        }]),
        ..NetworkPolicySpec::default()
    };
    [(DEFAULT_DENY, deny), (GATEWAY_IN, gateway_in), (WEIGHTS_OUT, weights_out)]
        .map(|(name, spec)| NetworkPolicy { metadata: within(home, name), spec: Some(spec) })
}

fn matching<const N: usize>(pairs: [(&str, &str); N]) -> LabelSelector {
    let labels = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    LabelSelector { match_labels: Some(labels.into()), match_expressions: None }
}

fn managed() -> BTreeMap<String, String> {
    [("app.kubernetes.io/managed-by", MANAGED_BY), ("app.kubernetes.io/part-of", MANAGED_BY)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn within(home: &MemberId, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(names::guest_namespace(home.as_str())),
        labels: Some(managed()),
        ..ObjectMeta::default()
    }
}
