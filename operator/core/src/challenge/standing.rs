//! What passed challenges amount to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::body::latest::EvidenceLevel;
use crate::ids::{ControlGroup, MemberId, Seconds, UnixMicros};

/// A passed challenge counts so long (section 7 of the reference on GPU reliability).
pub const LASTS: Seconds = Seconds(86_400);

/// How far a challenger's clock may be ahead.
pub const AHEAD: Seconds = Seconds(300);

/// A challenge of the class in question whose transcript was checked and whose durations fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Who challenged.
    pub challenger: MemberId,
    /// Who owns the challenger, if that is declared.
    pub group: Option<ControlGroup>,
    /// How many devices answered at once.
    pub devices: u8,
    /// When `begin` was sent, by the challenger's clock.
    pub began: UnixMicros,
    /// When the roots were there, by the challenger's clock. In between every device held its matrix, or was computing it.
    pub ended: UnixMicros,
}

/// What is asked of a host's class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whose devices.
    pub host: MemberId,
    /// Who owns the host, if that is declared.
    pub group: Option<ControlGroup>,
    /// How many devices a challenger must have seen at once: those that are offered, or the part of them that is voted.
    pub devices: u32,
    /// How many challengers must have.
    pub challengers: u32,
    /// Now.
    pub now: UnixMicros,
}

/// Why a passed challenge does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotCounted {
    /// The host asked itself.
    Itself,
    /// Challenger and host have one owner.
    SameOwner,
    /// It is too long ago.
    Expired,
    /// It began after it ended, or has not ended yet.
    WrongTimes,
    /// The challenger saw fewer devices at once than it must.
    TooFewDevices {
        /// How many it saw.
        seen: u32,
        /// How many it must.
        of: u32,
    },
}

impl fmt::Display for NotCounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Itself => f.write_str("a host cannot challenge itself"),
            Self::SameOwner => f.write_str("challenger and host have one owner"),
            Self::Expired => write!(f, "it is more than {} h ago", LASTS.0 / 3600),
            Self::WrongTimes => f.write_str("its times cannot be"),
            Self::TooFewDevices { seen, of } => write!(f, "{seen} devices were seen at once, of {of}"),
        }
    }
}

/// What a host's class reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The level.
    pub level: EvidenceLevel,
    /// The challengers that count.
    pub challengers: BTreeSet<MemberId>,
    /// When the level ends if nothing comes; none unless it is `Challenged`.
    pub until: Option<UnixMicros>,
    /// Why others do not count; of one challenger the best.
    pub not_counted: BTreeMap<MemberId, NotCounted>,
}

/// The level of a class whose other figures reach `figures`. Challenges raise [`EvidenceLevel::SchedulerConsistent`] and nothing
/// else: where driver and scheduler contradict each other nobody knows what was challenged. They say nothing of how many devices
/// are offered; that stays what the host's own figures allow.
#[must_use]
pub fn level(figures: EvidenceLevel, passed: &[Passed], rule: &Rule) -> Judged {
    let mut fresh: BTreeMap<&MemberId, Vec<&Passed>> = BTreeMap::new();
    let mut not_counted: BTreeMap<MemberId, NotCounted> = BTreeMap::new();
    for each in passed {
        match unfit(each, rule) {
            None => fresh.entry(&each.challenger).or_default().push(each),
            Some(why) => {
                let known = not_counted.entry(each.challenger.clone()).or_insert(why);
                *known = why.max(*known);
            }
        }
    }
    let mut ends: BTreeMap<MemberId, UnixMicros> = BTreeMap::new();
    for (challenger, of_one) in fresh {
        let (seen, until) = at_once(&of_one, rule.devices);
        match until {
            Some(until) if seen > 0 => {
                not_counted.remove(challenger);
                ends.insert(challenger.clone(), until);
            }
            _ => {
                not_counted.insert(challenger.clone(), NotCounted::TooFewDevices { seen, of: rule.devices });
            }
        }
    }
    // It ends when one fewer than needed is left.
    let needed = usize::try_from(rule.challengers.max(1)).unwrap_or(usize::MAX);
    let mut sorted: Vec<UnixMicros> = ends.values().copied().collect();
    sorted.sort_unstable_by(|one, other| other.cmp(one));
    let until = sorted.get(needed - 1).copied().filter(|_| figures == EvidenceLevel::SchedulerConsistent);
    let level = match (figures, until) {
        (EvidenceLevel::SchedulerConsistent, Some(_)) => EvidenceLevel::Challenged,
        // Nobody can attest here, and who says so claims more than there is.
        (EvidenceLevel::Claimed, _) => EvidenceLevel::Claimed,
        _ => EvidenceLevel::SchedulerConsistent,
    };
    Judged { level, challengers: ends.into_keys().collect(), until, not_counted }
}

fn micros(period: Seconds) -> i64 {
    period.0.saturating_mul(1_000_000)
}

fn end_of(ended: UnixMicros) -> UnixMicros {
    UnixMicros(ended.0.saturating_add(micros(LASTS)))
}

fn unfit(passed: &Passed, rule: &Rule) -> Option<NotCounted> {
    let same_owner = passed.group.is_some() && passed.group == rule.group;
    let latest = rule.now.0.saturating_add(micros(AHEAD));
    if passed.challenger == rule.host {
        Some(NotCounted::Itself)
    } else if same_owner {
        Some(NotCounted::SameOwner)
    } else if passed.began >= passed.ended || passed.ended.0 > latest {
        Some(NotCounted::WrongTimes)
    } else if end_of(passed.ended) <= rule.now {
        Some(NotCounted::Expired)
    } else {
        None
    }
}

/// The most devices that one challenger saw at one moment, and until when that counts if it is as many as `needed`: challenges
/// that overlap add up, because no device can hold two matrices. Those that follow each other could be one device.
fn at_once(passed: &[&Passed], needed: u32) -> (u32, Option<UnixMicros>) {
    let mut moments: Vec<UnixMicros> = passed.iter().map(|each| each.began).collect();
    moments.sort_unstable();
    moments.dedup();
    let (mut most, mut until) = (0, None);
    for moment in moments {
        let now: Vec<_> = passed.iter().filter(|each| each.began <= moment && moment < each.ended).collect();
        let seen = now.iter().fold(0u32, |sum, each| sum.saturating_add(u32::from(each.devices)));
        most = most.max(seen);
        if seen >= needed {
            // The oldest of them ends it.
            until = until.max(now.iter().map(|each| end_of(each.ended)).min());
        }
    }
    (most, until)
}

#[cfg(test)]
#[path = "standing_tests.rs"]
mod tests;
