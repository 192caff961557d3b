//! What this member asks of itself and grants itself: the same lists as between members, without a wire.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use koinon_core::body::latest::{Grants, Offer, Requests};
use koinon_core::ids::{ManifestDigest, ObjectUid};
use tokio::sync::watch;

/// The complete list of what the own jobs ask of this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRequests {
    /// The list.
    pub requests: Arc<Requests>,
    /// The jobs of scope Local among them, which run in their team's namespace.
    pub local: Arc<BTreeSet<ObjectUid>>,
    /// When it was made, by the own monotonic clock.
    pub at: Duration,
}

/// The complete list of what this cluster grants the own jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnGrants {
    /// The list.
    pub grants: Arc<Grants>,
    /// When it was made, by the own monotonic clock.
    pub at: Duration,
}

/// What the owner's own jobs may use here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnOffer {
    /// The figures, with what is kept free for the owner.
    pub offer: Arc<Offer>,
}

/// What the two sides of this member tell each other. `None` until it is known: an empty list is something else.
#[derive(Clone, Debug)]
pub struct Own {
    /// From home to host.
    pub requests: Arc<watch::Sender<Option<OwnRequests>>>,
    /// From host to home.
    pub grants: Arc<watch::Sender<Option<OwnGrants>>>,
    /// What the host has for the home.
    pub offer: Arc<watch::Sender<Option<OwnOffer>>>,
    /// The models that the weights cache holds.
    pub weights: Arc<watch::Sender<Vec<ManifestDigest>>>,
}

impl Default for Own {
    fn default() -> Self {
        Self {
            requests: Arc::new(watch::Sender::new(None)),
            grants: Arc::new(watch::Sender::new(None)),
            offer: Arc::new(watch::Sender::new(None)),
            weights: Arc::new(watch::Sender::new(Vec::new())),
        }
    }
}

/// Sends `value`, and wakes whoever listens only if it says something new. The time at which it was said moves quietly:
/// each side answers the other, and would otherwise never rest.
pub fn send<T: Said>(channel: &watch::Sender<Option<T>>, value: T) {
    channel.send_if_modified(|sent| {
        let news = !sent.as_ref().is_some_and(|sent| sent.says_the_same(&value));
        *sent = Some(value);
        news
    });
}

/// Something that is said again and again.
pub trait Said {
    /// Whether `other` says the same, whenever that was.
    fn says_the_same(&self, other: &Self) -> bool;
}

impl Said for OwnRequests {
    fn says_the_same(&self, other: &Self) -> bool {
        (&self.requests, &self.local) == (&other.requests, &other.local)
    }
}

impl Said for OwnGrants {
    fn says_the_same(&self, other: &Self) -> bool {
        self.grants == other.grants
    }
}

impl Said for OwnOffer {
    fn says_the_same(&self, other: &Self) -> bool {
        self == other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_list_said_again_wakes_nobody_and_still_shows_when_it_was_said() {
        let own = Own::default();
        let mut listener = own.grants.subscribe();
        let grants = |at| OwnGrants { grants: Arc::default(), at: Duration::from_secs(at) };
        send(&own.grants, grants(1));
        assert!(listener.has_changed().unwrap());
        listener.mark_unchanged();
        send(&own.grants, grants(2));
        assert!(!listener.has_changed().unwrap());
        assert_eq!(own.grants.borrow().as_ref().unwrap().at, Duration::from_secs(2));
    }
}
