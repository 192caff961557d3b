//! The wait for NVML's events, in a process of its own as each survey: it blocks in the driver all the time.
//!
//! ```text
//!  Watcher ──spawn──▶ `koinon agent watch` ── nvmlEventSetWait ──▶ libnvidia-ml.so.1
//!   mailbox ◀── one bounded line an event, and one each wait that brought none ──┘
//! ```

mod child;
mod watcher;
mod wire;

pub use child::{WatchArgs, watch_main};
pub use watcher::{Watch, WatchState, Watcher};
