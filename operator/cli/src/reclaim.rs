//! `kubectl koinon drain` and `kubectl koinon reclaim`: the owner takes its GPUs back, and sees first who leaves.

mod prospect;
#[cfg(test)]
mod tests;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Node;
use koinon_api::conditions::{self, ConditionType};
use koinon_api::{GPUPool, Member, Placement};
use koinon_core::ids::{GpuClass, NodeName};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::access::Access;
use crate::cluster::{Cluster, now, readable};
use prospect::{House, Wanted, leaves, text};

/// Empty a node: nothing new comes there, and all that runs there for this cooperative leaves within the pool's notice.
///
/// Own jobs leave too; whatever else runs on the node is not touched, for which there is kubectl drain. The wish is written to
/// spec.drain.nodes of the node's pool, where it stands until it is taken back: where pools are kept in git, write it there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl koinon drain n1 --dry-run   who would leave, in which order, and by when
  kubectl koinon drain n1             tell them
  kubectl koinon drain n1 --undo      whoever has not left yet stays, and the node takes work again")]
pub struct DrainArgs {
    /// The node, as kubectl get gpunodes lists it.
    node: NodeName,
    /// The pool to write it to. Otherwise the oldest that selects the node.
    #[arg(long)]
    pool: Option<String>,
    /// Take the wish back.
    #[arg(long)]
    undo: bool,
    /// Only say what would happen.
    #[arg(long)]
    dry_run: bool,
}

/// Take GPUs of a class back for this cluster's own use, within the pool's notice.
///
/// Others may then hold only the rest of the class in this pool; what they hold above that leaves, and nothing beyond it is
/// offered. Free GPUs count first, so nobody leaves without need. Who leaves: homes that the rules no longer favour, then the
/// home that holds most, of it the youngest grant. The wish is written to spec.limits of the pool, where it stands until it is
/// taken back: where pools are kept in git, write it there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl koinon reclaim hall-1 --class h100-80 --gpus 4 --dry-run   who would leave, in which order, and by when
  kubectl koinon reclaim hall-1 --class h100-80 --gpus 4             have four h100-80 for yourself
  kubectl koinon reclaim hall-1 --class h100-80 --undo               whoever has not left yet stays")]
pub struct ReclaimArgs {
    /// The pool, as kubectl get gpupools lists it.
    pool: String,
    /// The class, as `h100-80`.
    #[arg(long)]
    class: GpuClass,
    /// How many GPUs of the class are to be your own, of all that work.
    #[arg(long, required_unless_present = "undo", conflicts_with = "undo")]
    gpus: Option<u32>,
    /// Take the wish back: others may hold all of the class again.
    #[arg(long)]
    undo: bool,
    /// Only say what would happen.
    #[arg(long)]
    dry_run: bool,
}

impl DrainArgs {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { node, pool, undo, dry_run } = self;
        let cluster = Cluster::connect(access).await?;
        let house = house(&cluster).await?;
        if undo {
            let naming = |one: &&GPUPool| one.spec.drain.nodes.iter().any(|name| name == node.as_str());
            let of_name = |one: &&GPUPool| pool.as_ref().is_none_or(|name| one.name_any() == *name);
            let naming: Vec<&GPUPool> = house.pools.iter().filter(naming).filter(of_name).collect();
            if naming.is_empty() {
                bail!("no pool empties {node}; see spec.drain in kubectl get gpupools -o yaml");
            }
            for pool in naming {
                let left: Vec<&String> = pool.spec.drain.nodes.iter().filter(|name| *name != node.as_str()).collect();
                write(&cluster, pool, json!({"drain": {"nodes": left}}), dry_run).await?;
                println!("{node} {} by pool {}", would(dry_run, "is no longer emptied"), pool.name_any());
            }
            return Ok(());
        }
        let chosen = house.pool_for(&node, pool.as_deref())?;
        let mut nodes = chosen.spec.drain.nodes.clone();
        if !nodes.iter().any(|name| name == node.as_str()) {
            nodes.push(node.to_string());
        }
        print!("{}", text(&house, &leaves(&house, &Wanted::Drain(node.clone())), now()));
        write(&cluster, chosen, json!({"drain": {"nodes": nodes}}), dry_run).await?;
        println!("{node} {} by pool {}", would(dry_run, "is emptied"), chosen.name_any());
        Ok(())
    }
}

impl ReclaimArgs {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { pool, class, gpus, undo, dry_run } = self;
        let cluster = Cluster::connect(access).await?;
        let house = house(&cluster).await?;
        let found = house.pools.iter().find(|one| one.name_any() == pool);
        let found = found.with_context(|| format!("there is no pool {pool}; see kubectl get gpupools"))?;
        let others = found.spec.limits.iter().filter(|limit| limit.class != class.as_str());
        let mut limits: Vec<Value> = others.map(|limit| json!(limit)).collect();
        let Some(own) = gpus.filter(|_| !undo) else {
            if limits.len() == found.spec.limits.len() {
                bail!("pool {pool} sets no limit on {class}; see spec.limits in kubectl get gpupools -o yaml");
            }
            write(&cluster, found, json!({"limits": limits}), dry_run).await?;
            println!("others {} all {class} of pool {pool}", would(dry_run, "may hold"));
            return Ok(());
        };
        let working = prospect::working(found, &class)?;
        let most = working.saturating_sub(own);
        limits.push(json!({"class": class, "gpus": most}));
        let wanted = Wanted::Limit { pool: pool.clone(), class: class.clone(), most };
        print!("{}", text(&house, &leaves(&house, &wanted), now()));
        write(&cluster, found, json!({"limits": limits}), dry_run).await?;
        println!("others {} {most} of {working} {class} of pool {pool}", would(dry_run, "may hold"));
        Ok(())
    }
}

/// The same words for what is done and for what would be.
fn would(dry_run: bool, what: &str) -> String {
    if dry_run { format!("(dry run) {what}") } else { what.to_owned() }
}

/// Writes a part of a pool's spec, if nobody has changed the pool since it was read.
async fn write(cluster: &Cluster, pool: &GPUPool, spec: Value, dry_run: bool) -> anyhow::Result<()> {
    let name = pool.name_any();
    let change = json!({"metadata": {"resourceVersion": pool.resource_version()}, "spec": spec});
    // A dry run is the API server's too: what it would refuse is refused now.
    let params = PatchParams { dry_run, ..PatchParams::default() };
    let done = cluster.api::<GPUPool>().patch(&name, &params, &Patch::Merge(change)).await;
    done.map(drop).with_context(|| format!("cannot change pool {name}; if somebody else just did, try again"))
}

/// Everything that decides who leaves.
async fn house(cluster: &Cluster) -> anyhow::Result<House> {
    let own =
        cluster.find_cooperative().await?.context("this cluster has no Cooperative; see kubectl koinon join --help")?;
    let members = cluster.list::<Member>("members").await?;
    let disfavoured = |member: &&Member| {
        let conditions = member.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let halted = conditions::find(conditions, ConditionType::MayWork).is_some_and(|may| may.status == "False");
        halted || member.spec.cordoned
    };
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let nodes = nodes.list(&ListParams::default()).await.context("cannot read the Nodes")?.items;
    let placements = readable::<Placement>(&Api::all(cluster.client.clone()), "Placements").await?;
    let me = own.spec.member.parse().context("reading spec.member of the Cooperative")?;
    Ok(House::new(
        me,
        cluster.list::<GPUPool>("GPUPools").await?,
        &nodes,
        placements,
        members.iter().filter(disfavoured).map(|member| member.name_any()).collect(),
    ))
}
