//! What a fold need not read again, because nothing that it would read has changed since the fold before.
//!
//! The reading of a proposal is a function of the following, and of nothing else:
//! - what is gathered about it: itself, what people and operators said on it, and the seals on it;
//! - what is gathered about keys and delegations, which may concern every proposal;
//! - whether the entries that its offers name are held and can be read, whatever they are about;
//! - the close seals that refuse the same, where something else that proposes it was refused;
//! - the versions of the charter and of the membership that are in force: each names everything that led to it, so that the
//!   members, their logs, all charters and the rules follow from the two;
//! - whether the version that it follows was made.
//!
//! A few proposals depend on more: on other proposals, or on every entry of one member. They are read in every fold. A
//! remembered reading is thus equal to a new one, and the tests of this crate compare every state with one from scratch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cooldown::is_same;
use super::gather::{Anchored, Forked, Gathered, as_proposal};
use super::gathering::{Gathering, News};
use super::{Enactment, Memberships, PolicyHash, ProposalState, Scope, State};
use crate::body::entry::Outcome;
use crate::body::proposal::{Action, Proposal};
use crate::ids::StatementId;
use crate::log::Replica;

/// What one replica's folds remember. A clone of it has forgotten everything: it would cost as much memory as the replica.
#[derive(Debug, Default)]
pub(super) struct Memory {
    gathering: Option<Gathering>,
    readings: Readings,
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Memory {
    /// What is gathered from `replica` now, and the readings that still hold.
    pub fn renew(&mut self, replica: &Replica) -> (&Gathered, &mut Readings) {
        match self.gathering.take().and_then(|mut known| Some((known.follow(replica)?, known))) {
            Some((news, known)) => {
                self.readings.forget(&news, &known.gathered);
                (&self.gathering.insert(known).gathered, &mut self.readings)
            }
            None => {
                self.readings = Readings::default();
                (&self.gathering.insert(Gathering::of(replica, Forked::Void)).gathered, &mut self.readings)
            }
        }
    }
}

/// What the reading of a proposal depends on beside what is gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    charter: PolicyHash,
    membership: PolicyHash,
    follows: bool,
}

/// How a proposal was read last.
#[derive(Clone, Debug)]
struct Reading {
    place: Place,
    read: Arc<ProposalState>,
    /// As it was shown in the end, if other proposals make a difference to it.
    shown: Option<Arc<ProposalState>>,
}

#[derive(Debug, Default)]
struct Remembered {
    last: Option<Reading>,
    /// Whether it was enacted, wherever that was asked in this fold or the one before, and in which of the two.
    enacted: BTreeMap<Place, (bool, Option<Arc<Enactment>>)>,
}

/// The readings of all proposals.
#[derive(Debug, Default)]
pub(super) struct Readings {
    of: BTreeMap<StatementId, Remembered>,
    /// Entries that offers name and nobody here holds, with the proposals that are read anew when they come.
    awaited: BTreeMap<StatementId, BTreeSet<StatementId>>,
    /// Versions of the membership: what is settled is the same as long as these readings are kept, and all else about a
    /// version follows from its name and the time at which it settled.
    memberships: Memberships,
    /// Differs from one fold to the next.
    odd: bool,
}

/// Whether the reading of a proposal depends on nothing else than this module names.
fn is_lasting(proposal: &Proposal) -> bool {
    match &proposal.action {
        Action::CancelProposal(_) | Action::MarkDormant(_) | Action::Reactivate(_) => false,
        Action::Expel(expel) => expel.appeal.is_none(),
        _ => true,
    }
}

impl Readings {
    fn forget(&mut self, news: &News, gathered: &Gathered) {
        if news.everything {
            (self.of, self.awaited) = Default::default();
            return;
        }
        for proposal in &news.about {
            self.of.remove(proposal);
        }
        let proposes = |anchored: &Anchored| Some(anchored.statement().and_then(as_proposal)?.action.clone());
        let refused: Vec<Action> =
            news.refused.iter().filter_map(|id| gathered.proposals.get(id).and_then(proposes)).collect();
        if !refused.is_empty() {
            self.of.retain(|_, known| match &known.last {
                Some(last) => !refused.iter().any(|action| is_same(action, &last.read.proposal.action)),
                None => false,
            });
        }
        for proposal in news.entries.iter().filter_map(|entry| self.awaited.remove(entry)).flatten() {
            self.of.remove(&proposal);
        }
    }

    /// What enacted a proposal, if anything has.
    pub fn enacted(&mut self, state: &State, anchored: &Anchored, gathered: &Gathered) -> Option<Arc<Enactment>> {
        let statement = anchored.statement()?;
        let (id, proposal) = (statement.id(), as_proposal(statement)?);
        if !is_lasting(proposal) {
            return state.read_proposal(anchored, gathered)?.enacted.map(Arc::new);
        }
        let (place, odd) = (Place::of(state, proposal), self.odd);
        if let Some((seen, enacted)) = self.of.get_mut(&id).and_then(|known| known.enacted.get_mut(&place)) {
            *seen = odd;
            return enacted.clone();
        }
        let enacted = self.read(state, anchored, gathered)?.enacted.clone().map(Arc::new);
        self.of.entry(id).or_default().enacted.insert(place, (odd, enacted.clone()));
        enacted
    }

    /// A proposal, but for what others mean for it.
    pub fn read(&mut self, state: &State, anchored: &Anchored, gathered: &Gathered) -> Option<Arc<ProposalState>> {
        let statement = anchored.statement()?;
        let (id, proposal) = (statement.id(), as_proposal(statement)?);
        if !is_lasting(proposal) {
            return state.read_proposal(anchored, gathered).map(Arc::new);
        }
        let place = Place::of(state, proposal);
        let known = self.of.get(&id).and_then(|known| known.last.as_ref()).filter(|last| last.place == place);
        if let Some(known) = known {
            return Some(Arc::clone(&known.read));
        }
        let read = Arc::new(state.read_proposal(anchored, gathered)?);
        let offered: BTreeSet<_> = gathered.offers.of(&id).map(|offer| &offer.seal.entries).collect();
        for entry in offered.into_iter().flatten().filter(|entry| !state.can_read(gathered, entry)) {
            self.awaited.entry(*entry).or_default().insert(id);
        }
        let last = Reading { place, read: Arc::clone(&read), shown: None };
        self.of.entry(id).or_default().last = Some(last);
        Some(read)
    }

    /// `shown` as the fold before showed it, if it is equal but for what others mean for it, and that is equal too.
    pub fn share(&mut self, read: &Arc<ProposalState>, shown: ProposalFate) -> Arc<ProposalState> {
        if shown.is_of(read) {
            return Arc::clone(read);
        }
        let last = self.of.get_mut(&read.id).and_then(|known| known.last.as_mut());
        let mut last = last.filter(|last| Arc::ptr_eq(&last.read, read));
        if let Some(same) = last.as_ref().and_then(|last| last.shown.as_ref()).filter(|known| shown.is_of(known)) {
            return Arc::clone(same);
        }
        let shown = Arc::new(shown.put_into((**read).clone()));
        if let Some(last) = &mut last {
            last.shown = Some(Arc::clone(&shown));
        }
        shown
    }

    /// The versions of the membership that the fold before made.
    pub fn take_memberships(&mut self) -> Memberships {
        std::mem::take(&mut self.memberships)
    }

    /// Forgets what this fold, which led to `state`, has not asked for.
    pub fn end(&mut self, state: &State) {
        self.memberships.clone_from(&state.memberships);
        let odd = self.odd;
        for known in self.of.values_mut() {
            known.enacted.retain(|_, (seen, _)| *seen == odd);
        }
        self.odd = !odd;
    }
}

impl Place {
    fn of(state: &State, proposal: &Proposal) -> Self {
        let (charter, membership) = (state.head(Scope::Charter), state.head(Scope::Membership));
        Self { charter, membership, follows: state.is_version(proposal.action.scope(), &proposal.parent) }
    }
}

/// What other proposals mean for one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProposalFate {
    pub enacted: Option<Enactment>,
    pub superseded_by: Option<StatementId>,
    pub stale: bool,
    pub appealed_by: Option<StatementId>,
    pub cancelled_by: Option<StatementId>,
    pub forgotten: bool,
}

impl ProposalFate {
    fn is_of(&self, state: &ProposalState) -> bool {
        (self.superseded_by, self.stale) == (state.superseded_by, state.stale)
            && (self.appealed_by, self.cancelled_by) == (state.appealed_by, state.cancelled_by)
            && (self.forgotten, &self.enacted) == (state.forgotten, &state.enacted)
    }

    fn put_into(self, state: ProposalState) -> ProposalState {
        let Self { enacted, superseded_by, stale, appealed_by, cancelled_by, forgotten } = self;
        ProposalState { enacted, superseded_by, stale, appealed_by, cancelled_by, forgotten, ..state }
    }
}

impl State {
    /// What other proposals mean for one.
    pub(super) fn fate(
        &self,
        state: &ProposalState,
        gathered: &Gathered,
        cancelled: &BTreeMap<StatementId, StatementId>,
        forgotten: &BTreeSet<StatementId>,
    ) -> ProposalFate {
        // A certificate counts only where it made a version: see `next_enactment`.
        let child = self.child(state.proposal.scope, state.proposal.parent).and_then(|v| v.enacted.as_ref());
        let enacted = child.filter(|e| e.proposal == state.id).cloned();
        ProposalFate {
            superseded_by: child.map(|e| e.proposal).filter(|id| *id != state.id),
            stale: self.is_stale(state),
            appealed_by: self.appeal(state, gathered),
            cancelled_by: cancelled.get(&state.id).copied().filter(|_| enacted.is_none()),
            forgotten: forgotten.contains(&state.id),
            enacted,
        }
    }

    /// What was cancelled, with the first cancellation that passed.
    pub(super) fn cancelled(&self) -> BTreeMap<StatementId, StatementId> {
        let mut cancelled = BTreeMap::new();
        for state in self.proposals.values() {
            if let Action::CancelProposal(cancel) = &state.proposal.action
                && state.certificates.iter().any(|certificate| certificate.outcome == Outcome::Passed)
            {
                cancelled.entry(cancel.proposal).or_insert(state.id);
            }
        }
        cancelled
    }
}
