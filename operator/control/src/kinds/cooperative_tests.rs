//! What a `Cooperative` says about its membership.

use std::sync::Arc;

use koinon_api::conditions::{self, ConditionType, Reason};
use koinon_api::cooperative::Cooperative;
use koinon_core::body::latest::NetworkPolicyState;
use koinon_core::ids::UnixSeconds;
use kube::ResourceExt;
use serde_json::json;

use super::*;
use crate::peers::PeerView;

fn object(created: &str, gateway: &[&str]) -> Cooperative {
    serde_json::from_value(json!({
        "apiVersion": "koinon.dev/v1alpha1", "kind": "Cooperative",
        "metadata": {"name": format!("c-{}", &created[..4]), "uid": created, "generation": 1, "creationTimestamp": created},
        "spec": {"id": format!("sha256:{}", "a".repeat(64)), "member": "aarhus",
            "site": {"name": "main", "region": "eu", "jurisdiction": "DK"},
            "charter": {"payloadType": "t", "payload": "aaaa", "signatures": []},
            "endpoints": {"gateway": gateway}}
    }))
    .unwrap()
}

fn moment(at: i64) -> Moment {
    let now = UnixSeconds(at);
    Moment { now, time: koinon_api::time::from_unix(at).unwrap(), monotonic: std::time::Duration::ZERO }
}

fn refusal() -> Refusal {
    Refusal::new(Reason::InviteUsed, "another operator has used this invite")
}

fn facts<'a>(key: &'a Refusal, peers: &'a PeersSnapshot, host: &'a HostFacts) -> Facts<'a> {
    Facts { key: Err(key), held: None, view: None, peers, host, ending: None }
}

fn reason(status: &CooperativeStatus, type_: ConditionType) -> (String, String) {
    let condition = conditions::find(&status.conditions, type_).unwrap();
    (condition.status.clone(), condition.reason.clone())
}

#[test]
fn of_several_the_oldest_counts_and_the_others_say_so() {
    let all = ["2026-02-01T00:00:00Z", "2025-01-01T00:00:00Z"].map(|at| Arc::new(object(at, &[])));
    let chosen = Cooperative::chosen(&all).unwrap();
    assert_eq!(chosen.name_any(), "c-2025");
    let other = status_of_another(&all[0], &chosen.name_any(), &moment(1_800_000_000));
    assert_eq!(reason(&other, ConditionType::Ready), ("False".into(), "AnotherExists".into()));
}

#[test]
fn what_holds_a_membership_up_is_its_ready_reason() {
    let (peers, host, missing) =
        (PeersSnapshot::default(), HostFacts::default(), Refusal::new(Reason::KeyMissing, "no key"));
    let object = object("2025-01-01T00:00:00Z", &["https://gw.example:7444"]);
    let shown = status(&object, &facts(&missing, &peers, &host), &moment(1_800_000_000));
    assert_eq!(reason(&shown, ConditionType::Ready), ("False".into(), "KeyMissing".into()));

    let key = OperatorKey {
        signer: Arc::new(koinon_core::testkit::person("aarhus").operator),
        clone: koinon_core::recovery::CloneVerdict::Same,
    };
    let held = refusal();
    let facts = Facts { key: Ok(&key), held: Some(&held), ..facts(&missing, &peers, &host) };
    let shown = status(&object, &facts, &moment(1_800_000_000));
    assert_eq!(reason(&shown, ConditionType::Ready), ("False".into(), "InviteUsed".into()));
    assert_eq!(shown.public_key, Some(key.public().to_string()), "the CLI reads it before there is a membership");
}

#[test]
fn a_second_later_there_is_nothing_to_write() {
    let (peers, host, missing) = (PeersSnapshot::default(), HostFacts::default(), refusal());
    let mut object = object("2025-01-01T00:00:00Z", &[]);
    object.status = Some(status(&object, &facts(&missing, &peers, &host), &moment(1_800_000_000)));
    let later = status(&object, &facts(&missing, &peers, &host), &moment(1_800_000_001));
    assert!(conditions::same_ignoring_times(object.status.as_ref().unwrap(), &later));
}

#[test]
fn who_is_not_heard_is_named_and_isolation_is_told_from_a_quorum() {
    let (host, missing) = (HostFacts::default(), refusal());
    let object = object("2025-01-01T00:00:00Z", &[]);
    let mut peers = PeersSnapshot { heard_quorum: true, ..PeersSnapshot::default() };
    for (member, liveness) in [("aarhus", Liveness::Own), ("bilbao", Liveness::Fresh), ("cork", Liveness::Suspect)] {
        peers.members.insert(member.parse().unwrap(), PeerView::silent(liveness, std::time::Duration::ZERO));
    }
    let shown = status(&object, &facts(&missing, &peers, &host), &moment(1_800_000_000));
    assert_eq!(reason(&shown, ConditionType::PeersReachable), ("True".into(), "QuorumReachable".into()));
    let message = &conditions::find(&shown.conditions, ConditionType::PeersReachable).unwrap().message;
    assert_eq!(message, "1 of 2 others are heard, not heard: cork");
    peers.isolated = true;
    let shown = status(&object, &facts(&missing, &peers, &host), &moment(1_800_000_000));
    assert_eq!(reason(&shown, ConditionType::PeersReachable), ("False".into(), "Isolated".into()));
}

#[test]
fn guests_are_taken_only_where_they_are_confined_or_the_owner_accepts_that() {
    let (peers, missing) = (PeersSnapshot::default(), refusal());
    let reachable = object("2025-01-01T00:00:00Z", &["https://gw.example:7444"]);
    let accepting = |object: &Cooperative, state| {
        let host = HostFacts { network_policy: state, ..HostFacts::default() };
        reason(&status(object, &facts(&missing, &peers, &host), &moment(1_800_000_000)), ConditionType::AcceptingGuests)
    };
    assert_eq!(accepting(&reachable, NetworkPolicyState::Enforced), ("True".into(), "AcceptingGuests".into()));
    assert_eq!(accepting(&reachable, NetworkPolicyState::Unenforced), ("False".into(), "NotEnforced".into()));
    assert_eq!(
        accepting(&reachable, NetworkPolicyState::AcceptedUnenforced),
        ("True".into(), "AcceptingGuests".into())
    );
    let nobody = object("2025-01-01T00:00:00Z", &[]);
    assert_eq!(accepting(&nobody, NetworkPolicyState::Enforced), ("False".into(), "HomeOnly".into()));
    let mut stopped = reachable.clone();
    stopped.spec.guests.mode = GuestMode::Stop;
    assert_eq!(accepting(&stopped, NetworkPolicyState::Enforced), ("False".into(), "GuestsStopped".into()));
}
