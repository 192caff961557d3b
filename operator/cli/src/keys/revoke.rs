//! `kubectl koinon keys revoke` and `co-sign`: the recovery keys take a governance key back.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use koinon_api::Statement as Resource;
use koinon_core::body::Body;
use koinon_core::body::keys::KeyRevocation;
use koinon_core::dsse::Signer as _;
use koinon_core::ids::{MemberId, PublicKey, Seq, UnixSeconds};
use koinon_core::policy::{Commons, KeyProblem, NotAnchored};
use koinon_core::statement::Statement;

use crate::access::Access;
use crate::ballot::complete_rules;
use crate::cluster::{Cluster, now, to_core};
use crate::confirm::confirm;
use crate::inputs::read_yaml;
use crate::keys::rotate::in_force;
use crate::moment::{Moment, here};
use crate::output::{Output, one_line};
use crate::prospect::word;
use crate::say;

/// Take a governance key back that is in wrong hands; signed by more than half of the recovery keys.
///
/// From its anchor on the key signs nothing. What it signed since --since is void in every ballot box that is not sealed yet;
/// what is decided stands. Then give the member another key: kubectl koinon keys rotate --recovery.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key, ed25519:….
    #[arg(long, value_name = "KEY")]
    key: PublicKey,
    /// Since when it was in wrong hands: a time such as 2026-11-20T08:00:00Z, or a position in the member's log.
    #[arg(long, value_name = "TIME|POSITION", value_parser = since)]
    since: Since,
    /// The recovery key files that sign; default: recovery.pem of the keys' directory.
    #[arg(long, value_name = "FILE")]
    recovery_key: Vec<PathBuf>,
    /// Sign without asking.
    #[arg(short = 'y', long)]
    yes: bool,
    /// Print the signed Statement instead of applying it, for others to add their signatures (kubectl koinon keys co-sign).
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

/// Add a recovery key's signature to the Statement in a file, in place, and apply nothing.
#[derive(Debug, clap::Args)]
pub struct CoSignArgs {
    /// What `keys revoke -o yaml` or `keys rotate --recovery -o yaml` printed.
    file: PathBuf,
    /// The recovery key file; default: recovery.pem of the keys' directory.
    #[arg(long, value_name = "FILE")]
    recovery_key: Vec<PathBuf>,
}

/// From where on something is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Position(Seq),
    Time(UnixSeconds),
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(position) = text.parse() {
        return Ok(Since::Position(Seq(position)));
    }
    let time: Timestamp =
        text.parse().map_err(|_| "write a time such as 2026-11-20T08:00:00Z, or a position".to_owned())?;
    Ok(Since::Time(UnixSeconds(time.as_second())))
}

impl Args {
    /// Signs, shows what it voids, and submits.
    ///
    /// # Errors
    /// Where a file or the cluster says no, with what to do.
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { key, since, recovery_key, yes, output } = self;
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let commons = cluster.commons(&membership).await?;
        let state = commons.state();
        complete_rules(state)?;
        let me = &membership.member;
        let log = state.member(me).with_context(|| format!("{me} is no member here"))?.member.keys.operator;
        let revocation = KeyRevocation { key, log, since_seq: position(&commons, &log, since) };
        let last = in_force(state, me)?.governance.iter().all(|known| *known == key);
        let shown = effect(&commons, me, &revocation, last, now());
        if output.is_some() {
            eprint!("{shown}")
        } else {
            print!("{shown}")
        }
        confirm("Take this key back?", yes)?;
        let signers = super::recovery_signers(access, &recovery_key)?;
        let statement = say::signed(&membership, Body::KeyRevocation(revocation), &signers.iter().collect::<Vec<_>>())?;
        match (state.may_anchor(me, &statement, now()), output) {
            (Err(NotAnchored::Keys(KeyProblem::NotAllowed)), Some(_)) => {
                eprintln!("more than half of the recovery keys must sign: kubectl koinon keys co-sign FILE");
            }
            _ => say::check(state, &membership, &statement)?,
        }
        if say::submit(&cluster, &statement, output).await? {
            println!(
                "{key} is taken back once the operator has anchored this: kubectl koinon explain statement/{}",
                statement.id()
            );
            if last {
                println!("{me} has no governance key then; give it one: kubectl koinon keys rotate --recovery");
            }
        }
        Ok(())
    }
}

/// The first position of `log` that is concerned.
fn position(commons: &Commons, log: &PublicKey, since: Since) -> Seq {
    match since {
        Since::Position(seq) => seq,
        Since::Time(at) => {
            let replica = commons.replica();
            let later = replica.all(log).filter(|entry| entry.statement.header().issued_at >= at);
            later.map(|entry| entry.seq()).min().unwrap_or_else(|| replica.next_seq(log))
        }
    }
}

/// What a revocation does, and to which votes.
fn effect(commons: &Commons, me: &MemberId, revocation: &KeyRevocation, last: bool, now: UnixSeconds) -> String {
    let KeyRevocation { key, log, since_seq } = revocation;
    let mut text = format!("takes back {key} of {me}\n");
    let first = commons.replica().all(log).find(|entry| entry.seq() == *since_seq);
    let at = first.map(|entry| format!(", of {}", Moment::new(entry.statement.header().issued_at, &here())));
    text.push_str(&format!("  since     position {since_seq} of log {log}{}\n", at.unwrap_or_default()));
    let state = commons.state();
    for proposal in state.proposals().values() {
        let by_key = |vote: &&koinon_core::policy::VoteRecord| {
            let signed =
                commons.replica().all(log).find_map(|entry| entry.statement.nested().filter(|n| n.id() == vote.id));
            let after = vote.anchor.log == *log && vote.anchor.seq >= *since_seq;
            vote.author == *me && after && signed.is_some_and(|signed| signed.header().key == *key)
        };
        for vote in proposal.votes.iter().filter(by_key) {
            let (title, choice) = (one_line(&proposal.proposal.title), word(vote.choice));
            let phase = state.phase(proposal, now);
            let fate = if proposal.certificates.is_empty() && !phase.is_final() {
                "void, if this is anchored before the box closes"
            } else {
                "stands: that vote is over"
            };
            text.push_str(&format!("  {choice} on {title:?} ({}): {fate}\n", phase.name()));
        }
    }
    if last {
        text.push_str("  it is the only governance key\n");
    }
    text
}

impl CoSignArgs {
    /// Signs in place.
    ///
    /// # Errors
    /// Where the file holds nothing that recovery keys sign, or the key is not one.
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { file, recovery_key } = self;
        for signer in super::recovery_signers(access, &recovery_key)? {
            add_signature(&file, &signer)?;
            println!("signed {} with {}", file.display(), signer.public_key());
        }
        println!(
            "once more than half of the recovery keys have signed, its member applies it: kubectl apply -f {}",
            file.display()
        );
        Ok(())
    }
}

fn add_signature(file: &Path, signer: &koinon_core::dsse::SeedSigner) -> anyhow::Result<()> {
    let mut resource: Resource = read_yaml(file, "a Statement that kubectl koinon keys printed")?;
    let mut envelope = to_core(&resource.spec.envelope)?;
    let statement = Statement::verify(envelope.clone()).with_context(|| format!("{} does not hold", file.display()))?;
    if !matches!(statement.body(), Body::KeyRevocation(_) | Body::KeyUpdate(_)) {
        bail!(
            "{} holds a {}: recovery keys sign revocations and updates of keys, and nothing else",
            file.display(),
            statement.kind()
        );
    }
    envelope.co_sign(signer).context("cannot sign the statement")?;
    resource.spec.envelope = crate::cluster::to_api(&envelope)?;
    let value = serde_json::to_value(&resource)?;
    std::fs::write(file, serde_yaml::to_string(&value)?).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
#[path = "revoke_tests.rs"]
mod tests;
