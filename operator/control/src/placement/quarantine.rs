//! The fleet breaker: where very many devices fail at once, the work on them stays until the owner has looked.

use std::collections::BTreeMap;
use std::sync::Arc;

use koinon_api::conditions::Reason;
use koinon_api::cooperative::QuarantineBreaker;
use koinon_api::gpu_node::HealthState;
use koinon_api::{Cooperative, labels, time};
use koinon_core::capacity::is_fresh;
use koinon_core::gpu::breaker::{Breaker, BreakerLimits, BreakerVerdict, FleetDevice, Opened, judge};
use koinon_core::ids::{NodeName, Seconds, UnixSeconds};
use kube::{Resource, ResourceExt};

use super::lean::GpuNode;
use crate::context::Context;
use crate::events::Severity;

/// The breaker of this member. It begins with what the Cooperative's status remembers of it.
#[derive(Debug, Default)]
pub struct Quarantine {
    breaker: Option<Breaker>,
}

impl Quarantine {
    /// Judges the fleet; `None` while the membership is not read, and with it what was remembered.
    pub fn look(
        &mut self,
        ctx: &Context,
        gpu_nodes: &[Arc<GpuNode>],
        ages: &BTreeMap<NodeName, Seconds>,
        now: UnixSeconds,
    ) -> Option<BreakerVerdict> {
        let cooperatives = ctx.caches.cooperatives.all();
        let cooperative = Cooperative::chosen(&cooperatives)?;
        let stored = || remembered(cooperative.status.as_ref().and_then(|status| status.quarantine_breaker.as_ref()));
        let before = self.breaker.take().unwrap_or_else(stored);
        let (after, verdict) = judged(&before, cooperative, gpu_nodes, ages, now);
        if let (None, Some(opened)) = (&before.opened, &after.opened) {
            let note = format!(
                "{} of {} GPUs failed within {} s: nothing more is drained for their sake until \
                 kubectl koinon gpus reset-breaker",
                opened.quarantined,
                opened.healthy,
                BreakerLimits::default().period
            );
            tracing::warn!("{note}");
            ctx.events.tell(cooperative.object_ref(&()), Severity::Warning, Reason::BreakerOpen, note);
        }
        if before.opened.is_some() && after.opened.is_none() {
            let note = "the owner has looked: work of others leaves devices that fail again";
            ctx.events.tell(cooperative.object_ref(&()), Severity::Normal, Reason::BreakerClosed, note);
        }
        self.breaker = Some(after.clone());
        ctx.host.send_if_modified(|facts| {
            let changed = facts.breaker.as_ref() != Some(&after);
            facts.breaker = Some(after);
            changed
        });
        Some(verdict)
    }
}

/// Whether work on devices that fail is left alone now. Judged on what whoever asks sees itself: many may have failed since the
/// last survey. While nothing is remembered yet, it is.
#[must_use]
pub fn is_open(
    ctx: &Context,
    gpu_nodes: &[Arc<GpuNode>],
    ages: &BTreeMap<NodeName, Seconds>,
    now: UnixSeconds,
) -> bool {
    let cooperatives = ctx.caches.cooperatives.all();
    let before = ctx.host.borrow().breaker.clone();
    let known = Cooperative::chosen(&cooperatives).zip(before.as_ref());
    known.is_none_or(|(cooperative, before)| judged(before, cooperative, gpu_nodes, ages, now).1.open)
}

fn judged(
    before: &Breaker,
    cooperative: &Cooperative,
    gpu_nodes: &[Arc<GpuNode>],
    ages: &BTreeMap<NodeName, Seconds>,
    now: UnixSeconds,
) -> (Breaker, BreakerVerdict) {
    let (quarantined, healthy) = fleet(gpu_nodes, ages);
    judge(before, &quarantined, healthy, reset(cooperative, now), &BreakerLimits::default(), now)
}

/// All devices that failed, with when, and how many are healthy. Of the healthy only those count whose agent is heard; one that
/// failed has done so whatever became of its agent.
fn fleet(gpu_nodes: &[Arc<GpuNode>], ages: &BTreeMap<NodeName, Seconds>) -> (BTreeMap<FleetDevice, UnixSeconds>, u32) {
    let (mut quarantined, mut healthy) = (BTreeMap::new(), 0_u32);
    for node in gpu_nodes {
        let Some(name) = &node.name else { continue };
        let heard = is_fresh(ages.get(name).copied());
        // An instance fails with its parent.
        for device in node.devices.iter().filter(|device| device.parent.is_none()) {
            match (device.state, device.since(), &device.id) {
                (HealthState::Healthy, ..) if heard => healthy = healthy.saturating_add(1),
                (HealthState::Unhealthy, Some(since), Some(id)) => {
                    quarantined.insert((name.clone(), id.clone()), since);
                }
                _ => {}
            }
        }
    }
    (quarantined, healthy)
}

/// When the owner last said that it has looked. A time to come is none: it would close the breaker in advance.
fn reset(cooperative: &Cooperative, now: UnixSeconds) -> Option<UnixSeconds> {
    let said = cooperative.annotations().get(labels::RESET_BREAKER)?.parse::<k8s_openapi::jiff::Timestamp>().ok()?;
    Some(UnixSeconds(said.as_second())).filter(|said| *said <= now)
}

fn remembered(stored: Option<&QuarantineBreaker>) -> Breaker {
    let Some(stored) = stored else { return Breaker::default() };
    let count = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
    let opened = stored.opened_time.as_ref().map(|at| Opened {
        at: UnixSeconds(time::to_unix(at)),
        quarantined: count(stored.quarantined),
        healthy: count(stored.healthy),
    });
    Breaker { opened, reset: stored.reset_time.as_ref().map(|at| UnixSeconds(time::to_unix(at))) }
}

/// What the Cooperative's status remembers.
#[must_use]
pub fn shown(breaker: &Breaker) -> QuarantineBreaker {
    let opened = breaker.opened.as_ref();
    QuarantineBreaker {
        opened_time: opened.and_then(|opened| time::from_unix(opened.at.0)),
        quarantined: opened.map(|opened| opened.quarantined.into()),
        healthy: opened.map(|opened| opened.healthy.into()),
        reset_time: breaker.reset.and_then(|reset| time::from_unix(reset.0)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_795_000_000);

    #[test]
    fn what_the_status_remembers_is_what_was_judged() {
        let opened = Some(Opened { at: NOW, quarantined: 3, healthy: 9 });
        for breaker in [Breaker::default(), Breaker { opened, reset: None }, Breaker { opened, reset: Some(NOW) }] {
            assert_eq!(remembered(Some(&shown(&breaker))), breaker);
        }
        assert_eq!(remembered(None), Breaker::default());
    }

    #[test]
    fn failed_devices_count_whatever_became_of_their_agent_and_healthy_ones_while_it_is_heard() {
        let node = |name: &str| {
            let device = |uuid: &str, state: &str| json!({"uuid": uuid, "index": 0, "health": {"state": state, "sinceTime": "2026-11-18T00:00:00Z"}});
            let instance = json!({"uuid": "MIG-1", "index": 0, "parent": "GPU-1", "health": {"state": "Unhealthy",
                "sinceTime": "2026-11-18T00:00:00Z"}});
            let devices =
                [device("GPU-1", "Unhealthy"), device("GPU-2", "Healthy"), device("GPU-3", "Unknown"), instance];
            let node = json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": name}, "spec": {},
                "status": {"devices": devices}});
            Arc::new(serde_json::from_value(node).unwrap())
        };
        let ages = [("n1".parse().unwrap(), Seconds(3)), ("n2".parse().unwrap(), Seconds(300))].into();
        let (quarantined, healthy) = fleet(&[node("n1"), node("n2")], &ages);
        assert_eq!((quarantined.len(), healthy), (2, 1));
    }

    #[test]
    fn a_reset_is_a_time_that_has_come() {
        let said = |value: &str| {
            let cooperative = json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "Cooperative",
                "metadata": {"name": "c", "annotations": {labels::RESET_BREAKER: value}},
                "spec": {"id": "", "member": "bilbao", "site": {"name": "main", "region": "eu", "jurisdiction": "ES"}}});
            reset(&serde_json::from_value(cooperative).unwrap(), NOW)
        };
        assert_eq!(said("2026-11-18T00:00:00Z"), Some(UnixSeconds(1_794_960_000)));
        assert_eq!((said("2027-01-01T00:00:00Z"), said("yes")), (None, None));
    }
}
