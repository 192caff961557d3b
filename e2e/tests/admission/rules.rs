//! The rules of the resources, put to a real API server: the table that `operator/api` evaluates in process.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use koinon_e2e::Fleet;
use koinon_e2e::toolchain::checkout;
use serde::Deserialize;
use serde_json::Value;

use crate::server::{Server, all_held, refuses};

/// Longer than what people may sign, in base64.
const LARGE: usize = 54_620;

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
}

fn table() -> Result<Table> {
    let text = std::fs::read_to_string(checkout().join("e2e/testdata/rules.yaml")).context("reading the table")?;
    serde_yaml::from_str(&text).context("reading the table")
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
        (into, Value::String(text)) if text == "LARGE" => *into = "A".repeat(LARGE).into(),
        (into, value) => *into = value.clone(),
    }
}

/// The objects, and their statuses, are accepted.
pub async fn good(fleet: Arc<Fleet>) -> Result<()> {
    let server = Server::admin(fleet.get("aarhus")?).await?;
    let objects = table()?.objects;
    let count = objects.len();
    let mut failures = Vec::new();
    for (name, object) in objects {
        if let Err(error) = server.create(&object).await {
            failures.push(format!("{name}: {error:#}"));
        }
    }
    all_held(failures, count)
}

/// Each change is refused, in the words of its rule.
pub async fn bad(fleet: Arc<Fleet>) -> Result<()> {
    let server = Server::admin(fleet.get("aarhus")?).await?;
    let Table { objects, cases } = table()?;
    let mut failures = Vec::new();
    for case in &cases {
        let mut object = objects.get(&case.on).with_context(|| format!("the table has no {}", case.on))?.clone();
        merge(&mut object, &case.change);
        let answer = if case.change.get("status").is_some() {
            server.replace_status(&object, true).await?
        } else if case.update {
            server.try_replace(&object).await?
        } else {
            server.try_create(&object).await?
        };
        if !refuses(&answer, &case.refused) {
            failures.push(format!("{}: {} got {answer:?}", case.on, case.change));
        }
    }
    all_held(failures, cases.len())
}
