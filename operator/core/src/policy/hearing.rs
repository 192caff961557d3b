//! What a decision about a member rests on beside the votes: its signs of life, its reply, and that it was told.
//!
//! Such entries are part of the ballot box, so that operators that hold different logs still agree on what the box says.

use std::collections::{BTreeMap, BTreeSet};

use super::ballot::{BallotBox, Poll};
use super::chain::Why;
use super::gather::{Anchored, Gathered, Void, as_proposal};
use super::keys::{Logs, governs, in_force};
use super::validity::{Invalid, Known};
use super::{ProposalState, State};
use crate::body::Body;
use crate::body::charter::ClassRules;
use crate::body::entry::Outcome;
use crate::body::hearing::{Appeal, EvidenceRef, MAX_EVIDENCE, Notice};
use crate::body::proposal::{Action, Expel};
use crate::ids::{Digest, MemberId, PublicKey, Seconds, StatementId, UnixSeconds};
use crate::log::{Entry, Replica, Standing};
use crate::statement::{Position, Statement};

/// An entry in the log of a member that may have fallen silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sign {
    by: MemberId,
    log: PublicKey,
    at: UnixSeconds,
    /// The time of the entry that it follows.
    before: Option<UnixSeconds>,
}

/// What an appeal is about: an expulsion of its author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Appealed {
    member: MemberId,
    eta: UnixSeconds,
    is_first: bool,
}

impl Gathered {
    /// The appeals that are about something and signed by who may speak for their author, by their ids.
    pub(super) fn appealed(&self, logs: &Logs) -> BTreeMap<StatementId, Appealed> {
        let about = |target: &StatementId| {
            let proposal = self.proposals.get(target).and_then(|anchored| as_proposal(anchored.statement()?))?;
            let Action::Expel(expel) = &proposal.action else { return None };
            Some(Appealed { member: expel.member.clone(), eta: proposal.eta, is_first: expel.appeal.is_none() })
        };
        let mut appealed = BTreeMap::new();
        for (target, appeals) in &self.appeals {
            let Some(about) = about(target) else { continue };
            let own = appeals.iter().filter(|(_, anchored)| {
                let Some(header) = anchored.statement().map(Statement::header) else { return false };
                let signed =
                    |place: &Anchored| in_force(logs, place).is_some_and(|set| set.governance.contains(&header.key));
                let within_budget = |place: &&Anchored| place.anchor.void != Some(Void::OverBudget);
                header.author == about.member && anchored.places().filter(within_budget).any(signed)
            });
            appealed.extend(own.map(|(id, _)| (*id, about.clone())));
        }
        appealed
    }

    /// Notes the entries of the members whose silence is voted on; of all others they would only cost memory.
    pub(super) fn note_signs(&mut self, replica: &Replica) {
        let proposals = self.proposals.values().filter_map(|anchored| as_proposal(anchored.statement()?));
        let about = proposals.filter_map(|proposal| match &proposal.action {
            Action::MarkDormant(mark) => Some(mark.member.clone()),
            Action::Reactivate(wake) => Some(wake.member.clone()),
            _ => None,
        });
        self.watched = about.collect();
        let watched = self.watched.clone();
        for (log, owner) in replica.logs().filter(|(_, owner)| watched.contains(*owner)) {
            let mut times: BTreeMap<Digest, UnixSeconds> = BTreeMap::new();
            let entries = replica.all(log).filter(|entry| entry.standing == Standing::Valid);
            let mut entries: Vec<&Entry> = entries.collect();
            entries.sort_by_key(|entry| (entry.seq(), entry.id()));
            for entry in entries {
                let Position::Log { prev, .. } = *entry.statement.position() else { continue };
                times.insert(entry.id().0, entry.statement.header().issued_at);
                self.note_sign(entry, log, owner, times.get(&prev).copied());
            }
        }
    }

    /// Notes an entry that follows one of the time `before`.
    pub(super) fn note_sign(&mut self, entry: &Entry, log: &PublicKey, owner: &MemberId, before: Option<UnixSeconds>) {
        let at = entry.statement.header().issued_at;
        self.signs.insert(entry.id(), Sign { by: owner.clone(), log: *log, at, before });
    }

    /// Whether what a box may name is held here.
    pub(super) fn holds(&self, entry: &StatementId) -> bool {
        self.said.contains_key(entry) || self.signs.contains_key(entry) || self.notices.contains_key(entry)
    }
}

impl Poll<'_> {
    /// Whose sign of life counts, and from when on.
    fn awaited(&self) -> Option<(&MemberId, UnixSeconds)> {
        match &self.proposal.action {
            Action::MarkDormant(mark) => {
                let silence = self.parameters.deliberation?.members.dormant_after_seconds;
                Some((&mark.member, self.proposal.opens_at.minus(silence)))
            }
            Action::Reactivate(wake) => match self.membership.aside.get(&wake.member)?.why {
                Why::Dormant { since } => Some((&wake.member, since)),
                Why::Probation { .. } => None,
            },
            _ => None,
        }
    }

    /// Whether `entry` is the sign of life that is awaited. The first entry after the silence is enough: all that follow it
    /// would only fill the box.
    fn is_sign(&self, gathered: &Gathered, entry: &StatementId) -> bool {
        let (Some(sign), Some((member, since))) = (gathered.signs.get(entry), self.awaited()) else { return false };
        let is_own = self.membership.get(member).is_some_and(|member| member.keys.operator == sign.log);
        sign.by == *member && is_own && sign.at > since && sign.before.is_none_or(|before| before <= since)
    }

    /// Whether the box is about more than votes at all: most are not.
    fn asks_for_more(&self) -> bool {
        matches!(self.proposal.action, Action::Expel(_) | Action::MarkDormant(_) | Action::Reactivate(_))
    }

    /// The operators' entries held here that belong into the box: of each operator the first.
    pub(super) fn borne(&self, gathered: &Gathered, proposal: StatementId) -> BTreeSet<StatementId> {
        if !self.asks_for_more() {
            return self.refusal_to_offer();
        }
        let mut told: BTreeMap<&MemberId, (UnixSeconds, StatementId)> = BTreeMap::new();
        for entry in gathered.notices.keys() {
            if let Some((by, at)) = self.notice(gathered, proposal, entry) {
                let first = told.entry(by).or_insert((at, *entry));
                *first = (*first).min((at, *entry));
            }
        }
        let signs = gathered.signs.keys().filter(|entry| self.is_sign(gathered, entry)).copied();
        told.into_values().map(|(_, entry)| entry).chain(signs).chain(self.refusal_to_offer()).collect()
    }

    /// When the member that is to be expelled replied, if `entry` is its reply.
    pub(super) fn reply(&self, gathered: &Gathered, proposal: StatementId, entry: &StatementId) -> Option<UnixSeconds> {
        let (Action::Expel(expel), said) = (&self.proposal.action, gathered.said.get(entry)?) else { return None };
        let statement = said.statement()?;
        let is_reply = matches!(statement.body(), Body::Reply(reply) if reply.proposal == proposal);
        (is_reply && *statement.author() == expel.member && self.governs(said)).then_some(said.anchor.at)
    }

    /// Whose notice `entry` is, and of when: the member's own operator has it, the others sent it or tried.
    fn notice<'g>(
        &self,
        gathered: &'g Gathered,
        proposal: StatementId,
        entry: &StatementId,
    ) -> Option<(&'g MemberId, UnixSeconds)> {
        let (Action::Expel(expel), sealed) = (&self.proposal.action, gathered.notices.get(entry)?) else { return None };
        let own = (sealed.by == expel.member) == (sealed.seal.notice == Notice::Received);
        let counts = sealed.seal.proposal == proposal && own && sealed.is_of(self.membership);
        counts.then_some((&sealed.by, sealed.at))
    }

    /// Since when the member that is to be expelled counts as heard by `entries`: since its reply, or since as many
    /// operators as must seal have told it or tried.
    fn heard_at(
        &self,
        gathered: &Gathered,
        proposal: StatementId,
        entries: &BTreeSet<StatementId>,
    ) -> Option<UnixSeconds> {
        let reply = entries.iter().filter_map(|entry| self.reply(gathered, proposal, entry)).min();
        let mut told: BTreeMap<&MemberId, UnixSeconds> = BTreeMap::new();
        for (by, at) in entries.iter().filter_map(|entry| self.notice(gathered, proposal, entry)) {
            let first = told.entry(by).or_insert(at);
            *first = (*first).min(at);
        }
        let mut told: Vec<UnixSeconds> = told.into_values().collect();
        told.sort_unstable();
        let enough = told.get(self.membership.quorum().saturating_sub(1)).copied();
        reply.into_iter().chain(enough).min()
    }

    /// Where a box closes as soon as all have voted, it closes no earlier than the member is heard.
    pub(super) fn await_hearing(
        &self,
        gathered: &Gathered,
        proposal: StatementId,
        entries: &BTreeSet<StatementId>,
        ballot: &mut BallotBox,
    ) {
        let first_vote = matches!(&self.proposal.action, Action::Expel(expel) if expel.appeal.is_none());
        if !first_vote || !ballot.all_voted {
            return;
        }
        let heard_at = self.heard_at(gathered, proposal, entries);
        ballot.all_voted = heard_at.is_some();
        ballot.closed_at = heard_at.map_or(self.proposal.closes_at, |at| ballot.closed_at.max(at));
        ballot.closed_at = ballot.closed_at.min(self.proposal.closes_at);
    }

    /// What keeps a box with these entries from deciding anything, whatever the votes say.
    pub(super) fn objection(
        &self,
        gathered: &Gathered,
        proposal: StatementId,
        entries: &BTreeSet<StatementId>,
    ) -> Option<Outcome> {
        let has_sign = || entries.iter().any(|entry| self.is_sign(gathered, entry));
        match &self.proposal.action {
            Action::MarkDormant(_) if has_sign() => Some(Outcome::Refuted),
            Action::Reactivate(_) if !has_sign() => Some(Outcome::Unheard),
            // Before a second vote it was heard by its appeal.
            Action::Expel(expel) if expel.appeal.is_none() => {
                let heard = self.heard_at(gathered, proposal, entries).is_some();
                (!heard).then_some(Outcome::Unheard)
            }
            _ => None,
        }
    }
}

/// Whether somebody can know what a proposal or an appeal rests on.
pub(super) fn judge_evidence(evidence: &[EvidenceRef]) -> Result<(), Invalid> {
    if (1..=MAX_EVIDENCE).contains(&evidence.len()) { Ok(()) } else { Err(Invalid::Evidence(evidence.len())) }
}

/// Whether a proposal may be the second vote on what `appeal` is about.
pub(super) fn judge_second_vote(
    known: &Known<'_>,
    statement: &Statement,
    expel: &Expel,
    appeal: StatementId,
) -> Result<(), Invalid> {
    let target = (known.appeal)(appeal).ok_or(Invalid::UnknownTarget(appeal))?;
    let is_first = target.is_first && target.member == expel.member;
    let in_time = statement.header().issued_at <= target.eta;
    if is_first && in_time { Ok(()) } else { Err(Invalid::NoSecondVote(appeal)) }
}

/// The periods of a proposal of a class: a second vote takes place within the time in which the first one would have taken
/// effect, and has an effect at once.
pub(super) fn pace(rules: &ClassRules, action: &Action) -> ClassRules {
    match action {
        Action::Expel(expel) if expel.appeal.is_some() => ClassRules {
            delay_seconds: Seconds(0),
            period_seconds: Seconds(rules.timelock_seconds.0.max(1)),
            timelock_seconds: Seconds(0),
            ..*rules
        },
        _ => *rules,
    }
}

impl State {
    /// The appeal against a proposal that keeps it from taking effect: the first one with anything new, made in time.
    pub(super) fn appeal(&self, state: &ProposalState, gathered: &Gathered) -> Option<StatementId> {
        let Action::Expel(expel) = &state.proposal.action else { return None };
        let pinned = self.membership_version(&state.proposal.membership).filter(|_| expel.appeal.is_none())?;
        let eta = state.certificates.first().map_or(state.proposal.eta, |certificate| state.eta(certificate.closed_at));
        let appeals = gathered.appeals.get(&state.id).into_iter().flatten();
        let good = appeals.filter(|(_, anchored)| {
            let Some(statement) = anchored.statement() else { return false };
            let Body::Appeal(appeal) = statement.body() else { return false };
            *statement.author() == expel.member && has_news(appeal, expel)
        });
        let made = good.flat_map(|(id, anchored)| anchored.places().map(|place| (place, *id)));
        let in_time = made.filter(|(place, _)| {
            let within_budget = place.anchor.void != Some(Void::OverBudget);
            within_budget && place.anchor.at <= eta && governs(&self.logs, pinned, place)
        });
        in_time.map(|(place, id)| (place.anchor.at, id)).min().map(|(_, id)| id)
    }

    /// Whether an appeal of `author` would be heard, if anchored at `now`.
    pub(super) fn may_appeal(&self, author: &MemberId, appeal: &Appeal, now: UnixSeconds) -> bool {
        let Some(state) = self.proposals.get(&appeal.proposal) else { return false };
        let Action::Expel(expel) = &state.proposal.action else { return false };
        let is_queued = matches!(self.phase(state, now), super::Phase::Queued { eta, .. } if now <= eta);
        is_queued && expel.member == *author && expel.appeal.is_none() && has_news(appeal, expel)
    }
}

/// Whether an appeal names something that the proposal does not.
pub(super) fn has_news(appeal: &Appeal, expel: &Expel) -> bool {
    judge_evidence(&appeal.evidence).is_ok() && appeal.evidence.iter().any(|piece| !expel.evidence.contains(piece))
}
