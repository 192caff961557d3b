//! `Statement`: whether what a person applied, or a later version wrote, has an effect here.
//!
//! What operators store shows its effect in other resources and has no status of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::conditions::{ConditionType, Reason, Verdict};
use koinon_api::statement::{Statement, StatementSpec, StatementStatus};
use koinon_api::time;
use koinon_core::ids::UnixSeconds;
use koinon_core::kind::{Kind, Place};
use koinon_core::policy::Said;
use koinon_core::statement::Statement as Signed;
use kube::ResourceExt;

use crate::commons::candidate::Source;
use crate::commons::envelope::from_resource;
use crate::commons::people;
use crate::commons::view::CommonsView;
use crate::kinds::projections::{Moment, Projected, set};
use crate::kinds::proposal::SETTLED;

impl Projected for Statement {
    type Status = StatementStatus;

    fn bare(name: &str) -> Self {
        // Never written: a Statement is made with its envelope.
        Statement::new(name, StatementSpec::default())
    }

    fn status(&self) -> Option<&StatementStatus> {
        self.status.as_ref()
    }

    fn set_status(&mut self, status: StatementStatus) {
        self.status = Some(status);
    }

    fn conditions(status: &StatementStatus) -> &[Condition] {
        &status.conditions
    }
}

/// The status of each that has one.
pub(crate) fn statuses(
    view: &CommonsView,
    all: &[Arc<Statement>],
    moment: &Moment,
) -> BTreeMap<String, StatementStatus> {
    let status = |object: &Arc<Statement>| {
        let name = object.name_any();
        let verdict = effective(view, &name, object, moment)?;
        let mut status = object.status.clone().unwrap_or_default();
        // What was said of it when it was settled stays true.
        if verdict.reason == Reason::Settled && !status.conditions.is_empty() {
            return Some((name, status));
        }
        set(&mut status.conditions, ConditionType::Effective, verdict, object.metadata.generation, moment);
        Some((name, status))
    };
    all.iter().filter_map(status).collect()
}

fn effective(view: &CommonsView, name: &str, object: &Statement, moment: &Moment) -> Option<Verdict> {
    let payload_type = &object.spec.envelope.payload_type;
    match Kind::of_payload_type(payload_type) {
        Some(kind) if kind.is_said() => Some(said(view, name, object, moment)),
        Some(kind @ Kind::Other(_)) => Some(Verdict::no(
            Reason::UnsupportedRules,
            format!("this version knows no {kind}: it is kept and relayed, and has no effect here"),
        )),
        // Theirs, whatever labels it has: the operator reads it from its store at the next start.
        Some(kind) if kind == Kind::Charter || kind.place() == Some(Place::Log) => None,
        Some(kind) => Some(Verdict::no(
            Reason::PayloadMalformed,
            format!("a {kind} is not applied as a Statement: apply a proposal as a Proposal, a vote as a Vote"),
        )),
        None => Some(Verdict::no(
            Reason::PayloadMalformed,
            format!("spec.envelope.payloadType {payload_type:?} is none of Koinon's"),
        )),
    }
}

fn said(view: &CommonsView, name: &str, object: &Statement, moment: &Moment) -> Verdict {
    match view.verdicts.get(&Source::Statement(name.to_owned())) {
        Some(people::Verdict::Anchored { seq, at, .. }) => {
            let read = from_resource(&object.spec.envelope).ok().and_then(|envelope| Signed::verify(envelope).ok());
            let anchored = format!("entry {seq} of its author's log");
            match read {
                Some(signed) => match view.state.said(&signed, *at, moment.now) {
                    Some(said) => effect(view, &signed, &said, anchored),
                    None => Verdict::no(Reason::PayloadMalformed, anchored),
                },
                None => Verdict::no(Reason::PayloadMalformed, anchored),
            }
        }
        Some(people::Verdict::Settled { .. }) => Verdict::no(Reason::Settled, SETTLED),
        Some(people::Verdict::Waiting(refusal)) => Verdict::unknown(refusal.reason, refusal.message.clone()),
        Some(people::Verdict::Refused(refusal)) => Verdict::no(refusal.reason, refusal.message.clone()),
        None => Verdict::unknown(Reason::AwaitingAnchor, "the operator has not looked at it yet"),
    }
}

/// What a statement amounts to that stands in a log.
fn effect(view: &CommonsView, signed: &Signed, said: &Said, anchored: String) -> Verdict {
    let at = |at: UnixSeconds| time::from_unix(at.0).map_or_else(|| at.to_string(), |time| time.0.to_string());
    let told = format!("{anchored}; {said}");
    match said {
        Said::InEffect => Verdict::yes(Reason::Anchored, anchored),
        Said::InEffectUntil(until) => {
            Verdict::yes(Reason::Anchored, format!("{anchored}; it holds until {}", at(*until)))
        }
        Said::Awaits { until, .. } => Verdict::no(
            Reason::AwaitingSignatures,
            format!("{told}; it lapses at {}; sign with: kubectl koinon cosign {}", at(*until), signed.id()),
        ),
        Said::Lapsed(since) => Verdict::no(Reason::Lapsed, format!("{told}, at {}", at(*since))),
        Said::Barred(_) => Verdict::no(Reason::Barred, told),
        Said::Keys(_) => Verdict::no(Reason::KeysUnchanged, told),
        Said::TooLate(end) => Verdict::no(Reason::TooLate, format!("{told}, after {}", at(*end))),
        Said::UnknownTarget => Verdict::unknown(Reason::UnknownProposal, told),
        Said::NoFirstVote | Said::NoNews | Said::NotPassed | Said::Second(_) => {
            Verdict::no(Reason::NothingToAppeal, told)
        }
        Said::NoOrder | Said::NoSubject => Verdict::no(Reason::ActionInvalid, told),
        Said::Void if view.state.member(signed.author()).is_some_and(|member| member.forked_at.is_some()) => {
            Verdict::no(Reason::LogForked, format!("{anchored}, which has another entry there"))
        }
        Said::OwnSubject | Said::NotCoSigned | Said::NotItsPlace(_) | Said::Void => {
            Verdict::no(Reason::NotElector, told)
        }
    }
}

#[cfg(test)]
#[path = "statement_tests.rs"]
mod tests;
