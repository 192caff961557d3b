//! Members of two releases in one cooperative.

use super::*;
use crate::body::Opaque;
use crate::body::proposal::SetRules;
use crate::presets;

/// Three members, of which the last `old` still run the release before.
fn three(old: usize) -> World {
    let mut world = World::new(&THREE, Preset::Trial);
    world.old = (3 - old..3).collect();
    advertise(&mut world);
    world
}

/// What beacons say: each of them what its release can.
fn advertise(world: &mut World) {
    let able = world.people.len() - world.old.len();
    world.rules_shared = if able >= world.state(0).quorum() { 2 } else { 1 };
}

fn upgrade(world: &mut World, who: usize) {
    world.old.remove(&who);
    let replica = world.commons[who].replica();
    let kept = replica.logs().flat_map(|(log, _)| replica.all(log));
    let kept: Vec<Statement> = kept.map(|e| Statement::verify(e.statement.envelope().clone()).unwrap()).collect();
    let (commons, refused) = Commons::load(world.founding(), Limits::default(), kept);
    assert!(refused.is_empty(), "{refused:?}");
    world.commons[who] = commons;
    advertise(world);
}

fn step(world: &mut World) -> StatementId {
    let step = SetRules { rules: 2, deliberation: presets::deliberation() };
    let step = world.propose(0, Action::SetRules(step));
    world.sync();
    step
}

fn vote_yes(world: &mut World, who: &[usize], proposal: StatementId) {
    for who in who {
        world.vote(*who, proposal, Choice::Yes, 0).unwrap();
    }
}

/// Until the box closes by its time, as somebody does not vote, and what follows from it.
fn pass_time(world: &mut World) {
    for seconds in [120, 1, 30, 30, 60] {
        world.settle();
        world.wait(seconds);
    }
    world.settle();
}

fn held(world: &World, who: usize) -> BTreeSet<StatementId> {
    let replica = world.commons[who].replica();
    replica.logs().flat_map(|(log, _)| replica.all(log)).map(|entry| entry.statement.id()).collect()
}

#[test]
fn with_a_member_of_the_release_before_the_first_rules_decide_as_ever() {
    let mut world = three(1);
    let proposal = world.propose(2, approve("qwen"));
    world.sync();
    world.all_yes(proposal);
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 3]);
    assert!((1..3).all(|who| world.state(who) == world.state(0)));
}

#[test]
fn later_rules_come_into_force_once_a_quorum_can_decide_by_them_and_not_before() {
    let mut world = three(2);
    let step = step(&mut world);
    vote_yes(&mut world, &[0], step);
    // The others' people vote with a newer program than their operators are.
    for who in [1, 2] {
        let vote = Vote { proposal: step, choice: Choice::Yes, vseq: 0, ground: None, reason: None };
        let vote = world.people[who].human(world.coop(), world.now, Body::Vote(vote));
        world.anchor(who, &vote);
    }
    pass_time(&mut world);
    assert_eq!((0..3).map(|who| world.state(who).rules()).collect::<Vec<_>>(), [1; 3]);
    assert!(world.state(0).close_seals().iter().next().is_none(), "nobody seals what too few could follow");
    upgrade(&mut world, 1);
    world.settle();
    assert_eq!((0..3).map(|who| world.state(who).rules()).collect::<Vec<_>>(), [2, 2, 1]);
}

#[test]
fn who_stays_behind_keeps_and_passes_on_everything_harms_nobody_and_catches_up_with_its_upgrade() {
    let mut world = three(1);
    let step = step(&mut world);
    vote_yes(&mut world, &[0, 1], step);
    pass_time(&mut world);
    assert_eq!((world.state(0).rules(), world.state(2).rules()), (2, 1));
    // The others decide without it; what they say reaches each of them through it alone.
    let proposal = world.propose(0, approve("qwen"));
    for hidden in [1, 0, 1, 0] {
        world.cut = BTreeSet::from([hidden]);
        world.settle();
    }
    vote_yes(&mut world, &[0, 1], proposal);
    for seconds in [0, 120, 1, 30, 30, 60] {
        world.wait(seconds);
        for hidden in [1, 0, 1, 0] {
            world.cut = BTreeSet::from([hidden]);
            world.settle();
        }
    }
    assert_eq!([0, 1].map(|who| world.phase(who, proposal).name()), ["Enacted"; 2]);
    assert!(world.state(2).proposals().get(&proposal).is_none(), "it cannot read that");
    world.cut.clear();
    // It goes on by the rules that it knows, for the same slot as well.
    let behind = world.propose(2, approve("llama"));
    vote_yes(&mut world, &[2], behind);
    pass_time(&mut world);
    let late = world.propose(1, approve("phi"));
    world.sync();
    vote_yes(&mut world, &[0, 1], late);
    pass_time(&mut world);
    for who in [0, 1] {
        assert_eq!([behind, late].map(|p| world.phase(who, p).name()), ["Superseded", "Enacted"]);
        assert!(world.state(who).faults().is_empty());
        assert!(world.state(who).members().values().all(MemberState::may_work));
    }
    assert_eq!(world.state(0), world.state(1));
    assert_eq!((held(&world, 2), held(&world, 1)), (held(&world, 0), held(&world, 0)));
    upgrade(&mut world, 2);
    assert_eq!(world.state(2), world.state(0));
    // It counts again: without one of the others the two decide.
    world.cut.insert(0);
    let after = world.propose(2, approve("falcon"));
    world.settle();
    vote_yes(&mut world, &[1, 2], after);
    pass_time(&mut world);
    world.cut.clear();
    world.settle();
    assert_eq!(world.phases(after), ["Enacted"; 3]);
    assert!((1..3).all(|who| world.state(who) == world.state(0)));
}

/// An entry of a later release in the log of `who`.
fn of_the_future(world: &mut World, who: usize, kind: &str, rules: u32) -> StatementId {
    let person = &world.people[who];
    let position = world.commons[who].replica().next_position(&person.member.keys.operator);
    let crate::statement::Position::Log { seq, prev } = position else { panic!() };
    let entry = person.of_the_future(world.coop(), world.now, (seq.0, prev), kind, rules);
    world.take(who, [entry.clone()]);
    entry.id()
}

#[test]
fn a_kind_that_nobody_knows_is_kept_and_passed_on_and_has_no_effect() {
    let mut world = World::new(&THREE, Preset::Trial);
    let strange = of_the_future(&mut world, 0, "oracle", 1);
    let proposal = world.propose(0, approve("qwen"));
    // Cork hears of it from bilbao alone.
    world.cut = BTreeSet::from([2]);
    world.sync();
    world.cut = BTreeSet::from([0]);
    world.sync();
    let entry = world.commons[2].replica().get(&strange).unwrap();
    assert_eq!(entry.statement.body(), &Body::Opaque(Opaque::UnknownKind));
    world.cut.clear();
    world.all_yes(proposal);
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 3]);
    assert!(world.state(2).members().values().all(MemberState::may_work));
}

#[test]
fn who_cannot_follow_the_rules_of_the_others_says_so_and_one_member_alone_is_not_believed() {
    let names = ["aarhus", "bilbao", "cork", "delft"];
    let mut world = World::with(&names, Preset::Trial, |charter| {
        charter.parameters.deliberation = Some(presets::deliberation());
    });
    of_the_future(&mut world, 1, "close-seal", 3);
    of_the_future(&mut world, 2, "oracle", 2);
    world.sync();
    assert_eq!(world.state(0).needs_rules(), None);
    of_the_future(&mut world, 2, "close-seal", 3);
    world.sync();
    assert_eq!(world.state(0).needs_rules(), Some(3));
}
