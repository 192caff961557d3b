//! Turning a connection around: the side that accepted it asks, the side that dialled it answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, StatusCode};
use koinon_core::ids::PublicKey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::transport::Transport;
use crate::service::{PeerService, Role, serve};
use crate::tls::PeerIdentity;
use crate::wire::{Bye, REVERSE_AUTHORITY};

/// For each peer the newest connection that it has opened and let us ask on.
#[derive(Default)]
pub(crate) struct ReverseSlots {
    slots: Mutex<BTreeMap<PublicKey, watch::Sender<Option<Transport>>>>,
}

impl ReverseSlots {
    fn with<T>(&self, key: &PublicKey, act: impl FnOnce(&watch::Sender<Option<Transport>>) -> T) -> T {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        act(slots.entry(*key).or_insert_with(|| watch::Sender::new(None)))
    }

    pub(super) fn subscribe(&self, key: &PublicKey) -> watch::Receiver<Option<Transport>> {
        self.with(key, watch::Sender::subscribe)
    }

    fn offer(&self, key: &PublicKey, transport: Transport) {
        self.with(key, |slot| slot.send_replace(Some(transport)));
    }

    /// Takes back what has closed, so that nobody waits on it.
    pub(super) fn clear_closed(&self, key: &PublicKey) {
        self.with(key, |slot| {
            slot.send_if_modified(|current| {
                let closed = current.as_ref().is_some_and(Transport::is_closed);
                if closed {
                    *current = None;
                }
                closed
            })
        });
    }
}

/// The accepting side: makes the turned stream available to the dialler's readers until the connection ends.
pub(crate) async fn read_back(
    service: Arc<PeerService>,
    peer: PeerIdentity,
    upgrade: OnUpgrade,
    mut ending: watch::Receiver<Option<Bye>>,
) {
    let key = peer.key;
    let opened = async {
        let io = upgrade.await.map_err(|error| super::transport::broken(&error))?;
        Transport::over(io, peer, &service.limits, &service.timing).await
    };
    let transport = match opened.await {
        Ok(transport) => transport,
        Err(error) => {
            tracing::debug!(peer = %key, %error, "a connection could not be turned around");
            return;
        }
    };
    service.reverse.offer(&key, transport.clone());
    tokio::select! {
        _ = transport.closed() => {}
        _ = ending.wait_for(Option::is_some) => transport.close(),
    }
    drop(transport);
    service.reverse.clear_closed(&key);
}

/// The dialling side: lets the peer ask on a stream of this connection, again and again until it ends.
///
/// Again, because whoever asks gives a stream up when it is not answered in time; a member that cannot be dialled would
/// not be read any more.
pub(super) async fn offer(service: Arc<PeerService>, transport: Transport, stop: CancellationToken) {
    loop {
        offer_once(&service, &transport, &stop).await;
        tokio::select! {
            _ = transport.closed() => return,
            () = stop.cancelled() => return,
            () = tokio::time::sleep(service.timing.backoff_max) => {}
        }
    }
}

async fn offer_once(service: &Arc<PeerService>, transport: &Transport, stop: &CancellationToken) {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = Method::CONNECT;
    match REVERSE_AUTHORITY.parse() {
        Ok(uri) => *request.uri_mut() = uri,
        Err(_) => return,
    }
    let peer = transport.peer.clone();
    let upgraded = match transport.send(request, &service.timing).await {
        Ok(answer) if answer.status() == StatusCode::OK => hyper::upgrade::on(answer).await,
        Ok(answer) => {
            // We may read there and are not read: it does not take us for a member, or not yet.
            tracing::debug!(peer = %peer.key, status = %answer.status(), "the peer does not ask back");
            return;
        }
        Err(error) => {
            tracing::debug!(peer = %peer.key, %error, "the peer cannot ask back");
            return;
        }
    };
    match upgraded {
        Ok(io) => serve(service.clone(), io, peer, Role::Reversed, stop.child_token(), ()).await,
        Err(error) => tracing::debug!(peer = %peer.key, %error, "the peer cannot ask back"),
    }
}
