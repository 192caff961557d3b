//! The own leaf, replaceable while connections are open.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureScheme};

use super::config::TlsError;
use super::identity::PeerIdentity;
use super::issue::Leaf;

struct Current {
    key: Arc<CertifiedKey>,
    identity: PeerIdentity,
}

/// Hands the current leaf to every new handshake; connections that are open keep the one they began with.
///
/// It may be empty, for a gateway that starts before its Secret exists: handshakes then fail on this side.
#[derive(Default)]
pub struct LeafResolver {
    current: RwLock<Option<Current>>,
}

impl fmt::Debug for LeafResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeafResolver").field("identity", &self.identity()).finish()
    }
}

impl LeafResolver {
    /// A resolver that serves `leaf`.
    ///
    /// # Errors
    /// When the private key does not belong to the certificate.
    pub fn with(leaf: &Leaf) -> Result<Arc<Self>, TlsError> {
        let resolver = Arc::new(LeafResolver::default());
        resolver.renew(leaf)?;
        Ok(resolver)
    }

    /// Serves `leaf` from now on. On an error the previous leaf stays.
    ///
    /// # Errors
    /// When the private key does not belong to the certificate.
    pub fn renew(&self, leaf: &Leaf) -> Result<(), TlsError> {
        let private_key = leaf.private_key().map_err(TlsError::Leaf)?;
        let signing_key = any_supported_type(&private_key).map_err(TlsError::PrivateKey)?;
        let certified = CertifiedKey::new(vec![leaf.certificate.clone()], signing_key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(error) => return Err(TlsError::PrivateKey(error)),
        }
        let current = Current { key: Arc::new(certified), identity: leaf.identity().clone() };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(current);
        Ok(())
    }

    /// Whom the current leaf speaks for.
    #[must_use]
    pub fn identity(&self) -> Option<PeerIdentity> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|current| current.identity.clone())
    }

    fn key(&self) -> Option<Arc<CertifiedKey>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|current| current.key.clone())
    }
}

impl ResolvesServerCert for LeafResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key()
    }
}

impl ResolvesClientCert for LeafResolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key()
    }

    fn has_certs(&self) -> bool {
        self.key().is_some()
    }
}
