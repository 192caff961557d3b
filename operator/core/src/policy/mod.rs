//! What the cooperative has decided, as a function of its charter and the logs.
//!
//! [`State::fold`] reads a replica from the beginning every time: nothing that was concluded earlier can differ from
//! what a newcomer concludes. Only what is *enacted* changes behaviour; everything else is there to be explained.
//!
//! ```text
//! anchored proposals ─▶ validity ─▶ ballot box ─▶ close seals (certificate) ─▶ enact seals ─▶ version ─▶ effect
//! ```

mod ancestry;
mod ballot;
mod chain;
mod checkpoint;
mod commons;
mod complete;
mod cooldown;
mod draft;
mod emergency;
mod farewell;
mod fold;
mod gather;
mod gathering;
mod hearing;
mod keys;
mod later;
mod leave;
mod phase;
mod quarantine;
mod readings;
mod said;
mod shared;
mod shown;
mod slots;
mod standing;
#[cfg(test)]
mod tests;
mod validity;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use ballot::{BallotBox, Verdict, VoteRecord};
pub use chain::{Aside, Enactment, Membership, Version, Why, genesis, version_hash};
pub use checkpoint::NotSettled;
pub use commons::{Anchoring, Commons, NotAnchored, NotRecalled, Taken};
pub use complete::{MAX_VSEQ, seal_from, vouched, vouchers};
pub use cooldown::{Refused, overrules};
pub use emergency::{EmergencyState, OrderProblem, Suspension, co_signers};
pub use gather::{AnchorAt, Sealed, Void};
pub use keys::{KeyChange, KeyProblem, KeySet, LogKeys};
pub(crate) use leave::leave_root;
pub use phase::Phase;
pub use quarantine::{Offence, Proof};
pub(crate) use quarantine::{close_offences, enact_offence};
pub use said::Said;
pub use shared::{AllSeals, Proposals, ProposalsIter, Seals};
pub use shown::{DelegationFate, Electorate, Heard, StandIn, Through, applicant};
pub use slots::{Hold, SlotOutcome};
pub use validity::Invalid;
pub use work::{Halted, Utc, usable_on_probation};

use hearing::Appealed;

use crate::body::catalogue::{Engine, ModelRelease};
use crate::body::charter::{Class, ClassRules, Parameters};
use crate::body::entry::{BoxOffer, CloseSeal, EnactSeal, Outcome, Slot, SlotStatus};
use crate::body::hearing::NoticeSent;
use crate::body::member::Member;
use crate::body::norms::{AuditRate, OperatorRelease, PlacementRules, Prices, Shares};
use crate::body::proposal::{Action, Proposal, Scope};
use crate::ids::{
    BoxRoot, CoopId, Digest, EngineName, ManifestDigest, MemberId, PolicyHash, PublicKey, Seq, StatementId, UnixSeconds,
};

/// What a member is to the cooperative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberStanding {
    /// It votes, seals, places and hosts.
    Active,
    /// It is new: it places and hosts within limits, and neither votes nor seals until it is confirmed.
    Probationary,
    /// It had fallen silent: it neither votes nor seals until a vote counts it again.
    Dormant,
    /// It has said that it leaves; it counts until a seal quorum has given that its place.
    Leaving,
    /// It has left.
    Left,
    /// The others have expelled it.
    Expelled,
}

impl MemberStanding {
    /// Whether it is no member any more.
    pub fn is_gone(self) -> bool {
        matches!(self, Self::Left | Self::Expelled)
    }
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
    /// Proofs against its operator that no vote has lifted, by their names.
    pub quarantine: BTreeMap<Digest, Proof>,
    /// The version that suspended it, while it is: it does no new work, and speaks, votes and seals.
    pub suspended: Option<PolicyHash>,
    /// When its operator wrote its newest log entry, by its own clock.
    pub last_entry: Option<UnixSeconds>,
    /// The membership version with which it came.
    pub since: PolicyHash,
    /// The membership version with which it left.
    pub left: Option<PolicyHash>,
}

impl MemberState {
    /// Whether new work may go to it or come from it, as far as votes and proofs say; orders end by the clock, see
    /// [`State::halted`].
    pub fn may_work(&self) -> bool {
        !self.standing.is_gone() && self.quarantine.is_empty() && self.suspended.is_none()
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
    /// Where it would be enacted.
    pub slot: Slot,
    /// What is in the box, under rules 2.
    pub entries: BTreeSet<StatementId>,
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
    /// The rules by which it is judged.
    pub rules: u32,
    /// The charter's numbers for it.
    pub parameters: Parameters,
    /// The operators that seal it: the Active members of the pinned version.
    pub sealers: BTreeSet<MemberId>,
    /// How many must agree on a box.
    pub quorum: usize,
    /// How many must sign the enactment.
    pub enact_quorum: usize,
    /// The box as this replica holds it; under rules 2 what enough offers name, once there are enough.
    pub ballot: BallotBox,
    /// Everything held here that belongs into the box: what an operator offers (rules 2).
    pub held: BallotBox,
    /// See `held`.
    pub entries: BTreeSet<StatementId>,
    /// The operators' offers (rules 2).
    pub offers: Seals<BoxOffer>,
    /// Whether there are enough offers, and everything that they put into the box is held here (rules 2).
    pub box_complete: bool,
    /// What the box amounts to by the newest membership that is known here (rules 2).
    pub box_outcome: Outcome,
    /// Every vote on it, and what became of it.
    pub votes: Vec<VoteRecord>,
    /// The close seals of its sealers.
    pub close_seals: Seals<CloseSeal>,
    /// The enact seals of its sealers.
    pub enact_seals: Seals<EnactSeal>,
    /// Boxes that enough sealers agree on, the largest first.
    pub certificates: Vec<CloseCertificate>,
    /// Its enactment.
    pub enacted: Option<Enactment>,
    /// What was enacted in its place.
    pub superseded_by: Option<StatementId>,
    /// Whether the membership moved on too far for it.
    pub stale: bool,
    /// That the same was refused not long ago, as its box shows (rules 2).
    pub refused: Option<Refused>,
    /// The appeal against it that came before it took effect: it is voted on once more.
    pub appealed_by: Option<StatementId>,
    /// What cancelled it.
    pub cancelled_by: Option<StatementId>,
    /// It was over when a checkpoint settled it, and what was said and sealed of it was forgotten here.
    pub forgotten: bool,
}

impl ProposalState {
    /// Whether the votes that were counted are not here, so that nothing can be said of how it was counted: they lie
    /// below a checkpoint and were forgotten, or have not arrived.
    pub fn lacks_its_box(&self) -> bool {
        let is_remembered = self.enacted.as_ref().is_some_and(|enacted| enacted.enact_seals.is_empty());
        is_remembered
            || self.forgotten
            || self.certificates.first().is_some_and(|certificate| certificate.root != self.ballot.root)
    }

    /// Whether a checkpoint has settled it and nothing that is in force came of it: what it was is known from the whole history.
    pub fn is_settled(&self) -> bool {
        self.forgotten && self.enacted.is_none()
    }

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
    /// The seals that bind a slot to it (rules 2).
    pub certificates: Vec<CloseCertificate>,
    /// Its enactment.
    pub enacted: Option<Enactment>,
}

/// What is in force for all work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Norms {
    /// Where work for other members may run.
    pub placement: PlacementRules,
    /// How much of the others' GPUs one member may hold.
    pub shares: Shares,
    /// What work costs.
    pub prices: Prices,
    /// How much of what is served is checked.
    pub audit_rate: AuditRate,
    /// The release of the operator that members are asked to run.
    pub operator_release: Option<OperatorRelease>,
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

/// The numbers of one charter version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Periods and limits.
    pub parameters: Parameters,
    /// How each class decides.
    pub classes: BTreeMap<Class, ClassRules>,
    /// The rules that are in force with it.
    pub rules: u32,
}

/// Versions of the membership, shared between folds: with a hundred members making them anew costs more than the rest.
type Memberships = BTreeMap<PolicyHash, Arc<Membership>>;

/// What the cooperative has decided, and what is being decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    coop: CoopId,
    rules: u32,
    parameters: Parameters,
    classes: BTreeMap<Class, ClassRules>,
    charters: BTreeMap<PolicyHash, Numbers>,
    chains: BTreeMap<Scope, Vec<Version>>,
    /// Where in its chain each version stands.
    numbered: BTreeMap<(Scope, PolicyHash), usize>,
    memberships: Memberships,
    /// What the fold before made, while this one goes on.
    made_before: Memberships,
    members: BTreeMap<MemberId, MemberState>,
    releases: BTreeMap<ManifestDigest, ReleaseState>,
    engines: BTreeMap<EngineName, Engine>,
    proposals: Proposals,
    leaves: BTreeMap<StatementId, LeaveState>,
    emergencies: BTreeMap<StatementId, EmergencyState>,
    norms: Norms,
    /// Proofs that votes have lifted.
    lifted: BTreeMap<MemberId, BTreeSet<Digest>>,
    /// Appeals, and what they are about.
    appeals: BTreeMap<StatementId, Appealed>,
    box_offers: AllSeals<BoxOffer>,
    close_seals: AllSeals<CloseSeal>,
    enact_seals: AllSeals<EnactSeal>,
    slot_statuses: Vec<Sealed<SlotStatus>>,
    notices: Vec<Sealed<NoticeSent>>,
    stray_votes: Vec<(StatementId, VoteRecord)>,
    faults: BTreeSet<Fault>,
    logs: BTreeMap<PublicKey, LogKeys>,
    /// The governance keys in force at the end of each log.
    key_sets: BTreeMap<PublicKey, KeySet>,
    /// Every governance key that was in force anywhere in each log.
    keys_ever: BTreeMap<PublicKey, BTreeSet<PublicKey>>,
    /// Proposed checkpoints that are what remains of the entries up to them, as found here.
    settleable_proposals: BTreeSet<StatementId>,
    key_changes: BTreeMap<StatementId, KeyChange>,
    /// Whose logs hold what follows rules that this release cannot decide by.
    later_rules: BTreeMap<u32, BTreeSet<MemberId>>,
}

impl State {
    /// The cooperative.
    pub fn coop(&self) -> CoopId {
        self.coop
    }
    /// The rules in force.
    pub fn rules(&self) -> u32 {
        self.rules
    }
    /// The periods and limits in force.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }
    /// How a class decides.
    pub fn class(&self, class: Class) -> Option<&ClassRules> {
        self.classes.get(&class)
    }
    /// Whether `proposal` is no checkpoint, or one that is what remains of the entries up to it. Nobody seals another one.
    pub fn settles_rightly(&self, proposal: &ProposalState) -> bool {
        !matches!(proposal.proposal.action, Action::Checkpoint(_)) || self.settleable_proposals.contains(&proposal.id)
    }
    /// What is in force for all work.
    pub fn norms(&self) -> &Norms {
        &self.norms
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
        self.members.values().find(|m| m.member.keys.operator == *key && !m.standing.is_gone())
    }
    /// The newest membership version.
    pub fn membership(&self) -> Option<&Membership> {
        self.membership_version(&self.head(Scope::Membership))
    }
    /// Members of the newest version that are counted.
    pub fn active(&self) -> impl Iterator<Item = &Member> {
        self.membership().into_iter().flat_map(|m| m.members.values())
    }
    /// Members of the newest version, counted or not.
    pub fn present(&self) -> impl Iterator<Item = &Member> {
        let aside = self.membership().into_iter().flat_map(|m| m.aside.values().map(|aside| &aside.member));
        self.active().chain(aside)
    }
    /// How many members must seal, and be heard for a member not to be isolated.
    pub fn quorum(&self) -> usize {
        self.membership().map_or(1, Membership::quorum)
    }
    /// The newest version of a scope.
    pub fn head(&self, scope: Scope) -> PolicyHash {
        self.chain(scope).last().map_or_else(|| genesis(scope, self.coop), |version| version.hash)
    }
    /// The newest version of every scope. Releases before rules 2 cannot read a beacon that names a scope of rules 2, so it
    /// is named only once something was decided there.
    pub fn heads(&self) -> BTreeMap<Scope, PolicyHash> {
        let named = |scope: &Scope| scope.since_rules() == 1 || self.chain(*scope).len() > 1;
        Scope::ALL.into_iter().filter(named).map(|scope| (scope, self.head(scope))).collect()
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
    pub fn proposals(&self) -> &Proposals {
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
    /// Every box offer of a present or past member.
    pub fn box_offers(&self) -> &AllSeals<BoxOffer> {
        &self.box_offers
    }
    /// Every close seal of a present or past member, whether it holds or not.
    pub fn close_seals(&self) -> &AllSeals<CloseSeal> {
        &self.close_seals
    }
    /// Every enact seal of a present or past member.
    pub fn enact_seals(&self) -> &AllSeals<EnactSeal> {
        &self.enact_seals
    }
    /// Every slot status of a present or past member.
    pub fn slot_statuses(&self) -> &[Sealed<SlotStatus>] {
        &self.slot_statuses
    }
    /// Every notice of a present or past member.
    pub fn notices(&self) -> &[Sealed<NoticeSent>] {
        &self.notices
    }
    /// One membership version.
    pub fn membership_version(&self, hash: &PolicyHash) -> Option<&Membership> {
        self.memberships.get(hash).map(Arc::as_ref)
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
