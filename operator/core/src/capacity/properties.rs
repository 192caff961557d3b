//! What holds for every node and pool, whatever is said of them.

use proptest::prelude::*;

use super::tests::{class, device, free, scheduler, sound_node};
use super::*;
use crate::ids::{Bytes, GpuClass, Seconds};

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
    let dirt = proptest::option::weighted(0.1, prop_oneof![Just(Dirt::Orphan), Just(Dirt::Leak), Just(Dirt::Intruder)]);
    let hold = prop_oneof![Just(Hold::Free), Just(Hold::Reservation), Just(Hold::Other), Just(Hold::Unknown)];
    let registration = prop_oneof![Just(Registration::Yes), Just(Registration::No), Just(Registration::Unknown)];
    (0..20_usize, class_name, health(), division, dirt, hold, registration).prop_map(
        |(number, name, health, division, dirt, hold, registration)| DeviceFacts {
            class: name.map(class),
            division,
            dirt,
            hold,
            registration,
            ..device(number, health)
        },
    )
}

fn any_node() -> impl Strategy<Value = NodeFacts> {
    let seen = proptest::option::weighted(0.9, (0..14_u32, 0..6_u32));
    let admission =
        prop_oneof![8 => Just(Admission::Open), 1 => Just(Admission::NotReady), 1 => Just(Admission::Cordoned)];
    let age = proptest::option::weighted(0.9, -40..40_i64);
    let devices = (proptest::collection::vec(any_device(), 0..12), proptest::bool::weighted(0.7));
    (devices, seen, admission, age, 0..6_u32).prop_map(|((devices, tidy), seen, admission, age, reserved)| {
        let mut node = NodeFacts {
            heartbeat_age: age.map(Seconds),
            admission,
            devices,
            scheduler: seen.and_then(|(allocatable, others)| scheduler(allocatable, others)),
            reserved,
            ..sound_node()
        };
        if tidy {
            strike_off(&mut node);
        }
        node
    })
}

/// Nothing that is not fit is given out, so that such a node may be open.
fn strike_off(node: &mut NodeFacts) {
    let (mut seen, mut fit) = (std::collections::BTreeSet::new(), 0);
    node.devices.retain(|device| seen.insert(device.id.clone()));
    for device in &mut node.devices {
        let held = matches!(device.hold, Hold::Reservation | Hold::Other);
        let clean = DeviceFacts { dirt: device.dirt.filter(|_| !held), hold: Hold::Free, ..device.clone() };
        if shareable(&clean, Sharing::Exclusive).is_ok() {
            fit += 1;
        } else {
            device.registration = Registration::No;
        }
        device.dirt = device.dirt.filter(|dirt| *dirt != Dirt::Intruder);
    }
    if let Some(scheduler) = &mut node.scheduler {
        scheduler.allocatable = scheduler.allocatable.min(fit);
    }
}

/// A node whose kubelet names no device, so that all there is are numbers.
fn unnamed_node() -> impl Strategy<Value = NodeFacts> {
    any_node().prop_map(|mut node| {
        for device in &mut node.devices {
            (device.dirt, device.hold, device.registration) = (None, Hold::Unknown, Registration::Unknown);
        }
        node
    })
}

/// The formula as it is written at the head of the module, for a node that is open and names no device.
fn by_the_book(facts: &NodeFacts) -> i64 {
    let sound = facts.devices.iter().filter(|device| {
        let alone = facts.devices.iter().filter(|other| other.id == device.id).count() == 1;
        alone && device.class.is_some() && device.health == Health::Healthy && device.division == Division::Whole
    });
    let SchedulerFacts { allocatable, requested_by_others, .. } = facts.scheduler.unwrap();
    let nvml = sound.count() as i64 - i64::from(requested_by_others);
    let scheduler = i64::from(allocatable) - i64::from(requested_by_others);
    (nvml.min(scheduler) - i64::from(facts.reserved)).max(0)
}

/// Devices that may be given away by themselves, whatever is requested.
fn open_devices(facts: &NodeFacts) -> u32 {
    let open = facts.devices.iter().filter(|device| {
        let alone = facts.devices.iter().filter(|other| other.id == device.id).count() == 1;
        alone && shareable(device, Sharing::Exclusive).is_ok()
    });
    open.count() as u32
}

proptest! {
    #[test]
    fn a_node_never_gives_more_than_the_formula_and_with_one_class_exactly_that(facts in unnamed_node()) {
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
    fn what_is_free_is_no_more_than_either_source_alone_would_give(facts in any_node()) {
        prop_assert!(free(&facts) <= open_devices(&facts));
        let by_scheduler = facts.scheduler.map_or(0, |scheduler| {
            scheduler.allocatable.saturating_sub(scheduler.requested_by_others).saturating_sub(facts.reserved)
        });
        prop_assert!(free(&facts) <= by_scheduler);
        prop_assert!(of_node(&facts).reservable <= open_devices(&facts).min(by_scheduler) + facts.reserved);
    }

    #[test]
    fn a_node_on_which_something_unfit_may_be_given_out_is_shut(facts in any_node()) {
        let unfit = |device: &&DeviceFacts| {
            let held = matches!(device.hold, Hold::Reservation | Hold::Other);
            let alone = facts.devices.iter().filter(|other| other.id == device.id).count() == 1;
            let kept = device.division == Division::Whole && device.class.is_some();
            !(alone && kept && device.health == Health::Healthy && (held || device.dirt.is_none()))
        };
        if facts.devices.iter().filter(unfit).any(|device| device.registration != Registration::No) {
            prop_assert_eq!((free(&facts), of_node(&facts).reservable), (0, facts.reserved));
        }
    }

    #[test]
    fn to_know_less_of_a_free_device_never_frees_more(facts in any_node(), at in 0..12_usize) {
        let mut vaguer = facts.clone();
        let Some(device) = vaguer.devices.get_mut(at).filter(|device| device.hold == Hold::Free) else { return Ok(()) };
        device.hold = Hold::Unknown;
        prop_assert!(free(&vaguer) <= free(&facts));
        if let Some(device) = vaguer.devices.get_mut(at) {
            device.dirt = Some(Dirt::Unknown);
        }
        prop_assert!(free(&vaguer) <= free(&facts));
    }

    #[test]
    fn to_know_less_of_what_speaks_for_a_node_never_frees_more(facts in any_node(), at in 0..12_usize) {
        let most = free(&facts);
        let without = |change: &dyn Fn(&mut DeviceFacts)| {
            let mut vaguer = facts.clone();
            vaguer.devices.get_mut(at).map(change);
            free(&vaguer)
        };
        let classless = without(&|device| device.class = None);
        prop_assert!(classless <= most || of_node(&facts).classes.len() > 1);
        let unregistered = without(&|device| {
            let whole = device.division == Division::Whole && device.class.is_some();
            let sound = device.health == Health::Healthy && device.dirt.is_none() && whole;
            if sound && device.registration == Registration::Yes {
                device.registration = Registration::Unknown;
            }
        });
        prop_assert!(unregistered <= most);
    }

    #[test]
    fn a_device_that_nobody_holds_and_that_is_not_fit_keeps_a_node_shut_while_it_is_listed(
        facts in any_node(), at in 0..12_usize, worse in health(),
    ) {
        let mut facts = facts;
        let Some(device) = facts.devices.get_mut(at).filter(|_| worse != Health::Healthy) else { return Ok(()) };
        (device.health, device.hold, device.registration) = (worse, Hold::Free, Registration::Yes);
        prop_assert_eq!(free(&facts), 0);
    }

    #[test]
    fn every_device_is_counted_once_by_health_and_at_most_once_by_use(
        nodes in proptest::collection::vec(any_node(), 0..4),
        reserve in 0..5_u32,
    ) {
        let nodes: Vec<NodeCapacity> = nodes.iter().map(of_node).collect();
        let pool = of_pool(&nodes, &PoolRules { reserve: Some(reserve), ..PoolRules::default() });
        for figures in pool.classes.values() {
            let PoolClass { installed, healthy, degraded, unhealthy, unknown, .. } = *figures;
            prop_assert_eq!(healthy + degraded + unhealthy + unknown, installed);
            let used = figures.leased + figures.owner_requested + figures.orphaned;
            prop_assert!(figures.offered + figures.owner_reserve + used <= healthy + degraded);
            prop_assert!(figures.stranded <= unhealthy + unknown);
            prop_assert!(figures.offered + figures.owner_reserve <= healthy);
            prop_assert!(figures.largest_node <= figures.offered);
        }
    }

    #[test]
    fn worse_news_never_makes_more_free(facts in unnamed_node(), worse in health(), at in 0..12_usize, more in 1..4_u32) {
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
            // Fewer than were too many may be the right number.
            let too_many = matches!(of_node(&facts).closed, Some(Closed::UnfitGivenOut { .. }));
            let smaller = SchedulerFacts { allocatable: scheduler.allocatable.saturating_sub(more), ..scheduler };
            let smaller = NodeFacts { scheduler: Some(smaller), ..facts.clone() };
            prop_assert!(too_many || free(&smaller) <= before);
        }
        prop_assert_eq!(free(&NodeFacts { scheduler: None, ..facts.clone() }), 0);
        prop_assert_eq!(free(&NodeFacts { heartbeat_age: None, ..facts }), 0);
    }

    #[test]
    fn what_is_free_can_be_reserved_one_by_one_and_not_one_more(facts in unnamed_node()) {
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
            of_pool(&nodes, &PoolRules { reserve: Some(1), ..PoolRules::default() })
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
