//! `Statement`: whether what a person applied, or a later version wrote, has an effect here.
//!
//! What operators store shows its effect in other resources and has no status of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::conditions::{ConditionType, Reason, Verdict};
use koinon_api::statement::{Statement, StatementSpec, StatementStatus};
use koinon_core::body::Body;
use koinon_core::kind::{Kind, Place};
use koinon_core::statement::Statement as Signed;
use kube::ResourceExt;

use crate::commons::candidate::Source;
use crate::commons::envelope::from_resource;
use crate::commons::people;
use crate::commons::view::CommonsView;
use crate::kinds::projections::{Moment, Projected, set};

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
        let verdict = effective(view, &name, object)?;
        let mut status = object.status.clone().unwrap_or_default();
        set(&mut status.conditions, ConditionType::Effective, verdict, object.metadata.generation, moment);
        Some((name, status))
    };
    all.iter().filter_map(status).collect()
}

fn effective(view: &CommonsView, name: &str, object: &Statement) -> Option<Verdict> {
    let payload_type = &object.spec.envelope.payload_type;
    match Kind::of_payload_type(payload_type) {
        Some(kind) if kind.is_said() => Some(said(view, name, object)),
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

fn said(view: &CommonsView, name: &str, object: &Statement) -> Verdict {
    match view.verdicts.get(&Source::Statement(name.to_owned())) {
        Some(people::Verdict::Anchored { seq, .. }) => {
            let read = from_resource(&object.spec.envelope).ok().and_then(|envelope| Signed::verify(envelope).ok());
            let anchored = format!("entry {seq} of its author's log");
            match read {
                Some(signed) => effect(view, &signed, anchored),
                None => Verdict::no(Reason::PayloadMalformed, anchored),
            }
        }
        Some(people::Verdict::Waiting(refusal)) => Verdict::unknown(refusal.reason, refusal.message.clone()),
        Some(people::Verdict::Refused(refusal)) => Verdict::no(refusal.reason, refusal.message.clone()),
        None => Verdict::unknown(Reason::AwaitingAnchor, "the operator has not looked at it yet"),
    }
}

/// What a statement amounts to that stands in a log.
fn effect(view: &CommonsView, signed: &Signed, anchored: String) -> Verdict {
    match signed.body() {
        Body::Leave(_) if !view.state.leaves().contains_key(&signed.id()) => {
            match view.state.member(signed.author()).and_then(|member| member.forked_at) {
                Some(_) => Verdict::no(Reason::LogForked, format!("{anchored}, which has another entry there")),
                None => Verdict::no(Reason::NotElector, format!("{anchored}, and its author was no member any more")),
            }
        }
        _ => Verdict::yes(Reason::Anchored, anchored),
    }
}

#[cfg(test)]
#[path = "statement_tests.rs"]
mod tests;
