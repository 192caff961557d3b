//! Asking the engine, as an application would: through this member's own gateway, with a key of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use koinon_api::labels;
use koinon_core::ids::Digest;
use kube::api::{Api, ObjectMeta};
use serde::Deserialize;
use serde_json::json;

use crate::context::Context;
use crate::placement::writer::{WriteError, Writer};

/// The Secret with the hash of the key, as `kubectl koinon apikey list` shows it.
const KEY_SECRET: &str = "apikey-koinon-challenges";
/// A longer answer is none.
const MOST_BYTES: usize = 128 << 10;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It cannot be sent yet: the gateway has not heard of the key, or of the copy.
    #[error("the gateway cannot send it yet: {0}")]
    NotYet(String),
    /// It was not answered.
    #[error("{0}")]
    Unanswered(String),
}

/// A gateway and a key for it.
#[derive(Clone, Debug)]
pub struct Caller {
    http: reqwest::Client,
    url: String,
    key: String,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    text: String,
}

impl Caller {
    /// A caller of the gateway at `url` with a new key.
    ///
    /// # Errors
    /// When no client can be built, or the system gives no randomness.
    pub fn new(url: &str) -> Result<Self, String> {
        let http =
            reqwest::Client::builder().no_proxy().tls_certs_only([]).build().map_err(|error| error.to_string())?;
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
        let url = format!("{}/v1/completions", url.trim_end_matches('/'));
        Ok(Self { http, url, key: format!("kk-{}", Digest(bytes).hex()) })
    }

    /// Lets the gateway know the key, for the release namespace alone. Only its hash is stored: another process makes another.
    ///
    /// # Errors
    /// When the Secret cannot be written.
    pub async fn register(&self, ctx: &Context, writer: &Writer) -> Result<(), WriteError> {
        let entry = |text: &str| ByteString(text.as_bytes().to_vec());
        let data = [("hash", entry(&Digest::of(self.key.as_bytes()).hex())), ("namespaces", entry(&ctx.namespace))];
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(KEY_SECRET.to_owned()),
                labels: Some(BTreeMap::from([(labels::API_KEY.to_owned(), labels::TRUE.to_owned())])),
                ..ObjectMeta::default()
            },
            type_: Some("koinon.dev/apikey".to_owned()),
            data: Some(data.map(|(name, value)| (name.to_owned(), value)).into()),
            ..Secret::default()
        };
        let api = Api::<Secret>::namespaced(ctx.client.clone(), &ctx.namespace);
        writer.apply(&api, &secret).await.map(drop)
    }

    /// The text with which `model` goes on after `question`.
    ///
    /// # Errors
    /// When there is none within `patience`.
    pub async fn ask(&self, model: &str, question: &str, patience: Duration) -> Result<String, CallError> {
        // As many tokens as an answer of 40 KiB can have.
        let body = json!({"model": model, "prompt": question, "max_tokens": 65_536, "stream": false});
        let unanswered = |error: reqwest::Error| {
            CallError::Unanswered(if error.is_timeout() {
                format!("no answer within {} s", patience.as_secs())
            } else {
                format!("asking {}: {error}", self.url)
            })
        };
        let request = self.http.post(&self.url).bearer_auth(&self.key).timeout(patience).json(&body);
        let mut answer = request.send().await.map_err(unanswered)?;
        let status = answer.status().as_u16();
        let mut said = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unanswered)? {
            if said.len() + chunk.len() > MOST_BYTES {
                return Err(CallError::Unanswered(format!("an answer of more than {MOST_BYTES} bytes")));
            }
            said.extend_from_slice(&chunk);
        }
        let words = || String::from_utf8_lossy(&said).chars().take(160).collect::<String>();
        match status {
            200 => {
                let read: Result<Completion, _> = serde_json::from_slice(&said);
                let text = read.ok().and_then(|read| read.choices.into_iter().next()).map(|choice| choice.text);
                text.ok_or_else(|| CallError::Unanswered(format!("an answer that is no completion: {}", words())))
            }
            401 | 404 | 429 | 503 => Err(CallError::NotYet(words())),
            _ => Err(CallError::Unanswered(format!("the gateway answered {status}: {}", words()))),
        }
    }
}

#[cfg(test)]
#[path = "call_tests.rs"]
mod tests;
