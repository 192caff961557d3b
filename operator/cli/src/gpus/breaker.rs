//! `kubectl koinon gpus reset-breaker`: the owner has looked at the devices that failed.

use anyhow::Context as _;
use koinon_api::cooperative::QuarantineBreaker;
use koinon_api::{Cooperative, labels};
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::access::Access;
use crate::cluster::{Cluster, now, time};

/// Close the fleet breaker: work of others leaves devices that fail again.
///
/// It opens where more than a fifth of this member's GPUs, and at least three, fail within ten minutes: that is rather a driver,
/// a rule or power than so many GPUs, so nothing is drained for their sake until you have looked. They take nothing new either
/// way. After this, work leaves those that are still not to be used: fix or clear them first.
#[derive(Debug, clap::Args)]
pub struct ResetBreaker {
    /// Only say how it stands.
    #[arg(long)]
    dry_run: bool,
}

impl ResetBreaker {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let cluster = Cluster::connect(access).await?;
        let own = cluster
            .find_cooperative()
            .await?
            .context("this cluster has no Cooperative; see kubectl koinon join --help")?;
        let breaker = own.status.as_ref().and_then(|status| status.quarantine_breaker.as_ref());
        println!("{}", stands(breaker));
        if self.dry_run || breaker.is_none_or(|breaker| breaker.opened_time.is_none()) {
            return Ok(());
        }
        let change = json!({"metadata": {"annotations": {labels::RESET_BREAKER: time(now())}}});
        cluster
            .api::<Cooperative>()
            .patch(&own.name_any(), &PatchParams::default(), &Patch::Merge(change))
            .await
            .context("cannot annotate the Cooperative")?;
        println!("asked to close it; watch: kubectl get gpupools -n {} -w", cluster.namespace);
        Ok(())
    }
}

fn stands(breaker: Option<&QuarantineBreaker>) -> String {
    let Some(opened) = breaker.and_then(|breaker| Some((breaker, breaker.opened_time.as_ref()?))) else {
        return "the breaker is closed".to_owned();
    };
    let (breaker, at) = opened;
    let count = |count: Option<i64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
    format!(
        "the breaker is open since {}: {} of {} GPUs had failed",
        at.0,
        count(breaker.quarantined),
        count(breaker.healthy)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_since_when_the_breaker_is_open_and_why() {
        assert_eq!(stands(None), "the breaker is closed");
        assert_eq!(stands(Some(&QuarantineBreaker::default())), "the breaker is closed");
        let opened_time = koinon_api::time::from_unix(1_795_219_200);
        let open = QuarantineBreaker { opened_time, quarantined: Some(3), healthy: Some(14), reset_time: None };
        assert_eq!(stands(Some(&open)), "the breaker is open since 2026-11-21T00:00:00Z: 3 of 14 GPUs had failed");
    }
}
