//! `koinon-challenge`: the engine of challenges.

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use koinon_challenge::device::Device;
use koinon_challenge::proving::Proving;
use koinon_challenge::{cpu, cuda, server};
use koinon_core::ids::Bytes;
use koinon_telemetry::{CancellationToken, listen, logs};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// What computes.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Backend {
    /// The pod's NVIDIA GPUs.
    Cuda,
    /// Processors: only where GPUs are pretended.
    Cpu,
}

/// Computes on the GPUs of its pod what another member of a Koinon cooperative asks for, and shows that it did.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    log: logs::LogArgs,
    /// Where to listen.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    host: IpAddr,
    /// On which port.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// What computes.
    #[arg(long, value_enum, default_value_t = Backend::Cuda)]
    backend: Backend,
    /// How many devices there have to be.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    devices: u8,
    /// With processors: the most memory that the matrix of each may take.
    #[arg(long, default_value = "64Mi")]
    cpu_memory: Bytes,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The last line on standard error is what Kubernetes shows of a container that ended.
            eprintln!("koinon-challenge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    logs::init(&args.log)?;
    let count = usize::from(args.devices);
    let devices: Vec<Box<dyn Device>> = match args.backend {
        Backend::Cpu => (0..count).map(|_| Box::new(cpu::Cpu::new(args.cpu_memory)) as Box<dyn Device>).collect(),
        Backend::Cuda => {
            let found = cuda::open().context("opening the GPUs of this pod")?;
            ensure!(found.len() == count, "this pod has {} GPUs and was given {count} (--devices)", found.len());
            found.into_iter().map(|device| Box::new(device) as Box<dyn Device>).collect()
        }
    };
    for device in &devices {
        tracing::info!(name = device.name(), bytes = device.memory().0, "a device is ready");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let served = runtime.block_on(serve(server::router(Proving::new(devices)), args.host, args.port));
    // What still computes ends with the process: nobody waits for its answer.
    runtime.shutdown_background();
    served
}

async fn serve(app: axum::Router, host: IpAddr, port: u16) -> Result<()> {
    let listener = TcpListener::bind((host, port)).await.with_context(|| format!("listening on {host}:{port}"))?;
    let stop = CancellationToken::new();
    let mut ends = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let stopped = stop.clone();
    tokio::spawn(async move {
        ends.recv().await;
        stopped.cancel();
    });
    let limits = listen::Limits { connections: 64, connections_per_address: 32, ..listen::Limits::default() };
    listen::serve(listener, app, limits, stop).await.context("serving")
}
