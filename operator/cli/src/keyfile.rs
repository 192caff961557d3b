//! Governance and recovery keys as files: PKCS#8 in PEM, encrypted with a passphrase.
//!
//! These are the keys with which people vote. They are made and used on a person's machine and never reach a
//! cluster, so that a stolen operator key cannot vote.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{EncodePrivateKey, KeypairBytes, spki::der::pem::LineEnding};
use koinon_core::dsse::SeedSigner;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument};
use zeroize::Zeroizing;

/// The environment variable with the passphrase of the key files.
pub const PASSPHRASE_ENV: &str = "KOINON_PASSPHRASE";

/// Largest key file that is read, in bytes; a PKCS#8 Ed25519 key needs under 400.
const MAX_KEY_FILE: u64 = 16 * 1024;

/// Why a key file could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("cannot {verb} the key file {path}")]
    File {
        /// What was attempted.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A key of that name is there already.
    #[error("{0} exists already, and a key file is never overwritten: move it away, or name another place")]
    Exists(PathBuf),
    /// Not a private key in the expected form.
    #[error("{path} is not a PKCS#8 Ed25519 private key in PEM: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The passphrase does not fit.
    #[error("cannot decrypt {0}: wrong passphrase (set {PASSPHRASE_ENV} or type it at the prompt)")]
    Passphrase(PathBuf),
    /// There is nobody to ask for a passphrase.
    #[error("{0} is encrypted and there is no terminal to ask at: set {PASSPHRASE_ENV}")]
    NoTerminal(PathBuf),
    /// A passphrase that protects nothing.
    #[error("an empty passphrase would not protect {0}: give one, or say --no-passphrase")]
    Empty(PathBuf),
    /// The two passphrases that were typed differ.
    #[error("the two passphrases differ")]
    Mismatch,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes: {0}")]
    Random(String),
}

/// How a new key file is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Encrypted with the passphrase from the environment or the prompt.
    Passphrase,
    /// In plain, for machines that protect the file themselves (a mounted token, a test).
    Plain,
}

/// Makes a new key at `path` (mode 0600) and returns its signer.
///
/// # Errors
/// See [`Error`]; an existing file is never replaced.
pub fn create(path: &Path, protection: Protection) -> Result<SeedSigner, Error> {
    if path.exists() {
        return Err(Error::Exists(path.to_owned()));
    }
    let mut seed = Zeroizing::new([0_u8; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|e| Error::Random(e.to_string()))?;
    // Without the public key beside it: openssl refuses the later version of PKCS#8 that has one.
    let key = KeypairBytes { secret_key: *seed, public_key: None };
    let der = key.to_pkcs8_der().map_err(|e| Error::Malformed { path: path.to_owned(), reason: e.to_string() })?;
    store(path, der, protection)?;
    Ok(SeedSigner::from_seed(&seed))
}

/// Stores a PKCS#8 key in PEM, such as an operator's, as a new file and returns its signer.
///
/// # Errors
/// See [`Error`]; an existing file is never replaced.
pub fn store_pem(path: &Path, pem: &[u8], protection: Protection) -> Result<SeedSigner, Error> {
    let document = plain(path, pem)?;
    let signer = signer_of(path, &document)?;
    store(path, document, protection)?;
    Ok(signer)
}

/// Reads a PKCS#8 key in PEM that is no file; `name` is what it is called in errors.
///
/// # Errors
/// See [`Error`].
pub fn from_pem(name: &Path, pem: &[u8]) -> Result<SeedSigner, Error> {
    signer_of(name, &plain(name, pem)?)
}

fn plain(name: &Path, pem: &[u8]) -> Result<SecretDocument, Error> {
    let malformed = |reason: String| Error::Malformed { path: name.to_owned(), reason };
    let text = std::str::from_utf8(pem).map_err(|e| malformed(e.to_string()))?;
    SecretDocument::from_pem(text).map(|(_, document)| document).map_err(|e| malformed(e.to_string()))
}

fn signer_of(path: &Path, plain: &SecretDocument) -> Result<SeedSigner, Error> {
    let malformed = |reason: String| Error::Malformed { path: path.to_owned(), reason };
    let info = PrivateKeyInfoRef::try_from(plain.as_bytes()).map_err(|e| malformed(e.to_string()))?;
    let key = SigningKey::try_from(info).map_err(|e| malformed(e.to_string()))?;
    Ok(SeedSigner::from_seed(&key.to_bytes()))
}

fn store(path: &Path, der: SecretDocument, protection: Protection) -> Result<(), Error> {
    if path.exists() {
        return Err(Error::Exists(path.to_owned()));
    }
    let malformed = |reason: String| Error::Malformed { path: path.to_owned(), reason };
    let (label, document) = match protection {
        Protection::Plain => ("PRIVATE KEY", der),
        Protection::Passphrase => ("ENCRYPTED PRIVATE KEY", encrypt(path, &der, ask_twice(path)?.as_bytes())?),
    };
    let pem = document.to_pem(label, LineEnding::LF).map_err(|e| malformed(e.to_string()))?;
    write_private(path, pem.as_bytes())
}

fn encrypt(path: &Path, plain: &SecretDocument, passphrase: &[u8]) -> Result<SecretDocument, Error> {
    let malformed = |reason: String| Error::Malformed { path: path.to_owned(), reason };
    if passphrase.is_empty() {
        return Err(Error::Empty(path.to_owned()));
    }
    let info = PrivateKeyInfoRef::try_from(plain.as_bytes()).map_err(|e| malformed(e.to_string()))?;
    info.encrypt(passphrase).map_err(|e| malformed(e.to_string()))
}

fn decrypt(path: &Path, encrypted: &SecretDocument, passphrase: &[u8]) -> Result<SecretDocument, Error> {
    let malformed = |reason: String| Error::Malformed { path: path.to_owned(), reason };
    let info = EncryptedPrivateKeyInfoRef::try_from(encrypted.as_bytes()).map_err(|e| malformed(e.to_string()))?;
    info.decrypt(passphrase).map_err(|_| Error::Passphrase(path.to_owned()))
}

/// Reads the key at `path`, asking for its passphrase where it is encrypted.
///
/// # Errors
/// See [`Error`].
pub fn read(path: &Path) -> Result<SeedSigner, Error> {
    signer_of(path, &open(path)?)
}

/// Reads the key at `path` and returns it also as plain PKCS#8 in PEM, for a Secret.
///
/// # Errors
/// See [`Error`].
pub fn read_with_pem(path: &Path) -> Result<(SeedSigner, Zeroizing<String>), Error> {
    let plain = open(path)?;
    let pem = plain
        .to_pem("PRIVATE KEY", LineEnding::LF)
        .map_err(|e| Error::Malformed { path: path.to_owned(), reason: e.to_string() })?;
    Ok((signer_of(path, &plain)?, pem))
}

fn open(path: &Path) -> Result<SecretDocument, Error> {
    let file = |source| Error::File { verb: "read", path: path.to_owned(), source };
    let malformed = |reason: String| Error::Malformed { path: path.to_owned(), reason };
    if std::fs::metadata(path).map_err(file)?.len() > MAX_KEY_FILE {
        return Err(malformed(format!("it is larger than {MAX_KEY_FILE} bytes")));
    }
    let pem = Zeroizing::new(std::fs::read_to_string(path).map_err(file)?);
    let (label, document) = SecretDocument::from_pem(&pem).map_err(|e| malformed(e.to_string()))?;
    match label {
        "PRIVATE KEY" => Ok(document),
        "ENCRYPTED PRIVATE KEY" => decrypt(path, &document, ask_once(path)?.as_bytes()),
        other => Err(malformed(format!("its PEM label is {other:?}"))),
    }
}

/// Writes `bytes` to a new file that only its owner may read.
///
/// # Errors
/// [`Error::Exists`] where the file is there already, [`Error::File`] otherwise.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = |source| Error::File { verb: "write", path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(file)?;
    }
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut target = match opened {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Err(Error::Exists(path.to_owned())),
        other => other.map_err(file)?,
    };
    target.write_all(bytes).and_then(|()| target.sync_all()).map_err(file)
}

fn ask_once(path: &Path) -> Result<Zeroizing<String>, Error> {
    if let Ok(passphrase) = std::env::var(PASSPHRASE_ENV) {
        return Ok(Zeroizing::new(passphrase));
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::NoTerminal(path.to_owned()));
    }
    prompt(path, &format!("Passphrase for {}: ", path.display()))
}

fn ask_twice(path: &Path) -> Result<Zeroizing<String>, Error> {
    if let Ok(passphrase) = std::env::var(PASSPHRASE_ENV) {
        return Ok(Zeroizing::new(passphrase));
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::NoTerminal(path.to_owned()));
    }
    let first = prompt(path, &format!("New passphrase for {}: ", path.display()))?;
    let second = prompt(path, "The same again: ")?;
    if first == second { Ok(first) } else { Err(Error::Mismatch) }
}

fn prompt(path: &Path, text: &str) -> Result<Zeroizing<String>, Error> {
    let typed = rpassword::prompt_password(text).map_err(|source| Error::File {
        verb: "ask for the passphrase of",
        path: path.to_owned(),
        source,
    })?;
    Ok(Zeroizing::new(typed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use koinon_core::dsse::Signer as _;

    #[test]
    fn a_plain_key_survives_a_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("governance.pem");
        let made = create(&path, Protection::Plain).unwrap();
        assert_eq!(read(&path).unwrap().public_key(), made.public_key());
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("governance.pem");
        create(&path, Protection::Plain).unwrap();
        assert!(matches!(create(&path, Protection::Plain), Err(Error::Exists(_))));
    }

    #[test]
    fn a_key_file_is_readable_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("governance.pem");
        create(&path, Protection::Plain).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn something_else_in_pem_is_named_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not-a-key.pem");
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n").unwrap();
        assert!(matches!(read(&path), Err(Error::Malformed { reason, .. }) if reason.contains("CERTIFICATE")));
    }

    #[test]
    fn an_encrypted_key_opens_with_its_passphrase_alone() {
        let path = Path::new("governance.pem");
        let key = SigningKey::from_bytes(&[7; 32]);
        let plain = key.to_pkcs8_der().unwrap();
        let encrypted = encrypt(path, &plain, b"correct horse").unwrap();
        assert!(!encrypted.as_bytes().windows(32).any(|part| part == [7; 32]), "the seed is readable in the file");
        let opened = decrypt(path, &encrypted, b"correct horse").unwrap();
        assert_eq!(signer_of(path, &opened).unwrap().public_key().0, key.verifying_key().to_bytes());
        assert!(matches!(decrypt(path, &encrypted, b"battery staple"), Err(Error::Passphrase(_))));
        assert!(matches!(encrypt(path, &plain, b""), Err(Error::Empty(_))));
    }
}
