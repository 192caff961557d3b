//! The members of one run and the events between them, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use koinon_core::body::Body;
use koinon_core::ids::{CoopId, Digest, Seconds, Seq, StatementId, UnixSeconds};
use koinon_core::policy::Commons;
use koinon_core::sealing::Promise;
use koinon_core::statement::{Position, Statement};
use koinon_core::testkit::T0;

use super::cast::{self, Line, Pace};
use super::node::Node;
use super::plan::{Outage, Plan};
use super::report::Run;
use super::watch::Watch;
use super::{Options, report};
use crate::dice::Dice;

/// The longest that anything waits for: a term that is carried on, and its slot status.
const QUIET: Seconds = Seconds(80 * 60);
/// When a run ends whatever is still open.
const LONGEST: Seconds = Seconds(8 * 3600);

/// What happens next.
pub(super) enum Event {
    /// A member's people and operator do what they do every few minutes.
    Tick(usize),
    /// An operator has waited for this time.
    Wake(usize),
    /// Entries come in.
    Arrive { to: usize, entries: Vec<Arc<Statement>> },
    /// Somebody proposes something.
    Propose,
    /// An operator stops.
    Stop(Outage),
    /// It starts again.
    Start(Outage),
    /// Its store is backed up.
    Backup(usize),
}

/// One run.
pub(super) struct World {
    pub plan: Plan,
    pub dice: Dice,
    pub now: UnixSeconds,
    pub nodes: Vec<Node>,
    pub without: Option<Promise>,
    pub watch: Watch,
    pub newcomers: usize,
    /// Expulsions of honest members that the plan has room for.
    pub permitted: BTreeSet<StatementId>,
    pub departures: usize,
    /// Entries signed so far.
    pub entries: u64,
    events: BTreeMap<(UnixSeconds, u64), Event>,
    scheduled: u64,
    last_entry: UnixSeconds,
    /// Everything that anybody holds, once the run is over.
    pub outsider: Option<Commons>,
    trace: bool,
}

impl World {
    pub fn new(plan: Plan, options: &Options) -> Self {
        let commons = cast::founded(plan.members, plan.pace);
        let node = |who: usize| {
            let clock = plan.clocks.get(&who).copied().unwrap_or(Seconds(0));
            Node::new(cast::founder(who), clock, plan.liars.contains(&who), commons.clone())
        };
        let nodes: Vec<Node> = (0..plan.members).map(node).collect();
        let mut world = Self {
            dice: plan.dice.clone(),
            now: T0,
            nodes,
            without: options.without,
            watch: Watch::default(),
            newcomers: 0,
            permitted: BTreeSet::new(),
            departures: plan.departures,
            entries: 0,
            events: BTreeMap::new(),
            scheduled: 0,
            last_entry: T0,
            outsider: None,
            trace: options.trace,
            plan,
        };
        world.say(|world| format!("{:?}", world.plan));
        world.begin();
        world
    }

    fn begin(&mut self) {
        for who in 0..self.nodes.len() {
            let at = T0.plus(self.dice.between(1, 120));
            self.schedule(at, Event::Tick(who));
        }
        for at in self.plan.proposals.clone() {
            self.schedule(at, Event::Propose);
        }
        for outage in self.plan.outages.clone() {
            self.schedule(outage.from, Event::Stop(outage));
            self.schedule(outage.to, Event::Start(outage));
            if let Some(at) = outage.backup {
                self.schedule(at.max(T0), Event::Backup(outage.who));
            }
        }
    }

    pub fn schedule(&mut self, at: UnixSeconds, event: Event) {
        self.scheduled += 1;
        self.events.insert((at.max(self.now), self.scheduled), event);
    }

    /// Wakes `who` at `at`, unless it wakes before.
    pub fn wake(&mut self, who: usize, at: UnixSeconds) {
        if self.nodes[who].wakes_at.is_none_or(|known| at < known) {
            self.nodes[who].wakes_at = Some(at);
            self.schedule(at, Event::Wake(who));
        }
    }

    pub fn coop(&self) -> CoopId {
        self.nodes[0].state().coop()
    }

    /// Prints what happens, if somebody wants to see it.
    pub fn say(&self, what: impl Fn(&Self) -> String) {
        if self.trace {
            println!("{:>6} {}", self.now.0 - T0.0, what(self));
        }
    }

    pub fn run(mut self) -> Run {
        let end = T0.plus(LONGEST);
        let last_proposal = self.plan.proposals.iter().max().copied().unwrap_or(T0);
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > end || at > self.last_entry.max(last_proposal).plus(QUIET) {
                break;
            }
            self.now = at;
            self.happen(event);
        }
        self.conclude();
        report::of(self)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(who) => self.tick(who),
            Event::Wake(who) => {
                if self.nodes[who].wakes_at == Some(self.now) {
                    self.nodes[who].wakes_at = None;
                }
                self.read_inbox(who);
                self.operate(who);
            }
            Event::Arrive { to, entries } => {
                if self.nodes[to].up {
                    // An operator reads at once; here it would take as long as half a vote until it looks.
                    if entries
                        .iter()
                        .any(|entry| entry.nested().is_some_and(|said| matches!(said.body(), Body::Proposal(_))))
                    {
                        self.wake(to, self.now.plus(Seconds(1)));
                    }
                    self.nodes[to].inbox.extend(entries);
                }
            }
            Event::Propose => self.propose(),
            Event::Stop(outage) => {
                self.say(|_| format!("{} stops", outage.who));
                self.nodes[outage.who].up = false;
            }
            Event::Start(outage) => {
                let backup = outage.backup.and_then(|_| self.nodes[outage.who].backup.take());
                self.say(|_| format!("{} starts, from a backup: {}", outage.who, backup.is_some()));
                if let Some(backup) = &backup {
                    self.watch.replaced(outage.who, 0, backup.state());
                }
                self.nodes[outage.who].restart(backup);
            }
            Event::Backup(who) => self.nodes[who].backup = Some(self.nodes[who].faces[0].clone()),
        }
    }

    fn tick(&mut self, who: usize) {
        let (least, most) = if self.plan.pace == Pace::Quick { (90, 300) } else { (300, 900) };
        let next = self.now.plus(self.dice.between(least, most));
        self.schedule(next, Event::Tick(who));
        if !self.nodes[who].up {
            return;
        }
        self.read_inbox(who);
        if self.nodes[who].lies {
            self.lie(who);
        } else {
            self.people(who, 0);
            self.operate(who);
        }
        for _ in 0..3 {
            let source = self.dice.below(self.nodes.len());
            self.pull(who, source);
        }
    }

    /// Takes what came in since the last time, with one fold.
    fn read_inbox(&mut self, who: usize) {
        let entries = std::mem::take(&mut self.nodes[who].inbox);
        if entries.is_empty() || !self.nodes[who].up {
            return;
        }
        for face in 0..self.nodes[who].faces.len() {
            // What one face of a liar does not know, it does not have to explain.
            let heard = self.nodes[who].faces.len() == 1 || self.dice.percent(60);
            if heard {
                self.take(who, face, entries.clone());
            }
        }
    }

    /// `who` takes entries, whoever sent them.
    pub fn take(&mut self, who: usize, face: usize, entries: Vec<Arc<Statement>>) {
        let taken = self.nodes[who].faces[face].take_all(entries);
        let reads = self.nodes[who].reads(self.now);
        for id in &taken.stored {
            self.watch.forged(*id);
            self.nodes[who].held.entry(*id).or_insert(reads);
        }
        if !taken.stored.is_empty() {
            self.observe(who, face);
        }
    }

    fn observe(&mut self, who: usize, face: usize) {
        let state = Arc::clone(self.nodes[who].faces[face].state());
        self.watch.observe(who, face, &state);
        self.welcome(&state);
    }

    /// A newcomer's operator starts when it is a member.
    fn welcome(&mut self, state: &koinon_core::policy::State) {
        for place in 0..self.newcomers {
            let who = cast::newcomer(place);
            if state.member(&who.member.id).is_some()
                && !self.nodes.iter().any(|node| node.who.member.id == who.member.id)
            {
                self.nodes.push(Node::new(who, Seconds(0), false, cast::founded(self.plan.members, self.plan.pace)));
                self.schedule(self.now, Event::Tick(self.nodes.len() - 1));
            }
        }
    }

    /// Signs `lines` as the next entries of `who`'s log, each at the time beside it. Returns the position of the first.
    pub fn write(&mut self, who: usize, face: usize, lines: &[(Line, UnixSeconds)]) -> Option<Seq> {
        let (node, coop) = (&self.nodes[who], self.coop());
        let mut position = node.faces[face].replica().next_position(&node.log());
        let first = match position {
            Position::Log { seq, .. } => Some(seq),
            _ => None,
        };
        let mut entries: Vec<Arc<Statement>> = Vec::new();
        for (line, at) in lines {
            let Some(entry) = cast::entry(node.who, &node.who.operator, coop, *at, position, line) else { return None };
            let next = Seq(entry.log_seq().unwrap_or_default().0 + 1);
            position = Position::Log { seq: next, prev: Digest(entry.id().0.0) };
            entries.push(entry);
        }
        for entry in &entries {
            self.say(|_| format!("{who}.{face} writes {:?} {:?}", entry.log_seq(), entry.kind()));
            self.entries += 1;
            if self.entries.is_multiple_of(64) {
                self.watch.reads_back(entry);
            }
        }
        if !self.nodes[who].lies {
            self.last_entry = self.now;
        }
        self.take(who, face, entries);
        first
    }

    /// What an outsider finds who gets everything that anybody holds, and whether those who hold the same agree.
    fn conclude(&mut self) {
        let mut all: BTreeMap<StatementId, Arc<Statement>> = BTreeMap::new();
        for commons in self.nodes.iter().flat_map(|node| &node.faces) {
            let replica = commons.replica();
            let held = replica.logs().flat_map(|(log, _)| replica.all(log));
            all.extend(held.map(|entry| (entry.id(), Arc::clone(&entry.statement))));
        }
        let mut all: Vec<Arc<Statement>> = all.into_values().collect();
        self.dice.shuffle(&mut all);
        let mut outsider = cast::founded(self.plan.members, self.plan.pace);
        outsider.take_all(all.clone());
        let honest: Vec<usize> = (0..self.nodes.len()).filter(|who| !self.nodes[*who].lies).collect();
        // Everybody with everybody else's entries costs a fold each; a few say as much as all.
        for who in honest.iter().copied().take(3) {
            let replica = self.nodes[who].faces[0].replica();
            let missing: Vec<_> = all.iter().filter(|entry| !replica.contains(&entry.id())).cloned().collect();
            self.take(who, 0, missing);
            self.watch.same(who, &self.nodes[who].faces[0], &outsider);
        }
        self.watch.outsider(&outsider, &self.nodes);
        let times = [0, 0].map(|_| T0.plus(self.dice.between(0, self.now.since(T0).0)));
        self.watch.forgetful(&outsider, &self.nodes, [times[0].min(times[1]), times[0].max(times[1])], self.now);
        self.outsider = Some(outsider);
    }
}
