//! From what a member's fold concludes to what an audit reports.

use std::collections::{BTreeMap, BTreeSet};

use super::members;
use super::report::{
    BoxReport, CertificateReport, Decision, EndedReport, EngineReport, FaultReport, ForkReport, LeaveReport,
    ProposalReport, ReleaseReport, Report, Signed, Standing, TallyReport, VoteReport,
};
use crate::body::entry::{Outcome, Slot};
use crate::body::proposal::Scope;
use crate::ids::{StatementId, UnixSeconds};
use crate::policy::{
    BallotBox, CloseCertificate, Commons, Enactment, Fault, LeaveState, Phase, ProposalState, SlotOutcome, State,
    Version, VoteRecord,
};
use crate::tally::Tally;

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
            members: members::members(state),
            releases: releases.collect(),
            engines: engines.map(|(name, e)| EngineReport { name: name.clone(), image: e.image.to_string() }).collect(),
            ended: ended(state),
            stray_votes: state.stray_votes().iter().map(|(on, vote)| (*on, VoteReport::of(vote))).collect(),
            faults: state.faults().iter().map(FaultReport::of).collect(),
            forks: forks.collect(),
            branches: members::branches(replica),
            keys: members::keys(state),
            orders: members::orders(state, as_of),
        }
    }

    /// What a decision decided, if it was a proposal; nobody proposes that a member leaves.
    pub fn proposal(&self, id: &StatementId) -> Option<&ProposalReport> {
        self.proposals.iter().find(|proposal| proposal.id == *id)
    }
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
            Phase::Stopped { target } => (target.to_string(), None),
            Phase::Cancelled { by } | Phase::Superseded { by } | Phase::Appealed { by } => (by.to_string(), None),
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
            ballot: proposal.invalid.is_none().then(|| BoxReport::of(&proposal.ballot, proposal.box_outcome)),
            notices: members::notices(state, proposal.id),
            certificates: proposal.certificates.iter().map(|c| CertificateReport::of(c, seals)).collect(),
            votes: proposal.votes.iter().map(VoteReport::of).collect(),
        }
    }
}

impl BoxReport {
    fn of(ballot: &BallotBox, outcome: Outcome) -> Self {
        let BallotBox { ids, root, closed_at, all_voted, tally, counted: _, stand_ins: _ } = ballot;
        let Tally { electors, counts, turnout_needed, min_yes, outcome: counted } = *tally;
        let tally = TallyReport {
            electors,
            yes: counts.yes,
            no: counts.no,
            abstain: counts.abstain,
            veto: counts.veto,
            turnout_needed,
            min_yes,
            outcome: counted,
        };
        Self { root: *root, count: ids.len(), closed_at: *closed_at, all_voted: *all_voted, outcome, tally }
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
