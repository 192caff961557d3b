//! How far one member believes what another says of its GPUs, from what others measured of them.
//!
//! A host's own word reaches [`EvidenceLevel::SchedulerConsistent`] and no further. It counts for more or for less only by
//! what enough other owners measured: one of them alone decides nothing where the rules ask for two or more. Pure.

pub mod draw;

use std::collections::{BTreeMap, BTreeSet};

use crate::body::challenges::{Challenges, ClassChallenge};
use crate::body::latest::EvidenceLevel;
use crate::challenge::standing::{AHEAD, LASTS, Passed, Rule, level};
use crate::challenge::{Timing, Verdict};
use crate::ids::{ControlGroup, MemberId, Seconds, UnixMicros};

/// What a measurement shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A right answer in times that fit the class.
    Fits(Timing),
    /// A right answer that came too soon for the class.
    TooFast(Timing),
    /// A right answer that came too late for the class.
    TooSlow(Timing),
    /// An answer that is not right.
    Refuted,
    /// There was no answer, for whatever reason: that proves nothing.
    Nothing,
}

impl Finding {
    /// The names of all of them, for closed labels.
    pub const NAMES: [&'static str; 5] = ["Fits", "TooFast", "TooSlow", "Refuted", "Nothing"];

    /// What a right answer shows that took so long.
    #[must_use]
    pub fn of(timing: Timing, asked: &ClassChallenge) -> Self {
        let said = asked.windows().judge(timing);
        match said {
            (Verdict::TooFast, _) | (_, Verdict::TooFast) => Self::TooFast(timing),
            (Verdict::TooSlow, _) | (_, Verdict::TooSlow) => Self::TooSlow(timing),
            (Verdict::Fits, Verdict::Fits) => Self::Fits(timing),
        }
    }

    /// The name in resources and labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fits(_) => "Fits",
            Self::TooFast(_) => "TooFast",
            Self::TooSlow(_) => "TooSlow",
            Self::Refuted => "Refuted",
            Self::Nothing => "Nothing",
        }
    }

    /// Whether the class is not what its owner says, if this is true.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(self, Self::TooFast(_) | Self::TooSlow(_) | Self::Refuted)
    }

    /// How long the answers took, where there were any.
    #[must_use]
    pub fn timing(self) -> Option<Timing> {
        match self {
            Self::Fits(timing) | Self::TooFast(timing) | Self::TooSlow(timing) => Some(timing),
            Self::Refuted | Self::Nothing => None,
        }
    }
}

/// One member's newest measurement of a host's class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Who measured.
    pub by: MemberId,
    /// Who owns that member: several of one owner count once.
    pub group: ControlGroup,
    /// What it shows.
    pub finding: Finding,
    /// How many GPUs were asked at once.
    pub devices: u8,
    /// When it began, by the clock of whoever judges.
    pub began: UnixMicros,
    /// When it ended, by the clock of whoever judges.
    pub ended: UnixMicros,
}

/// Whose class is judged, by whom, and when.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The host.
    pub host: &'a MemberId,
    /// Who owns it: what its own members measure does not count.
    pub group: &'a ControlGroup,
    /// How far it says that its figures can be believed.
    pub said: EvidenceLevel,
    /// Who judges: what it has seen itself it need not be told by others.
    pub viewer: &'a MemberId,
    /// Now.
    pub now: UnixMicros,
}

/// How far a host's class is believed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belief {
    /// How far.
    pub level: EvidenceLevel,
    /// Where it is [`EvidenceLevel::Challenged`]: for jobs of how many GPUs on one node at most.
    pub devices: u32,
    /// Where it is: until when, if nothing new is measured.
    pub until: Option<UnixMicros>,
    /// Whose measurements fit.
    pub fitting: BTreeSet<MemberId>,
    /// Whose measurements do not, and what they show.
    pub failing: BTreeMap<MemberId, Finding>,
}

impl Belief {
    /// Of a host of whose class nothing was measured.
    #[must_use]
    pub fn unmeasured(said: EvidenceLevel) -> Self {
        let level = said.min(EvidenceLevel::SchedulerConsistent);
        Self { level, devices: 0, until: None, fitting: BTreeSet::new(), failing: BTreeMap::new() }
    }

    /// How far it is believed that a job finds `count` GPUs there.
    #[must_use]
    pub fn of_count(&self, count: u32) -> EvidenceLevel {
        if count > self.devices { self.level.min(EvidenceLevel::SchedulerConsistent) } else { self.level }
    }
}

/// Judges by what was measured under `rules`.
///
/// # Guarantees
/// As long as the measurements that lie come from fewer owners than [`Challenges::challengers`], they neither make a class
/// Challenged that nobody else found fitting, nor lower one that nobody else found failing. With one challenger each
/// member's word is enough for both.
#[must_use]
pub fn believe(subject: Subject<'_>, rules: &Challenges, measured: &[Measured]) -> Belief {
    let Subject { host, group, said, viewer, now } = subject;
    let counted: Vec<&Measured> =
        measured.iter().filter(|one| one.by != *host && one.group != *group && is_fresh(one, rules, now)).collect();
    let failing = || counted.iter().filter(|one| one.finding.is_failure());
    let refuting: BTreeSet<&ControlGroup> = failing().map(|one| &one.group).collect();
    // Of an owner whose members disagree only the doubt counts.
    let is_fitting = |one: &&&Measured| matches!(one.finding, Finding::Fits(_)) && !refuting.contains(&one.group);
    let fitting: Vec<&Measured> = counted.iter().filter(is_fitting).copied().collect();
    let failing: BTreeMap<MemberId, Finding> = failing().map(|one| (one.by.clone(), one.finding)).collect();
    let seen_failing = failing.contains_key(viewer);
    let mut belief =
        Belief { fitting: fitting.iter().map(|one| one.by.clone()).collect(), failing, ..Belief::unmeasured(said) };
    if refuting.len() >= usize::try_from(rules.challengers.max(1)).unwrap_or(usize::MAX) {
        belief.level = EvidenceLevel::Claimed;
        return belief;
    }
    if seen_failing {
        return belief;
    }
    let passed = passed(&fitting, rules);
    let judged = |devices| {
        let rule =
            Rule { host: host.clone(), group: Some(group.clone()), devices, challengers: rules.challengers, now };
        level(belief.level, &passed, &rule)
    };
    // The most for which it holds: what holds for some GPUs holds for fewer.
    let (mut holds, mut fails) = (0, passed.iter().map(|one| u32::from(one.devices)).sum::<u32>() + 1);
    while holds + 1 < fails {
        let half = holds.midpoint(fails);
        if judged(half).until.is_some() { holds = half } else { fails = half }
    }
    if holds > 0 {
        let judged = judged(holds);
        (belief.level, belief.devices, belief.until) = (judged.level, holds, judged.until);
    }
    belief
}

/// Whether a measurement counts at `now`: not before it ended, and not for longer than the rules say.
fn is_fresh(one: &Measured, rules: &Challenges, now: UnixMicros) -> bool {
    let age = now.0.saturating_sub(one.ended.0);
    one.began < one.ended && age > -micros(AHEAD) && age < micros(rules.fresh_seconds)
}

fn micros(period: Seconds) -> i64 {
    period.0.saturating_mul(1_000_000)
}

/// How much sooner a measurement ends by these rules than by [`LASTS`].
fn sooner(rules: &Challenges) -> i64 {
    micros(LASTS).saturating_sub(micros(rules.fresh_seconds)).max(0)
}

/// The measurements as [`level`] takes them: each owner's as those of one challenger, and as old as makes them end when the
/// rules say.
fn passed(fitting: &[&Measured], rules: &Challenges) -> Vec<Passed> {
    let mut speaks: BTreeMap<&ControlGroup, &MemberId> = BTreeMap::new();
    for one in fitting {
        let first = speaks.entry(&one.group).or_insert(&one.by);
        *first = (*first).min(&one.by);
    }
    let earlier = |at: UnixMicros| UnixMicros(at.0.saturating_sub(sooner(rules)));
    let one = |one: &&Measured| {
        Some(Passed {
            challenger: (*speaks.get(&one.group)?).clone(),
            group: Some(one.group.clone()),
            devices: one.devices,
            began: earlier(one.began),
            ended: earlier(one.ended),
        })
    };
    fitting.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests;
