//! When a deleted `Cooperative` may go. Pure.
//!
//! What is here is drained first, and what was said last is served for a moment to whoever listens. No peer is waited for.

use std::time::Duration;

use koinon_api::{Cooperative, labels};
use kube::ResourceExt;

use crate::context::WindUp;

/// How long a deleted `Cooperative` waits for guests and placements to drain before it goes all the same.
const LONGEST: Duration = Duration::from_secs(600);

/// How far the end of a membership has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct WindingUp {
    /// Since when it is asked for.
    since: Option<Duration>,
    /// Since when nothing is left.
    empty_since: Option<Duration>,
}

impl WindingUp {
    /// Whether the object may go: nothing is `left`, and has not been for as long as the last words are to `linger`.
    pub fn is_over(&mut self, left: &[WindUp], linger: Duration, now: Duration) -> bool {
        let asked = *self.since.get_or_insert(now);
        if !left.is_empty() {
            self.empty_since = None;
            return now.saturating_sub(asked) >= LONGEST;
        }
        let empty = *self.empty_since.get_or_insert(now);
        now.saturating_sub(empty) >= linger
    }
}

/// Whether this operator still speaks for a `Cooperative`. Its finalizer says that it did: whoever is restarted while such
/// a membership ends, ends it, because guests run on without an operator.
#[must_use]
pub fn is_spoken_for(object: &Cooperative) -> bool {
    object.metadata.deletion_timestamp.is_none() || has_finalizer(object)
}

/// Whether there is something to wind up before the object goes.
#[must_use]
pub fn has_finalizer(object: &Cooperative) -> bool {
    object.finalizers().iter().any(|name| name == labels::FINALIZER)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LINGER: Duration = Duration::from_secs(4);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1000 + seconds)
    }

    fn object(deleted: bool, finalizers: &[&str]) -> Cooperative {
        let mut object: Cooperative = serde_json::from_value(json!({
            "apiVersion": "koinon.dev/v1alpha1", "kind": "Cooperative",
            "metadata": {"name": "cooperative", "finalizers": finalizers},
            "spec": {"id": format!("sha256:{}", "a".repeat(64)), "member": "aarhus",
                "site": {"name": "main", "region": "eu", "jurisdiction": "DK"}}
        }))
        .unwrap();
        object.metadata.deletion_timestamp = deleted.then(|| koinon_api::time::from_unix(1_800_000_000).unwrap());
        object
    }

    #[test]
    fn it_goes_once_nothing_is_left_and_the_last_words_were_served() {
        let mut ending = WindingUp::default();
        assert!(!ending.is_over(&[WindUp::Guests, WindUp::Placements], LINGER, at(0)));
        assert!(!ending.is_over(&[WindUp::Guests], LINGER, at(100)));
        assert!(!ending.is_over(&[], LINGER, at(101)));
        assert!(!ending.is_over(&[], LINGER, at(104)));
        assert!(ending.is_over(&[], LINGER, at(105)));
    }

    #[test]
    fn what_turns_up_late_has_its_last_words_too() {
        let mut ending = WindingUp::default();
        assert!(!ending.is_over(&[], LINGER, at(0)));
        assert!(!ending.is_over(&[WindUp::Guests], LINGER, at(3)));
        assert!(!ending.is_over(&[], LINGER, at(4)));
        assert!(!ending.is_over(&[], LINGER, at(7)));
        assert!(ending.is_over(&[], LINGER, at(8)));
    }

    #[test]
    fn what_never_drains_does_not_hold_it_for_ever() {
        let mut ending = WindingUp::default();
        assert!(!ending.is_over(&[WindUp::Guests], LINGER, at(0)));
        assert!(!ending.is_over(&[WindUp::Guests], LINGER, at(599)));
        assert!(ending.is_over(&[WindUp::Guests], LINGER, at(600)));
    }

    #[test]
    fn an_operator_that_starts_while_a_membership_ends_ends_it() {
        assert!(is_spoken_for(&object(false, &[])));
        assert!(is_spoken_for(&object(true, &["other", labels::FINALIZER])));
        assert!(!is_spoken_for(&object(true, &["other"])), "it was let go of already");
    }
}
