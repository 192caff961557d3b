//! One certificate authority per cluster, and the certificates of its parts.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

/// Whom a certificate speaks for.
#[derive(Debug, Clone)]
pub struct Subject {
    /// File name and, for a client, user name in Kubernetes.
    pub common_name: String,
    /// Group in Kubernetes.
    pub organization: Option<&'static str>,
    /// Addresses that a server is called by.
    pub addresses: Vec<Ipv4Addr>,
    /// Names that a server is called by.
    pub names: Vec<String>,
}

impl Subject {
    /// A client: a user in a group.
    pub fn client(user: &str, group: Option<&'static str>) -> Self {
        Self { common_name: user.to_owned(), organization: group, addresses: Vec::new(), names: Vec::new() }
    }

    /// A server, which is also a client of others under the same name.
    pub fn server(name: &str, addresses: Vec<Ipv4Addr>, names: &[&str]) -> Self {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Self { common_name: name.to_owned(), organization: None, addresses, names }
    }

    /// The same in a group.
    pub fn in_group(mut self, group: &'static str) -> Self {
        self.organization = Some(group);
        self
    }
}

/// A key and the certificate for it, as files and as text.
#[derive(Debug, Clone)]
pub struct Credential {
    /// File of the certificate.
    pub cert_path: PathBuf,
    /// File of the private key.
    pub key_path: PathBuf,
    /// The certificate.
    pub cert_pem: String,
    /// The private key.
    pub key_pem: String,
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
    cert_path: PathBuf,
}

impl Authority {
    /// Makes an authority whose files lie in `dir`.
    pub fn create(dir: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name = distinguished(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let cert_path = dir.join(format!("{name}.crt"));
        write(&cert_path, &issuer.pem())?;
        Ok(Self { dir: dir.to_owned(), issuer, cert_path })
    }

    /// File of the authority's own certificate.
    pub fn cert_path(&self) -> &Path {
        &self.cert_path
    }

    /// The authority's own certificate.
    pub fn cert_pem(&self) -> String {
        self.issuer.pem()
    }

    /// Issues a certificate for a new key and writes both.
    pub fn issue(&self, subject: &Subject) -> Result<Credential> {
        let mut params = CertificateParams::new(subject.names.clone())?;
        params.distinguished_name = distinguished(&subject.common_name, subject.organization);
        params
            .subject_alt_names
            .extend(subject.addresses.iter().map(|address| SanType::IpAddress(IpAddr::V4(*address))));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !subject.names.is_empty() || !subject.addresses.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let key = KeyPair::generate()?;
        let cert_pem = params.signed_by(&key, &self.issuer)?.pem();
        let key_pem = key.serialize_pem();
        let file = subject.common_name.replace(':', "-");
        let (cert_path, key_path) = (self.dir.join(format!("{file}.crt")), self.dir.join(format!("{file}.key")));
        write(&cert_path, &cert_pem)?;
        write(&key_path, &key_pem)?;
        Ok(Credential { cert_path, key_path, cert_pem, key_pem })
    }
}

/// Writes a key that signs service account tokens (`.key`) and its public half (`.pub`).
pub fn write_token_key(path: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    write(&path.with_extension("key"), &key.serialize_pem())?;
    write(&path.with_extension("pub"), &key.public_key_pem())
}

fn distinguished(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

/// Keys lie here: nobody but root may read them.
fn write(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("writing {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_readable_by_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(dir.path(), "ca").unwrap();
        let issued = authority.issue(&Subject::client("system:kube-proxy", None)).unwrap();
        assert_eq!(issued.key_path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(issued.key_path.ends_with("system-kube-proxy.key"));
    }
}
