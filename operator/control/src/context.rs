//! What every controller shares.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use koinon_api::cooperative::{CooperativeSpec, GuestCount};
use koinon_api::{Cooperative, GPUOffer, Member, ModelRelease, PolicyVersion, Proposal, Vote};
use koinon_core::body::charter::Charter;
use koinon_core::body::latest::NetworkPolicyState;
use koinon_core::gpu::breaker::Breaker;
use koinon_core::ids::{CoopId, MemberId};
use tokio::sync::watch;

use crate::cache::Cache;
use crate::challenges::Beliefs;
use crate::clock::Clock;
use crate::commons::publisher::LatestPublisher;
use crate::commons::view::LogFacts;
use crate::events::Events;
use crate::lease::LeaseHandle;
use crate::metrics::Metrics;
use crate::peers::PeersSnapshot;

/// Handles that every controller shares. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The API server. Its requests are not retried by themselves: a retry could land after the lease was lost.
    pub client: kube::Client,
    /// The release namespace.
    pub namespace: String,
    /// The Helm release.
    pub release: String,
    /// The flags of this process.
    pub args: Arc<crate::args::OperatorArgs>,
    /// The metrics of the commons side; the placement side registers its own.
    pub metrics: Metrics,
    /// Where metrics are registered.
    pub registry: prometheus::Registry,
    /// The right to write.
    pub lease: LeaseHandle,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// What the API server holds of the kinds in the release namespace.
    pub caches: Caches,
    /// What this cluster belongs to; `None` until the charter is known and this member is part of the cooperative. It
    /// stays after the member has left, for as long as there is something to wind up (see `ending`).
    pub cooperative: watch::Receiver<Option<Arc<CooperativeView>>>,
    /// What is heard of the members.
    pub peers: watch::Receiver<Arc<PeersSnapshot>>,
    /// Where offers, requests and grants are published.
    pub publisher: LatestPublisher,
    /// Where events are told.
    pub events: Events,
    /// What the placement side finds out about this cluster and the Cooperative's conditions show.
    pub host: watch::Sender<HostFacts>,
    /// Whether this cluster's membership is being wound up.
    pub ending: Ending,
    /// How far others' figures are believed, from what was measured of them.
    pub beliefs: watch::Sender<Arc<Beliefs>>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("namespace", &self.namespace)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// How long a single write to the API server may take before it is given up. Shorter than the lease's slack, so that
    /// no write is still on its way when another replica may lead.
    #[must_use]
    pub fn write_timeout(&self) -> Duration {
        self.args.lease() / 6
    }
}

/// The kinds of the release namespace that several controllers read. Kinds that only one side reads have their cache there.
#[derive(Clone, Debug)]
pub struct Caches {
    /// The one that counts is the oldest.
    pub cooperatives: Cache<Cooperative>,
    /// Facts about members, and the local owner's stance.
    pub members: Cache<Member>,
    /// Facts about releases, and the local owner's stance.
    pub releases: Cache<ModelRelease>,
    /// Proposals of people and mirrors of foreign ones.
    pub proposals: Cache<Proposal>,
    /// Votes of people and mirrors of foreign ones.
    pub votes: Cache<Vote>,
    /// The policy chains.
    pub policy_versions: Cache<PolicyVersion>,
    /// What members offer.
    pub offers: Cache<GPUOffer>,
}

/// What this cluster belongs to, as of one moment. Everything in it belongs together.
#[derive(Clone, Debug)]
pub struct CooperativeView {
    /// This member.
    pub me: MemberId,
    /// The cooperative.
    pub coop: CoopId,
    /// What was decided so far.
    pub state: Arc<koinon_core::policy::State>,
    /// The founding charter.
    pub charter: Arc<Charter>,
    /// What the local owner wants.
    pub spec: Arc<CooperativeSpec>,
    /// The logs as they are held here, by member.
    pub logs: Arc<BTreeMap<MemberId, LogFacts>>,
    /// Whether this member is Active and its operator may sign log entries: neither cloned nor still recovering its head.
    pub may_sign: bool,
}

/// What the placement side knows about this cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostFacts {
    /// What the probe found, and what the owner makes of it.
    pub network_policy: NetworkPolicyState,
    /// The numbers behind it.
    pub network_policy_message: String,
    /// Whether the weights cache answers; `None` before the first look.
    pub weights_cache: Option<bool>,
    /// Foreign work that is here now; `None` before the first look.
    pub guests: Option<GuestCount>,
    /// The fleet breaker; `None` before the first look.
    pub breaker: Option<Breaker>,
}

/// Who has something to wind up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WindUp {
    /// Work in this cluster, of others and of its own.
    Guests,
    /// The own jobs' placements elsewhere.
    Placements,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    requested: bool,
    guests: bool,
    placements: bool,
}

/// The end of this cluster's membership: asked for by the commons side when the `Cooperative` is deleted, reported by
/// the placement side. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    progress: Arc<watch::Sender<Progress>>,
}

impl Ending {
    /// Whether everything is to be wound up: no new guests, no new placements, drain what is there.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.progress.borrow().requested
    }

    /// Reports that nothing of `part` is left, or that something is.
    pub fn report(&self, part: WindUp, nothing_left: bool) {
        self.change(|progress| match part {
            WindUp::Guests => progress.guests = nothing_left,
            WindUp::Placements => progress.placements = nothing_left,
        });
    }

    /// Asks for it, or takes it back when a `Cooperative` is applied anew.
    pub(crate) fn request(&self, requested: bool) {
        self.change(|progress| progress.requested = requested);
    }

    /// What is not yet wound up.
    pub(crate) fn left(&self) -> Vec<WindUp> {
        let progress = *self.progress.borrow();
        let parts = [(WindUp::Guests, progress.guests), (WindUp::Placements, progress.placements)];
        parts.into_iter().filter(|(_, done)| !done).map(|(part, _)| part).collect()
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_if_modified(|progress| {
            let before = *progress;
            change(progress);
            *progress != before
        });
    }
}
