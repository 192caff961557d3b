//! A `libnvidia-ml.so.1` for tests. Its devices and its faults come from one JSON [`Scenario`] file, named by
//! `FAKE_NVML_SCENARIO` and read again whenever that file changes.
//!
//! It is honest about what it is:
//! - the driver calls itself `0.0-fake`, and every UUID begins with `GPU-fa4e0000-`; a scenario that says otherwise is refused;
//! - a value that the scenario does not give is `NVML_ERROR_NOT_SUPPORTED`, never a likely default;
//! - arguments are checked as strictly as the driver's own library checks them;
//! - nothing is exported that changes hardware, so that a client which tries finds no such symbol.
//!
//! A scenario that cannot be read, or that holds an unknown key, makes every call return `NVML_ERROR_UNKNOWN`, with the
//! reason on standard error. With `FAKE_NVML_TRACE` every call is appended to that file as `symbol device return`.
//!
//! To export one more symbol, add an entry to `exports`, and to [`Device`] the value that it reads.
//!
//! ```text
//!  exports (C symbols) ─▶ library (init count, handles, faults due) ─▶ scenario (what the file says)
//!       └▶ reply (checks of out parameters)      └▶ trace
//! ```

// A C library is a set of `no_mangle` functions that write through the caller's pointers: this crate alone needs that.
#![allow(unsafe_code)]

mod exports;
mod library;
mod reply;
mod scenario;
mod trace;

pub use exports::SYMBOLS;
pub use scenario::{
    Behaviour, DRIVER_MARK, Device, DeviceState, Fault, MAX_DEVICES, Mig, MigMode, PluginView, ProductName, Scenario,
    ScenarioError, UUID_MARK,
};
