use koinon_core::ids::{Seconds, StatementId};

use super::*;
use crate::fixture::{World, membership};
use crate::say;

const FOUR: [&str; 4] = ["aarhus", "bilbao", "cork", "delft"];

fn ordered(world: &mut World) -> StatementId {
    let stop = Stop::Member(world.people[3].id());
    let order = order(world.state(), stop, Cause::Fraud, "The meters lie.".parse().unwrap()).unwrap();
    world.say(0, Body::EmergencyOrder(Box::new(order)))
}

fn listed_rows(world: &World, all: bool) -> Vec<Vec<String>> {
    rows(world.state(), all, world.now, &TimeZone::UTC)
}

#[test]
fn before_it_is_signed_an_order_shows_what_it_stops_and_how_many_must_sign() {
    let world = World::new(&FOUR);
    let stop = Stop::Member(world.people[3].id());
    let order = order(world.state(), stop, Cause::Safety, "Smoke.".parse().unwrap()).unwrap();
    let text = before_signing(world.state(), &order, world.now, &TimeZone::UTC);
    for said in [
        "Emergency order: no new work of or for delft\n",
        "  cause    safety\n  | Smoke.\n",
        "  needs    2 of 4 owners, this one included; no vote\n",
        "  lapses   2026-11-21T11:06:40Z, if it is signed now\n",
        "  again    for this cause not before 2026-12-18T11:06:40Z\n",
    ] {
        assert!(text.contains(said), "{said:?} is not in:\n{text}");
    }
}

#[test]
fn what_is_not_there_is_not_stopped() {
    let world = World::new(&FOUR);
    let refused = |stop| order(world.state(), stop, Cause::Legal, Prose::default()).unwrap_err().to_string();
    assert!(refused(Stop::Member("espoo".parse().unwrap())).contains("espoo is no member"));
    let nothing = koinon_core::ids::Digest::of(b"nothing");
    assert!(refused(Stop::Release(ManifestDigest(nothing))).contains("no model that is approved"));
    assert!(refused(Stop::Key(PublicKey(nothing.0))).contains("no member's key"));
}

#[test]
fn the_list_says_who_has_signed_how_many_more_and_when_it_lapses() {
    let mut world = World::new(&FOUR);
    assert!(listed_rows(&world, true).is_empty());
    let id = ordered(&mut world);
    let row = listed_rows(&world, false).remove(0);
    assert_eq!(row[1..6], ["no new work of or for delft", "fraud", "aarhus", "1/2: aarhus", "waits for 1 more"]);
    let told = told(&world.commons[0], find(world.state(), &id.to_string()[..16]).unwrap(), world.now, &TimeZone::UTC);
    assert!(told.contains("| The meters lie.\n"), "{told}");
    world.say(1, Body::CoSignature(CoSignature { order: id }));
    let row = listed_rows(&world, false).remove(0);
    assert_eq!(row[4..], ["2/2: aarhus and bilbao", "in effect", "2026-11-21T11:06:40Z, in 3d"]);
    world.now = world.now.plus(Seconds(3 * 86_400));
    assert!(listed_rows(&world, false).is_empty());
    assert_eq!(listed_rows(&world, true)[0][5], "lapsed");
    assert!(find(world.state(), "sha256:zz").unwrap_err().to_string().contains("emergencies --all"));
}

#[test]
fn a_signature_that_would_not_count_is_refused_with_where_to_look() {
    let mut world = World::new(&FOUR);
    let order = ordered(&mut world);
    let sign = |world: &World, who: usize| {
        let me = membership(world.commons[0].founding().coop(), &world.people[who]);
        let body = Body::CoSignature(CoSignature { order });
        let statement = say::signed(&me, body, &[&world.people[who].governance]).unwrap();
        say::check_at(world.state(), &me, &statement, now().max(world.now))
    };
    let own = sign(&world, 3).unwrap_err().to_string();
    assert!(own.contains("is about this member") && own.contains("kubectl koinon emergencies"), "{own}");
}
