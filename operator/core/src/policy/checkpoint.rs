//! What is settled at a checkpoint, and what remains of it.
//!
//! ```text
//! entries up to the named heads ─▶ fold ─▶ versions + what is still open ─▶ digest ─▶ vote ─▶ operators that find the same seal it
//! ```
//!
//! A version is remembered as what was enacted, without the votes and seals that proved it: a quorum has recomputed the
//! digest before it sealed the checkpoint. Whoever holds every entry can recompute it at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::chain::Why;
use super::cooldown::refuses;
use super::gather::{Forked, Gathered, as_proposal, gather};
use super::{Enactment, ProposalState, State};
use crate::body::Body;
use crate::body::entry::{Head, Slot};
use crate::body::norms::Checkpoint;
use crate::body::proposal::{Action, Scope};
use crate::founding::Founding;
use crate::ids::{MemberId, PolicyHash, PublicKey, StatementId, UnixSeconds};
use crate::log::{Entry, NoPrefix, Replica, Settled, SettledLog, SettledProposal, SettledVersion, Standing};
use crate::statement::Statement;

/// The order in which chains are made again: what a version refers to comes before it.
const ORDER: [Scope; 9] = [
    Scope::Charter,
    Scope::Membership,
    Scope::Releases,
    Scope::Engines,
    Scope::Standing,
    Scope::Placement,
    Scope::Economy,
    Scope::Operators,
    Scope::Checkpoints,
];

/// Why nothing can be settled there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSettled {
    /// The entries up to there cannot be told from the others.
    #[error(transparent)]
    NoPrefix(#[from] NoPrefix),
    /// The rules in force there know no checkpoints.
    #[error("the cooperative decided by rules 1 there: checkpoints belong to rules 2")]
    Rules,
    /// A log of a member that is quarantined.
    #[error("there are proofs against {member}: leave its log {log} out, or where it was settled before, as it was")]
    Quarantined {
        /// Whose.
        member: MemberId,
        /// The log.
        log: PublicKey,
    },
}

/// What remains of all entries up to `heads`, where everything up to `floor` was settled before.
///
/// # Errors
/// Where the entries up to there are not held or ambiguous, or may not be settled.
pub(super) fn settle(
    founding: &Founding,
    replica: &Replica,
    heads: &BTreeMap<PublicKey, Head>,
    floor: &BTreeMap<PublicKey, Head>,
) -> Result<Settled, NotSettled> {
    let before = replica.up_to(heads)?;
    let state = State::fold(founding, &before);
    let Some(deliberation) = state.parameters().deliberation.filter(|_| state.rules() >= 2) else {
        return Err(NotSettled::Rules);
    };
    for member in state.members().values().filter(|member| !member.quarantine.is_empty()) {
        let (id, log) = (&member.member.id, member.member.keys.operator);
        // What was settled of it before stays so: otherwise whoever forks its log would keep all others from settling theirs.
        if heads.get(&log).is_some_and(|head| floor.get(&log) != Some(head)) {
            return Err(NotSettled::Quarantined { member: id.clone(), log });
        }
    }
    let dormant_after = deliberation.members.dormant_after_seconds;
    let earlier = before.settled();
    let needed = Needed::new(&state, &gather(&before, Forked::Stands), newest(&before, heads).minus(dormant_after));
    let mut settled = Settled { versions: versions(&state), ..Settled::default() };
    for (log, head) in heads {
        let owner = before.logs().find(|(known, _)| *known == log).map(|(_, owner)| owner.clone());
        let Some(owner) = owner else { continue };
        let known = earlier.and_then(|settled| settled.logs.get(log));
        let mut proposals: BTreeSet<SettledProposal> = known.iter().flat_map(|log| log.proposals.clone()).collect();
        let mut last_at = known.map_or(UnixSeconds(i64::MIN), |log| log.last_at);
        for entry in before.all(log) {
            if entry.standing == Standing::Valid {
                last_at = last_at.max(entry.statement.header().issued_at);
            }
            proposals.extend(proposal_of(entry, &owner));
            if entry.id() != head.id && needed.needs(entry, log, &owner) {
                settled.kept.insert(entry.id());
            }
        }
        settled.logs.insert(*log, SettledLog { head: *head, last_at, proposals: proposals.into_iter().collect() });
    }
    Ok(settled)
}

/// The time of the middle one of the logs' last entries: no few clocks can move it.
fn newest(before: &Replica, heads: &BTreeMap<PublicKey, Head>) -> UnixSeconds {
    let last = heads.values().filter_map(|head| before.get(&head.id));
    let mut times: Vec<UnixSeconds> = last.map(|entry| entry.statement.header().issued_at).collect();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or(UnixSeconds(0))
}

fn versions(state: &State) -> Vec<SettledVersion> {
    let made = ORDER
        .into_iter()
        .flat_map(|scope| state.chain(scope).iter().filter_map(move |v| v.enacted.as_ref().map(|e| (scope, e))));
    made.map(|(scope, enacted)| SettledVersion {
        scope,
        version: enacted.version,
        proposal: enacted.proposal,
        root: enacted.root,
        term: enacted.term,
        settled_at: enacted.settled_at,
    })
    .collect()
}

fn proposal_of(entry: &Entry, owner: &MemberId) -> Option<SettledProposal> {
    let own = |inner: &&Statement| inner.author() == owner && inner.coop() == entry.statement.coop();
    let inner = entry.statement.nested().filter(own)?;
    let proposal = as_proposal(inner).filter(|_| entry.standing == Standing::Valid)?;
    Some(SettledProposal { seq: entry.seq(), id: inner.id(), closes_at: proposal.closes_at })
}

/// Which entries below a checkpoint may still decide something above it.
struct Needed<'a> {
    state: &'a State,
    /// What nothing can come of any more, enacted or not.
    over: BTreeSet<StatementId>,
    /// From when on entries may show that their author was not silent.
    recent: UnixSeconds,
    /// From when on entries of members that are dormant show that they are back.
    dormant: BTreeMap<MemberId, UnixSeconds>,
}

impl<'a> Needed<'a> {
    fn new(state: &'a State, gathered: &Gathered, recent: UnixSeconds) -> Self {
        let versions = ORDER.into_iter().flat_map(|scope| state.chain(scope));
        let enacted: BTreeSet<StatementId> = versions.filter_map(|v| v.enacted.as_ref().map(|e| e.proposal)).collect();
        let is_past = |scope, parent: &PolicyHash| is_past(state, scope, parent, state.head(scope));
        let over = state.proposals().values().filter(|p| is_over(state, p, &is_past)).map(|p| p.id);
        let over = over.chain(gathered.leaves.keys().filter(|leave| enacted.contains(*leave)).copied()).collect();
        let aside = state.membership().into_iter().flat_map(|membership| &membership.aside);
        let dormant = aside.filter_map(|(member, aside)| match aside.why {
            Why::Dormant { since } => Some((member.clone(), since)),
            Why::Probation { .. } => None,
        });
        Self { state, over, recent, dormant: dormant.collect() }
    }

    fn needs(&self, entry: &Entry, log: &PublicKey, owner: &MemberId) -> bool {
        let at = entry.statement.header().issued_at;
        let is_sign = self.dormant.get(owner).is_some_and(|since| at > *since) && self.is_seat(log, owner);
        if at > self.recent || is_sign {
            return true;
        }
        match entry.statement.body() {
            Body::Anchor(_) => entry.statement.nested().is_some_and(|inner| {
                inner.author() == owner && inner.coop() == self.state.coop() && self.needs_said(inner)
            }),
            Body::BoxOffer(offer) => !self.over.contains(&offer.proposal),
            // What was refused may be proposed again at any later version.
            Body::CloseSeal(seal) => refuses(seal) || !self.over.contains(&seal.proposal),
            // A member that helped to make a membership seals nothing for an older one.
            Body::EnactSeal(seal) => seal.slot.scope == Scope::Membership || !self.over.contains(&seal.proposal),
            Body::NoticeSent(notice) => !self.over.contains(&notice.proposal),
            Body::SlotStatus(status) => {
                let Slot { scope, parent, .. } = &status.slot;
                !is_past(self.state, *scope, parent, self.state.head(*scope))
            }
            Body::Evidence(_) | Body::SealEvidence(_) | Body::LogResume(_) => true,
            _ => false,
        }
    }

    fn is_seat(&self, log: &PublicKey, owner: &MemberId) -> bool {
        self.state.member(owner).is_some_and(|member| member.member.keys.operator == *log)
    }

    fn needs_said(&self, inner: &Statement) -> bool {
        let about = match inner.body() {
            // What is in force is read from it, or what would have become of the members. And seals that come only later may
            // say of anything else that it was refused.
            Body::Proposal(_) => return true,
            Body::Vote(vote) => vote.proposal,
            Body::Withdrawal(withdrawal) => withdrawal.proposal,
            Body::Recusal(recusal) => recusal.proposal,
            Body::Reply(reply) => reply.proposal,
            Body::Appeal(appeal) => appeal.proposal,
            Body::Leave(_) | Body::Delegation(_) | Body::KeyUpdate(_) | Body::KeyRevocation(_) => return true,
            Body::EmergencyOrder(_) | Body::CoSignature(_) => return true,
            _ => return false,
        };
        !self.over.contains(&about)
    }
}

/// Whether on the way to `head` another version has followed `parent`, so that nothing else can.
fn is_past(state: &State, scope: Scope, parent: &PolicyHash, head: PolicyHash) -> bool {
    let number = |version| state.number_of(scope, version);
    number(parent).is_some_and(|parent| number(&head).is_some_and(|head| parent < head))
}

/// Whether nothing can come of a proposal any more, whatever is learned later.
fn is_over(state: &State, proposal: &ProposalState, is_past: &dyn Fn(Scope, &PolicyHash) -> bool) -> bool {
    match &proposal.proposal.action {
        // It makes no version; it is over with what it would stop.
        Action::CancelProposal(cancel) => state.proposals().get(&cancel.proposal).is_some_and(|target| {
            !matches!(target.proposal.action, Action::CancelProposal(_)) && is_over(state, target, is_past)
        }),
        _ if proposal.rules < 2 && state.rules() >= 2 => true,
        _ => is_past(proposal.proposal.scope, &proposal.proposal.parent),
    }
}

impl State {
    /// Makes the versions again that a checkpoint remembers.
    pub(super) fn recall(&mut self, settled: &Settled, gathered: &Gathered) {
        for version in &settled.versions {
            let enacted = Enactment {
                proposal: version.proposal,
                root: version.root,
                version: version.version,
                term: version.term,
                settled_at: version.settled_at,
                close_seals: BTreeSet::new(),
                enact_seals: BTreeSet::new(),
            };
            self.enact((version.scope, version.term, enacted), gathered);
            self.read_keys(gathered);
        }
    }

    /// The proposals that were over when a checkpoint settled them: of what was said and sealed of them nothing is kept.
    pub(super) fn over_at(&self, settled: &Settled) -> BTreeSet<StatementId> {
        let heads: BTreeMap<Scope, PolicyHash> =
            settled.versions.iter().map(|made| (made.scope, made.version)).collect();
        let is_past = |scope: Scope, parent: &PolicyHash| {
            heads.get(&scope).is_some_and(|head| is_past(self, scope, parent, *head))
        };
        let listed = settled.logs.values().flat_map(|of_log| &of_log.proposals).map(|proposal| proposal.id);
        let is_over = |id: &StatementId| self.proposals.get(id).is_some_and(|p| is_over(self, p, &is_past));
        listed.filter(is_over).collect()
    }

    /// The checkpoints that are in force, the oldest first.
    pub fn checkpoints(&self) -> impl Iterator<Item = &Checkpoint> {
        let made = self.chain(Scope::Checkpoints).iter().filter_map(|version| version.enacted.as_ref());
        made.filter_map(|enacted| match &self.proposals.get(&enacted.proposal)?.proposal.action {
            Action::Checkpoint(checkpoint) => Some(checkpoint),
            _ => None,
        })
    }

    /// Up to where each log is settled.
    pub(super) fn floor(&self) -> BTreeMap<PublicKey, Head> {
        floor_of(self.checkpoints())
    }

    /// What could be settled now: the logs of members in good standing, up to what a quorum of them has had time to hear of.
    pub fn settleable(&self, replica: &Replica, before: UnixSeconds) -> BTreeMap<PublicKey, Head> {
        let clean = |log: &PublicKey, owner: &MemberId| {
            replica.fork(log).is_none() && self.member(owner).is_some_and(|member| member.quarantine.is_empty())
        };
        let mut heads = self.floor();
        for (log, _) in replica.logs().filter(|(log, owner)| clean(log, owner)) {
            let beside = replica.beside_settled(log);
            let entries = replica.all(log).filter(|entry| !beside.contains(&entry.id()));
            let old = entries.take_while(|entry| entry.statement.header().issued_at <= before).last();
            let found = old.map(|entry| Head { seq: entry.seq(), id: entry.id() });
            heads.extend(found.max(heads.get(log).copied()).map(|head| (*log, head)));
        }
        heads
    }
}

fn floor_of<'a>(checkpoints: impl Iterator<Item = &'a Checkpoint>) -> BTreeMap<PublicKey, Head> {
    let mut floor = BTreeMap::new();
    checkpoints.for_each(|checkpoint| raise(&mut floor, checkpoint));
    floor
}

fn raise(floor: &mut BTreeMap<PublicKey, Head>, checkpoint: &Checkpoint) {
    for (log, head) in &checkpoint.logs {
        let known = floor.entry(*log).or_insert(*head);
        *known = (*known).max(*head);
    }
}

/// What remains up to a checkpoint, which goes on from what was settled before it.
fn settle_from(
    floor: &BTreeMap<PublicKey, Head>,
    founding: &Founding,
    replica: &Replica,
    checkpoint: &Checkpoint,
) -> Result<Settled, NotSettled> {
    let settled = settle(founding, replica, &checkpoint.logs, floor)?;
    replica.falls_behind(floor, &checkpoint.logs).map_or(Ok(settled), |behind| Err(behind.into()))
}

/// Which of the proposed checkpoints are what remains of the entries up to them. It costs a fold for each that was not judged
/// before: `judged` says of those whether they are.
pub(super) fn judge_all(
    founding: &Founding,
    replica: &Replica,
    state: &State,
    judged: &mut BTreeMap<StatementId, bool>,
) -> BTreeSet<StatementId> {
    let open = state.proposals().values().filter(|p| p.invalid.is_none() && p.enacted.is_none());
    let (mut hold, floor) = (BTreeSet::new(), state.floor());
    for proposal in open.filter(|p| p.proposal.parent == state.head(Scope::Checkpoints)) {
        let Action::Checkpoint(checkpoint) = &proposal.proposal.action else { continue };
        let held = match judged.get(&proposal.id) {
            Some(held) => *held,
            None => match settle_from(&floor, founding, replica, checkpoint) {
                // It may become complete.
                Err(NotSettled::NoPrefix(NoPrefix::NotHeld { .. })) => continue,
                settled => settled.is_ok_and(|settled| settled.digest() == checkpoint.state),
            },
        };
        judged.insert(proposal.id, held);
        if held {
            hold.insert(proposal.id);
        }
    }
    hold
}

/// The first checkpoint in force that is not what remains of the entries up to it, with why.
pub(super) fn first_false(founding: &Founding, replica: &Replica, state: &State) -> Option<(PolicyHash, String)> {
    let versions = state.chain(Scope::Checkpoints).iter().skip(1);
    let mut floor = BTreeMap::new();
    versions.zip(state.checkpoints()).find_map(|(version, checkpoint)| {
        let settled = settle_from(&floor, founding, replica, checkpoint);
        raise(&mut floor, checkpoint);
        match settled {
            Ok(settled) if settled.digest() == checkpoint.state => None,
            Ok(settled) => Some((version.hash, format!("what remains is {}", settled.digest()))),
            Err(error) => Some((version.hash, error.to_string())),
        }
    })
}

/// Whether `settled` is what a checkpoint in force names.
pub(super) fn is_sealed(state: &State, settled: &Settled) -> bool {
    let (heads, digest) = (heads(settled), settled.digest());
    state.checkpoints().any(|checkpoint| checkpoint.logs == heads && checkpoint.state == digest)
}

fn heads(settled: &Settled) -> BTreeMap<PublicKey, Head> {
    settled.logs.iter().map(|(log, of_log)| (*log, of_log.head)).collect()
}

/// What remains up to the newest checkpoint that is in force, if that is news here. It costs a fold.
pub(super) fn news(founding: &Founding, replica: &Replica, state: &State) -> Option<Arc<Settled>> {
    let newest = state.checkpoints().last()?;
    if replica.settled().is_some_and(|settled| heads(settled) == newest.logs) {
        return None;
    }
    let before = state.checkpoints().count().saturating_sub(1);
    let settled = settle(founding, replica, &newest.logs, &floor_of(state.checkpoints().take(before))).ok()?;
    (settled.digest() == newest.state).then(|| Arc::new(settled))
}
