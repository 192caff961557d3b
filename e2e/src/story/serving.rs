//! Step 5: from the grant to an engine that answers, confined.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Narrator;
use super::look::{get, items, name, poll, text, when};
use super::stage::{JOB, RELEASE_NAMESPACE, Stage, TEAM};
use crate::datacenter::Datacenter;

/// The namespace of aarhus' work at a host.
pub const GUEST_NAMESPACE: &str = "koinon-guest-aarhus";

/// Where a job's routed copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The member that hosts it.
    pub host: String,
    /// Its epoch.
    pub epoch: i64,
}

/// The routable copies of the team's job, as aarhus' own objects say.
pub async fn routable(home: &Datacenter) -> Result<Vec<Copy>> {
    let placements = get(home, &["kpl", "--namespace", TEAM]).await?;
    let routable = items(&placements).iter().filter(|placement| {
        let found = super::look::condition(placement, "Routable");
        found.is_some_and(|condition| condition["status"] == "True")
    });
    Ok(routable
        .map(|placement| Copy {
            host: text(&placement["spec"], "host").to_owned(),
            epoch: placement["spec"]["epoch"].as_i64().unwrap_or_default(),
        })
        .collect())
}

/// The one routable copy.
pub async fn the_copy(home: &Datacenter) -> Result<Copy> {
    let mut copies = routable(home).await?;
    ensure!(copies.len() == 1, "{} copies are routable: {copies:?}", copies.len());
    copies.pop().context("no copy is routable")
}

/// Reservation, grant, weights, engine, route.
pub async fn serve(stage: &Stage, narrator: &Narrator) -> Result<()> {
    narrator.step("The host reserves, grants, fetches the weights and serves, confined; the job becomes Ready");
    let aarhus = stage.member("aarhus")?;
    narrator
        .wait_until("the job to be Ready", Duration::from_secs(180), || {
            poll(aarhus, &["kjob", JOB, "--namespace", TEAM], |job| when(job, "Ready", "True"))
        })
        .await?;
    let copy = the_copy(aarhus).await?;
    let host = stage.member(&copy.host)?;
    narrator.kubectl(aarhus, ["get", "kjob,kpl", "--namespace", TEAM]).await?;
    narrator.kubectl(host, ["get", "kpl,deployment,pod,service,networkpolicy", "--namespace", GUEST_NAMESPACE]).await?;
    let reservations = format!("koinon-reservations-{}", copy.host);
    narrator.kubectl(host, ["get", "configmap", &reservations, "--namespace", RELEASE_NAMESPACE, "-o", "yaml"]).await?;
    let guests = get(host, &["namespace", GUEST_NAMESPACE]).await?;
    let enforced = guests["metadata"]["labels"]["pod-security.kubernetes.io/enforce"].as_str();
    ensure!(enforced == Some("restricted"), "the guest namespace enforces {enforced:?}, not restricted");
    let pods = get(host, &["pod", "--namespace", GUEST_NAMESPACE]).await?;
    let engine = items(&pods).first().context("no pod runs in the guest namespace")?;
    let image = engine["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    ensure!(image == stage.materials.engine.pinned(), "pod {} runs {image}", name(engine));
    narrator.observed(&format!(
        "{} hosts epoch {} under Pod Security restricted, the engine by digest, the weights verified against {}",
        copy.host, copy.epoch, stage.materials.manifest_digest
    ));
    Ok(())
}
