//! A cooperative's past of any length: decisions that were voted on, offered, sealed and enacted, one after the other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Person, T0, Writer, charter, found, person};
use crate::body::catalogue::ModelRelease;
use crate::body::charter::{Charter, Preset};
use crate::body::entry::{Basis, Slot};
use crate::body::proposal::{Action, Admit, Choice, Proposal, Scope, Vote};
use crate::body::{Body, BoxOffer, CloseSeal, EnactSeal, Outcome};
use crate::dsse::MAX_SIGNATURES;
use crate::founding::Founding;
use crate::ids::{Digest, ManifestDigest, MemberId, PolicyHash, Seconds, StatementId, UnixSeconds};
use crate::log::Limits;
use crate::merkle;
use crate::policy::{Commons, genesis, version_hash};
use crate::presets;
use crate::statement::Statement;

/// The past of a cooperative under rules 2.
pub struct History {
    /// Its founding.
    pub founding: Founding,
    /// Its entries in the order in which they were written.
    pub entries: Vec<Statement>,
    /// How many of them only made everybody a member.
    pub admitted: usize,
    /// The votes in the others.
    pub votes: Vec<Statement>,
    /// When it ends.
    pub now: UnixSeconds,
}

/// How far each decision is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Everybody has voted.
    Voted,
    /// Everybody has signed its enactment.
    Enacted,
}

/// The past of `members` members who decided at least as often as it takes to write `entries` entries.
pub fn history(members: usize, entries: usize, until: Until) -> History {
    let people: Vec<Person> = (0..members).map(|index| person(&format!("member-{index:03}"))).collect();
    let mut past = Past::founded(&people);
    let coop = past.founding.coop();
    while past.active < members {
        let application = people[past.active].application(coop, past.now).envelope().clone();
        past.decide(Action::Admit(Admit { application }), Until::Enacted);
        past.active += 1;
    }
    let admitted = past.entries.len();
    past.votes.clear();
    while past.entries.len() < admitted + entries {
        let action = past.another_model();
        past.decide(action, until);
    }
    past.told(admitted)
}

/// A past like that of [`history`], at the end of which its entries are settled by a checkpoint.
pub fn settled(members: usize, entries: usize) -> History {
    let people: Vec<Person> = (0..members).map(|index| person(&format!("member-{index:03}"))).collect();
    let mut past = Past::founded(&people);
    while past.entries.len() < entries {
        let action = past.another_model();
        past.decide(action, Until::Enacted);
    }
    let (commons, refused) = Commons::load(past.founding.clone(), Limits::NONE, past.entries.clone());
    assert!(refused.is_empty(), "{refused:?}");
    let checkpoint = commons.draft_checkpoint(past.now).unwrap();
    past.decide(Action::Checkpoint(checkpoint), Until::Enacted);
    past.told(0)
}

/// The commons of founders under rules 2 who have decided `actions`, which are about none of them.
pub fn decided(founders: &[Person], mut charter: Charter, actions: impl IntoIterator<Item = Action>) -> Commons {
    charter.parameters.deliberation = Some(presets::deliberation());
    charter.parameters.close_when_all_voted = false;
    let everybody: Vec<&Person> = founders.iter().collect();
    let mut past = Past::begin(founders, found(&everybody, charter), founders.len());
    actions.into_iter().for_each(|action| past.decide(action, Until::Enacted));
    let (commons, refused) = Commons::load(past.founding, Limits::NONE, past.entries);
    assert!(refused.is_empty(), "{refused:?}");
    commons
}

struct Past<'a> {
    people: &'a [Person],
    founding: Founding,
    logs: Vec<Writer<'a>>,
    heads: BTreeMap<Scope, PolicyHash>,
    active: usize,
    entries: Vec<Statement>,
    votes: Vec<Statement>,
    now: UnixSeconds,
}

impl<'a> Past<'a> {
    /// By as many as an envelope holds signatures; the others are to be admitted.
    fn founded(people: &'a [Person]) -> Self {
        let founders: Vec<&Person> = people.iter().take(MAX_SIGNATURES).collect();
        let mut charter = charter(&founders, Preset::Standard);
        charter.parameters.deliberation = Some(presets::deliberation());
        charter.parameters.budgets.entries_per_day = 100_000;
        charter.parameters.max_open_proposals = 100;
        charter.parameters.sponsors = 1;
        Self::begin(people, found(&founders, charter), founders.len())
    }

    fn told(self, admitted: usize) -> History {
        let Past { founding, entries, votes, now, .. } = self;
        History { founding, entries, admitted, votes, now }
    }

    fn begin(people: &'a [Person], founding: Founding, active: usize) -> Self {
        let coop = founding.coop();
        Self {
            logs: people.iter().map(|person| Writer::new(person, coop)).collect(),
            heads: Scope::ALL.map(|scope| (scope, genesis(scope, coop))).into(),
            active,
            people,
            founding,
            entries: Vec::new(),
            votes: Vec::new(),
            now: T0,
        }
    }

    fn add(&mut self, who: usize, at: UnixSeconds, body: Body) -> StatementId {
        let entry = self.logs[who].add(at, body);
        let id = entry.id();
        self.entries.push(entry);
        id
    }

    fn anchor(&mut self, who: usize, at: UnixSeconds, statement: &Statement) -> StatementId {
        let body = crate::body::Anchor { statement: statement.envelope().clone() };
        self.add(who, at, Body::Anchor(Box::new(body)))
    }

    fn another_model(&self) -> Action {
        let name = format!("model-{}", self.entries.len());
        Action::AddModelRelease(ModelRelease {
            uri: format!("https://models.example/{name}").parse().unwrap(),
            revision: "main".parse().unwrap(),
            manifest_digest: ManifestDigest(Digest::of(name.as_bytes())),
            quantization: "none".parse().unwrap(),
            license: "Apache-2.0".parse().unwrap(),
            engines: vec![],
            memory_bytes: None,
        })
    }

    fn proposal(&self, action: Action) -> Proposal {
        let parameters = self.founding.charter().parameters;
        let rules = self.founding.charter().classes[&action.class()];
        let opens_at = self.now.plus(rules.delay_seconds);
        let closes_at = opens_at.plus(rules.period_seconds);
        let eta = closes_at.plus(parameters.grace_seconds).plus(rules.timelock_seconds);
        Proposal {
            class: action.class(),
            scope: action.scope(),
            parent: self.heads[&action.scope()],
            membership: self.heads[&Scope::Membership],
            charter: Some(self.heads[&Scope::Charter]),
            action,
            opens_at,
            closes_at,
            eta,
            expires_at: eta.plus(parameters.enact_window_seconds),
            term: 0,
            subject: None,
            interested: BTreeSet::<MemberId>::new(),
            title: "A change".parse().unwrap(),
            text: "It is small and good enough.".parse().unwrap(),
        }
    }

    fn decide(&mut self, action: Action, until: Until) {
        let coop = self.founding.coop();
        let author = (self.entries.len() / 7) % self.active;
        let proposal = self.proposal(action);
        let (scope, membership_head) = (proposal.scope, proposal.membership);
        let (closes_at, eta, grace) =
            (proposal.closes_at, proposal.eta, self.founding.charter().parameters.grace_seconds);
        let voted_at = proposal.opens_at.plus(Seconds(60));
        let statement = self.people[author].human(coop, self.now, Body::Proposal(Box::new(proposal)));
        let on = statement.id();
        self.anchor(author, self.now, &statement);
        let mut boxed = BTreeSet::new();
        for who in 0..self.active {
            let vote = Vote { proposal: on, choice: Choice::Yes, vseq: 0, ground: None, reason: None };
            let vote = self.people[who].human(coop, voted_at, Body::Vote(vote));
            boxed.insert(self.anchor(who, voted_at, &vote));
            self.votes.push(vote);
        }
        if until == Until::Voted {
            self.now = self.now.plus(Seconds(1));
            return;
        }
        let everybody = 0..self.active;
        let offered_at = closes_at.plus(grace);
        let offer = |past: &mut Self, who| {
            past.add(who, offered_at, Body::BoxOffer(BoxOffer { proposal: on, entries: boxed.clone() }))
        };
        let offers: BTreeSet<StatementId> = everybody.clone().map(|who| offer(self, who)).collect();
        let slot = Slot { scope, parent: self.heads[&scope], term: 0 };
        let root = merkle::root(&boxed);
        let seal = CloseSeal {
            proposal: on,
            round: 0,
            root,
            count: boxed.len() as u32,
            membership_head,
            outcome: Outcome::Passed,
            closed_at: closes_at,
            basis: Some(Basis { slot, offers }),
        };
        for who in everybody.clone() {
            self.add(who, offered_at.plus(grace), Body::CloseSeal(seal.clone()));
        }
        let version = version_hash(scope, slot.parent, on, root);
        for who in everybody {
            self.add(who, eta, Body::EnactSeal(EnactSeal { slot, proposal: on, root, version }));
        }
        self.heads.insert(scope, version);
        self.now = eta.plus(Seconds(60));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decision_of_a_past_is_in_force() {
        let past = history(18, 150, Until::Enacted);
        let (commons, refused) = Commons::load(past.founding, Limits::default(), past.entries);
        assert!(refused.is_empty());
        let made: usize = Scope::ALL.iter().map(|scope| commons.state().chain(*scope).len() - 1).sum();
        assert_eq!((made, commons.state().active().count()), (commons.state().proposals().len(), 18));
    }
}
