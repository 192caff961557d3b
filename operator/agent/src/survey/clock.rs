//! When a survey is taken.

use std::time::{SystemTime, UNIX_EPOCH};

use koinon_core::gpu::device::Taken;
use koinon_core::ids::UnixMicros;
use rustix::time::{ClockId, clock_gettime};

/// Now, by the node's clock and since its boot, the time of sleep included.
pub(crate) fn now() -> Taken {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let boot = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
    let milliseconds = u64::try_from(boot.tv_nsec).unwrap_or(0) / 1_000_000;
    Taken {
        at: UnixMicros(i64::try_from(wall.as_micros()).unwrap_or(i64::MAX)),
        uptime_milliseconds: seconds.saturating_mul(1000).saturating_add(milliseconds),
    }
}
