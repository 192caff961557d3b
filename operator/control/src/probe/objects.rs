//! The namespace, pods and policies of the probe. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, Namespace, Pod, PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile,
    SecurityContext,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use koinon_api::labels;

use crate::render::MANAGED_BY;

/// Where the probe runs: a guest namespace like any other, so that it meets the same confinement. No member's namespace
/// can be called so, because no member's id begins with a dash.
pub const NAMESPACE: &str = "koinon-guest--probe";
/// Whose guests it holds: nobody's. No member's id has capitals.
const NOBODY: &str = "PROBE";
/// Where the listening pod listens.
pub const PORT: u16 = 8080;

/// The policies, in the order in which they are laid on.
pub const INGRESS: &str = "probe-no-ingress";
/// See [`INGRESS`].
pub const EGRESS: &str = "probe-no-egress";

/// The namespace.
#[must_use]
pub fn namespace(release_namespace: &str) -> Namespace {
    let mut labels = managed();
    labels.insert(labels::GUEST_OF.to_owned(), NOBODY.to_owned());
    labels.insert(labels::RELEASE_NAMESPACE_LABEL.to_owned(), release_namespace.to_owned());
    for mode in ["enforce", "audit", "warn"] {
        labels.insert(format!("pod-security.kubernetes.io/{mode}"), "restricted".to_owned());
    }
    Namespace {
        metadata: ObjectMeta { name: Some(NAMESPACE.to_owned()), labels: Some(labels), ..ObjectMeta::default() },
        ..Namespace::default()
    }
}

/// A policy that lets nothing in, or nothing out, of any pod.
#[must_use]
pub fn policy(name: &str) -> NetworkPolicy {
    let direction = if name == INGRESS { "Ingress" } else { "Egress" };
    NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(managed()),
            ..ObjectMeta::default()
        },
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector::default()),
            policy_types: Some(vec![direction.to_owned()]),
            ..NetworkPolicySpec::default()
        }),
    }
}

/// A pod that waits to be called.
#[must_use]
pub fn listener(name: &str, image: &str, seconds: u64) -> Pod {
    pod(name, image, vec!["listen".into(), format!("--listen=0.0.0.0:{PORT}"), format!("--seconds={seconds}")])
}

/// A pod that calls `targets` and writes down what came of it.
#[must_use]
pub fn caller(name: &str, image: &str, targets: &[String]) -> Pod {
    let mut args = vec!["connect".to_owned(), "--timeout-seconds=3".to_owned()];
    args.extend(targets.iter().cloned());
    pod(name, image, args)
}

fn pod(name: &str, image: &str, args: Vec<String>) -> Pod {
    let amounts: BTreeMap<String, Quantity> =
        [("cpu", "50m"), ("memory", "32Mi")].map(|(key, value)| (key.to_owned(), Quantity(value.to_owned()))).into();
    let seccomp = || SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None };
    let mut labels = managed();
    labels.insert(labels::PART.to_owned(), labels::PART_PROBE.to_owned());
    let mut probe = vec!["probe".to_owned()];
    probe.extend(args);
    Pod {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            restart_policy: Some("Never".to_owned()),
            termination_grace_period_seconds: Some(1),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(labels::ENGINE_UID),
                run_as_group: Some(labels::ENGINE_UID),
                fs_group: Some(labels::ENGINE_UID),
                seccomp_profile: Some(seccomp()),
                ..PodSecurityContext::default()
            }),
            containers: vec![Container {
                name: labels::PROBE_CONTAINER.to_owned(),
                image: Some(image.to_owned()),
                args: Some(probe),
                resources: Some(ResourceRequirements {
                    requests: Some(amounts.clone()),
                    limits: Some(amounts),
                    ..ResourceRequirements::default()
                }),
                security_context: Some(SecurityContext {
                    allow_privilege_escalation: Some(false),
                    read_only_root_filesystem: Some(true),
                    run_as_non_root: Some(true),
                    capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
                    seccomp_profile: Some(seccomp()),
                    ..SecurityContext::default()
                }),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn managed() -> BTreeMap<String, String> {
    [("app.kubernetes.io/managed-by", MANAGED_BY), ("app.kubernetes.io/part-of", MANAGED_BY)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

#[cfg(test)]
mod tests {
    use koinon_core::ids::MemberId;

    use super::*;

    #[test]
    fn no_member_can_own_the_probe_s_namespace() {
        let prefix = koinon_api::names::guest_namespace("");
        let home = NAMESPACE.strip_prefix(&prefix).unwrap();
        assert!(home.parse::<MemberId>().is_err() && NOBODY.parse::<MemberId>().is_err());
    }

    #[test]
    fn a_policy_names_one_direction_and_allows_nothing() {
        for (name, direction) in [(INGRESS, "Ingress"), (EGRESS, "Egress")] {
            let spec = policy(name).spec.unwrap();
            assert_eq!(spec.policy_types, Some(vec![direction.to_owned()]));
            assert_eq!((spec.ingress, spec.egress), (None, None));
        }
    }

    #[test]
    fn the_caller_is_told_whom_to_call_and_nothing_else() {
        let pod = caller("c", "koinon@sha256:00", &["10.0.0.1:8080".to_owned()]).spec.unwrap();
        let args = pod.containers[0].args.clone().unwrap();
        assert_eq!(args, ["probe", "connect", "--timeout-seconds=3", "10.0.0.1:8080"]);
    }
}
