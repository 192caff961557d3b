use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;

fn class(name: &str) -> GpuClass {
    name.parse().unwrap()
}

fn device(number: usize, health: Health) -> DeviceFacts {
    DeviceFacts {
        id: format!("GPU-{number}").parse().unwrap(),
        class: Some(class("h100-80")),
        health,
        division: Division::Whole,
    }
}

/// Eight healthy GPUs, all allocatable, nobody on them.
fn sound_node() -> NodeFacts {
    NodeFacts {
        node: "bilbao-1".parse().unwrap(),
        heartbeat_age: Some(Seconds(4)),
        admission: Admission::Open,
        devices: (0..8).map(|number| device(number, Health::Healthy)).collect(),
        scheduler: Some(SchedulerFacts { allocatable: 8, requested_by_others: 0 }),
        reserved: 0,
    }
}

fn free(facts: &NodeFacts) -> u32 {
    of_node(facts).classes.values().map(|counts| counts.free).sum()
}

fn offered(facts: &NodeFacts, reserve: u32) -> PoolClass {
    let rules = PoolRules { reserve, ..PoolRules::default() };
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
    fewer_registered.scheduler = Some(SchedulerFacts { allocatable: 6, requested_by_others: 0 });
    assert_eq!(free(&fewer_registered), 6);
    assert_eq!(
        of_node(&fewer_registered).disagreement,
        Some(Disagreement::SchedulerKnowsFewer { allocatable: 6, healthy: 8 })
    );

    let mut fewer_healthy = sound_node();
    fewer_healthy.devices[2].health = Health::Unhealthy;
    assert_eq!(free(&fewer_healthy), 7);
    assert_eq!(of_node(&fewer_healthy).disagreement, Some(Disagreement::NvmlKnowsFewer { allocatable: 8, healthy: 7 }));
}

#[test]
fn what_others_request_and_what_is_reserved_is_not_offered_twice() {
    let mut node = sound_node();
    node.scheduler = Some(SchedulerFacts { allocatable: 8, requested_by_others: 2 });
    node.reserved = 3;
    let capacity = of_node(&node);
    assert_eq!((capacity.reservable, free(&node)), (6, 3));
    let figures = offered(&node, 1);
    assert_eq!((figures.owner_requested, figures.leased, figures.offered), (2, 3, 2));
}

#[test]
fn only_healthy_whole_devices_of_a_known_class_are_offered() {
    for health in [Health::Degraded, Health::Unhealthy, Health::Unknown] {
        let mut node = sound_node();
        node.devices[0].health = health;
        assert_eq!(free(&node), 7, "{health:?}");
    }
    for division in [Division::Divided, Division::Unknown] {
        let mut node = sound_node();
        node.devices[0].division = division;
        assert_eq!(free(&node), 7, "{division:?}");
    }
    let mut node = sound_node();
    node.devices[0].class = None;
    assert_eq!((free(&node), of_node(&node).unclassified), (7, 1));
}

#[test]
fn devices_that_cannot_be_told_apart_are_unknown() {
    let mut node = sound_node();
    node.devices[1].id = node.devices[0].id.clone();
    let counts = of_node(&node).classes[&class("h100-80")];
    assert_eq!((counts.healthy, counts.unknown, counts.free), (6, 2, 6));
}

#[test]
fn a_silent_agent_makes_its_devices_unknown_and_takes_nothing_from_what_runs() {
    for age in [None, Some(Seconds(31)), Some(Seconds(i64::MAX)), Some(Seconds(-31)), Some(Seconds(i64::MIN))] {
        let node = NodeFacts { heartbeat_age: age, reserved: 4, ..sound_node() };
        let capacity = of_node(&node);
        let counts = capacity.classes[&class("h100-80")];
        assert_eq!((counts.unknown, counts.healthy, counts.free, counts.leased), (8, 0, 0, 4), "{age:?}");
        assert_eq!(capacity.closed, Some(Closed::AgentSilent { age, limit: FRESH }));
        assert_eq!(capacity.reservable, 4);
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
    let scheduler = Some(SchedulerFacts { allocatable: 0, requested_by_others: 0 });
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
    small.scheduler = Some(SchedulerFacts { allocatable: 4, requested_by_others: 0 });
    let nodes = [of_node(&sound_node()), of_node(&small)];
    let figures = of_pool(&nodes, &PoolRules { reserve: 1, ..PoolRules::default() }).classes[&class("h100-80")];
    assert_eq!((figures.offered, figures.largest_node), (11, 8));
    let figures = of_pool(&nodes, &PoolRules { reserve: 6, ..PoolRules::default() }).classes[&class("h100-80")];
    assert_eq!((figures.offered, figures.largest_node), (6, 6));
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

fn health() -> impl Strategy<Value = Health> {
    prop_oneof![
        6 => Just(Health::Healthy),
        1 => Just(Health::Degraded),
        1 => Just(Health::Unhealthy),
        1 => Just(Health::Unknown),
    ]
}

fn any_device() -> impl Strategy<Value = DeviceFacts> {
    let division = prop_oneof![8 => Just(Division::Whole), 1 => Just(Division::Divided), 1 => Just(Division::Unknown)];
    let class_name = prop_oneof![4 => Just(Some("h100-80")), 4 => Just(Some("a100-40")), 1 => Just(None)];
    (0..20_usize, class_name, health(), division).prop_map(|(number, name, health, division)| DeviceFacts {
        class: name.map(class),
        division,
        ..device(number, health)
    })
}

fn any_node() -> impl Strategy<Value = NodeFacts> {
    let scheduler = proptest::option::weighted(0.9, (0..14_u32, 0..6_u32));
    let admission =
        prop_oneof![8 => Just(Admission::Open), 1 => Just(Admission::NotReady), 1 => Just(Admission::Cordoned)];
    let age = proptest::option::weighted(0.9, -40..40_i64);
    (proptest::collection::vec(any_device(), 0..12), scheduler, admission, age, 0..6_u32).prop_map(
        |(devices, scheduler, admission, age, reserved)| NodeFacts {
            heartbeat_age: age.map(Seconds),
            admission,
            devices,
            scheduler: scheduler
                .map(|(allocatable, requested_by_others)| SchedulerFacts { allocatable, requested_by_others }),
            reserved,
            ..sound_node()
        },
    )
}

/// The formula as it is written at the head of the module, for a node that is open.
fn by_the_book(facts: &NodeFacts) -> i64 {
    let sound = facts.devices.iter().filter(|device| {
        let alone = facts.devices.iter().filter(|other| other.id == device.id).count() == 1;
        alone && device.class.is_some() && device.health == Health::Healthy && device.division == Division::Whole
    });
    let SchedulerFacts { allocatable, requested_by_others } = facts.scheduler.unwrap();
    let nvml = sound.count() as i64 - i64::from(requested_by_others);
    let scheduler = i64::from(allocatable) - i64::from(requested_by_others);
    (nvml.min(scheduler) - i64::from(facts.reserved)).max(0)
}

proptest! {
    #[test]
    fn a_node_never_gives_more_than_the_formula_and_with_one_class_exactly_that(facts in any_node()) {
        let capacity = of_node(&facts);
        if capacity.closed.is_some() {
            prop_assert_eq!(free(&facts), 0);
        } else {
            prop_assert!(i64::from(free(&facts)) <= by_the_book(&facts));
            if capacity.classes.len() == 1 {
                prop_assert_eq!(i64::from(free(&facts)), by_the_book(&facts));
            }
        }
    }

    #[test]
    fn every_device_is_counted_once_by_health_and_at_most_once_by_use(
        nodes in proptest::collection::vec(any_node(), 0..4),
        reserve in 0..5_u32,
    ) {
        let nodes: Vec<NodeCapacity> = nodes.iter().map(of_node).collect();
        let pool = of_pool(&nodes, &PoolRules { reserve, ..PoolRules::default() });
        for figures in pool.classes.values() {
            let PoolClass { installed, healthy, degraded, unhealthy, unknown, .. } = *figures;
            prop_assert_eq!(healthy + degraded + unhealthy + unknown, installed);
            prop_assert!(figures.offered + figures.owner_reserve + figures.leased + figures.owner_requested <= installed);
            prop_assert!(figures.offered + figures.owner_reserve <= healthy);
            prop_assert!(figures.largest_node <= figures.offered);
        }
    }

    #[test]
    fn worse_news_never_makes_more_free(facts in any_node(), worse in health(), at in 0..12_usize, more in 1..4_u32) {
        let before = free(&facts);
        let mut sicker = facts.clone();
        if let Some(device) = sicker.devices.get_mut(at).filter(|_| worse != Health::Healthy) {
            device.health = worse;
        }
        // With two classes the news may settle which class the scheduler had left out: less is in doubt then, but the
        // formula's sum is never passed.
        let one_class = of_node(&facts).classes.len() <= 1;
        let most = if one_class || facts.scheduler.is_none() { i64::from(before) } else { by_the_book(&facts) };
        prop_assert!(i64::from(free(&sicker)) <= most);
        let fuller = NodeFacts { reserved: facts.reserved + more, ..facts.clone() };
        prop_assert!(free(&fuller) <= before);
        if let Some(scheduler) = facts.scheduler {
            let busier = SchedulerFacts { requested_by_others: scheduler.requested_by_others + more, ..scheduler };
            let busier = NodeFacts { scheduler: Some(busier), ..facts.clone() };
            prop_assert!(free(&busier) <= before);
            let smaller = SchedulerFacts { allocatable: scheduler.allocatable.saturating_sub(more), ..scheduler };
            let smaller = NodeFacts { scheduler: Some(smaller), ..facts.clone() };
            prop_assert!(free(&smaller) <= before);
        }
        prop_assert_eq!(free(&NodeFacts { scheduler: None, ..facts.clone() }), 0);
        prop_assert_eq!(free(&NodeFacts { heartbeat_age: None, ..facts }), 0);
    }

    #[test]
    fn what_is_free_can_be_reserved_one_by_one_and_not_one_more(facts in any_node()) {
        let mut facts = facts;
        let start = free(&facts);
        for _ in 0..start {
            prop_assert!(free(&facts) > 0 || of_node(&facts).classes.len() > 1);
            facts.reserved += 1;
            prop_assert!(of_node(&facts).reservable >= facts.reserved);
        }
        if of_node(&facts).classes.len() == 1 {
            prop_assert_eq!(free(&facts), 0);
        }
    }

    #[test]
    fn the_order_of_devices_and_nodes_does_not_matter(
        nodes in proptest::collection::vec(any_node(), 0..4),
        turn in 0..12_usize,
    ) {
        let turned: Vec<NodeFacts> = nodes.iter().rev().map(|node| {
            let mut node = node.clone();
            if !node.devices.is_empty() {
                let by = turn % node.devices.len();
                node.devices.rotate_left(by);
            }
            node
        }).collect();
        let figures = |nodes: &[NodeFacts]| {
            let nodes: Vec<NodeCapacity> = nodes.iter().map(of_node).collect();
            of_pool(&nodes, &PoolRules { reserve: 1, ..PoolRules::default() })
        };
        prop_assert_eq!(figures(&nodes), figures(&turned));
    }

    #[test]
    fn any_product_makes_a_valid_class_or_none(product in any::<String>(), memory in any::<u64>()) {
        if let Some(class) = class_of(&product, Bytes(memory)) {
            prop_assert!(class.as_str().parse::<GpuClass>().is_ok());
        }
    }
}
