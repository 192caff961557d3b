//! The hashes of all API keys, as the operator gathers them into one Secret for the gateway.
//!
//! People keep one Secret a key (label [`crate::labels::API_KEY`], entries `hash` and `namespaces`). The gateway, which
//! takes foreign traffic, may read [`crate::labels::API_KEYS_SECRET`] alone.

use serde::{Deserialize, Serialize};

/// The entry of the gathered Secret: a JSON list of [`ApiKey`], sorted by name.
pub const ENTRY: &str = "keys.json";

/// One key.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// The name of its own Secret.
    pub name: String,
    /// SHA-256 of the key, 64 lower case hex digits.
    pub hash: String,
    /// The namespaces whose jobs it may call.
    pub namespaces: Vec<String>,
}
