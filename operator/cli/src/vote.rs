//! `kubectl koinon vote`: one member's signed choice.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use koinon_api::{Proposal, Vote, names, vote};
use koinon_core::body::{self, Body, proposal};
use koinon_core::dsse::SeedSigner;
use koinon_core::ids::{CoopId, MemberId, Prose, SiteName, StatementId};
use koinon_core::kind::Kind;
use koinon_core::policy::{NotAnchored, State, Verdict};
use koinon_core::statement::{Draft, Position, Statement};
use kube::ResourceExt as _;

use crate::access::Access;
use crate::cluster::{Cluster, Membership, now, time, to_api, to_core};
use crate::effect::{clock_warning, effect};
use crate::inputs::read_yaml;
use crate::keyfile;
use crate::output::{Output, print_yaml};

/// Vote on a proposal with this member's governance key.
///
/// Voting again before the close replaces the vote, unless the charter says closeWhenAllVoted. Says what the vote does to
/// the result; warns where this machine's clock, whose time the vote carries, differs from the cluster's. With --proposal-file no cluster is needed: sign on a machine of your
/// own and apply the YAML from git.
#[derive(Debug, clap::Args)]
// With --proposal-file the choice stands alone.
#[command(allow_missing_positional = true)]
pub struct Args {
    /// The proposal: its name, its id, or the beginning of either; see kubectl koinon proposals.
    #[arg(required_unless_present = "proposal_file")]
    proposal: Option<String>,
    /// The choice.
    #[arg(value_enum)]
    choice: ChoiceFlag,
    /// Why, for the others to read.
    #[arg(long)]
    reason: Option<Prose>,
    /// The ground of a veto; a veto needs one.
    #[arg(long, value_enum, required_if_eq("choice", "veto"))]
    ground: Option<GroundFlag>,
    /// Sign for the proposal in this file (`kubectl get kprop NAME -o yaml`) without talking to a cluster.
    #[arg(long, value_name = "FILE", requires = "member")]
    proposal_file: Option<PathBuf>,
    /// This member's id, for signing without a cluster.
    #[arg(long, value_name = "ID")]
    member: Option<MemberId>,
    /// This member's site, for signing without a cluster.
    #[arg(long, default_value = "main")]
    site: SiteName,
    /// The number of this vote among one's own on the proposal, for signing without a cluster; the highest counts.
    #[arg(long, default_value_t = 0)]
    vseq: u32,
    /// Print the signed Vote instead of applying it.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

/// How to vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ChoiceFlag {
    /// For it.
    Yes,
    /// Against it.
    No,
    /// Take part without a choice.
    Abstain,
    /// Against it, blocking where the class lets a share of vetoes block.
    Veto,
}

/// Why a veto is cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GroundFlag {
    /// It breaks the law.
    Legal,
    /// It endangers people or machines.
    Safety,
    /// It endangers the cooperative's means.
    Solvency,
    /// It breaks the charter.
    Charter,
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { proposal, choice, reason, ground, proposal_file, member, site, vseq, output } = self;
        let ballot = |proposal, vseq| proposal::Vote {
            proposal,
            choice: choice.into(),
            vseq,
            ground: ground.map(Into::into),
            reason: reason.clone(),
        };
        if let (Some(path), Some(member)) = (proposal_file, member) {
            let file: Proposal = read_yaml(&path, "a Proposal")?;
            let (coop, id) = identify(&file)?;
            let signer = keyfile::read(&access.governance_key()?)?;
            let resource = sign(&signer, coop, &member, &site, ballot(id, vseq), access.release())?;
            return print_yaml(&[resource]);
        }
        let wanted = proposal.context("name the proposal")?;
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let found = cluster.proposal(&wanted).await?;
        let (coop, id) = identify(&found)?;
        if coop != membership.coop {
            bail!("{} belongs to another cooperative, {coop}", found.name_any());
        }
        let vseq = next_vseq(&cluster, &id, membership.member.as_str()).await?;
        let signer = keyfile::read(&access.governance_key()?)?;
        let cast = ballot(id, vseq);
        let resource = sign(&signer, coop, &membership.member, &membership.site, cast.clone(), &cluster.namespace)?;
        let commons = cluster.commons(&membership).await?;
        check(commons.state(), &membership.member, &resource)?;
        if output == Some(Output::Yaml) {
            return print_yaml(&[resource]);
        }
        let tolerance = commons.state().parameters().clock_tolerance_seconds;
        if let Some(warning) = clock_warning(cluster.clock_ahead(&resource).await?, tolerance) {
            eprintln!("{warning}");
        }
        cluster.apply(&resource).await?;
        println!("{} votes {choice:?} on {} ({id})", membership.member, found.name_any());
        if let Some(effect) = effect(commons.state(), &membership.member, &cast, statement_of(&resource)?.id()) {
            println!("{effect}");
        }
        Ok(())
    }
}

/// Casts a vote right after a proposal was made.
pub async fn cast(
    cluster: &Cluster,
    signer: &SeedSigner,
    membership: &Membership,
    id: StatementId,
    choice: ChoiceFlag,
) -> anyhow::Result<()> {
    let ballot = proposal::Vote { proposal: id, choice: choice.into(), vseq: 0, ground: None, reason: None };
    let resource = sign(signer, membership.coop, &membership.member, &membership.site, ballot, &cluster.namespace)?;
    cluster.apply(&resource).await?;
    println!("{} votes {choice:?}", membership.member);
    Ok(())
}

/// Asks the rules that the operator will ask, so that a vote that would not count is never applied.
fn check(state: &State, me: &MemberId, vote: &Vote) -> anyhow::Result<()> {
    let statement = statement_of(vote)?;
    match state.may_anchor(me, &statement, now()) {
        Ok(()) => {}
        Err(NotAnchored::UnknownProposal) => {
            eprintln!("this cluster's log does not hold the proposal yet: the vote waits for it");
        }
        Err(NotAnchored::Vote(Verdict::TooEarly)) => {
            let opens = match statement.body() {
                Body::Vote(body) => state.proposals().get(&body.proposal).map(|known| known.proposal.opens_at),
                _ => None,
            };
            let opens = opens.map(time).unwrap_or_default();
            bail!("the vote opens at {opens}; one that is dated earlier would not count: vote then");
        }
        Err(why) => bail!("the operator would refuse the vote: {why}"),
    }
    Ok(())
}

/// What is signed in a Vote.
pub fn statement_of(vote: &Vote) -> anyhow::Result<Statement> {
    let envelope = vote.spec.envelope.as_ref().context("the vote is not signed")?;
    Statement::verify(to_core(envelope)?).context("the vote does not hold")
}

fn identify(resource: &Proposal) -> anyhow::Result<(CoopId, StatementId)> {
    let name = resource.name_any();
    let envelope = resource.spec.envelope.as_ref().with_context(|| {
        format!("{name} is a draft that nobody has signed: first run kubectl koinon propose --from {name}")
    })?;
    let statement = Statement::verify(to_core(envelope)?).with_context(|| format!("{name} does not hold"))?;
    if *statement.kind() != Kind::Proposal {
        bail!("the envelope of {name} holds a {}, not a proposal", statement.kind());
    }
    Ok((statement.coop(), statement.id()))
}

async fn next_vseq(cluster: &Cluster, proposal: &StatementId, member: &str) -> anyhow::Result<u32> {
    let votes = cluster.list::<Vote>("votes").await?;
    let mut next = 0;
    for vote in votes.iter().filter(|vote| vote.spec.proposal == proposal.to_string()) {
        let Some(envelope) = &vote.spec.envelope else { continue };
        let Ok(statement) = Statement::verify(to_core(envelope)?) else { continue };
        if let (Body::Vote(body), true) = (statement.body(), statement.author().as_str() == member) {
            next = next.max(body.vseq.saturating_add(1));
        }
    }
    Ok(next)
}

fn sign(
    signer: &SeedSigner,
    coop: CoopId,
    member: &MemberId,
    site: &SiteName,
    ballot: proposal::Vote,
    namespace: &str,
) -> anyhow::Result<Vote> {
    let typed = vote::VoteSpec {
        proposal: ballot.proposal.to_string(),
        choice: ballot.choice.into(),
        vseq: Some(ballot.vseq.into()),
        ground: ballot.ground.map(Into::into),
        reason: ballot.reason.as_ref().map(ToString::to_string),
        envelope: None,
    };
    let draft = Draft {
        coop: Some(coop),
        author: member.clone(),
        site: site.clone(),
        issued_at: now(),
        position: Position::Human,
        body: body::Body::Vote(ballot),
    };
    let statement = draft.sign(signer, &[]).context("cannot sign the vote")?;
    let spec = vote::VoteSpec { envelope: Some(to_api(statement.envelope())?), ..typed };
    let mut resource = Vote::new(&names::vote(&statement.id().to_string()), spec);
    resource.metadata.namespace = Some(namespace.to_owned());
    Ok(resource)
}

impl From<ChoiceFlag> for proposal::Choice {
    fn from(flag: ChoiceFlag) -> Self {
        match flag {
            ChoiceFlag::Yes => Self::Yes,
            ChoiceFlag::No => Self::No,
            ChoiceFlag::Abstain => Self::Abstain,
            ChoiceFlag::Veto => Self::Veto,
        }
    }
}

impl From<GroundFlag> for proposal::Ground {
    fn from(flag: GroundFlag) -> Self {
        match flag {
            GroundFlag::Legal => Self::Legal,
            GroundFlag::Safety => Self::Safety,
            GroundFlag::Solvency => Self::Solvency,
            GroundFlag::Charter => Self::Charter,
        }
    }
}

#[cfg(test)]
#[path = "vote_tests.rs"]
mod tests;
