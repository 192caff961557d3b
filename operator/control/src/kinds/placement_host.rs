//! `Placement` at the host: from homes' lists to pods, and back to grants.
//!
//! ```text
//! list of a home ─▶ meaning ─▶ judge ─▶ reservations (durable) ─▶ grants ─▶ Placement ─▶ weights ─▶ Deployment, Service
//!                      │                                       ▲                                  │
//!                      └─ left out, lapsed, stopped ─▶ drain ──┴──────── released ◀── pods gone ◀─┘
//! ```
//!
//! The reservation is the one durable write before a grant; everything after it can be made again from it. Nothing is
//! concluded from a home that is not heard: its copies run on by their leases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use koinon_api::cooperative::{CooperativeSpec, GuestCount};
use koinon_api::placement::Side;
use koinon_api::{Cooperative, Placement, labels, names};
use koinon_core::body::latest::{GuestsMode, Requests};
use koinon_core::ids::{Epoch, MemberId, NodeName, ObjectUid, StatementId};
use koinon_core::placement::ReplicaKey;
use koinon_core::placement::reservations::NodeReservations;
use kube::ResourceExt;
use tokio_util::sync::CancellationToken;

use super::placement_home::Now;
use super::placement_host_grants as grants;
use super::placement_host_judge::Refused;
use super::placement_host_list::{self as list, Holding};
use super::placement_host_realise::Realiser;
use crate::context::{Context, WindUp};
use crate::peers::PeersSnapshot;
use crate::placement::inventory::{self, Inventory};
use crate::placement::metrics::{Part, PlacementMetrics};
use crate::placement::own::Own;
use crate::placement::quarantine;
use crate::placement::reader::ReadError;
use crate::placement::reclaim::sick::{self, Sick};
use crate::placement::renewals::Renewals;
use crate::placement::reservations::{ConfigMaps, Reservations, StoreError};
use crate::placement::rules::Rules;
use crate::placement::stores::Stores;
use crate::placement::survey::Survey;
use crate::placement::wake::Bell;
use crate::placement::weights::WeightsError;
use crate::placement::writer::{WriteError, Writer};

/// Without any change everything is looked at this often: leases run out, weights arrive.
const EVERY: Duration = Duration::from_secs(1);

/// The controller of what runs here for others, and for the own jobs.
#[derive(Debug)]
pub struct Guests {
    pub(super) ctx: Context,
    pub(super) stores: Stores,
    pub(super) own: Own,
    pub(super) writer: Writer,
    pub(super) reservations: Reservations<ConfigMaps>,
    pub(super) renewals: Renewals,
    pub(super) realiser: Realiser,
    pub(super) metrics: PlacementMetrics,
    pub(super) memory: BTreeMap<MemberId, Memory>,
    survey: tokio::sync::watch::Receiver<Option<Arc<Survey>>>,
}

/// What is remembered of a home between two looks. Forgetting it costs time and nothing else.
#[derive(Debug, Default)]
pub struct Memory {
    /// The list that was carried out last.
    pub done: Option<StatementId>,
    /// What was refused and is still listed, so that the answer does not change while it is read.
    pub refused: BTreeMap<(ReplicaKey, Epoch), Refused>,
    /// Since when a copy has been left out.
    pub left_out: BTreeMap<(ReplicaKey, Epoch), Duration>,
    /// When a list first left out more than half: by the time of day.
    pub doubted: Option<koinon_core::ids::UnixSeconds>,
    /// Since when something has been reserved that nobody asks for.
    pub unclaimed: BTreeMap<(NodeName, ReplicaKey, Epoch), Duration>,
}

/// A home's complete list.
#[derive(Clone, Debug)]
pub struct List {
    /// The statement.
    pub id: StatementId,
    /// What is asked.
    pub requests: Arc<Requests>,
    /// When it was heard, by the own monotonic clock.
    pub heard: Duration,
    /// The own jobs of scope Local.
    pub local: Arc<BTreeSet<ObjectUid>>,
}

/// What one look rests on.
#[derive(Debug)]
pub struct Scene {
    /// This member.
    pub me: MemberId,
    /// What the owner wants.
    pub spec: Arc<CooperativeSpec>,
    /// What was decided; `None` while it is being read.
    pub rules: Option<Rules>,
    /// What is heard.
    pub peers: Arc<PeersSnapshot>,
    /// What there is.
    pub survey: Arc<Survey>,
    /// Which work devices that failed take along.
    pub sick: Sick,
    /// Whether everything is wound up.
    pub ending: bool,
    /// When it is.
    pub now: Now,
}

impl Scene {
    /// What the owner does with foreign work.
    #[must_use]
    pub fn guests(&self) -> GuestsMode {
        self.spec.guests.mode.into()
    }
}

/// Why a look at one home ended early; the next one goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The reservations could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// An object could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The token of the weights cache could not be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl Guests {
    /// A controller over `stores`.
    #[must_use]
    pub fn new(
        ctx: Context,
        stores: Stores,
        own: Own,
        metrics: PlacementMetrics,
        realiser: Realiser,
        survey: tokio::sync::watch::Receiver<Option<Arc<Survey>>>,
    ) -> Self {
        let writer = Writer::new(&ctx, "placement");
        let reservations = Reservations::new(ConfigMaps::new(ctx.client.clone(), &ctx.namespace, writer.clone()));
        let renewals = Renewals::new(&ctx, writer.clone());
        Self { ctx, stores, own, writer, reservations, renewals, realiser, metrics, memory: BTreeMap::new(), survey }
    }

    /// Follows lists and pods until `stop`.
    ///
    /// # Errors
    /// Never; what fails is tried again.
    pub async fn run(mut self, bell: Bell, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = self.stores.synced() => {}
        }
        loop {
            let now = Now { unix: self.ctx.clock.unix(), monotonic: self.ctx.clock.monotonic() };
            self.realiser.begin(now).await;
            if let Some(scene) = self.scene() {
                self.look(&scene).await;
            } else {
                // No Cooperative, or no survey yet: what runs goes on, and there is nothing to wind up for.
                self.ctx.ending.report(WindUp::Guests, self.placements(None).is_empty());
            }
            if !bell.wait(EVERY, &stop).await {
                return Ok(());
            }
        }
    }

    fn scene(&self) -> Option<Scene> {
        // The owner's stop counts also while the membership is being read, so it is taken from the object itself.
        let cooperatives = self.ctx.caches.cooperatives.all();
        let oldest = Cooperative::chosen(&cooperatives)?;
        let survey = self.survey.borrow().clone()?;
        let gpu_nodes = self.stores.gpu_nodes.all();
        let sick = Sick::find(&sick::Inputs {
            gpu_nodes: &gpu_nodes,
            ages: &survey.ages,
            pods: &self.stores.pods.all(),
            breaker_open: quarantine::is_open(&self.ctx, &gpu_nodes, &survey.ages, self.ctx.clock.unix()),
        });
        Some(Scene {
            me: oldest.spec.member.parse().ok()?,
            spec: Arc::new(oldest.spec.clone()),
            rules: Rules::now(&self.ctx),
            peers: self.ctx.peers.borrow().clone(),
            survey,
            sick,
            ending: self.ctx.ending.requested(),
            now: Now { unix: self.ctx.clock.unix(), monotonic: self.ctx.clock.monotonic() },
        })
    }

    async fn look(&mut self, scene: &Scene) {
        let records = match self.reservations.records().await {
            Ok(records) => Some(records),
            Err(error) => {
                self.metrics.failed(Part::Guests);
                tracing::warn!(%error, "nothing is granted until the reservations can be read; what has to end ends");
                None
            }
        };
        let placements = self.reclaim(scene, self.placements(Some(&scene.me))).await;
        let holdings = list::holdings(records.as_ref().unwrap_or(&BTreeMap::new()), &placements);
        let mut homes: BTreeSet<MemberId> = holdings.keys().map(|key| key.home.clone()).collect();
        if let Some(rules) = &scene.rules {
            homes.extend(rules.members().cloned());
        }
        for home in &homes {
            let done = match &records {
                Some(records) => self.home(home, scene, records, &holdings).await,
                None => self.home_without_records(home, scene, &holdings).await,
            };
            if let Err(error) = done {
                let conflict = matches!(&error, GuestError::Write(error) if error.is_conflict());
                if conflict {
                    tracing::debug!(%home, %error, "looked at an older version");
                } else {
                    self.metrics.failed(Part::Guests);
                    tracing::warn!(%home, %error, "what runs for this home is looked at again");
                }
            }
        }
        if let Some(records) = &records {
            self.memory.retain(|home, _| homes.contains(home));
            self.report(scene, records);
        }
    }

    /// The Placements of this side, where we put them.
    fn placements(&self, me: Option<&MemberId>) -> Vec<Arc<Placement>> {
        let all = self.stores.placements.all();
        let ours = |placement: &Arc<Placement>| {
            let spec = &placement.spec;
            let namespace = placement.namespace().unwrap_or_default();
            let guest = namespace == names::guest_namespace(&spec.home) && self.made_by_this_release(&namespace);
            let local = spec.home == spec.host && namespace == spec.job.namespace;
            spec.side == Side::Host && me.is_none_or(|me| spec.host == me.as_str()) && (guest || local)
        };
        all.into_iter().filter(ours).collect()
    }

    /// Whether a guest namespace is not another release's, which serves another cooperative from the same cluster.
    fn made_by_this_release(&self, namespace: &str) -> bool {
        let all = self.stores.namespaces.all();
        let label = all
            .iter()
            .find(|one| one.name_any() == namespace)
            .and_then(|one| one.labels().get(labels::RELEASE_NAMESPACE_LABEL));
        label.is_none_or(|release| *release == self.ctx.namespace)
    }

    /// The home's list, if it is heard and still holds.
    pub(super) fn list(&self, home: &MemberId, scene: &Scene) -> Option<List> {
        if home == &scene.me {
            let own = self.own.requests.borrow().clone()?;
            let id = grants::own_statement(&own.requests.requests);
            return Some(List { id, requests: own.requests, heard: own.at, local: own.local });
        }
        let heard = scene.peers.members.get(home)?.requests.as_ref()?;
        heard.is_current(scene.now.monotonic).then(|| List {
            id: heard.id,
            requests: heard.body.clone(),
            heard: heard.heard_at,
            local: Arc::default(),
        })
    }

    /// What there is, with the reservations as they were just read.
    pub(super) fn inventory(&self, scene: &Scene, records: &BTreeMap<NodeName, NodeReservations>) -> Inventory {
        let (pools, gpu_nodes) = (self.stores.pools.all(), self.stores.gpu_nodes.all());
        let (nodes, pods, named) = (self.stores.nodes.all(), self.stores.pods.all(), self.stores.dra.all());
        let placements = self.stores.placements.all();
        inventory::take(&inventory::Inputs {
            me: Some(&scene.me),
            pools: &pools,
            gpu_nodes: &gpu_nodes,
            nodes: &nodes,
            pods: &pods,
            dra: named.objects(),
            heartbeat_ages: &scene.survey.ages,
            records,
            placements: &placements,
            holes: scene.survey.holes,
            now: scene.now.unix,
        })
    }

    fn report(&self, scene: &Scene, records: &BTreeMap<NodeName, NodeReservations>) {
        let placements = self.placements(Some(&scene.me));
        self.metrics.placements(Side::Host, placements.iter().map(|placement| list::state(placement)));
        let foreign = |home: &str| home != scene.me.as_str();
        let live = placements.iter().filter(|placement| foreign(&placement.spec.home) && !list::is_over(placement));
        let held = records.values().flat_map(|record| record.held());
        let gpus = held
            .filter(|held| foreign(held.replica.home.as_str()))
            .fold(0_u32, |sum, held| sum.saturating_add(held.gpus));
        let count = GuestCount {
            placements: i32::try_from(live.count()).unwrap_or(i32::MAX),
            gpus: i32::try_from(gpus).unwrap_or(i32::MAX),
        };
        self.ctx.ending.report(WindUp::Guests, list::nothing_left(records, &placements));
        self.ctx.host.send_if_modified(|facts| {
            let changed = facts.guests.as_ref() != Some(&count);
            facts.guests = Some(count);
            changed
        });
    }

    pub(super) fn holding<'a>(
        holdings: &'a BTreeMap<ReplicaKey, Holding>,
        home: &MemberId,
    ) -> impl Iterator<Item = (&'a ReplicaKey, &'a Holding)> {
        let home = home.clone();
        holdings.iter().filter(move |(key, _)| key.home == home)
    }
}
