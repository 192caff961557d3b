use koinon_core::body::proposal::Choice;
use koinon_core::body::{Document, EvidenceRef};
use koinon_core::ids::{Digest, Seconds};
use koinon_core::testkit::expel;

use super::*;
use crate::fixture::World;

fn appeal(proposal: StatementId, of: &str) -> Appeal {
    let document = Document { digest: Digest::of(of.as_bytes()), text: "What the meters showed".parse().unwrap() };
    Appeal { proposal, evidence: vec![EvidenceRef::Document(document)], text: Prose::default() }
}

#[test]
fn only_the_member_that_it_is_about_replies() {
    let mut world = World::new(&["aarhus", "bilbao", "cork", "delft"]);
    let id = world.propose(0, expel(world.people[3].id()));
    assert!(may_reply(world.state(), &world.people[3].id(), id).is_ok());
    let other = may_reply(world.state(), &world.people[1].id(), id).unwrap_err().to_string();
    assert!(other.contains("about delft, which alone replies"), "{other}");
}

#[test]
fn an_appeal_that_would_not_be_heard_says_which_condition_fails() {
    let mut world = World::with(&["aarhus", "bilbao", "cork", "delft"], |charter| {
        charter.classes.values_mut().for_each(|rules| rules.timelock_seconds = Seconds(1800));
    });
    let id = world.propose(0, expel(world.people[3].id()));
    let may = |world: &World, who: usize, appeal: &Appeal| {
        may_appeal(world.state(), &world.people[who].id(), appeal, world.now).map_err(|error| error.to_string())
    };
    assert!(may(&world, 1, &appeal(id, "new")).unwrap_err().contains("about delft, which alone appeals"));
    assert!(may(&world, 3, &appeal(id, "meters")).unwrap_err().contains("needs something new"));
    assert!(may(&world, 3, &appeal(id, "new")).unwrap_err().contains("kubectl koinon reply"));
    world.settle();
    for who in 0..3 {
        world.vote(who, id, Choice::Yes, 0);
    }
    [3600, 60, 60].into_iter().for_each(|seconds| world.wait(seconds));
    assert_eq!(may(&world, 3, &appeal(id, "new")), Ok(()));
    let made = world.say(3, Body::Appeal(appeal(id, "new")));
    assert!(may(&world, 3, &appeal(id, "newer")).unwrap_err().contains(&format!("appealed already ({made})")));
}

#[test]
fn a_side_is_read_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("side.txt");
    std::fs::write(&path, "It was the meter.\nHere is why.\n").unwrap();
    let side = Side { text: None, text_file: Some(path) };
    assert_eq!(side.read().unwrap().unwrap().as_str(), "It was the meter.\nHere is why.");
}
