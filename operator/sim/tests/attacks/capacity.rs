//! A18: GPUs that are not there, or are not what they are said to be.
//!
//! What is here is what a member can tell without measuring anything: the smaller of two counts, devices that are whole and
//! told apart, and how far figures are believed. Nobody challenges a device of another member yet (A19), so nothing is ever
//! believed further than that; and offers name no devices, so that one that two members offer is found by neither.

use std::collections::BTreeSet;

use koinon_core::body::latest::{EvidenceLevel, GpuNeed, GuestsMode, NetworkPolicyState, Offer, OfferedClass};
use koinon_core::body::norms::PlacementRules;
use koinon_core::capacity::{
    Admission, DeviceFacts, Division, Health, Hold, NodeFacts, PoolRules, Registration, SchedulerFacts, of_node,
    of_pool,
};
use koinon_core::ids::{Bytes, Digest, ManifestDigest, Seconds};
use koinon_core::liveness::Liveness;
use koinon_core::planner::{Candidate, Finding, Need, OwnerRules, Rejection, plan};

/// A node that says it has eight H100.
fn eight(allocatable: u32) -> NodeFacts {
    let device = |number: u32| DeviceFacts {
        id: format!("GPU-{number}").parse().unwrap(),
        class: Some("h100-80".parse().unwrap()),
        health: Health::Healthy,
        division: Division::Whole,
        hold: Hold::Unknown,
        dirt: None,
        registration: Registration::Unknown,
    };
    NodeFacts {
        node: "bilbao-1".parse().unwrap(),
        heartbeat_age: Some(Seconds(4)),
        admission: Admission::Open,
        devices: (0..8).map(device).collect(),
        scheduler: Some(SchedulerFacts { allocatable, ..SchedulerFacts::default() }),
        reserved: 0,
    }
}

fn offered(node: &NodeFacts) -> u32 {
    of_pool(&[of_node(node)], &PoolRules { reserve: Some(0), ..PoolRules::default() })
        .classes
        .values()
        .map(|class| class.offered)
        .sum()
}

#[test]
fn a18_devices_that_only_one_source_knows_and_parts_of_devices_are_not_offered() {
    assert_eq!(offered(&eight(8)), 8);
    assert_eq!(offered(&eight(0)), 0, "NVML alone shows them");
    assert_eq!(offered(&eight(32)), 0, "time-sliced into four each");
    let mut instances = eight(8);
    instances.devices.iter_mut().for_each(|device| device.division = Division::Divided);
    assert_eq!(offered(&instances), 0, "instances offered as whole devices");
    let mut twice = eight(6);
    let first = twice.devices[0].id.clone();
    twice.devices[7].id = first.clone();
    assert_eq!(offered(&twice), 0, "what the kubelet gives out may be one of two that have one name");
    for device in &mut twice.devices {
        device.registration = if device.id == first { Registration::No } else { Registration::Yes };
    }
    assert_eq!(offered(&twice), 6, "of two that have one name neither is known");
    let mut mock = eight(8);
    mock.devices.iter_mut().for_each(|device| device.class = None);
    assert_eq!(offered(&mock), 0, "products that nobody knows");
}

#[test]
fn a18_what_nobody_has_challenged_gets_no_work_where_that_is_voted() {
    // Everything in this cluster is made up, so both sources agree.
    let class = OfferedClass {
        class: "h100-80".parse().unwrap(),
        product: "NVIDIA H100 80GB HBM3".parse().unwrap(),
        memory_bytes: Bytes(80 << 30),
        offered: offered(&eight(8)),
        largest_block: 8,
        largest_node: Some(8),
        evidence: EvidenceLevel::SchedulerConsistent,
    };
    let offer = Offer {
        classes: vec![class],
        guests: GuestsMode::Accept,
        network_policy: NetworkPolicyState::Enforced,
        weights: vec![],
        gateway: vec![],
        jurisdiction: "ES".parse().unwrap(),
    };
    let candidate = Candidate {
        member: "bilbao".parse().unwrap(),
        liveness: Some(Liveness::Fresh),
        halted: None,
        home_halted: None,
        on_probation: None,
        cordoned: false,
        offer: Some((offer, Seconds(3))),
        replicas_here: 0,
        refused_lately: None,
    };
    let found = |voted: EvidenceLevel| {
        let need = Need {
            model: ManifestDigest(Digest([7; 32])),
            gpu: GpuNeed { class: "h100-80".parse().unwrap(), count: 2 },
            members: BTreeSet::new(),
            exclude_members: BTreeSet::new(),
            jurisdictions: BTreeSet::new(),
            min_evidence: EvidenceLevel::Claimed,
            max_per_member: None,
            rules: PlacementRules { min_evidence: voted, ..PlacementRules::default() },
            owner: OwnerRules::default(),
        };
        plan(&need, std::slice::from_ref(&candidate)).findings[&candidate.member].clone()
    };
    assert!(matches!(found(EvidenceLevel::SchedulerConsistent), Finding::Fits(_)));
    let (is, asked) = (EvidenceLevel::SchedulerConsistent, EvidenceLevel::Challenged);
    let believed = Rejection::Evidence { is, asked };
    assert_eq!(found(EvidenceLevel::Challenged), Finding::Rejected(believed));
}
