//! Every label, annotation, finalizer, port and fixed name that two parts must agree on.

/// Finalizer on what must be wound up before it goes. It waits for publication, never for a peer.
pub const FINALIZER: &str = "koinon.dev/cleanup";

// ---- labels on namespaces

/// On a guest namespace: the home member whose work runs there. Gate 2 looks for it.
pub const GUEST_OF: &str = "koinon.dev/guest-of";
/// On a guest namespace: the release namespace that it belongs to, whose gateway and weights cache its pods may talk to.
pub const RELEASE_NAMESPACE_LABEL: &str = "koinon.dev/release-namespace";
/// On a namespace: an admin lets jobs run here. Its value is [`JOBS_ALLOWED`].
pub const JOBS: &str = "koinon.dev/jobs";
/// The value of [`JOBS`].
pub const JOBS_ALLOWED: &str = "allowed";

// ---- labels on rendered objects

/// The name of the Placement that an object was rendered for.
pub const PLACEMENT: &str = "koinon.dev/placement";
/// What part of a Placement, or of the installation, an object is. See [`PART_ENGINE`].
pub const PART: &str = "koinon.dev/part";
/// The value of [`PART`] on engine pods and what belongs to them.
pub const PART_ENGINE: &str = "engine";
/// The value of [`PART`] on the pods of the NetworkPolicy probe.
pub const PART_PROBE: &str = "probe";
/// On a Placement: the name of its job at home.
pub const JOB: &str = "koinon.dev/job";
/// On a Placement: the UID of its job at home.
pub const JOB_UID: &str = "koinon.dev/job-uid";
/// On a Placement: the number of its replica.
pub const REPLICA: &str = "koinon.dev/replica";

// ---- labels on the operator's own pods

/// On the pod of the operator's replica that leads. The Service of the peer endpoint looks for it.
pub const LEADER: &str = "koinon.dev/leader";

// ---- labels on statements and what mirrors them

/// The member that signed.
pub const AUTHOR: &str = "koinon.dev/author";
/// The kind of statement, in kebab-case.
pub const KIND: &str = "koinon.dev/kind";
/// The log of an entry: the first 12 hex digits of its operator key.
pub const LOG: &str = "koinon.dev/log";
/// On a Proposal or Vote that the operator wrote from a foreign statement.
pub const MIRROR: &str = "koinon.dev/mirror";
/// The proposal that a Vote is about: the first 40 hex digits of its id.
pub const PROPOSAL: &str = "koinon.dev/proposal";

// ---- labels on jobs

/// On an InferenceJob that the operator made to challenge the GPUs of another member: that member's id.
pub const CHALLENGE: &str = "koinon.dev/challenge";

// ---- labels on Secrets

/// On a Secret that holds the hash of an API key.
pub const API_KEY: &str = "koinon.dev/apikey";
/// On a Secret that holds the hash of an invite.
pub const INVITE: &str = "koinon.dev/invite";
/// The value of [`LEADER`], [`MIRROR`], [`API_KEY`] and [`INVITE`].
pub const TRUE: &str = "true";

// ---- annotations

/// On the operator key: the UID of `kube-system` where it was made, by which a clone is noticed.
pub const CLUSTER_UID: &str = "koinon.dev/cluster-uid";
/// On the operator key: its public half.
pub const PUBLIC_KEY: &str = "koinon.dev/public-key";
/// On the operator key: the UID of the `kube-system` that may sign with it from now on. The operator takes it over into
/// [`CLUSTER_UID`] if it is its own cluster's, and removes it.
pub const ADOPT: &str = "koinon.dev/adopt";
/// On the Cooperative: sign without a quorum having told the own head. The value names the log's operator key, so that it
/// means one log only; the operator notes the resumption in the log and removes it.
pub const RESUME: &str = "koinon.dev/resume";
/// On the Cooperative: since when the owner has looked at the devices that failed, in RFC 3339. It closes the fleet breaker once.
pub const RESET_BREAKER: &str = "koinon.dev/reset-quarantine-breaker";
/// On a Member: challenge its GPUs now. The class, a space, and since when a person wants that, in RFC 3339. It asks once.
pub const CHALLENGE_NOW: &str = "koinon.dev/challenge-now";
/// On an invite: who used it.
pub const USED_BY: &str = "koinon.dev/used-by";
/// On a Placement at the host: the node on which its GPUs are reserved.
pub const NODE: &str = "koinon.dev/node";
/// On a Placement at the host that its owner reclaims: since when, in RFC 3339. It ends after the pool's notice; at once if the
/// value is no time. A person may set it, and takes it away again.
pub const RECLAIM: &str = "koinon.dev/reclaim";
/// Beside [`RECLAIM`] where the operator set both for what `GPUPool.spec` says, and takes them away when that no longer does:
/// why, as JSON.
pub const RECLAIM_WHY: &str = "koinon.dev/reclaim-why";
/// On a GPUNode, followed by a device's UUID: its owner's word that it is well again, as a time and a reason.
pub const CLEAR: &str = "clear.koinon.dev/";

/// On a DeviceTaintRule of the operator: the node and the UUID of the device that it is about, with a slash between.
pub const TAINTED_DEVICE: &str = "koinon.dev/tainted-device";

// ---- taints

/// The key of the taints of nodes and devices that must not be used. Their value is the release namespace whose operator set
/// them, which alone takes them off again.
pub const UNHEALTHY_TAINT: &str = "koinon.dev/gpu-unhealthy";

// ---- fixed names

/// The release's name, which begins the names of its parts.
pub const RELEASE: &str = "koinon";
/// The namespace that the release is installed in unless the admin chooses another.
pub const RELEASE_NAMESPACE: &str = "koinon-system";
/// The namespace of the agents, whose privileges need one of their own.
pub const AGENT_NAMESPACE: &str = "koinon-agent";
/// The operator's service account and its Deployment.
pub const OPERATOR: &str = "koinon-operator";
/// The gateway's service account and its Deployment.
pub const GATEWAY: &str = "koinon-gateway";
/// The weights cache's service account, its StatefulSet and its Service.
pub const WEIGHTS: &str = "koinon-weights";
/// The agent's service account and its DaemonSet.
pub const AGENT: &str = "koinon-agent";
/// The Secret with the operator key.
pub const OPERATOR_KEY_SECRET: &str = "koinon-operator-key";
/// The entry of [`OPERATOR_KEY_SECRET`] with the key in PKCS#8.
pub const OPERATOR_KEY_ENTRY: &str = "key.pem";
/// The Secret with the gateway's certificate, which the operator renews.
pub const GATEWAY_TLS_SECRET: &str = "koinon-gateway-tls";
/// The Secret in which the operator gathers the hashes of all API keys. The gateway may read this one and its
/// certificate by name, and no other Secret: a right to list Secrets would reach the operator key.
pub const API_KEYS_SECRET: &str = "koinon-apikeys";
/// The Secret with the token by which the weights cache knows the operator. The operator makes it.
pub const WEIGHTS_TOKEN_SECRET: &str = "koinon-weights-token";
/// The entry of [`WEIGHTS_TOKEN_SECRET`].
pub const WEIGHTS_TOKEN_ENTRY: &str = "token";
/// The Lease by which one of the operators leads.
pub const LEADER_LEASE: &str = "koinon-operator";
/// The entry of the ConfigMap [`crate::names::SETTLED`].
pub const SETTLED_ENTRY: &str = "settled.json";
/// Its entry with the names of the ConfigMaps that hold the parts, where there is more than one.
pub const SETTLED_PARTS: &str = "parts";
/// The value of [`PART`] on all of them.
pub const PART_SETTLED: &str = "settled";
/// The entry of a reservation ConfigMap.
pub const RESERVATIONS_ENTRY: &str = "reservations.json";
/// The ConfigMap in which the operator passes on to the agents what the cooperative voted about XIDs.
pub const XIDS_CONFIG_MAP: &str = "koinon-xids";
/// Its entry.
pub const XIDS_ENTRY: &str = "xids.json";
/// The extended resource that NVIDIA's device plugin registers.
pub const GPU_RESOURCE: &str = "nvidia.com/gpu";

// ---- rendered pods

/// The init container that copies and verifies the weights.
pub const WEIGHTS_CONTAINER: &str = "weights";
/// The container of the engine.
pub const ENGINE_CONTAINER: &str = "engine";
/// Where the weights lie in an engine pod.
pub const MODELS_PATH: &str = "/models";
/// The container of a probe pod.
pub const PROBE_CONTAINER: &str = "probe";
/// The name of an engine's only port.
pub const ENGINE_PORT_NAME: &str = "api";
/// The engine's home folder.
pub const HOME_PATH: &str = "/home/koinon";
/// The user and group that engine pods run as unless their image says another number.
pub const ENGINE_UID: i64 = 65532;

// ---- ports

/// The weights cache.
pub const WEIGHTS_PORT: i32 = 8081;
/// The port of the Service before an engine, whatever the engine listens on.
pub const ENGINE_SERVICE_PORT: i32 = 8000;
