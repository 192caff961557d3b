//! The one wire object: a DSSE envelope with Ed25519 signatures over opaque payload bytes.
//!
//! Guarantees: bytes that were verified are the bytes that are used; every signature of an envelope verifies or the
//! envelope is refused; there is one verification rule (`verify_strict`), because conformant Ed25519 libraries
//! disagree on the others.

use std::cell::RefCell;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature as DalekSignature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::ids::{Digest, PublicKey};
use crate::json::{self, JsonError};
use crate::kind::Kind;

/// Largest payload of a document (charter, evidence).
pub const MAX_DOCUMENT: usize = 256 * 1024;
/// Largest payload of a log entry or a Latest statement.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Largest payload of what people sign: in base64 and with a second header it still fits a log entry.
pub const MAX_HUMAN_PAYLOAD: usize = 40 * 1024;
/// Most signatures on one envelope.
pub const MAX_SIGNATURES: usize = 16;
/// Most signatures on a founding charter: every founder signs it.
pub const MAX_FOUNDERS: usize = 100;
/// Largest JSON form of an envelope: a document in base64, its signatures and names.
pub const MAX_ENVELOPE: usize = MAX_DOCUMENT / 3 * 4 + 24 * 1024;

/// Something that signs: a key in memory, a hardware token, a test.
pub trait Signer {
    /// The key that verifies what [`Signer::sign`] makes.
    fn public_key(&self) -> PublicKey;
    /// Signs `message`.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}

/// A signer with its Ed25519 key in memory; wiped when dropped.
pub struct SeedSigner(SigningKey);

impl SeedSigner {
    /// The signer of a 32 byte seed (the private key of RFC 8032).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }
}
impl Signer for SeedSigner {
    fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}
impl std::fmt::Debug for SeedSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SeedSigner({})", self.public_key())
    }
}

/// Why an envelope is not one, or does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The envelope itself is not strict JSON of the right shape.
    #[error("cannot read the envelope: {0}")]
    Json(#[from] JsonError),
    /// The payload is not canonical base64.
    #[error("cannot decode the payload: it must be standard base64 with padding")]
    PayloadEncoding,
    /// The payload is larger than its sort may be.
    #[error("cannot take a payload of {seen} bytes: at most {allowed} are allowed for {payload_type}")]
    PayloadTooLarge {
        /// The limit.
        allowed: usize,
        /// What came.
        seen: usize,
        /// The type that was claimed.
        payload_type: String,
    },
    /// No signature, too many, or two of one key.
    #[error(
        "cannot take an envelope with {0}: between 1 and {MAX_SIGNATURES} signatures of different keys are allowed, on a charter {MAX_FOUNDERS}"
    )]
    SignatureCount(&'static str),
    /// A signature is not 64 bytes of canonical base64.
    #[error("cannot decode the signature of {0}: it must be 64 bytes in standard base64")]
    SignatureEncoding(PublicKey),
    /// A signature does not verify under the strict rule.
    #[error("the signature of {0} does not verify: the payload or its type was changed, or another key signed")]
    BadSignature(PublicKey),
}

/// One signature of an envelope.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signature {
    /// The key that signed.
    pub keyid: PublicKey,
    /// 64 bytes in base64.
    pub sig: String,
}

/// A signed payload as it travels and is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Envelope {
    /// The media type, which is signed too.
    pub payload_type: String,
    /// The payload's bytes in base64.
    pub payload: String,
    /// Who signed.
    pub signatures: Vec<Signature>,
}

impl Envelope {
    /// Signs `payload` with `signer`.
    pub fn sign(payload_type: &str, payload: &[u8], signer: &dyn Signer) -> Self {
        let mut envelope =
            Self { payload_type: payload_type.to_owned(), payload: STANDARD.encode(payload), signatures: Vec::new() };
        envelope.signatures.push(signature(payload_type, payload, signer));
        envelope
    }

    /// Adds a co-signature over the same bytes; a key that has signed already is left as it is.
    pub fn co_sign(&mut self, signer: &dyn Signer) -> Result<(), EnvelopeError> {
        let payload = self.payload_bytes()?;
        let key = signer.public_key();
        if self.signatures.iter().all(|s| s.keyid != key) {
            if self.signatures.len() >= self.most_signatures() {
                return Err(EnvelopeError::SignatureCount("too many signatures"));
            }
            self.signatures.push(signature(&self.payload_type, &payload, signer));
        }
        Ok(())
    }

    /// Reads an envelope from strict JSON.
    pub fn from_json(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        Ok(json::from_closed(bytes, MAX_ENVELOPE, "an envelope")?)
    }

    /// The envelope as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and lists of strings cannot fail to serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The payload's bytes, not yet verified.
    pub fn payload_bytes(&self) -> Result<Vec<u8>, EnvelopeError> {
        if self.payload.len() > MAX_DOCUMENT / 3 * 4 + 4 {
            return Err(self.too_large(MAX_DOCUMENT, self.payload.len() / 4 * 3));
        }
        STANDARD.decode(&self.payload).map_err(|_| EnvelopeError::PayloadEncoding)
    }

    /// The digest of the payload, which is the id of the statement in it; not yet verified.
    pub fn payload_digest(&self) -> Result<Digest, EnvelopeError> {
        self.payload_bytes().map(|bytes| Digest::of(&bytes))
    }

    /// Verifies every signature and returns the payload's bytes.
    pub fn verify(&self, max_payload: usize) -> Result<Vec<u8>, EnvelopeError> {
        let payload = self.payload_bytes()?;
        if payload.len() > max_payload {
            return Err(self.too_large(max_payload, payload.len()));
        }
        match self.signatures.len() {
            0 => return Err(EnvelopeError::SignatureCount("no signature")),
            n if n > self.most_signatures() => return Err(EnvelopeError::SignatureCount("too many signatures")),
            _ => {}
        }
        let message = pae(&self.payload_type, &payload);
        for (index, signature) in self.signatures.iter().enumerate() {
            if self.signatures[..index].iter().any(|other| other.keyid == signature.keyid) {
                return Err(EnvelopeError::SignatureCount("two signatures of one key"));
            }
            let bytes: [u8; 64] = STANDARD
                .decode(&signature.sig)
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or(EnvelopeError::SignatureEncoding(signature.keyid))?;
            if !verifies(&signature.keyid, &message, &bytes) {
                return Err(EnvelopeError::BadSignature(signature.keyid));
            }
        }
        Ok(payload)
    }

    /// Whether `key` is among the signers; says nothing unless [`Envelope::verify`] succeeded.
    pub fn signed_by(&self, key: &PublicKey) -> bool {
        self.signatures.iter().any(|s| s.keyid == *key)
    }

    fn most_signatures(&self) -> usize {
        if Kind::of_payload_type(&self.payload_type) == Some(Kind::Charter) { MAX_FOUNDERS } else { MAX_SIGNATURES }
    }

    fn too_large(&self, allowed: usize, seen: usize) -> EnvelopeError {
        EnvelopeError::PayloadTooLarge { allowed, seen, payload_type: json::shorten(&self.payload_type) }
    }
}

fn signature(payload_type: &str, payload: &[u8], signer: &dyn Signer) -> Signature {
    let sig = signer.sign(&pae(payload_type, payload));
    Signature { keyid: signer.public_key(), sig: STANDARD.encode(sig) }
}

/// How many keys are kept ready: those of a hundred members, and few of them in each other's place.
const READY: usize = 1024;

thread_local! {
    /// Keys as points, each in the place that its bytes name. A point follows from the bytes alone; working it out anew takes
    /// an eighth of verifying a signature, and members sign by the thousand.
    static KEYS: RefCell<Vec<Option<(PublicKey, VerifyingKey)>>> = const { RefCell::new(Vec::new()) };
}

fn ready(key: &PublicKey) -> Option<VerifyingKey> {
    KEYS.with_borrow_mut(|keys| {
        keys.resize(READY, None);
        let place = keys.get_mut(usize::from(u16::from_le_bytes([key.0[0], key.0[1]])) % READY)?;
        match place {
            Some((known, point)) if known == key => Some(*point),
            _ => place.insert((*key, VerifyingKey::from_bytes(&key.0).ok()?)).1.into(),
        }
    })
}

/// Whether `signature` over `message` is `key`'s under the one strict rule (no malleable or small order points).
pub fn verifies(key: &PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
    ready(key).is_some_and(|key| key.verify_strict(message, &DalekSignature::from_bytes(signature)).is_ok())
}

/// The pre-authentication encoding: what is signed, so that a payload cannot pass under another type.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> Envelope {
        Envelope::sign("application/vnd.koinon.test.v1+json", b"{}", &SeedSigner::from_seed(&[7; 32]))
    }

    #[test]
    fn the_encoding_is_the_one_of_the_specification() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let good = signed();
        assert_eq!(good.verify(MAX_PAYLOAD).unwrap(), b"{}");
        let json = good.to_json();
        for index in 0..json.len() {
            for flip in [1u8, 0x20] {
                let mut bytes = json.clone();
                bytes[index] ^= flip;
                let verified = Envelope::from_json(&bytes).and_then(|e| e.verify(MAX_PAYLOAD).map(|_| e));
                assert!(
                    verified.is_err(),
                    "byte {index} changed by {flip} passed: {}",
                    String::from_utf8_lossy(&bytes)
                );
            }
        }
    }

    #[test]
    fn an_envelope_that_two_readers_could_take_for_different_ones_is_refused() {
        let good = String::from_utf8(signed().to_json()).unwrap();
        assert!(Envelope::from_json(good.as_bytes()).is_ok());
        let begun = |what: &str| good.replacen('{', &format!("{{{what},"), 1);
        let in_signature = |what: &str| good.replacen("[{", &format!("[{{{what},"), 1);
        for bad in [
            begun(r#""payload":"e30=""#),
            begun(r#""\u0070ayload":"e30=""#),
            begun(r#""later":1"#),
            in_signature(r#""sig":"x""#),
            in_signature(r#""later":null"#),
            good.replacen("\"e30=\"", "1.5", 1),
            good.clone() + " {}",
        ] {
            assert_ne!(bad, good);
            assert!(Envelope::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_bad_signature_among_good_ones_refuses_the_envelope() {
        let mut envelope = signed();
        envelope.co_sign(&SeedSigner::from_seed(&[8; 32])).unwrap();
        envelope.verify(MAX_PAYLOAD).unwrap();
        envelope.signatures[1].sig = envelope.signatures[0].sig.clone();
        assert!(matches!(envelope.verify(MAX_PAYLOAD), Err(EnvelopeError::BadSignature(_))));
    }

    #[test]
    fn a_key_signs_once_and_somebody_must() {
        let mut envelope = signed();
        envelope.co_sign(&SeedSigner::from_seed(&[7; 32])).unwrap();
        assert_eq!(envelope.signatures.len(), 1);
        envelope.signatures.push(envelope.signatures[0].clone());
        assert!(matches!(envelope.verify(MAX_PAYLOAD), Err(EnvelopeError::SignatureCount(_))));
        envelope.signatures.clear();
        assert!(matches!(envelope.verify(MAX_PAYLOAD), Err(EnvelopeError::SignatureCount(_))));
    }

    #[test]
    fn the_limit_of_the_payload_is_named() {
        let envelope = Envelope::sign("t", &[0; 100], &SeedSigner::from_seed(&[7; 32]));
        assert!(matches!(envelope.verify(99), Err(EnvelopeError::PayloadTooLarge { allowed: 99, seen: 100, .. })));
    }
}
