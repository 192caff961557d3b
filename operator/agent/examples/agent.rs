//! The agent without the rest of Koinon: `agent agent …` is what `koinon agent …` is. Tests put it in the place of that
//! program, so that the surveying process is the one that is shipped.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use koinon_agent::AgentArgs;
use koinon_telemetry::logs::{self, LogArgs};
use koinon_telemetry::{HealthArgs, Process, Role};

#[derive(Parser)]
struct Koinon {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    Agent(Agent),
}

#[derive(Args)]
struct Agent {
    #[command(flatten)]
    health: HealthArgs,
    #[command(flatten)]
    args: AgentArgs,
}

fn main() -> ExitCode {
    let Koinon { log, part: Part::Agent(Agent { health, args }) } = Koinon::parse();
    if let Some(command) = &args.command {
        return command.run();
    }
    match run(&log, &health, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(log: &LogArgs, health: &HealthArgs, args: AgentArgs) -> Result<(), Box<dyn std::error::Error>> {
    logs::init(log)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let process = Process::start(Role::Agent, health)?;
        Ok(koinon_agent::run(args, process).await?)
    })
}
