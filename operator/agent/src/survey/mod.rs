//! The survey of one node's GPUs.
//!
//! NVML's calls block in C without a deadline, and a broken driver may hang or crash its caller. So each survey runs in a
//! process of its own, which the agent gives a deadline, and whose answer it trusts no more than any other input:
//!
//! ```text
//!  agent ── Surveyor ──spawn──▶ `koinon agent survey` ── nvml ──▶ libnvidia-ml.so.1
//!    Survey ◀── judge ◀── one bounded line, `wire::Answer` ──┘
//! ```

mod child;
pub(crate) mod clock;
mod failure;
mod file;
mod judge;
mod nvml;
mod process;
mod surveyor;
mod watch;
mod wire;

pub use child::{SurveyArgs, survey_main};
pub use failure::Failure;
pub use judge::{Nvml, Survey, Version};
pub use process::{Processes, SurveyCommand};
pub use surveyor::Surveyor;
pub use watch::{Watch, WatchArgs, WatchState, Watcher, watch_main};
pub use wire::CallErrors;

pub(crate) use judge::{gpu_id, readable};

/// More GPUs than any node has. A driver that claims more is not believed.
pub const MAX_DEVICES: u32 = 128;

/// What is made of an answer of the surveying process, given as JSON.
#[cfg(test)]
pub(crate) fn judge_for_tests(answer: &serde_json::Value) -> Survey {
    let taken = koinon_core::gpu::device::Taken { at: koinon_core::ids::UnixMicros(0), uptime_milliseconds: 0 };
    judge::judge(format!("{}{answer}\n", wire::MARK).as_bytes(), taken)
}
