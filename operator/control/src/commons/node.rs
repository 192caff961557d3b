//! The engine on the network: one endpoint, one dialler, one loop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use koinon_core::body::Member;
use koinon_core::body::charter::Parameters;
use koinon_core::ids::{CoopId, MemberId, PublicKey, UnixSeconds};
use koinon_core::invite::Invite;
use koinon_net::client::{Dialler, PeerAddress, PeerEvent, Proxies, Sponsor};
use koinon_net::endpoint::{BindError, PeerEndpoint};
use koinon_net::limits::{Limits, Timing};
use koinon_net::tls::{Alpn, CertUse, IssueError, LeafName, LeafResolver, TlsError, TlsIdentity, issue};
use koinon_net::{PeerService, metrics::NetMetrics};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::candidate::Candidate;
use super::engine::{Controls, Engine};
use super::logs::Author;
use super::reach::{self, Reach};
use super::shelf::Shelf;
use super::view::{CommonsView, Standing};
use crate::peers::PeersSnapshot;

/// News of peers that may wait. Beyond it each peer waits with one more in its hand, and nothing is read from it.
const EVENTS: usize = 64;
/// News that are taken together, with one fold.
const BATCH: usize = 128;
/// How often clocks are looked at when nothing else happens.
const TICK: Duration = Duration::from_secs(1);

/// Why a node could not begin.
#[derive(Debug, Error)]
pub enum NodeError {
    /// No certificate.
    #[error(transparent)]
    Leaf(#[from] IssueError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// A name under which the operator proves itself to peers, renewed while it lives.
#[derive(Debug)]
pub struct PeerName {
    author: Author,
    name: LeafName,
    renew_at: UnixSeconds,
    /// What TLS needs of it.
    pub identity: TlsIdentity,
}

impl PeerName {
    /// A fresh leaf for `member` in `coop`.
    ///
    /// # Errors
    /// When it cannot be made, for instance because the clock is far off.
    pub fn new(author: Author, coop: CoopId) -> Result<Self, NodeError> {
        let name = LeafName { coop, member: author.me.clone(), cert_use: CertUse::Peer };
        let leaf = issue(author.key.as_ref(), &name, author.clock.unix())?;
        let resolver = LeafResolver::with(&leaf)?;
        let clock = author.clock.clone();
        let clock = koinon_net::Clock::from_fn(move || clock.unix());
        let identity = TlsIdentity { resolver, coop, clock };
        Ok(PeerName { author, name, renew_at: leaf.renew_at(), identity })
    }

    /// Renews the leaf at half of its life. A failure is told and tried again; the present leaf stays good meanwhile.
    pub fn renew(&mut self) {
        let now = self.author.clock.unix();
        if now < self.renew_at {
            return;
        }
        let renewed = issue(self.author.key.as_ref(), &self.name, now).map_err(NodeError::from);
        match renewed.and_then(|leaf| Ok((self.identity.resolver.renew(&leaf)?, leaf.renew_at()))) {
            Ok(((), renew_at)) => self.renew_at = renew_at,
            Err(error) => tracing::error!(%error, "the leaf of the peer endpoint could not be renewed"),
        }
    }
}

/// The network side of a node.
pub struct Network {
    name: PeerName,
    service: Arc<PeerService>,
    endpoint: PeerEndpoint,
    dialler: Dialler,
    events: mpsc::Receiver<PeerEvent>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Network {
    /// Listens on `listen` and serves `shelf` there.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn bind(
        listen: SocketAddr,
        name: PeerName,
        shelf: Arc<Shelf>,
        parameters: &Parameters,
        proxies: Proxies,
    ) -> Result<Self, NodeError> {
        let service = PeerService::new(shelf, name.identity.clone(), Limits::default(), timing(parameters));
        let endpoint = PeerEndpoint::bind(listen, service.clone()).await?;
        let (dialler, events) = Dialler::new(service.clone(), proxies, EVENTS);
        Ok(Network { name, service, endpoint, dialler, events })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.endpoint.local_addr().ok()
    }

    /// What is counted of each connection.
    #[must_use]
    pub fn metrics(&self) -> Arc<NetMetrics> {
        self.service.metrics()
    }
}

/// What an engine is told while it runs.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// What people have applied.
    pub people: watch::Receiver<Arc<Vec<Candidate>>>,
    /// What the owner says.
    pub controls: watch::Receiver<Controls>,
}

/// What an engine tells.
#[derive(Debug)]
pub struct Outputs {
    /// The commons.
    pub view: watch::Sender<Option<Arc<CommonsView>>>,
    /// What is heard.
    pub peers: watch::Sender<Arc<PeersSnapshot>>,
    /// Who reaches this member.
    pub reach: watch::Sender<Arc<Reach>>,
}

/// Runs an engine until `stop`.
pub async fn run(
    mut engine: Engine,
    network: Network,
    invite: Option<Invite>,
    mut inputs: Inputs,
    outputs: Outputs,
    stop: CancellationToken,
) {
    let Network { mut name, service: _service, endpoint, dialler, mut events } = network;
    let endpoint_stop = stop.child_token();
    let serving = tokio::spawn(endpoint.run(endpoint_stop.clone()));
    let _stop_serving = endpoint_stop.drop_guard();
    let Outputs { view: view_out, peers: peers_out, reach } = outputs;
    let reaching = AbortOnDropHandle::new(tokio::spawn(reach::watch(dialler.clone(), view_out.subscribe(), reach)));
    let mut wanted = BTreeMap::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(event) = events.recv() => {
                let mut batch = vec![event];
                while batch.len() < BATCH && let Ok(event) = events.try_recv() {
                    batch.push(event);
                }
                engine.hear(batch);
            }
            Ok(()) = inputs.people.changed() => {}
            Ok(()) = inputs.controls.changed() => {}
            _ = tick.tick() => {}
        }
        // Both, whatever woke us: a vote must not be anchored because it was seen before the word to stop.
        engine.set_controls(inputs.controls.borrow_and_update().clone());
        engine.set_people(inputs.people.borrow_and_update().clone());
        name.renew();
        engine.turn().await;
        let view = engine.view();
        let now_wanted = peers_of(&view, invite.as_ref());
        if now_wanted != wanted {
            dialler.set_peers(now_wanted.clone());
            // A member that is new here had entries that nobody took before it was one.
            now_wanted.keys().for_each(|key| dialler.resync(key));
            wanted = now_wanted;
        }
        peers_out.send_if_modified(|current| replace(current, engine.peers()));
        view_out.send_if_modified(|current| {
            let differs = current.as_deref() != Some(&view);
            if differs {
                *current = Some(Arc::new(view));
            }
            differs
        });
    }
    // It holds the sessions too.
    reaching.abort();
    let _ = reaching.await;
    drop(dialler);
    // Peers are told goodbye, so that they look for the next leader at once.
    let _ = serving.await;
}

fn replace<T: PartialEq>(current: &mut Arc<T>, next: T) -> bool {
    let differs = **current != next;
    if differs {
        *current = Arc::new(next);
    }
    differs
}

/// Whom to read from: the sponsor alone until the admission, all other members afterwards.
fn peers_of(view: &CommonsView, invite: Option<&Invite>) -> BTreeMap<PublicKey, PeerAddress> {
    match (&view.standing, invite) {
        (Standing::Applicant | Standing::Truncated(_), Some(invite)) => sponsor(invite).as_peer(),
        _ => {
            let others = view.state.present().filter(|member| member.id != view.me);
            let address = |member: &Member| PeerAddress {
                endpoints: member.endpoints.peer.clone(),
                gateways: member.endpoints.gateway.clone(),
                protocol: Alpn::Peer,
            };
            others.map(|member| (member.keys.operator, address(member))).collect()
        }
    }
}

/// The sponsor that an invite names.
#[must_use]
pub fn sponsor(invite: &Invite) -> Sponsor {
    Sponsor { endpoints: invite.endpoints.clone(), key: invite.operator_key }
}

/// Rhythms that fit the charter's: a stream that is silent for longer than a member may be is not worth keeping, and the
/// wait before dialling again must not be what makes a member Suspect.
#[must_use]
pub fn timing(parameters: &Parameters) -> Timing {
    let seconds =
        |count: i64, least: u64, most: u64| Duration::from_secs(u64::try_from(count).unwrap_or(0).clamp(least, most));
    let ping = seconds(parameters.beacon_seconds.0 / 2, 1, 5);
    Timing {
        ping,
        silence: (ping * 3).max(Duration::from_secs(5)),
        backoff_max: seconds(parameters.fresh_seconds.0 / 3, 1, 10),
        ..Timing::default()
    }
}

/// The members among `view` whose connection is open, for the metrics.
#[must_use]
pub fn is_member(view: &CommonsView, key: &PublicKey) -> Option<MemberId> {
    view.state.member_by_operator(key).map(|member| member.member.id.clone())
}
