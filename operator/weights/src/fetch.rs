//! One model from its source into the staging folder, verified, and from there among the models.

use std::path::Path;
use std::time::Duration;

use futures::{TryStreamExt, stream};
use koinon_core::ids::{Bytes, Digest, ManifestDigest};
use koinon_core::manifest::{FileFacts, MAX_MANIFEST, Manifest, ManifestError};
use reqwest::Url;

use crate::cache::{Full, Room, Settings, VOLUME_SETTING};
use crate::disk::{Disk, DiskError, MANIFEST};
use crate::download::{Download, DownloadError, Received, shown};
use crate::sources::{self, Origin, SourceError};
use crate::way::Way;
use crate::wire::{Failure, FailureReason, Want};

/// Files of one model at once: one connection seldom fills the wire to an object store, many help nobody.
const FILES_AT_ONCE: usize = 4;

#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("setting up the connection to {url}: {why}; check the source's certificates")]
    Client { url: String, why: String },
    #[error(transparent)]
    Download(#[from] DownloadError),
    #[error("{url} is not a manifest: {source}")]
    Manifest { url: String, source: ManifestError },
    #[error("{what} has digest {seen} instead of {expected}; the source does not hold the model that was voted")]
    Mismatch { what: String, expected: Digest, seen: Digest },
    #[error("the model has {needed} bytes where {allowed} are allowed; see --max-model-bytes")]
    TooLarge { needed: u64, allowed: u64 },
    #[error(transparent)]
    Full(#[from] Full),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "the disk is full: {source}; the model needs {} bytes, {} are free; {VOLUME_SETTING}, or end jobs whose models are \
         in use", known(*.needed), known(*.free)
    )]
    NoSpace { source: DiskError, needed: Option<u64>, free: Option<u64> },
    #[error("the task that fetched ended: {0}")]
    Task(tokio::task::JoinError),
}

impl FetchError {
    /// Whether nothing that was fetched may be kept.
    pub fn spoils(&self) -> bool {
        match self {
            Self::Mismatch { .. } | Self::Manifest { .. } | Self::TooLarge { .. } => true,
            // Half a model that finds no room is room that others need.
            Self::Full(_) | Self::NoSpace { .. } => true,
            Self::Download(error) => matches!(error, DownloadError::TooLarge { .. } | DownloadError::Full(_)),
            Self::Source(_) | Self::Client { .. } | Self::Disk(_) | Self::Task(_) => false,
        }
    }

    /// Says of a disk that was full how much was needed and how much there was.
    pub fn with_numbers(self, numbers: impl FnOnce() -> (Option<u64>, Option<u64>)) -> Self {
        match self {
            Self::Disk(source) | Self::Download(DownloadError::Disk(source))
                if disk_reason(&source) == FailureReason::DiskFull =>
            {
                let (needed, free) = numbers();
                Self::NoSpace { source, needed, free }
            }
            other => other,
        }
    }

    pub fn failure(&self, retry_in: Duration) -> Failure {
        let mut failure = Failure::new(self.reason(), self.to_string());
        failure.retry_in_seconds = retry_in.as_secs();
        match self {
            Self::Mismatch { expected, seen, .. } => {
                (failure.expected, failure.seen) = (Some(*expected), Some(*seen));
            }
            Self::TooLarge { needed, allowed } => {
                (failure.needed, failure.allowed) = (Some(*needed), Some(*allowed));
            }
            Self::Download(DownloadError::TooLarge { sent, allowed, .. }) => {
                (failure.needed, failure.allowed) = (Some(*sent), Some(*allowed));
            }
            Self::Full(full) | Self::Download(DownloadError::Full(full)) => {
                (failure.needed, failure.allowed) = (Some(full.needed), Some(full.free));
            }
            Self::NoSpace { needed, free, .. } => (failure.needed, failure.allowed) = (*needed, *free),
            _ => {}
        }
        failure
    }

    fn reason(&self) -> FailureReason {
        match self {
            Self::Source(_) => FailureReason::NoSource,
            Self::Client { .. } => FailureReason::SourceUnreachable,
            Self::Manifest { .. } => FailureReason::ManifestInvalid,
            Self::Mismatch { .. } => FailureReason::DigestMismatch,
            Self::TooLarge { .. } => FailureReason::TooLarge,
            Self::Full(_) | Self::NoSpace { .. } => FailureReason::DiskFull,
            Self::Disk(error) => disk_reason(error),
            Self::Task(_) => FailureReason::StorageFailed,
            Self::Download(error) => match error {
                // What the owner may do about it is to name it as a source.
                DownloadError::Way(_) => FailureReason::NoSource,
                DownloadError::Refused { .. } => FailureReason::SourceRefused,
                DownloadError::Unreachable { .. } | DownloadError::Slow { .. } => FailureReason::SourceUnreachable,
                DownloadError::TooLarge { .. } => FailureReason::TooLarge,
                DownloadError::Full(_) => FailureReason::DiskFull,
                DownloadError::Disk(error) => disk_reason(error),
            },
        }
    }
}

fn known(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "an unknown number of".to_owned(), |bytes| bytes.to_string())
}

fn disk_reason(error: &DiskError) -> FailureReason {
    match error.source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => FailureReason::DiskFull,
        _ => FailureReason::StorageFailed,
    }
}

/// One fetch: what, where to, within which bounds.
pub(crate) struct Fetch {
    pub digest: ManifestDigest,
    pub want: Want,
    pub disk: Disk,
    pub settings: Settings,
    pub room: Room,
}

impl Fetch {
    /// Brings the model among the complete ones, or says why not. Dropping the future leaves what can be resumed.
    pub async fn run(&self) -> Result<Manifest, FetchError> {
        let origin = sources::resolve(&self.want.uri, self.want.revision.as_ref(), &self.want.sources)?;
        let wrong = |why| FetchError::Client { url: shown(&origin.url), why };
        let way = Way::to(&origin, self.settings.patience.idle).map_err(wrong)?;
        let (disk, digest, request) = (self.disk.clone(), self.digest, remembered(&self.want));
        let staging = on_disk(move || disk.stage(&digest, &request)).await?;
        let manifest = match sources::single_file(&self.want.uri) {
            Some(name) => self.single(&way, &origin, &staging, name).await?,
            None => self.folder(&way, &origin, &staging).await?,
        };
        let (disk, whole) = (self.disk.clone(), manifest.clone());
        on_disk(move || disk.publish(&digest, &whole)).await?;
        Ok(manifest)
    }

    async fn single(&self, way: &Way, origin: &Origin, staging: &Path, name: &str) -> Result<Manifest, FetchError> {
        let invalid = |source| FetchError::Manifest { url: shown(&origin.url), source };
        let nothing = FileFacts { digest: Digest([0; 32]), size: Bytes(0) };
        Manifest::single(name, nothing).map_err(invalid)?;
        let part = staging.join("parts/0");
        let verified = |received: &Received| {
            let facts = FileFacts { digest: received.digest, size: Bytes(received.size) };
            let manifest = Manifest::single(name, facts).map_err(invalid)?;
            let (seen, expected) = (manifest.digest(), self.digest);
            let mismatch = || FetchError::Mismatch { what: shown(&origin.url), expected: expected.0, seen: seen.0 };
            if seen == expected { Ok(manifest) } else { Err(mismatch()) }
        };
        let manifest = self.download(way, &origin.url, &part, None, verified).await?;
        self.disk.keep(&part, staging, name)?;
        Ok(manifest)
    }

    async fn folder(&self, way: &Way, origin: &Origin, staging: &Path) -> Result<Manifest, FetchError> {
        let manifest = self.manifest(way, origin, staging).await?;
        let (needed, allowed) = (manifest.total().0, self.settings.model_limit);
        if needed > allowed {
            return Err(FetchError::TooLarge { needed, allowed });
        }
        self.room.ensure(needed).await?;
        self.room.progress.set_total(needed);
        let files = manifest
            .files()
            .enumerate()
            .map(|(number, (path, facts))| Ok::<_, FetchError>(self.file(way, origin, staging, number, path, facts)));
        stream::iter(files).try_for_each_concurrent(FILES_AT_ONCE, |file| file).await?;
        Ok(manifest)
    }

    async fn file(
        &self,
        way: &Way,
        origin: &Origin,
        staging: &Path,
        number: usize,
        path: &str,
        facts: FileFacts,
    ) -> Result<(), FetchError> {
        let here = tokio::fs::metadata(staging.join("files").join(path)).await.map(|facts| facts.len()).ok();
        if here == Some(facts.size.0) {
            return Ok(());
        }
        let part = staging.join("parts").join(number.to_string());
        let url = sources::file_url(&origin.url, path);
        let verified = |received: &Received| {
            let mismatch = || FetchError::Mismatch { what: shown(&url), expected: facts.digest, seen: received.digest };
            if received.digest == facts.digest { Ok(()) } else { Err(mismatch()) }
        };
        self.download(way, &url, &part, Some(facts.size.0), verified).await?;
        Ok(self.disk.keep(&part, staging, path)?)
    }

    /// Downloads and verifies one file. A wrong digest of a file that was resumed gets one attempt from the beginning: the
    /// first bytes may be from before a crash, or from another version at the source.
    async fn download<T>(
        &self,
        way: &Way,
        url: &Url,
        part: &Path,
        size: Option<u64>,
        verified: impl Fn(&Received) -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let download = Download {
            way,
            url,
            part,
            size,
            limit: self.settings.model_limit,
            patience: self.settings.patience,
            room: &self.room,
        };
        let received = download.run().await?;
        match verified(&received) {
            Err(FetchError::Mismatch { .. }) if received.resumed => {
                tracing::warn!(url = %shown(url), "wrong digest after resuming; starting again from the beginning");
                tokio::fs::remove_file(part).await.map_err(DiskError::at("removing", part))?;
                self.room.progress.take_back(received.size);
                verified(&download.run().await?)
            }
            verdict => verdict,
        }
    }

    /// The list of files: the one kept from an earlier attempt, or the source's.
    async fn manifest(&self, way: &Way, origin: &Origin, staging: &Path) -> Result<Manifest, FetchError> {
        let kept = staging.join(MANIFEST);
        let known = tokio::fs::read(&kept).await.ok().and_then(|text| Manifest::parse(&text).ok());
        if let Some(manifest) = known.filter(|manifest| manifest.digest() == self.digest) {
            return Ok(manifest);
        }
        let url = sources::file_url(&origin.url, MANIFEST);
        let part = staging.join("parts").join(MANIFEST);
        let aside = self.room.aside();
        let download = Download {
            way,
            url: &url,
            part: &part,
            size: None,
            limit: MAX_MANIFEST as u64,
            patience: self.settings.patience,
            room: &aside,
        };
        // It is small, and a half of an older one would only spoil it.
        let _ = tokio::fs::remove_file(&part).await;
        download.run().await?;
        let text = tokio::fs::read(&part).await.map_err(DiskError::at("reading", &part))?;
        let manifest = Manifest::parse(&text).map_err(|source| FetchError::Manifest { url: shown(&url), source })?;
        let (expected, seen) = (self.digest, manifest.digest());
        if expected != seen {
            return Err(FetchError::Mismatch { what: shown(&url), expected: expected.0, seen: seen.0 });
        }
        tokio::fs::rename(&part, &kept).await.map_err(DiskError::at("keeping the manifest as", &kept))?;
        Ok(manifest)
    }
}

/// What is kept on disk of a request, so that a restart can go on by itself: nothing where credentials were part of it.
fn remembered(want: &Want) -> Vec<u8> {
    let secret = want.sources.iter().any(|source| source.token.is_some());
    let kept = if secret { None } else { serde_json::to_vec(want).ok() };
    kept.unwrap_or_default()
}

/// Runs a blocking operation of the disk.
pub(crate) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, FetchError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(FetchError::Task)??)
}
