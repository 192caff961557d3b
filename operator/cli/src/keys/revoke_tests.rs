use koinon_core::body::proposal::{Action, Choice, RemoveEngine};
use koinon_core::ids::Seconds;
use koinon_core::policy::Verdict;
use koinon_core::testkit::T0;

use super::*;
use crate::fixture::{World, membership, recovery};
use crate::keyfile::{self, Protection};

fn revocation(world: &World, since: Since) -> KeyRevocation {
    let keys = &world.people[0].member.keys;
    KeyRevocation {
        key: keys.governance[0],
        log: keys.operator,
        since_seq: position(&world.commons[0], &keys.operator, since),
    }
}

#[test]
fn a_time_and_a_position_name_where_it_begins() {
    assert_eq!(since("7"), Ok(Since::Position(Seq(7))));
    assert_eq!(since("1970-01-01T00:01:00Z"), Ok(Since::Time(UnixSeconds(60))));
    assert!(since("yesterday").unwrap_err().contains("2026-11-20T08:00:00Z"));
    let mut world = World::new(&["aarhus", "bilbao", "cork"]);
    let id = world.propose(0, Action::RemoveEngine(RemoveEngine { name: "vllm".parse().unwrap() }));
    world.now = T0.plus(Seconds(100));
    world.vote(0, id, Choice::Yes, 0);
    let at = |after: i64| revocation(&world, Since::Time(T0.plus(Seconds(after)))).since_seq;
    assert_eq!([at(0), at(1), at(100), at(101)], [Seq(0), Seq(1), Seq(1), Seq(2)]);
}

#[test]
fn a_revocation_shows_the_votes_that_it_voids_and_voids_them() {
    let mut world = World::new(&["aarhus", "bilbao", "cork"]);
    let id = world.propose(1, Action::RemoveEngine(RemoveEngine { name: "vllm".parse().unwrap() }));
    let vote = world.vote(0, id, Choice::Yes, 0);
    let revocation = revocation(&world, Since::Position(Seq(0)));
    let text = effect(&world.commons[0], &world.people[0].id(), &revocation, true, world.now);
    assert!(text.contains("yes on \"A change\" (Open): void") && text.contains("the only governance key"), "{text}");
    let me = membership(world.commons[0].founding().coop(), &world.people[0]);
    let body = Body::KeyRevocation(revocation);
    let stolen = say::signed(&me, body.clone(), &[&world.people[0].governance]).unwrap();
    let refused = say::check(world.state(), &me, &stolen).unwrap_err().to_string();
    assert!(refused.contains("more than half of the recovery keys"), "{refused}");
    let statement = say::signed(&me, body, &[&recovery(&world.people[0])]).unwrap();
    say::check(world.state(), &me, &statement).unwrap();
    world.anchor(0, &statement);
    assert_eq!(world.state().vote(&vote).unwrap().1.verdict, Verdict::Revoked);
}

#[test]
fn recovery_keys_sign_a_file_in_turn_and_nothing_else_than_keys() {
    let world = World::new(&["aarhus", "bilbao", "cork"]);
    let dir = tempfile::tempdir().unwrap();
    let (path, second) = (dir.path().join("revoke.yaml"), dir.path().join("second.pem"));
    let me = membership(world.commons[0].founding().coop(), &world.people[0]);
    let write = |body: Body| {
        let statement = say::signed(&me, body, &[&recovery(&world.people[0])]).unwrap();
        let value = serde_json::to_value(say::resource(&statement, "koinon-system").unwrap()).unwrap();
        std::fs::write(&path, serde_yaml::to_string(&value).unwrap()).unwrap();
    };
    write(Body::KeyRevocation(revocation(&world, Since::Position(Seq(0)))));
    let second = keyfile::create(&second, Protection::Plain).unwrap();
    add_signature(&path, &second).unwrap();
    let signed: Resource = read_yaml(&path, "a Statement").unwrap();
    let statement = Statement::verify(to_core(&signed.spec.envelope).unwrap()).unwrap();
    assert_eq!(statement.signers().count(), 2);
    assert!(statement.signers().any(|key| *key == second.public_key()));
    write(Body::Leave(koinon_core::body::Leave::default()));
    let refused = add_signature(&path, &second).unwrap_err().to_string();
    assert!(refused.contains("holds a leave"), "{refused}");
}
