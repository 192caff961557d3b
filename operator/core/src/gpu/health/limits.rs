//! From where on something counts. An owner may tune them for its own hardware, within bounds.

use serde::{Deserialize, Serialize};

use super::input::PerMille;
use crate::ids::Seconds;

/// From where on something counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// Clean surveys after a reset or reboot until a device is healthy again.
    pub clean_surveys: u32,
    /// And how far apart the first and the last of them are at least.
    pub clean_period: Seconds,
    /// Changes between healthy and degraded within `flap_period` that are still believed.
    pub flap_changes: u32,
    /// See there.
    pub flap_period: Seconds,
    /// How long a device stays degraded that changed more often.
    pub flap_hold: Seconds,
    /// How long a device that is no longer seen is still shown.
    pub missing_hold: Seconds,
    /// Surveys failed in a row from which on devices are unknown (R7).
    pub missed_surveys: u32,
    /// Applications' faults on one device within `fault_period` from which on it or its tenant is at fault.
    pub faults: u32,
    /// See there.
    pub fault_period: Seconds,
    /// Reports about one workload that lie closer together are one fault.
    pub fault_burst: Seconds,
    /// How long a device is degraded after such faults, or after an XID that named none.
    pub fault_hold: Seconds,
    /// How far apart an XID 45 and its cause may be.
    pub cause_period: Seconds,
    /// Silence that ends an incident of a node.
    pub incident_silence: Seconds,
    /// Rows remapped for uncorrected errors from which on a device is watched (R5).
    pub remaps: u64,
    /// Of the last ten minutes, those with a slowdown by heat from which on a device is degraded (R8: 0.6 a minute).
    pub slowdown_minutes: u32,
    /// How long a device may be at its highest temperature (R8).
    pub hot_period: Seconds,
    /// How long it may be degraded by heat before it is unhealthy (R8).
    pub hot_limit: Seconds,
    /// How long the power brake may be on (R9).
    pub brake_period: Seconds,
    /// On how many devices at least (R9).
    pub brake_devices: u32,
    /// How long the host link may be slow while the device works (R10).
    pub pcie_period: Seconds,
    /// The share of its highest clock from which on a device works (R10).
    pub busy_clock: PerMille,
    /// How far apart two surveys may be for a condition to have lasted between them.
    pub survey_gap: Seconds,
    /// The share of the memory of its like below which a device is not what it says, and as far above it (R12).
    pub memory: PerMille,
    /// The share of the median throughput below which a device is degraded (R14).
    pub slow: PerMille,
    /// And unhealthy (R14).
    pub very_slow: PerMille,
    /// For how long after the node is ready or the driver changed nothing becomes unhealthy but what is certain (R15).
    pub grace: Seconds,
}

impl Default for Limits {
    /// The values of the health rules R1 to R15.
    fn default() -> Self {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 3_600;
        Self {
            clean_surveys: 3,
            clean_period: Seconds(5 * MINUTE),
            flap_changes: 3,
            flap_period: Seconds(HOUR),
            flap_hold: Seconds(6 * HOUR),
            missing_hold: Seconds(24 * HOUR),
            missed_surveys: 2,
            faults: 5,
            fault_period: Seconds(HOUR),
            fault_burst: Seconds(10),
            fault_hold: Seconds(HOUR),
            cause_period: Seconds(MINUTE),
            incident_silence: Seconds(3 * MINUTE),
            remaps: 8,
            slowdown_minutes: 6,
            hot_period: Seconds(5 * MINUTE),
            hot_limit: Seconds(30 * MINUTE),
            brake_period: Seconds(5 * MINUTE),
            brake_devices: 2,
            pcie_period: Seconds(10 * MINUTE),
            busy_clock: PerMille(500),
            // Twelve surveys of 10 s: one that was missed, or an agent that restarted, ends no condition.
            survey_gap: Seconds(2 * MINUTE),
            memory: PerMille(980),
            slow: PerMille(900),
            very_slow: PerMille(750),
            grace: Seconds(10 * MINUTE),
        }
    }
}

/// A limit that an owner may set, and how far.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Its name in values and flags.
    pub name: &'static str,
    /// The rule that it is of.
    pub rule: &'static str,
    /// At least.
    pub least: i64,
    /// At most.
    pub most: i64,
    of: fn(&Limits) -> i64,
}

/// A limit that cannot be used, and what may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Beyond its bounds.
    #[error("cannot use the limit {name} ({rule}) of {seen}: {least} to {most} is allowed")]
    Bounds {
        /// Which.
        name: &'static str,
        /// Of which rule.
        rule: &'static str,
        /// What it is.
        seen: i64,
        /// At least.
        least: i64,
        /// At most.
        most: i64,
    },
    /// Two that contradict each other.
    #[error("cannot use the limit {smaller} of {seen}: it must not be above {larger}, which is {most}")]
    Order {
        /// Which.
        smaller: &'static str,
        /// What it is.
        seen: i64,
        /// The one that it is beyond.
        larger: &'static str,
        /// What that is.
        most: i64,
    },
}

const DAY: i64 = 86_400;

/// Every limit with its bounds. An owner may be stricter, or looser where its own hardware shows that a rule cries wolf, and never
/// so loose that the rule says nothing any more.
pub const BOUNDS: [Bound; 26] = {
    const fn bound(name: &'static str, rule: &'static str, least: i64, most: i64, of: fn(&Limits) -> i64) -> Bound {
        Bound { name, rule, least, most, of }
    }
    [
        // An unhealthy device needs at least one clean survey, and a minute in which it could have failed again.
        bound("cleanSurveys", "recovery", 1, 100, |limits| i64::from(limits.clean_surveys)),
        bound("cleanPeriod", "recovery", 60, DAY, |limits| limits.clean_period.0),
        bound("flapChanges", "flapping", 1, 100, |limits| i64::from(limits.flap_changes)),
        bound("flapPeriod", "flapping", 600, DAY, |limits| limits.flap_period.0),
        bound("flapHold", "flapping", 600, 7 * DAY, |limits| limits.flap_hold.0),
        bound("missingHold", "missing devices", 3_600, 30 * DAY, |limits| limits.missing_hold.0),
        // One survey that is late is no failure of a driver under load; ten are 100 s without a word.
        bound("missedSurveys", "R7", 1, 10, |limits| i64::from(limits.missed_surveys)),
        bound("faults", "application faults", 2, 1_000, |limits| i64::from(limits.faults)),
        bound("faultPeriod", "application faults", 600, DAY, |limits| limits.fault_period.0),
        bound("faultBurst", "application faults", 1, 600, |limits| limits.fault_burst.0),
        bound("faultHold", "application faults", 600, 7 * DAY, |limits| limits.fault_hold.0),
        bound("causePeriod", "XID 45", 10, 600, |limits| limits.cause_period.0),
        // NVIDIA takes XIDs that are less than three minutes apart for one burst.
        bound("incidentSilence", "XID bursts", 30, 3_600, |limits| limits.incident_silence.0),
        // The driver has up to 512 rows to remap; without its failure flag nothing is to be replaced.
        bound("remaps", "R5", 1, 512, |limits| i64::try_from(limits.remaps).unwrap_or(i64::MAX)),
        // Of the ten minutes that are looked at.
        bound("slowdownMinutes", "R8", 1, 10, |limits| i64::from(limits.slowdown_minutes)),
        bound("hotPeriod", "R8", 60, 3_600, |limits| limits.hot_period.0),
        bound("hotLimit", "R8", 300, DAY, |limits| limits.hot_limit.0),
        bound("brakePeriod", "R9", 60, 3_600, |limits| limits.brake_period.0),
        bound("brakeDevices", "R9", 1, 16, |limits| i64::from(limits.brake_devices)),
        bound("pciePeriod", "R10", 60, DAY, |limits| limits.pcie_period.0),
        // An idle link is slow by rights, so some share of the clock has to be asked for.
        bound("busyClock", "R10", 100, 1_000, |limits| i64::from(limits.busy_clock.0)),
        // At least two surveys of 15 s, the slowest that an agent may be set to.
        bound("surveyGap", "conditions that last", 30, 600, |limits| limits.survey_gap.0),
        // Also a rule against cheating: nobody calls a device of nine tenths of the memory whole.
        bound("memory", "R12", 900, 999, |limits| i64::from(limits.memory.0)),
        bound("slow", "R14", 500, 990, |limits| i64::from(limits.slow.0)),
        bound("verySlow", "R14", 300, 950, |limits| i64::from(limits.very_slow.0)),
        // What is certain condemns a device during the grace too.
        bound("grace", "R15", 0, 3_600, |limits| limits.grace.0),
    ]
};

impl Bound {
    /// What it is in `limits`: seconds, thousandths or a count.
    #[must_use]
    pub fn of(&self, limits: &Limits) -> i64 {
        (self.of)(limits)
    }
}

impl Limits {
    /// Checks what an owner has set.
    ///
    /// # Errors
    /// See [`LimitError`].
    pub fn validate(&self) -> Result<(), LimitError> {
        for bound in &BOUNDS {
            let (seen, Bound { name, rule, least, most, .. }) = (bound.of(self), *bound);
            if !(least..=most).contains(&seen) {
                return Err(LimitError::Bounds { name, rule, seen, least, most });
            }
        }
        for (smaller, seen, larger, most) in [
            ("hotPeriod", self.hot_period.0, "hotLimit", self.hot_limit.0),
            ("verySlow", self.very_slow.0.into(), "slow", self.slow.0.into()),
            ("faultBurst", self.fault_burst.0, "faultPeriod", self.fault_period.0),
        ] {
            if seen > most {
                return Err(LimitError::Order { smaller, seen, larger, most });
            }
        }
        Ok(())
    }

    /// Those that are not as the rules have them, each with what it is here.
    pub fn set(&self) -> impl Iterator<Item = (&'static Bound, i64)> {
        let rules = Self::default();
        BOUNDS.iter().filter_map(move |bound| {
            let here = bound.of(self);
            (here != bound.of(&rules)).then_some((bound, here))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn with(name: &str, value: i64) -> Result<(), LimitError> {
        serde_json::from_value::<Limits>(json!({ name: value })).unwrap().validate()
    }

    #[test]
    fn every_limit_has_bounds_around_its_rule_and_the_name_by_which_it_is_set() {
        let Value::Object(all) = serde_json::to_value(Limits::default()).unwrap() else { panic!("no object") };
        let named: std::collections::BTreeSet<&str> = BOUNDS.iter().map(|bound| bound.name).collect();
        assert_eq!(named, all.keys().map(String::as_str).collect());
        for bound in &BOUNDS {
            assert_eq!(all[bound.name], json!(bound.of(&Limits::default())), "{}", bound.name);
        }
        assert_eq!(Limits::default().validate(), Ok(()));
    }

    #[test]
    fn what_lies_beyond_the_bounds_is_refused_by_its_name_and_rule() {
        for bound in &BOUNDS {
            for wrong in [bound.least - 1, bound.most + 1] {
                // What cannot be a count at all is refused when it is read.
                let Ok(limits) = serde_json::from_value::<Limits>(json!({ bound.name: wrong })) else { continue };
                let error = limits.validate().unwrap_err();
                assert!(matches!(&error, LimitError::Bounds { name, .. } if *name == bound.name), "{error}");
            }
        }
        assert_eq!(
            with("hotPeriod", 7_200).unwrap_err().to_string(),
            "cannot use the limit hotPeriod (R8) of 7200: 60 to 3600 is allowed"
        );
        assert!(serde_json::from_value::<Limits>(json!({"hotperiod": 60})).is_err(), "a slip of the pen is no limit");
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        assert!(matches!(with("hotPeriod", 1_801), Err(LimitError::Order { smaller: "hotPeriod", .. })));
        assert!(matches!(with("verySlow", 901), Err(LimitError::Order { smaller: "verySlow", .. })));
    }

    #[test]
    fn what_an_owner_has_set_is_told_and_nothing_else() {
        let limits: Limits = serde_json::from_value(json!({"hotPeriod": 600, "remaps": 8})).unwrap();
        let set: Vec<(&str, i64)> = limits.set().map(|(bound, here)| (bound.name, here)).collect();
        assert_eq!(set, [("hotPeriod", 600)]);
    }
}
