//! The project's own commands: `cargo xtask --help`.

mod charts;
mod clusters;
mod demo;
mod figures;
mod generate;
mod mutants;
mod progress;
mod promql;
mod size;
mod test;

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
    /// Three datacenters, three owners, one model served across them; exits 0 only if every step was observed.
    Demo(demo::Demo),
    /// Run the tests: all of them, or the stages named with --only.
    Test(test::Test),
    /// Write what is generated from the code: resource definitions and rendered manifests.
    Generate(generate::Generate),
    /// Run the fault table against agents without one of their handlings each; slow, and no part of `test`.
    Mutants(mutants::Mutants),
    /// Measure the operator in clusters of thousands of GPUs; takes half an hour, and is no part of `test`.
    Size(size::Size),
    /// Build the container images and print their digests.
    Images(clusters::Images),
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
        Command::Test(args) => args.run().await,
        Command::Generate(args) => args.run(),
        Command::Mutants(args) => args.run(),
        Command::Size(args) => args.run().await,
        Command::Images(args) => args.run(),
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
