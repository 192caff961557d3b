//! A seed, and what follows from it: the same in every run.

/// Chooses what a cell leaves open: the order of devices and events, the call that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seed(pub u64);

impl Seed {
    /// A number below `end` for one use of the seed (splitmix64).
    pub fn below(self, purpose: u64, end: usize) -> usize {
        let mut word =
            self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(purpose.wrapping_mul(0xd1b5_4a32_d192_ed03));
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((word ^ (word >> 31)) % u64::try_from(end).unwrap()).unwrap()
    }

    /// The lowest bits one after the other, so that two seeds already differ in the first.
    pub fn bit(self, which: u32) -> bool {
        self.0 >> which & 1 == 1
    }

    pub fn choose<T: Copy>(self, among: &[T]) -> T {
        among[self.below(7, among.len())]
    }

    pub fn shuffle<T>(self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(u64::try_from(end).unwrap(), end + 1));
        }
    }
}
