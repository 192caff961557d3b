//! The placement side of one operator, with peers that say what a test wants.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use koinon_api::{Cooperative, GPUOffer, Member, ModelRelease, PolicyVersion, Proposal, Vote};
use koinon_control::cache::{Cache, cache};
use koinon_control::commons::publisher::Identity;
use koinon_control::context::{Caches, Context, CooperativeView, Ending, HostFacts};
use koinon_control::{
    Clock, Events, Heard, LatestPublisher, LeaseHandle, Liveness, Metrics, OperatorArgs, PeerView, PeersSnapshot,
    SystemClock, placement,
};
use koinon_core::body::Body;
use koinon_core::body::catalogue::{Engine, EngineResources, ModelRelease as Release};
use koinon_core::body::charter::Preset;
use koinon_core::body::latest::{EngineChoice, GpuNeed, Grant, JobRef, ModelRef, OnPartition, Request, Requests};
use koinon_core::ids::{Digest, Epoch, ManifestDigest, MemberId, ReplicaIndex, Seconds, Seq, StatementId};
use koinon_core::log::{Limits, Replica};
use koinon_core::policy::State;
use koinon_core::statement::Statement;
use koinon_core::testkit::{charter, found, person};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use prometheus::Registry;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::host::Shared;

/// A running operator. Dropping it kills it: nothing it had begun is ended.
pub struct Operator {
    me: MemberId,
    clock: Arc<SystemClock>,
    publisher: LatestPublisher,
    peers: watch::Sender<Arc<PeersSnapshot>>,
    _cooperative: watch::Sender<Option<Arc<CooperativeView>>>,
    running: JoinHandle<()>,
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// The one approved model.
fn digest() -> ManifestDigest {
    ManifestDigest(Digest([0xab; 32]))
}

/// What `home` asks for: replica 0 of job `job`, under `epoch`.
pub fn request(job: u8, epoch: u64, gpus: u32) -> Request {
    Request {
        job: JobRef {
            namespace: "team".parse().expect("a namespace"),
            name: "tiny".parse().expect("a name"),
            uid: format!("{job:02x}1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11").parse().expect("a uid"),
        },
        replica: ReplicaIndex(0),
        epoch: Epoch(epoch),
        served_name: "tiny".parse().expect("a served name"),
        model: ModelRef {
            uri: "https://models.example/tiny.gguf".parse().expect("a uri"),
            revision: "1".parse().expect("a revision"),
            manifest_digest: digest(),
            quantization: "f32".parse().expect("a quantisation"),
        },
        engine: EngineChoice { name: "llama-cpp".parse().expect("a name"), options: BTreeMap::new() },
        max_model_len: 512,
        max_concurrency: 4,
        gpu: GpuNeed { class: "h100-80".parse().expect("a class"), count: gpus },
        lease_seconds: Seconds(20),
        on_partition: OnPartition::StopWhenLeaseLapses,
    }
}

fn full<K>(objects: Vec<Value>) -> Result<Cache<K>>
where
    K: kube::Resource + Clone + DeserializeOwned,
    DeserializeGuard<K>: DeserializeOwned,
{
    let (cache, mut feeder) = cache::<K>();
    feeder.take(Event::Init);
    for object in objects {
        feeder.take(Event::InitApply(serde_json::from_value(object)?));
    }
    feeder.take(Event::InitDone);
    Ok(cache)
}

impl Operator {
    /// Starts an operator of `host` that leads, as it believes, and takes guests unless `mode` says otherwise.
    pub fn start(host: &Shared, mode: &str) -> Result<Self> {
        Self::start_with(host, mode, json!({}))
    }

    /// Starts an operator whose owner has just looked at the devices that failed.
    pub fn start_reset(host: &Shared) -> Result<Self> {
        let now = k8s_openapi::jiff::Timestamp::now().to_string();
        Self::start_with(host, "Accept", json!({"koinon.dev/reset-quarantine-breaker": now}))
    }

    fn start_with(host: &Shared, mode: &str, annotations: Value) -> Result<Self> {
        let people = [host.name.as_str(), host.homes[0].as_str(), host.homes[1].as_str()].map(person);
        let everybody: Vec<_> = people.iter().collect();
        let mut charter = charter(&everybody, Preset::Trial);
        charter.releases = vec![release()];
        charter.engines = vec![engine()];
        let founding = found(&everybody, charter);
        let replica = Replica::new(&founding, Limits::default());
        let me: MemberId = host.name.parse()?;
        let cooperative = json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "Cooperative",
            "metadata": {"name": "cooperative", "namespace": host.name, "annotations": annotations},
            "spec": {"id": founding.coop().to_string(), "member": host.name,
                "site": {"name": "main", "region": "eu-south", "jurisdiction": "ES"},
                "endpoints": {"gateway": [format!("https://{}.example:7444", host.name)]},
                "guests": {"mode": mode, "networkPolicy": "AcceptUnenforced"}}});
        let spec = serde_json::from_value(cooperative["spec"].clone())?;
        let view = CooperativeView {
            me: me.clone(),
            coop: founding.coop(),
            state: Arc::new(State::fold(&founding, &replica)),
            charter: Arc::new(founding.charter().clone()),
            spec: Arc::new(spec),
            logs: Arc::default(),
            may_sign: true,
        };
        let clock = Arc::new(SystemClock::default());
        let publisher = LatestPublisher::new(clock.clone());
        let [own, ..] = people;
        publisher.bind(Some(Identity {
            coop: founding.coop(),
            member: me.clone(),
            site: own.member.site.name.clone(),
            signer: Arc::new(own.operator),
        }));
        let registry = Registry::new();
        let metrics = Metrics::register(&registry)?;
        let placement_metrics = placement::register(&registry)?;
        let (cooperative_sender, cooperative_view) = watch::channel(Some(Arc::new(view)));
        let (peers, peers_receiver) = watch::channel(Arc::new(PeersSnapshot::default()));
        let (events, _) = Events::new(metrics.clone());
        let ctx = Context {
            client: host.client.clone(),
            namespace: host.name.clone(),
            release: "koinon".to_owned(),
            args: Arc::new(OperatorArgs {
                namespace: host.name.clone(),
                release: "koinon".to_owned(),
                pod_name: "operator".to_owned(),
                agent_namespace: Some(host.name.clone()),
                peer_listen: "127.0.0.1:0".parse()?,
                image: format!("koinon.test/koinon@sha256:{}", "01".repeat(32)),
                // Nothing is fetched here: what these tests are about happens before.
                weights_url: "http://127.0.0.1:1".to_owned(),
                taint_nodes: true,
                taint_devices: true,
                gateway_url: "http://127.0.0.1:1".to_owned(),
                lease_seconds: 30,
                author_cap_bytes: 1 << 20,
            }),
            metrics,
            registry,
            lease: LeaseHandle::held_for_ever(),
            clock: clock.clone(),
            caches: Caches {
                cooperatives: full::<Cooperative>(vec![cooperative])?,
                members: full::<Member>(vec![])?,
                releases: full::<ModelRelease>(vec![])?,
                proposals: full::<Proposal>(vec![])?,
                votes: full::<Vote>(vec![])?,
                policy_versions: full::<PolicyVersion>(vec![])?,
                offers: full::<GPUOffer>(vec![])?,
            },
            cooperative: cooperative_view,
            peers: peers_receiver,
            publisher: publisher.clone(),
            events,
            host: watch::Sender::new(HostFacts::default()),
            ending: Ending::default(),
            beliefs: watch::Sender::new(Arc::default()),
        };
        let running = tokio::spawn(async move {
            if let Err(error) = placement::run(ctx, placement_metrics, CancellationToken::new()).await {
                eprintln!("the operator ended: {error}");
            }
        });
        Ok(Self { me, clock, publisher, peers, _cooperative: cooperative_sender, running })
    }

    /// What it hears: each home's complete list, as a statement of its own, good for a minute.
    pub fn hears(&self, lists: &[(&str, Vec<Request>)]) {
        let heard_at = self.clock.monotonic();
        let now = self.clock.unix();
        let mut members = BTreeMap::from([(self.me.clone(), PeerView::silent(Liveness::Own, heard_at))]);
        for (home, requests) in lists {
            let mut peer = PeerView::silent(Liveness::Fresh, heard_at);
            let name = format!("{home} {:?}", heard_at);
            peer.requests = Some(Heard {
                id: StatementId(Digest::of(name.as_bytes())),
                seq: Seq(1),
                issued_at: now,
                not_after: now.plus(Seconds(60)),
                body: Arc::new(Requests { requests: requests.clone() }),
                heard_at,
            });
            members.insert(home.parse().expect("a member id"), peer);
        }
        self.peers.send_replace(Arc::new(PeersSnapshot { members, isolated: false, heard_quorum: true }));
    }

    /// It hears nobody any more.
    pub fn hears_nobody(&self) {
        self.peers.send_replace(Arc::new(PeersSnapshot {
            isolated: true,
            heard_quorum: true,
            ..PeersSnapshot::default()
        }));
    }

    /// What it tells `home`.
    pub fn grants(&self, home: &str) -> Result<Vec<Grant>> {
        let mut grants = Vec::new();
        for latest in self.publisher.served_to(&home.parse()?) {
            let statement =
                Statement::verify(latest.envelope.as_ref().clone()).context("what it signed does not verify")?;
            if let Body::Grants(told) = statement.body() {
                grants.extend(told.grants.clone());
            }
        }
        Ok(grants)
    }
}

fn release() -> Release {
    let model = request(0, 1, 1).model;
    Release {
        uri: model.uri,
        revision: model.revision,
        manifest_digest: model.manifest_digest,
        quantization: model.quantization,
        license: "Apache-2.0".parse().expect("a licence"),
        engines: vec![],
        memory_bytes: None,
    }
}

fn engine() -> Engine {
    Engine {
        name: "llama-cpp".parse().expect("a name"),
        image: format!("registry.example/llama@sha256:{}", "02".repeat(32)).parse().expect("an image"),
        args: vec!["{modelPath}".parse().expect("an argument")],
        options: BTreeMap::new(),
        port: 8000,
        health_path: "/health".parse().expect("a path"),
        writable_paths: vec![],
        resources: EngineResources {
            cpu: "100m".parse().expect("a quantity"),
            memory: "64Mi".parse().expect("a quantity"),
            shm: "16Mi".parse().expect("a quantity"),
        },
    }
}

/// Long enough for several looks on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);
