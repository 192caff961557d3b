//! `kubectl koinon reply` and `appeal`: whom a proposal is about is heard.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use koinon_core::body::proposal::Action;
use koinon_core::body::{Appeal, Body, Reply};
use koinon_core::ids::{MemberId, Prose, StatementId, UnixSeconds};
use koinon_core::policy::{Phase, State};

use crate::access::Access;
use crate::ballot::{complete_rules, signed};
use crate::cluster::{Cluster, now};
use crate::evidence;
use crate::output::Output;
use crate::say::say;

/// Say this member's side to a proposal that is about it; the others read it before they vote.
#[derive(Debug, clap::Args)]
pub struct ReplyArgs {
    /// Its name or id, or the beginning of either.
    proposal: String,
    #[command(flatten)]
    side: Side,
    /// Print the signed Statement instead of applying it.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

/// Ask for another vote on this member's expulsion, before it takes effect, on what was not known before.
///
/// One appeal counts. It keeps the expulsion from taking effect; any member then proposes the second vote, which decides.
#[derive(Debug, clap::Args)]
pub struct AppealArgs {
    /// Its name or id, or the beginning of either.
    proposal: String,
    /// Something that the proposal does not name; as often as there are pieces.
    #[arg(long, value_name = "ENTRY|FILE:TEXT", required = true, help = evidence::HELP)]
    evidence: Vec<String>,
    #[command(flatten)]
    side: Side,
    /// Print the signed Statement instead of applying it.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

/// What a member has to say.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Side {
    /// This member's side, in words.
    #[arg(long)]
    text: Option<Prose>,
    /// The same from a file; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    text_file: Option<PathBuf>,
}

impl Side {
    fn read(self) -> anyhow::Result<Option<Prose>> {
        match (self.text, self.text_file) {
            (Some(text), _) => Ok(Some(text)),
            (None, Some(file)) => Ok(Some(prose(&file)?)),
            (None, None) => Ok(None),
        }
    }
}

fn prose(file: &Path) -> anyhow::Result<Prose> {
    let text = crate::inputs::read_text(file)?;
    text.trim().parse().with_context(|| format!("{} cannot be signed as text", file.display()))
}

impl ReplyArgs {
    /// Signs and applies.
    ///
    /// # Errors
    /// Where nothing is said, or the proposal is not about this member.
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { proposal, side, output } = self;
        let text = side.read()?.context("say this member's side: --text TEXT or --text-file FILE")?;
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let id = signed(&cluster, &proposal).await?;
        let commons = cluster.commons(&membership).await?;
        let state = commons.state();
        complete_rules(state)?;
        may_reply(state, &membership.member, id)?;
        let body = Body::Reply(Reply { proposal: id, text });
        if say(access, &cluster, &membership, state, body, output).await? {
            println!("{} replies; the others read it with: kubectl koinon proposal {proposal}", membership.member);
        }
        Ok(())
    }
}

impl AppealArgs {
    /// Signs and applies.
    ///
    /// # Errors
    /// Where there is nothing to appeal against, or nothing new.
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { proposal, evidence, side, output } = self;
        let (evidence, text) = (evidence::read(&evidence)?, side.read()?.unwrap_or_default());
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let id = signed(&cluster, &proposal).await?;
        let commons = cluster.commons(&membership).await?;
        let state = commons.state();
        complete_rules(state)?;
        let appeal = Appeal { proposal: id, evidence, text };
        may_appeal(state, &membership.member, &appeal, now())?;
        if say(access, &cluster, &membership, state, Body::Appeal(appeal), output).await? {
            println!(
                "{me} appeals; once that is anchored the expulsion waits, and another member proposes the second vote:\n  \
                 kubectl koinon propose expel {me} --appeal sha256:…   (kubectl koinon proposal {proposal} shows it)",
                me = membership.member
            );
        }
        Ok(())
    }
}

fn may_reply(state: &State, me: &MemberId, id: StatementId) -> anyhow::Result<()> {
    let Some(on) = state.proposals().get(&id) else { return Ok(()) };
    match &on.proposal.subject {
        Some(subject) if subject == me => Ok(()),
        Some(subject) => bail!("it is about {subject}, which alone replies; vote on it instead"),
        None => bail!("it is about no member: give a reason with your vote instead (kubectl koinon vote --reason)"),
    }
}

/// What keeps an appeal from being heard, in words that name which of its conditions fails.
fn may_appeal(state: &State, me: &MemberId, appeal: &Appeal, now: UnixSeconds) -> anyhow::Result<()> {
    let Some(on) = state.proposals().get(&appeal.proposal) else { return Ok(()) };
    let Action::Expel(expel) = &on.proposal.action else {
        bail!("it is no expulsion: a member appeals against its own expulsion, and against nothing else");
    };
    if expel.member != *me {
        bail!("it is about {}, which alone appeals", expel.member);
    }
    if expel.appeal.is_some() {
        bail!("it is the second vote already: there is one appeal");
    }
    if appeal.evidence.iter().all(|piece| expel.evidence.contains(piece)) {
        bail!("the proposal names all of this evidence: an appeal needs something new");
    }
    match state.phase(on, now) {
        Phase::Queued { .. } => Ok(()),
        Phase::Appealed { by } => {
            bail!("this member has appealed already ({by}); another member proposes the second vote")
        }
        Phase::Pending { .. } | Phase::Open { .. } | Phase::Closing { .. } => {
            bail!("it has not passed: reply to it while it is voted on (kubectl koinon reply)")
        }
        other => bail!("it is {}: an appeal is made after it has passed and before it takes effect", other.name()),
    }
}

#[cfg(test)]
#[path = "hearing_tests.rs"]
mod tests;
