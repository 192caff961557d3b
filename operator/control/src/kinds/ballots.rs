//! `Proposal` and `Vote`: what people applied here, and mirrors of what was anchored elsewhere.
//!
//! Only envelopes count. A mirror is a copy for reading, labelled as one; deleting it takes nothing back, and it is made
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use koinon_api::{Proposal, Vote};
use koinon_core::dsse::Envelope;
use koinon_core::ids::StatementId;
use koinon_core::policy::Commons;
use kube::api::Api;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::commons::session::Running;
use crate::commons::view::CommonsView;
use crate::context::Context;
use crate::kinds::projections::{self, Moment};
use crate::kinds::{proposal, vote};
use crate::metrics::{CommonsPart, Metrics};
use crate::placement::writer::{WriteError, Writer};

/// Changes are gathered for this long before they are written.
const GATHER: Duration = Duration::from_millis(200);
/// Phases change with the clock alone.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A mirror that the API server refused is tried again after this long: the foreign text in it will not get better.
const REFUSED_AGAIN: Duration = Duration::from_secs(300);

/// Why the ballots ended.
#[derive(Debug, Error)]
pub enum BallotsError {
    /// What they are made of is no longer told.
    #[error("the commons ended: nothing is left to show")]
    Ended,
}

/// Keeps proposals and votes up to date until `stop`.
///
/// # Errors
/// [`BallotsError::Ended`] when the commons side is gone.
pub async fn run(
    ctx: Context,
    mut running: watch::Receiver<Option<Running>>,
    stop: CancellationToken,
) -> Result<(), BallotsError> {
    let (mut proposals, mut votes) = (ctx.caches.proposals.changes(), ctx.caches.votes.changes());
    let mut mirrors = Mirrors::new(&ctx);
    loop {
        let now = running.borrow_and_update().clone();
        let mut view = now.as_ref().map(|running| running.view.clone());
        if let (Some(running), Some(watched)) = (&now, &mut view) {
            let shown = watched.borrow_and_update().clone();
            if let Some(shown) = shown {
                mirrors.write(&ctx, running, &shown).await;
                write_statuses(&ctx, &shown).await;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = running.changed() => changed.map_err(|_| BallotsError::Ended)?,
            changed = proposals.changed() => changed.map_err(|_| BallotsError::Ended)?,
            changed = votes.changed() => changed.map_err(|_| BallotsError::Ended)?,
            () = next(&mut view) => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(GATHER) => {}
        }
    }
}

/// Completes when the engine shows something new; an engine that has ended shows nothing new any more.
async fn next(view: &mut Option<watch::Receiver<Option<Arc<CommonsView>>>>) {
    if let Some(view) = view
        && view.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

async fn write_statuses(ctx: &Context, view: &CommonsView) {
    let now = ctx.clock.unix();
    let Some(time) = koinon_api::time::from_unix(now.0) else { return };
    let moment = Moment { now, time, monotonic: ctx.clock.monotonic() };
    let statuses = proposal::statuses(view, &ctx.caches.proposals.all(), &moment);
    projections::write_existing(ctx, &ctx.caches.proposals, statuses).await;
    let statuses = vote::statuses(view, &ctx.caches.votes.all(), &moment);
    projections::write_existing(ctx, &ctx.caches.votes, statuses).await;
}

/// The envelope of an anchored statement, as it was anchored.
pub(crate) fn anchored(commons: &Commons, author: &koinon_core::ids::MemberId, id: StatementId) -> Option<Envelope> {
    let log = commons.state().member(author)?.member.keys.operator;
    // Both branches of a forked log: what a vote in the second one said is shown too, with the reason why it is void.
    let mut entries = commons.replica().all(&log);
    let nested = entries.find_map(|entry| entry.statement.nested().filter(|nested| nested.id() == id))?;
    Some(nested.envelope().clone())
}

/// Makes the mirrors that are missing.
struct Mirrors {
    writer: Writer,
    proposals: Api<Proposal>,
    votes: Api<Vote>,
    refused: BTreeMap<String, Duration>,
    metrics: Metrics,
}

impl Mirrors {
    fn new(ctx: &Context) -> Self {
        Mirrors {
            writer: Writer::new(ctx, "mirrors"),
            proposals: Api::namespaced(ctx.client.clone(), &ctx.namespace),
            votes: Api::namespaced(ctx.client.clone(), &ctx.namespace),
            refused: BTreeMap::new(),
            metrics: ctx.metrics.clone(),
        }
    }

    async fn write(&mut self, ctx: &Context, running: &Running, view: &CommonsView) {
        let caches = &ctx.caches;
        if !caches.proposals.is_synced() || !caches.votes.is_synced() {
            return;
        }
        let now = ctx.clock.monotonic();
        self.refused.retain(|_, until| *until > now);
        for mirror in missing_proposals(ctx, running, view) {
            let api = self.proposals.clone();
            self.create(&api, mirror, now).await;
        }
        for mirror in missing_votes(ctx, running, view) {
            let api = self.votes.clone();
            self.create(&api, mirror, now).await;
        }
    }

    async fn create<K>(&mut self, api: &Api<K>, mut object: K, now: Duration)
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    {
        let name = object.meta().name.clone().unwrap_or_default();
        if self.refused.contains_key(&name) {
            return;
        }
        object.meta_mut().managed_fields = None;
        match self.writer.create(api, &object).await {
            Ok(_) => {}
            // It is there, and the cache does not show it yet.
            Err(error) if error.is_conflict() => {}
            Err(WriteError::NotLeader { .. }) => {}
            Err(error) => {
                self.metrics.commons_failed(CommonsPart::Mirror);
                tracing::warn!(%error, "a mirror of a foreign statement could not be made");
                if error.refusal().is_some() {
                    self.refused.insert(name, now + REFUSED_AGAIN);
                }
            }
        }
    }
}

fn missing_proposals(ctx: &Context, running: &Running, view: &CommonsView) -> Vec<Proposal> {
    let shown: BTreeSet<StatementId> = ctx.caches.proposals.all().iter().filter_map(|p| proposal::id_of(p)).collect();
    let missing = view.state.proposals().keys().filter(|id| !shown.contains(id));
    running.shelf.read(|commons| missing.filter_map(|id| proposal::mirror(commons, *id)).collect())
}

fn missing_votes(ctx: &Context, running: &Running, view: &CommonsView) -> Vec<Vote> {
    let shown: BTreeSet<StatementId> = ctx.caches.votes.all().iter().filter_map(|v| vote::id_of(v)).collect();
    let on_proposals = view.state.proposals().values().flat_map(|p| p.votes.iter().map(|vote| (p.id, vote)));
    let strays = view.state.stray_votes().iter().map(|(on, vote)| (*on, vote));
    let missing = on_proposals.chain(strays).filter(|(_, vote)| !shown.contains(&vote.id));
    running.shelf.read(|commons| missing.filter_map(|(on, record)| vote::mirror(commons, on, record)).collect())
}

#[cfg(test)]
#[path = "ballots_tests.rs"]
mod tests;
