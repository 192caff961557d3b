//! A cooperative under attack: every member's operator with its own replica, and who hears whom.

use std::collections::BTreeSet;

use koinon_core::body::catalogue::ModelRelease;
use koinon_core::body::charter::{Charter, Preset};
use koinon_core::body::proposal::{Action, Choice, Ground, Vote};
use koinon_core::body::{Anchor, Body};
use koinon_core::dsse::{SeedSigner, Signer};
use koinon_core::founding::Founding;
use koinon_core::ids::{CoopId, Digest, ManifestDigest, MemberId, PublicKey, Seconds, Seq, StatementId, UnixSeconds};
use koinon_core::log::Limits;
use koinon_core::policy::{Anchoring, Commons, NotAnchored, Phase, State, Verdict};
use koinon_core::presets;
use koinon_core::recovery::resumed_at;
use koinon_core::sealing::{self, Arrivals, Circumstances};
use koinon_core::statement::{Draft, Position, Statement};
use koinon_core::testkit::{Person, T0, charter, found, person};

pub const FOUR: [&str; 4] = ["aarhus", "bilbao", "cork", "delft"];
pub const HOUR: i64 = 3600;

pub struct World {
    pub people: Vec<Person>,
    pub commons: Vec<Commons>,
    pub now: UnixSeconds,
    /// How far each operator's clock is off.
    pub clocks: Vec<i64>,
    /// Operators that are down or cut off.
    pub cut: BTreeSet<usize>,
    /// (server, author): the server hides the author's log.
    pub hides: BTreeSet<(usize, usize)>,
    arrivals: Vec<Arrivals>,
}

impl World {
    /// By the rules of real owners, with votes that open at once.
    pub fn new(names: &[&str]) -> Self {
        Self::with(names, Preset::Standard, |_| ())
    }

    pub fn with(names: &[&str], preset: Preset, edit: impl Fn(&mut Charter)) -> Self {
        let people: Vec<Person> = names.iter().map(|name| person(name)).collect();
        let everybody: Vec<&Person> = people.iter().collect();
        let mut charter = charter(&everybody, preset);
        charter.parameters.deliberation = Some(presets::deliberation());
        charter.parameters.sponsors = 1;
        charter.classes.values_mut().for_each(|rules| rules.delay_seconds = Seconds(0));
        edit(&mut charter);
        let founding = found(&everybody, charter);
        let commons: Vec<Commons> = people.iter().map(|_| Commons::new(founding.clone(), Limits::default())).collect();
        let clocks = vec![0; people.len()];
        let arrivals = commons.iter().map(|commons| Arrivals::starting(commons.state())).collect();
        Self { people, commons, now: T0, clocks, cut: BTreeSet::new(), hides: BTreeSet::new(), arrivals }
    }

    pub fn founding(&self) -> Founding {
        self.commons[0].founding().clone()
    }

    pub fn coop(&self) -> CoopId {
        self.commons[0].founding().coop()
    }

    pub fn id(&self, who: usize) -> MemberId {
        self.people[who].id()
    }

    pub fn log(&self, who: usize) -> PublicKey {
        self.people[who].member.keys.operator
    }

    pub fn state(&self, who: usize) -> &State {
        self.commons[who].state()
    }

    pub fn clock(&self, who: usize) -> UnixSeconds {
        self.now.plus(Seconds(self.clocks[who]))
    }

    /// What a person of `who` says, with whatever keys.
    pub fn signed(&self, who: usize, body: Body, signers: &[&dyn Signer]) -> Statement {
        self.dated(who, self.now, body, signers)
    }

    pub fn dated(&self, who: usize, at: UnixSeconds, body: Body, signers: &[&dyn Signer]) -> Statement {
        let draft = Draft { issued_at: at, ..self.people[who].draft_for_tests(self.coop(), body) };
        draft.sign(signers[0], &signers[1..]).unwrap()
    }

    pub fn entry(&self, who: usize, position: Position, body: Body) -> Statement {
        let person = &self.people[who];
        let (coop, site) = (Some(self.coop()), person.member.site.name.clone());
        let draft = Draft { coop, author: person.id(), site, issued_at: self.clock(who), position, body };
        draft.sign(&person.operator, &[]).unwrap()
    }

    pub fn append(&mut self, who: usize, body: Body) -> Statement {
        let position = self.commons[who].replica().next_position(&self.log(who));
        let entry = self.entry(who, position, body);
        self.commons[who].insert(entry.clone()).unwrap();
        let now = self.clock(who);
        self.arrivals[who].note(self.commons[who].state(), now);
        entry
    }

    /// Its operator gives a statement a place without asking whether it counts.
    pub fn force(&mut self, who: usize, statement: &Statement) -> Statement {
        self.append(who, Body::Anchor(Box::new(Anchor { statement: statement.envelope().clone() })))
    }

    /// A person of `who` says it, and its operator anchors it if it agrees.
    pub fn say(&mut self, who: usize, body: Body) -> Result<StatementId, NotAnchored> {
        let statement = self.people[who].human(self.coop(), self.now, body);
        match self.commons[who].anchoring(&self.id(who), &self.log(who), &statement, self.clock(who)) {
            Anchoring::Refuse(error) => Err(error),
            _ => {
                self.force(who, &statement);
                Ok(statement.id())
            }
        }
    }

    pub fn propose(&mut self, who: usize, action: Action) -> StatementId {
        let title = "A change".parse().unwrap();
        let draft = self.state(who).draft_proposal(action, title, Default::default(), self.now).unwrap();
        let proposal = self.say(who, Body::Proposal(Box::new(draft))).unwrap();
        self.sync();
        proposal
    }

    pub fn vote(&mut self, who: usize, proposal: StatementId, choice: Choice) -> Result<StatementId, NotAnchored> {
        self.say(who, vote(proposal, choice, 0))
    }

    pub fn votes(&mut self, whose: &[usize], proposal: StatementId, choice: Choice) {
        for who in whose {
            self.vote(*who, proposal, choice).unwrap();
        }
    }

    /// Everybody asks everybody else for what it lacks, until nobody does.
    pub fn sync(&mut self) {
        let all = self.commons.len();
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for (reader, server) in (0..all).flat_map(|reader| (0..all).map(move |server| (reader, server))) {
                if reader == server || self.cut.contains(&reader) || self.cut.contains(&server) {
                    continue;
                }
                let mut heads = self.commons[server].replica().heads();
                for author in (0..all).filter(|author| self.hides.contains(&(server, *author))) {
                    heads.remove(&self.log(author));
                }
                for range in self.commons[reader].replica().wants(&heads) {
                    let entries = self.commons[server].replica().range(&range.log, range.from, 1_000);
                    moved |= !entries.is_empty();
                    self.commons[reader].insert_all(entries);
                    let now = self.clock(reader);
                    self.arrivals[reader].note(self.commons[reader].state(), now);
                }
            }
        }
    }

    pub fn circumstances(&self, who: usize) -> Circumstances {
        let tolerance = self.state(who).parameters().clock_tolerance_seconds.0;
        Circumstances {
            clock_in_tolerance: self.clocks[who].abs() <= tolerance,
            resumed_at: resumed_at(self.commons[who].replica(), &self.log(who)),
            late: self.arrivals[who].late().clone(),
            ..Circumstances::good(self.clock(who))
        }
    }

    pub fn seal(&mut self, who: usize) -> bool {
        let mut any = false;
        while let Some(body) =
            sealing::next(self.state(who), &self.id(who), &self.circumstances(who)).into_iter().next()
        {
            self.append(who, body);
            any = true;
        }
        any
    }

    /// Entries travel and operators seal until nothing moves any more.
    pub fn settle(&mut self) {
        self.sync();
        let acting: Vec<usize> = (0..self.commons.len()).filter(|who| !self.cut.contains(who)).collect();
        while acting.iter().filter(|who| self.seal(**who)).count() > 0 {
            self.sync();
        }
    }

    pub fn wait(&mut self, hours: &[i64]) {
        for hours in hours {
            self.now = self.now.plus(Seconds(hours * HOUR));
            self.settle();
        }
    }

    /// Over the close and both graces of a class with three days, and its timelock of one.
    pub fn decide(&mut self) {
        self.wait(&[0, 73, 1, 24]);
    }

    pub fn phase(&self, who: usize, proposal: StatementId) -> Phase {
        self.state(who).phase(&self.state(who).proposals()[&proposal], self.now)
    }

    pub fn phases(&self, proposal: StatementId) -> Vec<&'static str> {
        (0..self.commons.len()).map(|who| self.phase(who, proposal).name()).collect()
    }

    pub fn verdict(&self, who: usize, vote: StatementId) -> Verdict {
        self.state(who).vote(&vote).unwrap().1.verdict
    }

    /// (yes, no) of a proposal.
    pub fn count(&self, who: usize, proposal: StatementId) -> (u32, u32) {
        let counts = self.state(who).proposals()[&proposal].ballot.tally.counts;
        (counts.yes, counts.no)
    }

    pub fn may_work(&self, of: usize) -> Vec<bool> {
        (0..self.commons.len()).map(|who| self.state(who).may_work(&self.id(of), self.now)).collect()
    }

    pub fn entries(&self, who: usize) -> Vec<Statement> {
        let replica = self.commons[who].replica();
        let all = replica.logs().flat_map(|(log, _)| replica.range(log, Seq(0), 10_000));
        all.map(|entry| (*entry).clone()).collect()
    }
}

pub fn vote(proposal: StatementId, choice: Choice, vseq: u32) -> Body {
    let ground = (choice == Choice::Veto).then_some(Ground::Legal);
    Body::Vote(Vote { proposal, choice, vseq, ground, reason: None })
}

pub fn approve(name: &str) -> Action {
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

/// A key that follows from a name.
pub fn key(name: &str) -> SeedSigner {
    SeedSigner::from_seed(&Digest::of(name.as_bytes()).0)
}
