//! What was refused is not decided again until it has cooled down, unless nearly everybody wants it.
//!
//! Who is refused must not try again every few days until enough of the others stay away once. And nobody must be able to keep
//! something from being decided by having it refused first: in a bad moment, before a small turnout, or by taking it back.
//!
//! - A refusal is a count that rejected or vetoed. That too few took part, or that somebody was not heard, refuses nothing.
//! - Within the charter's cool-down the same needs two thirds of all electors. Fewer than a third of the owners, which is all
//!   that may lie, can thus keep nothing from the others; and whoever waits for a small turnout never has so many.
//! - What its author took back binds its author's owner alone, for otherwise anybody could propose what others want and take
//!   it back. For that owner also what is refused only after the vote has opened counts: it cannot propose the next
//!   attempt while the last one is still open. Against others only what was refused before counts, so that a vote that is
//!   open cannot be spoiled.
//! - A vote from which an interest kept somebody who is asked now has refused nothing: whoever proposes names the interests.
//! - What protects the others waits for nothing: a cancellation has hours, and a member must be suspended when it does harm,
//!   whatever was voted about it before. Emergency orders are no votes, and their repetition is barred as such. An expulsion
//!   cools down; with other evidence it is another one.
//! - The same is the same action, without who signed the application in it. Something a little different is something
//!   different: that is for the members to see in its diff.
//!
//! The refusal stands in the box: the close seals of a quorum, as enough operators held them. They need no further proof, for
//! of a quorum more are honest than may lie. So every member comes to the same, whatever else it holds.

use std::collections::{BTreeMap, BTreeSet};

use super::ballot::Poll;
use super::gather::{Gathered, as_proposal};
use super::{Membership, State};
use crate::body::charter::Class;
use crate::body::entry::{CloseSeal, Outcome, Slot};
use crate::body::proposal::{Action, Proposal};
use crate::ids::{BoxRoot, ControlGroup, MemberId, PolicyHash, StatementId, UnixSeconds};
use crate::tally::Tally;

/// That the same was refused not long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In the vote on this.
    pub by: StatementId,
    /// How.
    pub how: Outcome,
    /// A vote that opens at this time or later is free of it.
    pub until: UnixSeconds,
}

/// A refusal, and the close seals that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    refused: Refused,
    closed_at: UnixSeconds,
    quorum: usize,
    /// By their entries.
    seals: BTreeMap<StatementId, MemberId>,
}

impl Refusal {
    /// Whether `entries` show it: a quorum has sealed it there.
    fn is_shown_by(&self, entries: &BTreeSet<StatementId>) -> bool {
        let by: BTreeSet<&MemberId> =
            self.seals.iter().filter(|(seal, _)| entries.contains(*seal)).map(|(_, by)| by).collect();
        by.len() >= self.quorum
    }
}

/// Whether a close seal says that the vote refused the proposal.
pub(super) fn refuses(seal: &CloseSeal) -> bool {
    seal.basis.is_some() && is_refusal(seal.outcome)
}

fn is_refusal(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Rejected | Outcome::Vetoed | Outcome::Withdrawn)
}

/// Whether an action waits after a refusal at all.
fn cools_down(action: &Action) -> bool {
    match action.class() {
        Class::Cancel | Class::Recall | Class::Emergency => false,
        Class::Routine | Class::Economic | Class::Admit | Class::Charter | Class::Expel => true,
    }
}

pub(super) fn is_same(one: &Action, other: &Action) -> bool {
    match (one, other) {
        (Action::Admit(one), Action::Admit(other)) => {
            (&one.application.payload_type, &one.application.payload)
                == (&other.application.payload_type, &other.application.payload)
        }
        _ => one == other,
    }
}

/// Something that could be refused for having been refused before.
struct Attempt<'a> {
    id: Option<StatementId>,
    proposal: &'a Proposal,
    owner: Option<&'a ControlGroup>,
    /// A refusal that closed at this time or earlier is over.
    after: UnixSeconds,
    cool_down: crate::ids::Seconds,
}

impl Attempt<'_> {
    /// Whether it repeats `earlier`.
    fn repeats(&self, id: StatementId, earlier: &Proposal) -> bool {
        self.id != Some(id)
            && earlier.interested.is_subset(&self.proposal.interested)
            && is_same(&earlier.action, &self.proposal.action)
    }

    /// What a refusal of what it repeats, which `owner` had proposed, means for it.
    fn held_by(
        &self,
        by: StatementId,
        owner: Option<&ControlGroup>,
        how: Outcome,
        closed_at: UnixSeconds,
    ) -> Option<Refused> {
        let own = owner.is_some() && owner == self.owner;
        let recent = closed_at > self.after && (own || closed_at <= self.proposal.opens_at);
        let counts = recent && (own || how != Outcome::Withdrawn);
        counts.then_some(Refused { by, how, until: closed_at.plus(self.cool_down) })
    }
}

impl State {
    fn attempt<'a>(
        &'a self,
        id: Option<StatementId>,
        author: &MemberId,
        proposal: &'a Proposal,
    ) -> Option<Attempt<'a>> {
        let cool_down = self.numbers(proposal)?.parameters.deliberation?.cool_down_seconds;
        let owner = self.membership_version(&proposal.membership).and_then(|pinned| owner(pinned, author));
        let waits = cool_down.0 > 0 && cools_down(&proposal.action);
        waits.then(|| Attempt { id, proposal, owner, after: proposal.opens_at.minus(cool_down), cool_down })
    }

    /// What a box of `proposal` may show to have been refused, as far as it is known here.
    pub(super) fn refusals(
        &self,
        id: StatementId,
        author: &MemberId,
        proposal: &Proposal,
        gathered: &Gathered,
    ) -> Vec<Refusal> {
        let Some(attempt) = self.attempt(Some(id), author, proposal) else { return Vec::new() };
        let mut found = Vec::new();
        for earlier in &gathered.refused_proposals {
            let statement = gathered.proposals.get(earlier).and_then(|anchored| anchored.statement());
            let Some((statement, refused)) = statement.and_then(|s| Some((s, as_proposal(s)?))) else { continue };
            let Some(pinned) =
                self.membership_version(&refused.membership).filter(|_| attempt.repeats(*earlier, refused))
            else {
                continue;
            };
            let owner = owner(pinned, statement.author());
            let mut agreed: BTreeMap<Agreement, Refusal> = BTreeMap::new();
            for sealed in gathered.close.of(earlier) {
                let (seal, Some(basis)) = (&sealed.seal, &sealed.seal.basis) else { continue };
                if !refuses(seal) || !sealed.is_of(pinned) {
                    continue;
                }
                let held = attempt.held_by(*earlier, owner, seal.outcome, seal.closed_at);
                let Some(refused) = held else { continue };
                let says = (basis.slot, seal.count, seal.root, seal.membership_head, seal.outcome, seal.closed_at);
                let refusal = agreed.entry(says).or_insert_with(|| Refusal {
                    refused,
                    closed_at: seal.closed_at,
                    quorum: pinned.quorum(),
                    seals: BTreeMap::new(),
                });
                refusal.seals.insert(sealed.id, sealed.by.clone());
            }
            found.extend(agreed.into_values());
        }
        found
    }

    /// What keeps `proposal` of `author` from passing by less than two thirds of all electors, as far as it is known here.
    pub fn refused_before(&self, author: &MemberId, proposal: &Proposal) -> Option<Refused> {
        let attempt = self.attempt(None, author, proposal)?;
        let earlier = self.proposals.values().filter(|earlier| earlier.proposal != *proposal);
        let held = earlier.filter_map(|earlier| {
            let certificate = earlier.certificates.first()?;
            let how = certificate.outcome;
            let refused = earlier.rules >= 2 && is_refusal(how) && attempt.repeats(earlier.id, &earlier.proposal);
            let pinned = self.membership_version(&earlier.proposal.membership).filter(|_| refused)?;
            attempt.held_by(earlier.id, owner(pinned, &earlier.author), how, certificate.closed_at)
        });
        held.max_by_key(|refused| (refused.until, refused.by))
    }

    /// Whether what a box may name is held here, with everything that it takes to read it.
    pub(super) fn can_read(&self, gathered: &Gathered, entry: &StatementId) -> bool {
        gathered.refused.get(entry).map_or_else(
            || gathered.holds(entry),
            |earlier| {
                let statement = gathered.proposals.get(earlier).and_then(|anchored| anchored.statement());
                let refused = statement.and_then(as_proposal);
                refused.is_some_and(|refused| self.memberships.contains_key(&refused.membership))
            },
        )
    }
}

/// What close seals must share to add up; rounds may differ.
type Agreement = (Slot, u32, BoxRoot, PolicyHash, Outcome, UnixSeconds);

fn owner<'a>(pinned: &'a Membership, member: &MemberId) -> Option<&'a ControlGroup> {
    pinned.members.get(member).map(|member| &member.control_group)
}

/// Whether so many want it that no earlier refusal counts.
pub fn overrules(tally: &Tally) -> bool {
    u64::from(tally.counts.yes) * 3 >= u64::from(tally.electors) * 2 && tally.electors > 0
}

impl Poll<'_> {
    /// The seals that an operator offers: all of one refusal, the oldest, so that others offer the same.
    pub(super) fn refusal_to_offer(&self) -> BTreeSet<StatementId> {
        let all = |refusal: &Refusal| refusal.seals.keys().copied().collect::<BTreeSet<_>>();
        let shown = self.refusals.iter().filter(|refusal| refusal.is_shown_by(&all(refusal)));
        let oldest = shown.min_by_key(|refusal| (refusal.closed_at, refusal.refused.by));
        oldest.map(all).unwrap_or_default()
    }

    /// The refusal that a box with these entries shows.
    pub(super) fn refused_by(&self, entries: &BTreeSet<StatementId>) -> Option<Refused> {
        let shown = self.refusals.iter().filter(|refusal| refusal.is_shown_by(entries));
        shown.map(|refusal| refusal.refused).max_by_key(|refused| (refused.until, refused.by))
    }

    /// What a box with these entries and this count amounts to, if a refusal outweighs the count.
    pub(super) fn cooling(&self, entries: &BTreeSet<StatementId>, tally: &Tally) -> Option<Outcome> {
        let holds = !overrules(tally) && self.refused_by(entries).is_some();
        holds.then_some(Outcome::CoolDown)
    }
}
