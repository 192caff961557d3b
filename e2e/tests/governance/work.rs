//! What votes change for work that runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use koinon_e2e::ground::{Ground, conditions, ground};
use koinon_e2e::story::look::{condition, poll, text};
use koinon_e2e::story::serving::{Copy, GUEST_NAMESPACE, the_copy};
use koinon_e2e::story::{JOB, MEMBERS, TEAM};
use koinon_e2e::{Datacenter, Fleet, Poll, wait_until};
use kube::Api;
use kube::api::ListParams;

use crate::decisions::{all_vote, ends_as, proposed};

/// From the enactment until the last copy is gone.
const DRAINED: Duration = Duration::from_secs(120);
/// From a host's loss until the job is served elsewhere: a lease of 20 s and its margin first.
pub const MOVED: Duration = Duration::from_secs(90);

/// The one copy of the story's job, once there is one and no other.
pub async fn served(ground: &Ground) -> Result<Copy> {
    let aarhus = ground.member("aarhus")?;
    wait_until("one copy of the job to be routable", MOVED, || async {
        match the_copy(aarhus).await {
            Ok(copy) => Poll::Ready(copy),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}

/// The cooperative no longer wants the model that the story's job serves.
pub async fn release_withdrawn(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let digest = ground.stage.materials.manifest_digest.clone();
    let proposal = proposed(ground, "cork", &["propose", "withdraw-model-release", &digest]).await?;
    all_vote(ground, &proposal, &["no", "yes", "yes"]).await?;
    for member in MEMBERS {
        ends_as(ground, member, &proposal, "Enacted").await?;
    }
    let aarhus = ground.member("aarhus")?;
    wait_until("the job to say why it is not served any more", DRAINED, || {
        poll(aarhus, &["kjob", JOB, "--namespace", TEAM], |job| {
            let approved = condition(job, "Approved").map(|c| text(c, "reason").to_owned()).unwrap_or_default();
            let ready = condition(job, "Ready").is_some_and(|ready| ready["status"] == "True");
            Poll::<()>::when(approved == "ReleaseWithdrawn" && !ready, conditions(job))
        })
    })
    .await?;
    for member in ["bilbao", "cork"] {
        drained(ground.member(member)?).await?;
    }
    Ok(())
}

/// Waits until nothing of aarhus' runs at a host any more.
pub async fn drained(host: &Datacenter) -> Result<()> {
    wait_until(&format!("the copies at {} to be gone", host.name()), DRAINED, || async {
        match Api::<Pod>::namespaced(host.client(), GUEST_NAMESPACE).list(&ListParams::default()).await {
            Ok(pods) => Poll::<()>::when(pods.items.is_empty(), format!("{} pods", pods.items.len())),
            Err(error) => Poll::not_yet(error.to_string()),
        }
    })
    .await
}
