//! What a GPU is, how it does and who uses it: from what its driver, its kernel and its node say of it.
//!
//! All of it is claimed by somebody's machine, so a value is known, unsupported or unknown, and never made up. What the
//! values mean for the cooperative is computed here, by functions of values and time:
//!
//! ```text
//!  device (one survey) ──┐
//!  xid (what went wrong) ├─▶ health (state, reasons, action) ─┬─▶ capacity: what may be offered
//!  history, time ────────┘        │                           └─▶ breaker: whether work is drained at all
//!  processes, pods ────────▶ usage (whose it is)
//! ```
//!
//! All of them speak the same `words`.

pub mod breaker;
pub mod device;
pub mod health;
pub mod reading;
pub mod scheduler;
pub mod usage;
pub mod words;
pub mod xid;
