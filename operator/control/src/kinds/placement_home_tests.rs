use std::collections::BTreeMap;

use koinon_core::body::Stop;
use koinon_core::body::latest::OnPartition;
use koinon_core::dsse::Signer;
use koinon_core::ids::{Bytes, Digest, StatementId};
use koinon_core::placement::home::{ReplicaView, Step, next};
use koinon_core::testkit;
use serde_json::json;

use koinon_core::body::latest::Ending;

use super::*;
use crate::peers::PeerView;
use crate::placement::fixture::{digest, member, rules, rules_stopping};

const JOB: &str = "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11";
const NOW: Now = Now { unix: UnixSeconds(1_795_000_000), monotonic: Duration::from_secs(1_000) };
const DEADLINE: Seconds = Seconds(3_600);

fn placement(epoch: i64, host: &str) -> Placement {
    serde_json::from_value(json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "Placement",
        "metadata": {"name": format!("tiny-0-{epoch}"), "namespace": "team", "generation": 1},
        "spec": {"side": "Home", "home": "aarhus", "host": host, "replica": 0, "epoch": epoch, "servedName": "tiny",
            "job": {"namespace": "team", "name": "tiny", "uid": JOB},
            "model": {"uri": "https://models.example/tiny.gguf", "revision": "1",
                "manifestDigest": digest().to_string(), "quantization": "f32"},
            "engine": {"name": "llama-cpp"}, "gpu": {"class": "h100-80", "count": 2}, "maxModelLen": 512,
            "maxConcurrency": 4, "lease": {"seconds": 20}}}))
    .unwrap()
}

fn grant(epoch: u64, state: GrantState) -> Grant {
    Grant {
        job_uid: JOB.parse().unwrap(),
        replica: ReplicaIndex(0),
        epoch: Epoch(epoch),
        request: StatementId(Digest([1; 32])),
        state,
        reason: None,
        ending: None,
        numbers: BTreeMap::new(),
        loaded_bytes: None,
        total_bytes: None,
        lease_seconds: Seconds(20),
        gateway: Some("https://bilbao.example:7444".parse().unwrap()),
    }
}

fn peers(liveness: &[(&str, Liveness)]) -> PeersSnapshot {
    let members = liveness.iter().map(|(name, liveness)| (member(name), PeerView::silent(*liveness, Duration::ZERO)));
    PeersSnapshot { members: members.collect(), isolated: false, heard_quorum: true }
}

fn look<'a>(placement: &'a Placement, liveness: Liveness, said: Option<(&'a Grants, u64)>, now: Now) -> Copy<'a> {
    let word = said.map(|(grants, at)| Word { grants, heard_at: Duration::from_secs(at) });
    let peers = peers(&[("bilbao", liveness)]);
    copy(placement, &rules("aarhus"), &peers, word, DEADLINE, now).unwrap()
}

fn said(status: &PlacementStatus, type_: ConditionType) -> (String, String) {
    let condition = conditions::find(&status.conditions, type_).unwrap_or_else(|| panic!("{type_} is not set"));
    (condition.status.clone(), condition.reason.clone())
}

/// Writes `decided` into the object, as the controller does.
fn decide(placement: &mut Placement, liveness: Liveness, said: Option<(&Grants, u64)>, decided: Decided, now: Now) {
    let object = placement.clone();
    placement.status = Some(status(&look(&object, liveness, said, now), decided, None, now));
}

fn later(seconds: i64) -> Now {
    let more = Duration::from_secs(u64::try_from(seconds).unwrap());
    Now { unix: NOW.unix.plus(Seconds(seconds)), monotonic: NOW.monotonic + more }
}

#[test]
fn a_new_copy_says_that_its_host_was_asked() {
    let placement = placement(1, "bilbao");
    let copy = look(&placement, Liveness::Fresh, None, NOW);
    assert_eq!((copy.view.answer, copy.view.hearing), (None, Hearing::Fresh));
    let status = status(&copy, Decided::default(), None, NOW);
    assert_eq!(status.state, Some(PlacementState::Requested));
    assert_eq!(said(&status, ConditionType::Granted), ("Unknown".into(), "AwaitingGrant".into()));
    assert_eq!(said(&status, ConditionType::Renewed), ("True".into(), "Renewing".into()));
    assert_eq!(said(&status, ConditionType::Routable).0, "False");
}

#[test]
fn a_host_that_is_heard_and_never_answers_is_given_up_after_a_lease() {
    let mut placement = placement(1, "bilbao");
    decide(&mut placement, Liveness::Fresh, None, Decided::default(), NOW);
    let parameters = rules("aarhus").parameters().clone();
    let deadline = parameters.lease_seconds.0 + parameters.lease_margin_seconds.0;
    let unanswered = |liveness, said, now| look(&placement, liveness, said, now).view.unanswered;
    assert!(!unanswered(Liveness::Fresh, None, later(deadline)));
    assert!(unanswered(Liveness::Fresh, None, later(deadline + 1)));
    assert!(!unanswered(Liveness::Suspect, None, later(deadline + 1)), "one that is not heard may well have answered");
    let granted = Grants { grants: vec![grant(1, GrantState::Granted)] };
    assert!(!unanswered(Liveness::Fresh, Some((&granted, 1_000)), later(deadline + 1)));
}

#[test]
fn a_host_that_no_longer_names_what_it_granted_has_its_time_from_then_on() {
    let mut placement = placement(1, "bilbao");
    let (granted, nothing) = (Grants { grants: vec![grant(1, GrantState::Ready)] }, Grants::default());
    decide(&mut placement, Liveness::Fresh, Some((&granted, 999)), Decided::default(), NOW);
    let forgotten = later(600);
    decide(&mut placement, Liveness::Fresh, Some((&nothing, 1_599)), Decided::default(), forgotten);
    let status = placement.status.as_ref().unwrap();
    assert_eq!(said(status, ConditionType::Granted), ("Unknown".into(), "AwaitingGrant".into()));
    assert_eq!(said(status, ConditionType::Ready).0, "False");
    assert!(!look(&placement, Liveness::Fresh, Some((&nothing, 1_599)), later(601)).view.unanswered);
    assert!(look(&placement, Liveness::Fresh, Some((&nothing, 1_599)), later(1_300)).view.unanswered);
}

#[test]
fn what_the_host_says_stands_in_the_status_with_its_numbers() {
    let placement = placement(1, "bilbao");
    let mut refused = grant(1, GrantState::Refused);
    refused.reason = Some(RefusalReason::InsufficientGPUs);
    refused.numbers = BTreeMap::from([("asked".to_owned(), 2), ("largestBlock".to_owned(), 1)]);
    let grants = Grants { grants: vec![refused] };
    let status = status(&look(&placement, Liveness::Fresh, Some((&grants, 999)), NOW), Decided::default(), None, NOW);
    assert_eq!((status.state, status.reason.as_deref()), (Some(PlacementState::Refused), Some("NoCapacity")));
    let granted = conditions::find(&status.conditions, ConditionType::Granted).unwrap();
    assert_eq!(granted.message, "bilbao says InsufficientGPUs (asked 2, largestBlock 1)");
    assert_eq!(status.numbers["largestBlock"], 1);
}

#[test]
fn loading_is_told_in_bytes() {
    let placement = placement(1, "bilbao");
    let mut loading = grant(1, GrantState::Loading);
    (loading.loaded_bytes, loading.total_bytes) = (Some(Bytes(5)), Some(Bytes(9)));
    let grants = Grants { grants: vec![loading] };
    let status = status(&look(&placement, Liveness::Fresh, Some((&grants, 999)), NOW), Decided::default(), None, NOW);
    assert_eq!(said(&status, ConditionType::Loaded), ("False".into(), "WeightsLoading".into()));
    assert_eq!((status.loaded_bytes, status.total_bytes), (Some(5), Some(9)));
}

#[test]
fn a_restarted_home_remembers_what_its_host_said_before_it_hears_it_again() {
    let mut placement = placement(1, "bilbao");
    let grants = Grants { grants: vec![grant(1, GrantState::Ready)] };
    decide(&mut placement, Liveness::Fresh, Some((&grants, 999)), Decided { route: true, ..Decided::default() }, NOW);
    let copy = look(&placement, Liveness::Fresh, None, later(5));
    assert_eq!(copy.view.answer.map(|answer| answer.state), Some(GrantState::Ready));
    assert!(copy.view.routable);
}

#[test]
fn a_host_that_no_longer_lists_a_copy_is_believed() {
    let mut placement = placement(1, "bilbao");
    let grants = Grants { grants: vec![grant(1, GrantState::Ready)] };
    decide(&mut placement, Liveness::Fresh, Some((&grants, 999)), Decided { route: true, ..Decided::default() }, NOW);
    let nothing = Grants::default();
    assert_eq!(look(&placement, Liveness::Fresh, Some((&nothing, 1_003)), later(5)).view.answer, None);
}

#[test]
fn what_a_host_said_before_it_was_left_out_proves_nothing_about_the_old_copy() {
    let mut placement = placement(1, "bilbao");
    let grants = Grants { grants: vec![grant(1, GrantState::Ready)] };
    let stop = Decided { stop: Some(Because::HostLost), withdraw: Some(Because::HostLost), route: false };
    decide(&mut placement, Liveness::Lost, Some((&grants, 990)), stop, NOW);
    assert_eq!(renewal_stopped(&placement), Some(NOW.unix));
    // Heard again, but its list is the one from before the cut.
    assert_eq!(look(&placement, Liveness::Fresh, Some((&grants, 990)), later(60)).view.hearing, Hearing::Suspect);
    assert_eq!(look(&placement, Liveness::Fresh, Some((&grants, 1_055)), later(60)).view.hearing, Hearing::Fresh);
}

#[test]
fn the_time_at_which_renewing_stopped_does_not_move_however_often_it_is_looked_at() {
    let mut placement = placement(1, "bilbao");
    let stop = Decided { stop: Some(Because::HostLost), ..Decided::default() };
    decide(&mut placement, Liveness::Lost, None, stop, NOW);
    decide(&mut placement, Liveness::Lost, None, stop, later(30));
    decide(&mut placement, Liveness::Lost, None, Decided::default(), later(60));
    assert_eq!(renewal_stopped(&placement), Some(NOW.unix));
}

#[test]
fn a_copy_that_never_becomes_ready_is_given_up_after_the_jobs_deadline() {
    let mut placement = placement(1, "bilbao");
    let grants = Grants { grants: vec![grant(1, GrantState::Loading)] };
    decide(&mut placement, Liveness::Fresh, Some((&grants, 999)), Decided::default(), NOW);
    let in_time = look(&placement, Liveness::Fresh, Some((&grants, 999)), later(3_600));
    assert_eq!(in_time.view.answer.unwrap().state, GrantState::Loading);
    let late = look(&placement, Liveness::Fresh, Some((&grants, 999)), later(3_601));
    let answer = late.view.answer.unwrap();
    assert_eq!((answer.state, answer.reason), (GrantState::Draining, Some(RefusalReason::EngineFailed)));
}

#[test]
fn a_loss_counts_once_it_has_lasted() {
    let placement = placement(1, "bilbao");
    let lost_since = |seconds: u64| {
        let view = PeerView::silent(Liveness::Lost, Duration::from_secs(seconds));
        let peers = PeersSnapshot { members: [(member("bilbao"), view)].into(), isolated: false, heard_quorum: true };
        copy(&placement, &rules("aarhus"), &peers, None, DEADLINE, NOW).unwrap().view.hearing
    };
    assert_eq!((lost_since(995), lost_since(994)), (Hearing::Suspect, Hearing::Lost));
}

#[test]
fn a_host_that_left_is_gone_and_one_that_was_never_heard_is_only_silent() {
    let mut placement = placement(1, "porto");
    assert_eq!(look(&placement, Liveness::Fresh, None, NOW).view.hearing, Hearing::Gone);
    placement.spec.host = "cork".to_owned();
    assert_eq!(look(&placement, Liveness::Fresh, None, NOW).view.hearing, Hearing::Suspect);
}

#[test]
fn an_object_of_the_other_side_or_of_another_home_is_no_copy_of_ours() {
    let peers = peers(&[]);
    let mut foreign = placement(1, "bilbao");
    foreign.spec.home = "cork".to_owned();
    assert!(copy(&foreign, &rules("aarhus"), &peers, None, DEADLINE, NOW).is_none());
    let mut host = placement(1, "bilbao");
    host.spec.side = Side::Host;
    assert!(copy(&host, &rules("aarhus"), &peers, None, DEADLINE, NOW).is_none());
}

#[test]
fn a_cut_a_move_and_a_mend_never_route_to_two_epochs() {
    let loaded = |epoch, state| Grants { grants: vec![grant(epoch, state)] };
    let (mut old, mut new) = (placement(1, "bilbao"), placement(2, "cork"));
    let ready = loaded(1, GrantState::Ready);
    decide(&mut old, Liveness::Fresh, Some((&ready, 999)), Decided { route: true, ..Decided::default() }, NOW);
    let lost = Decided { withdraw: Some(Because::HostLost), stop: Some(Because::HostLost), route: false };
    decide(&mut old, Liveness::Lost, Some((&ready, 999)), lost, later(20));
    let there = loaded(2, GrantState::Ready);
    let mended = peers(&[("bilbao", Liveness::Fresh), ("cork", Liveness::Fresh)]);
    let word = |grants, at| Some(Word { grants, heard_at: Duration::from_secs(at) });
    let both = |old: &Placement, new: &Placement, now| {
        let rules = rules("aarhus");
        let views = [
            copy(old, &rules, &mended, word(&ready, 1_060), DEADLINE, now).unwrap().view,
            copy(new, &rules, &mended, word(&there, 1_061), DEADLINE, now).unwrap().view,
        ];
        assert!(views.iter().filter(|view| view.routable).count() <= 1);
        let (on_partition, lease, margin) = (OnPartition::KeepServing, Seconds(20), Seconds(5));
        let view = ReplicaView { wanted: true, copies: views.into(), highest: Epoch(2), on_partition, lease, margin };
        next(&view, now.unix, false)
    };
    assert_eq!(both(&old, &new, later(61)), [Step::Route { epoch: Epoch(2) }]);
    decide(&mut new, Liveness::Fresh, None, Decided { route: true, ..Decided::default() }, later(61));
    assert_eq!(both(&old, &new, later(62)), []);
}

#[test]
fn a_hosts_word_raises_an_epoch_by_so_much_and_no_further() {
    assert_eq!(believed_highest(3, 7), 7);
    assert_eq!(believed_highest(3, 2), 3);
    assert_eq!(believed_highest(3, -1), 3);
    assert_eq!(believed_highest(3, i64::MAX - 1), 3);
}

#[test]
fn numbers_of_a_host_without_a_proper_name_are_left_out() {
    let mut grant = grant(1, GrantState::Refused);
    grant.numbers = [("asked", 4), ("\u{1b}[2J", 1), ("a\nb", 2), ("", 3)].map(|(n, v)| (n.to_owned(), v)).into();
    assert_eq!(numbers(&grant), " (asked 4)");
}

#[test]
fn a_copy_at_a_host_that_may_not_work_is_left_with_who_and_why() {
    let stop = |member: &str| Stop::Member(member.parse().unwrap());
    let hearing = |me: &str, host: &str, stop| {
        let rules = rules_stopping(me, stop);
        let mut placement = placement(1, host);
        placement.spec.home = me.to_owned();
        let peers = peers(&[(me, Liveness::Own), ("bilbao", Liveness::Fresh), ("cork", Liveness::Fresh)]);
        copy(&placement, &rules, &peers, None, DEADLINE, NOW).unwrap().view.hearing
    };
    assert_eq!(hearing("aarhus", "cork", stop("cork")), Hearing::Halted);
    assert_eq!(hearing("aarhus", "bilbao", stop("cork")), Hearing::Fresh);
    assert_eq!(hearing("cork", "aarhus", stop("cork")), Hearing::Halted, "a suspended home leaves what others hold");
    assert_eq!(hearing("cork", "cork", stop("cork")), Hearing::Local, "its own GPUs are its own");
    let cork = testkit::person("cork").operator.public_key();
    assert_eq!(hearing("aarhus", "cork", Stop::Key(cork)), Hearing::Halted);

    let (rules, placement) = (rules_stopping("aarhus", stop("cork")), placement(1, "cork"));
    let order = *rules.view().state.emergencies().keys().next().unwrap();
    let copy = copy(&placement, &rules, &peers(&[("cork", Liveness::Fresh)]), None, DEADLINE, NOW).unwrap();
    let because = Some(Because::Halted);
    let status = status(&copy, Decided { withdraw: because, stop: because, route: false }, None, NOW);
    for type_ in [ConditionType::Renewed, ConditionType::Routable] {
        assert_eq!(said(&status, type_), ("False".into(), "Suspended".into()));
        let message = &conditions::find(&status.conditions, type_).unwrap().message;
        assert!(message.starts_with(&format!("cork is suspended by order {order} until ")), "{message}");
    }
}

#[test]
fn an_end_that_a_host_announces_is_shown_with_its_time_until_it_is_taken_back() {
    let mut placement = placement(1, "bilbao");
    let mut ready = grant(1, GrantState::Ready);
    let mut tell = |grant: &Grant| {
        let grants = Grants { grants: vec![grant.clone()] };
        decide(&mut placement, Liveness::Fresh, Some((&grants, 999)), Decided::default(), NOW);
        placement.status.clone().unwrap()
    };
    assert!(conditions::find(&tell(&ready).conditions, ConditionType::Reclaiming).is_none());
    ready.ending = Some(Ending { ends_at: UnixSeconds(1_795_219_200), reason: RefusalReason::Reclaimed });
    let status = tell(&ready);
    let condition = conditions::find(&status.conditions, ConditionType::Reclaiming).unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", "Reclaimed"));
    assert_eq!(condition.message, "bilbao ends it at 2026-11-21T00:00:00Z (Reclaimed); another host is asked then");
    assert_eq!(status.ends_time.as_ref().map(koinon_api::time::to_unix), Some(1_795_219_200));
    // A host may name any number for a time.
    ready.ending = Some(Ending { ends_at: UnixSeconds(i64::MAX), reason: RefusalReason::Other });
    assert_eq!(tell(&ready).ends_time, None);
    ready.ending = None;
    assert_eq!(said(&tell(&ready), ConditionType::Reclaiming), ("False".into(), "NothingReclaimed".into()));
}
