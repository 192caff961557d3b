//! From flags to a running operator.
//!
//! Order: client, metrics, custom resource definitions, caches and the lease on every replica; then, on the one that
//! leads, a *term*: key, commons, placement. A term that loses the lease is dropped whole and another one begins with
//! nothing but what the API server holds.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use koinon_telemetry::{Process, TaskError, Tasks};
use kube::api::Api;
use kube::client::ClientBuilder;
use kube::core::{DeserializeGuard, NamespaceResourceScope, Resource};
use kube::runtime::watcher;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::args::OperatorArgs;
use crate::cache::{self, Cache};
use crate::clock::{Clock, SystemClock};
use crate::commons::publisher::LatestPublisher;
use crate::context::{Caches, Context, Ending, HostFacts};
use crate::events::{self, Events};
use crate::lease::{ApiLease, Claimant, LeaseHandle, LeaseTimes};
use crate::metrics::Metrics;
use crate::requests::Requests;
use crate::{crds, term};

/// How long the parts may take to end after SIGTERM; Kubernetes gives 30 s in all.
const DRAIN: Duration = Duration::from_secs(20);

/// Why the operator ended.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// No API server is configured.
    #[error("finding the API server failed: run it in a cluster, or set KUBECONFIG")]
    Config(#[source] Box<kube::config::InferConfigError>),
    /// The client could not be built.
    #[error("building a client for the API server failed")]
    Client(#[source] Box<kube::Error>),
    /// Metrics clash.
    #[error("registering metrics failed")]
    Metrics(#[from] prometheus::Error),
    /// A name for this process could not be made.
    #[error("the system gave no randomness for a name: {0}")]
    Random(getrandom::Error),
    /// The own definitions have no JSON form.
    #[error("reading this operator's own resource definitions failed")]
    Schemas(#[source] serde_json::Error),
    /// A part failed.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Runs until `process.stop`, or until a part fails.
///
/// # Errors
/// See [`OperatorError`].
pub async fn run(args: OperatorArgs, process: Process) -> Result<(), OperatorError> {
    let definitions = process.readiness.awaiting("crds", "asking the API server for its definitions");
    let stores = process.readiness.awaiting("stores", "the first list of each kind");
    process.started();

    let metrics = Metrics::register(&process.registry)?;
    let client = client(&metrics.requests).await?;
    let placement = crate::placement::register(&process.registry)?;
    let needed = schemas().map_err(OperatorError::Schemas)?;
    tokio::select! {
        () = process.stop.cancelled() => return Ok(()),
        () = crds::wait(&client, &needed, &definitions) => {}
    }

    let mut tasks = Tasks::new();
    let (events, told) = Events::new(metrics.clone());
    let publish = events::publish(client.clone(), args.pod_name.clone(), told, metrics.clone());
    spawn(&mut tasks, "events", &process.stop, publish);
    let (lease, vacate) = contend(&client, &args, &mut tasks)?;

    let watches =
        Watches { client: &client, namespace: &args.namespace, metrics: &metrics, events: &events, lease: &lease };
    let caches = watches.caches(&process.stop, &mut tasks);
    let synced = caches.clone();
    let stop = process.stop.clone();
    tasks.spawn("first lists", async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = all_synced(&synced) => stores.met(),
        }
        stop.cancelled().await;
        Ok::<(), std::convert::Infallible>(())
    });

    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let (cooperative_sender, cooperative) = watch::channel(None);
    let (peers_sender, peers) = watch::channel(Arc::default());
    let context = Context {
        client,
        namespace: args.namespace.clone(),
        release: args.release.clone(),
        args: Arc::new(args),
        metrics,
        registry: process.registry.clone(),
        lease,
        publisher: LatestPublisher::new(clock.clone()),
        clock,
        caches,
        cooperative,
        peers,
        events,
        host: watch::Sender::new(HostFacts::default()),
        ending: Ending::default(),
        beliefs: watch::Sender::new(Arc::default()),
    };
    let outputs = term::Outputs { cooperative: cooperative_sender, peers: peers_sender, placement };
    let stop = process.stop.clone();
    tasks.spawn("leadership", async move {
        let ended = term::lead(context, outputs, stop).await;
        // Only now, when nothing writes any more, may another replica begin.
        vacate.cancel();
        ended
    });
    Ok(tasks.run(process.stop, DRAIN).await?)
}

/// A client whose requests are never repeated behind our back: kube's own retries last for minutes, and a write that
/// lands after the lease was lost is a write by the wrong leader.
async fn client(requests: &Requests) -> Result<kube::Client, OperatorError> {
    let mut config = kube::Config::infer().await.map_err(|error| OperatorError::Config(Box::new(error)))?;
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(crate::cache::READ_TIMEOUT);
    // Counted from the request, not from when its connection was last used.
    config.reset_reader_on_write = true;
    let builder = ClientBuilder::try_from(config).map_err(|error| OperatorError::Client(Box::new(error)))?;
    Ok(builder.with_layer(requests).build())
}

fn schemas() -> Result<crds::Schemas, serde_json::Error> {
    let mut schemas = crds::Schemas::new();
    for crd in koinon_api::crd::all() {
        let version = crd.spec.versions.iter().find(|version| version.name == koinon_api::VERSION);
        let schema = version.and_then(|version| version.schema.as_ref()).map(|schema| &schema.open_api_v3_schema);
        schemas.insert(crd.spec.names.kind, serde_json::to_value(schema)?);
    }
    Ok(schemas)
}

/// What every watch of the release namespace needs.
struct Watches<'a> {
    client: &'a kube::Client,
    namespace: &'a str,
    metrics: &'a Metrics,
    events: &'a Events,
    lease: &'a LeaseHandle,
}

impl Watches<'_> {
    fn caches(&self, stop: &CancellationToken, tasks: &mut Tasks) -> Caches {
        Caches {
            cooperatives: self.follow("watch of cooperatives", stop, tasks),
            members: self.follow("watch of members", stop, tasks),
            releases: self.follow("watch of model releases", stop, tasks),
            proposals: self.follow("watch of proposals", stop, tasks),
            votes: self.follow("watch of votes", stop, tasks),
            policy_versions: self.follow("watch of policy versions", stop, tasks),
            offers: self.follow("watch of offers", stop, tasks),
        }
    }

    fn follow<K>(&self, name: &'static str, stop: &CancellationToken, tasks: &mut Tasks) -> Cache<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let (cache, feeder) = cache::cache();
        let api: Api<DeserializeGuard<K>> = Api::namespaced(self.client.clone(), self.namespace);
        let watch = cache::follow(api, watcher::Config::default(), feeder, self.metrics.watch());
        let report = cache::report(cache.clone(), self.events.clone(), self.lease.clone());
        spawn(tasks, name, stop, async move {
            tokio::select! {
                () = watch => {}
                () = report => {}
            }
        });
        cache
    }
}

fn spawn(
    tasks: &mut Tasks,
    name: &'static str,
    stop: &CancellationToken,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let stop = stop.clone();
    tasks.spawn(name, async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
        Ok::<(), std::convert::Infallible>(())
    });
}

async fn all_synced(caches: &Caches) {
    let Caches { cooperatives, members, releases, proposals, votes, policy_versions, offers } = caches;
    cooperatives.synced().await;
    members.synced().await;
    releases.synced().await;
    proposals.synced().await;
    votes.synced().await;
    policy_versions.synced().await;
    offers.synced().await;
}

fn contend(
    client: &kube::Client,
    args: &OperatorArgs,
    tasks: &mut Tasks,
) -> Result<(LeaseHandle, CancellationToken), OperatorError> {
    let mut random = [0_u8; 4];
    getrandom::fill(&mut random).map_err(OperatorError::Random)?;
    // A restarted container has its pod's name again, and must not take the claim of its predecessor for its own.
    let identity = format!("{}_{:08x}", args.pod_name, u32::from_le_bytes(random));
    let store = ApiLease::new(client.clone(), &args.namespace, koinon_api::labels::LEADER_LEASE);
    let (claimant, lease) = Claimant::new(store, identity, LeaseTimes::of(args.lease()));
    let vacate = CancellationToken::new();
    let until = vacate.clone();
    tasks.spawn("leader lease", async move {
        claimant.run(until).await;
        Ok::<(), std::convert::Infallible>(())
    });
    Ok((lease, vacate))
}
