//! GPUs that another member makes compute: the engine in a confined pod, asked through both gateways, and a third member that
//! believes what it checked itself.
//!
//! The GPUs are pretended, so processors compute in their place: what is shown here is that a challenge is voted, placed,
//! answered, checked and believed or not as it should be, and nothing of GPUs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use koinon_e2e::ground::{Ground, and_then_cleaned, conditions, ground, metrics};
use koinon_e2e::said::{refused, said};
use koinon_e2e::story::look::{condition, items, name, poll, text};
use koinon_e2e::story::{MEMBERS, MODEL_URI, QUANTIZATION, RELEASE_NAMESPACE, REVISION};
use koinon_e2e::{Fleet, Poll, cache::Cache, image, wait_until};
use serde_json::{Value, json};

use crate::decisions::{all_vote, ends_as, proposed};
use crate::figures::METRICS;

/// Who is challenged: it has the fewer GPUs, so fewer processors have to stand in for them.
const HOST: &str = "cork";
/// Who challenges.
const BY: &str = "aarhus";
/// Who looks on.
const THIRD: &str = "bilbao";
const CLASS: &str = "h100-80";
/// From a challenge's end until everybody shows what it checked of it.
const BELIEVED: Duration = Duration::from_secs(60);

/// A matrix of 4 MiB a device, for which 0.7 of a processor takes 9 s; one four times as fast and one seven times as busy fit.
/// Hashing it took 12 ms, the way through both gateways included.
fn rules(digest: &str, recall: Value) -> Value {
    json!({
        "engine": "koinon-challenge", "model": digest, "challengers": 1, "mostSeconds": 75,
        "everySeconds": 30_000, "freshSeconds": 86_400,
        "classes": {CLASS: {"size": {"rows": 1024, "depth": 8192},
            "compute": {"least": 2000, "most": 70_000}, "recall": recall}},
    })
}

/// A member's GPUs count as Challenged once another has measured them by rules that fit, at everybody who checked it; and as
/// less than their owner says once rules are voted that they do not meet.
pub async fn by_another(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let engine = image::challenge(&Cache::from_env()?, &|what| println!("  {what}"))?;
    ground.member(HOST)?.load_image(&engine).await?;
    let digest = &ground.stage.materials.manifest_digest;
    let entry = json!({
        "name": "koinon-challenge", "image": engine.pinned(),
        "args": ["--port", "{port}", "--devices", "{gpuCount}", "--backend", "cpu"],
        "port": 8000, "healthPath": "/health", "writablePaths": ["/tmp"],
        "resources": {"cpu": "700m", "memory": "256Mi", "shm": "16Mi"},
    });
    let entry = written(ground, "challenge-engine.yaml", &entry)?;
    decided(ground, &["propose", "add-engine", &entry]).await?;
    let challenge = ["challenge", HOST, "--class", CLASS];
    refused(ground, BY, &challenge, "voted for no challenges").await?;
    let fitting = written(ground, "fitting.yaml", &rules(digest, json!({"least": 1, "most": 500})))?;
    let fitting = ["propose", "set-placement-rules", "--challenges", &fitting];
    refused(ground, BY, &fitting, "may not be served with koinon-challenge").await?;
    let released = ["propose", "add-model-release", "--license", "Apache-2.0", "--manifest-digest", digest];
    let model = ["--uri", MODEL_URI, "--revision", REVISION, "--quantization", QUANTIZATION];
    let engines = ["--engine", "llama-cpp", "--engine", "koinon-challenge"];
    decided(ground, &[&released[..], &model, &engines].concat()).await?;
    let result = async {
        decided(ground, &fitting).await?;
        nobody_measured(ground).await?;
        measured(ground, "Fits").await?;
        for viewer in [BY, THIRD] {
            believes(ground, viewer, "Challenged", "True").await?;
        }
        nothing_left(ground, "Fits").await?;
        refused(ground, BY, &challenge, "this member measured it already").await?;
        // Rules that no device can meet: what was measured by the others no longer counts, and what is measured now speaks against.
        let unmet = written(ground, "unmet.yaml", &rules(digest, json!({"least": 1, "most": 2})))?;
        decided(ground, &["propose", "set-placement-rules", "--challenges", &unmet]).await?;
        nobody_measured(ground).await?;
        measured(ground, "TooSlow").await?;
        for viewer in [BY, THIRD] {
            believes(ground, viewer, "Claimed", "False").await?;
        }
        nothing_left(ground, "TooSlow").await
    };
    let result = result.await;
    let cleaned = decided(ground, &["propose", "set-placement-rules", "--challenges", "none"]).await;
    and_then_cleaned(result, cleaned)
}

/// A file on the desk of who proposes.
fn written(ground: &Ground, name: &str, what: &Value) -> Result<String> {
    let file = ground.stage.desk(BY).join(name);
    std::fs::write(&file, serde_yaml::to_string(what)?).with_context(|| format!("writing {}", file.display()))?;
    Ok(file.to_str().context("the desk's path is not text")?.to_owned())
}

async fn decided(ground: &Ground, args: &[&str]) -> Result<()> {
    let proposal = proposed(ground, BY, args).await?;
    all_vote(ground, &proposal, &["yes", "yes", "yes"]).await?;
    for member in MEMBERS {
        ends_as(ground, member, &proposal, "Enacted").await?;
    }
    Ok(())
}

/// The host's offer, as `viewer` shows it.
async fn offer_is(ground: &Ground, viewer: &str, what: &str, is: impl Fn(&Value) -> bool + Sync) -> Result<()> {
    let datacenter = ground.member(viewer)?;
    wait_until(&format!("the offer of {HOST} at {viewer} to be {what}"), BELIEVED, || {
        poll(datacenter, &["koffer", HOST, "--namespace", RELEASE_NAMESPACE], |offer| {
            let status = &offer["status"];
            let seen = format!("{} {} {}", status["classes"], status["challenges"], conditions(offer));
            Poll::<()>::when(is(offer), seen)
        })
    })
    .await
}

async fn nobody_measured(ground: &Ground) -> Result<()> {
    for viewer in [BY, THIRD] {
        let none = |offer: &Value| {
            offer["status"]["challenges"].as_array().is_none_or(Vec::is_empty)
                && offer["status"]["classes"][0]["evidence"] == "SchedulerConsistent"
        };
        offer_is(ground, viewer, "measured by nobody", none).await?;
    }
    Ok(())
}

/// Somebody asks for a challenge and waits for what it shows. In the seconds before, a lot may have fallen on this member, or on
/// another one that has the GPU for a moment: one in some thirty times.
async fn measured(ground: &Ground, result: &str) -> Result<()> {
    for _ in 0..30 {
        let said = said(ground, BY, &["challenge", HOST, "--class", CLASS]).await?;
        if said.err.contains("is free now") {
            tokio::time::sleep(Duration::from_secs(2)).await;
            continue;
        }
        let by_lot = said.err.contains("measured it already");
        let told = if result == "Fits" {
            said.done && said.out.contains("What a passed challenge shows")
        } else {
            said.err.contains(&format!("{HOST} failed the challenge"))
        };
        let shown = said.out.contains(&format!("{CLASS}: {result}"));
        ensure!(by_lot || (told && shown), "{} {}", said.out, said.err);
        return Ok(());
    }
    bail!("no {CLASS} of {HOST} came free")
}

/// `viewer` shows who measured what, and believes as much.
async fn believes(ground: &Ground, viewer: &str, evidence: &str, challenged: &str) -> Result<()> {
    let what = format!("{evidence} by what {BY} measured");
    offer_is(ground, viewer, &what, |offer| {
        let class = &offer["status"]["classes"][0];
        let by: Vec<&str> = offer["status"]["challenges"]
            .as_array()
            .map_or_else(Vec::new, |all| all.iter().map(|one| text(one, "by")).collect());
        let said = condition(offer, "Challenged").is_some_and(|said| said["status"] == challenged);
        class["evidence"] == evidence && class["said"] == "SchedulerConsistent" && by.contains(&BY) && said
    })
    .await
}

/// The challenge that ended so held GPUs while it ran and no longer, left no job, and is counted.
async fn nothing_left(ground: &Ground, result: &str) -> Result<()> {
    let home = ground.member(BY)?;
    wait_until("the job of the challenge to be gone", Duration::from_secs(30), || {
        poll(home, &["kjob", "--namespace", RELEASE_NAMESPACE], |jobs| {
            let left: Vec<&str> = items(jobs).iter().map(name).collect();
            Poll::<()>::when(left.is_empty(), left.join(", "))
        })
    })
    .await?;
    let free = |offer: &Value| offer["status"]["offered"].as_i64().is_some_and(|offered| offered > 0);
    offer_is(ground, BY, "free for others again", free).await?;
    let told = metrics(home, "operator", METRICS).await?;
    let sample = format!("koinon_challenges_total{{result=\"{result}\"}}");
    ensure!(told.get(&sample).is_some_and(|made| *made >= 1.0), "{BY} shows no {sample}");
    Ok(())
}
