//! Operators of a cooperative for tests: each with its own log, and a wire between them.

use koinon_core::body::charter::{Charter, Preset};
use koinon_core::body::proposal::{Action, Choice, Ground, Vote};
use koinon_core::body::{Anchor, Body, Reply};
use koinon_core::dsse::SeedSigner;
use koinon_core::ids::{CoopId, Digest, Seconds, StatementId, UnixSeconds};
use koinon_core::log::Limits;
use koinon_core::policy::{Commons, State};
use koinon_core::presets;
use koinon_core::sealing::{self, Circumstances};
use koinon_core::statement::{Draft, Statement};
use koinon_core::testkit::{Person, T0, charter, found, person};

use crate::cluster::Membership;

pub struct World {
    pub people: Vec<Person>,
    pub commons: Vec<Commons>,
    pub now: UnixSeconds,
    /// The first so many operators act; the others are cut off.
    pub acting: usize,
}

impl World {
    /// A cooperative of rules 2 in which a vote is open for an hour at once, with a minute's grace.
    pub fn new(names: &[&str]) -> Self {
        Self::with(names, |_| ())
    }

    pub fn with(names: &[&str], edit: impl Fn(&mut Charter)) -> Self {
        let people: Vec<Person> = names.iter().map(|name| person(name)).collect();
        let everybody: Vec<&Person> = people.iter().collect();
        let mut charter = charter(&everybody, Preset::Trial);
        charter.parameters.deliberation = Some(presets::deliberation());
        charter.parameters.grace_seconds = Seconds(60);
        charter.parameters.close_when_all_voted = false;
        charter.classes.values_mut().for_each(|rules| rules.period_seconds = Seconds(3600));
        edit(&mut charter);
        let founding = found(&everybody, charter);
        let commons: Vec<Commons> = people.iter().map(|_| Commons::new(founding.clone(), Limits::default())).collect();
        let acting = people.len();
        Self { people, commons, now: T0, acting }
    }

    pub fn state(&self) -> &State {
        self.commons[0].state()
    }

    fn append(&mut self, who: usize, body: Body) {
        let person = &self.people[who];
        let position = self.commons[who].replica().next_position(&person.member.keys.operator);
        let draft = Draft {
            coop: Some(self.commons[0].founding().coop()),
            author: person.id(),
            site: person.member.site.name.clone(),
            issued_at: self.now,
            position,
            body,
        };
        let entry = draft.sign(&person.operator, &[]).unwrap();
        self.commons[who].insert(entry).unwrap();
    }

    /// Signed by the person, anchored by its operator, whether it counts or not, and told to the others.
    pub fn say(&mut self, who: usize, body: Body) -> StatementId {
        let statement = self.people[who].human(self.commons[0].founding().coop(), self.now, body);
        self.anchor(who, &statement);
        statement.id()
    }

    pub fn anchor(&mut self, who: usize, statement: &Statement) {
        self.append(who, Body::Anchor(Box::new(Anchor { statement: statement.envelope().clone() })));
        self.sync();
    }

    pub fn propose(&mut self, who: usize, action: Action) -> StatementId {
        let title = "A change".parse().unwrap();
        let body = self.state().draft_proposal(action, title, Default::default(), self.now).unwrap();
        self.say(who, Body::Proposal(Box::new(body)))
    }

    pub fn vote(&mut self, who: usize, proposal: StatementId, choice: Choice, vseq: u32) -> StatementId {
        let ground = (choice == Choice::Veto).then_some(Ground::Legal);
        let reason = Some("as agreed".parse().unwrap());
        self.say(who, Body::Vote(Vote { proposal, choice, vseq, ground, reason }))
    }

    /// Two entries at one position of its log, told to everybody.
    pub fn fork(&mut self, who: usize) {
        let (person, coop) = (&self.people[who], self.commons[0].founding().coop());
        let position = self.commons[who].replica().next_position(&person.member.keys.operator);
        for branch in ["one", "two"] {
            let text = branch.parse().unwrap();
            let said =
                person.human(coop, self.now, Body::Reply(Reply { proposal: StatementId(Digest::of(b"")), text }));
            let draft = Draft {
                coop: Some(coop),
                author: person.id(),
                site: person.member.site.name.clone(),
                issued_at: self.now,
                position: position.clone(),
                body: Body::Anchor(Box::new(Anchor { statement: said.envelope().clone() })),
            };
            let entry = draft.sign(&person.operator, &[]).unwrap();
            self.commons.iter_mut().for_each(|commons| assert!(commons.insert_all([entry.clone()]).is_empty()));
        }
    }

    pub fn sync(&mut self) {
        loop {
            let mut moved = false;
            for reader in 0..self.acting {
                for author in 0..self.acting {
                    let heads = self.commons[author].replica().heads();
                    for range in self.commons[reader].replica().wants(&heads) {
                        let entries = self.commons[author].replica().range(&range.log, range.from, 1000);
                        moved |= !entries.is_empty();
                        self.commons[reader].insert_all(entries.iter().map(|e| (**e).clone()));
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Operators sign whatever they sign by now.
    pub fn settle(&mut self) {
        loop {
            self.sync();
            let mut any = false;
            for who in 0..self.acting {
                let circumstances = Circumstances::good(self.now);
                let me = self.people[who].id();
                if let Some(body) = sealing::next(self.commons[who].state(), &me, &circumstances).into_iter().next() {
                    self.append(who, body);
                    any = true;
                }
            }
            if !any {
                return;
            }
        }
    }

    pub fn wait(&mut self, seconds: i64) {
        self.now = self.now.plus(Seconds(seconds));
        self.settle();
    }
}

/// The membership of one of them, as its cluster would tell it.
pub fn membership(coop: CoopId, person: &Person) -> Membership {
    let spec = serde_json::json!({"id": coop.to_string(), "member": person.id().as_str(),
        "site": {"name": "main", "region": "eu-north", "jurisdiction": "DK"}});
    let resource = koinon_api::Cooperative::new("cooperative", serde_json::from_value(spec).unwrap());
    Membership { resource, coop, member: person.id(), site: person.member.site.name.clone() }
}

/// A person's recovery key, which the testkit makes of its name.
pub fn recovery(person: &Person) -> SeedSigner {
    SeedSigner::from_seed(&Digest::of(format!("{}/recovery", person.id()).as_bytes()).0)
}
