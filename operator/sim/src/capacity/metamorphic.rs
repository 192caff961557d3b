//! Whoever knows less offers no more, and the order in which things are heard changes nothing.

use std::collections::BTreeSet;

use koinon_core::capacity::{
    DeviceFacts, Dirt, Division, Health, Hold, NodeCapacity, NodeFacts, Registration, of_node, of_pool,
};
use koinon_core::gpu::health::{Judgement, SurveyFailure};
use koinon_core::gpu::reading::Gap;
use koinon_core::gpu::usage::{Kubelet, NodeUse, Owner, Pods};
use koinon_core::ids::Seconds;

use super::agent::Round;
use super::driver;
use super::status::{Row, Status};
use super::view::View;
use super::watch::Violation;
use super::world::World;

/// Ways of knowing less that are tried on one survey.
const TRIED: usize = 6;

fn free(facts: &NodeFacts) -> u32 {
    of_node(facts).classes.values().map(|counts| counts.free).sum()
}

/// Takes one thing after the other away from what is known of a node.
pub(super) fn facts(facts: &NodeFacts, found: &mut BTreeSet<Violation>) {
    let most = free(facts);
    let mut less: Vec<(String, NodeFacts)> = vec![
        ("the heartbeat".to_owned(), NodeFacts { heartbeat_age: None, ..facts.clone() }),
        ("the scheduler".to_owned(), NodeFacts { scheduler: None, ..facts.clone() }),
    ];
    for at in 0..facts.devices.len() {
        let mut without = |what: &str, change: &dyn Fn(&mut DeviceFacts)| {
            let mut vaguer = facts.clone();
            if let Some(device) = vaguer.devices.get_mut(at) {
                change(device);
            }
            less.push((format!("{what} of {:?} in {facts:?}", facts.devices[at].id), vaguer));
        };
        let DeviceFacts { hold, dirt, registration, .. } = facts.devices[at];
        without("the health", &|device| device.health = Health::Unknown);
        without("the class", &|device| device.class = None);
        without("the division", &|device| device.division = Division::Unknown);
        // Where the kubelet alone says that a device is held, or not listed against what the Node says, or a survey alone that
        // there is an intruder, only they can keep it from others: without their word it counts as the others have it.
        if matches!(hold, Hold::Free | Hold::Reservation) {
            without("the holder", &|device| device.hold = Hold::Unknown);
        }
        if dirt != Some(Dirt::Intruder) {
            without("what uses it", &|device| device.dirt = Some(Dirt::Unknown));
        }
        if registration == Registration::Yes {
            without("the registration", &|device| device.registration = Registration::Unknown);
        }
    }
    for (what, vaguer) in less {
        let now = free(&vaguer);
        if now > most {
            found.insert(Violation::UnknownFrees { what, free: now, most });
        }
    }
}

/// Shuffles what was heard.
pub(super) fn order(world: &mut World, facts: &[NodeFacts], found: &mut BTreeSet<Violation>) {
    let figures = |facts: &[NodeFacts]| {
        let mut nodes: Vec<NodeCapacity> = facts.iter().map(of_node).collect();
        let pool = format!("{:?}", of_pool(&nodes, &Default::default()));
        nodes.sort_by_key(|node| format!("{node:?}"));
        format!("{nodes:?} {pool}")
    };
    let mut other = facts.to_vec();
    world.dice.shuffle(&mut other);
    for facts in &mut other {
        world.dice.shuffle(&mut facts.devices);
    }
    if figures(facts) != figures(&other) {
        found.insert(Violation::Order("nodes and devices"));
    }
}

/// Judges a round again in another order, and knowing less.
pub(super) fn rounds(world: &mut World, at: usize, round: &Round, judged: &(Judgement, Option<NodeUse>, Vec<Row>)) {
    let mut other = round.clone();
    world.dice.shuffle(&mut other.events);
    world.dice.shuffle(&mut other.resets);
    if let Ok((devices, lost)) = &mut other.survey {
        world.dice.shuffle(devices);
        world.dice.shuffle(lost);
        for device in devices {
            world.dice.shuffle(&mut device.instances);
        }
    }
    if let Kubelet::Said(allocation) = &mut other.kubelet {
        world.dice.shuffle(&mut allocation.holdings);
        world.dice.shuffle(allocation.allocatable.get_or_insert_default());
    }
    // Of two that give one id either may be shown.
    let twins = round.survey.as_ref().is_ok_and(|(devices, _)| {
        let ids: BTreeSet<_> = devices.iter().map(|device| &device.id).collect();
        ids.len() < devices.len()
    });
    let (judgement, usage, rows) = other.judge();
    if judgement != judged.0 {
        world.watch.found(Violation::Order("a survey's devices and reports"));
    }
    if !twins && (usage != judged.1 || rows != judged.2) {
        world.watch.found(Violation::Order("a survey's devices and holdings"));
    }
    let with = |world: &World, rows: &[Row]| free_with(world, at, rows);
    let most = with(world, &judged.2).max(with(world, &round.previous));
    for _ in 0..TRIED {
        let Some((what, vaguer)) = vaguer(world, round, judged) else { continue };
        let now = with(world, &vaguer.judge().2);
        if now > most {
            let name = &world.machines[at].name;
            let what = format!("{what} of {name}");
            world.watch.found(Violation::UnknownFrees { what, free: now, most });
        }
    }
}

/// Nothing is healthy that was not read.
pub(super) fn belief(world: &mut World, round: &Round, rows: &[Row]) {
    for row in rows.iter().filter(|row| row.health == Health::Healthy) {
        let of = |device: &&koinon_core::gpu::device::Device| device.id == row.id;
        let unread = match &round.survey {
            Err((_, in_a_row)) => (*in_a_row >= 2).then_some("two surveys failed"),
            Ok((devices, _)) if devices.iter().find(of).is_some_and(driver::is_unread) => {
                Some("not all of it was read")
            }
            Ok((devices, _)) => (devices.iter().filter(of).count() > 1).then_some("two devices give its id"),
        };
        if let Some(unread) = unread {
            world.watch.found(Violation::Believed { device: row.id.clone(), unread });
        }
    }
}

/// What of the node is free if its agent wrote these rows now.
fn free_with(world: &World, at: usize, rows: &[Row]) -> u32 {
    let name = &world.machines[at].name;
    let status = Status { rows: rows.to_vec(), history: Default::default(), read: (0, 0), written: world.now };
    let (statuses, ages) = ([(name.clone(), status)].into(), [(name.clone(), Seconds(0))].into());
    let records = world.api.fresh();
    let (nodes, pods) = (&world.api.nodes.real, &world.api.pods.real);
    let view = View { statuses: &statuses, nodes, pods, ages: &ages, records: &records };
    view.facts(name, records.get(name)).map_or(0, |facts| free(&facts))
}

/// The same round with something unread, and what.
fn vaguer(
    world: &mut World,
    round: &Round,
    judged: &(Judgement, Option<NodeUse>, Vec<Row>),
) -> Option<(String, Round)> {
    let mut vaguer = round.clone();
    let what = match world.dice.below(10) {
        0 => {
            // Numbers alone cannot tell that a device is held whose name nobody knows: there the kubelet's word is the only
            // bad news.
            if judged.1.as_ref().is_some_and(|usage| !usage.unnamed.is_empty()) {
                return None;
            }
            vaguer.kubelet = Kubelet::Unknown;
            "the kubelet's word".to_owned()
        }
        1 => {
            vaguer.pods = Pods::Unknown;
            "the pods".to_owned()
        }
        2 => {
            let pids: Vec<u32> = vaguer.processes.keys().copied().collect();
            let pid = world.dice.pick(&pids)?;
            vaguer.processes.get_mut(pid)?.owner = Owner::Unreadable;
            "the owner of a process".to_owned()
        }
        3 => {
            let failures =
                [SurveyFailure::Deadline, SurveyFailure::Crashed, SurveyFailure::Stuck, SurveyFailure::Unavailable];
            let failure = *world.dice.pick(&failures)?;
            vaguer.survey = Err((failure, 1 + world.dice.below(2) as u32));
            format!("the survey ({failure:?})")
        }
        _ => {
            let which = world.dice.below(driver::VALUES);
            let (devices, _) = vaguer.survey.as_mut().ok()?;
            let device = world.dice.below(devices.len());
            let device = devices.get_mut(device)?;
            if !driver::blind(device, which, Gap::NotAsked) {
                return None;
            }
            format!("value {which} of {}", device.id)
        }
    };
    Some((what, vaguer))
}
