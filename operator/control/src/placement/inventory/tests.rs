use serde_json::json;

use super::fixture::{Cluster, class, node, pod, pool, record};
use super::*;

fn all(reserve: i32) -> Vec<Arc<GPUPool>> {
    vec![pool("all", 1, json!({"reserve": reserve}))]
}

#[test]
fn a_pool_offers_what_its_nodes_have_but_the_owners_reserve() {
    let figures = Cluster::of(&[("n1", 8), ("n2", 4)], all(1)).figures();
    assert_eq!((figures.installed, figures.offered, figures.largest_node, figures.owner_reserve), (12, 11, 8, 1));
}

#[test]
fn the_owners_own_pods_take_from_the_offer_whoever_they_pretend_to_be() {
    let mut cluster = Cluster::of(&[("n1", 8)], all(0)).with(record("n1", "aarhus", 2));
    cluster.pods = vec![
        pod("default", None, "n1", 1),
        // The right label in a namespace in which we run nothing.
        pod("default", Some("aarhus-0c1f3a52-0-1"), "n1", 2),
    ];
    let figures = cluster.figures();
    assert_eq!((figures.leased, figures.owner_requested, figures.offered), (2, 3, 3));
}

#[test]
fn a_reservation_and_its_pod_are_counted_once_also_after_the_epoch_grew() {
    let mut cluster = Cluster::of(&[("n1", 8)], all(0)).with(record("n1", "aarhus", 2));
    for name in ["aarhus-0c1f3a52-0-1", "aarhus-0c1f3a52-0-7"] {
        cluster.pods = vec![pod("koinon-guest-aarhus", Some(name), "n1", 2)];
        let figures = cluster.figures();
        assert_eq!((figures.leased, figures.owner_requested, figures.offered), (2, 0, 6));
    }
}

#[test]
fn own_work_may_run_in_its_teams_namespace_and_use_the_reserve() {
    let mut cluster = Cluster::of(&[("n1", 4)], all(2)).with(record("n1", "bilbao", 1));
    cluster.pods = vec![pod("team", Some("bilbao-0c1f3a52-0-1"), "n1", 1)];
    assert_eq!(cluster.figures().offered, 1);
    assert_eq!((cluster.room(2, false).len(), cluster.room(3, true).len()), (0, 1));
}

#[test]
fn the_tightest_node_comes_first() {
    let cluster = Cluster::of(&[("n1", 8), ("n2", 4)], all(0));
    assert_eq!(cluster.room(2, false), ["n2", "n1"]);
    assert_eq!(cluster.room(5, false), ["n1"]);
    assert!(cluster.room(9, false).is_empty());
}

#[test]
fn a_device_belongs_to_the_older_pool_and_the_other_says_so() {
    let pools = vec![pool("young", 2, json!({})), pool("old", 1, json!({"nodeSelector": {"pool": "shared"}}))];
    let inventory = Cluster::of(&[("n1", 8)], pools).look();
    assert_eq!(inventory.pools["old"].capacity.classes[&class()].offered, 8);
    assert!(inventory.pools["young"].capacity.classes.is_empty());
    assert_eq!(inventory.pools["young"].overlaps, BTreeSet::from([("old".to_owned(), class())]));
    assert!(inventory.pools["old"].overlaps.is_empty());
}

#[test]
fn a_silent_agent_offers_nothing_and_keeps_what_is_reserved() {
    let mut cluster = Cluster::of(&[("n1", 8)], all(0)).with(record("n1", "aarhus", 2));
    cluster.ages.clear();
    let inventory = cluster.look();
    let figures = inventory.pools["all"].capacity.classes[&class()];
    assert_eq!((figures.unknown, figures.leased, figures.offered), (8, 2, 0));
    assert_eq!(inventory.nodes[&"n1".parse().unwrap()].reservable(&record("n1", "aarhus", 2)), 2);
}

#[test]
fn a_restarting_device_plugin_stops_the_offer_and_takes_nothing_from_what_runs() {
    let mut cluster = Cluster::of(&[("n1", 8)], all(0)).with(record("n1", "aarhus", 2));
    cluster.nodes = vec![Arc::new(serde_json::from_value(node("n1", 0)).unwrap())];
    let figures = cluster.figures();
    assert_eq!((figures.healthy, figures.leased, figures.offered), (8, 2, 0));
}

#[test]
fn pods_that_cannot_be_read_are_not_taken_for_none() {
    let mut cluster = Cluster::of(&[("n1", 8)], all(0));
    cluster.holes = true;
    assert_eq!(cluster.figures().offered, 0);
}

#[test]
fn a_taint_keeps_work_away_unless_the_pool_tolerates_it() {
    let mut tainted = node("n1", 8);
    tainted["spec"] = json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]});
    let with = |tolerations: serde_json::Value| {
        let mut cluster = Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({"pod": {"tolerations": tolerations}}))]);
        cluster.nodes = vec![Arc::new(serde_json::from_value(tainted.clone()).unwrap())];
        cluster.figures().offered
    };
    assert_eq!(with(json!([])), 0);
    assert_eq!(with(json!([{"key": "gpu", "operator": "Equal", "value": "no"}])), 0);
    assert_eq!(with(json!([{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}])), 8);
    assert_eq!(with(json!([{"operator": "Exists"}])), 8);
}

#[test]
fn what_a_member_holds_in_a_pool_is_summed_over_its_nodes() {
    let cluster =
        Cluster::of(&[("n1", 8), ("n2", 4)], all(0)).with(record("n1", "aarhus", 2)).with(record("n2", "aarhus", 1));
    let inventory = cluster.look();
    let held = |member: &str| inventory.held_by(&member.parse().unwrap(), &inventory.pools["all"], &cluster.records);
    assert_eq!((held("aarhus"), held("cork")), (3, 0));
}
