use koinon_core::body::latest::{EngineChoice, GpuNeed, JobRef, ModelRef, OnPartition};
use koinon_core::ids::Seconds;
use serde_json::json;

use super::*;
use crate::placement::fixture::{digest, member};

const JOB: &str = "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11";

fn request(epoch: u64) -> Request {
    Request {
        job: JobRef { namespace: "team".parse().unwrap(), name: "tiny".parse().unwrap(), uid: JOB.parse().unwrap() },
        replica: ReplicaIndex(0),
        epoch: Epoch(epoch),
        served_name: "tiny".parse().unwrap(),
        model: ModelRef {
            uri: "https://models.example/tiny.gguf".parse().unwrap(),
            revision: "1".parse().unwrap(),
            manifest_digest: digest(),
            quantization: "f32".parse().unwrap(),
        },
        engine: EngineChoice { name: "llama-cpp".parse().unwrap(), options: BTreeMap::new() },
        max_model_len: 512,
        max_concurrency: 4,
        gpu: GpuNeed { class: "h100-80".parse().unwrap(), count: 2 },
        lease_seconds: Seconds(20),
        on_partition: OnPartition::KeepServing,
    }
}

fn placement(epoch: u64, state: PlacementState) -> Arc<Placement> {
    let mut spec = PlacementSpec::of(&request(epoch), Side::Host, "aarhus", "bilbao").unwrap();
    spec.template = Some("{}".to_owned());
    let mut placement = Placement::new(&format!("aarhus-0c1f3a52-0-{epoch}"), spec);
    placement.status = Some(serde_json::from_value(json!({"state": format!("{state:?}")})).unwrap());
    Arc::new(placement)
}

fn replica() -> ReplicaKey {
    ReplicaKey { home: member("aarhus"), job: JOB.parse().unwrap(), replica: ReplicaIndex(0) }
}

fn record(epoch: u64, held: bool) -> BTreeMap<NodeName, NodeReservations> {
    let node: NodeName = "n1".parse().unwrap();
    let mut record = NodeReservations::new(node.clone());
    record.reserve(&replica(), Epoch(epoch), 2, 8, None).unwrap();
    if !held {
        record.release(&replica(), Epoch(epoch));
    }
    BTreeMap::from([(node, record)])
}

fn read(asked: u64, records: &BTreeMap<NodeName, NodeReservations>, placements: &[Arc<Placement>]) -> Meaning {
    let holdings = holdings(records, placements);
    let highest = records.values().filter_map(|record| record.highest(&replica())).max();
    meaning(&request(asked), holdings.get(&replica()), highest)
}

#[test]
fn what_nobody_has_seen_is_new() {
    assert!(matches!(read(1, &BTreeMap::new(), &[]), Meaning::New));
}

#[test]
fn what_runs_is_known() {
    assert!(matches!(read(3, &record(3, true), &[placement(3, PlacementState::Ready)]), Meaning::Known));
}

#[test]
fn a_reservation_without_a_placement_is_finished_where_it_was_made() {
    let Meaning::Unfinished { node } = read(3, &record(3, true), &[]) else { panic!("not unfinished") };
    assert_eq!(node.as_str(), "n1");
}

#[test]
fn a_lower_epoch_is_stale_also_after_everything_was_released() {
    for held in [true, false] {
        let meaning = read(2, &record(3, held), &[]);
        assert!(matches!(meaning, Meaning::Stale { highest: Epoch(3) }), "{meaning:?}");
    }
}

#[test]
fn an_epoch_that_was_released_is_not_granted_again() {
    assert!(matches!(read(3, &record(3, false), &[]), Meaning::Stale { highest: Epoch(3) }));
    // While its Placement is still shown, that says how it ended.
    assert!(matches!(read(3, &record(3, false), &[placement(3, PlacementState::Released)]), Meaning::Known));
}

#[test]
fn a_higher_epoch_of_the_same_work_takes_the_running_copy_over() {
    let running = [placement(3, PlacementState::Ready)];
    assert!(matches!(read(4, &record(3, true), &running), Meaning::TakeOver { .. }));
    // Killed after the reservation was taken over and before the Placement said so.
    assert!(matches!(read(4, &record(4, true), &running), Meaning::TakeOver { .. }));
}

#[test]
fn a_higher_epoch_of_other_work_waits_until_the_running_copy_is_gone() {
    let mut other = placement(3, PlacementState::Ready).as_ref().clone();
    other.spec.max_model_len = 1024;
    assert!(matches!(read(4, &record(3, true), &[Arc::new(other)]), Meaning::Wait));
    assert!(matches!(read(4, &record(3, true), &[placement(3, PlacementState::Draining)]), Meaning::Wait));
    assert!(matches!(read(4, &record(3, false), &[placement(3, PlacementState::Released)]), Meaning::New));
}

#[test]
fn a_list_speaks_of_a_copy_also_when_it_names_it_under_a_new_epoch() {
    let held = holdings(&record(3, true), &[placement(3, PlacementState::Ready)]);
    let copies = |requests: &[Request]| {
        let (held, listed) = compared(&member("aarhus"), &held, requests);
        held.difference(&listed).count()
    };
    assert_eq!([copies(&[]), copies(&[request(3)]), copies(&[request(4)])], [1, 0, 0]);
    let mut other = request(4);
    other.max_model_len = 9;
    assert_eq!(copies(&[other]), 1);
    // Another home's list says nothing about it.
    assert!(compared(&member("cork"), &held, &[]).0.is_empty());
}

#[test]
fn something_is_left_until_the_last_reservation_and_the_last_placement_are_gone() {
    let released = [placement(1, PlacementState::Released)];
    assert!(!nothing_left(&record(1, true), &[]), "its GPUs are not free");
    assert!(!nothing_left(&record(1, false), &released), "its Deployment stands for as long as its Placement does");
    assert!(nothing_left(&record(1, false), &[]), "the epochs that were seen are remembered and hold nothing");
}
