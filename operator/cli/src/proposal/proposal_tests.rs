use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use koinon_core::body::entry::Outcome;
use koinon_core::body::proposal::{Action, Choice, Delegation, Recusal, RemoveEngine};
use koinon_core::body::{Appeal, Body, Class, Document, EvidenceRef, Reply};
use koinon_core::ids::{Seconds, StatementId};

use super::view::Source;
use super::*;
use crate::fixture::World;

fn change() -> Action {
    Action::RemoveEngine(RemoveEngine { name: "vllm".parse().unwrap() })
}

fn view(world: &World, id: StatementId) -> View {
    View::new(&world.commons[0], &world.state().proposals()[&id], world.now, &TimeZone::UTC)
}

fn shown(world: &World, id: StatementId) -> String {
    text::text(&view(world, id), world.now)
}

#[test]
fn an_open_vote_shows_who_has_voted_and_what_would_change_the_result() {
    let mut world = World::new(&["aarhus", "bilbao", "cork", "delft"]);
    let id = world.propose(0, change());
    world.vote(0, id, Choice::Yes, 0);
    world.now = world.now.plus(Seconds(60));
    let text = shown(&world, id);
    for said in [
        "Open: votes count",
        "Tally of what this cluster holds (1 entry)",
        "1 yes, 0 no, 0 abstain, 0 veto, of 4 with a vote",
        "taking part   1 of 2, not reached: at least 1/3 of the 4 electors",
        "one yes of bilbao, cork or delft passes it",
        "one no of bilbao, cork or delft rejects it",
        "one veto of bilbao, cork or delft blocks it",
        "aarhus takes it back",
        "bilbao   -           -                      has not voted",
        "2026-11-18T12:06:40Z, in 59m: votes count until here",
        "2026-11-18T12:07:40Z, in 60m: operators offer",
        "2026-11-18T12:08:40Z, in 61m: operators seal the box that enough offers make",
    ] {
        assert!(text.contains(said), "{said:?} is not in:\n{text}");
    }
    assert!(!text.contains("Seals of"), "{text}");
    assert_eq!(view(&world, id).as_it_stands, Outcome::QuorumNotMet);
}

#[test]
fn a_delegation_and_an_interest_are_shown_with_their_effect() {
    let mut world = World::new(&["aarhus", "bilbao", "cork", "delft"]);
    let to = Some(world.people[0].id());
    let not_after = world.now.plus(Seconds(86_400));
    let classes = BTreeSet::from([Class::Routine]);
    world.say(3, Body::Delegation(Delegation { to, classes, vseq: 0, not_after }));
    let id = world.propose(1, change());
    world.say(2, Body::Recusal(Recusal { proposal: id }));
    let before = shown(&world, id);
    assert!(before.contains("the delegation of delft to aarhus counts once the other votes"), "{before}");
    assert!(before.contains("cork declared an interest and abstains"), "{before}");
    assert!(before.contains("one yes of aarhus, bilbao or delft passes it"), "{before}");
    world.vote(0, id, Choice::Yes, 0);
    let after = shown(&world, id);
    assert!(after.contains("2 yes, 0 no, 1 abstain, 0 veto, of 4"), "{after}");
    assert!(after.contains("through aarhus, to whom it left its vote"), "{after}");
    assert!(after.contains("aarhus or delft changing from yes to no rejects it"), "{after}");
}

#[test]
fn a_vote_that_does_not_count_is_shown_with_what_to_do() {
    let mut world = World::new(&["aarhus", "bilbao", "cork", "delft"]);
    let id = world.propose(0, change());
    let early = world.vote(1, id, Choice::No, 0);
    world.vote(1, id, Choice::Yes, 1);
    let (void, other) = (world.vote(2, id, Choice::Yes, 0), world.vote(2, id, Choice::No, 0));
    let text = shown(&world, id);
    assert!(text.contains("Superseded: replaced by a later vote of the same owner"), "{text}");
    assert!(text.contains("what to do: nothing is lost"), "{text}");
    assert!(text.contains("its vote does not count: its author cast two different votes"), "{text}");
    let shown = view(&world, id);
    let verdict = |id| shown.votes.iter().find(|vote| vote.id == id).unwrap().verdict;
    assert_eq!([verdict(early), verdict(void), verdict(other)], ["Superseded", "Equivocation", "Equivocation"]);
    assert!(shown.ways.iter().all(|way| !way.of.contains(&"cork".to_owned())), "cork has no voice left here");
    assert_eq!(shown.votes[0].reason.as_deref(), Some("as agreed"));
    assert_eq!(shown.votes[0].key.unwrap(), world.people[1].member.keys.governance[0]);
}

#[test]
fn a_closed_box_shows_its_seals_and_who_is_missing_until_it_is_in_force() {
    let mut world = World::with(&["aarhus", "bilbao", "cork", "delft"], |charter| {
        charter.classes.get_mut(&Class::Routine).unwrap().timelock_seconds = Seconds(3600);
    });
    let id = world.propose(0, change());
    for who in 0..3 {
        world.vote(who, id, Choice::Yes, 0);
    }
    // The operator of delft is down.
    world.acting = 3;
    world.wait(3600);
    assert_eq!(view(&world, id).ballot.source, Source::Held);
    assert!(shown(&world, id).contains("missing: aarhus, bilbao, cork and delft"));
    world.wait(60);
    let offered = shown(&world, id);
    assert!(offered.contains("Tally of the box that enough operators offer"), "{offered}");
    assert!(offered.contains("offers       aarhus, bilbao and cork; missing: delft"), "{offered}");
    assert!(offered.contains("no box yet   aarhus, bilbao, cork and delft"), "{offered}");
    world.wait(60);
    let sealed = shown(&world, id);
    let root = view(&world, id).ballot.root;
    assert!(sealed.contains(&format!("Tally of the sealed box {root}")), "{sealed}");
    assert!(sealed.contains("(3 entries, passed): 3 of 3, aarhus, bilbao and cork"), "{sealed}");
    assert!(sealed.contains("enactment    0 of 3"), "{sealed}");
    assert!(sealed.contains("in 59m: if it passes"), "{sealed}");
    assert!(!sealed.contains("What would change"), "votes no longer count: {sealed}");
    world.wait(3600);
    let done = shown(&world, id);
    assert!(done.contains("Enacted: it is in force"), "{done}");
    let version = view(&world, id).version.unwrap();
    assert!(done.contains(&format!("it made version 1, {} of engines", version.hash)), "{done}");
    assert!(!done.contains("Next:"), "{done}");
}

#[test]
fn the_same_is_printed_for_programs() {
    let mut world = World::new(&["aarhus", "bilbao", "cork"]);
    let id = world.propose(0, change());
    world.vote(1, id, Choice::No, 0);
    let json = serde_json::to_value(view(&world, id)).unwrap();
    assert_eq!(json["id"], id.to_string());
    assert_eq!(json["state"], "Open");
    assert_eq!(json["thresholds"]["turnout"]["needed"], 1);
    assert_eq!(json["votes"][0]["verdict"], "Counted");
    assert_eq!(json["members"][1]["choice"], "no");
    assert_eq!(json["ballot"]["source"], "Held");
    assert!(json["next"][0]["at"]["utc"].is_string(), "{json}");
    assert!(json["ways"][0]["becomes"].is_string(), "{json}");
}

#[test]
fn a_proposal_is_found_by_the_beginning_of_its_name_or_its_id_if_it_is_the_only_one() {
    let mut world = World::new(&["aarhus"]);
    let one = world.propose(0, change());
    let state = world.state();
    assert_eq!(find(state, &names::proposal(&one.to_string())[..8]).unwrap().unwrap().id, one);
    assert_eq!(find(state, &one.to_string()).unwrap().unwrap().id, one);
    assert!(find(state, "p-zz").unwrap().is_none());
    world.now = world.now.plus(Seconds(1));
    world.propose(0, change());
    assert!(find(world.state(), "p-").unwrap_err().to_string().contains("several proposals"));
}

#[test]
fn a_title_with_a_line_break_stays_on_its_line() {
    let mut world = World::new(&["aarhus"]);
    let mut body =
        world.state().draft_proposal(change(), "t".parse().unwrap(), "".parse().unwrap(), world.now).unwrap();
    body.title = "Harmless\nEnacted: it is in force".parse().unwrap();
    let id = world.say(0, Body::Proposal(Box::new(body)));
    assert!(!shown(&world, id).contains("\nEnacted"), "{}", shown(&world, id));
}

#[test]
fn an_expulsion_shows_what_it_is_for_who_has_told_the_member_and_what_it_says() {
    let mut world = World::with(&["aarhus", "bilbao", "cork", "delft"], |charter| {
        charter.classes.values_mut().for_each(|rules| rules.timelock_seconds = Seconds(1800));
    });
    let id = world.propose(0, koinon_core::testkit::expel(world.people[3].id()));
    let untold = shown(&world, id);
    assert!(untold.contains("Hearing of delft:\n  for      document sha256:"), "{untold}");
    assert!(untold.contains("heard    0 of the 3 operators that must have told it or tried"), "{untold}");
    world.settle();
    world.say(3, Body::Reply(Reply { proposal: id, text: "It was\nthe meter.".parse().unwrap() }));
    let told = shown(&world, id);
    for said in [
        "told     delft's own operator has it (2026",
        "told     aarhus knows that delft has it",
        "replies  2026-11-18T11:06:40Z: It was the meter.",
    ] {
        assert!(told.contains(said), "{said:?} is not in:\n{told}");
    }
    for who in 0..3 {
        world.vote(who, id, Choice::Yes, 0);
    }
    [3600, 60, 60].into_iter().for_each(|seconds| world.wait(seconds));
    let evidence = |of: &[u8]| {
        let text = "another meter".parse().unwrap();
        vec![EvidenceRef::Document(Document { digest: koinon_core::ids::Digest::of(of), text })]
    };
    let appeal =
        world.say(3, Body::Appeal(Appeal { proposal: id, evidence: evidence(b"new"), text: Default::default() }));
    world.now = world.now.plus(Seconds(1));
    world.say(3, Body::Appeal(Appeal { proposal: id, evidence: evidence(b"newer"), text: Default::default() }));
    let appealed = shown(&world, id);
    for said in [
        format!("propose expel delft --appeal {appeal}"),
        "with document sha256:".to_owned(),
        format!("without effect: {appeal} came first"),
    ] {
        assert!(appealed.contains(&said), "{said:?} is not in:\n{appealed}");
    }
    let seen = serde_json::to_value(view(&world, id)).unwrap();
    assert_eq!(seen["hearing"]["appeals"][0]["inEffect"], serde_json::json!(true));
}
