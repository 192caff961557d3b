//! `kubectl koinon charter`: the numbers by which the cooperative decides.

use std::collections::BTreeMap;

use koinon_core::body::proposal::ChangeCharter;

use crate::access::Access;
use crate::cluster::Cluster;

/// Print the charter's periods, limits and classes that are in force, as `propose change-charter` takes them.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self {} = self;
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let commons = cluster.commons(&membership).await?;
        let state = commons.state();
        let classes: BTreeMap<_, _> = koinon_core::body::Class::ALL
            .into_iter()
            .filter_map(|class| Some((class, state.class(class)?.to_owned())))
            .collect();
        println!("# rules {}; version {}", state.rules(), state.head(koinon_core::body::Scope::Charter));
        print!("{}", serde_yaml::to_string(&ChangeCharter { parameters: *state.parameters(), classes })?);
        Ok(())
    }
}
