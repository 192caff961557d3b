//! `kubectl koinon proposal`: one proposal, its vote and what is still to come, from the cluster's own log.

pub mod hearing;
pub mod steps;
pub mod text;
pub mod thresholds;
pub mod view;

use anyhow::{Context as _, bail};
use koinon_api::names;
use koinon_core::policy::{Commons, ProposalState, State};
use koinon_core::statement::Statement;
use kube::ResourceExt as _;

use crate::access::Access;
use crate::cluster::{Cluster, now, to_core};
use crate::moment::here;
use crate::proposal::view::View;

/// Show one proposal: the count with the numbers that decide it, who has voted, what would still change the result,
/// which operators have sealed it, and what happens when.
///
/// All of it is computed here from the signed statements in this member's cluster; what the operator reports in
/// `status` is not asked. Until a box is sealed another member may hold votes that this one has not heard of.
/// Times are shown in this machine's time zone (TZ) and in UTC.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name or id, or the beginning of either; see kubectl koinon proposals.
    pub proposal: String,
    /// Print everything for programs instead.
    #[arg(short, long, value_enum)]
    pub output: Option<Format>,
}

/// How something is printed for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// As JSON.
    Json,
    /// As YAML.
    Yaml,
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let commons = cluster.commons(&membership).await?;
        print(&cluster, &commons, &self.proposal, self.output).await
    }
}

/// Prints the proposal that `wanted` names, or says why no log here holds it.
///
/// # Errors
/// Where none or several fit.
pub async fn print(cluster: &Cluster, commons: &Commons, wanted: &str, output: Option<Format>) -> anyhow::Result<()> {
    let state = commons.state();
    if let Some(proposal) = find(state, wanted)? {
        return show(commons, proposal, output);
    }
    // Its owner may have given it a name of its own.
    let resource = cluster.proposal(wanted).await?;
    let statement = resource
        .spec
        .envelope
        .as_ref()
        .map(|envelope| Statement::verify(to_core(envelope)?).map_err(anyhow::Error::new));
    match statement.transpose()?.and_then(|statement| state.proposals().get(&statement.id())) {
        Some(proposal) => show(commons, proposal, output),
        None => unanchored(&resource),
    }
}

fn show(commons: &Commons, proposal: &ProposalState, output: Option<Format>) -> anyhow::Result<()> {
    let now = now();
    let view = View::new(commons, proposal, now, &here());
    match output {
        None => print!("{}", text::text(&view, now)),
        Some(Format::Json) => println!("{}", serde_json::to_string_pretty(&view)?),
        Some(Format::Yaml) => print!("{}", serde_yaml::to_string(&serde_json::to_value(&view)?)?),
    }
    Ok(())
}

/// The one anchored proposal whose name or id begins with `wanted`.
///
/// # Errors
/// Where several do.
pub fn find<'s>(state: &'s State, wanted: &str) -> anyhow::Result<Option<&'s ProposalState>> {
    let fits = |proposal: &&ProposalState| {
        let id = proposal.id.to_string();
        names::proposal(&id).starts_with(wanted) || id.starts_with(wanted)
    };
    let fitting: Vec<&ProposalState> = state.proposals().values().filter(fits).collect();
    match fitting.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => {
            let names: Vec<String> = several.iter().map(|p| names::proposal(&p.id.to_string())).collect();
            bail!("{wanted} fits several proposals: {}", names.join(", "))
        }
    }
}

/// Says of a proposal that no log here holds what there is to say.
fn unanchored(found: &koinon_api::Proposal) -> anyhow::Result<()> {
    let name = found.name_any();
    if found.spec.envelope.is_none() {
        println!("{name} is a draft that nobody has signed: {}", found.spec.title);
        let action = serde_json::to_value(&found.spec.action).context("cannot print the action")?;
        print!("{}", serde_yaml::to_string(&action)?);
        println!("sign it with: kubectl koinon propose --from {name}");
    } else {
        println!("{name} is signed, and no operator's log here holds it yet: nobody can vote on it");
        println!("only its author's own operator makes it known; why it waits: kubectl describe kprop {name}");
    }
    Ok(())
}

#[cfg(test)]
#[path = "proposal/proposal_tests.rs"]
mod tests;
