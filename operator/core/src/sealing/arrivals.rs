//! Which proposals an operator held too late.
//!
//! Whoever proposes says when the vote opens. Dated back, a vote of a week would be over minutes after the others have heard of
//! it, and they would have had no time to say no. So an operator that held a proposal only in the second half of its vote does
//! not vouch for what was said in it: as little as one that was down. Where most were late nobody does, and it is proposed again.

use std::collections::BTreeSet;

use crate::body::proposal::Proposal;
use crate::ids::{Seconds, StatementId, UnixSeconds};
use crate::policy::{ProposalState, State};

/// What an operator knows of when it first held each proposal.
#[derive(Clone, Debug)]
pub struct Arrivals {
    held: BTreeSet<StatementId>,
    late: BTreeSet<StatementId>,
}

impl Arrivals {
    /// Those of an operator that starts with `state`: nothing tells since when it has held what it holds.
    pub fn starting(state: &State) -> Self {
        Self { held: state.proposals().keys().copied().collect(), late: BTreeSet::new() }
    }

    /// Takes note of what is held at `now`, by its own clock, and tells what came too late since the last time.
    pub fn note(&mut self, state: &State, now: UnixSeconds) -> Vec<StatementId> {
        let news = state.proposals().values().filter(|proposal| !self.held.contains(&proposal.id));
        let late: Vec<StatementId> = news.filter(|p| is_late(p, now)).map(|proposal| proposal.id).collect();
        self.held = state.proposals().keys().copied().collect();
        self.late.retain(|id| state.proposals().contains_key(id));
        self.late.extend(&late);
        late
    }

    /// The proposals of rules 2 that came too late.
    pub fn late(&self) -> &BTreeSet<StatementId> {
        &self.late
    }
}

fn is_late(proposal: &ProposalState, at: UnixSeconds) -> bool {
    proposal.rules >= 2 && came_late(&proposal.proposal, proposal.parameters.clock_tolerance_seconds, at)
}

/// Whether more than half of the vote was over at `at`, whoever of the two clocks is wrong by `tolerance`.
pub fn came_late(proposal: &Proposal, tolerance: Seconds, at: UnixSeconds) -> bool {
    at > proposal.half_time().plus(tolerance)
}
