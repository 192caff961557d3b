//! What people are told of what they said.

use super::complete::{FOUR, HOUR, complete};
use super::hearing::expel;
use super::*;
use crate::body::keys::KeyUpdate;
use crate::body::{Appeal, Cause, CoSignature, Document, EmergencyOrder, EvidenceRef, Reply, Stop};
use crate::dsse::Signer as _;
use crate::policy::{KeyProblem, Said};

/// Anchors it whether it counts or not, and tells everybody.
fn force(world: &mut World, who: usize, body: Body) -> Statement {
    let statement = world.people[who].human(world.coop(), world.now, body);
    world.anchor(who, &statement);
    world.sync();
    statement
}

fn said(world: &World, statement: &Statement) -> Said {
    world.state(0).said(statement, statement.header().issued_at, world.now).unwrap()
}

#[test]
fn an_order_says_how_many_are_missing_then_until_when_it_holds_and_that_it_has_lapsed() {
    let mut world = complete(&FOUR);
    let (membership, charter) = (world.state(0).head(Scope::Membership), world.state(0).head(Scope::Charter));
    let stop = Stop::Member(world.people[3].id());
    let order = EmergencyOrder { stop, cause: Cause::Safety, membership, charter, text: Default::default() };
    let body = || Body::EmergencyOrder(Box::new(order.clone()));
    let ordered = force(&mut world, 0, body());
    let until = T0.plus(Seconds(72 * HOUR));
    assert_eq!(said(&world, &ordered), Said::Awaits { owners: 1, needed: 2, until });
    let sign = || Body::CoSignature(CoSignature { order: ordered.id() });
    let own = force(&mut world, 3, sign());
    assert_eq!(said(&world, &own), Said::OwnSubject);
    let by = force(&mut world, 1, sign());
    assert_eq!(said(&world, &by), Said::InEffect);
    assert_eq!(said(&world, &ordered), Said::InEffectUntil(until));
    world.now = until;
    assert_eq!(said(&world, &ordered), Said::Lapsed(until));
    let late = force(&mut world, 2, sign());
    assert_eq!(said(&world, &late), Said::TooLate(until));
    let again = force(&mut world, 0, body());
    assert_eq!(said(&world, &again), Said::Barred(ordered.id()));
    let nowhere = force(&mut world, 2, Body::CoSignature(CoSignature { order: late.id() }));
    assert_eq!(said(&world, &nowhere), Said::UnknownTarget);
    let against_itself = force(&mut world, 3, body());
    assert_eq!(said(&world, &against_itself), Said::NoOrder);
}

#[test]
fn keys_say_why_they_stay() {
    let mut world = complete(&FOUR);
    let next = crate::testkit::person("next").governance.public_key();
    let unproved = force(&mut world, 0, Body::KeyUpdate(KeyUpdate { number: 1, governance: vec![next] }));
    assert_eq!(said(&world, &unproved), Said::Keys(KeyProblem::NotProved(next)));
    let mine = world.people[0].governance.public_key();
    let good = force(&mut world, 0, Body::KeyUpdate(KeyUpdate { number: 1, governance: vec![mine] }));
    assert!(said(&world, &good).in_effect());
}

#[test]
fn an_appeal_says_what_it_lacks() {
    let mut world = complete(&FOUR);
    let piece = |name: &str| {
        EvidenceRef::Document(Document {
            digest: Digest::of(name.as_bytes()),
            text: "What the meters showed".parse().unwrap(),
        })
    };
    let appeal =
        |proposal, evidence| Body::Appeal(Appeal { proposal, evidence: vec![evidence], text: Default::default() });
    let member = world.people[3].id();
    let id = world.propose(0, expel(&member));
    world.settle();
    let replied = force(&mut world, 3, Body::Reply(Reply { proposal: id, text: Default::default() }));
    assert_eq!(said(&world, &replied), Said::InEffect);
    let others = force(&mut world, 1, Body::Reply(Reply { proposal: id, text: Default::default() }));
    assert_eq!(said(&world, &others), Said::NotItsPlace(member));
    let early = force(&mut world, 3, appeal(id, piece("early")));
    assert_eq!(said(&world, &early), Said::NotPassed);
    for who in 0..3 {
        world.vote(who, id, Choice::Yes, 0).unwrap();
    }
    for hours in [85, 84, 1] {
        world.wait(hours * HOUR);
        world.settle();
    }
    // What was said before the box closed is an appeal too, once it has passed.
    assert_eq!(said(&world, &early), Said::InEffect);
    let second = force(&mut world, 3, appeal(id, piece("second")));
    assert_eq!(said(&world, &second), Said::Second(early.id()));
    let old = force(&mut world, 3, appeal(id, piece("first")));
    assert_eq!(said(&world, &old), Said::NoNews);
    let strangers = force(&mut world, 1, appeal(id, piece("other")));
    assert_eq!(said(&world, &strangers), Said::NoFirstVote);
}
