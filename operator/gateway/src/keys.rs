//! API keys: who may call the jobs of which namespaces.

use std::collections::BTreeSet;

use koinon_api::api_keys::ApiKey;
use koinon_core::ids::{Digest, Namespace};
use subtle::ConstantTimeEq;

/// Longest key that is hashed; ours have 46 characters.
const MAX_KEY: usize = 256;

/// A key, told apart from all others without being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; 32]);

/// All keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<(KeyId, BTreeSet<Namespace>)>);

/// Why the gathered keys could not be read. The ones before them stay.
#[derive(Debug, thiserror::Error)]
#[error("reading entry keys.json of the gathered API keys: {0}; the operator writes it anew when a key changes")]
pub struct KeysError(serde_json::Error);

impl Keys {
    /// Reads the gathered keys. One that makes no sense is left out and named in the log.
    ///
    /// # Errors
    /// When the whole is not a list of keys.
    pub fn read(json: &[u8]) -> Result<Self, KeysError> {
        let listed: Vec<ApiKey> = serde_json::from_slice(json).map_err(KeysError)?;
        let mut keys = Vec::new();
        for ApiKey { name, hash, namespaces } in listed {
            let mut digest = [0; 32];
            if hex::decode_to_slice(&hash, &mut digest).is_err() {
                tracing::warn!(key = name, "leaving out an API key whose hash is not 64 hex digits");
                continue;
            }
            let (good, bad): (Vec<_>, Vec<_>) =
                namespaces.iter().map(|namespace| namespace.parse::<Namespace>()).partition(Result::is_ok);
            if !bad.is_empty() {
                tracing::warn!(key = name, "an API key names namespaces that are none");
            }
            keys.push((KeyId(digest), good.into_iter().flatten().collect()));
        }
        Ok(Self(keys))
    }

    /// Which key `key` is, and the namespaces whose jobs its bearer may call.
    ///
    /// Hashes are compared in constant time and all of them, so that the time tells neither how much of a guess was right
    /// nor which key it was.
    pub fn find(&self, key: &[u8]) -> Option<(KeyId, &BTreeSet<Namespace>)> {
        if key.len() > MAX_KEY {
            return None;
        }
        let asked = Digest::of(key).0;
        self.0.iter().fold(None, |found, (id, namespaces)| {
            let same: bool = id.0.as_slice().ct_eq(asked.as_slice()).into();
            if same { Some((*id, namespaces)) } else { found }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, key: &str, namespaces: &[&str]) -> serde_json::Value {
        serde_json::json!({ "name": name, "hash": Digest::of(key.as_bytes()).hex(), "namespaces": namespaces })
    }

    #[test]
    fn a_key_opens_its_namespaces_and_no_other_key_does() {
        let json = serde_json::json!([listed("a", "kk-one", &["team", "other"]), listed("b", "kk-two", &["lab"])]);
        let keys = Keys::read(json.to_string().as_bytes()).unwrap();
        let open = |key: &str| keys.find(key.as_bytes()).map(|(_, n)| n.iter().map(|n| n.as_str()).collect::<Vec<_>>());
        assert_eq!(open("kk-one"), Some(vec!["other", "team"]));
        assert_eq!(open("kk-two"), Some(vec!["lab"]));
        for wrong in ["", "kk-on", "kk-onee", &"x".repeat(10_000)] {
            assert_eq!(open(wrong), None);
        }
    }

    #[test]
    fn one_key_that_makes_no_sense_does_not_lock_the_others_out() {
        let json = serde_json::json!([
            { "name": "bad", "hash": "zz", "namespaces": ["team"] },
            listed("half", "kk-half", &["NOT A NAMESPACE", "team"]),
        ]);
        let keys = Keys::read(json.to_string().as_bytes()).unwrap();
        assert_eq!(keys.find(b"kk-half").unwrap().1.len(), 1);
        assert!(Keys::read(b"{").is_err());
    }
}
