//! What an operator says of whom a proposal is about.

use crate::body::Body;
use crate::body::hearing::{Notice, NoticeSent};
use crate::body::proposal::Action;
use crate::ids::{MemberId, UnixSeconds};
use crate::policy::{Phase, ProposalState, Sealed, State};

/// The notices that the operator of `me` signs now, each once.
pub(super) fn next(state: &State, me: &MemberId, now: UnixSeconds) -> Vec<Body> {
    let open = |p: &&ProposalState| matches!(state.phase(p, now), Phase::Pending { .. } | Phase::Open { .. });
    let proposals = state.proposals().values().filter(|p| p.rules >= 2).filter(open);
    let due = proposals.filter_map(|p| Some(NoticeSent { proposal: p.id, notice: due(state, p, me, now)? }));
    let said = |notice: &NoticeSent| state.notices().iter().any(|s| s.by == *me && s.seal.proposal == notice.proposal);
    due.filter(|notice| !said(notice)).map(Body::NoticeSent).collect()
}

fn due(state: &State, proposal: &ProposalState, me: &MemberId, now: UnixSeconds) -> Option<Notice> {
    match &proposal.proposal.action {
        // Whoever lives says so before the others count without it.
        Action::MarkDormant(mark) if mark.member == *me => Some(Notice::Received),
        Action::Reactivate(wake) if wake.member == *me => Some(Notice::Received),
        Action::Expel(expel) if expel.appeal.is_none() => {
            if expel.member == *me {
                return Some(Notice::Received);
            }
            let received = |s: &Sealed<NoticeSent>| s.by == expel.member && s.seal.proposal == proposal.id;
            if state.notices().iter().any(received) {
                return Some(Notice::Delivered);
            }
            (proposal.sealers.contains(me) && now >= tried_from(proposal)).then_some(Notice::Tried)
        }
        _ => None,
    }
}

/// From when on an operator has tried long enough: the charter's period, but no longer than half the vote, so that the
/// notice can be in the box.
fn tried_from(proposal: &ProposalState) -> UnixSeconds {
    let half = proposal.proposal.half_time();
    let notice = proposal.parameters.deliberation.map(|rules| rules.members.notice_seconds);
    notice.map_or(half, |notice| proposal.proposal.opens_at.plus(notice).min(half))
}
