//! The only place where this crate asks what time it is.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use koinon_core::ids::{UnixMicros, UnixSeconds};

/// Time of day for what is signed, and monotonic time for what is measured. The two are never mixed.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The time of day in microseconds.
    fn micros(&self) -> UnixMicros;

    /// Time since an arbitrary start; it never goes back and does not care what the time of day does.
    fn monotonic(&self) -> Duration;

    /// The time of day in seconds.
    fn unix(&self) -> UnixSeconds {
        UnixSeconds(self.micros().0.div_euclid(1_000_000))
    }
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn micros(&self) -> UnixMicros {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        UnixMicros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that stands until it is moved.
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<(i64, Duration)>,
}

impl ManualClock {
    /// A clock at `start`.
    #[must_use]
    pub fn at(start: UnixSeconds) -> Self {
        ManualClock { now: Mutex::new((start.0.saturating_mul(1_000_000), Duration::ZERO)) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.lock();
        now.0 = now.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX));
        now.1 += by;
    }

    /// Moves the time of day alone, as somebody who sets the clock does.
    pub fn set_back(&self, by: Duration) {
        let mut now = self.lock();
        now.0 = now.0.saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (i64, Duration)> {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn micros(&self) -> UnixMicros {
        UnixMicros(self.lock().0)
    }

    fn monotonic(&self) -> Duration {
        self.lock().1
    }
}
