//! `kubectl koinon charter`: the numbers by which the cooperative decides.

use koinon_core::body::proposal::ChangeCharter;
use koinon_core::body::{Class, Scope};
use koinon_core::policy::State;

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
        println!("# rules {}; version {}", state.rules(), state.head(Scope::Charter));
        print!("{}", serde_yaml::to_string(&in_force(state))?);
        Ok(())
    }
}

/// The numbers in force.
pub fn in_force(state: &State) -> ChangeCharter {
    let classes = Class::ALL.into_iter().filter_map(|class| Some((class, *state.class(class)?))).collect();
    ChangeCharter { parameters: *state.parameters(), classes }
}
