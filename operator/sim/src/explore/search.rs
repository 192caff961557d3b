//! Breadth first through everything that can happen, so that the first violation found is a shortest one.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use koinon_core::body::Body;
use koinon_core::body::entry::Outcome;
use koinon_core::body::proposal::Scope;
use koinon_core::ids::{PolicyHash, StatementId};
use koinon_core::policy::State;
use koinon_core::sealing::Promises;

use super::safety::{Amounts, Broken, Seals};
use super::scenario::Scenario;
use super::tape::{Said, Tape};
use super::trace::{self, Trace};
use super::views::{HONEST, Held, Views};

/// A state: what every honest member has said, and what time it is. What an operator holds is no part of it: it is
/// chosen anew whenever one acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub said: [Said; HONEST],
    /// What the restored member has forgotten.
    pub lost: Option<Said>,
    pub clock: u8,
}

/// What came of an exploration.
#[derive(Clone, Debug)]
pub struct Report {
    /// How many states were visited.
    pub states: usize,
    /// How many different replicas were folded.
    pub replicas: usize,
    /// Whether nothing was left to visit.
    pub complete: bool,
    /// What was enacted somewhere, with its term: an exploration in which nothing happens proves nothing.
    pub enacted: BTreeSet<(&'static str, u32)>,
    /// The shortest way to something that must never happen.
    pub violation: Option<Trace>,
}

/// Visits every state of `scenario` in which honest members keep `promises`, but at most `limit` of them.
pub fn explore(scenario: &Scenario, promises: Promises, limit: usize) -> Report {
    let mut views = Views::new(scenario, promises);
    let first = start(scenario, &mut views);
    let mut worlds = vec![(first, usize::MAX)];
    let mut known = HashSet::from([first]);
    let mut report = Report { states: 0, replicas: 0, complete: true, enacted: BTreeSet::new(), violation: None };
    let mut index = 0;
    while let Some((world, _)) = worlds.get(index).copied() {
        let amounts = amounts(&views, &world);
        let enacted = amounts.enacted.values().flatten();
        report.enacted.extend(enacted.filter_map(|(id, term, _)| Some((scenario.children.get(id)?.name, *term))));
        let broken = amounts.broken(scenario).or(views.different.then_some(Broken::DifferentStates));
        if let Some(broken) = broken {
            let mut way = vec![world];
            let mut at = index;
            while let Some((before, _)) = worlds.get(worlds[at].1).copied() {
                at = worlds[at].1;
                way.push(before);
            }
            way.reverse();
            let confirmed = confirm(&mut views, &world, broken);
            report.violation = Some(trace::of(&mut views, &way, broken, confirmed));
            break;
        }
        if worlds.len() >= limit {
            report.complete = false;
            break;
        }
        for next in successors(&mut views, &world) {
            if known.insert(next) {
                worlds.push((next, index));
            }
        }
        index += 1;
    }
    (report.states, report.replicas) = (worlds.len(), views.count());
    report
}

fn start(scenario: &Scenario, views: &mut Views<'_>) -> World {
    let mut said = [Said::default(); HONEST];
    for (member, end) in said.iter_mut().enumerate().take(scenario.honest()) {
        *end = Tape::beginning(scenario.class(member));
        for (at, body) in &scenario.tails[member] {
            *end = views.tape.then(*end, *at, body);
        }
    }
    World { said, lost: None, clock: scenario.first_clock() }
}

/// Everything that can happen next.
fn successors(views: &mut Views<'_>, world: &World) -> Vec<World> {
    let scenario = views.scenario;
    let mut all = Vec::new();
    if usize::from(world.clock) + 1 < scenario.times.len() {
        all.push(World { clock: world.clock + 1, ..*world });
    }
    for me in 0..scenario.honest() {
        for next in views.acts(&all_of(views, world, me), me, usize::from(world.clock)).iter() {
            let mut then = *world;
            then.said[me] = *next;
            all.push(scenario.sorted(then));
        }
    }
    if let (Some(restores), None) = (&scenario.restores, world.lost) {
        let lost = world.said[restores.member];
        let mut kept = lost;
        while let Some(before) = views.tape.before(kept) {
            kept = before;
            let mut then = World { lost: Some(lost), ..*world };
            let now = scenario.times[usize::from(world.clock)].0;
            then.said[restores.member] = match restores.resumption(now) {
                Some(resumption) => views.tape.then(kept, now, &resumption),
                None => kept,
            };
            all.push(then);
        }
    }
    all
}

/// All that anybody but the liar has said, as `me` may hold it: a restored operator does not hold what it forgot.
pub(crate) fn all_of(views: &Views<'_>, world: &World, me: usize) -> Held {
    let nothing = Tape::beginning(views.scenario.restores.as_ref().map_or(0, |r| views.scenario.class(r.member)));
    let own = views.scenario.restores.as_ref().is_some_and(|restores| restores.member == me);
    let lost = world.lost.filter(|_| !own).unwrap_or(nothing);
    Held { said: world.said, lost, tale: 0 }
}

fn amounts(views: &Views<'_>, world: &World) -> Amounts {
    let scenario = views.scenario;
    let lost = world.lost.iter().filter_map(|lost| Some((scenario.restores.as_ref()?.member, *lost)));
    let logs: Vec<_> = (0..scenario.honest())
        .map(|member| (member, world.said[member]))
        .chain(lost)
        .map(|(member, said)| (member, views.bodies(member, said)))
        .collect();
    let seals: Vec<Seals<'_>> = logs
        .iter()
        .map(|(member, bodies)| {
            let mut seals = Seals { member: *member, close: Vec::new(), enact: Vec::new() };
            for (_, body) in bodies {
                match &**body {
                    Body::CloseSeal(seal) => seals.close.push((seal, views.box_of(seal))),
                    Body::EnactSeal(seal) => seals.enact.push(seal),
                    _ => {}
                }
            }
            seals
        })
        .collect();
    Amounts::of(scenario, &seals)
}

/// The same question, answered by the fold: whether replicas that hold parts of `world`, and what the liar shows to each
/// of them, come to what must never happen.
fn confirm(views: &mut Views<'_>, world: &World, broken: Broken) -> bool {
    let most = all_of(views, world, usize::MAX);
    let (mut todo, mut known) = (VecDeque::from([most]), HashSet::from([most]));
    let mut seen = Seen::default();
    while let Some(held) = todo.pop_front() {
        for tale in views.scenario.readers() {
            let state = Arc::clone(&views.view(&Held { tale, ..held }).state);
            seen.note(&state);
            if seen.shows(broken, views.scenario) {
                return true;
            }
        }
        for less in views.less(&held, usize::MAX) {
            if known.insert(less) {
                todo.push_back(less);
            }
        }
    }
    false
}

/// What readers have concluded.
#[derive(Default)]
struct Seen {
    children: BTreeMap<(Scope, PolicyHash), BTreeSet<(StatementId, PolicyHash)>>,
    certified: BTreeSet<(StatementId, u32, Outcome, BTreeSet<StatementId>)>,
}

impl Seen {
    fn note(&mut self, state: &State) {
        for version in Scope::ALL.iter().flat_map(|scope| state.chain(*scope)) {
            if let (Some(parent), Some(enacted)) = (version.parent, &version.enacted) {
                let children = self.children.entry((version.scope, parent)).or_default();
                children.insert((enacted.proposal, version.hash));
            }
        }
        for (id, proposal) in state.proposals() {
            let certified = proposal.certificates.iter().map(|c| (*id, c.count, c.outcome, c.entries.clone()));
            self.certified.extend(certified);
        }
    }

    fn shows(&self, broken: Broken, scenario: &Scenario) -> bool {
        let enacted = |id: &StatementId| self.children.values().flatten().any(|(child, _)| child == id);
        match broken {
            Broken::TwoChildren | Broken::TwoBoxes => self.children.values().any(|children| children.len() > 1),
            Broken::TwoOutcomes => self.certified.iter().any(|(id, count, outcome, _)| {
                let smaller = |(other, c, o, _): &(StatementId, u32, Outcome, _)| {
                    other == id && c < count && *o == Outcome::Passed
                };
                *outcome != Outcome::Passed && enacted(id) && self.certified.iter().any(smaller)
            }),
            Broken::LateVote => self.certified.iter().any(|(_, _, _, entries)| !entries.is_disjoint(&scenario.late)),
            Broken::CancelledAndEnacted => self.certified.iter().any(|(id, _, outcome, _)| {
                let target = scenario.children.get(id).and_then(|child| child.cancels);
                *outcome == Outcome::Passed && target.is_some_and(|target| enacted(&target))
            }),
            Broken::DifferentStates => true,
        }
    }
}
