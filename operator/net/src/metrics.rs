//! Counters and gauges, to be read by whoever exports them.
//!
//! Nothing here knows Prometheus: `control` copies a [`NetSnapshot`] into its registry when it is scraped. Peers are
//! few and known, so they may be labels; unknown keys are only counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use koinon_core::ids::{PublicKey, UnixSeconds};

use crate::limits::LimitKind;

/// Why a connection to the endpoint came to nothing before its first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HandshakeFailure {
    /// What came was no TLS 1.3 with one of our protocols, or it broke off.
    Protocol,
    /// It took too long.
    Timeout,
    /// The certificate was refused.
    Certificate,
    /// Newer connections needed its place.
    PushedOut,
    /// The key is not known.
    UnknownKey,
}

impl HandshakeFailure {
    /// Every failure, in the order of its counters.
    pub const ALL: [HandshakeFailure; 5] = [
        HandshakeFailure::Protocol,
        HandshakeFailure::Timeout,
        HandshakeFailure::Certificate,
        HandshakeFailure::PushedOut,
        HandshakeFailure::UnknownKey,
    ];

    /// The name in labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            HandshakeFailure::Protocol => "protocol",
            HandshakeFailure::Timeout => "timeout",
            HandshakeFailure::Certificate => "certificate",
            HandshakeFailure::PushedOut => "pushed_out",
            HandshakeFailure::UnknownKey => "unknown_key",
        }
    }
}

/// What is known about one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerSnapshot {
    /// Whether a session that reads from it is up.
    pub up: bool,
    /// When the last line came from it.
    pub last_seen: Option<UnixSeconds>,
    /// Sessions that came up since the start.
    pub sessions: u64,
    /// Bytes read from it.
    pub bytes_read: u64,
    /// Log entries that it delivered and that were new here.
    pub entries: u64,
    /// Log entries that it delivered and that were here already.
    pub duplicates: u64,
    /// Statements that it delivered and that do not hold.
    pub refused: u64,
    /// Latest statements that it delivered.
    pub latest: u64,
    /// Connections of its key to the endpoint, now.
    pub connections: u64,
    /// Streams that it reads here, now.
    pub streams: u64,
}

/// All numbers at one moment.
#[derive(Debug, Clone, Default)]
pub struct NetSnapshot {
    /// By operator key; only keys that are or were known.
    pub peers: BTreeMap<PublicKey, PeerSnapshot>,
    /// Limits that were met here, by limit.
    pub limits: BTreeMap<&'static str, u64>,
    /// Connections that came to nothing, by reason.
    pub handshake_failures: BTreeMap<&'static str, u64>,
    /// Requests that were answered.
    pub requests: u64,
    /// Bytes of bodies that were sent.
    pub bytes_served: u64,
}

/// The counters of one node, shared by its endpoint and its dialler.
#[derive(Debug, Default)]
pub struct NetMetrics {
    peers: Mutex<BTreeMap<PublicKey, PeerSnapshot>>,
    limits: [AtomicU64; LimitKind::ALL.len()],
    failures: [AtomicU64; HandshakeFailure::ALL.len()],
    requests: AtomicU64,
    bytes_served: AtomicU64,
}

impl NetMetrics {
    /// All numbers now.
    #[must_use]
    pub fn snapshot(&self) -> NetSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NetSnapshot {
            peers: self.lock().clone(),
            limits: LimitKind::ALL.iter().zip(&self.limits).map(|(kind, n)| (kind.as_str(), load(n))).collect(),
            handshake_failures: HandshakeFailure::ALL
                .iter()
                .zip(&self.failures)
                .map(|(kind, n)| (kind.as_str(), load(n)))
                .collect(),
            requests: load(&self.requests),
            bytes_served: load(&self.bytes_served),
        }
    }

    /// Forgets what is no longer a peer, so that the labels stay as few as the peers.
    pub fn retain_peers(&self, keep: impl Fn(&PublicKey) -> bool) {
        self.lock().retain(|key, peer| keep(key) || peer.connections > 0 || peer.up);
    }

    pub(crate) fn limit(&self, kind: LimitKind) {
        if let Some(index) = LimitKind::ALL.iter().position(|known| *known == kind) {
            self.limits[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn failure(&self, kind: HandshakeFailure) {
        if let Some(index) = HandshakeFailure::ALL.iter().position(|known| *known == kind) {
            self.failures[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn served(&self, bytes: usize) {
        self.bytes_served.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn peer(&self, key: &PublicKey, change: impl FnOnce(&mut PeerSnapshot)) {
        change(self.lock().entry(*key).or_default());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<PublicKey, PeerSnapshot>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
