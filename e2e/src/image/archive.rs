//! Packing a folder as an OCI image archive, byte for byte the same each time.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::TAG;
use crate::command;

/// Name of the archive in its cache entry.
pub const FILE: &str = "image.tar";

/// How a container of the image starts unless told otherwise.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// User and group, `65532:65532`; empty means root.
    pub user: String,
    /// Program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// Working folder.
    pub workdir: String,
}

/// Packs `root` into `<into>/image.tar` and returns the digest of its manifest.
pub fn pack(root: &Path, repository: &str, settings: &Settings, into: &Path) -> Result<String> {
    let layout = into.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;

    let layer = into.join("layer.tar");
    tar(root, &layer)?;
    let (layer_digest, layer_size) = file_digest(&layer)?;
    fs::rename(&layer, blobs.join(&layer_digest))?;

    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "User": settings.user,
            "Entrypoint": settings.entrypoint,
            "Env": settings.env,
            "WorkingDir": settings.workdir,
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "koinon-e2e"}],
    });
    let config = blob(&blobs, "application/vnd.oci.image.config.v1+json", &serde_json::to_vec(&config)?)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": format!("sha256:{layer_digest}"),
            "size": layer_size,
        }],
    });
    let manifest = blob(&blobs, "application/vnd.oci.image.manifest.v1+json", &serde_json::to_vec(&manifest)?)?;
    let digest = manifest["digest"].as_str().context("a descriptor without digest")?.to_owned();

    // One entry per name under which containerd shall know it; a pod may use either.
    let named = |name: String| {
        let mut entry = manifest.clone();
        entry["platform"] = json!({"architecture": architecture, "os": "linux"});
        entry["annotations"] = json!({"io.containerd.image.name": name});
        entry
    };
    let index = json!({
        "schemaVersion": 2,
        "manifests": [named(format!("{repository}:{TAG}")), named(format!("{repository}@{digest}"))],
    });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar(&layout, &into.join(FILE))?;
    fs::remove_dir_all(&layout)?;
    Ok(digest)
}

/// Names in order, no times, everything owned by root: what differs between two machines is left out.
fn tar(folder: &Path, archive: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]);
    tar.arg("--file").arg(archive).arg("--directory").arg(folder).arg(".");
    command::run(&mut tar).map(drop)
}

fn blob(blobs: &Path, media_type: &str, bytes: &[u8]) -> Result<serde_json::Value> {
    let digest = hex::encode(Sha256::digest(bytes));
    fs::write(blobs.join(&digest), bytes)?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()}))
}

fn file_digest(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hex::encode(hash.finalize()), size)),
            Ok(read) => {
                hash.update(&buffer[..read]);
                size += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(time: &str) -> (String, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        for name in ["b", "a"] {
            fs::write(root.join(name), name).unwrap();
            command::run(Command::new("touch").args(["--date", time]).arg(root.join(name))).unwrap();
        }
        let digest = pack(&root, "koinon.test/x", &Settings::default(), dir.path()).unwrap();
        (digest, fs::read(dir.path().join(FILE)).unwrap())
    }

    #[test]
    fn the_same_files_give_the_same_bytes_whenever_they_were_written() {
        let (digest, bytes) = packed("2001-01-01");
        let (again, same) = packed("2020-02-02");
        assert_eq!(digest, again);
        assert!(bytes == same, "the archives differ");
        assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
    }
}
