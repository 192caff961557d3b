//! `kubectl koinon withdraw`, `recuse` and `delegate`: what else people say about a vote.

use anyhow::{Context as _, bail};
use koinon_core::body::proposal::{Delegation, Recusal, Withdrawal};
use koinon_core::body::{Body, Class};
use koinon_core::ids::{MemberId, Seconds, StatementId};
use koinon_core::policy::State;

use crate::access::Access;
use crate::cluster::{Cluster, now, time};
use crate::output::Output;
use crate::say::say;

/// A day, in which the lengths of delegations are given.
const DAY: i64 = 86_400;

/// Take back a proposal of this member's own, before its vote has closed.
#[derive(Debug, clap::Args)]
pub struct Withdraw {
    /// Its name or id, or the beginning of either.
    proposal: String,
    /// Print the signed Statement instead of applying it.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

/// Declare an interest in a proposal: on it this member counts as abstaining, whatever it has voted.
#[derive(Debug, clap::Args)]
pub struct Recuse {
    /// Its name or id, or the beginning of either.
    proposal: String,
    /// Print the signed Statement instead of applying it.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

/// Let another member vote where this one does not vote itself. One hop: it passes nothing on.
#[derive(Debug, clap::Args)]
pub struct Delegate {
    /// Which member; leave it out with --end.
    #[arg(required_unless_present = "end")]
    to: Option<MemberId>,
    /// End an earlier delegation.
    #[arg(long, conflicts_with = "to")]
    end: bool,
    /// On which classes of proposals; default: all that may be delegated.
    #[arg(long = "class", value_parser = class)]
    classes: Vec<Class>,
    /// For how many days; a vote that closes later is not covered.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(i64).range(1..=365))]
    days: i64,
    /// Print the signed Statement instead of applying it.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

fn class(text: &str) -> Result<Class, String> {
    let found = Class::ALL.into_iter().find(|class| class.to_string().eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("must be one of {}", Class::ALL.map(|class| class.to_string()).join(", ")))
}

impl Withdraw {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { proposal, output } = self;
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let id = signed(&cluster, &proposal).await?;
        let commons = cluster.commons(&membership).await?;
        let state = commons.state();
        complete_rules(state)?;
        if let Some(known) = state.proposals().get(&id).filter(|known| known.author != membership.member) {
            bail!("{proposal} is {}'s: only its author takes it back; vote against it instead", known.author);
        }
        let body = Body::Withdrawal(Withdrawal { proposal: id });
        if say(access, &cluster, &membership, state, body, output).await? {
            println!("{} takes {proposal} back; it ends as Withdrawn once its box is sealed", membership.member);
        }
        Ok(())
    }
}

impl Recuse {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { proposal, output } = self;
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let id = signed(&cluster, &proposal).await?;
        let commons = cluster.commons(&membership).await?;
        let state = commons.state();
        complete_rules(state)?;
        let body = Body::Recusal(Recusal { proposal: id });
        if say(access, &cluster, &membership, state, body, output).await? {
            println!("{} abstains on {proposal}, whatever it has voted", membership.member);
        }
        Ok(())
    }
}

impl Delegate {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { to, end: _, classes, days, output } = self;
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let commons = cluster.commons(&membership).await?;
        let state = commons.state();
        complete_rules(state)?;
        if let Some(to) = to.as_ref().filter(|to| !state.active().any(|member| member.id == **to)) {
            bail!("{to} is no Active member: see kubectl koinon members");
        }
        let longest = state.parameters().deliberation.map_or(Seconds(0), |rules| rules.delegation_max_seconds);
        let length = Seconds(days.saturating_mul(DAY));
        if length > longest {
            bail!("the charter lets a delegation last {} days at most: give --days", longest.0 / DAY);
        }
        let may = |class: &Class| state.class(*class).is_some_and(|rules| rules.delegation);
        if let Some(class) = classes.iter().find(|class| !may(class)) {
            bail!("votes of class {class} may not be delegated: the charter wants everybody's own");
        }
        let classes = if classes.is_empty() {
            Class::ALL.into_iter().filter(may).collect()
        } else {
            classes.into_iter().collect()
        };
        let issued = now();
        let not_after = issued.plus(length);
        // Later ones count before earlier ones: the time orders those of one person.
        let vseq = u32::try_from(issued.0.rem_euclid(i64::from(u32::MAX))).unwrap_or(0);
        let body = Body::Delegation(Delegation { to: to.clone(), classes, vseq, not_after });
        if say(access, &cluster, &membership, state, body, output).await? {
            match to {
                Some(to) => {
                    println!("{to} votes for {} until {}, where it does not itself", membership.member, time(not_after))
                }
                None => println!("nobody votes for {} any more", membership.member),
            }
        }
        Ok(())
    }
}

/// The id of the proposal that `wanted` names.
///
/// # Errors
/// Where none or several fit, or it is a draft.
pub async fn signed(cluster: &Cluster, proposal: &str) -> anyhow::Result<StatementId> {
    let found = cluster.proposal(proposal).await?;
    let id = found
        .status
        .and_then(|status| status.id)
        .with_context(|| format!("{proposal} is a draft: nobody votes on it"))?;
    Ok(id.parse()?)
}

/// Whether the cooperative decides by rules that know such statements.
///
/// # Errors
/// Where it does not, with what raises them.
pub fn complete_rules(state: &State) -> anyhow::Result<()> {
    if state.rules() < 2 {
        bail!("the cooperative decides by rules 1, which know no such statement: kubectl koinon propose set-rules");
    }
    Ok(())
}
