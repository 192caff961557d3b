use koinon_core::body::emergency::{Cause, CoSignature, EmergencyOrder, Stop};
use koinon_core::body::keys::KeyUpdate;
use koinon_core::body::{Recusal, Scope};
use koinon_core::dsse::Signer as _;
use koinon_core::ids::{Digest, StatementId};
use koinon_core::testkit::person;

use super::*;
use crate::fixture::World;

const FOUR: [&str; 4] = ["aarhus", "bilbao", "cork", "delft"];

fn told(world: &World, id: StatementId) -> String {
    let found = utterance::find(&world.commons[0], &id.to_string()[..20]).unwrap().unwrap();
    explained(&world.commons[0], found, world.now, &TimeZone::UTC)
}

#[test]
fn an_order_and_the_signatures_under_it_say_whether_they_count() {
    let mut world = World::new(&FOUR);
    let (membership, charter) = (world.state().head(Scope::Membership), world.state().head(Scope::Charter));
    let stop = Stop::Member(world.people[3].id());
    let order = EmergencyOrder { stop, cause: Cause::Safety, membership, charter, text: Default::default() };
    let order = world.say(0, Body::EmergencyOrder(Box::new(order)));
    let text = told(&world, order);
    for said in [
        "emergency-order of aarhus: no new work of or for delft\n",
        "a governance key in force",
        "It has no effect: 1 of the 2 owners that are needed have signed; it lapses at 2026-11-21T11:06:40Z.",
        &format!("What to do: another member signs it: kubectl koinon cosign {order}."),
    ] {
        assert!(text.contains(said), "{said:?} is not in:\n{text}");
    }
    let own = world.say(3, Body::CoSignature(CoSignature { order }));
    assert!(told(&world, own).contains("It has no effect: it is about its own author."), "{}", told(&world, own));
    let good = world.say(1, Body::CoSignature(CoSignature { order }));
    assert!(told(&world, good).contains("It has its effect."));
    assert!(told(&world, order).contains("It has its effect, until 2026-11-21T11:06:40Z."));
}

#[test]
fn keys_that_stay_say_why_and_what_to_do() {
    let mut world = World::new(&FOUR);
    let next = person("next").governance.public_key();
    let id = world.say(0, Body::KeyUpdate(KeyUpdate { number: 1, governance: vec![next] }));
    let text = told(&world, id);
    assert!(text.contains("key-update of aarhus: 1 governance keys, as set 1"), "{text}");
    assert!(text.contains("the keys stay as they are: the new key") && text.contains("keys rotate"), "{text}");
}

#[test]
fn what_no_log_holds_says_who_has_to_anchor_it() {
    let world = World::new(&FOUR);
    let (coop, nothing) = (world.commons[0].founding().coop(), StatementId(Digest::of(b"nothing")));
    let said = world.people[0].human(coop, world.now, Body::CoSignature(CoSignature { order: nothing }));
    let text = |me: usize, said: &Statement| {
        unanchored(world.state(), &world.people[me].id(), said, world.now, &TimeZone::UTC)
    };
    assert!(text(1, &said).contains("Only aarhus's own operator gives it a place"), "{}", text(1, &said));
    assert!(text(0, &said).contains("may anchor it and has not"));
    let mut stranger = person("aarhus");
    stranger.governance = person("thief").governance;
    let forged = stranger.human(coop, world.now, Body::Recusal(Recusal { proposal: nothing }));
    assert!(text(0, &forged).contains("does not anchor it: the statement is signed by"), "{}", text(0, &forged));
}
