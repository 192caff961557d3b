//! What a slot of a policy chain came to, and until when something may still happen in it.

use std::collections::{BTreeMap, BTreeSet};

use super::complete::seal_from;
use super::{CloseCertificate, LeaveState, Membership, ProposalState, State};
use crate::body::charter::Parameters;
use crate::body::entry::{Outcome, Slot};
use crate::body::proposal::{Action, Scope};
use crate::ids::{MemberId, PolicyHash, Seconds, StatementId, UnixSeconds};

/// Whether a child holds a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// No certificate says so here.
    Unknown,
    /// It passed there, and something larger undid that.
    Void,
    /// It passed there.
    Stands,
}

/// What a slot came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotOutcome {
    /// Too few operators have said what they signed there.
    Open,
    /// Nothing can have been enacted there.
    Free,
    /// This may have been enacted there: only it may follow.
    Carried(StatementId),
}

impl State {
    /// The certificates of a proposal or of a leaving.
    pub fn certificates(&self, child: StatementId) -> &[CloseCertificate] {
        let proposal = self.proposals.get(&child).map(|p| p.certificates.as_slice());
        proposal
            .or_else(|| self.leaves.get(&child).map(|leave: &LeaveState| leave.certificates.as_slice()))
            .unwrap_or(&[])
    }

    /// Whether `child` holds `slot`. One child can: operators seal one as passed there.
    pub fn hold(&self, child: StatementId, slot: Slot) -> Hold {
        let certificates = self.certificates(child);
        if !certificates.iter().any(|c| c.slot == slot && c.outcome == Outcome::Passed) {
            return Hold::Unknown;
        }
        // Beside a larger box that did not pass, or a cancellation that did, it cannot have been enacted.
        let stands = certificates.first().is_some_and(|largest| largest.outcome == Outcome::Passed);
        if stands && self.cancellation(child).is_none() { Hold::Stands } else { Hold::Void }
    }

    /// What became of `slot`, as the members of `membership` have said, and as the enact seals that are held here show.
    ///
    /// An operator that names a child without a certificate for that slot is not counted: an honest one has seen it, so it
    /// comes. Seals count beside what is said because those who signed may be members no longer. Two children hold one slot
    /// only where operators may not lie at all (three members or fewer); then everybody is waited for.
    pub fn slot_outcome(&self, slot: Slot, membership: &Membership) -> SlotOutcome {
        let mut said: BTreeMap<&MemberId, (crate::ids::Seq, Option<StatementId>)> = BTreeMap::new();
        for status in self.slot_statuses.iter().filter(|s| s.seal.slot == slot && s.is_of(membership)) {
            let known = said.entry(&status.by).or_insert((status.seq, status.seal.signed));
            if status.seq < known.0 {
                *known = (status.seq, status.seal.signed);
            }
        }
        let checked: Vec<Option<StatementId>> = said
            .into_values()
            .filter_map(|(_, signed)| match signed.map(|child| (child, self.hold(child, slot))) {
                None | Some((_, Hold::Void)) => Some(None),
                Some((child, Hold::Stands)) => Some(Some(child)),
                Some((_, Hold::Unknown)) => None,
            })
            .collect();
        if checked.len() < membership.quorum() {
            return SlotOutcome::Open;
        }
        let seen = self.enact_seals.iter().filter(|s| s.seal.slot == slot).map(|s| s.seal.proposal);
        let seen: BTreeSet<StatementId> = seen.filter(|child| self.hold(*child, slot) == Hold::Stands).collect();
        let mut named: BTreeMap<StatementId, usize> = seen.into_iter().map(|child| (child, 0)).collect();
        checked.iter().flatten().for_each(|child| *named.entry(*child).or_default() += 1);
        match named.len() {
            0 => SlotOutcome::Free,
            1 => named.into_keys().next().map_or(SlotOutcome::Free, SlotOutcome::Carried),
            _ if checked.len() < membership.members.len() => SlotOutcome::Open,
            _ => {
                let most = named.into_iter().max_by_key(|(child, count)| (*count, std::cmp::Reverse(*child)));
                most.map_or(SlotOutcome::Free, |(child, _)| SlotOutcome::Carried(child))
            }
        }
    }

    /// The first term of (scope, parent) that is not over, and the child that is bound to it, if any: the one that the
    /// last term with a child came to.
    pub fn open_term(&self, scope: Scope, parent: PolicyHash, membership: &Membership) -> (u32, Option<StatementId>) {
        let (mut term, mut bound) = (0, None);
        loop {
            match self.slot_outcome(Slot { scope, parent, term }, membership) {
                SlotOutcome::Open => return (term, bound),
                SlotOutcome::Free => {}
                SlotOutcome::Carried(child) => bound = Some(child),
            }
            term += 1;
        }
    }

    /// The cancellation of `proposal` that passed.
    pub(super) fn cancellation(&self, proposal: StatementId) -> Option<StatementId> {
        self.proposals.values().find_map(|p| match &p.proposal.action {
            Action::CancelProposal(cancel) if cancel.proposal == proposal => {
                p.certificates.iter().any(|c| c.outcome == Outcome::Passed).then_some(p.id)
            }
            _ => None,
        })
    }
}

impl ProposalState {
    /// Until when it may be enacted in `slot`: a child that is carried on gets as much time again in each later term.
    pub fn deadline(&self, slot: Slot) -> UnixSeconds {
        let Parameters { enact_window_seconds, clock_tolerance_seconds, .. } = self.parameters;
        let further = i64::from(slot.term.saturating_sub(self.proposal.term));
        let each = enact_window_seconds.0.saturating_add(clock_tolerance_seconds.0.saturating_mul(2));
        self.proposal.expires_at.plus(Seconds(each.saturating_mul(further)))
    }

    /// Until when its box may be sealed: some time before the effect, so that the largest box is known by then; where the
    /// class leaves no time for that, as long as it may be enacted.
    pub fn seal_by(&self) -> UnixSeconds {
        match self.proposal.action {
            // A cancellation has no effect after what it stops.
            Action::CancelProposal(_) => self.proposal.expires_at,
            _ => {
                let before = self.proposal.eta.minus(self.parameters.seal_by_seconds);
                let in_time = before > seal_from(self.proposal.closes_at, &self.parameters);
                if in_time { before } else { self.proposal.expires_at }
            }
        }
    }
}
