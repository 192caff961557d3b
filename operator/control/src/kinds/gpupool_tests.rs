use koinon_api::cooperative::CooperativeSpec;
use koinon_core::body::latest::NetworkPolicyState;
use koinon_core::capacity::PoolClass as Figures;
use serde_json::json;

use super::super::gpupool_offer::{self, Eyes};
use super::*;
use crate::placement::inventory::fixture::{Cluster, class, gpu_node_said, pool, record};

fn now() -> Time {
    koinon_api::time::from_unix(1_795_000_000).unwrap()
}

fn status_of(cluster: &Cluster, name: &str) -> GPUPoolStatus {
    let inventory = cluster.look();
    status_in(&inventory, name, &Leaving::default())
}

fn status_in(inventory: &Inventory, name: &str, leaving: &Leaving) -> GPUPoolStatus {
    let view = &inventory.pools[name];
    status(view, inventory, Digests::default().of(view, inventory), leaving, &now())
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
fn a_younger_pool_that_asks_otherwise_is_told_which_older_one_decides_how_its_nodes_are_counted() {
    let by_profile = json!({"pod": {"resourceName": "nvidia.com/mig-1g.10gb"}});
    let pools = vec![pool("old", 1, json!({})), pool("young", 2, by_profile)];
    let cluster = Cluster::of(&[("n1", 8)], pools);
    let (value, reason, message) = said(&status_of(&cluster, "young"), ConditionType::Exclusive);
    assert_eq!((value.as_str(), reason.as_str()), ("False", "Overlaps"), "the devices of a class are the older one's");
    assert!(message.contains("h100-80 with old"), "{message}");

    // Of another class, so that nothing overlaps: there would be instances for it, if the node were counted so.
    let by_profile = json!({"classes": ["h100-80-1g-10gb"], "pod": {"resourceName": "nvidia.com/mig-1g.10gb"}});
    let pools = vec![pool("old", 1, json!({})), pool("young", 2, by_profile)];
    let mut cluster = Cluster::of(&[("n1", 8)], pools);
    let (value, reason, message) = said(&status_of(&cluster, "young"), ConditionType::Exclusive);
    assert_eq!((value.as_str(), reason.as_str()), ("False", "CountedOtherwise"));
    assert!(message.contains("n1 as nvidia.com/gpu for pool old"), "{message}");
    assert!(message.contains("nvidia.com/mig-1g.10gb") && message.contains("nodeSelector"), "{message}");
    assert_eq!(said(&status_of(&cluster, "old"), ConditionType::Exclusive).1, "Exclusive");
    // Two that ask in the same way only share the node.
    cluster.pools[1] = pool("young", 2, json!({"classes": ["a100-40"]}));
    assert_eq!(said(&status_of(&cluster, "young"), ConditionType::Exclusive).1, "Exclusive");
}

#[test]
fn two_numbers_that_are_equal_are_no_evidence_without_somebody_who_names_the_devices() {
    let look = |scheduler: serde_json::Value, registered: serde_json::Value| {
        let mut cluster = Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({"reserve": 0}))]);
        let mut gpu_node = gpu_node_said("n1", 8);
        gpu_node["status"]["scheduler"] = scheduler;
        gpu_node["status"]["devices"][3]["allocation"] = json!({"state": "Free", "registered": registered});
        cluster.gpu_nodes = vec![std::sync::Arc::new(serde_json::from_value(gpu_node).unwrap())];
        let status = status_of(&cluster, "all");
        let (value, reason, _) = said(&status, ConditionType::SchedulerConsistent);
        (status.offered, status.classes[0].evidence, format!("{value} {reason}"))
    };
    let told = json!({"source": "DevicePlugin", "podResources": "Available"});
    assert_eq!(look(told.clone(), json!(true)), (Some(8), Evidence::SchedulerConsistent, "True Consistent".into()));
    // What is offered is still the smaller of the two numbers; how well that is supported is another question.
    let silent = (Some(8), Evidence::Claimed, "Unknown KubeletSilent".to_owned());
    assert_eq!(look(told, json!(null)), silent, "it does not say of each whether it gives it out");
    for pod_resources in ["Unavailable", "NotConfigured"] {
        assert_eq!(look(json!({"source": "DevicePlugin", "podResources": pod_resources}), json!(true)), silent);
    }
    assert_eq!(look(json!(null), json!(true)), silent, "an agent that says nothing of it");
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
    assert_eq!((status.stale_nodes, status.offered), (Some(1), Some(3)));
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
fn what_may_still_register_is_unknown_before_it_is_a_fault() {
    let verdict = |allocatable, seconds| {
        let mut cluster = Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({}))]);
        cluster.allocatable("n1", allocatable);
        let mut inventory = cluster.look();
        inventory.disagreeing.insert("n1".parse().unwrap(), koinon_core::ids::Seconds(seconds));
        let status = status_in(&inventory, "all", &Leaving::default());
        let (value, reason, _) = said(&status, ConditionType::SchedulerConsistent);
        assert!(status.offered <= Some(allocatable as i32));
        format!("{value} {reason}")
    };
    assert_eq!(verdict(0, 119), "Unknown PluginReregistering");
    assert_eq!(verdict(0, 120), "False ResourceNotRegistered");
    assert_eq!(verdict(6, 599), "Unknown RegistrationPending");
    assert_eq!(verdict(6, 600), "False ResourceNotRegistered");
}

#[test]
fn a_node_whose_kubelet_might_hand_out_a_sick_gpu_is_named_with_the_remedy() {
    let mut cluster = Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({}))]);
    cluster.allocatable("n1", 9);
    let status = status_of(&cluster, "all");
    let (value, reason, message) = said(&status, ConditionType::SchedulerConsistent);
    assert_eq!((value.as_str(), reason.as_str(), status.offered), ("False", "UnfitGivenOut", Some(0)));
    assert!(message.contains("n1 (1)") && message.contains("restart the device plugin"), "{message}");
}

#[test]
fn a_digest_that_is_remembered_is_that_of_the_devices_that_there_are() {
    let mut remembered = Digests::default();
    let mut cluster = Cluster::of(&[("n1", 8), ("n2", 4)], vec![pool("all", 1, json!({}))]);
    let mut seen = BTreeSet::new();
    for round in 0..4 {
        match round {
            1 => cluster.allocatable("n1", 3),
            2 => cluster.gpu_nodes.truncate(1),
            3 => cluster.gpu_nodes[0] = crate::placement::inventory::fixture::gpu_node("n1", 7),
            _ => {}
        }
        let inventory = cluster.look();
        let (digest, fresh) = (
            remembered.of(&inventory.pools["all"], &inventory),
            Digests::default().of(&inventory.pools["all"], &inventory),
        );
        assert_eq!(digest, fresh, "round {round}");
        seen.insert(digest);
        remembered.keep(&inventory.pools);
    }
    assert_eq!(seen.len(), 3, "what a node may give out is no device");
}

#[test]
fn the_digest_is_of_the_devices_and_not_of_how_they_do() {
    let digest = |cluster: &Cluster| status_of(cluster, "all").digest.unwrap();
    let mut cluster = Cluster::of(&[("n1", 8), ("n2", 4)], vec![pool("all", 1, json!({}))]);
    let before = digest(&cluster);
    cluster.allocatable("n1", 3);
    cluster.gpu_nodes.reverse();
    assert_eq!(digest(&cluster), before);
    cluster.gpu_nodes.pop();
    assert_ne!(digest(&cluster), before);
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
            let used = one.leased + one.owner_requested + one.orphaned;
            assert!(one.offered + used <= one.healthy + one.degraded, "{one:?}");
            assert!(one.stranded <= one.unhealthy + one.unknown, "{one:?}");
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

#[test]
fn a_pool_says_how_many_of_how_many_gpus_come_back_and_by_when() {
    let cluster = Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({}))]);
    let inventory = cluster.look();
    let told = |leaving: &Leaving, type_| said(&status_in(&inventory, "all", leaving), type_);
    assert_eq!(told(&Leaving::default(), ConditionType::Reclaiming).0, "False");
    let until = Some(koinon_core::ids::UnixSeconds(1_795_219_200));
    let reclaiming = Reclaiming { copies: 2, gpus: 3, held: 5, until };
    let (value, _, message) = told(&Leaving { reclaiming, ..Leaving::default() }, ConditionType::Reclaiming);
    assert_eq!(value, "True");
    assert_eq!(message, "3 of 5 GPUs that are held come back by 2026-11-21T00:00:00Z, as 2 copies end");
}

#[test]
fn an_open_breaker_is_told_with_its_numbers_and_the_command_that_closes_it() {
    let cluster = Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({}))]);
    let inventory = cluster.look();
    let breaker = |open| Some(BreakerVerdict { open, quarantined: 3, healthy: 14 });
    let told = |open| {
        let leaving = Leaving { breaker: breaker(open), ..Leaving::default() };
        said(&status_in(&inventory, "all", &leaving), ConditionType::Quarantining)
    };
    assert_eq!((told(false).0.as_str(), told(false).1.as_str()), ("True", "BreakerClosed"));
    let (value, reason, message) = told(true);
    assert_eq!((value.as_str(), reason.as_str()), ("False", "BreakerOpen"));
    assert!(message.starts_with("3 of 14 GPUs") && message.ends_with("kubectl koinon gpus reset-breaker"), "{message}");
}
