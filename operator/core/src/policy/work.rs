//! Whether members work, all reasons together: what votes, proofs and orders say at one moment.
//!
//! Everything that places, serves or routes asks here and nowhere else, so that all of it stops at the same time and for the
//! same reason. Work is what stops; logs, votes, seals and replies go on.

use std::fmt;

use super::{MemberStanding, State, Suspension};
use crate::ids::{Digest, MemberId, PolicyHash, StatementId, UnixSeconds};

/// Why no new work goes to a member or comes from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halted {
    /// It never was one.
    NoMember,
    /// It has left.
    Left {
        /// The membership version without it.
        version: Option<PolicyHash>,
    },
    /// The others have expelled it.
    Expelled {
        /// The membership version without it.
        version: Option<PolicyHash>,
    },
    /// A vote has suspended it.
    Suspended {
        /// The version that says so.
        version: PolicyHash,
    },
    /// An order has.
    Ordered {
        /// Which one.
        order: StatementId,
        /// When it lapses.
        until: UnixSeconds,
    },
    /// An order blocks the key with which its operator speaks.
    KeyBlocked {
        /// Which one.
        order: StatementId,
        /// When it lapses.
        until: UnixSeconds,
    },
    /// Its own signatures prove what an honest operator does not do.
    Quarantined {
        /// One of the proofs.
        proof: Digest,
        /// How many there are.
        proofs: usize,
    },
    /// It has said that it leaves.
    Leaving,
}

impl Halted {
    /// Whether what runs already ends with it. Whoever leaves goes in its own time; and nobody has decided anything about
    /// whoever is quarantined: what runs for it, or there, gets the notice that an owner gives.
    pub fn ends_what_runs(&self) -> bool {
        !matches!(self, Self::Leaving | Self::Quarantined { .. })
    }

    /// Whether it is no member any more, or never was.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NoMember | Self::Left { .. } | Self::Expelled { .. })
    }
}

impl fmt::Display for Halted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = |version: &Option<PolicyHash>| version.map(|version| format!(" with version {version}"));
        match self {
            Self::NoMember => f.write_str("is no member"),
            Self::Left { version } => write!(f, "has left{}", by(version).unwrap_or_default()),
            Self::Expelled { version } => write!(f, "was expelled{}", by(version).unwrap_or_default()),
            Self::Suspended { version } => {
                write!(f, "is suspended since version {version}, until a vote reinstates it")
            }
            Self::Ordered { order, until } => write!(f, "is suspended by order {order} until {}", Utc(*until)),
            Self::KeyBlocked { order, until } => {
                write!(f, "speaks with a key that order {order} blocks until {}", Utc(*until))
            }
            Self::Quarantined { proof, proofs } => {
                write!(
                    f,
                    "is quarantined for {proofs} proof(s) against its operator, such as {proof}, until a vote lifts it"
                )
            }
            Self::Leaving => f.write_str("is leaving"),
        }
    }
}

impl fmt::Display for Suspension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Voted(version) => write!(f, "version {version}"),
            Self::Ordered { order, until } => write!(f, "order {order} until {}", Utc(*until)),
        }
    }
}

impl State {
    /// What stops `member` from work at `now`. A vote comes before an order and both before a proof: it says most about when
    /// the member works again.
    pub fn halted(&self, member: &MemberId, now: UnixSeconds) -> Option<Halted> {
        let Some(state) = self.member(member) else { return Some(Halted::NoMember) };
        match state.standing {
            MemberStanding::Left => return Some(Halted::Left { version: state.left }),
            MemberStanding::Expelled => return Some(Halted::Expelled { version: state.left }),
            MemberStanding::Active
            | MemberStanding::Probationary
            | MemberStanding::Dormant
            | MemberStanding::Leaving => {}
        }
        match self.suspended(member, now) {
            Some(Suspension::Voted(version)) => return Some(Halted::Suspended { version }),
            Some(Suspension::Ordered { order, until }) => return Some(Halted::Ordered { order, until }),
            None => {}
        }
        if let Some(Suspension::Ordered { order, until }) = self.blocked(&state.member.keys.operator, now) {
            return Some(Halted::KeyBlocked { order, until });
        }
        if let Some(proof) = state.quarantine.keys().next() {
            return Some(Halted::Quarantined { proof: *proof, proofs: state.quarantine.len() });
        }
        (state.standing == MemberStanding::Leaving).then_some(Halted::Leaving)
    }

    /// Whether new work may go to `member` or come from it at `now`.
    pub fn may_work(&self, member: &MemberId, now: UnixSeconds) -> bool {
        self.halted(member, now).is_none()
    }
}

/// How much of what a new member offers may be used: a quarter, so that little is lost with it; but one always, or a small
/// one could never show what it is worth.
pub fn usable_on_probation(offered: u64) -> u64 {
    (offered / 4).max(offered.min(1))
}

/// A time as people write it, such as `2026-11-21T13:20:00Z`.
#[derive(Clone, Copy, Debug)]
pub struct Utc(pub UnixSeconds);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY: i64 = 86_400;
        // The years that four digits can name, from 1970 on; anybody may claim any other second.
        const DAYS: i64 = 2_932_897;
        let (mut days, second) = (self.0.0.div_euclid(DAY), self.0.0.rem_euclid(DAY));
        if !(0..DAYS).contains(&days) {
            return write!(f, "Unix second {}", self.0);
        }
        let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = |year: i64| if is_leap(year) { 366 } else { 365 };
        let mut year = 1970;
        while days >= length(year) {
            days -= length(year);
            year += 1;
        }
        let february = if is_leap(year) { 29 } else { 28 };
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_people_do_and_no_claim_is_too_wild() {
        let written = |second| Utc(UnixSeconds(second)).to_string();
        assert_eq!(written(0), "1970-01-01T00:00:00Z");
        assert_eq!(written(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(written(951_868_800), "2000-03-01T00:00:00Z");
        assert_eq!(written(1_795_267_200), "2026-11-21T13:20:00Z");
        assert_eq!(written(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(written(253_402_300_799), "9999-12-31T23:59:59Z");
        assert_eq!(written(253_402_300_800), "Unix second 253402300800");
        assert_eq!(written(i64::MIN), format!("Unix second {}", i64::MIN));
    }
}
