//! The numbers that decide a vote, each beside the number that there is.

use koinon_core::body::charter::{ClassRules, Fraction, MinYes, Threshold};
use koinon_core::tally::Tally;
use serde::Serialize;

/// One number and what it must reach.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bar {
    /// What there is.
    pub seen: u32,
    /// What there must be.
    pub needed: u32,
    /// Whether it is there.
    pub reached: bool,
    /// Where the second number comes from.
    pub rule: String,
}

/// All of them.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Thresholds {
    /// Who may vote.
    pub electors: u32,
    /// For it.
    pub yes: u32,
    /// Against it.
    pub no: u32,
    /// For the turnout only.
    pub abstain: u32,
    /// Against it and toward the block.
    pub veto: u32,
    /// Who takes part.
    pub turnout: Bar,
    /// Yes among yes, no and veto.
    pub share: Bar,
    /// Yes, whatever the share.
    pub least_yes: Bar,
    /// Vetoes that block; absent where none do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<Bar>,
}

/// The numbers of `tally` by `rules`.
pub fn thresholds(rules: &ClassRules, tally: &Tally) -> Thresholds {
    let counts = tally.counts;
    let (turnout, electors) = (counts.turnout(), tally.electors);
    let deciding = counts.yes.saturating_add(counts.no).saturating_add(counts.veto);
    let (needed, rule) = match rules.threshold {
        // Strictly more: the next whole number.
        Threshold::MoreThan(share) => (floor(deciding, share).saturating_add(1), format!("more than {}", of(share))),
        Threshold::AtLeast(share) => (ceil(deciding, share).max(1), format!("at least {}", of(share))),
    };
    let least = match rules.min_yes {
        MinYes::Ceil(share) => format!("at least {} of the {electors} electors", of(share)),
        MinYes::FloorPlusOne(share) => format!("more than {} of the {electors} electors", of(share)),
    };
    let bar = |seen, needed, rule| Bar { seen, needed, reached: seen >= needed, rule };
    let block = rules.veto.map(|share| {
        // With five electors or more one alone cannot block.
        let several = if electors <= 4 { 1 } else { 2 };
        let rule = format!("at least {} of the {turnout} that take part, and {several}", of(share));
        bar(counts.veto, ceil(turnout, share).max(several), rule)
    });
    Thresholds {
        electors,
        yes: counts.yes,
        no: counts.no,
        abstain: counts.abstain,
        veto: counts.veto,
        turnout: bar(
            turnout,
            tally.turnout_needed,
            format!("at least {} of the {electors} electors", of(rules.turnout)),
        ),
        share: bar(counts.yes, needed, format!("{rule} of the {deciding} yes, no and veto")),
        least_yes: bar(counts.yes, tally.min_yes, least),
        block,
    }
}

fn of(Fraction { num, den }: Fraction) -> String {
    format!("{num}/{den}")
}

fn floor(whole: u32, share: Fraction) -> u32 {
    let part = u64::from(whole) * u64::from(share.num) / u64::from(share.den.max(1));
    u32::try_from(part).unwrap_or(u32::MAX)
}

fn ceil(whole: u32, share: Fraction) -> u32 {
    let part = (u64::from(whole) * u64::from(share.num)).div_ceil(u64::from(share.den.max(1)));
    u32::try_from(part).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use koinon_core::body::charter::{Class, Preset};
    use koinon_core::body::entry::Outcome;
    use koinon_core::presets;
    use koinon_core::tally::{Counts, tally};

    use super::*;

    #[test]
    fn the_bars_say_what_the_count_says() {
        for class in Class::ALL {
            let rules = presets::classes(Preset::Standard)[&class];
            for electors in 1..9 {
                for (yes, no, abstain, veto) in (0..625)
                    .map(|n| (n % 5, n / 5 % 5, n / 25 % 5, n / 125))
                    .filter(|(y, n, a, v)| y + n + a + v <= electors)
                {
                    let tally = tally(Counts { yes, no, abstain, veto }, electors, &rules);
                    let bars = thresholds(&rules, &tally);
                    let expected = if !bars.turnout.reached {
                        Outcome::QuorumNotMet
                    } else if bars.block.is_some_and(|block| block.reached) {
                        Outcome::Vetoed
                    } else if bars.share.reached && bars.least_yes.reached && yes + no + veto > 0 {
                        Outcome::Passed
                    } else {
                        Outcome::Rejected
                    };
                    assert_eq!(tally.outcome, expected, "{class} {electors}: {yes}/{no}/{abstain}/{veto}");
                }
            }
        }
    }
}
