//! Every CEL rule of the resources: the object of `e2e/testdata/rules.yaml` keeps it, and a change breaks it. The same table
//! is put to a real API server by the end-to-end tests, which also see patterns and bounds.

// A table that cannot be read is a failed test, wherever the reading is done.
#![allow(clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};

use koinon_api::envelope::MAX_HUMAN_PAYLOAD_CHARS;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

#[derive(Deserialize)]
struct Table {
    objects: BTreeMap<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    on: String,
    change: Value,
    refused: String,
    #[serde(default)]
    update: bool,
    by: Option<String>,
}

fn table() -> Table {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../e2e/testdata/rules.yaml");
    serde_yaml::from_str(&std::fs::read_to_string(path).expect("the table is part of the repository"))
        .expect("well formed")
}

/// Merges as RFC 7386 says. `LARGE` stands for a payload beyond what people may sign.
fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (into, Value::Object(change)) => {
            *into = Value::Object(serde_json::Map::new());
            merge(into, &Value::Object(change.clone()));
        }
        (into, Value::String(text)) if text == "LARGE" => *into = "A".repeat(MAX_HUMAN_PAYLOAD_CHARS + 4).into(),
        (into, value) => *into = value.clone(),
    }
}

/// What the rules say of an object, by way of its type, which fills in defaults as the API server does.
fn judge(object: &Value, old: Option<&Value>) -> Result<(), String> {
    macro_rules! by_kind {
        ($($kind:ident)*) => {
            match object["kind"].as_str() {
                $(Some(stringify!($kind)) => {
                    let new: koinon_api::$kind = typed(object)?;
                    match old {
                        Some(old) => new.validate_cel_update(&typed(old)?),
                        None => new.validate_cel(),
                    }
                    .map_err(|errors| format!("{errors}"))
                })*
                other => Err(format!("no such kind: {other:?}")),
            }
        };
    }
    by_kind!(Cooperative Member GPUNode GPUPool GPUOffer ModelRelease Proposal Vote PolicyVersion Statement InferenceJob Placement)
}

fn typed<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    serde_json::from_value(object.clone()).map_err(|e| format!("not of its type: {e}"))
}

#[test]
fn every_object_of_the_table_keeps_every_rule() {
    for (name, object) in table().objects {
        assert_eq!(judge(&object, None), Ok(()), "{name}");
        assert_eq!(judge(&object, Some(&object)), Ok(()), "{name}, unchanged");
    }
}

#[test]
fn every_rule_refuses_what_breaks_it() {
    let Table { objects, cases } = table();
    for case in cases.iter().filter(|c| c.by.is_none()) {
        let old = &objects[&case.on];
        let mut new = old.clone();
        merge(&mut new, &case.change);
        let said =
            judge(&new, case.update.then_some(old)).expect_err(&format!("{}: {} broke no rule", case.on, case.change));
        assert!(said.contains(&case.refused), "{}: {} was refused with {said}", case.on, case.change);
    }
}

#[test]
fn no_rule_is_without_a_case() {
    let refusals: Vec<String> = table().cases.into_iter().map(|c| c.refused).collect();
    let mut rules = BTreeSet::new();
    for crd in koinon_api::crd::all() {
        collect(&crd.spec.names.kind, &serde_json::to_value(&crd).expect("serialisable"), &mut rules);
    }
    assert!(rules.len() > 30, "only {} rules were found", rules.len());
    for (kind, message) in rules {
        assert!(refusals.iter().any(|r| message.contains(r.as_str())), "{kind}: no case breaks the rule \"{message}\"");
    }
}

fn collect(kind: &str, value: &Value, into: &mut BTreeSet<(String, String)>) {
    match value {
        Value::Object(map) => {
            for rule in map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                let message = rule["message"].as_str().expect("every rule has a message");
                into.insert((kind.to_owned(), message.to_owned()));
            }
            map.values().for_each(|v| collect(kind, v, into));
        }
        Value::Array(items) => items.iter().for_each(|v| collect(kind, v, into)),
        _ => {}
    }
}

#[test]
fn every_sample_keeps_every_rule() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/samples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("samples are part of the repository") {
        let path = entry.expect("readable").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object = Value::deserialize(document).expect("well formed");
            if object["apiVersion"].as_str().is_some_and(|v| v.starts_with("koinon.dev/")) {
                assert_eq!(judge(&object, None), Ok(()), "{}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen >= 7, "only {seen} samples were found");
}
