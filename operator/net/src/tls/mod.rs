//! Pinned TLS: short-lived leaf certificates under an operator's Ed25519 key.
//!
//! There is no certificate authority and no name check. A leaf is good when an operator key that the verifier pins has
//! signed it, when it is of the expected [`CertUse`] and within its days; so a new leaf needs no announcement, and a
//! gateway holds a leaf but never the key that made it.
//!
//! Sessions are never resumed: a resumed TLS 1.3 session skips the certificate, and a key that was taken out of the
//! pins meanwhile would come back in by its ticket.

mod config;
mod identity;
mod issue;
mod pins;
mod resolver;
mod verify;

pub use config::{Alpn, TlsError, TlsIdentity, client_config, peer_of, refusal_in, server_config};
pub use identity::{CertUse, LeafName, LeafNameError, PeerIdentity};
pub use issue::{IssueError, LEAF_BACKDATE_SECONDS, LEAF_LIFETIME_SECONDS, Leaf, issue};
pub use pins::Pins;
pub use resolver::LeafResolver;
pub use verify::{PeerRefusal, Trust};

#[cfg(test)]
mod tests;
