//! Lines that say what is being done and for how long it has been going on.

use std::time::Instant;

/// Prints each step with the time since the start.
#[derive(Debug)]
pub struct Progress(Instant);

impl Progress {
    /// Starts the clock.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Says what comes next.
    pub fn say(&self, what: &str) {
        eprintln!("[{:>4} s] {what}", self.0.elapsed().as_secs());
    }
}
