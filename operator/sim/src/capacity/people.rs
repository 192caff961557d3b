//! Those who want something of the devices: the owner, homes with their requests, the scheduler between them; and nature.

use std::collections::BTreeMap;

use koinon_core::gpu::health::{OwnerClear, SurveyFailure};
use koinon_core::gpu::usage::PodRef;
use koinon_core::ids::{Epoch, NodeName, ReplicaIndex, Seconds};
use koinon_core::placement::ReplicaKey;

use super::api::{Copy, NodeObject, OPERATORS, Placement, Pod};
use super::driver::Mood;
use super::hardware::Ailment;
use super::name;
use super::plan::{Fault, Second};
use super::world::{Of, World};

/// What a home asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub gpus: u32,
    pub until: Second,
}

/// The homes.
#[derive(Clone, Debug, Default)]
pub(super) struct Homes {
    pub wants: BTreeMap<Copy, Want>,
    asked: u32,
}

impl Homes {
    /// A home that is refused asks elsewhere.
    pub fn refused(&mut self, copy: &Copy) {
        self.wants.remove(copy);
    }
}

/// The owner.
#[derive(Clone, Debug, Default)]
pub(super) struct Owner {
    pods: u32,
    /// Until when each node takes nothing new.
    cordons: BTreeMap<NodeName, Second>,
}

impl World {
    /// Homes ask, ask again under higher epochs, and want no more.
    pub(super) fn ask(&mut self) {
        let now = self.now;
        self.homes.wants.retain(|_, want| want.until > now);
        if self.homes.wants.len() < 8 && self.once_in(self.plan.pace / 2) {
            self.homes.asked += 1;
            let replica = ReplicaKey {
                home: name(["aarhus", "porto"][self.dice.below(2)]),
                job: name("job-1"),
                replica: ReplicaIndex(self.homes.asked),
            };
            let gpus = 1 + u32::from(self.dice.percent(20));
            let until = self.ahead(30, 900);
            self.homes.wants.insert((replica, Epoch(1)), Want { gpus, until });
        }
        if self.once_in(120) {
            let running: Vec<(Copy, Want)> =
                self.homes.wants.iter().map(|(copy, want)| (copy.clone(), *want)).collect();
            if let Some((copy, want)) = self.dice.pick(&running).cloned() {
                // One that was restored from a backup still asks for the old one, too.
                if !self.dice.percent(30) {
                    self.homes.wants.remove(&copy);
                }
                self.homes.wants.insert((copy.0, Epoch(copy.1.0 + 1)), want);
            }
        }
    }

    /// The scheduler and the deployment controller.
    pub(super) fn schedule(&mut self) {
        let lacking: Vec<(Copy, Placement)> = self
            .api
            .placements
            .iter()
            .filter(|(copy, one)| {
                let lives = |pod: &Pod| pod.copy.as_ref() == Some(copy) && !pod.over && pod.terminating.is_none();
                !one.ending && one.due <= self.now && !self.api.pods.real.values().any(lives)
            })
            .map(|(copy, one)| (copy.clone(), one.clone()))
            .collect();
        for (copy, placement) in lacking {
            let key: PodRef = PodRef {
                namespace: name(&format!("guest-{}", copy.0.home)),
                name: name(&format!("copy-{}-{}-{}", copy.0.replica.0, copy.1.0, placement.pods)),
            };
            let uid = name(&format!("uid-{}", key.name));
            let due = self.ahead(3, 30);
            if let Some(placement) = self.api.placements.get_mut(&copy) {
                placement.pods += 1;
                placement.due = due;
            }
            let (gpus, wants) = (placement.gpus, Some(placement.node));
            self.create(key, Pod { uid, gpus, wants, copy: Some(copy), ..blank() });
        }
        let waiting: Vec<(PodRef, Pod)> = self
            .api
            .pods
            .real
            .iter()
            .filter(|(_, pod)| pod.bound.is_none() && !pod.over && pod.terminating.is_none())
            .map(|(key, pod)| (key.clone(), pod.clone()))
            .collect();
        for (key, pod) in waiting {
            if self.dice.percent(40) {
                self.bind(key, pod);
            }
        }
    }

    fn create(&mut self, key: PodRef, pod: Pod) {
        self.say(|_| format!("{} is made: {pod:?}", key.name));
        let arrives = self.arrives(Of::Pods);
        self.api.pods.put(key, Some(pod), arrives);
    }

    /// Binds a pod where it fits by the scheduler's own numbers; or only nominates the node at first.
    fn bind(&mut self, key: PodRef, pod: Pod) {
        let fits = |(node, object): (&NodeName, &NodeObject)| {
            let others =
                self.api.pods.real.iter().filter(|(other, pod)| **other != key && pod.holds_on() == Some(node));
            let requested = others.fold(0_u32, |sum, (_, pod)| sum.saturating_add(pod.gpus));
            let wanted = pod.wants.as_ref().is_none_or(|wants| wants == node);
            let takes = object.ready && !object.cordoned && object.allocatable >= requested.saturating_add(pod.gpus);
            (wanted && takes).then(|| node.clone())
        };
        let nodes: Vec<NodeName> = self.api.nodes.real.iter().filter_map(fits).collect();
        let Some(node) = self.dice.pick(&nodes).cloned() else { return };
        let nominate = pod.copy.is_none() && pod.nominated.is_none() && self.dice.percent(30);
        let next = match nominate {
            true => Pod { nominated: Some(node), ..pod },
            false => Pod { bound: Some(node), nominated: None, ..pod },
        };
        self.say(|_| format!("{} is bound to {:?}, nominated for {:?}", key.name, next.bound, next.nominated));
        let arrives = self.arrives(Of::Pods);
        self.api.pods.put(key, Some(next), arrives);
    }

    /// The owner's own work, and what the owner does about devices.
    pub(super) fn own(&mut self) {
        if self.once_in(self.plan.pace) {
            self.owner.pods += 1;
            let key = PodRef { namespace: name("owner"), name: name(&format!("own-{}", self.owner.pods)) };
            let uid = name(&format!("uid-{}", key.name));
            let (gpus, until) = (1 + u32::from(self.dice.percent(20)), self.ahead(10, 600));
            self.create(key, Pod { uid, gpus, until, ..blank() });
        }
        let over: Vec<(PodRef, Pod)> = self
            .api
            .pods
            .real
            .iter()
            .filter(|(_, pod)| pod.copy.is_none() && pod.until <= self.now && pod.terminating.is_none())
            .map(|(key, pod)| (key.clone(), pod.clone()))
            .collect();
        for (key, pod) in over {
            let terminating = Some(self.ahead(0, 40));
            let arrives = self.arrives(Of::Pods);
            self.api.pods.put(key, Some(Pod { terminating, ..pod }), arrives);
        }
        self.repair();
        if self.has(Fault::Owner) {
            self.meddle();
        }
        let done: Vec<NodeName> =
            self.owner.cordons.iter().filter(|(_, until)| **until <= self.now).map(|(node, _)| node.clone()).collect();
        for node in done {
            self.owner.cordons.remove(&node);
            self.cordon(node, false);
        }
    }

    fn cordon(&mut self, node: NodeName, cordoned: bool) {
        let Some(object) = self.api.nodes.real.get(&node).cloned() else { return };
        let arrives = self.arrives(Of::Nodes);
        self.api.nodes.put(node, Some(NodeObject { cordoned, ..object }), arrives);
    }

    /// Resets devices that need it and are idle, reboots nodes whose devices are lost.
    fn repair(&mut self) {
        for at in 0..self.machines.len() {
            for gpu in 0..self.machines[at].gpus.len() {
                let Some(ailment) = self.machines[at].gpus[gpu].ailment else { continue };
                if ailment.ends_with_reset() && self.once_in(120) {
                    self.reset(at, gpu);
                } else if !ailment.works() && !ailment.ends_with_reset() && self.once_in(600) {
                    self.reboot(at);
                }
            }
            if !self.machines[at].leaks.is_empty() && self.once_in(200) {
                for gpu in 0..self.machines[at].gpus.len() {
                    self.reset(at, gpu);
                }
            }
        }
    }

    fn reset(&mut self, at: usize, gpu: usize) {
        let units = self.machines[at].gpus[gpu].units();
        let busy = units.iter().any(|unit| self.kubelets[at].held.contains_key(unit));
        let used = self.machines[at].processes.iter().any(|process| units.contains(&process.unit));
        if !busy && !used {
            self.say(|world| format!("{} is reset", world.machines[at].gpus[gpu].id));
            self.machines[at].reset(gpu, self.now);
        }
    }

    fn reboot(&mut self, at: usize) {
        self.say(|world| format!("{} reboots", world.machines[at].name));
        let node = self.machines[at].name.clone();
        let pods: Vec<PodRef> = self.pods_on(&node).map(|(key, _)| key.clone()).collect();
        for key in pods {
            self.remove(&key);
        }
        let back = self.ahead(20, 120);
        self.machines[at].reboot(self.now, back);
        self.agents[at].restart(back);
        self.kubelets[at].register(&self.machines[at], back + 5);
        self.kubelets[at].held.clear();
    }

    fn meddle(&mut self) {
        let at = self.dice.below(self.machines.len());
        let gpu = self.dice.below(self.machines[at].gpus.len());
        if self.once_in(200) {
            self.reset(at, gpu);
        }
        if self.once_in(1_200) {
            self.reboot(at);
        }
        if self.once_in(300) {
            let until = self.ahead(20, 300);
            let node = self.machines[at].name.clone();
            self.owner.cordons.insert(node.clone(), until);
            self.cordon(node.clone(), true);
            let pods: Vec<(PodRef, Pod)> = self
                .pods_on(&node)
                .filter(|(_, pod)| pod.copy.is_none())
                .map(|(key, pod)| (key.clone(), pod.clone()))
                .collect();
            for (key, pod) in pods {
                let arrives = self.arrives(Of::Pods);
                self.api.pods.put(key, Some(Pod { until: 0, ..pod }), arrives);
            }
        }
        if self.once_in(400) {
            let id = self.machines[at].gpus[gpu].id.clone();
            let clear = OwnerClear { at: self.machines[at].unix(self.now), reason: name("looked at it") };
            self.say(|_| format!("the owner calls {id} well"));
            self.watch.cleared(&id);
            self.clears[at].insert(id, clear);
        }
        if self.once_in(500) {
            self.breaker_reset = Some(koinon_core::testkit::T0.plus(Seconds(i64::try_from(self.now).unwrap_or(0))));
        }
    }

    /// What goes wrong.
    pub(super) fn nature(&mut self) {
        let now = self.now;
        for machine in &mut self.machines {
            machine.processes.retain(|process| process.until > now);
        }
        for at in 0..self.machines.len() {
            self.fail(at);
        }
        if self.has(Fault::Lag) && self.once_in(60) {
            let (who, kind) = (self.dice.below(OPERATORS), self.dice.below(5));
            let until = self.ahead(5, 90);
            self.stalled[who][kind] = until;
            if self.dice.percent(20) {
                self.stalled[who] = [until; 5];
            }
        }
        if self.has(Fault::Operators) && self.once_in(90) {
            let (who, until) = (self.dice.below(OPERATORS), self.ahead(1, 60));
            self.operators[who] = super::operator::Operator::dead(until);
        }
    }

    fn fail(&mut self, at: usize) {
        let gpus = self.machines[at].gpus.len();
        let gpu = self.dice.below(gpus);
        if self.has(Fault::Ailments) && self.once_in(300) {
            let ailment = *self.dice.pick(&Ailment::ALL).unwrap_or(&Ailment::Hot);
            self.say(|world| format!("{} {ailment:?}", world.machines[at].gpus[gpu].id));
            self.machines[at].fall_ill(gpu, ailment, self.now);
        }
        if self.machines[at].gpus[gpu].ailment.is_some_and(Ailment::ends_by_itself) && self.once_in(400) {
            self.machines[at].gpus[gpu].ailment = None;
        }
        if self.has(Fault::Readings) && self.once_in(100) {
            let unread = if self.dice.percent(50) { 5 + self.dice.below(60) } else { 0 };
            let no_processes = self.dice.percent(30);
            self.agents[at].mood = Mood { unread, no_processes, ..self.agents[at].mood.clone() };
        }
        if self.has(Fault::Surveys) && self.once_in(150) {
            let failure =
                [SurveyFailure::Deadline, SurveyFailure::Crashed, SurveyFailure::Stuck, SurveyFailure::Unavailable]
                    [self.dice.below(4)];
            self.agents[at].failing = Some((self.ahead(5, 120), failure));
        }
        if self.has(Fault::Ids) && self.once_in(150) {
            let some = self.dice.percent(60);
            let mood = &mut self.agents[at].mood;
            match self.dice.below(4) {
                0 => mood.twin = some.then_some(gpu),
                1 => mood.nameless = some.then_some(gpu),
                2 => self.machines[at].gpus[gpu].listed = !some,
                _ => {
                    let mut places: Vec<u32> = (0..gpus as u32).collect();
                    self.dice.shuffle(&mut places);
                    for (gpu, place) in self.machines[at].gpus.iter_mut().zip(places) {
                        (gpu.index, gpu.minor) = (place, place);
                    }
                }
            }
        }
        if self.has(Fault::Agents) && self.once_in(150) {
            let until = self.ahead(5, 300);
            match self.dice.below(3) {
                0 => self.agents[at].restart(now_or(self.now, until, self.dice.percent(50))),
                1 => self.agents[at].silent_until = until,
                _ => self.agents[at].mute_until = until,
            }
        }
        if self.has(Fault::Kubelets) && self.once_in(150) {
            let (empty, silent) = (self.ahead(5, 120), self.ahead(5, 200));
            if self.dice.percent(50) {
                self.kubelets[at].empty_until = empty;
            }
            self.kubelets[at].silent_until = silent;
        }
        if self.has(Fault::Plugins) && self.once_in(150) {
            if self.dice.percent(50) {
                let back = self.ahead(2, 30);
                self.kubelets[at].register(&self.machines[at], back);
            } else {
                self.kubelets[at].blind = self.dice.percent(60);
            }
        }
        if self.has(Fault::Processes) && self.once_in(150) {
            self.disturb(at, gpu);
        }
        if self.has(Fault::Clocks) && self.once_in(200) {
            self.machines[at].clock = self.dice.between(-7_200, 7_200).0;
        }
    }

    /// Somebody uses a device that was not given to them.
    fn disturb(&mut self, at: usize, gpu: usize) {
        let units = self.machines[at].gpus[gpu].units();
        let Some(unit) = self.dice.pick(&units).cloned() else { return };
        let until = self.ahead(10, 400);
        let node = self.machines[at].name.clone();
        let uids: Vec<_> = self.pods_on(&node).map(|(_, pod)| pod.uid.clone()).collect();
        match self.dice.below(3) {
            0 => drop(self.machines[at].leaks.insert(unit)),
            1 => self.machines[at].start(None, &unit, self.now, until),
            _ => {
                if let Some(uid) = self.dice.pick(&uids).cloned() {
                    self.say(|_| format!("{uid} intrudes on {unit}"));
                    self.machines[at].start(Some(uid), &unit, self.now, until);
                }
            }
        }
    }
}

fn now_or(now: Second, later: Second, soon: bool) -> Second {
    if soon { now } else { later }
}

fn blank() -> Pod {
    Pod {
        uid: name("none"),
        gpus: 0,
        wants: None,
        bound: None,
        nominated: None,
        over: false,
        terminating: None,
        copy: None,
        until: Second::MAX,
    }
}
