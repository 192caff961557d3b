//! From a proposal to what is in force.

use super::*;

#[test]
fn three_votes_enact_a_release_at_once_in_a_trial() {
    let mut world = World::new(&THREE, Preset::Trial);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    assert_eq!(world.phases(proposal), ["Open"; 3]);
    for who in 0..3 {
        assert!(world.state(0).release(&release("qwen").manifest_digest).is_none());
        world.wait(1);
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
        world.settle();
    }
    assert_eq!(world.phases(proposal), ["Enacted"; 3]);
    let state = world.state(2);
    assert_eq!(state.release(&release("qwen").manifest_digest), Some(&release("qwen")));
    let version = state.chain(Scope::Releases).last().unwrap();
    assert_eq!((version.number, version.parent), (1, Some(genesis(Scope::Releases, world.coop()))));
    let enacted = version.enacted.as_ref().unwrap();
    assert!(enacted.close_seals.len() >= 2 && enacted.enact_seals.len() >= 2);
    assert_eq!(world.state(0), world.state(1));
    assert!(state.faults().is_empty());
}

#[test]
fn a_majority_that_votes_in_time_does_not_wait_for_the_third() {
    let mut world = World::new(&THREE, Preset::Trial);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    world.vote(0, proposal, Choice::Yes, 0).unwrap();
    world.vote(1, proposal, Choice::Yes, 0).unwrap();
    world.settle();
    assert_eq!(world.phases(proposal), ["Open"; 3]);
    world.wait(120);
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 3]);
}

#[test]
fn a_standard_decision_passes_through_every_phase() {
    let mut world = World::with(&THREE, Preset::Standard, |c| c.parameters.sponsors = 1);
    const HOUR: i64 = 3600;
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    assert_eq!(world.phase(1, proposal).name(), "Pending");
    world.wait(HOUR);
    assert_eq!(world.phase(1, proposal).name(), "Open");
    for who in 0..3 {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    world.settle();
    // Nobody closes early here: people may change their minds.
    assert_eq!(world.phases(proposal), ["Open"; 3]);
    world.wait(72 * HOUR);
    world.settle();
    assert_eq!(world.phase(1, proposal), Phase::Closing { sealed: 0, needed: 2 });
    world.wait(HOUR);
    world.settle();
    assert!(matches!(world.phase(1, proposal), Phase::Queued { signed: 0, needed: 2, .. }));
    world.wait(24 * HOUR - 1);
    world.settle();
    assert_eq!(world.phases(proposal), ["Queued"; 3]);
    world.wait(1);
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 3]);
}

#[test]
fn the_clock_alone_is_waited_for_exactly_as_long_as_it_matters() {
    let mut world = World::with(&["aarhus"], Preset::Standard, |c| c.parameters.sponsors = 1);
    assert_eq!(world.state(0).next_change(world.now), None);
    let proposal = world.propose(0, approve("qwen"));
    let mut seen = vec![];
    while let Some(next) = world.state(0).next_change(world.now) {
        assert!(next > world.now);
        world.now = next;
        if world.phase(0, proposal).name() == "Open" {
            let _ = world.vote(0, proposal, Choice::Yes, 0);
        }
        world.settle();
        seen.push(world.phase(0, proposal).name());
    }
    assert_eq!(seen, ["Open", "Closing", "Queued", "Enacted"]);
}

#[test]
fn rejected_vetoed_and_ignored_proposals_change_nothing() {
    for (choices, expected) in [
        (vec![Choice::No, Choice::No, Choice::Yes], "Rejected"),
        (vec![Choice::Yes, Choice::Yes, Choice::Veto], "Vetoed"),
        (vec![], "QuorumNotMet"),
    ] {
        let mut world = World::new(&THREE, Preset::Trial);
        let proposal = world.propose(0, approve("qwen"));
        world.sync();
        for (who, choice) in choices.into_iter().enumerate() {
            world.vote(who, proposal, choice, 0).unwrap();
        }
        world.wait(120);
        world.settle();
        assert_eq!(world.phases(proposal), [expected; 3]);
        assert_eq!(world.state(0).head(Scope::Releases), genesis(Scope::Releases, world.coop()));
    }
}

#[test]
fn a_release_is_withdrawn_by_a_second_decision() {
    let mut world = World::new(&THREE, Preset::Trial);
    for action in [approve("qwen"), withdraw("qwen")] {
        let proposal = world.propose(0, action);
        world.sync();
        world.all_yes(proposal);
        world.settle();
        assert_eq!(world.phases(proposal), ["Enacted"; 3]);
    }
    let digest = release("qwen").manifest_digest;
    assert_eq!(world.state(1).release(&digest), None);
    assert!(world.state(1).releases()[&digest].withdrawn.is_some());
}

#[test]
fn two_of_three_decide_while_one_is_cut_off_and_it_learns_the_result() {
    let mut world = World::new(&THREE, Preset::Trial);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    world.cut.insert(2);
    world.vote(2, proposal, Choice::No, 0).unwrap();
    world.vote(0, proposal, Choice::Yes, 0).unwrap();
    world.vote(1, proposal, Choice::Yes, 0).unwrap();
    world.wait(120);
    world.settle();
    assert_eq!(world.phases(proposal)[..2], ["Enacted"; 2]);
    // Alone it can seal its own box, but nobody agrees with it.
    world.seal(2);
    assert!(matches!(world.phase(2, proposal), Phase::Closing { sealed: 1, needed: 2 }));
    world.cut.clear();
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 3]);
    assert_eq!(world.state(2), world.state(0));
}

#[test]
fn an_isolated_operator_and_one_with_a_wrong_clock_seal_nothing() {
    let mut world = World::new(&["aarhus"], Preset::Trial);
    let proposal = world.propose(0, approve("qwen"));
    world.vote(0, proposal, Choice::Yes, 0).unwrap();
    world.isolated.insert(0);
    assert!(!world.seal(0));
    let fast = Circumstances { isolated: false, clock_in_tolerance: false, ..world.circumstances(0) };
    assert!(sealing::next(world.state(0), &world.people[0].id(), &fast).is_empty());
    world.isolated.clear();
    assert!(world.seal(0));
    assert_eq!(world.phases(proposal), ["Enacted"]);
}

#[test]
fn a_restored_operator_finds_its_promises_in_its_log() {
    let mut world = World::new(&THREE, Preset::Trial);
    let (one, two) = (world.propose(0, approve("one")), world.propose(1, approve("two")));
    world.sync();
    for proposal in [one, two] {
        world.all_yes(proposal);
    }
    world.sync();
    // Only the operator of 0 acts: it signs one of the two for the slot, and would sign nothing else after a restart.
    world.seal(1);
    world.sync();
    world.seal(0);
    let signed = |world: &World| world.state(0).enact_seals().iter().filter(|s| s.by == world.people[0].id()).count();
    assert_eq!(signed(&world), 1);
    let all: Vec<Statement> = world.commons[0]
        .replica()
        .logs()
        .flat_map(|(log, _)| world.commons[0].replica().range(log, Seq(0), 1000))
        .map(|e| (*e).clone())
        .collect();
    let (restored, refused) = Commons::load(world.founding(), Limits::default(), all);
    assert!(refused.is_empty());
    assert_eq!(restored.state(), world.commons[0].state());
    assert!(sealing::next(restored.state(), &world.people[0].id(), &world.circumstances(0)).is_empty());
    world.settle();
    let mut phases = [world.phase(0, one).name(), world.phase(0, two).name()];
    phases.sort_unstable();
    assert_eq!(phases, ["Enacted", "Superseded"]);
    assert!(world.state(2).faults().is_empty());
}

#[test]
fn after_a_resumption_older_proposals_are_not_sealed() {
    let mut world = World::new(&["aarhus"], Preset::Trial);
    let proposal = world.propose(0, approve("qwen"));
    world.vote(0, proposal, Choice::Yes, 0).unwrap();
    world.wait(1);
    let (log, head) = (world.log(0), world.commons[0].replica().head(&world.log(0)));
    world.append(0, Body::LogResume(crate::body::LogResume { old_log: log, old_head: head }));
    assert!(!world.seal(0));
    world.wait(1);
    let again = world.propose(0, approve("qwen"));
    world.vote(0, again, Choice::Yes, 0).unwrap();
    world.settle();
    assert_eq!(world.phase(0, again).name(), "Enacted");
}

#[test]
fn a_split_slot_is_left_behind_for_the_next_term() {
    let mut world = World::new(&["aarhus", "bilbao"], Preset::Trial);
    let (one, two) = (world.propose(0, approve("one")), world.propose(1, approve("two")));
    world.sync();
    for proposal in [one, two] {
        world.all_yes(proposal);
    }
    world.sync();
    // Both have sealed the boxes, then each signs the enactment of another proposal: no honest operator would, but
    // a partition at the wrong moment gives the same logs.
    for who in 0..2 {
        let me = world.people[who].id();
        while let Some(close) = sealing::next(world.state(who), &me, &world.circumstances(who))
            .into_iter()
            .find(|b| matches!(b, Body::CloseSeal(_)))
        {
            world.append(who, close);
        }
    }
    world.sync();
    for (who, proposal) in [(0, one), (1, two)] {
        let state = &world.state(who).proposals()[&proposal];
        let root = state.certificates[0].root;
        let slot = state.slot();
        let version = version_hash(slot.scope, slot.parent, proposal, root);
        world.append(who, Body::EnactSeal(EnactSeal { slot, proposal, root, version }));
    }
    world.settle();
    assert_eq!(world.phases(one), ["Queued"; 2]);
    assert_eq!(sealing::next_term(world.state(0), Scope::Releases, world.now), 1);
    let again = world.propose(0, approve("one"));
    world.sync();
    world.all_yes(again);
    world.settle();
    assert_eq!(world.phases(again), ["Enacted"; 2]);
    assert_eq!(world.phases(two), ["Superseded"; 2]);
    assert!(world.state(0).faults().is_empty());
}

#[test]
fn a_slot_that_may_still_be_filled_is_not_left() {
    let mut world = World::new(&["aarhus", "bilbao"], Preset::Trial);
    let one = world.propose(0, approve("one"));
    world.sync();
    world.all_yes(one);
    world.sync();
    world.seal(1);
    world.sync();
    world.seal(0); // close and enact; 1 has signed nothing for the slot yet
    world.wait(2 * 3600);
    assert_eq!(world.phase(0, one).name(), "Expired");
    // A later attempt exists, but 0 has signed for the first, which 1 could still complete: 0 stays out, 1 goes on.
    let two = world.propose(1, approve("two"));
    world.sync();
    assert_eq!(world.state(0).proposals()[&two].proposal.term, 0);
    let mut later = world.state(1).proposals()[&two].proposal.clone();
    later.term = 1;
    let two = world.say(1, Body::Proposal(Box::new(later))).unwrap();
    world.sync();
    world.all_yes(two);
    world.sync();
    world.seal(0);
    let mine = |world: &World| world.state(0).enact_seals().iter().filter(|s| s.by == world.people[0].id()).count();
    assert_eq!(mine(&world), 1);
    world.settle();
    assert_eq!((mine(&world), world.phase(0, two).name()), (2, "Enacted"));
}

#[test]
fn certificates_need_the_exact_time_window() {
    let mut world = World::new(&["aarhus"], Preset::Trial);
    let proposal = world.propose(0, approve("qwen"));
    world.vote(0, proposal, Choice::Yes, 0).unwrap();
    world.cut.insert(0);
    let late = 120 + 3600 + 1;
    world.wait(late);
    world.cut.clear();
    assert!(!world.seal(0));
    assert_eq!(world.phase(0, proposal), Phase::Expired);
    // Even if an operator signed it anyway, nobody counts it.
    let state = world.state(0).proposals()[&proposal].clone();
    let (root, slot) = (state.ballot.root, state.slot());
    let close = CloseSeal {
        proposal,
        round: 1,
        root,
        count: 1,
        membership_head: world.state(0).head(Scope::Membership),
        outcome: Outcome::Passed,
        closed_at: state.ballot.closed_at,
        basis: None,
    };
    world.append(0, Body::CloseSeal(close));
    let version = version_hash(slot.scope, slot.parent, proposal, root);
    world.append(0, Body::EnactSeal(EnactSeal { slot, proposal, root, version }));
    assert_eq!(world.phase(0, proposal), Phase::Expired);
}

#[test]
fn the_times_of_a_draft_are_the_earliest_that_its_class_allows() {
    const HOUR: i64 = 3600;
    let world = World::new(&THREE, Preset::Standard);
    let draft = world.state(0).draft_proposal(approve("qwen"), "t".parse().unwrap(), Default::default(), T0).unwrap();
    assert_eq!(draft.opens_at.since(T0), Seconds(HOUR));
    assert_eq!(draft.closes_at.since(draft.opens_at), Seconds(72 * HOUR));
    assert_eq!(draft.eta.since(draft.closes_at), Seconds(HOUR + 24 * HOUR));
    assert_eq!(draft.expires_at.since(draft.eta), Seconds(72 * HOUR));
}
