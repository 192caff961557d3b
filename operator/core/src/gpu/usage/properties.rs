//! Of whatever a driver, a kubelet and an API server may say.

use proptest::prelude::*;

use super::fixture::{GIB, Node, device, holding, memory, pod, process, uid};
use super::*;
use crate::gpu::reading::Reading;

const IDS: [&str; 4] = ["GPU-a", "GPU-b", "GPU-c", "GPU-a"];
const PODS: [&str; 4] = ["one", "two", "three", "four"];

fn reading(value: impl Strategy<Value = u64>) -> impl Strategy<Value = Reading<u64>> {
    prop_oneof![
        6 => value.prop_map(Reading::Known),
        1 => Just(Reading::Unsupported),
        1 => Just(Reading::Unknown(Gap::Lost)),
    ]
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![
        4 => (0..PODS.len()).prop_map(|pod| Owner::Pod { uid: uid(PODS[pod]), container: None }),
        1 => Just(Owner::Host),
        1 => Just(Owner::Gone),
        1 => Just(Owner::Unreadable),
    ]
}

fn devices() -> impl Strategy<Value = Vec<Device>> {
    let processes = prop_oneof![
        5 => prop::collection::vec((0_u32..6, reading(0..4 * GIB)), 0..4)
            .prop_map(|all| Reading::Known(all.into_iter().map(|(pid, used)| process(pid, used)).collect())),
        1 => Just(Reading::Unknown(Gap::Unstable)),
        1 => Just(Reading::Unsupported),
    ];
    let one = (0..IDS.len(), reading(0..8 * GIB), processes);
    prop::collection::vec(one, 0..4).prop_map(|all| {
        let make = |(index, (id, used, processes)): (usize, (usize, _, _))| Device {
            memory: memory(used),
            processes,
            ..device(IDS[id], u32::try_from(index).unwrap())
        };
        all.into_iter().enumerate().map(make).collect()
    })
}

fn kubelet() -> impl Strategy<Value = Kubelet> {
    let holdings = prop::collection::vec(
        (0..PODS.len(), prop::sample::select(vec!["GPU-a", "GPU-b", "GPU-b::1", "nvidia0", "?"])),
        0..4,
    );
    prop_oneof![
        1 => Just(Kubelet::Unknown),
        5 => (holdings, prop::collection::btree_set(0..PODS.len(), 0..4)).prop_map(|(holdings, pods)| {
            Kubelet::Said(Allocation {
                pods: pods.into_iter().map(|index| pod(PODS[index])).collect(),
                holdings: holdings.into_iter().map(|(pod, id)| holding(PODS[pod], id)).collect(),
                allocatable: None,
            })
        }),
    ]
}

fn pods() -> impl Strategy<Value = Pods> {
    prop_oneof![
        1 => Just(Pods::Unknown),
        5 => prop::collection::btree_set(0..PODS.len(), 0..5).prop_map(|known| {
            Pods::Known(known.into_iter().map(|index| (pod(PODS[index]), [uid(PODS[index])].into())).collect())
        }),
    ]
}

prop_compose! {
    fn node()(
        devices in devices(),
        processes in prop::collection::btree_map(0_u32..6, (prop::option::of(0_u64..200_000), owner()), 0..6),
        kubelet in kubelet(),
        pods in pods(),
        shared in prop::collection::btree_set(prop::sample::select(vec!["GPU-a", "GPU-b"]), 0..2),
        now in 0_u64..400_000,
    ) -> Node {
        Node {
            devices,
            processes: processes
                .into_iter()
                .map(|(pid, (started_milliseconds, owner))| (pid, Found { started_milliseconds, owner }))
                .collect(),
            kubelet,
            pods,
            shared: shared.into_iter().map(|id| id.parse().unwrap()).collect(),
            now,
            ..Node::new()
        }
    }
}

fn judged(node: &Node, previous: Option<&Standing>) -> NodeUse {
    judge(&node.evidence(&Relevant::default()), previous)
}

/// The only device of this id, unless there are several.
fn only<'a>(node: &'a Node, id: &DeviceId) -> Option<&'a Device> {
    let mut of = node.devices.iter().filter(|device| device.id == *id);
    of.next().filter(|_| of.next().is_none())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn only_what_is_fully_known_is_free_or_clean(before in node(), node in node()) {
        let standing = judged(&before, None).standing;
        for (id, found) in judged(&node, Some(&standing)).devices {
            let Some(device) = only(&node, &id) else {
                prop_assert_eq!(found.state, Use::Unknown(Why::DuplicateId));
                prop_assert_eq!(found.clean, Clean::Unknown);
                continue;
            };
            if found.state == Use::Free {
                let Kubelet::Said(allocation) = &node.kubelet else { return Err(TestCaseError::fail("kubelet unknown")) };
                let mut names = allocation.holdings.iter().filter_map(|holding| match &holding.device {
                    DeviceName::Plugin { id, .. } => Some(id),
                    DeviceName::Dra(_) => None,
                });
                prop_assert!(names.all(|name| !name.starts_with(id.as_str()) && name != "?"));
                prop_assert_eq!(device.processes.known().map(Vec::len), Some(0));
                prop_assert!(device.memory.used.get().is_some_and(|used| used.0 <= 80 * GIB / 100));
            }
            if found.clean == Clean::Yes {
                let processes = device.processes.known().unwrap();
                for process in processes {
                    let owner = node.processes.get(&process.pid).map(|found| &found.owner);
                    prop_assert!(process.used.get().is_some() && owner.is_some_and(|owner| *owner != Owner::Unreadable));
                }
                prop_assert!(device.memory.used.get().is_some());
            }
        }
    }

    #[test]
    fn a_device_is_held_by_one_unless_it_is_shared(node in node()) {
        for found in judged(&node, None).devices.into_values() {
            if let Use::Held { pods } = &found.state {
                prop_assert!(pods.len() == 1 || (found.shared && !pods.is_empty()));
                prop_assert!(pods.is_subset(&found.holders.unwrap()));
            }
        }
    }

    #[test]
    fn an_intruder_lives_by_kubelet_and_api_server_and_holds_nothing_there(node in node()) {
        for found in judged(&node, None).devices.into_values() {
            let Use::Intruder { pods } = found.state else { continue };
            let (Kubelet::Said(allocation), Pods::Known(known)) = (&node.kubelet, &node.pods) else {
                return Err(TestCaseError::fail("an intruder, and nobody said who holds what"));
            };
            prop_assert!(!pods.is_empty());
            for (pod, uid) in pods {
                prop_assert!(allocation.pods.contains(&pod) && known[&pod].contains(&uid));
                prop_assert!(!found.holders.as_ref().unwrap().contains(&pod));
            }
        }
    }

    #[test]
    fn the_same_in_another_order_comes_to_the_same(before in node(), node in node(), turn in 0_usize..4) {
        let standing = judged(&before, None).standing;
        let first = judged(&node, Some(&standing));
        let mut other = node;
        other.devices.reverse();
        let len = other.devices.len().max(1);
        other.devices.rotate_left(turn % len);
        for device in &mut other.devices {
            if let Reading::Known(processes) = &mut device.processes {
                processes.reverse();
            }
        }
        if let Kubelet::Said(allocation) = &mut other.kubelet {
            allocation.holdings.reverse();
        }
        prop_assert_eq!(first, judged(&other, Some(&standing)));
    }

    #[test]
    fn the_counts_add_up_to_what_the_driver_lists(node in node()) {
        for (id, found) in judged(&node, None).devices {
            let Some(device) = only(&node, &id) else { continue };
            let listed = device.processes.known().map(Vec::len);
            let counted = found.processes.map(|counts| counts.values().map(|count| *count as usize).sum::<usize>());
            prop_assert_eq!(counted, listed);
        }
    }
}
