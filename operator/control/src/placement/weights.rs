//! Asking this host's weights cache for models.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use koinon_api::conditions::Reason;
use koinon_api::cooperative::{self, Source};
pub use koinon_api::weights::{Failure, FailureReason, ModelState as Weights, Source as WantSource};
use koinon_api::weights::{ModelList, ModelStatus, Token, Want};
use koinon_core::ids::{Bytes, Digest, IdError, ManifestDigest, ModelUri};
use kube::Client;
use kube::api::{Api, ObjectMeta};
use serde::Deserialize;
use thiserror::Error;

use crate::context::Context;
use crate::placement::reader;
use crate::placement::writer::Writer;

/// How long the cache may take to answer; it answers from memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer that is larger is not one.
const MOST_BYTES: usize = 4 << 20;
/// The Secret whose `token` lets the operator ask for models.
const TOKEN_SECRET: &str = koinon_api::labels::WEIGHTS_TOKEN_SECRET;
/// The entry of a Secret, of the operator or of a source.
const TOKEN_ENTRY: &str = koinon_api::labels::WEIGHTS_TOKEN_ENTRY;
/// The entry of a source's ConfigMap.
const CA_ENTRY: &str = "ca.crt";

/// Why the cache could not be asked.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// No HTTP client could be built.
    #[error("building a client for the weights cache: {0}")]
    Client(reqwest::Error),
    /// It does not answer.
    #[error("asking the weights cache at {url}: {source}; check the pod koinon-weights")]
    Unreachable {
        /// Where.
        url: String,
        /// What happened.
        source: reqwest::Error,
    },
    /// It answers something else.
    #[error("asking the weights cache at {url}: it answered {status}: {said}")]
    Refused {
        /// Where.
        url: String,
        /// With which status.
        status: u16,
        /// In which words.
        said: String,
    },
    /// A Secret or ConfigMap that the owner named cannot be used.
    #[error("reading {what}: {why}")]
    Owner {
        /// Which object.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A source that the owner named cannot be used.
    #[error(transparent)]
    Source(#[from] Unusable),
}

impl WeightsError {
    /// What a copy is told whose model cannot be asked for, where it is the owner who can help; `None` where the cache or the
    /// way to it is at fault, of which the cache's own state tells.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Owner { .. } | Self::Source(_) => Some(Failure::new(FailureReason::NoCredentials, self.to_string())),
            Self::Client(_) | Self::Unreachable { .. } | Self::Refused { .. } => None,
        }
    }
}

/// Why a source of the owner cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the source for {prefix} in the Cooperative's spec.sources cannot be used: {why}")]
pub struct Unusable {
    prefix: String,
    why: String,
}

/// The owner's sources, each with its credentials or with what is wrong with them: one that lacks its Secret must not hold up
/// models that come from another.
#[derive(Clone, Debug, Default)]
pub struct OwnSources(Vec<Result<WantSource, Unusable>>);

impl OwnSources {
    /// The sources for a model at `uri`.
    ///
    /// # Errors
    /// When the one that it would be fetched from cannot be used: fetching elsewhere instead is not what was asked.
    pub fn usable_for(&self, uri: &ModelUri) -> Result<Vec<WantSource>, Unusable> {
        let prefix = |source: &Result<WantSource, Unusable>| match source {
            Ok(source) => source.prefix.clone(),
            Err(unusable) => unusable.prefix.clone(),
        };
        let matching = self.0.iter().filter(|source| uri.as_str().starts_with(&prefix(source)));
        if let Some(Err(unusable)) = matching.max_by_key(|source| prefix(source).len()) {
            return Err(unusable.clone());
        }
        Ok(self.0.iter().filter_map(|source| source.as_ref().ok()).cloned().collect())
    }

    /// Whether some of them cannot be used.
    #[must_use]
    pub fn lacking(&self) -> bool {
        self.0.iter().any(Result::is_err)
    }
}

/// The reason that a condition shows for a failure.
#[must_use]
pub fn shown(reason: FailureReason) -> Reason {
    match reason {
        FailureReason::NoSource => Reason::SourceUnknown,
        FailureReason::SourceUnreachable | FailureReason::SourceRefused => Reason::SourceUnreachable,
        FailureReason::DigestMismatch | FailureReason::ManifestInvalid => Reason::DigestMismatch,
        FailureReason::DiskFull | FailureReason::TooLarge => Reason::CacheFull,
        FailureReason::NoCredentials => Reason::CredentialsMissing,
        FailureReason::StorageFailed | FailureReason::Other => Reason::WeightsFailed,
    }
}

/// Whether waiting cannot help after such a failure.
#[must_use]
pub fn is_final(reason: FailureReason) -> bool {
    use FailureReason::{NoCredentials, SourceUnreachable, StorageFailed};
    !matches!(reason, SourceUnreachable | StorageFailed | NoCredentials)
}

/// The cache of this host.
#[derive(Clone, Debug)]
pub struct WeightsCache {
    http: reqwest::Client,
    url: String,
}

impl WeightsCache {
    /// The cache at `url`.
    ///
    /// # Errors
    /// When no HTTP client can be built.
    pub fn new(url: &str) -> Result<Self, WeightsError> {
        // It stands in this cluster and speaks plain HTTP: no proxy for the outside must see it, and an image without the
        // system's certificates must be able to ask it.
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(PATIENCE);
        let http = client.build().map_err(WeightsError::Client)?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned() })
    }

    /// All models of which the cache knows something.
    ///
    /// # Errors
    /// When it does not answer as it should.
    pub async fn list(&self, token: &Token) -> Result<BTreeMap<ManifestDigest, Weights>, WeightsError> {
        let request = self.http.get(format!("{}/v1/models", self.url)).bearer_auth(&token.0);
        let list: ModelList = self.ask(request).await?;
        Ok(list.models.into_iter().map(|listed| (listed.digest, listed.state)).collect())
    }

    /// Asks for a model, again and again for as long as it is needed, and says how much models may take in all.
    ///
    /// # Errors
    /// When it does not answer as it should.
    pub async fn want(&self, digest: ManifestDigest, want: &Want, token: &Token) -> Result<Weights, WeightsError> {
        let request = self.http.put(format!("{}/v1/models/{digest}", self.url)).bearer_auth(&token.0);
        let status: ModelStatus = self.ask(request.json(want)).await?;
        Ok(status.state)
    }

    async fn ask<T: for<'de> Deserialize<'de>>(&self, request: reqwest::RequestBuilder) -> Result<T, WeightsError> {
        let unreachable = |source| WeightsError::Unreachable { url: self.url.clone(), source };
        let mut answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > MOST_BYTES {
                return Err(self.refused(status.as_u16(), format!("more than {MOST_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            return Err(self.refused(status.as_u16(), String::from_utf8_lossy(&body).chars().take(200).collect()));
        }
        serde_json::from_slice(&body).map_err(|error| self.refused(status.as_u16(), error.to_string()))
    }

    fn refused(&self, status: u16, said: String) -> WeightsError {
        WeightsError::Refused { url: self.url.clone(), status, said }
    }
}

/// Makes the token with which models are asked for, unless it is there. The weights cache reads it from the same Secret.
///
/// # Errors
/// When the Secret can neither be read nor made.
pub async fn ensure_token(ctx: &Context) -> Result<(), WeightsError> {
    let failed = |why: String| WeightsError::Owner { what: format!("Secret {}/{TOKEN_SECRET}", ctx.namespace), why };
    let api = Api::<Secret>::namespaced(ctx.client.clone(), &ctx.namespace);
    let there = reader::read("the token of the weights cache", api.get_opt(TOKEN_SECRET)).await;
    if there.map_err(|error| failed(error.to_string()))?.is_some() {
        return Ok(());
    }
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| failed(error.to_string()))?;
    let secret = Secret {
        metadata: ObjectMeta { name: Some(TOKEN_SECRET.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([(TOKEN_ENTRY.to_owned(), ByteString(Digest(bytes).hex().into_bytes()))])),
        ..Secret::default()
    };
    match Writer::new(ctx, "weights").create(&api, &secret).await {
        Ok(_) => Ok(()),
        // Another replica was first: its token is as good.
        Err(error) if error.is_conflict() => Ok(()),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// The token with which models are asked for.
///
/// # Errors
/// When its Secret cannot be read.
pub async fn token(ctx: &Context) -> Result<Token, WeightsError> {
    ensure_token(ctx).await?;
    let what = || format!("Secret {}/{TOKEN_SECRET}", ctx.namespace);
    let read = secret(&ctx.client, &ctx.namespace, TOKEN_SECRET, TOKEN_ENTRY).await;
    read.map(Token).map_err(|why| WeightsError::Owner { what: what(), why })
}

/// How much the owner lets models take.
///
/// # Errors
/// When it cannot be read: fetching without a bound is not what was asked.
pub fn capacity(weights: &cooperative::Weights) -> Result<Option<Bytes>, WeightsError> {
    let what = "spec.weights.size of the Cooperative";
    let read = weights.size.as_ref().map(|size| size.0.parse());
    read.transpose().map_err(|error: IdError| WeightsError::Owner { what: what.to_owned(), why: error.to_string() })
}

/// The owner's sources, with their credentials, which lie in `namespace`.
pub async fn sources(client: &Client, namespace: &str, sources: &[Source]) -> OwnSources {
    let mut read = Vec::new();
    for source in sources {
        let usable = with_credentials(client, namespace, source).await;
        read.push(usable.map_err(|why| Unusable { prefix: source.match_.clone(), why }));
    }
    OwnSources(read)
}

async fn with_credentials(client: &Client, namespace: &str, source: &Source) -> Result<WantSource, String> {
    let token = match &source.secret_ref {
        Some(named) => Some(Token(secret(client, namespace, &named.name, TOKEN_ENTRY).await?)),
        None => None,
    };
    let ca_bundle = match &source.ca_bundle_ref {
        Some(named) => Some(config(client, namespace, &named.name, CA_ENTRY).await?),
        None => None,
    };
    Ok(WantSource { prefix: source.match_.clone(), mirror: source.mirror.clone(), token, ca_bundle })
}

async fn secret(client: &Client, namespace: &str, name: &str, entry: &str) -> Result<String, String> {
    let what = format!("Secret {namespace}/{name}");
    let secret = object::<Secret>(client, namespace, name, &what, entry).await?;
    let bytes = secret.data.and_then(|mut data| data.remove(entry));
    let bytes = bytes.ok_or_else(|| format!("the {what} has no entry `{entry}`; add it"))?;
    let text = String::from_utf8(bytes.0).map_err(|_| format!("the entry `{entry}` of the {what} is not text"))?;
    match text.trim() {
        "" => Err(format!("the entry `{entry}` of the {what} is empty; fill it")),
        token => Ok(token.to_owned()),
    }
}

async fn config(client: &Client, namespace: &str, name: &str, entry: &str) -> Result<String, String> {
    let what = format!("ConfigMap {namespace}/{name}");
    let map = object::<ConfigMap>(client, namespace, name, &what, entry).await?;
    let text = map.data.and_then(|mut data| data.remove(entry));
    text.ok_or_else(|| format!("the {what} has no entry `{entry}`; add it"))
}

async fn object<K>(client: &Client, namespace: &str, name: &str, what: &str, entry: &str) -> Result<K, String>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + for<'de> Deserialize<'de>,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let read = tokio::time::timeout(PATIENCE, api.get_opt(name)).await;
    let found = read.map_err(|_| format!("reading the {what}: no answer within {} s", PATIENCE.as_secs()))?;
    let found = found.map_err(|error| format!("reading the {what}: {error}"))?;
    found.ok_or_else(|| format!("there is no {what}; create it in that namespace with the entry `{entry}`"))
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
