//! What an operator signs next: close seals over boxes, and the one enact seal for a slot.
//!
//! A function of the own log and the others': promises are not remembered but read back, so that an operator that
//! lost its memory keeps them. The caller appends what is returned, one entry at a time, and asks again.
//!
//! Promises under rules 1, where operators may fail but not lie
//! 1. One enact seal for each (scope, parent, term).
//! 2. No enact seal in a term below one that was signed for; above, only when the earlier one can no longer succeed.
//! 3. No enact seal on a box smaller than one that was close-sealed, and no larger box after an enact seal.
//! 4. After an enact seal that made membership version k+2, none for a proposal pinned to k or earlier.
//! 5. Nothing for a proposal older than the last resumption of the own log, whose promises may be forgotten.

use std::collections::{BTreeMap, BTreeSet};

use crate::body::entry::{CloseSeal, EnactSeal, Outcome, Slot};
use crate::body::proposal::{Action, Scope};
use crate::body::{Body, RULES_SUPPORTED};
use crate::ids::{MemberId, PolicyHash, StatementId, UnixSeconds};
mod arrivals;
mod complete;
mod notices;

pub use arrivals::{Arrivals, came_late};
pub use complete::{Promise, Promises};

use crate::policy::{CloseCertificate, Phase, ProposalState, Sealed, State, leave_root, version_hash};

/// The circumstances under which an operator seals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// Its clock.
    pub now: UnixSeconds,
    /// Whether it hears fewer than a quorum.
    pub isolated: bool,
    /// Whether its clock agrees with the others' within the charter's tolerance.
    pub clock_in_tolerance: bool,
    /// When its log was last resumed by a person's word.
    pub resumed_at: Option<UnixSeconds>,
    /// The highest rules that a seal quorum, this operator included, can decide by. A cooperative that went on to rules which
    /// too few understand would decide nothing any more.
    pub rules_shared: u32,
    /// The promises that it keeps: all of them, but for those who look for what each of them prevents.
    pub promises: Promises,
    /// The proposals that it held too late to tell what was said of them in time: see [`Arrivals`].
    pub late: BTreeSet<StatementId>,
}

impl Circumstances {
    /// Those of an operator that hears the others at `now`, whose clock agrees with theirs, and that has missed nothing.
    pub fn good(now: UnixSeconds) -> Self {
        let [.., newest] = RULES_SUPPORTED;
        Self {
            now,
            isolated: false,
            clock_in_tolerance: true,
            resumed_at: None,
            rules_shared: newest,
            promises: Promises::KEPT,
            late: BTreeSet::new(),
        }
    }
}

/// The seals that the operator of `me` signs now.
pub fn next(state: &State, me: &MemberId, circumstances: &Circumstances) -> Vec<Body> {
    if !circumstances.clock_in_tolerance {
        return Vec::new();
    }
    if state.rules() >= 2 {
        // What rules 1 did not decide is proposed anew: sealing it still could bring a slot a second child.
        return complete::next(state, me, circumstances);
    }
    if circumstances.isolated {
        return Vec::new();
    }
    let sealer = Sealer { state, me, circumstances, own: state.enact_seals().iter().filter(|s| s.by == *me).collect() };
    let close = state.proposals().values().filter_map(|proposal| sealer.close(proposal)).map(Body::CloseSeal);
    let enact = sealer.enactments().into_iter().map(Body::EnactSeal);
    close.chain(enact).collect()
}

/// The term for a new proposal that is to follow the newest version of `scope`.
pub fn next_term(state: &State, scope: Scope, now: UnixSeconds) -> u32 {
    let parent = state.head(scope);
    if let Some(membership) = state.membership().filter(|_| state.rules() >= 2) {
        return state.open_term(scope, parent, membership).0;
    }
    let of_parent = |s: &&Sealed<EnactSeal>| (s.seal.slot.scope, s.seal.slot.parent) == (scope, parent);
    let Some(term) = state.enact_seals().iter().filter(of_parent).map(|s| s.seal.slot.term).max() else { return 0 };
    let slot = Slot { scope, parent, term };
    let in_slot = state.enact_seals().iter().filter(|s| s.seal.slot == slot);
    let alive = in_slot.map(|s| s.seal.proposal).any(|child| {
        let over = state.proposals().get(&child).is_some_and(|p| now > p.proposal.expires_at);
        !over && !is_dead(state, slot, child)
    });
    if alive { term } else { term.saturating_add(1) }
}

/// Whether enough operators would understand what the proposal makes them decide by.
fn understood(proposal: &ProposalState, circumstances: &Circumstances) -> bool {
    match &proposal.proposal.action {
        Action::SetRules(set) => set.rules <= circumstances.rules_shared,
        _ => true,
    }
}

/// Something that could be enacted next in a slot.
struct Candidate {
    slot: Slot,
    eta: UnixSeconds,
    proposal: StatementId,
    root: crate::ids::BoxRoot,
}

struct Sealer<'a> {
    state: &'a State,
    me: &'a MemberId,
    circumstances: &'a Circumstances,
    own: Vec<&'a Sealed<EnactSeal>>,
}

impl Sealer<'_> {
    fn after_resumption(&self, issued_at: UnixSeconds) -> bool {
        self.circumstances.resumed_at.is_none_or(|resumed| issued_at > resumed)
    }

    fn is_undecided(&self, proposal: &ProposalState) -> bool {
        proposal.sealers.contains(self.me)
            && understood(proposal, self.circumstances)
            && self.after_resumption(proposal.issued_at)
            && matches!(
                self.state.phase(proposal, self.circumstances.now),
                Phase::Open { .. }
                    | Phase::Pending { .. }
                    | Phase::Closing { .. }
                    | Phase::Queued { .. }
                    | Phase::Stale
            )
            && self.circumstances.now <= proposal.proposal.expires_at
    }

    fn close(&self, proposal: &ProposalState) -> Option<CloseSeal> {
        let (now, ballot) = (self.circumstances.now, &proposal.ballot);
        if !self.is_undecided(proposal) || now < ballot.closed_at.plus(self.state.parameters().grace_seconds) {
            return None;
        }
        if self.own.iter().any(|s| s.seal.proposal == proposal.id) {
            return None; // promise 3
        }
        let outcome = if proposal.stale { Outcome::Stale } else { ballot.tally.outcome };
        let agreed =
            |c: &CloseCertificate| (c.root, c.outcome, c.closed_at) == (ballot.root, outcome, ballot.closed_at);
        if proposal.certificates.first().is_some_and(agreed) {
            return None; // one more seal would add nothing
        }
        let last = proposal.last_close_seal(self.me).map(|s| &s.seal);
        let seal = CloseSeal {
            proposal: proposal.id,
            round: last.map_or(1, |last| last.round.saturating_add(1)),
            root: ballot.root,
            count: u32::try_from(ballot.ids.len()).unwrap_or(u32::MAX),
            membership_head: self.state.head(Scope::Membership),
            outcome,
            closed_at: ballot.closed_at,
            basis: None,
        };
        let news = last.is_none_or(|last| CloseSeal { round: seal.round, ..last.clone() } != seal);
        news.then_some(seal)
    }

    fn enactments(&self) -> Vec<EnactSeal> {
        let proposals = self.state.proposals().values().filter_map(|p| self.proposal_candidate(p));
        let leaves = self.state.leaves().values().filter_map(|leave| self.leave_candidate(leave.id));
        // One for each chain: the lowest term, then the earliest, so that operators rarely split.
        let mut chosen: BTreeMap<Scope, Candidate> = BTreeMap::new();
        for candidate in proposals.chain(leaves).filter(|c| self.promises_allow(c)) {
            let order = |c: &Candidate| (c.slot.term, c.eta, c.proposal);
            let scope = candidate.slot.scope;
            if chosen.get(&scope).is_none_or(|best| order(&candidate) < order(best)) {
                chosen.insert(scope, candidate);
            }
        }
        chosen
            .into_values()
            .map(|c| EnactSeal {
                slot: c.slot,
                proposal: c.proposal,
                root: c.root,
                version: version_hash(c.slot.scope, c.slot.parent, c.proposal, c.root),
            })
            .collect()
    }

    fn proposal_candidate(&self, proposal: &ProposalState) -> Option<Candidate> {
        if !self.is_undecided(proposal) || proposal.stale {
            return None;
        }
        // The box that this operator sealed last, or its own if it has sealed none (promise 3).
        let mine = proposal.last_close_seal(self.me).map_or(proposal.ballot.root, |s| s.seal.root);
        let passed = |c: &&CloseCertificate| c.outcome == Outcome::Passed && c.root == mine;
        let certificate = proposal.certificates.first().filter(passed)?;
        let eta = proposal.eta(certificate.closed_at);
        let due = self.circumstances.now >= eta;
        due.then_some(Candidate { slot: proposal.slot(), eta, proposal: proposal.id, root: certificate.root })
    }

    fn leave_candidate(&self, id: StatementId) -> Option<Candidate> {
        let leave = self.state.leaves().get(&id)?;
        let membership = self.state.membership()?;
        let fits = leave.enacted.is_none()
            && self.after_resumption(leave.issued_at)
            && membership.members.len() > 1
            && membership.members.contains_key(&leave.author)
            && membership.members.contains_key(self.me);
        let parent = membership.hash;
        let slot = Slot { scope: Scope::Membership, parent, term: self.lowest_term(Scope::Membership, parent) };
        fits.then(|| Candidate { slot, eta: leave.issued_at, proposal: id, root: leave_root(id) })
    }

    /// The lowest term in which this operator may still sign for something new: it never goes below its own.
    fn lowest_term(&self, scope: Scope, parent: PolicyHash) -> u32 {
        let own = self.own.iter().map(|s| s.seal.slot).filter(|s| (s.scope, s.parent) == (scope, parent));
        match own.map(|s| s.term).max() {
            None => 0,
            Some(term) => next_term(self.state, scope, self.circumstances.now).max(term),
        }
    }

    fn promises_allow(&self, candidate: &Candidate) -> bool {
        let Slot { scope, parent, term } = candidate.slot;
        if self.state.head(scope) != parent {
            return false;
        }
        let same_place = |s: &&&Sealed<EnactSeal>| (s.seal.slot.scope, s.seal.slot.parent) == (scope, parent);
        let earlier_allow = self.own.iter().filter(same_place).all(|signed| {
            let before = signed.seal.slot;
            before.term < term
                && (signed.seal.proposal == candidate.proposal || is_dead(self.state, before, signed.seal.proposal))
        });
        earlier_allow && self.membership_promise_allows(candidate)
    }

    /// Promise 4. The versions that this operator helped to make are found by their parents.
    fn membership_promise_allows(&self, candidate: &Candidate) -> bool {
        let number = |hash: &PolicyHash| self.state.version(hash).map(|v| v.number);
        let pinned = match self.state.proposals().get(&candidate.proposal) {
            Some(proposal) => number(&proposal.proposal.membership),
            None => number(&candidate.slot.parent),
        };
        let followed = self.own.iter().filter(|s| s.seal.slot.scope == Scope::Membership);
        let newest_parent = followed.filter_map(|s| number(&s.seal.slot.parent)).max();
        match (pinned, newest_parent) {
            (Some(pinned), Some(parent)) => pinned >= parent,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

/// Whether `child` can no longer be enacted in `slot`, whoever signs what: too many of its sealers have signed for
/// another one there, or have gone on to a later term.
pub fn is_dead(state: &State, slot: Slot, child: StatementId) -> bool {
    let (sealers, quorum) = match (state.proposals().get(&child), state.membership()) {
        (Some(proposal), _) => (proposal.sealers.clone(), proposal.enact_quorum),
        (None, Some(membership)) => {
            let sealers: BTreeSet<MemberId> = membership.members.keys().cloned().collect();
            let quorum = crate::tally::membership_quorum(sealers.len(), sealers.len().saturating_sub(1));
            (sealers, quorum)
        }
        (None, None) => return false,
    };
    let is_lost = |sealer: &&MemberId| {
        let theirs = state.enact_seals().iter().filter(|s| s.by == **sealer).map(|s| (s.seal.slot, s.seal.proposal));
        let here: Vec<(Slot, StatementId)> = theirs
            .filter(|(at, _)| (at.scope, at.parent) == (slot.scope, slot.parent) && at.term >= slot.term)
            .collect();
        let signed_for_it = here.iter().any(|(at, proposal)| at.term == slot.term && *proposal == child);
        !signed_for_it && !here.is_empty()
    };
    sealers.len() - sealers.iter().filter(is_lost).count() < quorum
}
