//! Kubeconfig files: how each part of a cluster, and each person, finds the API server.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::pki::Credential;

/// A kubeconfig with one cluster, one user and one context, all named `name`; certificates are inside, so the file can be moved.
pub fn build(name: &str, server: &str, authority_pem: &str, user: &Credential) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": STANDARD.encode(authority_pem)}}],
        "users": [{"name": name, "user": {
            "client-certificate-data": STANDARD.encode(&user.cert_pem),
            "client-key-data": STANDARD.encode(&user.key_pem),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    })
}

/// Writes a kubeconfig for its owner alone.
pub fn write(path: &Path, config: &Value) -> Result<()> {
    fs::write(path, serde_yaml::to_string(config)?).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("protecting {}", path.display()))
}
