//! Ballot boxes and slots under rules 2, where up to a third of the operators may lie.
//!
//! ```text
//! offers (one of each operator, at the close) ─▶ box: what enough of them hold ─▶ close seals that name their offers
//! ```
//!
//! A close seal counts only if its own box, outcome and time follow from the offers that it names: nobody is believed.
//! What is not held here yet makes a seal wait, never fail, so that a later entry only ever adds to what is known.

use std::collections::{BTreeMap, BTreeSet};

use super::ballot::{BallotBox, Poll, Standins, VoteRecord};
use super::gather::{Anchored, Gathered, Sealed};
use super::keys::{revocations, revoked};
use super::{CloseCertificate, LeaveState, Membership, ProposalState, State};
use crate::body::Body;
use crate::body::charter::Parameters;
use crate::body::entry::{BoxOffer, CloseSeal, Outcome, Slot};
use crate::body::proposal::{Action, Scope};
use crate::ids::{MemberId, PolicyHash, Seconds, StatementId, UnixSeconds};
use crate::merkle;
use crate::tally::faults_tolerated;

/// Votes of one author on one proposal that a box takes: enough to change one's mind, too few to fill the box.
pub const MAX_VSEQ: u32 = 15;

/// A box of rules 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Boxed {
    pub ballot: BallotBox,
    pub records: Vec<VoteRecord>,
    pub withdrawn: bool,
    /// What keeps it from deciding anything.
    pub objection: Option<Outcome>,
}

/// How many operators must offer an entry so that one honest one had it in time.
pub fn vouchers(sealers: usize) -> usize {
    faults_tolerated(sealers) + 1
}

/// The entries that at least `vouchers` of `offers` name.
pub fn vouched<'a>(offers: impl IntoIterator<Item = &'a BoxOffer>, vouchers: usize) -> BTreeSet<StatementId> {
    let mut named: BTreeMap<StatementId, usize> = BTreeMap::new();
    for entry in offers.into_iter().flat_map(|offer| &offer.entries) {
        *named.entry(*entry).or_default() += 1;
    }
    named.into_iter().filter(|(_, count)| *count >= vouchers).map(|(entry, _)| entry).collect()
}

/// The first offer of each operator of `membership`: an operator has one, and what it says afterwards adds nothing.
fn first_offers<'a>(
    offers: impl Iterator<Item = &'a Sealed<BoxOffer>>,
    membership: &Membership,
) -> BTreeMap<&'a MemberId, &'a Sealed<BoxOffer>> {
    let mut first: BTreeMap<&MemberId, &Sealed<BoxOffer>> = BTreeMap::new();
    for offer in offers.filter(|offer| offer.is_of(membership)) {
        let known = first.entry(&offer.by).or_insert(offer);
        if (offer.seq, offer.id) < (known.seq, known.id) {
            *known = offer;
        }
    }
    first
}

impl Poll<'_> {
    /// Whether an entry belongs into the box of `proposal` at all, whoever offers it.
    pub(super) fn belongs(
        &self,
        gathered: &Gathered,
        proposal: StatementId,
        author: &MemberId,
        entry: StatementId,
    ) -> bool {
        if self.bears(gathered, proposal, &entry) {
            return true;
        }
        let Some(statement) = gathered.said.get(&entry).and_then(|said| said.statement()) else { return false };
        let is_elector = || self.electors().values().any(|members| members.contains(statement.author()));
        match statement.body() {
            Body::Vote(vote) => vote.proposal == proposal && vote.vseq <= MAX_VSEQ && is_elector(),
            Body::Recusal(recusal) => recusal.proposal == proposal && is_elector(),
            Body::Withdrawal(withdrawal) => withdrawal.proposal == proposal && statement.author() == author,
            Body::Delegation(delegation) => {
                self.rules.delegation && delegation.classes.contains(&self.proposal.class) && is_elector()
            }
            // What it takes back was signed for this vote, so not before it opened.
            Body::KeyRevocation(_) => {
                let opened = self.proposal.opens_at.minus(self.parameters.clock_tolerance_seconds);
                let holds = gathered.said.get(&entry).is_some_and(|said| revoked(self.logs, said).is_some());
                holds && statement.header().issued_at >= opened && is_elector()
            }
            _ => false,
        }
    }

    /// What `entries` amount to. Entries that are not held here are left out: ask [`Gathered::said`] first.
    pub(super) fn count_box(
        &self,
        gathered: &Gathered,
        proposal: StatementId,
        author: &MemberId,
        entries: &BTreeSet<StatementId>,
    ) -> Boxed {
        let inside = entries.iter().filter(|entry| self.belongs(gathered, proposal, author, **entry));
        let said: BTreeMap<StatementId, &Anchored> =
            inside.filter_map(|entry| Some((*entry, gathered.said.get(entry)?))).collect();
        let revocations = revocations(self.logs, said.values().copied());
        let stands = |said: &&&Anchored| !said.is_revoked(&revocations);
        let votes = said.values().filter(|said| matches!(said.statement().map(|s| s.body()), Some(Body::Vote(_))));
        let mut standins = self.standins(said.values().filter(stands).copied());
        standins.revocations = revocations.clone();
        let (mut ballot, records) = self.count_with(votes.copied(), &standins);
        let withdrawn = said.values().filter(stands).any(|said| {
            said.statement().is_some_and(|statement| {
                matches!(statement.body(), Body::Withdrawal(_))
                    && self.governs(said)
                    && statement.header().issued_at <= self.proposal.closes_at
            })
        });
        ballot.ids = entries.clone();
        ballot.root = merkle::root(entries);
        let objection = self.objection(gathered, proposal, entries);
        self.await_hearing(gathered, proposal, entries, &mut ballot);
        Boxed { ballot, records, withdrawn, objection }
    }
}

impl State {
    /// What a box of `proposal` amounts to for an operator that knows the membership up to `head`.
    pub(super) fn outcome_of(&self, proposal: &ProposalState, boxed: &Boxed, head: PolicyHash) -> Option<Outcome> {
        if boxed.withdrawn {
            return Some(Outcome::Withdrawn);
        }
        if self.is_stale_at(proposal.proposal.membership, proposal.issued_at, head)? {
            return Some(Outcome::Stale);
        }
        Some(boxed.objection.unwrap_or(boxed.ballot.tally.outcome))
    }

    /// Whether the membership up to `head` has moved on too far for a proposal that pins `pinned`; none if either is
    /// not known here.
    pub(super) fn is_stale_at(&self, pinned: PolicyHash, issued_at: UnixSeconds, head: PolicyHash) -> Option<bool> {
        let (pinned, head) = (self.memberships.get(&pinned)?, self.memberships.get(&head)?);
        let between = self.memberships.values().filter(|m| m.number > pinned.number && m.number <= head.number);
        Some(head.number >= pinned.number + 2 || between.into_iter().any(|m| m.settled_at <= issued_at))
    }

    /// Reads what the logs say of a proposal of rules 2 into `state`.
    pub(super) fn read_complete(&self, state: &mut ProposalState, poll: &Poll<'_>, gathered: &Gathered) {
        let id = state.id;
        let offered = gathered.offers.get(&id).into_iter().flatten();
        let offers = first_offers(offered, poll.membership);
        state.offers = offers.values().map(|offer| (*offer).clone()).collect();
        let held = self.belonging(state, poll, gathered);
        let enough = offers.len() >= state.quorum;
        // Until enough operators have offered, the box is what is held here, and only shown.
        let entries = if enough {
            vouched(offers.values().map(|offer| &offer.seal), vouchers(state.sealers.len()))
        } else {
            held.clone()
        };
        let boxed = poll.count_box(gathered, id, &state.author, &entries);
        let complete = poll.count_box(gathered, id, &state.author, &held);
        (state.ballot, state.votes) = (boxed.ballot.clone(), complete.records);
        for vote in &mut state.votes {
            if let Some(counted) = boxed.records.iter().find(|counted| counted.id == vote.id) {
                vote.verdict = counted.verdict;
            } else if enough {
                vote.verdict = super::Verdict::NotInBox;
            }
        }
        state.held = complete.ballot;
        state.entries = held;
        state.box_complete = enough && entries.iter().all(|entry| gathered.holds(entry));
        state.box_outcome = self.outcome_of(state, &boxed, self.head(Scope::Membership)).unwrap_or(Outcome::Stale);
        let seals = gathered.close.get(&id).into_iter().flatten();
        let (mut good, mut boxes) = (Vec::new(), BTreeMap::new());
        for seal in seals.filter(|seal| seal.is_of(poll.membership)) {
            if let Some(entries) = self.follows(state, poll, gathered, seal) {
                boxes.insert(seal.seal.root, entries);
                good.push(seal.clone());
            }
        }
        state.close_seals = good;
        state.certificates =
            certificates(&state.close_seals, state.quorum, |root| boxes.get(&root).cloned().unwrap_or_default());
        let slot = state.slot();
        let enact = gathered.enact.get(&id).into_iter().flatten().filter(|s| {
            let at = s.seal.slot;
            (at.scope, at.parent) == (slot.scope, slot.parent)
                && at.term >= slot.term
                && s.seal.version == super::version_hash(slot.scope, slot.parent, id, s.seal.root)
                && s.is_of(poll.membership)
        });
        state.enact_seals = enact.cloned().collect();
        state.enacted = state.certificates.iter().find_map(|certificate| state.enacted_on(certificate));
    }

    /// Everything held here that belongs into the box.
    fn belonging(&self, state: &ProposalState, poll: &Poll<'_>, gathered: &Gathered) -> BTreeSet<StatementId> {
        let about = gathered.about.get(&state.id).into_iter().flatten().chain(&gathered.everywhere);
        let about = about.chain(gathered.signs.keys()).chain(gathered.notices.keys());
        about.filter(|entry| poll.belongs(gathered, state.id, &state.author, **entry)).copied().collect()
    }

    /// The box of a close seal, if everything that it says follows from what it names and is held here.
    fn follows(
        &self,
        state: &ProposalState,
        poll: &Poll<'_>,
        gathered: &Gathered,
        sealed: &Sealed<CloseSeal>,
    ) -> Option<BTreeSet<StatementId>> {
        let seal = &sealed.seal;
        let basis = seal.basis.as_ref()?;
        let all = gathered.offers.get(&state.id)?;
        let named: Vec<&Sealed<BoxOffer>> =
            basis.offers.iter().map(|id| all.iter().find(|offer| offer.id == *id)).collect::<Option<_>>()?;
        let authors: BTreeSet<&MemberId> = named.iter().map(|offer| &offer.by).collect();
        let one_each = authors.len() == named.len() && named.iter().all(|offer| offer.is_of(poll.membership));
        if !one_each || authors.len() < state.quorum {
            return None;
        }
        let entries = vouched(named.iter().map(|offer| &offer.seal), vouchers(state.sealers.len()));
        if !entries.iter().all(|entry| gathered.holds(entry)) {
            return None;
        }
        let boxed = poll.count_box(gathered, state.id, &state.author, &entries);
        let place = state.slot();
        let holds = seal.root == boxed.ballot.root
            && seal.count as usize == entries.len()
            && seal.closed_at == boxed.ballot.closed_at
            && Some(seal.outcome) == self.outcome_of(state, &boxed, seal.membership_head)
            && (basis.slot.scope, basis.slot.parent) == (place.scope, place.parent)
            && basis.slot.term >= place.term
            && sealed.at >= seal_from(seal.closed_at, &state.parameters);
        holds.then_some(entries)
    }

    /// The certificates of a leaving under rules 2: its box is itself, and is sealed only so that a slot has one child.
    pub(super) fn read_leave_seals(
        &self,
        leave: StatementId,
        issued_at: UnixSeconds,
        gathered: &Gathered,
    ) -> Vec<CloseCertificate> {
        let Some(membership) = self.membership() else { return Vec::new() };
        let root = super::leave_root(leave);
        let good: Vec<Sealed<CloseSeal>> = gathered
            .close
            .get(&leave)
            .into_iter()
            .flatten()
            .filter(|sealed| {
                let seal = &sealed.seal;
                let in_chain = seal.basis.as_ref().is_some_and(|basis| {
                    (basis.slot.scope, basis.slot.parent) == (Scope::Membership, membership.hash)
                        && basis.offers.is_empty()
                });
                in_chain
                    && sealed.is_of(membership)
                    && (seal.root, seal.count, seal.outcome, seal.closed_at) == (root, 1, Outcome::Passed, issued_at)
            })
            .cloned()
            .collect();
        certificates(&good, membership.quorum(), |_| BTreeSet::from([leave]))
    }
}

impl Poll<'_> {
    /// Who declared an interest and who left its vote to whom, as far as the charter lets it.
    fn standins<'s>(&self, said: impl Iterator<Item = &'s Anchored>) -> Standins {
        let mut standins = Standins::default();
        let mut newest: BTreeMap<MemberId, (u32, StatementId, Option<MemberId>)> = BTreeMap::new();
        let longest = self.parameters.deliberation.map_or(Seconds(0), |rules| rules.delegation_max_seconds);
        for statement in said.filter(|said| self.governs(said)).filter_map(Anchored::statement) {
            let header = statement.header();
            match statement.body() {
                Body::Recusal(_) if header.issued_at <= self.proposal.closes_at => {
                    standins.recused.insert(header.author.clone());
                }
                Body::Delegation(delegation) => {
                    let in_time = header.issued_at <= self.proposal.opens_at
                        && self.proposal.closes_at <= delegation.not_after
                        && delegation.not_after <= header.issued_at.plus(longest);
                    let found = (delegation.vseq, statement.id(), delegation.to.clone().filter(|_| in_time));
                    let known = newest.entry(header.author.clone()).or_insert_with(|| found.clone());
                    if (found.0, found.1) > (known.0, known.1) {
                        *known = found;
                    }
                }
                _ => {}
            }
        }
        for (from, (_, id, to)) in newest {
            if let Some(to) = to.filter(|to| *to != from) {
                standins.delegated.insert(id, (from, to));
            }
        }
        standins
    }
}

/// From when a box that closed at `closed_at` may be sealed: the offers are signed one grace after it, and have another
/// one to travel.
pub fn seal_from(closed_at: UnixSeconds, parameters: &Parameters) -> UnixSeconds {
    closed_at.plus(Seconds(parameters.grace_seconds.0.saturating_mul(2)))
}

type Agreement = (Slot, u32, super::BoxRoot, PolicyHash, Outcome, UnixSeconds);

/// What enough seals agree on, the largest box of the highest term first.
fn certificates(
    seals: &[Sealed<CloseSeal>],
    quorum: usize,
    entries: impl Fn(super::BoxRoot) -> BTreeSet<StatementId>,
) -> Vec<CloseCertificate> {
    let mut agreements: BTreeMap<Agreement, BTreeMap<&MemberId, StatementId>> = BTreeMap::new();
    for Sealed { id, by, seal, .. } in seals {
        let Some(basis) = &seal.basis else { continue };
        let agreement = (basis.slot, seal.count, seal.root, seal.membership_head, seal.outcome, seal.closed_at);
        agreements.entry(agreement).or_default().insert(by, *id);
    }
    let agreed = agreements.into_iter().filter(|(_, seals)| seals.len() >= quorum);
    let mut certificates: Vec<CloseCertificate> = agreed
        .map(|((slot, count, root, membership_head, outcome, closed_at), seals)| {
            let (seals, entries) = (seals.into_values().collect(), entries(root));
            CloseCertificate { slot, root, count, membership_head, outcome, closed_at, seals, entries }
        })
        .collect();
    certificates.sort_by_key(|c| std::cmp::Reverse((c.slot.term, c.count, c.root)));
    certificates
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

    /// The certificate with which `child` holds `slot`: the largest box that passed there.
    pub fn holds(&self, child: StatementId, slot: Slot) -> Option<&CloseCertificate> {
        self.certificates(child).iter().find(|c| c.slot == slot && c.outcome == Outcome::Passed)
    }

    /// What became of `slot`, as the members of `membership` have said.
    ///
    /// An operator that names a child without a certificate for that slot is not counted: an honest one has seen it, so it
    /// comes. Two children hold one slot only where operators may not lie at all (three members or fewer); then everybody
    /// is waited for.
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
            .map(|(_, signed)| signed)
            .filter(|signed| signed.is_none_or(|child| self.holds(child, slot).is_some()))
            .collect();
        if checked.len() < membership.quorum() {
            return SlotOutcome::Open;
        }
        let mut named: BTreeMap<StatementId, usize> = BTreeMap::new();
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
