//! Where work may run: what the cooperative votes, and what an owner allows less than that.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use koinon_e2e::ground::{Ground, and_then_cleaned, ground};
use koinon_e2e::story::MEMBERS;
use koinon_e2e::story::RELEASE_NAMESPACE;
use koinon_e2e::story::serving::{Copy, the_copy};
use koinon_e2e::{Fleet, Poll, wait_until};

use crate::decisions::{all_vote, ends_as, proposed};
use crate::work::{MOVED, drained, served};

/// The members with GPUs, and where they are.
const HOSTS: [(&str, &str); 2] = [("bilbao", "ES"), ("cork", "IE")];

/// A vote keeps the story's model out of the jurisdiction where it is served; then its new host's owner lets in nobody of
/// the home's; then the home's owner lets its work be somewhere else only. Each time the copy drains and the job is served
/// by the other host.
pub async fn narrowed(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let before = served(ground).await?;
    let digest = ground.stage.materials.manifest_digest.clone();
    let (_, elsewhere) = other(&before.host)?;
    let result = async {
        residency(ground, &format!("{digest}={elsewhere}")).await?;
        moved(ground, &before).await
    };
    let result = result.await;
    let cleaned = residency(ground, &format!("{digest}=any")).await;
    and_then_cleaned(result, cleaned)?;
    let before = served(ground).await?;
    let (_, here) = HOSTS.into_iter().find(|(host, _)| *host == before.host).context("it runs at no host")?;
    let result = async {
        // Aarhus is somewhere else.
        limited(ground, &before.host, &format!(r#"["{here}"]"#)).await?;
        moved(ground, &before).await
    };
    let result = result.await;
    and_then_cleaned(result, limited(ground, &before.host, "[]").await)?;
    let before = served(ground).await?;
    let (_, elsewhere) = other(&before.host)?;
    let result = async {
        limited(ground, "aarhus", &format!(r#"["{elsewhere}"]"#)).await?;
        moved(ground, &before).await
    };
    let result = result.await;
    and_then_cleaned(result, limited(ground, "aarhus", "[]").await)
}

fn other(host: &str) -> Result<(&'static str, &'static str)> {
    HOSTS.into_iter().find(|(other, _)| *other != host).context("there is no other host")
}

async fn residency(ground: &Ground, rule: &str) -> Result<()> {
    let rules = proposed(ground, "aarhus", &["propose", "set-placement-rules", "--residency", rule]).await?;
    all_vote(ground, &rules, &["yes", "yes", "yes"]).await?;
    for member in MEMBERS {
        ends_as(ground, member, &rules, "Enacted").await?;
    }
    Ok(())
}

/// The owner of `member` says whose work may come, by jurisdiction.
async fn limited(ground: &Ground, member: &str, jurisdictions: &str) -> Result<()> {
    let patch = format!(r#"{{"spec":{{"limits":{{"jurisdictions":{jurisdictions}}}}}}}"#);
    let args =
        ["patch", "kcoop", "cooperative", "--namespace", RELEASE_NAMESPACE, "--type", "merge", "--patch", &patch];
    ground.member(member)?.kubectl(args).await.map(drop)
}

/// Waits until the other host serves the job, in a later epoch, and nothing of it is left where it was.
async fn moved(ground: &Ground, before: &Copy) -> Result<()> {
    let (aarhus, (there, _), began) = (ground.member("aarhus")?, other(&before.host)?, Instant::now());
    wait_until(&format!("the job to be served by {there}"), MOVED, || async {
        match the_copy(aarhus).await {
            Ok(copy) => Poll::<()>::when(copy.host == there && copy.epoch > before.epoch, format!("{copy:?}")),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await?;
    println!("  moved from {} in {:.1} s", before.host, began.elapsed().as_secs_f32());
    drained(ground.member(&before.host)?).await
}
