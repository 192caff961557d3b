//! What has become of the logs since somebody last read them.

use super::chain::Chain;
use super::{Entry, Replica};
use crate::ids::{PublicKey, Seq};

impl Replica {
    /// Every stored entry of `log` from position `from` on.
    pub(crate) fn since(&self, log: &PublicKey, from: Seq) -> impl Iterator<Item = &Entry> {
        self.chains.get(log).into_iter().flat_map(move |chain| chain.both(from))
    }

    /// A number that differs whenever more has become of `log` than that entries were appended to it.
    pub(crate) fn rewrites(&self, log: &PublicKey) -> u64 {
        self.chains.get(log).map_or(0, Chain::rewrites)
    }
}
