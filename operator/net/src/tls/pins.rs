//! The operator keys that are known at this moment.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use koinon_core::ids::{MemberId, PublicKey};
use tokio::sync::watch;

/// The shared set of pinned operator keys and the members they belong to.
///
/// Clones share one set. Each handshake looks keys up anew, and whoever keeps connections open subscribes.
#[derive(Clone)]
pub struct Pins {
    keys: Arc<watch::Sender<Arc<BTreeMap<PublicKey, MemberId>>>>,
}

impl Default for Pins {
    fn default() -> Self {
        Pins { keys: Arc::new(watch::Sender::new(Arc::new(BTreeMap::new()))) }
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pins").field("keys", &self.keys.borrow().len()).finish()
    }
}

impl Pins {
    /// Replaces the whole set. Subscribers hear of it only if something differs.
    pub fn replace(&self, keys: BTreeMap<PublicKey, MemberId>) {
        self.keys.send_if_modified(|current| {
            let differs = **current != keys;
            if differs {
                *current = Arc::new(keys);
            }
            differs
        });
    }

    /// The member under `key`, if the key is pinned.
    #[must_use]
    pub fn member(&self, key: &PublicKey) -> Option<MemberId> {
        self.keys.borrow().get(key).cloned()
    }

    /// The whole set as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<BTreeMap<PublicKey, MemberId>> {
        self.keys.borrow().clone()
    }

    /// Hears of every later change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<BTreeMap<PublicKey, MemberId>>> {
        self.keys.subscribe()
    }
}
