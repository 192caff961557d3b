//! The long-running half: the cache and its listener.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use koinon_core::ids::Bytes;
use koinon_telemetry::{Process, TaskError, Tasks, listen};
use tokio::net::TcpListener;

use crate::api;
use crate::cache::{Cache, Settings};
use crate::disk::DiskError;
use crate::metrics::Metrics;

/// One part in so many of a volume is for folders, lists of files and the rests of blocks: the kubelet ends a pod whose
/// emptyDir has a byte more than its size, and counts these.
const FOLDERS: u64 = 100;

/// Flags of `koinon weights serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Where models are served and asked for.
    #[arg(long, env = "KOINON_WEIGHTS_LISTEN", default_value = "0.0.0.0:8081")]
    pub listen: SocketAddr,
    /// Folder of the cache; a volume that outlives the pod saves fetching again.
    #[arg(long, env = "KOINON_WEIGHTS_DIR", default_value = "/var/lib/koinon/weights")]
    pub dir: PathBuf,
    /// Size of the volume, such as 200Gi, where its file system shows more than may be used, as that of an emptyDir does.
    /// How much of the volume models may take is said by the operator, as the owner's spec.weights.size.
    #[arg(long, env = "KOINON_WEIGHTS_VOLUME_SIZE")]
    pub volume_size: Option<Bytes>,
    /// Most that one model may have.
    #[arg(long, env = "KOINON_WEIGHTS_MAX_MODEL", default_value = "4Ti")]
    pub max_model_bytes: Bytes,
    /// File with the token that the operator sends when it asks for a model; without it nobody may ask.
    #[arg(long, env = "KOINON_WEIGHTS_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// A model that was asked for or read within this time is not removed to make room.
    #[arg(long, env = "KOINON_WEIGHTS_KEEP_SECONDS", default_value_t = 600)]
    pub keep_seconds: u64,
    /// Models fetched at once.
    #[arg(long, env = "KOINON_WEIGHTS_FETCHES", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub fetches: u64,
    /// A source that sends nothing for so long is asked again for the rest.
    #[arg(long, env = "KOINON_WEIGHTS_IDLE_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub idle_seconds: u64,
}

/// Why the cache could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("listening on {address} for models: {source}; choose another with --listen")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The folder cannot be used.
    #[error("{0}; check the volume at --dir")]
    Disk(#[from] DiskError),
    /// A metric.
    #[error("registering the cache's metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A part of it ended.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Reading the folder panicked.
    #[error("reading the cache's folder: {0}")]
    Opening(tokio::task::JoinError),
}

/// Runs the cache until `process.stop`.
pub async fn serve(args: ServeArgs, process: Process) -> Result<(), ServeError> {
    let ServeArgs { listen, dir, volume_size, max_model_bytes, token_file, keep_seconds, fetches, idle_seconds } = args;
    let metrics = Metrics::register(&process.registry)?;
    let storage = process.readiness.awaiting("storage", format!("reading {}", dir.display()));
    process.started();
    let mut settings = Settings {
        volume: volume_size.map(|size| size.0 - size.0 / FOLDERS),
        model_limit: max_model_bytes.0,
        keep: Duration::from_secs(keep_seconds),
        fetches: usize::try_from(fetches).unwrap_or(1),
        ..Settings::default()
    };
    settings.patience.idle = Duration::from_secs(idle_seconds);
    let listener = TcpListener::bind(listen).await.map_err(|source| ServeError::Bind { address: listen, source })?;
    let stop = process.stop.clone();
    let opened = tokio::task::spawn_blocking(move || Cache::open(&dir, settings, metrics, stop));
    let cache = opened.await.map_err(ServeError::Opening)??;
    storage.met();
    tracing::info!(%listen, "serving models");
    let app = api::router(cache.clone(), token_file);
    // Engine pods are strangers: none may take all connections.
    let limits = listen::Limits { connections_per_address: 64, ..listen::Limits::default() };
    let mut tasks = Tasks::new();
    let stop = process.stop.clone();
    tasks.spawn("listener", listen::serve(listener, app, limits, stop.clone()));
    tasks.spawn("fetches", async move {
        stop.cancelled().await;
        cache.ended().await;
        io::Result::Ok(())
    });
    Ok(tasks.run(process.stop.clone(), limits.drain + Duration::from_secs(5)).await?)
}
