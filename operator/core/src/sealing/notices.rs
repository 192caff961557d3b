//! What an operator says of whom a proposal is about.

use crate::body::Body;
use crate::body::hearing::{Notice, NoticeSent};
use crate::body::proposal::Action;
use crate::ids::{MemberId, UnixSeconds};
use crate::policy::{Phase, ProposalState, State};

/// The notices that the operator of `me` signs now, each once.
pub(super) fn next(state: &State, me: &MemberId, now: UnixSeconds) -> Vec<Body> {
    let open = |p: &&ProposalState| matches!(state.phase(p, now), Phase::Pending { .. } | Phase::Open { .. });
    let proposals = state.proposals().values().filter(|p| p.rules >= 2).filter(open);
    let due = proposals.filter_map(|p| Some(NoticeSent { proposal: p.id, notice: due(p, me)? }));
    let said = |notice: &NoticeSent| state.notices().iter().any(|s| s.by == *me && s.seal.proposal == notice.proposal);
    due.filter(|notice| !said(notice)).map(Body::NoticeSent).collect()
}

fn due(proposal: &ProposalState, me: &MemberId) -> Option<Notice> {
    match &proposal.proposal.action {
        // Whoever lives says so before the others count without it.
        Action::MarkDormant(mark) if mark.member == *me => Some(Notice::Received),
        Action::Reactivate(wake) if wake.member == *me => Some(Notice::Received),
        _ => None,
    }
}
