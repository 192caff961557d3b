//! Filling a cluster: nodes, what their agents say, their heartbeats and the owner's own pods.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use super::member::AGENTS;
use super::nodes::{self, Said};
use crate::process::Daemon;
use crate::story::RELEASE_NAMESPACE;
use crate::wait::{Poll, wait_until};

/// Requests on their way at the same time.
const AT_ONCE: usize = 16;
/// How an agent signs what it writes.
const AGENT: &str = "koinon/agent";
/// The node on which the real agent runs once.
pub const TEMPLATE: &str = "template";

/// The kinds that are written.
#[derive(Clone)]
pub struct Cluster {
    /// Nodes.
    pub nodes: Api<DynamicObject>,
    /// GPUNodes.
    pub gpu_nodes: Api<DynamicObject>,
    /// The agents' Leases.
    pub leases: Api<DynamicObject>,
    /// The owner's pods.
    pub pods: Api<DynamicObject>,
    /// The owner's pools.
    pub pools: Api<DynamicObject>,
    namespaces: Api<DynamicObject>,
}

/// A kind of Koinon's.
pub fn koinon(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("koinon.dev", "v1alpha1", kind), plural)
}

fn core(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", kind), plural)
}

impl Cluster {
    /// Of the cluster that the client reaches.
    pub fn new(client: &kube::Client) -> Self {
        let lease =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("coordination.k8s.io", "v1", "Lease"), "leases");
        let all = |kind: &ApiResource| Api::all_with(client.clone(), kind);
        let of = |namespace: &str, kind: &ApiResource| Api::namespaced_with(client.clone(), namespace, kind);
        Self {
            nodes: all(&core("Node", "nodes")),
            gpu_nodes: all(&koinon("GPUNode", "gpunodes")),
            leases: of(AGENTS, &lease),
            pods: of(nodes::WORK, &core("Pod", "pods")),
            pools: of(RELEASE_NAMESPACE, &koinon("GPUPool", "gpupools")),
            namespaces: all(&core("Namespace", "namespaces")),
        }
    }

    /// Makes the namespace of the owner's pods, and the pool that shares all nodes.
    pub async fn prepare(&self) -> Result<()> {
        make(&self.namespaces, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": nodes::WORK}}))
            .await?;
        let pool = json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUPool", "metadata": {"name": "all"},
            "spec": {"reserve": 0, "reclaimNoticeSeconds": 600}});
        make(&self.pools, &pool).await
    }

    /// Makes so many nodes with all that belongs to them, and returns what their agents said.
    pub async fn fill(&self, template: &Value, count: usize, say: &(dyn Fn(&str) + Sync)) -> Result<Vec<Said>> {
        each(0..count, |node| async move { make(&self.nodes, &nodes::node(node)).await }).await?;
        say(&format!("{count} Nodes stand; their GPUNodes and heartbeats"));
        let said: Vec<Said> = (0..count).map(|node| Said::first(template, node)).collect();
        let all = &said;
        each(0..count, |node| async move {
            let said = &all[node];
            let name = nodes::name(said.node());
            // Applying is what agents do, and takes the API server more than twice as long: that is left for what is measured.
            let params = PostParams { field_manager: Some(AGENT.to_owned()), ..PostParams::default() };
            let gpu_node =
                json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": name}, "spec": {}});
            let mut made = self.gpu_nodes.create(&params, &serde_json::from_value(gpu_node)?).await?;
            made.data["status"] = said.status().clone();
            self.gpu_nodes.replace_status(&name, &params, &made).await?;
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 30, "renewTime": micro_now()}});
            self.leases.create(&params, &serde_json::from_value(lease)?).await?;
            Ok(())
        })
        .await?;
        say("the owner's own pods");
        let pods = (0..count).flat_map(nodes::pods);
        each(pods, |pod| async move { make(&self.pods, &pod).await }).await?;
        Ok(said)
    }

    /// Writes what an agent says, as agents do.
    pub async fn write(&self, said: &Said) -> Result<()> {
        let name = nodes::name(said.node());
        let patch = Patch::Apply(json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUNode",
            "metadata": {"name": name}, "status": said.status()}));
        let params = PatchParams::apply(AGENT).force();
        self.gpu_nodes
            .patch_status(&name, &params, &patch)
            .await
            .with_context(|| format!("writing the status of GPUNode {name}"))?;
        Ok(())
    }

    /// Renews an agent's heartbeat. Agents apply it; merging it is the same to whoever watches, and costs the API server of a
    /// small machine half as much.
    pub async fn beat(&self, node: usize) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"renewTime": micro_now()}}));
        self.leases.patch(&nodes::name(node), &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Makes the node on which the real agent runs once.
    pub async fn make_template(&self) -> Result<()> {
        make(&self.nodes, &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": TEMPLATE}})).await
    }

    /// What the real agent says of a node with eight GPUs of the fake library.
    pub async fn template(&self, agent: &mut Daemon) -> Result<Value> {
        let status = wait_until("the agent's first status", Duration::from_secs(60), || {
            let alive = agent.check();
            async move {
                if let Err(error) = alive {
                    return Poll::Never(format!("{error:#}"));
                }
                match self.gpu_nodes.get_opt(TEMPLATE).await {
                    Ok(Some(found)) => {
                        let status = &found.data["status"];
                        let complete = status["devices"].as_array().is_some_and(|devices| devices.len() == nodes::GPUS);
                        if complete { Poll::Ready(status.clone()) } else { Poll::not_yet(status) }
                    }
                    Ok(None) => Poll::not_yet("there is none"),
                    Err(error) => Poll::not_yet(error),
                }
            }
        })
        .await?;
        let healthy =
            status["devices"].as_array().into_iter().flatten().all(|device| device["health"]["state"] == "Healthy");
        ensure!(healthy, "the agent calls devices of a sound node sick: {status}");
        Ok(status)
    }

    /// Removes that node and what the agent wrote about it.
    pub async fn remove_template(&self) -> Result<()> {
        for api in [&self.gpu_nodes, &self.leases, &self.nodes] {
            api.delete(TEMPLATE, &DeleteParams::default()).await.context("removing the agent's node")?;
        }
        Ok(())
    }

    /// Waits until kwok has made every node ready and every pod run.
    pub async fn settled(&self, kwok: &mut Daemon, count: usize) -> Result<()> {
        // Two cores did 5,000 nodes with 10,000 pods in some minutes.
        let patience = Duration::from_secs(120) + Duration::from_millis(200) * u32::try_from(count)?;
        let waiting = ListParams::default().fields("status.phase!=Running").limit(1);
        wait_until("every pod to run", patience, || {
            let (alive, waiting) = (kwok.check(), &waiting);
            async move {
                if let Err(error) = alive {
                    return Poll::Never(format!("{error:#}"));
                }
                match self.pods.list_metadata(waiting).await {
                    Ok(list) => Poll::<()>::when(list.items.is_empty(), format!("{:?}", list.items.first())),
                    Err(error) => Poll::not_yet(error),
                }
            }
        })
        .await
    }
}

/// Creates an object; one that is there already is fine.
async fn make(api: &Api<DynamicObject>, object: &Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("creating {}", object.metadata.name.unwrap_or_default())),
    }
}

/// Does something with each, some at the same time.
pub async fn each<T, F, Fut>(all: impl IntoIterator<Item = T>, work: F) -> Result<()>
where
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    stream::iter(all).map(|one| Ok(work(one))).try_buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// Now, as a Lease tells it.
fn micro_now() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Now, as a status tells it.
pub fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
