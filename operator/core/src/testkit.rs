//! Members, keys and statements for tests; the only random thing about them is what a test asks for.

// A fixed name that does not parse is a mistake in the test itself.
#![allow(clippy::unwrap_used)]

pub mod history;

use crate::body::Body;
use crate::body::charter::{Charter, Preset};
use crate::body::member::{Endpoints, Member, MemberKeys, Site};
use crate::dsse::{Envelope, SeedSigner, Signer};
use crate::founding::Founding;
use crate::ids::{CoopId, Digest, MemberId, Seq, UnixSeconds};
use crate::presets;
use crate::statement::{Draft, Position, Statement};

/// The moment at which tests begin.
pub const T0: UnixSeconds = UnixSeconds(1_795_000_000);

/// A member with its keys at hand.
pub struct Person {
    /// How the charter describes it.
    pub member: Member,
    /// Its people's key.
    pub governance: SeedSigner,
    /// Its machine's key.
    pub operator: SeedSigner,
}

/// The member `name`; its keys follow from the name.
pub fn person(name: &str) -> Person {
    let seed = |role: &str| crate::ids::Digest::of(format!("{name}/{role}").as_bytes()).0;
    let governance = SeedSigner::from_seed(&seed("governance"));
    let operator = SeedSigner::from_seed(&seed("operator"));
    let member = Member {
        id: name.parse().unwrap(),
        owner: format!("{name} Datacenter Ltd").parse().unwrap(),
        control_group: name.parse().unwrap(),
        site: Site {
            name: "main".parse().unwrap(),
            region: "eu-south".parse().unwrap(),
            jurisdiction: "ES".parse().unwrap(),
        },
        keys: MemberKeys {
            recovery: vec![SeedSigner::from_seed(&seed("recovery")).public_key()],
            governance: vec![governance.public_key()],
            operator: operator.public_key(),
        },
        endpoints: Endpoints {
            peer: vec![format!("https://{name}.example:7443").parse().unwrap()],
            gateway: vec![format!("https://{name}.example:7444").parse().unwrap()],
        },
    };
    Person { member, governance, operator }
}

impl Person {
    /// The member's id.
    pub fn id(&self) -> MemberId {
        self.member.id.clone()
    }

    fn draft(&self, coop: Option<CoopId>, at: UnixSeconds, position: Position, body: Body) -> Draft {
        Draft { coop, author: self.id(), site: self.member.site.name.clone(), issued_at: at, position, body }
    }

    /// A human statement that is not signed yet.
    pub fn draft_for_tests(&self, coop: CoopId, body: Body) -> Draft {
        self.draft(Some(coop), T0, Position::Human, body)
    }

    /// Signs `body` with the governance key.
    pub fn human(&self, coop: CoopId, at: UnixSeconds, body: Body) -> Statement {
        self.draft(Some(coop), at, Position::Human, body).sign(&self.governance, &[]).unwrap()
    }

    /// An application to `coop`, signed by both keys.
    pub fn application(&self, coop: CoopId, at: UnixSeconds) -> Statement {
        let body = Body::Application(Box::new(crate::body::Application { member: self.member.clone() }));
        self.draft(Some(coop), at, Position::Human, body).sign(&self.governance, &[&self.operator]).unwrap()
    }

    /// An entry of the operator's log of a kind, or by rules, that no release knows yet.
    pub fn of_the_future(
        &self,
        coop: CoopId,
        at: UnixSeconds,
        (seq, prev): (u64, Digest),
        kind: &str,
        rules: u32,
    ) -> Statement {
        let log = self.operator.public_key();
        let payload = serde_json::json!({
            "coop": coop, "author": self.id(), "site": self.member.site.name, "key": log, "kind": kind, "rules": rules,
            "issuedAt": at, "log": log, "seq": seq, "prev": prev, "body": {"what": "nobody knows"},
        });
        let bytes = serde_json::to_vec(&payload).unwrap();
        let kind = format!("application/vnd.koinon.{kind}.v1+json");
        Statement::verify(Envelope::sign(&kind, &bytes, &self.operator)).unwrap()
    }

    /// Signs `body` as an entry of the operator's log.
    pub fn entry(&self, coop: CoopId, at: UnixSeconds, seq: u64, prev: crate::ids::Digest, body: Body) -> Statement {
        self.draft(Some(coop), at, Position::Log { seq: Seq(seq), prev }, body).sign(&self.operator, &[]).unwrap()
    }
}

/// The log of one person's operator, as it grows.
pub struct Writer<'a> {
    /// Whose.
    pub who: &'a Person,
    /// The entries so far.
    pub entries: Vec<Statement>,
    coop: CoopId,
}

impl<'a> Writer<'a> {
    /// An empty log.
    pub fn new(who: &'a Person, coop: CoopId) -> Self {
        Self { who, entries: Vec::new(), coop }
    }

    /// Adds an entry with `body`.
    pub fn add(&mut self, at: UnixSeconds, body: Body) -> Statement {
        let prev = self.entries.last().map_or(self.coop.0, |e| e.id().0);
        let entry = self.who.entry(self.coop, at, self.entries.len() as u64, prev, body);
        self.entries.push(entry.clone());
        entry
    }

    /// Adds an anchor of `statement`.
    pub fn anchor(&mut self, at: UnixSeconds, statement: &Statement) -> Statement {
        self.add(at, Body::Anchor(Box::new(crate::body::Anchor { statement: statement.envelope().clone() })))
    }

    /// Adds an entry without any effect; different notes make different entries.
    pub fn note(&mut self, at: UnixSeconds, note: u64) -> Statement {
        let id = crate::ids::StatementId(crate::ids::Digest::of(&note.to_le_bytes()));
        let log = self.who.operator.public_key();
        let body = crate::body::Evidence { log, seq: Seq(note), first: id, second: id, envelopes: vec![] };
        self.add(at, Body::Evidence(Box::new(body)))
    }

    /// The same log cut back to its first `len` entries, as a restored backup would have it.
    pub fn restored(&self, len: usize) -> Self {
        Self { who: self.who, entries: self.entries[..len].to_vec(), coop: self.coop }
    }
}

/// The expulsion of `member` for something that a document shows.
pub fn expel(member: MemberId) -> crate::body::Action {
    let text = "What the meters showed".parse().unwrap();
    let document = crate::body::Document { digest: crate::ids::Digest::of(b"meters"), text };
    let evidence = vec![crate::body::EvidenceRef::Document(document)];
    crate::body::Action::Expel(crate::body::proposal::Expel { member, evidence, appeal: None })
}

/// A charter of `people`.
pub fn charter(people: &[&Person], preset: Preset) -> Charter {
    Charter {
        name: "Iberian league".parse().unwrap(),
        preset,
        founders: people.iter().map(|p| p.member.clone()).collect(),
        parameters: presets::parameters(preset),
        classes: presets::classes(preset),
        releases: vec![],
        engines: vec![],
    }
}

/// The founding of `charter`, signed by all of `people`.
pub fn found(people: &[&Person], charter: Charter) -> Founding {
    let co: Vec<&dyn Signer> = people[1..].iter().map(|p| &p.governance as &dyn Signer).collect();
    let statement = people[0]
        .draft(None, T0, Position::Human, Body::Charter(Box::new(charter)))
        .sign(&people[0].governance, &co)
        .unwrap();
    Founding::verify(statement.envelope().clone()).unwrap()
}
