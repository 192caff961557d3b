//! Leaves: made by an operator, and read back from the gateway's Secret.

use std::fmt;

use koinon_core::dsse::Signer;
use koinon_core::ids::{PublicKey, UnixSeconds};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, PublicKeyData, SanType, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::identity::{LeafName, PeerIdentity};
use super::verify::{self, PeerRefusal};

/// How long a leaf lives from the moment of its issue.
pub const LEAF_LIFETIME_SECONDS: i64 = 24 * 3600 - LEAF_BACKDATE_SECONDS;

/// How far back a leaf's validity begins, for verifiers whose clock is behind.
pub const LEAF_BACKDATE_SECONDS: i64 = 300;

/// Why no leaf could be made or read.
#[derive(Debug, Error)]
pub enum IssueError {
    /// The moment of issue is outside what a certificate can express.
    #[error("issuing a leaf for {0} s after 1970 is not possible: check the clock of this machine")]
    Time(i64),
    /// The certificate could not be built or signed.
    #[error("building the leaf certificate for {name} failed")]
    Build {
        /// The leaf's name.
        name: String,
        /// What rcgen said.
        #[source]
        source: rcgen::Error,
    },
    /// PEM that is not what a leaf's Secret holds.
    #[error("reading the {0} of the leaf failed: delete the Secret and the operator makes a new one")]
    Pem(&'static str),
    /// A certificate that is no leaf of an operator.
    #[error("the certificate is no leaf of an operator")]
    NoLeaf(#[source] PeerRefusal),
}

/// A leaf certificate with its private key.
#[derive(Clone)]
pub struct Leaf {
    pub(super) certificate: CertificateDer<'static>,
    certificate_pem: String,
    key_pem: Zeroizing<String>,
    identity: PeerIdentity,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Leaf {
    /// Reads `tls.crt` and `tls.key` of a Secret. Validity is not checked: the handshake does that.
    ///
    /// # Errors
    /// When either text is not PEM, or the certificate is not signed by the operator key that it names.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, IssueError> {
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|_| IssueError::Pem("certificate"))?;
        PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| IssueError::Pem("private key"))?;
        let identity = verify::read_leaf(&certificate).map_err(IssueError::NoLeaf)?;
        Ok(Leaf {
            certificate: certificate.into_owned(),
            certificate_pem: certificate_pem.to_owned(),
            key_pem: Zeroizing::new(key_pem.to_owned()),
            identity,
        })
    }

    /// The certificate as PEM, for `tls.crt`.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key as PEM (PKCS#8), for `tls.key`.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Who this leaf speaks for, and when.
    #[must_use]
    pub fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    /// When to replace it: at half of its life, so that a renewal may fail for hours before anybody is refused.
    #[must_use]
    pub fn renew_at(&self) -> UnixSeconds {
        let (from, to) = (self.identity.not_before.0, self.identity.not_after.0);
        UnixSeconds(from + (to - from) / 2)
    }

    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, IssueError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|_| IssueError::Pem("private key"))
    }
}

/// Issues a leaf named `name` under the operator key of `signer`, with a fresh P-256 key of its own.
///
/// # Errors
/// When `now` cannot be written into a certificate or the signer fails.
pub fn issue(signer: &dyn Signer, name: &LeafName, now: UnixSeconds) -> Result<Leaf, IssueError> {
    issue_for(signer, name, now, LEAF_LIFETIME_SECONDS)
}

pub(super) fn issue_for(
    signer: &dyn Signer,
    name: &LeafName,
    now: UnixSeconds,
    lifetime: i64,
) -> Result<Leaf, IssueError> {
    let build = |source| IssueError::Build { name: name.to_string(), source };
    let time = |at: i64| OffsetDateTime::from_unix_timestamp(at).map_err(|_| IssueError::Time(at));

    let operator = OperatorKey::new(signer);
    let mut issuer_params = CertificateParams::default();
    issuer_params.distinguished_name = common_name(&operator.public_key.to_string());

    let key = KeyPair::generate().map_err(build)?;
    let mut params = CertificateParams::default();
    params.not_before = time(now.0.saturating_sub(LEAF_BACKDATE_SECONDS))?;
    params.not_after = time(now.0.saturating_add(lifetime))?;
    params.distinguished_name = common_name(name.member.as_str());
    params.subject_alt_names = vec![SanType::URI(name.to_string().as_str().try_into().map_err(build)?)];
    params.is_ca = IsCa::NoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &Issuer::from_params(&issuer_params, operator)).map_err(build)?;
    Leaf::from_pem(&certificate.pem(), &key.serialize_pem())
}

fn common_name(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CommonName, name);
    dn
}

/// Lets rcgen sign with a key that it never sees.
struct OperatorKey<'a> {
    signer: &'a dyn Signer,
    public_key: PublicKey,
}

impl<'a> OperatorKey<'a> {
    fn new(signer: &'a dyn Signer) -> Self {
        OperatorKey { public_key: signer.public_key(), signer }
    }
}

impl PublicKeyData for OperatorKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.public_key.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl SigningKey for OperatorKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.signer.sign(message).to_vec())
    }
}
