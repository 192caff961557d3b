//! What passes for a statement and what does not.

use super::*;
use crate::body::Anchor;
use crate::body::charter::Preset;
use crate::body::proposal::{Choice, Leave, Vote};
use crate::dsse::SeedSigner;
use crate::testkit::{T0, charter, found, person};

fn coop() -> CoopId {
    CoopId(Digest::of(b"coop"))
}

fn vote() -> Body {
    Body::Vote(Vote {
        proposal: StatementId(Digest::of(b"p")),
        choice: Choice::Yes,
        vseq: 0,
        ground: None,
        reason: None,
    })
}

/// Signs any payload, as a stranger would.
fn raw(kind: &str, payload: &str, signer: &dyn Signer) -> Result<Statement, StatementError> {
    Statement::verify(Envelope::sign(&format!("application/vnd.koinon.{kind}.v1+json"), payload.as_bytes(), signer))
}

fn payload(edit: impl Fn(&mut serde_json::Map<String, Value>)) -> String {
    let bilbao = person("bilbao");
    let statement = bilbao.entry(coop(), T0, 0, coop().0, vote_anchor(&bilbao));
    let bytes = statement.envelope().payload_bytes().unwrap();
    let mut map: serde_json::Map<String, Value> = serde_json::from_slice(&bytes).unwrap();
    edit(&mut map);
    serde_json::to_string(&map).unwrap()
}

fn vote_anchor(who: &crate::testkit::Person) -> Body {
    Body::Anchor(Box::new(Anchor { statement: who.human(coop(), T0, vote()).envelope().clone() }))
}

#[test]
fn a_statement_survives_the_wire() {
    let bilbao = person("bilbao");
    let vote = bilbao.human(coop(), T0, vote());
    assert_eq!(Statement::from_json(&vote.envelope().to_json()).unwrap(), vote);
    let entry = bilbao.entry(coop(), T0, 0, coop().0, vote_anchor(&bilbao));
    let read = Statement::from_json(&entry.envelope().to_json()).unwrap();
    assert_eq!(read.nested(), Some(&vote));
    assert_eq!(read.log_seq(), Some(Seq(0)));
}

#[test]
fn a_payload_cannot_pass_under_another_kind() {
    let bilbao = person("bilbao");
    let text = payload(|_| ());
    assert!(matches!(raw("vote", &text, &bilbao.operator), Err(StatementError::KindMismatch { .. })));
    let mut relabelled = bilbao.human(coop(), T0, vote()).envelope().clone();
    relabelled.payload_type = Kind::Leave.payload_type();
    assert!(matches!(Statement::verify(relabelled), Err(StatementError::Envelope(EnvelopeError::BadSignature(_)))));
}

#[test]
fn the_key_in_the_header_must_be_the_one_that_signed() {
    let error = raw("anchor", &payload(|_| ()), &SeedSigner::from_seed(&[1; 32])).unwrap_err();
    assert!(matches!(error, StatementError::KeyDidNotSign(_)), "{error}");
}

#[test]
fn positions_are_whole_and_fit_their_kind() {
    let bilbao = person("bilbao");
    for (edit, because) in [
        (
            (|m| {
                m.remove("prev");
            }) as fn(&mut serde_json::Map<String, Value>),
            "it needs log, seq, prev",
        ),
        (
            |m| {
                m.insert("to".into(), "*".into());
            },
            "it needs log, seq, prev",
        ),
        (
            |m| {
                m.insert("log".into(), person("cork").operator.public_key().to_string().into());
            },
            "must be equal",
        ),
        (
            |m| {
                m.remove("log");
                m.remove("seq");
                m.remove("prev");
            },
            "another sort",
        ),
    ] {
        let error = raw("anchor", &payload(edit), &bilbao.operator).unwrap_err().to_string();
        assert!(error.contains(because), "{error}");
    }
}

#[test]
fn an_entry_that_is_not_understood_keeps_its_place_without_effect() {
    let bilbao = person("bilbao");
    let later = payload(|m| {
        m.insert("kind".into(), "ledger-day".into());
    });
    let rules = payload(|m| {
        m.insert("rules".into(), 3.into());
    });
    let field = payload(|m| {
        m["body"]["more"] = 1.into();
    });
    let header = payload(|m| {
        m.insert("onBehalfOf".into(), "cork".into());
    });
    let broken = payload(|m| {
        m["body"]["statement"]["payload"] = "e30=".into();
    });
    for (kind, text, because) in [
        ("ledger-day", later, "not known"),
        ("anchor", rules, "follows rules 3"),
        ("anchor", field, "more"),
        ("anchor", header, "onBehalfOf"),
        ("anchor", broken, "does not verify"),
    ] {
        let entry = raw(kind, &text, &bilbao.operator).unwrap();
        assert_eq!(entry.log_seq(), Some(Seq(0)));
        let Body::Opaque(why) = entry.body() else { panic!("{text} was understood") };
        assert!(why.to_string().contains(because), "{why}");
        assert!(entry.understood().is_err());
    }
}

#[test]
fn duplicate_keys_and_floats_are_no_payload() {
    let bilbao = person("bilbao");
    let good = payload(|_| ());
    let twice = good.replacen("{", "{\"rules\":1,", 1);
    let float = good.replace("\"rules\":1", "\"rules\":1.0");
    // What others read with a sign ends at 63 bits.
    let seq = |number: &str| good.replace("\"seq\":0", &format!("\"seq\":{number}"));
    let beside = good.replacen("{", "{\"later\":{\"a\":1,\"a\":2},", 1);
    for text in [twice, float, seq("9223372036854775808"), seq("-1"), seq("0.0"), beside] {
        assert_ne!(text, good);
        assert!(matches!(raw("anchor", &text, &bilbao.operator), Err(StatementError::Payload(_))), "{text}");
    }
}

#[test]
fn an_application_proves_both_keys() {
    let cork = person("cork");
    cork.application(coop(), T0);
    let body = Body::Application(Box::new(Application { member: cork.member.clone() }));
    let draft = cork.draft_for_tests(coop(), body);
    let alone = draft.sign(&cork.governance, &[]).unwrap_err().to_string();
    let missing = format!("operator key {} has not signed", cork.operator.public_key());
    assert!(alone.contains(&missing), "{alone}");
    let by_person = draft.envelope(&cork.governance).unwrap();
    assert!(Statement::complete_application(by_person.clone(), &person("eve").operator).is_err());
    Statement::complete_application(by_person, &cork.operator).unwrap();
    let mut stolen = draft;
    stolen.author = "bilbao".parse().unwrap();
    assert!(stolen.sign(&cork.governance, &[&cork.operator]).is_err());
}

#[test]
fn a_founding_needs_every_founder_and_nobody_else() {
    use crate::founding::{Founding, FoundingError};
    let (a, b) = (person("aarhus"), person("bilbao"));
    let founding = found(&[&a, &b], charter(&[&a, &b], Preset::Trial));
    assert_eq!(founding.coop().0, founding.statement().id().0);
    let mut missing = founding.statement().envelope().clone();
    missing.signatures.truncate(1);
    assert_eq!(Founding::verify(missing), Err(FoundingError::NotSigned(b.id())));
    let mut strange = founding.statement().envelope().clone();
    strange.co_sign(&a.operator).unwrap();
    assert!(matches!(Founding::verify(strange), Err(FoundingError::StrangeSignature(_))));
    let other = Founding::verify_as(founding.statement().envelope().clone(), coop());
    assert!(matches!(other, Err(FoundingError::OtherCooperative { .. })));
}

#[test]
fn both_presets_are_valid_charters() {
    let a = person("aarhus");
    for preset in [Preset::Trial, Preset::Standard] {
        charter(&[&a], preset).validate().unwrap();
    }
}

#[test]
fn leaving_can_be_said_in_one_word() {
    let statement = person("cork").human(coop(), T0, Body::Leave(Leave::default()));
    assert_eq!(statement.kind(), &Kind::Leave);
}

#[test]
fn a_body_in_another_form_than_the_one_that_is_written_has_no_effect() {
    let bilbao = person("bilbao");
    let Body::Vote(written) = vote() else { panic!("it is a vote") };
    let id = written.proposal;
    for body in [
        // What the typed reader would take: the fields as a list, in the order of this version's source.
        serde_json::json!([id, "yes", 0, null, null]),
        serde_json::json!({ "proposal": id, "choice": { "yes": null }, "vseq": 0 }),
    ] {
        assert_eq!(serde_json::from_value::<Vote>(body.clone()).unwrap(), written, "nothing would be refused here");
        let (_, payload) = bilbao.draft_for_tests(coop(), vote()).payload(bilbao.governance.public_key()).unwrap();
        let mut payload: Value = serde_json::from_slice(&payload).unwrap();
        payload["body"] = body;
        let statement = raw("vote", &payload.to_string(), &bilbao.governance).unwrap();
        assert!(matches!(statement.body(), Body::Opaque(_)), "{payload}");
    }
}

#[test]
fn what_is_signed_unread_is_what_a_reader_finds() {
    let bilbao = person("bilbao");
    let inner = bilbao.draft_for_tests(coop(), vote()).sign_unread(&bilbao.governance, None).unwrap();
    let body = Body::Anchor(Box::new(Anchor { statement: inner.envelope().clone() }));
    let position = Position::Log { seq: Seq(3), prev: Digest::of(b"before") };
    let draft = Draft { position, ..bilbao.draft_for_tests(coop(), body) };
    let entry = draft.sign_unread(&bilbao.operator, Some(&inner)).unwrap();
    assert_eq!(Statement::verify(entry.envelope().clone()), Ok(entry));
}

#[test]
fn the_fields_of_a_payload_are_those_that_are_written() {
    let key = SeedSigner::from_seed(&[1; 32]).public_key();
    let wire = Wire {
        coop: String::new(),
        author: person("bilbao").id(),
        site: "main".parse().unwrap(),
        key,
        kind: Kind::Vote,
        rules: 1,
        issued_at: T0,
        log: Some(key),
        subject: Some("beacon".parse().unwrap()),
        seq: Some(Seq(0)),
        prev: Some(coop().0),
        to: Some("*".to_owned()),
        not_after: Some(T0),
        body: Value::Null,
    };
    let Value::Object(written) = serde_json::to_value(&wire).unwrap() else { panic!("it is an object") };
    let names: std::collections::BTreeSet<&str> = written.keys().map(String::as_str).collect();
    assert_eq!(names, FIELDS.into());
}
