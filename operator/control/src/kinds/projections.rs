//! Projections: what the cooperative decided and what is heard of its members, shown as resources.
//!
//! The facts stand in `status`, which only this controller writes; `spec` is the local owner's stance and is never
//! touched, so that it may be applied from git before the facts are known. An object is made when its facts appear and is
//! never deleted: that a fact is not known now does not prove that it is over.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::conditions::{self, ConditionType, Reason, Verdict};
use koinon_api::time;
use kube::api::{Api, ObjectMeta};
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::context::Context;
use crate::events::Severity;
use crate::kinds::{gpuoffer, member, modelrelease, policyversion};
use crate::metrics::CommonsPart;
use crate::placement::writer::{WriteError, Writer};

/// Changes are gathered for this long before they are written: a beacon every two seconds must not be a write.
const GATHER: Duration = Duration::from_millis(300);
/// Ages and expiries change without an event.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How old a written `lastSeenTime` or `asOfTime` may get while nothing else changes.
pub(crate) const REFRESH_TIMES: Duration = Duration::from_secs(15);

/// Why the projections ended.
#[derive(Debug, Error)]
pub enum ProjectionError {
    /// What they are made of is no longer told.
    #[error("the commons ended: nothing is left to project")]
    Ended,
}

/// A kind whose status is a fact of the commons.
pub(crate) trait Projected:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
    /// Its status.
    type Status: Clone + Debug + Default + PartialEq + Serialize;

    /// An object of that name without a stance.
    fn bare(name: &str) -> Self;
    /// The status as it is.
    fn status(&self) -> Option<&Self::Status>;
    /// Sets the status.
    fn set_status(&mut self, status: Self::Status);
    /// The conditions of a status.
    fn conditions(status: &Self::Status) -> &[Condition];
    /// When the facts were last seen, where the status says so: written anew now and then even if nothing else changed.
    fn seen_at(_: &Self::Status) -> Option<i64> {
        None
    }
}

/// Keeps the projections up to date until `stop`.
///
/// # Errors
/// [`ProjectionError::Ended`] when the commons side is gone.
pub async fn run(ctx: Context, stop: CancellationToken) -> Result<(), ProjectionError> {
    let (mut cooperative, mut peers) = (ctx.cooperative.clone(), ctx.peers.clone());
    let mut beliefs = ctx.beliefs.subscribe();
    // A change of a stance changes conditions too.
    let (mut members, mut releases) = (ctx.caches.members.changes(), ctx.caches.releases.changes());
    loop {
        write_all(&ctx).await;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = cooperative.changed() => changed.map_err(|_| ProjectionError::Ended)?,
            changed = peers.changed() => changed.map_err(|_| ProjectionError::Ended)?,
            changed = beliefs.changed() => changed.map_err(|_| ProjectionError::Ended)?,
            changed = members.changed() => changed.map_err(|_| ProjectionError::Ended)?,
            changed = releases.changed() => changed.map_err(|_| ProjectionError::Ended)?,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(GATHER) => {}
        }
    }
}

async fn write_all(ctx: &Context) {
    let Some(view) = ctx.cooperative.borrow().clone() else { return };
    let (peers, beliefs) = (ctx.peers.borrow().clone(), ctx.beliefs.borrow().clone());
    let now = ctx.clock.unix();
    let Some(time) = time::from_unix(now.0) else { return };
    let moment = Moment { now, time, monotonic: ctx.clock.monotonic() };
    let members = ctx.caches.members.clone();
    let stored = |name: &str| members.get(&ctx.namespace, name);
    write(ctx, &ctx.caches.members, member::statuses(&view, &peers, &moment, stored)).await;
    let releases = ctx.caches.releases.clone();
    let stored = |name: &str| releases.get(&ctx.namespace, name);
    write(ctx, &ctx.caches.releases, modelrelease::statuses(&view, &moment, stored)).await;
    let versions = ctx.caches.policy_versions.clone();
    let stored = |name: &str| versions.get(&ctx.namespace, name);
    write(ctx, &ctx.caches.policy_versions, policyversion::statuses(&view, &moment, stored)).await;
    let offers = ctx.caches.offers.clone();
    let stored = |name: &str| offers.get(&ctx.namespace, name);
    write(ctx, &ctx.caches.offers, gpuoffer::statuses(&view, &peers, &beliefs, &moment, stored)).await;
}

/// The time at which statuses are made.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    /// By the own clock.
    pub now: koinon_core::ids::UnixSeconds,
    /// The same, as resources write it.
    pub time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time,
    /// By the monotonic clock.
    pub monotonic: Duration,
}

/// Sets one condition. Whether that is an event shows when the whole status was written: see [`tell`].
pub(crate) fn set(
    conditions: &mut Vec<Condition>,
    type_: ConditionType,
    verdict: Verdict,
    generation: Option<i64>,
    moment: &Moment,
) {
    let _ = conditions::set(conditions, type_, verdict, generation, &moment.time);
}

/// Tells an event for every condition whose status differs from what was stored. What is new is told only where it is
/// not as it should be: otherwise the first look at a cooperative would be a burst of events that say nothing.
fn tell<K: Projected>(ctx: &Context, before: &[Condition], written: &K) {
    let Some(status) = written.status() else { return };
    for condition in K::conditions(status) {
        let Ok(reason) = condition.reason.parse::<Reason>() else { continue };
        let earlier = before.iter().find(|earlier| earlier.type_ == condition.type_);
        let good = condition.status == "True";
        if earlier.map_or(good, |earlier| earlier.status == condition.status) {
            continue;
        }
        let severity = if good || is_progress(reason) { Severity::Normal } else { Severity::Warning };
        ctx.events.tell(
            written.object_ref(&()),
            severity,
            reason,
            format!("{}: {}", condition.type_, condition.message),
        );
    }
}

/// Whether a condition that does not hold says only that something takes its course.
fn is_progress(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Starting
            | Reason::Applying
            | Reason::RecoveringHead
            | Reason::Unsigned
            | Reason::AwaitingAnchor
            | Reason::Pending
            | Reason::Open
            | Reason::AwaitingSeals
            | Reason::AwaitingTimelock
            | Reason::AwaitingEnactment
            | Reason::Deleting
            | Reason::HomeOnly
            | Reason::NotDialled
            | Reason::NoEndpoint
            | Reason::NotAsked
            | Reason::TooFewChallengers
    )
}

/// Writes the statuses that differ of objects that are there; an object that is gone is not made again.
pub(crate) async fn write_existing<K: Projected>(
    ctx: &Context,
    cache: &Cache<K>,
    mut statuses: BTreeMap<String, K::Status>,
) {
    statuses.retain(|name, _| cache.get(&ctx.namespace, name).is_some());
    write(ctx, cache, statuses).await;
}

/// Writes the statuses that differ; one that cannot be written does not keep the others from being written.
async fn write<K: Projected>(ctx: &Context, cache: &Cache<K>, statuses: BTreeMap<String, K::Status>) {
    if !cache.is_synced() {
        return;
    }
    let api = Api::<K>::namespaced(ctx.client.clone(), &ctx.namespace);
    let writer = Writer::new(ctx, "projections");
    let unreadable = cache.undecodable();
    for (name, status) in statuses {
        if unreadable.contains_key(&(ctx.namespace.clone(), name.clone())) {
            continue;
        }
        let stored = cache.get(&ctx.namespace, &name);
        if stored.as_ref().is_some_and(|stored| is_current::<K>(stored.status(), &status)) {
            continue;
        }
        let before: Vec<Condition> = stored
            .as_ref()
            .and_then(|stored| stored.status())
            .map(|status| K::conditions(status).to_vec())
            .unwrap_or_default();
        let written = match stored {
            Some(stored) => put(&writer, &api, (*stored).clone(), status).await,
            None => make(&writer, &api, &ctx.namespace, &name, status).await,
        };
        match written {
            Ok(written) => tell(ctx, &before, &written),
            // Somebody wrote first, or leads now: the next round looks again.
            Err(error) if error.is_conflict() => {}
            Err(WriteError::NotLeader { .. }) => return,
            Err(error) => {
                ctx.metrics.commons_failed(CommonsPart::Status);
                tracing::warn!(%error, "a projection could not be written");
            }
        }
    }
}

fn is_current<K: Projected>(stored: Option<&K::Status>, status: &K::Status) -> bool {
    stored.is_some_and(|stored| {
        let refresh = i64::try_from(REFRESH_TIMES.as_secs()).unwrap_or(i64::MAX);
        let fresh_enough = match (K::seen_at(stored), K::seen_at(status)) {
            (Some(before), Some(after)) => after.saturating_sub(before) < refresh,
            _ => true,
        };
        fresh_enough && conditions::same_ignoring_times(stored, status)
    })
}

async fn make<K: Projected>(
    writer: &Writer,
    api: &Api<K>,
    namespace: &str,
    name: &str,
    status: K::Status,
) -> Result<K, WriteError> {
    let mut bare = K::bare(name);
    *bare.meta_mut() = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "koinon".to_owned())])),
        ..ObjectMeta::default()
    };
    let made = writer.create(api, &bare).await?;
    put(writer, api, made, status).await
}

async fn put<K: Projected>(writer: &Writer, api: &Api<K>, mut object: K, status: K::Status) -> Result<K, WriteError> {
    object.set_status(status);
    object.managed_fields_mut().clear();
    writer.replace_status(api, &object).await
}
