//! The subcommands.

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use koinon_agent::AgentArgs;
use koinon_control::OperatorArgs;
use koinon_gateway::GatewayArgs;
use koinon_telemetry::logs::LogArgs;
use koinon_telemetry::metrics::commit;
use koinon_telemetry::{HealthArgs, Process, Role};
use koinon_weights::{CopyArgs, ServeArgs};

use crate::probe::Probe;

/// The parts of Koinon that run inside a cluster. People use `kubectl koinon`.
#[derive(Debug, Parser)]
#[command(name = "koinon", version)]
pub struct Koinon {
    #[command(flatten)]
    pub log: LogArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// What to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The controllers and the peer endpoint.
    Operator(LongRunning<OperatorArgs>),
    /// The survey of this node's GPUs.
    Agent(LongRunning<AgentArgs>),
    /// The OpenAI-compatible gateway.
    Gateway(LongRunning<GatewayArgs>),
    /// The cache of model weights.
    #[command(subcommand)]
    Weights(Weights),
    /// Tries which connections a NetworkPolicy lets through.
    #[command(subcommand)]
    Probe(Probe),
    /// Prints the version.
    Version,
}

/// The cache of model weights.
#[derive(Debug, Subcommand)]
pub enum Weights {
    /// Fetches models, verifies them and serves them to engine pods.
    Serve(LongRunning<ServeArgs>),
    /// Copies a model from the cache and verifies it again; the init container of an engine pod.
    Copy(CopyArgs),
}

/// A part that runs until it is told to stop.
#[derive(Args, Debug)]
pub struct LongRunning<A: Args> {
    #[command(flatten)]
    pub health: HealthArgs,
    #[command(flatten)]
    pub args: A,
}

impl Command {
    pub async fn run(self) -> Result<()> {
        match self {
            Self::Operator(LongRunning { health, args }) => {
                let process = Process::start(Role::Operator, &health)?;
                Ok(koinon_control::run(args, process).await?)
            }
            Self::Agent(LongRunning { health, args }) => {
                let process = Process::start(Role::Agent, &health)?;
                Ok(koinon_agent::run(args, process).await?)
            }
            Self::Gateway(LongRunning { health, args }) => {
                let process = Process::start(Role::Gateway, &health)?;
                Ok(koinon_gateway::run(args, process).await?)
            }
            Self::Weights(Weights::Serve(LongRunning { health, args })) => {
                let process = Process::start(Role::Weights, &health)?;
                Ok(koinon_weights::serve(args, process).await?)
            }
            Self::Weights(Weights::Copy(args)) => Ok(koinon_weights::copy(args).await?),
            Self::Probe(probe) => probe.run().await,
            Self::Version => {
                println!("koinon {} ({})", env!("CARGO_PKG_VERSION"), commit());
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_and_flags_do_not_contradict_each_other() {
        Koinon::command().debug_assert();
    }
}
