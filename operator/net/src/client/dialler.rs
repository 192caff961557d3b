//! Keeping a session with every peer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use koinon_core::dsse::Envelope;
use koinon_core::ids::{PublicKey, Seq, StatementId};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::dial::{Proxies, dial};
use super::error::{DialError, SessionError};
use super::reverse;
use super::session::Session;
use super::transport::Transport;
use super::{News, PeerAddress, PeerEvent};
use crate::limits::Timing;
use crate::service::PeerService;
use crate::tls::Alpn;
use crate::wire::DialledBack;

/// Reads from every peer that it is given, over connections that it dials or that peers have opened.
///
/// Clones share the peers. Dropping the last one ends all sessions.
#[derive(Clone)]
pub struct Dialler {
    inner: Arc<Inner>,
}

struct Inner {
    service: Arc<PeerService>,
    proxies: Proxies,
    events: mpsc::Sender<PeerEvent>,
    peers: Mutex<BTreeMap<PublicKey, Peer>>,
}

/// One peer's task as the dialler sees it.
struct Peer {
    address: watch::Sender<PeerAddress>,
    resync: Arc<Notify>,
    drop_session: Arc<Notify>,
    transport: watch::Receiver<Option<Transport>>,
    _stop: DropGuard,
}

impl Dialler {
    /// A dialler without peers, and where its peers' news come out. `capacity` is how many may wait there; each peer has
    /// at most one more in hand, and then is read no further.
    #[must_use]
    pub fn new(service: Arc<PeerService>, proxies: Proxies, capacity: usize) -> (Self, mpsc::Receiver<PeerEvent>) {
        let (events, receiver) = mpsc::channel(capacity.max(1));
        service.addresses.use_proxies(proxies.clone());
        (Dialler { inner: Arc::new(Inner { service, proxies, events, peers: Mutex::default() }) }, receiver)
    }

    /// Reads from exactly these peers from now on. Sessions with others end; those that stay keep theirs, unless the
    /// protocol has changed. The own key is skipped.
    ///
    /// Must be called inside a tokio runtime.
    pub fn set_peers(&self, wanted: BTreeMap<PublicKey, PeerAddress>) {
        let own = self.inner.service.own_key();
        self.inner.service.addresses.replace(&wanted);
        let mut peers = self.lock();
        peers.retain(|key, peer| {
            let stays = wanted.get(key).is_some_and(|wanted| wanted.protocol == peer.address.borrow().protocol);
            if !stays {
                self.inner.service.metrics.peer(key, |peer| peer.up = false);
            }
            stays
        });
        for (key, address) in wanted {
            if Some(key) == own {
                continue;
            }
            match peers.get(&key) {
                Some(peer) => {
                    peer.address.send_if_modified(|current| {
                        let differs = *current != address;
                        *current = address;
                        differs
                    });
                }
                None => {
                    peers.insert(key, self.start(key, address));
                }
            }
        }
        self.inner.service.metrics.retain_peers(|key| peers.contains_key(key));
    }

    fn start(&self, key: PublicKey, address: PeerAddress) -> Peer {
        let stop = CancellationToken::new();
        let (address_sender, address) = watch::channel(address);
        let (transport_sender, transport) = watch::channel(None);
        let (resync, drop_session) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let task = Task {
            key,
            service: self.inner.service.clone(),
            proxies: self.inner.proxies.clone(),
            events: self.inner.events.clone(),
            address,
            transport: transport_sender,
            resync: resync.clone(),
            drop_session: drop_session.clone(),
            stop: stop.clone(),
        };
        tokio::spawn(async move {
            let stopped = task.stop.clone();
            tokio::select! {
                () = task.run() => {}
                () = stopped.cancelled() => {}
            }
        });
        Peer { address: address_sender, resync, drop_session, transport, _stop: stop.drop_guard() }
    }

    /// Asks the peer for everything from our present heads on, again.
    pub fn resync(&self, key: &PublicKey) {
        if let Some(peer) = self.lock().get(key) {
            peer.resync.notify_one();
        }
    }

    /// Ends the present session with the peer; the next one comes after the usual wait.
    pub fn drop_session(&self, key: &PublicKey) {
        if let Some(peer) = self.lock().get(key) {
            peer.drop_session.notify_one();
        }
    }

    /// The peers that are being read at this moment.
    #[must_use]
    pub fn up(&self) -> Vec<PublicKey> {
        self.transports().into_iter().map(|(key, _)| key).collect()
    }

    /// Fetches a document from whichever peer has it. The envelope is the one asked for; its signatures are the
    /// caller's to verify.
    ///
    /// # Errors
    /// The last peer's error, if some peer could not be asked and no other had the document.
    pub async fn document(&self, id: &StatementId) -> Result<Option<Envelope>, SessionError> {
        let service = &self.inner.service;
        let mut failed = None;
        for (_, transport) in self.transports() {
            match transport.document(id, &service.limits, &service.timing).await {
                // A peer that answers with something else has it not.
                Ok(Some(envelope)) if envelope.payload_digest().is_ok_and(|digest| digest == id.0) => {
                    return Ok(Some(envelope));
                }
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// Entries of `log` from one peer, unverified.
    ///
    /// # Errors
    /// When the peer is not up, or does not answer.
    pub async fn range(
        &self,
        peer: &PublicKey,
        log: &PublicKey,
        from: Seq,
        limit: usize,
    ) -> Result<Vec<Envelope>, SessionError> {
        let service = &self.inner.service;
        let transport = self.lock().get(peer).and_then(|peer| peer.transport.borrow().clone());
        let transport =
            transport.ok_or_else(|| SessionError::Broken("there is no session with this peer".to_owned()))?;
        transport.range(log, from, limit, &service.limits, &service.timing).await
    }

    /// Asks `peer` whether it reaches this node at the endpoints that the membership names.
    ///
    /// # Errors
    /// When the peer is not up, or does not answer.
    pub async fn dial_back(&self, peer: &PublicKey) -> Result<Vec<DialledBack>, SessionError> {
        let service = &self.inner.service;
        self.transport(peer)?.dial_back(&service.limits, &service.timing).await
    }

    fn transport(&self, peer: &PublicKey) -> Result<Transport, SessionError> {
        let transport = self.lock().get(peer).and_then(|peer| peer.transport.borrow().clone());
        transport.ok_or_else(|| SessionError::Broken("there is no session with this peer".to_owned()))
    }

    fn transports(&self) -> Vec<(PublicKey, Transport)> {
        let peers = self.lock();
        peers.iter().filter_map(|(key, peer)| Some((*key, peer.transport.borrow().clone()?))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PublicKey, Peer>> {
        self.inner.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a session with one peer.
struct Task {
    key: PublicKey,
    service: Arc<PeerService>,
    proxies: Proxies,
    events: mpsc::Sender<PeerEvent>,
    address: watch::Receiver<PeerAddress>,
    transport: watch::Sender<Option<Transport>>,
    resync: Arc<Notify>,
    drop_session: Arc<Notify>,
    stop: CancellationToken,
}

impl Task {
    async fn run(mut self) {
        let mut backoff = Backoff::new(&self.service.timing);
        let mut told: Option<&'static str> = None;
        loop {
            let (reason, was_up) = match self.obtain(&mut backoff).await {
                Ok(transport) => self.read(transport, &mut backoff).await,
                Err(error) => (error, false),
            };
            if was_up || told != Some(reason.category()) {
                told = Some(reason.category());
                tracing::info!(peer = %self.key, category = reason.category(), "a peer is not read: {}", super::one_line(&reason));
                let news = News::Down { reason: Arc::new(reason) };
                if self.events.send(PeerEvent { from: self.key, news }).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Reads over `transport`; the end says why, and whether the peer was heard.
    async fn read(&mut self, transport: Dialled, backoff: &mut Backoff) -> (SessionError, bool) {
        let began = Instant::now();
        let Dialled { transport, ours } = transport;
        let ended = CancellationToken::new();
        let _end_of_reverse = ended.clone().drop_guard();
        if ours && self.address.borrow().protocol == Alpn::Peer {
            tokio::spawn(reverse::offer(self.service.clone(), transport.clone(), ended));
        }
        let mut session = Session {
            service: self.service.clone(),
            transport: transport.clone(),
            events: self.events.clone(),
            resync: self.resync.clone(),
            up: false,
        };
        self.transport.send_replace(Some(transport.clone()));
        let reason = tokio::select! {
            // First, because the peer's last word and the end of the connection may arrive together.
            biased;
            reason = session.run() => reason,
            reason = transport.closed() => reason,
            () = self.drop_session.notified() => SessionError::Dropped("the operator asked for it".to_owned()),
        };
        self.transport.send_replace(None);
        self.service.metrics.peer(&self.key, |peer| peer.up = false);
        transport.close();
        self.service.reverse.clear_closed(&self.key);
        // A session that lasted is no reason to wait; one that was ended at once is, whatever it said.
        if session.up && began.elapsed() >= backoff.reset_after {
            backoff.reset();
        } else {
            backoff.failed();
        }
        (reason, session.up)
    }

    /// A connection to read on: one that the peer has opened, if there is one, else our own.
    async fn obtain(&mut self, backoff: &mut Backoff) -> Result<Dialled, SessionError> {
        let mut slot = self.service.reverse.subscribe(&self.key);
        loop {
            self.service.reverse.clear_closed(&self.key);
            if let Some(transport) = slot.borrow_and_update().clone() {
                return Ok(Dialled { transport, ours: false });
            }
            let address = self.address.borrow_and_update().clone();
            tokio::select! {
                changed = slot.changed() => if changed.is_err() {
                    return Err(SessionError::Dropped("the node stops".to_owned()));
                },
                changed = self.address.changed() => {
                    if changed.is_err() {
                        return Err(SessionError::Dropped("the node stops".to_owned()));
                    }
                    backoff.reset();
                }
                () = backoff.wait() => {
                    if address.endpoints.is_empty() {
                        // Only the peer can open a connection; this is asked again because it may come any time.
                        backoff.slow();
                        return Err(DialError::NoEndpoint.into());
                    }
                    return self.dial(&address, backoff).await;
                }
            }
        }
    }

    async fn dial(&self, address: &PeerAddress, backoff: &mut Backoff) -> Result<Dialled, SessionError> {
        let mut last = DialError::NoEndpoint;
        let PeerService { identity, timing, limits, .. } = &*self.service;
        for endpoint in &address.endpoints {
            match dial(endpoint, self.key, address.protocol, identity, &self.proxies, timing).await {
                Ok((tls, peer)) => match Transport::over(TokioIo::new(tls), peer, limits, timing).await {
                    Ok(transport) => return Ok(Dialled { transport, ours: true }),
                    Err(error) => {
                        backoff.failed();
                        return Err(error);
                    }
                },
                Err(error) => last = error,
            }
        }
        backoff.failed();
        Err(last.into())
    }
}

/// A connection to read on.
struct Dialled {
    transport: Transport,
    /// Whether this side dialled it.
    ours: bool,
}

/// Ever longer waits with a random part, so that members which lost each other do not come back in step.
struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    until: Instant,
    reset_after: Duration,
}

impl Backoff {
    fn new(timing: &Timing) -> Self {
        Backoff {
            min: timing.backoff_min,
            max: timing.backoff_max,
            next: timing.backoff_min,
            until: Instant::now(),
            reset_after: timing.backoff_max,
        }
    }

    /// Waits until it is time to dial; may be dropped and called again.
    async fn wait(&self) {
        tokio::time::sleep_until(self.until).await;
    }

    fn reset(&mut self) {
        self.next = self.min;
        self.until = Instant::now();
    }

    fn failed(&mut self) {
        self.until = Instant::now() + jittered(self.next);
        self.next = (self.next * 2).min(self.max);
    }

    fn slow(&mut self) {
        self.until = Instant::now() + self.max;
    }
}

/// Between half of `whole` and all of it.
fn jittered(whole: Duration) -> Duration {
    let mut random = [0_u8; 2];
    // Without randomness members come back in step, which costs a little and breaks nothing.
    let _ = getrandom::fill(&mut random);
    let half = whole / 2;
    half + half * u32::from(u16::from_le_bytes(random)) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_their_bound_and_never_fall_below_half_of_it() {
        let mut backoff = Backoff::new(&Timing::default());
        let mut waits = Vec::new();
        for _ in 0..8 {
            backoff.failed();
            waits.push(backoff.until - Instant::now());
        }
        assert!(waits[0] >= Duration::from_millis(250) && waits[0] <= Duration::from_millis(500), "{waits:?}");
        assert!(waits[7] >= Duration::from_secs(5) && waits[7] <= Duration::from_secs(10), "{waits:?}");
        backoff.reset();
        assert_eq!(backoff.until, Instant::now());
    }
}
