use koinon_core::body::proposal::{Choice, Scope};
use koinon_core::body::{Appeal, Body, Reply};
use koinon_core::dsse::Signer as _;
use koinon_core::ids::Seconds;
use koinon_core::policy::Phase;
use koinon_core::testkit::{expel as expel_for_meters, person};

use super::*;
use crate::fixture::World;

const FOUR: [&str; 4] = ["aarhus", "bilbao", "cork", "delft"];

fn cork() -> MemberId {
    "cork".parse().unwrap()
}

fn entry(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

#[test]
fn nobody_can_be_named_who_is_no_member() {
    let world = World::new(&FOUR);
    let suspend = |name: &str| MemberCommand::Suspend { member: name.parse().unwrap() }.action(world.state());
    assert!(suspend("corc").unwrap_err().to_string().contains("corc is no member: see kubectl koinon members"));
    assert!(matches!(suspend("cork").unwrap(), Action::Suspend(_)));
}

#[test]
fn an_expulsion_says_what_it_is_for() {
    let world = World::new(&FOUR);
    let command =
        |evidence: &[String]| MemberCommand::Expel { member: cork(), evidence: evidence.to_vec(), appeal: None };
    let bare = command(&[]).action(world.state()).unwrap_err().to_string();
    assert!(bare.contains("--evidence") && bare.contains("FILE:TEXT"), "{bare}");
    let Action::Expel(expel) = command(&[entry("a"), format!("{}:meters", entry("b"))]).action(world.state()).unwrap()
    else {
        panic!("no expulsion")
    };
    assert_eq!((expel.evidence.len(), expel.appeal), (2, None));
}

#[test]
fn a_second_vote_names_the_appeal_and_rests_on_the_same_case() {
    let mut world = World::with(&FOUR, |charter| {
        charter.classes.values_mut().for_each(|rules| rules.timelock_seconds = Seconds(1800));
    });
    let id = world.propose(0, expel_for_meters(cork()));
    world.settle();
    world.say(2, Body::Reply(Reply { proposal: id, text: "It was the meter.".parse().unwrap() }));
    for who in [0, 1, 3] {
        world.vote(who, id, Choice::Yes, 0);
    }
    [3600, 60, 60].into_iter().for_each(|seconds| world.wait(seconds));
    let second = |world: &World, wanted: &str| {
        MemberCommand::Expel { member: cork(), evidence: vec![], appeal: Some(wanted.to_owned()) }.action(world.state())
    };
    assert!(second(&world, "sha256:").unwrap_err().to_string().contains("cork has made no appeal sha256: that counts"));
    let evidence = vec![EvidenceRef::Entry(StatementId(Digest::of(b"a new meter")))];
    let appeal = world.say(2, Body::Appeal(Appeal { proposal: id, evidence, text: Default::default() }));
    assert_eq!(world.state().phase(&world.state().proposals()[&id], world.now), Phase::Appealed { by: appeal });
    let action = second(&world, &appeal.to_string()[..20]).unwrap();
    let Action::Expel(expel) = &action else { panic!("no expulsion") };
    assert_eq!((expel.appeal, expel.evidence.len()), (Some(appeal), 1));
    let again = world.propose(0, action);
    assert_eq!(world.state().proposals()[&again].invalid, None);
    assert_eq!(world.state().proposals()[&again].proposal.scope, Scope::Membership);
}

#[test]
fn nothing_is_lifted_where_nothing_is_proved() {
    let world = World::new(&FOUR);
    let lift = MemberCommand::LiftQuarantine { member: cork(), proof: vec![] };
    assert!(lift.action(world.state()).unwrap_err().to_string().contains("no proof stands against cork"));
}

#[test]
fn all_proofs_are_lifted_or_those_that_are_named_and_the_diff_shows_them() {
    let mut world = World::new(&FOUR);
    world.fork(2);
    let proofs: Vec<Digest> = world.state().quarantined(&cork()).unwrap().keys().copied().collect();
    let lift = |proof: Vec<String>| MemberCommand::LiftQuarantine { member: cork(), proof }.action(world.state());
    let action = lift(vec![]).unwrap();
    assert_eq!(action, lift(vec![proofs[0].hex()[..8].to_owned()]).unwrap());
    assert!(format!("{:#}", lift(vec!["ffffffff".to_owned()]).unwrap_err()).contains("no proof ffffffff stands"));
    let title = "Let it work".parse().unwrap();
    let drafted = world.state().draft_proposal(action, title, Default::default(), world.now).unwrap();
    let text = crate::change::diff(world.state(), &drafted);
    assert!(text.contains(&format!("-quarantine:\n-- {}\n", proofs[0])), "{text}");
}

#[test]
fn a_member_on_probation_is_confirmed_and_shows_so() {
    let world = World::new(&FOUR);
    let action = MemberCommand::Confirm { member: cork() }.action(world.state()).unwrap();
    let body = world.state().draft_proposal(action, "t".parse().unwrap(), Default::default(), world.now).unwrap();
    let statement =
        world.people[0].human(world.commons[0].founding().coop(), world.now, Body::Proposal(Box::new(body)));
    let refused = crate::precheck::proposal(world.state(), &statement).unwrap_err().to_string();
    assert!(refused.contains("NotOnProbation") && refused.contains("fix: see this member's standing"), "{refused}");
}

#[test]
fn new_keys_are_proposed_once_their_holder_has_signed_with_them() {
    let world = World::new(&FOUR);
    let coop = world.commons[0].founding().coop();
    let dir = tempfile::tempdir().unwrap();
    let (keys, signed) = (dir.path().join("keys.yaml"), dir.path().join("reset.yaml"));
    let new = person("cork-anew");
    std::fs::write(&keys, serde_yaml::to_string(&new.member.keys).unwrap()).unwrap();
    let action = MemberCommand::ResetKeys { member: cork(), file: keys }.action(world.state()).unwrap();
    let body = world.state().draft_proposal(action, "t".parse().unwrap(), Default::default(), world.now).unwrap();
    let text = crate::change::before_signing(world.state(), &world.people[0].id(), &body);
    assert!(text.contains(&format!("+  operator: {}\n", new.operator.public_key())), "{text}");
    let statement = world.people[0].human(coop, world.now, Body::Proposal(Box::new(body)));
    let refused = crate::precheck::proposal(world.state(), &statement).unwrap_err();
    assert!(refused.lacks_proof() && refused.to_string().contains("--co-sign reset.yaml"), "{refused}");
    crate::propose::write_envelope(&signed, &statement).unwrap();
    let stranger = crate::propose::reset::add(&signed, &[person("nobody").operator]).unwrap_err().to_string();
    assert!(stranger.contains("is one of the new keys"), "{stranger}");
    let by = crate::propose::reset::add(&signed, &[new.governance, new.operator]).unwrap();
    assert_eq!(by.len(), 2);
    crate::precheck::proposal(world.state(), &crate::propose::read_signed(&signed).unwrap()).unwrap();
}
