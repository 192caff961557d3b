//! Prints what this code signs as JSON, for `e2e/vectors/check.py` to verify with an independent implementation:
//! one statement of every sort, and the logs of three operators that decide something together.

use std::collections::BTreeMap;

use koinon_core::body::challenge_report::{ChallengeReport, Outcome};
use koinon_core::body::charter::Preset;
use koinon_core::body::latest::{GuestsMode, NetworkPolicyState};
use koinon_core::body::proposal::{Action, Choice, Leave, Vote};
use koinon_core::body::{Anchor, Beacon, Body, Grants, ModelRelease, Offer, Requests};
use koinon_core::dsse::Signer as _;
use koinon_core::ids::{Digest, ManifestDigest, Seconds, Seq, StatementId, UnixMicros, UnixSeconds};
use koinon_core::log::Limits;
use koinon_core::policy::Commons;
use koinon_core::sealing::{self, Circumstances};
use koinon_core::statement::{Draft, Position, Statement};
use koinon_core::testkit::{Person, T0, charter, found, person};

type Failure = Box<dyn std::error::Error>;

/// Three operators that hear each other at once.
struct Trio {
    people: [Person; 3],
    commons: Vec<Commons>,
    now: UnixSeconds,
}

impl Trio {
    fn append(&mut self, who: usize, body: Body) -> Result<(), Failure> {
        let (person, commons) = (&self.people[who], &self.commons[who]);
        let position = commons.replica().next_position(&person.operator.public_key());
        let site = person.member.site.name.clone();
        let coop = Some(commons.founding().coop());
        let draft = Draft { coop, author: person.id(), site, issued_at: self.now, position, body };
        let entry = draft.sign(&person.operator, &[])?;
        for commons in &mut self.commons {
            commons.insert(entry.clone())?;
        }
        Ok(())
    }

    fn say(&mut self, who: usize, body: Body) -> Result<StatementId, Failure> {
        let coop = self.commons[who].founding().coop();
        let statement = self.people[who].human(coop, self.now, body);
        self.append(who, Body::Anchor(Box::new(Anchor { statement: statement.envelope().clone() })))?;
        Ok(statement.id())
    }

    fn seal(&mut self) -> Result<(), Failure> {
        for who in [0, 1, 2, 0, 1, 2] {
            let now = self.now;
            let circumstances = Circumstances { rules_shared: 1, ..Circumstances::good(now) };
            let next = sealing::next(self.commons[who].state(), &self.people[who].id(), &circumstances);
            for body in next.into_iter().take(1) {
                self.append(who, body)?;
            }
        }
        Ok(())
    }
}

fn release() -> Result<ModelRelease, Failure> {
    Ok(ModelRelease {
        uri: "https://models.example/tiny.gguf".parse()?,
        revision: "main".parse()?,
        manifest_digest: ManifestDigest(Digest::of(b"tiny")),
        quantization: "none".parse()?,
        license: "Apache-2.0".parse()?,
        engines: vec![],
        memory_bytes: None,
    })
}

fn latest(who: &Person, trio: &Trio, subject: &str, to: &str, body: Body) -> Result<Statement, Failure> {
    let not_after = trio.now.plus(Seconds(60));
    let position = Position::Latest { subject: subject.parse()?, seq: Seq(7), to: to.parse()?, not_after };
    let (coop, site) = (Some(trio.commons[0].founding().coop()), who.member.site.name.clone());
    let draft = Draft { coop, author: who.id(), site, issued_at: trio.now, position, body };
    Ok(draft.sign(&who.operator, &[])?)
}

fn main() -> Result<(), Failure> {
    let people = ["aarhus", "bilbao", "cork"].map(person);
    let founders: Vec<&Person> = people.iter().collect();
    let founding = found(&founders, charter(&founders, Preset::Trial));
    let commons = vec![Commons::new(founding.clone(), Limits::default()); 3];
    let mut trio = Trio { people, commons, now: T0 };

    let title = "Approve tiny — für alle".parse()?;
    let draft =
        trio.commons[0].state().draft_proposal(Action::AddModelRelease(release()?), title, "Why not.".parse()?, T0);
    let proposal = trio.say(0, Body::Proposal(Box::new(draft.ok_or("the class has no rules")?)))?;
    for who in 0..3 {
        trio.now = trio.now.plus(Seconds(1));
        let vote = Vote { proposal, choice: Choice::Yes, vseq: 0, ground: None, reason: None };
        trio.say(who, Body::Vote(vote))?;
    }
    trio.seal()?;
    trio.now = trio.now.plus(Seconds(1));
    trio.say(2, Body::Leave(Leave::default()))?;
    trio.seal()?;

    let beacon = Beacon {
        heads: trio.commons[0].replica().heads(),
        policy: trio.commons[0].state().heads().into_iter().map(|(scope, head)| (scope.to_string(), head)).collect(),
        rules_supported: vec![1],
        clock_micros: UnixMicros(trio.now.0 * 1_000_000),
    };
    let offer = Offer {
        classes: vec![],
        guests: GuestsMode::Accept,
        network_policy: NetworkPolicyState::Enforced,
        weights: vec![],
        gateway: vec![],
        jurisdiction: "ES".parse()?,
    };
    let report = ChallengeReport {
        host: "cork".parse()?,
        class: "h100-80".parse()?,
        rules: Digest::of(b"rules"),
        devices: 8,
        began: UnixMicros(trio.now.0 * 1_000_000),
        ended: UnixMicros(trio.now.0 * 1_000_000 + 30_000_000),
        outcome: Outcome::Unanswered { why: "it has no 8 GPUs free on one node".to_owned() },
    };
    let bilbao = &trio.people[1];
    let statements = [
        founding.statement().clone(),
        person("delft").application(founding.coop(), trio.now),
        latest(bilbao, &trio, "beacon", "*", Body::Beacon(Box::new(beacon)))?,
        latest(bilbao, &trio, "challenge/0", "*", Body::Challenge(Box::new(report)))?,
        latest(bilbao, &trio, "offer", "*", Body::Offer(Box::new(offer)))?,
        latest(bilbao, &trio, "requests/cork", "cork", Body::Requests(Box::<Requests>::default()))?,
        latest(bilbao, &trio, "grants/cork", "cork", Body::Grants(Box::<Grants>::default()))?,
    ];
    let replica = trio.commons[0].replica();
    let logs: BTreeMap<String, Vec<_>> = replica
        .logs()
        .map(|(log, _)| (log.to_string(), replica.entries(log).map(|e| e.statement.envelope().clone()).collect()))
        .collect();
    let state = trio.commons[0].state();
    let ids: Vec<StatementId> = statements.iter().map(Statement::id).collect();
    let envelopes: Vec<_> = statements.iter().map(|s| s.envelope().clone()).collect();
    let made = serde_json::json!({
        "coop": founding.coop(), "statements": envelopes, "ids": ids, "logs": logs, "proposal": proposal,
        "root": state.proposals()[&proposal].ballot.root, "heads": state.heads(),
        "active": state.active().map(|m| m.id.clone()).collect::<Vec<_>>(),
    });
    println!("{made:#}");
    Ok(())
}
