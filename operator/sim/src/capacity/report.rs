//! What came of a run, and the table over many.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Plan;
use super::watch::{Violation, Watch};

/// What lag makes of the promise that a guest gets only what is fit: devices, and seconds where it says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Devices given to guests.
    pub given: u64,
    /// Seconds from the decision to the device, all together.
    pub waited: u64,
    /// Given to a copy's second or later pod.
    pub again: u64,
    /// Fit when they were reserved, and told to be not healthy by the time they were given.
    pub late: u64,
    /// For how long they had been told so, all together.
    pub late_seconds: u64,
    /// And at most.
    pub late_most: u64,
    /// Not fit, struck off and held by somebody when they were reserved; given once free and listed again.
    pub freed: u64,
    /// Not fit, and not listed by the device plugin, when they were reserved; listed again in between.
    pub relisted: u64,
    /// In no status when they were reserved.
    pub unlisted: u64,
    /// That did not work when they were given, whoever knew.
    pub broken: u64,
    /// Copies that were ended because a device failed.
    pub drained: u64,
    /// For how long at most a guest stayed, untold, on a device whose status said that guests are to leave it.
    pub stay_most: u64,
}

impl Lag {
    fn add(&mut self, other: &Self) {
        self.given += other.given;
        self.waited += other.waited;
        self.again += other.again;
        self.late += other.late;
        self.late_seconds += other.late_seconds;
        self.late_most = self.late_most.max(other.late_most);
        self.freed += other.freed;
        self.relisted += other.relisted;
        self.unlisted += other.unlisted;
        self.broken += other.broken;
        self.drained += other.drained;
        self.stay_most = self.stay_most.max(other.stay_most);
    }
}

/// What came of one run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it was.
    pub plan: Plan,
    /// What must never be.
    pub violations: BTreeSet<Violation>,
    /// What lag made of what was promised.
    pub lag: Lag,
    /// Healthy idle devices that were offered, and all that could have been, summed over time.
    pub offered: (u64, u64),
}

impl Run {
    pub(super) fn of(plan: Plan, watch: Watch) -> Self {
        let Watch { violations, lag, offered, .. } = watch;
        Self { plan, violations, lag, offered }
    }

    pub(super) fn panicked(plan: Plan) -> Self {
        Self { plan, violations: [Violation::Panic].into(), lag: Lag::default(), offered: (0, 0) }
    }
}

/// What came of many runs.
#[derive(Clone, Debug, Default)]
pub struct Report {
    rows: BTreeMap<String, Row>,
}

#[derive(Clone, Debug, Default)]
struct Row {
    runs: u64,
    violating: u64,
    lag: Lag,
    offered: (u64, u64),
}

impl Row {
    fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.violating += other.violating;
        self.lag.add(&other.lag);
        self.offered = (self.offered.0 + other.offered.0, self.offered.1 + other.offered.1);
    }
}

impl Report {
    /// Adds a run.
    pub fn add(&mut self, run: &Run) {
        let violating = u64::from(!run.violations.is_empty());
        let row = Row { runs: 1, violating, lag: run.lag, offered: run.offered };
        self.rows.entry(run.plan.kind()).or_default().add(&row);
    }

    /// Adds the runs of another report.
    pub fn merge(&mut self, other: &Self) {
        for (kind, row) in &other.rows {
            self.rows.entry(kind.clone()).or_default().add(row);
        }
    }

    fn all(&self) -> Row {
        let mut all = Row::default();
        self.rows.values().for_each(|row| all.add(row));
        all
    }

    /// How many runs broke a rule.
    pub fn violating(&self) -> u64 {
        self.all().violating
    }

    /// What lag made of what was promised, over all runs.
    pub fn lag(&self) -> Lag {
        self.all().lag
    }

    /// Of a thousand healthy idle devices, how many are offered.
    pub fn offered_per_mille(&self) -> u64 {
        let (offered, all) = self.all().offered;
        offered * 1_000 / all.max(1)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:<10}{:>7}{:>10}{:>9}{:>9}{:>8}{:>7}{:>7}{:>8}{:>7}{:>9}{:>9}{:>8}{:>8}{:>7}",
            "faults",
            "seeds",
            "violating",
            "offered‰",
            "given",
            "wait s",
            "again",
            "late",
            "late s",
            "most",
            "freed",
            "relisted",
            "broken",
            "drained",
            "stay s"
        )?;
        let named = self.rows.iter().map(|(kind, row)| (kind.as_str(), row.clone()));
        for (name, row) in named.chain([("total", self.all())]) {
            let Row { runs, violating, lag, offered } = row;
            writeln!(
                f,
                "{name:<10}{runs:>7}{violating:>10}{:>9}{:>9}{:>8}{:>7}{:>7}{:>8}{:>7}{:>9}{:>9}{:>8}{:>8}{:>7}",
                offered.0 * 1_000 / offered.1.max(1),
                lag.given,
                lag.waited / lag.given.max(1),
                lag.again,
                lag.late,
                lag.late_seconds / lag.late.max(1),
                lag.late_most,
                lag.freed,
                lag.relisted + lag.unlisted,
                lag.broken,
                lag.drained,
                lag.stay_most,
            )?;
        }
        Ok(())
    }
}
