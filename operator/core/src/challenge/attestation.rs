//! What `Attested` would take. It is a level with a name, and not available here.

use super::task::Nonce;

/// Why nothing here says `Attested`, for people: shown wherever somebody asks for that level.
pub const ATTESTED_NOT_AVAILABLE: &str = "Attested is not available here: it takes GPUs that sign a report (NVIDIA Hopper or \
newer in confidential computing mode) and a verifier of that report outside the member's cluster, and this release has no such \
verifier; no GPU reaches this level, so what asks for it is placed nowhere";

/// Why a report attests nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// Nobody here can verify it.
    #[error("{ATTESTED_NOT_AVAILABLE}")]
    NotAvailableHere,
}

/// A verifier of what a GPU signed about itself.
///
/// It runs at the member that wants to know, never in the agent of the member that is asked: what an owner's machine says of a
/// signature is no more than what it says of the GPU. The report must hold the nonce, be signed by the device's key, that key be
/// certified up to the maker's root without a revocation, and its measurements be those that the maker published for that driver
/// and firmware. It ends after seven days, or when driver, firmware or boot change.
pub trait Attestation {
    /// Whether `report`, with the certificates `chain` from the device's key to the maker's root (DER, the device's first), was
    /// signed for `nonce` by a GPU that runs what its maker published.
    ///
    /// # Errors
    /// It was not, or nobody here can say.
    fn verify(&self, nonce: &Nonce, report: &[u8], chain: &[&[u8]]) -> Result<(), AttestationError>;
}

/// The only verifier of this release.
#[derive(Clone, Copy, Debug)]
pub struct NotAvailableHere;

impl Attestation for NotAvailableHere {
    fn verify(&self, _: &Nonce, _: &[u8], _: &[&[u8]]) -> Result<(), AttestationError> {
        Err(AttestationError::NotAvailableHere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_attested_here_and_the_reason_is_said() {
        let said = NotAvailableHere.verify(&Nonce([1; 32]), b"report", &[b"certificate"]).unwrap_err().to_string();
        assert!(said.contains("not available here"), "{said}");
    }
}
