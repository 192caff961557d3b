//! The time of day, given from outside so that tests decide what it is.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use koinon_core::ids::UnixSeconds;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

/// Says what time of day it is.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixSeconds + Send + Sync>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Clock::from_fn(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            UnixSeconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
        })
    }

    /// A clock that asks `now` each time.
    pub fn from_fn(now: impl Fn() -> UnixSeconds + Send + Sync + 'static) -> Self {
        Clock(Arc::new(now))
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> UnixSeconds {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now().0)
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        u64::try_from(self.now().0).ok().map(|seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}
