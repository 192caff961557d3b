//! What has happened before an exploration begins: everybody has heard everything, so one replica stands for all.

// A scenario that cannot be set up is a mistake in the scenario itself.
#![allow(clippy::unwrap_used)]

use koinon_core::body::charter::{Charter, Preset};
use koinon_core::body::proposal::{Action, Choice, Ground, Proposal, Vote};
use koinon_core::body::{Anchor, Body};
use koinon_core::founding::Founding;
use koinon_core::ids::{Seconds, StatementId, UnixSeconds};
use koinon_core::log::Limits;
use koinon_core::policy::Commons;
use koinon_core::presets;
use koinon_core::sealing::{self, Circumstances};
use koinon_core::statement::Statement;
use koinon_core::testkit::{Person, T0, charter, found, person};

/// From the close to the offers, and from them to the seals.
pub(crate) const GRACE: i64 = 60;
/// How long a proposal may be enacted.
pub(crate) const WINDOW: i64 = 3600;
/// How far clocks may differ.
pub(crate) const TOLERANCE: i64 = 30;

/// A cooperative at the start.
pub(crate) struct Stage {
    pub people: Vec<Person>,
    pub commons: Commons,
    pub now: UnixSeconds,
    /// The logs.
    pub said: Vec<Vec<Statement>>,
}

/// Moves every time of a proposal so that its vote closes at `closes_at`.
pub(crate) fn closing_at(proposal: &mut Proposal, closes_at: UnixSeconds) {
    let later = closes_at.since(proposal.closes_at);
    for time in [&mut proposal.closes_at, &mut proposal.eta, &mut proposal.expires_at] {
        *time = time.plus(later);
    }
}

impl Stage {
    /// Founds a cooperative of `names` under rules 2.
    pub fn new(names: &[&str], edit: impl Fn(&mut Charter)) -> Self {
        Self::founded(names, |charter| {
            charter.parameters.deliberation = Some(presets::deliberation());
            edit(charter);
        })
    }

    /// Founds a cooperative of `names` in which nothing takes longer than it must.
    pub fn founded(names: &[&str], edit: impl Fn(&mut Charter)) -> Self {
        let people: Vec<Person> = names.iter().map(|name| person(name)).collect();
        let everybody: Vec<&Person> = people.iter().collect();
        let mut charter = charter(&everybody, Preset::Trial);
        charter.parameters.grace_seconds = Seconds(GRACE);
        charter.parameters.enact_window_seconds = Seconds(WINDOW);
        charter.parameters.clock_tolerance_seconds = Seconds(TOLERANCE);
        charter.parameters.close_when_all_voted = false;
        edit(&mut charter);
        let founding: Founding = found(&everybody, charter);
        let said = people.iter().map(|_| Vec::new()).collect();
        Self { commons: Commons::new(founding, Limits::default()), people, now: T0, said }
    }

    /// Appends an entry to the log of `who`.
    pub fn append(&mut self, who: usize, body: Body) -> StatementId {
        let coop = self.commons.founding().coop();
        let prev = self.said[who].last().map_or(coop.0, |entry| entry.id().0);
        let entry = self.people[who].entry(coop, self.now, self.said[who].len() as u64, prev, body);
        self.said[who].push(entry.clone());
        self.commons.insert(entry.clone()).unwrap();
        entry.id()
    }

    /// What anchors `body`, signed by the people of `who`; and the id of what they signed.
    pub fn signed(&self, who: usize, body: Body) -> (Body, StatementId) {
        let statement = self.people[who].human(self.commons.founding().coop(), self.now, body);
        (Body::Anchor(Box::new(Anchor { statement: statement.envelope().clone() })), statement.id())
    }

    /// The people of `who` sign `body` and their operator anchors it.
    pub fn say(&mut self, who: usize, body: Body) -> StatementId {
        let (anchor, id) = self.signed(who, body);
        self.append(who, anchor);
        id
    }

    /// `who` proposes `action`, with whatever `edit` changes.
    pub fn propose(&mut self, who: usize, action: Action, edit: impl Fn(&mut Proposal)) -> StatementId {
        let title = "A change".parse().unwrap();
        let mut proposal = self.commons.state().draft_proposal(action, title, Default::default(), self.now).unwrap();
        edit(&mut proposal);
        self.say(who, Body::Proposal(Box::new(proposal)))
    }

    /// What a vote says.
    pub fn ballot(proposal: StatementId, choice: Choice) -> Body {
        let ground = (choice == Choice::Veto).then_some(Ground::Legal);
        Body::Vote(Vote { proposal, choice, vseq: 0, ground, reason: None })
    }

    /// Each of `who` votes yes.
    pub fn yes(&mut self, who: impl IntoIterator<Item = usize>, proposal: StatementId) {
        who.into_iter().for_each(|who| {
            self.say(who, Self::ballot(proposal, Choice::Yes));
        });
    }

    /// What the operator of `who` would sign now.
    pub fn next(&self, who: usize) -> Vec<Body> {
        let circumstances = Circumstances::good(self.now);
        sealing::next(self.commons.state(), &self.people[who].id(), &circumstances)
    }

    /// Each of `who` signs all that it would sign now and that `only` lets it.
    pub fn seal(&mut self, who: &[usize], only: impl Fn(&Body) -> bool) {
        loop {
            let mut moved = false;
            for who in who {
                if let Some(body) = self.next(*who).into_iter().find(|body| only(body)) {
                    self.append(*who, body);
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Everybody offers what it holds, at `at`.
    pub fn offer(&mut self, at: UnixSeconds) {
        self.now = at;
        let all: Vec<usize> = (0..self.people.len()).collect();
        self.seal(&all, |body| matches!(body, Body::BoxOffer(_)));
    }
}
