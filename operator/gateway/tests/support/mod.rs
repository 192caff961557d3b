//! Gateways of several members in one process, fed with objects instead of an API server, and an engine that speaks SSE.
#![allow(dead_code)] // each test file uses its own part
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // the lint's exception for tests does not see helpers

pub mod engine;
pub mod peer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use k8s_openapi::api::core::v1::Secret;
use koinon_api::{Cooperative, InferenceJob, Member, Placement};
use koinon_core::dsse::{SeedSigner, Signer};
use koinon_core::ids::{Digest, PublicKey, UnixSeconds};
use koinon_gateway::connections::Connections;
use koinon_gateway::metrics::Metrics;
use koinon_gateway::run::Sources;
use koinon_gateway::{Gateway, GatewayArgs, GatewayError};
use koinon_net::Clock;
use koinon_net::client::Proxies;
use koinon_net::tls::{CertUse, Leaf, LeafName, issue};
use koinon_telemetry::{CancellationToken, HealthArgs, Process, Role, Tasks};
use prometheus::{Registry, TextEncoder};
use serde_json::{Value, json};
use tokio::sync::watch;

pub const KEY: &str = "kk-test";
pub const JOB: &str = "11111111-1111-1111-1111-111111111111";
pub const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
pub const COOP: &str = "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

type Objects<K> = BTreeMap<(String, String), Arc<K>>;

/// The operator key of a member; the same each time.
pub fn signer(member: &str) -> SeedSigner {
    SeedSigner::from_seed(&Digest::of(member.as_bytes()).0)
}

pub fn public_key(member: &str) -> PublicKey {
    signer(member).public_key()
}

/// A certificate by `operator`, for `member`'s gateway.
pub fn leaf(operator: &str, member: &str, cert_use: CertUse) -> Leaf {
    let name = LeafName { coop: COOP.parse().unwrap(), member: member.parse().unwrap(), cert_use };
    issue(&signer(operator), &name, Clock::system().now()).unwrap()
}

pub fn leaf_at(operator: &str, now: UnixSeconds) -> Leaf {
    let name = LeafName { coop: COOP.parse().unwrap(), member: operator.parse().unwrap(), cert_use: CertUse::Gateway };
    issue(&signer(operator), &name, now).unwrap()
}

/// One member's gateway with the objects it sees.
pub struct Site {
    pub member: String,
    pub app: SocketAddr,
    pub peers: SocketAddr,
    pub stop: CancellationToken,
    pub registry: Registry,
    pub served: tokio::task::JoinHandle<Result<(), GatewayError>>,
    placements: watch::Sender<Objects<Placement>>,
    jobs: watch::Sender<Objects<InferenceJob>>,
    members: watch::Sender<Objects<Member>>,
    cooperatives: watch::Sender<Objects<Cooperative>>,
    certificate: watch::Sender<Objects<Secret>>,
    keys: watch::Sender<Objects<Secret>>,
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    args: GatewayArgs,
}

/// The gateway's flags for a test.
pub fn args(flags: &[&str]) -> GatewayArgs {
    let fixed = ["gateway", "--listen=127.0.0.1:0", "--member-listen=127.0.0.1:0", "--linger-seconds=0"];
    Flags::parse_from(fixed.iter().chain(flags)).args
}

fn key_of<K: kube::Resource>(object: &K) -> (String, String) {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn put<K: kube::Resource>(sender: &watch::Sender<Objects<K>>, object: Arc<K>) {
    sender.send_modify(|objects| {
        objects.insert(key_of(object.as_ref()), object);
    });
}

impl Site {
    /// Starts a gateway with a certificate, a key for namespace `team`, and flags beyond those of a test.
    pub async fn start(member: &str, flags: &[&str]) -> Self {
        let site = Self::start_bare(member, flags, Clock::system()).await;
        site.certify(&leaf(member, member, CertUse::Gateway));
        site
    }

    /// As [`Site::start`], without a certificate.
    pub async fn start_bare(member: &str, flags: &[&str], clock: Clock) -> Self {
        Self::start_within(member, flags, clock, Connections::default()).await
    }

    /// As [`Site::start_bare`], with other bounds on connections.
    pub async fn start_within(member: &str, flags: &[&str], clock: Clock, connections: Connections) -> Self {
        let args = args(flags);
        let health = HealthArgs { health_listen: Some(([127, 0, 0, 1], 0).into()) };
        let process = Process::start(Role::Gateway, &health).unwrap();
        let (placements, placements_seen) = watch::channel(Objects::new());
        let (jobs, jobs_seen) = watch::channel(Objects::new());
        let (members, members_seen) = watch::channel(Objects::new());
        let (cooperatives, cooperatives_seen) = watch::channel(Objects::new());
        let (certificate, certificate_seen) = watch::channel(Objects::new());
        let (keys, keys_seen) = watch::channel(Objects::new());
        let registry = process.registry.clone();
        let sources = Sources {
            placements: placements_seen,
            jobs: jobs_seen,
            members: members_seen,
            cooperatives: cooperatives_seen,
            certificate: certificate_seen,
            keys: keys_seen,
            metrics: Metrics::register(&registry).unwrap(),
        };
        let mut gateway = Gateway::bind(args, sources, &process).await.unwrap();
        gateway.proxies = Proxies::none();
        gateway.clock = clock;
        gateway.connections = connections;
        let (app, peers) = (gateway.app_address().unwrap(), gateway.member_address().unwrap());
        let stop = CancellationToken::new();
        let served = tokio::spawn(gateway.run(Tasks::new(), stop.clone()));
        let site = Self {
            member: member.to_owned(),
            app,
            peers,
            stop,
            registry,
            served,
            placements,
            jobs,
            members,
            cooperatives,
            certificate,
            keys,
        };
        put(
            &site.cooperatives,
            object(json!({
                "apiVersion": "koinon.dev/v1alpha1", "kind": "Cooperative",
                "metadata": {"name": "cooperative", "namespace": "koinon-system"},
                "spec": {"id": COOP, "member": member, "site": {"name": "main", "region": "eu", "jurisdiction": "DK"}},
            })),
        );
        site.allow(&[(KEY, &["team"])]);
        site
    }

    pub fn certify(&self, leaf: &Leaf) {
        put(
            &self.certificate,
            secret("koinon-gateway-tls", &[("tls.crt", leaf.certificate_pem()), ("tls.key", leaf.key_pem())]),
        );
    }

    pub fn allow(&self, keys: &[(&str, &[&str])]) {
        let listed: Vec<Value> = keys
            .iter()
            .map(|(key, namespaces)| json!({"name": key, "hash": Digest::of(key.as_bytes()).hex(), "namespaces": namespaces}))
            .collect();
        put(&self.keys, secret("koinon-apikeys", &[("keys.json", &Value::from(listed).to_string())]));
    }

    /// Makes another member known, under its own operator key.
    pub fn know(&self, member: &str, gateway: SocketAddr) {
        self.know_as(member, "Active", gateway);
    }

    pub fn know_as(&self, member: &str, state: &str, gateway: SocketAddr) {
        put(
            &self.members,
            object(json!({
                "apiVersion": "koinon.dev/v1alpha1", "kind": "Member", "metadata": {"name": member, "namespace": "koinon-system"},
                "spec": {},
                "status": {"state": state, "keys": {"recovery": [], "governance": [], "operator": public_key(member)},
                    "endpoints": {"gateway": [url_of(gateway)]}},
            })),
        );
    }

    /// A job `tiny` in namespace `team`.
    pub fn job(&self) {
        put(
            &self.jobs,
            object(json!({
                "apiVersion": "koinon.dev/v1alpha1", "kind": "InferenceJob",
                "metadata": {"name": "job", "namespace": "team", "uid": JOB, "creationTimestamp": "2026-11-01T00:00:00Z"},
                "spec": {"servedName": "tiny", "model": model(), "engine": {"name": "llama"}, "maxModelLen": 1024,
                    "gpu": {"class": "h100-80"}},
            })),
        );
    }

    /// A routable Placement of this home.
    pub fn route(&self, host: &str, replica: u32, epoch: i64, gateway: Option<SocketAddr>) {
        let status = json!({"state": "Ready", "gateway": gateway.map(url_of), "conditions": [condition("Routable")]});
        put(&self.placements, placement("Home", "team", &self.member, host, replica, epoch, status));
    }

    /// A Placement that runs here for `home`, at this engine.
    pub fn host(&self, home: &str, replica: u32, epoch: i64, engine: SocketAddr) {
        let status =
            json!({"state": "Ready", "gateway": format!("http://{engine}"), "conditions": [condition("Ready")]});
        let namespace = format!("koinon-guest-{home}");
        put(&self.placements, placement("Host", &namespace, home, &self.member, replica, epoch, status));
    }

    /// A replica that runs in this cluster for this home itself.
    pub fn local(&self, replica: u32, epoch: i64, engine: SocketAddr) {
        self.route(&self.member, replica, epoch, None);
        self.host(&self.member, replica, epoch, engine);
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.app)
    }

    pub fn post(&self, body: &Value) -> reqwest::RequestBuilder {
        self.post_as(KEY, body)
    }

    pub fn post_as(&self, key: &str, body: &Value) -> reqwest::RequestBuilder {
        client().post(self.url("/v1/chat/completions")).bearer_auth(key).body(body.to_string())
    }

    /// Asks until the answer is not one of those that a table gives that is not there yet.
    pub async fn ask(&self, body: &Value) -> reqwest::Response {
        for _ in 0..200 {
            let answer = self.post(body).send().await.unwrap();
            if !matches!(answer.status().as_u16(), 401 | 404 | 503) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the gateway never got its table: {}", self.post(body).send().await.unwrap().text().await.unwrap());
    }

    /// The sum of all series of a metric whose labels contain all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let series =
            text.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Waits until a metric has a value.
    pub async fn settles(&self, name: &str, labels: &[&str], value: f64) {
        for _ in 0..300 {
            if self.metric(name, labels) == value {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name}{labels:?} is {} and not {value}", self.metric(name, labels));
    }
}

fn url_of(address: SocketAddr) -> String {
    format!("https://localhost:{}", address.port())
}

fn model() -> Value {
    json!({"uri": "hf://o/m", "revision": "r", "manifestDigest": DIGEST, "quantization": "bf16"})
}

pub fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-11-21T00:00:00Z"})
}

pub fn placement(
    side: &str,
    namespace: &str,
    home: &str,
    host: &str,
    replica: u32,
    epoch: i64,
    status: Value,
) -> Arc<Placement> {
    object(json!({
        "apiVersion": "koinon.dev/v1alpha1", "kind": "Placement",
        "metadata": {"name": format!("{home}-{replica}-{epoch}"), "namespace": namespace},
        "spec": {"side": side, "home": home, "host": host, "job": {"namespace": "team", "name": "job", "uid": JOB},
            "replica": replica, "epoch": epoch, "servedName": "tiny", "model": model(), "engine": {"name": "llama"},
            "gpu": {"class": "h100-80", "count": 1}, "maxModelLen": 1024, "maxConcurrency": 4, "lease": {"seconds": 20}},
        "status": status,
    }))
}

pub fn secret(name: &str, data: &[(&str, &str)]) -> Arc<Secret> {
    let data: BTreeMap<_, _> = data
        .iter()
        .map(|(key, value)| ((*key).to_owned(), k8s_openapi::ByteString(value.as_bytes().to_vec())))
        .collect();
    let mut secret = Secret { data: Some(data), ..Secret::default() };
    secret.metadata.name = Some(name.to_owned());
    secret.metadata.namespace = Some("koinon-system".to_owned());
    Arc::new(secret)
}

pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap()
}

pub fn chat() -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": "hello"}]})
}

pub fn stream() -> Value {
    json!({"model": "tiny", "stream": true, "messages": [{"role": "user", "content": "hello"}]})
}
