//! The changes to single members that a subcommand of `propose` can name.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use koinon_core::body::proposal::Expel;
use koinon_core::body::standing::{Confirm, LiftQuarantine, MarkDormant, Reactivate, Reinstate, ResetKeys, Suspend};
use koinon_core::body::{Action, EvidenceRef};
use koinon_core::ids::{Digest, MemberId, StatementId};
use koinon_core::policy::{MemberState, ProposalState, State};

use crate::evidence;
use crate::inputs::read_yaml;

#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// Stop new work of and for a member until another vote; it goes on speaking, voting and sealing.
    ///
    /// What runs is drained. To stop it at once, for a short time: kubectl koinon emergency stop-member.
    Suspend {
        /// Its id, as `kubectl koinon members` lists it.
        member: MemberId,
    },
    /// Let a suspended member work again.
    Reinstate {
        /// Its id, as `kubectl koinon members` lists it.
        member: MemberId,
    },
    /// Expel a member for cause. It is told, may reply, and may appeal before it takes effect.
    ///
    /// Example: propose expel cork --evidence 'meters.csv:what the meters showed in May'
    Expel {
        /// Its id, as `kubectl koinon members` lists it.
        member: MemberId,
        /// What for; as often as there are pieces.
        #[arg(long, value_name = "ENTRY|FILE:TEXT", help = evidence::HELP)]
        evidence: Vec<String>,
        /// The second vote, on this appeal; its id or the beginning of it, as `kubectl koinon proposal` shows it.
        #[arg(long, value_name = "ID")]
        appeal: Option<String>,
    },
    /// Count a new member from now on: it votes and seals. Its vote opens when the probation ends.
    Confirm {
        /// Its id, as `kubectl koinon members` lists it.
        member: MemberId,
    },
    /// Count a member no more whose log has long been silent, so that the others can decide without it.
    MarkDormant {
        /// Its id, as `kubectl koinon members` lists it.
        member: MemberId,
    },
    /// Count a dormant member again, which has spoken since.
    Reactivate {
        /// Its id, as `kubectl koinon members` lists it.
        member: MemberId,
    },
    /// Let a member work again although there are proofs against its operator.
    LiftQuarantine {
        /// Its id, as `kubectl koinon members` lists it.
        member: MemberId,
        /// A proof that was weighed, or the beginning of its name; default: all that there are.
        #[arg(long, value_name = "DIGEST")]
        proof: Vec<String>,
    },
    /// Give a member that lost its keys others.
    ///
    /// There: kubectl koinon keys new > cork-keys.yaml. At another member: kubectl koinon propose --out reset.yaml reset-keys
    /// cork cork-keys.yaml. There again: kubectl koinon propose --co-sign reset.yaml, which proves that it holds them. Back at
    /// the author: kubectl koinon propose --signed reset.yaml.
    ResetKeys {
        /// Its id, as `kubectl koinon members` lists it.
        member: MemberId,
        /// All its keys from then on, as `kubectl koinon keys new` prints them.
        file: PathBuf,
    },
}

impl MemberCommand {
    /// What it proposes to the cooperative as `state` has it.
    ///
    /// # Errors
    /// Where it names nobody, nothing, or a file that cannot be read.
    pub fn action(self, state: &State) -> anyhow::Result<Action> {
        known(state, self.member())?;
        Ok(match self {
            Self::Suspend { member } => Action::Suspend(Suspend { member }),
            Self::Reinstate { member } => Action::Reinstate(Reinstate { member }),
            Self::Expel { member, evidence, appeal } => {
                let evidence = evidence::read(&evidence)?;
                Action::Expel(expel(state, member, evidence, appeal.as_deref())?)
            }
            Self::Confirm { member } => Action::Confirm(Confirm { member }),
            Self::MarkDormant { member } => Action::MarkDormant(MarkDormant { member }),
            Self::Reactivate { member } => Action::Reactivate(Reactivate { member }),
            Self::LiftQuarantine { member, proof } => {
                let proofs = proofs(known(state, &member)?, &proof)?;
                Action::LiftQuarantine(LiftQuarantine { member, proofs })
            }
            Self::ResetKeys { member, file } => {
                let keys = read_yaml(&file, "the keys that kubectl koinon keys new prints")?;
                Action::ResetKeys(ResetKeys { member, keys })
            }
        })
    }

    fn member(&self) -> &MemberId {
        match self {
            Self::Suspend { member }
            | Self::Reinstate { member }
            | Self::Expel { member, .. }
            | Self::Confirm { member }
            | Self::MarkDormant { member }
            | Self::Reactivate { member }
            | Self::LiftQuarantine { member, .. }
            | Self::ResetKeys { member, .. } => member,
        }
    }
}

/// The member of that id.
fn known<'a>(state: &'a State, member: &MemberId) -> anyhow::Result<&'a MemberState> {
    match state.member(member) {
        Some(known) if !known.standing.is_gone() => Ok(known),
        Some(_) => bail!("{member} is no member any more: see kubectl koinon members"),
        None => bail!("{member} is no member: see kubectl koinon members"),
    }
}

fn expel(state: &State, member: MemberId, evidence: Vec<EvidenceRef>, appeal: Option<&str>) -> anyhow::Result<Expel> {
    let Some(wanted) = appeal else {
        if evidence.is_empty() {
            bail!("say what it is for, with --evidence: {}", evidence::HELP);
        }
        return Ok(Expel { member, evidence, appeal: None });
    };
    let (appeal, first) = appealed(state, &member, wanted)?;
    // The second vote is about the same case unless somebody adds to it.
    let before = match (&first.proposal.action, evidence.is_empty()) {
        (Action::Expel(expel), true) => expel.evidence.clone(),
        _ => evidence,
    };
    Ok(Expel { member, evidence: before, appeal: Some(appeal) })
}

/// The one appeal of `member` that `wanted` begins, with what it is against.
fn appealed<'a>(state: &'a State, member: &MemberId, wanted: &str) -> anyhow::Result<(StatementId, &'a ProposalState)> {
    let against = |p: &&ProposalState| p.proposal.subject.as_ref() == Some(member);
    let all = state.proposals().values().filter(against).filter_map(|p| Some((p.appealed_by?, p)));
    let fitting: Vec<_> = all.filter(|(appeal, _)| appeal.to_string().starts_with(wanted)).collect();
    match fitting.as_slice() {
        [one] => Ok(*one),
        [] => bail!("{member} has made no appeal {wanted} that counts: see kubectl koinon proposal"),
        _ => bail!("{wanted} fits several appeals of {member}: give more of it"),
    }
}

fn proofs(member: &MemberState, wanted: &[String]) -> anyhow::Result<BTreeSet<Digest>> {
    let id = &member.member.id;
    let held: Vec<Digest> = member.quarantine.keys().copied().collect();
    if held.is_empty() {
        bail!("no proof stands against {id}: nothing keeps it from working but what kubectl koinon members shows");
    }
    if wanted.is_empty() {
        return Ok(held.into_iter().collect());
    }
    let one = |wanted: &String| {
        let fits = |proof: &&Digest| {
            proof.to_string().starts_with(wanted.as_str()) || proof.hex().starts_with(wanted.as_str())
        };
        let fitting: Vec<&Digest> = held.iter().filter(fits).collect();
        match fitting.as_slice() {
            [one] => Ok(**one),
            [] => bail!("no proof {wanted} stands against {id}: kubectl get kmem {id} -o yaml shows them"),
            _ => bail!("{wanted} fits several proofs against {id}: give more of it"),
        }
    };
    wanted.iter().map(one).collect::<anyhow::Result<_>>().context("--proof")
}

#[cfg(test)]
#[path = "member_tests.rs"]
mod tests;
