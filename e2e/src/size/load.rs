//! What goes on in the cluster while it is measured: heartbeats, changes, and failures whose news is timed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::TryStreamExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::Value;

use super::fill::{Cluster, each, now};
use super::nodes::{self, Change, Kind, Said};

/// Renews the heartbeat of every node once in `period`, evenly, until it is dropped; counts them.
pub async fn heartbeats(cluster: &Cluster, nodes: usize, period: Duration, written: &AtomicU64) -> Result<()> {
    const SLICES: usize = 50;
    let mut ticks = tokio::time::interval(period / SLICES as u32);
    // On a machine that cannot keep up they come later and never in a burst: what was achieved is counted.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for slice in (0..SLICES).cycle() {
        ticks.tick().await;
        each((slice..nodes).step_by(SLICES), |node| async move {
            cluster.beat(node).await?;
            written.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Changes nodes of the changing kind one after the other, a change each `pause`: devices get slower and recover, pods come and
/// go. None of it concerns the class whose failures are timed.
pub async fn changes(cluster: &Cluster, said: &mut [Said], pause: Duration, done: &AtomicU64) -> Result<()> {
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The last device of a node that is not full is held by nobody.
    let last = nodes::GPUS - 1;
    let mut jobs = 0_usize;
    loop {
        for said in said.iter_mut().filter(|said| nodes::free(said.node()) > 0) {
            ticks.tick().await;
            jobs += 1;
            if jobs % 2 == 0 {
                let pod = format!("job-{:05}-{jobs}", said.node());
                let object: DynamicObject = serde_json::from_value(nodes::pod(&pod, said.node(), 1))?;
                cluster.pods.create(&PostParams::default(), &object).await?;
                said.say(last, &Change::IsHeldBy(pod.clone()), &now());
                cluster.write(said).await?;
                ticks.tick().await;
                cluster.pods.delete(&pod, &DeleteParams::default().grace_period(0)).await?;
                said.say(last, &Change::IsFreed, &now());
            } else {
                said.say(last, &Change::Degrades, &now());
                cluster.write(said).await?;
                ticks.tick().await;
                said.say(last, &Change::Recovers, &now());
            }
            cluster.write(said).await?;
            done.fetch_add(2, Ordering::Relaxed);
        }
    }
}

/// How many GPUs of the failing kind somebody said were offered, and when that was heard.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<Mutex<Vec<(Instant, u64)>>>);

impl Heard {
    /// Follows an object and keeps what it says, until it is dropped. `offered` finds the number in it.
    pub async fn follow(&self, api: Api<DynamicObject>, offered: fn(&Value) -> Option<u64>) -> Result<()> {
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
        while let Some(object) = events.try_next().await? {
            if let Some(count) = offered(&object.data) {
                let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if heard.last().is_none_or(|(_, last)| *last != count) {
                    heard.push((Instant::now(), count));
                }
            }
        }
        Ok(())
    }

    /// The last of it.
    pub fn last(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last().map(|(_, count)| *count)
    }

    /// When it was first heard since `since` that no more than `count` were offered.
    pub fn at_most(&self, count: u64, since: Instant) -> Option<Instant> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().find(|(at, heard)| *at >= since && *heard <= count).map(|(at, _)| *at)
    }
}

/// What a pool's status offers of the failing kind.
pub fn of_pool(pool: &Value) -> Option<u64> {
    of_classes(&pool["status"])
}

/// What a peer's GPUOffer of the host shows of it.
pub fn of_offer(offer: &Value) -> Option<u64> {
    of_classes(&offer["status"])
}

fn of_classes(status: &Value) -> Option<u64> {
    let classes = status["classes"].as_array()?;
    classes.iter().find(|class| class["class"] == Kind::Failing.class())?["offered"].as_u64()
}

/// One failure.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// When its agent began to write it.
    pub at: Instant,
    /// What is offered of the kind once it is known.
    pub leaves: u64,
}

/// Lets one device of each of these nodes fail, one each `pause`, and says when and what that leaves of `offered`. Nobody has told
/// the device plugin, so that its node is closed, and the offer loses whatever is free on it.
pub async fn failures(
    cluster: &Cluster,
    said: &mut [Said],
    pause: Duration,
    most: usize,
    offered: u64,
) -> Result<Vec<Failure>> {
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut left, mut failures) = (offered, Vec::new());
    for said in said.iter_mut().filter(|said| nodes::free(said.node()) > 0).take(most) {
        ticks.tick().await;
        said.say(nodes::GPUS - 1, &Change::Fails, &now());
        left = left.saturating_sub(nodes::free(said.node()) as u64);
        let at = Instant::now();
        cluster.write(said).await?;
        failures.push(Failure { at, leaves: left });
    }
    Ok(failures)
}

/// What is offered of the failing kind before anything fails.
pub fn offered_at_first(nodes: usize) -> u64 {
    (0..nodes).filter(|node| Kind::of(*node) == Kind::Failing).map(|node| nodes::free(node) as u64).sum()
}

/// How long each failure took to be heard of by both; those that were not are left out of both.
pub fn delays(failures: &[Failure], host: &Heard, peer: &Heard) -> BTreeMap<&'static str, Vec<Duration>> {
    let mut delays: BTreeMap<&'static str, Vec<Duration>> = BTreeMap::new();
    for failure in failures {
        let heard = |by: &Heard| by.at_most(failure.leaves, failure.at);
        let (Some(at_host), Some(at_peer)) = (heard(host), heard(peer)) else { continue };
        delays.entry("host").or_default().push(at_host - failure.at);
        delays.entry("peer").or_default().push(at_peer - failure.at);
        delays.entry("between").or_default().push(at_peer.saturating_duration_since(at_host));
    }
    delays
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(began: Instant, what: &[(u64, u64)]) -> Heard {
        let at = |(millis, count): &(u64, u64)| (began + Duration::from_millis(*millis), *count);
        Heard(Arc::new(Mutex::new(what.iter().map(at).collect())))
    }

    #[test]
    fn a_failure_is_known_where_the_offer_has_lost_it_and_all_before_it() {
        let began = Instant::now();
        let failure = |millis, leaves| Failure { at: began + Duration::from_millis(millis), leaves };
        let failures = [failure(0, 92), failure(100, 84), failure(200, 76)];
        // One look at the host answers the first two; the third never reached the peer.
        let host = heard(began, &[(0, 100), (300, 84), (500, 76)]);
        let peer = heard(began, &[(0, 100), (700, 84)]);
        let delays = delays(&failures, &host, &peer);
        let millis = |of: &str| delays[of].iter().map(|one| one.as_millis()).collect::<Vec<_>>();
        assert_eq!(
            (millis("host"), millis("peer"), millis("between")),
            (vec![300, 200], vec![700, 600], vec![400, 400])
        );
    }

    #[test]
    fn what_a_status_offers_is_that_of_the_failing_class_alone() {
        let status = serde_json::json!({"status": {"classes": [{"class": "a100-80", "offered": 7}, {"class": "h100-80", "offered": 3}]}});
        assert_eq!((of_pool(&status), of_offer(&serde_json::json!({"status": {}}))), (Some(3), None));
        assert_eq!(offered_at_first(8), 3 + 6 + 8);
    }
}
