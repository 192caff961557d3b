//! GPUs by dynamic resource allocation: a real driver tells a real kubelet and a real scheduler of them, and a pod gets them.
//!
//! One datacenter is as Kubernetes 1.34 comes, another knows taints of single devices, and in the third Koinon serves with them.

mod served;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use koinon_e2e::cache::Cache;
use koinon_e2e::gpus::{DRA_DRIVER, FakeGpus, NodeGpus, Source};
use koinon_e2e::process::Signal;
use koinon_e2e::toolchain::checkout;
use koinon_e2e::{Datacenter, DatacenterSpec, Fleet, Poll, Suite, image, wait_until};
use serde::Deserialize as _;
use serde_json::Value;
use tokio::sync::Mutex;

const MINUTE: Duration = Duration::from_secs(60);
/// As Kubernetes comes.
const STOCK: &str = "aarhus";
/// With taints of single devices.
const TAINTING: &str = "bilbao";

/// With Koinon.
const SERVING: &str = "cork";

/// The GPUs of the first two, in this order.
static GPUS: Mutex<Vec<NodeGpus>> = Mutex::const_new(Vec::new());

fn main() -> ExitCode {
    Suite::over(&[STOCK, TAINTING, SERVING])
        .with(|spec: DatacenterSpec| if spec.name == TAINTING { spec.with_device_taints() } else { spec })
        .case("slices_name_every_gpu_of_the_node_and_no_extended_resource_does", published)
        .case("a_pod_with_the_rendered_claim_runs_with_the_devices_that_its_status_names", allocated)
        .case("a_restart_of_kubelet_and_driver_hands_no_device_out_twice", restarted)
        .case("a_lost_device_leaves_the_slice_where_no_taints_are_served", left_out)
        .case("a_lost_device_is_tainted_and_not_given_out_where_taints_are_served", tainted)
        .case("a_pool_of_devices_that_are_given_out_by_name_serves_a_job_with_those_of_its_claim", served::by_name)
        .main()
}

/// Those without Koinon.
fn plain(fleet: &Fleet) -> Result<[&Arc<Datacenter>; 2]> {
    Ok([fleet.get(STOCK)?, fleet.get(TAINTING)?])
}

/// The devices of a datacenter's slices by UUID, each with its pool's and its own name and the keys of its taints.
async fn devices(datacenter: &Datacenter) -> Result<Vec<(String, String, Vec<String>)>> {
    let list = get(datacenter, &["resourceslices"]).await?;
    let mut found = Vec::new();
    for slice in list["items"].as_array().into_iter().flatten() {
        ensure!(slice["spec"]["driver"] == DRA_DRIVER && slice["spec"]["nodeName"] == datacenter.name(), "{slice}");
        for device in slice["spec"]["devices"].as_array().into_iter().flatten() {
            let uuid = device["attributes"]["uuid"]["string"].as_str().context("a device without a UUID")?;
            let name = format!("{}/{}", text(&slice["spec"]["pool"]["name"])?, text(&device["name"])?);
            let taints = device["taints"].as_array().into_iter().flatten();
            found.push((uuid.to_owned(), name, taints.map(|taint| text(&taint["key"])).collect::<Result<_>>()?));
        }
    }
    found.sort();
    Ok(found)
}

async fn wait_for_devices(datacenter: &Datacenter, what: &str, wanted: impl Fn(usize, usize) -> bool) -> Result<()> {
    wait_until(&format!("{what} in {}", datacenter.name()), MINUTE, || async {
        match devices(datacenter).await {
            Ok(found) => {
                let tainted = found.iter().filter(|(_, _, taints)| !taints.is_empty()).count();
                Poll::<()>::when(wanted(found.len(), tainted), format!("{found:?}"))
            }
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}

async fn published(fleet: Arc<Fleet>) -> Result<()> {
    let cache = Cache::from_env()?;
    let fake = FakeGpus::ensure(&cache, &|what| println!("  {what}"))?;
    let busybox = image::busybox(&cache, &|_| {})?;
    let scenario = checkout().join("e2e/fake-nvml/scenarios/cork.json");
    for datacenter in plain(&fleet)? {
        datacenter.load_image(&busybox).await?;
        let gpus = fake.install(datacenter, &scenario, Source::Dra).await?;
        GPUS.lock().await.push(gpus);
        let second = fake.install(datacenter, &scenario, Source::DevicePlugin).await;
        ensure!(second.is_err(), "one node was given its GPUs twice");
    }
    for datacenter in plain(&fleet)? {
        wait_for_devices(datacenter, "four clean devices", |all, tainted| (all, tainted) == (4, 0)).await?;
        let node = get(datacenter, &["node", datacenter.name()]).await?;
        ensure!(node["status"]["capacity"].get("nvidia.com/gpu").is_none(), "{}", node["status"]["capacity"]);
        let slices = get(datacenter, &["resourceslices"]).await?;
        let first = &slices["items"][0]["spec"]["devices"][0];
        ensure!(first["attributes"]["productName"]["string"] == "NVIDIA H100 80GB HBM3", "{first}");
        ensure!(first["attributes"]["cudaComputeCapability"]["version"] == "9.0.0", "{first}");
        ensure!(first["capacity"]["memory"]["value"] == "81559Mi", "{first}");
    }
    Ok(())
}

/// A pod with so many GPUs, which tells of them until it is deleted.
fn pod(name: &str, gpus: u32) -> String {
    format!(
        r#"
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {{name: {name}, namespace: default}}
spec: {{spec: {{devices: {{requests: [{{name: gpus, exactly: {{deviceClassName: {DRA_DRIVER}, count: {gpus}}}}}]}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default}}
spec:
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  resourceClaims: [{{name: gpus, resourceClaimTemplateName: {name}}}]
  containers:
  - name: holder
    image: koinon.test/busybox:e2e
    command: [sleep, "86400"]
    resources: {{claims: [{{name: gpus}}]}}
"#
    )
}

/// The UUIDs that a running pod finds in its environment.
async fn told(datacenter: &Datacenter, pod: &str) -> Result<BTreeSet<String>> {
    let printed = datacenter.kubectl(["exec", pod, "--", "env"]).await?;
    let told = printed.lines().filter_map(|line| line.strip_prefix("GPU_DEVICE_")?.split_once('='));
    Ok(told.map(|(_, uuid)| uuid.to_owned()).collect())
}

/// The UUIDs of the devices that the status of a pod's claim names.
async fn given(datacenter: &Datacenter, namespace: &str, pod: &str) -> Result<BTreeSet<String>> {
    let pod = get(datacenter, &["pod", pod, "--namespace", namespace]).await?;
    let claim = text(&pod["status"]["resourceClaimStatuses"][0]["resourceClaimName"])?;
    let claim = get(datacenter, &["resourceclaim", &claim, "--namespace", namespace]).await?;
    ensure!(claim["status"]["reservedFor"][0]["uid"] == pod["metadata"]["uid"], "{}", claim["status"]);
    let known = devices(datacenter).await?;
    let results = claim["status"]["allocation"]["devices"]["results"].as_array().context("it is not allocated")?;
    let mut given = BTreeSet::new();
    for result in results {
        let name = format!("{}/{}", text(&result["pool"])?, text(&result["device"])?);
        let (uuid, ..) = known.iter().find(|(_, known, _)| *known == name).context("no slice has its device")?;
        given.insert(uuid.clone());
    }
    Ok(given)
}

/// What the operator renders for a guest with two GPUs, as a claim template of this name.
fn rendered_claim(name: &str) -> Result<String> {
    let golden = checkout().join("operator/control/src/render/golden/with-claim.yaml");
    let text = std::fs::read_to_string(&golden).with_context(|| format!("reading {}", golden.display()))?;
    for document in serde_yaml::Deserializer::from_str(&text) {
        let mut object = Value::deserialize(document)?;
        if object["kind"] == "ResourceClaimTemplate" {
            object["metadata"] = serde_json::json!({"name": name, "namespace": "default"});
            return Ok(serde_yaml::to_string(&object)?);
        }
    }
    bail!("{} holds no claim template", golden.display())
}

async fn run_pod(datacenter: &Datacenter, name: &str, gpus: u32) -> Result<BTreeSet<String>> {
    datacenter.apply(&pod(name, gpus)).await?;
    run(datacenter, name).await
}

async fn run(datacenter: &Datacenter, name: &str) -> Result<BTreeSet<String>> {
    let ready = format!("pod/{name}");
    datacenter.kubectl(["wait", "--for=condition=Ready", &ready, "--timeout=60s"]).await?;
    told(datacenter, name).await
}

async fn allocated(fleet: Arc<Fleet>) -> Result<()> {
    for datacenter in plain(&fleet)? {
        let pod = pod("pair", 2);
        let (_, pod) = pod.rsplit_once("---").context("no pod")?;
        datacenter.apply(&rendered_claim("pair")?).await?;
        datacenter.apply(pod).await?;
        let told = run(datacenter, "pair").await?;
        let given = given(datacenter, "default", "pair").await?;
        ensure!(told.len() == 2 && told == given, "{}: told {told:?}, given {given:?}", datacenter.name());
    }
    Ok(())
}

async fn restarted(fleet: Arc<Fleet>) -> Result<()> {
    let stock = fleet.get(STOCK)?;
    let before = told(stock, "pair").await?;
    stock.restart_kubelet().await?;
    {
        let mut gpus = GPUS.lock().await;
        let driver = gpus.first_mut().context("no GPUs")?.source();
        driver.signal(Signal::Kill);
        driver.restart(fleet.run(), Duration::ZERO)?;
    }
    let next = run_pod(stock, "next", 1).await?;
    ensure!(next.len() == 1 && next.is_disjoint(&before), "{next:?} while {before:?} are held");
    ensure!(told(stock, "pair").await? == before, "the pod that ran was told of other devices");
    // The pod goes, and its device is another's to have.
    stock.kubectl(["delete", "pod", "next", "--wait"]).await?;
    let after = run_pod(stock, "after", 2).await?;
    ensure!(after.is_superset(&next) && after.is_disjoint(&before), "{after:?} after {next:?}, beside {before:?}");
    stock.kubectl(["delete", "pod", "after", "--wait"]).await.map(drop)
}

/// Makes the devices lost that no pod holds, but for one.
async fn lose_one_of_the_free(datacenter: &Datacenter, position: usize) -> Result<String> {
    let held = told(datacenter, "pair").await?;
    let free = devices(datacenter).await?.into_iter().map(|(uuid, ..)| uuid).find(|uuid| !held.contains(uuid));
    let lost = free.context("all are held")?;
    GPUS.lock().await.get(position).context("no GPUs")?.change(|scenario| {
        for device in scenario["devices"].as_array_mut().into_iter().flatten() {
            if device["uuid"] == lost.as_str() {
                device["state"] = "Lost".into();
            }
        }
    })?;
    Ok(lost)
}

async fn left_out(fleet: Arc<Fleet>) -> Result<()> {
    let stock = fleet.get(STOCK)?;
    let lost = lose_one_of_the_free(stock, 0).await?;
    wait_for_devices(stock, "the lost device to leave", |all, tainted| (all, tainted) == (3, 0)).await?;
    let last = run_pod(stock, "last", 1).await?;
    ensure!(!last.contains(&lost), "the lost device was given out");
    never_runs(stock, "one-too-many").await
}

async fn tainted(fleet: Arc<Fleet>) -> Result<()> {
    let tainting = fleet.get(TAINTING)?;
    let lost = lose_one_of_the_free(tainting, 1).await?;
    wait_for_devices(tainting, "the lost device to be tainted", |all, tainted| (all, tainted) == (4, 1)).await?;
    let (_, _, taints) =
        devices(tainting).await?.into_iter().find(|(uuid, ..)| *uuid == lost).context("the lost device is gone")?;
    ensure!(taints == ["gpu.nvidia.com/gpu-lost"], "{taints:?}");
    let last = run_pod(tainting, "last", 1).await?;
    ensure!(!last.contains(&lost), "the lost device was given out");
    never_runs(tainting, "one-too-many").await
}

/// A pod for which nothing is left is told so by the scheduler.
async fn never_runs(datacenter: &Datacenter, name: &str) -> Result<()> {
    datacenter.apply(&pod(name, 1)).await?;
    wait_until(&format!("the scheduler to refuse {name}"), MINUTE, || async {
        match get(datacenter, &["pod", name]).await {
            Ok(pod) => {
                let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
                let scheduled = conditions.iter().find(|condition| condition["type"] == "PodScheduled");
                match scheduled.map(|condition| (&condition["status"], condition["message"].to_string())) {
                    Some((status, message)) if status == "False" && message.contains("cannot allocate all claims") => {
                        Poll::Ready(())
                    }
                    Some((status, _)) if status == "True" => Poll::Never("it was scheduled".into()),
                    other => Poll::not_yet(format!("{other:?}")),
                }
            }
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}

async fn get(datacenter: &Datacenter, what: &[&str]) -> Result<Value> {
    let printed = datacenter.kubectl([&["get"], what, &["--output", "json"]].concat()).await?;
    serde_json::from_str(&printed).with_context(|| format!("reading {what:?}"))
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} is no text"))
}
