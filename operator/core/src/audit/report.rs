//! What a history amounts to, with the entries that prove it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::body::entry::{Outcome, Slot};
use crate::body::proposal::{Choice, Scope};
use crate::ids::{
    BoxRoot, CoopId, EngineName, Line, ManifestDigest, MemberId, PolicyHash, PublicKey, Seq, StatementId, UnixSeconds,
};
use crate::policy::{
    BallotBox, CloseCertificate, Commons, Enactment, Fault, LeaveState, MemberStanding, Phase, ProposalState,
    SlotOutcome, State, Version, VoteRecord,
};
use crate::tally::Tally;

/// Everything that the entries of a bundle amount to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The cooperative.
    pub coop: CoopId,
    /// What people call it.
    pub name: Line,
    /// When the bundle was exported.
    pub as_of: UnixSeconds,
    /// The rules in force.
    pub rules: u32,
    /// How many entries there are.
    pub entries: u64,
    /// The newest version of every policy.
    pub heads: BTreeMap<Scope, PolicyHash>,
    /// Every decision since the founding, in the order of the versions of each policy.
    pub decisions: Vec<Decision>,
    /// Every proposal that was anchored.
    pub proposals: Vec<ProposalReport>,
    /// Every wish to leave.
    pub leaves: Vec<LeaveReport>,
    /// Members, present and past.
    pub members: Vec<MemberReport>,
    /// Models that were voted on.
    pub releases: Vec<ReleaseReport>,
    /// The engine catalogue.
    pub engines: Vec<EngineReport>,
    /// What operators have said of the slots that they ended, by the newest membership.
    pub ended: Vec<EndedReport>,
    /// Votes on what is not known, with the id that they name.
    pub stray_votes: Vec<(StatementId, VoteReport)>,
    /// Seals that contradict each other.
    pub faults: Vec<FaultReport>,
    /// Logs that forked.
    pub forks: Vec<ForkReport>,
}

/// One seal or entry: whose, and when by its signer's clock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Signed {
    /// The entry.
    pub id: StatementId,
    /// Whose.
    pub by: MemberId,
    /// When.
    pub at: UnixSeconds,
}

/// One version of a policy and what proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// The chain.
    pub scope: Scope,
    /// Counted from the charter, which is 0.
    pub number: u64,
    /// The version.
    pub version: PolicyHash,
    /// The version before it.
    pub parent: Option<PolicyHash>,
    /// The proposal, or the statement with which a member left.
    pub child: StatementId,
    /// The box.
    pub root: BoxRoot,
    /// The attempt in which it succeeded.
    pub term: u32,
    /// From when on everybody can have known it.
    pub settled_at: UnixSeconds,
    /// The close seals.
    pub close_seals: Vec<Signed>,
    /// The enact seals.
    pub enact_seals: Vec<Signed>,
}

/// Where a proposal stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// The name of its phase.
    pub phase: &'static str,
    /// What the phase is about, the same in every implementation: a version, another proposal, a reason's name.
    pub detail: String,
    /// For people, where there is more to say.
    pub why: Option<String>,
}

/// A proposal, its votes and its seals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProposalReport {
    /// Its id.
    pub id: StatementId,
    /// Whose.
    pub author: MemberId,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// The name of what it would change.
    pub action: &'static str,
    /// What it would change.
    pub change: Value,
    /// Its title.
    pub title: Line,
    /// The rules by which it is judged.
    pub rules: u32,
    /// Where it would be enacted.
    pub slot: Slot,
    /// Where it stands.
    pub standing: Standing,
    /// Who seals it.
    pub sealers: BTreeSet<MemberId>,
    /// How many must agree on its box.
    pub quorum: usize,
    /// How many must sign its enactment.
    pub enact_quorum: usize,
    /// Its box; none for one that may not be voted on.
    pub ballot: Option<BoxReport>,
    /// The boxes that enough sealers agree on.
    pub certificates: Vec<CertificateReport>,
    /// Its votes.
    pub votes: Vec<VoteReport>,
}

/// A ballot box.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BoxReport {
    /// Its root.
    pub root: BoxRoot,
    /// How many are in it.
    pub count: usize,
    /// When it closed.
    pub closed_at: UnixSeconds,
    /// Whether it closed because all had voted.
    pub all_voted: bool,
    /// The count.
    pub tally: TallyReport,
}

/// A count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TallyReport {
    /// How many may vote.
    pub electors: u32,
    /// For it.
    pub yes: u32,
    /// Against it.
    pub no: u32,
    /// For the turnout only.
    pub abstain: u32,
    /// Against it and toward the block.
    pub veto: u32,
    /// How many must take part.
    pub turnout_needed: u32,
    /// How many yes are needed at least.
    pub min_yes: u32,
    /// What it amounts to.
    pub outcome: Outcome,
}

/// A box that enough sealers agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateReport {
    /// In which attempt.
    pub term: u32,
    /// The box.
    pub root: BoxRoot,
    /// How many are in it.
    pub count: u32,
    /// The newest membership version that its sealers knew.
    pub membership_head: PolicyHash,
    /// What it amounts to.
    pub outcome: Outcome,
    /// When it closed.
    pub closed_at: UnixSeconds,
    /// The seals.
    pub seals: Vec<Signed>,
}

/// A vote and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VoteReport {
    /// The vote.
    pub id: StatementId,
    /// Whose.
    pub author: MemberId,
    /// How.
    pub choice: Choice,
    /// Its number among its author's votes.
    pub vseq: u32,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// Whether it counts, by name.
    pub verdict: &'static str,
    /// The same for people.
    pub why: String,
}

/// A wish to leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaveReport {
    /// The statement.
    pub id: StatementId,
    /// Whose.
    pub author: MemberId,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// The version with which it left.
    pub enacted: Option<PolicyHash>,
    /// The seals that bind a slot to it.
    pub certificates: Vec<CertificateReport>,
}

/// A member, present or past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberReport {
    /// Its id.
    pub id: MemberId,
    /// The legal owner.
    pub owner: Line,
    /// What it is.
    pub standing: &'static str,
    /// The membership version with which it came.
    pub since: PolicyHash,
    /// The one with which it left.
    pub left: Option<PolicyHash>,
    /// Where its log forked.
    pub forked_at: Option<Seq>,
}

/// A model that was voted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseReport {
    /// The model.
    pub digest: ManifestDigest,
    /// The version that approved it.
    pub since: PolicyHash,
    /// The version that withdrew it.
    pub withdrawn: Option<PolicyHash>,
}

/// An engine of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineReport {
    /// Its name.
    pub name: EngineName,
    /// Its image.
    pub image: String,
}

/// A slot in which operators sign no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndedReport {
    /// Which slot.
    pub slot: Slot,
    /// `open` while too few have said so, `free`, or what alone may follow.
    pub what: String,
}

/// Two seals that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultReport {
    /// What was done.
    pub fault: &'static str,
    /// Whose seals.
    pub member: MemberId,
    /// On what: a proposal or a chain.
    pub about: String,
    /// One seal.
    pub first: StatementId,
    /// The other.
    pub second: StatementId,
}

/// A log that forked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForkReport {
    /// Whose log.
    pub member: MemberId,
    /// The log.
    pub log: PublicKey,
    /// At which position.
    pub seq: Seq,
    /// One payload.
    pub first: StatementId,
    /// The other.
    pub second: StatementId,
}

/// Who signed which seal, and when.
type Seals = BTreeMap<StatementId, Signed>;

fn signed(seals: &Seals, ids: &BTreeSet<StatementId>) -> Vec<Signed> {
    ids.iter().filter_map(|id| seals.get(id).cloned()).collect()
}

impl Report {
    pub(super) fn of(commons: &Commons, as_of: UnixSeconds) -> Self {
        let (state, replica) = (commons.state(), commons.replica());
        let close = state.close_seals().iter().map(|s| (s.id, Signed { id: s.id, by: s.by.clone(), at: s.at }));
        let enact = state.enact_seals().iter().map(|s| (s.id, Signed { id: s.id, by: s.by.clone(), at: s.at }));
        let seals: Seals = close.chain(enact).collect();
        let versions = Scope::ALL.into_iter().flat_map(|scope| state.chain(scope));
        let decisions = versions.filter_map(|version| Some(Decision::of(version, version.enacted.as_ref()?, &seals)));
        let forks = replica.forks().map(|fork| ForkReport {
            member: fork.author.clone(),
            log: fork.log,
            seq: fork.seq,
            first: fork.first.0,
            second: fork.second.0,
        });
        let releases = state.releases().iter().map(|(digest, release)| ReleaseReport {
            digest: *digest,
            since: release.since,
            withdrawn: release.withdrawn,
        });
        let engines = state.engines().iter();
        Self {
            coop: state.coop(),
            name: commons.founding().charter().name.clone(),
            as_of,
            rules: state.rules(),
            entries: replica.logs().map(|(log, _)| replica.all(log).count() as u64).sum(),
            heads: state.heads(),
            decisions: decisions.collect(),
            proposals: state.proposals().values().map(|p| ProposalReport::of(state, p, &seals, as_of)).collect(),
            leaves: state.leaves().values().map(|leave| LeaveReport::of(leave, &seals)).collect(),
            members: members(state),
            releases: releases.collect(),
            engines: engines.map(|(name, e)| EngineReport { name: name.clone(), image: e.image.to_string() }).collect(),
            ended: ended(state),
            stray_votes: state.stray_votes().iter().map(|(on, vote)| (*on, VoteReport::of(vote))).collect(),
            faults: state.faults().iter().map(FaultReport::of).collect(),
            forks: forks.collect(),
        }
    }

    /// What a decision decided, if it was a proposal; nobody proposes that a member leaves.
    pub fn proposal(&self, id: &StatementId) -> Option<&ProposalReport> {
        self.proposals.iter().find(|proposal| proposal.id == *id)
    }
}

fn members(state: &State) -> Vec<MemberReport> {
    let standing = |standing| match standing {
        MemberStanding::Active => "Active",
        MemberStanding::Leaving => "Leaving",
        MemberStanding::Left => "Left",
        MemberStanding::Expelled => "Expelled",
    };
    let members = state.members().values().map(|m| MemberReport {
        id: m.member.id.clone(),
        owner: m.member.owner.clone(),
        standing: standing(m.standing),
        since: m.since,
        left: m.left,
        forked_at: m.forked_at,
    });
    members.collect()
}

fn ended(state: &State) -> Vec<EndedReport> {
    let Some(membership) = state.membership() else { return Vec::new() };
    let slots: BTreeSet<Slot> = state.slot_statuses().iter().map(|status| status.seal.slot).collect();
    let what = |slot: &Slot| match state.slot_outcome(*slot, membership) {
        SlotOutcome::Open => "open".to_owned(),
        SlotOutcome::Free => "free".to_owned(),
        SlotOutcome::Carried(child) => child.to_string(),
    };
    slots.into_iter().map(|slot| EndedReport { slot, what: what(&slot) }).collect()
}

impl Decision {
    fn of(version: &Version, enacted: &Enactment, seals: &Seals) -> Self {
        Self {
            scope: version.scope,
            number: version.number,
            version: version.hash,
            parent: version.parent,
            child: enacted.proposal,
            root: enacted.root,
            term: enacted.term,
            settled_at: enacted.settled_at,
            close_seals: signed(seals, &enacted.close_seals),
            enact_seals: signed(seals, &enacted.enact_seals),
        }
    }
}

impl Standing {
    fn of(phase: &Phase) -> Self {
        let (detail, why) = match phase {
            Phase::Invalid(invalid) => (invalid.category().to_owned(), Some(invalid.to_string())),
            Phase::Pending { opens_at } => (opens_at.to_string(), None),
            Phase::Open { closes_at } => (closes_at.to_string(), None),
            Phase::Closing { sealed, needed } => (format!("{sealed}/{needed}"), None),
            Phase::Queued { eta, signed, needed } => (format!("{signed}/{needed}@{eta}"), None),
            Phase::AwaitingSlot { term } => (term.to_string(), None),
            Phase::Enacted { version } => (version.to_string(), None),
            Phase::Cancelled { by } | Phase::Superseded { by } => (by.to_string(), None),
            _ => (String::new(), None),
        };
        Self { phase: phase.name(), detail, why }
    }
}

impl ProposalReport {
    fn of(state: &State, proposal: &ProposalState, seals: &Seals, as_of: UnixSeconds) -> Self {
        let body = &proposal.proposal;
        Self {
            id: proposal.id,
            author: proposal.author.clone(),
            issued_at: proposal.issued_at,
            action: body.action.name(),
            // As it was signed; a value that was read from JSON can be written as JSON.
            change: serde_json::to_value(&body.action).unwrap_or_default(),
            title: body.title.clone(),
            rules: proposal.rules,
            slot: proposal.slot(),
            standing: Standing::of(&state.phase(proposal, as_of)),
            sealers: proposal.sealers.clone(),
            quorum: proposal.quorum,
            enact_quorum: proposal.enact_quorum,
            ballot: proposal.invalid.is_none().then(|| BoxReport::of(&proposal.ballot)),
            certificates: proposal.certificates.iter().map(|c| CertificateReport::of(c, seals)).collect(),
            votes: proposal.votes.iter().map(VoteReport::of).collect(),
        }
    }
}

impl BoxReport {
    fn of(ballot: &BallotBox) -> Self {
        let BallotBox { ids, root, closed_at, all_voted, tally } = ballot;
        let Tally { electors, counts, turnout_needed, min_yes, outcome } = *tally;
        let tally = TallyReport {
            electors,
            yes: counts.yes,
            no: counts.no,
            abstain: counts.abstain,
            veto: counts.veto,
            turnout_needed,
            min_yes,
            outcome,
        };
        Self { root: *root, count: ids.len(), closed_at: *closed_at, all_voted: *all_voted, tally }
    }
}

impl CertificateReport {
    fn of(certificate: &CloseCertificate, seals: &Seals) -> Self {
        Self {
            term: certificate.slot.term,
            root: certificate.root,
            count: certificate.count,
            membership_head: certificate.membership_head,
            outcome: certificate.outcome,
            closed_at: certificate.closed_at,
            seals: signed(seals, &certificate.seals),
        }
    }
}

impl VoteReport {
    fn of(vote: &VoteRecord) -> Self {
        Self {
            id: vote.id,
            author: vote.author.clone(),
            choice: vote.choice,
            vseq: vote.vseq,
            issued_at: vote.issued_at,
            verdict: vote.verdict.name(),
            why: vote.verdict.to_string(),
        }
    }
}

impl LeaveReport {
    fn of(leave: &LeaveState, seals: &Seals) -> Self {
        Self {
            id: leave.id,
            author: leave.author.clone(),
            issued_at: leave.issued_at,
            enacted: leave.enacted.as_ref().map(|enacted| enacted.version),
            certificates: leave.certificates.iter().map(|c| CertificateReport::of(c, seals)).collect(),
        }
    }
}

impl FaultReport {
    fn of(fault: &Fault) -> Self {
        match fault {
            Fault::TwoCloseSeals { member, proposal, first, second } => Self {
                fault: "TwoCloseSeals",
                member: member.clone(),
                about: proposal.to_string(),
                first: *first,
                second: *second,
            },
            Fault::TwoEnactSeals { member, scope, first, second } => Self {
                fault: "TwoEnactSeals",
                member: member.clone(),
                about: scope.to_string(),
                first: *first,
                second: *second,
            },
        }
    }
}
