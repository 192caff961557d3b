use koinon_core::body::proposal::{Admit, CancelProposal, ChangeCharter, Choice, RemoveEngine, WithdrawModelRelease};
use koinon_core::body::standing::{Reinstate, Suspend};
use koinon_core::body::{AuditRate, ModelRelease, OperatorRelease, Outcome};
use koinon_core::ids::{ManifestDigest, Seconds};
use koinon_core::testkit::person;

use super::*;
use crate::fixture::World;
use crate::proposal::view::View;

const FOUR: [&str; 4] = ["aarhus", "bilbao", "cork", "delft"];

fn drafted(world: &World, action: Action) -> Proposal {
    let (title, text) = ("A change".parse().unwrap(), "Why not.".parse().unwrap());
    world.state().draft_proposal(action, title, text, world.now).unwrap()
}

fn shown(world: &World, action: Action) -> String {
    diff(world.state(), &drafted(world, action))
}

fn release(name: &str) -> ModelRelease {
    ModelRelease {
        uri: format!("https://models.example/{name}").parse().unwrap(),
        revision: "main".parse().unwrap(),
        manifest_digest: ManifestDigest(Digest::of(name.as_bytes())),
        quantization: "none".parse().unwrap(),
        license: "Apache-2.0".parse().unwrap(),
        engines: vec![],
        memory_bytes: None,
    }
}

#[test]
fn a_new_model_is_all_new_lines_and_its_withdrawal_all_gone_ones() {
    let mut world = World::new(&FOUR);
    let qwen = release("qwen");
    let new = shown(&world, Action::AddModelRelease(qwen.clone()));
    assert!(
        new.starts_with(&format!("--- (nothing)\n+++ releases/{}\n@@ -0,0 +1,6 @@\n+", qwen.manifest_digest)),
        "{new}"
    );
    assert!(new.contains("\n+uri: https://models.example/qwen\n"), "{new}");
    let id = world.propose(0, Action::AddModelRelease(qwen.clone()));
    for who in 0..4 {
        world.vote(who, id, Choice::Yes, 0);
    }
    [3600, 60, 60].into_iter().for_each(|seconds| world.wait(seconds));
    let withdraw = Action::WithdrawModelRelease(WithdrawModelRelease { manifest_digest: qwen.manifest_digest });
    let gone = shown(&world, withdraw);
    assert!(
        gone.starts_with(&format!("--- releases/{}\n+++ (nothing)\n@@ -1,6 +0,0 @@\n-", qwen.manifest_digest)),
        "{gone}"
    );
    // What is so already changes nothing, and says so.
    assert_eq!(shown(&world, Action::AddModelRelease(qwen.clone())), "");
    let again = before_signing(world.state(), &world.people[0].id(), &drafted(&world, Action::AddModelRelease(qwen)));
    assert!(again.contains("changes nothing that is in force"), "{again}");
}

#[test]
fn of_a_charter_only_the_lines_that_change_are_shown_with_three_around_them() {
    let world = World::new(&FOUR);
    let state = world.state();
    let mut parameters = *state.parameters();
    parameters.lease_seconds = Seconds(30);
    let mut classes: BTreeMap<_, _> = Class::ALL.into_iter().filter_map(|c| Some((c, *state.class(c)?))).collect();
    classes.get_mut(&Class::Routine).unwrap().period_seconds = Seconds(7200);
    let text = shown(&world, Action::ChangeCharter(Box::new(ChangeCharter { parameters, classes })));
    assert!(text.contains("--- charter/classes/Routine\n+++ charter/classes/Routine\n@@ "), "{text}");
    assert!(text.contains("\n-periodSeconds: 3600\n+periodSeconds: 7200\n"), "{text}");
    assert!(text.contains("\n-leaseSeconds: 20\n+leaseSeconds: 30\n"), "{text}");
    assert!(!text.contains("charter/classes/Admit") && !text.contains("sponsors"), "{text}");
    let around = text.lines().filter(|line| line.starts_with(' ')).count();
    assert_eq!(around, 12, "{text}");
}

#[test]
fn members_come_and_go_in_the_diff() {
    let world = World::new(&FOUR);
    let application = person("espoo").application(world.commons[0].founding().coop(), world.now).envelope().clone();
    let admits = shown(&world, Action::Admit(Admit { application }));
    assert!(admits.starts_with("--- (nothing)\n+++ members/espoo\n"), "{admits}");
    let proposal = drafted(&world, koinon_core::testkit::expel(world.people[3].id()));
    let expels = before_signing(world.state(), &world.people[0].id(), &proposal);
    assert!(expels.contains("--- members/delft\n+++ (nothing)\n"), "{expels}");
    assert!(expels.contains("Class Expel decides: aarhus, bilbao and cork, one vote each."), "{expels}");
    assert!(expels.contains("2 must take part (at least 2/3 of the 3 electors)"), "{expels}");
    assert!(expels.contains("vetoes count as no"), "{expels}");
}

#[test]
fn what_is_set_for_all_work_is_shown_against_what_is_in_force() {
    let world = World::new(&FOUR);
    let rate = shown(&world, Action::SetAuditRate(AuditRate { per_ten_thousand: 5 }));
    assert_eq!(
        rate,
        "--- economy/audit-rate\n+++ economy/audit-rate\n@@ -1,1 +1,1 @@\n-perTenThousand: 0\n+perTenThousand: 5\n"
    );
    let (version, image) = ("1.4.0".parse().unwrap(), Digest::of(b"image"));
    let advice = shown(&world, Action::AdviseOperatorRelease(OperatorRelease { version, image }));
    assert!(advice.starts_with("--- (nothing)\n+++ operators/release\n"), "{advice}");
}

#[test]
fn a_suspension_is_one_line_more_and_a_reinstatement_takes_it_away() {
    let mut world = World::new(&FOUR);
    let cork = world.people[2].id();
    let suspend = Action::Suspend(Suspend { member: cork.clone() });
    let text = before_signing(world.state(), &world.people[0].id(), &drafted(&world, suspend.clone()));
    assert!(text.contains("--- members/cork\n+++ members/cork\n"), "{text}");
    assert!(text.contains("\n+suspended: no new work, by vote\n"), "{text}");
    assert!(text.contains("Class Recall decides: aarhus, bilbao and delft, one vote each."), "{text}");
    let reinstate = Action::Reinstate(Reinstate { member: cork });
    assert_eq!(shown(&world, reinstate.clone()), "", "nothing is to be lifted");
    let id = world.propose(0, suspend);
    for who in [0, 1, 3] {
        world.vote(who, id, Choice::Yes, 0);
    }
    [3600, 60, 60].into_iter().for_each(|seconds| world.wait(seconds));
    let text = shown(&world, reinstate);
    assert!(text.contains("\n-suspended: no new work, by vote\n"), "{text}");
}

#[test]
fn who_decides_and_when_is_shown_before_the_signature() {
    let world = World::new(&FOUR);
    let proposal = drafted(&world, Action::RemoveEngine(RemoveEngine { name: "vllm".parse().unwrap() }));
    let text = before_signing(world.state(), &world.people[0].id(), &proposal);
    for said in [
        "Proposal: A change\n| Why not.\n",
        "Class Routine decides: aarhus, bilbao, cork and delft",
        "yes must be more than 1/2 of yes, no and veto, and 1 (at least 1/4 of the 4 electors)",
        "one veto or more block it, from 1/3",
    ] {
        assert!(text.contains(said), "{said:?} is not in:\n{text}");
    }
    assert!(text.contains(&format!("until  {}", Moment::new(proposal.closes_at, &here()))), "{text}");
}

#[test]
fn a_cancellation_shows_what_it_stops() {
    let mut world = World::new(&FOUR);
    let target = world.propose(0, Action::AddModelRelease(release("qwen")));
    let proposal = drafted(&world, Action::CancelProposal(CancelProposal { proposal: target }));
    let text = before_signing(world.state(), &world.people[0].id(), &proposal);
    assert!(text.contains(&format!("--- proposals/{target}\n")) && text.contains("+state: Cancelled"), "{text}");
}

#[test]
fn the_lines_make_the_new_text_of_the_old_one() {
    let words = ["a", "b", "c"];
    let text = |n: usize| -> Vec<String> { (0..6).map(|at| words[n / 3_usize.pow(at) % 3].to_owned()).collect() };
    for (old, new) in (0..40).flat_map(|i| (0..40).map(move |j| (text(i * 18), text(j * 13)))) {
        let lines = compare(&old, &new);
        let side = |keep: fn(&Line<'_>) -> bool| -> Vec<String> {
            let kept = lines.iter().filter(|line| keep(line));
            kept.map(|(Line::Same(l) | Line::Gone(l) | Line::New(l))| (*l).to_owned()).collect()
        };
        assert_eq!(side(|line| !matches!(line, Line::New(_))), old);
        assert_eq!(side(|line| !matches!(line, Line::Gone(_))), new);
    }
}

#[test]
fn a_later_hunk_begins_where_it_stands_in_either_text() {
    let old: Vec<String> = (0..20).map(|line| line.to_string()).collect();
    let mut new = old.clone();
    new[18] = "eighteen".to_owned();
    new.insert(0, "first".to_owned());
    let mut text = String::new();
    unified(&mut text, &old, &new);
    let hunks: Vec<&str> = text.lines().filter(|line| line.starts_with("@@")).collect();
    assert_eq!(hunks, ["@@ -1,3 +1,4 @@", "@@ -16,5 +17,5 @@"], "{text}");
}

#[test]
fn who_proposes_again_what_was_refused_is_told_what_that_takes_and_until_when() {
    let mut world = World::new(&FOUR);
    let action = || Action::AddModelRelease(release("qwen"));
    let author = world.people[0].id();
    let first = world.propose(0, action());
    for who in 1..4 {
        world.vote(who, first, Choice::No, 0);
    }
    [3600, 60, 60].into_iter().for_each(|seconds| world.wait(seconds));
    let text = before_signing(world.state(), &author, &drafted(&world, action()));
    let told = format!("Beware: the same was rejected in A change ({first}): if its vote opens before ");
    assert!(text.contains(&told) && text.contains("two thirds of all electors must say yes"), "{text}");
    let other = before_signing(world.state(), &author, &drafted(&world, Action::AddModelRelease(release("llama"))));
    assert!(!other.contains("Beware"), "{other}");
    // Two of four would do for this class; now it takes a third one, and whoever looks is told so.
    let second = world.propose(0, action());
    for who in 0..2 {
        world.vote(who, second, Choice::Yes, 0);
    }
    let view = |world: &World| {
        let state = world.state();
        View::new(&world.commons[0], &state.proposals()[&second], world.now, &jiff::tz::TimeZone::UTC)
    };
    let open = view(&world);
    assert_eq!(open.as_it_stands, Outcome::CoolDown);
    assert!(open.meaning.starts_with("votes count; the same was rejected in A change"), "{}", open.meaning);
    assert!(open.ways.iter().any(|way| way.becomes == Outcome::Passed && way.needed == 1), "{:?}", open.ways);
    [3600, 60, 60].into_iter().for_each(|seconds| world.wait(seconds));
    let sealed = view(&world);
    assert_eq!(sealed.state, "CoolDown");
    assert!(
        sealed.meaning.contains("they did not: propose it again with a vote that opens from 2026-"),
        "{}",
        sealed.meaning
    );
}
