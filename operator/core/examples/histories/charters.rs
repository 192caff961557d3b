//! Charters whose numbers differ enough that every rule decides somewhere.

use koinon_core::body::Charter;
use koinon_core::body::charter::{Class, Fraction, Preset};
use koinon_core::ids::Seconds;
use koinon_core::presets;
use koinon_core::testkit::{Person, charter as plain, person};

use crate::random::Random;

pub fn newcomer(name: &str) -> Person {
    person(name)
}

pub fn charter(random: &mut Random, founders: &[&Person], complete: bool) -> Charter {
    let trial = random.once_in(2);
    let mut charter = plain(founders, if trial { Preset::Trial } else { Preset::Standard });
    let parameters = &mut charter.parameters;
    parameters.sponsors = random.between(1, 2) as u32;
    parameters.close_when_all_voted = random.once_in(2);
    parameters.max_open_proposals = if random.once_in(4) { 1 } else { 20 };
    parameters.enact_window_seconds = Seconds(random.between(600, 4000));
    parameters.clock_tolerance_seconds = Seconds(random.between(5, 60));
    parameters.grace_seconds = Seconds(if random.once_in(3) { 0 } else { random.between(10, 90) });
    parameters.seal_by_seconds = Seconds(if random.once_in(3) { 0 } else { random.between(10, 200) });
    parameters.budgets.entries_per_day = if random.once_in(6) { 16 } else { 2_000 };
    if complete {
        let mut deliberation = presets::deliberation();
        deliberation.delegation_cap = Fraction { num: random.between(0, 5) as u32, den: 10 };
        deliberation.cool_down_seconds = Seconds(if random.once_in(4) { 0 } else { random.between(1, 3_000) });
        let periods = &mut deliberation.members;
        periods.dormant_after_seconds = Seconds(random.between(60, 400));
        periods.notice_seconds = Seconds(random.between(0, 150));
        periods.emergency_seconds = Seconds(if random.once_in(2) { 50_000 } else { random.between(1, 600) });
        let again = 2 * periods.emergency_seconds.0;
        periods.emergency_again_seconds = Seconds(random.between(again, again + 600));
        if random.once_in(3) {
            let most = if random.once_in(3) { 20_000 } else { 300 };
            parameters.probation_seconds = Seconds(random.between(1, most));
        }
        parameters.deliberation = Some(deliberation);
    }
    for (class, rules) in &mut charter.classes {
        rules.delay_seconds = Seconds(if random.once_in(4) { random.between(1, 60) } else { 0 });
        rules.period_seconds = Seconds(random.between(60, 240));
        rules.timelock_seconds =
            Seconds(if random.once_in(3) { random.between(300, 900) } else { random.between(0, 300) });
        if *class == Class::Expel && !random.once_in(4) {
            // Time to appeal.
            rules.timelock_seconds = Seconds(random.between(100, 600));
        }
        if random.once_in(3) {
            rules.delegation = !rules.delegation;
        }
        if random.once_in(6) {
            rules.turnout = Fraction { num: random.between(0, 7) as u32, den: 7 };
        }
        if random.once_in(6) {
            rules.veto = random.once_in(2).then_some(Fraction { num: 1, den: 2 });
        }
    }
    charter
}
