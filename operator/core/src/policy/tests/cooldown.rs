//! What was refused cools down, and nobody keeps anything from the others by that.

use super::complete::{FOUR, HOUR, complete};
use super::hearing::expel;
use super::*;
use crate::body::entry::{Basis, BoxOffer, CloseSeal};
use crate::body::proposal::{CancelProposal, Proposal, Withdrawal};
use crate::body::standing::Suspend;
use crate::body::{Class, Outcome};
use crate::dsse::Signer;
use crate::presets;

const DAY: i64 = 24 * HOUR;

/// A cooperative where a member that is told counts as heard at once.
fn world() -> World {
    complete(&FOUR)
}

/// Lets everybody vote as given, and time pass until the box is sealed.
fn decide(world: &mut World, proposal: StatementId, choices: &[(usize, Choice)]) {
    world.settle();
    for (who, choice) in choices {
        world.vote(*who, proposal, *choice, 0).unwrap();
    }
    world.settle();
    let closes_at = world.state(0).proposals()[&proposal].proposal.closes_at;
    world.now = world.now.max(closes_at);
    for _ in 0..3 {
        world.settle();
        world.wait(HOUR);
    }
    world.settle();
    assert!((1..4).all(|who| world.state(who) == world.state(0)), "all know the same");
}

fn refuse(world: &mut World, who: usize, action: Action) -> StatementId {
    let proposal = world.propose(who, action);
    decide(world, proposal, &[(1, Choice::No), (2, Choice::No)]);
    assert_eq!(world.phases(proposal), ["Rejected"; 4]);
    proposal
}

const TWO: [(usize, Choice); 2] = [(0, Choice::Yes), (1, Choice::Yes)];
const THREE_YES: [(usize, Choice); 3] = [(0, Choice::Yes), (1, Choice::Yes), (2, Choice::Yes)];

fn outcome(world: &World, proposal: StatementId) -> Outcome {
    world.state(0).proposals()[&proposal].certificates[0].outcome
}

fn drafted(world: &World, who: usize, action: Action) -> Proposal {
    world.state(who).draft_proposal(action, "A change".parse().unwrap(), Default::default(), world.now).unwrap()
}

/// Signed by others as well, and anchored.
fn signed(world: &mut World, who: usize, proposal: Proposal, others: &[usize]) -> StatementId {
    let draft = world.people[who].draft_for_tests(world.coop(), Body::Proposal(Box::new(proposal)));
    let others: Vec<&dyn Signer> = others.iter().map(|who| &world.people[*who].governance as &dyn Signer).collect();
    let statement = Draft { issued_at: world.now, ..draft }.sign(&world.people[who].governance, &others).unwrap();
    world.anchor(who, &statement);
    statement.id()
}

fn say(world: &mut World, who: usize, proposal: Proposal) -> StatementId {
    world.say(who, Body::Proposal(Box::new(proposal))).unwrap()
}

#[test]
fn what_was_rejected_needs_two_thirds_of_all_until_it_has_cooled_down() {
    let mut world = world();
    let first = refuse(&mut world, 0, approve("qwen"));
    let closed_at = world.state(0).proposals()[&first].proposal.closes_at;
    let free = closed_at.plus(Seconds(14 * DAY));
    let warned = world.state(0).refused_before(&world.people[3].id(), &drafted(&world, 3, approve("qwen")));
    assert_eq!(warned, Some(Refused { by: first, how: Outcome::Rejected, until: free }));
    assert_eq!(world.state(0).refused_before(&world.people[3].id(), &drafted(&world, 3, approve("llama"))), None);
    // Two of four would do otherwise.
    let second = world.propose(3, approve("qwen"));
    decide(&mut world, second, &TWO);
    assert_eq!(world.phase(2, second), Phase::CoolDown { by: first, until: free });
    // What failed for that reason alone begins no cool-down of its own.
    let third = world.propose(3, approve("qwen"));
    decide(&mut world, third, &THREE_YES);
    assert_eq!(world.state(0).proposals()[&third].refused.map(|refused| refused.by), Some(first));
    assert_eq!(outcome(&world, third), Outcome::Passed);
}

#[test]
fn after_the_cool_down_the_class_alone_decides() {
    let mut world = world();
    let first = refuse(&mut world, 0, approve("qwen"));
    world.now = world.state(0).proposals()[&first].proposal.closes_at.plus(Seconds(14 * DAY));
    let second = world.propose(0, approve("qwen"));
    decide(&mut world, second, &TWO);
    assert_eq!(outcome(&world, second), Outcome::Passed);
}

#[test]
fn a_charter_without_a_cool_down_has_none() {
    let mut world = World::with(&FOUR, Preset::Standard, |charter| {
        let rules = crate::body::charter::Deliberation { cool_down_seconds: Seconds(0), ..presets::deliberation() };
        charter.parameters.deliberation = Some(rules);
    });
    world.wait(DAY);
    let first = world.propose(0, approve("qwen"));
    world.wait(HOUR);
    decide(&mut world, first, &[(1, Choice::No), (2, Choice::No)]);
    let second = world.propose(0, approve("qwen"));
    world.wait(HOUR);
    decide(&mut world, second, &TWO);
    assert_eq!((outcome(&world, first), outcome(&world, second)), (Outcome::Rejected, Outcome::Passed));
}

#[test]
fn what_its_author_takes_back_binds_that_owner_alone() {
    let mut world = world();
    let first = world.propose(0, approve("qwen"));
    world.settle();
    world.say(0, Body::Withdrawal(Withdrawal { proposal: first })).unwrap();
    decide(&mut world, first, &[]);
    assert_eq!(world.phases(first), ["Withdrawn"; 4]);
    let own = world.propose(0, approve("qwen"));
    let others = world.propose(1, approve("qwen"));
    world.settle();
    world.vote(0, own, Choice::Yes, 0).unwrap();
    world.vote(1, own, Choice::Yes, 0).unwrap();
    decide(&mut world, others, &TWO);
    assert_eq!((outcome(&world, own), outcome(&world, others)), (Outcome::CoolDown, Outcome::Passed));
}

#[test]
fn a_vote_that_is_open_is_spoiled_by_no_other_and_its_own_owner_tries_no_two_at_once() {
    let mut world = world();
    let longer = |world: &mut World, who: usize| {
        let mut proposal = drafted(world, who, approve("qwen"));
        for time in [&mut proposal.closes_at, &mut proposal.eta, &mut proposal.expires_at] {
            *time = time.plus(Seconds(12 * HOUR));
        }
        say(world, who, proposal)
    };
    let (own, others) = (longer(&mut world, 0), longer(&mut world, 1));
    // The third of them is refused while the first two are open.
    refuse(&mut world, 0, approve("qwen"));
    for proposal in [own, others] {
        world.vote(0, proposal, Choice::Yes, 0).unwrap();
        world.vote(1, proposal, Choice::Yes, 0).unwrap();
    }
    decide(&mut world, own, &[]);
    assert_eq!((outcome(&world, own), outcome(&world, others)), (Outcome::CoolDown, Outcome::Passed));
}

#[test]
fn a_vote_from_which_somebody_was_kept_has_refused_nothing() {
    let mut world = world();
    let mut narrow = drafted(&world, 3, approve("qwen"));
    narrow.interested = BTreeSet::from([world.people[0].id()]);
    let narrow = signed(&mut world, 3, narrow, &[0]);
    decide(&mut world, narrow, &[(1, Choice::No), (2, Choice::No)]);
    assert_eq!(outcome(&world, narrow), Outcome::Rejected);
    let second = world.propose(0, approve("qwen"));
    decide(&mut world, second, &TWO);
    assert_eq!(outcome(&world, second), Outcome::Passed);
}

#[test]
fn too_few_that_take_part_refuse_nothing() {
    let mut world = world();
    let first = world.propose(3, approve("qwen"));
    decide(&mut world, first, &[(3, Choice::No)]);
    assert_eq!(world.phases(first), ["QuorumNotMet"; 4]);
    let second = world.propose(0, approve("qwen"));
    decide(&mut world, second, &TWO);
    assert_eq!(outcome(&world, second), Outcome::Passed);
}

#[test]
fn what_protects_the_others_never_waits() {
    let mut world = world();
    let suspend = || Action::Suspend(Suspend { member: "delft".parse().unwrap() });
    let first = world.propose(3, suspend());
    decide(&mut world, first, &[(1, Choice::No), (2, Choice::No)]);
    assert_eq!(outcome(&world, first), Outcome::Rejected);
    let second = world.propose(0, suspend());
    // Two of the three that vote on it: two thirds of all electors would be these two as well, so one abstains.
    decide(&mut world, second, &[(0, Choice::Yes), (1, Choice::Abstain)]);
    assert_eq!(outcome(&world, second), Outcome::Passed);
}

#[test]
fn a_cancellation_that_was_refused_can_be_tried_again_while_there_is_time() {
    let mut world = World::with(&FOUR, Preset::Standard, |charter| {
        charter.parameters.deliberation = Some(presets::deliberation());
        charter.classes.values_mut().for_each(|rules| rules.delay_seconds = Seconds(0));
        charter.classes.get_mut(&Class::Routine).unwrap().timelock_seconds = Seconds(5 * DAY);
    });
    let target = world.propose(0, approve("qwen"));
    decide(&mut world, target, &THREE_YES);
    let cancel = || Action::CancelProposal(CancelProposal { proposal: target });
    let first = world.propose(3, cancel());
    decide(&mut world, first, &[(1, Choice::No), (2, Choice::No)]);
    assert_eq!(outcome(&world, first), Outcome::Rejected);
    let second = world.propose(0, cancel());
    decide(&mut world, second, &TWO);
    assert_eq!(outcome(&world, second), Outcome::Passed);
    assert_eq!(world.phases(target), ["Cancelled"; 4]);
}

#[test]
fn an_expulsion_with_other_evidence_is_another_one() {
    let mut world = world();
    let member = world.people[3].id();
    let first = world.propose(0, expel(&member));
    decide(&mut world, first, &[(0, Choice::No), (1, Choice::No), (2, Choice::No)]);
    let Action::Expel(mut more) = expel(&member) else { panic!() };
    let draft = drafted(&world, 0, Action::Expel(more.clone()));
    let found = world.state(0).refused_before(&world.people[0].id(), &draft);
    assert_eq!(found.map(|refused| refused.by), (outcome(&world, first) == Outcome::Rejected).then_some(first));
    more.evidence.push(crate::body::EvidenceRef::Entry(first));
    let draft = drafted(&world, 0, Action::Expel(more));
    assert_eq!(world.state(0).refused_before(&world.people[0].id(), &draft), None);
}

/// A liar says that the same was refused, and offers that.
#[test]
fn the_word_of_one_operator_refuses_nothing() {
    let mut world = world();
    let first = world.propose(3, approve("qwen"));
    world.settle();
    let state = &world.state(3).proposals()[&first];
    let basis = Basis { slot: state.slot(), offers: BTreeSet::new() };
    let seal = CloseSeal {
        proposal: first,
        round: 1,
        root: merkle_root(),
        count: 0,
        membership_head: world.state(3).head(Scope::Membership),
        outcome: Outcome::Rejected,
        closed_at: world.now,
        basis: Some(basis),
    };
    let seal = world.append(3, Body::CloseSeal(seal)).id();
    world.wait(1);
    let second = world.propose(0, approve("qwen"));
    world.settle();
    assert_eq!(world.state(3).proposals()[&second].refused, None);
    let entries = BTreeSet::from([seal]);
    world.append(3, Body::BoxOffer(BoxOffer { proposal: second, entries }));
    decide(&mut world, second, &TWO);
    assert_eq!(outcome(&world, second), Outcome::Passed);
}

fn merkle_root() -> BoxRoot {
    crate::merkle::root(&BTreeSet::new())
}

#[test]
fn a_refusal_outlives_the_checkpoint_that_settles_it() {
    let mut world = World::with(&FOUR, Preset::Standard, |charter| {
        let mut rules = presets::deliberation();
        // What is recent is kept in any case, to show that its author is there.
        rules.members.dormant_after_seconds = Seconds(60);
        charter.parameters.deliberation = Some(rules);
        charter.classes.values_mut().for_each(|rules| rules.delay_seconds = Seconds(0));
    });
    let first = refuse(&mut world, 0, approve("qwen"));
    let other = world.propose(1, approve("llama"));
    decide(&mut world, other, &THREE_YES);
    world.wait(DAY);
    world.settle();
    assert_eq!(world.phases(other), ["Enacted"; 4]);
    let before = world.now;
    world.wait(60);
    let second = world.propose(2, approve("qwen"));
    decide(&mut world, second, &TWO);
    let forgetful = world.commons[0].as_if_settled(before).unwrap();
    for state in [world.state(0), forgetful.state()] {
        let second = &state.proposals()[&second];
        assert_eq!(second.certificates[0].outcome, Outcome::CoolDown);
        assert_eq!(second.refused.map(|refused| refused.by), Some(first));
    }
}
