//! The operator's key, the guard against cloned clusters, and the gateway's leaf.
//!
//! The key is made here when there is none, or was put there by its owner; Helm never renders it, because a second
//! `helm template` would make a second identity. Its Secret records for which cluster it was made.

pub mod pem;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use koinon_api::{Cooperative, labels};
use koinon_core::dsse::{SeedSigner, Signer};
use koinon_core::ids::{CoopId, MemberId, ObjectUid, PublicKey, UnixSeconds};
use koinon_core::recovery::CloneVerdict;
use koinon_net::tls::{CertUse, IssueError, Leaf, LeafName, issue};
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams, ResourceExt};
use serde_json::json;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::lease::{Fenced, LeaseHandle, NotLeader};

/// What a gateway's Secret is called by Kubernetes.
const TLS_TYPE: &str = "kubernetes.io/tls";
/// What the key's Secret is called by us.
const KEY_TYPE: &str = "koinon.dev/operator-key";

/// Why there is no key to sign with, or no leaf.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The API server refused or did not answer.
    #[error("{doing} failed: check that the operator may get, create and patch Secrets in its namespace")]
    Api {
        /// What was attempted.
        doing: &'static str,
        /// What came back.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer in time, or the lease is gone.
    #[error("{0} was not answered in time")]
    Timeout(&'static str),
    /// This replica may not write.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// The Secret holds something else.
    #[error(transparent)]
    Text(#[from] pem::KeyTextError),
    /// There is no Secret, and a membership that names a key.
    #[error(
        "the Secret {} is gone, and this cluster is a member already: restore the key from its backup (kubectl koinon \
         keys restore FILE), as a new one would be another operator's; without a backup delete the Cooperative",
        labels::OPERATOR_KEY_SECRET
    )]
    Lost,
    /// The Secret lacks its entry.
    #[error("the Secret {} has no entry {}", labels::OPERATOR_KEY_SECRET, labels::OPERATOR_KEY_ENTRY)]
    Empty,
    /// The Secret says that it holds another key.
    #[error(
        "the Secret {} is annotated with {annotated} and holds {held}: somebody replaced one of them; \
         restore the key, or remove the annotation if the new key is meant",
        labels::OPERATOR_KEY_SECRET
    )]
    Replaced {
        /// The annotation.
        annotated: String,
        /// The key.
        held: PublicKey,
    },
    /// No randomness.
    #[error("the system gave no randomness for a key: {0}")]
    Random(getrandom::Error),
    /// `kube-system` has no usable UID.
    #[error("the namespace kube-system has no UID: is this a Kubernetes API server?")]
    NoCluster,
    /// The leaf could not be made.
    #[error(transparent)]
    Leaf(#[from] IssueError),
}

/// The operator key, and whether this cluster may sign with it.
#[derive(Clone)]
pub struct OperatorKey {
    /// Signs.
    pub signer: Arc<dyn Signer + Send + Sync>,
    /// Whether the key belongs to this cluster.
    pub clone: CloneVerdict,
}

impl OperatorKey {
    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.signer.public_key()
    }
}

impl std::fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorKey").field("public", &self.public()).field("clone", &self.clone).finish()
    }
}

/// The Secrets of the release namespace that belong to the operator.
#[derive(Clone, Debug)]
pub struct KeyStore {
    secrets: Api<Secret>,
    namespaces: Api<Namespace>,
    memberships: Api<Cooperative>,
    lease: LeaseHandle,
    timeout: Duration,
}

impl KeyStore {
    /// Secrets that are written while `lease` is held.
    #[must_use]
    pub fn new(client: kube::Client, namespace: &str, lease: LeaseHandle, timeout: Duration) -> Self {
        let secrets = Api::namespaced(client.clone(), namespace);
        let memberships = Api::namespaced(client.clone(), namespace);
        KeyStore { secrets, namespaces: Api::all(client), memberships, lease, timeout }
    }

    /// Reads the key, or makes it where nothing names one yet; records the cluster where nothing is recorded; takes an adoption over.
    ///
    /// # Errors
    /// See [`KeyError`]. Another replica that made the key in the same moment is no error.
    pub async fn ensure(&self) -> Result<OperatorKey, KeyError> {
        let cluster = self.cluster().await?;
        let name = labels::OPERATOR_KEY_SECRET;
        let read = self.call("reading the operator key", self.secrets.get_opt(name)).await?;
        let secret = match read {
            Some(secret) => secret,
            None if self.is_member().await? => return Err(KeyError::Lost),
            None => self.create(&cluster).await?,
        };
        let data = secret.data.as_ref().and_then(|data| data.get(labels::OPERATOR_KEY_ENTRY)).ok_or(KeyError::Empty)?;
        let signer = pem::read(&data.0)?;
        let public = signer.public_key();
        let annotation = |name: &str| secret.annotations().get(name).cloned();
        if let Some(annotated) = annotation(labels::PUBLIC_KEY).filter(|text| *text != public.to_string()) {
            return Err(KeyError::Replaced { annotated, held: public });
        }
        let recorded = annotation(labels::CLUSTER_UID).and_then(|uid| uid.parse::<ObjectUid>().ok());
        let adopted = annotation(labels::ADOPT).is_some_and(|uid| uid == cluster.as_str());
        let mut clone = CloneVerdict::of(recorded.as_ref(), &cluster);
        if adopted || clone == CloneVerdict::Unrecorded || annotation(labels::PUBLIC_KEY).is_none() {
            if adopted || clone == CloneVerdict::Unrecorded {
                clone = CloneVerdict::Same;
            }
            let recorded = if clone == CloneVerdict::Same { Some(cluster.to_string()) } else { None };
            self.annotate(&secret, &public, recorded, adopted).await?;
        }
        Ok(OperatorKey { signer: Arc::new(signer), clone })
    }

    /// Whether there is a membership: nobody makes one before there is a key for it to name.
    async fn is_member(&self) -> Result<bool, KeyError> {
        // Its metadata suffices, so that one that cannot be decoded counts too.
        let params = ListParams::default().limit(1);
        let listed = self.call("looking for a membership", self.memberships.list_metadata(&params)).await?;
        Ok(!listed.items.is_empty())
    }

    async fn create(&self, cluster: &ObjectUid) -> Result<Secret, KeyError> {
        let mut seed = Zeroizing::new([0_u8; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(KeyError::Random)?;
        let public = SeedSigner::from_seed(&seed).public_key();
        let annotations = BTreeMap::from([
            (labels::CLUSTER_UID.to_owned(), cluster.to_string()),
            (labels::PUBLIC_KEY.to_owned(), public.to_string()),
        ]);
        let pem = pem::write(&seed);
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(labels::OPERATOR_KEY_SECRET.to_owned()),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            type_: Some(KEY_TYPE.to_owned()),
            data: Some(BTreeMap::from([(labels::OPERATOR_KEY_ENTRY.to_owned(), ByteString(pem.as_bytes().to_vec()))])),
            ..Secret::default()
        };
        let fence = self.lease.guard()?;
        let params = PostParams::default();
        let created = fence.within(self.secrets.create(&params, &secret));
        match tokio::time::timeout(self.timeout, created).await {
            Ok(Ok(secret)) => {
                tracing::info!(%public, "made the operator key");
                Ok(secret)
            }
            // Taken meanwhile: whoever was first has made the identity of this operator.
            Ok(Err(Fenced::Failed(kube::Error::Api(status)))) if status.code == 409 => {
                self.call("reading the operator key", self.secrets.get(labels::OPERATOR_KEY_SECRET)).await
            }
            Ok(Err(Fenced::Failed(error))) => {
                Err(KeyError::Api { doing: "storing a new operator key", source: Box::new(error) })
            }
            Ok(Err(Fenced::Ended)) => Err(NotLeader.into()),
            Err(_) => Err(KeyError::Timeout("storing a new operator key")),
        }
    }

    async fn annotate(
        &self,
        secret: &Secret,
        public: &PublicKey,
        cluster: Option<String>,
        adopted: bool,
    ) -> Result<(), KeyError> {
        let mut annotations = json!({ labels::PUBLIC_KEY: public.to_string() });
        if let Some(cluster) = cluster {
            annotations[labels::CLUSTER_UID] = json!(cluster);
        }
        if adopted {
            annotations[labels::ADOPT] = serde_json::Value::Null;
        }
        // The resource version makes it a compare-and-swap: the verdict was about exactly this Secret.
        let patch = json!({"metadata": {"resourceVersion": secret.resource_version(), "annotations": annotations}});
        self.lease.guard()?;
        let params = PatchParams::default();
        let patch = Patch::Merge(&patch);
        let patched = self.secrets.patch(labels::OPERATOR_KEY_SECRET, &params, &patch);
        self.call("annotating the operator key", patched).await.map(|_| ())
    }

    async fn cluster(&self) -> Result<ObjectUid, KeyError> {
        let namespace = self.call("reading the namespace kube-system", self.namespaces.get("kube-system")).await?;
        namespace.uid().and_then(|uid| uid.parse().ok()).ok_or(KeyError::NoCluster)
    }

    /// Keeps the gateway's leaf fresh; returns when to look again.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub async fn gateway_leaf(
        &self,
        key: &OperatorKey,
        coop: CoopId,
        member: &MemberId,
        now: UnixSeconds,
    ) -> Result<UnixSeconds, KeyError> {
        let name = LeafName { coop, member: member.clone(), cert_use: CertUse::Gateway };
        let read = self.call("reading the gateway's leaf", self.secrets.get_opt(labels::GATEWAY_TLS_SECRET)).await?;
        if let Some(leaf) = read.as_ref().and_then(current_leaf) {
            let identity = leaf.identity();
            let good = identity.key == key.public() && identity.name == name && identity.not_before <= now;
            if good && now < leaf.renew_at() {
                return Ok(leaf.renew_at());
            }
        }
        let leaf = issue(key.signer.as_ref(), &name, now)?;
        let data = BTreeMap::from([
            ("tls.crt".to_owned(), ByteString(leaf.certificate_pem().as_bytes().to_vec())),
            ("tls.key".to_owned(), ByteString(leaf.key_pem().as_bytes().to_vec())),
        ]);
        let secret = Secret {
            metadata: ObjectMeta { name: Some(labels::GATEWAY_TLS_SECRET.to_owned()), ..ObjectMeta::default() },
            type_: Some(TLS_TYPE.to_owned()),
            data: Some(data),
            ..Secret::default()
        };
        self.lease.guard()?;
        let params = PatchParams::apply(&koinon_api::names::field_manager("keys")).force();
        let patch = Patch::Apply(&secret);
        let applied = self.secrets.patch(labels::GATEWAY_TLS_SECRET, &params, &patch);
        self.call("storing the gateway's leaf", applied).await?;
        tracing::info!(until = leaf.identity().not_after.0, "renewed the gateway's leaf");
        Ok(leaf.renew_at())
    }

    async fn call<T>(
        &self,
        doing: &'static str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, KeyError> {
        match tokio::time::timeout(self.timeout, request).await {
            Ok(answer) => answer.map_err(|source| KeyError::Api { doing, source: Box::new(source) }),
            Err(_) => Err(KeyError::Timeout(doing)),
        }
    }
}

fn current_leaf(secret: &Secret) -> Option<Leaf> {
    let data = secret.data.as_ref()?;
    let text = |name: &str| std::str::from_utf8(&data.get(name)?.0).ok();
    Leaf::from_pem(text("tls.crt")?, text("tls.key")?).ok()
}
