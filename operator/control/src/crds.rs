//! Waiting for the custom resource definitions that this operator was built for.
//!
//! A missing CRD makes watches fail for ever without a word, and an older one silently drops the fields that it does
//! not know. Both are found by reading what the API server itself publishes, which needs no right beyond discovery.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Request;
use koinon_telemetry::Awaited;
use serde_json::Value;
use thiserror::Error;

/// How long to wait between two looks. An install by Helm brings the CRDs within seconds, in either order.
const PAUSE: Duration = Duration::from_secs(2);
/// Deeper than any schema of ours; a limit for what the API server sends.
const MAX_DEPTH: usize = 24;

/// The schema of each kind, as this operator was built with it.
pub type Schemas = BTreeMap<String, Value>;

/// What is wrong with the served definitions.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CrdProblem {
    /// Not installed.
    #[error("{kind}.{group} is missing: install the koinon-crds chart")]
    Missing {
        /// The kind.
        kind: String,
        /// Our API group.
        group: &'static str,
    },
    /// Lacks a field that this operator writes or reads.
    #[error("{kind}.{group} is older than this operator, it lacks {path}: upgrade the koinon-crds chart")]
    Older {
        /// The kind.
        kind: String,
        /// Our API group.
        group: &'static str,
        /// The first missing field.
        path: String,
    },
    /// The API server could not be asked.
    #[error("asking the API server for its definitions failed: {0}")]
    Unreachable(String),
}

/// Compares what is served with what this operator needs.
///
/// # Errors
/// The first kind that is missing or older.
pub fn check(needed: &Schemas, served: &Schemas) -> Result<(), CrdProblem> {
    let group = koinon_api::GROUP;
    for (kind, schema) in needed {
        let Some(theirs) = served.get(kind) else {
            return Err(CrdProblem::Missing { kind: kind.clone(), group });
        };
        if let Some(path) = missing(schema, theirs, "", MAX_DEPTH) {
            return Err(CrdProblem::Older { kind: kind.clone(), group, path });
        }
    }
    Ok(())
}

/// The first property of `ours` that `theirs` does not have. Only names are compared: rules and descriptions may differ
/// between two versions that understand each other.
fn missing(ours: &Value, theirs: &Value, path: &str, depth: usize) -> Option<String> {
    if depth == 0 || theirs.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        return None;
    }
    if let Some(properties) = ours.get("properties").and_then(Value::as_object) {
        for (name, schema) in properties {
            let here = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            // Every kind has it, and the API server publishes it in its own words.
            if here == "metadata" {
                continue;
            }
            match theirs.get("properties").and_then(|theirs| theirs.get(name)) {
                None => return Some(here),
                Some(their) => {
                    if let Some(path) = missing(schema, their, &here, depth - 1) {
                        return Some(path);
                    }
                }
            }
        }
    }
    for nested in ["items", "additionalProperties"] {
        if let (Some(ours), Some(theirs)) = (ours.get(nested), theirs.get(nested))
            && let Some(path) = missing(ours, theirs, &format!("{path}[]"), depth - 1)
        {
            return Some(path);
        }
    }
    None
}

/// Reads the schemas that the API server serves for our group.
///
/// # Errors
/// When the API server does not answer; a group that is not served at all is an empty map.
pub async fn served(client: &kube::Client) -> Result<Schemas, CrdProblem> {
    let (group, version) = (koinon_api::GROUP, koinon_api::VERSION);
    let request = Request::get(format!("/openapi/v3/apis/{group}/{version}"))
        .body(Vec::new())
        .map_err(|error| CrdProblem::Unreachable(error.to_string()))?;
    let document: Value = match client.request(request).await {
        Ok(document) => document,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Schemas::new()),
        Err(error) => return Err(CrdProblem::Unreachable(error.to_string())),
    };
    Ok(of_document(&document))
}

fn of_document(document: &Value) -> Schemas {
    let Some(schemas) = document.pointer("/components/schemas").and_then(Value::as_object) else {
        return Schemas::new();
    };
    let mut found = Schemas::new();
    for schema in schemas.values() {
        let kinds = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
        for kind in kinds.into_iter().flatten() {
            if kind.get("group").and_then(Value::as_str) == Some(koinon_api::GROUP)
                && let Some(kind) = kind.get("kind").and_then(Value::as_str)
            {
                found.insert(kind.to_owned(), schema.clone());
            }
        }
    }
    found
}

/// Waits until every definition is served as it is needed; says meanwhile what is missing.
pub async fn wait(client: &kube::Client, needed: &Schemas, awaited: &Awaited) {
    let mut said = None;
    loop {
        let answer = tokio::time::timeout(Duration::from_secs(10), served(client)).await;
        let problem = match answer {
            Ok(Ok(served)) => check(needed, &served).err(),
            Ok(Err(problem)) => Some(problem),
            Err(_) => Some(CrdProblem::Unreachable("no answer within 10 s".to_owned())),
        };
        let Some(problem) = problem else {
            awaited.met();
            return;
        };
        if said.as_ref() != Some(&problem) {
            tracing::warn!(%problem, "waiting for custom resource definitions");
            awaited.again(problem.to_string());
            said = Some(problem);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(guests: Value) -> Schemas {
        let spec = json!({"type": "object", "properties": {"id": {"type": "string"}, "guests": guests}});
        let cooperative = json!({"properties": {"metadata": {"type": "object"}, "spec": spec}});
        Schemas::from([("Cooperative".to_owned(), cooperative)])
    }

    fn object(names: &[&str]) -> Value {
        let properties: serde_json::Map<String, Value> =
            names.iter().map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
        json!({"type": "object", "properties": properties})
    }

    #[test]
    fn equal_and_newer_definitions_are_good() {
        assert_eq!(check(&schema(object(&["mode"])), &schema(object(&["mode"]))), Ok(()));
        assert_eq!(check(&schema(object(&["mode"])), &schema(object(&["mode", "later"]))), Ok(()));
    }

    #[test]
    fn a_missing_definition_is_named_with_its_fix() {
        let problem = check(&schema(object(&[])), &Schemas::new()).unwrap_err();
        assert_eq!(problem.to_string(), "Cooperative.koinon.dev is missing: install the koinon-crds chart");
    }

    #[test]
    fn an_older_definition_is_named_with_the_field_that_it_would_drop() {
        let problem = check(&schema(object(&["mode", "networkPolicy"])), &schema(object(&["mode"]))).unwrap_err();
        assert_eq!(
            problem.to_string(),
            "Cooperative.koinon.dev is older than this operator, it lacks spec.guests.networkPolicy: upgrade the \
             koinon-crds chart"
        );
    }

    #[test]
    fn fields_within_lists_are_compared_too() {
        let list = |names: &[&str]| schema(json!({"type": "array", "items": object(names)}));
        assert_eq!(check(&list(&["a"]), &list(&["a"])), Ok(()));
        let problem = check(&list(&["a", "b"]), &list(&["a"])).unwrap_err();
        assert!(problem.to_string().contains("spec.guests[].b"), "{problem}");
    }

    #[test]
    fn kinds_are_found_in_the_published_document_by_their_kind_and_not_by_their_key() {
        let document = json!({"components": {"schemas": {
            "dev.koinon.v1alpha1.Vote": {"x-kubernetes-group-version-kind": [{"group": "koinon.dev", "kind": "Vote"}]},
            "io.k8s.Status": {"x-kubernetes-group-version-kind": [{"group": "", "kind": "Status"}]},
        }}});
        assert_eq!(of_document(&document).into_keys().collect::<Vec<_>>(), ["Vote"]);
    }
}
