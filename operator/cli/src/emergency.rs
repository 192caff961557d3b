//! `kubectl koinon emergency`, `cosign` and `emergencies`: what a few members stop at once, for a short time.

use anyhow::bail;
use clap::{Subcommand, ValueEnum};
use jiff::tz::TimeZone;
use koinon_core::body::emergency::{Cause, CoSignature, EmergencyOrder, Stop};
use koinon_core::body::{Body, Scope};
use koinon_core::ids::{ManifestDigest, MemberId, Prose, PublicKey, UnixSeconds};
use koinon_core::policy::{Commons, EmergencyState, State, co_signers};

use crate::access::Access;
use crate::ballot::complete_rules;
use crate::cluster::{Cluster, now};
use crate::confirm::confirm;
use crate::moment::{Moment, here};
use crate::output::{Output, one_line, print_table};
use crate::proposal::text::short;
use crate::prospect::listed;
use crate::say::say;
use crate::utterance;

/// Stop something at once, for a short time; it takes effect when enough members have co-signed, without a vote.
///
/// An order stops new work and nothing else: no votes, no keys, no credits. It lapses by itself, and the same cannot be
/// ordered again soon for the same cause; to stop something for good, propose it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    stop: StopCommand,
}

#[derive(Debug, Subcommand)]
enum StopCommand {
    /// Stop new work of and for a member.
    StopMember {
        /// Its id, as `kubectl koinon members` lists it.
        member: MemberId,
        #[command(flatten)]
        case: Case,
    },
    /// Stop new copies of a model.
    StopRelease {
        /// Its identity, sha256:…, as `kubectl get modelreleases -o yaml` shows it.
        manifest_digest: ManifestDigest,
        #[command(flatten)]
        case: Case,
    },
    /// Stop work over connections that a key identifies; what it signs in its log is not touched.
    BlockKey {
        /// The key, ed25519:….
        key: PublicKey,
        #[command(flatten)]
        case: Case,
    },
}

/// Why something is stopped.
#[derive(Debug, clap::Args)]
struct Case {
    /// Why.
    #[arg(long, value_enum)]
    cause: CauseFlag,
    /// The case for it, for the others to read.
    #[arg(long, default_value = "")]
    text: Prose,
    /// Show what it would stop and who must sign; sign and apply nothing.
    #[arg(long, conflicts_with = "output")]
    dry_run: bool,
    /// Sign without asking.
    #[arg(short = 'y', long)]
    yes: bool,
    /// Print the signed Statement instead of applying it.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

/// Why something is stopped; a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CauseFlag {
    /// A key is in wrong hands.
    KeyCompromise,
    /// People or machines are in danger.
    Safety,
    /// What was reported or delivered is not what it was said to be.
    Fraud,
    /// The law, or an authority.
    Legal,
}

impl From<CauseFlag> for Cause {
    fn from(flag: CauseFlag) -> Self {
        match flag {
            CauseFlag::KeyCompromise => Self::KeyCompromise,
            CauseFlag::Safety => Self::Safety,
            CauseFlag::Fraud => Self::Fraud,
            CauseFlag::Legal => Self::Legal,
        }
    }
}

/// Sign another member's emergency order; see kubectl koinon emergencies.
#[derive(Debug, clap::Args)]
pub struct CoSignArgs {
    /// Its id, or the beginning of it.
    order: String,
    /// Sign without asking.
    #[arg(short = 'y', long)]
    yes: bool,
    /// Print the signed Statement instead of applying it.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

/// List the emergency orders: what each stops, who has signed, how many more must, and when it lapses.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Show also those that have lapsed.
    #[arg(long)]
    all: bool,
}

impl Args {
    /// Shows, asks, signs and applies.
    ///
    /// # Errors
    /// Where it would have no effect, with why.
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let (stop, case) = match self.stop {
            StopCommand::StopMember { member, case } => (Stop::Member(member), case),
            StopCommand::StopRelease { manifest_digest, case } => (Stop::Release(manifest_digest), case),
            StopCommand::BlockKey { key, case } => (Stop::Key(key), case),
        };
        let Case { cause, text, dry_run, yes, output } = case;
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let commons = cluster.commons(&membership).await?;
        let state = commons.state();
        complete_rules(state)?;
        let order = order(state, stop, cause.into(), text)?;
        let shown = before_signing(state, &order, now(), &here());
        if output.is_some() {
            eprint!("{shown}")
        } else {
            print!("{shown}")
        }
        if dry_run {
            return Ok(());
        }
        confirm("Order this?", yes)?;
        let body = Body::EmergencyOrder(Box::new(order));
        if say(access, &cluster, &membership, state, body, output).await? {
            println!(
                "ordered; the others find it with kubectl koinon emergencies, and sign it with kubectl koinon cosign"
            );
        }
        Ok(())
    }
}

impl CoSignArgs {
    /// Shows, asks, signs and applies.
    ///
    /// # Errors
    /// Where no order fits, or the signature would not count.
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { order, yes, output } = self;
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let commons = cluster.commons(&membership).await?;
        let state = commons.state();
        let found = find(state, &order)?;
        let shown = told(&commons, found, now(), &here());
        if output.is_some() {
            eprint!("{shown}")
        } else {
            print!("{shown}")
        }
        if found.signed.contains(&membership.member) {
            println!("{} has signed it already", membership.member);
            return Ok(());
        }
        confirm("Stand behind this order?", yes)?;
        let body = Body::CoSignature(CoSignature { order: found.id });
        if say(access, &cluster, &membership, state, body, output).await? {
            println!("{} signs; see kubectl koinon emergencies", membership.member);
        }
        Ok(())
    }
}

impl ListArgs {
    /// Prints the list.
    ///
    /// # Errors
    /// Where the cluster does not answer.
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let commons = cluster.commons(&membership).await?;
        let (now, zone) = (now(), here());
        let rows = rows(commons.state(), self.all, now, &zone);
        if rows.is_empty() {
            println!(
                "no emergency order {}",
                if self.all { "was ever given" } else { "holds or waits for signatures" }
            );
            return Ok(());
        }
        print_table(&["ORDER", "STOPS", "CAUSE", "BY", "SIGNED", "STATE", "LAPSES"], &rows);
        Ok(())
    }
}

/// The order as the newest versions have it.
fn order(state: &State, stop: Stop, cause: Cause, text: Prose) -> anyhow::Result<EmergencyOrder> {
    match &stop {
        Stop::Member(member) if state.member(member).is_none_or(|known| known.standing.is_gone()) => {
            bail!("{member} is no member: see kubectl koinon members")
        }
        Stop::Release(digest) if state.release(digest).is_none() => {
            bail!("{digest} is no model that is approved: see kubectl get modelreleases")
        }
        Stop::Key(key) if state.key_owner(key).is_none() => bail!("{key} is no member's key: nothing is to be blocked"),
        _ => {}
    }
    let (membership, charter) = (state.head(Scope::Membership), state.head(Scope::Charter));
    Ok(EmergencyOrder { stop, cause, membership, charter, text })
}

/// What is shown before an order is signed.
fn before_signing(state: &State, order: &EmergencyOrder, now: UnixSeconds, zone: &TimeZone) -> String {
    let mut text = format!("Emergency order: {}\n", stops(&order.stop));
    text.push_str(&format!("  cause    {}\n", cause(order.cause)));
    for paragraph in order.text.as_str().lines() {
        text.push_str(&format!("  | {paragraph}\n"));
    }
    let owners = state.membership().map_or(0, |membership| membership.electors([]).len());
    text.push_str(&format!("  needs    {} of {owners} owners, this one included; no vote\n", co_signers(owners)));
    if let Some(rules) = state.parameters().deliberation {
        let (until, again) = (rules.members.emergency_seconds, rules.members.emergency_again_seconds);
        text.push_str(&format!("  lapses   {}, if it is signed now\n", Moment::new(now.plus(until), zone)));
        text.push_str(&format!("  again    for this cause not before {}\n", Moment::new(now.plus(again), zone)));
    }
    text
}

/// What an order stops, in words.
pub fn stops(stop: &Stop) -> String {
    match stop {
        Stop::Member(member) => format!("no new work of or for {member}"),
        Stop::Release(digest) => format!("no new copies of model {digest}"),
        Stop::Key(key) => format!("no work over connections of key {key}"),
    }
}

fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::KeyCompromise => "key compromise",
        Cause::Safety => "safety",
        Cause::Fraud => "fraud",
        Cause::Legal => "legal",
    }
}

/// The one order whose id begins with `wanted`.
fn find<'a>(state: &'a State, wanted: &str) -> anyhow::Result<&'a EmergencyState> {
    let fitting: Vec<&EmergencyState> =
        state.emergencies().values().filter(|order| utterance::named(order.id, wanted)).collect();
    match fitting.as_slice() {
        [one] => Ok(one),
        [] => bail!("no emergency order {wanted} in any log here: see kubectl koinon emergencies --all"),
        several => {
            let ids: Vec<String> = several.iter().map(|order| order.id.to_string()).collect();
            bail!("{wanted} fits several orders: {}", ids.join(", "))
        }
    }
}

/// Where an order stands.
fn standing(order: &EmergencyState, now: UnixSeconds) -> String {
    match order.barred_by {
        Some(by) => format!("barred by {}", short(&by.to_string())),
        None if now >= order.until && order.takes_effect() => "lapsed".to_owned(),
        None if now >= order.until => "lapsed unsigned".to_owned(),
        None if order.takes_effect() => "in effect".to_owned(),
        None => format!("waits for {} more", order.needed.saturating_sub(order.owners)),
    }
}

fn rows(state: &State, lapsed: bool, now: UnixSeconds, zone: &TimeZone) -> Vec<Vec<String>> {
    let mut orders: Vec<&EmergencyState> =
        state.emergencies().values().filter(|order| lapsed || now < order.until).collect();
    orders.sort_by_key(|order| (order.issued_at, order.id));
    let row = |order: &&EmergencyState| {
        let until = Moment::new(order.until, zone);
        vec![
            short(&order.id.to_string()),
            stops(&order.stop),
            cause(order.cause).to_owned(),
            order.author.to_string(),
            format!("{}/{}: {}", order.owners, order.needed, names(order)),
            standing(order, now),
            format!("{until}, {}", until.distance(now)),
        ]
    };
    orders.iter().map(row).collect()
}

fn names(order: &EmergencyState) -> String {
    listed(&order.signed.iter().map(MemberId::as_str).collect::<Vec<_>>(), "and")
}

/// One order as people read it before they sign it.
fn told(commons: &Commons, order: &EmergencyState, now: UnixSeconds, zone: &TimeZone) -> String {
    let until = Moment::new(order.until, zone);
    let mut text = format!("Emergency order of {}: {}\n", order.author, stops(&order.stop));
    text.push_str(&format!("  id       {}\n  cause    {}\n", order.id, cause(order.cause)));
    let said = utterance::all(commons).into_iter().find(|one| one.said.id() == order.id);
    if let Some(Body::EmergencyOrder(body)) = said.map(|one| one.said.body()) {
        for paragraph in body.text.as_str().lines() {
            text.push_str(&format!("  | {}\n", one_line(paragraph)));
        }
    }
    text.push_str(&format!("  signed   {} of {} owners: {}\n", order.owners, order.needed, names(order)));
    text.push_str(&format!("  state    {}\n  lapses   {until}, {}\n", standing(order, now), until.distance(now)));
    text
}

#[cfg(test)]
#[path = "emergency_tests.rs"]
mod tests;
