//! The table of XIDs that the cooperative voted for. The operator of this cluster passes it on in a ConfigMap; an agent has no way
//! to the log in which it was decided, and takes it as it takes anything foreign.
//!
//! A table that is gone or cannot be read changes nothing: the last good one holds until this process ends. What a vote takes back
//! comes as an empty table.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use koinon_api::labels;
use koinon_core::gpu::xid::policy::{XidExtension, XidPolicy, XidPolicyError};
use koinon_core::ids::Digest;
use kube::{Api, Client};
use tokio::sync::watch;

/// More than [`MAX_ROWS`](koinon_core::gpu::xid::policy::MAX_ROWS) rows need.
const MAX_BYTES: usize = 64 * 1024;
/// As long as the agent's other requests take at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// A table and what it makes of the built-in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voted {
    /// What stands for it; none for one without rows, which is as none at all.
    pub digest: Option<Digest>,
    /// What reports mean by it.
    pub policy: XidPolicy,
}

/// Why no table was read.
#[derive(Debug, thiserror::Error)]
enum TableError {
    #[error("reading the ConfigMap {} of {namespace}: {source}", labels::XIDS_CONFIG_MAP)]
    Failed { namespace: String, source: Box<kube::Error> },
    #[error("reading the ConfigMap {} of {namespace}: no answer within {} s", labels::XIDS_CONFIG_MAP, PATIENCE.as_secs())]
    Silent { namespace: String },
    #[error("the voted table of XIDs has no entry {}", labels::XIDS_ENTRY)]
    Empty,
    #[error("the voted table of XIDs has {0} bytes; at most {MAX_BYTES} are read")]
    TooLong(usize),
    #[error("the voted table of XIDs is no such table: {0}")]
    Malformed(serde_json::Error),
    #[error(transparent)]
    Refused(#[from] XidPolicyError),
}

/// Asks for the table, again and again.
pub struct XidTable {
    client: Client,
    namespace: String,
    every: Duration,
    voted: watch::Sender<Option<Voted>>,
    told: Option<String>,
}

impl XidTable {
    /// One that looks into `namespace` so often.
    #[must_use]
    pub fn new(client: Client, namespace: String, every: Duration) -> Self {
        Self { client, namespace, every, voted: watch::Sender::new(None), told: None }
    }

    /// The last good table; none while none was read.
    #[must_use]
    pub fn voted(&self) -> watch::Receiver<Option<Voted>> {
        self.voted.subscribe()
    }

    /// Asks once.
    pub async fn look(&mut self) {
        match self.read().await {
            Ok(None) => {}
            Ok(Some(voted)) => {
                self.told = None;
                self.voted.send_if_modified(|last| {
                    let other = last.as_ref() != Some(&voted);
                    if other {
                        tracing::info!(digest = ?voted.digest, "XIDs are judged by another voted table");
                        *last = Some(voted);
                    }
                    other
                });
            }
            Err(error) => {
                let text = error.to_string();
                // The same trouble again and again is one line.
                if self.told.as_ref() != Some(&text) {
                    tracing::warn!(error = text, "the voted table of XIDs stays as it was");
                    self.told = Some(text);
                }
            }
        }
    }

    /// Asks until it is dropped.
    pub async fn run(mut self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(crate::run::jittered(self.every)).await;
            self.look().await;
        }
    }

    async fn read(&self) -> Result<Option<Voted>, TableError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let namespace = || self.namespace.clone();
        let asked = tokio::time::timeout(PATIENCE, api.get_opt(labels::XIDS_CONFIG_MAP)).await;
        let asked = asked.map_err(|_| TableError::Silent { namespace: namespace() })?;
        let map = asked.map_err(|source| TableError::Failed { namespace: namespace(), source: Box::new(source) })?;
        map.as_ref().map(parse).transpose()
    }
}

fn parse(map: &ConfigMap) -> Result<Voted, TableError> {
    let text = map.data.as_ref().and_then(|data| data.get(labels::XIDS_ENTRY)).ok_or(TableError::Empty)?;
    if text.len() > MAX_BYTES {
        return Err(TableError::TooLong(text.len()));
    }
    let table: XidExtension = serde_json::from_str(text).map_err(TableError::Malformed)?;
    let digest = (!table.rows.is_empty()).then(|| table.digest());
    Ok(Voted { digest, policy: XidPolicy::merged(&table)? })
}

#[cfg(test)]
mod tests {
    use koinon_core::capacity::Health;
    use koinon_core::gpu::xid::Xid;
    use serde_json::json;

    use super::*;

    fn map(text: &str) -> ConfigMap {
        serde_json::from_value(json!({"data": {"xids.json": text}})).unwrap()
    }

    fn row(code: u32, state: &str) -> serde_json::Value {
        json!({"code": code, "class": "reset", "state": state, "reason": "VotedReason", "action": "ResetGPU", "offer": "Nothing",
            "work": "Drain", "holdSeconds": 3600})
    }

    #[test]
    fn a_table_makes_a_code_stricter_and_none_milder() {
        let table = json!({"rows": [row(43, "Unhealthy"), row(79, "Degraded")]}).to_string();
        let voted = parse(&map(&table)).unwrap();
        assert_eq!(voted.policy.plain(Xid(43)).state, Health::Unhealthy);
        assert_eq!(voted.policy.plain(Xid(79)).state, Health::Unhealthy, "whatever another release made of it");
        assert_eq!(voted.digest, Some(serde_json::from_str::<XidExtension>(&table).unwrap().digest()));
        assert_eq!(parse(&map(r#"{"rows": []}"#)).unwrap(), Voted { digest: None, policy: XidPolicy::builtin() });
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let long = format!("{{\"rows\": []{}}}", " ".repeat(MAX_BYTES));
        let many = json!({"rows": (1..=65).map(|code| row(code, "Unhealthy")).collect::<Vec<_>>()}).to_string();
        let twice = json!({"rows": [row(43, "Unhealthy"), row(43, "Unhealthy")]}).to_string();
        for bad in ["", "[]", "{\"rows\": 1}", "{\"rows\": [], \"more\": 1}", &long, &many, &twice] {
            assert!(parse(&map(bad)).is_err(), "{}", bad.get(..40).unwrap_or(bad));
        }
        assert!(parse(&ConfigMap::default()).is_err());
    }
}
