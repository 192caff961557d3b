//! Jobs that the API server refuses, and jobs that say why they are not placed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use koinon_e2e::story::look::{get, items, poll, text};
use koinon_e2e::story::{SERVED_NAME, TEAM};
use koinon_e2e::{Datacenter, Fleet, Poll, wait_until};
use serde_json::{Value, json};

use koinon_e2e::ground::{delete, ground, refused, rejected};

/// One job for each way in which a job cannot be.
pub async fn refused_jobs(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let aarhus = ground.member("aarhus")?;

    let mut no_label = ground.job("bad-label", 1, &[]);
    no_label["spec"]["servedName"] = json!("Tiny Llama!");
    let words = rejected(aarhus, &no_label).await?;
    ensure!(words.contains("spec.servedName"), "the API server should name spec.servedName, it says: {words}");

    let mut taken = ground.job("bad-taken", 1, &[]);
    taken["spec"]["servedName"] = json!(SERVED_NAME);
    let mut unknown_option = ground.job("bad-option", 1, &[]);
    unknown_option["spec"]["engine"]["options"] = json!({"trust-remote-code": "yes"});
    let mut wrong_value = ground.job("bad-value", 1, &[]);
    wrong_value["spec"]["engine"]["options"] = json!({"threads": 1000});
    let mut no_engine = ground.job("bad-engine", 1, &[]);
    no_engine["spec"]["engine"]["name"] = json!("sglang");
    let cases = [
        (taken, "Accepted", "ServedNameTaken", vec!["job tiny-llama", "served name tiny-llama"]),
        (unknown_option, "Accepted", "EngineOptionUnknown", vec!["trust-remote-code", "llama-cpp"]),
        (wrong_value, "Accepted", "EngineOptionInvalid", vec!["threads", "1000", "64"]),
        (no_engine, "Accepted", "EngineUnknown", vec!["sglang", "it has llama-cpp"]),
        // Nine of a class of which the largest node has eight, free or not.
        (
            ground.job("bad-large", 9, &[]),
            "Placed",
            "ExceedsLargestNode",
            vec!["asks for 9 h100-80", "the largest has 8 (bilbao)"],
        ),
    ];
    let mut names = Vec::new();
    for (job, ..) in &cases {
        aarhus.apply(&job.to_string()).await?;
        names.push(job["metadata"]["name"].as_str().unwrap_or_default());
    }
    for ((_, type_, reason, says), name) in cases.iter().zip(&names) {
        let message = refused(aarhus, &["kjob", name, "--namespace", TEAM], type_, reason).await?;
        for words in says {
            ensure!(message.contains(words), "{name} should say {words}, it says: {message}");
        }
        let job = get(aarhus, &["kjob", name, "--namespace", TEAM]).await?;
        let placements = &job["status"]["placements"];
        ensure!(placements.as_array().is_none_or(Vec::is_empty), "{name} was placed: {placements}");
        told(aarhus, name, reason, &message).await?;
    }
    // A person reads the same words.
    let explained = ground.koinon("aarhus", &["explain", "bad-large", "--namespace", TEAM]).await?;
    ensure!(
        explained.contains("the largest has 8 (bilbao)"),
        "explain does not say how many the largest has: {explained}"
    );
    delete(aarhus, &[&["kjob", "--namespace", TEAM], names.as_slice()].concat()).await?;
    ground.story_still_served().await
}

/// Waits until an Event says of the job what its condition says, in the same words.
async fn told(datacenter: &Datacenter, job: &str, reason: &str, message: &str) -> Result<()> {
    let about = format!("involvedObject.kind=InferenceJob,involvedObject.name={job}");
    let args = ["event", "--namespace", TEAM, "--field-selector", &about];
    wait_until(&format!("an Event {reason} about {job}"), Duration::from_secs(20), || {
        poll(datacenter, &args, |list| {
            let same = |event: &&Value| event["reason"] == reason && text(event, "message") == message;
            let seen: Vec<&str> = items(list).iter().map(|event| text(event, "reason")).collect();
            Poll::<()>::when(items(list).iter().any(|event| same(&event)), format!("{seen:?}"))
        })
    })
    .await
}
