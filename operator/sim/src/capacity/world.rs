//! One run: the machines, their observers and the operators, second by second.

use std::collections::BTreeMap;

use koinon_core::capacity::PoolRules;
use koinon_core::gpu::breaker::Breaker;
use koinon_core::gpu::health::OwnerClear;
use koinon_core::gpu::usage::{PodRef, Pods};
use koinon_core::ids::{DeviceId, NodeName, Seconds, UnixSeconds};

use super::agent::{Agent, Around};
use super::api::{Api, NodeObject, OPERATORS};
use super::hardware::Machine;
use super::kubelet::Kubelet;
use super::metamorphic;
use super::operator::Operator;
use super::people::{Homes, Owner};
use super::plan::{Fault, Plan, Second};
use super::report::Run;
use super::view::View;
use super::watch::{self, Watch};
use crate::dice::Dice;

/// Kinds of objects that operators hear of.
const KINDS: usize = 5;
/// How often the share of devices that is offered is measured, and from when on.
const MEASURED: Second = 10;
const SETTLED: Second = 120;
/// For how long nobody must have taken or given back anything then: two surveys and what they take to arrive.
const CALM: Second = 22;

/// Which kind of object.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of {
    Pods,
    Nodes,
    Statuses,
    Beats,
    Records,
}

/// One run.
pub(super) struct World {
    pub plan: Plan,
    pub dice: Dice,
    pub now: Second,
    pub machines: Vec<Machine>,
    pub agents: Vec<Agent>,
    pub kubelets: Vec<Kubelet>,
    pub api: Api,
    pub operators: [Operator; OPERATORS],
    pub homes: Homes,
    pub owner: Owner,
    pub clears: Vec<BTreeMap<DeviceId, OwnerClear>>,
    pub breaker: Breaker,
    pub breaker_reset: Option<UnixSeconds>,
    pub watch: Watch,
    /// Until when an operator hears nothing of a kind.
    pub stalled: [[Second; KINDS]; OPERATORS],
    /// When each heartbeat really was renewed.
    beaten: BTreeMap<NodeName, Second>,
    /// When somebody last took or gave back devices.
    stirred: Second,
    /// Whether something happened since the invariants were looked at.
    pub changed: bool,
    trace: bool,
}

impl World {
    pub fn new(plan: Plan, trace: bool) -> Self {
        let machines: Vec<Machine> =
            plan.nodes.iter().enumerate().map(|(number, built)| Machine::new(number, built)).collect();
        let count = machines.len();
        let mut world = Self {
            dice: plan.dice.clone(),
            now: 0,
            agents: vec![Agent::default(); count],
            kubelets: vec![Kubelet::default(); count],
            clears: vec![BTreeMap::new(); count],
            machines,
            api: Api::new(),
            operators: Default::default(),
            homes: Homes::default(),
            owner: Owner::default(),
            breaker: Breaker::default(),
            breaker_reset: None,
            watch: Watch::default(),
            stalled: [[0; KINDS]; OPERATORS],
            beaten: BTreeMap::new(),
            stirred: 0,
            changed: true,
            trace,
            plan,
        };
        for at in 0..count {
            world.kubelets[at].register(&world.machines[at], 0);
            world.agents[at].next = world.dice.below(10) as u64;
        }
        world.say(|world| format!("{:?}", world.plan));
        world
    }

    /// Prints what happens, if somebody wants to see it.
    pub fn say(&self, what: impl Fn(&Self) -> String) {
        if self.trace {
            println!("{:>6} {}", self.now, what(self));
        }
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.plan.has(fault)
    }

    /// Whether something happens that happens once in so many seconds.
    pub fn once_in(&mut self, seconds: usize) -> bool {
        self.dice.below(seconds) == 0
    }

    /// From one number of seconds to another, as a moment ahead.
    pub fn ahead(&mut self, least: i64, most: i64) -> Second {
        self.now + u64::try_from(self.dice.between(least, most).0).unwrap_or(0)
    }

    /// When the operators hear of a change.
    pub fn arrives(&mut self, of: Of) -> [Second; OPERATORS] {
        let mut at = [self.now; OPERATORS];
        for (who, at) in at.iter_mut().enumerate() {
            *at = (self.now + self.dice.below(2) as u64).max(self.stalled[who][of as usize]);
        }
        self.changed = true;
        if matches!(of, Of::Pods | Of::Nodes | Of::Records) {
            self.stirred = self.now;
        }
        at
    }

    pub fn run(mut self) -> Run {
        while self.now < self.plan.end && self.watch.violations.is_empty() {
            self.step();
            self.now += 1;
        }
        Run::of(self.plan, self.watch)
    }

    fn step(&mut self) {
        let mut actors: [fn(&mut Self); 7] =
            [Self::nature, Self::machines, Self::agents, Self::schedule, Self::operate, Self::ask, Self::own];
        self.dice.shuffle(&mut actors);
        for act in actors {
            act(self);
            self.look();
        }
        // A survey takes its time to find that a device is free again.
        let calm = self.now.saturating_sub(self.stirred) >= CALM;
        if self.now >= SETTLED && calm && self.now.is_multiple_of(MEASURED) {
            watch::measure(self);
        }
    }

    /// The invariants, if something happened; ages go on by themselves.
    fn look(&mut self) {
        if std::mem::take(&mut self.changed) || self.now.is_multiple_of(5) {
            watch::look(self);
        }
    }

    pub fn rules(&self) -> PoolRules {
        PoolRules { reserve: self.plan.reserve, ..PoolRules::default() }
    }

    /// How old each heartbeat is for somebody who sees everything at once.
    pub fn true_ages(&self) -> BTreeMap<NodeName, Seconds> {
        let age = |at: &Second| Seconds(i64::try_from(self.now.saturating_sub(*at)).unwrap_or(i64::MAX));
        self.beaten.iter().map(|(node, at)| (node.clone(), age(at))).collect()
    }

    fn agents(&mut self) {
        for at in 0..self.agents.len() {
            self.agents[at].vouch(&self.machines[at], self.now);
            if self.agents[at].is_due(&self.machines[at], self.now) {
                self.survey(at);
            }
            if self.agents[at].beats(&self.machines[at], self.now, &mut self.dice) {
                let name = self.machines[at].name.clone();
                let arrives = self.arrives(Of::Beats);
                let unix = self.machines[at].unix(self.now).0;
                self.beaten.insert(name.clone(), self.now);
                self.api.beats.put(name, Some(unix), arrives);
            }
        }
    }

    /// The pods of a node, as the agent reads them.
    pub fn pods_on(&self, node: &NodeName) -> impl Iterator<Item = (&PodRef, &super::api::Pod)> {
        let node = node.clone();
        self.api.pods.real.iter().filter(move |(_, pod)| pod.bound.as_ref() == Some(&node) && !pod.over)
    }

    fn survey(&mut self, at: usize) {
        let machine = self.machines[at].clone();
        let pods: BTreeMap<_, _> =
            self.pods_on(&machine.name).map(|(key, pod)| (key.clone(), pod.uid.clone())).collect();
        let status = self.api.statuses.real.get(&machine.name).cloned();
        let around = Around {
            machine: &machine,
            status: status.as_ref(),
            clears: self.clears[at].clone(),
            kubelet: self.kubelets[at].says(pods.keys().cloned(), self.now),
            pods: Pods::Known(pods.into_iter().map(|(key, uid)| (key, [uid].into())).collect()),
            now: self.now,
        };
        let round = self.agents[at].look(&around, &mut self.dice);
        let judged = round.judge();
        metamorphic::belief(self, &round, &judged.2);
        if self.dice.percent(self.plan.compared) {
            metamorphic::rounds(self, at, &round, &judged);
        }
        self.watch.counted(&machine, &judged.0.history);
        let next = self.agents[at].conclude(&round, judged, &around, &mut self.dice);
        if let Some(next) = next {
            let rows = next.rows.clone();
            self.say(|_| {
                let of = |row: &super::status::Row| {
                    format!("{} {:?} {:?} {:?}", row.id, row.health, row.allocation, row.why)
                };
                format!("{} says {}", machine.name, rows.iter().map(of).collect::<Vec<_>>().join("; "))
            });
            self.watch.said(&machine, status.as_ref(), &next, self.now);
            let arrives = self.arrives(Of::Statuses);
            self.api.statuses.put(machine.name, Some(next), arrives);
        }
    }

    /// Kubelets: the Node's figures, pods that are bound, pods that end.
    fn machines(&mut self) {
        for at in 0..self.machines.len() {
            let machine = self.machines[at].clone();
            let up = machine.is_up(self.now);
            if up && self.kubelets[at].notice(&machine, &mut self.dice) {
                self.kubelets[at].figures_due = self.kubelets[at].figures_due.min(self.now + 1);
            }
            if self.now >= self.kubelets[at].figures_due {
                let allocatable = u32::try_from(self.kubelets[at].allocatable(self.now).len()).unwrap_or(u32::MAX);
                let before = self.api.nodes.real.get(&machine.name).cloned();
                let cordoned = before.as_ref().is_some_and(|node| node.cordoned);
                let next = NodeObject { ready: up, cordoned, allocatable };
                if before.as_ref() != Some(&next) {
                    self.say(|_| format!("{} has {next:?}", machine.name));
                    let arrives = self.arrives(Of::Nodes);
                    self.api.nodes.put(machine.name.clone(), Some(next), arrives);
                }
                let slow = self.has(Fault::Kubelets) && self.dice.percent(10);
                self.kubelets[at].figures_due = self.ahead(2, if slow { 120 } else { 10 });
            }
            if up {
                self.admit(at);
            }
        }
        self.bury();
    }

    /// Gives devices to pods that were bound.
    fn admit(&mut self, at: usize) {
        let node = self.machines[at].name.clone();
        let held: std::collections::BTreeSet<PodRef> = self.kubelets[at].held.values().cloned().collect();
        let new: Vec<_> = self
            .pods_on(&node)
            .filter(|(key, pod)| pod.terminating.is_none() && !held.contains(*key))
            .map(|(key, pod)| (key.clone(), pod.clone()))
            .collect();
        for (key, mut pod) in new {
            if self.dice.percent(50) {
                continue;
            }
            let given = self.kubelets[at].admit(&key, pod.gpus, self.now, &mut self.dice);
            self.say(|_| format!("{node} gives {given:?} to {}", key.name));
            match given {
                Some(units) => {
                    for unit in &units {
                        self.machines[at].start(Some(pod.uid.clone()), unit, self.now, Second::MAX);
                        watch::given(self, at, &pod, unit);
                    }
                    self.changed = true;
                }
                None => {
                    // Nothing was free: the pod has failed, and is taken away soon.
                    pod.over = true;
                    pod.terminating = Some(self.now + 5);
                    let arrives = self.arrives(Of::Pods);
                    self.api.pods.put(key, Some(pod), arrives);
                }
            }
        }
    }

    /// Takes away pods whose time has come, with what they held.
    fn bury(&mut self) {
        let due: Vec<PodRef> = self
            .api
            .pods
            .real
            .iter()
            .filter(|(_, pod)| pod.terminating.is_some_and(|at| at <= self.now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.remove(&key);
        }
    }

    /// Takes a pod away now.
    pub fn remove(&mut self, key: &PodRef) {
        let Some(pod) = self.api.pods.real.get(key).cloned() else { return };
        for at in 0..self.machines.len() {
            let units: Vec<DeviceId> =
                self.kubelets[at].held.iter().filter(|(_, pod)| *pod == key).map(|(unit, _)| unit.clone()).collect();
            self.kubelets[at].held.retain(|_, pod| pod != key);
            let stays = self.plan.has(Fault::Processes) && self.dice.percent(10);
            let until = self.now + if stays { self.dice.below(400) as u64 } else { 0 };
            for process in
                self.machines[at].processes.iter_mut().filter(|process| process.pod.as_ref() == Some(&pod.uid))
            {
                process.until = process.until.min(until);
            }
            if self.plan.has(Fault::Processes) && self.dice.percent(10) {
                self.machines[at].leaks.extend(units);
            }
            let now = self.now;
            self.machines[at].processes.retain(|process| process.until > now);
        }
        self.say(|_| format!("{} is gone", key.name));
        let arrives = self.arrives(Of::Pods);
        self.api.pods.put(key.clone(), None, arrives);
    }

    /// What an operator knows, with these records.
    pub fn view<'a>(
        &'a self,
        who: usize,
        ages: &'a BTreeMap<NodeName, Seconds>,
        records: &'a BTreeMap<NodeName, koinon_core::placement::reservations::NodeReservations>,
    ) -> View<'a> {
        View {
            statuses: self.api.statuses.seen(who),
            nodes: self.api.nodes.seen(who),
            pods: self.api.pods.seen(who),
            ages,
            records,
        }
    }
}
