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

/// How long calls may go on after the request to stop, beyond which the pod's grace period in the chart must reach.
const STOPPING: Duration = Duration::from_secs(35);
/// A volume with less room holds no model at all: it is a mistake in its size.
const LEAST_ROOM: u64 = 16 << 20;

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
    /// Percent of that size that models may take. The rest is for folders, lists of files and the rests of blocks: the kubelet
    /// counts them too, and ends a pod whose emptyDir has a byte more than its size.
    #[arg(long, env = "KOINON_WEIGHTS_VOLUME_SHARE", default_value_t = 95, value_parser = clap::value_parser!(u64).range(1..=99))]
    pub volume_share: u64,
    /// Most that one model may have.
    #[arg(long, env = "KOINON_WEIGHTS_MAX_MODEL", default_value = "4Ti")]
    pub max_model_bytes: Bytes,
    /// File with the token that the operator sends; the keys with which copies read their models are derived from it. Without it
    /// nobody is answered.
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
    /// The volume is too small for anything.
    #[error(
        "models may take {share} percent of a volume of {size} bytes, which is {room} bytes: less than any model has; raise \
         --volume-size (the chart's weights.emptyDirSize or weights.persistence.size)"
    )]
    Volume {
        /// What the volume is said to have.
        size: u64,
        /// The share of it for models.
        share: u64,
        /// That share in bytes.
        room: u64,
    },
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
    let volume = room(&args)?;
    let ServeArgs { listen, dir, max_model_bytes, token_file, keep_seconds, fetches, idle_seconds, .. } = args;
    let metrics = Metrics::register(&process.registry)?;
    let storage = process.readiness.awaiting("storage", format!("reading {}", dir.display()));
    process.started();
    let mut settings = Settings {
        volume,
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
    let drain = STOPPING.saturating_sub(Duration::from_secs(5));
    let limits = listen::Limits { connections_per_address: 64, drain, ..listen::Limits::default() };
    let mut tasks = Tasks::new();
    let stop = process.stop.clone();
    tasks.spawn("listener", listen::serve(listener, app, limits, stop.clone()));
    tasks.spawn("fetches", async move {
        stop.cancelled().await;
        cache.ended().await;
        io::Result::Ok(())
    });
    Ok(tasks.run(process.stop.clone(), STOPPING).await?)
}

/// What models may take of the volume, where its size was stated.
fn room(args: &ServeArgs) -> Result<Option<u64>, ServeError> {
    let (share, Some(Bytes(size))) = (args.volume_share, args.volume_size) else { return Ok(None) };
    // Divided first: a size near the largest number must not overflow.
    let room = size / 100 * share;
    if room < LEAST_ROOM { Err(ServeError::Volume { size, share, room }) } else { Ok(Some(room)) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn args(flags: &[&str]) -> ServeArgs {
        Line::try_parse_from([&["koinon"], flags].concat()).unwrap().args
    }

    const CHART: &str = include_str!("../../../charts/koinon/templates/weights/statefulset.yaml");

    #[test]
    fn models_never_have_the_whole_of_a_volume_that_the_kubelet_watches() {
        assert_eq!(room(&args(&["--volume-size=50Gi"])).unwrap(), Some((50 << 30) / 100 * 95));
        assert_eq!(room(&args(&["--volume-size=100G", "--volume-share=80"])).unwrap(), Some(80_000_000_000));
        assert!(room(&args(&["--volume-size=18446744073709551615"])).unwrap().is_some());
        assert_eq!(room(&args(&[])).unwrap(), None);
        assert!(Line::try_parse_from(["koinon", "--volume-share=100"]).is_err());
    }

    #[test]
    fn a_volume_in_which_no_model_fits_is_an_error_at_the_start_that_names_what_to_raise() {
        let error = room(&args(&["--volume-size=10Mi"])).unwrap_err().to_string();
        assert!(error.contains("weights.emptyDirSize") && error.contains("10485760"), "{error}");
    }

    #[test]
    fn the_chart_tells_the_size_of_either_volume() {
        for value in
            ["KOINON_WEIGHTS_VOLUME_SIZE", "weights.emptyDirSize", "weights.persistence.size", "weights.volumeShare"]
        {
            assert!(CHART.contains(value), "{value}");
        }
    }

    #[test]
    fn the_pod_is_given_longer_to_stop_than_the_cache_takes() {
        let line = CHART.lines().find_map(|line| line.trim().strip_prefix("terminationGracePeriodSeconds: "));
        let grace = Duration::from_secs(line.unwrap().parse().unwrap());
        assert!(grace >= STOPPING + Duration::from_secs(5), "{grace:?}");
    }
}
