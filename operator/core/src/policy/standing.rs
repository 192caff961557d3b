//! What a vote makes of one member.

use std::collections::BTreeSet;

use super::chain::{Membership, MembershipChange, Why};
use super::validity::Invalid;
use super::{Enactment, MemberStanding, MemberState, State};
use crate::body::charter::Parameters;
use crate::body::member::Member;
use crate::body::proposal::{Action, Proposal};
use crate::body::standing::{Confirm, LiftQuarantine, MarkDormant, Reactivate, ResetKeys};
use crate::ids::{MemberId, PolicyHash, PublicKey, StatementId, UnixSeconds};

/// Whether the keys of a member may be replaced.
///
/// The member itself does not vote on it: either it cannot, because its keys are lost, or whoever holds them now would vote
/// against it. Its operator still counts among the sealers.
pub(super) fn judge_reset(
    pinned: &Membership,
    proposal: &Proposal,
    reset: &ResetKeys,
    signers: &BTreeSet<PublicKey>,
) -> Result<(), Invalid> {
    if proposal.parent != proposal.membership {
        return Err(Invalid::PinnedElsewhere);
    }
    let member = pinned.get(&reset.member).filter(|_| proposal.subject.as_ref() == Some(&reset.member));
    let member = member.ok_or(Invalid::Subject)?;
    // With two, either one alone could give the other keys of its own.
    if pinned.members.len() < 3 && pinned.members.contains_key(&reset.member) {
        return Err(Invalid::TooFewMembers(pinned.members.len()));
    }
    let changed = Member { keys: reset.keys.clone(), ..member.clone() };
    changed.validate().map_err(|error| Invalid::Keys(error.to_string()))?;
    if reset.keys.all().any(|key| pinned.used_keys.contains(&key)) {
        return Err(Invalid::IdOrKeyUsed);
    }
    if !signers.contains(&reset.keys.operator) {
        return Err(Invalid::KeyNotProved(reset.keys.operator));
    }
    match reset.keys.governance.first() {
        Some(first) if !reset.keys.governance.iter().any(|key| signers.contains(key)) => {
            Err(Invalid::KeyNotProved(*first))
        }
        _ => Ok(()),
    }
}

/// Whether a new member may be counted.
pub(super) fn judge_confirm(pinned: &Membership, proposal: &Proposal, confirm: &Confirm) -> Result<(), Invalid> {
    if proposal.parent != proposal.membership {
        return Err(Invalid::PinnedElsewhere);
    }
    // It has no vote to be left out of; its owner's other members keep theirs.
    if proposal.subject.is_some() {
        return Err(Invalid::Subject);
    }
    let Some(Why::Probation { until: expected }) = pinned.aside.get(&confirm.member).map(|aside| aside.why) else {
        return Err(Invalid::NotOnProbation(confirm.member.clone()));
    };
    let seen = proposal.opens_at;
    if seen < expected {
        return Err(Invalid::Time { what: "opensAt", seen, rule: "at least", expected });
    }
    Ok(())
}

/// Whether a member may be counted no more for its silence; that it is silent, the ballot box shows.
pub(super) fn judge_dormant(pinned: &Membership, proposal: &Proposal, mark: &MarkDormant) -> Result<(), Invalid> {
    if proposal.parent != proposal.membership {
        return Err(Invalid::PinnedElsewhere);
    }
    // Its vote would be a sign of life: it keeps it.
    if proposal.subject.is_some() || !pinned.members.contains_key(&mark.member) {
        return Err(Invalid::Subject);
    }
    // Of two the other one must seal too, so it would not be silent.
    if pinned.members.len() < 3 { Err(Invalid::TooFewMembers(pinned.members.len())) } else { Ok(()) }
}

/// Whether a dormant member may be counted again; that it has spoken since, the ballot box shows.
pub(super) fn judge_reactivate(pinned: &Membership, proposal: &Proposal, wake: &Reactivate) -> Result<(), Invalid> {
    if proposal.parent != proposal.membership {
        return Err(Invalid::PinnedElsewhere);
    }
    if proposal.subject.is_some() {
        return Err(Invalid::Subject);
    }
    match pinned.aside.get(&wake.member).map(|aside| aside.why) {
        Some(Why::Dormant { .. }) => Ok(()),
        _ => Err(Invalid::NotDormant(wake.member.clone())),
    }
}

/// Whether a member may be let work again. It does not vote on it, nor do the other members of its owner.
pub(super) fn judge_lift(pinned: &Membership, proposal: &Proposal, lift: &LiftQuarantine) -> Result<(), Invalid> {
    judge_subject(pinned, proposal, &lift.member)?;
    if (1..=64).contains(&lift.proofs.len()) { Ok(()) } else { Err(Invalid::Proofs(lift.proofs.len())) }
}

/// Whether a proposal is about `member`, and says so: it does not vote on it, nor do the other members of its owner.
pub(super) fn judge_subject(pinned: &Membership, proposal: &Proposal, member: &MemberId) -> Result<(), Invalid> {
    let is_subject = proposal.subject.as_ref() == Some(member) && pinned.get(member).is_some();
    if is_subject { Ok(()) } else { Err(Invalid::Subject) }
}

/// How many members are counted after a proposal, of `pinned`.
pub(super) fn counted_after(proposal: &Proposal, pinned: &Membership, parameters: &Parameters) -> usize {
    let now = pinned.members.len();
    match &proposal.action {
        Action::Admit(_) if probation(proposal, parameters).is_none() => now + 1,
        Action::Confirm(_) | Action::Reactivate(_) => now + 1,
        action if parting(action).is_some_and(|member| pinned.members.contains_key(member)) => now.saturating_sub(1),
        _ => now,
    }
}

/// The member that is not counted any more when `action` is in force.
pub(super) fn parting(action: &Action) -> Option<&MemberId> {
    match action {
        Action::Expel(expel) => Some(&expel.member),
        Action::MarkDormant(mark) => Some(&mark.member),
        _ => None,
    }
}

/// Until when a member that `proposal` admits is on probation.
fn probation(proposal: &Proposal, parameters: &Parameters) -> Option<UnixSeconds> {
    let applies = proposal.since_rules() >= 2 && parameters.probation_seconds.0 > 0;
    applies.then(|| proposal.eta.plus(parameters.probation_seconds))
}

impl State {
    pub(super) fn admit(&mut self, enacted: &Enactment, proposal: &Proposal, member: &Member) {
        let until = self.numbers(proposal).and_then(|numbers| probation(proposal, &numbers.parameters));
        let (change, standing) = match until {
            Some(until) => (MembershipChange::Probation(member, until), MemberStanding::Probationary),
            None => (MembershipChange::Admit(member), MemberStanding::Active),
        };
        self.change_members(enacted, change);
        self.begin_log(member, Some(enacted));
        let state = MemberState { standing, ..MemberState::new(member, enacted.version) };
        self.members.insert(member.id.clone(), state);
    }

    pub(super) fn count(&mut self, enacted: &Enactment, member: &MemberId) {
        self.change_members(enacted, MembershipChange::Count(member));
        if let Some(state) = self.members.get_mut(member) {
            state.standing = MemberStanding::Active;
        }
    }

    pub(super) fn set_aside(&mut self, enacted: &Enactment, member: &MemberId, since: UnixSeconds) {
        self.change_members(enacted, MembershipChange::SetAside(member, since));
        if let Some(state) = self.members.get_mut(member) {
            state.standing = MemberStanding::Dormant;
        }
    }

    /// How many members are counted if `child`, a proposal or a leaving, follows the version `parent`.
    pub fn counted_after(&self, child: StatementId, parent: &PolicyHash) -> Option<usize> {
        let before = self.membership_version(parent)?;
        if let Some(state) = self.proposals.get(&child) {
            return Some(counted_after(&state.proposal, before, &state.parameters));
        }
        let leaves = self.leaves.get(&child).filter(|leave| before.members.contains_key(&leave.author));
        Some(before.members.len() - usize::from(leaves.is_some()))
    }

    /// What this operator knows against a proposal although others need not know it: nobody should begin a vote that its
    /// box will refute.
    pub(super) fn check_locally(&self, proposal: &Proposal) -> Result<(), Invalid> {
        let (Action::MarkDormant(mark), Some(rules)) = (&proposal.action, self.parameters.deliberation) else {
            return Ok(());
        };
        let since = proposal.opens_at.minus(rules.members.dormant_after_seconds);
        match self.member(&mark.member).and_then(|state| state.last_entry) {
            Some(last_entry) if last_entry > since => {
                Err(Invalid::NotSilent { member: mark.member.clone(), last_entry })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn suspend(&mut self, member: &MemberId, by: Option<PolicyHash>) {
        if let Some(state) = self.members.get_mut(member) {
            state.suspended = by;
        }
    }

    pub(super) fn reset_keys(&mut self, enacted: &Enactment, reset: &ResetKeys) {
        self.change_members(enacted, MembershipChange::ResetKeys(&reset.member, &reset.keys));
        let Some(state) = self.members.get_mut(&reset.member) else { return };
        state.member.keys = reset.keys.clone();
        let member = state.member.clone();
        self.begin_log(&member, Some(enacted));
    }

    /// Operator keys that members would get by proposals which are neither decided nor invalid at `now`: like applicants
    /// they may read the commons until then.
    pub fn awaited_keys(&self, now: UnixSeconds) -> Vec<(&MemberId, PublicKey, StatementId)> {
        let open = self.proposals.values().filter(|p| !self.phase(p, now).is_final());
        open.filter_map(|p| match &p.proposal.action {
            Action::ResetKeys(reset) => Some((&reset.member, reset.keys.operator, p.id)),
            _ => None,
        })
        .collect()
    }
}
