use koinon_api::cooperative::CooperativeSpec;
use koinon_core::body::latest::NetworkPolicyState;
use koinon_core::capacity::PoolClass as Figures;
use serde_json::json;

use super::super::gpupool_offer::{self, Eyes};
use super::*;
use crate::placement::inventory::fixture::{Cluster, class, pool, record};

fn now() -> Time {
    koinon_api::time::from_unix(1_795_000_000).unwrap()
}

fn status_of(cluster: &Cluster, name: &str) -> GPUPoolStatus {
    let inventory = cluster.look();
    status(&inventory.pools[name], &inventory, &now())
}

fn said(status: &GPUPoolStatus, type_: ConditionType) -> (String, String, String) {
    let condition = conditions::find(&status.conditions, type_).unwrap();
    (condition.status.clone(), condition.reason.clone(), condition.message.clone())
}

fn spec(mode: &str) -> CooperativeSpec {
    serde_json::from_value(json!({"id": format!("sha256:{}", "0".repeat(64)), "member": "bilbao",
        "site": {"name": "main", "region": "eu-south", "jurisdiction": "ES"}, "guests": {"mode": mode},
        "endpoints": {"gateway": ["https://bilbao.example:7444/", "https://bad"]}}))
    .unwrap()
}

#[test]
fn a_pool_says_how_much_of_it_is_shared() {
    let status = status_of(&Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({"reserve": 1}))]), "all");
    let ready = said(&status, ConditionType::Ready);
    assert_eq!(ready, ("True".into(), "Sharing".into(), "7 of 8 GPUs are offered".into()));
    assert_eq!((status.installed, status.offered, status.leased), (Some(8), Some(7), Some(0)));
    assert_eq!(status.classes[0].evidence, Evidence::SchedulerConsistent);
    assert_eq!(status.classes[0].product, "NVIDIA H100 80GB HBM3");
}

#[test]
fn a_younger_pool_says_which_older_one_has_its_devices() {
    let pools = vec![pool("old", 1, json!({})), pool("young", 2, json!({}))];
    let status = status_of(&Cluster::of(&[("n1", 8)], pools), "young");
    let (value, reason, message) = said(&status, ConditionType::Exclusive);
    assert_eq!((value.as_str(), reason.as_str()), ("False", "Overlaps"));
    assert!(message.contains("h100-80 with old"), "{message}");
    assert_eq!(said(&status, ConditionType::Ready).1, "Overlaps");
}

#[test]
fn a_silent_agent_is_named_with_its_age_and_the_limit() {
    let mut cluster = Cluster::of(&[("n1", 8), ("n2", 4)], vec![pool("all", 1, json!({}))]);
    cluster.ages.insert("n1".parse().unwrap(), koinon_core::ids::Seconds(95));
    let status = status_of(&cluster, "all");
    let (value, reason, message) = said(&status, ConditionType::Fresh);
    assert_eq!((value.as_str(), reason.as_str()), ("False", "StaleNodes"));
    assert!(
        message.contains("1 of 2 agents are silent") && message.contains("n1 for 95 s, 30 s are allowed"),
        "{message}"
    );
    assert_eq!((status.stale_nodes, status.offered), (Some(1), Some(4)));
    assert_eq!(status.classes[0].evidence, Evidence::Claimed);
}

#[test]
fn a_device_plugin_that_registers_too_little_is_named_with_both_numbers() {
    let mut cluster = Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({}))]);
    cluster.allocatable("n1", 6);
    let (value, reason, message) = said(&status_of(&cluster, "all"), ConditionType::SchedulerConsistent);
    assert_eq!((value.as_str(), reason.as_str()), ("False", "ResourceNotRegistered"));
    assert!(message.contains("n1 has 8 healthy GPUs, 6 are allocatable"), "{message}");
}

#[test]
fn a_pool_that_selects_nothing_says_where_to_look() {
    let cluster = Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({"nodeSelector": {"no": "such"}}))]);
    let (value, reason, message) = said(&status_of(&cluster, "all"), ConditionType::Ready);
    assert_eq!((value.as_str(), reason.as_str()), ("False", "NoMatchingNodes"));
    assert!(message.contains("kubectl get gpunodes"), "{message}");
}

#[test]
fn every_figure_that_can_come_out_is_one_that_the_api_server_takes() {
    for (devices, allocatable, others, leased, reserve) in
        [(8, 8, 0, 0, 0), (8, 2, 6, 4, 1), (4, 8, 3, 4, 9), (0, 8, 2, 3, 1), (8, 8, 100, 2, 0)]
    {
        let mut cluster = Cluster::of(&[("n1", devices)], vec![pool("all", 1, json!({"reserve": reserve}))]);
        cluster.allocatable("n1", allocatable);
        cluster.pods.push(crate::placement::inventory::fixture::pod("default", None, "n1", others));
        let status = status_of(&cluster.with(record("n1", "aarhus", leased)), "all");
        for one in &status.classes {
            assert_eq!(one.healthy + one.degraded + one.unhealthy + one.unknown, one.installed, "{one:?}");
            assert!(one.offered + one.leased + one.owner_requested + one.orphaned <= one.installed, "{one:?}");
            assert!(one.offered <= one.healthy && one.largest_node <= one.offered, "{one:?}");
        }
    }
}

#[test]
fn an_offer_sums_the_pools_and_names_the_largest_free_and_the_largest_installed_block() {
    let mut cluster = Cluster::of(&[("n1", 8), ("n2", 4)], vec![pool("all", 1, json!({"reserve": 2}))]);
    cluster = cluster.with(record("n1", "aarhus", 5));
    let inventory = cluster.look();
    let figures: Figures = inventory.pools["all"].capacity.classes[&class()];
    assert_eq!((figures.offered, figures.largest_node), (5, 4));
    let seen = |eyes| {
        let offer =
            gpupool_offer::offer(&inventory, &spec("Accept"), NetworkPolicyState::Enforced, &[], false, eyes).unwrap();
        let class = offer.classes[0].clone();
        (class.offered, class.largest_block, class.largest_node)
    };
    assert_eq!(seen(Eyes::Others), (5, 4, Some(8)));
    assert_eq!(seen(Eyes::Own), (7, 4, Some(8)));
}

#[test]
fn an_offer_says_the_owner_s_mode_and_only_addresses_that_can_be_dialled() {
    let inventory = Cluster::of(&[], vec![]).look();
    let offer = |mode, ending| {
        gpupool_offer::offer(&inventory, &spec(mode), NetworkPolicyState::Unknown, &[], ending, Eyes::Others).unwrap()
    };
    assert_eq!(offer("Accept", false).guests.as_str(), "Accept");
    assert_eq!(offer("Accept", true).guests.as_str(), "Drain");
    assert_eq!(offer("Stop", true).guests.as_str(), "Stop");
    let gateways: Vec<String> = offer("Accept", false).gateway.iter().map(ToString::to_string).collect();
    assert_eq!(gateways, ["https://bilbao.example:7444"]);
    assert_eq!(offer("Accept", false).jurisdiction.as_str(), "ES");
}
