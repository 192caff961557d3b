//! A proposal as the rules want it: chain, electorate and times filled in.

use super::hearing::pace;
use super::validity::after_close;
use super::{State, Why, applicant};
use crate::body::proposal::{Action, Proposal, Scope};
use crate::ids::{Line, MemberId, Prose, UnixSeconds};
use crate::sealing::next_term;

impl State {
    /// The proposal for `action` that is valid when signed at `now`: it follows the newest version, is voted on by
    /// the newest membership, and opens, closes and takes effect as early as its class allows.
    pub fn draft_proposal(&self, action: Action, title: Line, text: Prose, now: UnixSeconds) -> Option<Proposal> {
        let (class, scope) = (action.class(), action.scope());
        let rules = &pace(self.class(class)?, &action);
        let opens_at = now.plus(rules.delay_seconds).max(self.not_before(&action));
        let closes_at = opens_at.plus(rules.period_seconds);
        let eta = closes_at.plus(after_close(rules, self.parameters()));
        Some(Proposal {
            class,
            scope,
            parent: self.head(scope),
            membership: self.head(Scope::Membership),
            charter: (self.rules >= 2).then(|| self.head(Scope::Charter)),
            interested: Default::default(),
            opens_at,
            closes_at,
            eta,
            expires_at: eta.plus(self.parameters().enact_window_seconds),
            term: next_term(self, scope, now),
            subject: subject(&action),
            action,
            title,
            text,
        })
    }
}

impl State {
    /// Before when no vote on `action` may open.
    fn not_before(&self, action: &Action) -> UnixSeconds {
        let aside = match action {
            Action::Confirm(confirm) => self.membership().and_then(|m| m.aside.get(&confirm.member)),
            _ => None,
        };
        match aside.map(|aside| aside.why) {
            Some(Why::Probation { until }) => until,
            Some(Why::Dormant { .. }) | None => UnixSeconds(i64::MIN),
        }
    }
}

/// The member that an action is about.
fn subject(action: &Action) -> Option<MemberId> {
    match action {
        Action::Expel(expel) => Some(expel.member.clone()),
        Action::Suspend(suspend) => Some(suspend.member.clone()),
        Action::Reinstate(reinstate) => Some(reinstate.member.clone()),
        Action::LiftQuarantine(lift) => Some(lift.member.clone()),
        Action::ResetKeys(reset) => Some(reset.member.clone()),
        Action::Admit(_) => applicant(action).map(|member| member.id),
        _ => None,
    }
}
