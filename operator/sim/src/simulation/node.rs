//! One member's operator: its replica, its clock, and what an honest one does when it wakes up.

use std::collections::BTreeMap;
use std::sync::Arc;

use koinon_core::body::Body;
use koinon_core::ids::{MemberId, PublicKey, Seconds, StatementId, UnixSeconds};
use koinon_core::policy::{Commons, State};
use koinon_core::recovery::{Gate, Recovery, resumed_at};
use koinon_core::sealing::{self, Arrivals, Circumstances, Promises};
use koinon_core::statement::Statement;
use koinon_core::testkit::Person;

use super::cast::{Line, TOLERANCE};
use super::world::World;

/// Wake-ups that it waits for entries which somebody told of and does not hand over.
const PATIENCE: u32 = 4;

/// One member.
pub(super) struct Node {
    pub who: &'static Person,
    /// How far its clock is ahead.
    pub clock: Seconds,
    pub lies: bool,
    /// It came back from a backup, so its word is no witness of what it held when.
    pub forgot: bool,
    /// What it holds; a liar with two faces has two of them.
    pub faces: Vec<Commons>,
    pub recovery: Recovery,
    arrivals: Arrivals,
    pub up: bool,
    /// What came in and was not read yet.
    pub inbox: Vec<Arc<Statement>>,
    pub backup: Option<Commons>,
    /// When its clock showed what as it first held an entry.
    pub held: BTreeMap<StatementId, UnixSeconds>,
    /// The last number that its people gave a vote, for each face.
    pub voted: BTreeMap<(usize, StatementId), u32>,
    /// The next time at which it looks by itself.
    pub wakes_at: Option<UnixSeconds>,
    /// It has filled its day.
    pub flooded: bool,
    waited: u32,
    /// What it saw when it found nothing to sign, and until when that holds.
    settled: Option<(Arc<State>, UnixSeconds)>,
}

impl Node {
    pub fn new(who: &'static Person, clock: Seconds, lies: bool, commons: Commons) -> Self {
        let recovery = Recovery::new(who.id(), who.member.keys.operator);
        let arrivals = Arrivals::starting(commons.state());
        Self {
            who,
            clock,
            lies,
            forgot: false,
            faces: vec![commons],
            recovery,
            arrivals,
            up: true,
            inbox: Vec::new(),
            backup: None,
            held: BTreeMap::new(),
            voted: BTreeMap::new(),
            wakes_at: None,
            flooded: false,
            waited: 0,
            settled: None,
        }
    }

    pub fn id(&self) -> MemberId {
        self.who.id()
    }
    pub fn log(&self) -> PublicKey {
        self.who.member.keys.operator
    }
    pub fn state(&self) -> &Arc<State> {
        self.faces[0].state()
    }
    /// Its own clock when it is truly `now`.
    pub fn reads(&self, now: UnixSeconds) -> UnixSeconds {
        now.plus(self.clock)
    }
    /// Which face it shows to `reader`.
    pub fn face_for(&self, reader: usize) -> usize {
        reader % self.faces.len().max(1)
    }

    /// Starts again with `commons`, knowing nothing of what others were told.
    pub fn restart(&mut self, commons: Option<Commons>) {
        self.up = true;
        self.inbox.clear();
        self.recovery = Recovery::new(self.who.id(), self.log());
        (self.waited, self.settled) = (0, None);
        if let Some(commons) = commons {
            (self.faces, self.forgot) = (vec![commons], true);
            self.voted.clear();
        }
        self.arrivals = Arrivals::starting(self.faces[0].state());
    }

    /// Whether it may sign, as after a start and after a restored backup.
    fn may_sign(&mut self) -> bool {
        let state = self.faces[0].state();
        let electors: Vec<MemberId> = state.active().map(|member| member.id.clone()).collect();
        let gate = self.recovery.gate(self.faces[0].replica(), &electors, state.quorum());
        let holders = match gate {
            Gate::Ready => {
                self.waited = 0;
                return true;
            }
            Gate::TakeBack { holders, .. } => holders,
            Gate::Conflict { holder, .. } => vec![holder],
            Gate::AwaitingQuorum { .. } | Gate::Forked(_) => return false,
        };
        self.waited += 1;
        if self.waited > PATIENCE {
            holders.into_iter().for_each(|holder| self.recovery.doubt(holder));
        }
        false
    }
}

impl World {
    /// An honest operator looks what there is to sign, signs it, and looks again.
    pub(super) fn operate(&mut self, who: usize) {
        let now = self.nodes[who].reads(self.now);
        let state = Arc::clone(self.nodes[who].state());
        let node = &self.nodes[who];
        let settled = node.settled.as_ref().is_some_and(|(seen, until)| Arc::ptr_eq(seen, &state) && now < *until);
        if settled || !node.up || node.lies {
            return;
        }
        self.nodes[who].arrivals.note(&state, now);
        // No operator signs that much at once: rather a wrong run than one without an end.
        for _ in 0..200 {
            let Some(body) = self.next_body(who) else { break };
            if !self.nodes[who].may_sign() {
                return;
            }
            self.write(who, 0, &[(Line::Own(body), now)]);
        }
        let state = Arc::clone(self.nodes[who].state());
        let next = state.next_change(now);
        // A slot ends at times that no proposal names; a quarter of an hour later is early enough to see that.
        let until = next.unwrap_or(now.plus(Seconds(900))).min(now.plus(Seconds(900)));
        self.nodes[who].settled = Some((state, until));
        if let Some(next) = next {
            let truly = next.minus(self.nodes[who].clock).max(self.now.plus(Seconds(1)));
            self.wake(who, truly);
        }
    }

    fn next_body(&self, who: usize) -> Option<Body> {
        let node = &self.nodes[who];
        let (replica, log) = (node.faces[0].replica(), node.log());
        if let Some(fork) = replica.unreported_forks().into_iter().find(|fork| fork.log != log) {
            return Some(Body::Evidence(Box::new(fork.to_evidence())));
        }
        if let Some(evidence) = node.state().unreported_seals(replica, &log).into_iter().next() {
            return Some(Body::SealEvidence(Box::new(evidence)));
        }
        let circumstances = Circumstances {
            isolated: self.hears(who) < node.state().quorum(),
            clock_in_tolerance: node.clock.0.abs() <= TOLERANCE.0,
            resumed_at: resumed_at(replica, &log),
            promises: self.without.map_or(Promises::KEPT, Promises::all_but),
            late: node.arrivals.late().clone(),
            ..Circumstances::good(node.reads(self.now))
        };
        sealing::next(node.state(), &node.id(), &circumstances).into_iter().next()
    }

    /// How many members `who` hears, itself included.
    fn hears(&self, who: usize) -> usize {
        let heard = |other: &usize| self.nodes[*other].up && self.plan.linked(who, *other, self.now);
        (0..self.nodes.len()).filter(heard).count()
    }
}
