//! What stops a member's work, each reason for itself and several at once.

use super::complete::{FOUR, HOUR, quick};
use super::*;
use crate::body::proposal::Leave;
use crate::body::{Cause, CoSignature, EmergencyOrder, LiftQuarantine, Stop, Suspend};
use crate::policy::Halted;

/// An order of the first two, which is enough of four.
fn order(world: &mut World, stop: Stop) -> StatementId {
    let state = world.state(0);
    let (membership, charter) = (state.head(Scope::Membership), state.head(Scope::Charter));
    let order = EmergencyOrder { stop, cause: Cause::Safety, membership, charter, text: Default::default() };
    let order = world.say(0, Body::EmergencyOrder(Box::new(order))).unwrap();
    world.sync();
    world.say(1, Body::CoSignature(CoSignature { order })).unwrap();
    world.sync();
    order
}

fn halted(world: &World, who: usize) -> Option<Halted> {
    let member = world.people[who].id();
    let halted = world.state(0).halted(&member, world.now);
    assert_eq!(world.state(0).may_work(&member, world.now), halted.is_none());
    assert_eq!(world.state(1).halted(&member, world.now), halted);
    halted
}

#[test]
fn what_stops_a_member_is_told_with_what_decided_it_and_a_vote_comes_before_an_order() {
    let mut world = quick(&FOUR);
    assert_eq!((halted(&world, 3), halted(&world, 2)), (None, None));
    assert_eq!(world.state(0).halted(&"zagreb".parse().unwrap(), world.now), Some(Halted::NoMember));
    let key = world.log(3);
    let blocked = order(&mut world, Stop::Key(key));
    let until = world.state(0).next_lapse(world.now).unwrap();
    assert_eq!(halted(&world, 3), Some(Halted::KeyBlocked { order: blocked, until }));
    let member = world.people[3].id();
    let stopped = order(&mut world, Stop::Member(member.clone()));
    assert!(matches!(halted(&world, 3), Some(Halted::Ordered { order, .. }) if order == stopped));
    let proposal = world.propose(0, Action::Suspend(Suspend { member }));
    world.sync();
    for who in 0..3 {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    world.settle();
    let version = world.state(0).head(Scope::Standing);
    assert_eq!(halted(&world, 3), Some(Halted::Suspended { version }));
    // The orders lapse and the vote stands.
    world.wait(73 * HOUR);
    assert_eq!(halted(&world, 3), Some(Halted::Suspended { version }));
    let told = halted(&world, 3).unwrap().to_string();
    assert_eq!(told, format!("is suspended since version {version}, until a vote reinstates it"));
}

#[test]
fn an_order_stops_work_until_its_time_and_not_a_second_longer() {
    let mut world = quick(&FOUR);
    let member = world.people[3].id();
    let given = order(&mut world, Stop::Member(member));
    let until = world.state(0).emergencies()[&given].until;
    world.now = until.minus(Seconds(1));
    assert_eq!(halted(&world, 3), Some(Halted::Ordered { order: given, until }));
    world.now = until;
    assert_eq!(halted(&world, 3), None);
}

#[test]
fn whoever_leaves_gets_nothing_new_and_ends_nothing_until_it_has_left() {
    let mut world = quick(&FOUR);
    world.say(3, Body::Leave(Leave::default())).unwrap();
    world.sync();
    let leaving = halted(&world, 3).unwrap();
    assert_eq!((leaving, leaving.ends_what_runs(), leaving.is_gone()), (Halted::Leaving, false, false));
    world.settle();
    let version = world.state(0).head(Scope::Membership);
    let left = halted(&world, 3).unwrap();
    assert_eq!(left, Halted::Left { version: Some(version) });
    assert!(left.ends_what_runs() && left.is_gone());
}

#[test]
fn a_proof_stops_a_member_until_a_vote_has_weighed_it_and_its_fork_stays_one() {
    let mut world = quick(&FOUR);
    let (coop, member) = (world.coop(), world.people[3].id());
    let branches = [Choice::Yes, Choice::No].map(|choice| {
        let proposal = StatementId(Digest::of(b"none"));
        let vote = Vote { proposal, choice, vseq: 0, ground: None, reason: None };
        let vote = world.people[3].human(coop, world.now, Body::Vote(vote));
        let body = Body::Anchor(Box::new(Anchor { statement: vote.envelope().clone() }));
        world.people[3].entry(coop, world.now, 0, coop.0, body)
    });
    for commons in &mut world.commons {
        assert!(commons.insert_all(branches.clone()).is_empty());
    }
    let Some(Halted::Quarantined { proof, proofs: 1 }) = halted(&world, 3) else { panic!("{:?}", halted(&world, 3)) };
    let lift = LiftQuarantine { member: member.clone(), proofs: [proof].into() };
    let proposal = world.propose(0, Action::LiftQuarantine(lift));
    world.sync();
    for who in 0..3 {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    world.settle();
    assert_eq!(world.phase(0, proposal).name(), "Enacted");
    assert_eq!(halted(&world, 3), None);
    assert!(world.state(0).member(&member).unwrap().forked_at.is_some());
}
