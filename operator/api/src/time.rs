//! Times between resources (RFC 3339) and statements (Unix seconds).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// A resource's time from Unix seconds; `None` outside the years that RFC 3339 can write.
#[must_use]
pub fn from_unix(seconds: i64) -> Option<Time> {
    jiff::Timestamp::from_second(seconds).ok().map(Time)
}

/// Unix seconds of a resource's time, rounded down.
#[must_use]
pub fn to_unix(time: &Time) -> i64 {
    time.0.as_second()
}
