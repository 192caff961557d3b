use koinon_core::body::Vote;
use koinon_core::body::proposal::{Action, Choice, RemoveEngine};
use koinon_core::ids::CoopId;
use koinon_core::policy::{KeyProblem, Verdict};
use koinon_core::statement::Statement;
use koinon_core::testkit::person;

use super::*;
use crate::cluster::Membership;
use crate::fixture::{World, recovery};

const FOUR: [&str; 4] = ["aarhus", "bilbao", "cork", "delft"];

fn update(world: &World, who: usize, new: &SeedSigner, signers: &[&SeedSigner]) -> Statement {
    let set = in_force(world.state(), &world.people[who].id()).unwrap();
    let next = next_set(set, Some(world.people[who].governance.public_key()), &[], new.public_key());
    say::signed(&membership(world, who), Body::KeyUpdate(next), signers).unwrap()
}

fn membership(world: &World, who: usize) -> Membership {
    let coop: CoopId = world.commons[0].founding().coop();
    crate::fixture::membership(coop, &world.people[who])
}

#[test]
fn a_rotated_key_votes_and_the_old_one_no_longer_does() {
    let mut world = World::new(&FOUR);
    let id = world.propose(1, Action::RemoveEngine(RemoveEngine { name: "vllm".parse().unwrap() }));
    world.vote(0, id, Choice::Yes, 0);
    let new = person("aarhus-next").governance;
    let old = world.people[0].governance.public_key();
    let statement = update(&world, 0, &new, &[&world.people[0].governance, &new]);
    say::check(world.state(), &membership(&world, 0), &statement).unwrap();
    world.anchor(0, &statement);
    let set = in_force(world.state(), &world.people[0].id()).unwrap();
    assert_eq!(
        (set.number, set.governance.contains(&new.public_key()), set.governance.contains(&old)),
        (1, true, false)
    );
    let late = world.vote(0, id, Choice::No, 1);
    assert_eq!(world.state().vote(&late).unwrap().1.verdict, Verdict::WrongKeyRole);
    world.people[0].governance = new;
    let again = Vote { proposal: id, choice: Choice::No, vseq: 2, ground: None, reason: None };
    let again = world.say(0, Body::Vote(again));
    assert_eq!(world.state().vote(&again).unwrap().1.verdict, Verdict::Counted);
}

#[test]
fn an_update_that_only_one_of_the_two_signs_is_refused_before_it_is_applied() {
    let world = World::new(&FOUR);
    let new = person("aarhus-next").governance;
    let (old, me) = (&world.people[0].governance, membership(&world, 0));
    let unproved = say::check(world.state(), &me, &update(&world, 0, &new, &[old])).unwrap_err().to_string();
    assert!(unproved.contains("has not signed too"), "{unproved}");
    let theirs = say::check(world.state(), &me, &update(&world, 0, &new, &[&new])).unwrap_err().to_string();
    assert!(theirs.contains(&KeyProblem::NotAllowed.to_string()) && theirs.contains("fix: "), "{theirs}");
    let recovered = update(&world, 0, &new, &[&recovery(&world.people[0]), &new]);
    say::check(world.state(), &me, &recovered).unwrap();
}

#[test]
fn the_keys_of_other_people_stay_and_a_key_is_dropped_by_name() {
    let [mine, hers, new] = ["mine", "hers", "new"].map(|name| person(name).governance.public_key());
    let set = KeySet { number: 4, governance: [mine, hers].into(), retired: Default::default() };
    let next = next_set(&set, Some(mine), &[], new);
    assert_eq!((next.number, next.governance.clone()), (5, vec![hers, new]));
    assert_eq!(next_set(&set, Some(mine), &[hers], new).governance, [new]);
    assert_eq!(next_set(&set, None, &[], new).governance.len(), 3, "with the recovery keys nothing is dropped unasked");
    let shown = diff(&set, &next);
    for line in [format!("- {mine}\n"), format!("  {hers}\n"), format!("+ {new}\n")] {
        assert!(shown.contains(&line), "{line:?} is not in {shown}");
    }
}

#[test]
fn the_files_change_places_and_none_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let files = Files { present: path("governance.pem"), next: path("governance.next.pem") };
    for turn in 1..=2 {
        let old = std::fs::read(&files.present).unwrap_or_default();
        let new = keyfile::create(&files.next, Protection::Plain).unwrap();
        files.change_places().unwrap();
        assert_eq!(keyfile::read(&files.present).unwrap().public_key(), new.public_key());
        assert!(!files.next.exists());
        if turn > 1 {
            assert_eq!(std::fs::read(path("governance.old-1.pem")).unwrap(), old);
        }
    }
}
