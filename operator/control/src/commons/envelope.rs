//! The envelope of a resource and the envelope of the wire are the same JSON; here they become each other.

use koinon_api::envelope as api;
use koinon_core::dsse::{Envelope, Signature};
use koinon_core::ids::IdError;

/// The wire's envelope of a resource's. Only the signers' names can fail; the rest is checked by verification.
///
/// # Errors
/// When a signer is no key.
pub fn from_resource(envelope: &api::Envelope) -> Result<Envelope, IdError> {
    let signature = |s: &api::Signature| Ok(Signature { keyid: s.keyid.parse()?, sig: s.sig.clone() });
    Ok(Envelope {
        payload_type: envelope.payload_type.clone(),
        payload: envelope.payload.clone(),
        signatures: envelope.signatures.iter().map(signature).collect::<Result<_, IdError>>()?,
    })
}

/// A resource's envelope of the wire's.
#[must_use]
pub fn to_resource(envelope: &Envelope) -> api::Envelope {
    let signature = |s: &Signature| api::Signature { keyid: s.keyid.to_string(), sig: s.sig.clone() };
    api::Envelope {
        payload_type: envelope.payload_type.clone(),
        payload: envelope.payload.clone(),
        signatures: envelope.signatures.iter().map(signature).collect(),
    }
}
