//! One small cooperative at the start, and what may happen to it.

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::body::entry::Slot;
use koinon_core::body::{Body, LogResume};
use koinon_core::dsse::Signer;
use koinon_core::founding::Founding;
use koinon_core::ids::{StatementId, UnixSeconds};
use koinon_core::policy::ProposalState;
use koinon_core::statement::Statement;
use koinon_core::testkit::Person;

use super::search::World;
use super::stage::Stage;
use super::tape::Said;
use super::views::{HONEST, Held};

/// One small cooperative at the start, and what may happen to it.
pub struct Scenario {
    /// A short name.
    pub name: &'static str,
    /// What is tried.
    pub what: &'static str,
    /// The members; the liar, if there is one, is the last.
    pub(crate) people: Vec<Person>,
    pub(crate) lies: bool,
    pub(crate) founding: Founding,
    /// The logs as everybody has heard them.
    pub(crate) base: Vec<Vec<Statement>>,
    /// What honest members have said beyond that, which not everybody need have heard.
    pub(crate) tails: Vec<Vec<(UnixSeconds, Body)>>,
    /// Members of one class are interchangeable: they begin alike, and nothing is about one of them alone.
    pub(crate) classes: Vec<usize>,
    /// The times at which something changes, with their names.
    pub(crate) times: Vec<(UnixSeconds, &'static str)>,
    /// Whether honest clocks agree; otherwise each may show any of the times, and be set back.
    pub(crate) clocks_agree: bool,
    /// All that the liar may have shown to somebody.
    pub(crate) tales: Vec<Tale>,
    /// What can be enacted.
    pub(crate) children: BTreeMap<StatementId, Child>,
    /// Entries that no honest operator held in time.
    pub(crate) late: BTreeSet<StatementId>,
    /// The member whose backup may be restored.
    pub(crate) restores: Option<Restores>,
    /// Whether every replica is built in two orders.
    pub(crate) twice: bool,
    /// Whether a single seal can matter, so that nothing may be passed over.
    pub(crate) every_seal_counts: bool,
    /// What is left out because nothing follows from it here.
    pub(crate) leaves_out: fn(&Body) -> bool,
}

/// What the liar shows to somebody: it has a log for everyone.
#[derive(Clone, Debug)]
pub(crate) struct Tale {
    pub says: Vec<(UnixSeconds, Body)>,
    /// From which time on, as a number among the scenario's times.
    pub from: usize,
    pub echo: Echo,
}

/// Which honest seals the liar repeats as its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    /// All close seals: more certificates let honest members do more.
    Closes,
    /// Close and enact seals on one child, for a reader of that side.
    Everything(StatementId),
}

impl Echo {
    pub fn repeats(self, child: StatementId) -> bool {
        match self {
            Self::Closes => true,
            Self::Everything(of) => of == child,
        }
    }
}

/// Something that can be enacted, or stops something else.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    pub name: &'static str,
    /// Its own term's.
    pub slot: Slot,
    pub sealers: BTreeSet<usize>,
    pub quorum: usize,
    pub enact_quorum: usize,
    /// Who does not count among those that enact it.
    pub parts: Option<usize>,
    pub cancels: Option<StatementId>,
}

impl Child {
    pub fn of(stage: &Stage, name: &'static str, proposal: &ProposalState) -> Self {
        let number = |id: &koinon_core::ids::MemberId| stage.people.iter().position(|person| person.id() == *id);
        Self {
            name,
            slot: proposal.slot(),
            sealers: proposal.sealers.iter().filter_map(number).collect(),
            quorum: proposal.quorum,
            enact_quorum: proposal.enact_quorum,
            parts: None,
            cancels: None,
        }
    }
}

/// A member whose store may be put back to an earlier time, once.
#[derive(Clone, Debug)]
pub(crate) struct Restores {
    pub member: usize,
    /// Whether a person has it resume, which its log says; otherwise it simply forgets.
    pub by_word: bool,
    pub old_log: koinon_core::ids::PublicKey,
}

impl Restores {
    pub fn new(person: &Person, member: usize, by_word: bool) -> Self {
        Self { member, by_word, old_log: person.operator.public_key() }
    }

    pub fn resumption(&self, _now: UnixSeconds) -> Option<Body> {
        self.by_word.then(|| Body::LogResume(LogResume { old_log: self.old_log, old_head: None }))
    }
}

impl Scenario {
    /// What `stage` has come to, with nothing yet that may happen.
    pub(crate) fn new(name: &'static str, what: &'static str, stage: Stage, lies: bool) -> Self {
        let members = stage.people.len();
        Self {
            name,
            what,
            lies,
            founding: stage.commons.founding().clone(),
            tails: vec![Vec::new(); members],
            classes: (0..members).collect(),
            people: stage.people,
            base: stage.said,
            times: Vec::new(),
            clocks_agree: false,
            tales: Vec::new(),
            children: BTreeMap::new(),
            late: BTreeSet::new(),
            restores: None,
            twice: false,
            every_seal_counts: false,
            leaves_out: |_| false,
        }
    }

    /// How many members are honest: all but the last, or all.
    pub(crate) fn honest(&self) -> usize {
        (self.people.len() - usize::from(self.lies)).min(HONEST)
    }

    pub(crate) fn liar(&self) -> Option<usize> {
        self.lies.then(|| self.people.len() - 1)
    }

    pub(crate) fn class(&self, member: usize) -> usize {
        self.classes.get(member).copied().unwrap_or(member)
    }

    pub(crate) fn signs(&self, body: &Body) -> bool {
        !(self.leaves_out)(body)
    }

    pub(crate) fn least_quorum(&self) -> usize {
        self.children.values().map(|child| child.quorum).min().unwrap_or(0)
    }

    /// The tales for those who only read: on each of them the liar takes another child's side.
    pub(crate) fn readers(&self) -> std::ops::Range<u8> {
        let all = u8::try_from(self.tales.len()).unwrap_or(u8::MAX);
        let readers = self.tales.iter().filter(|tale| matches!(tale.echo, Echo::Everything(_))).count();
        if self.lies { all - u8::try_from(readers).unwrap_or(all)..all } else { 0..1 }
    }

    /// The time at which the exploration begins.
    pub(crate) fn first_clock(&self) -> u8 {
        if self.clocks_agree { 0 } else { u8::try_from(self.times.len().saturating_sub(1)).unwrap_or(u8::MAX) }
    }

    /// What the clock of somebody who was told `tale` may show when it is `clock`.
    pub(crate) fn clocks(&self, clock: usize, tale: usize) -> std::ops::Range<usize> {
        match self.tales.get(tale).map_or(0, |tale| tale.from) {
            from if from > clock => 0..0,
            _ if self.clocks_agree => clock..clock + 1,
            _ => 0..clock + 1,
        }
    }

    /// Lets `member` have said `body` beyond what everybody has heard.
    pub(crate) fn tail(&mut self, member: usize, at: UnixSeconds, body: Body) -> StatementId {
        self.tails[member].push((at, body));
        self.entry(member, &self.tails[member])
    }

    /// The id of the last of `says` as entries of `member` after the start.
    pub(crate) fn entry(&self, member: usize, says: &[(UnixSeconds, Body)]) -> StatementId {
        let mut tape = super::tape::Tape::new(&self.people, self.founding.coop(), &self.base, 1);
        let said = says.iter().fold(Said::default(), |said, (at, body)| tape.then(said, *at, body));
        let last = tape.statements(member, said).last().map(|entry| entry.id());
        last.unwrap_or(StatementId(self.founding.coop().0))
    }

    /// Adds a tale that repeats close seals, told from `from` on.
    pub(crate) fn tell(&mut self, from: usize, says: Vec<(UnixSeconds, Body)>) {
        self.tales.push(Tale { says, from, echo: Echo::Closes });
    }

    /// Ends the tales: what the liar shows to readers, who hear `says` and then one side.
    pub(crate) fn tell_readers(&mut self, says: &[Vec<(UnixSeconds, Body)>]) {
        for child in self.children.keys().copied().collect::<Vec<_>>() {
            for says in says {
                self.tales.push(Tale { says: says.clone(), from: usize::MAX, echo: Echo::Everything(child) });
            }
        }
    }

    /// `world` with interchangeable members in order.
    pub(crate) fn sorted(&self, mut world: World) -> World {
        for (class, range) in self.groups() {
            if self.restores.as_ref().is_none_or(|restores| self.class(restores.member) != class) {
                world.said[range].sort();
            }
        }
        world
    }

    /// `held` by `me` with interchangeable members in order, `me` before the others of its class.
    pub(crate) fn alike(&self, held: &Held, me: usize) -> (Held, usize) {
        let (mut held, mut first) = (*held, me);
        for (class, range) in self.groups() {
            if self.class(me) == class && me < self.honest() {
                held.said.swap(range.start, me);
                first = range.start;
                held.said[range.start + 1..range.end].sort();
            } else {
                held.said[range].sort();
            }
        }
        (held, first)
    }

    fn groups(&self) -> Vec<(usize, std::ops::Range<usize>)> {
        let honest = self.honest();
        let classes: BTreeSet<usize> = (0..honest).map(|member| self.class(member)).collect();
        let range = |class: usize| {
            let first = (0..honest).find(|member| self.class(*member) == class).unwrap_or(honest);
            let count = (0..honest).filter(|member| self.class(*member) == class).count();
            (class, first..first + count)
        };
        classes.into_iter().map(range).collect()
    }

    pub(crate) fn member(&self, member: usize) -> String {
        self.people[member].id().to_string()
    }
}
