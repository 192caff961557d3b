//! rustls configurations over one identity.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use koinon_core::ids::CoopId;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::server::NoServerSessionStorage;
use rustls::{CertificateError, ClientConfig, CommonState, OtherError, ServerConfig, version::TLS13};
use thiserror::Error;

use super::identity::{CertUse, PeerIdentity};
use super::issue::IssueError;
use super::resolver::LeafResolver;
use super::verify::{LeafVerifier, PeerRefusal, Trust, read_leaf};
use crate::clock::Clock;

/// Why this side's TLS could not be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The own leaf cannot be read.
    #[error("the own leaf certificate cannot be used")]
    Leaf(#[source] IssueError),
    /// The own private key does not fit.
    #[error(
        "the private key does not belong to the leaf certificate: delete the Secret and the operator makes a new one"
    )]
    PrivateKey(#[source] rustls::Error),
    /// The crypto provider refuses TLS 1.3.
    #[error("setting up TLS 1.3 failed")]
    Setup(#[source] rustls::Error),
}

/// What is spoken inside a TLS connection; the handshake fails where both sides share none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// Members among each other, on the peer endpoint.
    Peer,
    /// Somebody with an invite, on the peer endpoint.
    Join,
    /// Gateways among each other.
    Http2,
}

impl Alpn {
    /// The protocol's name on the wire.
    #[must_use]
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Alpn::Peer => b"koinon/1",
            Alpn::Join => b"koinon-join/1",
            Alpn::Http2 => b"h2",
        }
    }

    /// What was agreed in a finished handshake.
    #[must_use]
    pub fn agreed(state: &CommonState) -> Option<Alpn> {
        let agreed = state.alpn_protocol()?;
        [Alpn::Peer, Alpn::Join, Alpn::Http2].into_iter().find(|alpn| alpn.as_bytes() == agreed)
    }
}

/// What both directions of one listener share: the own leaf, the cooperative, the clock.
#[derive(Debug, Clone)]
pub struct TlsIdentity {
    /// Serves the own leaf, and takes renewals.
    pub resolver: Arc<LeafResolver>,
    /// The cooperative that the other side's leaf must name.
    pub coop: CoopId,
    /// Judges validity.
    pub clock: Clock,
}

/// A listener's configuration. TLS 1.3 only, a client certificate is mandatory.
///
/// # Errors
/// When the crypto provider cannot do TLS 1.3.
pub fn server_config(
    identity: &TlsIdentity,
    cert_use: CertUse,
    trust: Trust,
    alpn: &[Alpn],
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(identity, cert_use, trust, &provider);
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(identity.clock.clone()))
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Setup)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity.resolver.clone());
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// A dialler's configuration. TLS 1.3 only, presents the own leaf.
///
/// # Errors
/// When the crypto provider cannot do TLS 1.3.
pub fn client_config(
    identity: &TlsIdentity,
    cert_use: CertUse,
    trust: Trust,
    alpn: &[Alpn],
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(identity, cert_use, trust, &provider);
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(identity.clock.clone()))
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(identity.resolver.clone());
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn verifier(
    identity: &TlsIdentity,
    cert_use: CertUse,
    trust: Trust,
    provider: &rustls::crypto::CryptoProvider,
) -> Arc<LeafVerifier> {
    let algorithms = provider.signature_verification_algorithms;
    Arc::new(LeafVerifier { coop: identity.coop, cert_use, trust, algorithms })
}

/// Who stands at the other end of a finished handshake.
///
/// # Errors
/// When the handshake is not finished, or was made with a configuration of another module.
pub fn peer_of(state: &CommonState) -> Result<PeerIdentity, PeerRefusal> {
    let certificate = state.peer_certificates().and_then(|chain| chain.first());
    read_leaf(certificate.ok_or(PeerRefusal::Malformed("none was presented"))?)
}

/// The refusal inside an error of a handshake, however deep it is wrapped.
///
/// Only the side that refuses has it; the other side sees a TLS alert.
#[must_use]
pub fn refusal_in(error: &(dyn StdError + 'static)) -> Option<PeerRefusal> {
    let mut next = Some(error);
    // Chains are short; the bound keeps a foreign error type that is its own source from hanging us.
    for _ in 0..16 {
        let current = next?;
        if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) =
            current.downcast_ref::<rustls::Error>()
        {
            let inner: &(dyn StdError + 'static) = inner.as_ref();
            return inner.downcast_ref::<PeerRefusal>().cloned();
        }
        // `io::Error::source` skips the error that it wraps.
        next = match current.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => current.source(),
        };
    }
    None
}

impl fmt::Display for Alpn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}
