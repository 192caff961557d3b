//! One line a call, for tests that ask what a client did.

use std::fs::OpenOptions;
use std::io::Write;

use crate::handles::Target;

/// Appends `symbol device outcome`; an instance is `device/position`. A trace that cannot be written is said once a call, on standard error: a test that
/// relies on it must not pass for lack of it.
pub(crate) fn record(symbol: &str, target: Option<Target>, outcome: &str) {
    let Some(path) = std::env::var_os("FAKE_NVML_TRACE") else { return };
    let device = match target {
        None => "-".to_owned(),
        Some(Target { device, instance: None }) => device.to_string(),
        Some(Target { device, instance: Some(instance) }) => format!("{device}/{instance}"),
    };
    let line = format!("{symbol} {device} {outcome}\n");
    // One write of a short line to a file opened for appending does not mix with those of other processes.
    let written =
        OpenOptions::new().create(true).append(true).open(&path).and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("fake-nvml: writing trace {}: {error}", path.display());
    }
}
