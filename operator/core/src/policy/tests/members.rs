//! Members come and go.

use super::*;
use crate::body::member::Application;
use crate::body::proposal::{Admit, Leave};

/// `sponsor` proposes to admit `name`; returns the newcomer and the proposal.
fn sponsor(world: &mut World, sponsor: usize, name: &str) -> (Person, StatementId) {
    let newcomer = person(name);
    let application = newcomer.application(world.coop(), world.now).envelope().clone();
    let proposal = world.propose(sponsor, Action::Admit(Admit { application }));
    (newcomer, proposal)
}

/// The newcomer's operator begins with an empty replica of the commons.
fn join(world: &mut World, newcomer: Person) {
    let founding = world.founding();
    world.people.push(newcomer);
    world.commons.push(Commons::new(founding, Limits::default()));
}

fn all_vote_yes(world: &mut World, proposal: StatementId) {
    world.sync();
    for who in 0..world.people.len() {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    world.settle();
}

#[test]
fn one_founder_admits_two_others_with_one_vote_each() {
    let mut world = World::new(&["aarhus"], Preset::Trial);
    for name in ["bilbao", "cork"] {
        let (newcomer, proposal) = sponsor(&mut world, 0, name);
        assert_eq!(world.state(0).applicants(world.now).len(), 1);
        all_vote_yes(&mut world, proposal);
        assert_eq!(world.phase(0, proposal).name(), "Enacted");
        join(&mut world, newcomer);
        world.settle();
    }
    for who in 0..3 {
        let active: Vec<String> = world.state(who).active().map(|m| m.id.to_string()).collect();
        assert_eq!(active, THREE);
        assert_eq!(world.state(who).quorum(), 2);
        assert_eq!(world.state(who), world.state(0));
    }
    // The newcomers vote and seal like everybody else.
    let proposal = world.propose(2, approve("qwen"));
    all_vote_yes(&mut world, proposal);
    assert_eq!(world.phases(proposal), ["Enacted"; 3]);
}

#[test]
fn a_newcomer_that_reads_the_whole_commons_at_once_concludes_the_same() {
    let mut world = World::new(&["aarhus"], Preset::Trial);
    for name in ["bilbao", "cork"] {
        let (newcomer, proposal) = sponsor(&mut world, 0, name);
        all_vote_yes(&mut world, proposal);
        join(&mut world, newcomer);
        world.settle();
    }
    let replica = world.commons[0].replica();
    let mut entries: Vec<Statement> =
        replica.logs().flat_map(|(log, _)| replica.range(log, Seq(0), 1000)).map(|e| (*e).clone()).collect();
    entries.reverse();
    let (loaded, refused) = Commons::load(world.founding(), Limits::default(), entries);
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(loaded.state(), world.commons[0].state());
}

#[test]
fn a_fourth_member_waits_for_later_rules() {
    let mut world = World::new(&THREE, Preset::Trial);
    let application = person("delft").application(world.coop(), world.now).envelope().clone();
    let proposal = world
        .state(0)
        .draft_proposal(Action::Admit(Admit { application }), "d".parse().unwrap(), Default::default(), world.now)
        .unwrap();
    let refused = world.say(0, Body::Proposal(Box::new(proposal))).unwrap_err();
    assert_eq!(refused, NotAnchored::Proposal(Invalid::TooManyMembers));
}

#[test]
fn an_id_or_key_of_a_member_is_never_used_again() {
    let mut world = World::new(&["aarhus", "bilbao"], Preset::Trial);
    let mut same_key = person("cork");
    same_key.member.keys.operator = world.people[1].member.keys.operator;
    same_key.operator = person("bilbao").operator;
    let mut same_id = person("cork");
    same_id.member.id = "bilbao".parse().unwrap();
    for applicant in [same_key, same_id] {
        let application = applicant.application(world.coop(), world.now).envelope().clone();
        let action = Action::Admit(Admit { application });
        let proposal =
            world.state(0).draft_proposal(action, "d".parse().unwrap(), Default::default(), world.now).unwrap();
        let refused = world.say(0, Body::Proposal(Box::new(proposal))).unwrap_err();
        assert_eq!(refused, NotAnchored::Proposal(Invalid::IdOrKeyUsed));
    }
}

#[test]
fn sponsors_sign_the_same_proposal_also_one_after_the_other() {
    let mut world = World::with(&["aarhus", "bilbao"], Preset::Trial, |c| c.parameters.sponsors = 2);
    let application = person("cork").application(world.coop(), world.now).envelope().clone();
    let action = Action::Admit(Admit { application });
    let proposal = world.state(0).draft_proposal(action, "d".parse().unwrap(), Default::default(), world.now).unwrap();
    let draft = Draft {
        issued_at: world.now,
        ..world.people[0].draft_for_tests(world.coop(), Body::Proposal(Box::new(proposal)))
    };
    let (aarhus, bilbao) = (&world.people[0], &world.people[1]);
    let alone = draft.sign(&aarhus.governance, &[]).unwrap();
    let error = world.state(0).check_proposal(&alone).unwrap_err();
    assert_eq!(error, Invalid::Sponsors { seen: 1, needed: 2 });
    let together = draft.sign(&aarhus.governance, &[&bilbao.governance]).unwrap();
    let by_an_operator = draft.sign(&aarhus.governance, &[&bilbao.operator]).unwrap();
    assert!(world.state(0).check_proposal(&by_an_operator).is_err());
    assert_eq!(world.state(0).check_proposal(&together), Ok(()));
    // The copy with one signature was anchored first: a second anchor adds the other one.
    world.anchor(0, &alone);
    assert!(world.state(0).proposals()[&alone.id()].invalid.is_some());
    let (me, log) = (world.people[0].id(), world.log(0));
    assert_eq!(world.commons[0].anchoring(&me, &log, &together, world.now), Anchoring::Anchor);
    world.anchor(0, &together);
    assert_eq!(world.state(0).proposals()[&alone.id()].invalid, None);
}

#[test]
fn a_member_leaves_without_a_vote_and_keeps_no_say_in_what_follows() {
    let mut world = World::new(&THREE, Preset::Trial);
    world.say(2, Body::Leave(Leave::default())).unwrap();
    world.seal(2);
    assert_eq!(world.state(2).member(&world.people[2].id()).unwrap().standing, MemberStanding::Leaving);
    world.settle();
    for who in 0..3 {
        let state = world.state(who);
        assert_eq!(state.active().count(), 2);
        assert_eq!(state.member(&world.people[2].id()).unwrap().standing, MemberStanding::Left);
        assert_eq!(state.member_by_operator(&world.log(2)), None);
    }
    let proposal = world.propose(0, approve("qwen"));
    world.sync();
    assert!(matches!(world.vote(2, proposal, Choice::No, 0), Err(NotAnchored::NotActive(_))));
    world.vote(0, proposal, Choice::Yes, 0).unwrap();
    world.vote(1, proposal, Choice::Yes, 0).unwrap();
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 3]);
}

#[test]
fn of_two_members_one_can_leave_and_the_last_one_stays() {
    let mut world = World::new(&["aarhus", "bilbao"], Preset::Trial);
    world.say(1, Body::Leave(Leave::default())).unwrap();
    world.settle();
    assert_eq!(world.state(0).active().count(), 1);
    world.say(0, Body::Leave(Leave::default())).unwrap();
    world.settle();
    assert_eq!(world.state(0).active().count(), 1);
}

#[test]
fn a_leaving_and_an_admission_that_meet_take_one_place_after_the_other() {
    let mut world = World::new(&["aarhus", "bilbao"], Preset::Trial);
    let (_, proposal) = sponsor(&mut world, 0, "cork");
    world.sync();
    world.vote(0, proposal, Choice::Yes, 0).unwrap();
    world.vote(1, proposal, Choice::Yes, 0).unwrap();
    world.say(1, Body::Leave(Leave::default())).unwrap();
    world.settle();
    // The leaving was ready first; the admission pinned the members before it and has to be proposed again.
    assert_eq!(world.state(0).chain(Scope::Membership).len(), 2);
    let left = world.state(0).member(&world.people[1].id()).unwrap().standing == MemberStanding::Left;
    let admitted = world.phase(0, proposal).name() == "Enacted";
    assert!(left != admitted, "left {left}, admitted {admitted}");
    assert_eq!(world.state(0), world.state(1));
}

#[test]
fn a_proposal_that_pins_members_of_long_ago_is_stale() {
    let mut world = World::new(&["aarhus", "bilbao"], Preset::Trial);
    let old = world.state(0).head(Scope::Membership);
    world.say(1, Body::Leave(Leave::default())).unwrap();
    world.settle();
    // While the old version could honestly still be the newest somebody knows, it may be pinned; afterwards not.
    let now = world.now;
    for (later, expected) in [(10, None), (3601, Some("Stale"))] {
        world.now = now.plus(Seconds(later));
        let mut proposal = world
            .state(0)
            .draft_proposal(approve("qwen"), "d".parse().unwrap(), Default::default(), world.now)
            .unwrap();
        proposal.membership = old;
        let id = world.say(0, Body::Proposal(Box::new(proposal))).unwrap();
        let phase = world.phase(0, id).name();
        assert_eq!((phase == "Stale").then_some("Stale"), expected, "{phase} after {later} s");
    }
}

#[test]
fn an_application_is_only_for_its_own_cooperative() {
    let world = World::new(&["aarhus"], Preset::Trial);
    let elsewhere = CoopId(Digest::of(b"elsewhere"));
    let application = person("bilbao").application(elsewhere, T0).envelope().clone();
    let action = Action::Admit(Admit { application });
    let proposal = world.state(0).draft_proposal(action, "d".parse().unwrap(), Default::default(), T0).unwrap();
    let draft = world.people[0].draft_for_tests(world.coop(), Body::Proposal(Box::new(proposal)));
    assert!(draft.sign(&world.people[0].governance, &[]).is_err());
    let _ = Application { member: person("bilbao").member };
}
