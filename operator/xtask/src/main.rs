//! The project's own commands: `cargo xtask --help`.

mod clusters;
mod demo;
mod progress;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, runs and tests Koinon on this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check this machine and make everything that the demo and the tests need; a second run takes seconds.
    Setup(clusters::Setup),
    /// Tell the whole story on three real clusters: found, join, share, vote, serve, cut, mend, stop.
    Demo(demo::Demo),
    /// Start datacenters without anything of Koinon in them, and leave them running.
    Up(clusters::Up),
    /// Remove everything that `up` or `demo` made, also after a crash.
    Down(clusters::Down),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup(args) => args.run(),
        Command::Demo(args) => args.run().await,
        Command::Up(args) => args.run().await,
        Command::Down(args) => args.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
