//! The operator key as text: PKCS#8 in PEM, as `openssl genpkey -algorithm ed25519` writes it too.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use koinon_core::dsse::SeedSigner;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use zeroize::Zeroizing;

/// What stands before the seed in the PKCS#8 form of every Ed25519 key (RFC 8410, version 1).
const PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Text that is no Ed25519 key in PKCS#8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the operator key is no Ed25519 key in PEM (PKCS#8): restore it from its backup (kubectl koinon keys restore)")]
pub struct KeyTextError;

/// A seed as PEM.
pub fn write(seed: &[u8; 32]) -> Zeroizing<String> {
    let mut der = Zeroizing::new([0_u8; 48]);
    der[..16].copy_from_slice(&PREFIX);
    der[16..].copy_from_slice(seed);
    let text = Zeroizing::new(STANDARD.encode(der.as_slice()));
    Zeroizing::new(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", text.as_str()))
}

/// The signer of a key in PEM.
///
/// # Errors
/// When the text is no such key.
pub fn read(pem: &[u8]) -> Result<SeedSigner, KeyTextError> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| KeyTextError)?;
    let key = SigningKey::from_pkcs8_der(der.secret_pkcs8_der()).map_err(|_| KeyTextError)?;
    Ok(SeedSigner::from_seed(key.as_bytes()))
}

#[cfg(test)]
mod tests {
    use koinon_core::dsse::Signer;

    use super::*;

    #[test]
    fn a_key_reads_back_as_itself() {
        let signer = read(write(&[7; 32]).as_bytes()).unwrap();
        assert_eq!(signer.public_key(), SeedSigner::from_seed(&[7; 32]).public_key());
    }

    #[test]
    fn a_key_that_openssl_made_is_read() {
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        // The key and its public half are those of RFC 8410, section 10.3.
        let public = "ed25519:19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
        assert_eq!(read(pem.as_bytes()).unwrap().public_key().to_string(), public);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "seed"] {
            assert_eq!(read(text.as_bytes()).err(), Some(KeyTextError));
        }
    }
}
