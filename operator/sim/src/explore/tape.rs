//! What members have said after the start: a tree of log endings, and the statements that they are.
//!
//! Signing and verifying are dear, so a statement is made once for each (log, ending); two members that have said the
//! same share an ending, which is what makes interchangeable members look alike.

use std::collections::HashMap;
use std::sync::Arc;

use koinon_core::body::Body;
use koinon_core::ids::{CoopId, Digest, StatementId, UnixSeconds};
use koinon_core::statement::Statement;
use koinon_core::testkit::Person;

/// How a log goes on after the start. The first few are the beginnings: nothing said yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Said(u32);

#[derive(Debug)]
struct Last {
    before: Said,
    at: UnixSeconds,
    body: Arc<Body>,
}

/// See the module.
pub(crate) struct Tape<'a> {
    people: &'a [Person],
    coop: CoopId,
    /// The logs at the start.
    base: &'a [Vec<Statement>],
    beginnings: u32,
    ends: Vec<Last>,
    known: HashMap<(Said, UnixSeconds, String), Said>,
    signed: HashMap<(usize, Said), Arc<Statement>>,
    /// Every statement that was made, by its id.
    by_id: HashMap<StatementId, Arc<Statement>>,
}

impl<'a> Tape<'a> {
    /// An empty tape with a beginning for each of `classes` classes of members.
    pub fn new(people: &'a [Person], coop: CoopId, base: &'a [Vec<Statement>], classes: usize) -> Self {
        let by_id = base.iter().flatten().map(|s| (s.id(), Arc::new(s.clone()))).collect();
        let beginnings = u32::try_from(classes).unwrap_or(u32::MAX);
        Self { people, coop, base, beginnings, ends: Vec::new(), known: HashMap::new(), signed: HashMap::new(), by_id }
    }

    /// The log of a member of `class` that has said nothing yet.
    pub fn beginning(class: usize) -> Said {
        Said(u32::try_from(class).unwrap_or(u32::MAX))
    }

    fn last(&self, said: Said) -> Option<&Last> {
        said.0.checked_sub(self.beginnings).and_then(|index| self.ends.get(index as usize))
    }

    /// What was said before the last entry; none at the beginning.
    pub fn before(&self, said: Said) -> Option<Said> {
        self.last(said).map(|last| last.before)
    }

    /// What was said last.
    pub fn last_body(&self, said: Said) -> Option<Arc<Body>> {
        self.last(said).map(|last| Arc::clone(&last.body))
    }

    /// The log that goes on with `body`.
    pub fn then(&mut self, said: Said, at: UnixSeconds, body: &Body) -> Said {
        let key = (said, at, body.to_json().unwrap_or_default().to_string());
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let next = Said(self.beginnings + u32::try_from(self.ends.len()).unwrap_or(u32::MAX));
        self.ends.push(Last { before: said, at, body: Arc::new(body.clone()) });
        self.known.insert(key, next);
        next
    }

    /// Everything said, the first thing first.
    pub fn bodies(&self, said: Said) -> Vec<(UnixSeconds, Arc<Body>)> {
        let mut all = Vec::new();
        let mut at = said;
        while let Some(last) = self.last(at) {
            all.push((last.at, Arc::clone(&last.body)));
            at = last.before;
        }
        all.reverse();
        all
    }

    /// How much was said.
    pub fn len(&self, said: Said) -> usize {
        let mut count = 0;
        let mut at = said;
        while let Some(last) = self.last(at) {
            count += 1;
            at = last.before;
        }
        count
    }

    /// The entries that `member` has signed if this is how its log goes on.
    pub fn statements(&mut self, member: usize, said: Said) -> Vec<Arc<Statement>> {
        let Some(last) = self.last(said) else { return Vec::new() };
        let (before, at, body) = (last.before, last.at, Arc::clone(&last.body));
        let mut all = self.statements(member, before);
        let statement = match self.signed.get(&(member, said)) {
            Some(known) => Arc::clone(known),
            None => {
                let previous = all.last().map(|s| s.id()).or_else(|| self.base[member].last().map(Statement::id));
                let seq = (self.base[member].len() + all.len()) as u64;
                let prev = previous.map_or(self.coop.0, |id| Digest(id.0.0));
                let made = Arc::new(self.people[member].entry(self.coop, at, seq, prev, (*body).clone()));
                self.signed.insert((member, said), Arc::clone(&made));
                self.by_id.insert(made.id(), Arc::clone(&made));
                made
            }
        };
        all.push(statement);
        all
    }

    /// A statement that was made.
    pub fn get(&self, id: &StatementId) -> Option<&Statement> {
        self.by_id.get(id).map(AsRef::as_ref)
    }
}
