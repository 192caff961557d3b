//! Counting. Integers only, every operation total: the same votes give the same outcome on every machine.

use crate::body::charter::{ClassRules, Fraction, MinYes, Threshold};
use crate::body::entry::Outcome;
use crate::body::proposal::Choice;

/// Votes by choice, one for each control group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// For it.
    pub yes: u32,
    /// Against it.
    pub no: u32,
    /// For the turnout only.
    pub abstain: u32,
    /// Against it and toward the block.
    pub veto: u32,
}

impl Counts {
    /// Adds one vote.
    pub fn add(&mut self, choice: Choice) {
        let field = match choice {
            Choice::Yes => &mut self.yes,
            Choice::No => &mut self.no,
            Choice::Abstain => &mut self.abstain,
            Choice::Veto => &mut self.veto,
        };
        *field = field.saturating_add(1);
    }

    /// How many took part; all four choices count, so that staying away is never a stronger no than voting no.
    pub fn turnout(&self) -> u32 {
        self.yes.saturating_add(self.no).saturating_add(self.abstain).saturating_add(self.veto)
    }
}

/// A count with the numbers that decide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// How many may vote.
    pub electors: u32,
    /// How they did.
    pub counts: Counts,
    /// How many must take part.
    pub turnout_needed: u32,
    /// How many yes are needed at least, whatever the share.
    pub min_yes: u32,
    /// What it amounts to.
    pub outcome: Outcome,
}

/// Counts `counts` of `electors` by `rules`.
pub fn tally(counts: Counts, electors: u32, rules: &ClassRules) -> Tally {
    Tally {
        electors,
        counts,
        turnout_needed: ceil(electors, rules.turnout),
        min_yes: min_yes(electors, rules.min_yes),
        outcome: outcome(counts, electors, rules),
    }
}

/// What `counts` of `electors` amount to by `rules`.
pub fn outcome(counts: Counts, electors: u32, rules: &ClassRules) -> Outcome {
    let (yes, veto, turnout) = (u128::from(counts.yes), u128::from(counts.veto), u128::from(counts.turnout()));
    let deciding = yes + u128::from(counts.no) + veto;
    if counts.turnout() < ceil(electors, rules.turnout) {
        return Outcome::QuorumNotMet;
    }
    // With five or more electors one alone cannot block.
    let least_vetoes = if electors <= 4 { 1 } else { 2 };
    let blocks =
        |share: Fraction| veto >= least_vetoes && veto * u128::from(share.den) >= turnout * u128::from(share.num);
    if rules.veto.is_some_and(blocks) {
        return Outcome::Vetoed;
    }
    let enough = match rules.threshold {
        Threshold::MoreThan(share) => yes * u128::from(share.den) > deciding * u128::from(share.num),
        Threshold::AtLeast(share) => yes * u128::from(share.den) >= deciding * u128::from(share.num),
    };
    if deciding == 0 || !enough || counts.yes < min_yes(electors, rules.min_yes) {
        return Outcome::Rejected;
    }
    Outcome::Passed
}

fn min_yes(electors: u32, rule: MinYes) -> u32 {
    match rule {
        MinYes::Ceil(share) => ceil(electors, share),
        MinYes::FloorPlusOne(share) => {
            let whole = u64::from(electors) * u64::from(share.num) / u64::from(share.den.max(1));
            u32::try_from(whole).unwrap_or(u32::MAX).saturating_add(1)
        }
    }
}

fn ceil(electors: u32, share: Fraction) -> u32 {
    let whole = (u64::from(electors) * u64::from(share.num)).div_ceil(u64::from(share.den.max(1)));
    u32::try_from(whole).unwrap_or(u32::MAX)
}

/// How many of `members` may lie without any decision being unsafe: none with up to three.
pub fn faults_tolerated(members: usize) -> usize {
    if members <= 3 { 0 } else { (members - 1) / 3 }
}

/// How many of `members` must seal. Up to three members the quorum tolerates a dead operator, not a lying one.
pub fn seal_quorum(members: usize) -> usize {
    if members <= 3 { members / 2 + 1 } else { 2 * members / 3 + 1 }
}

/// How many of `members` must seal a change to `after` members. Quorums of three and of four need not overlap in an
/// honest operator, so that step takes everybody.
pub fn membership_quorum(members: usize, after: usize) -> usize {
    match (members, after) {
        (3, 4) | (4, 3) => 3,
        _ => seal_quorum(members),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::body::charter::{Class, Preset};
    use crate::presets;

    fn count(yes: u32, no: u32, abstain: u32, veto: u32) -> Counts {
        Counts { yes, no, abstain, veto }
    }

    fn judge(class: Class, electors: u32, counts: Counts) -> Outcome {
        outcome(counts, electors, &presets::classes(Preset::Standard)[&class])
    }

    #[test]
    fn three_members_decide_everyday_matters_by_majority() {
        assert_eq!(judge(Class::Routine, 3, count(2, 1, 0, 0)), Outcome::Passed);
        assert_eq!(judge(Class::Routine, 3, count(1, 1, 1, 0)), Outcome::Rejected);
        assert_eq!(judge(Class::Routine, 3, count(1, 0, 2, 0)), Outcome::Passed);
        assert_eq!(judge(Class::Routine, 3, count(0, 0, 3, 0)), Outcome::Rejected);
        assert_eq!(judge(Class::Routine, 3, count(0, 0, 0, 0)), Outcome::QuorumNotMet);
        assert_eq!(judge(Class::Routine, 3, count(2, 0, 0, 1)), Outcome::Vetoed);
    }

    #[test]
    fn a_member_is_admitted_by_two_thirds() {
        assert_eq!(judge(Class::Admit, 1, count(1, 0, 0, 0)), Outcome::Passed);
        assert_eq!(judge(Class::Admit, 2, count(1, 1, 0, 0)), Outcome::Rejected);
        assert_eq!(judge(Class::Admit, 3, count(2, 1, 0, 0)), Outcome::Passed);
        assert_eq!(judge(Class::Admit, 3, count(1, 0, 0, 0)), Outcome::QuorumNotMet);
    }

    #[test]
    fn the_charter_changes_only_with_a_majority_of_all() {
        assert_eq!(judge(Class::Charter, 3, count(1, 0, 1, 0)), Outcome::Rejected);
        assert_eq!(judge(Class::Charter, 3, count(2, 0, 0, 0)), Outcome::Passed);
    }

    #[test]
    fn one_veto_of_five_or_more_does_not_block() {
        assert_eq!(judge(Class::Routine, 6, count(2, 0, 0, 1)), Outcome::Passed);
        assert_eq!(judge(Class::Routine, 6, count(4, 0, 0, 2)), Outcome::Vetoed);
    }

    #[test]
    fn seal_quorums_are_the_published_ones() {
        let seen: Vec<usize> = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 15].map(seal_quorum).to_vec();
        assert_eq!(seen, [1, 2, 2, 3, 4, 5, 5, 6, 7, 7, 9, 11]);
        assert_eq!((membership_quorum(3, 4), membership_quorum(4, 3), membership_quorum(2, 3)), (3, 3, 2));
    }

    /// The same rules with exact fractions in the longest words, to hold the integer form against.
    fn naive(c: Counts, electors: u32, rules: &ClassRules) -> Outcome {
        let less = |a: (u128, u128), b: (u128, u128)| a.0 * b.1 < b.0 * a.1;
        let of = |n: u32, f: Fraction| (u128::from(n) * u128::from(f.num), u128::from(f.den));
        let all = c.yes + c.no + c.abstain + c.veto;
        let decisive = c.yes + c.no + c.veto;
        let whole = |n: u32| (u128::from(n), 1);
        if less(whole(all), of(electors, rules.turnout)) {
            return Outcome::QuorumNotMet;
        }
        if let Some(share) = rules.veto {
            let several = c.veto >= 2 || (c.veto == 1 && electors <= 4);
            if several && !less(whole(c.veto), of(all, share)) {
                return Outcome::Vetoed;
            }
        }
        let passes = match rules.threshold {
            Threshold::MoreThan(share) => less(of(decisive, share), whole(c.yes)),
            Threshold::AtLeast(share) => !less(whole(c.yes), of(decisive, share)),
        };
        let enough = match rules.min_yes {
            MinYes::Ceil(share) => !less(whole(c.yes), of(electors, share)),
            MinYes::FloorPlusOne(share) => less(of(electors, share), whole(c.yes)),
        };
        if decisive > 0 && passes && enough { Outcome::Passed } else { Outcome::Rejected }
    }

    fn fraction() -> impl Strategy<Value = Fraction> {
        (1u32..=1000).prop_flat_map(|den| (0..=den).prop_map(move |num| Fraction { num, den }))
    }

    fn rules() -> impl Strategy<Value = ClassRules> {
        let any_rules =
            (fraction(), fraction(), any::<bool>(), fraction(), any::<bool>(), proptest::option::of(fraction()));
        any_rules.prop_map(|(turnout, share, strict, yes, floor, veto)| ClassRules {
            turnout,
            threshold: if strict { Threshold::MoreThan(share) } else { Threshold::AtLeast(share) },
            min_yes: if floor { MinYes::FloorPlusOne(yes) } else { MinYes::Ceil(yes) },
            veto,
            ..presets::classes(Preset::Trial)[&Class::Routine]
        })
    }

    proptest! {
        #[test]
        fn the_count_agrees_with_a_naive_one(
            electors in 0u32..40, yes in 0u32..12, no in 0u32..12, abstain in 0u32..12, veto in 0u32..12, rules in rules(),
        ) {
            let counts = count(yes, no, abstain, veto);
            prop_assert_eq!(outcome(counts, electors, &rules), naive(counts, electors, &rules));
        }

        #[test]
        fn no_numbers_make_it_panic(
            electors: u32, yes: u32, no: u32, abstain: u32, veto: u32, num: u32, den: u32,
        ) {
            let share = Fraction { num, den };
            let rules = ClassRules {
                turnout: share, threshold: Threshold::AtLeast(share), min_yes: MinYes::FloorPlusOne(share), veto: Some(share),
                ..presets::classes(Preset::Trial)[&Class::Routine]
            };
            tally(count(yes, no, abstain, veto), electors, &rules);
        }

        #[test]
        fn two_quorums_meet(members in 1usize..200) {
            let q = seal_quorum(members);
            prop_assert!(q <= members && 2 * q > members);
            if members >= 4 {
                prop_assert!(2 * q - members > (members - 1) / 3);
            }
        }
    }
}
