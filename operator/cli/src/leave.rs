//! `kubectl koinon leave`: a member ends its own membership.

use std::collections::BTreeMap;

use anyhow::Context as _;
use koinon_api::labels;
use koinon_core::body::{Body, Leave};
use koinon_core::ids::Prose;
use koinon_core::kind::Kind;
use koinon_core::statement::{Draft, Position};

use crate::access::Access;
use crate::cluster::{Cluster, now, to_api};
use crate::keyfile;
use crate::output::{Output, print_yaml};

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
        let signer = keyfile::read(&access.governance_key()?)?;
        let draft = Draft {
            coop: Some(membership.coop),
            author: membership.member.clone(),
            site: membership.site.clone(),
            issued_at: now(),
            position: Position::Human,
            body: Body::Leave(Leave { reason }),
        };
        let statement = draft.sign(&signer, &[]).context("cannot sign")?;
        let mut resource = koinon_api::Statement::new(
            &koinon_api::names::statement(&statement.id().to_string()),
            koinon_api::statement::StatementSpec { envelope: to_api(statement.envelope())? },
        );
        resource.metadata.namespace = Some(cluster.namespace.clone());
        resource.metadata.labels = Some(BTreeMap::from([(labels::KIND.to_owned(), Kind::Leave.as_str().to_owned())]));
        if output == Some(Output::Yaml) {
            return print_yaml(&[resource]);
        }
        cluster.apply(&resource).await?;
        println!("{} asks to leave; watch: kubectl get kmem -n {} -w", membership.member, cluster.namespace);
        Ok(())
    }
}
