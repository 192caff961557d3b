//! Several things said about one device, as one verdict.

use std::collections::BTreeSet;

use super::history::Finding;
use super::{MAX_REASONS, Verdict};
use crate::capacity::Health;
use crate::gpu::words::{Action, Cause, Offer, Reason, Work, badness};
use crate::ids::UnixSeconds;

/// Everything that speaks about a device, weighed.
pub(super) struct Weighed {
    pub state: Health,
    action: Action,
    work: Work,
    offer: Offer,
    reasons: BTreeSet<(std::cmp::Reverse<(u8, Action)>, Reason)>,
}

/// What findings and a doubt come to together.
pub(super) fn weigh(findings: &[&Finding], doubt: Option<Cause>) -> Weighed {
    let mut weighed = Weighed {
        state: Health::Healthy,
        action: Action::None,
        work: Work::Keep,
        offer: Offer::Any,
        reasons: BTreeSet::new(),
    };
    for one in findings {
        let (state, work) = if one.young { (Health::Degraded, Work::Keep) } else { (one.state, one.work) };
        weighed.add(state, one.action, work, one.offer, one.reason.clone());
    }
    if let Some(reason) = doubt {
        weighed.add(Health::Unknown, Action::None, Work::Keep, Offer::Nothing, reason.into());
    }
    weighed
}

impl Weighed {
    pub fn add(&mut self, state: Health, action: Action, work: Work, offer: Offer, reason: Reason) {
        if badness(state) > badness(self.state) {
            self.state = state;
        }
        self.action = self.action.max(action);
        self.work = self.work.max(work);
        self.offer = self.offer.max(offer);
        self.reasons.insert((std::cmp::Reverse((badness(state), action)), reason));
    }

    /// The verdict; `silent` if no survey came back just now.
    pub fn verdict(self, silent: bool) -> Verdict {
        let reasons = self.reasons.into_iter().map(|(_, reason)| reason).take(MAX_REASONS).collect();
        // A state that is better than degraded takes new work only on the word of a survey of now.
        let offer = match self.state {
            Health::Healthy | Health::Degraded if !silent => self.offer,
            _ => Offer::Nothing,
        };
        let Self { state, action, work, .. } = self;
        Verdict { state, reasons, action, work, offer, since: UnixSeconds(0) }
    }
}
