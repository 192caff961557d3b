//! The init container of an engine pod: waits for a model, copies it, and believes nothing that it has not hashed itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use koinon_core::ids::{Bytes, Digest, ManifestDigest};
use koinon_core::manifest::{FileFacts, Manifest};
use reqwest::{Client, StatusCode, Url, redirect};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::cache::Room;
use crate::disk::DiskError;
use crate::download::{Download, DownloadError, Patience, shown, whole_story};
use crate::sources::file_url;
use crate::way::Way;
use crate::wire::{FileList, ModelState, ModelStatus, ReadKey};

/// Largest answer of the cache that is read: a list of all files that a manifest may have.
const MAX_ANSWER: u64 = 4 << 20;
/// Where parts lie until they are verified; in the same file system, so that a rename makes them visible.
const PARTS: &str = ".koinon-copy";

/// Flags of `koinon weights copy`.
#[derive(Args, Clone, Debug)]
pub struct CopyArgs {
    /// Address of the weights cache, such as http://koinon-weights.koinon-system:8081.
    #[arg(long, env = "KOINON_COPY_FROM")]
    pub from: Url,
    /// Manifest digest of the model.
    #[arg(long, env = "KOINON_COPY_DIGEST")]
    pub digest: ManifestDigest,
    /// The model's key, which the operator gives to copies that were granted it.
    #[arg(long, env = "KOINON_COPY_KEY", hide_env_values = true)]
    pub key: ReadKey,
    /// Folder that the model's files are written to.
    #[arg(long, env = "KOINON_COPY_TO")]
    pub to: PathBuf,
    /// How long a cache that cannot be reached, or was not asked for the model, is waited for. A fetch that goes on is waited for
    /// without limit.
    #[arg(long, env = "KOINON_COPY_PATIENCE_SECONDS", default_value_t = 300)]
    pub patience_seconds: u64,
}

/// Why a model could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The cache could not fetch it.
    #[error("the weights cache could not fetch {digest}: {reason}: {message}")]
    Failed {
        /// The model.
        digest: ManifestDigest,
        /// The kind of failure.
        reason: &'static str,
        /// In the cache's words.
        message: String,
    },
    /// Nobody asked the cache for it.
    #[error(
        "the weights cache was not asked for {digest} within {seconds} s; check the operator's log and the Placement"
    )]
    NotAsked {
        /// The model.
        digest: ManifestDigest,
        /// How long was waited.
        seconds: u64,
    },
    /// The cache did not answer.
    #[error(
        "the weights cache at {url} could not be reached for {seconds} s: {why}; check its pod and the NetworkPolicy"
    )]
    Unreachable {
        /// Where.
        url: String,
        /// How long was waited.
        seconds: u64,
        /// What the last attempt said.
        why: String,
    },
    /// What the cache lists is not the model.
    #[error("the weights cache lists files that are not those of {expected}: {why}")]
    WrongList {
        /// The model.
        expected: ManifestDigest,
        /// In which way.
        why: String,
    },
    /// What the cache sent is not the file.
    #[error("{path} arrived with digest {seen} instead of {expected}")]
    WrongFile {
        /// The file.
        path: String,
        /// As listed.
        expected: Digest,
        /// As received.
        seen: Digest,
    },
    /// The cache broke off.
    #[error("copying {path}: {source}")]
    Download {
        /// The file.
        path: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The folder failed.
    #[error("{0}; the volume at --to has to hold the whole model")]
    Disk(#[from] DiskError),
    /// The client could not be made.
    #[error("setting up the connection: {0}")]
    Client(reqwest::Error),
}

/// Waits until the model is ready, copies every file, and verifies it again. Files that are already right are kept.
pub async fn copy(args: CopyArgs) -> Result<(), CopyError> {
    let CopyArgs { from, digest, key, to, patience_seconds } = args;
    // Names and addresses inside the cluster: no proxy, no redirect, no certificate of the outside.
    let client = Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .tls_certs_only([])
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(60))
        .build()
        .map_err(CopyError::Client)?;
    let model = file_url(&from, &format!("v1/models/{digest}"));
    let cache = Cache { client, model, digest, key, patience: Duration::from_secs(patience_seconds) };
    cache.wait().await?;
    let manifest = cache.manifest().await?;
    let parts = to.join(PARTS);
    tokio::fs::create_dir_all(&parts).await.map_err(DiskError::at("making the folder", &parts))?;
    for (number, (path, facts)) in manifest.files().enumerate() {
        cache.copy_file(&to, &parts.join(number.to_string()), path, facts).await?;
    }
    tokio::fs::remove_dir_all(&parts).await.map_err(DiskError::at("removing", &parts))?;
    tracing::info!(%digest, files = manifest.files().count(), bytes = manifest.total().0, "copied and verified");
    Ok(())
}

struct Cache {
    client: Client,
    model: Url,
    digest: ManifestDigest,
    key: ReadKey,
    patience: Duration,
}

impl Cache {
    async fn wait(&self) -> Result<(), CopyError> {
        let digest = self.digest;
        let seconds = self.patience.as_secs();
        let mut deadline = Instant::now() + self.patience;
        let mut shown_at = None::<Instant>;
        loop {
            match self.ask::<ModelStatus>(&self.model).await {
                Ok(status) if status.digest != digest => {
                    let why = format!("it answers for {}", status.digest);
                    return Err(CopyError::WrongList { expected: digest, why });
                }
                Ok(ModelStatus { state: ModelState::Ready { .. }, .. }) => return Ok(()),
                Ok(ModelStatus { state: ModelState::Failed(failure), .. }) => {
                    return Err(CopyError::Failed { digest, reason: failure.reason.name(), message: failure.message });
                }
                Ok(ModelStatus { state: ModelState::Fetching { bytes, total }, .. }) => {
                    deadline = Instant::now() + self.patience;
                    // Often enough for a person who watches, seldom enough for a fetch of hours.
                    if shown_at.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
                        tracing::info!(%digest, bytes, total, "the cache is fetching");
                        shown_at = Some(Instant::now());
                    }
                }
                Ok(ModelStatus { state: ModelState::Absent, .. }) if Instant::now() >= deadline => {
                    return Err(CopyError::NotAsked { digest, seconds });
                }
                Err(why) if Instant::now() >= deadline => {
                    return Err(CopyError::Unreachable { url: shown(&self.model), seconds, why });
                }
                Ok(ModelStatus { state: ModelState::Absent, .. }) => tracing::debug!(%digest, "not asked for yet"),
                Err(why) => tracing::warn!(why, "asking the weights cache"),
            }
            tokio::time::sleep(Duration::from_secs(1).min(self.patience)).await;
        }
    }

    /// The files, if together they are the model.
    async fn manifest(&self) -> Result<Manifest, CopyError> {
        let url = file_url(&self.model, "files");
        let list = self.ask::<FileList>(&url).await;
        let list = list.map_err(|why| CopyError::Unreachable { url: shown(&url), seconds: 0, why })?;
        let wrong = |why: String| CopyError::WrongList { expected: self.digest, why };
        let line =
            |file: &crate::wire::FileEntry| format!("{} {} {}\n", file.sha256.hex(), Bytes(file.size), file.path);
        let text: String = list.files.iter().map(line).collect();
        let manifest = Manifest::parse(text.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        match manifest.digest() {
            digest if digest == self.digest => Ok(manifest),
            digest => Err(wrong(format!("they are those of {digest}"))),
        }
    }

    async fn copy_file(&self, to: &Path, part: &Path, path: &str, facts: FileFacts) -> Result<(), CopyError> {
        let target = to.join(path);
        if hash_of(&target, facts.size.0).await == Some(facts.digest) {
            return Ok(());
        }
        tracing::info!(path, bytes = facts.size.0, "copying");
        let url = file_url(&file_url(&self.model, "files"), path);
        let download = Download {
            way: &Way::inside(self.client.clone(), &self.model, &self.key),
            url: &url,
            part,
            size: Some(facts.size.0),
            limit: facts.size.0,
            // Many pods may share the cache's disk, and nobody waits for this one's turn.
            patience: Patience { least: 0, ..Patience::default() },
            room: &Room::unbounded(),
        };
        let received = download.run().await.map_err(|error| match error {
            DownloadError::Disk(error) => CopyError::Disk(error),
            error => CopyError::Download { path: path.to_owned(), source: Box::new(error) },
        })?;
        if received.digest != facts.digest {
            // Nothing of it is kept: the next attempt begins with an empty part.
            tokio::fs::remove_file(part).await.map_err(DiskError::at("removing", part))?;
            let (expected, seen) = (facts.digest, received.digest);
            return Err(CopyError::WrongFile { path: path.to_owned(), expected, seen });
        }
        if let Some(folder) = target.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(DiskError::at("making the folder", folder))?;
        }
        Ok(tokio::fs::rename(part, &target).await.map_err(DiskError::at("moving a verified file to", &target))?)
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, url: &Url) -> Result<T, String> {
        let request = self.client.get(url.clone()).bearer_auth(self.key.as_str()).timeout(Duration::from_secs(30));
        let mut response = request.send().await.map_err(|error| whole_story(&error.without_url()))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let why = "it does not know this key: if its token was renewed, a new copy of the job gets a new key";
            return Err(why.to_owned());
        }
        if !matches!(response.status(), StatusCode::OK | StatusCode::CONFLICT) {
            return Err(format!("it answered {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| whole_story(&error.without_url()))? {
            body.extend_from_slice(&chunk);
            if body.len() as u64 > MAX_ANSWER {
                return Err("it answers more than a list of files can have".to_owned());
            }
        }
        serde_json::from_slice(&body).map_err(|error| format!("it answers something else: {error}"))
    }
}

/// The digest of a file that has the size expected.
async fn hash_of(path: &Path, size: u64) -> Option<Digest> {
    let mut file = tokio::fs::File::open(path).await.ok()?;
    if file.metadata().await.ok()?.len() != size {
        return None;
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).await.ok()? {
            0 => return Some(Digest(hash.finalize().into())),
            read => hash.update(&buffer[..read]),
        }
    }
}
