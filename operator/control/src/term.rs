//! What the replica that leads does, from getting the lease to losing it.

use std::sync::Arc;
use std::time::Duration;

use koinon_telemetry::{TaskError, Tasks};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::commons;
use crate::context::{Context, CooperativeView};
use crate::kinds::apikeys;
use crate::leader_label;
use crate::peers::PeersSnapshot;
use crate::placement::{self, PlacementMetrics};

/// How long a term may take to end by itself when the process stops. The lease is still held meanwhile.
const GRACE: Duration = Duration::from_secs(12);

/// What a term tells the rest of the process.
#[derive(Debug)]
pub struct Outputs {
    /// What this cluster belongs to.
    pub cooperative: watch::Sender<Option<Arc<CooperativeView>>>,
    /// What is heard.
    pub peers: watch::Sender<Arc<PeersSnapshot>>,
    /// Registered once, used by every term.
    pub placement: PlacementMetrics,
}

/// Leads whenever the lease is held, until `stop`.
///
/// # Errors
/// When a part of a term fails; losing the lease is no failure.
pub async fn lead(context: Context, outputs: Outputs, stop: CancellationToken) -> Result<(), TaskError> {
    let outputs = Arc::new(outputs);
    let mut lease = context.lease.clone();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = lease.acquired() => {}
        }
        context.metrics.leader.set(1);
        context.metrics.leader_terms.inc();
        let end = stop.child_token();
        let mut lost = context.lease.clone();
        let ended = tokio::select! {
            ended = term(&context, &outputs, end) => Some(ended),
            // The term is dropped here and now: what it had in flight is given up by the lease's fence anyway.
            () = lost.lost() => None,
        };
        context.metrics.leader.set(0);
        forget(&context, &outputs);
        match ended {
            Some(ended) => return ended,
            None => tracing::warn!("the term ended with the lease"),
        }
    }
}

async fn term(context: &Context, outputs: &Arc<Outputs>, end: CancellationToken) -> Result<(), TaskError> {
    let mut tasks = Tasks::new();
    let (ctx, out, until) = (context.clone(), outputs.clone(), end.clone());
    tasks.spawn("commons", commons::run(ctx, out.cooperative.clone(), out.peers.clone(), until));
    let (ctx, metrics, until) = (context.clone(), outputs.placement.clone(), end.clone());
    tasks.spawn("placement", async move { placement::run(ctx, metrics, until).await });
    // Of no cooperative: applications may call what runs here whatever becomes of the membership.
    tasks.spawn("API keys", apikeys::run(context.clone(), end.clone()));
    tasks.spawn("leader label", leader_label::run(context.clone(), end.clone()));
    tasks.run(end, GRACE).await
}

/// Another replica may lead now: what this one knew is no longer news, and what it said is no longer served.
fn forget(context: &Context, outputs: &Outputs) {
    context.metrics.requests.forget_watches();
    context.publisher.clear();
    context.publisher.bind(None);
    outputs.cooperative.send_replace(None);
    outputs.peers.send_replace(Arc::default());
    context.beliefs.send_replace(Arc::default());
}
