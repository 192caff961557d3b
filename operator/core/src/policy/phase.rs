//! Where a proposal stands at a given time: only this depends on a clock, and only to be shown and to seal.

use std::collections::BTreeSet;

use super::standing::parting;
use super::{CloseCertificate, Invalid, ProposalState, State};
use crate::body::entry::{Outcome, Slot};
use crate::body::proposal::{Action, Proposal, Scope};
use crate::ids::{PolicyHash, Seconds, StatementId, UnixSeconds};

/// Where a proposal stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It cannot be voted on.
    Invalid(Invalid),
    /// Its vote has not opened.
    Pending {
        /// When it does.
        opens_at: UnixSeconds,
    },
    /// Votes count.
    Open {
        /// Until when.
        closes_at: UnixSeconds,
    },
    /// The box is closed; operators seal it.
    Closing {
        /// How many agree on the box that most agree on.
        sealed: usize,
        /// How many must.
        needed: usize,
    },
    /// It has passed and takes effect when enough operators have signed that.
    Queued {
        /// When they may.
        eta: UnixSeconds,
        /// How many have.
        signed: usize,
        /// How many must.
        needed: usize,
    },
    /// It has passed and was not enacted in time; whether it may have been, operators say before anything else follows.
    AwaitingSlot {
        /// The attempt that is open.
        term: u32,
    },
    /// It is in force.
    Enacted {
        /// The version that it made.
        version: PolicyHash,
    },
    /// It has stopped another proposal: a cancellation makes no version and is in force once its box is certified.
    Stopped {
        /// Which one.
        target: StatementId,
    },
    /// Too few yes.
    Rejected,
    /// Too few took part.
    QuorumNotMet,
    /// Enough vetoes.
    Vetoed,
    /// Its author took it back.
    Withdrawn,
    /// The member that it is about has shown that it is not so.
    Refuted,
    /// The member that it is about was not heard; propose it again.
    Unheard,
    /// The same was refused not long ago, and too few want it nevertheless.
    CoolDown {
        /// In the vote on this.
        by: StatementId,
        /// A vote that opens at this time or later is free of it.
        until: UnixSeconds,
    },
    /// It passed, and the member that it is about has appealed before it took effect: propose the second vote.
    Appealed {
        /// The appeal.
        by: StatementId,
    },
    /// Another proposal stopped it.
    Cancelled {
        /// Which one.
        by: StatementId,
    },
    /// Its box was not sealed in time; propose it again.
    Stalled,
    /// The membership moved on; propose it again.
    Stale,
    /// Something else took its place in the chain; propose it again.
    Superseded {
        /// What.
        by: StatementId,
    },
    /// Its time is over.
    Expired,
}

impl Phase {
    /// Its name, as in conditions and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "Invalid",
            Self::Pending { .. } => "Pending",
            Self::Open { .. } => "Open",
            Self::Closing { .. } => "Closing",
            Self::Queued { .. } => "Queued",
            Self::AwaitingSlot { .. } => "AwaitingSlot",
            Self::Enacted { .. } | Self::Stopped { .. } => "Enacted",
            Self::Rejected => "Rejected",
            Self::QuorumNotMet => "QuorumNotMet",
            Self::Vetoed => "Vetoed",
            Self::Withdrawn => "Withdrawn",
            Self::Appealed { .. } => "Appealed",
            Self::Refuted => "Refuted",
            Self::Unheard => "Unheard",
            Self::CoolDown { .. } => "CoolDown",
            Self::Cancelled { .. } => "Cancelled",
            Self::Stalled => "Stalled",
            Self::Stale => "Stale",
            Self::Superseded { .. } => "Superseded",
            Self::Expired => "Expired",
        }
    }

    /// Whether nothing more will come of it.
    pub fn is_final(&self) -> bool {
        // What was appealed against may still be carried on, where some had signed it before they knew.
        !matches!(
            self,
            Self::Pending { .. }
                | Self::Open { .. }
                | Self::Closing { .. }
                | Self::Queued { .. }
                | Self::Appealed { .. }
                | Self::AwaitingSlot { .. }
        )
    }
}

impl State {
    /// Where `proposal` stands at `now`.
    pub fn phase(&self, proposal: &ProposalState, now: UnixSeconds) -> Phase {
        let body = &proposal.proposal;
        if let Some(enacted) = &proposal.enacted {
            return Phase::Enacted { version: enacted.version };
        }
        if let Some(invalid) = &proposal.invalid {
            return Phase::Invalid(invalid.clone());
        }
        let certificate = proposal.certificates.first();
        match certificate.map(|c| c.outcome) {
            Some(Outcome::Rejected) => return Phase::Rejected,
            Some(Outcome::QuorumNotMet) => return Phase::QuorumNotMet,
            Some(Outcome::Vetoed) => return Phase::Vetoed,
            Some(Outcome::Stale) => return Phase::Stale,
            Some(Outcome::Withdrawn) => return Phase::Withdrawn,
            Some(Outcome::Refuted) => return Phase::Refuted,
            Some(Outcome::Unheard) => return Phase::Unheard,
            Some(Outcome::CoolDown) => {
                let refused = proposal.refused;
                let by = refused.map_or(proposal.id, |refused| refused.by);
                return Phase::CoolDown { by, until: refused.map_or(body.closes_at, |refused| refused.until) };
            }
            Some(Outcome::Passed) => {
                if let Action::CancelProposal(cancel) = &body.action {
                    return Phase::Stopped { target: cancel.proposal };
                }
            }
            None => {}
        }
        if let Some(by) = proposal.cancelled_by {
            return Phase::Cancelled { by };
        }
        if let Some(by) = proposal.superseded_by {
            return Phase::Superseded { by };
        }
        if proposal.stale {
            return Phase::Stale;
        }
        let last = certificate.map_or(body.expires_at, |certificate| proposal.deadline(certificate.slot));
        if now > last {
            return self.after_deadline(proposal, certificate);
        }
        if proposal.rules >= 2 && certificate.is_none() && now > proposal.seal_by() {
            return Phase::Stalled;
        }
        if let (Some(by), Some(certificate)) = (proposal.appealed_by, certificate)
            && certificate.slot.term == body.term
        {
            return Phase::Appealed { by };
        }
        if let Some(certificate) = certificate {
            let signed = proposal.signed_on(certificate).map(|seal| &seal.by).collect::<BTreeSet<_>>().len();
            let eta = proposal.eta(certificate.closed_at);
            return Phase::Queued { eta, signed, needed: proposal.enact_quorum };
        }
        if now < body.opens_at && !proposal.ballot.all_voted {
            return Phase::Pending { opens_at: body.opens_at };
        }
        if proposal.ballot.all_voted || now >= body.closes_at {
            return Phase::Closing { sealed: proposal.best_agreement(), needed: proposal.quorum };
        }
        Phase::Open { closes_at: body.closes_at }
    }
}

impl State {
    fn after_deadline(&self, proposal: &ProposalState, certificate: Option<&CloseCertificate>) -> Phase {
        let (Some(certificate), true) = (certificate, proposal.rules >= 2) else { return Phase::Expired };
        let Some(membership) = self.membership_version(&proposal.proposal.membership) else { return Phase::Expired };
        let Slot { scope, parent, term } = certificate.slot;
        let (open, bound) = self.open_term(scope, parent, membership);
        let may_have_been = open <= term || bound == Some(proposal.id);
        if may_have_been && scope != Scope::Cancellations { Phase::AwaitingSlot { term: open } } else { Phase::Expired }
    }

    /// The next time after `now` at which the clock alone changes a phase, or what there is to seal.
    pub fn next_change(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        let open = self.proposals().values().filter(|p| !self.phase(p, now).is_final());
        let times = open.flat_map(|p| {
            let Proposal { opens_at, closes_at, expires_at, .. } = p.proposal;
            let offered = p.ballot.closed_at.plus(p.parameters.grace_seconds);
            let sealed = if p.rules >= 2 { super::seal_from(p.ballot.closed_at, &p.parameters) } else { offered };
            let second = Seconds(1);
            let fixed = [opens_at, closes_at, offered, sealed, expires_at.plus(second)];
            // After these, and a tolerance for the others' clocks, a slot is given up.
            let ends = (p.rules >= 2).then(|| p.seal_by()).into_iter();
            let ends = ends.chain(p.certificates.iter().filter(|_| p.rules >= 2).map(|c| p.deadline(c.slot)));
            let tolerance = Seconds(p.parameters.clock_tolerance_seconds.0.saturating_mul(2));
            let ends = ends.flat_map(move |end| [end.plus(second), end.plus(tolerance).plus(second)]);
            fixed.into_iter().chain(ends).chain(p.certificates.iter().map(|c| p.eta(c.closed_at)))
        });
        times.filter(|time| *time > now).chain(self.next_lapse(now)).min()
    }
}

impl ProposalState {
    /// The enact seals that count on `certificate`.
    pub(super) fn signed_on(
        &self,
        certificate: &CloseCertificate,
    ) -> impl Iterator<Item = &super::Sealed<super::EnactSeal>> {
        let (root, slot, eta) = (certificate.root, certificate.slot, self.eta(certificate.closed_at));
        let latest = self.deadline(slot);
        // From three members to four or back all that stay must sign: who is expelled does not stay.
        let parts = parting(&self.proposal.action).filter(|_| self.sealers.len() == 4);
        self.enact_seals
            .iter()
            .filter(move |s| s.seal.slot == slot && s.seal.root == root && s.at >= eta && s.at <= latest)
            .filter(move |s| parts != Some(&s.by))
    }
}
