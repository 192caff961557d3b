use koinon_core::body::proposal::{Action, Choice, RemoveEngine};
use koinon_core::dsse::Signer as _;
use koinon_core::ids::Seconds;

use super::*;
use crate::fixture::World;

fn world() -> (World, StatementId) {
    let mut world = World::new(&["aarhus", "bilbao", "cork", "delft"]);
    let id = world.propose(0, Action::RemoveEngine(RemoveEngine { name: "vllm".parse().unwrap() }));
    (world, id)
}

fn told(world: &World, vote: StatementId) -> String {
    explained(&world.commons[0], vote, world.now, &TimeZone::UTC).unwrap()
}

#[test]
fn a_vote_that_counts_is_told_with_its_key_its_place_and_its_box() {
    let (mut world, id) = world();
    let vote = world.vote(1, id, Choice::Veto, 0);
    let open = told(&world, vote);
    let key = world.people[1].governance.public_key();
    for said in [
        "of bilbao: veto (legal)",
        "on        A change",
        "because   as agreed",
        &format!("key       {key}, a governance key of bilbao"),
        "counts    if it is dated from 2026-11-18T11:06:10Z to 2026-11-18T12:06:40Z",
        "anchored  2026-11-18T11:06:40Z, at position 0 of log",
        "box       operators have not offered yet what they hold; 2 must offer it",
        "\nIt counts.\n",
    ] {
        assert!(open.contains(said), "{said:?} is not in:\n{open}");
    }
    [3600, 60].into_iter().for_each(|seconds| world.wait(seconds));
    assert!(told(&world, vote).contains("offered by aarhus, bilbao, cork and delft; 2 must"), "{}", told(&world, vote));
    world.wait(60);
    assert!(told(&world, vote).contains("in the sealed box sha256:"), "{}", told(&world, vote));
}

#[test]
fn a_vote_that_too_few_held_in_time_is_told_with_who_did() {
    let (mut world, id) = world();
    for who in 0..3 {
        world.vote(who, id, Choice::Yes, 0);
    }
    // Delft votes in time, alone; the others hear of it when they have offered.
    world.acting = 3;
    let late = world.vote(3, id, Choice::No, 0);
    world.wait(3600);
    world.wait(60);
    world.acting = 4;
    world.wait(60);
    let text = told(&world, late);
    assert!(text.contains("It does not count: too few operators held it") && text.contains("(NotInBox)"), "{text}");
    assert!(text.contains("offered by") && text.contains("2 must"), "{text}");
    assert!(text.contains("What to do: nothing helps: enough operators must hold a vote"), "{text}");
}

#[test]
fn a_vote_by_the_operators_key_is_told_as_such() {
    let (mut world, id) = world();
    let ballot =
        koinon_core::body::proposal::Vote { proposal: id, choice: Choice::Yes, vseq: 0, ground: None, reason: None };
    let draft = world.people[1].draft_for_tests(world.commons[0].founding().coop(), Body::Vote(ballot));
    let stolen = draft.sign(&world.people[1].operator, &[]).unwrap();
    world.anchor(1, &stolen);
    let text = told(&world, stolen.id());
    assert!(text.contains("bilbao's operator key, which cannot vote"), "{text}");
    assert!(
        text.contains("(WrongKeyRole)") && text.contains("What to do: vote again with the governance key"),
        "{text}"
    );
}

#[test]
fn a_vote_that_is_in_no_log_says_whose_operator_gives_it_a_place() {
    let (world, id) = world();
    let ballot =
        koinon_core::body::proposal::Vote { proposal: id, choice: Choice::Yes, vseq: 0, ground: None, reason: None };
    let coop = world.commons[0].founding().coop();
    let vote = world.people[1].human(coop, world.now, Body::Vote(ballot));
    let said = |me: usize, now| unanchored(world.state(), &world.people[me].id(), &vote, now, &TimeZone::UTC);
    assert!(said(0, world.now).contains("Only bilbao's own operator"), "{}", said(0, world.now));
    assert!(said(1, world.now).contains("may anchor it and has not"), "{}", said(1, world.now));
    let before = UnixSeconds(world.now.0 - 3600);
    assert!(said(1, before).contains("compare the clocks"), "{}", said(1, before));
}

#[test]
fn a_vote_is_found_by_its_beginning() {
    let (mut world, id) = world();
    let vote = world.vote(1, id, Choice::Yes, 0);
    assert_eq!(find(world.state(), &vote.to_string()[..20]).unwrap(), Some(vote));
    assert_eq!(find(world.state(), &names::vote(&vote.to_string())[..9]).unwrap(), Some(vote));
    assert_eq!(find(world.state(), "chat").unwrap(), None);
    world.now = world.now.plus(Seconds(1));
    world.vote(1, id, Choice::No, 1);
    assert!(find(world.state(), "v-").unwrap_err().to_string().contains("several votes"));
}
