//! What came of a run, and the table over many.

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::policy::{Phase, ProposalState};

use super::plan::{Class, Plan};
use super::watch::Violation;
use super::world::World;

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is in force.
    Enacted,
    /// It was decided against, or its author took it back.
    Refused,
    /// It was cancelled.
    Cancelled,
    /// Another one took its place.
    Superseded,
    /// The membership moved on.
    Stale,
    /// Its box was not sealed in time.
    Stalled,
    /// It had passed, and was not enacted in time.
    Expired,
    /// Nothing final, at the end of the run.
    Open,
    /// It could not be voted on.
    Invalid,
}

impl Fate {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Enacted,
        Self::Refused,
        Self::Cancelled,
        Self::Superseded,
        Self::Stale,
        Self::Stalled,
        Self::Expired,
        Self::Open,
        Self::Invalid,
    ];

    fn of(proposal: &ProposalState, phase: &Phase) -> Self {
        match phase {
            // Once its time is over its phase does not say any more that nobody sealed its box.
            Phase::Expired if proposal.certificates.is_empty() => Self::Stalled,
            Phase::Enacted { .. } | Phase::Stopped { .. } => Self::Enacted,
            Phase::Rejected | Phase::QuorumNotMet | Phase::Vetoed | Phase::Withdrawn => Self::Refused,
            Phase::Refuted | Phase::Unheard | Phase::CoolDown { .. } => Self::Refused,
            Phase::Cancelled { .. } => Self::Cancelled,
            Phase::Superseded { .. } => Self::Superseded,
            Phase::Stale => Self::Stale,
            Phase::Stalled => Self::Stalled,
            Phase::Expired => Self::Expired,
            Phase::Invalid(_) => Self::Invalid,
            Phase::Pending { .. }
            | Phase::Open { .. }
            | Phase::Closing { .. }
            | Phase::Queued { .. }
            | Phase::Appealed { .. }
            | Phase::AwaitingSlot { .. } => Self::Open,
        }
    }
}

/// What came of one run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it was.
    pub plan: Plan,
    /// What must never be.
    pub violations: BTreeSet<Violation>,
    /// The proposals.
    pub fates: BTreeMap<Fate, u64>,
    /// Honest operators whose own log forked because a backup had forgotten its end.
    pub own_forks: u64,
    /// Log entries signed.
    pub entries: u64,
}

impl Run {
    pub(super) fn panicked(plan: Plan) -> Self {
        let violations = BTreeSet::from([Violation::Panic]);
        Self { plan, violations, fates: BTreeMap::new(), own_forks: 0, entries: 0 }
    }
}

pub(super) fn of(world: World) -> Run {
    let mut fates: BTreeMap<Fate, u64> = BTreeMap::new();
    let mut own_forks = 0;
    if let Some(outsider) = &world.outsider {
        let state = outsider.state();
        for proposal in state.proposals().values() {
            *fates.entry(Fate::of(proposal, &state.phase(proposal, world.now))).or_default() += 1;
            world.say(|_| {
                format!("{} {} {:?}", proposal.id, proposal.proposal.action.name(), state.phase(proposal, world.now))
            });
        }
        let honest = world.nodes.iter().filter(|node| !node.lies);
        own_forks = honest.filter(|node| outsider.replica().fork(&node.log()).is_some()).count() as u64;
    }
    let World { plan, watch, entries, .. } = world;
    Run { plan, violations: watch.violations, fates, own_forks, entries }
}

/// What came of many runs.
#[derive(Clone, Debug, Default)]
pub struct Report {
    rows: BTreeMap<Class, Row>,
}

#[derive(Clone, Debug, Default)]
struct Row {
    runs: u64,
    violating: u64,
    fates: BTreeMap<Fate, u64>,
    own_forks: u64,
    entries: u64,
}

impl Row {
    fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.violating += other.violating;
        self.own_forks += other.own_forks;
        self.entries += other.entries;
        for (fate, count) in &other.fates {
            *self.fates.entry(*fate).or_default() += count;
        }
    }
}

impl Report {
    /// Adds a run.
    pub fn add(&mut self, run: &Run) {
        let row = Row {
            runs: 1,
            violating: u64::from(!run.violations.is_empty()),
            fates: run.fates.clone(),
            own_forks: run.own_forks,
            entries: run.entries,
        };
        self.rows.entry(run.plan.class).or_default().add(&row);
    }

    /// Adds the runs of another report.
    pub fn merge(&mut self, other: &Self) {
        for (class, row) in &other.rows {
            self.rows.entry(*class).or_default().add(row);
        }
    }

    /// How many runs there were.
    pub fn runs(&self) -> u64 {
        self.rows.values().map(|row| row.runs).sum()
    }

    /// How many runs broke a rule.
    pub fn violating(&self) -> u64 {
        self.rows.values().map(|row| row.violating).sum()
    }

    /// How many proposals ended so.
    pub fn count(&self, fate: Fate) -> u64 {
        self.rows.values().filter_map(|row| row.fates.get(&fate)).sum()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<12}{:>8}{:>10}{:>10}", "faults", "seeds", "violating", "proposals")?;
        for fate in Fate::ALL {
            write!(f, "{:>11}", format!("{fate:?}"))?;
        }
        writeln!(f, "{:>10}{:>10}", "ownForks", "entries")?;
        let mut all = Row::default();
        self.rows.values().for_each(|row| all.add(row));
        let named = self.rows.iter().map(|(class, row)| (class.to_string(), row));
        for (name, row) in named.chain([("all".to_owned(), &all)]) {
            let proposals: u64 = row.fates.values().sum();
            write!(f, "{name:<12}{:>8}{:>10}{proposals:>10}", row.runs, row.violating)?;
            for fate in Fate::ALL {
                write!(f, "{:>11}", row.fates.get(&fate).copied().unwrap_or(0))?;
            }
            writeln!(f, "{:>10}{:>10}", row.own_forks, row.entries)?;
        }
        Ok(())
    }
}
