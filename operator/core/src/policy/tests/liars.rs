//! What a lying operator might undo or slip in, found by the simulation.

use super::complete::{FOUR, HOUR, complete, quick};
use super::*;
use crate::body::entry::BoxOffer;
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

#[test]
fn a_vote_that_was_nearly_over_when_the_others_heard_of_it_is_vouched_for_by_nobody() {
    let mut world = complete(&FOUR);
    world.wait(200 * HOUR);
    let draft = |at: UnixSeconds| {
        let title = "A change".parse().unwrap();
        world.state(0).draft_proposal(approve("qwen"), title, Default::default(), at).unwrap()
    };
    let closes_in_an_hour = world.now.minus(draft(world.now).closes_at.since(world.now)).plus(Seconds(HOUR));
    let draft = draft(closes_in_an_hour);
    let closes_at = draft.closes_at;
    let proposal = world.people[0].human(world.coop(), closes_in_an_hour, Body::Proposal(Box::new(draft)));
    assert_eq!(
        world.state(0).may_anchor(&world.people[0].id(), &proposal, world.now),
        Err(NotAnchored::TooLate { closes_at }),
        "an honest operator tells its people"
    );
    world.anchor(0, &proposal);
    let proposal = proposal.id();
    world.sync();
    for who in 0..2 {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    world.sync();
    let entries = world.state(0).proposals()[&proposal].entries.clone();
    world.wait(2 * HOUR);
    world.append(0, Body::BoxOffer(BoxOffer { proposal, entries }));
    for hours in [0, 1, 48] {
        world.wait(hours * HOUR);
        world.settle();
    }
    assert_eq!(world.state(1).proposals()[&proposal].offers.len(), 1);
    assert_eq!(world.phases(proposal), ["Stalled"; 4]);
}

#[test]
fn who_hears_late_of_a_proposal_follows_those_who_heard_of_it_in_time() {
    let mut world = complete(&FOUR);
    world.cut.insert(3);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    world.wait(60 * HOUR);
    world.cut.clear();
    world.sync();
    assert!(world.circumstances(3).late.contains(&proposal) && world.circumstances(2).late.is_empty());
    world.all_yes(proposal);
    for hours in [13, 1, 48] {
        world.settle();
        world.wait(hours * HOUR);
    }
    world.settle();
    assert_eq!(world.state(0).proposals()[&proposal].offers.len(), 4);
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
}
