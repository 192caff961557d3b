//! Writes to the API server: the node's own `GPUNode` and its own Lease, nothing else.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use koinon_api::gpu_node::{GPUNodeSpec, GPUNodeStatus};
use koinon_api::{GPUNode, labels};
use koinon_core::gpu::health::OwnerClear;
use koinon_core::ids::{DeviceId, NodeName, UnixSeconds};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::Status;
use kube::{Api, Client, Resource};
use serde_json::json;

/// Longer than an API server that is well needs, shorter than the heartbeat's interval.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a heartbeat counts; see `koinon_core::capacity::FRESH`.
const LEASE_SECONDS: i32 = 30;
const MANAGER: &str = "koinon/agent";

/// Why the API server could not be told.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There is no such resource.
    #[error(
        "reading GPUNode {node}: the API server knows no gpunodes.koinon.dev; install the koinon-crds chart of this version"
    )]
    NoDefinition {
        /// The node.
        node: NodeName,
    },
    /// There is no such node.
    #[error("reading Node {node}: there is none; check --node-name, which must be what `kubectl get nodes` prints")]
    NoNode {
        /// The node.
        node: NodeName,
    },
    /// It may not.
    #[error("{doing} {node}: refused: {message}; check the ClusterRole and the Role of the agent's service account")]
    Forbidden {
        /// What was attempted.
        doing: &'static str,
        /// On which node's object.
        node: NodeName,
        /// What the API server said.
        message: String,
    },
    /// The definition is older than this agent.
    #[error("{doing} {node}: {message}; upgrade the koinon-crds chart to the version of this agent")]
    Invalid {
        /// What was attempted.
        doing: &'static str,
        /// On which node's object.
        node: NodeName,
        /// What the API server said.
        message: String,
    },
    /// A policy of the cluster forbids it.
    #[error(
        "{doing} {node}: {message}; check that this agent runs as a pod of the DaemonSet, on the node of --node-name"
    )]
    Denied {
        /// What was attempted.
        doing: &'static str,
        /// On which node's object.
        node: NodeName,
        /// What the API server said.
        message: String,
    },
    /// No answer in time.
    #[error("{doing} {node}: the API server did not answer within {seconds} s", seconds = PATIENCE.as_secs())]
    Slow {
        /// What was attempted.
        doing: &'static str,
        /// On which node's object.
        node: NodeName,
    },
    /// Any other refusal.
    #[error("{doing} {node}: the API server answered {code}: {message}")]
    Answered {
        /// What was attempted.
        doing: &'static str,
        /// On which node's object.
        node: NodeName,
        /// The HTTP status.
        code: u16,
        /// What the API server said.
        message: String,
    },
    /// Anything else.
    #[error("{doing} {node}")]
    Api {
        /// What was attempted.
        doing: &'static str,
        /// On which node's object.
        node: NodeName,
        /// What went wrong.
        source: Box<kube::Error>,
    },
}

/// A `GPUNode` as it stands in the API server.
pub struct Standing {
    /// Its Node.
    pub owner: OwnerReference,
    /// Its generation.
    pub generation: Option<i64>,
    /// Devices that their owner called well again.
    pub clears: BTreeMap<DeviceId, OwnerClear>,
    /// What it says.
    pub status: GPUNodeStatus,
}

/// The two objects that speak for one node.
#[derive(Clone)]
pub struct Publisher {
    node: NodeName,
    nodes: Api<Node>,
    gpu_nodes: Api<DynamicObject>,
    leases: Api<Lease>,
}

impl Publisher {
    /// For one node; the Lease stands in `namespace`.
    pub fn new(client: Client, namespace: &str, node: NodeName) -> Self {
        Self {
            node,
            nodes: Api::all(client.clone()),
            gpu_nodes: Api::all_with(client.clone(), &ApiResource::erase::<GPUNode>(&())),
            leases: Api::namespaced(client, namespace),
        }
    }

    /// The node's `GPUNode` as it stands, made if it is not there.
    pub async fn gpu_node(&self) -> Result<Standing, PublishError> {
        match self.ask("reading GPUNode", self.gpu_nodes.get(self.node.as_str())).await {
            Err(PublishError::Api { source, .. }) if missing(&source, self.node.as_str()) => self.create().await,
            Err(PublishError::Api { source, .. }) if not_found(&source).is_some() => {
                Err(PublishError::NoDefinition { node: self.node.clone() })
            }
            Err(error) => Err(error),
            Ok(found) => match Standing::of(found) {
                Some(standing) => Ok(standing),
                // Somebody made it by hand, or restored it from a backup.
                None => self.create().await,
            },
        }
    }

    /// Owned by the Node, so that it goes when the node goes.
    async fn create(&self) -> Result<Standing, PublishError> {
        let owner = self.owner().await?;
        let mut gpu_node = GPUNode::new(self.node.as_str(), GPUNodeSpec::default());
        gpu_node.metadata.owner_references = Some(vec![owner.clone()]);
        let (params, patch) = (apply(), Patch::Apply(&gpu_node));
        let made = self.ask("creating GPUNode", self.gpu_nodes.patch(self.node.as_str(), &params, &patch)).await?;
        let generation = made.metadata.generation;
        Ok(Standing::of(made).unwrap_or(Standing {
            owner,
            generation,
            clears: BTreeMap::new(),
            status: GPUNodeStatus::default(),
        }))
    }

    /// Writes the status, and only the status.
    pub async fn write(&self, status: &GPUNodeStatus) -> Result<(), PublishError> {
        let patch = Patch::Apply(json!({
            "apiVersion": GPUNode::api_version(&()),
            "kind": GPUNode::kind(&()),
            "metadata": {"name": self.node.as_str()},
            "status": status,
        }));
        let params = apply();
        let written = self.gpu_nodes.patch_status(self.node.as_str(), &params, &patch);
        self.ask("writing the status of GPUNode", written).await.map(drop)
    }

    /// Renews the Lease, which says that the status still holds.
    pub async fn beat(&self, owner: &OwnerReference, now: Timestamp) -> Result<(), PublishError> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.node.to_string()),
                owner_references: Some(vec![owner.clone()]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.node.to_string()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(MicroTime(now)),
                ..LeaseSpec::default()
            }),
        };
        let (params, patch) = (apply(), Patch::Apply(&lease));
        self.ask("renewing Lease", self.leases.patch(self.node.as_str(), &params, &patch)).await.map(drop)
    }

    async fn owner(&self) -> Result<OwnerReference, PublishError> {
        let node = match self.ask("reading Node", self.nodes.get(self.node.as_str())).await {
            Err(PublishError::Api { source, .. }) if not_found(&source).is_some() => {
                return Err(PublishError::NoNode { node: self.node.clone() });
            }
            found => found?,
        };
        Ok(OwnerReference {
            api_version: Node::api_version(&()).into_owned(),
            kind: Node::kind(&()).into_owned(),
            name: self.node.to_string(),
            uid: node.metadata.uid.unwrap_or_default(),
            ..OwnerReference::default()
        })
    }

    async fn ask<T>(
        &self,
        doing: &'static str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, PublishError> {
        let node = self.node.clone();
        match tokio::time::timeout(PATIENCE, request).await {
            Err(_) => Err(PublishError::Slow { doing, node }),
            Ok(Ok(answer)) => Ok(answer),
            // What is not found means something else for each question.
            Ok(Err(kube::Error::Api(status))) if status.code != 404 => Err(refusal(doing, node, *status)),
            Ok(Err(error)) => Err(PublishError::Api { doing, node, source: Box::new(error) }),
        }
    }
}

fn refusal(doing: &'static str, node: NodeName, status: Status) -> PublishError {
    let Status { code, message, .. } = status;
    // The policy's refusal has the code of a broken schema; a field that the schema lacks, that of an internal error.
    if message.contains("ValidatingAdmissionPolicy") {
        PublishError::Denied { doing, node, message }
    } else if code == 403 {
        PublishError::Forbidden { doing, node, message }
    } else if matches!(code, 400 | 422) || message.contains("field not declared in schema") {
        PublishError::Invalid { doing, node, message }
    } else {
        PublishError::Answered { doing, node, code, message }
    }
}

impl Standing {
    /// None if no Node owns it.
    fn of(gpu_node: DynamicObject) -> Option<Self> {
        let owners = gpu_node.metadata.owner_references.unwrap_or_default();
        let owner = owners.into_iter().find(|owner| owner.kind == Node::kind(&()))?;
        let status = gpu_node.data.get("status").cloned().unwrap_or_else(|| json!({}));
        // An agent of another version may have written what this one cannot read. It is about to be said anew, and to wait
        // for somebody to repair it would leave the node without a voice.
        let status = serde_json::from_value(status).unwrap_or_else(|error| {
            tracing::warn!(%error, "the GPUNode's status cannot be read and is written anew");
            GPUNodeStatus::default()
        });
        let clears = clears(gpu_node.metadata.annotations.unwrap_or_default());
        Some(Self { owner, generation: gpu_node.metadata.generation, clears, status })
    }
}

/// The owner's word on devices: annotations `clear.koinon.dev/UUID`, each a time and a reason. What cannot be read is no word.
fn clears(annotations: BTreeMap<String, String>) -> BTreeMap<DeviceId, OwnerClear> {
    let read = |(key, value): (String, String)| {
        let device = key.strip_prefix(labels::CLEAR)?.parse().ok()?;
        let clear = value.split_once(' ').and_then(|(at, reason)| {
            let at: Timestamp = at.parse().ok()?;
            Some(OwnerClear { at: UnixSeconds(at.as_second()), reason: reason.trim().parse().ok()? })
        });
        if clear.is_none() {
            tracing::warn!(%key, "is not a time and a reason, as `2026-11-22T08:00:00Z the fan was replaced`");
        }
        Some((device, clear?))
    };
    annotations.into_iter().filter_map(read).collect()
}

/// Strict, so that a field which an older definition lacks is an error that names it, and not silently dropped.
fn apply() -> PatchParams {
    PatchParams::apply(MANAGER).force().validation_strict()
}

fn not_found(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) if status.code == 404 => Some(status),
        _ => None,
    }
}

/// Whether it is the object that is missing, and not its kind: only then does the answer name it.
fn missing(error: &kube::Error, name: &str) -> bool {
    not_found(error).and_then(|status| status.details.as_ref()).is_some_and(|details| details.name == name)
}
