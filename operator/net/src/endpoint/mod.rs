//! The peer endpoint: one port on which members read from this node and newcomers knock.

mod lobby;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::HandshakeFailure;
use crate::service::{PeerService, Role, serve};
use crate::tls::{Alpn, CertUse, TlsError, Trust, peer_of, refusal_in, server_config};

pub use lobby::{Lobby, Place};

/// Why the endpoint could not begin.
#[derive(Debug, Error)]
pub enum BindError {
    /// The address is taken or not ours.
    #[error("listening for peers on {address} failed: is another process on this port?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// TLS could not be set up.
    #[error("setting up TLS for the peer endpoint failed")]
    Tls(#[from] TlsError),
}

/// A listening peer endpoint; see [`PeerEndpoint::run`].
pub struct PeerEndpoint {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    service: Arc<PeerService>,
}

impl PeerEndpoint {
    /// Listens on `address`. Any key that proves itself gets through TLS: what it may read is decided afterwards, so
    /// that a key which is not known can be told so in words.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(address: SocketAddr, service: Arc<PeerService>) -> Result<Self, BindError> {
        let tls = server_config(&service.identity, CertUse::Peer, Trust::Proven, &[Alpn::Peer, Alpn::Join])?;
        let listener = TcpListener::bind(address).await.map_err(|source| BindError::Listen { address, source })?;
        Ok(PeerEndpoint { listener, tls, service })
    }

    /// Where it listens; of use when the port was given as 0.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is cancelled, then says goodbye to every connection and returns.
    pub async fn run(self, stop: CancellationToken) {
        let PeerEndpoint { listener, tls, service } = self;
        let acceptor = TlsAcceptor::from(tls);
        let lobby = Lobby::new(service.limits.pending_connections);
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (tcp, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly: waiting lets some connection end.
                    tracing::warn!(%error, "accepting a peer's connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (service, acceptor, lobby, stop) = (service.clone(), acceptor.clone(), lobby.clone(), stop.clone());
            connections.spawn(async move {
                let (place, pushed_out) = lobby.enter();
                tokio::select! {
                    () = receive(service.clone(), acceptor, tcp, from, stop, place) => {}
                    () = pushed_out.cancelled() => service.metrics.failure(HandshakeFailure::PushedOut),
                }
            });
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }
}

async fn receive(
    service: Arc<PeerService>,
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    from: SocketAddr,
    stop: CancellationToken,
    place: lobby::Place,
) {
    let failed = |kind: HandshakeFailure, reason: &dyn std::fmt::Display| {
        service.metrics.failure(kind);
        tracing::debug!(%from, reason = kind.as_str(), "a connection to the peer endpoint came to nothing: {reason}");
    };
    let _ = tcp.set_nodelay(true);
    let handshake = tokio::select! {
        () = stop.cancelled() => return,
        handshake = tokio::time::timeout(service.timing.handshake, acceptor.accept(tcp)) => handshake,
    };
    let tls = match handshake {
        Err(_) => return failed(HandshakeFailure::Timeout, &"no finished handshake in time"),
        Ok(Err(error)) => {
            let kind =
                if refusal_in(&error).is_some() { HandshakeFailure::Certificate } else { HandshakeFailure::Protocol };
            return failed(kind, &error);
        }
        Ok(Ok(tls)) => tls,
    };
    let state = tls.get_ref().1;
    let Some(alpn) = Alpn::agreed(state) else {
        return failed(HandshakeFailure::Protocol, &"the client named no protocol");
    };
    match peer_of(state) {
        Ok(peer) => serve(service, TokioIo::new(tls), peer, Role::Accepted(alpn), stop, place).await,
        Err(refusal) => failed(HandshakeFailure::Certificate, &refusal),
    }
}
