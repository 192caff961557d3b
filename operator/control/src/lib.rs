//! The operator: controllers, the statement store, the leader lease.
//!
//! ```text
//!            ┌ cache ── what the API server holds ─┐
//! runtime ───┤ lease ── the right to write         ├──▶ commons ── log, votes, peers ──▶ CooperativeView, PeersSnapshot
//!            └ keys ─── the operator key           ┘       │                                  │
//!                                                          └──▶ kinds (projections)           └──▶ placement
//! ```
//!
//! Every replica reads and serves metrics; the one that holds the lease writes and serves the peer endpoint. What must not
//! happen twice is made impossible by names and resource versions in the API server, never by the lease.

pub mod args;
pub mod cache;
pub mod challenges;
pub mod clock;
pub mod commons;
pub mod context;
pub mod crds;
pub mod events;
pub mod keys;
pub mod kinds;
pub mod leader_label;
pub mod lease;
pub mod metrics;
pub mod peers;
pub mod placement;
pub mod probe;
pub mod render;
pub mod requests;
pub mod runtime;
pub mod term;

pub use args::OperatorArgs;
pub use clock::{Clock, ManualClock, SystemClock};
pub use commons::publisher::{LatestPublisher, PublishError};
pub use context::{Caches, Context, CooperativeView, Ending, HostFacts, WindUp};
pub use events::{Events, Severity};
pub use lease::{Fence, Fenced, LeaseHandle, NotLeader};
pub use metrics::Metrics;
pub use peers::{Heard, Liveness, PeerView, PeersSnapshot};
pub use runtime::{OperatorError, run};
