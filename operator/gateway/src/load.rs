//! How busy and how healthy each copy is, as this gateway sees it. No gateway asks another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use koinon_core::ids::Epoch;
use koinon_core::placement::ReplicaKey;
use tokio::time::Instant;

use crate::routing::choose::Load;
use crate::routing::{Route, RoutingTable};

/// Failures in a row after which a copy is tried last.
const TOLERATED: u32 = 2;
/// How long it is tried last at first; doubled for each further failure.
const SHORTEST: Duration = Duration::from_secs(5);
/// How long at most. After it one call may find out whether the copy is back.
const LONGEST: Duration = Duration::from_secs(60);

type Key = (ReplicaKey, Epoch);

#[derive(Debug, Default)]
struct Copy {
    in_flight: u32,
    failures: u32,
    ejected_until: Option<Instant>,
}

/// The load and health of all copies; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Loads(Arc<Mutex<HashMap<Key, Copy>>>);

impl Loads {
    /// What is known of a copy.
    pub fn of(&self, route: &Route) -> Load {
        match self.lock().get(&key(route)) {
            None => Load::default(),
            Some(copy) => Load {
                in_flight: copy.in_flight,
                ejected: copy.ejected_until.is_some_and(|until| Instant::now() < until),
            },
        }
    }

    /// A call to a copy, until what is returned is dropped.
    pub fn enter(&self, route: &Route) -> Entered {
        let key = key(route);
        self.lock().entry(key.clone()).or_default().in_flight += 1;
        Entered { loads: self.clone(), key }
    }

    /// The copy answered.
    pub fn answered(&self, route: &Route) {
        if let Some(copy) = self.lock().get_mut(&key(route)) {
            (copy.failures, copy.ejected_until) = (0, None);
        }
    }

    /// The copy failed.
    pub fn failed(&self, route: &Route) {
        let mut copies = self.lock();
        let copy = copies.entry(key(route)).or_default();
        copy.failures = copy.failures.saturating_add(1);
        if copy.failures >= TOLERATED {
            let doubled = SHORTEST.saturating_mul(1 << (copy.failures - TOLERATED).min(8));
            copy.ejected_until = Some(Instant::now() + doubled.min(LONGEST));
        }
    }

    /// Forgets copies that are no longer routed to and have no call left.
    pub fn keep_only(&self, table: &RoutingTable) {
        let routed: std::collections::HashSet<Key> = table.routes().map(|route| key(route)).collect();
        self.lock().retain(|key, copy| copy.in_flight > 0 || routed.contains(key));
    }

    // A panic under the lock cannot leave a count half changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Copy>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(route: &Route) -> Key {
    (route.replica.clone(), route.epoch)
}

/// One call to a copy; counted down however it ends.
#[derive(Debug)]
pub struct Entered {
    loads: Loads,
    key: Key,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(copy) = self.loads.lock().get_mut(&self.key) {
            copy.in_flight = copy.in_flight.saturating_sub(1);
        }
    }
}
