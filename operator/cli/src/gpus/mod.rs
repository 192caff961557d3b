//! `kubectl koinon gpus`: every device of this cluster, who holds it, how it does, and what keeps it from being shared.

mod breaker;
mod clear;
mod obstacles;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use koinon_api::gpu_node::Device;
use koinon_api::{GPUNode, GPUOffer, GPUPool, labels};
use koinon_core::ids::{MemberId, UnixSeconds};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use serde::Serialize;

use crate::access::Access;
use crate::cluster::{Cluster, now, readable};
use obstacles::{Obstacle, Site};

/// Show every GPU: its state and why, who holds it and since when, and what would make it shareable.
///
/// Without --member these are the devices of this cluster, as its agents read them through NVML. Of other members only what
/// they offer is known, by class: see --member, and kubectl koinon offers.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  kubectl koinon gpus                       every device of this cluster
  kubectl koinon gpus n1                    those of one node
  kubectl koinon gpus -o wide               with their names, drivers, errors and what to do
  kubectl koinon gpus --why                 only those that are not shared, with everything that keeps them from it
  kubectl koinon gpus --why GPU-5ab1c3e2    the same of one device, by the beginning of its name
  kubectl koinon gpus --member cork         what another member offers, and how old that is
  kubectl koinon gpus clear n1/GPU-5ab1c3e2 --reason 'passed dcgmi diag -r 3'"
)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Only devices of this node, or whose UUID begins so.
    of: Option<String>,
    /// What this member offers, instead of the devices of this cluster.
    #[arg(long, conflicts_with_all = ["of", "why"])]
    member: Option<MemberId>,
    /// Everything that keeps each device from being shared, with the remedy.
    #[arg(long)]
    why: bool,
    /// How to print it.
    #[arg(short, long, value_enum)]
    output: Option<Format>,
    /// The namespace of the agents, where their heartbeats are.
    #[arg(long, default_value = labels::AGENT_NAMESPACE)]
    agent_namespace: String,
}

/// What is done about them.
#[derive(Debug, clap::Subcommand)]
enum Action {
    ResetBreaker(breaker::ResetBreaker),
    Clear(clear::Clear),
}

/// How to print devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A table with everything that fits on a line.
    Wide,
    /// For programs.
    Json,
    /// The same, for people who read it.
    Yaml,
}

/// One device, as it is printed for programs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    /// Its node.
    node: String,
    /// The pool that shares it.
    pool: Option<String>,
    /// The device, as its agent describes it.
    device: Device,
    /// The driver of its node.
    driver: Option<String>,
    /// Limits of the health rules that its owner has set, by which it is judged.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    limits: BTreeMap<String, i64>,
    /// The voted table of XIDs by which it is judged, beside the built-in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    xid_table: Option<String>,
    /// Whether others could be given it now.
    shared: bool,
    /// Everything that keeps it from that.
    obstacles: Vec<Obstacle>,
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        match self.action {
            Some(Action::ResetBreaker(reset)) => return reset.run(access).await,
            Some(Action::Clear(clear)) => return clear.run(access).await,
            None => {}
        }
        let cluster = Cluster::connect(access).await?;
        if let Some(member) = &self.member {
            return offer(&cluster, member, self.output).await;
        }
        let site = self.site(&cluster).await?;
        let of = self.of.as_deref();
        let rows: Vec<Row> = obstacles::rows(&site).into_iter().filter(|row| matches(row, of)).collect();
        if rows.is_empty() {
            let what = of.map_or_else(
                || "no agent has reported a GPU".to_owned(),
                |of| format!("no node or GPU is called {of}"),
            );
            anyhow::bail!("{what}; see kubectl get gpunodes, and kubectl koinon doctor");
        }
        match self.output {
            Some(Format::Json) => {
                println!("{}", serde_json::to_string_pretty(&rows).context("cannot print the devices")?)
            }
            // By way of JSON, so that both say the same.
            Some(Format::Yaml) => {
                let value = serde_json::to_value(&rows).context("cannot print the devices")?;
                print!("{}", serde_yaml::to_string(&value).context("cannot print the devices")?);
            }
            _ if self.why => print!("{}", text::why(&rows, site.now)),
            Some(Format::Wide) => print!("{}", text::wide(&rows, site.now)),
            None => print!("{}", text::table(&rows, site.now)),
        }
        Ok(())
    }

    async fn site(&self, cluster: &Cluster) -> anyhow::Result<Site> {
        let gpu_nodes = readable::<GPUNode>(&Api::all(cluster.client.clone()), "GPUNodes").await?;
        let nodes: Api<Node> = Api::all(cluster.client.clone());
        let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), &self.agent_namespace);
        let nodes = nodes.list(&ListParams::default()).await.context("cannot read the Nodes")?.items;
        let leases = leases
            .list(&ListParams::default())
            .await
            .with_context(|| format!("cannot read the agents' heartbeats in namespace {}", self.agent_namespace))?;
        let pools = cluster.list::<GPUPool>("GPUPools").await?;
        Ok(Site::new(gpu_nodes, nodes, &leases.items, pools, now()))
    }
}

fn matches(row: &Row, of: Option<&str>) -> bool {
    of.is_none_or(|of| row.node == of || row.device.uuid.starts_with(of))
}

async fn offer(cluster: &Cluster, member: &MemberId, output: Option<Format>) -> anyhow::Result<()> {
    let offers = cluster.list::<GPUOffer>("offers").await?;
    let offer = offers
        .iter()
        .find(|offer| offer.name_any() == member.as_str())
        .with_context(|| format!("{member} has offered nothing that was heard here; see kubectl koinon members"))?;
    match output {
        Some(Format::Json) => println!("{}", serde_json::to_string_pretty(offer).context("cannot print the offer")?),
        Some(Format::Yaml) => {
            let value = serde_json::to_value(offer).context("cannot print the offer")?;
            print!("{}", serde_yaml::to_string(&value).context("cannot print the offer")?);
        }
        Some(Format::Wide) | None => print!("{}", text::offer(member, offer, now())),
    }
    Ok(())
}

/// How long ago something was, by this machine's clock.
fn ago(now: UnixSeconds, then: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>) -> Option<i64> {
    then.map(|then| now.0.saturating_sub(koinon_api::time::to_unix(then)))
}
