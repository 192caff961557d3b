//! Passes on to the agents of this cluster what the cooperative voted about XIDs: they have no way to the log.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use koinon_api::labels;
use koinon_core::gpu::xid::policy::{XidExtension, XidRow};
use koinon_core::ids::Digest;
use kube::api::Api;
use thiserror::Error;

use super::writer::{WriteError, Writer};
use crate::context::Context;

/// Somebody may change the ConfigMap by hand.
const WRITE_AGAIN: Duration = Duration::from_secs(600);
/// How soon a failed write is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Why the agents do not hear of the table.
#[derive(Debug, Error)]
pub enum XidsError {
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// It has no JSON form.
    #[error("writing the voted table of XIDs down: {0}")]
    Json(#[from] serde_json::Error),
}

/// Keeps the ConfigMap as the vote has it.
#[derive(Debug)]
pub struct Xids {
    writer: Writer,
    /// What was written last, and when.
    written: Option<(Digest, Duration)>,
    failed: Option<Duration>,
}

impl Xids {
    /// Before the first write.
    #[must_use]
    pub fn new(ctx: &Context) -> Self {
        Self { writer: Writer::new(ctx, "xids"), written: None, failed: None }
    }

    /// Writes the table if it is another than was written, or was not written for long. An empty one too: it takes back what was
    /// voted before.
    ///
    /// # Errors
    /// See [`XidsError`].
    pub async fn pass_on(&mut self, ctx: &Context, rows: &[XidRow], now: Duration) -> Result<(), XidsError> {
        if ctx.args.agent_namespace.is_none() {
            return Ok(());
        }
        let table = XidExtension { rows: rows.to_vec() };
        let digest = table.digest();
        let same = self.written.is_some_and(|(last, at)| last == digest && now.saturating_sub(at) < WRITE_AGAIN);
        if same || self.failed.is_some_and(|at| now.saturating_sub(at) < TRY_AGAIN) {
            return Ok(());
        }
        self.failed = Some(now);
        let api = Api::<ConfigMap>::namespaced(ctx.client.clone(), &ctx.namespace);
        self.writer.apply(&api, &config_map(&ctx.namespace, &table)?).await?;
        (self.written, self.failed) = (Some((digest, now)), None);
        Ok(())
    }
}

fn config_map(namespace: &str, table: &XidExtension) -> Result<ConfigMap, serde_json::Error> {
    let text = serde_json::to_string(table)?;
    Ok(ConfigMap {
        metadata: ObjectMeta {
            name: Some(labels::XIDS_CONFIG_MAP.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), "koinon".to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some([(labels::XIDS_ENTRY.to_owned(), text)].into()),
        ..ConfigMap::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on_is_what_the_agent_reads_back() {
        let row = serde_json::json!({"code": 43, "class": "reset", "state": "Unhealthy", "reason": "VotedReason",
            "action": "ResetGPU", "offer": "Nothing", "work": "Drain"});
        let table = XidExtension { rows: vec![serde_json::from_value(row).unwrap()] };
        let map = config_map("koinon-system", &table).unwrap();
        let text = &map.data.unwrap()[labels::XIDS_ENTRY];
        assert_eq!(serde_json::from_str::<XidExtension>(text).unwrap(), table);
    }
}
