//! Step 8: an owner presses stop.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::Narrator;
use super::look::{get, items, poll, text};
use super::serving::{Copy, GUEST_NAMESPACE};
use super::stage::{RELEASE_NAMESPACE, Stage};
use crate::wait::Poll;

/// The time within which an owner must have every GPU back.
const FREE_WITHIN: Duration = Duration::from_secs(120);

/// The owner of the current host takes its GPUs back.
pub async fn stop(stage: &Stage, narrator: &Narrator, copy: &Copy) -> Result<()> {
    narrator.step(&format!(
        "The owner of {} presses stop; its GPUs are free within {} s",
        copy.host,
        FREE_WITHIN.as_secs()
    ));
    let host = stage.member(&copy.host)?;
    let pressed = Instant::now();
    let patch = r#"{"spec":{"guests":{"mode":"Stop"}}}"#;
    let args = ["patch", "kcoop", "cooperative", "--namespace", RELEASE_NAMESPACE, "--type", "merge", "--patch", patch];
    narrator.kubectl(host, args).await?;
    narrator
        .wait_until("every GPU to be the owner's again", FREE_WITHIN, || async {
            match get(host, &["pod", "--all-namespaces"]).await {
                Ok(pods) => {
                    let held: Vec<&str> = items(&pods)
                        .iter()
                        .filter(|pod| requests_gpus(pod))
                        .map(|pod| text(&pod["metadata"], "name"))
                        .collect();
                    Poll::<()>::when(held.is_empty(), format!("held by {}", held.join(", ")))
                }
                Err(error) => Poll::not_yet(format!("{error:#}")),
            }
        })
        .await?;
    narrator
        .wait_until("the reservation to be released", FREE_WITHIN.saturating_sub(pressed.elapsed()), || {
            let node = format!("koinon-reservations-{}", copy.host);
            async move {
                poll(host, &["configmap", &node, "--namespace", RELEASE_NAMESPACE], |map| {
                    let record: Value =
                        serde_json::from_str(text(&map["data"], "reservations.json")).unwrap_or_default();
                    let held = record["held"].as_array().map_or(0, Vec::len);
                    Poll::<()>::when(held == 0, format!("{held} reservations are held"))
                })
                .await
            }
        })
        .await?;
    narrator.kubectl(host, ["get", "kpl,pod", "--namespace", GUEST_NAMESPACE]).await?;
    narrator.observed(&format!("stopped and free after {:.1} s", pressed.elapsed().as_secs_f32()));
    Ok(())
}

fn requests_gpus(pod: &Value) -> bool {
    let containers = pod["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    containers.iter().any(|container| container["resources"]["requests"]["nvidia.com/gpu"].is_string())
}
