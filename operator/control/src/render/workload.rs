//! The Deployment and the Service of a placement, and the template of its claim on GPUs.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::api::core::v1::{PodTemplateSpec, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::resource::v1::{ResourceClaimSpec, ResourceClaimTemplate, ResourceClaimTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use koinon_api::labels;

use super::pod::START_DEADLINE_SECONDS;

/// Who owns what is rendered, and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Owned {
    /// The Placement's name, which all its objects bear.
    pub name: String,
    /// The Placement's namespace.
    pub namespace: String,
    /// The Placement's UID.
    pub uid: String,
}

impl Owned {
    fn metadata(&self) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            labels: Some(super::labels(&self.name)),
            owner_references: Some(vec![OwnerReference {
                api_version: format!("{}/{}", koinon_api::GROUP, koinon_api::VERSION),
                kind: "Placement".to_owned(),
                name: self.name.clone(),
                uid: self.uid.clone(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        }
    }
}

/// Whether the copy's pod is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// It is.
    Up,
    /// Its GPUs are to be free.
    Down,
}

/// The Deployment, with the template exactly as it was granted.
#[must_use]
pub fn deployment(owned: &Owned, template: PodTemplateSpec, scale: Scale) -> Deployment {
    Deployment {
        metadata: owned.metadata(),
        spec: Some(DeploymentSpec {
            replicas: Some(match scale {
                Scale::Up => 1,
                Scale::Down => 0,
            }),
            // A second pod would need a second set of GPUs.
            strategy: Some(DeploymentStrategy { type_: Some("Recreate".to_owned()), rolling_update: None }),
            selector: LabelSelector { match_labels: Some(super::selector(&owned.name)), match_expressions: None },
            progress_deadline_seconds: Some(START_DEADLINE_SECONDS),
            revision_history_limit: Some(0),
            template,
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// What each pod's claim is made from.
#[must_use]
pub fn claim_template(owned: &Owned, claim: ResourceClaimSpec) -> ResourceClaimTemplate {
    let spec = ResourceClaimTemplateSpec { metadata: None, spec: claim };
    ResourceClaimTemplate { metadata: owned.metadata(), spec }
}

/// The Service through which this host's gateway reaches the engine.
#[must_use]
pub fn service(owned: &Owned) -> Service {
    Service {
        metadata: owned.metadata(),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(super::selector(&owned.name)),
            ports: Some(vec![ServicePort {
                name: Some(labels::ENGINE_PORT_NAME.to_owned()),
                port: labels::ENGINE_SERVICE_PORT,
                target_port: Some(IntOrString::String(labels::ENGINE_PORT_NAME.to_owned())),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
