use proptest::prelude::*;

use super::*;
use crate::body::challenges::ClassChallenge;
use crate::challenge::{Size, Window};
use crate::ids::ManifestDigest;

fn rules(challengers: u32) -> Challenges {
    let window = |least, most| Window { least, most };
    let size = Size::new(134_144, 32_768).unwrap();
    let asked = ClassChallenge { size, compute: window(20_000, 45_000), recall: window(200, 450) };
    Challenges {
        engine: "koinon-challenge".parse().unwrap(),
        model: ManifestDigest(Digest::of(b"nothing")),
        every_seconds: Seconds(60_000),
        challengers,
        fresh_seconds: Seconds(86_400),
        most_seconds: Seconds(60),
        classes: [("h100-80".parse().unwrap(), asked)].into(),
    }
}

/// `count` members of as many owners, each with one class.
fn cooperative(count: usize) -> (BTreeMap<MemberId, ControlGroup>, BTreeSet<Target>) {
    let names: Vec<String> = (0..count).map(|n| format!("member-{n}")).collect();
    let members = names.iter().map(|name| (name.parse().unwrap(), name.parse().unwrap())).collect();
    let target = |name: &String| Target { host: name.parse().unwrap(), class: "h100-80".parse().unwrap() };
    (members, names.iter().map(target).collect())
}

fn at(period: i64) -> Digest {
    seed(CoopId(Digest::of(b"coop")), PolicyHash(Digest::of(b"placement")), period)
}

#[test]
fn each_host_gets_as_many_as_are_needed_and_one_to_spare_and_others_the_next_time() {
    let (members, targets) = cooperative(12);
    let drawn = |period| draw(&at(period), &rules(2), &members, &targets);
    assert!(drawn(1).values().all(|by| by.len() == 3));
    assert_eq!(drawn(1), drawn(1));
    let changed = targets.iter().filter(|target| drawn(1)[*target] != drawn(2)[*target]).count();
    assert!(changed >= 9, "only {changed} of 12 changed");
}

#[test]
fn in_a_small_cooperative_everybody_else_measures() {
    let (members, targets) = cooperative(3);
    let drawn = draw(&at(1), &rules(4), &members, &targets);
    assert!(drawn.iter().all(|(target, by)| by.len() == 2 && !by.contains(&target.host)));
}

#[test]
fn where_each_member_is_an_owner_of_its_own_every_host_gets_as_many_as_it_needs() {
    for count in 2..40 {
        let (members, targets) = cooperative(count);
        let drawn = draw(&at(1), &rules(4), &members, &targets);
        // With as much to do as there may be, the spare one is not always found.
        assert!(drawn.values().all(|by| by.len() >= (count - 1).min(4)), "{count}: {drawn:?}");
    }
}

proptest! {
    #[test]
    fn nobody_measures_its_own_owner_or_too_many_and_every_target_has_its_turn(
        seed in any::<[u8; 32]>(), owners in prop::collection::vec(0..9_usize, 1..20), classes in 1..5_usize,
        challengers in 1..=4_u32,
    ) {
        let members: BTreeMap<MemberId, ControlGroup> = owners
            .iter()
            .enumerate()
            .map(|(n, owner)| (format!("member-{n}").parse().unwrap(), format!("owner-{owner}").parse().unwrap()))
            .collect();
        let targets: BTreeSet<Target> = members
            .keys()
            .flat_map(|host| (0..classes).map(|c| Target { host: host.clone(), class: format!("c-{c}").parse().unwrap() }))
            .collect();
        let drawn = draw(&Digest(seed), &rules(challengers), &members, &targets);
        let mut load: BTreeMap<&MemberId, usize> = BTreeMap::new();
        for (target, by) in &drawn {
            let groups: BTreeSet<&ControlGroup> = by.iter().map(|member| &members[member]).collect();
            prop_assert_eq!(groups.len(), by.len(), "two of one owner");
            prop_assert!(!groups.contains(&members[&target.host]), "of its own owner");
            prop_assert!(by.len() <= challengers as usize + 1);
            by.iter().for_each(|member| *load.entry(member).or_default() += 1);
        }
        prop_assert!(load.values().all(|load| *load <= MOST_DRAWN), "{load:?}");
    }

    #[test]
    fn what_counts_is_measured_anew_before_it_ends_and_never_too_soon(
        dice in any::<u16>(), ago in 0..200_000_i64, granted in any::<bool>(), counts in any::<bool>(),
    ) {
        let (rules, begins) = (rules(2), UnixSeconds(864_000));
        let last = Last { at: UnixSeconds(begins.0 - ago), granted, counts: granted && counts };
        let next = due(&rules, begins, dice, Some(last));
        if granted {
            prop_assert!(next.since(last.at) >= rules.every_seconds);
        } else {
            prop_assert!(next.since(last.at).0 >= rules.every_seconds.0 / 10);
        }
        if last.counts {
            prop_assert!(next.since(last.at) < rules.fresh_seconds);
        }
        let first = due(&rules, begins, dice, None);
        prop_assert!(first >= begins && first.since(begins).0 <= rules.fresh_seconds.0 / 2);
    }
}
