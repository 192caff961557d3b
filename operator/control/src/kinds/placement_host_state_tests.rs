use std::time::Duration;

use serde_json::json;

use crate::placement::weights::FailureReason;

use super::*;

const T0: UnixSeconds = UnixSeconds(1_795_000_000);

fn at(seconds: i64) -> Now {
    let monotonic = Duration::from_secs(u64::try_from(seconds).unwrap());
    Now { unix: T0.plus(Seconds(seconds)), monotonic }
}

fn placement(status: Option<PlacementStatus>) -> Placement {
    let mut placement: Placement =
        serde_json::from_value(json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "Placement",
        "metadata": {"name": "aarhus-0c1f3a52-0-1", "namespace": "koinon-guest-aarhus", "generation": 1},
        "spec": {"side": "Host", "home": "aarhus", "host": "bilbao", "replica": 0, "epoch": 1, "servedName": "tiny",
            "job": {"namespace": "team", "name": "tiny", "uid": "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11"},
            "model": {"uri": "https://m.example/tiny.gguf", "revision": "1",
                "manifestDigest": format!("sha256:{}", "ab".repeat(32)), "quantization": "f32"},
            "engine": {"name": "llama-cpp"}, "gpu": {"class": "h100-80", "count": 2}, "maxModelLen": 512,
            "maxConcurrency": 4, "lease": {"seconds": 20}, "template": "{}"}}))
        .unwrap();
    placement.status = status;
    placement
}

fn new() -> Placement {
    placement(Some(granted(None, Seconds(20), Some(1), at(0))))
}

fn pod(status: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
}

fn facts<'a>(weights: Option<&'a Weights>, pods: &'a [&'a Pod], started: bool) -> Facts<'a> {
    Facts { weights, failing: Duration::ZERO, pods, refused: None, started }
}

fn loading(progress: &Progress) -> (Reason, &str) {
    match progress {
        Progress::Loading { reason, message, .. } => (*reason, message),
        other => panic!("{other:?}"),
    }
}

fn failure(reason: FailureReason) -> Weights {
    Weights::Failed(Failure::new(reason, "expected a, saw b".to_owned()))
}

fn said(status: &PlacementStatus, type_: ConditionType) -> (String, String) {
    let condition = conditions::find(&status.conditions, type_).unwrap();
    (condition.status.clone(), condition.reason.clone())
}

#[test]
fn loading_counts_bytes_until_the_weights_are_complete() {
    let look = |weights: &Weights| progress(&new(), &facts(Some(weights), &[], false));
    let fetching = look(&Weights::Fetching { bytes: 5, total: Some(9) });
    assert_eq!(loading(&fetching), (Reason::WeightsLoading, "5 of 9 bytes are here"));
    let status = running(&new(), &fetching, None, at(1));
    assert_eq!(
        (status.state, status.loaded_bytes, status.total_bytes),
        (Some(PlacementState::Loading), Some(5), Some(9))
    );
    let complete = look(&Weights::Ready { bytes: 9 });
    assert_eq!(loading(&complete).0, Reason::EngineStarting);
    assert_eq!(said(&running(&new(), &complete, None, at(1)), ConditionType::Loaded).0, "True");
    assert_eq!(loading(&progress(&new(), &facts(None, &[], false))).0, Reason::CacheUnreachable);
}

#[test]
fn a_wrong_digest_ends_the_copy_at_once_and_a_silent_source_after_a_while() {
    let look = |weights: &Weights, seconds| {
        progress(&new(), &Facts { failing: Duration::from_secs(seconds), ..facts(Some(weights), &[], false) })
    };
    let Progress::Failed(end) = look(&failure(FailureReason::DigestMismatch), 1) else { panic!("goes on") };
    assert_eq!((end.reason, end.message.as_str()), (RefusalReason::DigestMismatch, "expected a, saw b"));
    let lacking = failure(FailureReason::NoCredentials);
    let waits = look(&lacking, 59);
    assert_eq!(loading(&waits), (Reason::CredentialsMissing, "expected a, saw b"));
    let status = running(&new(), &waits, None, at(59));
    assert_eq!(said(&status, ConditionType::Loaded), ("False".into(), "CredentialsMissing".into()));
    let silent = failure(FailureReason::SourceUnreachable);
    assert_eq!(loading(&look(&silent, 60)).0, Reason::SourceUnreachable);
    assert!(matches!(look(&silent, 61), Progress::Failed(_)));
}

#[test]
fn an_engine_that_ran_for_long_before_it_ended_starts_again_however_often_it_did_before() {
    let ended = |minutes: u32| {
        pod(
            json!({"containerStatuses": [{"name": "engine", "image": "", "imageID": "", "ready": false, "restartCount": 9,
            "lastState": {"terminated": {"exitCode": 3, "startedAt": "2026-11-21T00:00:00Z",
                "finishedAt": format!("2026-11-21T00:{minutes:02}:00Z")}}}]}),
        )
    };
    let look = |pod: &Pod| progress(&new(), &facts(Some(&Weights::Ready { bytes: 9 }), &[pod], true));
    assert!(matches!(look(&ended(9)), Progress::Failed(_)));
    assert_eq!(loading(&look(&ended(10))).0, Reason::EngineStarting);
}

#[test]
fn a_ready_pod_is_ready_whatever_the_cache_has_forgotten() {
    let ready = pod(json!({"conditions": [{"type": "Ready", "status": "True"}]}));
    for weights in [None, Some(failure(FailureReason::DiskFull)), Some(Weights::Absent)] {
        let progress = progress(&new(), &facts(weights.as_ref(), &[&ready], true));
        assert!(matches!(progress, Progress::Ready { .. }), "{progress:?}");
    }
    let progress = progress(&new(), &facts(Some(&Weights::Ready { bytes: 9 }), &[&ready], true));
    let status = running(&new(), &progress, Some("http://10.0.0.7:8000".to_owned()), at(5));
    assert_eq!(said(&status, ConditionType::Ready), ("True".into(), "EngineReady".into()));
    assert_eq!((status.gateway.as_deref(), status.total_bytes), (Some("http://10.0.0.7:8000"), Some(9)));
}

#[test]
fn what_holds_a_pod_up_is_told_in_its_own_words() {
    let waiting = |name: &str, reason: &str| {
        pod(json!({"containerStatuses": [{"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 1,
            "state": {"waiting": {"reason": reason, "message": "not found"}}}]}))
    };
    let look = |pod: &Pod| progress(&new(), &facts(Some(&Weights::Ready { bytes: 9 }), &[pod], true));
    assert_eq!(loading(&look(&waiting("engine", "ImagePullBackOff"))), (Reason::ImagePullFailed, "engine: not found"));
    assert_eq!(loading(&look(&waiting("engine", "CrashLoopBackOff"))).0, Reason::EngineFailed);
    let unschedulable = pod(
        json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: insufficient gpu"}]}),
    );
    assert_eq!(loading(&look(&unschedulable)), (Reason::Unschedulable, "0/1 nodes: insufficient gpu"));
    let refused = Facts { refused: Some("exceeded quota"), ..facts(Some(&Weights::Ready { bytes: 9 }), &[], true) };
    assert_eq!(loading(&progress(&new(), &refused)), (Reason::PodRefused, "exceeded quota"));
}

#[test]
fn an_engine_that_ends_again_and_again_is_given_up_with_its_last_words() {
    let crashing = pod(json!({"containerStatuses": [{"name": "engine", "image": "", "imageID": "", "ready": false,
        "restartCount": 5, "lastState": {"terminated": {"exitCode": 3, "message": "out of\nmemory"}}}]}));
    let progress = progress(&new(), &facts(Some(&Weights::Ready { bytes: 9 }), &[&crashing], true));
    let Progress::Failed(end) = progress else { panic!("goes on") };
    assert_eq!(end.reason, RefusalReason::EngineFailed);
    assert_eq!(end.message, "the engine ended 5 times without answering, last with code 3: out ofmemory");
}

#[test]
fn an_end_is_told_in_the_words_of_the_wire_and_its_pod_gets_its_time() {
    let end = End::new(RefusalReason::NoLongerRequested, "aarhus no longer lists it");
    let status = ended(&new(), &end, at(100));
    assert_eq!(
        (status.state, ending(&status)),
        (Some(PlacementState::Draining), Some(RefusalReason::NoLongerRequested))
    );
    assert!(!drained(&status, at(104)) && drained(&status, at(105)));
    let stopped = ended(&new(), &End::new(RefusalReason::GuestsNotAccepted, "stop"), at(100));
    assert!(drained(&stopped, at(100)));
}

#[test]
fn every_refusal_survives_being_kept_in_a_status() {
    for reason in RefusalReason::ALL {
        assert_eq!(ending(&ended(&new(), &End::new(*reason, ""), at(0))), Some(*reason));
    }
}

#[test]
fn a_grant_under_a_higher_epoch_begins_a_lease_of_its_own() {
    let ready = pod(json!({"conditions": [{"type": "Ready", "status": "True"}]}));
    let running = running(&new(), &progress(&new(), &facts(None, &[&ready], true)), None, at(5));
    let raised = granted(Some(&running), Seconds(20), Some(2), at(50));
    assert_eq!((granted_at(&running), granted_at(&raised)), (Some(T0), Some(T0.plus(Seconds(50)))));
    assert_eq!(raised.state, Some(PlacementState::Ready));
}

#[test]
fn a_released_copy_remembers_when_and_why() {
    let end = End::new(RefusalReason::LeaseLapsed, "lapsed");
    let draining = placement(Some(ended(&new(), &end, at(10))));
    let gone = placement(Some(released(&draining, at(20))));
    assert_eq!(released_at(&gone), Some(T0.plus(Seconds(20))));
    assert_eq!(ending(gone.status.as_ref().unwrap()), Some(RefusalReason::LeaseLapsed));
    assert_eq!(released_at(&draining), None);
}

#[test]
fn an_announced_end_is_said_with_its_time_and_so_is_that_it_was_taken_back() {
    let mut status = new().status.unwrap();
    announce(&mut status, None, Some(1), at(1));
    assert!(conditions::find(&status.conditions, ConditionType::Reclaiming).is_none(), "nothing was ever announced");
    let ahead = Announced { at: T0.plus(Seconds(90)), why: "spec.limits".to_owned() };
    announce(&mut status, Some(&ahead), Some(1), at(1));
    assert_eq!(said(&status, ConditionType::Reclaiming), ("True".into(), "Reclaimed".into()));
    assert_eq!(status.ends_time.as_ref().map(koinon_api::time::to_unix), Some(T0.0 + 90));
    announce(&mut status, None, Some(1), at(2));
    assert_eq!(said(&status, ConditionType::Reclaiming), ("False".into(), "NothingReclaimed".into()));
    assert_eq!(status.ends_time, None);
}

#[test]
fn calls_in_flight_have_their_time_also_where_the_owner_takes_the_gpus_or_a_device_fails() {
    for reason in [RefusalReason::Reclaimed, RefusalReason::DeviceUnhealthy] {
        let status = ended(&new(), &End::new(reason, "").with("held", 6), at(100));
        assert!(!drained(&status, at(104)) && drained(&status, at(105)), "{reason}");
        assert_eq!(status.numbers.get("held"), Some(&6));
    }
}
