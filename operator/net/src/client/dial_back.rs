//! Telling a member whether it can be reached: only somebody else can see that.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use futures::future::join_all;
use koinon_core::ids::{Endpoint, PublicKey};
use tokio::time::timeout;

use super::PeerAddress;
use super::dial::{Proxies, dial};
use super::error::one_line;
use crate::service::PeerService;
use crate::tls::Alpn;
use crate::wire::{DialBackMessage, DialledBack};

/// Endpoints of one member that are dialled back, and as many of its gateway.
pub(super) const MAX_ENDPOINTS: usize = 4;

/// Where each peer is dialled, for those who ask to be dialled back.
#[derive(Default)]
pub(crate) struct Addresses {
    proxies: OnceLock<Proxies>,
    peers: Mutex<BTreeMap<PublicKey, PeerAddress>>,
}

impl Addresses {
    pub(super) fn use_proxies(&self, proxies: Proxies) {
        let _ = self.proxies.set(proxies);
    }

    pub(super) fn replace(&self, peers: &BTreeMap<PublicKey, PeerAddress>) {
        *self.peers.lock().unwrap_or_else(PoisonError::into_inner) = peers.clone();
    }

    /// Dials every endpoint of `key` at once, as far as TLS, and hangs up.
    pub(crate) async fn dial_back(&self, service: &PeerService, key: PublicKey) -> DialBackMessage {
        let known = self.peers.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let (endpoints, gateways) = known.map(|known| (known.endpoints, known.gateways)).unwrap_or_default();
        let proxies = self.proxies.get().cloned().unwrap_or_else(Proxies::none);
        // The asking side waits for `answer`; what takes longer than most of it would not be heard any more.
        let patience = service.timing.answer * 3 / 4;
        let dial_one = |(endpoint, protocol): (Endpoint, Alpn)| {
            let proxies = &proxies;
            async move {
                let dialled = dial(&endpoint, key, protocol, &service.identity, proxies, &service.timing);
                let error = match timeout(patience, dialled).await {
                    Ok(Ok(_)) => None,
                    Ok(Err(error)) => Some(one_line(&error)),
                    Err(_) => Some(format!("no answer within {} ms", patience.as_millis())),
                };
                DialledBack { endpoint, error }
            }
        };
        let endpoints = endpoints.into_iter().take(MAX_ENDPOINTS).map(|endpoint| (endpoint, Alpn::Peer));
        let gateways = gateways.into_iter().take(MAX_ENDPOINTS).map(|gateway| (gateway, Alpn::Http2));
        let dialled = join_all(endpoints.chain(gateways).map(dial_one)).await;
        DialBackMessage { dialled }
    }
}
