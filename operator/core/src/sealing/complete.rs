//! What an operator signs under rules 2, where up to a third of the others may lie.
//!
//! ```text
//! close ─ grace ─▶ box offer ─ grace ─▶ close seal (passed: binds the slot) ─ timelock ─▶ enact seal ─▶ version
//!                                                └─ nothing came of it ─▶ slot status ─▶ the next term
//! ```

use std::collections::BTreeSet;

use super::Circumstances;
use crate::body::Body;
use crate::body::entry::{Basis, BoxOffer, CloseSeal, EnactSeal, Outcome, Slot, SlotStatus};
use crate::body::proposal::{Action, Scope};
use crate::ids::{MemberId, PolicyHash, Seconds, StatementId, UnixSeconds};
use crate::policy::{
    CloseCertificate, Hold, Membership, ProposalState, Sealed, State, leave_root, seal_from, version_hash, vouched,
    vouchers,
};

/// What an operator promises by what it signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// One box offer for each proposal.
    OfferOnce,
    /// In an offer is what was held when the box closed, never what came later.
    OfferInTime,
    /// No close seal before a quorum has offered; in the box is what more operators offer than may lie.
    EnoughOffers,
    /// One child of a slot is sealed as passed.
    OnePassedInSlot,
    /// One enact seal for each slot.
    OneEnactInSlot,
    /// An enact seal only on a box that holds every entry of the boxes sealed before, and no close seal after it.
    NoShrink,
    /// Never both a passed cancellation and the enactment of what it stops.
    CancelOrEnact,
    /// After an enact seal that made membership version k+2 nothing for a proposal pinned to k or earlier.
    StalePins,
    /// After a slot status nothing in that term or a lower one.
    StatusEndsSlot,
    /// In a later term nothing but what an earlier one may have enacted.
    CarryOn,
    /// Nothing for a proposal older than the last resumption of the own log.
    NothingOld,
}

impl Promise {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::OfferOnce,
        Self::OfferInTime,
        Self::EnoughOffers,
        Self::OnePassedInSlot,
        Self::OneEnactInSlot,
        Self::NoShrink,
        Self::CancelOrEnact,
        Self::StalePins,
        Self::StatusEndsSlot,
        Self::CarryOn,
        Self::NothingOld,
    ];
}

/// The promises that an operator keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promises {
    broken: Option<Promise>,
}

impl Promises {
    /// Every promise.
    pub const KEPT: Self = Self { broken: None };

    /// Every promise but one, to see what that one prevents.
    #[cfg(any(test, feature = "testkit"))]
    pub const fn all_but(promise: Promise) -> Self {
        Self { broken: Some(promise) }
    }

    /// Whether `promise` is kept.
    pub fn keep(&self, promise: Promise) -> bool {
        self.broken != Some(promise)
    }
}

/// What the operator of `me` signs now.
pub(super) fn next(state: &State, me: &MemberId, circumstances: &Circumstances) -> Vec<Body> {
    let sealer = Sealer {
        state,
        me,
        now: circumstances.now,
        resumed_at: circumstances.resumed_at,
        circumstances,
        promises: circumstances.promises,
        close: state.close_seals().iter().filter(|s| s.by == *me).collect(),
        enact: state.enact_seals().iter().filter(|s| s.by == *me).collect(),
        statuses: state.slot_statuses().iter().filter(|s| s.by == *me).collect(),
    };
    let proposals = || state.proposals().values();
    let offers = proposals().filter_map(|proposal| sealer.offer(proposal)).map(Body::BoxOffer);
    if circumstances.isolated {
        // What it holds it can say alone; whoever could only say it later would have to leave out what is new.
        return offers.collect();
    }
    let close = proposals().filter_map(|proposal| sealer.close(proposal)).map(Body::CloseSeal);
    let leaves = state.leaves().keys().filter_map(|leave| sealer.close_leave(*leave)).map(Body::CloseSeal);
    let enact = sealer.enactments().into_iter().map(Body::EnactSeal);
    let statuses = sealer.statuses().into_iter().map(Body::SlotStatus);
    let notices = super::notices::next(state, me, circumstances.now);
    offers.chain(notices).chain(close).chain(leaves).chain(enact).chain(statuses).collect()
}

struct Sealer<'a> {
    state: &'a State,
    me: &'a MemberId,
    now: UnixSeconds,
    resumed_at: Option<UnixSeconds>,
    circumstances: &'a Circumstances,
    promises: Promises,
    close: Vec<&'a Sealed<CloseSeal>>,
    enact: Vec<&'a Sealed<EnactSeal>>,
    statuses: Vec<&'a Sealed<SlotStatus>>,
}

impl Sealer<'_> {
    fn keeps(&self, promise: Promise) -> bool {
        self.promises.keep(promise)
    }

    fn is_new(&self, issued_at: UnixSeconds) -> bool {
        !self.keeps(Promise::NothingOld) || self.resumed_at.is_none_or(|resumed| issued_at > resumed)
    }

    /// Whether this operator seals the proposal at all. Until when depends on what it seals, and in which term.
    fn seals(&self, proposal: &ProposalState) -> bool {
        // What this operator has signed on something that it forgot it must not sign anew.
        let undecided = proposal.invalid.is_none()
            && !proposal.forgotten
            && proposal.enacted.is_none()
            && proposal.superseded_by.is_none()
            && proposal.cancelled_by.is_none();
        proposal.rules >= 2
            && proposal.sealers.contains(self.me)
            && super::understood(proposal, self.circumstances)
            && self.is_new(proposal.issued_at)
            && undecided
    }

    fn offer(&self, proposal: &ProposalState) -> Option<BoxOffer> {
        let due = self.now >= proposal.held.closed_at.plus(proposal.parameters.grace_seconds);
        let in_time = self.now <= proposal.seal_by();
        let entries = self.entries_to_offer(proposal)?;
        let own = self.state.box_offers().iter().filter(|s| s.by == *self.me && s.seal.proposal == proposal.id);
        let offer = BoxOffer { proposal: proposal.id, entries };
        let said = if self.keeps(Promise::OfferOnce) {
            own.count() > 0
        } else {
            own.map(|s| &s.seal).any(|said| *said == offer)
        };
        (self.seals(proposal) && due && in_time && !said).then_some(offer)
    }

    /// What this operator can vouch for. One that was down, cut off or unsure of its clock when the box closed cannot tell what
    /// it held then from what came later: it offers what enough others vouch for, so that its word adds no late vote. The same
    /// holds for one that heard of the proposal so late that others may have had no time for their votes.
    fn entries_to_offer(&self, proposal: &ProposalState) -> Option<BTreeSet<StatementId>> {
        let parameters = &proposal.parameters;
        let closed = proposal.proposal.closes_at.plus(parameters.grace_seconds);
        let in_time = self.now <= closed.plus(parameters.clock_tolerance_seconds)
            && !self.circumstances.late.contains(&proposal.id);
        if in_time || !self.keeps(Promise::OfferInTime) {
            return Some(proposal.entries.clone());
        }
        let others = proposal.offers.iter().filter(|offer| offer.by != *self.me).map(|offer| &offer.seal);
        let enough = others.clone().count() + 1 >= proposal.quorum;
        let mut entries = vouched(others, vouchers(proposal.sealers.len()));
        entries.retain(|entry| proposal.entries.contains(entry));
        enough.then_some(entries)
    }

    fn close(&self, proposal: &ProposalState) -> Option<CloseSeal> {
        if !self.seals(proposal) || self.now < seal_from(proposal.ballot.closed_at, &proposal.parameters) {
            return None;
        }
        if !proposal.box_complete || !self.state.settles_rightly(proposal) {
            return None;
        }
        let slot = self.slot_for(proposal)?;
        let carried = slot.term > proposal.proposal.term;
        if self.now > if carried { proposal.deadline(slot) } else { self.seal_by(proposal) } {
            return None;
        }
        let outcome = proposal.box_outcome;
        let last = self.last_close(proposal.id);
        let seal = CloseSeal {
            proposal: proposal.id,
            round: last.map_or(1, |last| last.round.saturating_add(1)),
            root: proposal.ballot.root,
            count: u32::try_from(proposal.ballot.ids.len()).unwrap_or(u32::MAX),
            membership_head: self.state.head(Scope::Membership),
            outcome,
            closed_at: proposal.ballot.closed_at,
            basis: Some(Basis { slot, offers: proposal.offers.iter().map(|offer| offer.id).collect() }),
        };
        // More offers that change nothing are no news.
        let place = |s: &CloseSeal| s.basis.as_ref().map(|basis| basis.slot);
        let says = |s: &CloseSeal| (s.root, s.outcome, s.membership_head, s.closed_at, place(s));
        if last.is_some_and(|last| says(last) == says(&seal)) {
            return None;
        }
        if self.keeps(Promise::NoShrink) && !self.may_still_close(proposal, slot) {
            return None;
        }
        if outcome == Outcome::Passed {
            if !self.may_sign_in(slot, proposal.id) || !self.may_bind(slot, proposal.id) {
                return None;
            }
            if let Action::CancelProposal(cancel) = &proposal.proposal.action
                && self.keeps(Promise::CancelOrEnact)
                && self.enact.iter().any(|s| s.seal.proposal == cancel.proposal)
            {
                return None;
            }
        }
        Some(seal)
    }

    /// After an enact seal the box is settled for this operator; but in a later term, where a larger box is certified than
    /// the one that it signed, that one cannot have been enacted.
    fn may_still_close(&self, proposal: &ProposalState, slot: Slot) -> bool {
        let signed: Vec<&Sealed<EnactSeal>> =
            self.enact.iter().copied().filter(|s| s.seal.proposal == proposal.id).collect();
        signed.iter().all(|s| {
            s.seal.slot.term < slot.term
                && (s.seal.root == proposal.ballot.root
                    || proposal.certificates.iter().any(|c| c.root == proposal.ballot.root))
        })
    }

    fn last_close(&self, id: StatementId) -> Option<&CloseSeal> {
        let own = self.close.iter().filter(|s| s.seal.proposal == id);
        own.max_by_key(|s| (s.seal.round, s.seq)).map(|s| &s.seal)
    }

    fn seal_by(&self, proposal: &ProposalState) -> UnixSeconds {
        match &proposal.proposal.action {
            Action::CancelProposal(cancel) => {
                self.state.proposals().get(&cancel.proposal).map_or(proposal.seal_by(), |target| target.proposal.eta)
            }
            _ => proposal.seal_by(),
        }
    }

    /// Where the proposal can be sealed now: in its own term, or carried on in the one that is open.
    fn slot_for(&self, proposal: &ProposalState) -> Option<Slot> {
        let own = proposal.slot();
        if own.scope == Scope::Cancellations {
            return Some(own);
        }
        let membership = self.state.membership_version(&proposal.proposal.membership)?;
        let (term, bound) = self.state.open_term(own.scope, own.parent, membership);
        let may = if term == own.term {
            !self.keeps(Promise::CarryOn) || bound.is_none_or(|child| child == proposal.id)
        } else {
            term > own.term && bound == Some(proposal.id)
        };
        may.then_some(Slot { term, ..own })
    }

    /// Whether this operator may bind `slot` to `child`: to one child, and to none that another one has taken it from.
    fn may_bind(&self, slot: Slot, child: StatementId) -> bool {
        let here = |seal: &CloseSeal| {
            let at = seal.basis.as_ref().map(|basis| basis.slot);
            seal.outcome == Outcome::Passed && seal.proposal != child && at == Some(slot)
        };
        let bound_elsewhere = self.close.iter().any(|s| here(&s.seal));
        let taken = || {
            let others = self.state.close_seals().iter().filter(|s| here(&s.seal)).map(|s| s.seal.proposal);
            others.into_iter().any(|other| self.state.hold(other, slot) == Hold::Stands)
        };
        slot.scope == Scope::Cancellations || !self.keeps(Promise::OnePassedInSlot) || !(bound_elsewhere || taken())
    }

    /// Whether this operator may sign anything in favour of `child` in `slot`.
    fn may_sign_in(&self, slot: Slot, child: StatementId) -> bool {
        if slot.scope == Scope::Cancellations {
            return true;
        }
        let same = |at: Slot| (at.scope, at.parent) == (slot.scope, slot.parent);
        let signed_elsewhere = self.enact.iter().any(|s| s.seal.slot == slot && s.seal.proposal != child);
        let ended = self.statuses.iter().any(|s| same(s.seal.slot) && s.seal.slot.term >= slot.term);
        self.state.head(slot.scope) == slot.parent
            && (!self.keeps(Promise::OneEnactInSlot) || !signed_elsewhere)
            && (!self.keeps(Promise::StatusEndsSlot) || !ended)
            && self.pin_is_fresh(child, slot)
    }

    /// See [`Promise::StalePins`]. The versions that this operator helped to make are found by their parents.
    fn pin_is_fresh(&self, child: StatementId, slot: Slot) -> bool {
        if !self.keeps(Promise::StalePins) {
            return true;
        }
        let number = |hash: &PolicyHash| self.state.membership_version(hash).map(|version| version.number);
        let pinned = match self.state.proposals().get(&child) {
            Some(proposal) => number(&proposal.proposal.membership),
            None => number(&slot.parent),
        };
        // What it signed before may be carried on by the same hand.
        let other = |s: &&&Sealed<EnactSeal>| s.seal.proposal != child;
        let made = self.enact.iter().filter(|s| s.seal.slot.scope == Scope::Membership).filter(other);
        let oldest = made.filter_map(|s| {
            let parent = number(&s.seal.slot.parent)?;
            // Quorums of three and of four need not share an honest operator: what was pinned before is over at once.
            Some(if self.crosses(s) { parent + 1 } else { parent })
        });
        let oldest = oldest.max();
        pinned.is_some_and(|pinned| oldest.is_none_or(|oldest| pinned >= oldest))
    }

    /// Whether an enact seal of this operator's leads from three members to four or back.
    fn crosses(&self, sealed: &Sealed<EnactSeal>) -> bool {
        let before = self.state.membership_version(&sealed.seal.slot.parent).map_or(0, |version| version.members.len());
        let after = self.state.counted_after(sealed.seal.proposal, &sealed.seal.slot.parent).unwrap_or(before);
        matches!((before, after), (3, 4) | (4, 3))
    }

    /// A leaving is nobody's decision; it is sealed like one so that its slot has no second child.
    fn close_leave(&self, leave: StatementId) -> Option<CloseSeal> {
        let membership = self.state.membership()?;
        let state = self.state.leaves().get(&leave)?;
        let fits = state.enacted.is_none()
            && self.is_new(state.issued_at)
            && membership.may_part(&state.author)
            && membership.members.contains_key(self.me);
        let (term, bound) = self.state.open_term(Scope::Membership, membership.hash, membership);
        let slot = Slot { scope: Scope::Membership, parent: membership.hash, term };
        let free = !self.keeps(Promise::CarryOn) || bound.is_none_or(|child| child == leave);
        let last = self.last_close(leave);
        let news = last.is_none_or(|last| last.basis.as_ref().is_none_or(|basis| basis.slot != slot));
        if !(fits && free && news && self.may_sign_in(slot, leave) && self.may_bind(slot, leave)) {
            return None;
        }
        Some(CloseSeal {
            proposal: leave,
            round: last.map_or(1, |last| last.round.saturating_add(1)),
            root: leave_root(leave),
            count: 1,
            membership_head: membership.hash,
            outcome: Outcome::Passed,
            closed_at: state.issued_at,
            basis: Some(Basis { slot, offers: BTreeSet::new() }),
        })
    }

    fn enactments(&self) -> Vec<EnactSeal> {
        let proposals = self.state.proposals().values().filter_map(|p| self.enact_proposal(p));
        let leaves = self.state.leaves().keys().filter_map(|leave| self.enact_leave(*leave));
        proposals.chain(leaves).collect()
    }

    fn enact_proposal(&self, proposal: &ProposalState) -> Option<EnactSeal> {
        let slot = self.slot_for(proposal)?;
        // The largest certified box decides, whatever it amounts to.
        let certificate = proposal.certificates.first()?;
        let due = self.now >= proposal.eta(certificate.closed_at) && self.now <= proposal.deadline(slot);
        let may = self.seals(proposal)
            && due
            && slot.scope != Scope::Cancellations
            && certificate.outcome == Outcome::Passed
            && certificate.slot == slot
            // An appeal that came too late for some, who have signed, is carried over in the next term.
            && (proposal.appealed_by.is_none() || slot.term > proposal.proposal.term)
            && (!self.keeps(Promise::NoShrink) || self.holds_all_that_i_sealed(proposal, certificate))
            && self.last_close(proposal.id).is_none_or(|last| last.outcome == Outcome::Passed)
            && !self.cancelled(proposal.id);
        may.then(|| self.enact(slot, proposal.id, certificate)).flatten()
    }

    /// Whether the certified box has every entry of the boxes that this operator has sealed.
    fn holds_all_that_i_sealed(&self, proposal: &ProposalState, certificate: &CloseCertificate) -> bool {
        let mine = self.close.iter().filter(|s| s.seal.proposal == proposal.id);
        mine.into_iter().all(|sealed| {
            sealed.seal.root == certificate.root
                || self.box_of(proposal, &sealed.seal).is_some_and(|entries| entries.is_subset(&certificate.entries))
        })
    }

    fn box_of(&self, proposal: &ProposalState, seal: &CloseSeal) -> Option<BTreeSet<StatementId>> {
        let basis = seal.basis.as_ref()?;
        let all = self.state.box_offers();
        let offers: Vec<&BoxOffer> =
            basis.offers.iter().map(|id| all.iter().find(|o| o.id == *id).map(|o| &o.seal)).collect::<Option<_>>()?;
        Some(vouched(offers, vouchers(proposal.sealers.len())))
    }

    /// Whether this operator has sealed a cancellation of `proposal` as passed.
    fn cancelled(&self, proposal: StatementId) -> bool {
        let cancels = |id: &StatementId| {
            let action = self.state.proposals().get(id).map(|p| &p.proposal.action);
            matches!(action, Some(Action::CancelProposal(cancel)) if cancel.proposal == proposal)
        };
        self.keeps(Promise::CancelOrEnact)
            && self.close.iter().any(|s| s.seal.outcome == Outcome::Passed && cancels(&s.seal.proposal))
    }

    fn enact_leave(&self, leave: StatementId) -> Option<EnactSeal> {
        let membership = self.state.membership()?;
        let state = self.state.leaves().get(&leave)?;
        let (term, _) = self.state.open_term(Scope::Membership, membership.hash, membership);
        let slot = Slot { scope: Scope::Membership, parent: membership.hash, term };
        let certificate = state.certificates.iter().find(|c| c.slot == slot)?;
        let fits = state.enacted.is_none() && self.is_new(state.issued_at) && membership.members.contains_key(self.me);
        fits.then(|| self.enact(slot, leave, certificate)).flatten()
    }

    fn enact(&self, slot: Slot, child: StatementId, certificate: &CloseCertificate) -> Option<EnactSeal> {
        let in_slot: Vec<&EnactSeal> = self.enact.iter().map(|s| &s.seal).filter(|s| s.slot == slot).collect();
        let seal = EnactSeal {
            slot,
            proposal: child,
            root: certificate.root,
            version: version_hash(slot.scope, slot.parent, child, certificate.root),
        };
        let first = if self.keeps(Promise::OneEnactInSlot) { in_slot.is_empty() } else { !in_slot.contains(&&seal) };
        (first && self.may_sign_in(slot, child)).then_some(seal)
    }

    fn statuses(&self) -> Vec<SlotStatus> {
        let slots: BTreeSet<Slot> = self
            .state
            .close_seals()
            .iter()
            .filter_map(|s| s.seal.basis.as_ref().filter(|_| s.seal.outcome == Outcome::Passed))
            .map(|basis| basis.slot)
            .filter(|slot| slot.scope != Scope::Cancellations && self.state.head(slot.scope) == slot.parent)
            .collect();
        slots.into_iter().filter_map(|slot| self.status(slot)).collect()
    }

    /// Ends a slot in which nothing can succeed any more, so that the next term may begin.
    fn status(&self, slot: Slot) -> Option<SlotStatus> {
        let membership: &Membership = self.state.membership()?;
        let children: BTreeSet<StatementId> = self
            .state
            .close_seals()
            .iter()
            .filter(|s| s.seal.outcome == Outcome::Passed)
            .filter(|s| s.seal.basis.as_ref().is_some_and(|basis| basis.slot == slot))
            .map(|s| s.seal.proposal)
            .collect();
        let over = |child: &StatementId| match self.state.proposals().get(child) {
            Some(proposal) => {
                let tolerance = Seconds(proposal.parameters.clock_tolerance_seconds.0.saturating_mul(2));
                // Also for a child that nobody certified: ending the slot sooner would end it for the others in it.
                let last = proposal.deadline(slot);
                let appealed = proposal.appealed_by.is_some() && slot.term == proposal.proposal.term;
                proposal.cancelled_by.is_some() || appealed || self.now > last.plus(tolerance)
            }
            None => self.state.leaves().get(child).is_some_and(|leave| {
                let window = self.state.parameters().enact_window_seconds;
                self.now > leave.issued_at.plus(Seconds(window.0.saturating_mul(i64::from(slot.term) + 1)))
            }),
        };
        let said = self.statuses.iter().any(|s| s.seal.slot == slot);
        let open = self.state.open_term(slot.scope, slot.parent, membership).0 == slot.term;
        let may = membership.members.contains_key(self.me) && !said && open && children.iter().any(over);
        let signed = self.enact.iter().find(|s| s.seal.slot == slot).map(|s| s.seal.proposal);
        may.then_some(SlotStatus { slot, signed })
    }
}
