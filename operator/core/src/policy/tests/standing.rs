//! Members that are not counted: new ones, and those that have fallen silent.

use super::complete::{FOUR, HOUR, complete};
use super::*;
use crate::body::proposal::{Admit, Leave};
use crate::body::{Confirm, MarkDormant, Reactivate};
use crate::presets;

const PROBATION: i64 = 24 * HOUR;

fn with_probation(names: &[&str]) -> World {
    World::with(names, Preset::Trial, |charter| {
        charter.parameters.deliberation = Some(presets::deliberation());
        charter.parameters.probation_seconds = Seconds(PROBATION);
    })
}

/// Everybody that is counted votes yes, and what follows is sealed.
fn decide(world: &mut World, proposal: StatementId) {
    world.sync();
    for who in 0..world.people.len() {
        let id = world.people[who].id();
        if world.state(0).active().any(|member| member.id == id) && !world.cut.contains(&who) {
            world.vote(who, proposal, Choice::Yes, 0).unwrap();
        }
    }
    world.settle();
}

/// `name` is admitted on probation and begins with an empty replica.
fn admit(world: &mut World, name: &str) -> MemberId {
    let newcomer = person(name);
    let application = newcomer.application(world.coop(), world.now).envelope().clone();
    let proposal = world.propose(0, Action::Admit(Admit { application }));
    decide(world, proposal);
    assert_eq!(world.phase(0, proposal).name(), "Enacted");
    let (id, founding) = (newcomer.id(), world.founding());
    world.people.push(newcomer);
    world.commons.push(Commons::new(founding, Limits::default()));
    world.settle();
    id
}

fn confirm(world: &World, member: &MemberId) -> Action {
    assert!(world.state(0).member(member).is_some());
    Action::Confirm(Confirm { member: member.clone() })
}

#[test]
fn a_new_member_works_within_limits_and_is_counted_only_when_it_is_confirmed() {
    let mut world = with_probation(&THREE);
    let member = admit(&mut world, "delft");
    let state = world.state(3).member(&member).unwrap();
    assert_eq!((state.standing, state.may_work()), (MemberStanding::Probationary, true));
    assert_eq!([0, 1, 3, 4, 100].map(usable_on_probation), [0, 1, 1, 1, 25]);
    assert_eq!(world.state(3).member(&world.people[0].id()).unwrap().standing, MemberStanding::Active);
    assert_eq!((world.state(3).active().count(), world.state(3).present().count(), world.state(3).quorum()), (3, 4, 2));
    assert!(world.state(3).member_by_operator(&world.log(3)).is_some());
    // It neither votes nor proposes nor seals.
    let proposal = world.propose(0, approve("qwen"));
    world.sync();
    let refused = world.vote(3, proposal, Choice::No, 0).unwrap_err();
    assert_eq!(refused, NotAnchored::Vote(Verdict::NotElector));
    assert!(!world.seal(3));
    let draft = world.state(3).draft_proposal(approve("llama"), "l".parse().unwrap(), Default::default(), world.now);
    let refused = world.say(3, Body::Proposal(Box::new(draft.unwrap()))).unwrap_err();
    assert_eq!(refused, NotAnchored::Proposal(Invalid::AuthorNotActive(member.clone())));
    decide(&mut world, proposal);
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    // Its probation runs from when its admission took effect; no vote on it opens before the end.
    let until = match world.state(0).membership().unwrap().aside[&member].why {
        Why::Probation { until } => until,
        Why::Dormant { .. } => panic!("it is new"),
    };
    assert!(until >= T0.plus(Seconds(PROBATION)));
    let action = confirm(&world, &member);
    let mut early =
        world.state(0).draft_proposal(action.clone(), "c".parse().unwrap(), Default::default(), world.now).unwrap();
    assert_eq!(early.opens_at, until);
    early.opens_at = world.now;
    let refused = world.say(0, Body::Proposal(Box::new(early))).unwrap_err();
    assert!(matches!(refused, NotAnchored::Proposal(Invalid::Time { what: "opensAt", .. })), "{refused}");
    world.now = until;
    let proposal = world.propose(0, action);
    decide(&mut world, proposal);
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    assert_eq!(world.state(1).member(&member).unwrap().standing, MemberStanding::Active);
    assert_eq!((world.state(1).active().count(), world.state(1).quorum()), (4, 3));
    let proposal = world.propose(3, approve("llama"));
    world.cut.insert(2);
    decide(&mut world, proposal);
    world.wait(120);
    world.settle();
    assert_eq!(world.phase(3, proposal).name(), "Enacted");
}

#[test]
fn from_three_members_to_four_everybody_seals_and_probation_alone_needs_only_a_quorum() {
    let mut world = with_probation(&THREE);
    world.cut.insert(2);
    let application = person("delft").application(world.coop(), world.now).envelope().clone();
    let proposal = world.propose(0, Action::Admit(Admit { application }));
    decide(&mut world, proposal);
    world.wait(120);
    world.settle();
    assert_eq!(world.phase(0, proposal).name(), "Enacted");
    world.wait(2 * PROBATION);
    let action = confirm(&world, &"delft".parse().unwrap());
    let proposal = world.propose(0, action);
    decide(&mut world, proposal);
    world.wait(120);
    world.settle();
    assert!(matches!(world.phase(0, proposal), Phase::Queued { signed: 2, needed: 3, .. }));
    world.cut.clear();
    world.settle();
    assert_eq!(world.phase(0, proposal).name(), "Enacted");
}

#[test]
fn a_new_member_leaves_without_changing_who_is_counted() {
    let mut world = with_probation(&["aarhus"]);
    let member = admit(&mut world, "bilbao");
    world.say(1, Body::Leave(Leave::default())).unwrap();
    world.settle();
    assert_eq!(world.state(0).member(&member).unwrap().standing, MemberStanding::Left);
    assert_eq!((world.state(0).active().count(), world.state(0).present().count()), (1, 1));
}

#[test]
fn only_a_new_member_is_confirmed_and_only_once() {
    let world = with_probation(&FOUR);
    let member = world.people[1].id();
    let action = confirm(&world, &member);
    let draft = world.state(0).draft_proposal(action, "c".parse().unwrap(), Default::default(), world.now).unwrap();
    let refused = signed(&world, draft);
    assert_eq!(refused, Err(Invalid::NotOnProbation(member)));
}

fn signed(world: &World, proposal: crate::body::Proposal) -> Result<(), Invalid> {
    let statement = world.people[0].human(world.coop(), world.now, Body::Proposal(Box::new(proposal)));
    world.state(0).check_proposal(&statement)
}

#[test]
fn probation_is_for_the_complete_rules() {
    let numbers = |rules: u32| {
        let mut parameters = presets::parameters(Preset::Trial);
        parameters.probation_seconds = Seconds(PROBATION);
        parameters.deliberation = (rules == 2).then(presets::deliberation);
        crate::body::charter::validate_numbers(&parameters, &presets::classes(Preset::Trial))
    };
    assert!(numbers(1).is_err());
    assert_eq!(numbers(2), Ok(()));
}

const FIVE: [&str; 5] = ["aarhus", "bilbao", "cork", "delft", "espoo"];
const MONTH: i64 = 30 * 24 * HOUR;

fn mark(world: &World, who: usize) -> Action {
    Action::MarkDormant(MarkDormant { member: world.people[who].id() })
}

fn wake(world: &World, who: usize) -> Action {
    Action::Reactivate(Reactivate { member: world.people[who].id() })
}

/// Three days of voting, and all that is sealed afterwards.
fn three_days(world: &mut World, proposal: StatementId) {
    decide(world, proposal);
    for hours in [73, 1, 24] {
        world.wait(hours * HOUR);
        world.settle();
    }
}

#[test]
fn a_silent_member_is_counted_no_more_and_again_after_a_word_of_its_own() {
    let mut world = complete(&FIVE);
    world.append(4, Body::NoticeSent(note()));
    world.settle();
    world.wait(MONTH + 1);
    world.cut.insert(4);
    let before = world.propose(0, approve("qwen"));
    let proposal = world.propose(0, mark(&world, 4));
    three_days(&mut world, proposal);
    assert_eq!(world.phase(0, proposal).name(), "Enacted");
    let state = world.state(0);
    let silent = state.member(&world.people[4].id()).unwrap();
    assert_eq!((silent.standing, silent.last_entry), (MemberStanding::Dormant, Some(T0)));
    assert_eq!((state.active().count(), state.present().count(), state.quorum()), (4, 5, 3));
    assert_eq!(state.proposals()[&before].sealers.len(), 5, "what was open keeps its members");
    // Nobody speaks for it: without an entry of its own a vote to count it again comes to nothing.
    let proposal = world.propose(1, wake(&world, 4));
    three_days(&mut world, proposal);
    assert_eq!(world.phase(0, proposal).name(), "Unheard");
    world.cut.clear();
    let proposal = world.propose(1, wake(&world, 4));
    world.settle();
    assert!(world.state(0).notices().iter().any(|notice| notice.seal.proposal == proposal), "its operator answers");
    three_days(&mut world, proposal);
    assert_eq!(world.phases(proposal), ["Enacted"; 5]);
    assert_eq!(world.state(4).member(&world.people[4].id()).unwrap().standing, MemberStanding::Active);
    assert_eq!(world.state(4).quorum(), 4);
}

fn note() -> crate::body::NoticeSent {
    let proposal = StatementId(Digest::of(b"any"));
    crate::body::NoticeSent { proposal, notice: crate::body::Notice::Received }
}

#[test]
fn a_member_that_hears_of_it_in_time_is_not_taken_for_silent() {
    let mut world = complete(&FIVE);
    world.wait(MONTH + 1);
    let proposal = world.propose(0, mark(&world, 4));
    three_days(&mut world, proposal);
    assert_eq!(world.phases(proposal), ["Refuted"; 5]);
    assert_eq!(world.state(0).active().count(), 5);
}

#[test]
fn a_vote_on_something_else_shows_that_its_author_lives_and_counts_only_there() {
    let mut world = complete(&FIVE);
    world.wait(MONTH + 1);
    let other = world.propose(0, approve("qwen"));
    let proposal = world.propose(0, mark(&world, 4));
    world.sync();
    world.vote(4, other, Choice::Yes, 0).unwrap();
    world.sync();
    let state = &world.state(0).proposals()[&proposal];
    assert_eq!(state.entries.len(), 1, "it is in the box");
    assert!(state.votes.is_empty());
    assert_eq!(state.ballot.tally.counts.turnout(), 0);
    three_days(&mut world, proposal);
    assert_eq!(world.phases(proposal), ["Refuted"; 5]);
}

#[test]
fn nobody_proposes_it_of_a_member_that_was_heard_within_the_period() {
    let mut world = complete(&FIVE);
    world.append(4, Body::NoticeSent(note()));
    world.sync();
    world.wait(MONTH - 1);
    let draft = |world: &World| {
        world.state(0).draft_proposal(mark(world, 4), "m".parse().unwrap(), Default::default(), world.now).unwrap()
    };
    let heard = Invalid::NotSilent { member: world.people[4].id(), last_entry: T0 };
    assert_eq!(signed(&world, draft(&world)), Err(heard));
    // Whoever does all the same is refuted by the entry, however old the others' knowledge is.
    let statement = world.people[0].human(world.coop(), world.now, Body::Proposal(Box::new(draft(&world))));
    world.anchor(0, &statement);
    world.cut.insert(4);
    three_days(&mut world, statement.id());
    assert_eq!(world.phase(0, statement.id()).name(), "Refuted");
    world.wait(2);
    assert_eq!(signed(&world, draft(&world)), Ok(()));
}

#[test]
fn a_word_that_only_one_operator_had_in_time_is_in_nobodys_box() {
    let mut world = complete(&FIVE);
    world.wait(MONTH + 1);
    world.cut.insert(4);
    let proposal = world.propose(0, mark(&world, 4));
    decide(&mut world, proposal);
    world.wait(73 * HOUR);
    world.settle();
    // The others have offered what they held; it comes back an hour later.
    world.cut.clear();
    world.settle();
    assert!(world.append(4, Body::NoticeSent(note())).log_seq().is_some());
    for hours in [1, 24] {
        world.wait(hours * HOUR);
        world.settle();
    }
    assert_eq!(world.phases(proposal), ["Enacted"; 5]);
}
