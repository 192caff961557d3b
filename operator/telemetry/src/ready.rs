//! Readiness as a list of named things that are still awaited.
//!
//! A process is ready when nothing is awaited. `/readyz` prints the list, so that "not ready" always says why.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The list of what a process still waits for. Clones share it.
#[derive(Clone, Default)]
pub struct Readiness {
    awaited: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Readiness {
    /// An empty list: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `name` to what is awaited, until [`Awaited::met`]. A second one of the same name shares the entry.
    ///
    /// Register everything before the health listener is asked for the first time, or it may answer "ready" too early.
    pub fn awaiting(&self, name: impl Into<String>, why: impl Into<String>) -> Awaited {
        let awaited = Awaited { name: name.into(), readiness: self.clone() };
        awaited.again(why);
        awaited
    }

    /// What is awaited, by name, each with what it waits for. Empty means ready.
    pub fn pending(&self) -> BTreeMap<String, String> {
        self.lock().clone()
    }

    /// Whether nothing is awaited.
    pub fn is_ready(&self) -> bool {
        self.lock().is_empty()
    }

    // A panic while the lock was held cannot leave the map half written: each use is one insert, remove or clone.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&self.pending()).finish()
    }
}

/// One named thing that the process waits for.
///
/// Dropping it does *not* make it met: a task that died before its work was done must not make the process ready.
#[derive(Debug)]
pub struct Awaited {
    name: String,
    readiness: Readiness,
}

impl Awaited {
    /// It has come. The process is ready once everything has.
    pub fn met(&self) {
        self.readiness.lock().remove(&self.name);
    }

    /// It is awaited (again), for the reason given; also replaces the reason of one that is still awaited.
    pub fn again(&self, why: impl Into<String>) {
        self.readiness.lock().insert(self.name.clone(), why.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_only_when_everything_awaited_has_come() {
        let readiness = Readiness::new();
        let crds = readiness.awaiting("crds", "placements.koinon.dev is missing");
        let stores = readiness.awaiting("stores", "first list");
        crds.met();
        assert!(!readiness.is_ready());
        assert_eq!(
            readiness.pending().into_iter().collect::<Vec<_>>(),
            [("stores".to_owned(), "first list".to_owned())]
        );
        stores.met();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_task_that_dies_before_its_work_is_done_leaves_the_process_unready() {
        let readiness = Readiness::new();
        drop(readiness.awaiting("stores", "first list"));
        assert!(!readiness.is_ready());
    }

    #[test]
    fn what_was_met_can_be_awaited_again_with_a_new_reason() {
        let readiness = Readiness::new();
        let certificate = readiness.awaiting("certificate", "none yet");
        certificate.met();
        certificate.again("expired 10 s ago");
        assert_eq!(readiness.pending()["certificate"], "expired 10 s ago");
    }
}
