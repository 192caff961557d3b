use koinon_core::body::Challenges;
use koinon_core::body::norms::PlacementRules;
use koinon_core::body::proposal::{Action, Choice};

use super::*;
use crate::fixture::World;

/// A cooperative in which the example of the repository was voted.
fn voted() -> World {
    let challenges: Challenges = serde_yaml::from_str(include_str!("../../../manifests/challenges/h100.yaml")).unwrap();
    let mut world = World::new(&["aarhus", "bilbao", "cork"]);
    let rules = PlacementRules { challenges: Some(challenges), ..PlacementRules::default() };
    let id = world.propose(0, Action::SetPlacementRules(rules));
    (0..3).for_each(|who| {
        world.vote(who, id, Choice::Yes, 0);
    });
    [3600, 60, 60].into_iter().for_each(|seconds| world.wait(seconds));
    world
}

fn offer(block: i32, measured: &[(&str, &str, i64)]) -> GPUOfferStatus {
    let challenges: Vec<serde_json::Value> = measured
        .iter()
        .map(|(by, result, at)| {
            json!({"class": "h100-80", "by": by, "result": result, "devices": 8, "message": "",
                "measuredTime": time::from_unix(*at)})
        })
        .collect();
    serde_json::from_value(json!({"challenges": challenges, "classes": [{"class": "h100-80", "product": "x",
        "memoryBytes": 1, "offered": 9, "largestBlock": block, "evidence": "SchedulerConsistent"}]}))
    .unwrap()
}

fn planned(state: &State, host: &str, class: &str, offer: &GPUOfferStatus) -> Result<String, String> {
    let (me, host) = ("aarhus".parse().unwrap(), host.parse().unwrap());
    let planned = plan(state, &me, &host, &class.parse().unwrap(), offer, UnixSeconds(100_000));
    planned.map(|plan| plan.text).map_err(|error| error.to_string())
}

#[test]
fn what_would_be_asked_is_said_with_its_bounds() {
    let world = voted();
    let text = planned(world.state(), "cork", "h100-80", &offer(8, &[])).unwrap();
    for part in ["asked for 8 h100-80 on one node", "60 s at most", "20000 to 45000 ms", "refuse, which proves nothing"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn what_the_vote_does_not_allow_is_refused_with_the_reason() {
    let world = voted();
    let refused =
        |host: &str, class: &str, offer: &GPUOfferStatus| planned(world.state(), host, class, offer).unwrap_err();
    assert!(refused("aarhus", "h100-80", &offer(8, &[])).contains("nobody challenges itself"));
    assert!(refused("cork", "a100-40", &offer(8, &[])).contains("no challenge of a100-40, but of h100-80"));
    assert!(refused("cork", "h100-80", &offer(0, &[])).contains("is free now"));
    let lately = offer(8, &[("aarhus", "Fits", 99_000)]);
    assert!(refused("cork", "h100-80", &lately).contains("again in 35000 s"));
    for allowed in [("bilbao", "Fits", 99_000), ("aarhus", "Nothing", 99_000), ("aarhus", "Fits", 64_000)] {
        assert!(planned(world.state(), "cork", "h100-80", &offer(8, &[allowed])).is_ok(), "{allowed:?}");
    }
    let without = World::new(&["aarhus", "bilbao", "cork"]);
    let told = planned(without.state(), "cork", "h100-80", &offer(8, &[])).unwrap_err();
    assert!(told.contains("--challenges FILE"), "{told}");
}

#[test]
fn only_this_member_s_own_new_measurement_is_the_result() {
    let shown = offer(8, &[("aarhus", "Fits", 100_010), ("aarhus", "Fits", 99_000), ("bilbao", "Fits", 100_010)]);
    let (me, class) = ("aarhus".parse().unwrap(), "h100-80".parse().unwrap());
    let found: Vec<bool> =
        shown.challenges.iter().map(|one| is_result(one, &me, &class, UnixSeconds(100_000))).collect();
    assert_eq!(found, [true, false, false]);
}

#[test]
fn only_a_refusal_of_this_wish_ends_the_wait() {
    let event = |first: &str, last: Option<&str>| -> Event {
        let series = last.map(|last| json!({"count": 2, "lastObservedTime": last}));
        let event = json!({"metadata": {}, "involvedObject": {"kind": "Member", "name": "cork"},
            "reason": "ChallengeRefused", "message": "cork is not heard", "eventTime": first, "series": series});
        serde_json::from_value(event).unwrap()
    };
    let (before, after) = ("2026-11-18T00:00:00.000000Z", "2026-11-18T00:00:02.500000Z");
    let since = UnixSeconds(1_794_960_001);
    assert_eq!(told(event(before, None), since), None);
    assert_eq!(told(event(after, None), since).as_deref(), Some("cork is not heard"));
    assert_eq!(told(event(before, Some(after)), since).as_deref(), Some("cork is not heard"), "it said so before");
}
