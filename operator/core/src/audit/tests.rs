use std::collections::BTreeSet;

use super::*;
use crate::body::charter::Preset;
use crate::body::entry::LogResume;
use crate::body::proposal::{Action, Choice, RemoveEngine, Scope, Vote};
use crate::body::{Anchor, Body, Cause, Checkpoint, EmergencyOrder, EnactSeal, KeyUpdate, Slot, Stop};
use crate::dsse::Signer as _;
use crate::founding::Founding;
use crate::ids::{BoxRoot, Digest, PolicyHash, Seq, StatementId, UnixSeconds};
use crate::log::{ForkProof, Limits};
use crate::policy::Commons;
use crate::presets;
use crate::sealing::{self, Circumstances};
use crate::statement::{Draft, Statement};
use crate::testkit::history::decided;
use crate::testkit::{Person, T0, charter, found, person};

/// Operators that hear each other at once.
struct Cooperative {
    people: Vec<Person>,
    founding: Founding,
    commons: Commons,
}

impl Cooperative {
    fn new(names: &[&str]) -> Self {
        let people: Vec<Person> = names.iter().map(|name| person(name)).collect();
        let everybody: Vec<&Person> = people.iter().collect();
        let mut charter = charter(&everybody, Preset::Trial);
        charter.parameters.deliberation = (names.len() > 3).then(presets::deliberation);
        let founding = found(&everybody, charter);
        Self { people, commons: Commons::new(founding.clone(), Limits::default()), founding }
    }

    fn entry(&self, who: usize, body: Body) -> Statement {
        let person = &self.people[who];
        let position = self.commons.replica().next_position(&person.operator.public_key());
        let (coop, site) = (Some(self.founding.coop()), person.member.site.name.clone());
        let draft = Draft { coop, author: person.id(), site, issued_at: T0, position, body };
        draft.sign(&person.operator, &[]).unwrap()
    }

    fn append(&mut self, who: usize, body: Body) -> Statement {
        let entry = self.entry(who, body);
        self.commons.insert(entry.clone()).unwrap();
        entry
    }

    fn say(&mut self, who: usize, body: Body) -> StatementId {
        let statement = self.people[who].human(self.founding.coop(), T0, body);
        self.append(who, Body::Anchor(Box::new(Anchor { statement: statement.envelope().clone() })));
        statement.id()
    }

    fn decide(&mut self) -> StatementId {
        let remove = Action::RemoveEngine(RemoveEngine { name: "vllm".parse().unwrap() });
        let state = self.commons.state();
        let draft = state.draft_proposal(remove, "No vllm".parse().unwrap(), Default::default(), T0).unwrap();
        let proposal = self.say(0, Body::Proposal(Box::new(draft)));
        for who in 0..self.people.len() {
            self.say(who, Body::Vote(Vote { proposal, choice: Choice::Yes, vseq: 0, ground: None, reason: None }));
        }
        while self.seal() {}
        proposal
    }

    fn seal(&mut self) -> bool {
        let circumstances = Circumstances::good(T0);
        let next = (0..self.people.len()).find_map(|who| {
            let bodies = sealing::next(self.commons.state(), &self.people[who].id(), &circumstances);
            Some((who, bodies.into_iter().next()?))
        });
        next.map(|(who, body)| self.append(who, body)).is_some()
    }

    fn lines(&self) -> Vec<Line> {
        export(&self.commons, T0).collect()
    }
}

fn resumption(person: &Person) -> Body {
    Body::LogResume(LogResume { old_log: person.operator.public_key(), old_head: None })
}

fn written(lines: &[Line]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line.to_json(), b"\n".to_vec()].concat()).collect()
}

fn problem(lines: &[Line]) -> (u64, &'static str) {
    let finding = audit(&written(lines)).unwrap_err();
    (finding.line, finding.problem.category())
}

fn claims(lines: &mut [Line]) -> &mut Claims {
    let Some(Line::End(claims)) = lines.last_mut() else { panic!("a bundle ends with its claims") };
    claims
}

#[test]
fn an_outsider_concludes_from_the_file_what_the_members_did_with_who_voted_and_who_sealed() {
    for names in [&["aarhus", "bilbao", "cork"][..], &["aarhus", "bilbao", "cork", "delft"]] {
        let mut coop = Cooperative::new(names);
        let proposal = coop.decide();
        let report = audit(&written(&coop.lines())).unwrap();
        assert_eq!(report.heads, coop.commons.state().heads());
        let [decision] = &report.decisions[..] else { panic!("there is one decision") };
        assert_eq!((decision.child, decision.number), (proposal, 1));
        assert!(decision.close_seals.len() > names.len() / 2 && decision.enact_seals.len() > names.len() / 2);
        let told = report.proposal(&proposal).unwrap();
        assert_eq!(told.standing.phase, "Enacted");
        assert_eq!(told.votes.iter().filter(|vote| vote.verdict == "Counted").count(), names.len());
        assert!(canonical(&report).ends_with("holds\n"));
    }
}

#[test]
fn a_byte_changed_in_any_entry_is_found_in_that_line() {
    let mut coop = Cooperative::new(&["aarhus"]);
    coop.decide();
    let lines: Vec<Vec<u8>> = coop.lines().iter().map(Line::to_json).collect();
    for at in 1..lines.len() {
        for byte in (0..lines[at].len()).step_by(61) {
            let mut changed = lines.clone();
            changed[at][byte] ^= 1;
            let finding = audit(&changed.join(&b'\n')).unwrap_err();
            assert!(finding.line >= at as u64, "byte {byte} of line {at}: {finding}");
        }
    }
}

#[test]
fn a_history_without_its_end_is_found_by_the_heads_that_the_exporter_claims() {
    let mut coop = Cooperative::new(&["aarhus", "bilbao"]);
    coop.decide();
    let whole = coop.lines();
    let last = whole.len() as u64;
    // The enactment is gone: another policy is in force than claimed.
    let mut lines = whole.clone();
    lines.remove(whole.len() - 2);
    assert_eq!(problem(&lines), (last - 1, "WrongCount"));
    claims(&mut lines).entries -= 1;
    assert_eq!(problem(&lines), (last - 1, "PolicyHead"));
    claims(&mut lines).policy = Commons::new(coop.founding.clone(), Limits::NONE).state().heads();
    assert_eq!(problem(&lines), (last - 1, "LogHead"));
    assert_eq!(problem(&whole[..whole.len() - 1]), (last, "CutOff"));
    assert_eq!(problem(&[]), (1, "CutOff"));
}

#[test]
fn lines_out_of_their_place_twice_or_of_another_cooperative_are_found() {
    let mut coop = Cooperative::new(&["aarhus", "bilbao"]);
    coop.decide();
    let whole = coop.lines();
    let with = |change: &dyn Fn(&mut Vec<Line>)| {
        let mut lines = whole.clone();
        change(&mut lines);
        problem(&lines)
    };
    assert_eq!(with(&|lines| lines.swap(1, 2)), (2, "Gap"));
    assert_eq!(with(&|lines| lines.insert(2, lines[1].clone())), (3, "Repeated"));
    assert_eq!(with(&|lines| lines.swap(0, 1)), (1, "OutOfPlace"));
    assert_eq!(with(&|lines| lines.push(lines[1].clone())), (whole.len() as u64 + 1, "OutOfPlace"));
    let entry = |coop: &Cooperative, body| Line::Entry(Box::new(coop.entry(0, body).envelope().clone()));
    let other = Cooperative::new(&["aarhus"]);
    assert_eq!(with(&|lines| lines[1] = entry(&other, resumption(&other.people[0]))), (2, "OtherCooperative"));
    let beyond = Line::Founding(Box::new(Opening { format: 2, ..opening(&whole) }));
    assert_eq!(with(&|lines| lines[0] = beyond.clone()), (1, "OtherFormat"));
}

fn opening(lines: &[Line]) -> Opening {
    let Some(Line::Founding(opening)) = lines.first() else { panic!("a bundle begins with its founding") };
    (**opening).clone()
}

#[test]
fn a_log_that_is_nobodys_is_found() {
    let coop = Cooperative::new(&["aarhus"]);
    let stranger = person("nobody");
    let entry = stranger.entry(coop.founding.coop(), T0, 0, coop.founding.coop().0, resumption(&stranger));
    let mut lines = coop.lines();
    lines.insert(1, Line::Entry(Box::new(entry.envelope().clone())));
    claims(&mut lines).entries += 1;
    assert_eq!(problem(&lines), (2, "UnknownLog"));
}

#[test]
fn both_branches_of_a_fork_are_in_the_file_and_a_proof_without_them_is_found() {
    let mut coop = Cooperative::new(&["aarhus", "bilbao"]);
    let first = coop.entry(0, resumption(&coop.people[0]));
    let second = coop.entry(0, resumption(&coop.people[1]));
    let proof = ForkProof::of(&first, &second).unwrap();
    coop.append(1, Body::Evidence(Box::new(proof.to_evidence())));
    let lines = coop.lines();
    assert_eq!(claims(&mut lines.clone()).entries, 3);
    let report = audit(&written(&lines)).unwrap();
    assert_eq!(report.forks.iter().map(|fork| (fork.seq, fork.first)).collect::<Vec<_>>(), [(Seq(0), proof.first.0)]);
    let listed: BTreeSet<StatementId> = [first.id(), second.id()].into();
    let mut without: Vec<Line> = lines
        .into_iter()
        .filter(|line| match line {
            Line::Entry(entry) => !listed.contains(&StatementId(entry.payload_digest().unwrap())),
            _ => true,
        })
        .collect();
    claims(&mut without).entries = 1;
    assert_eq!(problem(&without).1, "Unlisted");
}

#[test]
fn a_third_branch_that_only_a_proof_shows_is_told_and_makes_nobody_s_file_wrong() {
    let mut coop = Cooperative::new(&["aarhus", "bilbao"]);
    let [first, second, third] = [0, 1, 2].map(|note| {
        let old_head =
            (note > 0).then_some(crate::body::entry::Head { seq: Seq(note), id: StatementId(Digest::of(b"x")) });
        coop.entry(0, Body::LogResume(LogResume { old_log: coop.people[0].operator.public_key(), old_head }))
    });
    for entry in [&first, &second] {
        coop.commons.insert(entry.clone()).unwrap();
    }
    // Bilbao was shown another one, and proves the fork by it.
    let proof = ForkProof::of(&second, &third).unwrap();
    coop.append(1, Body::Evidence(Box::new(proof.to_evidence())));
    let lines = coop.lines();
    let report = audit(&written(&lines)).unwrap();
    let told: Vec<(Seq, StatementId)> = report.branches.iter().map(|branch| (branch.seq, branch.entry)).collect();
    assert_eq!(told, [(Seq(0), third.id())]);
    assert!(canonical(&report).contains(&format!(
        "branch {} 0 {}\n",
        coop.people[0].operator.public_key(),
        third.id()
    )));
    // In the file itself it has no place.
    let mut more = lines;
    more.insert(3, Line::Entry(Box::new(third.envelope().clone())));
    claims(&mut more).entries += 1;
    assert_eq!(problem(&more), (4, "ThirdBranch"));
}

#[test]
fn rotations_orders_and_proofs_are_told_with_what_shows_them() {
    let mut coop = Cooperative::new(&["aarhus", "bilbao", "cork", "delft"]);
    let next = crate::dsse::SeedSigner::from_seed(&Digest::of(b"next").0);
    let update = KeyUpdate { number: 1, governance: vec![next.public_key()] };
    let update = coop.people[1].draft_for_tests(coop.founding.coop(), Body::KeyUpdate(update));
    let own = &coop.people[1].governance;
    let signed = [update.sign(&next, &[]).unwrap(), update.sign(own, &[&next]).unwrap()];
    for statement in signed {
        coop.append(1, Body::Anchor(Box::new(Anchor { statement: statement.envelope().clone() })));
    }
    let (membership, charter) =
        (coop.commons.state().head(Scope::Membership), coop.commons.state().head(Scope::Charter));
    let stop = Stop::Member(coop.people[3].id());
    let order = EmergencyOrder { stop, cause: Cause::Fraud, membership, charter, text: Default::default() };
    let order = coop.say(0, Body::EmergencyOrder(Box::new(order)));
    for name in [&b"one"[..], b"two"] {
        let (proposal, root) = (StatementId(Digest::of(name)), BoxRoot(Digest::of(name)));
        let slot = Slot { scope: Scope::Releases, parent: PolicyHash(Digest::of(b"any")), term: 0 };
        coop.append(3, Body::EnactSeal(EnactSeal { slot, proposal, root, version: PolicyHash(Digest::of(name)) }));
    }
    let report = audit(&written(&coop.lines())).unwrap();
    let keys: Vec<(&str, bool)> = report.keys.iter().map(|key| (key.verdict, key.why.is_some())).collect();
    assert_eq!(BTreeSet::from_iter(keys), BTreeSet::from([("NotAllowed", true), ("Holds", false)]));
    assert_eq!(report.members[1].governance, BTreeSet::from([next.public_key()]));
    let [told] = &report.orders[..] else { panic!("there is one order") };
    assert_eq!((told.id, told.owners, told.needed, told.standing), (order, 1, 2, OrderStanding::Short));
    let [proof] = &report.members[3].quarantine[..] else { panic!("there is one proof") };
    assert!(proof.offence.starts_with("enacted releases "));
}

#[test]
fn a_list_in_place_of_an_object_is_no_line() {
    let lines = Cooperative::new(&["aarhus"]).lines();
    let Line::End(end) = lines.last().unwrap() else { panic!("a bundle ends with its claims") };
    let text = serde_json::json!({ "end": [end.entries, end.policy, end.logs] }).to_string();
    let whole = [lines[0].to_json(), text.into_bytes()].join(&b'\n');
    assert_eq!(audit(&whole).unwrap_err().problem.category(), "BadLine");
}

#[test]
fn a_checkpoint_that_a_quorum_sealed_against_what_it_held_is_found() {
    let people = ["aarhus", "bilbao", "cork", "delft"].map(person);
    let everybody: Vec<&Person> = people.iter().collect();
    let remove = Action::RemoveEngine(RemoveEngine { name: "vllm".parse().unwrap() });
    let after = |more: Option<Action>| {
        let actions = [remove.clone()].into_iter().chain(more);
        decided(&people, charter(&everybody, Preset::Trial), actions)
    };
    let right = after(None).draft_checkpoint(UnixSeconds(i64::MAX)).unwrap();
    let audit = |checkpoint: Checkpoint| {
        let commons = after(Some(Action::Checkpoint(checkpoint)));
        assert_eq!(commons.state().checkpoints().count(), 1);
        let mut reader = Reader::new();
        export(&commons, T0).for_each(|line| reader.line(&line.to_json()).unwrap());
        reader.finish().map_err(|finding| finding.problem.category())
    };
    assert!(audit(right.clone()).is_ok());
    assert_eq!(audit(Checkpoint { state: Digest::of(b"something else"), ..right }).unwrap_err(), "Checkpoint");
}
