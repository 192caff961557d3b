//! The kinds that only placing reads, each as a complete set in memory.

use std::convert::Infallible;
use std::fmt::Debug;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{self, ConfigMap, Namespace};
use koinon_api::{GPUNode, GPUPool, InferenceJob, Placement};
use koinon_telemetry::Tasks;
use kube::Resource;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::inventory::scheduler::dra;
use super::lean::{Beat, GpuNode, Node, Pod};
use super::reservations;
use super::stores_dra::{self, DraStores};
use crate::cache::{self, Cache, Kept};
use crate::context::Context;

/// How many objects of some ten KiB are listed in one answer, which is in memory as a whole while it is read.
const LARGE: u32 = 50;
/// The same of objects of a few KiB.
const MANY: u32 = 200;

/// The caches of the placement side.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Of all namespaces.
    pub jobs: Cache<InferenceJob>,
    /// Of all namespaces, both sides.
    pub placements: Cache<Placement>,
    /// Of the release namespace.
    pub pools: Cache<GPUPool>,
    /// All.
    pub gpu_nodes: Cache<GpuNode>,
    /// All.
    pub nodes: Cache<Node>,
    /// All that hold something, and those of copies.
    pub pods: Cache<Pod>,
    /// What is given out by name, without what drivers say of it besides.
    pub dra: DraStores,
    /// The agents' heartbeats.
    pub heartbeats: Cache<Beat>,
    /// All; only their labels are of interest.
    pub namespaces: Cache<Namespace>,
    /// The records of reservations. To look at: what is reserved is decided on a fresh read.
    pub reservations: Cache<ConfigMap>,
}

impl Stores {
    /// Begins to follow all of them, until `stop`.
    pub fn follow(ctx: &Context, tasks: &mut Tasks, stop: &CancellationToken) -> Self {
        let client = || ctx.client.clone();
        let release = ctx.namespace.as_str();
        let all = watcher::Config::default;
        let records = all().labels(&reservations::selector());
        let mut start = Start { ctx, tasks, stop };
        Self {
            jobs: start.one("InferenceJobs", Api::all(client()), all(), |_| {}),
            placements: start.one("Placements", Api::all(client()), all(), |_| {}),
            pools: start.one("GPUPools", Api::namespaced(client(), release), all(), |_| {}),
            gpu_nodes: start.kept::<GPUNode, _>("GPUNodes", Api::all(client()), all().page_size(LARGE)),
            nodes: start.kept::<v1::Node, _>("Nodes", Api::all(client()), all().page_size(LARGE)),
            pods: start.kept::<v1::Pod, _>("Pods", Api::all(client()), all().page_size(MANY)),
            dra: DraStores {
                slices: start.served("ResourceSlices", Api::all(client()), dra::trim::slice),
                claims: start.served("ResourceClaims", Api::all(client()), dra::trim::claim),
                taint_rules: start.served("DeviceTaintRules", Api::all(client()), |_| {}),
            },
            heartbeats: match &ctx.args.agent_namespace {
                Some(namespace) => start.kept::<Lease, _>("Leases", Api::namespaced(client(), namespace), all()),
                None => start.empty::<Lease, _>("Leases"),
            },
            namespaces: start.one("Namespaces", Api::all(client()), all(), |_| {}),
            reservations: start.one("ConfigMaps", Api::namespaced(client(), release), records, |_| {}),
        }
    }

    /// Waits until each of them is a complete set: before, absence proves nothing.
    pub async fn synced(&self) {
        self.jobs.synced().await;
        self.placements.synced().await;
        self.pools.synced().await;
        self.gpu_nodes.synced().await;
        self.nodes.synced().await;
        self.pods.synced().await;
        self.dra.synced().await;
        self.heartbeats.synced().await;
        self.namespaces.synced().await;
        self.reservations.synced().await;
    }

    /// Whether some object could not be read from which it is known what the scheduler gives out.
    #[must_use]
    pub fn scheduler_has_holes(&self) -> bool {
        !self.nodes.undecodable().is_empty() || !self.pods.undecodable().is_empty() || self.dra.has_holes()
    }

    /// What wakes whoever follows jobs.
    #[must_use]
    pub fn of_jobs(&self) -> Vec<watch::Receiver<u64>> {
        vec![self.jobs.changes(), self.placements.changes(), self.namespaces.changes()]
    }

    /// What wakes whoever follows this host's own GPUs. Nodes and heartbeats change every few seconds without meaning;
    /// a look at them every second is soon enough.
    #[must_use]
    pub fn of_host(&self) -> Vec<watch::Receiver<u64>> {
        let named = [self.dra.slices.changes(), self.dra.claims.changes(), self.dra.taint_rules.changes()];
        let rest = [self.placements.changes(), self.pools.changes(), self.gpu_nodes.changes(), self.pods.changes()];
        rest.into_iter().chain(named).collect()
    }
}

struct Start<'a> {
    ctx: &'a Context,
    tasks: &'a mut Tasks,
    stop: &'a CancellationToken,
}

impl Start<'_> {
    fn one<K>(
        &mut self,
        what: &'static str,
        api: Api<DeserializeGuard<K>>,
        config: watcher::Config,
        trim: fn(&mut K),
    ) -> Cache<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.trimmed(what, api, config, trim)
    }

    /// As [`Self::one`], of a kind that is kept as something smaller.
    fn kept<K, V>(&mut self, what: &'static str, api: Api<DeserializeGuard<K>>, config: watcher::Config) -> Cache<V>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        V: Kept<K> + Send + Sync + 'static,
    {
        self.trimmed(what, api, config, |_: &mut K| {})
    }

    fn trimmed<K, V>(
        &mut self,
        what: &'static str,
        api: Api<DeserializeGuard<K>>,
        config: watcher::Config,
        trim: fn(&mut K),
    ) -> Cache<V>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        V: Kept<K> + Send + Sync + 'static,
    {
        let (cache, feeder) = cache::cache::<V>();
        let (metrics, stop) = (self.ctx.metrics.watch(), self.stop.clone());
        let report = cache::report_kept::<K, V>(cache.clone(), self.ctx.events.clone(), self.ctx.lease.clone());
        let follow = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = cache::follow_trimmed(api, config, feeder, metrics, trim) => {}
                () = report => {}
            }
            Ok::<(), Infallible>(())
        };
        self.tasks.spawn(what, follow);
        cache
    }

    /// As [`Self::one`], of a kind that not every cluster serves. Where it is not served, the set is complete and empty,
    /// until it is: an API server may be upgraded beneath a running operator.
    fn served<K>(&mut self, what: &'static str, api: Api<DeserializeGuard<K>>, trim: fn(&mut K)) -> Cache<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let (cache, mut feeder) = cache::cache::<K>();
        let (metrics, stop, client) = (self.ctx.metrics.watch(), self.stop.clone(), self.ctx.client.clone());
        let report = cache::report(cache.clone(), self.ctx.events.clone(), self.ctx.lease.clone());
        let follow = async move {
            let follow = async move {
                stores_dra::wait_until_served::<K>(&client, &mut feeder).await;
                cache::follow_trimmed(api, watcher::Config::default(), feeder, metrics, trim).await;
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = follow => {}
                () = report => {}
            }
            Ok::<(), Infallible>(())
        };
        self.tasks.spawn(what, follow);
        cache
    }

    /// What this release has none of: complete, and without anything in it.
    fn empty<K, V>(&mut self, what: &'static str) -> Cache<V>
    where
        K: Resource,
        V: Kept<K> + Send + Sync + 'static,
    {
        let (cache, mut feeder) = cache::cache::<V>();
        feeder.take::<K>(watcher::Event::Init);
        feeder.take::<K>(watcher::Event::InitDone);
        let stop = self.stop.clone();
        self.tasks.spawn(what, async move {
            stop.cancelled().await;
            // Until then it is followed, so nobody takes it for given up.
            drop(feeder);
            Ok::<(), Infallible>(())
        });
        cache
    }
}
