//! `kubectl koinon leave`: a member ends its own membership.

use koinon_core::body::{Body, Leave};
use koinon_core::ids::Prose;

use crate::access::Access;
use crate::cluster::Cluster;
use crate::output::Output;
use crate::say::say;

/// Leave the cooperative: guests and own placements drain, then the membership ends.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Why, for the others to read.
    #[arg(long)]
    reason: Option<Prose>,
    /// Do it; without this flag the command only says what would happen.
    #[arg(long)]
    yes: bool,
    /// Print the signed Statement instead of applying it.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { reason, yes, output } = self;
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        if !yes && output.is_none() {
            println!(
                "{} would leave {}: its guests drain, its placements elsewhere end, its vote is no longer counted in later versions.\n\
                 Run again with --yes to do it.",
                membership.member, membership.coop
            );
            return Ok(());
        }
        let commons = cluster.commons(&membership).await?;
        let body = Body::Leave(Leave { reason });
        if !say(access, &cluster, &membership, commons.state(), body, output).await? {
            return Ok(());
        }
        println!("{} asks to leave; watch: kubectl get kmem -n {} -w", membership.member, cluster.namespace);
        Ok(())
    }
}
