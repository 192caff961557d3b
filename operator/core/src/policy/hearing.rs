//! What a decision about a member rests on beside the votes: its signs of life.
//!
//! Such entries are part of the ballot box, so that operators that hold different logs still agree on what the box says.

use std::collections::{BTreeMap, BTreeSet};

use super::ballot::Poll;
use super::chain::Why;
use super::gather::{Gathered, as_proposal};
use crate::body::entry::Outcome;
use crate::body::proposal::Action;
use crate::ids::{Digest, MemberId, PublicKey, StatementId, UnixSeconds};
use crate::log::{Entry, Replica, Standing};
use crate::statement::Position;

/// An entry in the log of a member that may have fallen silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sign {
    by: MemberId,
    log: PublicKey,
    at: UnixSeconds,
    /// The time of the entry that it follows.
    before: Option<UnixSeconds>,
}

impl Gathered {
    /// Notes the entries of the members whose silence is voted on; of all others they would only cost memory.
    pub(super) fn note_signs(&mut self, replica: &Replica) {
        let proposals = self.proposals.values().filter_map(|anchored| as_proposal(anchored.statement()?));
        let about = proposals.filter_map(|proposal| match &proposal.action {
            Action::MarkDormant(mark) => Some(mark.member.clone()),
            Action::Reactivate(wake) => Some(wake.member.clone()),
            _ => None,
        });
        let about: BTreeSet<MemberId> = about.collect();
        for (log, owner) in replica.logs().filter(|(_, owner)| about.contains(*owner)) {
            let mut times: BTreeMap<Digest, UnixSeconds> = BTreeMap::new();
            let entries = replica.all(log).filter(|entry| entry.standing == Standing::Valid);
            let mut entries: Vec<&Entry> = entries.collect();
            entries.sort_by_key(|entry| (entry.seq(), entry.id()));
            for entry in entries {
                let Position::Log { prev, .. } = *entry.statement.position() else { continue };
                let at = entry.statement.header().issued_at;
                times.insert(entry.id().0, at);
                let before = times.get(&prev).copied();
                self.signs.insert(entry.id(), Sign { by: owner.clone(), log: *log, at, before });
            }
        }
    }

    /// Whether what a box may name is held here.
    pub(super) fn holds(&self, entry: &StatementId) -> bool {
        self.said.contains_key(entry) || self.signs.contains_key(entry)
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

    /// Whether `entry` belongs into the box for what it says beside the votes.
    pub(super) fn bears(&self, gathered: &Gathered, entry: &StatementId) -> bool {
        self.is_sign(gathered, entry)
    }

    /// What keeps a box with these entries from deciding anything, whatever the votes say.
    pub(super) fn objection(&self, gathered: &Gathered, entries: &BTreeSet<StatementId>) -> Option<Outcome> {
        let has_sign = || entries.iter().any(|entry| self.is_sign(gathered, entry));
        match &self.proposal.action {
            Action::MarkDormant(_) if has_sign() => Some(Outcome::Refuted),
            Action::Reactivate(_) if !has_sign() => Some(Outcome::Unheard),
            _ => None,
        }
    }
}
