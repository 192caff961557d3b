//! Definitions that are older than the operator, or not there at all.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use koinon_e2e::story::RELEASE_NAMESPACE;
use koinon_e2e::story::look::{get, items};
use koinon_e2e::{Datacenter, Fleet, Poll, wait_until};
use serde_json::{Value, json};

use koinon_e2e::ground::{REPLACED, and_then_cleaned, delete, ground, kill_operators, operators_ready, pods};

/// What it defines is a projection: the operator writes the objects anew once there is a place for them.
const VERSIONS: &str = "policyversions.koinon.dev";
const FIELD: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/proposal";

/// Waits until the operator is not ready and says of its definitions what it should.
async fn awaits(datacenter: &Datacenter, says: &str) -> Result<()> {
    wait_until(&format!("the operator of {} to await: {says}", datacenter.name()), REPLACED, || async {
        match readyz(datacenter).await {
            Ok((503, body)) if body.contains(says) => Poll::<()>::Ready(()),
            Ok((code, body)) => Poll::not_yet(format!("{code} {body}")),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}

/// What `/readyz` of the operator that runs answers.
async fn readyz(datacenter: &Datacenter) -> Result<(u16, String)> {
    let pods = pods(datacenter, "operator").await?;
    let address = pods.iter().find_map(|pod| pod["status"]["podIP"].as_str()).context("no operator has an address")?;
    let relay = datacenter.relay(format!("{address}:9090").parse()?).await?;
    let answer = reqwest::get(format!("http://{}/readyz", relay.local())).await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

/// What was read, as it can be created again.
fn as_new(mut object: Value) -> Value {
    for field in ["resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"] {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove(field);
        }
    }
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    object
}

/// An operator that starts under an older definition, then without it, says so, and goes on by itself once it is there.
pub async fn missing(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let idle = ground.member(&ground.idle)?;
    let right = as_new(get(idle, &["crd", VERSIONS]).await?);
    let result = async {
        let older = json!([{"op": "remove", "path": FIELD}]).to_string();
        idle.kubectl(["patch", "crd", VERSIONS, "--type=json", "--patch", &older]).await?;
        // A running operator has its watches already; the next one looks before it begins.
        kill_operators(idle).await?;
        let lacks = "PolicyVersion.koinon.dev is older than this operator, it lacks status.proposal";
        awaits(idle, lacks).await?;
        delete(idle, &["crd", VERSIONS]).await?;
        awaits(idle, "PolicyVersion.koinon.dev is missing: install the koinon-crds chart").await
    };
    let result = result.await;
    let cleaned = async {
        idle.apply(&right.to_string()).await?;
        operators_ready(idle, 1).await?;
        let list = ["kpol", "--namespace", RELEASE_NAMESPACE];
        wait_until("the versions to be written anew", Duration::from_secs(60), || async {
            match get(idle, &list).await {
                Ok(list) => Poll::<()>::when(items(&list).len() >= 3, items(&list).len()),
                Err(error) => Poll::not_yet(format!("{error:#}")),
            }
        })
        .await?;
        ground.all_fresh().await?;
        ground.story_still_served().await
    };
    and_then_cleaned(result, cleaned.await)
}
