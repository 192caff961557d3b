//! What a seed stands for: how many members, who lies and how, and what else goes wrong when.

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::ids::{Seconds, UnixSeconds};
use koinon_core::tally::faults_tolerated;
use koinon_core::testkit::T0;

use super::Options;
use super::cast::{Pace, TOLERANCE};
use crate::dice::Dice;

const MINUTE: i64 = 60;
/// The time in which proposals are made; what comes of them takes longer.
const BUSY: i64 = 200 * MINUTE;

/// The faults of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// None: entries take seconds.
    Calm,
    /// Entries are lost, take up to half an hour, and arrive in any order.
    Slow,
    /// Some members do not hear the others for a while.
    Partition,
    /// Clocks are up to ten minutes off.
    Clocks,
    /// Operators stop and start again.
    Crash,
    /// Operators come back from an older backup.
    Backup,
    /// Up to a third lies, in one way.
    Lies(Trick),
    /// All of that at once.
    Everything,
}

/// A way to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trick {
    /// Hides its own log and somebody else's from some members.
    Withhold,
    /// Is two operators with one key: two logs, two votes, two of every seal, each for its own audience.
    TwoFaces,
    /// Signs every seal that anybody could count, and says of every slot what suits.
    SealAll,
    /// Votes after the close, dates it before, and vouches for it.
    Backdate,
    /// Signs in other members' names and with keys that are nobody's.
    Forge,
    /// Fills its log up to its budget and beyond.
    Flood,
    /// Sends and anchors old statements again.
    Replay,
    /// Seals boxes and outcomes that follow from nothing.
    FalseSeals,
}

impl Trick {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Withhold,
        Self::TwoFaces,
        Self::SealAll,
        Self::Backdate,
        Self::Forge,
        Self::Flood,
        Self::Replay,
        Self::FalseSeals,
    ];
}

impl Class {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let plain = [Self::Calm, Self::Slow, Self::Partition, Self::Clocks, Self::Crash, Self::Backup];
        plain.into_iter().chain(Trick::ALL.map(Self::Lies)).chain([Self::Everything]).collect()
    }

    fn has(self, part: Self, dice: &mut Dice) -> bool {
        self == part || self == Self::Everything && dice.percent(50)
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lies(trick) => write!(f, "{trick:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl std::str::FromStr for Class {
    type Err = UnknownClass;
    fn from_str(text: &str) -> Result<Self, UnknownClass> {
        let found = Self::all().into_iter().find(|class| class.to_string().eq_ignore_ascii_case(text));
        found.ok_or_else(|| UnknownClass(text.to_owned()))
    }
}

/// A class that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no class of faults {0:?}: look at the first column of the table")]
pub struct UnknownClass(String);

/// A time in which some members do not hear the others.
#[derive(Clone, Debug)]
pub(super) struct Split {
    pub from: UnixSeconds,
    pub to: UnixSeconds,
    pub apart: BTreeSet<usize>,
}

/// A time in which one operator does not run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    pub who: usize,
    pub from: UnixSeconds,
    pub to: UnixSeconds,
    /// When the backup was made from which it comes back, if it does.
    pub backup: Option<UnixSeconds>,
}

/// What a seed stands for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What goes wrong.
    pub class: Class,
    /// The founders.
    pub members: usize,
    /// Who of them lies.
    pub liars: BTreeSet<usize>,
    /// How.
    pub tricks: BTreeSet<Trick>,
    /// Founders that may go without the liars becoming too many for those that stay.
    pub(super) departures: usize,
    pub(super) pace: Pace,
    pub(super) clocks: BTreeMap<usize, Seconds>,
    pub(super) latency: Seconds,
    pub(super) loss_percent: usize,
    pub(super) splits: Vec<Split>,
    pub(super) outages: Vec<Outage>,
    /// When somebody proposes something.
    pub(super) proposals: Vec<UnixSeconds>,
    pub(super) dice: Dice,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64, options: &Options) -> Self {
        let mut dice = Dice::new(seed);
        let classes = Class::all();
        // A third of the runs has everything at once; faults that meet are where rules break.
        let drawn = if dice.percent(33) { Some(Class::Everything) } else { dice.pick(&classes).copied() };
        let class = options.class.or(drawn).unwrap_or(Class::Everything);
        let members = options.members.unwrap_or_else(|| draw_members(&mut dice)).clamp(4, 25);
        let most = faults_tolerated(members);
        let (mut liars, mut tricks) = (0, BTreeSet::new());
        match class {
            Class::Lies(trick) => {
                liars = if dice.percent(70) { most } else { 1 + dice.below(most) };
                tricks.insert(trick);
            }
            Class::Everything => {
                liars = if dice.percent(50) { most } else { dice.below(most + 1) };
                tricks.extend(Trick::ALL.into_iter().filter(|_| dice.percent(40)));
            }
            _ => {}
        }
        if options.too_many {
            liars = members.saturating_sub(2);
        }
        let mut everybody: Vec<usize> = (0..members).collect();
        dice.shuffle(&mut everybody);
        let (lying, honest) = everybody.split_at(liars);
        let restored = if class.has(Class::Backup, &mut dice) { dice.below(most.saturating_sub(liars) + 1) } else { 0 };
        let restored = if class == Class::Backup { restored.max(1) } else { restored };
        let faulty = liars + restored;
        let departures = (1..=2).take_while(|gone| faulty <= faults_tolerated(members - gone)).count();
        let slow = class.has(Class::Slow, &mut dice);
        let mut plan = Self {
            seed,
            class,
            members,
            liars: lying.iter().copied().collect(),
            tricks,
            departures,
            pace: if dice.percent(35) { Pace::Quick } else { Pace::Deliberate },
            clocks: (0..members).map(|who| (who, clock(class, &mut dice))).collect(),
            latency: dice.between(1, if slow { 30 * MINUTE } else { 30 }),
            loss_percent: if slow { dice.below(40) } else { 0 },
            splits: Vec::new(),
            outages: Vec::new(),
            proposals: Vec::new(),
            dice: dice.clone(),
        };
        plan.draw_splits();
        plan.draw_outages(honest, restored);
        plan.draw_proposals();
        plan
    }

    fn at(&mut self, least: i64, most: i64) -> UnixSeconds {
        T0.plus(self.dice.between(least, most))
    }

    fn draw_splits(&mut self) {
        if !self.class.has(Class::Partition, &mut self.dice) {
            return;
        }
        for _ in 0..=self.dice.below(3) {
            let from = self.at(0, BUSY);
            let to = from.plus(self.dice.between(5 * MINUTE, 120 * MINUTE));
            let apart = (0..self.members).filter(|_| self.dice.percent(40)).collect();
            self.splits.push(Split { from, to, apart });
        }
    }

    fn draw_outages(&mut self, honest: &[usize], restored: usize) {
        let crashing = self.class.has(Class::Crash, &mut self.dice);
        for (place, who) in honest.iter().copied().enumerate() {
            let is_restored = place < restored;
            let crashes = crashing && self.dice.percent(40);
            if !is_restored && !crashes {
                continue;
            }
            let from = self.at(0, BUSY);
            let to = from.plus(self.dice.between(MINUTE, 60 * MINUTE));
            let backup = is_restored.then(|| from.minus(self.dice.between(0, 60 * MINUTE)));
            self.outages.push(Outage { who, from, to, backup });
        }
    }

    fn draw_proposals(&mut self) {
        for _ in 0..2 + self.dice.below(2) {
            let early = self.dice.percent(60);
            let at = self.at(0, if early { 20 * MINUTE } else { BUSY });
            self.proposals.push(at);
            // A rival for the slot.
            if self.dice.percent(40) {
                self.proposals.push(at.plus(self.dice.between(0, 5 * MINUTE)));
            }
        }
    }
}

/// Mostly small, where one fault more or less decides; now and then as large as the design goes.
fn draw_members(dice: &mut Dice) -> usize {
    match dice.below(100) {
        0..50 => 4,
        50..65 => 5,
        65..75 => 6,
        75..94 => 7,
        94..99 => 8 + dice.below(3),
        _ => 11 + dice.below(15),
    }
}

fn clock(class: Class, dice: &mut Dice) -> Seconds {
    let far = class == Class::Clocks && dice.percent(40) || class == Class::Everything && dice.percent(10);
    match far {
        true => dice.between(-10 * MINUTE, 10 * MINUTE),
        false => dice.between(-TOLERANCE.0 / 2, TOLERANCE.0 / 2),
    }
}
