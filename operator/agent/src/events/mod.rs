//! What goes wrong in a GPU between two surveys, from whoever tells it.
//!
//! ```text
//!  `koinon agent watch` (NVML events) ─┐
//!  /dev/kmsg (NVRM: Xid …) ────────────┼─▶ mailbox ─▶ survey task: reports, and a survey at once
//!  recovery action between surveys ────┘   (coalesces, counts what two sources say once)
//! ```
//!
//! A driver can report a thousand errors a second. The mailbox holds one entry a device and code, so that it is bounded without
//! losing a code: the storm of one cannot hide the single report of another.

mod coalesce;
mod kernel_log;
mod line;
mod mailbox;
mod place;
mod recovery;

pub use coalesce::Report;
pub use kernel_log::{KernelLog, KernelLogState};
pub use mailbox::{Counts, Mailbox, News};
pub use place::BusMap;
pub use recovery::Recoveries;

pub(crate) use coalesce::{Heard, Voice};
