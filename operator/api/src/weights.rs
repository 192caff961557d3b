//! What is said over HTTP between the operator, the weights cache and the init container that copies.
//!
//! | request | bearer | answer |
//! |---|---|---|
//! | `PUT /v1/models/{digest}` with [`Want`] | token | 202 [`ModelStatus`] |
//! | `GET /v1/models` | token | [`ModelList`] |
//! | `GET /v1/models/{digest}` | token or key | [`ModelStatus`] (`Absent` for one never asked for) |
//! | `GET /v1/models/{digest}/files` | token or key | [`FileList`]; 409 [`ModelStatus`] while it is not ready |
//! | `GET /v1/models/{digest}/files/{path}` | token or key | the bytes; one `Range` is honoured |
//!
//! The token is the operator's. A [`ReadKey`] opens one model, for the init container of a copy that was granted it: what else
//! lies in the cache is no business of a guest's.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use koinon_core::ids::{Bytes, Digest, ManifestDigest, ModelUri, Revision};
use serde::{Deserialize, Serialize};

/// Asks the cache to hold a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Want {
    /// Where the model lies, as the release names it: `https://…`, or a scheme that a source maps, such as `hf://org/name`.
    /// One that ends in `.gguf` is a single file; any other is a folder with a `koinon.manifest`.
    pub uri: ModelUri,
    /// Revision of the release; stands for `{revision}` in the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// The owner's mirrors; of those that match, the longest prefix wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
    /// Bytes that all models together may take here, this one included, from now on. Absent: all that the volume holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Bytes>,
}

/// Where the owner wants models of a kind to be fetched from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Prefix of the uri.
    #[serde(rename = "match")]
    pub prefix: String,
    /// What replaces that prefix: `http://…` or `https://…`.
    pub mirror: String,
    /// Sent to the mirror as a bearer token. Kept in memory only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Certificates (PEM) that are trusted for the mirror instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
}

/// A credential; never printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Opens one model of the cache to whoever holds it; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ReadKey(String);

impl ReadKey {
    /// The key of one model. Both sides derive it from the token, so that neither has to keep a list of them.
    #[must_use]
    pub fn derive(token: &Token, model: ManifestDigest) -> Self {
        // The token is hashed first, so that what is hashed with the model's digest has one length and cannot be read in two ways.
        let secret = Digest::of(format!("koinon weights read key\n{}", token.0).as_bytes());
        Self(Digest::of(&[secret.0, model.0.0].concat()).hex())
    }

    /// As it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ReadKey {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for ReadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadKey(…)")
    }
}

/// One model and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// The model.
    pub digest: ManifestDigest,
    /// How far it is.
    #[serde(flatten)]
    pub state: ModelState,
}

/// How far a model is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all_fields = "camelCase")]
pub enum ModelState {
    /// Not here and not being fetched. What a cancelled fetch left on disk does not count.
    Absent,
    /// On its way.
    Fetching {
        /// Bytes that are here.
        bytes: u64,
        /// Bytes that the whole model has, once that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    },
    /// Here, every byte verified.
    Ready {
        /// Size of the whole model.
        bytes: u64,
    },
    /// Could not be fetched.
    Failed(Failure),
}

impl ModelState {
    /// The name of the state, for metrics and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Absent => "Absent",
            Self::Fetching { .. } => "Fetching",
            Self::Ready { .. } => "Ready",
            Self::Failed(_) => "Failed",
        }
    }
}

/// Why a model could not be fetched, with the numbers that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The kind of failure.
    pub reason: FailureReason,
    /// For a person: what was attempted on what, and what to check.
    pub message: String,
    /// For [`FailureReason::DigestMismatch`]: what was voted or listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Digest>,
    /// For [`FailureReason::DigestMismatch`]: what the source sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Digest>,
    /// Bytes needed, or sent by the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<u64>,
    /// Bytes that were free, or the limit that was passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<u64>,
    /// A request with the same uri and sources is tried again after this; a changed one at once.
    #[serde(default)]
    pub retry_in_seconds: u64,
}

impl Failure {
    /// A failure without numbers.
    #[must_use]
    pub fn new(reason: FailureReason, message: String) -> Self {
        Self { reason, message, expected: None, seen: None, needed: None, allowed: None, retry_in_seconds: 0 }
    }
}

/// The kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureReason {
    /// No source maps the uri to an address that can be fetched.
    NoSource,
    /// The source did not answer, or broke off too often.
    SourceUnreachable,
    /// The source answered that it will not give it.
    SourceRefused,
    /// The bytes are not those that were voted.
    DigestMismatch,
    /// The list of files is not one, or names files that would lie outside the model.
    ManifestInvalid,
    /// The source sends more than the limit, or more than the list of files says.
    TooLarge,
    /// No room, and nothing that may be removed.
    DiskFull,
    /// The disk failed.
    StorageFailed,
    /// A Secret or ConfigMap that the owner names cannot be used. Only the operator says this, in the cache's place.
    NoCredentials,
    /// A reason that only a later version of the cache knows.
    #[serde(other)]
    Other,
}

impl FailureReason {
    /// The name of the reason, as on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSource => "NoSource",
            Self::SourceUnreachable => "SourceUnreachable",
            Self::SourceRefused => "SourceRefused",
            Self::DigestMismatch => "DigestMismatch",
            Self::ManifestInvalid => "ManifestInvalid",
            Self::TooLarge => "TooLarge",
            Self::DiskFull => "DiskFull",
            Self::StorageFailed => "StorageFailed",
            Self::NoCredentials => "NoCredentials",
            Self::Other => "Other",
        }
    }
}

/// All models that are here, on their way, or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelList {
    /// In order of their digests.
    pub models: Vec<ModelStatus>,
}

/// The files of a model that is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileList {
    /// The model.
    pub digest: ManifestDigest,
    /// In the order of the manifest.
    pub files: Vec<FileEntry>,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Relative to the model's folder.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// Of the file's bytes.
    pub sha256: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> ManifestDigest {
        format!("sha256:{}", "ab".repeat(32)).parse().unwrap()
    }

    #[test]
    fn states_read_as_a_tag_with_its_numbers_beside_it() {
        let status = ModelStatus { digest: digest(), state: ModelState::Fetching { bytes: 3, total: Some(9) } };
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["state"], "Fetching");
        assert_eq!((json["bytes"].as_u64(), json["total"].as_u64()), (Some(3), Some(9)));
        assert_eq!(serde_json::from_value::<ModelStatus>(json).unwrap(), status);
    }

    #[test]
    fn a_failure_carries_what_was_expected_and_what_was_seen() {
        let mut failure = Failure::new(FailureReason::DigestMismatch, "m".into());
        failure.expected = Some(Digest([1; 32]));
        let json = serde_json::to_value(ModelStatus { digest: digest(), state: ModelState::Failed(failure) }).unwrap();
        assert_eq!((&json["state"], &json["reason"]), (&"Failed".into(), &"DigestMismatch".into()));
    }

    #[test]
    fn a_reason_of_a_later_cache_is_read_as_another_one() {
        let json = serde_json::json!({"digest": digest(), "state": "Failed", "reason": "TooNew", "message": "m"});
        let status: ModelStatus = serde_json::from_value(json).unwrap();
        assert_eq!(status.state, ModelState::Failed(Failure::new(FailureReason::Other, "m".into())));
    }

    #[test]
    fn a_key_opens_one_model_under_one_token_and_tells_nothing_of_it() {
        let key = |token: &str, model| ReadKey::derive(&Token(token.into()), model);
        let other = ManifestDigest(Digest([1; 32]));
        assert_eq!(key("secret", digest()), key("secret", digest()));
        assert_ne!(key("secret", digest()), key("secret", other));
        assert_ne!(key("secret", digest()), key("Secret", digest()));
        let key = key("secret", digest());
        assert_eq!(key.as_str().len(), 64);
        assert!(!format!("{key:?}").contains(key.as_str()));
    }

    #[test]
    fn a_token_is_not_printed() {
        assert!(!format!("{:?}", Token("hunter2".into())).contains("hunter2"));
    }
}
