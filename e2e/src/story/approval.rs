//! Step 4: a job for a model that nobody has approved, and the vote that approves it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Narrator;
use super::look::{condition, get, items, name, poll, text, when};
use super::stage::{JOB, MEMBERS, RELEASE_NAMESPACE, SERVED_NAME, Stage, TEAM};
use crate::wait::Poll;

/// Where the model is published; each member fetches it from its own mirror.
pub const MODEL_URI: &str = "hf://koinon-test/tiny-llama.gguf";
/// The revision there.
pub const REVISION: &str = "main";
/// How its weights are stored.
pub const QUANTIZATION: &str = "f32";

/// A team asks, the cooperative decides, the job is placed without being touched again.
pub async fn approve(stage: &Stage, narrator: &Narrator) -> Result<()> {
    narrator.step("A team asks for a model that nobody has approved; the three owners vote");
    let aarhus = stage.member("aarhus")?;
    let namespace = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {TEAM}, labels: {{koinon.dev/jobs: allowed}}}}}}"
    );
    aarhus.apply(&namespace).await?;
    let job = job_yaml(stage);
    narrator.say("the team applies:");
    narrator.show(&job);
    aarhus.apply(&job).await?;
    narrator
        .wait_until("the job to say why it is not placed", Duration::from_secs(30), || {
            poll(aarhus, &["kjob", JOB, "--namespace", TEAM], |job| when(job, "Approved", "False"))
        })
        .await?;
    stage.run_koinon(narrator, "aarhus", ["explain", JOB, "--namespace", TEAM]).await?;
    let unplaced = get(aarhus, &["kjob", JOB, "--namespace", TEAM]).await?;
    let applied_generation = unplaced["metadata"]["generation"].as_i64();
    ensure!(unplaced["status"]["placements"].as_array().is_none_or(Vec::is_empty), "the job was placed unapproved");

    let digest = stage.materials.manifest_digest.as_str();
    let proposed = [
        "propose",
        "--vote",
        "yes",
        "add-model-release",
        "--uri",
        MODEL_URI,
        "--revision",
        REVISION,
        "--manifest-digest",
        digest,
        "--quantization",
        QUANTIZATION,
        "--license",
        "Apache-2.0",
        "--engine",
        "llama-cpp",
    ];
    stage.run_koinon(narrator, "bilbao", proposed).await?;
    let in_aarhus = release_proposal(stage, narrator, "aarhus").await?;
    stage.run_koinon(narrator, "aarhus", ["vote", &in_aarhus, "yes"]).await?;
    vote_elsewhere(stage, narrator).await?;

    for member in MEMBERS {
        let datacenter = stage.member(member)?;
        narrator
            .wait_until(&format!("{member} to see the release enacted"), Duration::from_secs(120), || {
                poll(datacenter, &["krel", "--namespace", RELEASE_NAMESPACE], |list| {
                    let enacted = items(list).iter().any(|release| {
                        text(&release["status"], "manifestDigest") == digest
                            && text(&release["status"], "state") == "Enacted"
                    });
                    Poll::<()>::when(enacted, format!("{} releases", items(list).len()))
                })
            })
            .await?;
    }
    narrator.kubectl(aarhus, ["get", "kprop,kvote", "--namespace", RELEASE_NAMESPACE]).await?;
    narrator
        .wait_until("the job to be placed", Duration::from_secs(60), || {
            poll(aarhus, &["kjob", JOB, "--namespace", TEAM], |job| when(job, "Placed", "True"))
        })
        .await?;
    let placed = get(aarhus, &["kjob", JOB, "--namespace", TEAM]).await?;
    ensure!(placed["metadata"]["generation"].as_i64() == applied_generation, "somebody touched the job's spec");
    let why = condition(&placed, "Placed").map(|found| text(found, "message").to_owned()).unwrap_or_default();
    narrator.observed(&format!("the job is placed without being touched again: {why}"));
    Ok(())
}

fn job_yaml(stage: &Stage) -> String {
    format!(
        "apiVersion: koinon.dev/v1alpha1
kind: InferenceJob
metadata: {{name: {JOB}, namespace: {TEAM}}}
spec:
  servedName: {SERVED_NAME}
  model: {{uri: '{MODEL_URI}', revision: {REVISION}, manifestDigest: '{}', quantization: {QUANTIZATION}}}
  engine: {{name: llama-cpp, options: {{threads: 1}}}}
  maxModelLen: 2048
  maxConcurrency: 2
  gpu: {{class: h100-80, count: 2}}
  placement: {{onPartition: KeepServing}}
",
        stage.materials.manifest_digest
    )
}

/// The name, at `viewer`, of the open proposal to approve the model.
async fn release_proposal(stage: &Stage, narrator: &Narrator, viewer: &str) -> Result<String> {
    let datacenter = stage.member(viewer)?;
    narrator
        .wait_until(&format!("the proposal at {viewer}"), Duration::from_secs(60), || {
            poll(datacenter, &["kprop", "--namespace", RELEASE_NAMESPACE], |list| {
                let found =
                    items(list).iter().find(|proposal| proposal["spec"]["action"]["addModelRelease"].is_object());
                match found {
                    Some(proposal) => Poll::Ready(name(proposal).to_owned()),
                    None => Poll::not_yet(format!("{} proposals", items(list).len())),
                }
            })
        })
        .await
}

/// The owner of cork signs on a machine that reaches no cluster and applies the YAML, as one would from git.
async fn vote_elsewhere(stage: &Stage, narrator: &Narrator) -> Result<()> {
    let cork = stage.member("cork")?;
    let proposal = release_proposal(stage, narrator, "cork").await?;
    let file = stage.desk("cork").join("proposal.yaml");
    let shown = cork.kubectl(["get", "kprop", &proposal, "--namespace", RELEASE_NAMESPACE, "--output", "yaml"]).await?;
    fs::write(&file, shown).with_context(|| format!("writing {}", file.display()))?;
    // No kubeconfig and no datacenter's network: only the key file and the proposal.
    let mut sign = Command::new(&stage.materials.kubectl_koinon);
    sign.env_remove("KUBECONFIG").env("KOINON_KEYS", stage.desk("cork").join("keys"));
    sign.env("KOINON_PASSPHRASE", "the owner of cork alone knows this");
    sign.args(["vote", "yes", "--member", "cork", "--proposal-file"]).arg(&file).args(["--output", "yaml"]);
    let vote = narrator.run("the owner of cork's own machine", sign).await?;
    let file = stage.desk("cork").join("vote.yaml");
    fs::write(&file, vote).with_context(|| format!("writing {}", file.display()))?;
    let mut apply = cork.kubectl_command(["apply", "--filename"]);
    apply.arg(&file);
    narrator.run("cork", apply).await?;
    Ok(())
}
