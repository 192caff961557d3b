use serde_json::json;

use super::fixture::*;
use super::*;

/// A node with four devices by name, and a claim that has the first for a pod.
fn four() -> World {
    let devices = (0..4).map(|number| device("n1", number)).collect();
    World {
        nodes: vec![node("n1", 0)],
        pods: vec![from(user("p", "n1", "c"))],
        slices: vec![slice("n1", 1, 1, devices)],
        claims: vec![from(claim("c", "n1", &["gpu-0"], Some("p")))],
        rules: vec![],
    }
}

fn names(devices: &Devices) -> Vec<&str> {
    match devices {
        Devices::Named(names) => names.iter().map(DeviceId::as_str).collect(),
        Devices::Counted(_) => vec!["counted"],
    }
}

#[test]
fn a_plugins_node_counts_and_says_who_asks_and_how_far_that_is() {
    let mut leaving = asker("leaving", "n1", 1);
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut meant = asker("meant", "n1", 3);
    meant["spec"]["nodeName"] = json!(null);
    meant["status"] = json!({"nominatedNodeName": "n1"});
    let mut ended = asker("ended", "n1", 4);
    ended["status"] = json!({"phase": "Failed"});
    let pods = [asker("bound", "n1", 2), leaving, meant, ended, asker("elsewhere", "n2", 1)];
    let world = World { nodes: vec![node("n1", 8)], pods: pods.map(from).to_vec(), ..World::default() };
    let view = world.view("n1").unwrap();
    let holds: Vec<_> = view.holds.iter().map(|hold| (hold.holder.name.as_str(), hold.stage)).collect();
    assert_eq!(holds, [("bound", Stage::Bound), ("leaving", Stage::Terminating), ("meant", Stage::Nominated)]);
    assert_eq!((view.source, view.listed.count(), world.free("n1")), (Source::DevicePlugin, 8, 2));
    assert_eq!(world.view("n3"), None);
}

#[test]
fn a_claim_holds_its_devices_by_name_for_the_pod_that_uses_it() {
    let view = four().view("n1").unwrap();
    assert_eq!((view.source, view.listed.count()), (Source::Dra, 4));
    let [hold] = view.holds.as_slice() else { panic!("{:?}", view.holds) };
    assert_eq!((hold.holder.kind, hold.holder.name.as_str(), hold.stage), (HolderKind::Pod, "p", Stage::Bound));
    assert_eq!(names(&hold.devices), ["GPU-n1-0"]);
    assert_eq!(four().free("n1"), 3);
}

#[test]
fn a_claim_whose_pod_is_gone_still_holds() {
    let mut world = four();
    world.pods.clear();
    let view = world.view("n1").unwrap();
    assert_eq!((view.holds[0].holder.kind, view.holds[0].stage), (HolderKind::Claim, Stage::Allocated));
    assert_eq!(world.free("n1"), 3);
    // Another pod of the same name is not the one for which it is reserved.
    let mut impostor = user("p", "n1", "c");
    impostor["metadata"]["uid"] = json!("another");
    world.pods = vec![from(impostor)];
    assert_eq!(world.view("n1").unwrap().holds[0].holder.kind, HolderKind::Claim);
}

#[test]
fn the_placement_of_a_claims_pod_is_known_and_one_of_several_pods_is_nobodys() {
    let mut world = four();
    let mut labelled = user("p", "n1", "c");
    labelled["metadata"]["labels"] = json!({"koinon.dev/placement": "aarhus-1-0-1"});
    world.pods = vec![from(labelled)];
    let account = world.view("n1").unwrap().account(|holder| holder.placement.as_deref() == Some("aarhus-1-0-1"));
    assert_eq!((account.held_by_placements.count(), account.held_by_others.count()), (1, 0));
    let mut two = claim("c", "n1", &["gpu-0"], Some("p"));
    let others = two["status"]["reservedFor"].as_array_mut().unwrap();
    others.push(json!({"resource": "pods", "name": "q", "uid": "uid-q"}));
    world.claims = vec![from(two)];
    world.pods.push(from(user("q", "n1", "c")));
    let view = world.view("n1").unwrap();
    assert_eq!((view.holds.len(), view.holds[0].holder.placement.clone()), (1, None));
}

#[test]
fn what_is_tainted_is_not_given_out_and_a_taint_without_effect_is_none() {
    for (effect, free) in [("NoSchedule", 2), ("NoExecute", 2), ("SomethingNew", 2), ("None", 3)] {
        let mut world = four();
        let mut devices: Vec<_> = (0..4).map(|number| device("n1", number)).collect();
        devices[3]["taints"] = json!([{"key": "gpu.nvidia.com/gpu-lost", "effect": effect}]);
        world.slices = vec![slice("n1", 1, 1, devices)];
        assert_eq!(world.free("n1"), free, "{effect}");
        let withheld = world.view("n1").unwrap().withheld;
        assert_eq!(withheld.contains_key(&id("n1", 3)), effect != "None");
    }
}

#[test]
fn a_rule_taints_what_it_may_mean_also_where_its_expressions_are_not_understood() {
    for (selector, free) in [
        (json!({"device": "gpu-3"}), 2),
        (json!({"pool": "n1", "device": "gpu-3", "selectors": [{"cel": {"expression": "false"}}]}), 2),
        (json!({"driver": dra::GPU_DRIVER}), 0),
        (json!({"pool": "n2"}), 3),
        (json!({"driver": "nic.example.com"}), 3),
    ] {
        let world = World { rules: vec![rule(selector.clone(), "NoExecute")], ..four() };
        assert_eq!(world.free("n1"), free, "{selector}");
        let world = World { rules: vec![rule(selector, "None")], ..four() };
        assert_eq!(world.free("n1"), 3);
    }
}

#[test]
fn only_the_newest_complete_generation_of_a_pool_is_believed() {
    let mut world = four();
    let old = slice("n1", 1, 1, (0..4).map(|number| device("n1", number)).collect());
    world.slices = vec![old.clone(), slice("n1", 2, 1, vec![device("n1", 0), device("n1", 1)])];
    assert_eq!((world.view("n1").unwrap().listed.count(), world.free("n1")), (2, 1));
    world.slices = vec![old, slice("n1", 2, 2, vec![device("n1", 0), device("n1", 1)])];
    assert_eq!(world.view("n1").unwrap().doubts, BTreeSet::from([Doubt::PoolIncomplete]));
    assert_eq!(world.free("n1"), 0);
}

#[test]
fn a_device_that_left_its_slice_is_still_held_on_its_node() {
    let mut world = four();
    world.slices = vec![slice("n1", 2, 1, vec![device("n1", 1), device("n1", 2)])];
    let view = world.view("n1").unwrap();
    assert_eq!((view.holds[0].devices.clone(), world.free("n1")), (Devices::Counted(1), 1));
    // Without any slice of its pool the scheduler's own word says where it is, and else the pod.
    world.slices.clear();
    assert_eq!(world.view("n1").unwrap().holds.len(), 1);
    let mut selected = claim("c", "gone", &["gpu-0"], None);
    selected["status"]["allocation"]["nodeSelector"] = json!({"nodeSelectorTerms": [{"matchFields":
        [{"key": "metadata.name", "operator": "In", "values": ["n7"]}]}]});
    world.claims = vec![from(selected)];
    assert_eq!(world.view("n7").unwrap().holds.len(), 1);
}

#[test]
fn a_holder_without_a_place_puts_every_node_in_doubt() {
    let mut world = four();
    world.claims.push(from(claim("stray", "nowhere", &["gpu-0"], None)));
    assert_eq!(world.view("n1").unwrap().doubts, BTreeSet::from([Doubt::HolderWithoutPlace]));
    assert_eq!(world.free("n1"), 0);
}

#[test]
fn what_a_pod_asks_for_and_has_not_got_counts_on_its_node() {
    let mut world = four();
    let mut pending = claim("wanted", "n1", &["gpu-1", "gpu-2"], None);
    pending["status"] = json!({});
    world.claims.push(from(pending.clone()));
    assert_eq!(world.free("n1"), 3);
    let mut meant = user("q", "n1", "wanted");
    meant["spec"]["nodeName"] = json!(null);
    meant["status"] = json!({"nominatedNodeName": "n1"});
    world.pods.push(from(meant));
    assert_eq!(world.free("n1"), 1);
    pending["spec"]["devices"]["requests"][0]["exactly"]["allocationMode"] = json!("All");
    world.claims[1] = from(pending);
    assert_eq!(world.free("n1"), 0);
}

#[test]
fn a_claim_that_is_not_known_yet_is_not_taken_for_none() {
    let mut world = four();
    world.pods.push(from(user("q", "n1", "unheard-of")));
    assert_eq!((world.view("n1").unwrap().doubts, world.free("n1")), (BTreeSet::from([Doubt::ClaimMissing]), 0));
    // Its claim is made from a template, and is not made yet.
    let mut early = user("q", "n1", "x");
    early["spec"]["resourceClaims"] = json!([{"name": "gpus", "resourceClaimTemplateName": "t"}]);
    world.pods[1] = from(early.clone());
    assert_eq!(world.free("n1"), 0);
    early["status"]["resourceClaimStatuses"] = json!([{"name": "gpus", "resourceClaimName": "c"}]);
    world.pods[1] = from(early);
    assert_eq!(world.free("n1"), 3);
}

#[test]
fn who_looks_at_a_device_beside_its_holder_holds_nothing() {
    let mut world = four();
    let mut admin = claim("admin", "n1", &["gpu-1"], None);
    admin["status"]["allocation"]["devices"]["results"][0]["adminAccess"] = json!(true);
    world.claims.push(from(admin));
    assert_eq!(world.free("n1"), 3);
}

#[test]
fn a_device_that_several_may_hold_is_not_given_to_others() {
    let mut world = four();
    let mut devices: Vec<_> = (0..4).map(|number| device("n1", number)).collect();
    devices[3]["allowMultipleAllocations"] = json!(true);
    world.slices = vec![slice("n1", 1, 1, devices)];
    assert_eq!(world.free("n1"), 2);
    let mut sliced = claim("c", "n1", &["gpu-0"], Some("p"));
    sliced["status"]["allocation"]["devices"]["config"] = json!([{"source": "FromClaim", "requests": ["gpus"],
        "opaque": {"driver": dra::GPU_DRIVER, "parameters": {"sharing": {"strategy": "TimeSlicing"}}}}]);
    let world = World { claims: vec![from(sliced)], ..four() };
    let view = world.view("n1").unwrap();
    assert_eq!(view.withheld, BTreeMap::from([(id("n1", 0), Withheld::Shared(Sharing::TimeSliced))]));
    assert_eq!(view.listed.count(), 3);
}

#[test]
fn a_gpu_of_which_an_instance_is_held_is_held() {
    let counters = |mut device: serde_json::Value| {
        device["consumesCounters"] = json!([{"counterSet": "gpu-0-counters", "counters": {}}]);
        device
    };
    let instance = counters(json!({"name": "gpu-0-mig-1g", "attributes": {"type": {"string": "mig"}}}));
    let mut world = four();
    world.slices = vec![slice("n1", 1, 1, vec![counters(device("n1", 0)), instance, device("n1", 1)])];
    world.claims = vec![from(claim("c", "n1", &["gpu-0-mig-1g"], Some("p")))];
    let view = world.view("n1").unwrap();
    assert_eq!((names(&view.holds[0].devices), view.sharing), (vec!["GPU-n1-0"], Sharing::Mig));
    assert_eq!(world.free("n1"), 1);
}

#[test]
fn a_pool_in_which_a_name_repeats_gives_out_nothing() {
    let mut world = four();
    let mut other = device("n1", 5);
    other["name"] = json!("gpu-1");
    world.slices = vec![slice("n1", 1, 1, vec![device("n1", 1), device("n1", 2), other])];
    let view = world.view("n1").unwrap();
    assert_eq!(names(&view.listed), ["GPU-n1-2"]);
    assert_eq!((view.withheld.len(), view.doubts), (2, BTreeSet::from([Doubt::PoolIncomplete])));
}

#[test]
fn two_devices_with_one_id_are_both_withheld_wherever_they_are() {
    let mut world = four();
    world.nodes.push(node("n2", 0));
    world.slices.push(slice("n2", 1, 1, vec![device("n1", 3), device("n2", 0)]));
    assert_eq!(world.free("n1"), 2);
    assert_eq!(world.view("n2").unwrap().withheld, BTreeMap::from([(id("n1", 3), Withheld::Ambiguous)]));
}

#[test]
fn a_node_that_both_sources_give_out_is_in_doubt_and_an_idle_source_is_none() {
    let mut world = four();
    world.nodes = vec![node("n1", 4)];
    let view = world.view("n1").unwrap();
    assert_eq!((view.source, view.doubts), (Source::Dra, BTreeSet::from([Doubt::BothSources])));
    let empty = World { slices: vec![slice("n1", 1, 1, vec![])], claims: vec![], pods: vec![], ..world };
    assert_eq!((empty.view("n1").unwrap().source, empty.free("n1")), (Source::DevicePlugin, 4));
}

#[test]
fn slices_of_other_drivers_are_no_gpus() {
    let mut world = four();
    let mut foreign: serde_json::Value =
        serde_json::to_value(slice("n1", 1, 9, vec![device("n1", 8)]).as_ref()).unwrap();
    foreign["spec"]["driver"] = json!("nic.example.com");
    world.slices.push(from(foreign));
    assert_eq!((world.view("n1").unwrap().listed.count(), world.free("n1")), (4, 3));
}

#[test]
fn what_is_trimmed_away_changes_no_view() {
    let mut world = four();
    let mut rich = device("n1", 3);
    rich["capacity"] = json!({"memory": {"value": "80Gi"}});
    rich["attributes"]["productName"] = json!({"string": "NVIDIA H100"});
    rich["consumesCounters"] = json!([{"counterSet": "s", "counters": {"memory": {"value": "80Gi"}}}]);
    world.slices = vec![slice("n1", 1, 1, vec![device("n1", 0), rich])];
    let mut shared = claim("c", "n1", &["gpu-0"], Some("p"));
    shared["status"]["allocation"]["devices"]["config"] = json!([{"source": "FromClass",
        "opaque": {"driver": dra::GPU_DRIVER, "parameters": {"kind": "GpuConfig", "sharing": {"strategy": "MPS"}}}}]);
    world.claims = vec![from(shared)];
    let whole = world.view("n1");
    for slice in &mut world.slices {
        dra::trim::slice(Arc::make_mut(slice));
    }
    for claim in &mut world.claims {
        dra::trim::claim(Arc::make_mut(claim));
    }
    assert_eq!(world.view("n1"), whole);
    let text = serde_json::to_string(world.slices[0].as_ref()).unwrap();
    assert!(!text.contains("80Gi") && !text.contains("H100"), "{text}");
}
