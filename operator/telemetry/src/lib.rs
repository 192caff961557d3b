//! What every long-running Koinon process shares: logs, a metrics registry, readiness, the health listener,
//! a bounded HTTP listener, an orderly stop, and a set of tasks none of which can die unseen.
//!
//! It is not a framework: a role gets a [`Process`] and uses the parts it needs. It knows neither Kubernetes nor Koinon.
//!
//! ```text
//! main ── Args ──▶ logs::init ──▶ Process::start ──▶ role::run(args, process)
//!                                     │                     ├─ process.registry   (metrics are registered here)
//!                                     │                     ├─ process.readiness  (named things that are awaited)
//!                                     │                     └─ process.stop       (cancelled by SIGTERM and SIGINT)
//!                                     └─ thread "health": /livez /readyz /metrics, on a runtime of its own
//! ```

pub mod health;
pub mod listen;
pub mod logs;
pub mod metrics;
pub mod process;
pub mod ready;
pub mod registrar;
pub mod tasks;

pub use process::{HealthArgs, Process, ProcessError, Role};
pub use ready::{Awaited, Readiness};
pub use registrar::{Described, Kind, Registrar};
pub use tasks::{TaskError, Tasks};
pub use tokio_util::sync::CancellationToken;
