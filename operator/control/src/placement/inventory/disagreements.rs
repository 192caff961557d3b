//! For how long NVML and the scheduler have told different stories of a node, by the own clock.
//!
//! A kubelet that restarts has no GPUs until their plugin registers anew, and a device that was just put in is known to NVML
//! first. Neither is worth a page before it lasts.

use std::collections::BTreeMap;
use std::time::Duration;

use koinon_core::capacity::{Disagreement, NodeCapacity};
use koinon_core::ids::{NodeName, Seconds};

/// How they differ. Another number of the same kind is the same story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    NothingRegistered,
    FewerRegistered,
    FewerSeen,
}

impl Kind {
    fn of(disagreement: Disagreement) -> Self {
        match disagreement {
            Disagreement::SchedulerKnowsFewer { allocatable: 0, .. } => Self::NothingRegistered,
            Disagreement::SchedulerKnowsFewer { .. } => Self::FewerRegistered,
            Disagreement::NvmlKnowsFewer { .. } => Self::FewerSeen,
        }
    }
}

/// Since when the nodes are in dispute.
#[derive(Clone, Debug, Default)]
pub struct Disagreements {
    since: BTreeMap<NodeName, (Kind, Duration)>,
}

impl Disagreements {
    /// Looks at what is known now, and says how old each dispute is. Forgets those that are over.
    pub fn look(
        &mut self,
        capacities: &BTreeMap<NodeName, NodeCapacity>,
        monotonic: Duration,
    ) -> BTreeMap<NodeName, Seconds> {
        let mut since = BTreeMap::new();
        for (node, capacity) in capacities {
            let Some(kind) = capacity.disagreement.map(Kind::of) else { continue };
            let began =
                self.since.get(node).filter(|(before, _)| *before == kind).map_or(monotonic, |(_, began)| *began);
            since.insert(node.clone(), (kind, began));
        }
        self.since = since;
        let age = |began: Duration| i64::try_from(monotonic.saturating_sub(began).as_secs()).unwrap_or(i64::MAX);
        self.since.iter().map(|(node, (_, began))| (node.clone(), Seconds(age(*began)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Cluster, pool};
    use super::*;
    use serde_json::json;

    #[test]
    fn a_dispute_ages_until_it_is_over_or_becomes_another() {
        let mut cluster = Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({}))]);
        let mut disagreements = Disagreements::default();
        let mut age = |cluster: &Cluster, seconds: u64| {
            let ages = disagreements.look(&cluster.look().capacities, Duration::from_secs(seconds));
            ages.get(&"n1".parse().unwrap()).map(|age| age.0)
        };
        assert_eq!(age(&cluster, 0), None);
        cluster.allocatable("n1", 0);
        assert_eq!((age(&cluster, 10), age(&cluster, 130)), (Some(0), Some(120)));
        cluster.allocatable("n1", 6);
        assert_eq!(age(&cluster, 140), Some(0));
        cluster.allocatable("n1", 5);
        assert_eq!(age(&cluster, 200), Some(60));
        cluster.allocatable("n1", 8);
        assert_eq!(age(&cluster, 210), None);
    }
}
