//! The one source of chance: splitmix64, a few lines that give the same numbers on every machine.

use koinon_core::ids::Seconds;

/// A stream of numbers from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        // The remainder's bias is far below what any table shows.
        usize::try_from(self.roll() % (end.max(1) as u64)).unwrap_or(0)
    }

    /// From `least` to `most`, both included.
    pub fn between(&mut self, least: i64, most: i64) -> Seconds {
        let span = usize::try_from(most.saturating_sub(least).max(0)).unwrap_or(0);
        Seconds(least.saturating_add(i64::try_from(self.below(span + 1)).unwrap_or(0)))
    }

    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// The element whose weight a roll falls on.
    pub fn weighted<T: Copy>(&mut self, first: T, others: &[(usize, T)]) -> T {
        let mut roll = self.below(100);
        for (weight, value) in others {
            if roll < *weight {
                return *value;
            }
            roll -= weight;
        }
        first
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
