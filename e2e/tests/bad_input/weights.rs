//! Weights that are not what the cooperative approved.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use koinon_api::labels;
use koinon_e2e::story::look::{condition, get, items, poll, text};
use koinon_e2e::story::serving::GUEST_NAMESPACE;
use koinon_e2e::story::{RELEASE_NAMESPACE, TEAM};
use koinon_e2e::{Datacenter, Fleet, Poll, wait_until};
use serde_json::Value;

use koinon_e2e::ground::{delete, ground};

/// A release is approved whose digest its file does not have: it is fetched, found out, thrown away and never served.
pub async fn wrong_digest(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let (aarhus, host) = (ground.member("aarhus")?, ground.member(&ground.idle)?);
    let digest = format!("sha256:{}", "bad0".repeat(16));
    let proposal = ground.propose_release("aarhus", &digest).await?;
    for member in ["aarhus", "bilbao", "cork"] {
        ground.proposal_is(member, &proposal, "Open").await?;
        ground.koinon(member, &["vote", &proposal, "yes"]).await?;
    }
    ground.proposal_is("aarhus", &proposal, "Enacted").await?;

    let job = "bad-weights";
    aarhus.apply(&ground.job_of(job, &digest, 1, &[&ground.idle]).to_string()).await?;
    let args = ["kjob", job, "--namespace", TEAM];
    let said = format!("{} refused a short while ago: DigestMismatch", ground.idle);
    wait_until("the team to read why", Duration::from_secs(90), || {
        poll(aarhus, &args, |job| {
            let placed = condition(job, "Placed").map(|placed| text(placed, "message").to_owned()).unwrap_or_default();
            Poll::<()>::when(placed.contains(&said), placed)
        })
    })
    .await?;
    // At the host both digests, so that its owner sees which of the two is wrong.
    let real = &ground.stage.materials.manifest_digest;
    let placements = get(host, &["kpl", "--namespace", GUEST_NAMESPACE]).await?;
    let both = items(&placements).iter().filter(|placement| text(&placement["status"], "reason") == "DigestMismatch");
    let told = both.map(|placement| placement["status"]["conditions"].to_string()).find(|told| told.contains(&digest));
    let told = told.with_context(|| format!("no placement at the host tells of it: {placements}"))?;
    ensure!(told.contains(real), "the host should name both digests: {told}");
    let kept = cached(host).await?;
    ensure!(
        !kept.to_string().contains(&digest[7..]) || state_of(&kept, &digest) != Some("Ready"),
        "the cache serves it: {kept}"
    );
    let pods = get(host, &["pod", "--namespace", GUEST_NAMESPACE]).await?;
    let ready = items(&pods).iter().any(|pod| {
        let engine = pod["status"]["containerStatuses"][0]["ready"] == true;
        engine && pod["spec"]["initContainers"][0]["args"].to_string().contains(&digest)
    });
    ensure!(!ready, "an engine serves weights with another digest");

    delete(aarhus, &["kjob", job, "--namespace", TEAM]).await?;
    ground.koinon("aarhus", &["propose", "--vote", "yes", "withdraw-model-release", &digest]).await?;
    ground.story_still_served().await?;
    wait_until("the GPU to be free again", Duration::from_secs(60), || async {
        match ground.offered("aarhus", &ground.idle).await {
            Ok(offered) => Poll::<()>::when(offered == all_but_one(&ground.idle), format!("{offered} are offered")),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}

/// What a member offers when nobody holds any of it: each owner keeps one in reserve.
fn all_but_one(member: &str) -> i64 {
    if member == "bilbao" { 7 } else { 3 }
}

/// What the host's weights cache holds, in its own words.
async fn cached(host: &Datacenter) -> Result<Value> {
    let service = get(host, &["service", "koinon-weights", "--namespace", RELEASE_NAMESPACE]).await?;
    let address = service["spec"]["clusterIP"].as_str().context("the cache's Service has no address")?;
    let pods =
        get(host, &["pod", "--namespace", RELEASE_NAMESPACE, "--selector", "app.kubernetes.io/component=weights"])
            .await?;
    let pod = items(&pods).first().and_then(|pod| pod["status"]["podIP"].as_str());
    let relay = host.relay(format!("{}:8081", pod.unwrap_or(address)).parse()?).await?;
    let secret = get(host, &["secret", labels::WEIGHTS_TOKEN_SECRET, "--namespace", RELEASE_NAMESPACE]).await?;
    let token = secret["data"][labels::WEIGHTS_TOKEN_ENTRY].as_str().context("the cache's Secret has no token")?;
    let token = String::from_utf8(STANDARD.decode(token)?)?;
    let models = reqwest::Client::new().get(format!("http://{}/v1/models", relay.local())).bearer_auth(token.trim());
    Ok(models.send().await?.error_for_status()?.json().await?)
}

fn state_of<'a>(models: &'a Value, digest: &str) -> Option<&'a str> {
    let models = models["models"].as_array()?;
    models.iter().find(|model| model["digest"] == digest)?["state"].as_str()
}
