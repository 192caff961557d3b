//! Log output: text for people, JSON for collectors.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// Flags of every subcommand that writes logs.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// How log lines are written.
    #[arg(long, env = "KOINON_LOG_FORMAT", value_enum, default_value_t, global = true)]
    pub log_format: LogFormat,
    /// Which log lines are written: a level, or a list such as `info,koinon_net=debug`.
    ///
    /// A failed watch is told of by Koinon itself, once, so the library's line about it is left out.
    #[arg(long, env = "KOINON_LOG", default_value = "info,kube_runtime::watcher=error", global = true)]
    pub log: String,
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("reading the log filter `{filter}`: {source}; write for example --log info or --log info,koinon_net=debug")]
    Filter {
        /// What was given.
        filter: String,
        /// What the parser said.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else in this process took the global subscriber.
    #[error("setting up logs: another subscriber is already set")]
    AlreadySet,
}

/// Sends events to standard error in the format asked for. Standard output stays free for what a command answers.
pub fn init(args: &LogArgs) -> Result<(), LogError> {
    let filter =
        EnvFilter::try_new(&args.log).map_err(|source| LogError::Filter { filter: args.log.clone(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match args.log_format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    set.map_err(|_| LogError::AlreadySet)
}
