//! What an operator may hold when it acts, what it concludes from that, and what it then signs.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use koinon_core::body::entry::{Outcome, Slot};
use koinon_core::body::{Body, CloseSeal};
use koinon_core::ids::{StatementId, UnixSeconds};
use koinon_core::log::Limits;
use koinon_core::policy::{Commons, State, vouched, vouchers};
use koinon_core::recovery;
use koinon_core::sealing::{self, Circumstances, Promises};
use koinon_core::statement::Statement;

use super::scenario::{Echo, Scenario};
use super::tape::{Said, Tape};

/// The most honest members of a scenario.
pub(crate) const HONEST: usize = 4;

/// What one operator holds: how much of every log, and what the liar has told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    pub said: [Said; HONEST],
    /// What is held of the log that a restored member has forgotten.
    pub lost: Said,
    /// Which of the liar's tales.
    pub tale: u8,
}

/// What is concluded from it.
pub(crate) struct View {
    pub state: Arc<State>,
    resumed: Vec<Option<UnixSeconds>>,
}

/// Views that are kept in each of two generations. A view has some 80 kB and the largest scenarios have millions of replicas:
/// what was not asked for during a whole generation is folded again.
const KEPT: usize = 25_000;

/// What was concluded last.
#[derive(Default)]
struct Recent {
    young: HashMap<Held, Arc<View>>,
    old: HashMap<Held, Arc<View>>,
}

impl Recent {
    fn get(&mut self, held: &Held) -> Option<Arc<View>> {
        if let Some(known) = self.young.get(held) {
            return Some(Arc::clone(known));
        }
        let known = self.old.remove(held)?;
        self.insert(*held, Arc::clone(&known));
        Some(known)
    }

    fn insert(&mut self, held: Held, view: Arc<View>) {
        if self.young.len() >= KEPT {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(held, view);
    }
}

/// Everything that was concluded so far, so that little is folded twice.
pub(crate) struct Views<'a> {
    pub scenario: &'a Scenario,
    pub tape: Tape<'a>,
    promises: Promises,
    start: Commons,
    recent: Recent,
    folded: HashSet<Held>,
    signed: HashMap<(Held, usize, usize), Arc<[Said]>>,
    acts: HashMap<(Held, usize, usize), Arc<[Said]>>,
    /// Entries that two replicas held in another order, with another result.
    pub different: bool,
}

impl<'a> Views<'a> {
    pub fn new(scenario: &'a Scenario, promises: Promises) -> Self {
        let founding = scenario.founding.clone();
        let mut start = Commons::new(founding.clone(), Limits::default());
        start.insert_all(scenario.base.iter().flatten().cloned());
        let tape = Tape::new(&scenario.people, founding.coop(), &scenario.base, scenario.people.len());
        Self {
            scenario,
            tape,
            promises,
            start,
            recent: Recent::default(),
            folded: HashSet::new(),
            signed: HashMap::new(),
            acts: HashMap::new(),
            different: false,
        }
    }

    /// How many different replicas were folded.
    pub fn count(&self) -> usize {
        self.folded.len()
    }

    /// The entries of `held` beyond the start.
    fn entries(&mut self, held: &Held) -> Vec<Arc<Statement>> {
        let mut all = Vec::new();
        for member in 0..self.scenario.honest() {
            all.extend(self.tape.statements(member, held.said[member]));
        }
        if let Some(restored) = self.scenario.restores.as_ref().map(|restores| restores.member) {
            all.extend(self.tape.statements(restored, held.lost));
        }
        if let Some(liar) = self.scenario.liar() {
            let tale = self.liars_log(held);
            all.extend(self.tape.statements(liar, tale));
        }
        all
    }

    /// What `member` has sealed before and after the start.
    pub fn bodies(&self, member: usize, said: Said) -> Vec<(UnixSeconds, Arc<Body>)> {
        let sealed = |entry: &&Statement| matches!(entry.body(), Body::CloseSeal(_) | Body::EnactSeal(_));
        let base = self.scenario.base[member].iter().filter(sealed);
        let base = base.map(|entry| (entry.header().issued_at, Arc::new(entry.body().clone())));
        base.chain(self.tape.bodies(said)).collect()
    }

    /// What the liar has shown to whoever holds `held`.
    fn liars_log(&mut self, held: &Held) -> Said {
        let Some(tale) = self.scenario.tales.get(usize::from(held.tale)) else { return Said::default() };
        let mut said = Tape::beginning(self.scenario.class(self.scenario.people.len() - 1));
        for (at, body) in &tale.says {
            said = self.tape.then(said, *at, body);
        }
        // It seals whatever an honest member has sealed: that follows from the same offers.
        let honest: Vec<_> = (0..self.scenario.honest()).flat_map(|m| self.bodies(m, held.said[m])).collect();
        let mut echoed: Vec<(UnixSeconds, Body)> = Vec::new();
        for (at, body) in honest {
            let body = match &*body {
                Body::CloseSeal(seal) if tale.echo.repeats(seal.proposal) => without_round(&body),
                Body::EnactSeal(seal) if matches!(tale.echo, Echo::Everything(child) if child == seal.proposal) => {
                    Body::EnactSeal(seal.clone())
                }
                _ => continue,
            };
            if !echoed.iter().any(|(_, known)| *known == body) {
                echoed.push((at, body));
            }
        }
        for (at, body) in echoed {
            said = self.tape.then(said, at, &body);
        }
        said
    }

    /// What follows from `held`.
    pub fn view(&mut self, held: &Held) -> Arc<View> {
        if let Some(known) = self.recent.get(held) {
            return known;
        }
        let entries = self.entries(held);
        let mut commons = self.start.clone();
        commons.insert_all(entries.iter().map(|entry| (**entry).clone()));
        if self.scenario.twice {
            // The same entries the other way round, each before the one that it follows.
            let mut other = self.start.clone();
            other.insert_all(entries.iter().rev().map(|entry| (**entry).clone()));
            self.different |= other.state() != commons.state();
        }
        let resumed = self.scenario.people.iter();
        let resumed = resumed.map(|p| recovery::resumed_at(commons.replica(), &p.member.keys.operator)).collect();
        let view = Arc::new(View { state: Arc::clone(commons.state()), resumed });
        self.folded.insert(*held);
        self.recent.insert(*held, Arc::clone(&view));
        view
    }

    /// What `me` may sign next if it holds exactly `held` at the time with number `clock`.
    fn signs(&mut self, held: &Held, me: usize, clock: usize) -> Arc<[Said]> {
        if let Some(known) = self.signed.get(&(*held, me, clock)) {
            return Arc::clone(known);
        }
        let view = self.view(held);
        let now = self.scenario.times[clock].0;
        let circumstances =
            Circumstances { resumed_at: view.resumed[me], promises: self.promises, ..Circumstances::good(now) };
        let id = self.scenario.people[me].id();
        let bodies = sealing::next(&view.state, &id, &circumstances);
        let said = self.bodies(me, held.said[me]);
        let news = |body: &&Body| !said.iter().any(|(_, known)| without_round(known) == without_round(body));
        let bodies = bodies.iter().filter(|body| self.scenario.signs(body)).filter(news);
        let next: Arc<[Said]> = bodies.map(|body| self.tape.then(held.said[me], now, body)).collect();
        self.signed.insert((*held, me, clock), Arc::clone(&next));
        next
    }

    /// What `me` may sign next at `clock` if it holds any part of `most` with all of its own log.
    pub fn acts(&mut self, most: &Held, me: usize, clock: usize) -> Arc<[Said]> {
        let (most, me) = self.scenario.alike(most, me);
        if let Some(known) = self.acts.get(&(most, me, clock)) {
            return Arc::clone(known);
        }
        if let Some(less) = self.without_what_changes_nothing(&most, me) {
            let all = self.acts(&less, me, clock);
            self.acts.insert((most, me, clock), Arc::clone(&all));
            return all;
        }
        let mut all = BTreeSet::new();
        for tale in 0..self.scenario.tales.len().max(1) {
            let held = Held { tale: u8::try_from(tale).unwrap_or(u8::MAX), ..most };
            if self.tale_changes_nothing(&held) {
                continue;
            }
            for clock in self.scenario.clocks(clock, tale) {
                all.extend(self.signs(&held, me, clock).iter().copied());
            }
        }
        for less in self.less(&most, me) {
            all.extend(self.acts(&less, me, clock).iter().copied());
        }
        let all = self.that_name_least(all);
        self.acts.insert((most, me, clock), Arc::clone(&all));
        all
    }

    /// Of seals that say the same, those that name no more offers than they need: they count wherever the others do.
    fn that_name_least(&self, all: BTreeSet<Said>) -> Arc<[Said]> {
        let last: Vec<(Said, Option<Arc<Body>>)> =
            all.into_iter().map(|said| (said, self.tape.last_body(said))).collect();
        let says = |body: &Option<Arc<Body>>| match body.as_deref() {
            Some(Body::CloseSeal(seal)) => {
                let basis = seal.basis.as_ref()?;
                Some((CloseSeal { basis: None, ..seal.clone() }, basis.slot, basis.offers.clone()))
            }
            _ => None,
        };
        let says: Vec<_> = last.iter().map(|(said, body)| (*said, says(body))).collect();
        let more = |one: &Option<(CloseSeal, Slot, BTreeSet<StatementId>)>| {
            let Some((seal, slot, offers)) = one else { return false };
            says.iter()
                .filter_map(|(_, other)| other.as_ref())
                .any(|(same, place, fewer)| (same, place) == (seal, slot) && fewer != offers && fewer.is_subset(offers))
        };
        says.iter().filter(|(_, body)| !more(body)).map(|(said, _)| *said).collect()
    }

    /// `held` without a last entry of somebody else that changes nothing for `me`: a seal or a status short of a quorum.
    fn without_what_changes_nothing(&self, held: &Held, me: usize) -> Option<Held> {
        if self.scenario.every_seal_counts {
            return None;
        }
        let others = (0..self.scenario.honest()).filter(|member| *member != me);
        others.into_iter().find_map(|member| {
            let last = self.tape.last_body(held.said[member])?;
            let nothing = match &*last {
                Body::EnactSeal(seal) => {
                    let needed = self.scenario.children.get(&seal.proposal)?.enact_quorum;
                    self.members_with(held, |body| matches!(body, Body::EnactSeal(other) if other == seal)) < needed
                }
                Body::SlotStatus(status) => self.statuses(held, status.slot) + 1 < self.scenario.least_quorum(),
                Body::CloseSeal(seal) => {
                    let needed = self.scenario.children.get(&seal.proposal)?.quorum;
                    let slot = seal.basis.as_ref()?.slot;
                    // The first seal for a slot shows that there is something to end.
                    let own = self.bodies(me, held.said[me]);
                    let known = own.iter().any(|(_, body)| seals_for(body, slot));
                    known && self.members_with(held, |body| agrees(body, seal)) + 1 < needed
                }
                _ => false,
            };
            let mut less = *held;
            less.said[member] = self.tape.before(held.said[member])?;
            nothing.then_some(less)
        })
    }

    /// Whether what the liar tells is a status short of a quorum.
    fn tale_changes_nothing(&self, held: &Held) -> bool {
        let Some(tale) = self.scenario.tales.get(usize::from(held.tale)) else { return false };
        let short = |body: &Body| match body {
            Body::SlotStatus(status) => self.statuses(held, status.slot) + 1 < self.scenario.least_quorum(),
            _ => false,
        };
        !self.scenario.every_seal_counts && !tale.says.is_empty() && tale.says.iter().all(|(_, body)| short(body))
    }

    fn statuses(&self, held: &Held, slot: Slot) -> usize {
        self.members_with(held, |body| matches!(body, Body::SlotStatus(status) if status.slot == slot))
    }

    /// How many honest members have said what `is_it` wants.
    fn members_with(&self, held: &Held, is_it: impl Fn(&Body) -> bool) -> usize {
        let has = |member: &usize| self.bodies(*member, held.said[*member]).iter().any(|(_, body)| is_it(body));
        (0..self.scenario.honest()).filter(has).count()
    }

    /// `held` without the last entry of one log that is not `me`'s.
    pub fn less(&self, held: &Held, me: usize) -> Vec<Held> {
        let mut all = Vec::new();
        for member in (0..self.scenario.honest()).filter(|member| *member != me) {
            if let Some(before) = self.tape.before(held.said[member]) {
                let mut less = *held;
                less.said[member] = before;
                all.push(less);
            }
        }
        if let Some(before) = self.tape.before(held.lost) {
            all.push(Held { lost: before, ..*held });
        }
        all
    }

    /// The least that `me` can have held to sign `next`, for people to read.
    pub fn reason(&mut self, most: &Held, me: usize, clock: usize, next: Said) -> Option<Held> {
        let mut level = HashSet::from([*most]);
        let mut found = None;
        while !level.is_empty() {
            let mut here = None;
            let mut below: HashSet<Held> = HashSet::new();
            for held in level {
                for tale in 0..self.scenario.tales.len().max(1) {
                    let told = Held { tale: u8::try_from(tale).unwrap_or(u8::MAX), ..held };
                    for clock in self.scenario.clocks(clock, tale) {
                        if here.is_none() && self.signs(&told, me, clock).contains(&next) {
                            here = Some(told);
                        }
                    }
                }
                below.extend(self.less(&held, me));
            }
            (level, found) = (below, here.or(found));
        }
        found
    }

    /// The box that a close seal stands for, from the offers that it names.
    pub fn box_of(&self, seal: &CloseSeal) -> BTreeSet<StatementId> {
        let Some(child) = self.scenario.children.get(&seal.proposal) else { return BTreeSet::new() };
        let offers =
            seal.basis.iter().flat_map(|basis| &basis.offers).filter_map(|id| match self.tape.get(id)?.body() {
                Body::BoxOffer(offer) => Some(offer),
                _ => None,
            });
        vouched(offers, vouchers(child.sealers.len()))
    }
}

/// A close seal as it adds up with others; an operator that has said it before says nothing new.
fn without_round(body: &Body) -> Body {
    match body {
        Body::CloseSeal(seal) => Body::CloseSeal(CloseSeal { round: 1, ..seal.clone() }),
        other => other.clone(),
    }
}

fn seals_for(body: &Body, slot: Slot) -> bool {
    let Body::CloseSeal(seal) = body else { return false };
    seal.outcome == Outcome::Passed && seal.basis.as_ref().is_some_and(|basis| basis.slot == slot)
}

/// Whether `body` adds up with `seal`.
fn agrees(body: &Body, seal: &CloseSeal) -> bool {
    let Body::CloseSeal(other) = body else { return false };
    let slot = |seal: &CloseSeal| seal.basis.as_ref().map(|basis| basis.slot);
    let says = |s: &CloseSeal| (s.proposal, s.root, s.count, s.membership_head, s.outcome, s.closed_at, slot(s));
    says(other) == says(seal)
}
