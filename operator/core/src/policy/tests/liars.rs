//! What a lying operator might undo or slip in, found by the simulation.

use super::complete::{FOUR, HOUR, complete, quick};
use super::*;
use crate::body::proposal::Leave;
use crate::testkit::Writer;

/// `liar` signs another beginning of its log, and everybody learns of it.
fn fork(world: &mut World, liar: usize) {
    let other = Writer::new(&world.people[liar], world.coop()).note(world.now, 1);
    for who in 0..world.commons.len() {
        world.commons[who].insert(other.clone()).unwrap();
        assert!(world.commons[who].replica().fork(&world.log(liar)).is_some());
    }
}

#[test]
fn who_forks_the_log_in_which_it_proposed_undoes_nothing() {
    let mut world = quick(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.sync();
    world.all_yes(proposal);
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    fork(&mut world, 0);
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
}

#[test]
fn who_has_left_does_not_come_back_by_forking_its_log() {
    let mut world = quick(&FOUR);
    world.say(3, Body::Leave(Leave::default())).unwrap();
    world.settle();
    fork(&mut world, 3);
    assert_eq!(world.state(0).member(&world.people[3].id()).unwrap().standing, MemberStanding::Left);
    assert_eq!(world.state(0).membership().unwrap().members.len(), 3);
}

#[test]
fn who_was_away_at_the_close_vouches_for_nothing_that_came_later() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    for who in 0..3 {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    world.settle();
    world.cut.insert(3);
    world.wait(73 * HOUR);
    world.settle();
    // Cork votes again, dated before the close, and brings it to delft, which has not offered yet.
    let dated = world.state(2).proposals()[&proposal].proposal.closes_at.minus(Seconds(1));
    let vote = Body::Vote(Vote { proposal, choice: Choice::No, vseq: 1, ground: None, reason: None });
    let late = world.people[2].human(world.coop(), dated, vote);
    let late = world.anchor(2, &late).id();
    world.cut.clear();
    world.wait(600);
    world.sync();
    assert!(world.state(3).proposals()[&proposal].entries.contains(&late));
    world.seal(3);
    let offer = world.state(3).box_offers().iter().find(|offer| offer.by == world.people[3].id()).unwrap();
    assert!(!offer.seal.entries.contains(&late));
    assert_eq!(offer.seal.entries.len(), 3);
}

#[test]
fn who_hears_nobody_still_says_in_time_what_it_holds_and_seals_nothing() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    world.all_yes(proposal);
    world.settle();
    world.isolated.insert(3);
    world.wait(73 * HOUR);
    world.settle();
    assert_eq!(world.state(3).proposals()[&proposal].offers.len(), 4);
    world.wait(HOUR);
    world.settle();
    assert!(world.state(0).close_seals().iter().all(|seal| seal.by != world.people[3].id()));
}
