//! The one binary of a Koinon install. Each part of it is a subcommand; the charts run them as pods.

mod command;
mod probe;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use koinon_telemetry::logs;

use crate::command::{Command, Koinon, LongRunning};

fn main() -> ExitCode {
    let koinon = Koinon::parse();
    // What calls the driver's library does so in a process of its own: it takes no runtime and writes no logs.
    if let Command::Agent(LongRunning { args, .. }) = &koinon.command
        && let Some(command) = &args.command
    {
        return command.run();
    }
    match start(koinon) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The last line on standard error is what Kubernetes shows of a container that ended.
            eprintln!("koinon: {}", told_once(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error with those of its causes that it does not already tell.
fn told_once(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |told, cause| {
        let cause = cause.to_string();
        match told.as_str() {
            "" => cause,
            known if known.contains(&cause) => told,
            known => format!("{known}: {cause}"),
        }
    })
}

fn start(koinon: Koinon) -> Result<()> {
    let Koinon { log, command } = koinon;
    // Before anything can speak TLS: two providers in one process would make rustls panic at the first connection.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider was installed before ours"))?;
    logs::init(&log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(command.run())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_each_cause_once() {
        let inner = std::io::Error::other("disk gone");
        let error = anyhow::Error::new(inner).context("reading x: disk gone").context("starting");
        assert_eq!(told_once(&error), "starting: reading x: disk gone");
    }
}
