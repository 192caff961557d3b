//! The table of XIDs as data: `catalogue.tsv`, one row a code.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::{Xid, XidClass};
use crate::capacity::Health;
use crate::gpu::words::{Action, Offer, Reason, Work, badness, words};
use crate::ids::Seconds;

const TEXT: &str = include_str!("catalogue.tsv");

/// Codes beyond this are no XIDs: NVIDIA numbers them one after the other and stands at 172.
pub const MAX_CODE: u32 = 9_999;

words!(
    /// What a code needs beyond its row.
    Special, "a special handling", {
        /// Nothing.
        None = "None",
        /// Counted by workload: several that fault on one device speak against the device, one alone against itself.
        CountPerWorkload = "CountPerWorkload",
        /// A consequence of another XID of the same minute, if there is one.
        FollowsAnother = "FollowsAnother",
        /// With a failed remap beside it the device needs to be replaced.
        DoubleBit = "DoubleBit",
        /// The registers behind it say what it means.
        LinkRegisters = "LinkRegisters",
        /// Unit and status words behind it say what it means.
        LinkSubcode = "LinkSubcode",
        /// Means what the driver now recommends.
        RecoveryAction = "RecoveryAction",
        /// What the device proved in confidence no longer holds.
        DropsEvidence = "DropsEvidence",
    }
);

/// What a report of a code means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// Its sort.
    pub class: XidClass,
    /// What becomes of the device.
    pub state: Health,
    /// Why.
    pub reason: Reason,
    /// What the owner should do.
    pub action: Action,
    /// What new work the device may take.
    pub offer: Offer,
    /// What becomes of foreign work on it.
    pub work: Work,
    /// How long without another report until it no longer counts; of no effect where only a reset or reboot ends it.
    pub hold: Seconds,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The mnemonic of NVIDIA's catalogue.
    pub name: String,
    /// The immediate action that NVIDIA's catalogue gives, in its word; none if it gives none.
    pub nvidia: Option<String>,
    /// What it means here.
    pub meaning: Meaning,
    /// What it needs beyond that.
    pub special: Special,
}

/// A row that cannot be used, and why. Its code then counts as unknown, which is the stricter reading.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read line {line} of the table of XIDs: {why}")]
pub struct RowError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// The rows of this release.
pub fn builtin() -> &'static BTreeMap<Xid, Row> {
    static ROWS: OnceLock<BTreeMap<Xid, Row>> = OnceLock::new();
    ROWS.get_or_init(|| parse(TEXT).0)
}

/// What is in the file of this release and cannot be used; nothing, or a test fails.
pub fn faults() -> Vec<RowError> {
    parse(TEXT).1
}

pub(super) fn parse(text: &str) -> (BTreeMap<Xid, Row>, Vec<RowError>) {
    let (mut rows, mut faults) = (BTreeMap::new(), Vec::new());
    let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with('#') && !line.is_empty());
    // The first of them names the columns.
    for (at, line) in lines.skip(1) {
        let read = row(line).and_then(|(xid, row)| match rows.insert(xid, row) {
            None => Ok(()),
            Some(_) => Err(format!("code {} stands twice", xid.0)),
        });
        if let Err(why) = read {
            faults.push(RowError { line: at + 1, why });
        }
    }
    (rows, faults)
}

fn row(line: &str) -> Result<(Xid, Row), String> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [code, name, nvidia, class, state, reason, action, offer, work, hold, special] = columns[..] else {
        return Err(format!("it has {} columns, 11 are needed", columns.len()));
    };
    let text = |error: crate::ids::IdError| error.to_string();
    let meaning = Meaning {
        class: class.parse().map_err(text)?,
        state: state_of(state)?,
        reason: reason.parse().map_err(text)?,
        action: action.parse().map_err(text)?,
        offer: offer.parse().map_err(text)?,
        work: work.parse().map_err(text)?,
        hold: Seconds(hold.parse().map_err(|_| format!("{hold:?} is no number of seconds"))?),
    };
    let xid = Xid(code.parse().map_err(|_| format!("{code:?} is no code"))?);
    check(xid, &meaning)?;
    let nvidia = (nvidia != "-").then(|| nvidia.to_owned());
    Ok((xid, Row { name: name.to_owned(), nvidia, meaning, special: special.parse().map_err(text)? }))
}

fn state_of(word: &str) -> Result<Health, String> {
    match word {
        "Healthy" => Ok(Health::Healthy),
        "Degraded" => Ok(Health::Degraded),
        "Unhealthy" => Ok(Health::Unhealthy),
        // A report is certain: it never makes a device one of which nobody can tell.
        _ => Err(format!("{word:?} is no state that a report can bring")),
    }
}

/// Longest time for which a report that needs no reset counts.
const LONGEST_HOLD: Seconds = Seconds(30 * 86_400);

/// Whether a row says one thing: no row takes new work away from a device that it calls healthy, or the other way round. Also what
/// a vote may say: a change of it is a change of the rules.
pub(super) fn check(xid: Xid, meaning: &Meaning) -> Result<(), String> {
    if xid.0 == 0 || xid.0 > MAX_CODE {
        return Err(format!("code {} is not between 1 and {MAX_CODE}", xid.0));
    }
    let fits = match meaning.state {
        Health::Healthy => meaning.offer == Offer::Any && meaning.work <= Work::RestartWorkload,
        Health::Degraded => meaning.offer != Offer::Any && meaning.hold >= Seconds(60) && meaning.hold <= LONGEST_HOLD,
        Health::Unhealthy => meaning.offer == Offer::Nothing && meaning.work >= Work::Drain,
        Health::Unknown => false,
    };
    if fits {
        Ok(())
    } else {
        Err(format!(
            "state, offer, work and hold of code {} contradict each other: Healthy goes with Any and no drain, Degraded with \
             SingleOnly or Nothing and a hold of 60 to {} seconds, Unhealthy with Nothing and a drain",
            xid.0, LONGEST_HOLD.0
        ))
    }
}

impl std::fmt::Display for Meaning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { class, state, reason, action, offer, work, hold } = self;
        write!(f, "{state:?} ({reason}; class {class}, action {action}, offer {offer}, work {work}, hold {} s)", hold.0)
    }
}

impl Meaning {
    /// The stricter of two in every respect; reason and action are those of the worse one.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let rank = |one: &Self| (badness(one.state), one.work, one.offer, one.action);
        let (class, offer) = (self.class.max(other.class), self.offer.max(other.offer));
        let (work, hold) = (self.work.max(other.work), self.hold.max(other.hold));
        let first = if rank(&other) > rank(&self) { other } else { self };
        Self { class, offer, work, hold, ..first }
    }

    /// Whether nothing in it is milder than in `floor`.
    #[must_use]
    pub fn at_least(&self, floor: &Self) -> bool {
        badness(self.state) >= badness(floor.state)
            && self.class >= floor.class
            && self.offer >= floor.offer
            && self.work >= floor.work
            && self.action >= floor.action
            && (self.hold >= floor.hold || self.state == Health::Unhealthy)
    }
}
