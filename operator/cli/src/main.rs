//! `kubectl koinon`: what people do with a Koinon cooperative.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    if let Err(error) = rustls::crypto::aws_lc_rs::default_provider().install_default() {
        eprintln!("error: another TLS provider is installed already: {error:?}");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(koinon_cli::Cli::parse().run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", koinon_cli::told(&error));
            ExitCode::FAILURE
        }
    }
}
