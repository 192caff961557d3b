//! The label by which the Service `koinon-peer` leads to the replica that leads, and to no other.
//!
//! Only the leader listens on the peer port. One that was lost cannot take the label off its own pod any more, so whoever
//! leads puts it on its own and takes it off all others; while nobody leads, nobody has to.

use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use koinon_api::labels;
use kube::api::{Api, ListParams, ResourceExt};
use serde_json::{Value, json};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::metrics::CommonsPart;
use crate::placement::writer::{WriteError, Writer};

/// Somebody may change labels by hand, and a replica that led before may be back.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How soon a failed write is tried again: until then peers may not find this member.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// Why the label is not where it belongs.
#[derive(Debug, Error)]
enum LabelError {
    #[error("listing the pods with the leader's label: {0}")]
    List(#[source] Box<kube::Error>),
    #[error("listing the pods with the leader's label: no answer in time")]
    NoAnswer,
    #[error(
        "there is no pod {0} to label: --pod-name must be this pod's own name, or no peer reaches this member by the Service koinon-peer"
    )]
    NoSuchPod(String),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Keeps the label on this pod alone, for as long as this replica leads.
///
/// # Errors
/// None; what fails is tried again.
pub async fn run(ctx: Context, stop: CancellationToken) -> Result<(), Infallible> {
    let label = LeaderLabel {
        pods: Api::namespaced(ctx.client.clone(), &ctx.namespace),
        writer: Writer::new(&ctx, "leader"),
        own: ctx.args.pod_name.clone(),
        release: ctx.release.clone(),
        patience: ctx.write_timeout(),
    };
    let mut told = None;
    loop {
        let pause = match label.settle().await {
            Ok(()) => {
                told = None;
                LOOK_AGAIN
            }
            Err(error) => {
                ctx.metrics.commons_failed(CommonsPart::LeaderLabel);
                let text = error.to_string();
                // The same trouble every few seconds is one line, not a flood.
                if told.as_ref() != Some(&text) {
                    tracing::warn!(error = %text, "peers may not reach the replica that leads");
                    told = Some(text);
                }
                if matches!(error, LabelError::NoSuchPod(_)) { LOOK_AGAIN } else { TRY_AGAIN }
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

struct LeaderLabel {
    pods: Api<Pod>,
    writer: Writer,
    own: String,
    release: String,
    patience: Duration,
}

impl LeaderLabel {
    /// Puts the label where it belongs; writes nothing where it is there already.
    async fn settle(&self) -> Result<(), LabelError> {
        let selector = format!(
            "app.kubernetes.io/component=operator,app.kubernetes.io/instance={},{}={}",
            self.release,
            labels::LEADER,
            labels::TRUE
        );
        let marked = ListParams::default().labels(&selector);
        let listed = tokio::time::timeout(self.patience, self.pods.list_metadata(&marked)).await;
        let listed = listed.map_err(|_| LabelError::NoAnswer)?.map_err(|error| LabelError::List(error.into()))?;
        let labelled: Vec<String> = listed.items.iter().map(ResourceExt::name_any).collect();
        // The own one first: peers find two for a moment rather than none.
        if !labelled.contains(&self.own) {
            match self.write(&self.own, json!(labels::TRUE)).await {
                Err(error) if error.is_not_found() => return Err(LabelError::NoSuchPod(self.own.clone())),
                written => written?,
            }
            tracing::info!(pod = self.own, "the peer Service leads here");
        }
        for other in labelled.iter().filter(|name| **name != self.own) {
            match self.write(other, Value::Null).await {
                Err(error) if error.is_not_found() => {}
                written => written?,
            }
        }
        Ok(())
    }

    async fn write(&self, pod: &str, value: Value) -> Result<(), WriteError> {
        let change = json!({"metadata": {"labels": {labels::LEADER: value}}});
        self.writer.merge(&self.pods, pod, &change).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use axum::Json;
    use axum::Router;
    use axum::extract::{Path, Query, State};
    use axum::http::StatusCode;
    use axum::response::{IntoResponse, Response};
    use axum::routing::get;

    use super::*;
    use crate::lease::LeaseHandle;

    /// The operator's pods by name, and whether each has the label; and what was written, in order.
    #[derive(Default)]
    struct Pods {
        labelled: BTreeMap<String, bool>,
        written: Vec<(String, Value)>,
    }

    type Shared = Arc<Mutex<Pods>>;

    async fn list(State(pods): State<Shared>, Query(query): Query<BTreeMap<String, String>>) -> Json<Value> {
        let selector = &query["labelSelector"];
        assert_eq!(
            selector,
            "app.kubernetes.io/component=operator,app.kubernetes.io/instance=koinon,koinon.dev/leader=true"
        );
        let named = |name: &String| json!({"metadata": {"name": name}});
        let pods = pods.lock().unwrap();
        let items: Vec<Value> = pods.labelled.iter().filter(|(_, has)| **has).map(|(name, _)| named(name)).collect();
        Json(
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": items}),
        )
    }

    async fn patch(State(pods): State<Shared>, Path(name): Path<String>, body: String) -> Response {
        let change: Value = serde_json::from_str(&body).unwrap();
        let mut pods = pods.lock().unwrap();
        let Some(has) = pods.labelled.get_mut(&name) else {
            let gone =
                json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "no"});
            return (StatusCode::NOT_FOUND, Json(gone)).into_response();
        };
        let value = change["metadata"]["labels"]["koinon.dev/leader"].clone();
        *has = value == "true";
        pods.written.push((name.clone(), value));
        Json(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}})).into_response()
    }

    async fn leader(own: &str, pods: &Shared) -> LeaderLabel {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = kube::Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let path = "/api/v1/namespaces/koinon-system/pods";
        let app = Router::new()
            .route(path, get(list))
            .route(&format!("{path}/{{name}}"), axum::routing::patch(patch))
            .with_state(pods.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let patience = Duration::from_secs(5);
        LeaderLabel {
            pods: Api::namespaced(kube::Client::try_from(config).unwrap(), "koinon-system"),
            writer: Writer::with(LeaseHandle::held_for_ever(), patience, "leader"),
            own: own.to_owned(),
            release: "koinon".to_owned(),
            patience,
        }
    }

    fn pods(labelled: &[(&str, bool)]) -> Shared {
        let labelled = labelled.iter().map(|(name, has)| ((*name).to_owned(), *has)).collect();
        Arc::new(Mutex::new(Pods { labelled, written: Vec::new() }))
    }

    #[tokio::test]
    async fn whoever_leads_takes_the_label_from_one_that_was_lost() {
        let pods = pods(&[("a", true), ("b", false)]);
        let leader = leader("b", &pods).await;
        leader.settle().await.unwrap();
        let order = vec![("b".to_owned(), json!("true")), ("a".to_owned(), Value::Null)];
        assert_eq!(pods.lock().unwrap().written, order, "peers find two for a moment rather than none");
        leader.settle().await.unwrap();
        assert_eq!(pods.lock().unwrap().written.len(), 2, "what is right already is not written");
        pods.lock().unwrap().labelled.insert("b".to_owned(), false);
        leader.settle().await.unwrap();
        assert!(pods.lock().unwrap().labelled["b"], "what somebody took off by hand is put back");
    }

    #[tokio::test]
    async fn without_a_pod_of_its_own_nobody_else_loses_the_label() {
        let pods = pods(&[("a", true)]);
        let error = leader("elsewhere", &pods).await.settle().await.unwrap_err().to_string();
        assert!(error.contains("elsewhere") && error.contains("--pod-name"), "{error}");
        assert!(pods.lock().unwrap().labelled["a"]);
    }

    #[test]
    fn the_rendered_install_looks_for_the_label_and_lets_the_operator_write_it() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/install.yaml");
        let install = std::fs::read_to_string(path).unwrap();
        let documents: Vec<Value> = serde_yaml::Deserializer::from_str(&install)
            .map(|document| serde::Deserialize::deserialize(document).unwrap())
            .collect();
        let find = |kind: &str, name: &str| {
            let named = |one: &&Value| {
                one["kind"] == kind
                    && one["metadata"]["name"] == name
                    && one["metadata"]["namespace"] == "koinon-system"
            };
            documents.iter().find(named).unwrap()
        };
        assert_eq!(find("Service", "koinon-peer")["spec"]["selector"][labels::LEADER], labels::TRUE);
        let rules = find("Role", "koinon-operator")["rules"].as_array().unwrap();
        assert!(rules.iter().any(|rule| rule["resources"] == json!(["pods"]) && rule["verbs"] == json!(["patch"])));
    }
}
