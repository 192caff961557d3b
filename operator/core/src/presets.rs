//! The two charters that people start from.

use std::collections::BTreeMap;

use crate::body::charter::{
    Budgets, Class, ClassRules, Deliberation, Fraction, MemberPeriods, MinYes, Parameters, Preset, Threshold,
};
use crate::ids::Seconds;

const fn part(num: u32, den: u32) -> Fraction {
    Fraction { num, den }
}

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// The parameters of `preset`; [`Preset::Custom`] begins with the standard ones.
pub fn parameters(preset: Preset) -> Parameters {
    match preset {
        Preset::Trial => Parameters {
            grace_seconds: Seconds(0),
            seal_by_seconds: Seconds(0),
            clock_tolerance_seconds: Seconds(30),
            enact_window_seconds: Seconds(HOUR),
            beacon_seconds: Seconds(2),
            fresh_seconds: Seconds(6),
            lost_seconds: Seconds(20),
            lease_seconds: Seconds(20),
            lease_margin_seconds: Seconds(5),
            keep_serving_max_seconds: Seconds(DAY),
            budgets: Budgets { bytes_per_day: 64 << 20, entries_per_day: 20_000 },
            invite_hours: 72,
            sponsors: 1,
            probation_seconds: Seconds(0),
            max_open_proposals: 20,
            close_when_all_voted: true,
            deliberation: None,
        },
        Preset::Standard | Preset::Custom => Parameters {
            grace_seconds: Seconds(HOUR),
            seal_by_seconds: Seconds(HOUR),
            clock_tolerance_seconds: Seconds(120),
            enact_window_seconds: Seconds(72 * HOUR),
            beacon_seconds: Seconds(10),
            fresh_seconds: Seconds(30),
            lost_seconds: Seconds(5 * MINUTE),
            lease_seconds: Seconds(10 * MINUTE),
            lease_margin_seconds: Seconds(MINUTE),
            keep_serving_max_seconds: Seconds(7 * DAY),
            budgets: Budgets { bytes_per_day: 8 << 20, entries_per_day: 2_000 },
            invite_hours: 72,
            sponsors: 2,
            probation_seconds: Seconds(0),
            max_open_proposals: 3,
            close_when_all_voted: false,
            deliberation: None,
        },
    }
}

/// What rules 2 add to a charter of `preset`.
pub fn deliberation_of(preset: Preset) -> Deliberation {
    match preset {
        Preset::Trial => Deliberation { cool_down_seconds: Seconds(5 * MINUTE), ..deliberation() },
        Preset::Standard | Preset::Custom => deliberation(),
    }
}

/// What rules 2 add to the standard charter.
pub fn deliberation() -> Deliberation {
    Deliberation {
        delegation_max_seconds: Seconds(180 * DAY),
        delegation_cap: part(1, 10),
        cool_down_seconds: Seconds(14 * DAY),
        members: MemberPeriods::default(),
    }
}

/// The classes of `preset`; [`Preset::Custom`] begins with the standard ones.
pub fn classes(preset: Preset) -> BTreeMap<Class, ClassRules> {
    Class::ALL
        .into_iter()
        .map(|class| {
            let rules = standard(class);
            let rules = match preset {
                Preset::Trial => ClassRules {
                    delay_seconds: Seconds(0),
                    period_seconds: Seconds(2 * MINUTE),
                    timelock_seconds: Seconds(0),
                    ..rules
                },
                Preset::Standard | Preset::Custom => rules,
            };
            (class, rules)
        })
        .collect()
}

fn standard(class: Class) -> ClassRules {
    let (delay, period, timelock) = match class {
        Class::Routine => (HOUR, 72 * HOUR, DAY),
        Class::Economic => (DAY, 7 * DAY, 3 * DAY),
        Class::Admit => (DAY, 7 * DAY, DAY),
        Class::Charter => (3 * DAY, 14 * DAY, 7 * DAY),
        Class::Expel => (DAY, 7 * DAY, 3 * DAY),
        Class::Recall => (HOUR, 72 * HOUR, DAY),
        Class::Cancel => (0, 12 * HOUR, 0),
        Class::Emergency => (0, HOUR, 0),
    };
    let turnout = match class {
        Class::Routine | Class::Cancel => part(1, 3),
        Class::Economic | Class::Admit | Class::Recall | Class::Emergency => part(1, 2),
        Class::Charter | Class::Expel => part(2, 3),
    };
    let threshold = match class {
        Class::Admit | Class::Charter | Class::Expel => Threshold::AtLeast(part(2, 3)),
        _ => Threshold::MoreThan(part(1, 2)),
    };
    let min_yes = match class {
        Class::Routine | Class::Cancel => MinYes::Ceil(part(1, 4)),
        Class::Economic | Class::Admit | Class::Recall | Class::Emergency => MinYes::Ceil(part(1, 3)),
        Class::Charter => MinYes::FloorPlusOne(part(1, 2)),
        Class::Expel => MinYes::Ceil(part(2, 3)),
    };
    let veto = match class {
        Class::Routine | Class::Economic | Class::Admit | Class::Charter => Some(part(1, 3)),
        Class::Expel | Class::Recall | Class::Cancel | Class::Emergency => None,
    };
    ClassRules {
        delay_seconds: Seconds(delay),
        period_seconds: Seconds(period),
        turnout,
        threshold,
        min_yes,
        veto,
        timelock_seconds: Seconds(timelock),
        delegation: matches!(class, Class::Routine | Class::Economic | Class::Admit),
    }
}
