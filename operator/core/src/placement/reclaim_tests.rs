use proptest::prelude::*;

use super::*;
use crate::ids::{Epoch, ReplicaIndex};
use crate::placement::ReplicaKey;

const T0: UnixSeconds = UnixSeconds(1_795_000_000);

fn class(name: &str) -> GpuClass {
    name.parse().unwrap()
}

fn me() -> MemberId {
    "bilbao".parse().unwrap()
}

/// Copy `number` of `home`, granted `number` seconds after the start.
fn copy(home: &str, number: u32, gpus: u32) -> Running {
    let replica = ReplicaKey {
        home: home.parse().unwrap(),
        job: "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11".parse().unwrap(),
        replica: ReplicaIndex(number),
    };
    Running {
        copy: (replica, Epoch(1)),
        class: class("h100-80"),
        gpus,
        node: "n1".parse().unwrap(),
        granted_at: UnixSeconds(T0.0 + i64::from(number)),
        standing: Standing::Favoured,
        going: Going::Stays,
    }
}

fn limit(most: u32) -> Wish {
    Wish { limits: [(class("h100-80"), most)].into(), ..Wish::default() }
}

fn names(chosen: &[Chosen]) -> Vec<String> {
    chosen.iter().map(|one| format!("{}/{}", one.copy.0.home, one.copy.0.replica)).collect()
}

fn goes(running: &[Running], wish: &Wish) -> Vec<String> {
    names(&choose(&me(), running, wish))
}

#[test]
fn without_a_wish_or_within_its_limit_nothing_goes() {
    let running = [copy("aarhus", 1, 2), copy("cork", 2, 2)];
    assert!(goes(&running, &Wish::default()).is_empty());
    assert!(goes(&running, &limit(4)).is_empty());
    assert_eq!(goes(&running, &limit(3)).len(), 1);
}

#[test]
fn the_home_that_holds_most_gives_first_and_of_it_the_youngest_grant() {
    let running = [copy("aarhus", 1, 1), copy("aarhus", 2, 1), copy("aarhus", 3, 1), copy("cork", 4, 1)];
    assert_eq!(goes(&running, &limit(2)), ["aarhus/3", "aarhus/2"]);
    // From then on they hold the same: the youngest of all.
    assert_eq!(goes(&running, &limit(1)), ["aarhus/3", "aarhus/2", "cork/4"]);
    assert_eq!(goes(&running, &limit(0)), ["aarhus/3", "aarhus/2", "cork/4", "aarhus/1"]);
}

#[test]
fn whom_the_rules_no_longer_favour_goes_before_whoever_holds_most() {
    let mut running = [copy("aarhus", 1, 4), copy("aarhus", 2, 4), copy("cork", 3, 1)];
    running[2].standing = Standing::Disfavoured;
    assert_eq!(goes(&running, &limit(8)), ["cork/3"]);
}

#[test]
fn a_limit_leaves_own_work_and_other_classes_alone() {
    let mut running = [copy("bilbao", 1, 8), copy("aarhus", 2, 1), copy("cork", 3, 1)];
    running[2].class = class("a100-40");
    assert_eq!(goes(&running, &limit(0)), ["aarhus/2"]);
}

#[test]
fn a_drained_node_loses_all_work_and_its_gpus_count_for_no_limit() {
    let mut running = [copy("bilbao", 1, 1), copy("aarhus", 2, 1), copy("aarhus", 3, 2), copy("cork", 4, 1)];
    running[2].node = "n2".parse().unwrap();
    let drained = Wish { drained: ["n1".parse().unwrap()].into(), ..limit(2) };
    assert_eq!(goes(&running, &drained), ["cork/4", "aarhus/2", "bilbao/1"]);
    let chosen = choose(&me(), &running, &Wish { limits: limit(1).limits, ..drained });
    assert_eq!(chosen.last().map(|one| one.why), Some(Why::Limit { most: 1, held: 2 }));
}

#[test]
fn no_more_is_taken_than_is_needed() {
    // Three too many: the younger copy of one was taken before the one of four.
    let running = [copy("aarhus", 1, 4), copy("aarhus", 2, 1), copy("cork", 3, 2)];
    assert_eq!(goes(&running, &limit(4)), ["aarhus/1"]);
}

#[test]
fn what_ends_anyway_is_not_chosen_and_counts_as_free() {
    let mut running = [copy("aarhus", 1, 2), copy("cork", 2, 2)];
    running[0].going = Going::Ends;
    assert!(goes(&running, &limit(2)).is_empty());
    assert_eq!(goes(&running, &limit(1)), ["cork/2"]);
}

#[test]
fn who_was_told_first_goes_whoever_holds_most_by_now() {
    let mut running = [copy("aarhus", 1, 1), copy("cork", 2, 1), copy("cork", 3, 1)];
    running[0].going = Going::Told(T0);
    assert_eq!(goes(&running, &limit(2)), ["aarhus/1"]);
    assert_eq!(goes(&running, &limit(1)), ["aarhus/1", "cork/3"]);
    running[1].going = Going::Told(UnixSeconds(T0.0 - 5));
    assert_eq!(goes(&running, &limit(2)), ["cork/2"], "whoever was told last stays when less is wanted");
}

prop_compose! {
    fn any_copy()(
        home in prop::sample::select(vec!["aarhus", "bilbao", "cork", "porto"]), number in 0..20_u32, gpus in 0..6_u32,
        node in prop::sample::select(vec!["n1", "n2"]), other_class: bool, out: bool, granted in 0..5_i64,
        going in prop_oneof![Just(Going::Ends), (0..3_i64).prop_map(|s| Going::Told(UnixSeconds(s))), Just(Going::Stays)],
    ) -> Running {
        Running {
            class: class(if other_class { "a100-40" } else { "h100-80" }),
            node: node.parse().unwrap(),
            granted_at: UnixSeconds(granted),
            standing: if out { Standing::Disfavoured } else { Standing::Favoured },
            going,
            ..copy(home, number, gpus)
        }
    }
}

/// Each copy once, as an API server has them.
fn copies() -> impl Strategy<Value = Vec<Running>> {
    prop::collection::vec(any_copy(), 0..16).prop_map(|copies| {
        let by_name: BTreeMap<Copy, Running> = copies.into_iter().map(|one| (one.copy.clone(), one)).collect();
        by_name.into_values().collect()
    })
}

fn wishes() -> impl Strategy<Value = Wish> {
    (prop::option::of(0..12_u32), prop::option::of(0..12_u32), any::<bool>()).prop_map(|(h100, a100, drains)| Wish {
        limits: [("h100-80", h100), ("a100-40", a100)]
            .into_iter()
            .filter_map(|(name, most)| Some((class(name), most?)))
            .collect(),
        drained: drains.then(|| "n2".parse().unwrap()).into_iter().collect(),
    })
}

proptest! {
    #[test]
    fn it_takes_enough_and_nothing_that_could_stay(running in copies(), wish in wishes()) {
        let chosen = choose(&me(), &running, &wish);
        let goes: BTreeSet<&Copy> = chosen.iter().map(|one| &one.copy).collect();
        prop_assert_eq!(goes.len(), chosen.len(), "each once");
        for one in &running {
            let drained = wish.drained.contains(&one.node) && one.going != Going::Ends;
            prop_assert!(!drained || goes.contains(&one.copy), "left on a drained node: {:?}", one);
            let own = one.copy.0.home == me();
            prop_assert!(!own || drained || !goes.contains(&one.copy), "own work taken: {:?}", one);
            prop_assert!(one.going != Going::Ends || !goes.contains(&one.copy), "chosen although it ends: {:?}", one);
        }
        for (class, most) in &wish.limits {
            let stays: u32 = running
                .iter()
                .filter(|one| one.class == *class && one.copy.0.home != me() && one.going != Going::Ends)
                .filter(|one| !goes.contains(&one.copy))
                .map(|one| one.gpus)
                .sum();
            prop_assert!(stays <= *most, "{} stay of {} allowed", stays, most);
            for one in chosen.iter().filter(|one| matches!(one.why, Why::Limit { .. })) {
                let of_class = running.iter().any(|r| r.copy == one.copy && r.class == *class);
                prop_assert!(!of_class || stays + one.gpus > *most, "could stay: {:?}", one);
            }
        }
    }

    #[test]
    fn the_order_of_the_copies_does_not_matter(
        (running, shuffled) in copies().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())), wish in wishes(),
    ) {
        prop_assert_eq!(choose(&me(), &running, &wish), choose(&me(), &shuffled, &wish));
    }

    #[test]
    fn who_was_told_is_chosen_again(running in copies(), wish in wishes(), now in 3..9_i64) {
        let chosen = choose(&me(), &running, &wish);
        let told: Vec<Running> = running
            .into_iter()
            .map(|one| {
                let is_chosen = chosen.iter().any(|chosen| chosen.copy == one.copy);
                let going = match one.going {
                    Going::Stays if is_chosen => Going::Told(UnixSeconds(now)),
                    Going::Told(_) if !is_chosen => Going::Stays,
                    going => going,
                };
                Running { going, ..one }
            })
            .collect();
        let again = choose(&me(), &told, &wish);
        let set = |chosen: &[Chosen]| chosen.iter().map(|one| one.copy.clone()).collect::<BTreeSet<Copy>>();
        prop_assert_eq!(set(&again), set(&chosen));
    }
}
