//! `kubectl koinon cordon`: the local owner keeps new work away from a member.

use anyhow::Context as _;
use koinon_api::Member;
use koinon_core::ids::MemberId;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::access::Access;
use crate::cluster::Cluster;

/// Place nothing new on a member, and take nothing new from it.
///
/// A stance of this cluster's owner alone: no vote is needed, and what runs stays.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The member's id, as kubectl koinon members lists it.
    member: MemberId,
    /// Why, for the colleagues.
    #[arg(long)]
    reason: Option<String>,
}

/// Lift the cordon from a member.
#[derive(Debug, clap::Args)]
pub struct UncordonArgs {
    /// The member's id, as kubectl koinon members lists it.
    member: MemberId,
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        set(access, &self.member, true, self.reason).await
    }
}

impl UncordonArgs {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        set(access, &self.member, false, None).await
    }
}

async fn set(access: &Access, member: &MemberId, cordoned: bool, reason: Option<String>) -> anyhow::Result<()> {
    let cluster = Cluster::connect(access).await?;
    let patch = json!({"spec": {"cordoned": cordoned, "reason": reason}});
    cluster
        .api::<Member>()
        .patch(member.as_str(), &PatchParams::default(), &Patch::Merge(patch))
        .await
        .with_context(|| format!("cannot change member {member}; see kubectl koinon members"))?;
    println!("{member} {}", if cordoned { "cordoned" } else { "uncordoned" });
    Ok(())
}
