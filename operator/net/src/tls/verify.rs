//! Judging the other side's leaf.

use std::fmt;
use std::sync::Arc;

use koinon_core::dsse::verifies;
use koinon_core::ids::{CoopId, MemberId, PublicKey, UnixSeconds};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use thiserror::Error;
use x509_parser::oid_registry::{
    OID_X509_COMMON_NAME, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate, X509Name, X509Version};

use super::identity::{CertUse, LeafName, PeerIdentity};
use super::issue::{LEAF_BACKDATE_SECONDS, LEAF_LIFETIME_SECONDS};
use super::pins::Pins;

/// A leaf of ours has about 600 bytes; web certificates of an intercepting proxy stay below this too.
const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;

/// Longest text of a foreign certificate that goes into an error.
const MAX_SHOWN_CHARS: usize = 120;

/// Which keys a handshake takes.
#[derive(Debug, Clone)]
pub enum Trust {
    /// This one: the member that was dialled, or the sponsor that an invite names.
    Exactly(PublicKey),
    /// Any pinned key, for the member under which it is pinned.
    Pinned(Pins),
    /// Any key that has signed the leaf. The peer endpoint decides afterwards what the key may read, because former
    /// and joining keys must be told more than a TLS alert can say.
    Proven,
}

/// Why the other side's certificate was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeerRefusal {
    /// The certificate of something that is no operator.
    #[error(
        "the certificate was issued by \"{issuer}\", not by an operator key: this is another service, or a proxy that \
         intercepts TLS on the way (ask for TLS passthrough to this address)"
    )]
    NotOperatorCertificate {
        /// The issuer as it stands in the certificate, cut and without control characters.
        issuer: String,
    },
    /// It names an operator key, and is not of a leaf's exact shape.
    #[error("the certificate names an operator key but is no leaf: {0}")]
    Malformed(&'static str),
    /// It was not signed by the key it names.
    #[error("the certificate is not signed by {key}, which it names as its issuer")]
    BadSignature {
        /// The key that it names.
        key: PublicKey,
    },
    /// Its days have not begun.
    #[error("the certificate is valid from {from} (unix seconds) and it is {now}: compare the clocks of both sides")]
    NotYetValid {
        /// First valid second.
        from: i64,
        /// This side's clock.
        now: i64,
    },
    /// Its days are over.
    #[error(
        "the certificate expired at {until} (unix seconds) and it is {now}: the other side no longer renews it, or \
             the clocks differ"
    )]
    Expired {
        /// First second in which it was no longer valid.
        until: i64,
        /// This side's clock.
        now: i64,
    },
    /// The key is not pinned.
    #[error("{key} is not an operator key of any known member")]
    UnknownKey {
        /// The key that the other side has proven.
        key: PublicKey,
    },
    /// Another key than the one that was dialled.
    #[error(
        "expected the operator key {expected} and found {seen}: the address belongs to somebody else, or the key \
             was replaced"
    )]
    WrongKey {
        /// The key that was expected.
        expected: PublicKey,
        /// The key that the other side has proven.
        seen: PublicKey,
    },
    /// A leaf for another listener.
    #[error("a leaf for use as {expected} is needed and this one is for {seen}")]
    WrongUse {
        /// What this listener takes.
        expected: CertUse,
        /// What the leaf was made for.
        seen: CertUse,
    },
    /// A leaf for another cooperative.
    #[error("the certificate is for the cooperative {seen}, and this is {expected}")]
    WrongCooperative {
        /// The own cooperative.
        expected: CoopId,
        /// The leaf's.
        seen: CoopId,
    },
    /// A pinned key that claims to speak for another member.
    #[error("{key} is pinned for {pinned} and its certificate claims to be {claimed}")]
    WrongMember {
        /// The key that the other side has proven.
        key: PublicKey,
        /// The member under which it is pinned.
        pinned: MemberId,
        /// The member that the leaf names.
        claimed: MemberId,
    },
}

impl From<PeerRefusal> for rustls::Error {
    fn from(refusal: PeerRefusal) -> Self {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

impl PeerIdentity {
    /// What `der` proves if it is a leaf. Neither time nor trust is judged.
    ///
    /// # Errors
    /// When it is none, or the key that it names has not signed it.
    pub fn of_certificate(der: &CertificateDer<'_>) -> Result<Self, PeerRefusal> {
        read_leaf(der)
    }
}

/// Reads a leaf and checks that the key it names has signed it. Neither time nor trust is judged here.
///
/// The set of extensions is matched exactly, not searched: what a leaf has no use for is a way to mean something else
/// to another reader.
pub(super) fn read_leaf(der: &CertificateDer<'_>) -> Result<PeerIdentity, PeerRefusal> {
    use PeerRefusal::Malformed;

    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(Malformed("it has more than 8 KiB"));
    }
    let (rest, cert) = X509Certificate::from_der(der).map_err(|_| Malformed("it does not parse"))?;
    if !rest.is_empty() {
        return Err(Malformed("bytes follow it"));
    }
    let Some(key) = operator_key(cert.issuer()) else {
        return Err(PeerRefusal::NotOperatorCertificate { issuer: shown(cert.issuer()) });
    };
    let signature = cert.signature_value.data.as_ref().try_into();
    let signature: &[u8; 64] = signature.map_err(|_| Malformed("its signature has not 64 bytes"))?;
    if wrapped(cert.tbs_certificate.as_ref(), signature) != der.as_ref() {
        return Err(Malformed("what stands around the signed part is not the encoding of an Ed25519 signature"));
    }
    if !verifies(&key, cert.tbs_certificate.as_ref(), signature) {
        return Err(PeerRefusal::BadSignature { key });
    }

    if cert.version() != X509Version::V3 {
        return Err(Malformed("it is not of version 3"));
    }
    let name = exact_extensions(&cert)?;
    let validity = cert.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if not_after <= not_before || not_after - not_before > LEAF_LIFETIME_SECONDS + LEAF_BACKDATE_SECONDS {
        return Err(Malformed("it is valid for more than 24 hours, or for none"));
    }
    Ok(PeerIdentity { key, name, not_before: UnixSeconds(not_before), not_after: UnixSeconds(not_after) })
}

/// The one encoding of a certificate around its signed part. The parser takes others too, and nothing signs them.
fn wrapped(signed: &[u8], signature: &[u8; 64]) -> Vec<u8> {
    /// SEQUENCE { OBJECT IDENTIFIER 1.3.101.112 }, BIT STRING of 64 bytes.
    const BETWEEN: [u8; 10] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x41, 0x00];
    let length = signed.len() + BETWEEN.len() + signature.len();
    let mut der = vec![0x30];
    match length {
        0..=0x7f => der.push(length as u8),
        0x80..=0xff => der.extend_from_slice(&[0x81, length as u8]),
        // A certificate of more than 64 KiB was refused before it was parsed.
        _ => der.extend_from_slice(&[0x82, (length >> 8) as u8, length as u8]),
    }
    der.extend_from_slice(signed);
    der.extend_from_slice(&BETWEEN);
    der.extend_from_slice(signature);
    der
}

fn exact_extensions(cert: &X509Certificate<'_>) -> Result<LeafName, PeerRefusal> {
    use PeerRefusal::Malformed;

    let mut name = None;
    let mut seen = Vec::with_capacity(3);
    for extension in cert.extensions() {
        if seen.contains(&&extension.oid) {
            return Err(Malformed("an extension stands twice"));
        }
        seen.push(&extension.oid);
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) if extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME => {
                let [GeneralName::URI(uri)] = san.general_names.as_slice() else {
                    return Err(Malformed("it has other names than its one URI"));
                };
                name =
                    Some(uri.parse().map_err(|_| Malformed("its name is not koinon://<cooperative>/<member>/<use>"))?);
            }
            ParsedExtension::KeyUsage(usage) if extension.oid == OID_X509_EXT_KEY_USAGE => {
                // Bit 0 alone: digitalSignature.
                if usage.flags != 1 {
                    return Err(Malformed("its key may do more than sign handshakes"));
                }
            }
            ParsedExtension::ExtendedKeyUsage(usage) if extension.oid == OID_X509_EXT_EXTENDED_KEY_USAGE => {
                let more = usage.any
                    || usage.code_signing
                    || usage.email_protection
                    || usage.time_stamping
                    || usage.ocsp_signing
                    || !usage.other.is_empty();
                if more || !usage.server_auth || !usage.client_auth {
                    return Err(Malformed("its extended key usage is not exactly server and client"));
                }
            }
            _ => return Err(Malformed("it has an extension that a leaf has not")),
        }
    }
    name.ok_or(Malformed("it has no name"))
}

/// The operator key, if the name is exactly one common name that is one.
fn operator_key(name: &X509Name<'_>) -> Option<PublicKey> {
    let mut attributes = name.iter_attributes();
    let (Some(only), None) = (attributes.next(), attributes.next()) else { return None };
    if *only.attr_type() != OID_X509_COMMON_NAME {
        return None;
    }
    only.as_str().ok()?.parse().ok()
}

fn shown(name: &X509Name<'_>) -> String {
    let text: String = name.to_string().chars().filter(|c| !c.is_control() && *c != '"').collect();
    text.chars().take(MAX_SHOWN_CHARS).collect()
}

fn tls13_only() -> rustls::Error {
    rustls::Error::General("only TLS 1.3 is spoken here".to_owned())
}

/// The one verifier of both sides.
pub(super) struct LeafVerifier {
    pub(super) coop: CoopId,
    pub(super) cert_use: CertUse,
    pub(super) trust: Trust,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for LeafVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeafVerifier").field("use", &self.cert_use).field("trust", &self.trust).finish_non_exhaustive()
    }
}

impl LeafVerifier {
    fn judge(&self, der: &CertificateDer<'_>, now: UnixTime) -> Result<(), PeerRefusal> {
        let leaf = read_leaf(der)?;
        // Trust comes before time: whoever is not known is told so, whatever the clocks say.
        match &self.trust {
            Trust::Exactly(expected) if *expected != leaf.key => {
                return Err(PeerRefusal::WrongKey { expected: *expected, seen: leaf.key });
            }
            Trust::Pinned(pins) => match pins.member(&leaf.key) {
                None => return Err(PeerRefusal::UnknownKey { key: leaf.key }),
                Some(pinned) if pinned != leaf.name.member => {
                    return Err(PeerRefusal::WrongMember { key: leaf.key, pinned, claimed: leaf.name.member });
                }
                Some(_) => {}
            },
            Trust::Exactly(_) | Trust::Proven => {}
        }
        if leaf.name.coop != self.coop {
            return Err(PeerRefusal::WrongCooperative { expected: self.coop, seen: leaf.name.coop });
        }
        if leaf.name.cert_use != self.cert_use {
            return Err(PeerRefusal::WrongUse { expected: self.cert_use, seen: leaf.name.cert_use });
        }
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < leaf.not_before.0 {
            return Err(PeerRefusal::NotYetValid { from: leaf.not_before.0, now });
        }
        if now >= leaf.not_after.0 {
            return Err(PeerRefusal::Expired { until: leaf.not_after.0, now });
        }
        Ok(())
    }
}

impl ServerCertVerifier for LeafVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for LeafVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
