//! The gateway and an API server that goes away and comes back, over real HTTP.
#![allow(clippy::unwrap_used, clippy::panic)] // the lint's exception for tests does not see helpers of tests

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, Uri};
use koinon_core::ids::Digest;
use koinon_gateway::Gateway;
use koinon_gateway::run::Sources;
use koinon_telemetry::{HealthArgs, Process, Role, Tasks, listen};
use serde_json::{Value, json};
use support::engine::{Engine, Manner};
use support::{COOP, KEY, chat, client, condition, placement, secret};
use tokio_util::sync::CancellationToken;

/// An API server that knows lists, and watches that say nothing but that their version is too old.
#[derive(Clone, Default)]
struct ApiServer {
    /// By the last part of the path.
    objects: Arc<Mutex<HashMap<String, Vec<Value>>>>,
    asked: Arc<Mutex<Vec<String>>>,
    /// Grows with each change.
    version: Arc<AtomicU64>,
}

impl ApiServer {
    fn set(&self, plural: &str, objects: Vec<Value>) {
        self.version.fetch_add(1, Ordering::SeqCst);
        self.objects.lock().unwrap().insert(plural.to_owned(), objects);
    }

    /// Serves until what is returned is cancelled, connections and all.
    async fn up(&self, address: SocketAddr) -> (SocketAddr, CancellationToken) {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let app = Router::new().fallback(answer).with_state(self.clone());
        let limits = listen::Limits { drain: Duration::ZERO, ..listen::Limits::default() };
        tokio::spawn(listen::serve(listener, app, limits, stop.clone()));
        (address, stop)
    }
}

async fn answer(State(server): State<ApiServer>, uri: Uri) -> Response<Body> {
    server.asked.lock().unwrap().push(uri.to_string());
    let version = server.version.load(Ordering::SeqCst);
    let query = uri.query().unwrap_or_default();
    if query.contains("watch=true") {
        if !query.split('&').any(|part| part == format!("resourceVersion={version}")) {
            let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410,
                "message": "too old resource version"});
            return Response::new(Body::from(format!("{}\n", json!({"type": "ERROR", "object": gone}))));
        }
        return Response::new(Body::from_stream(futures::stream::pending::<std::io::Result<Vec<u8>>>()));
    }
    let plural = uri.path().rsplit('/').next().unwrap().to_owned();
    let mut items = server.objects.lock().unwrap().get(&plural).cloned().unwrap_or_default();
    if let Some(name) = query.split("metadata.name%3D").nth(1) {
        let name = name.split('&').next().unwrap().to_owned();
        items.retain(|item| item["metadata"]["name"] == json!(name));
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version.to_string()}, "items": items});
    Response::builder().header("content-type", "application/json").body(Body::from(list.to_string())).unwrap()
}

fn local(epoch: i64, engine: SocketAddr) -> Vec<Value> {
    let home = json!({"state": "Ready", "conditions": [condition("Routable")]});
    let host = json!({"state": "Ready", "gateway": format!("http://{engine}"), "conditions": [condition("Ready")]});
    [("Home", "team", home), ("Host", "koinon-guest-aarhus", host)]
        .into_iter()
        .map(|(side, namespace, status)| {
            let object = placement(side, namespace, "aarhus", "aarhus", 0, epoch, status);
            serde_json::to_value(object.as_ref()).unwrap()
        })
        .collect()
}

#[tokio::test]
async fn while_the_api_server_is_down_the_last_routes_serve_and_one_bad_object_stops_nobody() {
    let engine = Engine::start(Manner::Friendly).await;
    let server = ApiServer::default();
    let mut placements = local(1, engine.address);
    placements.push(json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "Placement",
        "metadata": {"name": "bad", "namespace": "team"}, "spec": {"epoch": "one"}}));
    server.set("placements", placements);
    server.set(
        "cooperatives",
        vec![json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "Cooperative",
        "metadata": {"name": "cooperative", "namespace": "koinon-system"},
        "spec": {"id": COOP, "member": "aarhus", "site": {"name": "main", "region": "eu", "jurisdiction": "DK"}}})],
    );
    let keys = json!([{"name": "k", "hash": Digest::of(KEY.as_bytes()).hex(), "namespaces": ["team"]}]).to_string();
    let keys = serde_json::to_value(secret("koinon-apikeys", &[("keys.json", &keys)]).as_ref()).unwrap();
    server.set("secrets", vec![keys]);
    let (address, down) = server.up(([127, 0, 0, 1], 0).into()).await;

    let health = HealthArgs { health_listen: Some(([127, 0, 0, 1], 0).into()) };
    let process = Process::start(Role::Gateway, &health).unwrap();
    let mut tasks = Tasks::new();
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    let api = kube::Client::try_from(config).unwrap();
    let sources = Sources::follow(&api, "koinon-system", &process, &mut tasks).unwrap();
    let metrics = sources.metrics.clone();
    let gateway = Gateway::bind(support::args(&[]), sources, &process).await.unwrap();
    process.started();
    let url = format!("http://{}/v1/chat/completions", gateway.app_address().unwrap());
    let running = tokio::spawn(gateway.run(tasks, process.stop.clone()));

    let ask = async || client().post(&url).bearer_auth(KEY).body(chat().to_string()).send().await.unwrap();
    let epoch = async || ask().await.headers().get("koinon-epoch").map(|epoch| epoch.to_str().unwrap().to_owned());
    let until = async |wanted: &str| {
        for _ in 0..600 {
            if epoch().await.as_deref() == Some(wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("epoch {wanted} never answered");
    };
    until("1").await;
    assert!(process.readiness.is_ready(), "{:?}", process.readiness);
    assert_eq!(metrics.undecodable.with_label_values(&["Placement"]).get(), 1);
    // The Secrets are asked for by name: a right to list them all would reach the operator key.
    let asked = server.asked.lock().unwrap().clone();
    assert!(
        asked.iter().filter(|uri| uri.contains("/secrets")).all(|uri| uri.contains("metadata.name%3Dkoinon-")),
        "{asked:?}"
    );

    down.cancel();
    let mut errors = 0;
    while errors == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        errors = metrics.watch_errors.with_label_values(&["Placement"]).get();
    }
    for _ in 0..20 {
        assert_eq!(epoch().await.as_deref(), Some("1"));
    }
    server.set("placements", local(2, engine.address));
    let (_, _down) = server.up(address).await;
    until("2").await;

    process.stop.cancel();
    running.await.unwrap().unwrap();
}
