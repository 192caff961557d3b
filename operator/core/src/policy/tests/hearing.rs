//! Nobody is expelled unheard.

use super::complete::{FOUR, HOUR, complete, quick};
use super::*;
use crate::body::proposal::Expel;
use crate::body::{Appeal, Document, EvidenceRef, Notice, NoticeSent, Reply};

fn document(name: &str) -> EvidenceRef {
    let text = "What the meters showed".parse().unwrap();
    EvidenceRef::Document(Document { digest: Digest::of(name.as_bytes()), text })
}

pub(super) fn expel(member: &MemberId) -> Action {
    Action::Expel(Expel { member: member.clone(), evidence: vec![document("first")], appeal: None })
}

fn reply(world: &mut World, proposal: StatementId) -> Result<StatementId, NotAnchored> {
    world.say(3, Body::Reply(Reply { proposal, text: "It was the meter".parse().unwrap() }))
}

fn appeal(world: &mut World, proposal: StatementId, evidence: EvidenceRef) -> Result<StatementId, NotAnchored> {
    let text = "Here is another meter".parse().unwrap();
    world.say(3, Body::Appeal(Appeal { proposal, evidence: vec![evidence], text }))
}

fn three_vote(world: &mut World, proposal: StatementId, choice: Choice) {
    world.sync();
    for who in 0..3 {
        world.vote(who, proposal, choice, 0).unwrap();
    }
}

/// Seven days of voting and what is sealed then; it takes effect after three more days.
fn until_queued(world: &mut World) {
    for hours in [0, 85, 84, 1] {
        world.wait(hours * HOUR);
        world.settle();
    }
}

fn notices(world: &World, proposal: StatementId) -> Vec<Notice> {
    world.state(0).notices().iter().filter(|s| s.seal.proposal == proposal).map(|s| s.seal.notice).collect()
}

#[test]
fn an_expulsion_without_evidence_is_none() {
    let world = quick(&FOUR);
    let member = world.people[3].id();
    for (evidence, seen) in [(vec![], 0), (vec![document("x"); 17], 17)] {
        let action = Action::Expel(Expel { member: member.clone(), evidence, appeal: None });
        let draft = world.state(0).draft_proposal(action, "e".parse().unwrap(), Default::default(), T0).unwrap();
        let statement = world.people[0].human(world.coop(), T0, Body::Proposal(Box::new(draft)));
        assert_eq!(world.state(0).check_proposal(&statement), Err(Invalid::Evidence(seen)));
    }
}

#[test]
fn a_member_that_is_told_or_replies_can_be_expelled() {
    for replies in [false, true] {
        let mut world = complete(&FOUR);
        let proposal = world.propose(0, expel(&world.people[3].id()));
        world.sync();
        if replies {
            reply(&mut world, proposal).unwrap();
            // Nobody else speaks for it.
            let other = Body::Reply(Reply { proposal, text: "No".parse().unwrap() });
            assert!(world.say(1, other).is_err());
        }
        three_vote(&mut world, proposal, Choice::Yes);
        until_queued(&mut world);
        assert_eq!(world.phases(proposal), ["Queued"; 4]);
        let mut told = notices(&world, proposal);
        told.sort_unstable();
        assert_eq!(told, [Notice::Received, Notice::Delivered, Notice::Delivered, Notice::Delivered]);
        world.wait(72 * HOUR);
        world.settle();
        assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    }
}

#[test]
fn operators_that_tried_long_enough_are_as_good_as_a_reply() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, expel(&world.people[3].id()));
    world.cut.insert(3);
    three_vote(&mut world, proposal, Choice::Yes);
    world.wait(72 * HOUR - 1);
    world.settle();
    assert!(notices(&world, proposal).is_empty());
    world.wait(1);
    world.settle();
    assert_eq!(notices(&world, proposal), [Notice::Tried; 3]);
    for hours in [97, 1, 72] {
        world.wait(hours * HOUR);
        world.settle();
    }
    assert_eq!(world.phase(0, proposal).name(), "Enacted");
}

#[test]
fn nobody_is_expelled_without_having_been_told() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, expel(&world.people[3].id()));
    world.sync();
    world.cut.insert(3);
    // Only two of the others say that they tried, one of them twice: too few to seal is too few to have told it.
    for who in [0, 0, 1] {
        world.append(who, Body::NoticeSent(NoticeSent { proposal, notice: Notice::Tried }));
        // It claims to have it for somebody else.
        world.append(2, Body::NoticeSent(NoticeSent { proposal, notice: Notice::Received }));
    }
    three_vote(&mut world, proposal, Choice::Yes);
    for hours in [169, 1, 72] {
        world.wait(hours * HOUR);
        world.settle();
    }
    assert_eq!(world.phase(0, proposal).name(), "Unheard");
    assert_eq!(world.state(0).membership().unwrap().members.len(), 4);
}

#[test]
fn a_box_does_not_close_before_the_member_is_heard() {
    let mut world = quick(&FOUR);
    let proposal = world.propose(0, expel(&world.people[3].id()));
    world.sync();
    world.cut.insert(3);
    three_vote(&mut world, proposal, Choice::Yes);
    world.settle();
    assert_eq!(world.phase(0, proposal).name(), "Open");
    world.wait(10);
    reply(&mut world, proposal).unwrap();
    world.cut.clear();
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    assert_eq!(world.state(0).proposals()[&proposal].certificates[0].closed_at, T0.plus(Seconds(10)));
}

#[test]
fn an_appeal_with_new_evidence_leads_to_one_more_vote_within_the_timelock() {
    for choice in [Choice::Yes, Choice::No] {
        let mut world = complete(&FOUR);
        let first = world.propose(0, expel(&world.people[3].id()));
        three_vote(&mut world, first, Choice::Yes);
        assert_eq!(appeal(&mut world, first, document("new")), Err(NotAnchored::NoAppeal), "nothing has passed yet");
        until_queued(&mut world);
        assert_eq!(appeal(&mut world, first, document("first")), Err(NotAnchored::NoAppeal), "that is not new");
        let appeal = appeal(&mut world, first, document("new")).unwrap();
        world.settle();
        assert_eq!(world.phases(first), ["Appealed"; 4]);
        let member = world.people[3].id();
        let evidence = vec![document("first"), document("new")];
        let again = Action::Expel(Expel { member: member.clone(), evidence, appeal: Some(appeal) });
        let second = world.propose(1, again.clone());
        let body = &world.state(1).proposals()[&second].proposal;
        assert_eq!(body.closes_at.since(world.now), Seconds(72 * HOUR));
        assert_eq!((body.term, body.eta), (1, body.closes_at.plus(Seconds(HOUR))));
        three_vote(&mut world, second, choice);
        for hours in [73, 1] {
            world.wait(hours * HOUR);
            world.settle();
        }
        let expected = if choice == Choice::Yes { "Enacted" } else { "Rejected" };
        assert_eq!(world.phases(second), [expected; 4]);
        let standing = world.state(0).member(&member).unwrap().standing;
        assert_eq!(standing == MemberStanding::Expelled, choice == Choice::Yes);
        // The first vote has no effect any more, nor is there a third one.
        world.wait(100 * HOUR);
        world.settle();
        assert_eq!(world.state(0).chain(Scope::Membership).len(), if choice == Choice::Yes { 2 } else { 1 });
        let draft = world.state(1).draft_proposal(again, "e".parse().unwrap(), Default::default(), world.now).unwrap();
        let statement = world.people[1].human(world.coop(), world.now, Body::Proposal(Box::new(draft)));
        let refused = if choice == Choice::Yes { Invalid::Subject } else { Invalid::NoSecondVote(appeal) };
        assert_eq!(world.state(1).check_proposal(&statement), Err(refused));
    }
}

#[test]
fn an_appeal_that_only_some_knew_in_time_does_not_block_the_chain() {
    let mut world = complete(&FOUR);
    let first = world.propose(0, expel(&world.people[3].id()));
    three_vote(&mut world, first, Choice::Yes);
    until_queued(&mut world);
    world.cut.insert(3);
    appeal(&mut world, first, document("new")).unwrap();
    world.wait(72 * HOUR);
    // One signs the enactment before it hears of the appeal.
    assert!(world.seal(0));
    world.cut.clear();
    world.settle();
    for hours in [80, 80, 80] {
        world.wait(hours * HOUR);
        world.settle();
    }
    let enacted = world.phase(0, first).name() == "Enacted";
    assert!(enacted, "{:?}", world.phase(0, first));
    // Those who knew of the appeal signed nothing in the first term.
    let version = world.state(0).chain(Scope::Membership).last().unwrap().enacted.clone().unwrap();
    assert_eq!(version.term, 1);
    assert!((1..4).all(|who| world.state(who).membership() == world.state(0).membership()));
}

#[test]
fn a_member_that_was_expelled_may_read_how_and_nothing_later() {
    let mut world = quick(&FOUR);
    let member = world.people[3].id();
    assert_eq!(world.commons[0].farewell(&member), None);
    let proposal = world.propose(0, expel(&member));
    world.sync();
    three_vote(&mut world, proposal, Choice::Yes);
    world.settle();
    let at = world.commons[0].farewell(&member).unwrap();
    world.wait(5);
    let later = world.propose(0, approve("qwen"));
    assert_eq!(world.commons[0].farewell(&member).unwrap(), at);
    // What it may read is enough to see that it was expelled.
    let replica = world.commons[0].replica();
    let until = |log: &PublicKey| usize::try_from(at[log].0).unwrap();
    let entries = replica.logs().flat_map(|(log, _)| replica.range(log, Seq(0), until(log)));
    let (read, _) = Commons::load(world.founding(), Limits::default(), entries.map(|e| (*e).clone()));
    assert_eq!(read.state().member(&member).unwrap().standing, MemberStanding::Expelled);
    assert!(!read.state().proposals().contains_key(&later));
}
