//! What a `Cooperative` says about its membership.

use std::sync::Arc;

use koinon_api::conditions::{self, ConditionType, Reason};
use koinon_api::cooperative::Cooperative;
use koinon_core::body::charter::Preset;
use koinon_core::body::latest::NetworkPolicyState;
use koinon_core::body::{Action, OperatorRelease, Stop};
use koinon_core::ids::{Digest, UnixSeconds};
use koinon_core::log::Limits;
use koinon_core::policy::Commons;
use koinon_core::testkit;
use koinon_net::wire::DialledBack;
use kube::ResourceExt;
use serde_json::json;

use super::*;
use crate::peers::PeerView;
use crate::placement::fixture::{rules_stopping, view_with};

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
    static NOBODY: Reach =
        Reach { endpoints: Vec::new(), gateways: Vec::new(), told: std::collections::BTreeMap::new() };
    Facts { key: Err(key), held: None, view: None, peers, reach: &NOBODY, host, ending: None }
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

/// A member whose membership names `endpoints`, and what peers said of each of them.
fn dialled(endpoints: &[&str], told: &[(&str, &[Option<&str>])]) -> Reach {
    let endpoints: Vec<Endpoint> = endpoints.iter().map(|url| url.parse().unwrap()).collect();
    let one = |(endpoint, error): (&Endpoint, &Option<&str>)| DialledBack {
        endpoint: endpoint.clone(),
        error: error.map(str::to_owned),
    };
    let told = told.iter().map(|(peer, answers)| {
        (peer.parse().unwrap(), endpoints.iter().zip(answers.iter()).map(one).collect::<Vec<_>>())
    });
    Reach { told: told.collect(), endpoints: endpoints.clone(), gateways: Vec::new() }
}

/// What a founder alone sees.
fn alone(standing: Standing) -> CommonsView {
    let aarhus = testkit::person("aarhus");
    let commons =
        Commons::new(testkit::found(&[&aarhus], testkit::charter(&[&aarhus], Preset::Trial)), Limits::default());
    CommonsView {
        me: aarhus.id(),
        coop: commons.replica().coop(),
        charter: Arc::new(commons.founding().charter().clone()),
        state: commons.state().clone(),
        standing,
        signing: Signing::Yes,
        verdicts: Arc::default(),
        logs: Arc::default(),
        store_trouble: None,
        clock_in_tolerance: true,
        resumed: false,
        late: Default::default(),
    }
}

/// Status, reason and message of EndpointReachable.
fn reached(reach: &Reach, standing: Standing) -> (String, String, String) {
    let view = alone(standing);
    let (peers, host, key) = (PeersSnapshot::default(), HostFacts::default(), refusal());
    let facts = Facts { view: Some(&view), reach, ..facts(&key, &peers, &host) };
    let shown = status(&object("2025-01-01T00:00:00Z", &[]), &facts, &moment(1_800_000_000));
    let condition = conditions::find(&shown.conditions, ConditionType::EndpointReachable).cloned().unwrap();
    (condition.status, condition.reason, condition.message)
}

const OWN: &str = "https://koinon.example:7443";
const SECOND: &str = "https://second.example:7443";

#[test]
fn an_endpoint_that_nobody_has_dialled_back_is_not_known_to_be_reached() {
    for (reach, reason) in [
        (dialled(&[OWN], &[]), "NotDialled"),
        (dialled(&[OWN, SECOND], &[("bilbao", &[None])]), "NotDialled"),
        (dialled(&[], &[("bilbao", &[])]), "NoEndpoint"),
    ] {
        let (status, told, message) = reached(&reach, Standing::Member);
        assert_eq!((status.as_str(), told.as_str()), ("Unknown", reason), "{message}");
    }
    let (status, ..) = reached(&dialled(&[OWN], &[("bilbao", &[None])]), Standing::Left);
    assert_eq!(status, "Unknown", "what was true of a member says nothing of one that has left");
}

#[test]
fn an_endpoint_that_no_peer_reaches_is_named_with_the_peer_and_the_fix() {
    let reach = dialled(&[OWN, SECOND], &[("bilbao", &[None, Some("connection refused")])]);
    let (status, reason, message) = reached(&reach, Standing::Member);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "EndpointUnreachable"));
    for word in [SECOND, "bilbao", "connection refused", "koinon-peer"] {
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn a_gateway_that_no_peer_reaches_is_named_with_its_own_service() {
    let mut reach = dialled(&[OWN, SECOND], &[("bilbao", &[None, Some("no answer within 3 s")])]);
    reach.gateways = reach.endpoints.split_off(1);
    let (status, _, message) = reached(&reach, Standing::Member);
    assert_eq!(status, "False");
    assert!(message.contains(SECOND) && message.contains("Service koinon-gateway-peer"), "{message}");
}

#[test]
fn an_endpoint_that_some_peer_reaches_is_reached_and_those_that_do_not_are_named() {
    let reach = dialled(&[OWN], &[("bilbao", &[Some("no answer within 3 s")]), ("cork", &[None])]);
    let (status, reason, message) = reached(&reach, Standing::Member);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "EndpointReached"));
    assert!(message.contains("reached by cork, not by bilbao: no answer within 3 s"), "{message}");
    assert!(message.contains("whatever spec.endpoints says"), "the spec names none: {message}");
}

#[test]
fn a_suspended_member_reads_in_its_own_cooperative_by_which_order_and_until_when() {
    let rules = rules_stopping("cork", Stop::Member("cork".parse().unwrap()));
    let state = rules.view().state.clone();
    let order = *state.emergencies().keys().next().unwrap();
    let view = CommonsView { me: "cork".parse().unwrap(), state, ..alone(Standing::Member) };
    let (peers, host, key) = (PeersSnapshot::default(), HostFacts::default(), refusal());
    let said = |now, type_| {
        let facts = Facts { view: Some(&view), ..facts(&key, &peers, &host) };
        let object = object("2025-01-01T00:00:00Z", &["https://gw.example:7444"]);
        let shown = status(&object, &facts, &moment(now));
        let condition = conditions::find(&shown.conditions, type_).cloned().unwrap();
        (condition.status, condition.reason, condition.message)
    };
    let (status, reason, message) = said(testkit::T0.0, ConditionType::MayWork);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Suspended"));
    assert!(message.starts_with(&format!("this member is suspended by order {order} until ")), "{message}");
    let (status, reason, message) = said(testkit::T0.0, ConditionType::AcceptingGuests);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Suspended"));
    assert!(message.ends_with("; its guests drain"), "{message}");
    let later = view.state.next_lapse(testkit::T0).unwrap();
    assert_eq!(said(later.0, ConditionType::MayWork).0, "True");
    assert_ne!(said(later.0, ConditionType::AcceptingGuests).1, "Suspended");
}

#[test]
fn an_advised_release_of_the_operator_shows_and_stops_nothing() {
    let own = env!("CARGO_PKG_VERSION");
    let advise = |version: &str| {
        let release = OperatorRelease { version: version.parse().unwrap(), image: Digest([7; 32]) };
        let state = view_with("cork", json!({}), Some(Action::AdviseOperatorRelease(release))).state;
        let view = CommonsView { me: "cork".parse().unwrap(), state, ..alone(Standing::Member) };
        let (key, peers, host) = (refusal(), PeersSnapshot::default(), HostFacts::default());
        let facts = Facts { view: Some(&view), ..facts(&key, &peers, &host) };
        reason(&status(&object("2026-01-01T00:00:00Z", &[]), &facts, &moment(0)), ConditionType::AsAdvised)
    };
    assert_eq!(advise(own), ("True".to_owned(), "AdvisedRelease".to_owned()));
    assert_eq!(advise("99.0.0"), ("False".to_owned(), "OtherRelease".to_owned()));
}

/// A28, as far as votes reach: an operator that is not the release that was voted for says so itself, with both. It is advice:
/// no other member's operator acts on it, and a poisoned one could say anything.
#[test]
fn a28_an_operator_that_nobody_voted_for_says_so_and_which_one_they_did() {
    let image = Digest([7; 32]);
    let release = OperatorRelease { version: "99.0.0".parse().unwrap(), image };
    let state = view_with("cork", json!({}), Some(Action::AdviseOperatorRelease(release))).state;
    let view = CommonsView { me: "cork".parse().unwrap(), state, ..alone(Standing::Member) };
    let (key, peers, host) = (refusal(), PeersSnapshot::default(), HostFacts::default());
    let facts = Facts { view: Some(&view), ..facts(&key, &peers, &host) };
    let shown = status(&object("2026-01-01T00:00:00Z", &[]), &facts, &moment(0));
    let condition = conditions::find(&shown.conditions, ConditionType::AsAdvised).cloned().unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "OtherRelease"));
    let own = env!("CARGO_PKG_VERSION");
    for said in [own, "99.0.0", &image.to_string()] {
        assert!(condition.message.contains(said), "{}", condition.message);
    }
}
