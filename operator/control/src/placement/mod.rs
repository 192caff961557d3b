//! Placing: what this member asks of others, and what it grants them.
//!
//! ```text
//! stores ─▶ survey (pools, offer) ──┐                        ┌── probe (NetworkPolicies)
//!    │                              ▼                        ▼
//!    ├────▶ kinds::inferencejob ──own lists──▶ kinds::placement_host ──▶ reservations, pods
//!    │            │     ▲                            │      ▲
//!    │            ▼     └─────────── own grants ─────┘      │
//!    └──▶ lists of requests ─▶ peers ─▶ lists of grants ◀───┘
//! ```
//!
//! Each of the four loops looks at the whole state whenever something changed, and writes under the leader lease. What
//! must not happen twice is made impossible by names and resource versions in the API server.

#[cfg(test)]
pub(crate) mod fixture;
pub mod inventory;
pub mod lean;
pub mod metrics;
pub mod own;
pub mod passes;
pub mod publish;
pub mod quarantine;
pub mod reader;
pub mod reclaim;
pub mod refusals;
pub mod renewals;
pub mod reservations;
pub mod rules;
pub mod starts;
pub mod stores;
pub mod stores_dra;
pub mod survey;
pub mod taints;
pub mod wake;
pub mod weights;
pub mod writer;
pub mod xids;

use std::sync::Arc;
use std::time::Duration;

use koinon_telemetry::{TaskError, Tasks};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::challenges::believer::Believer;
use crate::challenges::call::Caller;
use crate::challenges::challenger::Challenger;
use crate::context::Context;
use crate::kinds::inferencejob::Jobs;
use crate::kinds::placement_host::Guests;
use crate::kinds::placement_host_realise::Realiser;
use crate::probe::Prober;

use metrics::Part;
pub use metrics::{PlacementMetrics, register};
use own::Own;
use stores::Stores;
use survey::Surveyor;
use wake::Bell;
use weights::{WeightsCache, WeightsError};

/// How long the parts may take to end; the lease is still held meanwhile.
const GRACE: Duration = Duration::from_secs(8);

/// Why placing ended.
#[derive(Debug, Error)]
pub enum PlacementError {
    /// A part failed.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The weights cache cannot be asked at all.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Nobody can be challenged.
    #[error("preparing challenges: {0}")]
    Challenges(String),
}

/// What nobody else can know.
fn random() -> Result<[u8; 32], PlacementError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map(|()| bytes).map_err(|error| PlacementError::Challenges(error.to_string()))
}

/// Follows jobs, pools and guests for as long as this replica leads.
///
/// # Errors
/// When a part fails.
pub async fn run(ctx: Context, metrics: PlacementMetrics, stop: CancellationToken) -> Result<(), PlacementError> {
    // A term that ends by itself must not stop what comes after it.
    let stop = stop.child_token();
    let mut tasks = Tasks::new();
    let stores = Stores::follow(&ctx, &mut tasks, &stop);
    let own = Own::default();
    let cache = WeightsCache::new(&ctx.args.weights_url)?;
    // Early, because the cache's pod sees the Secret only when its kubelet looks again; asking for a model tries anew.
    if let Err(error) = weights::ensure_token(&ctx).await {
        tracing::warn!(%error, "the token of the weights cache could not be made");
    }

    let [pools, asking, hosting] =
        [Part::Pools, Part::Jobs, Part::Guests].map(|part| Bell::new(metrics.passes.of(part)));
    let metrics_of_challenges = metrics.challenges.clone();
    let (prober, findings) = Prober::new(ctx.clone(), metrics.clone());
    let (surveyor, survey) = Surveyor::new(ctx.clone(), stores.clone(), own.clone(), metrics.clone(), findings.clone());
    let jobs = Jobs::new(ctx.clone(), stores.clone(), own.clone(), metrics.clone());
    let realiser = Realiser::new(ctx.clone(), own.clone(), cache);
    let guests = Guests::new(ctx.clone(), stores.clone(), own.clone(), metrics, realiser, survey.clone());

    for changes in stores.of_host() {
        pools.listen(&mut tasks, "changes for pools", &stop, changes.clone());
        hosting.listen(&mut tasks, "changes for guests", &stop, changes);
    }
    for changes in stores.of_jobs() {
        asking.listen(&mut tasks, "changes for jobs", &stop, changes);
    }
    for bell in [&pools, &asking, &hosting] {
        bell.listen(&mut tasks, "changes of the membership", &stop, ctx.cooperative.clone());
        bell.listen(&mut tasks, "changes of the Cooperative", &stop, ctx.caches.cooperatives.changes());
    }
    asking.listen(&mut tasks, "changes of beliefs", &stop, ctx.beliefs.subscribe());
    for bell in [&asking, &hosting] {
        bell.listen(&mut tasks, "changes of peers", &stop, ctx.peers.clone());
        bell.listen(&mut tasks, "changes of releases", &stop, ctx.caches.releases.changes());
        bell.listen(&mut tasks, "changes of members", &stop, ctx.caches.members.changes());
    }
    pools.listen(&mut tasks, "changes of reservations", &stop, stores.reservations.changes());
    pools.listen(&mut tasks, "changes of weights", &stop, own.weights.subscribe());
    pools.listen(&mut tasks, "findings of the probe", &stop, findings);
    asking.listen(&mut tasks, "own grants", &stop, own.grants.subscribe());
    asking.listen(&mut tasks, "own offer", &stop, own.offer.subscribe());
    hosting.listen(&mut tasks, "own requests", &stop, own.requests.subscribe());
    hosting.listen(&mut tasks, "the first survey", &stop, survey);

    let caller = Caller::new(&ctx.args.gateway_url).map_err(PlacementError::Challenges)?;
    let (secret, choice) = (random()?, random()?);
    let (measured, own_measured) = watch::channel(Arc::default());
    let challenges = metrics_of_challenges.clone();
    let challenger = Challenger::new(ctx.clone(), stores.clone(), caller, challenges, measured, secret);
    let believer = Believer::new(ctx.clone(), own_measured, metrics_of_challenges, choice);
    tasks.spawn("challenges", challenger.run(stop.clone()));
    tasks.spawn("beliefs", believer.run(stop.clone()));

    tasks.spawn("pools", surveyor.run(pools, stop.clone()));
    tasks.spawn("jobs", jobs.run(asking, stop.clone()));
    tasks.spawn("guests", guests.run(hosting, stop.clone()));
    tasks.spawn("probe", prober.run(stop.clone()));
    tasks.run(stop, GRACE).await?;
    Ok(())
}
