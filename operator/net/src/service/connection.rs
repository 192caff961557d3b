//! One connection that is being served, from its first request to its goodbye.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::rt::{Read, Write};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use koinon_core::ids::PublicKey;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::PeerService;
use super::routes;
use super::table::{Ending, Place};
use crate::commons::Access;
use crate::limits::{LimitKind, Limits, Timing};
use crate::metrics::{HandshakeFailure, NetMetrics};
use crate::tls::{Alpn, PeerIdentity};
use crate::wire::Bye;

/// How the connection came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The peer dialled the endpoint.
    Accepted(Alpn),
    /// This node dialled, and the peer asks back.
    Reversed,
}

/// A connection as its requests see it.
pub(super) struct Connection {
    pub(super) service: Arc<PeerService>,
    pub(super) peer: PeerIdentity,
    pub(super) role: Role,
    pub(super) access: Access,
    pub(super) ending: Arc<Ending>,
    activity: Activity,
    turned: AtomicBool,
}

impl Connection {
    /// Whether the key may still read what it could when it connected.
    pub(super) fn still_allowed(&self) -> bool {
        access_over(self.role, self.service.commons.access(&self.peer.key)) == self.access
    }

    /// Hears when and why this connection ends.
    pub(super) fn ending(&self) -> watch::Receiver<Option<Bye>> {
        self.ending.subscribe()
    }

    /// Marks a request in progress until the guard is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.activity.running.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Marks this connection as one on which we ask back, until the guard is dropped; `None` if it is one already.
    pub(super) fn turn(self: &Arc<Self>) -> Option<Turned> {
        let first = !self.turned.swap(true, Ordering::Relaxed);
        first.then(|| Turned { connection: self.clone(), _busy: self.busy() })
    }

    fn idle_for(&self) -> Duration {
        if self.activity.running.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        self.activity.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// Completes when the connection is told to end.
pub(super) async fn told(ending: &mut watch::Receiver<Option<Bye>>) -> Bye {
    let bye = ending.wait_for(Option::is_some).await.ok().and_then(|bye| bye.clone());
    bye.unwrap_or(Bye::Stopping)
}

struct Activity {
    running: AtomicUsize,
    last: Mutex<Instant>,
}

/// A request in progress on a connection.
pub(super) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.activity.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.activity.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream on which we ask back.
pub(super) struct Turned {
    connection: Arc<Connection>,
    _busy: Busy,
}

impl Drop for Turned {
    fn drop(&mut self) {
        self.connection.turned.store(false, Ordering::Relaxed);
    }
}

/// What a key may read over a connection of this role: the joining protocol never serves more than the commons.
fn access_over(role: Role, access: Access) -> Access {
    match (role, access) {
        (Role::Accepted(Alpn::Join), Access::Member(_)) => Access::Applicant,
        (_, access) => access,
    }
}

/// Serves one connection until it ends, the peer loses or gains access, a leaf expires, or `stop` is cancelled.
///
/// `place_in_lobby` is what the connection occupies among those that are not known yet; it is given back as soon as the
/// key turns out to be a known one.
pub(crate) async fn serve<I, L>(
    service: Arc<PeerService>,
    io: I,
    peer: PeerIdentity,
    role: Role,
    stop: CancellationToken,
    place_in_lobby: L,
) where
    I: Read + Write + Unpin + Send + 'static,
{
    // Subscribed before access is read, so that no change falls between the two.
    let mut changes = service.commons.changes();
    changes.mark_unchanged();
    let access = access_over(role, service.commons.access(&peer.key));
    let stranger = access == Access::Unknown;
    let ending = Arc::new(Ending::new(None));
    let key = peer.key;
    let mut place_in_table: Option<Place> = None;
    let place_in_lobby = stranger.then_some(place_in_lobby);
    let counted = (!stranger).then(|| Counted::new(service.metrics.clone(), key));
    match role {
        // Over the joining protocol strangers are what is expected.
        Role::Accepted(Alpn::Peer) if stranger => service.metrics.failure(HandshakeFailure::UnknownKey),
        Role::Accepted(_) if !stranger => {
            service.table.prune(|key| service.commons.access(key) != Access::Unknown);
            place_in_table = Some(service.table.enter(&key, &service.limits, ending.clone()));
        }
        Role::Accepted(_) | Role::Reversed => {}
    }
    let opened = Instant::now();
    let connection = Arc::new(Connection {
        peer,
        role,
        access,
        ending: ending.clone(),
        activity: Activity { running: AtomicUsize::new(0), last: Mutex::new(opened) },
        turned: AtomicBool::new(false),
        service: service.clone(),
    });

    let answering = connection.clone();
    let requests = service_fn(move |request| routes::answer(answering.clone(), request));
    let mut http = pin!(builder(&service.limits, &service.timing, stranger).serve_connection(io, requests));
    let mut ended = ending.subscribe();
    let timing = &service.timing;
    let mut tick = tokio::time::interval((timing.idle / 4).clamp(Duration::from_millis(50), Duration::from_secs(5)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stranger_leaves =
        opened + timing.unknown + if role == Role::Accepted(Alpn::Join) { timing.answer } else { Duration::ZERO };

    let why = loop {
        tokio::select! {
            // Errors of a connection are the peer's business: it broke off, or spoke no HTTP/2.
            _ = &mut http => break None,
            bye = told(&mut ended) => break Some(bye),
            () = stop.cancelled() => break Some(Bye::Stopping),
            () = tokio::time::sleep_until(stranger_leaves), if stranger => {
                break Some(Bye::Limit(service.limited(LimitKind::IdleSeconds, timing.unknown.as_secs(), opened.elapsed().as_secs())));
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    break Some(Bye::Stopping);
                }
                if !connection.still_allowed() {
                    break Some(Bye::AccessChanged);
                }
            }
            _ = tick.tick() => {
                if service.clock().now() >= connection.peer.not_after {
                    break Some(Bye::LeafExpired);
                }
                let idle = connection.idle_for();
                // A turned connection waits for questions as long as the connection around it lives.
                if idle >= timing.idle && role != Role::Reversed {
                    break Some(Bye::Limit(service.limited(LimitKind::IdleSeconds, timing.idle.as_secs(), idle.as_secs())));
                }
            }
        }
    };
    if let Some(why) = why {
        tracing::debug!(peer = %key, reason = %why, "ending a connection");
        ending.send_if_modified(|told| {
            let first = told.is_none();
            if first {
                *told = Some(why);
            }
            first
        });
        http.as_mut().graceful_shutdown();
        // The application that is being judged may be what changed the access; its answer must still get out.
        let goodbye = if role == Role::Accepted(Alpn::Join) { timing.answer } else { timing.goodbye };
        let _ = tokio::time::timeout(goodbye, http).await;
    }
    drop((place_in_lobby, place_in_table, counted));
}

/// A connection in the counters, until it is dropped.
struct Counted {
    metrics: Arc<NetMetrics>,
    key: PublicKey,
}

impl Counted {
    fn new(metrics: Arc<NetMetrics>, key: PublicKey) -> Self {
        metrics.peer(&key, |peer| peer.connections += 1);
        Counted { metrics, key }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.peer(&self.key, |peer| peer.connections = peer.connections.saturating_sub(1));
    }
}

fn builder(limits: &Limits, timing: &Timing, stranger: bool) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_bytes)
        // What a peer can make us hold: one window for each stream, one for all of them together. A crowd of strangers
        // may come at once, and needs room for one application each.
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(if stranger { 64 * 1024 } else { 256 * 1024 })
        .max_send_buf_size(64 * 1024)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(100)
        .keep_alive_interval(timing.ping)
        .keep_alive_timeout(timing.silence);
    builder
}
