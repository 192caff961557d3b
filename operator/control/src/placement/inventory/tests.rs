use serde_json::json;

use super::fixture::{Cluster, class, node, pod, pool, record};
use super::*;
use koinon_api::labels::GPU_RESOURCE;

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
    let pools =
        vec![pool("young", 2, json!({})), pool("old", 1, json!({"nodeSelector": {"pool": "shared"}, "reserve": 0}))];
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
    assert_eq!((figures.unknown, figures.leased, figures.stranded, figures.offered), (8, 0, 2, 0));
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
        let mut cluster =
            Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({"reserve": 0, "pod": {"tolerations": tolerations}}))]);
        cluster.nodes = vec![Arc::new(serde_json::from_value(tainted.clone()).unwrap())];
        cluster.figures().offered
    };
    assert_eq!(with(json!([])), 0);
    assert_eq!(with(json!([{"key": "gpu", "operator": "Equal", "value": "no"}])), 0);
    assert_eq!(with(json!([{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}])), 8);
    assert_eq!(with(json!([{"operator": "Exists"}])), 8);
}

#[test]
fn a_pool_of_devices_by_name_offers_those_that_both_accounts_call_good() {
    use super::scheduler::fixture as named;
    let mut cluster = Cluster::of(
        &[("n1", 4)],
        vec![pool("all", 1, json!({"reserve": 0, "pod": {"deviceClassName": "gpu.nvidia.com"}}))],
    );
    cluster.allocatable("n1", 0);
    let mut devices: Vec<_> = (0..4).map(|number| named::device("n1", number)).collect();
    devices[3]["taints"] = json!([{"key": "gpu.nvidia.com/gpu-lost", "effect": "NoSchedule"}]);
    cluster.slices = vec![named::slice("n1", 1, 1, devices)];
    assert_eq!(cluster.figures().offered, 3);
    // The owner's own claim, of which no pod is known.
    cluster.claims = vec![named::from(named::claim("c", "n1", &["gpu-0"], None))];
    assert_eq!((cluster.figures().owner_requested, cluster.figures().offered), (1, 2));
    // A guest's claim is its reservation.
    let mut cluster = cluster.with(record("n1", "aarhus", 2));
    let mut guest = named::user("p", "n1", "c");
    guest["metadata"]["namespace"] = json!("koinon-guest-aarhus");
    guest["metadata"]["labels"] = json!({"koinon.dev/placement": "aarhus-0c1f3a52-0-1"});
    let mut claim = named::claim("c", "n1", &["gpu-0", "gpu-1"], Some("p"));
    claim["metadata"]["namespace"] = json!("koinon-guest-aarhus");
    (cluster.pods, cluster.claims) = (vec![named::from(guest)], vec![named::from(claim)]);
    let figures = cluster.figures();
    assert_eq!((figures.leased, figures.owner_requested, figures.offered), (2, 0, 1));
}

#[test]
fn a_pool_that_asks_the_other_way_is_offered_nothing() {
    use super::scheduler::fixture as named;
    let by_class = || vec![pool("all", 1, json!({"reserve": 0, "pod": {"deviceClassName": "gpu.nvidia.com"}}))];
    assert_eq!(Cluster::of(&[("n1", 4)], by_class()).figures().offered, 0);
    let mut cluster = Cluster::of(&[("n1", 4)], all(0));
    cluster.allocatable("n1", 0);
    cluster.slices = vec![named::slice("n1", 1, 1, (0..4).map(|number| named::device("n1", number)).collect())];
    assert_eq!(cluster.figures().offered, 0);
    cluster.pools = by_class();
    assert_eq!(cluster.figures().offered, 4);
}

#[test]
fn shared_gpus_are_offered_to_nobody_also_where_only_their_number_gives_it_away() {
    let mut cluster = Cluster::of(&[("n1", 4)], all(0));
    cluster.allocatable("n1", 8);
    assert_eq!(cluster.figures().offered, 0);
    cluster.allocatable("n1", 4);
    assert_eq!(cluster.figures().offered, 4);
    let mut labelled = node("n1", 4);
    labelled["metadata"]["labels"]["nvidia.com/gpu.replicas"] = json!("2");
    cluster.nodes = vec![Arc::new(serde_json::from_value(labelled).unwrap())];
    assert_eq!(cluster.figures().offered, 0);
}

#[test]
fn what_a_member_holds_in_a_pool_is_summed_over_its_nodes() {
    let cluster =
        Cluster::of(&[("n1", 8), ("n2", 4)], all(0)).with(record("n1", "aarhus", 2)).with(record("n2", "aarhus", 1));
    let inventory = cluster.look();
    let held = |member: &str| inventory.held_by(&member.parse().unwrap(), &inventory.pools["all"], &cluster.records);
    assert_eq!((held("aarhus"), held("cork")), (3, 0));
}

/// The devices of `n1`, of which the kubelet says who holds them.
fn devices_of_n1(devices: serde_json::Value) -> Cluster {
    let mut cluster = Cluster::of(&[("n1", 2)], all(0));
    let gpu_node = json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": "n1"}, "spec": {},
        "status": {"devices": devices}});
    cluster.gpu_nodes = vec![Arc::new(serde_json::from_value(gpu_node).unwrap())];
    cluster
}

fn device(number: u32, allocation: serde_json::Value) -> serde_json::Value {
    json!({"uuid": format!("GPU-{number}"), "index": number, "product": "NVIDIA H100 80GB HBM3", "class": "h100-80",
        "memory": {"totalBytes": 85_520_809_984_i64}, "mig": {"mode": "Disabled"}, "health": {"state": "Healthy"},
        "allocation": allocation})
}

#[test]
fn who_holds_a_device_is_told_by_the_pod_and_not_by_what_the_pod_calls_itself() {
    let held = |namespace: &str| {
        let holder = json!([{"namespace": namespace, "name": "p"}]);
        let devices = json!([
            device(0, json!({"state": "Held", "holders": holder, "registered": true})),
            device(1, json!({"state": "Free", "registered": true})),
        ]);
        let mut cluster = devices_of_n1(devices).with(record("n1", "aarhus", 1));
        cluster.pods = vec![pod(namespace, Some("aarhus-0c1f3a52-0-1"), "n1", 1)];
        cluster.figures()
    };
    let figures = held("koinon-guest-aarhus");
    assert_eq!((figures.leased, figures.owner_requested, figures.offered), (1, 0, 1));
    let figures = held("default");
    assert_eq!((figures.leased, figures.owner_requested, figures.offered), (1, 1, 0));
}

#[test]
fn a_device_with_a_strangers_process_is_not_offered_although_the_scheduler_would() {
    let devices = json!([
        device(0, json!({"state": "Orphaned", "registered": false})),
        device(1, json!({"state": "Free", "registered": true})),
    ]);
    let mut cluster = devices_of_n1(devices);
    cluster.allocatable("n1", 1);
    let figures = cluster.figures();
    assert_eq!((figures.healthy, figures.orphaned, figures.offered), (2, 1, 1));
}

#[test]
fn instances_stand_for_their_parent_under_the_resource_of_their_profile() {
    let instance = |number: u32| {
        json!({"uuid": format!("MIG-{number}"), "index": 0, "parent": "GPU-0", "product": "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
            "class": "h100-80-1g-10gb", "memory": {"totalBytes": 10_200_547_328_i64}, "mig": {"mode": "Instance"},
            "health": {"state": "Healthy"}, "allocation": {"state": "Free", "registered": true}})
    };
    let parent = json!({"uuid": "GPU-0", "index": 0, "product": "NVIDIA H100 80GB HBM3", "class": "h100-80",
        "memory": {"totalBytes": 85_520_809_984_i64}, "mig": {"mode": "Enabled"}, "health": {"state": "Healthy"}});
    let mut cluster = devices_of_n1(json!([parent, instance(1), instance(2)]));
    let offered = |cluster: &Cluster, name: &str| {
        let inventory = cluster.look();
        inventory.pools["all"].capacity.classes.get(&name.parse().unwrap()).map(|figures| figures.offered)
    };
    cluster.allocatable("n1", 2);
    assert_eq!((offered(&cluster, "h100-80"), offered(&cluster, "h100-80-1g-10gb")), (None, None));
    cluster.pools = vec![pool("all", 1, json!({"reserve": 0, "pod": {"resourceName": "nvidia.com/mig-1g.10gb"}}))];
    let mut node = node("n1", 0);
    node["status"]["allocatable"] = json!({"nvidia.com/mig-1g.10gb": "2", GPU_RESOURCE: "0"});
    cluster.nodes = vec![Arc::new(serde_json::from_value(node).unwrap())];
    assert_eq!((offered(&cluster, "h100-80"), offered(&cluster, "h100-80-1g-10gb")), (None, Some(2)));
}

#[test]
fn others_are_offered_no_more_than_the_owner_lets_them_hold_in_all() {
    let limited =
        |gpus: i32| vec![pool("all", 1, json!({"reserve": 0, "limits": [{"class": "h100-80", "gpus": gpus}]}))];
    let offered = |gpus, record| Cluster::of(&[("n1", 8)], limited(gpus)).with(record).figures().offered;
    assert_eq!((offered(5, record("n1", "aarhus", 2)), offered(2, record("n1", "aarhus", 2))), (3, 0));
    assert_eq!(offered(1, record("n1", "aarhus", 2)), 0, "what they hold beyond it is reclaimed, not offered");
    assert_eq!(offered(5, record("n1", "bilbao", 2)), 5, "own work is not counted");
    // The owner's own jobs are bound by nothing but what is free.
    let cluster = Cluster::of(&[("n1", 8)], limited(0));
    assert_eq!((cluster.room(1, false).len(), cluster.room(8, true).len()), (0, 1));
}

#[test]
fn a_reservation_is_counted_in_the_class_of_its_placement_or_in_each_while_that_is_not_known() {
    let limits = json!([{"class": "h100-80", "gpus": 3}, {"class": "a100-40", "gpus": 3}]);
    let mut cluster = Cluster::of(&[("n1", 4)], vec![pool("all", 1, json!({"reserve": 0, "limits": limits}))]);
    cluster = cluster.with(record("n1", "aarhus", 2));
    let foreign = |cluster: &Cluster, name: &str| cluster.look().pools["all"].foreign_of(&name.parse().unwrap());
    assert_eq!(foreign(&cluster, "h100-80"), 2);
    let spec = json!({"side": "Host", "home": "aarhus", "host": "bilbao", "replica": 0, "epoch": 1, "servedName": "tiny",
        "job": {"namespace": "team", "name": "tiny", "uid": "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11"},
        "model": {"uri": "https://m.example/t", "revision": "1", "manifestDigest": format!("sha256:{}", "ab".repeat(32)),
            "quantization": "f32"},
        "engine": {"name": "llama-cpp"}, "gpu": {"class": "a100-40", "count": 2}, "maxModelLen": 512,
        "maxConcurrency": 4, "lease": {"seconds": 20}, "template": "{}"});
    cluster.placements.push(Arc::new(Placement::new("aarhus-0c1f3a52-0-1", serde_json::from_value(spec).unwrap())));
    assert_eq!(foreign(&cluster, "h100-80"), 0, "its GPUs are of the other class");
}

#[test]
fn nothing_new_comes_to_a_node_that_any_of_its_pools_empties() {
    let drained = json!({"reserve": 0, "drain": {"nodes": ["n1"]}});
    let cluster =
        Cluster::of(&[("n1", 8), ("n2", 4)], vec![pool("all", 1, json!({"reserve": 0})), pool("b", 2, drained)]);
    assert_eq!(
        (cluster.figures().offered, cluster.room(1, false), cluster.room(1, true)),
        (4, vec!["n2".into()], vec!["n2".into()])
    );
    // Another pool's wish about a node that it does not select is none.
    let elsewhere = json!({"nodeSelector": {"no": "such"}, "drain": {"nodes": ["n1"]}});
    let cluster = Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({"reserve": 0})), pool("b", 2, elsewhere)]);
    assert_eq!(cluster.figures().offered, 8);
}
