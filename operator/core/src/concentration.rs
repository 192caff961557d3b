//! How far something is in few hands, in whole numbers, so that all who compute it get the same.

use crate::body::charter::Fraction;

/// How something is spread over owners, in thousandths and heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Concentration {
    /// The fewest owners that together hold more than a third; none where there is nothing to hold.
    pub nakamoto_third: u32,
    /// The fewest owners that together hold more than half.
    pub nakamoto_half: u32,
    /// The Herfindahl-Hirschman index, normalised for the number of owners: 0 if all hold the same, 1000 if one holds all.
    pub hhi: u32,
    /// The Gini coefficient: 0 if all hold the same.
    pub gini: u32,
}

impl Concentration {
    /// The concentration of what owners hold, those included that hold nothing.
    pub fn of(shares: impl IntoIterator<Item = u64>) -> Self {
        let mut shares: Vec<u64> = shares.into_iter().collect();
        shares.sort_unstable();
        let part = |num, den| nakamoto(&shares, Fraction { num, den });
        Self {
            nakamoto_third: part(1, 3),
            nakamoto_half: part(1, 2),
            hhi: normalised_hhi(&shares),
            gini: gini(&shares),
        }
    }
}

/// `shares` small enough that their squares, added up, still fit; what is lost is far below a thousandth.
fn scaled(shares: &[u64]) -> Vec<u128> {
    let total: u128 = shares.iter().map(|share| u128::from(*share)).sum();
    let beyond = (u128::BITS - total.leading_zeros()).saturating_sub(44);
    shares.iter().map(|share| u128::from(*share) >> beyond).collect()
}

fn thousandths(num: u128, den: u128) -> u32 {
    num.saturating_mul(1000).checked_div(den).map_or(0, |whole| u32::try_from(whole).unwrap_or(u32::MAX))
}

/// `shares` in ascending order.
fn nakamoto(shares: &[u64], part: Fraction) -> u32 {
    let total: u128 = shares.iter().map(|share| u128::from(*share)).sum();
    let mut held = 0u128;
    for (count, share) in (1u32..).zip(shares.iter().rev()) {
        held += u128::from(*share);
        if held * u128::from(part.den) > total * u128::from(part.num) {
            return count;
        }
    }
    0
}

fn normalised_hhi(shares: &[u64]) -> u32 {
    let shares = scaled(shares);
    let (count, total) = (shares.len() as u128, shares.iter().sum::<u128>());
    match (count, total) {
        (_, 0) => 0,
        // Of one there is nothing to compare with, and it holds everything.
        (1, _) => 1000,
        _ => {
            let squares: u128 = shares.iter().map(|share| share * share).sum();
            thousandths((count * squares).saturating_sub(total * total), total * total * (count - 1))
        }
    }
}

/// `shares` in ascending order.
fn gini(shares: &[u64]) -> u32 {
    let shares = scaled(shares);
    let (count, total) = (shares.len() as u128, shares.iter().sum::<u128>());
    let ranked: u128 = (1u128..).zip(&shares).map(|(rank, share)| rank * share).sum();
    thousandths((2 * ranked).saturating_sub((count + 1) * total), count * total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_spreads_have_their_known_figures() {
        let figures = |shares: &[u64]| {
            let Concentration { nakamoto_third, nakamoto_half, hhi, gini } = Concentration::of(shares.iter().copied());
            (nakamoto_third, nakamoto_half, hhi, gini)
        };
        assert_eq!(figures(&[8, 8, 8, 8, 8]), (2, 3, 0, 0));
        assert_eq!(figures(&[40, 0, 0, 0, 0]), (1, 1, 1000, 800));
        assert_eq!(figures(&[16]), (1, 1, 1000, 0));
        assert_eq!(figures(&[1, 2, 3, 4]), (1, 2, 66, 250));
        // Exactly a third is not more than a third.
        assert_eq!(figures(&[2, 2, 2]).0, 2);
        assert_eq!(figures(&[]), (0, 0, 0, 0));
        assert_eq!(figures(&[0, 0]), (0, 0, 0, 0));
    }

    fn shares() -> impl Strategy<Value = Vec<u64>> {
        proptest::collection::vec(0u64..1000, 1..30)
    }

    proptest! {
        /// The same figures as the textbooks define them, in floats.
        #[test]
        fn figures_agree_with_their_definitions(shares in shares()) {
            let (count, total) = (shares.len() as f64, shares.iter().sum::<u64>() as f64);
            prop_assume!(total > 0.0 && shares.len() > 1);
            let found = Concentration::of(shares.clone());
            let hhi: f64 = shares.iter().map(|share| (*share as f64 / total).powi(2)).sum();
            let normalised = (hhi - 1.0 / count) / (1.0 - 1.0 / count);
            prop_assert!((normalised * 1000.0 - f64::from(found.hhi)).abs() <= 1.001);
            let pairs = shares.iter().flat_map(|a| shares.iter().map(move |b| a.abs_diff(*b) as f64));
            let gini = pairs.sum::<f64>() / (2.0 * count * total);
            prop_assert!((gini * 1000.0 - f64::from(found.gini)).abs() <= 1.001);
        }

        #[test]
        fn so_many_hold_more_than_the_part_and_one_less_do_not(shares in shares()) {
            let total: u64 = shares.iter().sum();
            prop_assume!(total > 0);
            let found = Concentration::of(shares.clone());
            let mut largest = shares;
            largest.sort_unstable_by(|a, b| b.cmp(a));
            let held = |count: u32| largest[..count as usize].iter().sum::<u64>();
            prop_assert!(3 * held(found.nakamoto_third) > total && 3 * held(found.nakamoto_third - 1) <= total);
            prop_assert!(2 * held(found.nakamoto_half) > total && 2 * held(found.nakamoto_half - 1) <= total);
        }

        #[test]
        fn neither_order_nor_unit_matters(shares in shares(), unit in 1u64..1_000_000) {
            let found = Concentration::of(shares.clone());
            let reversed = shares.iter().rev().map(|share| share * unit);
            let again = Concentration::of(reversed);
            prop_assert_eq!((found.nakamoto_third, found.nakamoto_half), (again.nakamoto_third, again.nakamoto_half));
            prop_assert!(found.hhi.abs_diff(again.hhi) <= 1 && found.gini.abs_diff(again.gini) <= 1);
        }

        #[test]
        fn any_numbers_have_a_figure(shares in proptest::collection::vec(any::<u64>(), 0..200)) {
            let found = Concentration::of(shares);
            prop_assert!(found.hhi <= 1000 && found.gini <= 1000);
        }
    }
}
