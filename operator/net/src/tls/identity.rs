//! Who a certificate speaks for.

use std::fmt;
use std::str::FromStr;

use koinon_core::ids::{CoopId, MemberId, PublicKey, UnixSeconds};
use thiserror::Error;

/// Scheme of the only subject alternative name that a leaf carries.
const SCHEME: &str = "koinon://";

/// What a leaf may be used for; each listener takes exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertUse {
    /// The peer endpoint, whose leaf lives in the operator's memory.
    Peer,
    /// The gateway, whose leaf lives in a Secret.
    Gateway,
}

impl CertUse {
    /// The last part of the leaf's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            CertUse::Peer => "peer",
            CertUse::Gateway => "gateway",
        }
    }
}

impl fmt::Display for CertUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name in a leaf: `koinon://<64 hex of the cooperative id>/<member>/<use>`.
///
/// It is a claim of the key that signed the leaf. What counts is which member the verifier pins under that key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafName {
    /// The cooperative in which the leaf is used.
    pub coop: CoopId,
    /// The member that the leaf claims to speak for.
    pub member: MemberId,
    /// The listener for which it was made.
    pub cert_use: CertUse,
}

impl fmt::Display for LeafName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the "sha256:" prefix, whose colon would read as a port in a URI.
        write!(f, "{SCHEME}{}/{}/{}", self.coop.hex(), self.member, self.cert_use)
    }
}

/// A leaf's name that is not of the form `koinon://<cooperative>/<member>/<use>`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the certificate's name is not koinon://<cooperative>/<member>/<peer or gateway>: {0}")]
pub struct LeafNameError(&'static str);

impl FromStr for LeafName {
    type Err = LeafNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix(SCHEME).ok_or(LeafNameError("another scheme"))?;
        let mut parts = rest.split('/');
        let (Some(coop), Some(member), Some(cert_use), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(LeafNameError("it has not three parts"));
        };
        let cert_use = match cert_use {
            "peer" => CertUse::Peer,
            "gateway" => CertUse::Gateway,
            _ => return Err(LeafNameError("an unknown use")),
        };
        Ok(LeafName {
            coop: format!("sha256:{coop}").parse().map_err(|_| LeafNameError("no cooperative id"))?,
            member: member.parse().map_err(|_| LeafNameError("no member id"))?,
            cert_use,
        })
    }
}

/// What a finished handshake proves about the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The operator key under which the leaf was issued.
    pub key: PublicKey,
    /// What the leaf claims.
    pub name: LeafName,
    /// First second in which the leaf is valid.
    pub not_before: UnixSeconds,
    /// First second in which it no longer is.
    pub not_after: UnixSeconds,
}
