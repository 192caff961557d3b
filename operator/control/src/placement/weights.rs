//! Asking this host's weights cache for models.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use koinon_api::conditions::Reason;
use koinon_api::cooperative::{self, Source};
pub use koinon_api::weights::{Failure, FailureReason, ModelState as Weights, Source as WantSource};
use koinon_api::weights::{ModelList, ModelStatus, Token, Want};
use koinon_core::ids::{Bytes, Digest, IdError, ManifestDigest};
use kube::api::{Api, ObjectMeta};
use serde::Deserialize;
use thiserror::Error;

use crate::context::Context;
use crate::placement::writer::Writer;

/// How long the cache may take to answer; it answers from memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer that is larger is not one.
const MOST_BYTES: usize = 4 << 20;
/// The Secret whose `token` lets the operator ask for models.
const TOKEN_SECRET: &str = "koinon-weights-token";

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
}

/// The reason that a condition shows for a failure.
#[must_use]
pub fn shown(reason: FailureReason) -> Reason {
    match reason {
        FailureReason::NoSource => Reason::SourceUnknown,
        FailureReason::SourceUnreachable | FailureReason::SourceRefused => Reason::SourceUnreachable,
        FailureReason::DigestMismatch | FailureReason::ManifestInvalid => Reason::DigestMismatch,
        FailureReason::DiskFull | FailureReason::TooLarge => Reason::CacheFull,
        FailureReason::StorageFailed | FailureReason::Other => Reason::WeightsFailed,
    }
}

/// Whether waiting cannot help after such a failure.
#[must_use]
pub fn is_final(reason: FailureReason) -> bool {
    !matches!(reason, FailureReason::SourceUnreachable | FailureReason::StorageFailed)
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
    pub async fn list(&self) -> Result<BTreeMap<ManifestDigest, Weights>, WeightsError> {
        let list: ModelList = self.ask(self.http.get(format!("{}/v1/models", self.url))).await?;
        Ok(list.models.into_iter().map(|listed| (listed.digest, listed.state)).collect())
    }

    /// Asks for a model, again and again for as long as it is needed, and says how much models may take in all.
    ///
    /// # Errors
    /// When it does not answer as it should.
    pub async fn want(&self, digest: ManifestDigest, want: &Want, token: &str) -> Result<Weights, WeightsError> {
        let request = self.http.put(format!("{}/v1/models/{digest}", self.url)).bearer_auth(token);
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
    if api.get_opt(TOKEN_SECRET).await.map_err(|error| failed(error.to_string()))?.is_some() {
        return Ok(());
    }
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| failed(error.to_string()))?;
    let secret = Secret {
        metadata: ObjectMeta { name: Some(TOKEN_SECRET.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([("token".to_owned(), ByteString(Digest(bytes).hex().into_bytes()))])),
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
pub async fn token(ctx: &Context) -> Result<String, WeightsError> {
    ensure_token(ctx).await?;
    secret(ctx, TOKEN_SECRET, "token").await
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

/// The owner's sources, with their credentials.
///
/// # Errors
/// When a Secret or ConfigMap that the owner named cannot be used: fetching elsewhere instead is not what was asked.
pub async fn sources(ctx: &Context, sources: &[Source]) -> Result<Vec<WantSource>, WeightsError> {
    let mut wanted = Vec::new();
    for source in sources {
        let token = match &source.secret_ref {
            Some(named) => Some(Token(secret(ctx, &named.name, "token").await?)),
            None => None,
        };
        let ca_bundle = match &source.ca_bundle_ref {
            Some(named) => Some(config(ctx, &named.name, "ca.crt").await?),
            None => None,
        };
        wanted.push(WantSource { prefix: source.match_.clone(), mirror: source.mirror.clone(), token, ca_bundle });
    }
    Ok(wanted)
}

async fn secret(ctx: &Context, name: &str, entry: &str) -> Result<String, WeightsError> {
    let owner = |why: String| WeightsError::Owner { what: format!("Secret {}/{name}", ctx.namespace), why };
    let api = Api::<Secret>::namespaced(ctx.client.clone(), &ctx.namespace);
    let read = tokio::time::timeout(PATIENCE, api.get(name)).await.map_err(|_| owner("no answer".to_owned()))?;
    let secret = read.map_err(|error| owner(error.to_string()))?;
    let bytes =
        secret.data.and_then(|mut data| data.remove(entry)).ok_or_else(|| owner(format!("it has no {entry}")))?;
    let text = String::from_utf8(bytes.0).map_err(|_| owner(format!("its {entry} is no text")))?;
    Ok(text.trim().to_owned())
}

async fn config(ctx: &Context, name: &str, entry: &str) -> Result<String, WeightsError> {
    let owner = |why: String| WeightsError::Owner { what: format!("ConfigMap {}/{name}", ctx.namespace), why };
    let api = Api::<ConfigMap>::namespaced(ctx.client.clone(), &ctx.namespace);
    let read = tokio::time::timeout(PATIENCE, api.get(name)).await.map_err(|_| owner("no answer".to_owned()))?;
    let map = read.map_err(|error| owner(error.to_string()))?;
    map.data.and_then(|mut data| data.remove(entry)).ok_or_else(|| owner(format!("it has no {entry}")))
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
