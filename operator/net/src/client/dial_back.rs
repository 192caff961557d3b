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

/// Endpoints of one member that are dialled back.
pub(super) const MAX_ENDPOINTS: usize = 4;

/// Where each peer is dialled, for those who ask to be dialled back.
#[derive(Default)]
pub(crate) struct Addresses {
    proxies: OnceLock<Proxies>,
    peers: Mutex<BTreeMap<PublicKey, Vec<Endpoint>>>,
}

impl Addresses {
    pub(super) fn use_proxies(&self, proxies: Proxies) {
        let _ = self.proxies.set(proxies);
    }

    pub(super) fn replace(&self, peers: &BTreeMap<PublicKey, PeerAddress>) {
        let peers = peers.iter().map(|(key, address)| (*key, address.endpoints.clone())).collect();
        *self.peers.lock().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    /// Dials every endpoint of `key` at once, as far as TLS, and hangs up.
    pub(crate) async fn dial_back(&self, service: &PeerService, key: PublicKey) -> DialBackMessage {
        let endpoints =
            self.peers.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned().unwrap_or_default();
        let proxies = self.proxies.get().cloned().unwrap_or_else(Proxies::none);
        // The asking side waits for `answer`; what takes longer than most of it would not be heard any more.
        let patience = service.timing.answer * 3 / 4;
        let dial_one = |endpoint: Endpoint| {
            let proxies = &proxies;
            async move {
                let dialled = dial(&endpoint, key, Alpn::Peer, &service.identity, proxies, &service.timing);
                let error = match timeout(patience, dialled).await {
                    Ok(Ok(_)) => None,
                    Ok(Err(error)) => Some(one_line(&error)),
                    Err(_) => Some(format!("no answer within {} ms", patience.as_millis())),
                };
                DialledBack { endpoint, error }
            }
        };
        let dialled = join_all(endpoints.into_iter().take(MAX_ENDPOINTS).map(dial_one)).await;
        DialBackMessage { dialled }
    }
}
