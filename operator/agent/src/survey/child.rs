//! The surveying process: `koinon agent survey`, which only the agent starts.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::nvml::{self, Trace};
use super::wire::{Answer, MARK};

/// Flags of the surveying process.
#[derive(Debug, Clone, clap::Args)]
pub struct SurveyArgs {
    /// The NVML library: a file, or a name that the dynamic linker knows.
    #[arg(long, env = "KOINON_NVML_LIB", default_value = "libnvidia-ml.so.1")]
    pub nvml_lib: PathBuf,
    /// Writes each call to this file as `symbol return-code struct-size`, without any value.
    #[arg(long)]
    pub nvml_trace: Option<PathBuf>,
}

/// Asks NVML once and prints the answer as one line of JSON. The process should end with what this returns.
///
/// A failing NVML is an answer, and the exit status is then 0 as well: another status means that there is none.
pub fn survey_main(args: &SurveyArgs) -> ExitCode {
    let trace = match args.nvml_trace.as_deref().map_or_else(|| Ok(Trace::off()), Trace::to) {
        Ok(trace) => trace,
        Err(error) => {
            let path = args.nvml_trace.as_deref().unwrap_or(std::path::Path::new(""));
            eprintln!("creating the trace {}: {error}; check --nvml-trace", path.display());
            return ExitCode::FAILURE;
        }
    };
    match print(&nvml::survey(args.nvml_lib.as_os_str(), trace)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("printing what NVML answered: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(answer: &Answer) -> std::io::Result<()> {
    // On a line of its own, also after a library that printed half a line.
    let line = format!("\n{MARK}{}\n", serde_json::to_string(answer)?);
    let mut output = std::io::stdout().lock();
    output.write_all(line.as_bytes())?;
    output.flush()
}
