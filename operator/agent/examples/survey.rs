//! The surveying process alone, as `koinon agent survey` runs it. Tests put it in the place of that program.

use std::process::ExitCode;

use clap::Parser;
use koinon_agent::survey::{SurveyArgs, survey_main};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: SurveyArgs,
}

fn main() -> ExitCode {
    survey_main(&Command::parse().args)
}
