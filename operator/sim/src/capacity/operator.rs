//! The host's operators: they reserve on what they have heard, write down what they grant, and end what health says.

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::capacity::{Health, NodeFacts, of_node};
use koinon_core::gpu::breaker::{self, BreakerLimits, FleetDevice};
use koinon_core::gpu::words::Work;
use koinon_core::ids::{DeviceId, NodeName, Seconds, UnixSeconds};
use koinon_core::placement::reservations::{NodeReservations, Reserved};

use super::api::{Copy, OPERATORS, Placement, Pod};
use super::plan::{Fault, Second};
use super::watch::Violation;
use super::world::{Of, World};

/// How long a reservation may stand before somebody looks why nothing came of it.
const UNFINISHED: Second = 20;

/// What an operator remembers.
#[derive(Clone, Debug, Default)]
pub(super) struct Operator {
    /// Each heartbeat as it was last seen, when it was seen to change, and how old it then was.
    beats: BTreeMap<NodeName, (i64, Second, Seconds)>,
    /// Until when it does not run.
    pub dead_until: Second,
    writing: Option<Writing>,
}

/// A reservation that was decided and is about to be written.
#[derive(Clone, Debug)]
struct Writing {
    at: Second,
    node: NodeName,
    /// The version of the record that it was decided on.
    version: u64,
    record: NodeReservations,
    copy: Copy,
    how: Reserved,
    promise: Promise,
}

/// What was known when a reservation was made.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub at: Second,
    pub facts: NodeFacts,
    /// What the device plugin really listed then.
    pub listed: BTreeSet<DeviceId>,
}

impl Operator {
    /// One that has died, and forgot what was under way; another starts at `until`.
    pub fn dead(until: Second) -> Self {
        Self { dead_until: until, ..Self::default() }
    }

    /// How old each heartbeat is, by the own clock from when it was seen to change.
    pub fn ages(&self, now: Second) -> BTreeMap<NodeName, Seconds> {
        let age = |(_, seen, then): &(i64, Second, Seconds)| {
            Seconds(then.0.saturating_add(i64::try_from(now.saturating_sub(*seen)).unwrap_or(i64::MAX)))
        };
        self.beats.iter().map(|(node, beat)| (node.clone(), age(beat))).collect()
    }

    fn hear(&mut self, beats: &BTreeMap<NodeName, i64>, now: Second, unix: UnixSeconds) {
        for (node, renewed) in beats {
            match self.beats.get(node) {
                Some((old, ..)) if old == renewed => {}
                Some(_) => drop(self.beats.insert(node.clone(), (*renewed, now, Seconds(0)))),
                None => drop(self.beats.insert(node.clone(), (*renewed, now, unix.since(UnixSeconds(*renewed))))),
            }
        }
    }
}

impl World {
    /// Everything that operators do in one second.
    pub(super) fn operate(&mut self) {
        for who in 0..OPERATORS {
            let heard = [
                self.api.pods.deliver(who, self.now),
                self.api.nodes.deliver(who, self.now),
                self.api.statuses.deliver(who, self.now),
                self.api.beats.deliver(who, self.now),
                self.api.records.deliver(who, self.now),
            ];
            self.changed |= heard.contains(&true);
            let unix = koinon_core::testkit::T0.plus(Seconds(i64::try_from(self.now).unwrap_or(0)));
            let beats = self.api.beats.seen(who).clone();
            self.operators[who].hear(&beats, self.now, unix);
            let acts = who == 0 || self.has(Fault::Operators);
            if !acts || self.now < self.operators[who].dead_until {
                continue;
            }
            self.end_what_failed(who);
            self.end_what_nobody_wants();
            self.write_or_decide(who);
            self.bear();
        }
        self.wind_down();
    }

    fn write_or_decide(&mut self, who: usize) {
        match self.operators[who].writing.take() {
            Some(writing) if self.now < writing.at => self.operators[who].writing = Some(writing),
            Some(writing) => self.write(writing),
            None if self.dice.percent(50) => self.decide(who),
            None => {}
        }
    }

    /// Stores a record, if nobody else did since it was read.
    fn write(&mut self, writing: Writing) {
        let Writing { node, version, record, copy, how, promise, .. } = writing;
        if self.api.records.real.get(&node).map_or(0, |(now, _)| *now) != version {
            self.say(|_| format!("the record of {node} changed meanwhile"));
            return;
        }
        self.say(|_| format!("{node}: {how:?} {} {:?}", copy.0.replica.0, promise.facts));
        self.watch.reserved(&node, &record, &promise.facts);
        let arrives = self.arrives(Of::Records);
        self.api.records.put(node, Some((version + 1, record)), arrives);
        if let Reserved::TakenOver { from } = how {
            self.raise(&copy, from);
        } else {
            self.watch.promises.insert(copy, promise);
        }
    }

    /// A copy that runs goes on under a higher epoch.
    fn raise(&mut self, copy: &Copy, from: koinon_core::ids::Epoch) {
        let old = (copy.0.clone(), from);
        if let Some(placement) = self.api.placements.remove(&old) {
            self.api.placements.insert(copy.clone(), placement);
        }
        if let Some(promise) = self.watch.promises.remove(&old) {
            self.watch.promises.insert(copy.clone(), promise);
        }
        let pods: Vec<_> = self
            .api
            .pods
            .real
            .iter()
            .filter(|(_, pod)| pod.copy.as_ref() == Some(&old))
            .map(|(key, pod)| (key.clone(), pod.clone()))
            .collect();
        for (key, pod) in pods {
            let arrives = self.arrives(Of::Pods);
            self.api.pods.put(key, Some(Pod { copy: Some(copy.clone()), ..pod }), arrives);
        }
    }

    /// Decides on one request.
    fn decide(&mut self, who: usize) {
        let records = self.api.fresh();
        let held = |copy: &Copy| {
            records
                .values()
                .any(|record| record.held().iter().any(|held| held.replica == copy.0 && held.epoch == copy.1))
        };
        let open: Vec<(Copy, u32)> = self
            .homes
            .wants
            .iter()
            .filter(|(copy, _)| !held(copy))
            .map(|(copy, want)| (copy.clone(), want.gpus))
            .collect();
        let Some((copy, gpus)) = self.dice.pick(&open).cloned() else { return };
        let ages = self.operators[who].ages(self.now);
        let view = self.view(who, &ages, &records);
        let (nodes, pool) = view.capacity(&self.rules());
        let holds = records.iter().find(|(_, record)| record.held().iter().any(|held| held.replica == copy.0));
        let mut room: Vec<(u32, NodeName)> = Vec::new();
        for node in &nodes {
            for (class, counts) in &node.classes {
                let offered = pool.classes.get(class).map_or(0, |class| class.offered);
                if counts.free.min(offered) >= gpus {
                    room.push((counts.free, node.node.clone()));
                }
            }
        }
        room.sort();
        let node = holds.map(|(node, _)| node.clone()).or(room.first().map(|(_, node)| node.clone()));
        let Some(node) = node else { return };
        let version = self.api.records.real.get(&node).map_or(0, |(version, _)| *version);
        let mut record = records.get(&node).cloned().unwrap_or_else(|| NodeReservations::new(node.clone()));
        let Some(facts) = view.facts(&node, Some(&record)) else { return };
        let elsewhere =
            records.iter().filter(|(other, _)| **other != node).filter_map(|(_, record)| record.highest(&copy.0)).max();
        let reservable = of_node(&facts).reservable;
        let Ok(how) = record.reserve(&copy.0, copy.1, gpus, reservable, elsewhere) else {
            self.homes.refused(&copy);
            return;
        };
        if how != Reserved::Already {
            let at = self.now + self.dice.below(3) as u64;
            let listed = self.machines.iter().zip(&self.kubelets).filter(|(machine, _)| machine.name == node);
            let listed = listed.flat_map(|(_, kubelet)| kubelet.allocatable(self.now)).collect();
            let promise = Promise { at: self.now, facts, listed };
            self.operators[who].writing = Some(Writing { at, node, version, record, copy, how, promise });
        }
    }

    /// Writes Placements of what was reserved, and gives back what nobody wants any more.
    fn bear(&mut self) {
        for (node, (_, record)) in self.api.records.real.clone() {
            for held in record.held() {
                let copy = (held.replica.clone(), held.epoch);
                if self.api.placements.contains_key(&copy) {
                    continue;
                }
                let old = self.watch.promises.get(&copy).is_none_or(|promise| promise.at + UNFINISHED < self.now);
                if self.homes.wants.contains_key(&copy) {
                    let due = self.ahead(0, 3);
                    let placement = Placement { node: node.clone(), gpus: held.gpus, ending: false, pods: 0, due };
                    self.api.placements.insert(copy, placement);
                } else if old {
                    self.release(&node, &copy);
                }
            }
        }
    }

    fn release(&mut self, node: &NodeName, copy: &Copy) {
        let Some((version, mut record)) = self.api.records.real.get(node).cloned() else { return };
        if record.release(&copy.0, copy.1) {
            let arrives = self.arrives(Of::Records);
            self.api.records.put(node.clone(), Some((version + 1, record)), arrives);
        }
        self.watch.promises.remove(copy);
        self.say(|_| format!("{node} releases {}", copy.0.replica.0));
    }

    fn end_what_nobody_wants(&mut self) {
        for (copy, placement) in &mut self.api.placements {
            placement.ending |= !self.homes.wants.contains_key(copy);
        }
    }

    /// Ends work on devices that failed, unless the breaker is open.
    fn end_what_failed(&mut self, who: usize) {
        let statuses = self.api.statuses.seen(who).clone();
        let mut quarantined: BTreeMap<FleetDevice, UnixSeconds> = BTreeMap::new();
        let mut healthy = 0_u32;
        for (node, status) in &statuses {
            for row in status.rows.iter().filter(|row| row.parent.is_none()) {
                match row.health {
                    Health::Unhealthy => drop(quarantined.insert((node.clone(), row.id.clone()), row.since)),
                    Health::Healthy => healthy += 1,
                    Health::Degraded | Health::Unknown => {}
                }
            }
        }
        let unix = koinon_core::testkit::T0.plus(Seconds(i64::try_from(self.now).unwrap_or(0)));
        let was_open = self.breaker.opened.is_some();
        let (next, verdict) =
            breaker::judge(&self.breaker, &quarantined, healthy, self.breaker_reset, &BreakerLimits::default(), unix);
        if was_open && next.opened.is_none() && self.breaker_reset == self.breaker.reset {
            self.watch.found(Violation::BreakerClosed);
        }
        self.breaker = next;
        for (node, status) in &statuses {
            let divided: BTreeSet<&DeviceId> = status.rows.iter().filter_map(|row| row.parent.as_ref()).collect();
            for row in status.rows.iter().filter(|row| !divided.contains(&row.id)) {
                let work = verdict.allows(row.work);
                if work < Work::Drain {
                    continue;
                }
                let holders = row.allocation.iter().filter_map(|allocation| allocation.holders.as_ref()).flatten();
                let pods = self.api.pods.seen(who);
                let mut ends: BTreeSet<Copy> = holders.filter_map(|key| pods.get(key)?.copy.clone()).collect();
                if work == Work::DrainNode {
                    ends.extend(
                        self.api.placements.iter().filter(|(_, one)| one.node == *node).map(|(copy, _)| copy.clone()),
                    );
                }
                for copy in ends {
                    if let Some(placement) = self.api.placements.get_mut(&copy)
                        && !placement.ending
                    {
                        placement.ending = true;
                        self.homes.wants.remove(&copy);
                        self.watch.drained(row.health, verdict.open);
                    }
                }
            }
        }
    }

    /// Copies that end: first their pods, then what was reserved.
    fn wind_down(&mut self) {
        let ending: Vec<(Copy, Placement)> = self
            .api
            .placements
            .iter()
            .filter(|(_, one)| one.ending)
            .map(|(copy, one)| (copy.clone(), one.clone()))
            .collect();
        for (copy, placement) in ending {
            let pods: Vec<_> = self
                .api
                .pods
                .real
                .iter()
                .filter(|(_, pod)| pod.copy.as_ref() == Some(&copy))
                .map(|(key, pod)| (key.clone(), pod.clone()))
                .collect();
            if pods.is_empty() {
                self.release(&placement.node, &copy);
                self.api.placements.remove(&copy);
                continue;
            }
            for (key, pod) in pods.into_iter().filter(|(_, pod)| pod.terminating.is_none()) {
                let terminating = Some(self.ahead(1, 30));
                let arrives = self.arrives(Of::Pods);
                self.api.pods.put(key, Some(Pod { terminating, ..pod }), arrives);
            }
        }
    }
}
