//! The whole way: what a driver publishes and an agent reads, what a pool offers of it, and an engine with the devices of its claim.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use koinon_e2e::cache::Cache;
use koinon_e2e::gpus::{DRA_DRIVER, Source};
use koinon_e2e::ground::settled;
use koinon_e2e::story::look::{get, items, name, poll, text};
use koinon_e2e::story::{JOB, MODEL_URI, Materials, Narrator, QUANTIZATION, RELEASE_NAMESPACE, REVISION, Stage, TEAM};
use koinon_e2e::toolchain::checkout;
use koinon_e2e::{Datacenter, Fleet, Poll, wait_until};
use serde_json::{Value, json};

use crate::{MINUTE, SERVING, given};

/// Of the four GPUs one is the owner's, and the job takes two.
const POOL: &str = "all";
const JOB_GPUS: i64 = 2;

/// The engine gets the devices of its claim and no others, the agent says so of them, and the pool counts them as leased until
/// they are free again.
pub async fn by_name(fleet: Arc<Fleet>) -> Result<()> {
    let narrator = Narrator::on_stdout();
    let materials = Materials::ensure(&Cache::from_env()?, &|what| println!("  {what}"))?;
    let stage = Stage::set(fleet, materials).await?;
    let host = stage.member(SERVING)?;
    let scenario = checkout().join("e2e/fake-nvml/scenarios/cork.json");
    let _gpus = stage.materials.gpus.install(host, &scenario, Source::Dra).await?;
    stage.install(SERVING).await?;
    koinon_e2e::story::found(&stage, &narrator, SERVING).await?;
    approved(&stage, &narrator).await?;
    let pool = json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUPool",
        "metadata": {"name": POOL, "namespace": RELEASE_NAMESPACE},
        "spec": {"reserve": 1, "pod": {"deviceClassName": DRA_DRIVER}}});
    host.apply(&pool.to_string()).await?;
    counts(host, [("installed", 4), ("healthy", 4), ("offered", 3), ("leased", 0)]).await?;

    let team = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {TEAM}, labels: {{koinon.dev/jobs: allowed}}}}}}"
    );
    host.apply(&team).await?;
    host.apply(&job(&stage).to_string()).await?;
    let named = ["kjob", JOB, "--namespace", TEAM];
    settled(host, &named, "Ready", "True", "Routable", 2 * MINUTE).await?;
    let (namespace, pod) = engine(host).await?;
    let devices = given(host, &namespace, &pod).await?;
    ensure!(i64::try_from(devices.len())? == JOB_GPUS, "its claim has {devices:?}");
    held(host, &devices, &pod).await?;
    counts(host, [("installed", 4), ("healthy", 4), ("offered", 1), ("leased", 2)]).await?;

    host.kubectl(["delete", "kjob", JOB, "--namespace", TEAM, "--wait", "--timeout=90s"]).await?;
    held(host, &BTreeSet::new(), "nobody").await?;
    counts(host, [("installed", 4), ("healthy", 4), ("offered", 3), ("leased", 0)]).await?;
    let claims = get(host, &["resourceclaims", "--all-namespaces"]).await?;
    ensure!(items(&claims).is_empty(), "claims are left: {claims}");
    Ok(())
}

/// The one member approves the model by its own vote.
async fn approved(stage: &Stage, narrator: &Narrator) -> Result<()> {
    let digest = stage.materials.manifest_digest.as_str();
    let model =
        ["--uri", MODEL_URI, "--revision", REVISION, "--manifest-digest", digest, "--quantization", QUANTIZATION];
    let propose = ["propose", "--vote", "yes", "add-model-release", "--license", "Apache-2.0", "--engine", "llama-cpp"];
    stage.run_koinon(narrator, SERVING, propose.into_iter().chain(model)).await?;
    let host = stage.member(SERVING)?;
    wait_until("the release to be enacted", 2 * MINUTE, || {
        poll(host, &["krel", "--namespace", RELEASE_NAMESPACE], |list| {
            let enacted = items(list).iter().any(|release| text(&release["status"], "state") == "Enacted");
            Poll::<()>::when(enacted, format!("{} releases", items(list).len()))
        })
    })
    .await
}

fn job(stage: &Stage) -> Value {
    json!({
        "apiVersion": "koinon.dev/v1alpha1", "kind": "InferenceJob",
        "metadata": {"name": JOB, "namespace": TEAM},
        "spec": {
            "servedName": JOB,
            "model": {"uri": MODEL_URI, "revision": REVISION, "quantization": QUANTIZATION,
                "manifestDigest": stage.materials.manifest_digest},
            "engine": {"name": "llama-cpp"}, "maxModelLen": 512, "maxConcurrency": 1,
            "gpu": {"class": "h100-80", "count": JOB_GPUS}, "placement": {"scope": "Local"},
        },
    })
}

/// Waits until the pool counts its one class so.
async fn counts(host: &Datacenter, wanted: [(&str, i64); 4]) -> Result<()> {
    wait_until(&format!("the pool to count {wanted:?}"), MINUTE, || {
        poll(host, &["gpupool", POOL, "--namespace", RELEASE_NAMESPACE], |pool| {
            let class = &pool["status"]["classes"][0];
            let same = wanted.iter().all(|(count, number)| class[count] == *number);
            Poll::<()>::when(same, pool["status"].to_string())
        })
    })
    .await
}

/// The namespace and the name of the engine's pod.
async fn engine(host: &Datacenter) -> Result<(String, String)> {
    let pods = get(host, &["pods", "--all-namespaces", "--selector", "koinon.dev/part=engine"]).await?;
    let [pod] = items(&pods) else { anyhow::bail!("{} engines run", items(&pods).len()) };
    let namespace = pod["metadata"]["namespace"].as_str().context("a pod without namespace")?;
    Ok((namespace.to_owned(), name(pod).to_owned()))
}

/// Waits until the agent says that exactly these devices are held, by that pod.
async fn held(host: &Datacenter, devices: &BTreeSet<String>, pod: &str) -> Result<()> {
    wait_until(&format!("the agent to say that {pod} has {devices:?}"), Duration::from_secs(30), || {
        poll(host, &["kgnode", SERVING], |node| {
            let all = node["status"]["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
            let by = |device: &&Value| device["allocation"]["holders"][0]["name"] == pod;
            let held = all.iter().filter(|device| device["allocation"]["state"] == "Held");
            let right = held.clone().all(|device| by(&device));
            let uuids: BTreeSet<String> = held.map(|device| text(device, "uuid").to_owned()).collect();
            Poll::<()>::when(right && uuids == *devices, format!("{uuids:?} in {}", node["status"]["devices"]))
        })
    })
    .await
}
