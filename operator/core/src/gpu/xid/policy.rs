//! What a report means: the built-in table, made stricter or longer by a table that the cooperative voted for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::catalogue::{self, Meaning, Row, Special};
use super::links::{self, LinkVerdict};
use super::recovery;
use super::{Xid, XidClass, XidEvent};
use crate::capacity::Health;
use crate::gpu::device::RecoveryAction;
use crate::gpu::words::{Action, Cause, Offer, Reason, Work};
use crate::ids::{Digest, Seconds};

/// Most rows of a voted table: a proposal has to fit into 32 KiB.
pub const MAX_ROWS: usize = 64;

/// A table that the cooperative voted for, as data. Nothing but rows can stand in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XidExtension {
    /// Its rows.
    pub rows: Vec<XidRow>,
}

/// A row of a voted table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct XidRow {
    /// The code.
    pub code: u32,
    /// Its sort.
    pub class: XidClass,
    /// What becomes of the device.
    pub state: Health,
    /// Why, as one word.
    pub reason: Reason,
    /// What the owner should do.
    pub action: Action,
    /// What new work the device may take.
    pub offer: Offer,
    /// What becomes of foreign work on it.
    pub work: Work,
    /// How long without another report until a degraded device is no longer so.
    #[serde(default)]
    pub hold_seconds: u32,
}

/// Why a voted table is not used. The built-in one then holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XidPolicyError {
    /// Too long.
    #[error("cannot use a table of {seen} XIDs: at most {MAX_ROWS} rows are allowed")]
    TooManyRows {
        /// How many there are.
        seen: usize,
    },
    /// A row that contradicts itself.
    #[error("cannot use the row of XID {code}: {why}")]
    Row {
        /// Which.
        code: u32,
        /// What is wrong with it.
        why: String,
    },
    /// Two rows for one code.
    #[error("cannot use a table in which XID {code} stands twice: keep one of the rows")]
    Twice {
        /// Which.
        code: u32,
    },
    /// Rows in another order than that of their codes, so that one table could be written in several ways.
    #[error(
        "cannot use a table in which XID {code} stands behind a higher one: write the rows in the order of their codes"
    )]
    Order {
        /// Which.
        code: u32,
    },
    /// A row that is milder than the built-in one.
    #[error(
        "cannot use the row of XID {code}: class, state, action, offer, work or hold is milder than what this release's table says, \
             which is {says}; a vote can only make a known code stricter"
    )]
    Milder {
        /// Which.
        code: u32,
        /// What the table says.
        says: String,
    },
}

/// Whether rows can be a voted table. It is decided without the table of a release, which the next may change: all members have to
/// come to the same.
///
/// # Errors
/// See [`XidPolicyError`].
pub fn check(rows: &[XidRow]) -> Result<(), XidPolicyError> {
    if rows.len() > MAX_ROWS {
        return Err(XidPolicyError::TooManyRows { seen: rows.len() });
    }
    for (at, row) in rows.iter().enumerate() {
        let code = row.code;
        catalogue::check(Xid(code), &row.meaning()).map_err(|why| XidPolicyError::Row { code, why })?;
        match at.checked_sub(1).and_then(|before| rows.get(before)).map(|before| before.code) {
            Some(before) if before == code => return Err(XidPolicyError::Twice { code }),
            Some(before) if before > code => return Err(XidPolicyError::Order { code }),
            _ => {}
        }
    }
    Ok(())
}

/// What reports mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XidPolicy {
    rows: &'static BTreeMap<Xid, Row>,
    voted: BTreeMap<Xid, Meaning>,
}

impl XidPolicy {
    /// The table of this release.
    #[must_use]
    pub fn builtin() -> Self {
        Self { rows: catalogue::builtin(), voted: BTreeMap::new() }
    }

    /// The table of this release with that of a vote. A vote binds offers, so it may say what it likes of codes that this
    /// release does not know, and may be stricter, never milder, with the others.
    ///
    /// # Errors
    /// Also where a row is milder than this release's.
    pub fn with(extension: &XidExtension) -> Result<Self, XidPolicyError> {
        let policy = Self::merged(extension)?;
        for (xid, voted) in &policy.voted {
            if let Some(known) = policy.rows.get(xid).filter(|known| !voted.at_least(&known.meaning)) {
                return Err(XidPolicyError::Milder { code: xid.0, says: known.meaning.to_string() });
            }
        }
        Ok(policy)
    }

    /// As [`Self::with`], of a table that another release may have been asked about: of two meanings the stricter holds, so a row
    /// that this release calls milder says nothing.
    ///
    /// # Errors
    /// If it cannot be a voted table.
    pub fn merged(extension: &XidExtension) -> Result<Self, XidPolicyError> {
        check(&extension.rows)?;
        let voted = extension.rows.iter().map(|row| (Xid(row.code), row.meaning())).collect();
        Ok(Self { voted, ..Self::builtin() })
    }

    /// The sort of a code, for metrics and for what is remembered first.
    #[must_use]
    pub fn class(&self, xid: Xid) -> XidClass {
        self.plain(xid).class
    }

    /// What a code means by its row alone.
    #[must_use]
    pub fn plain(&self, xid: Xid) -> Meaning {
        match (self.rows.get(&xid), self.voted.get(&xid)) {
            (Some(row), Some(voted)) => row.meaning.clone().worse(voted.clone()),
            (Some(row), None) => row.meaning.clone(),
            (None, Some(voted)) => voted.clone(),
            (None, None) => unknown(),
        }
    }

    /// What a code needs beyond its row.
    #[must_use]
    pub fn special(&self, xid: Xid) -> Special {
        self.rows.get(&xid).map_or(Special::None, |row| row.special)
    }

    /// Whether this release or the vote has a row for a code.
    #[must_use]
    pub fn knows(&self, xid: Xid) -> bool {
        self.rows.contains_key(&xid) || self.voted.contains_key(&xid)
    }

    /// Whether the vote has a row for a code.
    #[must_use]
    pub fn is_voted(&self, xid: Xid) -> bool {
        self.voted.contains_key(&xid)
    }

    /// What a report means, with what its line says; `recovery` is what the driver recommends now, if it was read.
    #[must_use]
    pub fn meaning(&self, event: &XidEvent, recovery: Option<RecoveryAction>) -> Meaning {
        let Some(row) = self.rows.get(&event.xid) else { return self.plain(event.xid) };
        let detail = event.detail.as_deref();
        let read = match row.special {
            Special::LinkRegisters => of_link(&row.meaning, links::registers(detail)),
            Special::LinkSubcode => of_link(&row.meaning, links::subcode(event.xid, detail)),
            Special::RecoveryAction => of_recovery(&row.meaning, recovery.or_else(|| recovery::parse(detail))),
            _ => row.meaning.clone(),
        };
        match self.voted.get(&event.xid) {
            Some(voted) => read.worse(voted.clone()),
            None => read,
        }
    }
}

impl XidExtension {
    /// What stands for exactly these rows.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let rows = self.rows.iter().map(|row| {
            let XidRow { code, class, state, reason, action, offer, work, hold_seconds } = row;
            format!("{code} {class} {state:?} {reason} {action} {offer} {work} {hold_seconds}\n")
        });
        Digest::of(rows.collect::<String>().as_bytes())
    }
}

impl XidRow {
    /// What a report of the code means by this row alone.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        Meaning {
            class: self.class,
            state: self.state,
            reason: self.reason.clone(),
            action: self.action,
            offer: self.offer,
            work: self.work,
            hold: Seconds(i64::from(self.hold_seconds)),
        }
    }
}

/// A code that nobody here knows: never ignored. A day, so that somebody has looked before it ends by itself.
fn unknown() -> Meaning {
    Meaning {
        class: XidClass::Unknown,
        state: Health::Degraded,
        reason: Cause::UnknownXid.into(),
        action: Action::Investigate,
        offer: Offer::Nothing,
        work: Work::Keep,
        hold: Seconds(86_400),
    }
}

fn of_link(row: &Meaning, verdict: LinkVerdict) -> Meaning {
    let healthy = |class, reason: Cause, action, work| Meaning {
        class,
        state: Health::Healthy,
        reason: reason.into(),
        action,
        offer: Offer::Any,
        work,
        hold: Seconds(0),
    };
    match verdict {
        LinkVerdict::Ignore => healthy(XidClass::Info, Cause::Notice, Action::None, Work::Keep),
        LinkVerdict::RestartWorkload => {
            healthy(XidClass::App, Cause::ApplicationFault, Action::RestartWorkload, Work::RestartWorkload)
        }
        LinkVerdict::Degraded => row.clone(),
        LinkVerdict::Reset => needs(Cause::NvLink, XidClass::Reset, Action::ResetGpu, Work::Drain),
    }
}

fn of_recovery(row: &Meaning, action: Option<RecoveryAction>) -> Meaning {
    match action {
        Some(RecoveryAction::None) => row.clone(),
        Some(RecoveryAction::NodeReboot) => {
            needs(Cause::RebootRequired, XidClass::Reboot, Action::RebootNode, Work::Drain)
        }
        Some(RecoveryAction::DrainP2p) => Meaning {
            state: Health::Degraded,
            reason: Cause::DrainP2p.into(),
            action: Action::DrainP2p,
            offer: Offer::Nothing,
            hold: Seconds(3_600),
            ..row.clone()
        },
        // Something changed, and neither the driver nor the line says to what: the worse reading.
        Some(RecoveryAction::GpuReset | RecoveryAction::DrainAndReset | RecoveryAction::Other(_)) | None => {
            needs(Cause::ResetRequired, XidClass::Reset, Action::ResetGpu, Work::Drain)
        }
    }
}

fn needs(reason: Cause, class: XidClass, action: Action, work: Work) -> Meaning {
    Meaning {
        class,
        state: Health::Unhealthy,
        reason: reason.into(),
        action,
        offer: Offer::Nothing,
        work,
        hold: Seconds(0),
    }
}
