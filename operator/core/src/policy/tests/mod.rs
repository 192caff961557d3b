//! The cooperative decides: several operators, each with its own replica, exchange entries and seal.

mod again;
mod checkpoint;
mod complete;
mod cooldown;
mod decisions;
mod disorder;
mod emergency;
mod hearing;
mod keys;
mod liars;
mod members;
mod quarantine;
mod recall;
mod reference;
mod remembered;
mod said;
mod shown;
mod standing;
mod versions;
mod votes;
mod work;

use super::*;
use crate::body::charter::{Charter, Preset};
use crate::body::proposal::{Action, Choice, Vote, WithdrawModelRelease};
use crate::body::{Anchor, Body};
use crate::founding::Founding;
use crate::ids::{Digest, Seconds};
use crate::log::Limits;
use crate::sealing::{self, Arrivals, Circumstances, Promises};
use crate::statement::{Draft, Statement};
use crate::testkit::{Person, T0, charter, found, person};

/// The operators of a cooperative and the wire between them.
pub(crate) struct World {
    pub people: Vec<Person>,
    pub commons: Vec<Commons>,
    pub now: UnixSeconds,
    /// Operators that are down or cut off: they neither act nor hear.
    pub cut: BTreeSet<usize>,
    pub isolated: BTreeSet<usize>,
    /// What a quorum's beacons say that it can decide by.
    pub rules_shared: u32,
    /// Operators whose release knows no rules but the first.
    pub old: BTreeSet<usize>,
    /// Of every operator since it started.
    arrivals: BTreeMap<usize, Arrivals>,
}

impl World {
    pub fn new(names: &[&str], preset: Preset) -> Self {
        Self::with(names, preset, |_| ())
    }

    pub fn with(names: &[&str], preset: Preset, edit: impl Fn(&mut Charter)) -> Self {
        let people: Vec<Person> = names.iter().map(|name| person(name)).collect();
        let everybody: Vec<&Person> = people.iter().collect();
        let mut charter = charter(&everybody, preset);
        edit(&mut charter);
        let founding = found(&everybody, charter);
        let commons: Vec<Commons> = people.iter().map(|_| Commons::new(founding.clone(), Limits::default())).collect();
        let arrivals = commons.iter().map(|commons| Arrivals::starting(commons.state())).enumerate().collect();
        Self {
            people,
            commons,
            now: T0,
            cut: BTreeSet::new(),
            isolated: BTreeSet::new(),
            rules_shared: 2,
            old: BTreeSet::new(),
            arrivals,
        }
    }

    pub fn founding(&self) -> Founding {
        self.commons[0].founding().clone()
    }

    pub fn coop(&self) -> CoopId {
        self.commons[0].founding().coop()
    }

    pub fn state(&self, who: usize) -> &State {
        self.commons[who].state()
    }

    pub fn log(&self, who: usize) -> PublicKey {
        self.people[who].member.keys.operator
    }

    /// Appends an entry to the log of `who`.
    pub fn append(&mut self, who: usize, body: Body) -> Statement {
        let person = &self.people[who];
        let position = self.commons[who].replica().next_position(&person.member.keys.operator);
        let draft = Draft {
            coop: Some(self.coop()),
            author: person.id(),
            site: person.member.site.name.clone(),
            issued_at: self.now,
            position,
            body,
        };
        let entry = draft.sign(&person.operator, &[]).unwrap();
        self.take(who, [entry.clone()]);
        entry
    }

    /// `who` reads entries as its release does.
    pub fn take(&mut self, who: usize, entries: impl IntoIterator<Item = Statement>) {
        let known = if self.old.contains(&who) { 1 } else { 2 };
        let refused = self.commons[who].insert_all(entries.into_iter().map(|entry| entry.as_read_by(known)));
        assert!(refused.is_empty() || !self.old.contains(&who), "{refused:?}");
        let state = self.commons[who].state();
        self.arrivals.entry(who).or_insert_with(|| Arrivals::starting(state)).note(state, self.now);
    }

    pub fn anchor(&mut self, who: usize, statement: &Statement) -> Statement {
        self.append(who, Body::Anchor(Box::new(Anchor { statement: statement.envelope().clone() })))
    }

    /// `who` signs `body` as a person and its operator anchors it, if it agrees.
    pub fn say(&mut self, who: usize, body: Body) -> Result<StatementId, NotAnchored> {
        let statement = self.people[who].human(self.coop(), self.now, body);
        let me = self.people[who].id();
        match self.commons[who].anchoring(&me, &self.log(who), &statement, self.now) {
            Anchoring::Anchor => {
                self.anchor(who, &statement);
                Ok(statement.id())
            }
            Anchoring::Already { .. } => Ok(statement.id()),
            Anchoring::Refuse(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    pub fn propose(&mut self, who: usize, action: Action) -> StatementId {
        let title = "A change".parse().unwrap();
        let proposal = self.state(who).draft_proposal(action, title, Default::default(), self.now).unwrap();
        self.say(who, Body::Proposal(Box::new(proposal))).unwrap()
    }

    pub fn vote(
        &mut self,
        who: usize,
        proposal: StatementId,
        choice: Choice,
        vseq: u32,
    ) -> Result<StatementId, NotAnchored> {
        let ground = (choice == Choice::Veto).then_some(crate::body::proposal::Ground::Legal);
        self.say(who, Body::Vote(Vote { proposal, choice, vseq, ground, reason: None }))
    }

    pub fn all_yes(&mut self, proposal: StatementId) {
        for who in 0..self.people.len() {
            self.vote(who, proposal, Choice::Yes, 0).unwrap();
        }
    }

    /// Everybody that is not cut off asks everybody else for what it lacks, until nobody does.
    pub fn sync(&mut self) {
        loop {
            let mut moved = false;
            for reader in 0..self.commons.len() {
                for author in 0..self.commons.len() {
                    if reader == author || self.cut.contains(&reader) || self.cut.contains(&author) {
                        continue;
                    }
                    let heads = self.commons[author].replica().heads();
                    for range in self.commons[reader].replica().wants(&heads) {
                        let entries = self.commons[author].replica().range(&range.log, range.from, 1000);
                        moved |= !entries.is_empty();
                        // What travels is what was signed, whatever who passes it on makes of it.
                        let again = self.old.contains(&author);
                        let signed = entries.iter().map(|e| match again {
                            true => Statement::verify(e.envelope().clone()).unwrap(),
                            false => (**e).clone(),
                        });
                        self.take(reader, signed.collect::<Vec<_>>());
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    pub fn circumstances(&self, who: usize) -> Circumstances {
        let log = self.log(who);
        Circumstances {
            now: self.now,
            isolated: self.isolated.contains(&who),
            clock_in_tolerance: true,
            resumed_at: crate::recovery::resumed_at(self.commons[who].replica(), &log),
            rules_shared: self.rules_shared,
            promises: Promises::KEPT,
            late: self.arrivals.get(&who).map(|arrivals| arrivals.late().clone()).unwrap_or_default(),
        }
    }

    /// Signs what `who` would sign now; says whether there was anything.
    pub fn seal(&mut self, who: usize) -> bool {
        let me = self.people[who].id();
        let mut any = false;
        while let Some(body) = sealing::next(self.state(who), &me, &self.circumstances(who)).into_iter().next() {
            self.append(who, body);
            any = true;
        }
        any
    }

    /// Entries travel and operators seal until nothing moves any more.
    pub fn settle(&mut self) {
        loop {
            self.sync();
            let acting: Vec<usize> = (0..self.commons.len()).filter(|who| !self.cut.contains(who)).collect();
            let sealed = acting.into_iter().filter(|who| self.seal(*who)).count();
            if sealed == 0 {
                self.sync();
                return;
            }
        }
    }

    pub fn wait(&mut self, seconds: i64) {
        self.now = self.now.plus(Seconds(seconds));
    }

    pub fn phase(&self, who: usize, proposal: StatementId) -> Phase {
        let state = self.state(who);
        state.phase(&state.proposals()[&proposal], self.now)
    }

    pub fn phases(&self, proposal: StatementId) -> Vec<&'static str> {
        (0..self.commons.len()).map(|who| self.phase(who, proposal).name()).collect()
    }

    pub fn verdict(&self, who: usize, vote: StatementId) -> Verdict {
        self.state(who).vote(&vote).unwrap().1.verdict
    }
}

pub(crate) fn release(name: &str) -> ModelRelease {
    ModelRelease {
        uri: format!("https://models.example/{name}").parse().unwrap(),
        revision: "main".parse().unwrap(),
        manifest_digest: ManifestDigest(Digest::of(name.as_bytes())),
        quantization: "none".parse().unwrap(),
        license: "Apache-2.0".parse().unwrap(),
        engines: vec![],
        memory_bytes: None,
    }
}

pub(crate) fn approve(name: &str) -> Action {
    Action::AddModelRelease(release(name))
}

pub(crate) fn withdraw(name: &str) -> Action {
    Action::WithdrawModelRelease(WithdrawModelRelease { manifest_digest: release(name).manifest_digest })
}

pub(crate) const THREE: [&str; 3] = ["aarhus", "bilbao", "cork"];
