use std::time::Duration;

use koinon_core::body::latest::{EvidenceLevel, GpuNeed, GuestsMode, NetworkPolicyState, Offer, OfferedClass};
use koinon_core::ids::{Bytes, Seconds, UnixSeconds};
use koinon_core::liveness::Liveness;
use koinon_core::planner::{Candidate, Need, plan};
use serde_json::json;

use super::*;
use crate::placement::fixture::digest;

const NOW: Now = Now { unix: UnixSeconds(1_795_000_000), monotonic: Duration::from_secs(10) };

fn job(replicas: i32) -> InferenceJob {
    serde_json::from_value(json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "InferenceJob",
        "metadata": {"name": "tiny", "namespace": "team", "uid": "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11"},
        "spec": {"servedName": "tiny", "maxModelLen": 512, "replicas": replicas,
            "model": {"uri": "https://models.example/tiny.gguf", "revision": "1", "manifestDigest": digest().to_string(),
                "quantization": "f32"},
            "engine": {"name": "llama-cpp"}, "gpu": {"class": "h100-80", "count": 9}}}))
    .unwrap()
}

fn good() -> Checked {
    Checked {
        accepted: Verdict::yes(Reason::Valid, ""),
        approved: Verdict::yes(Reason::ReleaseEnacted, ""),
        work: None,
    }
}

fn shown(replica: i32, epoch: i64, member: &str, state: PlacementState, routable: bool) -> Shown {
    let entry = JobPlacement { replica, epoch, member: member.to_owned(), state, reason: None };
    Shown {
        entry,
        routable,
        renewed: true,
        waiting: Some((Reason::WeightsLoading, "bilbao has 5 of 9 bytes".to_owned())),
        ending: None,
    }
}

fn look(job: &InferenceJob, checked: &Checked, copies: &[Shown], unplaced: &[(u32, Unplaced)]) -> InferenceJobStatus {
    let unplaced = unplaced.iter().cloned().collect();
    status(job, &Picture { checked, copies, unplaced: &unplaced }, NOW)
}

fn said(status: &InferenceJobStatus, type_: ConditionType) -> (String, String, String) {
    let condition = conditions::find(&status.conditions, type_).unwrap();
    (condition.status.clone(), condition.reason.clone(), condition.message.clone())
}

/// Members that each have `free` GPUs of their largest node's `nodes`.
fn report(count: u32, members: &[(&str, u32, u32)]) -> Unplaced {
    let class: koinon_core::ids::GpuClass = "h100-80".parse().unwrap();
    let candidates: Vec<Candidate> = members
        .iter()
        .map(|(name, free, node)| Candidate {
            member: name.parse().unwrap(),
            liveness: Some(Liveness::Fresh),
            halted: None,
            home_halted: None,
            on_probation: None,
            cordoned: false,
            offer: Some((
                Offer {
                    classes: vec![OfferedClass {
                        class: class.clone(),
                        product: "NVIDIA H100".parse().unwrap(),
                        memory_bytes: Bytes(80 << 30),
                        offered: *free,
                        largest_block: *free,
                        largest_node: Some(*node),
                        evidence: EvidenceLevel::Claimed,
                    }],
                    guests: GuestsMode::Accept,
                    network_policy: NetworkPolicyState::Enforced,
                    weights: vec![],
                    gateway: vec![],
                    jurisdiction: "ES".parse().unwrap(),
                },
                Seconds(1),
            )),
            replicas_here: 0,
            refused_lately: None,
        })
        .collect();
    let need = Need {
        model: digest(),
        gpu: GpuNeed { class, count },
        members: BTreeSet::new(),
        exclude_members: BTreeSet::new(),
        jurisdictions: BTreeSet::new(),
        min_evidence: EvidenceLevel::Claimed,
        max_per_member: None,
        rules: Default::default(),
        owner: Default::default(),
    };
    Unplaced::NoHost(plan(&need, &candidates))
}

#[test]
fn ready_means_that_a_replica_is_routable_and_nothing_less() {
    let placed = look(&job(1), &good(), &[shown(0, 1, "bilbao", PlacementState::Loading, false)], &[]);
    assert_eq!(said(&placed, ConditionType::Placed).1, "AllPlaced");
    let waiting = ("False".into(), "WeightsLoading".into(), "bilbao has 5 of 9 bytes".into());
    assert_eq!(said(&placed, ConditionType::Ready), waiting);
    assert_eq!((placed.replicas, placed.ready_replicas, state(&placed)), (1, 0, JobState::Loading));
    let routed = look(&job(1), &good(), &[shown(0, 1, "bilbao", PlacementState::Ready, true)], &[]);
    let ready = ("True".into(), "Routable".into(), "1 of 1 replicas are routable: bilbao".into());
    assert_eq!(said(&routed, ConditionType::Ready), ready);
    assert_eq!((routed.ready_replicas, state(&routed)), (1, JobState::Ready));
}

#[test]
fn a_job_that_asks_for_more_than_any_node_has_is_told_how_many_the_largest_has() {
    let status = look(&job(1), &good(), &[], &[(0, report(9, &[("bilbao", 2, 8), ("cork", 4, 4)]))]);
    for type_ in [ConditionType::Placed, ConditionType::Ready] {
        let (value, reason, message) = said(&status, type_);
        assert_eq!((value.as_str(), reason.as_str()), ("False", "ExceedsLargestNode"));
        assert!(message.starts_with("asks for 9 h100-80 on one node; the largest has 8 (bilbao)"), "{message}");
    }
    assert_eq!(state(&status), JobState::Unplaced);
}

#[test]
fn a_job_that_would_fit_if_something_ended_waits_for_capacity() {
    let status = look(&job(1), &good(), &[], &[(0, report(4, &[("bilbao", 2, 8)]))]);
    let (_, reason, message) = said(&status, ConditionType::Placed);
    assert_eq!(reason, "NoCapacity");
    assert!(message.contains("bilbao has 2 free on one node (2 in all)"), "{message}");
}

#[test]
fn an_unapproved_job_says_so_in_every_condition_that_follows_from_it() {
    let mut checked = good();
    checked.approved = Verdict::no(Reason::ReleaseNotEnacted, "propose it with: …");
    let status = look(&job(1), &checked, &[], &[]);
    for type_ in [ConditionType::Approved, ConditionType::Placed, ConditionType::Ready] {
        assert_eq!(said(&status, type_).1, "ReleaseNotEnacted");
    }
    assert_eq!(state(&status), JobState::NotApproved);
}

#[test]
fn a_job_without_replicas_wants_nothing_and_is_not_ready() {
    let status = look(&job(0), &good(), &[], &[]);
    assert_eq!(said(&status, ConditionType::Placed).0, "True");
    assert_eq!(said(&status, ConditionType::Ready).1, "ScaledToZero");
}

#[test]
fn the_highest_epoch_of_a_replica_is_remembered_after_its_placement_is_gone() {
    let mut job = job(1);
    job.status = Some(look(&job, &good(), &[shown(0, 3, "bilbao", PlacementState::Refused, false)], &[]));
    for _ in 0..3 {
        job.status = Some(look(&job, &good(), &[], &[(0, Unplaced::Isolated)]));
        assert_eq!(highest(job.status.as_ref(), 0), 3);
    }
    assert_eq!(job.status.as_ref().unwrap().placements[0].state, PlacementState::Refused);
    job.status = Some(look(&job, &good(), &[shown(0, 4, "cork", PlacementState::Ready, true)], &[]));
    assert_eq!(highest(job.status.as_ref(), 0), 4);
    assert_eq!(job.status.unwrap().placements.len(), 1);
}

#[test]
fn an_endless_story_keeps_the_status_within_its_limit_and_its_newest_epochs() {
    let copies: Vec<Shown> =
        (0..64).flat_map(|r| (1..10).map(move |e| shown(r, e, "bilbao", PlacementState::Released, false))).collect();
    let status = look(&job(64), &good(), &copies, &[]);
    assert_eq!(status.placements.len(), 256);
    assert!((0..64).all(|replica| highest(Some(&status), replica) == 9));
}

#[test]
fn a_replica_that_is_moved_says_that_it_is() {
    let mut old = shown(0, 1, "bilbao", PlacementState::Ready, false);
    old.renewed = false;
    let status = look(&job(1), &good(), &[old, shown(0, 2, "cork", PlacementState::Requested, false)], &[]);
    let (_, reason, message) = said(&status, ConditionType::Placed);
    assert_eq!((reason.as_str(), message.as_str()), ("Replacing", "cork was asked for replica 0 under epoch 2"));
}

#[test]
fn a_job_says_which_order_keeps_its_replica_unplaced_and_until_when() {
    let order = koinon_core::ids::StatementId(koinon_core::ids::Digest([9; 32]));
    let frozen = Suspension::Ordered { order, until: UnixSeconds(1_795_267_200) };
    let (status, reason, message) =
        said(&look(&job(1), &good(), &[], &[(0, Unplaced::Frozen(frozen))]), ConditionType::Placed);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ReleaseFrozen"));
    assert_eq!(
        message,
        format!("no new copy of the model begins, by order {order} until 2026-11-21T13:20:00Z; what runs goes on")
    );
    let Unplaced::NoHost(mut report) = report(1, &[("bilbao", 4, 8)]) else { panic!("it is a report") };
    let halted = koinon_core::policy::Halted::Ordered { order, until: UnixSeconds(1_795_267_200) };
    report.chosen = None;
    report.findings.insert("bilbao".parse().unwrap(), Finding::Rejected(Rejection::HomeHalted(halted)));
    let (_, reason, message) =
        said(&look(&job(1), &good(), &[], &[(0, Unplaced::NoHost(report))]), ConditionType::Placed);
    assert_eq!(reason, "Suspended");
    assert!(message.contains("bilbao gets nothing from this member, which is suspended by order sha256:"), "{message}");
}

#[test]
fn a_job_says_which_of_its_copies_a_host_ends_and_when() {
    let mut copies =
        [shown(0, 1, "bilbao", PlacementState::Ready, true), shown(1, 1, "cork", PlacementState::Ready, true)];
    let before = look(&job(2), &good(), &copies, &[]);
    assert!(conditions::find(&before.conditions, ConditionType::Reclaiming).is_none());
    copies[0].ending = Some("at 2026-11-22T00:00:00Z".to_owned());
    let told = look(&job(2), &good(), &copies, &[]);
    let (status, reason, message) = said(&told, ConditionType::Reclaiming);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Reclaimed"));
    let note =
        "1 of 2 replicas lose their GPUs and are placed anew then: bilbao ends replica 0 at 2026-11-22T00:00:00Z";
    assert_eq!(message, note);
    copies[0].ending = None;
    let kept = InferenceJob { status: Some(told), ..job(2) };
    assert_eq!(said(&look(&kept, &good(), &copies, &[]), ConditionType::Reclaiming).1, "NothingReclaimed");
}
