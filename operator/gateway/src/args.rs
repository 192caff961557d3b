//! Flags of `koinon gateway`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

/// Flags of `koinon gateway`. Inside a cluster the chart sets them all.
#[derive(Args, Clone, Debug)]
pub struct GatewayArgs {
    /// Where applications of this cluster call.
    #[arg(long, env = "KOINON_GATEWAY_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Where other members' gateways call, with mutual TLS.
    #[arg(long, env = "KOINON_GATEWAY_MEMBER_LISTEN", default_value = "0.0.0.0:7444")]
    pub member_listen: SocketAddr,
    /// The release namespace.
    #[arg(long, env = "KOINON_NAMESPACE", default_value = "koinon-system")]
    pub namespace: String,
    /// The most bytes that one request may have.
    #[arg(long, env = "KOINON_GATEWAY_MAX_BODY_BYTES", default_value_t = 16 << 20)]
    pub max_body_bytes: usize,
    /// The most bytes that all requests on their way may have together, for each of the two listeners. A request that is
    /// rewritten exists twice for a moment, so memory for four times as much must be there.
    #[arg(long, env = "KOINON_GATEWAY_MAX_BUFFERED_BYTES", default_value_t = 128 << 20)]
    pub max_buffered_bytes: usize,
    /// The most calls that are worked on at once, for each of the two listeners.
    #[arg(long, env = "KOINON_GATEWAY_MAX_IN_FLIGHT", default_value_t = 1024)]
    pub max_in_flight: usize,
    /// How long making a connection may take.
    #[arg(long, env = "KOINON_GATEWAY_CONNECT_SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub connect_seconds: u64,
    /// How long a request's body may take to arrive.
    #[arg(long, env = "KOINON_GATEWAY_BODY_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub body_seconds: u64,
    /// How long the first byte of an answer may take, over all attempts; long prompts take minutes.
    #[arg(long, env = "KOINON_GATEWAY_FIRST_BYTE_SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub first_byte_seconds: u64,
    /// How long an answer that has begun may say nothing.
    #[arg(long, env = "KOINON_GATEWAY_IDLE_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub idle_seconds: u64,
    /// How long new calls are still taken after the request to stop, until every proxy has heard that this pod goes.
    #[arg(long, env = "KOINON_GATEWAY_LINGER_SECONDS", default_value_t = 5)]
    pub linger_seconds: u64,
    /// How long calls that have begun may then go on. The pod's grace period must be longer than both together.
    #[arg(long, env = "KOINON_GATEWAY_DRAIN_SECONDS", default_value_t = 120)]
    pub drain_seconds: u64,
}

impl GatewayArgs {
    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    pub(crate) fn linger(&self) -> Duration {
        Duration::from_secs(self.linger_seconds)
    }
}
