//! Flags of `koinon operator`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

/// Flags of `koinon operator`. Inside a cluster the chart sets them all.
#[derive(Args, Clone, Debug)]
pub struct OperatorArgs {
    /// The release namespace: where the Cooperative and everything that belongs to it stands.
    #[arg(long, env = "KOINON_NAMESPACE", default_value = "koinon-system")]
    pub namespace: String,

    /// The name of the Helm release, by which the parts of one install find each other.
    #[arg(long, env = "KOINON_RELEASE", default_value = "koinon")]
    pub release: String,

    /// The name of this pod: shown as the holder of the leader lease, and labelled while it leads, so that peers find it.
    #[arg(long, env = "KOINON_POD_NAME", default_value = "koinon-operator")]
    pub pod_name: String,

    /// The namespace of the agents, in which each of them keeps its heartbeat. Without it this release has no agents, and
    /// this member shares no GPUs.
    #[arg(long, env = "KOINON_AGENT_NAMESPACE")]
    pub agent_namespace: Option<String>,

    /// Where the peer endpoint listens while this replica leads.
    #[arg(long, env = "KOINON_PEER_LISTEN", default_value = "0.0.0.0:7443")]
    pub peer_listen: SocketAddr,

    /// The image of this operator, from which the init container of a placement is run.
    #[arg(long, env = "KOINON_IMAGE", default_value = "koinon:dev")]
    pub image: String,

    /// Where the weights cache of this cluster answers.
    #[arg(long, env = "KOINON_WEIGHTS_URL", default_value = "http://koinon-weights:8081")]
    pub weights_url: String,

    /// Taint nodes with GPUs that must not be used, where a pool asks for it. The chart sets it together with the right to.
    #[arg(long, env = "KOINON_TAINT_NODES")]
    pub taint_nodes: bool,

    /// Taint single GPUs that must not be used, where a pool asks for it. The chart sets it together with the right to.
    #[arg(long, env = "KOINON_TAINT_DEVICES")]
    pub taint_devices: bool,

    /// Where the gateway of this cluster answers applications. Challenges of other members' GPUs go through it.
    #[arg(long, env = "KOINON_GATEWAY_URL", default_value = "http://koinon-gateway:8080")]
    pub gateway_url: String,

    /// Seconds for which the leader lease holds without a renewal.
    #[arg(long, env = "KOINON_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(5..=300))]
    pub lease_seconds: u32,

    /// The most bytes of one author's statements that are kept here, whatever the charter's budgets allow. Beyond it that
    /// author's newer statements are not stored, and its Member says so. All of them are held in memory: raise the
    /// operator's memory limit with it.
    #[arg(long, env = "KOINON_AUTHOR_CAP_BYTES", default_value_t = 32 * 1024 * 1024)]
    pub author_cap_bytes: u64,
}

impl OperatorArgs {
    /// The leader lease's duration.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds.into())
    }
}
