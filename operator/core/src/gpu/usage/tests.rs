use super::fixture::{GIB, HOUR, Node, device, holding, memory, pod, process, uid};
use super::*;
use crate::gpu::device::{Instance, InstancePlace, Memory, Process};
use crate::gpu::reading::Reading::{self, Known};

fn of_pod(name: &str) -> Owner {
    Owner::Pod { uid: uid(name), container: None }
}

fn held_by(names: &[&str]) -> Use {
    Use::Held { pods: names.iter().map(|name| pod(name)).collect() }
}

#[test]
fn a_device_that_nobody_holds_and_nothing_uses_is_free_and_clean() {
    let found = Node::new().first();
    assert_eq!((found.state, found.clean, found.quiet), (Use::Free, Clean::Yes, Some(true)));
    assert_eq!((found.unattributed, found.oldest_unattributed_seconds), (Some(Bytes(0)), None));
    assert_eq!((found.holders, found.processes), (Some(BTreeSet::new()), Some(BTreeMap::new())));
}

#[test]
fn a_process_of_the_pod_that_holds_the_device_is_that_pods() {
    let found = Node::new().held(&[("one", "GPU-a")]).running(7, of_pod("one")).first();
    assert_eq!((found.state, found.clean), (held_by(&["one"]), Clean::Yes));
    assert_eq!(found.processes, Some([((ProcessKind::Compute, Attribution::Pod), 1)].into()));
    assert_eq!((found.oldest_unattributed_seconds, found.idle_seconds), (None, None));
}

#[test]
fn a_living_pod_on_a_device_that_it_does_not_hold_is_an_intruder_at_once_held_or_free() {
    let free = Node::new().running(7, of_pod("two")).first();
    let held = Node::new().held(&[("one", "GPU-a")]).running(7, of_pod("two")).first();
    for found in [free, held] {
        assert_eq!(found.state, Use::Intruder { pods: [(pod("two"), uid("two"))].into() });
        assert_eq!(found.clean, Clean::No);
        assert_eq!(found.processes, Some([((ProcessKind::Compute, Attribution::PodMismatch), 1)].into()));
    }
}

#[test]
fn a_process_of_no_pod_on_a_free_device_is_settling_for_sixty_seconds_and_then_orphaned() {
    let mut node = Node::new();
    node.first();
    let mut node = node.later(10).running(7, Owner::Host);
    let found = node.first();
    assert_eq!((found.state, found.clean), (Use::Unknown(Why::Settling), Clean::Yes));
    let mut node = node.later(60);
    assert_eq!(node.first().state, Use::Unknown(Why::Settling), "sixty seconds are not more than sixty");
    let found = node.later(1).first();
    let since = HOUR + 10_000;
    assert_eq!(found.state, Use::Orphaned { since_milliseconds: since, processes: 1 });
    assert_eq!((found.clean, found.oldest_unattributed_seconds), (Clean::No, Some(61)));
}

#[test]
fn after_a_restart_of_the_agent_a_process_is_as_old_as_it_is() {
    let found = Node::new().running(7, Owner::Host).first();
    assert_eq!(found.state, Use::Orphaned { since_milliseconds: 5, processes: 1 });
}

#[test]
fn one_survey_without_a_list_of_processes_does_not_make_an_orphan_young() {
    let mut node = Node::new();
    node.first();
    let mut node = node.running(7, Owner::Host);
    node.first();
    let list = node.devices[0].processes.clone();
    node.devices[0].processes = Reading::Unknown(Gap::Unstable);
    let mut node = node.later(30);
    assert_eq!(node.first().state, Use::Unknown(Why::Processes(Gap::Unstable)));
    let gone = std::mem::take(&mut node.devices);
    let mut node = node.later(10);
    node.all();
    node.devices = gone;
    node.devices[0].processes = list;
    assert_eq!(node.later(30).first().state, Use::Orphaned { since_milliseconds: HOUR, processes: 1 });
}

#[test]
fn a_number_that_another_process_took_over_is_not_as_old_as_the_one_before() {
    let mut node = Node::new();
    node.first();
    let mut node = node.running(7, Owner::Host);
    node.first();
    let mut node = node.later(61);
    node.processes.get_mut(&7).unwrap().started_milliseconds = Some(HOUR + 50_000);
    assert_eq!(node.first().state, Use::Unknown(Why::Settling));
}

#[test]
fn a_container_of_a_pod_that_lives_no_more_is_an_orphan_and_no_intruder() {
    // Neither known to the API server …
    assert!(matches!(Node::new().running(7, of_pod("gone")).first().state, Use::Orphaned { .. }));
    // … nor counted by the kubelet, which has let go of the devices of a pod that ended.
    let mut node = Node::new().running(7, of_pod("two"));
    let Kubelet::Said(allocation) = &mut node.kubelet else { unreachable!() };
    allocation.pods.remove(&pod("two"));
    assert!(matches!(node.first().state, Use::Orphaned { .. }));
}

#[test]
fn a_process_that_only_the_driver_still_knows_is_an_orphan_if_it_stays() {
    let mut node = Node::new();
    node.first();
    let mut node = node.running(7, Owner::Gone);
    node.processes.get_mut(&7).unwrap().started_milliseconds = None;
    assert_eq!(node.first().state, Use::Unknown(Why::Settling));
    assert!(matches!(node.later(61).first().state, Use::Orphaned { .. }));
}

#[test]
fn memory_without_a_process_is_leaked_after_the_grace_and_unclean_at_once() {
    let mut node = Node::new();
    node.devices[0].memory = memory(Known(3 * GIB + 5));
    let found = node.first();
    assert_eq!((found.state, found.clean, found.quiet), (Use::Unknown(Why::Settling), Clean::No, Some(false)));
    let found = node.later(61).first();
    assert_eq!(found.state, Use::Leaked { bytes: Bytes(3 * GIB) });
    assert_eq!((found.unattributed, found.unattributed_in_steps()), (Some(Bytes(3 * GIB + 5)), Some(Bytes(3 * GIB))));
}

#[test]
fn a_driver_may_keep_512_mib_or_a_hundredth_whichever_is_more() {
    let hundredth = 80 * GIB / 100;
    for (total, used, clean) in [
        (80 * GIB, hundredth, Clean::Yes),
        (80 * GIB, hundredth + 1, Clean::No),
        (16 * GIB, 512 << 20, Clean::Yes),
        (16 * GIB, (512 << 20) + 1, Clean::No),
    ] {
        let mut node = Node::new();
        node.devices[0].memory = Memory { total: Known(Bytes(total)), ..memory(Known(used)) };
        assert_eq!(node.first().clean, clean, "{used} of {total}");
    }
}

#[test]
fn what_a_process_uses_is_unknown_so_is_what_nobody_uses() {
    let mut node = Node::new().held(&[("one", "GPU-a")]).running(7, of_pod("one")).running(8, of_pod("one"));
    let Known(processes) = &mut node.devices[0].processes else { unreachable!() };
    processes[1].used = Reading::Unknown(Gap::NoPermission);
    let found = node.first();
    assert_eq!((found.unattributed, found.clean, found.quiet), (None, Clean::Unknown, Some(false)));
}

#[test]
fn a_process_that_computes_and_draws_uses_its_memory_once() {
    let mut node = Node::new().held(&[("one", "GPU-a")]).running(7, of_pod("one"));
    let Known(processes) = &mut node.devices[0].processes else { unreachable!() };
    processes.push(Process { kind: ProcessKind::Graphics, ..processes[0].clone() });
    node.devices[0].memory = memory(Known(3 * GIB));
    assert_eq!(node.first().unattributed, Some(Bytes(2 * GIB)));
}

#[test]
fn memory_that_is_the_nodes_is_never_called_leaked() {
    let mut node = Node::new();
    node.devices[0].identity.product = Known("NVIDIA GH200 480GB".parse().unwrap());
    node.devices[0].memory = memory(Known(50 * GIB));
    let found = node.first();
    assert_eq!((found.state, found.clean), (Use::Free, Clean::Yes));
    assert_eq!((found.unattributed, found.quiet), (None, None));
}

#[test]
fn without_the_kubelets_word_nothing_is_free_and_nobody_an_intruder() {
    let mut node = Node::new().running(7, of_pod("two"));
    node.kubelet = Kubelet::Unknown;
    let found = node.first();
    assert_eq!((found.state, found.clean), (Use::Unknown(Why::KubeletUnknown), Clean::Unknown));
    assert_eq!((found.holders, node.all().allocatable), (None, None));
    // What nothing uses is clean all the same: that is the driver's word.
    assert_eq!(node.ended().first().clean, Clean::Yes);
}

#[test]
fn without_the_pods_uids_a_held_device_is_held_and_the_pod_on_a_free_one_is_unknown() {
    let mut node = Node::new().held(&[("one", "GPU-a")]).running(7, of_pod("one"));
    node.pods = Pods::Unknown;
    let found = node.first();
    assert_eq!((found.state, found.clean), (held_by(&["one"]), Clean::Unknown));
    let found = node.held(&[]).first();
    assert_eq!((found.state, found.clean), (Use::Unknown(Why::ProcessOwner), Clean::Unknown));
}

#[test]
fn a_process_that_cannot_be_read_or_was_not_is_neither_an_orphan_nor_nobody() {
    for forget in [false, true] {
        let mut node = Node::new().running(7, Owner::Unreadable);
        if forget {
            node.processes.clear();
        }
        let found = node.first();
        assert_eq!((found.state, found.clean), (Use::Unknown(Why::ProcessOwner), Clean::Unknown));
    }
}

#[test]
fn a_holder_that_the_api_server_does_not_know_is_not_robbed_of_its_process() {
    // Deleted by force: the API server has forgotten it, the kubelet has not.
    let found = Node::new().held(&[("three", "GPU-a")]).running(7, of_pod("three")).first();
    assert_eq!(found.state, held_by(&["three"]));
    assert_eq!(found.processes, Some([((ProcessKind::Compute, Attribution::Unknown), 1)].into()));
}

#[test]
fn a_held_device_without_a_process_is_idle_and_since_when() {
    let mut node = Node::new().held(&[("one", "GPU-a")]);
    assert_eq!(node.first().idle_seconds, Some(0));
    let mut node = node.later(90);
    assert_eq!(node.first().idle_seconds, Some(90));
    let mut node = node.running(7, of_pod("one")).later(1);
    assert_eq!(node.first().idle_seconds, None);
    assert_eq!(node.ended().later(1).first().idle_seconds, Some(0));
}

#[test]
fn two_pods_cannot_hold_one_device_unless_it_is_shared_or_claimed_together() {
    let both = [("one", "GPU-a"), ("two", "GPU-a")];
    assert_eq!(Node::new().held(&both).first().state, Use::Unknown(Why::SeveralHolders));
    let mut node = Node::new().held(&both);
    node.shared = [node.devices[0].id.clone()].into();
    assert_eq!(node.first().state, held_by(&["one", "two"]));
    let shares = Node::new().held(&[("one", "GPU-a::0"), ("two", "GPU-a::3")]).first();
    assert_eq!((shares.state, shares.shared), (held_by(&["one", "two"]), true));
    let mut node = Node::new().held(&both);
    let Kubelet::Said(allocation) = &mut node.kubelet else { unreachable!() };
    let claim = ClaimRef { namespace: "team".parse().unwrap(), name: "both".parse().unwrap() };
    for holding in &mut allocation.holdings {
        holding.claim = Some(claim.clone());
    }
    assert_eq!(node.first().state, held_by(&["one", "two"]));
}

#[test]
fn of_two_holders_the_one_that_has_ended_does_not_count() {
    assert_eq!(Node::new().held(&[("ended", "GPU-a"), ("two", "GPU-a")]).first().state, held_by(&["two"]));
}

#[test]
fn a_held_gpu_that_is_gone_is_none_of_the_others() {
    let gone = "GPU-fa4e0000-0000-4000-8000-000000000009";
    let mut node = Node::new().held(&[("one", gone)]);
    assert!(node.all().unnamed.is_empty());
    assert_eq!(node.first().state, Use::Free);
    // What is not quite its UUID may mean another.
    for odd in [gone.to_ascii_uppercase(), format!("{gone}-1"), gone.replace("GPU-", "")] {
        let mut node = Node::new().held(&[("one", odd.as_str())]);
        assert_eq!(node.first().state, Use::Unknown(Why::UnnamedHolding), "{odd}");
    }
}

#[test]
fn a_held_gpu_that_no_device_goes_by_the_name_of_may_be_any() {
    let mut node = Node::new().held(&[("one", "GPU-elsewhere")]);
    let found = node.all();
    assert_eq!(found.unnamed, [holding("one", "GPU-elsewhere")].into());
    assert_eq!(node.first().state, Use::Unknown(Why::UnnamedHolding));
    // Another resource's device is none of ours.
    let Kubelet::Said(allocation) = &mut node.kubelet else { unreachable!() };
    let name = DeviceName::Plugin { resource: "example.org/nic".to_owned(), id: "nic0".to_owned() };
    allocation.holdings[0].device = name;
    assert_eq!(node.first().state, Use::Free);
}

#[test]
fn a_device_is_recognised_by_every_name_that_plugins_and_drivers_give_it() {
    let slice = |device: &str| DraDevice { driver: "gpu.nvidia.com".into(), pool: "n".into(), device: device.into() };
    let plugin = |id: &str| DeviceName::Plugin { resource: "nvidia.com/gpu".into(), id: id.into() };
    for (name, device, share) in [
        (plugin("GPU-a"), Some("GPU-a"), false),
        (plugin("GPU-a::12"), Some("GPU-a"), true),
        (plugin("GPU-a-3"), Some("GPU-a"), true),
        (plugin("MIG-b1"), Some("MIG-b1"), false),
        (plugin("nvidia0"), Some("GPU-a"), false),
        (plugin("nvidia0/vgpu2"), Some("GPU-a"), true),
        (plugin("nvidia1/gi5"), Some("MIG-b1"), false),
        (plugin("nvidia1/gi5/vgpu0"), Some("MIG-b1"), true),
        (plugin("nvidia1/gi6"), None, false),
        (plugin("nvidia7"), None, false),
        (plugin("GPU-a-x"), None, false),
        (plugin("nvidia"), None, false),
        (DeviceName::Dra(slice("gpu-0")), Some("GPU-a"), false),
        (DeviceName::Dra(slice("gpu-9")), None, false),
    ] {
        let mut node = divided();
        node.slices = [(slice("gpu-0"), "GPU-a".parse().unwrap())].into();
        let Kubelet::Said(allocation) = &mut node.kubelet else { unreachable!() };
        allocation.holdings = vec![Holding { pod: pod("one"), claim: None, device: name.clone() }];
        let found = node.all();
        assert_eq!(found.unnamed.is_empty(), device.is_some(), "{name:?}");
        let Some(device) = device else { continue };
        let device: DeviceId = device.parse().unwrap();
        assert_eq!(found.devices[&device].state, held_by(&["one"]), "{name:?}");
        assert_eq!(found.devices[&device].shared, share, "{name:?}");
    }
}

#[test]
fn a_number_that_two_devices_claim_names_neither() {
    let mut node = Node::new().held(&[("one", "nvidia0")]);
    node.devices.push(device("GPU-b", 0));
    let found = node.all();
    assert_eq!(found.unnamed, [holding("one", "nvidia0")].into());
    assert!(found.devices.values().all(|found| found.state == Use::Unknown(Why::UnnamedHolding)));
}

/// `GPU-a` whole, `GPU-b` divided into `MIG-b1` (5, 0) and `MIG-b2` (9, 0).
fn divided() -> Node {
    let instance = |id: &str, gpu_instance| Instance {
        id: id.parse().unwrap(),
        place: Known(InstancePlace { gpu_instance, compute_instance: 0 }),
        slices: Known(1),
        memory: memory(Known(0)),
    };
    let mut node = Node::new();
    node.devices.push(Device { instances: vec![instance("MIG-b1", 5), instance("MIG-b2", 9)], ..device("GPU-b", 1) });
    node
}

fn on_instance(node: &mut Node, pid: u32, place: Option<u32>, owner: Owner) {
    let place = place.map(|gpu_instance| InstancePlace { gpu_instance, compute_instance: 0 });
    let Known(processes) = &mut node.devices[1].processes else { unreachable!() };
    processes.push(Process { place, ..process(pid, Known(0)) });
    node.processes.insert(pid, Found { started_milliseconds: Some(5), owner });
}

#[test]
fn an_instance_is_a_device_and_its_parent_is_held_by_all_who_hold_a_part() {
    let mut node = divided().held(&[("one", "MIG-b1"), ("two", "MIG-b2")]);
    on_instance(&mut node, 7, Some(5), of_pod("one"));
    let found = node.all();
    let state = |id: &str| found.devices[&id.parse::<DeviceId>().unwrap()].state.clone();
    assert_eq!(
        [state("MIG-b1"), state("MIG-b2"), state("GPU-b"), state("GPU-a")],
        [held_by(&["one"]), held_by(&["two"]), held_by(&["one", "two"]), Use::Free]
    );
    // Who holds one instance has no business on the other.
    on_instance(&mut node, 8, Some(5), of_pod("two"));
    assert!(matches!(node.of("MIG-b1").state, Use::Intruder { .. }));
}

#[test]
fn a_process_of_some_instance_that_cannot_be_told_makes_none_of_them_free() {
    for place in [None, Some(6)] {
        let mut node = divided();
        on_instance(&mut node, 7, place, Owner::Host);
        for id in ["MIG-b1", "MIG-b2"] {
            let found = node.of(id);
            assert_eq!((found.state, found.clean), (Use::Unknown(Why::Unplaced), Clean::Unknown), "{id}");
        }
        assert_eq!(node.first().state, Use::Free);
    }
}

#[test]
fn who_holds_the_whole_device_holds_its_instances() {
    assert_eq!(divided().held(&[("one", "GPU-b")]).of("MIG-b2").state, held_by(&["one"]));
}

#[test]
fn two_devices_of_one_id_are_unknown_whatever_stands_on_them() {
    let mut node = Node::new().held(&[("one", "GPU-a")]).running(7, of_pod("two"));
    node.devices.push(device("GPU-a", 1));
    let found = node.first();
    assert_eq!((found.state, found.clean), (Use::Unknown(Why::DuplicateId), Clean::Unknown));
    assert_eq!((found.processes, found.quiet), (None, None));
}

#[test]
fn on_a_shared_device_nobody_is_called_an_intruder() {
    // The server of MPS runs in a pod that holds none of the devices that it shares out.
    let found = Node::new().held(&[("one", "GPU-a::0")]).running(7, of_pod("two")).first();
    assert_eq!((found.state, found.clean), (held_by(&["one"]), Clean::Unknown));
}

#[test]
fn the_state_says_since_when_it_holds_and_a_figure_that_changes_does_not_make_it_new() {
    let mut node = Node::new();
    node.devices[0].memory = memory(Known(3 * GIB));
    node.first();
    let mut node = node.later(61);
    assert_eq!(node.first().since_milliseconds, HOUR + 61_000);
    node.devices[0].memory = memory(Known(9 * GIB));
    let mut node = node.later(10);
    let found = node.first();
    assert_eq!((found.state, found.since_milliseconds), (Use::Leaked { bytes: Bytes(9 * GIB) }, HOUR + 61_000));
    assert_eq!(node.ended().later(5).first().since_milliseconds, HOUR + 76_000);
}

#[test]
fn what_stood_in_another_boot_is_forgotten() {
    let mut node = Node::new();
    node.devices[0].memory = memory(Known(3 * GIB));
    node.first();
    node.now = 90_000;
    let found = node.first();
    assert_eq!((found.state, found.since_milliseconds), (Use::Unknown(Why::Settling), 90_000));
    assert_eq!(node.later(61).first().state, Use::Leaked { bytes: Bytes(3 * GIB) });
}

#[test]
fn a_driver_that_invents_ids_does_not_make_the_standing_grow() {
    let mut node = Node::new();
    for round in 0..40 {
        node.devices = vec![device(&format!("GPU-{round}"), 0)];
        node.devices[0].processes = Known((0..1000).map(|pid| process(pid, Known(0))).collect());
        node.processes =
            (0..1000).map(|pid| (pid, Found { started_milliseconds: Some(5), owner: Owner::Host })).collect();
        node.all();
    }
    let standing = node.standing.unwrap();
    assert!(standing.processes.len() <= 32_768 && standing.states.len() == 1, "{}", standing.processes.len());
}

#[test]
fn without_the_kubelets_word_what_was_found_on_a_device_stays() {
    for owner in [Owner::Host, Owner::Pod { uid: uid("gone"), container: None }] {
        let mut node = Node::new().running(7, owner);
        node.first();
        let mut node = node.later(61);
        assert_eq!(node.first().dirt(), Some(Dirt::Orphan));
        node.kubelet = Kubelet::Unknown;
        let mut node = node.later(10);
        assert_eq!(node.first().dirt(), Some(Dirt::Orphan));
        assert!(!node.first().is_told());
    }
}

#[test]
fn without_the_kubelets_word_from_the_first_a_process_of_nobody_is_in_the_way_and_an_idle_device_is_not() {
    let mut node = Node::new().running(7, Owner::Host);
    node.kubelet = Kubelet::Unknown;
    assert_eq!(node.first().dirt(), Some(Dirt::Unknown));
    let mut idle = Node::new();
    idle.kubelet = Kubelet::Unknown;
    assert_eq!(idle.first().dirt(), None);
}

/// Pods are counted then, whose processes may use any device. What could be nobody's must not be taken for theirs.
#[test]
fn without_the_kubelets_word_what_may_be_nobodys_is_in_the_way_like_what_is() {
    let silent = |mut node: Node| {
        node.kubelet = Kubelet::Unknown;
        node
    };
    assert_eq!(silent(Node::new().running(7, of_pod("one"))).first().dirt(), None, "that is counted by its pod");
    let unread = || silent(Node::new().running(7, Owner::Unreadable));
    assert_eq!(unread().first().dirt(), Some(Dirt::Unknown));
    let mut forgotten = unread();
    forgotten.processes.clear();
    assert_eq!(forgotten.first().dirt(), Some(Dirt::Unknown));
    let mut unlisted = silent(Node::new());
    unlisted.devices[0].processes = Reading::Unknown(Gap::Unstable);
    assert_eq!(unlisted.first().dirt(), Some(Dirt::Unknown));
    let mut unmeasured = silent(Node::new());
    unmeasured.devices[0].memory = memory(Reading::Unknown(Gap::Unstable));
    assert_eq!(unmeasured.first().dirt(), Some(Dirt::Unknown));
    // Where the driver never shows processes, memory says whether there is anything.
    for never in [Reading::Unknown(Gap::NoPermission), Reading::Unsupported] {
        for (used, dirt) in [(Known(0), None), (Known(GIB), Some(Dirt::Unknown))] {
            let mut hidden = silent(Node::new());
            hidden.devices[0].processes = never.clone();
            hidden.devices[0].memory = memory(used);
            assert_eq!(hidden.first().dirt(), dirt);
        }
    }
    // What was missing comes back before the kubelet does.
    let mut back = unread();
    back.first();
    let mut back = back.later(10).ended();
    assert_eq!(back.first().dirt(), None);
}

#[test]
fn without_the_kubelets_word_a_process_of_some_instance_is_in_the_way_of_each_unless_it_is_a_pods() {
    for (owner, dirt) in [(of_pod("one"), None), (Owner::Host, Some(Dirt::Unknown))] {
        let mut node = divided();
        on_instance(&mut node, 7, None, owner);
        node.kubelet = Kubelet::Unknown;
        assert_eq!((node.of("MIG-b1").dirt(), node.of("MIG-b2").dirt()), (dirt.clone(), dirt));
    }
}

#[test]
fn an_intruder_that_cannot_be_seen_any_more_has_not_left() {
    let mut node = Node::new().held(&[("one", "GPU-a")]).running(7, Owner::Pod { uid: uid("two"), container: None });
    assert_eq!(node.first().dirt(), Some(Dirt::Intruder));
    node.devices[0].processes = Reading::Unknown(Gap::NoPermission);
    assert_eq!(node.first().dirt(), Some(Dirt::Intruder));
    let mut node = node.ended();
    assert_eq!((node.first().dirt(), node.first().is_told()), (None, true));
}
