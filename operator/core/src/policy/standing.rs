//! What a vote makes of one member.

use std::collections::BTreeSet;

use super::chain::{Membership, MembershipChange};
use super::validity::Invalid;
use super::{Enactment, State};
use crate::body::member::Member;
use crate::body::proposal::{Action, Proposal};
use crate::body::standing::ResetKeys;
use crate::ids::{MemberId, PublicKey, StatementId, UnixSeconds};

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
    let member = pinned.members.get(&reset.member).filter(|_| proposal.subject.as_ref() == Some(&reset.member));
    let member = member.ok_or(Invalid::Subject)?;
    // With two, either one alone could give the other keys of its own.
    if pinned.members.len() < 3 {
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

impl State {
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
