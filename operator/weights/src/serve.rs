//! The long-running half: the cache and its listener.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use koinon_telemetry::{Process, TaskError, Tasks, listen};
use tokio::net::TcpListener;

use crate::api;
use crate::cache::{Cache, Settings};
use crate::disk::DiskError;
use crate::metrics::Metrics;

/// Flags of `koinon weights serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Where models are served and asked for.
    #[arg(long, env = "KOINON_WEIGHTS_LISTEN", default_value = "0.0.0.0:8081")]
    pub listen: SocketAddr,
    /// Folder of the cache; a volume that outlives the pod saves fetching again.
    #[arg(long, env = "KOINON_WEIGHTS_DIR", default_value = "/var/lib/koinon/weights")]
    pub dir: PathBuf,
    /// Most that all models together may take, such as 200Gi or a number of bytes [default: what the file system has].
    #[arg(long, env = "KOINON_WEIGHTS_CAPACITY", value_parser = bytes)]
    pub capacity: Option<u64>,
    /// Most that one model may have.
    #[arg(long, env = "KOINON_WEIGHTS_MAX_MODEL", value_parser = bytes, default_value = "4Ti")]
    pub max_model_bytes: u64,
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
    let ServeArgs { listen, dir, capacity, max_model_bytes, token_file, keep_seconds, fetches, idle_seconds } = args;
    let metrics = Metrics::register(&process.registry)?;
    let storage = process.readiness.awaiting("storage", format!("reading {}", dir.display()));
    process.started();
    let mut settings = Settings {
        capacity,
        model_limit: max_model_bytes,
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

/// A number of bytes, plain or with a suffix as Kubernetes writes it.
fn bytes(text: &str) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u64.pow(2),
        "G" => 1000_u64.pow(3),
        "T" => 1000_u64.pow(4),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err("the unit must be one of k, M, G, T, Ki, Mi, Gi, Ti".into()),
    };
    let number: u64 = digits.parse().map_err(|_| "write a whole number and a unit, such as 200Gi")?;
    number.checked_mul(unit).ok_or_else(|| "it is too large".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_kubernetes_writes_them() {
        assert_eq!(bytes("200Gi").unwrap(), 200 << 30);
        assert_eq!(bytes("5M").unwrap(), 5_000_000);
        assert_eq!(bytes("42").unwrap(), 42);
        for wrong in ["", "Gi", "1.5Gi", "-1", "5X", "99999999Ti"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
