//! Which models are here, on their way, or failed; who may go when room is needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use koinon_core::ids::ManifestDigest;
use koinon_core::manifest::{FileFacts, Manifest};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::disk::{self, Disk, DiskError};
use crate::download::Patience;
use crate::fetch::{Fetch, FetchError};
use crate::metrics::Metrics;
use crate::wire::{Failure, ModelState, ModelStatus, Want};

/// Bounds of a cache.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of the volume that may be used, where its file system shows more.
    pub volume: Option<u64>,
    /// Bytes that one model may have.
    pub model_limit: u64,
    /// A model that was asked for or read within this time is not removed.
    pub keep: Duration,
    /// Models fetched at once; further ones wait.
    pub fetches: usize,
    /// The shortest time before an unchanged request that failed is tried again; doubled for each failure, at most an hour.
    pub retry: Duration,
    /// How patient downloads are.
    pub patience: Patience,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            volume: None,
            // The largest open-weight models have about 1.5 TB.
            model_limit: 4 << 40,
            keep: Duration::from_secs(600),
            fetches: 2,
            retry: Duration::from_secs(15),
            patience: Patience::default(),
        }
    }
}

/// No room for a model.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "no room: the model needs {needed} bytes, {free} are free or can be freed; {bound}, or end jobs whose models are in use"
)]
pub struct Full {
    /// Bytes of the whole model.
    pub needed: u64,
    /// Bytes that it could have.
    pub free: u64,
    /// What leaves it no more.
    pub bound: Bound,
}

/// What an owner changes to give models more room.
pub(crate) const VOLUME_SETTING: &str = "give the cache a larger volume (the chart's weights.emptyDirSize, or weights.persistence.size where that is enabled)";

/// What bounds the models that are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// What the owner lets them take.
    Capacity,
    /// What there is.
    Volume,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Capacity => "raise the Cooperative's spec.weights.size",
            Self::Volume => VOLUME_SETTING,
        })
    }
}

/// The cache. Clones share it.
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

struct Inner {
    disk: Disk,
    settings: Settings,
    metrics: Metrics,
    models: Mutex<BTreeMap<ManifestDigest, Model>>,
    /// What the last request said that models may take; [`u64::MAX`] where it said nothing.
    capacity: AtomicU64,
    turns: Semaphore,
    stop: CancellationToken,
    tasks: TaskTracker,
}

enum Model {
    /// Left on disk by an earlier process; counts as absent until somebody asks.
    Begun {
        bytes: u64,
    },
    Fetching(Arc<Progress>),
    Ready(Arc<Held>),
    Failed(Box<Failed>),
}

/// A fetch that failed, and what decides when it is tried again.
struct Failed {
    failure: Failure,
    want: Want,
    tries: u32,
    again: Instant,
    /// Bytes left on disk, from which a later attempt goes on.
    kept: u64,
}

/// A complete model. Whoever holds it keeps it from being removed.
pub struct Held {
    manifest: Manifest,
    bytes: u64,
    used: Mutex<SystemTime>,
}

impl Held {
    /// The model's files.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn used(&self) -> MutexGuard<'_, SystemTime> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far a fetch is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    bytes: AtomicU64,
    total: AtomicU64,
    reserved: AtomicU64,
    fetched: Option<prometheus::IntCounter>,
}

impl Progress {
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(fetched) = &self.fetched {
            fetched.inc_by(bytes);
        }
    }

    pub fn take_back(&self, bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        // The closure never declines, so there is no error to handle.
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    pub fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    fn state(&self) -> ModelState {
        let total = self.total.load(Ordering::Relaxed);
        ModelState::Fetching { bytes: self.bytes.load(Ordering::Relaxed), total: (total > 0).then_some(total) }
    }

    fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Relaxed)
    }

    /// What the whole model has, as far as that is known.
    fn needed(&self) -> Option<u64> {
        Some(self.total.load(Ordering::Relaxed).max(self.reserved())).filter(|needed| *needed > 0)
    }

    /// Reserved bytes that are not on disk yet.
    fn outstanding(&self) -> u64 {
        self.reserved().saturating_sub(self.bytes.load(Ordering::Relaxed))
    }
}

/// A folder that was moved out of sight, if it was there, and has to be deleted.
type Hidden = Result<Option<PathBuf>, DiskError>;

/// The right of one fetch to take room on disk.
pub(crate) struct Room {
    /// The cache that is shared with others, and the model this is for; without it there is no bound but the disk's.
    shared: Option<(Arc<Inner>, ManifestDigest)>,
    pub progress: Arc<Progress>,
}

impl Cache {
    /// Reads what is on disk and goes on with what was begun, where no credential is missing for it. Blocks on the disk.
    ///
    /// Call inside a runtime.
    pub fn open(root: &Path, settings: Settings, metrics: Metrics, stop: CancellationToken) -> Result<Self, DiskError> {
        let disk = Disk::open(root)?;
        let mut models = BTreeMap::new();
        let mut unfinished = Vec::new();
        for begun in disk.begun()? {
            models.insert(begun.digest, Model::Begun { bytes: begun.bytes });
            let want = begun.request.and_then(|request| serde_json::from_slice::<Want>(&request).ok());
            unfinished.extend(want.map(|want| (begun.digest, want)));
        }
        for found in disk.complete()? {
            let bytes = found.manifest.total().0;
            let held = Held { manifest: found.manifest, bytes, used: Mutex::new(found.used) };
            models.insert(found.digest, Model::Ready(Arc::new(held)));
        }
        tracing::info!(models = models.len(), unfinished = unfinished.len(), "read the cache's folder");
        let here: u64 = models.values().map(Model::takes).sum();
        if let (Some(volume), Ok(free)) = (settings.volume, disk.free())
            && volume > free.saturating_add(here)
        {
            tracing::warn!(volume, free, here, "the file system has less left than models may take; {VOLUME_SETTING}");
        }
        let turns = Semaphore::new(settings.fetches);
        let models = Mutex::new(models);
        let tasks = TaskTracker::new();
        let capacity = AtomicU64::new(u64::MAX);
        let cache = Self(Arc::new(Inner { disk, settings, metrics, models, capacity, turns, stop, tasks }));
        cache.0.count(&cache.0.models());
        for (digest, want) in unfinished {
            cache.want(digest, want);
        }
        Ok(cache)
    }

    /// Asks for a model. Fetches it unless it is here, on its way, or has just failed in the same way.
    pub fn want(&self, digest: ManifestDigest, want: Want) -> ModelStatus {
        let mut models = self.0.models();
        self.0.capacity.store(want.capacity.map_or(u64::MAX, |capacity| capacity.0), Ordering::Relaxed);
        let (bytes, tries) = match models.get(&digest) {
            Some(Model::Ready(held)) => {
                self.0.touch(digest, held);
                return ModelStatus { digest, state: ModelState::Ready { bytes: held.bytes } };
            }
            Some(Model::Fetching(progress)) => return ModelStatus { digest, state: progress.state() },
            Some(model @ Model::Failed(failed)) => {
                let same = failed.want == want;
                if same && Instant::now() < failed.again {
                    return ModelStatus { digest, state: model.state() };
                }
                (failed.kept, if same { failed.tries } else { 0 })
            }
            Some(Model::Begun { bytes }) => (*bytes, 0),
            None => (0, 0),
        };
        let fetched = Some(self.0.metrics.fetched_bytes.clone());
        // What is there of an earlier attempt keeps its room while this one waits for its turn.
        let progress = Progress { bytes: bytes.into(), reserved: bytes.into(), fetched, ..Progress::default() };
        let progress = Arc::new(progress);
        let state = progress.state();
        models.insert(digest, Model::Fetching(progress.clone()));
        self.0.count(&models);
        drop(models);
        self.0.tasks.spawn(self.0.clone().fetch(digest, want, progress, tries));
        ModelStatus { digest, state }
    }

    /// How far one model is.
    pub fn status(&self, digest: ManifestDigest) -> ModelStatus {
        let state = self.0.models().get(&digest).map_or(ModelState::Absent, Model::state);
        ModelStatus { digest, state }
    }

    /// How far all models are that are here, on their way, or failed.
    pub fn list(&self) -> Vec<ModelStatus> {
        let models = self.0.models();
        let all = models.iter().map(|(digest, model)| ModelStatus { digest: *digest, state: model.state() });
        all.filter(|status| status.state != ModelState::Absent).collect()
    }

    /// A complete model; it is not removed while what is returned lives.
    pub fn hold(&self, digest: ManifestDigest) -> Option<Arc<Held>> {
        let models = self.0.models();
        let Some(Model::Ready(held)) = models.get(&digest) else { return None };
        self.0.touch(digest, held);
        Some(held.clone())
    }

    /// Where a file of a complete model lies. The path must be one of its manifest: no other leads anywhere.
    pub fn file(&self, digest: ManifestDigest, held: &Held, path: &str) -> Option<(PathBuf, FileFacts)> {
        let (path, facts) = held.manifest.files().find(|(known, _)| *known == path)?;
        Some((self.0.disk.model(&digest).join("files").join(path), facts))
    }

    /// Throws away a model of which a file turned out to be damaged; the next request fetches it again.
    pub async fn damaged(&self, digest: ManifestDigest) {
        tracing::error!(%digest, "a file of this model is damaged on disk; throwing the model away");
        let hidden = {
            let mut models = self.0.models();
            models.remove(&digest);
            self.0.count(&models);
            self.0.disk.hide(&self.0.disk.model(&digest))
        };
        self.0.delete(hidden).await;
    }

    /// The metrics of this cache.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Waits until no fetch is running; they end after the stop.
    pub async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Model {
    fn state(&self) -> ModelState {
        match self {
            Self::Begun { .. } => ModelState::Absent,
            Self::Fetching(progress) => progress.state(),
            Self::Ready(held) => ModelState::Ready { bytes: held.bytes },
            Self::Failed(failed) => {
                let retry_in_seconds = failed.again.saturating_duration_since(Instant::now()).as_secs();
                ModelState::Failed(Failure { retry_in_seconds, ..failed.failure.clone() })
            }
        }
    }

    /// Bytes that are, or may come to be, on disk.
    fn takes(&self) -> u64 {
        match self {
            Self::Begun { bytes } => *bytes,
            Self::Fetching(progress) => progress.reserved(),
            Self::Ready(held) => held.bytes,
            Self::Failed(failed) => failed.kept,
        }
    }

    /// When it was last of use, if it may be removed. Halves of models go before whole ones.
    fn removable(&self, now: SystemTime, keep: Duration) -> Option<SystemTime> {
        match self {
            Self::Begun { .. } => Some(SystemTime::UNIX_EPOCH),
            Self::Failed(failed) => (failed.kept > 0).then_some(SystemTime::UNIX_EPOCH),
            Self::Fetching(_) => None,
            Self::Ready(held) => {
                let used = *held.used();
                // A clock that went back makes the difference an error: then it counts as used just now.
                let idle = now.duration_since(used).is_ok_and(|since| since >= keep);
                (Arc::strong_count(held) == 1 && idle).then_some(used)
            }
        }
    }
}

impl Inner {
    // A panic under the lock cannot leave the map between two states: each change is one insert or remove.
    fn models(&self) -> MutexGuard<'_, BTreeMap<ManifestDigest, Model>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, models: &BTreeMap<ManifestDigest, Model>) {
        self.metrics.count(models.values().map(|model| (model.state(), model.takes())));
    }

    fn touch(&self, digest: ManifestDigest, held: &Held) {
        let now = SystemTime::now();
        let mut used = held.used();
        // Often enough for an order by days, seldom enough not to write at each poll.
        let stale = now.duration_since(*used).map_or(true, |since| since > Duration::from_secs(60));
        *used = now;
        if stale {
            let disk = self.disk.clone();
            self.tasks.spawn_blocking(move || {
                if let Err(error) = disk.touch(&digest) {
                    tracing::warn!(%error, "noting that a model is of use");
                }
            });
        }
    }

    async fn fetch(self: Arc<Self>, digest: ManifestDigest, want: Want, progress: Arc<Progress>, tries: u32) {
        let outcome = tokio::select! {
            () = self.stop.cancelled() => None,
            outcome = self.clone().attempt(digest, want.clone(), progress.clone()) => Some(outcome),
        };
        let model = match outcome {
            None => Model::Begun { bytes: self.disk.staged_bytes(&digest) },
            Some(Ok(manifest)) => {
                let bytes = manifest.total().0;
                tracing::info!(%digest, bytes, "a model is ready");
                self.metrics.fetches.with_label_values(&["Ready"]).inc();
                Model::Ready(Arc::new(Held { manifest, bytes, used: Mutex::new(SystemTime::now()) }))
            }
            Some(Err(error)) => {
                let wait = self.settings.retry.saturating_mul(1 << tries.min(16)).min(Duration::from_secs(3600));
                let error = error.with_numbers(|| (progress.needed(), self.disk.free().ok()));
                let failure = error.failure(wait);
                tracing::warn!(%digest, uri = %want.uri, reason = failure.reason.name(), %error, "fetching a model failed");
                self.metrics.fetches.with_label_values(&[failure.reason.name()]).inc();
                if error.spoils() {
                    self.delete(self.disk.hide(&self.disk.staging(&digest))).await;
                }
                let kept = self.disk.staged_bytes(&digest);
                Model::Failed(Box::new(Failed { failure, want, tries: tries + 1, again: Instant::now() + wait, kept }))
            }
        };
        let mut models = self.models();
        models.insert(digest, model);
        self.count(&models);
    }

    async fn attempt(
        self: Arc<Self>,
        digest: ManifestDigest,
        want: Want,
        progress: Arc<Progress>,
    ) -> Result<Manifest, FetchError> {
        // The semaphore is never closed, so an error cannot come; without a turn the fetch would only be less patient.
        let _turn = self.turns.acquire().await.ok();
        tracing::info!(%digest, uri = %want.uri, "fetching a model");
        let room = Room { shared: Some((self.clone(), digest)), progress };
        let (disk, settings) = (self.disk.clone(), self.settings.clone());
        let fetch = Fetch { digest, want, disk, settings, room };
        // In a task of its own, so that a panic there becomes a failure here.
        let task = AbortOnDropHandle::new(tokio::spawn(async move { fetch.run().await }));
        task.await.map_err(FetchError::Task)?
    }

    async fn delete(&self, hidden: Hidden) {
        let deleted = match hidden {
            Ok(None) => return,
            Ok(Some(hidden)) => self.tasks.spawn_blocking(move || disk::delete(&hidden)).await.unwrap_or(Ok(())),
            Err(error) => Err(error),
        };
        if let Err(error) = deleted {
            tracing::error!(%error, "throwing away a model");
        }
    }

    /// Reserves, or hides one model, whose folder is to be deleted before trying again.
    ///
    /// It is hidden under the lock: a new request for it must not find its own folder disappear.
    fn reserve_or_hide(&self, digest: ManifestDigest, progress: &Progress, total: u64) -> Result<Option<Hidden>, Full> {
        let mut models = self.models();
        let others = || models.iter().filter(|(other, _)| **other != digest);
        let outstanding: u64 = others()
            .map(|(_, model)| if let Model::Fetching(progress) = model { progress.outstanding() } else { 0 })
            .sum();
        let here = progress.bytes.load(Ordering::Relaxed);
        // A file system that does not say what it has left says so when it is full.
        let on_disk = self.disk.free().unwrap_or(u64::MAX);
        let on_disk = on_disk.saturating_sub(outstanding).saturating_add(here);
        let taken: u64 = others().map(|(_, model)| model.takes()).sum();
        let capacity = self.capacity.load(Ordering::Relaxed);
        // What this model could have once so many bytes of others are gone, and what leaves it no more.
        let with = |freed: u64| {
            let left = |bytes: u64| bytes.saturating_sub(taken.saturating_sub(freed));
            let volume = left(self.settings.volume.unwrap_or(u64::MAX)).min(on_disk.saturating_add(freed));
            let by_owner = left(capacity);
            if by_owner < volume { (by_owner, Bound::Capacity) } else { (volume, Bound::Volume) }
        };
        if total <= with(0).0 {
            progress.reserved.fetch_max(total, Ordering::Relaxed);
            return Ok(None);
        }
        let (now, keep) = (SystemTime::now(), self.settings.keep);
        let removable: Vec<_> =
            others().filter_map(|(other, model)| Some((model.removable(now, keep)?, *other, model.takes()))).collect();
        let (free, bound) = with(removable.iter().map(|(_, _, bytes)| bytes).sum());
        let least = removable.into_iter().min();
        match least {
            // Nothing is removed for a model that would not fit even then.
            Some((_, oldest, bytes)) if total <= free => {
                tracing::info!(digest = %oldest, bytes, for_model = %digest, "removing the model of least recent use");
                self.metrics.evictions.inc();
                let whole = matches!(models.remove(&oldest), Some(Model::Ready(_)));
                self.count(&models);
                let disk = &self.disk;
                Ok(Some(disk.hide(&if whole { disk.model(&oldest) } else { disk.staging(&oldest) })))
            }
            _ => Err(Full { needed: total, free, bound }),
        }
    }
}

impl Room {
    /// A room for small things beside the model, which do not count in its progress.
    pub fn aside(&self) -> Self {
        Self { shared: self.shared.clone(), progress: Arc::default() }
    }

    /// A room that nobody else uses.
    pub fn unbounded() -> Self {
        Self { shared: None, progress: Arc::default() }
    }

    /// Makes sure that the whole model may have `total` bytes; removes what has been of no use for longest if it must.
    pub async fn ensure(&self, total: u64) -> Result<(), Full> {
        let Some((cache, digest)) = &self.shared else { return Ok(()) };
        while self.progress.reserved() < total {
            let Some(hidden) = cache.reserve_or_hide(*digest, &self.progress, total)? else { break };
            cache.delete(hidden).await;
        }
        Ok(())
    }
}
