//! What the cooperative has decided, as a function of its charter and the logs.
//!
//! [`State::fold`] reads a replica from the beginning every time: nothing that was concluded earlier can differ from
//! what a newcomer concludes. Only what is *enacted* changes behaviour; everything else is there to be explained.
//!
//! ```text
//! anchored proposals ─▶ validity ─▶ ballot box ─▶ close seals (certificate) ─▶ enact seals ─▶ version ─▶ effect
//! ```

mod ballot;
mod chain;
mod commons;
mod draft;
mod fold;
mod gather;
mod phase;
#[cfg(test)]
mod tests;
mod validity;

use std::collections::{BTreeMap, BTreeSet};

pub use ballot::{BallotBox, Verdict, VoteRecord};
pub use chain::{Enactment, Membership, Version, genesis, version_hash};
pub use commons::{Anchoring, Commons, NotAnchored, Taken};
pub(crate) use fold::leave_root;
pub use gather::{AnchorAt, Sealed, Void};
pub use phase::Phase;
pub use validity::Invalid;

use crate::body::catalogue::{Engine, ModelRelease};
use crate::body::charter::{Class, ClassRules, Parameters};
use crate::body::entry::{CloseSeal, EnactSeal, Outcome, Slot};
use crate::body::member::Member;
use crate::body::proposal::{Proposal, Scope};
use crate::ids::{
    BoxRoot, CoopId, EngineName, ManifestDigest, MemberId, PolicyHash, PublicKey, Seq, StatementId, UnixSeconds,
};

/// What a member is to the cooperative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberStanding {
    /// It votes, seals, places and hosts.
    Active,
    /// It has said that it leaves; it counts until a seal quorum has given that its place.
    Leaving,
    /// It has left.
    Left,
}

/// A member, present or past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberState {
    /// As the charter or its application describes it.
    pub member: Member,
    /// What it is.
    pub standing: MemberStanding,
    /// Where its log forked: no new work goes to it or comes from it, and what it anchors from there on is void.
    pub forked_at: Option<Seq>,
    /// The membership version with which it came.
    pub since: PolicyHash,
    /// The membership version with which it left.
    pub left: Option<PolicyHash>,
}

impl MemberState {
    /// Whether new work may go to it or come from it.
    pub fn may_work(&self) -> bool {
        self.standing != MemberStanding::Left && self.forked_at.is_none()
    }
}

/// A model that was voted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseState {
    /// The release.
    pub release: ModelRelease,
    /// The version that approved it.
    pub since: PolicyHash,
    /// The version that withdrew it.
    pub withdrawn: Option<PolicyHash>,
}

/// Close seals that agree, enough of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseCertificate {
    /// The box.
    pub root: BoxRoot,
    /// How many votes are in it.
    pub count: u32,
    /// The newest membership version that its sealers knew.
    pub membership_head: PolicyHash,
    /// What it amounts to.
    pub outcome: Outcome,
    /// When it closed.
    pub closed_at: UnixSeconds,
    /// The seals.
    pub seals: BTreeSet<StatementId>,
}

/// A proposal and everything that the logs say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalState {
    /// Its id.
    pub id: StatementId,
    /// Whose.
    pub author: MemberId,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// What it says.
    pub proposal: Proposal,
    /// The applicant, if it admits one.
    pub applicant: Option<Member>,
    /// Why it may not be voted on, if so.
    pub invalid: Option<Invalid>,
    /// The operators that seal it: the Active members of the pinned version.
    pub sealers: BTreeSet<MemberId>,
    /// How many must agree on a box.
    pub quorum: usize,
    /// How many must sign the enactment.
    pub enact_quorum: usize,
    /// The box as this replica holds it.
    pub ballot: BallotBox,
    /// Every vote on it, and what became of it.
    pub votes: Vec<VoteRecord>,
    /// The close seals of its sealers.
    pub close_seals: Vec<Sealed<CloseSeal>>,
    /// The enact seals of its sealers.
    pub enact_seals: Vec<Sealed<EnactSeal>>,
    /// Boxes that enough sealers agree on, the largest first.
    pub certificates: Vec<CloseCertificate>,
    /// Its enactment.
    pub enacted: Option<Enactment>,
    /// What was enacted in its place.
    pub superseded_by: Option<StatementId>,
    /// Whether the membership moved on too far for it.
    pub stale: bool,
}

impl ProposalState {
    /// Where in its chain it would be enacted.
    pub fn slot(&self) -> Slot {
        Slot { scope: self.proposal.scope, parent: self.proposal.parent, term: self.proposal.term }
    }

    /// When it takes effect if its box closed at `closed_at`.
    pub fn eta(&self, closed_at: UnixSeconds) -> UnixSeconds {
        closed_at.plus(self.proposal.eta.since(self.proposal.closes_at))
    }

    /// The last close seal that `member` signed on it.
    pub fn last_close_seal(&self, member: &MemberId) -> Option<&Sealed<CloseSeal>> {
        self.close_seals.iter().filter(|s| s.by == *member).max_by_key(|s| (s.seal.round, s.seq))
    }
}

/// A member's wish to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaveState {
    /// The statement.
    pub id: StatementId,
    /// Who leaves.
    pub author: MemberId,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// Its enactment.
    pub enacted: Option<Enactment>,
}

/// Something that an honest operator does not do; kept to be shown, and to be voted on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Two close seals of one round that differ.
    TwoCloseSeals {
        /// Whose.
        member: MemberId,
        /// On what.
        proposal: StatementId,
        /// One seal.
        first: StatementId,
        /// The other.
        second: StatementId,
    },
    /// Two enact seals for one slot that differ.
    TwoEnactSeals {
        /// Whose.
        member: MemberId,
        /// The chain.
        scope: Scope,
        /// One seal.
        first: StatementId,
        /// The other.
        second: StatementId,
    },
}

/// What the cooperative has decided, and what is being decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    coop: CoopId,
    parameters: Parameters,
    classes: BTreeMap<Class, ClassRules>,
    chains: BTreeMap<Scope, Vec<Version>>,
    memberships: BTreeMap<PolicyHash, Membership>,
    members: BTreeMap<MemberId, MemberState>,
    releases: BTreeMap<ManifestDigest, ReleaseState>,
    engines: BTreeMap<EngineName, Engine>,
    proposals: BTreeMap<StatementId, ProposalState>,
    leaves: BTreeMap<StatementId, LeaveState>,
    enact_seals: Vec<Sealed<EnactSeal>>,
    stray_votes: Vec<(StatementId, VoteRecord)>,
    faults: BTreeSet<Fault>,
}

impl State {
    /// The cooperative.
    pub fn coop(&self) -> CoopId {
        self.coop
    }
    /// The periods and limits in force.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }
    /// How a class decides.
    pub fn class(&self, class: Class) -> Option<&ClassRules> {
        self.classes.get(&class)
    }
    /// Members, present and past.
    pub fn members(&self) -> &BTreeMap<MemberId, MemberState> {
        &self.members
    }
    /// One member.
    pub fn member(&self, id: &MemberId) -> Option<&MemberState> {
        self.members.get(id)
    }
    /// The member whose operator key this is, if it is one now.
    pub fn member_by_operator(&self, key: &PublicKey) -> Option<&MemberState> {
        self.members.values().find(|m| m.member.keys.operator == *key && m.standing != MemberStanding::Left)
    }
    /// The newest membership version.
    pub fn membership(&self) -> Option<&Membership> {
        self.memberships.get(&self.head(Scope::Membership))
    }
    /// Members of the newest version.
    pub fn active(&self) -> impl Iterator<Item = &Member> {
        self.membership().into_iter().flat_map(|m| m.members.values())
    }
    /// How many members must seal, and be heard for a member not to be isolated.
    pub fn quorum(&self) -> usize {
        self.membership().map_or(1, Membership::quorum)
    }
    /// The newest version of a scope.
    pub fn head(&self, scope: Scope) -> PolicyHash {
        self.chain(scope).last().map_or_else(|| genesis(scope, self.coop), |version| version.hash)
    }
    /// The newest version of every scope.
    pub fn heads(&self) -> BTreeMap<Scope, PolicyHash> {
        Scope::ALL.into_iter().map(|scope| (scope, self.head(scope))).collect()
    }
    /// The versions of a scope, the charter's first.
    pub fn chain(&self, scope: Scope) -> &[Version] {
        self.chains.get(&scope).map_or(&[], Vec::as_slice)
    }
    /// One version of any scope.
    pub fn version(&self, hash: &PolicyHash) -> Option<&Version> {
        self.chains.values().flatten().find(|version| version.hash == *hash)
    }
    /// Models that were voted on.
    pub fn releases(&self) -> &BTreeMap<ManifestDigest, ReleaseState> {
        &self.releases
    }
    /// A model that may be placed.
    pub fn release(&self, digest: &ManifestDigest) -> Option<&ModelRelease> {
        self.releases.get(digest).filter(|r| r.withdrawn.is_none()).map(|r| &r.release)
    }
    /// The engine catalogue.
    pub fn engines(&self) -> &BTreeMap<EngineName, Engine> {
        &self.engines
    }
    /// Proposals that were anchored.
    pub fn proposals(&self) -> &BTreeMap<StatementId, ProposalState> {
        &self.proposals
    }
    /// Members' wishes to leave.
    pub fn leaves(&self) -> &BTreeMap<StatementId, LeaveState> {
        &self.leaves
    }
    /// Votes on proposals that are not known here, or not valid.
    pub fn stray_votes(&self) -> &[(StatementId, VoteRecord)] {
        &self.stray_votes
    }
    /// What honest operators do not do.
    pub fn faults(&self) -> &BTreeSet<Fault> {
        &self.faults
    }
    /// Every enact seal of a present or past member.
    pub fn enact_seals(&self) -> &[Sealed<EnactSeal>] {
        &self.enact_seals
    }
    /// Where a vote went: its proposal, and its record.
    pub fn vote(&self, id: &StatementId) -> Option<(StatementId, &VoteRecord)> {
        let counted = self.proposals.values().flat_map(|p| p.votes.iter().map(|v| (p.id, v)));
        counted.chain(self.stray_votes.iter().map(|(p, v)| (*p, v))).find(|(_, v)| v.id == *id)
    }
    /// Applicants whose admission is neither decided nor invalid at `now`, with the proposals.
    pub fn applicants(&self, now: UnixSeconds) -> Vec<(&Member, StatementId)> {
        let open = self.proposals.values().filter(|p| !self.phase(p, now).is_final());
        open.filter_map(|p| Some((p.applicant.as_ref()?, p.id))).collect()
    }
}
