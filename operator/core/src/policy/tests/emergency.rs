//! What a few can stop, for how long, and what they cannot touch.

use super::complete::{FOUR, HOUR, complete, quick};
use super::*;
use crate::body::{Cause, CoSignature, EmergencyOrder, Reinstate, Stop, Suspend};
use crate::policy::co_signers;

const SEVEN: [&str; 7] = ["aarhus", "bilbao", "cork", "delft", "espoo", "faro", "ghent"];

fn order(world: &World, stop: Stop, cause: Cause) -> Body {
    let state = world.state(0);
    let (membership, charter) = (state.head(Scope::Membership), state.head(Scope::Charter));
    Body::EmergencyOrder(Box::new(EmergencyOrder { stop, cause, membership, charter, text: Default::default() }))
}

fn stop(world: &World, who: usize) -> Stop {
    Stop::Member(world.people[who].id())
}

fn co_sign(world: &mut World, who: usize, order: StatementId) -> Result<StatementId, NotAnchored> {
    world.say(who, Body::CoSignature(CoSignature { order }))
}

fn is_suspended(world: &World, who: usize) -> bool {
    let member = world.people[who].id();
    let stopped = world.state(0).suspended(&member, world.now).is_some();
    assert_eq!(world.state(0).may_work(&member, world.now), !stopped);
    stopped
}

#[test]
fn as_many_must_sign_as_the_rules_say() {
    let expected = [(1, 1), (2, 1), (3, 2), (4, 2), (6, 2), (7, 3), (10, 4), (100, 34)];
    assert_eq!(expected.map(|(owners, _)| (owners, co_signers(owners))), expected);
}

#[test]
fn an_order_takes_effect_with_enough_signatures_and_lapses_by_itself() {
    let mut world = complete(&SEVEN);
    let body = order(&world, stop(&world, 6), Cause::Safety);
    let id = world.say(0, body).unwrap();
    world.sync();
    assert!(!is_suspended(&world, 6));
    co_sign(&mut world, 1, id).unwrap();
    // Its subject and a member of no version sign in vain, and nobody signs twice.
    assert_eq!(co_sign(&mut world, 6, id), Err(NotAnchored::OrderOver));
    let forced = world.people[6].human(world.coop(), world.now, Body::CoSignature(CoSignature { order: id }));
    world.anchor(6, &forced);
    let again =
        world.people[1].human(world.coop(), world.now.plus(Seconds(1)), Body::CoSignature(CoSignature { order: id }));
    world.anchor(1, &again);
    world.sync();
    let state = &world.state(0).emergencies()[&id];
    assert_eq!((state.owners, state.needed, is_suspended(&world, 6)), (2, 3, false));
    co_sign(&mut world, 2, id).unwrap();
    world.sync();
    let until = T0.plus(Seconds(72 * HOUR));
    let member = world.people[6].id();
    for who in 0..7 {
        assert_eq!(world.state(who).suspended(&member, world.now), Some(Suspension::Ordered { order: id, until }));
        assert!(world.state(who).member(&member).unwrap().may_work(), "no vote has suspended it");
    }
    assert_eq!(world.state(0).next_lapse(world.now), Some(until));
    world.now = until.minus(Seconds(1));
    assert!(is_suspended(&world, 6));
    world.now = until;
    assert!(!is_suspended(&world, 6));
    assert_eq!(co_sign(&mut world, 3, id), Err(NotAnchored::OrderOver));
}

#[test]
fn whoever_is_suspended_speaks_votes_and_seals_and_the_count_stays_the_same() {
    let mut world = quick(&FOUR);
    let body = order(&world, stop(&world, 3), Cause::Fraud);
    let id = world.say(0, body).unwrap();
    world.sync();
    co_sign(&mut world, 1, id).unwrap();
    world.sync();
    assert!(is_suspended(&world, 3));
    assert_eq!((world.state(0).quorum(), world.state(0).active().count()), (3, 4));
    let proposal = world.propose(3, approve("qwen"));
    world.sync();
    world.all_yes(proposal);
    world.sync();
    // Three of four must seal and one is cut off: it counts.
    world.cut.insert(2);
    world.settle();
    assert_eq!(world.phase(3, proposal).name(), "Enacted");
}

#[test]
fn the_same_is_not_ordered_again_for_the_same_cause_within_a_month() {
    let mut world = complete(&FOUR);
    let give = |world: &mut World, cause: Cause| {
        let body = order(world, stop(world, 3), cause);
        let id = world.people[0].human(world.coop(), world.now, body);
        let said = world.state(0).may_anchor(&world.people[0].id(), &id, world.now);
        // Also where its operator does not ask.
        world.anchor(0, &id);
        world.sync();
        let signature =
            world.people[1].human(world.coop(), world.now, Body::CoSignature(CoSignature { order: id.id() }));
        world.anchor(1, &signature);
        world.sync();
        (id.id(), said)
    };
    let (first, said) = give(&mut world, Cause::Fraud);
    assert_eq!((said, is_suspended(&world, 3)), (Ok(()), true));
    world.wait(73 * HOUR);
    let (second, said) = give(&mut world, Cause::Fraud);
    assert_eq!(said, Err(NotAnchored::Order(OrderProblem::Again(first))));
    assert!(!is_suspended(&world, 3));
    assert_eq!(world.state(0).emergencies()[&second].barred_by, Some(first));
    let (_, said) = give(&mut world, Cause::Legal);
    assert_eq!((said, is_suspended(&world, 3)), (Ok(()), true), "another cause is another order");
    // What was barred bars nothing: the month runs from the first one.
    world.now = T0.plus(Seconds(30 * 24 * HOUR));
    let (_, said) = give(&mut world, Cause::Fraud);
    assert_eq!((said, is_suspended(&world, 3)), (Ok(()), true));
}

#[test]
fn one_owner_with_two_members_signs_once_and_those_of_the_subject_s_owner_not_at_all() {
    let one_owner = |pair: [usize; 2]| {
        let mut world = World::with(&SEVEN, Preset::Standard, |charter| {
            charter.parameters.deliberation = Some(crate::presets::deliberation());
            for who in pair {
                charter.founders[who].control_group = "one".parse().unwrap();
            }
        });
        let body = order(&world, stop(&world, 6), Cause::Safety);
        let id = world.say(0, body).unwrap();
        world.sync();
        co_sign(&mut world, 1, id).unwrap();
        world.sync();
        let state = &world.state(0).emergencies()[&id];
        (state.owners, state.needed)
    };
    assert_eq!(one_owner([2, 3]), (2, 2));
    assert_eq!(one_owner([0, 1]), (1, 2));
    assert_eq!(one_owner([1, 6]), (1, 2));
}

#[test]
fn a_release_is_frozen_and_a_key_blocked_for_work_alone() {
    let mut world = quick(&FOUR);
    let (digest, key) = (release("qwen").manifest_digest, world.log(3));
    for stop in [Stop::Release(digest), Stop::Key(key)] {
        let body = order(&world, stop, Cause::KeyCompromise);
        let id = world.say(0, body).unwrap();
        world.sync();
        co_sign(&mut world, 1, id).unwrap();
        world.sync();
    }
    let now = world.now;
    assert!(world.state(2).frozen(&digest, now).is_some() && world.state(2).blocked(&key, now).is_some());
    assert!(world.state(2).frozen(&release("llama").manifest_digest, now).is_none());
    assert!(world.state(2).blocked(&world.log(2), now).is_none());
    // Its log goes on.
    let proposal = world.propose(3, approve("llama"));
    world.sync();
    world.all_yes(proposal);
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    let later = now.plus(Seconds(72 * HOUR));
    assert!(world.state(2).frozen(&digest, later).is_none() && world.state(2).blocked(&key, later).is_none());
}

#[test]
fn an_order_can_say_nothing_about_votes_credits_or_keys() {
    let world = quick(&FOUR);
    let good = order(&world, stop(&world, 3), Cause::Safety).to_json().unwrap();
    let read = |json| Body::read(&crate::kind::Kind::EmergencyOrder, 2, json);
    assert!(matches!(read(good.clone()), Body::EmergencyOrder(_)));
    for (field, value) in [("stop", serde_json::json!({"voteWeight": "delft"})), ("cause", "unease".into())] {
        let mut bad = good.clone();
        bad[field] = value;
        assert!(matches!(read(bad), Body::Opaque(_)), "{field}");
    }
    for field in ["price", "credits", "until", "votes"] {
        let mut bad = good.clone();
        bad[field] = 1.into();
        assert!(matches!(read(bad), Body::Opaque(_)), "{field}");
    }
    assert!(matches!(Body::read(&crate::kind::Kind::EmergencyOrder, 1, good), Body::Opaque(_)));
}

#[test]
fn nobody_orders_with_an_operator_key_or_against_itself_or_a_stranger() {
    let mut world = quick(&FOUR);
    let body = order(&world, stop(&world, 3), Cause::Safety);
    let by_operator = super::keys::signed(&world, 0, body.clone(), &[&person("aarhus").operator]);
    assert!(matches!(
        world.state(0).may_anchor(&world.people[0].id(), &by_operator, T0),
        Err(NotAnchored::WrongKeyRole(_))
    ));
    world.anchor(0, &by_operator);
    assert!(world.state(0).emergencies().is_empty());
    assert_eq!(world.say(3, body), Err(NotAnchored::Order(OrderProblem::OwnSubject)));
    let stranger = order(&world, Stop::Member("zagreb".parse().unwrap()), Cause::Safety);
    assert_eq!(world.say(0, stranger), Err(NotAnchored::Order(OrderProblem::NoMember)));
}

#[test]
fn a_signature_after_the_order_has_lapsed_revives_nothing() {
    let mut world = complete(&FOUR);
    let body = order(&world, stop(&world, 3), Cause::Safety);
    let id = world.say(0, body).unwrap();
    world.sync();
    world.wait(73 * HOUR);
    let late = world.people[1].human(world.coop(), world.now, Body::CoSignature(CoSignature { order: id }));
    world.anchor(1, &late);
    world.sync();
    assert_eq!((world.state(0).emergencies()[&id].owners, is_suspended(&world, 3)), (1, false));
}

#[test]
fn a_vote_suspends_until_another_vote_and_the_member_has_no_ballot_on_either() {
    let mut world = quick(&FOUR);
    let member = world.people[3].id();
    for (action, may_work) in [
        (Action::Suspend(Suspend { member: member.clone() }), false),
        (Action::Reinstate(Reinstate { member: member.clone() }), true),
    ] {
        let draft = world.state(0).draft_proposal(action.clone(), "s".parse().unwrap(), Default::default(), world.now);
        let nobody = Body::Proposal(Box::new(crate::body::Proposal { subject: None, ..draft.unwrap() }));
        assert_eq!(world.say(0, nobody), Err(NotAnchored::Proposal(Invalid::Subject)));
        let proposal = world.propose(0, action);
        assert_eq!(world.state(0).proposals()[&proposal].proposal.class, crate::body::Class::Recall);
        world.sync();
        assert_eq!(world.vote(3, proposal, Choice::No, 0), Err(NotAnchored::Vote(Verdict::NotElector)));
        for who in 0..3 {
            world.vote(who, proposal, Choice::Yes, 0).unwrap();
        }
        world.settle();
        assert_eq!(world.phases(proposal), ["Enacted"; 4]);
        assert_eq!(world.state(3).member(&member).unwrap().may_work(), may_work);
        assert_eq!(is_suspended(&world, 3), !may_work);
        assert_eq!(
            (world.state(0).active().count(), world.state(0).head(Scope::Membership)),
            (4, genesis(Scope::Membership, world.coop()))
        );
        assert!(world.state(0).heads().contains_key(&Scope::Standing));
        // It votes and seals on everything else.
        let other = world.propose(3, if may_work { approve("qwen") } else { approve("llama") });
        world.sync();
        world.all_yes(other);
        world.settle();
        assert_eq!(world.phases(other), ["Enacted"; 4]);
    }
}

#[test]
fn a_beacon_names_no_scope_that_the_release_before_cannot_read_until_something_is_decided_there() {
    let world = quick(&FOUR);
    assert!(!world.state(0).heads().contains_key(&Scope::Standing));
}
