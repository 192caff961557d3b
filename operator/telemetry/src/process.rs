//! The frame of a long-running process.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use clap::Args;
use prometheus::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::health::{HealthError, HealthServer};
use crate::{Readiness, Registrar, metrics};

/// Which long-running part of Koinon this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The controllers and the peer endpoint.
    Operator,
    /// The survey of one node's GPUs.
    Agent,
    /// The OpenAI-compatible router.
    Gateway,
    /// The cache of model weights.
    Weights,
}

impl Role {
    /// The role's name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Agent => "agent",
            Self::Gateway => "gateway",
            Self::Weights => "weights",
        }
    }

    /// The port of the role's health listener.
    pub fn health_port(self) -> u16 {
        match self {
            Self::Operator => 9090,
            Self::Agent => 9091,
            Self::Gateway => 9092,
            Self::Weights => 9093,
        }
    }
}

/// Flags of every long-running subcommand.
#[derive(Args, Clone, Debug)]
pub struct HealthArgs {
    /// Where /livez, /readyz and /metrics are served [default: all addresses, port 9090 (operator), 9091 (agent), 9092 (gateway), 9093 (weights)].
    #[arg(long, env = "KOINON_HEALTH_LISTEN")]
    pub health_listen: Option<SocketAddr>,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The health listener.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// A metric of the frame itself.
    #[error("registering the metrics of the process: {0}")]
    Metrics(#[from] prometheus::Error),
    /// No signal handler.
    #[error("waiting for signals: {0}")]
    Signals(std::io::Error),
}

/// What a role is given to run in. Clones share everything.
#[derive(Clone, Debug)]
pub struct Process {
    /// Where the role registers its metrics; served at `/metrics`.
    pub registry: Registry,
    /// What the role still waits for; served at `/readyz`.
    pub readiness: Readiness,
    /// Cancelled on SIGTERM and SIGINT: the role stops taking new work, ends what it has, and returns.
    pub stop: CancellationToken,
    health: Arc<HealthServer>,
}

impl Process {
    /// Starts the health listener and waits for signals. Until [`Process::started`], `/readyz` says that the role starts.
    ///
    /// Call inside the role's runtime.
    pub fn start(role: Role, args: &HealthArgs) -> Result<Self, ProcessError> {
        let address =
            args.health_listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, role.health_port())));
        let registry = Registry::new();
        metrics::register(&Registrar::new(&registry), role.name())?;
        let readiness = Readiness::new();
        readiness.awaiting(START, "starting");
        let stop = CancellationToken::new();
        cancel_on_signal(&stop, &readiness).map_err(ProcessError::Signals)?;
        let health = Arc::new(HealthServer::start(address, registry.clone(), readiness.clone())?);
        tracing::info!(
            role = role.name(),
            version = env!("CARGO_PKG_VERSION"),
            commit = metrics::commit(),
            health = %health.address(),
            "starting"
        );
        Ok(Self { registry, readiness, stop, health })
    }

    /// Says that the role has registered everything it awaits. Without it `/readyz` never answers 200.
    pub fn started(&self) {
        self.readiness.awaiting(START, "starting").met();
    }

    /// Where the health listener listens.
    pub fn health_address(&self) -> SocketAddr {
        self.health.address()
    }
}

const START: &str = "start";

fn cancel_on_signal(stop: &CancellationToken, readiness: &Readiness) -> Result<(), std::io::Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, readiness) = (stop.clone(), readiness.clone());
    tokio::spawn(async move {
        for attempt in 0.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if attempt > 0 {
                tracing::warn!("second signal, leaving at once");
                std::process::exit(130);
            }
            tracing::info!("stopping");
            readiness.awaiting("stop", "this process is stopping");
            stop.cancel();
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_not_ready_before_its_role_says_so() {
        let args = HealthArgs { health_listen: Some(([127, 0, 0, 1], 0).into()) };
        let process = Process::start(Role::Weights, &args).unwrap();
        assert!(!process.readiness.is_ready());
        let disk = process.readiness.awaiting("disk", "reading what is there");
        process.started();
        assert_eq!(process.readiness.pending().len(), 1);
        disk.met();
        assert!(process.readiness.is_ready());
    }
}
