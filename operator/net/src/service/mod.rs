//! Serving the commons over a connection, whoever dialled it.

mod answer;
mod connection;
mod routes;
mod stream;
mod table;

use std::sync::{Arc, Mutex};

use koinon_core::ids::PublicKey;

use crate::client::dial_back::Addresses;
use crate::client::reverse::ReverseSlots;
use crate::clock::Clock;
use crate::commons::Commons;
use crate::limits::{LimitKind, Limits, Timing, TokenBucket};
use crate::metrics::NetMetrics;
use crate::tls::{Leaf, PeerIdentity, TlsError, TlsIdentity};

pub(crate) use connection::{Role, serve};
pub(crate) use table::ConnectionTable;

/// One node of the peer network: what it offers, under which identity, within which limits.
///
/// Shared by the [`PeerEndpoint`](crate::endpoint::PeerEndpoint), which accepts connections, and the
/// [`Dialler`](crate::client::Dialler), which makes them.
pub struct PeerService {
    pub(crate) commons: Arc<dyn Commons>,
    pub(crate) identity: TlsIdentity,
    pub(crate) limits: Limits,
    pub(crate) timing: Timing,
    pub(crate) metrics: Arc<NetMetrics>,
    pub(crate) table: ConnectionTable,
    pub(crate) reverse: ReverseSlots,
    pub(crate) addresses: Addresses,
    joins: Mutex<TokenBucket>,
}

impl PeerService {
    /// A node that offers `commons` under `identity`.
    pub fn new(commons: Arc<dyn Commons>, identity: TlsIdentity, limits: Limits, timing: Timing) -> Arc<Self> {
        Arc::new(PeerService {
            joins: Mutex::new(TokenBucket::per_minute(limits.joins_per_minute)),
            commons,
            identity,
            limits,
            timing,
            metrics: Arc::default(),
            table: ConnectionTable::default(),
            reverse: ReverseSlots::default(),
            addresses: Addresses::default(),
        })
    }

    /// The counters of this node.
    #[must_use]
    pub fn metrics(&self) -> Arc<NetMetrics> {
        self.metrics.clone()
    }

    /// Presents `leaf` in every handshake from now on.
    ///
    /// # Errors
    /// When its private key does not belong to it; the previous leaf stays.
    pub fn renew(&self, leaf: &Leaf) -> Result<(), TlsError> {
        self.identity.resolver.renew(leaf)
    }

    /// The present leaf's identity; absent before the first leaf.
    #[must_use]
    pub fn identity(&self) -> Option<PeerIdentity> {
        self.identity.resolver.identity()
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.identity.clock
    }

    /// The own operator key, as the current leaf has it.
    pub(crate) fn own_key(&self) -> Option<PublicKey> {
        self.identity.resolver.identity().map(|identity| identity.key)
    }

    pub(crate) fn limited(&self, limit: LimitKind, allowed: u64, seen: u64) -> crate::limits::LimitExceeded {
        self.metrics.limit(limit);
        crate::limits::LimitExceeded { limit, allowed, seen }
    }
}
