//! A look at this cluster's GPUs every second: pools' statuses, metrics, and the offer to everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use koinon_api::common::NetworkPolicyState as ApiPolicy;
use koinon_api::cooperative::NetworkPolicyDemand;
use koinon_api::{Cooperative, GPUPool, Placement};
use koinon_core::body::latest::NetworkPolicyState;
use koinon_core::gpu::breaker::BreakerVerdict;
use koinon_core::ids::{GpuClass, NodeName, Seconds};
use koinon_core::placement::reservations::NodeReservations;
use kube::api::Api;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::inventory::disagreements::Disagreements;
use super::inventory::heartbeat::Heartbeats;
use super::inventory::{self, Inputs, Inventory};
use super::metrics::{Belief, DeviceState, Part, PlacementMetrics};
use super::own::{self, Own, OwnOffer};
use super::quarantine::Quarantine;
use super::reclaim::{self, AllTerms, Reclaiming};
use super::reservations;
use super::stores::Stores;
use super::taints::apply::Tainter;
use super::taints::{self, Plan};
use super::wake::Bell;
use super::writer::Writer;
use super::xids::Xids;
use crate::context::Context;
use crate::kinds::gpupool::Leaving;
use crate::kinds::gpupool_offer::{self, Eyes};
use crate::kinds::{gpupool, placement_home::Now};
use crate::probe::Found;

/// Heartbeats age without any change.
const EVERY: Duration = Duration::from_secs(1);
/// How long an offer holds without being confirmed.
const OFFER_HOLDS: Duration = Duration::from_secs(60);

/// What was found about the nodes, for those who decide on reservations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// How old each agent's heartbeat is.
    pub ages: BTreeMap<NodeName, Seconds>,
    /// Whether some node, pod or record could not be read.
    pub holes: bool,
    /// Which pool has the GPUs of each class on each node, and what it gives as notice.
    pub terms: AllTerms,
}

impl Survey {
    /// The notice that is due to a Placement; none where no pool has its GPUs.
    #[must_use]
    pub fn notice(&self, placement: &Placement) -> Option<Seconds> {
        reclaim::terms_of(&self.terms, placement).map(|terms| terms.notice)
    }
}

/// Looks at this cluster's GPUs.
#[derive(Debug)]
pub struct Surveyor {
    ctx: Context,
    stores: Stores,
    own: Own,
    writer: Writer,
    metrics: PlacementMetrics,
    heartbeats: Heartbeats,
    disagreements: Disagreements,
    quarantine: Quarantine,
    tainter: Tainter,
    xids: Xids,
    findings: watch::Receiver<Option<Found>>,
    digests: gpupool::Digests,
    /// The pools and classes whose figures are shown.
    shown: BTreeSet<(String, GpuClass)>,
    found: watch::Sender<Option<Arc<Survey>>>,
}

impl Surveyor {
    /// A surveyor over `stores`, and where its findings are.
    #[must_use]
    pub fn new(
        ctx: Context,
        stores: Stores,
        own: Own,
        metrics: PlacementMetrics,
        findings: watch::Receiver<Option<Found>>,
    ) -> (Self, watch::Receiver<Option<Arc<Survey>>>) {
        let (found, survey) = watch::channel(None);
        let (writer, tainter, xids) = (Writer::new(&ctx, "gpupool"), Tainter::new(&ctx), Xids::new(&ctx));
        let surveyor = Self {
            ctx,
            stores,
            own,
            writer,
            metrics,
            heartbeats: Heartbeats::default(),
            disagreements: Disagreements::default(),
            quarantine: Quarantine::default(),
            tainter,
            xids,
            findings,
            digests: gpupool::Digests::default(),
            shown: BTreeSet::new(),
            found,
        };
        (surveyor, survey)
    }

    /// Looks until `stop`.
    ///
    /// # Errors
    /// Never; what fails is tried again.
    pub async fn run(mut self, bell: Bell, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = self.stores.synced() => {}
        }
        loop {
            self.look().await;
            if !bell.wait(EVERY, &stop).await {
                return Ok(());
            }
        }
    }

    async fn look(&mut self) {
        let now = Now { unix: self.ctx.clock.unix(), monotonic: self.ctx.clock.monotonic() };
        self.heartbeats.look(&self.stores.heartbeats.all(), now.unix, now.monotonic);
        let (records, unreadable) = self.records();
        let gpu_nodes = self.stores.gpu_nodes.all();
        let names = gpu_nodes.iter().filter_map(|node| node.name.clone());
        let ages: BTreeMap<NodeName, Seconds> = names
            .filter_map(|name| Some((self.heartbeats.age(&name, now.monotonic)?, name)))
            .map(|(age, name)| (name, age))
            .collect();
        let holes = unreadable || self.stores.scheduler_has_holes();
        let verdict = self.quarantine.look(&self.ctx, &gpu_nodes, &ages, now.unix);
        self.metrics.breaker(verdict.is_some_and(|verdict| verdict.open));
        let mut survey = Survey { ages, holes, terms: AllTerms::new() };
        let view = self.ctx.cooperative.borrow().clone();
        let (pools, nodes, pods) = (self.stores.pools.all(), self.stores.nodes.all(), self.stores.pods.all());
        let named = self.stores.dra.all();
        let mut inventory = inventory::take(&Inputs {
            me: view.as_ref().map(|view| &view.me),
            pools: &pools,
            gpu_nodes: &gpu_nodes,
            nodes: &nodes,
            pods: &pods,
            dra: named.objects(),
            heartbeat_ages: &survey.ages,
            records: &records,
            placements: &self.stores.placements.all(),
            holes,
            now: now.unix,
        });
        inventory.disagreeing = self.disagreements.look(&inventory.capacities, now.monotonic);
        survey.terms = inventory.terms();
        // Before the first survey is told, upon which requests are decided: a refusal for want of this would stand.
        self.confinement();
        let survey = Arc::new(survey);
        // Not a reason to wake anybody: whoever decides looks at it anyway.
        self.found.send_if_modified(|found| {
            let first = found.is_none();
            *found = Some(survey.clone());
            first
        });
        let placements = self.stores.placements.all();
        let reclaiming = view.as_ref().map(|view| reclaim::reclaiming(&view.me, &placements, &inventory.terms()));
        let cooperatives = &self.ctx.caches.cooperatives;
        let left = cooperatives.is_synced() && Cooperative::chosen(&cooperatives.all()).is_none();
        let facts = taints::Inputs {
            release: &self.ctx.namespace,
            inventory: &inventory,
            pools_have_holes: !self.stores.pools.undecodable().is_empty(),
            gpu_nodes: &gpu_nodes,
            ages: &survey.ages,
            nodes: &nodes,
            dra: named.objects(),
            breaker: verdict,
            ending: left || self.ctx.ending.requested(),
        };
        let taints = taints::plan(&facts);
        self.show(&inventory, &reclaiming.unwrap_or_default(), verdict, &taints, now).await;
        if let Some(view) = &view {
            self.offer(&inventory, &view.spec);
            let rows = &view.state.norms().placement.xids;
            if let Err(error) = self.xids.pass_on(&self.ctx, rows, now.monotonic).await {
                self.metrics.failed(Part::Pools);
                tracing::warn!(%error, "agents may not know what was voted about XIDs");
            }
        }
        // Last: what the cooperative is told waits for no taint.
        self.tainter.apply(&self.ctx, &self.metrics, &inventory.pools, &taints, now.monotonic).await;
    }

    fn records(&self) -> (BTreeMap<NodeName, NodeReservations>, bool) {
        let mut records = BTreeMap::new();
        let mut unreadable = !self.stores.reservations.undecodable().is_empty();
        for map in self.stores.reservations.all() {
            match reservations::read(&map) {
                Ok(read) => {
                    records.insert(read.record.node().clone(), read.record);
                }
                // The part that reserves says so once; here it only means that nothing is known to be free.
                Err(_) => unreadable = true,
            }
        }
        (records, unreadable)
    }

    async fn show(
        &mut self,
        inventory: &Inventory,
        reclaiming: &BTreeMap<String, Reclaiming>,
        breaker: Option<BreakerVerdict>,
        taints: &Plan,
        now: Now,
    ) {
        let classes = |(name, view): (&String, &inventory::PoolView)| -> Vec<(String, GpuClass)> {
            view.capacity.classes.keys().map(|class| (name.clone(), class.clone())).collect()
        };
        let shown: BTreeSet<(String, GpuClass)> = inventory.pools.iter().flat_map(classes).collect();
        if !self.shown.is_subset(&shown) {
            self.metrics.forget_devices();
        }
        self.shown = shown;
        self.digests.keep(&inventory.pools);
        let api = Api::<GPUPool>::namespaced(self.ctx.client.clone(), &self.ctx.namespace);
        for (name, view) in &inventory.pools {
            self.metrics.reclaim.notice(name, view.pool.spec.reclaim_notice_seconds);
            for (class, figures) in &view.capacity.classes {
                for (state, count) in [
                    (DeviceState::Installed, figures.installed),
                    (DeviceState::Healthy, figures.healthy),
                    (DeviceState::Degraded, figures.degraded),
                    (DeviceState::Unhealthy, figures.unhealthy),
                    (DeviceState::Unknown, figures.unknown),
                    (DeviceState::OwnerRequested, figures.owner_requested),
                    (DeviceState::OwnerReserve, figures.owner_reserve),
                    (DeviceState::Leased, figures.leased),
                    (DeviceState::Orphaned, figures.orphaned),
                    (DeviceState::Stranded, figures.stranded),
                    (DeviceState::Offered, figures.offered),
                ] {
                    self.metrics.devices(name, class.as_str(), state, count);
                }
            }
            let capacities = view.nodes.iter().filter_map(|node| inventory.capacities.get(node));
            let mut belief = Belief::of(&view.capacity, capacities.filter_map(|capacity| capacity.disagreement));
            for (class, figures) in &view.capacity.classes {
                let works = figures.healthy.saturating_add(figures.degraded);
                *belief.evidence.entry(gpupool::evidence(view, inventory, class)).or_default() += works;
            }
            self.metrics.belief(name, &belief);
            let reclaiming = reclaiming.get(name).copied().unwrap_or_default();
            let leaving = Leaving { reclaiming, breaker, tainting: self.tainter.verdict(taints, &view.pool) };
            let digest = self.digests.of(view, inventory);
            let status = gpupool::status(view, inventory, digest, &leaving, &now.time());
            match gpupool::write(&self.writer, &api, &view.pool, status).await {
                Err(error) if !error.is_conflict() && !error.is_not_found() => {
                    self.metrics.failed(Part::Pools);
                    tracing::warn!(pool = %name, %error, "the pool's status is written again");
                }
                _ => {}
            }
        }
    }

    /// Says whether guests can be confined here, as the probe found it and the owner takes it.
    fn confinement(&self) {
        let cooperatives = self.ctx.caches.cooperatives.all();
        let Some(oldest) = Cooperative::chosen(&cooperatives) else { return };
        let found = self.findings.borrow().clone().unwrap_or_else(|| Found::unknown("the probe has not run yet"));
        let state = accepted(found.state, oldest.spec.guests.network_policy);
        self.ctx.host.send_if_modified(|facts| {
            let changed = facts.network_policy != state || facts.network_policy_message != found.message;
            facts.network_policy = state;
            facts.network_policy_message = found.message;
            changed
        });
    }

    fn offer(&self, inventory: &Inventory, spec: &koinon_api::cooperative::CooperativeSpec) {
        let weights = self.own.weights.borrow().clone();
        let policy = self.ctx.host.borrow().network_policy;
        let ending = self.ctx.ending.requested();
        let made = |eyes| gpupool_offer::offer(inventory, spec, policy, &weights, ending, eyes);
        match (made(Eyes::Others), made(Eyes::Own)) {
            (Ok(offer), Ok(own)) => {
                own::send(&self.own.offer, OwnOffer { offer: Arc::new(own) });
                if let Err(error) = self.ctx.publisher.offer(offer, OFFER_HOLDS) {
                    self.metrics.failed(Part::Pools);
                    tracing::warn!(%error, "the offer could not be published");
                }
            }
            (Err(error), _) | (_, Err(error)) => {
                self.metrics.failed(Part::Pools);
                tracing::warn!(%error, "nothing is offered: correct spec.site.jurisdiction of the Cooperative");
            }
        }
    }
}

/// What is said of NetworkPolicies, given what a probe found and what the owner makes of it.
#[must_use]
pub fn accepted(found: ApiPolicy, demand: NetworkPolicyDemand) -> NetworkPolicyState {
    match (found, demand) {
        // What is not known to hold is accepted like what is known not to.
        (ApiPolicy::Unenforced | ApiPolicy::Unknown, NetworkPolicyDemand::AcceptUnenforced) => {
            NetworkPolicyState::AcceptedUnenforced
        }
        (found, _) => found.into(),
    }
}
