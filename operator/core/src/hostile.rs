//! Everything that comes from strangers, made up at random: nothing panics, nothing forged passes, nothing good breaks.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::body::catalogue::{ArgumentValues, Engine};
use crate::body::charter::Preset;
use crate::body::proposal::{Action, Scope, WithdrawModelRelease};
use crate::body::{Anchor, Body};
use crate::dsse::{Envelope, Signer};
use crate::ids::{Digest, Endpoint, ManifestDigest, MemberId, PublicKey, UnixSeconds};
use crate::json::check;
use crate::kind::Kind;
use crate::log::Limits;
use crate::manifest::Manifest;
use crate::policy::Commons;
use crate::sealing::{self, Circumstances};
use crate::statement::Statement;
use crate::testkit::{Person, T0, Writer, charter, found, person};

/// JSON that a strict reader takes.
fn strict_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(".{0,6}", inner, 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

/// What becomes of a value: mostly another of its own type, at the edges where arithmetic breaks, so that it is read
/// and has to be dealt with; sometimes anything at all.
#[derive(Clone, Debug)]
enum Odd {
    Like(prop::sample::Index),
    Anything(Value),
}

fn odd() -> impl Strategy<Value = Odd> {
    prop_oneof![
        5 => any::<prop::sample::Index>().prop_map(Odd::Like),
        1 => strict_json().prop_map(Odd::Anything),
    ]
}

impl Odd {
    fn of(&self, value: &Value) -> Value {
        let numbers = [i64::MAX, i64::MIN, 0, 1, -1, 7, i64::from(u32::MAX), i64::from(u32::MAX) + 1, T0.0, T0.0 + 121];
        let choices = ["yes", "no", "abstain", "veto", "passed", "rejected", "stale"];
        match (self, value) {
            (Self::Anything(anything), _) => anything.clone(),
            (Self::Like(pick), Value::Number(_)) => json!(pick.get(&numbers)),
            (Self::Like(_), Value::Bool(flag)) => json!(!flag),
            (Self::Like(_), Value::String(text)) if text.starts_with("sha256:") => json!(Digest::of(text.as_bytes())),
            (Self::Like(pick), Value::String(text)) if choices.contains(&text.as_str()) => json!(pick.get(&choices)),
            (Self::Like(_), other) => other.clone(),
        }
    }
}

/// Replaces something somewhere in `value`; `path` picks where.
fn disturb(value: &mut Value, path: &[prop::sample::Index], odd: &Odd) {
    let (first, rest) = match path.split_first() {
        Some((first, rest)) if value.is_object() || value.is_array() => (first, rest),
        _ => return *value = odd.of(value),
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            let index = first.index(map.len());
            map.values_mut().nth(index).into_iter().for_each(|inner| disturb(inner, rest, odd));
        }
        Value::Array(items) if !items.is_empty() => disturb(first.get_mut(items), rest, odd),
        _ => {}
    }
}

/// Good statements of every sort that a member can put into its log, as payloads.
fn payloads() -> Vec<(Kind, Map<String, Value>)> {
    let text = include_str!("../testdata/vectors/decision.json");
    let decision: Value = serde_json::from_str(text).unwrap();
    let envelopes: Vec<Envelope> = serde_json::from_value(decision["entries"].clone()).unwrap();
    let mut payloads = vec![];
    for envelope in envelopes {
        let payload: Map<String, Value> = serde_json::from_slice(&envelope.payload_bytes().unwrap()).unwrap();
        if let Some(inner) = payload["body"].get("statement") {
            let inner: Envelope = serde_json::from_value(inner.clone()).unwrap();
            let kind = Kind::of_payload_type(&inner.payload_type).unwrap();
            payloads.push((kind, serde_json::from_slice(&inner.payload_bytes().unwrap()).unwrap()));
        }
        payloads.push((Kind::of_payload_type(&envelope.payload_type).unwrap(), payload));
    }
    payloads
}

fn everything_is_asked(commons: &Commons, people: &[Person]) {
    let state = commons.state();
    for now in [T0.0, i64::MIN, i64::MAX, 0] {
        let circumstances = Circumstances::good(UnixSeconds(now));
        for proposal in state.proposals().values() {
            state.phase(proposal, UnixSeconds(now)).name();
        }
        for who in people {
            sealing::next(state, &who.id(), &circumstances);
        }
        for scope in Scope::ALL {
            sealing::next_term(state, scope, UnixSeconds(now));
        }
        let action =
            Action::WithdrawModelRelease(WithdrawModelRelease { manifest_digest: ManifestDigest(Digest::of(b"x")) });
        state.draft_proposal(action, Default::default(), Default::default(), UnixSeconds(now));
        state.applicants(UnixSeconds(now));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Statement::from_json(&bytes).is_err());
        let _ = check(&bytes);
        let _ = Manifest::parse(&bytes);
    }

    #[test]
    fn any_text_is_no_name_or_a_good_one(text in ".{0,80}") {
        if let Ok(id) = text.parse::<MemberId>() {
            prop_assert_eq!(id.to_string(), text.clone());
        }
        if let Ok(endpoint) = text.parse::<Endpoint>() {
            endpoint.host_port();
        }
        let _ = (text.parse::<Digest>(), text.parse::<PublicKey>(), text.parse::<Kind>());
    }

    #[test]
    fn digests_and_keys_survive_their_text(bytes: [u8; 32]) {
        prop_assert_eq!(Digest(bytes).to_string().parse(), Ok(Digest(bytes)));
        prop_assert_eq!(PublicKey(bytes).to_string().parse(), Ok(PublicKey(bytes)));
        let _ = crate::dsse::verifies(&PublicKey(bytes), b"", &[bytes, bytes].concat().try_into().unwrap());
    }

    #[test]
    fn strict_json_is_what_everybody_reads_alike(value in strict_json(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        prop_assert!(check(text.as_bytes()).is_ok(), "{}", text);
        let (twice, key_twice) = (format!("{text} {text}"), format!("{{\"k\":{text},\"k\":{text}}}"));
        for bad in [twice, key_twice, format!("[{text},1.5]")] {
            prop_assert!(check(bad.as_bytes()).is_err(), "{}", bad);
        }
    }

    #[test]
    fn a_changed_envelope_says_the_same_or_nothing(
        at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>(), how in 0..4,
    ) {
        let good = person("bilbao").application(crate::ids::CoopId(Digest::of(b"coop")), T0);
        let mut bytes = good.envelope().to_json();
        let (at, cut) = (at.index(bytes.len()), cut.index(bytes.len()));
        match how {
            0 => bytes[at] = byte,
            1 => bytes.truncate(at),
            2 => bytes.insert(at, byte),
            _ => drop(bytes.drain(at.min(cut)..at.max(cut))),
        }
        if let Ok(statement) = Statement::from_json(&bytes) {
            prop_assert_eq!(statement.id(), good.id());
            prop_assert_eq!(statement.body(), good.body());
        }
    }

    #[test]
    fn whatever_a_member_signs_the_others_go_on(
        edits in proptest::collection::vec(
            (any::<prop::sample::Index>(), proptest::collection::vec(any::<prop::sample::Index>(), 1..5), odd()), 1..12,
        ),
    ) {
        let people = ["aarhus", "bilbao", "cork"].map(person);
        let all: Vec<&Person> = people.iter().collect();
        let founding = found(&all, charter(&all, Preset::Trial));
        let mut commons = Commons::new(founding.clone(), Limits::default());
        let payloads = payloads();
        let mut log = Writer::new(&people[1], founding.coop());
        for (which, path, new) in &edits {
            let (kind, mut payload) = which.get(&payloads).clone();
            payload.insert("coop".into(), json!(founding.coop()));
            payload.insert("author".into(), json!("bilbao"));
            let is_entry = kind.place() == Some(crate::kind::Place::Log);
            let signer: &dyn Signer = if is_entry { &people[1].operator } else { &people[1].governance };
            payload.insert("key".into(), json!(signer.public_key()));
            let mut body = payload.remove("body").unwrap();
            let mut version = |field: &str, scope| {
                if let Some(value) = body.get_mut(field) { *value = json!(commons.state().head(scope)) }
            };
            version("parent", Scope::Releases);
            version("membership", Scope::Membership);
            // Votes and seals are about a proposal that is there, if any is.
            if let (Some(on), Some(last)) = (body.get_mut("proposal"), commons.state().proposals().keys().next()) {
                *on = json!(last);
            }
            disturb(&mut body, path, new);
            payload.insert("body".into(), body);
            if is_entry {
                let prev = log.entries.last().map_or(founding.coop().0, |e| e.id().0);
                payload.insert("log".into(), json!(signer.public_key()));
                payload.insert("seq".into(), json!(log.entries.len()));
                payload.insert("prev".into(), json!(prev));
                payload.insert("kind".into(), json!(kind));
            }
            let envelope = Envelope::sign(&kind.payload_type(), &serde_json::to_vec(&payload).unwrap(), signer);
            let Ok(statement) = Statement::verify(envelope.clone()) else { continue };
            if is_entry {
                log.entries.push(statement.clone());
                commons.insert(statement).unwrap();
            } else {
                let anchor = log.add(T0, Body::Anchor(Box::new(Anchor { statement: envelope })));
                commons.insert(anchor).unwrap();
            }
        }
        everything_is_asked(&commons, &people);
        // The others decide as if nothing had been said.
        let mut own = Writer::new(&people[0], founding.coop());
        let before = commons.state().heads();
        own.note(T0, 1);
        commons.insert(own.entries[0].clone()).unwrap();
        prop_assert_eq!(commons.state().heads(), before);
        prop_assert_eq!(commons.state().active().count(), 3);
    }

    #[test]
    fn arguments_are_filled_once_and_completely(name in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?", path in "/[a-z{}]{0,30}", n: u32) {
        let engine: Engine = serde_json::from_value(json!({
            "name": "e", "image": format!("r/i@{}", Digest::of(b"i")), "port": 8000, "healthPath": "/health",
            "args": ["--model", "{modelPath}", "--name={servedName}:{port}", "{maxModelLen}{maxConcurrency}{gpuCount}"],
            "resources": {"cpu": "1", "memory": "1Gi", "shm": "1Gi"},
        })).unwrap();
        engine.validate().unwrap();
        let values = ArgumentValues { model_path: &path, served_name: &name, max_model_len: n, max_concurrency: n, gpu_count: n };
        let args = engine.render_args(&values, &Default::default()).unwrap();
        prop_assert_eq!(args, vec!["--model".to_owned(), path, format!("--name={name}:8000"), format!("{n}{n}{n}")]);
    }
}

#[test]
fn the_payloads_that_are_disturbed_are_good_before() {
    assert!(payloads().len() > 15);
}
