//! A member's own leaving: nobody votes on it, a seal quorum gives it its place.

use std::collections::{BTreeMap, BTreeSet};

use super::chain::Membership;
use super::gather::{Anchored, Gathered, Void};
use super::keys::governs;
use super::{Enactment, LeaveState, MemberStanding, State, genesis, version_hash};
use crate::body::proposal::Scope;
use crate::ids::{BoxRoot, MemberId, StatementId};
use crate::merkle;
use crate::tally::membership_quorum;

/// The box of a leaving: nothing is voted on, so the statement itself is all that is in it.
pub(crate) fn leave_root(leave: StatementId) -> BoxRoot {
    merkle::root(&BTreeSet::from([leave]))
}

impl State {
    /// Whether a leaving has no place here. Under rules 2 a later fork of its log does not take it away: evidence un-counts
    /// nothing.
    fn is_void(&self, anchored: &Anchored) -> bool {
        match anchored.anchor.void {
            Some(Void::LogForked) => self.rules < 2,
            Some(Void::OverBudget) => true,
            None => false,
        }
    }

    /// Whether a leaving has a place at which it is signed by a key that may speak for its author, which is a member.
    fn may_leave(&self, current: &Membership, anchored: &Anchored) -> bool {
        let Some(header) = anchored.statement().map(|statement| statement.header()) else { return false };
        let mut places = anchored.places().filter(|place| !self.is_void(place));
        if self.rules < 2 {
            return places.next().is_some() && current.governance(&header.author, &header.key);
        }
        current.get(&header.author).is_some() && places.any(|place| governs(&self.logs, current, place))
    }

    pub(super) fn leave_enactment(&self, anchored: &Anchored, gathered: &Gathered) -> Option<(u32, Enactment)> {
        let statement = anchored.statement()?;
        let current = self.membership()?;
        let header = statement.header();
        if !self.may_leave(current, anchored) || !current.may_part(&header.author) {
            return None;
        }
        let held = self.read_leave_seals(statement.id(), header.issued_at, gathered);
        let root = leave_root(statement.id());
        // From four members to three all that stay must sign.
        let stays_out = self.rules >= 2 && current.members.len() == 4;
        let version = version_hash(Scope::Membership, current.hash, statement.id(), root);
        let mut by_term: BTreeMap<u32, BTreeMap<&MemberId, StatementId>> = BTreeMap::new();
        for sealed in gathered.enact.of(&statement.id()) {
            let slot = sealed.seal.slot;
            let fits = (slot.scope, slot.parent) == (Scope::Membership, current.hash)
                && (sealed.seal.proposal, sealed.seal.root, sealed.seal.version) == (statement.id(), root, version)
                && (self.rules < 2 || sealed.is_of(current))
                && current.members.contains_key(&sealed.by)
                && !(stays_out && sealed.by == header.author);
            if fits {
                by_term.entry(slot.term).or_default().insert(&sealed.by, sealed.id);
            }
        }
        let (members, counted) = (current.members.len(), current.members.contains_key(&header.author));
        let quorum = membership_quorum(members, members - usize::from(counted));
        let bound = |term: u32| self.rules < 2 || held.iter().any(|certificate| certificate.slot.term == term);
        let (term, seals) = by_term.into_iter().find(|(term, seals)| seals.len() >= quorum && bound(*term))?;
        // By the founding charter: which later one was in force then, replicas could order differently.
        let founding = self.charters.get(&genesis(Scope::Charter, self.coop))?;
        let settled_at = header.issued_at.plus(founding.parameters.enact_window_seconds);
        let enact_seals = seals.into_values().collect();
        let enacted = Enactment {
            proposal: statement.id(),
            root,
            version,
            term,
            settled_at,
            close_seals: held.iter().filter(|c| c.slot.term == term).flat_map(|c| c.seals.clone()).collect(),
            enact_seals,
        };
        Some((term, enacted))
    }

    pub(super) fn read_members(&mut self, gathered: &Gathered) {
        for anchored in gathered.leaves.values() {
            let Some(statement) = anchored.statement() else { continue };
            let author = statement.author();
            let enacted = self
                .chain(Scope::Membership)
                .iter()
                .filter_map(|v| v.enacted.as_ref())
                .find(|e| e.proposal == statement.id())
                .cloned();
            let may_leave = self.membership().is_some_and(|current| self.may_leave(current, anchored));
            if enacted.is_none() && !may_leave {
                continue;
            }
            if let Some(member) = self
                .members
                .get_mut(author)
                .filter(|m| matches!(m.standing, MemberStanding::Active | MemberStanding::Dormant))
            {
                member.standing = MemberStanding::Leaving;
            }
            let leave = LeaveState {
                id: statement.id(),
                author: author.clone(),
                issued_at: statement.header().issued_at,
                certificates: self.read_leave_seals(statement.id(), statement.header().issued_at, gathered),
                enacted,
            };
            self.leaves.insert(leave.id, leave);
        }
        for member in self.members.values_mut() {
            member.last_entry = gathered.last_at.get(&member.member.keys.operator).copied();
        }
    }
}
