//! Step 5: from the grant to an engine that answers, confined.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::Narrator;
use super::look::{condition, get, items, name, poll, text, when};
use super::stage::{JOB, RELEASE_NAMESPACE, Stage, TEAM};
use crate::datacenter::Datacenter;
use crate::wait::Poll;

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
    let routable = items(&placements).iter().filter(|placement| is_true(placement, "Routable"));
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
    narrator.wait_until("the job to be Ready", Duration::from_secs(180), || ready_by_route(aarhus)).await?;
    let copy = the_copy(aarhus).await?;
    let host = stage.member(&copy.host)?;
    narrator.kubectl(aarhus, ["get", "kjob,kpl", "--namespace", TEAM]).await?;
    narrator.kubectl(host, ["get", "kpl,deployment,pod,service,networkpolicy", "--namespace", GUEST_NAMESPACE]).await?;
    let reservations = format!("koinon-reservations-{}", copy.host);
    narrator.kubectl(host, ["get", "configmap", &reservations, "--namespace", RELEASE_NAMESPACE, "-o", "yaml"]).await?;
    let job = get(aarhus, &["kjob", JOB, "--namespace", TEAM]).await?;
    let at_home = get(aarhus, &["kpl", "--namespace", TEAM]).await?;
    let routed =
        items(&at_home).iter().find(|placement| is_true(placement, "Routable")).context("no copy is routed")?;
    ready_after_routable(&job, routed)?;
    let gpus = job["spec"]["gpu"]["count"].as_i64().context("the job asks for no GPUs")?;
    let record = get(host, &["configmap", &reservations, "--namespace", RELEASE_NAMESPACE]).await?;
    reserved(text(&record["data"], "reservations.json"), text(&job["metadata"], "uid"), copy.epoch, gpus)?;
    narrator.observed(&format!("the record of {} holds {gpus} GPUs for epoch {} of this job", copy.host, copy.epoch));
    let digest = stage.materials.manifest_digest.as_str();
    let hosted = get(host, &["kpl", "--namespace", GUEST_NAMESPACE]).await?;
    let hosted = items(&hosted)
        .iter()
        .find(|placement| placement["spec"]["epoch"] == copy.epoch)
        .with_context(|| format!("{} has no Placement of epoch {}", copy.host, copy.epoch))?;
    let model = text(&hosted["spec"]["model"], "manifestDigest");
    ensure!(model == digest, "Placement {} names the weights {model}, not {digest}", name(hosted));
    ensure!(is_true(hosted, "Loaded"), "Placement {} is served and not Loaded: {}", name(hosted), hosted["status"]);
    confined(stage, host, digest).await?;
    narrator.observed(&format!(
        "{} hosts epoch {} under Pod Security restricted, the engine by digest, the weights verified against {digest}",
        copy.host, copy.epoch
    ));
    Ok(())
}

/// The guest namespace, and the pod in it: which image, and which weights it was told to take.
async fn confined(stage: &Stage, host: &Datacenter, digest: &str) -> Result<()> {
    let guests = get(host, &["namespace", GUEST_NAMESPACE]).await?;
    let enforced = guests["metadata"]["labels"]["pod-security.kubernetes.io/enforce"].as_str();
    ensure!(enforced == Some("restricted"), "the guest namespace enforces {enforced:?}, not restricted");
    let pods = get(host, &["pod", "--namespace", GUEST_NAMESPACE]).await?;
    let engine = items(&pods).first().context("no pod runs in the guest namespace")?;
    let image = engine["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    ensure!(image == stage.materials.engine.pinned(), "pod {} runs {image}", name(engine));
    let wanted = format!("--digest={digest}");
    let init = engine["spec"]["initContainers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let weights = init.iter().find(|one| one["name"] == "weights").context("the engine's pod loads no weights")?;
    let told = weights["args"].as_array().is_some_and(|args| args.iter().any(|arg| arg == wanted.as_str()));
    ensure!(told, "the weights of pod {} are loaded with {} and not with {wanted}", name(engine), weights["args"]);
    Ok(())
}

/// Whether a condition of a resource is True.
fn is_true(resource: &Value, type_: &str) -> bool {
    condition(resource, type_).is_some_and(|found| found["status"] == "True")
}

/// Polls for the job to be Ready; a Ready job without a routed copy has promised what nobody keeps.
async fn ready_by_route(home: &Datacenter) -> Poll<()> {
    // kubectl lists the jobs first: a copy that made one Ready is Routable by the time that copies are listed.
    poll(home, &["kjob,kpl", "--namespace", TEAM], |both| ready_with_a_copy(items(both))).await
}

fn ready_with_a_copy(all: &[Value]) -> Poll<()> {
    let Some(job) = all.iter().find(|one| one["kind"] == "InferenceJob" && name(one) == JOB) else {
        return Poll::not_yet("the job is not there");
    };
    let routed = all.iter().any(|one| one["kind"] == "Placement" && is_true(one, "Routable"));
    if is_true(job, "Ready") && !routed {
        return Poll::Never("the job says that it is Ready while no copy is Routable".to_owned());
    }
    when(job, "Ready", "True")
}

/// Fails unless the job became Ready no earlier than its copy became Routable.
fn ready_after_routable(job: &Value, placement: &Value) -> Result<()> {
    let since = |resource: &Value, type_: &str| -> Result<String> {
        let found = condition(resource, type_).with_context(|| format!("{} has no {type_}", name(resource)))?;
        Ok(text(found, "lastTransitionTime").to_owned())
    };
    // Both are RFC 3339 in UTC, written by one clock to the second: they compare as text.
    let (ready, routable) = (since(job, "Ready")?, since(placement, "Routable")?);
    ensure!(!routable.is_empty(), "nobody can tell since when the copy is Routable");
    ensure!(ready >= routable, "the job was Ready at {ready}, its copy Routable only at {routable}");
    Ok(())
}

/// Fails unless a host's record holds this many GPUs for the first replica of the job in this epoch, and once only.
fn reserved(record: &str, job: &str, epoch: i64, gpus: i64) -> Result<()> {
    let read: Value = serde_json::from_str(record).with_context(|| format!("reading the reservations {record:?}"))?;
    let held = read["held"].as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = json!({"home": "aarhus", "job": job, "replica": 0});
    let of_replica: Vec<&Value> = held.iter().filter(|one| one["replica"] == wanted).collect();
    let [one] = of_replica.as_slice() else {
        bail!("{} reservations for replica 0 of {job}: {record}", of_replica.len());
    };
    ensure!(one["epoch"] == epoch && one["gpus"] == gpus, "{one} is held, not {gpus} GPUs for epoch {epoch}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(kind: &str, type_: &str, status: &str, since: &str) -> Value {
        json!({
            "kind": kind, "metadata": {"name": JOB},
            "status": {"conditions": [{"type": type_, "status": status, "lastTransitionTime": since}]},
        })
    }

    fn at(second: u8) -> String {
        format!("2026-11-21T05:51:{second:02}Z")
    }

    #[test]
    fn a_job_that_is_ready_without_a_routed_copy_ends_the_story() {
        let job = |ready| with("InferenceJob", "Ready", ready, &at(1));
        let copy = |routable| with("Placement", "Routable", routable, &at(1));
        assert!(matches!(ready_with_a_copy(&[job("False"), copy("False")]), Poll::NotYet(_)));
        assert!(matches!(ready_with_a_copy(&[job("True"), copy("True")]), Poll::Ready(())));
        assert!(matches!(ready_with_a_copy(&[job("True"), copy("False")]), Poll::Never(_)));
        assert!(matches!(ready_with_a_copy(&[job("True")]), Poll::Never(_)));
    }

    #[test]
    fn ready_before_routable_is_noticed() {
        let (job, copy) = (
            |second| with("InferenceJob", "Ready", "True", &at(second)),
            with("Placement", "Routable", "True", &at(5)),
        );
        assert!(ready_after_routable(&job(5), &copy).is_ok());
        assert!(ready_after_routable(&job(9), &copy).is_ok());
        assert!(ready_after_routable(&job(4), &copy).is_err());
    }

    #[test]
    fn a_record_without_this_replica_epoch_and_count_is_noticed() {
        let record =
            r#"{"node":"cork","held":[{"replica":{"home":"aarhus","job":"j","replica":0},"epoch":2,"gpus":2}]}"#;
        assert!(reserved(record, "j", 2, 2).is_ok());
        assert!(reserved(record, "j", 1, 2).is_err());
        assert!(reserved(record, "j", 2, 1).is_err());
        assert!(reserved(record, "other", 2, 2).is_err());
        assert!(reserved(r#"{"node":"cork","held":[]}"#, "j", 2, 2).is_err());
        assert!(reserved("", "j", 2, 2).is_err());
    }
}
