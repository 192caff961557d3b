//! Who holds how much of something that is there once for all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much each holder has; clones share it.
#[derive(Clone, Debug)]
pub struct Shares<K: Ord>(Arc<Mutex<Books<K>>>);

#[derive(Debug)]
struct Books<K: Ord> {
    all: usize,
    by: BTreeMap<K, usize>,
}

/// What is held before more is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// By the one who asks.
    pub own: usize,
    /// By everybody.
    pub all: usize,
}

/// What one holder took, given back when dropped.
#[derive(Debug)]
pub struct Share<K: Ord> {
    shares: Shares<K>,
    holder: K,
    amount: usize,
}

impl<K: Ord> Default for Shares<K> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Books { all: 0, by: BTreeMap::new() })))
    }
}

impl<K: Ord + Clone> Shares<K> {
    /// Takes so much, if `may` has nothing against it. Nobody else takes anything between its judgement and the taking.
    ///
    /// # Errors
    /// Those of `may`; then nothing was taken.
    pub fn take<E>(&self, holder: &K, amount: usize, may: impl FnOnce(Sum) -> Result<(), E>) -> Result<Share<K>, E> {
        let mut share = Share { shares: self.clone(), holder: holder.clone(), amount: 0 };
        share.grow(amount, may)?;
        Ok(share)
    }
}

impl<K: Ord> Shares<K> {
    // A panic under the lock cannot leave a sum half changed.
    fn lock(&self) -> MutexGuard<'_, Books<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Clone> Share<K> {
    /// Takes so much more.
    ///
    /// # Errors
    /// Those of `may`; then the share is what it was.
    pub fn grow<E>(&mut self, more: usize, may: impl FnOnce(Sum) -> Result<(), E>) -> Result<(), E> {
        let mut held = self.shares.lock();
        may(Sum { own: held.by.get(&self.holder).copied().unwrap_or(0), all: held.all })?;
        held.all += more;
        *held.by.entry(self.holder.clone()).or_default() += more;
        self.amount += more;
        Ok(())
    }

    /// How much this is.
    pub fn amount(&self) -> usize {
        self.amount
    }
}

impl<K: Ord> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.shares.lock();
        held.all = held.all.saturating_sub(self.amount);
        if let Some(own) = held.by.get_mut(&self.holder) {
            *own = own.saturating_sub(self.amount);
            // Holders come and go; whoever holds nothing is not remembered.
            if *own == 0 {
                held.by.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back_and_holders_of_nothing_are_forgotten() {
        let shares = Shares::default();
        let free = |_| Ok::<_, Sum>(());
        let mut first = shares.take(&"a", 2, free).unwrap();
        first.grow(3, free).unwrap();
        let second = shares.take(&"a", 1, free).unwrap();
        let third = shares.take(&"b", 4, free).unwrap();
        assert_eq!(first.amount(), 5);
        assert_eq!(shares.take(&"a", 9, Err).unwrap_err(), Sum { own: 6, all: 10 });
        drop((first, second));
        assert_eq!(shares.take(&"a", 9, Err).unwrap_err(), Sum { own: 0, all: 4 });
        drop(third);
        assert!(shares.lock().by.is_empty());
    }
}
