//! The agent: what one node's GPUs are, said for the node that it runs on and for no other.
//!
//! It asks NVML, which is the owner's claim; what the scheduler gives out is asked by the operator, and the smaller of the
//! two is offered. It writes two objects, both named after its node: the status of the `GPUNode`, when it changes, and a
//! Lease, renewed only while that status is what the last survey found. It changes nothing on the node.
//!
//! ```text
//!  libnvidia-ml ◀─ survey (a process each time, with a deadline) ─▶ status (pure) ─▶ publish ─▶ API server
//!       ▲             ▲ at once                                      heartbeat ──────────┘
//!       └─ watch (a process all the time) ─▶ events ◀─ the kernel's log
//! ```
//!
//! This is the only crate that uses `nvml-wrapper`. It depends on `core` (capacity classes) and `api` (the resource).

mod args;
pub mod events;
pub mod judging;
pub mod metrics;
mod publish;
pub mod rounds;
mod run;
mod status;
pub mod survey;
pub mod usage;
mod xid_table;

pub use args::{AgentArgs, AgentCommand, OwnerLimits};
pub use publish::{PublishError, Publisher};
pub use run::{Error, run, run_with};
pub use usage::UsageArgs;
pub use xid_table::{Voted, XidTable};
