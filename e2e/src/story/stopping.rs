//! Step 8: an owner presses stop, and what Prometheus saw of it all.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Narrator;
use super::look::{get, items, poll, text};
use super::serving::{Copy, GUEST_NAMESPACE};
use super::stage::{MEMBERS, RELEASE_NAMESPACE, Stage};
use crate::servers::{Prometheus, Target};
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

/// Starts a Prometheus that scrapes every part of every member.
pub async fn scrape(stage: &Stage) -> Result<Prometheus> {
    let targets = parts(stage).await?;
    ensure!(targets.len() >= 4 * MEMBERS.len(), "only {} parts of Koinon were found to scrape", targets.len());
    Prometheus::start(&stage.fleet, &targets).await
}

/// Every part of every member, where its pod is now.
async fn parts(stage: &Stage) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for member in MEMBERS {
        let pods =
            get(stage.member(member)?, &["pod", "--all-namespaces", "--selector", "app.kubernetes.io/part-of=koinon"])
                .await?;
        for pod in items(&pods).iter().filter(|pod| pod["status"]["phase"] == "Running") {
            let component = pod["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap_or_default();
            let port = match component {
                "operator" => 9090,
                "agent" => 9091,
                "gateway" => 9092,
                "weights" => 9093,
                _ => continue,
            };
            let address = pod["status"]["podIP"].as_str().context("a pod of Koinon has no address")?;
            targets.push(Target {
                job: format!("koinon-{component}"),
                datacenter: member.to_owned(),
                address: format!("{address}:{port}").parse().context("reading a pod's address")?,
            });
        }
    }
    Ok(targets)
}

/// What the story asks Prometheus at its end.
const QUESTIONS: [(&str, &str); 6] = [
    ("members by state", "sum by (datacenter, state) (koinon_member_state) > 0"),
    ("age of each offer", "max by (datacenter, member) (koinon_offer_age_seconds)"),
    ("proposals by state", "sum by (datacenter, state) (koinon_proposals) > 0"),
    ("placements by side and state", "sum by (datacenter, side, state) (koinon_placements) > 0"),
    ("requests by member and code", "sum by (datacenter, member, code) (koinon_gateway_requests_total)"),
    ("tokens", "sum by (datacenter, kind) (koinon_gateway_tokens_total)"),
];

/// Prints members, offers, votes, placements, requests and tokens from Prometheus' own query API.
pub async fn evidence(stage: &Stage, prometheus: &Prometheus, narrator: &Narrator) -> Result<()> {
    narrator.step("What Prometheus saw");
    // A pod that was replaced since the beginning has another address.
    prometheus.retarget(&parts(stage).await?)?;
    let up = prometheus.wait_for("count(up == 1) == count(up)", Duration::from_secs(60)).await?;
    narrator.observed(&format!("all {} parts are scraped", up.first().map_or(0.0, |sample| sample.value)));
    for (what, question) in QUESTIONS {
        let answers = prometheus.wait_for(question, Duration::from_secs(30)).await?;
        narrator.say(&format!("{what}: {question}"));
        for sample in answers {
            let labels: Vec<String> = sample.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            narrator.show(&format!("{:<60} {}", labels.join(" "), sample.value));
        }
    }
    Ok(())
}
