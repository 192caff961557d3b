use super::*;
use crate::ids::{Bytes, GpuClass, Seconds};

const GIB: u64 = 1 << 30;

pub(super) fn class(name: &str) -> GpuClass {
    name.parse().unwrap()
}

pub(super) fn device(number: usize, health: Health) -> DeviceFacts {
    DeviceFacts {
        id: format!("GPU-{number}").parse().unwrap(),
        class: Some(class("h100-80")),
        health,
        division: Division::Whole,
        hold: Hold::Unknown,
        dirt: None,
        registration: Registration::Unknown,
    }
}

pub(super) fn scheduler(allocatable: u32, requested_by_others: u32) -> Option<SchedulerFacts> {
    Some(SchedulerFacts { allocatable, requested_by_others, ..SchedulerFacts::default() })
}

/// Eight healthy GPUs, all allocatable, nobody on them.
pub(super) fn sound_node() -> NodeFacts {
    NodeFacts {
        node: "bilbao-1".parse().unwrap(),
        heartbeat_age: Some(Seconds(4)),
        admission: Admission::Open,
        devices: (0..8).map(|number| device(number, Health::Healthy)).collect(),
        scheduler: scheduler(8, 0),
        reserved: 0,
    }
}

/// The same, and the kubelet says of each device that it may give it out and that nobody holds it.
fn named_node() -> NodeFacts {
    let mut node = sound_node();
    for device in &mut node.devices {
        (device.hold, device.registration) = (Hold::Free, Registration::Yes);
    }
    node
}

/// The same, and device `at` has been struck off what is given out.
fn without(at: usize) -> NodeFacts {
    let mut node = NodeFacts { scheduler: scheduler(7, 0), ..named_node() };
    node.devices[at].registration = Registration::No;
    node
}

pub(super) fn free(facts: &NodeFacts) -> u32 {
    of_node(facts).classes.values().map(|counts| counts.free).sum()
}

fn offered(facts: &NodeFacts, reserve: u32) -> PoolClass {
    let rules = PoolRules { reserve: Some(reserve), ..PoolRules::default() };
    of_pool(&[of_node(facts)], &rules).classes[&class("h100-80")]
}

#[test]
fn a_sound_node_offers_all_but_the_owners_reserve() {
    let figures = offered(&sound_node(), 1);
    assert_eq!((figures.installed, figures.offered, figures.owner_reserve, figures.largest_node), (8, 7, 1, 7));
}

#[test]
fn the_smaller_of_the_two_counts_is_offered() {
    let mut fewer_registered = sound_node();
    fewer_registered.scheduler = scheduler(6, 0);
    assert_eq!(free(&fewer_registered), 6);
    assert_eq!(
        of_node(&fewer_registered).disagreement,
        Some(Disagreement::SchedulerKnowsFewer { allocatable: 6, healthy: 8 })
    );

    let mut fewer_healthy = without(2);
    fewer_healthy.devices[2].health = Health::Unhealthy;
    assert_eq!((free(&fewer_healthy), of_node(&fewer_healthy).disagreement), (7, None));
}

#[test]
fn numbers_that_add_up_do_not_say_that_it_is_the_sick_device_which_is_left_out() {
    // Seven are allocatable and seven are healthy. The plugin may have struck off a sound one, and still list the sick one.
    let mut silent = sound_node();
    silent.devices[2].health = Health::Unhealthy;
    silent.scheduler = scheduler(7, 0);
    let capacity = of_node(&silent);
    assert_eq!((capacity.closed, capacity.disagreement), (Some(Closed::UnfitGivenOut { unfit: 1 }), None));
    assert_eq!(free(&silent), 0);
    // Also where the kubelet says who holds what, and not what it may give out.
    for device in &mut silent.devices {
        device.hold = Hold::Free;
    }
    assert_eq!((of_node(&silent).closed, free(&silent)), (Some(Closed::UnfitGivenOut { unfit: 1 }), 0));
    // A silent kubelet by itself costs nothing: of sound devices it may give out any.
    let fewer_registered = NodeFacts { scheduler: scheduler(7, 0), ..sound_node() };
    assert_eq!((of_node(&fewer_registered).closed, free(&fewer_registered)), (None, 7));
}

#[test]
fn a_kubelet_that_might_hand_out_a_device_that_is_not_healthy_is_sent_nobody() {
    let mut unnoticed = sound_node();
    unnoticed.devices[2].health = Health::Unhealthy;
    let capacity = of_node(&unnoticed);
    assert_eq!(capacity.closed, Some(Closed::UnfitGivenOut { unfit: 1 }));
    assert_eq!(capacity.disagreement, Some(Disagreement::NvmlKnowsFewer { allocatable: 8, healthy: 7 }));
    assert_eq!((free(&unnoticed), capacity.classes[&class("h100-80")].healthy), (0, 7));

    // The same number, but the kubelet names another device as the one that it leaves out.
    let mut wrong_one = named_node();
    wrong_one.devices[2].health = Health::Unhealthy;
    wrong_one.devices[5].registration = Registration::No;
    wrong_one.scheduler = scheduler(7, 0);
    assert_eq!(of_node(&wrong_one).closed, Some(Closed::UnfitGivenOut { unfit: 1 }));
}

#[test]
fn a_sick_device_is_given_to_nobody_next_whoever_holds_it_now() {
    // Its holder may be gone before the next pod comes, whose devices the kubelet chooses.
    for (hold, reserved, others) in [(Hold::Other, 0, 1), (Hold::Reservation, 1, 0)] {
        for health in [Health::Degraded, Health::Unhealthy, Health::Unknown] {
            for registration in [Registration::Yes, Registration::Unknown] {
                let mut held = NodeFacts { scheduler: scheduler(8, others), reserved, ..named_node() };
                (held.devices[2].health, held.devices[2].hold) = (health, hold);
                held.devices[2].registration = registration;
                let capacity = of_node(&held);
                assert_eq!(capacity.closed, Some(Closed::UnfitGivenOut { unfit: 1 }), "{hold:?} {health:?}");
                assert_eq!((free(&held), capacity.reservable), (0, reserved), "nothing is taken from what runs");
            }
            // The plugin may have struck off a sound one instead, so that the numbers add up.
            let mut another = NodeFacts { reserved, ..without(5) };
            another.scheduler = scheduler(7, others);
            (another.devices[2].health, another.devices[2].hold) = (health, hold);
            assert_eq!(of_node(&another).closed, Some(Closed::UnfitGivenOut { unfit: 1 }), "{hold:?} {health:?}");
            let mut struck_off = without(2);
            (struck_off.devices[2].health, struck_off.devices[2].hold) = (health, hold);
            assert_eq!((of_node(&struck_off).closed, free(&struck_off)), (None, 7), "{hold:?} {health:?}");
        }
    }
}

#[test]
fn a_device_of_which_it_is_not_known_keeps_a_node_shut_where_others_are_named() {
    // Gone from the last survey, while the plugin has taken back another one since.
    let mut node = named_node();
    (node.devices[0].health, node.devices[0].hold) = (Health::Unknown, Hold::Unknown);
    node.devices[0].registration = Registration::Unknown;
    node.scheduler = scheduler(7, 0);
    assert_eq!(of_node(&node).closed, Some(Closed::UnfitGivenOut { unfit: 1 }));
    node.devices[0].registration = Registration::No;
    assert_eq!((of_node(&node).closed, free(&node)), (None, 7));
}

/// Each by itself, on a device that is sound otherwise.
#[test]
fn whatever_keeps_a_device_from_others_is_named_and_shuts_the_node_that_gives_it_out() {
    type Spoil = fn(&mut DeviceFacts);
    let spoils: [(Spoil, NotShareable); 9] = [
        (|device| device.health = Health::Degraded, NotShareable::Health(Health::Degraded)),
        (|device| device.health = Health::Unhealthy, NotShareable::Health(Health::Unhealthy)),
        (|device| device.health = Health::Unknown, NotShareable::Health(Health::Unknown)),
        (|device| device.division = Division::Divided, NotShareable::Divided),
        (|device| device.division = Division::Unknown, NotShareable::DivisionUnknown),
        (|device| device.class = None, NotShareable::NoClass),
        (|device| device.dirt = Some(Dirt::Orphan), NotShareable::Dirty(Dirt::Orphan)),
        (|device| device.dirt = Some(Dirt::Leak), NotShareable::Dirty(Dirt::Leak)),
        (
            |device| (device.dirt, device.hold) = (Some(Dirt::Unknown), Hold::Unknown),
            NotShareable::Dirty(Dirt::Unknown),
        ),
    ];
    for (spoil, why) in spoils {
        let mut node = named_node();
        spoil(&mut node.devices[4]);
        assert_eq!(shareable(&node.devices[4], Sharing::Exclusive), Err(why));
        assert_eq!((of_node(&node).closed, free(&node)), (Some(Closed::UnfitGivenOut { unfit: 1 }), 0), "{why:?}");
        node.devices[4].registration = Registration::No;
        node.scheduler = scheduler(7, 0);
        assert_eq!((of_node(&node).closed, free(&node)), (None, 7), "{why:?}");
    }
    for hold in [Hold::Other, Hold::Reservation] {
        let held = DeviceFacts { hold, ..named_node().devices[0].clone() };
        assert_eq!(shareable(&held, Sharing::Exclusive), Err(NotShareable::Held));
    }
    let sound = &named_node().devices[0];
    assert_eq!(shareable(sound, Sharing::TimeSliced), Err(NotShareable::Shared(Sharing::TimeSliced)));
    assert_eq!(shareable(sound, Sharing::Exclusive), Ok(()));
}

#[test]
fn what_the_kubelet_says_is_held_is_neither_free_nor_to_be_reserved_although_nobody_requests_it() {
    for hold in [Hold::Other, Hold::Reservation] {
        let mut node = named_node();
        for device in &mut node.devices[..3] {
            device.hold = hold;
        }
        assert_eq!((free(&node), of_node(&node).reservable), (5, 5), "{hold:?}");
    }
}

#[test]
fn a_device_that_is_held_and_no_longer_given_out_stands_for_no_other() {
    let mut node = named_node();
    (node.devices[0].hold, node.devices[0].registration) = (Hold::Other, Registration::No);
    (node.devices[1].health, node.devices[1].registration) = (Health::Unhealthy, Registration::No);
    node.scheduler = scheduler(7, 1);
    assert_eq!((of_node(&node).closed, free(&node)), (Some(Closed::UnfitGivenOut { unfit: 1 }), 0));
    node.scheduler = scheduler(6, 1);
    assert_eq!(of_node(&node).closed, None);
}

#[test]
fn a_device_that_is_withdrawn_by_name_while_it_is_held_leaves_the_others_on_offer() {
    for health in [Health::Healthy, Health::Unhealthy] {
        let mut node = without(0);
        (node.devices[0].hold, node.devices[0].health) = (Hold::Other, health);
        let facts =
            SchedulerFacts { allocatable: 8, requested_by_others: 1, withdrawn: 1, ..SchedulerFacts::default() };
        node.scheduler = Some(facts);
        let capacity = of_node(&node);
        assert_eq!((capacity.closed, free(&node)), (None, 7));
        assert_eq!(capacity.disagreement.is_some(), health == Health::Healthy);
        // It stands for no other one that is unknown to NVML.
        node.scheduler = Some(SchedulerFacts { allocatable: 9, ..facts });
        assert_eq!((of_node(&node).closed, free(&node)), (Some(Closed::UnfitGivenOut { unfit: 1 }), 0));
    }
}

#[test]
fn more_shares_than_devices_are_not_offered() {
    let shared = NodeFacts { scheduler: scheduler(32, 0), ..sound_node() };
    assert_eq!((free(&shared), of_node(&shared).closed), (0, Some(Closed::UnfitGivenOut { unfit: 24 })));
    for sharing in [Sharing::TimeSliced, Sharing::Mps, Sharing::External] {
        let facts = SchedulerFacts { allocatable: 8, sharing, ..SchedulerFacts::default() };
        let node = NodeFacts { scheduler: Some(facts), ..sound_node() };
        assert_eq!((free(&node), of_node(&node).closed), (0, Some(Closed::Shared(sharing))));
    }
}

#[test]
fn devices_that_something_without_a_claim_uses_are_counted_as_orphaned() {
    for (dirt, orphaned) in [(Dirt::Orphan, 1), (Dirt::Leak, 1), (Dirt::Unknown, 0)] {
        let mut node = named_node();
        node.devices[0].dirt = Some(dirt);
        node.scheduler = scheduler(7, 0);
        node.devices[0].registration = Registration::No;
        let counts = of_node(&node).classes[&class("h100-80")];
        assert_eq!((counts.healthy, counts.orphaned, counts.free), (8, orphaned, 7), "{dirt:?}");
    }
    let mut intruded = named_node();
    intruded.devices[3].hold = Hold::Other;
    intruded.devices[3].dirt = Some(Dirt::Intruder);
    assert_eq!((free(&intruded), of_node(&intruded).closed), (0, Some(Closed::Intruder)));
}

#[test]
fn a_device_that_the_kubelet_names_as_held_is_of_no_other_class() {
    let mut node = named_node();
    for device in &mut node.devices[..4] {
        device.class = Some(class("a100-40"));
    }
    node.devices[0].hold = Hold::Reservation;
    node.reserved = 1;
    let classes = of_node(&node).classes;
    assert_eq!((classes[&class("a100-40")].free, classes[&class("h100-80")].free), (3, 4));
    assert_eq!((classes[&class("a100-40")].leased, classes[&class("h100-80")].leased), (1, 0));
}

#[test]
fn without_a_word_from_the_owner_one_in_twenty_healthy_devices_stays_free() {
    let figures = of_pool(&[of_node(&sound_node())], &PoolRules::default()).classes[&class("h100-80")];
    assert_eq!((figures.owner_reserve, figures.offered), (1, 7));
    assert_eq!([0, 1, 20, 21, 40_000].map(least_reserve), [0, 1, 1, 2, 2_000]);
}

#[test]
fn what_others_request_and_what_is_reserved_is_not_offered_twice() {
    let mut node = sound_node();
    node.scheduler = scheduler(8, 2);
    node.reserved = 3;
    let capacity = of_node(&node);
    assert_eq!((capacity.reservable, free(&node)), (6, 3));
    let figures = offered(&node, 1);
    assert_eq!((figures.owner_requested, figures.leased, figures.offered), (2, 3, 2));
}

#[test]
fn only_healthy_whole_devices_of_a_known_class_are_offered() {
    for health in [Health::Degraded, Health::Unhealthy, Health::Unknown] {
        let mut node = without(0);
        node.devices[0].health = health;
        assert_eq!(free(&node), 7, "{health:?}");
    }
    for division in [Division::Divided, Division::Unknown] {
        let mut node = without(0);
        node.devices[0].division = division;
        assert_eq!(free(&node), 7, "{division:?}");
    }
    let mut node = without(0);
    node.devices[0].class = None;
    assert_eq!((free(&node), of_node(&node).unclassified), (7, 1));
}

#[test]
fn devices_that_cannot_be_told_apart_are_unknown() {
    let mut node = named_node();
    node.devices[1].id = node.devices[0].id.clone();
    node.scheduler = scheduler(6, 0);
    let counts = of_node(&node).classes[&class("h100-80")];
    assert_eq!((counts.healthy, counts.unknown, counts.free), (6, 2, 0));
    for device in &mut node.devices[..2] {
        device.registration = Registration::No;
    }
    assert_eq!(free(&node), 6);
}

#[test]
fn a_silent_agent_makes_its_devices_unknown_and_takes_nothing_from_what_runs() {
    for age in [None, Some(Seconds(31)), Some(Seconds(i64::MAX)), Some(Seconds(-31)), Some(Seconds(i64::MIN))] {
        let node = NodeFacts { heartbeat_age: age, reserved: 4, ..sound_node() };
        let capacity = of_node(&node);
        let counts = capacity.classes[&class("h100-80")];
        assert_eq!((counts.unknown, counts.leased, counts.free, counts.stranded), (8, 0, 0, 4), "{age:?}");
        assert_eq!(capacity.closed, Some(Closed::AgentSilent { age, limit: FRESH }));
        assert_eq!((capacity.reservable, capacity.disagreement), (4, None), "nobody says anything else");
        let fewer = NodeFacts { scheduler: scheduler(3, 0), heartbeat_age: age, ..sound_node() };
        assert_eq!(of_node(&fewer).disagreement, None);
        assert_eq!(of_pool(&[capacity], &PoolRules::default()).stale_nodes, 1);
    }
    assert_eq!(free(&NodeFacts { heartbeat_age: Some(Seconds(30)), ..sound_node() }), 8);
}

#[test]
fn a_node_that_takes_no_pods_or_whose_pods_are_not_known_offers_nothing() {
    for (facts, closed) in [
        (NodeFacts { admission: Admission::NotReady, ..sound_node() }, Closed::NotReady),
        (NodeFacts { admission: Admission::Cordoned, ..sound_node() }, Closed::Cordoned),
        (NodeFacts { scheduler: None, ..sound_node() }, Closed::SchedulerUnknown),
    ] {
        assert_eq!((free(&facts), of_node(&facts).closed), (0, Some(closed)));
        assert_eq!(of_node(&facts).classes[&class("h100-80")].healthy, 8, "they are as healthy as before");
    }
}

#[test]
fn a_kubelet_that_restarts_and_registers_nothing_yet_offers_nothing_and_keeps_what_runs() {
    let scheduler = scheduler(0, 0);
    let node = NodeFacts { scheduler, reserved: 5, ..sound_node() };
    assert_eq!((free(&node), of_node(&node).reservable), (0, 5));
}

#[test]
fn on_a_node_of_two_classes_a_held_device_may_be_of_either() {
    let mut node = sound_node();
    for device in &mut node.devices[..4] {
        device.class = Some(class("a100-40"));
    }
    node.reserved = 1;
    let classes = of_node(&node).classes;
    assert_eq!((classes[&class("a100-40")].free, classes[&class("h100-80")].free), (3, 3));
}

#[test]
fn the_largest_node_is_what_one_job_can_have() {
    let mut small = sound_node();
    small.node = "bilbao-2".parse().unwrap();
    small.devices.truncate(4);
    small.scheduler = scheduler(4, 0);
    let nodes = [of_node(&sound_node()), of_node(&small)];
    let figures = of_pool(&nodes, &PoolRules { reserve: Some(1), ..PoolRules::default() }).classes[&class("h100-80")];
    assert_eq!((figures.offered, figures.largest_node), (11, 8));
    let figures = of_pool(&nodes, &PoolRules { reserve: Some(6), ..PoolRules::default() }).classes[&class("h100-80")];
    assert_eq!((figures.offered, figures.largest_node), (6, 6));
}

#[test]
fn a_limit_of_the_owner_bounds_the_offer_and_the_largest_job_and_nothing_else() {
    let nodes = [of_node(&sound_node())];
    let with = |room| {
        let rules = PoolRules { reserve: Some(1), room: [(class("h100-80"), room)].into(), ..PoolRules::default() };
        of_pool(&nodes, &rules).classes[&class("h100-80")]
    };
    assert_eq!((with(9).offered, with(3).offered, with(3).largest_node, with(0).offered), (7, 3, 3, 0));
    assert_eq!((with(3).installed, with(3).owner_reserve), (8, 1));
}

#[test]
fn a_node_that_the_owner_empties_takes_nothing_new_and_keeps_what_it_has() {
    let mut node = named_node();
    node.admission = Admission::Drained;
    node.reserved = 2;
    let capacity = of_node(&node);
    assert_eq!((capacity.closed, free(&node), capacity.reservable), (Some(Closed::Drained), 0, 2));
}

#[test]
fn outside_the_owners_hours_and_for_other_classes_nothing_is_offered() {
    let nodes = [of_node(&sound_node())];
    let shut = of_pool(&nodes, &PoolRules { shut: true, ..PoolRules::default() });
    assert_eq!((shut.classes[&class("h100-80")].offered, shut.classes[&class("h100-80")].healthy), (0, 8));
    let other = PoolRules { classes: [class("a100-40")].into(), ..PoolRules::default() };
    assert!(of_pool(&nodes, &other).classes.is_empty());
}

#[test]
fn a_class_is_named_after_product_and_memory() {
    for (product, mebibytes, name) in [
        ("NVIDIA H100 80GB HBM3", 81_559, "h100-80"),
        ("NVIDIA H200", 143_771, "h200-141"),
        ("NVIDIA A100-SXM4-40GB", 40_536, "a100-40"),
        ("Tesla T4", 15_360, "t4-15"),
        ("NVIDIA L40S", 46_068, "l40s-45"),
        ("NVIDIA GeForce RTX 4090", 24_564, "rtx-4090-24"),
        ("NVIDIA RTX PRO 6000 Blackwell", 97_887, "rtx-pro-6000-96"),
        ("NVIDIA TITAN V", 12_288, "titan-v-12"),
    ] {
        assert_eq!(class_of(product, Bytes(mebibytes << 20)), Some(class(name)), "{product}");
    }
}

#[test]
fn of_nothing_no_class_is_made() {
    assert_eq!(class_of("NVIDIA", Bytes(80 * GIB)), None);
    assert_eq!(class_of("", Bytes(80 * GIB)), None);
    assert_eq!(class_of("NVIDIA H100", Bytes(0)), None);
    assert_eq!(class_of(&"x".repeat(200), Bytes(80 * GIB)), None);
}
