//! The parts put together: watches feed the table, the table feeds two listeners.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use koinon_api::{Cooperative, InferenceJob, Member, Placement, api_keys, labels};
use koinon_net::Clock;
use koinon_net::client::Proxies;
use koinon_net::tls::{Alpn, CertUse, Leaf, LeafResolver, Pins, TlsIdentity, Trust, server_config};
use koinon_telemetry::{CancellationToken, Process, TaskError, Tasks, listen};
use kube::api::{Api, Resource};
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::runtime::watcher;
use rustls::ServerConfig;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::app::{self, App};
use crate::args::GatewayArgs;
use crate::connections::Connections;
use crate::dispatch::{Dispatcher, Patience};
use crate::idle;
use crate::intake::Intake;
use crate::keys::Keys;
use crate::load::Loads;
use crate::member::{self, Members};
use crate::metrics::Metrics;
use crate::routing::{Facts, RoutingTable};
use crate::upstream::Upstreams;
use crate::watch::{Follow, Objects};

/// What of each answer waits for a client that takes it slowly. There may be two thousand of them in a pod of 1 GiB.
const SEND_BUFFER: usize = 32 << 10;
/// Changes that come together make one table.
const SETTLE: Duration = Duration::from_millis(20);

/// Why the gateway could not run.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address is taken or not ours.
    #[error("listening on {address}: {source}; choose another with {flag}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No API server.
    #[error(
        "finding the API server: {0}; inside a cluster the pod's service account says where it is, outside a kubeconfig"
    )]
    Cluster(#[source] Box<kube::Error>),
    /// A metric.
    #[error("registering the gateway's metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A part of it ended.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// A client that notices connections which died silently, also while a watch is opened anew.
async fn client() -> Result<kube::Client, kube::Error> {
    let mut config = kube::Config::infer().await.map_err(kube::Error::InferConfig)?;
    config.connect_timeout = Some(Duration::from_secs(5));
    // Above the 60 s for which a watch may be quiet.
    config.read_timeout = Some(Duration::from_secs(75));
    config.reset_reader_on_write = true;
    kube::Client::try_from(config)
}

/// Runs the gateway until `process.stop`, against the API server that the environment names.
///
/// # Errors
/// A listener or the environment, at the start; later only if a part of it died.
pub async fn run(args: GatewayArgs, process: Process) -> Result<(), GatewayError> {
    let client = client().await.map_err(|error| GatewayError::Cluster(Box::new(error)))?;
    let mut tasks = Tasks::new();
    let sources = Sources::follow(&client, &args.namespace, &process, &mut tasks)?;
    let gateway = Gateway::bind(args, sources, &process).await?;
    process.started();
    gateway.run(tasks, process.stop).await
}

/// What the gateway learns from the API server.
#[derive(Clone, Debug)]
pub struct Sources {
    /// All Placements of the cluster.
    pub placements: watch::Receiver<Objects<Placement>>,
    /// All InferenceJobs of the cluster.
    pub jobs: watch::Receiver<Objects<InferenceJob>>,
    /// The Members of the release namespace.
    pub members: watch::Receiver<Objects<Member>>,
    /// The Cooperatives of the release namespace.
    pub cooperatives: watch::Receiver<Objects<Cooperative>>,
    /// The Secret with this gateway's certificate.
    pub certificate: watch::Receiver<Objects<Secret>>,
    /// The Secret with the gathered API keys.
    pub keys: watch::Receiver<Objects<Secret>>,
    /// The gateway's metrics, which the watches share.
    pub metrics: Metrics,
}

impl Sources {
    /// Follows everything that the gateway reads, in tasks of `tasks`.
    ///
    /// # Errors
    /// A metric's name is taken.
    pub fn follow(
        client: &kube::Client,
        namespace: &str,
        process: &Process,
        tasks: &mut Tasks,
    ) -> Result<Self, GatewayError> {
        let metrics = Metrics::register(&process.registry)?;
        let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut watches = Watches { process, tasks, metrics: metrics.clone() };
        let secrets = || Api::<DeserializeGuard<Secret>>::namespaced(client.clone(), namespace);
        Ok(Self {
            placements: watches.add("placements", Api::all(client.clone()), watcher::Config::default(), |placement| {
                // Up to 64 KiB that only the operator renders from.
                placement.spec.template = None;
            }),
            jobs: watches.add("jobs", Api::all(client.clone()), watcher::Config::default(), |_: &mut InferenceJob| {}),
            members: watches.add("members", own(client, namespace), watcher::Config::default(), |_: &mut Member| {}),
            cooperatives: watches.add("cooperatives", own(client, namespace), watcher::Config::default(), |_| {}),
            certificate: watches.add("certificate", secrets(), named(labels::GATEWAY_TLS_SECRET), |_| {}),
            keys: watches.add("API keys", secrets(), named(labels::API_KEYS_SECRET), |_| {}),
            metrics,
        })
    }
}

fn own<K>(client: &kube::Client, namespace: &str) -> Api<DeserializeGuard<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), namespace)
}

struct Watches<'a> {
    process: &'a Process,
    tasks: &'a mut Tasks,
    metrics: Metrics,
}

impl Watches<'_> {
    fn add<K>(
        &mut self,
        what: &'static str,
        api: Api<DeserializeGuard<K>>,
        config: watcher::Config,
        trim: fn(&mut K),
    ) -> watch::Receiver<Objects<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
    {
        let awaited = self.process.readiness.awaiting(what, "first complete list from the API server");
        let follow = Follow { api, config, trim, metrics: self.metrics.clone(), awaited };
        let (sender, receiver) = watch::channel(Objects::new());
        let stop = self.process.stop.clone();
        self.tasks.spawn(what, async move {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                () = follow.run(sender) => Err(io::Error::other("the watch ended")),
            }
        });
        receiver
    }
}

/// A gateway whose listeners are bound.
pub struct Gateway {
    args: GatewayArgs,
    app: TcpListener,
    member: TcpListener,
    sources: Sources,
    /// Judges certificates.
    pub clock: Clock,
    /// Which addresses are reached through a proxy.
    pub proxies: Proxies,
    /// Bounds on the connections of both listeners.
    pub connections: Connections,
}

impl Gateway {
    /// Binds both listeners.
    ///
    /// # Errors
    /// An address is taken or not ours.
    pub async fn bind(args: GatewayArgs, sources: Sources, process: &Process) -> Result<Self, GatewayError> {
        let bound = |address, flag| async move {
            TcpListener::bind(address).await.map_err(|source| GatewayError::Bind { address, flag, source })
        };
        let app = bound(args.listen, "--listen").await?;
        let member = bound(args.member_listen, "--member-listen").await?;
        tracing::info!(applications = %args.listen, members = %args.member_listen, health = %process.health_address(), "listening");
        let (clock, proxies, connections) = (Clock::system(), Proxies::from_env(), Connections::default());
        Ok(Self { args, app, member, sources, clock, proxies, connections })
    }

    /// Where applications call.
    ///
    /// # Errors
    /// The system does not say.
    pub fn app_address(&self) -> io::Result<SocketAddr> {
        self.app.local_addr()
    }

    /// Where other gateways call.
    ///
    /// # Errors
    /// The system does not say.
    pub fn member_address(&self) -> io::Result<SocketAddr> {
        self.member.local_addr()
    }

    /// Serves until `stop`, then lingers and drains. `tasks` are what else must not die.
    ///
    /// # Errors
    /// A part of it died.
    pub async fn run(self, mut tasks: Tasks, stop: CancellationToken) -> Result<(), GatewayError> {
        let Self { args, app, member, sources, clock, proxies, connections } = self;
        let metrics = sources.metrics.clone();
        let pins = Pins::default();
        let (tls, identity, accepting) = Tls::new(pins.clone(), clock.clone());
        let upstreams = Upstreams::new(identity, proxies, Duration::from_secs(args.connect_seconds));
        let intake = || {
            let patience = Duration::from_secs(args.body_seconds);
            Intake::new(args.max_in_flight, args.max_body_bytes, args.max_buffered_bytes, patience)
        };
        let patience = Patience {
            first_byte: Duration::from_secs(args.first_byte_seconds),
            idle: Duration::from_secs(args.idle_seconds),
        };
        let dispatcher = Dispatcher::new(upstreams.clone(), metrics.clone(), patience);
        let (table_sender, table) = watch::channel(Arc::new(RoutingTable::default()));
        let (key_sender, keys) = watch::channel(Arc::new(Keys::default()));
        let keeper = Keeper {
            sources: sources.clone(),
            table: table_sender,
            tls,
            pins: pins.clone(),
            upstreams: upstreams.clone(),
            loads: dispatcher.loads.clone(),
        };
        let members = Members {
            table: table.clone(),
            pins,
            clock,
            upstreams,
            intake: intake(),
            metrics,
            first_byte: patience.first_byte,
            idle: patience.idle,
        };
        let app_router = app::router(App { table, keys, dispatcher, intake: intake() });

        // The listeners stop later than the process is asked to: proxies still send here for a moment.
        let closing = CancellationToken::new();
        let (linger, drain) = (args.linger(), args.drain());
        let limits = listen::Limits { drain, send_buffer: SEND_BUFFER, ..listen::Limits::default() };
        tasks.spawn("routing table", until(stop.clone(), keeper.run()));
        tasks.spawn("API keys in use", until(stop.clone(), keep_keys(sources.keys, key_sender)));
        let applications = listen::serve_with(app, limits, closing.clone(), move |stream, _| {
            let bounded = idle::bounded(stream, app_router.clone(), connections.idle);
            async move { Ok(bounded) }
        });
        tasks.spawn("application listener", applications);
        let peers = member::serve(members, member, accepting, limits, connections, closing.clone());
        tasks.spawn("member listener", peers);
        let stopping = stop.clone();
        tasks.spawn("linger", async move {
            stopping.cancelled().await;
            tokio::time::sleep(linger).await;
            closing.cancel();
            io::Result::Ok(())
        });
        Ok(tasks.run(stop, linger + drain + Duration::from_secs(5)).await?)
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) -> io::Result<()> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        // The watches hear of the stop at the same time, and may be gone first.
        () = work => if stop.is_cancelled() { Ok(()) } else { Err(io::Error::other("what it reads from is gone")) },
    }
}

/// The TLS side: own leaf, cooperative, and what both listeners and diallers make of them.
struct Tls {
    resolver: Arc<LeafResolver>,
    pins: Pins,
    clock: Clock,
    identity: watch::Sender<Option<TlsIdentity>>,
    accepting: watch::Sender<Option<Arc<ServerConfig>>>,
    leaf: Option<(Vec<u8>, Vec<u8>)>,
}

type TlsParts = (Tls, watch::Receiver<Option<TlsIdentity>>, watch::Receiver<Option<Arc<ServerConfig>>>);

impl Tls {
    fn new(pins: Pins, clock: Clock) -> TlsParts {
        let (identity, identity_seen) = watch::channel(None);
        let (accepting, accepting_seen) = watch::channel(None);
        let resolver = Arc::new(LeafResolver::default());
        (Self { resolver, pins, clock, identity, accepting, leaf: None }, identity_seen, accepting_seen)
    }

    /// Takes the leaf of the Secret, if it is another one. On an error the one before stays.
    fn take_leaf(&mut self, secrets: &Objects<Secret>, metrics: &Metrics) {
        let entry = |name: &str| secrets.values().find_map(|secret| Some(secret.data.as_ref()?.get(name)?.0.clone()));
        let (Some(certificate), Some(key)) = (entry("tls.crt"), entry("tls.key")) else { return };
        if self.leaf.as_ref() == Some(&(certificate.clone(), key.clone())) {
            return;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let leaf = Leaf::from_pem(&text(&certificate), &text(&key));
        let taken = leaf.map_err(|error| crate::upstream::whole_story(&error)).and_then(|leaf| {
            self.resolver.renew(&leaf).map_err(|error| crate::upstream::whole_story(&error))?;
            Ok(leaf)
        });
        match taken {
            Ok(leaf) => {
                tracing::info!(member = %leaf.identity().name.member, until = leaf.identity().not_after.0, "took a new certificate");
                metrics.certificate_end.set(leaf.identity().not_after.0);
                self.leaf = Some((certificate, key));
            }
            Err(error) => tracing::error!(error, secret = labels::GATEWAY_TLS_SECRET, "keeping the old certificate"),
        }
    }

    /// Speaks TLS as soon as there are a cooperative and a leaf.
    fn take_table(&self, table: &RoutingTable) {
        let wanted = table.own.as_ref().filter(|_| self.leaf.is_some()).map(|own| own.coop);
        if self.identity.borrow().as_ref().map(|identity| identity.coop) == wanted {
            return;
        }
        let identity =
            wanted.map(|coop| TlsIdentity { resolver: self.resolver.clone(), coop, clock: self.clock.clone() });
        let accepting = identity.as_ref().and_then(|identity| {
            let trust = Trust::Pinned(self.pins.clone());
            server_config(identity, CertUse::Gateway, trust, &[Alpn::Http2])
                .inspect_err(|error| tracing::error!(%error, "setting up TLS for members"))
                .ok()
        });
        self.identity.send_replace(identity);
        self.accepting.send_replace(accepting);
    }
}

/// Keeps the table and what hangs on it.
struct Keeper {
    sources: Sources,
    table: watch::Sender<Arc<RoutingTable>>,
    tls: Tls,
    pins: Pins,
    upstreams: Upstreams,
    loads: Loads,
}

impl Keeper {
    /// Ends only when a source is gone.
    async fn run(mut self) {
        loop {
            self.renew().await;
            let Sources { placements, jobs, members, cooperatives, certificate, keys: _, metrics: _ } =
                &mut self.sources;
            let changed = tokio::select! {
                changed = placements.changed() => changed,
                changed = jobs.changed() => changed,
                changed = members.changed() => changed,
                changed = cooperatives.changed() => changed,
                changed = certificate.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    async fn renew(&mut self) {
        let sources = &mut self.sources;
        self.tls.take_leaf(&sources.certificate.borrow_and_update(), &sources.metrics);
        let facts = Facts {
            cooperatives: sources.cooperatives.borrow_and_update().values().cloned().collect(),
            members: sources.members.borrow_and_update().values().cloned().collect(),
            placements: sources.placements.borrow_and_update().values().cloned().collect(),
            jobs: sources.jobs.borrow_and_update().values().cloned().collect(),
        };
        let table = Arc::new(RoutingTable::build(&facts));
        // Pins before routes: whoever is no longer a member is cut before anything else is decided.
        self.pins.replace(BTreeMap::clone(&table.pins));
        self.tls.take_table(&table);
        sources.metrics.routes.set(i64::try_from(table.routes().count()).unwrap_or(i64::MAX));
        sources.metrics.hosted.set(i64::try_from(table.hosted.len()).unwrap_or(i64::MAX));
        let changed = **self.table.borrow() != *table;
        if changed {
            let routes: Vec<String> =
                table.routes().map(|r| format!("{} epoch {} at {}", r.replica, r.epoch, r.member)).collect();
            tracing::info!(
                routes = routes.join(", "),
                hosted = table.hosted.len(),
                members = table.pins.len(),
                "new routing table"
            );
            self.table.send_replace(table.clone());
        }
        self.loads.keep_only(&table);
        self.upstreams.keep_only(&self.pins).await;
    }
}

async fn keep_keys(mut secrets: watch::Receiver<Objects<Secret>>, keys: watch::Sender<Arc<Keys>>) {
    loop {
        let json = secrets
            .borrow_and_update()
            .values()
            .find_map(|secret| Some(secret.data.as_ref()?.get(api_keys::ENTRY)?.0.clone()));
        // Without the Secret nobody has a key: it is deleted to revoke all.
        match json.map_or_else(|| Ok(Keys::default()), |json| Keys::read(&json)) {
            Ok(read) => {
                keys.send_replace(Arc::new(read));
            }
            Err(error) => tracing::error!(%error, "keeping the old API keys"),
        }
        if secrets.changed().await.is_err() {
            return;
        }
    }
}
