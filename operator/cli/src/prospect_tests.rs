use koinon_core::body::charter::{Class, Preset};
use koinon_core::presets;

use super::*;

fn standing(class: Class, counts: [u32; 4], movable: &[(&str, Option<Choice>, u32)]) -> Standing {
    let [yes, no, abstain, veto] = counts;
    let counts = Counts { yes, no, abstain, veto };
    let movable: Vec<Elector> = movable
        .iter()
        .map(|(name, choice, carries)| Elector { name: (*name).to_owned(), choice: *choice, carries: *carries })
        .collect();
    let open: u32 = movable.iter().filter(|e| e.choice.is_none()).map(|e| e.carries + 1).sum();
    Standing {
        counts,
        electors: counts.turnout() + open,
        rules: presets::classes(Preset::Standard)[&class],
        movable,
        cools: false,
    }
}

fn told(standing: &Standing) -> Vec<String> {
    standing.ways().iter().map(ToString::to_string).collect()
}

#[test]
fn one_more_yes_passes_it_and_one_veto_blocks_it() {
    // Three electors and one yes: a majority of those who vote has it already.
    let open = [("bilbao", None, 0), ("cork", None, 0)];
    let one = standing(Class::Routine, [1, 0, 0, 0], &open);
    assert_eq!(one.outcome(), Outcome::Passed);
    assert_eq!(told(&one), ["one no of bilbao or cork rejects it", "one veto of bilbao or cork blocks it"]);
    // The charter wants two thirds to take part, and a majority of all to agree.
    let charter = standing(Class::Charter, [1, 0, 0, 0], &open);
    assert_eq!(charter.outcome(), Outcome::QuorumNotMet);
    assert_eq!(
        told(&charter),
        [
            "one yes of bilbao or cork passes it",
            "one no of bilbao or cork rejects it",
            "one abstention of bilbao or cork rejects it",
            "one veto of bilbao or cork blocks it"
        ]
    );
}

#[test]
fn nothing_is_promised_that_the_count_does_not_say() {
    // Five electors, three no: neither the two that are left nor one that thinks again can pass it.
    let open = [("delft", None, 0), ("espoo", None, 0)];
    let lost = standing(Class::Routine, [0, 3, 0, 0], &open);
    assert_eq!(lost.outcome(), Outcome::Rejected);
    assert_eq!(told(&lost), ["2 more vetoes among delft and espoo: that blocks it"]);
    // An expulsion knows no veto: it is not offered as a way.
    let expel = standing(Class::Expel, [2, 0, 0, 0], &[("cork", None, 0)]);
    assert!(expel.ways().iter().all(|way| way.choice != Choice::Veto), "{:?}", expel.ways());
}

#[test]
fn who_votes_for_others_moves_as_many_voices() {
    let waiting = [("aarhus", None, 1), ("cork", None, 0)];
    let vote = standing(Class::Charter, [0, 0, 0, 0], &waiting);
    assert_eq!(vote.electors, 3);
    let ways = vote.ways();
    let alone = ways.iter().find(|way| way.choice == Choice::Yes).unwrap();
    assert_eq!((alone.needed, alone.of.clone()), (1, vec!["aarhus".to_owned()]), "two voices at once pass it");
    let uneven = [("aarhus", None, 1), ("cork", None, 0), ("delft", None, 0)];
    let five = Standing { electors: 6, ..standing(Class::Charter, [1, 0, 0, 0], &uneven) };
    let least = five.ways().into_iter().find(|way| way.choice == Choice::Yes).unwrap();
    assert_eq!((least.needed, least.any, least.of), (2, false, vec!["aarhus".to_owned(), "cork".to_owned()]));
}

#[test]
fn a_vote_that_may_be_replaced_can_turn_the_result() {
    let cast = [("aarhus", Some(Choice::Yes), 0), ("bilbao", Some(Choice::Yes), 0)];
    let vote = standing(Class::Routine, [2, 0, 1, 0], &cast);
    assert_eq!(vote.outcome(), Outcome::Passed);
    let ways = told(&vote);
    assert!(ways.contains(&"aarhus or bilbao changing from yes to no rejects it".to_owned()), "{ways:?}");
    assert!(
        ways.contains(&"2 among aarhus and bilbao changing from yes to abstention: that rejects it".to_owned()),
        "{ways:?}"
    );
}

/// Whether a set of voices changes the result, by the plainest search there is.
fn fewest(standing: &Standing, choice: Choice) -> Option<usize> {
    let open: Vec<&Elector> = standing.movable.iter().filter(|e| e.choice.is_none()).collect();
    (1..=open.len()).find(|size| {
        (0_u32..1 << open.len()).filter(|set| set.count_ones() as usize == *size).any(|set| {
            let chosen = open.iter().enumerate().filter(|(at, _)| set & (1 << at) != 0).map(|(_, e)| *e);
            standing.with(choice, chosen).1 != standing.outcome()
        })
    })
}

#[test]
fn no_fewer_voices_would_do() {
    let names = ["a", "b", "c", "d", "e"];
    for class in Class::ALL {
        for (yes, no, abstain, veto) in
            [(0, 0, 0, 0), (1, 0, 0, 0), (2, 2, 0, 0), (3, 1, 1, 0), (0, 3, 0, 1), (4, 0, 0, 2)]
        {
            for carried in 0..3 {
                let open: Vec<_> = names.iter().map(|n| (*n, None, u32::from(*n == "c") * carried)).collect();
                let vote = standing(class, [yes, no, abstain, veto], &open);
                for choice in [Choice::Yes, Choice::No, Choice::Abstain] {
                    let said = vote.ways().iter().filter(|w| w.choice == choice).map(|w| w.needed).min();
                    assert_eq!(said, fewest(&vote, choice), "{class} {yes}/{no}/{abstain}/{veto} {choice:?} {carried}");
                }
            }
        }
    }
}
