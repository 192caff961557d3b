//! Times as people read them: where they sit, and in UTC, in which the cooperative speaks of them.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use koinon_core::ids::UnixSeconds;
use serde::Serialize;

use crate::output::age;

/// A moment in both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Seconds since 1970 in UTC, as statements say it.
    pub unix: i64,
    /// In UTC.
    pub utc: String,
    /// Where the user sits.
    pub local: String,
}

impl Moment {
    /// `at` in UTC and in `zone`.
    pub fn new(at: UnixSeconds, zone: &TimeZone) -> Self {
        let Ok(time) = Timestamp::from_second(at.0) else {
            return Self { unix: at.0, utc: at.to_string(), local: at.to_string() };
        };
        let local = time.to_zoned(zone.clone());
        Self { unix: at.0, utc: time.to_string(), local: local.strftime("%Y-%m-%d %H:%M:%S %Z").to_string() }
    }

    /// How far it is from `now`.
    pub fn distance(&self, now: UnixSeconds) -> String {
        match self.unix.saturating_sub(now.0) {
            0 => "now".to_owned(),
            left @ 1.. => format!("in {}", age(left)),
            gone => format!("{} ago", age(gone.saturating_neg())),
        }
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.local.ends_with(" UTC") { f.write_str(&self.utc) } else { write!(f, "{} ({})", self.local, self.utc) }
    }
}

/// The zone of this machine; UTC where it names none.
pub fn here() -> TimeZone {
    TimeZone::try_system().unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_where_the_user_sits_and_in_utc() {
        let east = TimeZone::fixed(jiff::tz::offset(5));
        let moment = Moment::new(UnixSeconds(1_795_000_000), &east);
        assert_eq!(moment.to_string(), "2026-11-18 16:06:40 +05 (2026-11-18T11:06:40Z)");
        assert_eq!(Moment::new(UnixSeconds(1_795_000_000), &TimeZone::UTC).to_string(), "2026-11-18T11:06:40Z");
        let away = |seconds: i64| moment.distance(UnixSeconds(1_795_000_000 - seconds));
        assert_eq!([away(90), away(0), away(-7200)], ["in 90s", "now", "120m ago"]);
        let never = Moment::new(UnixSeconds(i64::MAX), &east);
        assert_eq!(never.unix, i64::MAX, "a time out of every calendar is still told");
    }
}
