//! Ballot boxes and slots under rules 2, where up to a third of the operators may lie.
//!
//! ```text
//! offers (one of each operator, at the close) ─▶ box: what enough of them hold ─▶ close seals that name their offers
//! ```
//!
//! A close seal counts only if its own box, outcome and time follow from the offers that it names: nobody is believed.
//! What is not held here yet makes a seal wait, never fail, so that a later entry only ever adds to what is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ballot::{BallotBox, Counted, Poll, Standins, Verdict, VoteRecord};
use super::gather::{Anchored, Gathered, Sealed};
use super::keys::{revocations, revoked};
use super::{CloseCertificate, Membership, ProposalState, State};
use crate::body::Body;
use crate::body::charter::Parameters;
use crate::body::entry::{BoxOffer, CloseSeal, Outcome, Slot};
use crate::body::proposal::Scope;
use crate::ids::{MemberId, PolicyHash, Seconds, StatementId, UnixSeconds};
use crate::merkle;
use crate::tally::faults_tolerated;

/// Votes of one author on one proposal that a box takes: enough to change one's mind, too few to fill the box.
pub const MAX_VSEQ: u32 = 15;

/// Of one author, this many numbers of votes or delegations are offered: with 100 members 600 ids, 44 KiB of 64.
const KEPT_NUMBERS: usize = 2;
/// See `KEPT_NUMBERS`: of each number.
const KEPT_OF_A_NUMBER: usize = 2;

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
    // Most operators offer the same: it is looked up once.
    let mut distinct: BTreeMap<&BTreeSet<StatementId>, usize> = BTreeMap::new();
    for offer in offers {
        *distinct.entry(&offer.entries).or_default() += 1;
    }
    let mut named: BTreeMap<StatementId, usize> = BTreeMap::new();
    for (entries, times) in distinct {
        entries.iter().for_each(|entry| *named.entry(*entry).or_default() += times);
    }
    named.into_iter().filter(|(_, count)| *count >= vouchers).map(|(entry, _)| entry).collect()
}

/// The first offer of each operator of `membership`: an operator has one, and what it says afterwards adds nothing.
fn first_offers<'a>(
    offers: impl Iterator<Item = &'a Arc<Sealed<BoxOffer>>>,
    membership: &Membership,
) -> BTreeMap<&'a MemberId, &'a Arc<Sealed<BoxOffer>>> {
    let mut first: BTreeMap<&MemberId, &Arc<Sealed<BoxOffer>>> = BTreeMap::new();
    for offer in offers.filter(|offer| offer.is_of(membership)) {
        let known = first.entry(&offer.by).or_insert(offer);
        if (offer.seq, offer.id) < (known.seq, known.id) {
            *known = offer;
        }
    }
    first
}

impl Poll<'_> {
    /// Whether what somebody said belongs into the box of `proposal`, whoever offers it. Notices and signs of life stand
    /// there beside it: an entry that shows that a member is alive may say something about another vote.
    pub(super) fn belongs(
        &self,
        gathered: &Gathered,
        proposal: StatementId,
        author: &MemberId,
        entry: StatementId,
    ) -> bool {
        let Some(statement) = gathered.said.get(&entry).and_then(|said| said.statement()) else { return false };
        let is_elector = || self.is_elector(statement.author());
        match statement.body() {
            Body::Vote(vote) => vote.proposal == proposal && vote.vseq <= MAX_VSEQ && is_elector(),
            Body::Recusal(recusal) => recusal.proposal == proposal && is_elector(),
            Body::Reply(_) => self.reply(gathered, proposal, &entry).is_some(),
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

    /// The box that an operator which holds all this would offer.
    pub(super) fn held(&self, gathered: &Gathered, proposal: StatementId, author: &MemberId) -> Boxed {
        let kept = self.belonging(gathered, proposal, author);
        let mut boxed = self.count_box(gathered, proposal, author, &kept);
        let about = gathered.about.get(&proposal).into_iter().flatten().filter(|entry| !kept.contains(*entry));
        // What was beyond its author's budget is offered by nobody, and told all the same.
        let told = gathered.votes.get(&proposal).into_iter().flat_map(BTreeMap::values);
        let beyond = told.filter(|vote| vote.anchor.void == Some(super::Void::OverBudget));
        let mut known: BTreeSet<StatementId> = boxed.records.iter().map(|record| record.id).collect();
        for anchored in about.filter_map(|entry| gathered.said.get(entry)).chain(beyond) {
            let Some(mut record) = VoteRecord::of(anchored) else { continue };
            if known.insert(record.id) {
                // What would count and is not kept has two newer ones of its author before it.
                record.verdict = match self.judge_anchored(anchored) {
                    Verdict::Counted => Verdict::Superseded,
                    verdict => verdict,
                };
                boxed.records.push(record);
            }
        }
        boxed
    }

    /// What is held here that belongs into the box: of every author the newest, so that nobody fills an offer alone.
    fn belonging(&self, gathered: &Gathered, proposal: StatementId, author: &MemberId) -> BTreeSet<StatementId> {
        let about = gathered.about.get(&proposal).into_iter().flatten().chain(&gathered.everywhere);
        let taken_back = revocations(self.logs, gathered.everywhere.iter().filter_map(|id| gathered.said.get(id)));
        let mut by_author: BTreeMap<_, Vec<(u32, StatementId, StatementId)>> = BTreeMap::new();
        for entry in about.filter(|entry| self.belongs(gathered, proposal, author, **entry)) {
            let Some(said) = gathered.said.get(entry) else { continue };
            let Some(statement) = said.statement() else { continue };
            // What a stolen key signed must not take the place of what its owner said before.
            let stands = self.governs(said) && !said.is_revoked(&taken_back);
            let vseq = match statement.body() {
                Body::Vote(vote) => vote.vseq,
                Body::Delegation(delegation) => delegation.vseq,
                _ => 0,
            };
            by_author.entry((statement.author(), statement.kind(), stands)).or_default().push((
                vseq,
                statement.id(),
                *entry,
            ));
        }
        // One of each sort is enough to show that a member lives, was told, or took a key back.
        let mut kept = self.borne(gathered, proposal);
        for mut found in by_author.into_values() {
            // Two of a number show that its author says two things; the number before may be all that others have.
            found.sort_by_key(|(vseq, id, entry)| (std::cmp::Reverse(*vseq), *id, *entry));
            let mut numbers: BTreeMap<u32, usize> = BTreeMap::new();
            for (vseq, _, entry) in found {
                if numbers.len() >= KEPT_NUMBERS && !numbers.contains_key(&vseq) {
                    break;
                }
                let of_number = numbers.entry(vseq).or_default();
                if *of_number < KEPT_OF_A_NUMBER {
                    *of_number += 1;
                    kept.insert(entry);
                }
            }
        }
        kept
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
        // An operator may anchor one vote twice: it is one vote, where it came first.
        let mut votes: BTreeMap<StatementId, &Anchored> = BTreeMap::new();
        for anchored in said.values() {
            let Some(vote) = anchored.statement().filter(|s| matches!(s.body(), Body::Vote(_))) else { continue };
            let first = votes.entry(vote.id()).or_insert(anchored);
            // In a log that was replaced, or after its key was taken back, somebody else may have anchored it anew.
            let rank = |place: &Anchored| (!self.governs(place) || place.is_revoked(&revocations), place.anchor);
            if !std::ptr::eq(*first, *anchored) && rank(anchored) < rank(first) {
                *first = anchored;
            }
        }
        let mut standins = self.standins(said.values().filter(stands).copied());
        standins.revocations = revocations.clone();
        let (counted, records) = self.count_with(votes.into_values(), &standins);
        let withdrawn = said.values().filter(stands).any(|said| {
            said.statement().is_some_and(|statement| {
                matches!(statement.body(), Body::Withdrawal(_))
                    && self.governs(said)
                    && statement.header().issued_at <= self.proposal.closes_at
            })
        });
        let Counted { closed_at, all_voted, tally, counted, stand_ins, .. } = counted;
        let (ids, root) = (entries.clone(), merkle::root(entries));
        let mut ballot = BallotBox { ids, root, closed_at, all_voted, tally, counted, stand_ins };
        let objection = self.objection(gathered, proposal, entries).or_else(|| self.cooling(entries, &ballot.tally));
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
        let (pinned, head) = (self.membership_version(&pinned)?, self.membership_version(&head)?);
        let between = self.memberships.values().filter(|m| m.number > pinned.number && m.number <= head.number);
        Some(head.number >= pinned.number + 2 || between.into_iter().any(|m| m.settled_at <= issued_at))
    }

    /// Reads what the logs say of a proposal of rules 2 into `state`; `held` is everything that belongs into its box.
    pub(super) fn read_complete(
        &self,
        state: &mut ProposalState,
        poll: &Poll<'_>,
        gathered: &Gathered,
        complete: Boxed,
    ) {
        let id = state.id;
        let offers = first_offers(gathered.offers.shared(&id), poll.membership);
        state.offers = offers.values().map(|offer| Arc::clone(offer)).collect();
        let held = complete.ballot.ids.clone();
        let enough = offers.len() >= state.quorum;
        // Until enough operators have offered, the box is what is held here, and only shown.
        let entries = if enough {
            vouched(offers.values().map(|offer| &offer.seal), vouchers(state.sealers.len()))
        } else {
            held.clone()
        };
        let boxed =
            if entries == held { complete.clone() } else { poll.count_box(gathered, id, &state.author, &entries) };
        (state.ballot, state.votes) = (boxed.ballot.clone(), complete.records.clone());
        let in_box: BTreeMap<StatementId, Verdict> = boxed.records.iter().map(|r| (r.id, r.verdict)).collect();
        for vote in &mut state.votes {
            if let Some(verdict) = in_box.get(&vote.id) {
                vote.verdict = *verdict;
            } else if enough && vote.verdict == Verdict::Counted {
                vote.verdict = Verdict::NotInBox;
            }
        }
        state.held = complete.ballot.clone();
        state.entries = held;
        state.refused = poll.refused_by(&boxed.ballot.ids);
        state.box_complete = enough && entries.iter().all(|entry| self.can_read(gathered, entry));
        state.box_outcome = self.outcome_of(state, &boxed, self.head(Scope::Membership)).unwrap_or(Outcome::Stale);
        let seals = gathered.close.shared(&id);
        let (mut good, mut boxes) = (Vec::new(), BTreeMap::new());
        // Most seals name the same offers, and most offers the same box: it is counted once.
        let mut counted: BTreeMap<&BTreeSet<StatementId>, Option<Boxed>> = BTreeMap::new();
        let known = [&complete, &boxed];
        for seal in seals.filter(|seal| seal.is_of(poll.membership)) {
            let Some(basis) = &seal.seal.basis else { continue };
            let boxed =
                counted.entry(&basis.offers).or_insert_with(|| self.boxed(state, poll, gathered, &basis.offers, known));
            let Some(boxed) = boxed.as_ref().filter(|boxed| self.follows(state, boxed, seal, basis.slot)) else {
                continue;
            };
            boxes.insert(seal.seal.root, boxed.ballot.ids.clone());
            good.push(Arc::clone(seal));
        }
        state.close_seals = good.into_iter().collect();
        state.certificates =
            certificates(state.close_seals.iter(), state.quorum, |root| boxes.get(&root).cloned().unwrap_or_default());
        let slot = state.slot();
        let enact = gathered.enact.shared(&id).filter(|s| {
            let at = s.seal.slot;
            (at.scope, at.parent) == (slot.scope, slot.parent)
                && at.term >= slot.term
                && s.seal.version == super::version_hash(slot.scope, slot.parent, id, s.seal.root)
                && s.is_of(poll.membership)
        });
        state.enact_seals = enact.cloned().collect();
        state.enacted = state.certificates.iter().find_map(|certificate| state.enacted_on(certificate));
    }

    /// The box of the offers that a close seal names, if there are enough and everything in it is held here.
    fn boxed(
        &self,
        state: &ProposalState,
        poll: &Poll<'_>,
        gathered: &Gathered,
        offers: &BTreeSet<StatementId>,
        known: [&Boxed; 2],
    ) -> Option<Boxed> {
        let named: Vec<&Sealed<BoxOffer>> =
            gathered.offers.of(&state.id).filter(|offer| offers.contains(&offer.id)).collect();
        if named.len() < offers.len() {
            return None;
        }
        let authors: BTreeSet<&MemberId> = named.iter().map(|offer| &offer.by).collect();
        let one_each = authors.len() == named.len() && named.iter().all(|offer| offer.is_of(poll.membership));
        if !one_each || authors.len() < state.quorum {
            return None;
        }
        let entries = vouched(named.iter().map(|offer| &offer.seal), vouchers(state.sealers.len()));
        if !entries.iter().all(|entry| self.can_read(gathered, entry)) {
            return None;
        }
        let same = known.into_iter().find(|boxed| boxed.ballot.ids == entries).cloned();
        Some(same.unwrap_or_else(|| poll.count_box(gathered, state.id, &state.author, &entries)))
    }

    /// Whether everything that a close seal says follows from the box of the offers that it names.
    fn follows(&self, state: &ProposalState, boxed: &Boxed, sealed: &Sealed<CloseSeal>, slot: Slot) -> bool {
        let (seal, place) = (&sealed.seal, state.slot());
        seal.root == boxed.ballot.root
            && seal.count as usize == boxed.ballot.ids.len()
            && seal.closed_at == boxed.ballot.closed_at
            && Some(seal.outcome) == self.outcome_of(state, boxed, seal.membership_head)
            && (slot.scope, slot.parent) == (place.scope, place.parent)
            && slot.term >= place.term
            && sealed.at >= seal_from(seal.closed_at, &state.parameters)
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
        let good = gathered.close.of(&leave).filter(|sealed| {
            let seal = &sealed.seal;
            let in_chain = seal.basis.as_ref().is_some_and(|basis| {
                (basis.slot.scope, basis.slot.parent) == (Scope::Membership, membership.hash) && basis.offers.is_empty()
            });
            in_chain
                && sealed.is_of(membership)
                && (seal.root, seal.count, seal.outcome, seal.closed_at) == (root, 1, Outcome::Passed, issued_at)
        });
        certificates(good, membership.quorum(), |_| BTreeSet::from([leave]))
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
fn certificates<'a>(
    seals: impl Iterator<Item = &'a Sealed<CloseSeal>>,
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
    // Of one box that passed for some and is stale for others the latter counts: they know more.
    certificates.sort_by_key(|c| std::cmp::Reverse((c.slot.term, c.count, c.root, c.outcome)));
    certificates
}
