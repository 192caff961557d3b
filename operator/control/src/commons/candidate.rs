//! What people applied: signed envelopes in resources, which the operator may anchor in its log.
//!
//! Only the envelope counts. The fields beside it are for reading; where they differ somebody was shown something else
//! than what was signed, and the resource says so instead of being anchored.

use koinon_api::conditions::Reason;
use koinon_api::proposal::ProposalSpec;
use koinon_api::statement::StatementSpec;
use koinon_api::vote::VoteSpec;
use koinon_core::body::{Body, Proposal, Vote};
use koinon_core::dsse::EnvelopeError;
use koinon_core::ids::{CoopId, MemberId};
use koinon_core::json::JsonError;
use koinon_core::kind::Kind;
use koinon_core::statement::{Statement, StatementError};
use serde::Serialize;
use serde_json::Value;

use super::envelope::from_resource;

/// Which resource a candidate comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A `Proposal` of this name.
    Proposal(String),
    /// A `Vote` of this name.
    Vote(String),
    /// A `Statement` of this name: whatever people say that is no proposal and no vote.
    Statement(String),
}

/// A refusal with the closed reason that the resource's condition has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal in words.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Refusal { reason, message: message.into() }
    }
}

/// What a resource holds: a statement that may be anchored, or why it may never be.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The resource.
    pub source: Source,
    /// The verified statement, or why there is none.
    pub statement: Result<Statement, Refusal>,
}

/// Reads a `Proposal`; `None` for a draft.
#[must_use]
pub fn of_proposal(name: &str, spec: &ProposalSpec) -> Option<Candidate> {
    let envelope = spec.envelope.as_ref()?;
    let statement = verify(envelope, &Kind::Proposal).and_then(|statement| match statement.body() {
        Body::Proposal(body) => same_proposal(spec, body).map(|()| statement),
        _ => Err(malformed("it carries no proposal")),
    });
    Some(Candidate { source: Source::Proposal(name.to_owned()), statement })
}

/// Reads a `Vote`; `None` for a draft.
#[must_use]
pub fn of_vote(name: &str, spec: &VoteSpec) -> Option<Candidate> {
    let envelope = spec.envelope.as_ref()?;
    let statement = verify(envelope, &Kind::Vote).and_then(|statement| match statement.body() {
        Body::Vote(body) => same_vote(spec, body).map(|()| statement),
        _ => Err(malformed("it carries no vote")),
    });
    Some(Candidate { source: Source::Vote(name.to_owned()), statement })
}

/// Reads a `Statement` that a person applied; `None` if it is none that people bring this way.
#[must_use]
pub fn of_statement(name: &str, spec: &StatementSpec) -> Option<Candidate> {
    let kind = Kind::of_payload_type(&spec.envelope.payload_type).filter(Kind::is_said)?;
    Some(Candidate { source: Source::Statement(name.to_owned()), statement: verify(&spec.envelope, &kind) })
}

fn verify(envelope: &koinon_api::Envelope, kind: &Kind) -> Result<Statement, Refusal> {
    let envelope = from_resource(envelope).map_err(|error| malformed(error.to_string()))?;
    let statement = Statement::verify(envelope).and_then(Statement::understood).map_err(|error| refusal(&error))?;
    if statement.kind() != kind {
        return Err(malformed(format!("the envelope carries a {} and not a {kind}", statement.kind())));
    }
    Ok(statement)
}

fn refusal(error: &StatementError) -> Refusal {
    let reason = match error {
        StatementError::Envelope(EnvelopeError::BadSignature(_)) | StatementError::KeyDidNotSign(_) => {
            Reason::InvalidSignature
        }
        StatementError::Envelope(EnvelopeError::PayloadTooLarge { .. })
        | StatementError::Payload(JsonError::TooLarge { .. }) => Reason::PayloadTooLarge,
        StatementError::NotUnderstood { why: koinon_core::body::Opaque::UnsupportedRules(_), .. } => {
            Reason::UnsupportedRules
        }
        StatementError::Nested { .. }
        | StatementError::Application(_)
        | StatementError::OperatorDidNotSign(_)
        | StatementError::Member(_) => Reason::ActionInvalid,
        _ => Reason::PayloadMalformed,
    };
    Refusal::new(reason, error.to_string())
}

fn malformed(message: impl Into<String>) -> Refusal {
    Refusal::new(Reason::PayloadMalformed, message)
}

/// What can be judged without knowing the cooperative's state: whose statement this is, and for whom.
///
/// # Errors
/// When it is for another cooperative, or another member's seat anchors it.
pub fn belongs(statement: &Statement, coop: CoopId, me: &MemberId) -> Result<(), Refusal> {
    if statement.coop() != coop {
        let message = format!("it is signed for {}, and this cluster belongs to {coop}", statement.coop());
        return Err(Refusal::new(Reason::ForeignCooperative, message));
    }
    if statement.author() != me {
        let message =
            format!("it is {author}'s and counts once {author}'s own operator anchors it", author = statement.author());
        return Err(Refusal::new(Reason::NotSeat, message));
    }
    Ok(())
}

fn same_proposal(spec: &ProposalSpec, body: &Proposal) -> Result<(), Refusal> {
    same("title", &spec.title, &body.title)?;
    same("text", &spec.text, &body.text)?;
    same("class", &spec.class, &body.class)?;
    match &spec.action {
        Some(action) => same("action", action, &body.action),
        None => Ok(()),
    }
}

fn same_vote(spec: &VoteSpec, body: &Vote) -> Result<(), Refusal> {
    use koinon_api::vote::Choice as Shown;
    use koinon_core::body::proposal::Choice;
    let choice = match body.choice {
        Choice::Yes => Shown::Approve,
        Choice::No => Shown::Reject,
        Choice::Abstain => Shown::Abstain,
        Choice::Veto => Shown::Veto,
    };
    same("proposal", &spec.proposal, &body.proposal)?;
    same("choice", &spec.choice, &choice)?;
    if let Some(vseq) = spec.vseq {
        same("vseq", &vseq, &body.vseq)?;
    }
    if let Some(ground) = spec.ground {
        let shown = serde_json::to_value(ground).ok().and_then(|v| v.as_str().map(str::to_lowercase));
        same("ground", &shown, &body.ground)?;
    }
    match &spec.reason {
        Some(reason) => same("reason", &Some(reason), &body.reason),
        None => Ok(()),
    }
}

/// Compares what is shown with what is signed as JSON, where absent, empty and null are the same.
fn same<A: Serialize, B: Serialize>(field: &str, shown: &A, signed: &B) -> Result<(), Refusal> {
    let json =
        |value: Result<Value, _>| value.map(bare).map_err(|error: serde_json::Error| malformed(error.to_string()));
    if json(serde_json::to_value(shown))? == json(serde_json::to_value(signed))? {
        return Ok(());
    }
    let message = format!("spec.{field} differs from what was signed: correct it, or sign what it says");
    Err(Refusal::new(Reason::EnvelopeMismatch, message))
}

fn bare(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(map) => {
            let map: serde_json::Map<String, Value> =
                map.into_iter().filter_map(|(key, value)| Some((key, bare(value)?))).collect();
            (!map.is_empty()).then_some(Value::Object(map))
        }
        Value::Array(items) => {
            let items: Vec<Value> = items.into_iter().filter_map(bare).collect();
            (!items.is_empty()).then_some(Value::Array(items))
        }
        Value::String(text) if text.is_empty() => None,
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use koinon_api::vote::Choice as Shown;
    use koinon_core::body::proposal::{Choice, Recusal};
    use koinon_core::ids::{Digest, StatementId};
    use koinon_core::testkit::{self, T0};

    use super::super::envelope::to_resource;
    use super::*;

    const COOP: CoopId = CoopId(Digest([9; 32]));

    fn vote() -> Vote {
        let proposal = StatementId(Digest::of(b"proposal"));
        Vote { proposal, choice: Choice::Yes, vseq: 0, ground: None, reason: Some("good".parse().unwrap()) }
    }

    fn resource(statement: &Statement) -> VoteSpec {
        VoteSpec {
            proposal: vote().proposal.to_string(),
            choice: Shown::Approve,
            vseq: Some(0),
            ground: None,
            reason: Some("good".into()),
            envelope: Some(to_resource(statement.envelope())),
        }
    }

    fn reason(spec: &VoteSpec) -> Reason {
        of_vote("v", spec).unwrap().statement.unwrap_err().reason
    }

    #[test]
    fn a_vote_whose_fields_say_what_was_signed_is_read() {
        let bilbao = testkit::person("bilbao");
        let signed = bilbao.human(COOP, T0, Body::Vote(vote()));
        assert_eq!(of_vote("v", &resource(&signed)).unwrap().statement.unwrap(), signed);
        let short = VoteSpec { vseq: None, reason: None, ..resource(&signed) };
        assert!(of_vote("v", &short).unwrap().statement.is_ok(), "fields may be left out");
        assert_eq!(of_vote("v", &VoteSpec { envelope: None, ..short }), None, "a draft is no candidate");
    }

    #[test]
    fn each_field_that_differs_from_what_was_signed_is_named() {
        let signed = testkit::person("bilbao").human(COOP, T0, Body::Vote(vote()));
        let good = resource(&signed);
        let changed = [
            ("choice", VoteSpec { choice: Shown::Reject, ..good.clone() }),
            ("proposal", VoteSpec { proposal: Digest::of(b"other").to_string(), ..good.clone() }),
            ("vseq", VoteSpec { vseq: Some(1), ..good.clone() }),
            ("reason", VoteSpec { reason: Some("bad".into()), ..good.clone() }),
        ];
        for (field, spec) in changed {
            let refusal = of_vote("v", &spec).unwrap().statement.unwrap_err();
            assert_eq!(refusal.reason, Reason::EnvelopeMismatch, "{field}");
            assert!(refusal.message.contains(&format!("spec.{field} ")), "{}", refusal.message);
        }
    }

    #[test]
    fn a_payload_changed_by_one_byte_and_a_relabelled_one_are_refused() {
        let signed = testkit::person("bilbao").human(COOP, T0, Body::Vote(vote()));
        let mut changed = resource(&signed);
        let payload = &mut changed.envelope.as_mut().unwrap().payload;
        let other = if &payload[80..81] == "A" { "B" } else { "A" };
        payload.replace_range(80..81, other);
        assert_eq!(reason(&changed), Reason::InvalidSignature);
        let mut relabelled = resource(&signed);
        relabelled.envelope.as_mut().unwrap().payload_type = Kind::Proposal.payload_type();
        assert!(of_vote("v", &relabelled).unwrap().statement.is_err());
    }

    #[test]
    fn what_is_for_another_cooperative_or_another_seat_does_not_belong_here() {
        let (bilbao, cork) = (testkit::person("bilbao"), testkit::person("cork"));
        let signed = bilbao.human(COOP, T0, Body::Vote(vote()));
        assert_eq!(belongs(&signed, COOP, &bilbao.id()), Ok(()));
        let other = CoopId(Digest([8; 32]));
        assert_eq!(belongs(&signed, other, &bilbao.id()).unwrap_err().reason, Reason::ForeignCooperative);
        assert_eq!(belongs(&signed, COOP, &cork.id()).unwrap_err().reason, Reason::NotSeat);
    }

    #[test]
    fn what_people_say_without_a_resource_of_its_own_is_read_from_a_statement() {
        let bilbao = testkit::person("bilbao");
        let signed = bilbao.human(COOP, T0, Body::Recusal(Recusal { proposal: vote().proposal }));
        let spec = |statement: &Statement| StatementSpec { envelope: to_resource(statement.envelope()) };
        assert_eq!(of_statement("s", &spec(&signed)).unwrap().statement.unwrap(), signed);
        let vote = bilbao.human(COOP, T0, Body::Vote(vote()));
        assert_eq!(of_statement("s", &spec(&vote)), None, "a vote is applied as a Vote");
        assert_eq!(of_statement("s", &spec(&testkit::Writer::new(&bilbao, COOP).anchor(T0, &signed))), None);
    }

    #[test]
    fn an_action_is_the_same_whether_empty_lists_are_written_or_not() {
        let shown = serde_json::json!({"addModelRelease": {"uri": "hf://a/b", "engines": []}});
        let signed = serde_json::json!({"addModelRelease": {"uri": "hf://a/b", "memoryBytes": null}});
        assert_eq!(same("action", &shown, &signed), Ok(()));
    }
}
