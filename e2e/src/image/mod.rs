//! Container images without a registry or a builder: a folder becomes an OCI archive with one layer.

mod archive;
mod recipes;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Key};
pub use archive::Settings;
pub use recipes::{busybox, challenge, koinon, llama_cpp, pause, programs};

/// All images are of this registry, which does not exist, so that nothing can be pulled by mistake.
pub const REGISTRY: &str = "koinon.test";
/// The one tag; what an image really is stands in its digest.
pub const TAG: &str = "e2e";

/// An image in the cache.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    digest: String,
    archive: PathBuf,
}

/// What stands beside the archive in the cache.
#[derive(Debug, Serialize, Deserialize)]
struct Label {
    digest: String,
}

impl Image {
    /// Repository without tag, `koinon.test/koinon`.
    pub fn repository(&self) -> String {
        format!("{REGISTRY}/{}", self.name)
    }

    /// By tag, `koinon.test/koinon:e2e`.
    pub fn reference(&self) -> String {
        format!("{}:{TAG}", self.repository())
    }

    /// By digest, `koinon.test/koinon@sha256:…`.
    pub fn pinned(&self) -> String {
        format!("{}@{}", self.repository(), self.digest)
    }

    /// Digest of the manifest, `sha256:…`: the same bytes give the same digest on every machine.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The OCI archive.
    pub fn archive(&self) -> &Path {
        &self.archive
    }

    /// Takes the image from the cache, or lets `fill` put its files into an empty folder and packs them.
    pub fn get_or_make(
        cache: &Cache,
        name: &str,
        key: &Key,
        settings: &Settings,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let entry = cache.get_or_make(&format!("images/{name}"), key, |draft| {
            let root = draft.join("root");
            std::fs::create_dir(&root)?;
            fill(&root).with_context(|| format!("filling the image {name}"))?;
            let digest = archive::pack(&root, &format!("{REGISTRY}/{name}"), settings, draft)?;
            std::fs::write(draft.join("label.json"), serde_json::to_vec(&Label { digest })?)?;
            // The archive holds it all; the folder would only take the disk twice.
            std::fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))
        })?;
        let label = std::fs::read(entry.join("label.json"))
            .with_context(|| format!("reading the label of {}", entry.display()))?;
        let Label { digest } = serde_json::from_slice(&label)?;
        Ok(Self { name: name.to_owned(), digest, archive: entry.join(archive::FILE) })
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reference())
    }
}
