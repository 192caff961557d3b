//! How old each agent's heartbeat is, measured by the own clock from when it last changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use koinon_core::ids::{NodeName, Seconds, UnixSeconds};

use crate::placement::lean;

#[derive(Clone, Debug)]
struct Beat {
    renewed: i64,
    /// When this value was first seen, by the own monotonic clock, and how old it then was by its writer's.
    seen: Duration,
    age_then: Seconds,
}

/// The heartbeats of all agents.
#[derive(Clone, Debug, Default)]
pub struct Heartbeats {
    beats: BTreeMap<NodeName, Beat>,
}

impl Heartbeats {
    /// Looks at the agents' Leases; each is named after its node.
    pub fn look(&mut self, leases: &[Arc<lean::Beat>], unix: UnixSeconds, monotonic: Duration) {
        let mut beats = BTreeMap::new();
        for lease in leases {
            let (Some(node), Some(renewed)) = (&lease.node, lease.renewed) else { continue };
            let old = self.beats.remove(node);
            let beat = match old {
                Some(old) if old.renewed == renewed => old,
                // One that was seen to change is fresh, whatever the node's clock says.
                Some(_) => Beat { renewed, seen: monotonic, age_then: Seconds(0) },
                // The first look after a start: only the writer's clock can tell.
                None => {
                    let age_then = unix.since(UnixSeconds(renewed.div_euclid(1_000_000)));
                    Beat { renewed, seen: monotonic, age_then }
                }
            };
            beats.insert(node.clone(), beat);
        }
        self.beats = beats;
    }

    /// Since when the heartbeat of `node` has not changed; `None` if it has none.
    #[must_use]
    pub fn age(&self, node: &NodeName, monotonic: Duration) -> Option<Seconds> {
        let beat = self.beats.get(node)?;
        let since = i64::try_from(monotonic.saturating_sub(beat.seen).as_secs()).unwrap_or(i64::MAX);
        Some(Seconds(beat.age_then.0.saturating_add(since)))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::Lease;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn lease(renewed: i64) -> Arc<lean::Beat> {
        let mut lease = Lease::default();
        lease.metadata.name = Some("n1".to_owned());
        let renew_time = Some(MicroTime(Timestamp::from_second(renewed).unwrap()));
        lease.spec = Some(k8s_openapi::api::coordination::v1::LeaseSpec { renew_time, ..Default::default() });
        Arc::new(lease.into())
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_heartbeat_ages_from_when_it_was_last_seen_to_change() {
        let (node, mut beats) = ("n1".parse().unwrap(), Heartbeats::default());
        beats.look(&[lease(1_000)], UnixSeconds(1_004), seconds(0));
        assert_eq!(beats.age(&node, seconds(0)), Some(Seconds(4)));
        beats.look(&[lease(1_000)], UnixSeconds(1_024), seconds(20));
        assert_eq!(beats.age(&node, seconds(20)), Some(Seconds(24)));
        beats.look(&[lease(1_030)], UnixSeconds(1_030), seconds(26));
        assert_eq!(beats.age(&node, seconds(30)), Some(Seconds(4)));
    }

    #[test]
    fn a_node_whose_clock_is_an_hour_off_is_fresh_as_soon_as_its_heartbeat_moves() {
        let (node, mut beats) = ("n1".parse().unwrap(), Heartbeats::default());
        beats.look(&[lease(1_000)], UnixSeconds(4_600), seconds(0));
        assert_eq!(beats.age(&node, seconds(1)), Some(Seconds(3_601)));
        beats.look(&[lease(1_010)], UnixSeconds(4_610), seconds(10));
        assert_eq!(beats.age(&node, seconds(11)), Some(Seconds(1)));
    }

    #[test]
    fn a_node_without_a_heartbeat_has_no_age() {
        assert_eq!(Heartbeats::default().age(&"n1".parse().unwrap(), seconds(5)), None);
    }
}
