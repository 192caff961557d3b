//! How much an author may add in a day, counted along its own chain so that everybody counts the same.

use crate::body::charter::Budgets;
use crate::ids::UnixSeconds;

/// What a chain has used of the day of its last entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    day: i64,
    bytes: u64,
    entries: u64,
}

/// A budget that an entry exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverBudget {
    /// Too many bytes.
    #[error("{seen} bytes on one day, the charter allows {allowed}")]
    Bytes {
        /// The charter's limit.
        allowed: u64,
        /// With this entry.
        seen: u64,
    },
    /// Too many entries.
    #[error("{seen} entries on one day, the charter allows {allowed}")]
    Entries {
        /// The charter's limit.
        allowed: u64,
        /// With this entry.
        seen: u64,
    },
}

/// What an author may still add on a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLeft {
    /// Payload bytes.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

fn at_day(before: &Usage, at: UnixSeconds) -> Usage {
    // The day never goes back along a chain: otherwise alternating dates would give a budget for each of them.
    let day = at.day().max(before.day);
    if day == before.day { *before } else { Usage { day, ..Usage::default() } }
}

/// The usage after an entry of `bytes` issued at `at`, and the budget that it exceeds.
pub(super) fn spend(before: &Usage, at: UnixSeconds, bytes: usize, budgets: &Budgets) -> (Usage, Option<OverBudget>) {
    let mut usage = at_day(before, at);
    usage.bytes = usage.bytes.saturating_add(bytes as u64);
    usage.entries = usage.entries.saturating_add(1);
    let over = if usage.entries > budgets.entries_per_day {
        Some(OverBudget::Entries { allowed: budgets.entries_per_day, seen: usage.entries })
    } else if usage.bytes > budgets.bytes_per_day {
        Some(OverBudget::Bytes { allowed: budgets.bytes_per_day, seen: usage.bytes })
    } else {
        None
    };
    (usage, over)
}

pub(super) fn left(last: &Usage, at: UnixSeconds, budgets: &Budgets) -> BudgetLeft {
    let usage = at_day(last, at);
    BudgetLeft {
        bytes: budgets.bytes_per_day.saturating_sub(usage.bytes),
        entries: budgets.entries_per_day.saturating_sub(usage.entries),
    }
}
