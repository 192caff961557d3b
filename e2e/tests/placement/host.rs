//! A host with GPUs that exist in the API server alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use k8s_openapi::jiff::Timestamp;
use koinon_api::{GPUNode, GPUPool, Placement, names};
use koinon_core::placement::reservations::NodeReservations;
use koinon_e2e::Datacenter;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::JoinHandle;

/// The resource that its nodes allocate.
const GPU: &str = "nvidia.com/gpu";

/// One member's cluster, as far as it has to exist: several of them share an API server under different names.
pub struct Host {
    /// The member, and the release namespace.
    pub name: String,
    /// Its homes: two other members.
    pub homes: [String; 2],
    /// The API server.
    pub client: Client,
    gpus: usize,
    silent: Arc<AtomicBool>,
    heartbeat: JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}

async fn put<K>(api: &Api<K>, value: serde_json::Value) -> Result<K>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    let name = value["metadata"]["name"].as_str().context("it has no name")?.to_owned();
    let params = PatchParams::apply("test").force();
    api.patch(&name, &params, &Patch::Apply(&value)).await.with_context(|| format!("applying {name}"))
}

impl Host {
    /// A host called `case` with one node of `gpus` GPUs; any before it are over.
    pub async fn new(datacenter: &Datacenter, case: &str, gpus: usize) -> Result<Self> {
        let client = datacenter.client();
        let name = format!("host-{case}");
        let homes = [format!("a-{case}"), format!("c-{case}")];
        put(
            &Api::<Namespace>::all(client.clone()),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        )
        .await?;
        let nodes = Api::<Node>::all(client.clone());
        put(
            &nodes,
            json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"case": case, "kubernetes.io/hostname": name}}}),
        )
        .await?;
        let gpu_nodes = Api::<GPUNode>::all(client.clone());
        // An operator's breaker counts what failed in its whole cluster: what earlier hosts' agents said is not about this member.
        gpu_nodes.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        put(
            &gpu_nodes,
            json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": name}, "spec": {}}),
        )
        .await?;
        survey(&client, &name, gpus, &[]).await?;
        put(
            &Api::<GPUPool>::namespaced(client.clone(), &name),
            json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUPool", "metadata": {"name": "all", "namespace": name},
                "spec": {"nodeSelector": {"case": case}, "reserve": 0}}),
        )
        .await?;
        beat(&client, &name, gpus).await?;
        heard(&client, &name, Timestamp::now()).await?;
        let silent = Arc::new(AtomicBool::new(false));
        let heartbeat = tokio::spawn({
            let (client, name, silent) = (client.clone(), name.clone(), silent.clone());
            async move {
                loop {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    // A beat that fails is made up for by the next one.
                    let _ = beat(&client, &name, gpus).await;
                    if !silent.load(Ordering::Relaxed) {
                        let _ = heard(&client, &name, Timestamp::now()).await;
                    }
                }
            }
        });
        Ok(Self { name, homes, client, gpus, silent, heartbeat })
    }

    /// Changes what its owner says of its pool.
    pub async fn wants(&self, spec: serde_json::Value) -> Result<()> {
        let api = Api::<GPUPool>::namespaced(self.client.clone(), &self.name);
        api.patch("all", &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await?;
        Ok(())
    }

    /// Its pool's condition of that type: value and message.
    pub async fn pool_says(&self, type_: &str) -> Result<(String, String)> {
        let pool = Api::<GPUPool>::namespaced(self.client.clone(), &self.name).get("all").await?;
        let conditions = pool.status.unwrap_or_default().conditions;
        let said = conditions.into_iter().find(|condition| condition.type_ == type_);
        Ok(said.map(|condition| (condition.status, condition.message)).unwrap_or_default())
    }

    /// What its agent says of its first devices: the health of each, and the pod that holds it.
    pub async fn surveys(&self, devices: &[(serde_json::Value, Option<&Pod>)]) -> Result<()> {
        survey(&self.client, &self.name, self.gpus, devices).await
    }

    /// Its agent has not been heard for two minutes, and is not heard from now on.
    pub async fn silence(&self) -> Result<()> {
        self.silent.store(true, Ordering::Relaxed);
        // A beat that was on its way has come by then.
        tokio::time::sleep(Duration::from_secs(1)).await;
        heard(&self.client, &self.name, Timestamp::now() - k8s_openapi::jiff::SignedDuration::from_secs(120)).await
    }

    /// Its agent is heard again.
    pub async fn speak(&self) -> Result<()> {
        self.silent.store(false, Ordering::Relaxed);
        heard(&self.client, &self.name, Timestamp::now()).await
    }

    /// The reservations on its node.
    pub async fn record(&self) -> Result<Option<NodeReservations>> {
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &self.name);
        let Some(map) = api.get_opt(&names::reservations(&self.name)).await? else { return Ok(None) };
        let text = map.data.unwrap_or_default().remove("reservations.json").context("the record is empty")?;
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// Makes the record of its node unreadable.
    pub async fn break_record(&self) -> Result<()> {
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &self.name);
        let broken = Patch::Merge(json!({"data": {"reservations.json": "{"}}));
        api.patch(&names::reservations(&self.name), &PatchParams::default(), &broken).await?;
        Ok(())
    }

    /// The taints of its node, each as its key, its value and its effect.
    pub async fn taints(&self) -> Result<Vec<String>> {
        let node = Api::<Node>::all(self.client.clone()).get(&self.name).await?;
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let text = |taint: k8s_openapi::api::core::v1::Taint| {
            format!("{}={}:{}", taint.key, taint.value.unwrap_or_default(), taint.effect)
        };
        Ok(taints.into_iter().map(text).collect())
    }

    /// Somebody else taints its node, which has no other taint yet.
    pub async fn admin_taints(&self, key: &str) -> Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        let patch = json!({"spec": {"taints": [{"key": key, "effect": "PreferNoSchedule"}]}});
        nodes.patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// How many GPUs are reserved.
    pub async fn reserved(&self) -> Result<u32> {
        Ok(self.record().await?.map_or(0, |record| record.reserved()))
    }

    /// The Placements of all its homes.
    pub async fn placements(&self) -> Result<Vec<Placement>> {
        let mut all = Vec::new();
        for home in &self.homes {
            let api = Api::<Placement>::namespaced(self.client.clone(), &names::guest_namespace(home));
            all.extend(api.list(&ListParams::default()).await?.items);
        }
        Ok(all)
    }

    /// The pods of a Placement that are not on their way out.
    pub async fn pods(&self, placement: &Placement) -> Result<Vec<Pod>> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &placement.namespace().unwrap_or_default());
        let selector = format!("koinon.dev/placement={}", placement.name_any());
        let pods = api.list(&ListParams::default().labels(&selector)).await?.items;
        Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }
}

/// What a kubelet and an agent do: the node is Ready and has its GPUs, and the survey still holds.
async fn beat(client: &Client, name: &str, gpus: usize) -> Result<()> {
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    let nodes = Api::<Node>::all(client.clone());
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastHeartbeatTime": now,
        "lastTransitionTime": now});
    let amounts: BTreeMap<&str, String> =
        [("cpu", "8".to_owned()), ("memory", "32Gi".to_owned()), ("pods", "110".to_owned()), (GPU, gpus.to_string())]
            .into();
    let status = json!({"status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(&status)).await?;
    // Nobody takes this taint away where no node controller believes in the kubelet.
    let node = nodes.get(name).await?;
    let mut taints = node.spec.clone().and_then(|spec| spec.taints).unwrap_or_default();
    let all = taints.len();
    taints.retain(|taint| !taint.key.starts_with("node.kubernetes.io/"));
    if taints.len() < all {
        let taints = json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": taints}});
        nodes.patch(name, &PatchParams::default(), &Patch::Merge(&taints)).await?;
    }
    kill_overdue(client, name).await
}

/// The agent's heartbeat.
async fn heard(client: &Client, name: &str, at: Timestamp) -> Result<()> {
    let leases = Api::<Lease>::namespaced(client.clone(), name);
    let micro = at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": name},
        "spec": {"holderIdentity": "agent", "renewTime": micro}});
    leases.patch(name, &PatchParams::apply("agent").force(), &Patch::Apply(&lease)).await?;
    Ok(())
}

/// The agent's survey of `gpus` devices, of which the first are as they are told.
async fn survey(client: &Client, name: &str, gpus: usize, told: &[(serde_json::Value, Option<&Pod>)]) -> Result<()> {
    let sound = json!({"state": "Healthy"});
    let device = |index: usize| {
        let (health, pod) = told.get(index).cloned().unwrap_or((sound.clone(), None));
        let holders: Vec<_> = pod
            .iter()
            .map(|pod| json!({"namespace": pod.namespace().unwrap_or_default(), "name": pod.name_any()}))
            .collect();
        let state = if holders.is_empty() { "Free" } else { "Held" };
        json!({"uuid": format!("GPU-{name}-{index}"), "index": index, "product": "NVIDIA H100 80GB HBM3",
            "class": "h100-80", "memory": {"totalBytes": 85_520_809_984_i64}, "mig": {"mode": "Disabled"},
            "health": health, "allocation": {"state": state, "holders": holders}})
    };
    let devices: Vec<_> = (0..gpus).map(device).collect();
    let healthy = devices.iter().filter(|device| device["health"]["state"] == "Healthy").count();
    let status = json!({"status": {"installed": gpus, "healthy": healthy, "devices": devices}});
    let gpu_nodes = Api::<GPUNode>::all(client.clone());
    gpu_nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

/// Kills what was to end and has not within its grace, as a kubelet does.
async fn kill_overdue(client: &Client, node: &str) -> Result<()> {
    let pods = Api::<Pod>::all(client.clone());
    let now = k8s_openapi::jiff::Timestamp::now();
    for pod in pods.list(&ListParams::default().fields(&format!("spec.nodeName={node}"))).await?.items {
        let due = pod.metadata.deletion_timestamp.as_ref().is_some_and(|due| due.0 <= now);
        if due {
            let own = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
            own.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await?;
        }
    }
    Ok(())
}

/// Creates what the operator would have written before it died.
pub async fn create<K>(api: &Api<K>, object: &K) -> Result<()>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    api.create(&PostParams::default(), object)
        .await
        .map(drop)
        .with_context(|| format!("creating {}", object.name_any()))
}

/// Shared by the operators of one host.
pub type Shared = Arc<Host>;
