//! A small cooperative whose members are on one or two sides of a cut.

use koinon_core::body::{Anchor, Body};
use koinon_core::dsse::{Envelope, SeedSigner, Signer as _};
use koinon_core::ids::{Digest, MemberId, Seconds, Seq, StatementId, UnixSeconds};
use koinon_core::log::Limits;
use koinon_core::policy::{Commons, State};
use koinon_core::recovery::resumed_at;
use koinon_core::sealing::{self, Circumstances, Promises};
use koinon_core::statement::{Draft, Position, Statement};
use koinon_core::testkit::{Person, T0, found};

use crate::charters;
use crate::random::Random;

/// Names of members; those that did not found it may come later.
pub const NAMES: [&str; 9] = ["aarhus", "bilbao", "cork", "delft", "espoo", "faro", "ghent", "hvar", "izola"];

pub struct World {
    pub random: Random,
    pub people: Vec<Person>,
    /// What each side of a cut holds; one where there is no cut.
    sides: Vec<Commons>,
    side_of: Vec<usize>,
    pub now: UnixSeconds,
    pub proposals: Vec<StatementId>,
    /// Whose log has a second branch already.
    pub forked: Vec<usize>,
    /// What these members tend to say.
    pub mood: usize,
    /// Governance keys that were replaced, and whose they were.
    pub former: Vec<(usize, SeedSigner)>,
    /// Whoever holds all keys that a member had before it was given others.
    pub thieves: Vec<Person>,
    /// Everything that was signed by people, with its author: somebody may anchor it again.
    pub spoken: Vec<(usize, Statement)>,
    /// Whose operator is down: it seals and says nothing.
    pub silent: Vec<usize>,
    keys_made: usize,
}

/// A key that follows from a name.
pub fn key(name: &str) -> SeedSigner {
    SeedSigner::from_seed(&Digest::of(name.as_bytes()).0)
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (complete, many) = (!random.once_in(3), !random.once_in(3));
        let count = match (complete, many) {
            (true, true) => random.between(4, 7),
            _ => random.between(1, 3),
        };
        let mood = random.below(5);
        let mut people: Vec<Person> = NAMES.iter().take(count as usize).map(|name| charters::newcomer(name)).collect();
        if count > 2 && random.once_in(4) {
            // Two members of one owner have one vote.
            let group = people[0].member.control_group.clone();
            people[1].member.control_group = group;
        }
        for person in people.iter_mut().filter(|_| random.once_in(3)) {
            let name = person.id();
            let more = [2, 3].map(|n| key(&format!("{name}/recovery/{n}")).public_key());
            person.member.keys.recovery.extend(more);
        }
        let founders: Vec<&Person> = people.iter().collect();
        let charter = charters::charter(&mut random, &founders, complete);
        let founding = found(&founders, charter);
        let commons = Commons::new(founding, Limits::default());
        let side_of = vec![0; people.len()];
        Self {
            random,
            people,
            sides: vec![commons],
            side_of,
            now: T0,
            proposals: Vec::new(),
            forked: Vec::new(),
            mood,
            former: Vec::new(),
            thieves: Vec::new(),
            spoken: Vec::new(),
            silent: Vec::new(),
            keys_made: 0,
        }
    }

    pub fn commons(&self, who: usize) -> &Commons {
        &self.sides[self.side_of[who].min(self.sides.len() - 1)]
    }

    pub fn state(&self, who: usize) -> &State {
        self.commons(who).state()
    }

    pub fn anybody(&mut self) -> usize {
        self.random.below(self.people.len())
    }

    pub fn id(&self, who: usize) -> MemberId {
        self.people[who].id()
    }

    /// The side of `who` takes an entry.
    pub fn take(&mut self, who: usize, entry: Statement) {
        let side = self.side_of[who].min(self.sides.len() - 1);
        // What is refused here is no part of this history.
        let _ = self.sides[side].insert(entry);
    }

    pub fn draft(&self, who: usize, position: Position, body: Body) -> Draft {
        let person = &self.people[who];
        let (coop, site) = (Some(self.commons(who).founding().coop()), person.member.site.name.clone());
        Draft { coop, author: person.id(), site, issued_at: self.now, position, body }
    }

    pub fn append(&mut self, who: usize, body: Body) -> Option<Statement> {
        let position = self.commons(who).replica().next_position(&self.people[who].operator.public_key());
        let entry = self.draft(who, position, body).sign(&self.people[who].operator, &[]).ok()?;
        self.take(who, entry.clone());
        Some(entry)
    }

    /// Appends whatever payload the operator of `who` signs.
    pub fn append_payload(&mut self, who: usize, payload_type: &str, payload: &[u8]) {
        let envelope = Envelope::sign(payload_type, payload, &self.people[who].operator);
        if let Ok(entry) = Statement::verify(envelope) {
            self.take(who, entry);
        }
    }

    /// A key that nobody has had.
    pub fn new_key(&mut self) -> SeedSigner {
        self.keys_made += 1;
        key(&format!("key {}", self.keys_made))
    }

    /// The keys with which `who` takes others back: one, or three of which two are needed; once in a while too few of them.
    pub fn recovery(&mut self, who: usize) -> Vec<SeedSigner> {
        let name = self.people[who].id();
        let mut keys = vec![key(&format!("{name}/recovery"))];
        if self.people[who].member.keys.recovery.len() > 1 && !self.random.once_in(4) {
            keys.push(key(&format!("{name}/recovery/2")));
        }
        keys
    }

    /// Whoever holds the keys that somebody had before writes on in the log that was replaced.
    pub fn append_as_thief(&mut self, thief: usize, body: Body) {
        let Some(person) = self.thieves.get(thief) else { return };
        let Some(who) = self.people.iter().position(|known| known.id() == person.id()) else { return };
        let position = self.commons(who).replica().next_position(&person.operator.public_key());
        if let Ok(entry) = self.draft(who, position, body).sign(&person.operator, &[]) {
            self.take(who, entry);
        }
    }

    pub fn anchor(&mut self, who: usize, statement: &Statement) {
        if self.spoken.len() < 200 {
            self.spoken.push((who, statement.clone()));
        }
        self.append(who, Body::Anchor(Box::new(Anchor { statement: statement.envelope().clone() })));
    }

    /// `who` says it and its operator anchors it, whatever it may be worth.
    pub fn say(&mut self, who: usize, body: Body) -> Option<StatementId> {
        let statement = self.draft(who, Position::Human, body).sign(&self.people[who].governance, &[]).ok()?;
        self.anchor(who, &statement);
        Some(statement.id())
    }

    pub fn circumstances(&self, who: usize, promises: Promises) -> Circumstances {
        let resumed_at = resumed_at(self.commons(who).replica(), &self.people[who].operator.public_key());
        Circumstances { resumed_at, promises, ..Circumstances::good(self.now) }
    }

    pub fn next_seals(&self, who: usize, promises: Promises) -> Vec<Body> {
        sealing::next(self.state(who), &self.id(who), &self.circumstances(who, promises))
    }

    /// Signs what `who` would sign now.
    pub fn seal(&mut self, who: usize) -> bool {
        let mut any = false;
        if self.silent.contains(&who) {
            return false;
        }
        // A member signs a handful at a time; what is beyond its day's budget has no effect, so that it would never end.
        for _ in 0..12 {
            let log = self.people[who].operator.public_key();
            if self.commons(who).replica().budget_left(&log, self.now).entries == 0 {
                break;
            }
            let Some(body) = self.next_seals(who, Promises::KEPT).into_iter().next() else { break };
            any |= self.append(who, body).is_some();
        }
        any
    }

    /// Operators seal until nothing moves.
    pub fn settle(&mut self) {
        for _ in 0..6 {
            let sealed = (0..self.people.len()).filter(|who| self.seal(*who)).count();
            if sealed == 0 {
                return;
            }
        }
    }

    /// From now on two sides hear only themselves.
    pub fn cut(&mut self) {
        if self.sides.len() == 1 {
            self.sides.push(self.sides[0].clone());
            for who in 0..self.people.len() {
                self.side_of[who] = self.random.below(2);
            }
        }
    }

    pub fn mend(&mut self) {
        if self.sides.len() < 2 {
            return;
        }
        let Some(other) = self.sides.pop() else { return };
        let replica = other.replica();
        let entries: Vec<Statement> = replica
            .logs()
            .flat_map(|(log, _)| replica.range(log, Seq(0), usize::MAX))
            .map(|entry| (*entry).clone())
            .collect();
        self.sides[0].insert_all(entries);
        self.side_of.iter_mut().for_each(|side| *side = 0);
    }

    pub fn wait(&mut self, seconds: i64) {
        self.now = self.now.plus(Seconds(seconds));
    }

    /// Somebody whose admission is being decided has an operator too.
    pub fn welcome(&mut self, person: Person) {
        self.people.push(person);
        self.side_of.push(0);
    }
}
