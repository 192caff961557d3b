//! The complete rules: offers, boxes, slots and terms, and the step to them.

use super::hearing::expel;
use super::*;
use crate::body::proposal::{CancelProposal, Delegation, Leave, Recusal, SetRules, Withdrawal};
use crate::body::{Class, Outcome};
use crate::presets;

pub(super) const FOUR: [&str; 4] = ["aarhus", "bilbao", "cork", "delft"];
pub(super) const HOUR: i64 = 3600;

/// A cooperative that begins with rules 2 and an hour's grace, where each step can be seen.
pub(super) fn complete(names: &[&str]) -> World {
    World::with(names, Preset::Standard, |charter| {
        charter.parameters.sponsors = 1;
        charter.parameters.deliberation = Some(presets::deliberation());
        for rules in charter.classes.values_mut() {
            rules.delay_seconds = Seconds(0);
        }
    })
}

/// One that closes as soon as everybody has voted.
pub(super) fn quick(names: &[&str]) -> World {
    World::with(names, Preset::Trial, |charter| charter.parameters.deliberation = Some(presets::deliberation()))
}

fn sealed(world: &World, who: usize, proposal: StatementId) -> (usize, usize, usize) {
    let state = &world.state(who).proposals()[&proposal];
    (state.offers.len(), state.close_seals.len(), state.enact_seals.len())
}

#[test]
fn a_decision_is_offered_sealed_and_enacted_one_grace_after_the_other() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    for who in 0..3 {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    world.settle();
    world.wait(72 * HOUR);
    world.settle();
    assert_eq!(sealed(&world, 1, proposal), (0, 0, 0));
    world.wait(HOUR);
    world.settle();
    assert_eq!(sealed(&world, 1, proposal), (4, 0, 0));
    world.wait(HOUR);
    world.settle();
    assert_eq!(world.state(1).proposals()[&proposal].close_seals.len(), 4);
    assert!(matches!(world.phase(1, proposal), Phase::Queued { signed: 0, needed: 3, .. }));
    world.wait(23 * HOUR);
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    assert_eq!(world.state(3).release(&release("qwen").manifest_digest), Some(&release("qwen")));
    assert!((1..4).all(|who| world.state(who) == world.state(0)));
}

#[test]
fn a_cooperative_of_three_steps_to_the_complete_rules_by_a_vote_and_what_it_decided_before_stands() {
    let mut world = World::new(&THREE, Preset::Trial);
    let before = world.propose(0, approve("qwen"));
    world.sync();
    world.all_yes(before);
    world.settle();
    let open = world.propose(1, approve("llama"));
    world.sync();
    let step = SetRules { rules: 2, deliberation: presets::deliberation() };
    let step = world.propose(0, Action::SetRules(step));
    world.sync();
    world.all_yes(step);
    world.settle();
    assert_eq!(world.phases(step), ["Enacted"; 3]);
    assert!((0..3).all(|who| world.state(who).rules() == 2));
    assert_eq!(world.phases(before), ["Enacted"; 3]);
    // What was open under the rules before is not sealed any more; it is proposed anew.
    world.all_yes(open);
    world.settle();
    assert!(world.phases(open).iter().all(|phase| *phase != "Enacted"));
    let after = world.propose(2, approve("llama"));
    assert_eq!(world.state(2).proposals()[&after].rules, 2);
    world.sync();
    world.all_yes(after);
    world.settle();
    assert_eq!(world.phases(after), ["Enacted"; 3]);
    assert!(world.state(0).proposals()[&after].close_seals.iter().all(|seal| seal.seal.basis.is_some()));
    let back = SetRules { rules: 1, deliberation: presets::deliberation() };
    let draft =
        world.state(0).draft_proposal(Action::SetRules(back), "b".parse().unwrap(), Default::default(), world.now);
    let refused = world.say(0, Body::Proposal(Box::new(draft.unwrap()))).unwrap_err();
    assert_eq!(refused, NotAnchored::Proposal(Invalid::OtherRules { seen: 1, in_force: 2 }));
}

#[test]
fn rules_that_a_quorum_does_not_understand_wait_until_it_does() {
    let mut world = World::new(&THREE, Preset::Trial);
    world.rules_shared = 1;
    let step = SetRules { rules: 2, deliberation: presets::deliberation() };
    let step = world.propose(0, Action::SetRules(step));
    world.sync();
    world.all_yes(step);
    world.settle();
    assert!(matches!(world.phase(0, step), Phase::Closing { sealed: 0, .. }));
    world.rules_shared = 2;
    world.settle();
    assert_eq!(world.phases(step), ["Enacted"; 3]);
}

#[test]
fn the_step_to_other_rules_is_shown_with_its_votes_once_it_is_in_force() {
    let mut world = World::new(&THREE, Preset::Trial);
    let step = SetRules { rules: 2, deliberation: presets::deliberation() };
    let step = world.propose(0, Action::SetRules(step));
    world.sync();
    let vote = world.vote(0, step, Choice::Yes, 0).unwrap();
    world.all_yes(step);
    world.settle();
    assert_eq!(world.state(0).rules(), 2);
    assert_eq!(world.verdict(0, vote), Verdict::Counted);
    let state = &world.state(0).proposals()[&step];
    assert_eq!((&state.invalid, state.certificates.len()), (&None, 1));
}

#[test]
fn a_vote_of_somebody_who_may_not_vote_is_shown_with_that_reason() {
    let mut world = complete(&FOUR);
    let member = world.people[3].id();
    let proposal = world.propose(0, expel(&member));
    world.sync();
    let vote = Vote { proposal, choice: Choice::No, vseq: 0, ground: None, reason: None };
    let vote = world.people[3].human(world.coop(), world.now, Body::Vote(vote));
    // An honest operator would not anchor it.
    world.anchor(3, &vote);
    world.settle();
    assert_eq!(world.verdict(0, vote.id()), Verdict::NotElector);
    world.wait(8 * 24 * HOUR);
    world.settle();
    assert_eq!(world.verdict(0, vote.id()), Verdict::NotElector);
}

#[test]
fn a_cancellation_cannot_be_cancelled() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    let cancel = world.propose(0, Action::CancelProposal(CancelProposal { proposal }));
    world.sync();
    for who in 0..4 {
        let again = Action::CancelProposal(CancelProposal { proposal: cancel });
        let title = "Go on".parse().unwrap();
        let draft = world.state(who).draft_proposal(again, title, Default::default(), world.now).unwrap();
        let refused = world.say(who, Body::Proposal(Box::new(draft))).unwrap_err();
        assert_eq!(refused, NotAnchored::Proposal(Invalid::UnknownTarget(cancel)));
    }
}

#[test]
fn a_fourth_and_a_fifth_member_come_under_the_complete_rules() {
    let mut world = quick(&THREE);
    for name in ["delft", "espoo"] {
        let newcomer = person(name);
        let application = newcomer.application(world.coop(), world.now).envelope().clone();
        let proposal = world.propose(0, Action::Admit(crate::body::proposal::Admit { application }));
        world.sync();
        world.all_yes(proposal);
        world.settle();
        assert_eq!(world.phases(proposal), vec!["Enacted"; world.people.len()]);
        let founding = world.founding();
        world.people.push(newcomer);
        world.commons.push(Commons::new(founding, Limits::default()));
        world.settle();
    }
    assert_eq!(world.state(4).membership().unwrap().members.len(), 5);
    assert_eq!(world.state(0).quorum(), 4);
}

#[test]
fn a_vote_that_one_operator_alone_held_in_time_is_in_nobodys_box() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    for who in 0..3 {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    world.settle();
    // Delft votes in time, alone; the others hear of it only after they have offered.
    world.cut.insert(3);
    let late = world.vote(3, proposal, Choice::No, 0).unwrap();
    world.wait(73 * HOUR);
    world.settle();
    world.seal(3);
    world.cut.clear();
    world.wait(HOUR);
    world.settle();
    for who in 0..4 {
        assert_eq!(world.verdict(who, late), Verdict::NotInBox);
        assert_eq!(world.state(who).proposals()[&proposal].certificates[0].count, 3);
    }
    world.wait(24 * HOUR);
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
}

#[test]
fn a_seal_whose_outcome_does_not_follow_from_its_offers_counts_for_nothing() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    for who in 0..4 {
        world.vote(who, proposal, Choice::No, 0).unwrap();
    }
    world.settle();
    world.wait(73 * HOUR);
    world.settle();
    world.wait(HOUR);
    let honest = sealing::next(world.state(3), &world.people[3].id(), &world.circumstances(3));
    let Some(Body::CloseSeal(seal)) = honest.into_iter().next() else { panic!("no close seal") };
    assert_eq!(seal.outcome, Outcome::Rejected);
    let lie = crate::body::CloseSeal { outcome: Outcome::Passed, ..seal };
    world.append(3, Body::CloseSeal(lie));
    world.settle();
    assert!(
        world.state(0).proposals()[&proposal].close_seals.iter().all(|seal| seal.seal.outcome == Outcome::Rejected)
    );
    assert_eq!(world.phases(proposal), ["Rejected"; 4]);
}

#[test]
fn its_author_takes_a_proposal_back() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    for who in 0..4 {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    // Nobody else can.
    assert!(world.say(1, Body::Withdrawal(Withdrawal { proposal })).is_err());
    world.say(0, Body::Withdrawal(Withdrawal { proposal })).unwrap();
    world.settle();
    for hours in [73, 1] {
        world.wait(hours * HOUR);
        world.settle();
    }
    assert_eq!(world.phases(proposal), ["Withdrawn"; 4]);
}

#[test]
fn a_member_with_an_interest_abstains_and_one_that_is_away_votes_through_another() {
    let mut world = complete(&FOUR);
    let classes = BTreeSet::from([Class::Routine]);
    let to = Some(world.people[0].id());
    let not_after = world.now.plus(Seconds(100 * 24 * HOUR));
    let delegation = Delegation { to, classes, vseq: 0, not_after };
    world.say(3, Body::Delegation(delegation)).unwrap();
    let proposal = world.propose(1, approve("qwen"));
    world.settle();
    world.vote(0, proposal, Choice::Yes, 0).unwrap();
    let refused = world.vote(1, proposal, Choice::Yes, 0).unwrap();
    world.say(1, Body::Recusal(Recusal { proposal })).unwrap();
    world.vote(2, proposal, Choice::No, 0).unwrap();
    world.settle();
    for hours in [73, 1] {
        world.wait(hours * HOUR);
        world.settle();
    }
    let counts = world.state(2).proposals()[&proposal].ballot.tally.counts;
    assert_eq!((counts.yes, counts.no, counts.abstain), (2, 1, 1));
    assert_eq!(world.verdict(2, refused), Verdict::Recused);
}

#[test]
fn a_cancellation_stops_what_has_passed_and_the_slot_is_free_again() {
    let mut world = World::with(&FOUR, Preset::Standard, |charter| {
        charter.parameters.deliberation = Some(presets::deliberation());
        charter.classes.values_mut().for_each(|rules| rules.delay_seconds = Seconds(0));
        charter.classes.get_mut(&Class::Routine).unwrap().timelock_seconds = Seconds(48 * HOUR);
    });
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    for who in 0..4 {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    for hours in [73, 1] {
        world.wait(hours * HOUR);
        world.settle();
    }
    assert_eq!(world.phase(0, proposal).name(), "Queued");
    let cancel = world.propose(1, Action::CancelProposal(CancelProposal { proposal }));
    world.settle();
    for who in 0..3 {
        world.vote(who, cancel, Choice::Yes, 0).unwrap();
    }
    world.settle();
    for hours in [13, 1] {
        world.wait(hours * HOUR);
        world.settle();
    }
    for hours in [0, 72, 1000] {
        world.wait(hours * HOUR);
        world.settle();
        assert_eq!(world.phases(proposal), ["Cancelled"; 4]);
        assert_eq!(world.phase(0, cancel), Phase::Stopped { target: proposal }, "it has no version to wait for");
    }
    assert!(world.state(0).release(&release("qwen").manifest_digest).is_none());
    let again = world.propose(2, approve("llama"));
    assert_eq!(world.state(2).proposals()[&again].proposal.term, 1);
    world.settle();
    for who in 0..4 {
        world.vote(who, again, Choice::Yes, 0).unwrap();
    }
    for hours in [73, 1, 48] {
        world.wait(hours * HOUR);
        world.settle();
    }
    assert_eq!(world.phases(again), ["Enacted"; 4]);
}

#[test]
fn two_proposals_for_one_slot_make_one_version_and_the_other_is_proposed_again() {
    let mut world = quick(&FOUR);
    let one = world.propose(0, approve("qwen"));
    let two = world.propose(1, approve("llama"));
    world.sync();
    world.all_yes(one);
    world.all_yes(two);
    world.settle();
    let phases = [world.phase(0, one), world.phase(0, two)].map(|phase| phase.name());
    assert!(phases.contains(&"Enacted") && phases.contains(&"Superseded"), "{phases:?}");
}

#[test]
fn three_expel_the_fourth_and_it_cannot_stop_them() {
    let mut world = quick(&FOUR);
    let member = world.people[3].id();
    let proposal = world.propose(0, expel(&member));
    world.sync();
    for who in 0..3 {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    assert_eq!(world.vote(3, proposal, Choice::No, 0).unwrap_err(), NotAnchored::Vote(Verdict::NotElector));
    world.cut.insert(3);
    world.settle();
    // It is cut off: the others have tried to tell it for half the vote.
    world.wait(60);
    world.settle();
    assert_eq!(world.phases(proposal)[..3], ["Enacted"; 3]);
    assert_eq!(world.state(0).member(&member).unwrap().standing, MemberStanding::Expelled);
    assert_eq!(world.state(0).membership().unwrap().members.len(), 3);
}

#[test]
fn two_halves_of_four_cannot_expel_each_other() {
    let mut world = quick(&FOUR);
    let (one, other) = (world.people[3].id(), world.people[0].id());
    let against = [world.propose(0, expel(&one)), world.propose(3, expel(&other))];
    world.sync();
    // Each half alone, with both its votes: quorums count all four, so nothing is sealed.
    for (half, proposal) in [([0, 1], against[0]), ([2, 3], against[1])] {
        for who in half {
            world.vote(who, proposal, Choice::Yes, 0).unwrap();
        }
    }
    world.wait(HOUR);
    for half in [[0, 1], [2, 3]] {
        world.cut = (0..4).filter(|who| !half.contains(who)).collect();
        world.settle();
        assert!(half.iter().all(|who| world.state(*who).membership().unwrap().members.len() == 4));
    }
    // Together again they have one membership; the one expulsion that took the slot, if any, is everybody's.
    world.cut.clear();
    world.settle();
    assert!(world.state(0).membership().unwrap().members.len() >= 3);
    assert!((1..4).all(|who| world.state(who).membership() == world.state(0).membership()));
}

#[test]
fn a_leaving_binds_its_slot_and_needs_no_vote() {
    let mut world = quick(&FOUR);
    world.say(3, Body::Leave(Leave::default())).unwrap();
    world.settle();
    for who in 0..4 {
        assert_eq!(world.state(who).member(&world.people[3].id()).unwrap().standing, MemberStanding::Left);
    }
    let version = world.state(0).chain(Scope::Membership).last().unwrap().enacted.clone().unwrap();
    assert!(version.close_seals.len() >= 3 && version.enact_seals.len() >= 3);
}

/// All vote yes on a proposal of `who`, and its box is sealed.
fn passed(world: &mut World, who: usize, name: &str) -> StatementId {
    let proposal = world.propose(who, approve(name));
    world.settle();
    for voter in 0..world.people.len() {
        world.vote(voter, proposal, Choice::Yes, 0).unwrap();
    }
    for hours in [73, 1] {
        world.wait(hours * HOUR);
        world.settle();
    }
    assert_eq!(world.phase(who, proposal).name(), "Queued");
    proposal
}

#[test]
fn what_too_few_enacted_in_time_is_carried_on_into_the_next_term() {
    let mut world = complete(&FOUR);
    let proposal = passed(&mut world, 0, "qwen");
    // Two sign the enactment; the other two are away until its time is over.
    world.cut = BTreeSet::from([2, 3]);
    world.wait(24 * HOUR);
    world.settle();
    world.wait(100 * HOUR);
    world.settle();
    assert_eq!(world.phase(0, proposal), Phase::AwaitingSlot { term: 0 });
    world.cut.clear();
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    let version = world.state(3).chain(Scope::Releases).last().unwrap().enacted.clone().unwrap();
    assert_eq!((version.proposal, version.term), (proposal, 1));
}

#[test]
fn what_nobody_enacted_in_time_expires_and_leaves_its_slot() {
    let mut world = complete(&FOUR);
    let proposal = passed(&mut world, 0, "qwen");
    world.cut = (0..4).collect();
    world.wait(130 * HOUR);
    world.cut.clear();
    world.settle();
    assert_eq!(world.phases(proposal), ["Expired"; 4]);
    let next = passed(&mut world, 1, "llama");
    assert_eq!(world.state(1).proposals()[&next].proposal.term, 1);
    world.wait(24 * HOUR);
    world.settle();
    assert_eq!(world.phases(next), ["Enacted"; 4]);
}

#[test]
fn who_floods_a_box_fills_nobody_s_offer() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    for vseq in 0..=MAX_VSEQ {
        for reason in ["a", "b", "c"] {
            let reason = Some(reason.parse().unwrap());
            let vote = Vote { proposal, choice: Choice::Yes, vseq, ground: None, reason };
            world.say(3, Body::Vote(vote)).unwrap();
        }
    }
    world.vote(0, proposal, Choice::Yes, 0).unwrap();
    world.settle();
    world.wait(73 * HOUR);
    world.settle();
    let offers = &world.state(1).proposals()[&proposal].offers;
    assert_eq!(offers.len(), 4);
    assert!(offers.iter().all(|offer| offer.seal.entries.len() == 5));
}
