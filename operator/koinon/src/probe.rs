//! The two ends of the NetworkPolicy probe. What they mean is judged by who runs them.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::timeout;

/// One end of the probe.
#[derive(Debug, Subcommand)]
pub enum Probe {
    /// Tries each target once and writes what happened, as JSON.
    Connect {
        /// What to connect to, HOST:PORT.
        #[arg(required = true)]
        targets: Vec<String>,
        /// How long one attempt may take: a policy drops packets silently.
        #[arg(long, default_value_t = 5)]
        timeout_seconds: u64,
        /// Where to write the result; by default what Kubernetes shows as the container's termination message.
        #[arg(long, default_value = "/dev/termination-log")]
        result: PathBuf,
    },
    /// Accepts connections and closes them.
    Listen {
        /// Where.
        #[arg(long, default_value = "0.0.0.0:8080")]
        listen: SocketAddr,
        /// For how long.
        #[arg(long, default_value_t = 120)]
        seconds: u64,
    },
}

/// What came of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Outcome {
    /// Something accepted.
    Connected,
    /// Something refused: the packets got through.
    Refused,
    /// No answer at all.
    TimedOut,
    /// Anything else, such as a name that does not resolve.
    Failed,
}

#[derive(Debug, Serialize)]
struct Attempt {
    target: String,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl Probe {
    pub async fn run(self) -> Result<()> {
        match self {
            Self::Connect { targets, timeout_seconds, result } => {
                let mut attempts = Vec::new();
                for target in targets {
                    attempts.push(attempt(target, Duration::from_secs(timeout_seconds)).await);
                }
                let text = serde_json::to_string(&attempts)?;
                println!("{text}");
                std::fs::write(&result, text).with_context(|| format!("writing the result to {}", result.display()))
            }
            Self::Listen { listen, seconds } => {
                let listener = TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
                let accepting = async {
                    loop {
                        if let Ok((stream, from)) = listener.accept().await {
                            tracing::info!(%from, "connected");
                            drop(stream);
                        }
                    }
                };
                // Ending is what it is for, so running out of time is not an error.
                let _: Result<(), _> = timeout(Duration::from_secs(seconds), accepting).await;
                Ok(())
            }
        }
    }
}

async fn attempt(target: String, within: Duration) -> Attempt {
    let connecting = async {
        let addresses: Vec<_> = lookup_host(&target).await?.collect();
        TcpStream::connect(addresses.as_slice()).await.map(drop)
    };
    let (outcome, message) = match timeout(within, connecting).await {
        Err(_) => (Outcome::TimedOut, None),
        Ok(Ok(())) => (Outcome::Connected, None),
        Ok(Err(error)) => {
            let outcome = match error.kind() {
                io::ErrorKind::ConnectionRefused => Outcome::Refused,
                io::ErrorKind::TimedOut => Outcome::TimedOut,
                _ => Outcome::Failed,
            };
            (outcome, Some(error.to_string()))
        }
    };
    Attempt { target, outcome, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_open_a_closed_and_an_impossible_target_are_told_apart() {
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed_at = closed.local_addr().unwrap();
        drop(closed);
        let seen = async |target: String| attempt(target, Duration::from_secs(5)).await.outcome;
        assert_eq!(seen(open.local_addr().unwrap().to_string()).await, Outcome::Connected);
        assert_eq!(seen(closed_at.to_string()).await, Outcome::Refused);
        assert_eq!(seen("no-port".to_owned()).await, Outcome::Failed);
    }
}
