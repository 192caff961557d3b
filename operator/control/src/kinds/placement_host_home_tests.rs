//! Which running copies end, whatever their homes ask.

use std::collections::BTreeSet;

use koinon_api::labels;
use koinon_api::placement::{PlacementSpec, Side};
use koinon_api::reclaim::{Cause, Mark};
use koinon_core::body::Stop;
use koinon_core::body::latest::{EngineChoice, GpuNeed, JobRef, ModelRef, OnPartition};
use koinon_core::body::norms::PlacementRules;
use koinon_core::body::proposal::{Action, RemoveEngine, WithdrawModelRelease};
use koinon_core::ids::{Epoch, ReplicaIndex, UnixSeconds};
use koinon_core::testkit::T0;
use serde_json::json;

use super::*;
use crate::kinds::placement_home::Now;
use crate::placement::fixture::{digest, member, rules, rules_accusing, rules_stopping, view_with};
use crate::placement::reclaim::Terms;
use crate::placement::reclaim::sick::Sick;
use crate::placement::survey::Survey;

/// What the pool of the copy's node gives as notice.
const NOTICE: Seconds = Seconds(90);

fn request() -> Request {
    Request {
        job: JobRef {
            namespace: "team".parse().unwrap(),
            name: "tiny".parse().unwrap(),
            uid: "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11".parse().unwrap(),
        },
        replica: ReplicaIndex(0),
        epoch: Epoch(1),
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

/// A copy of aarhus' that runs at bilbao.
fn copy() -> Placement {
    let spec = PlacementSpec::of(&request(), Side::Host, "aarhus", "bilbao").unwrap();
    let mut copy = Placement::new("aarhus-0c1f3a52-0-1", spec);
    copy.metadata.annotations = Some([(labels::NODE.to_owned(), "n1".to_owned())].into());
    copy
}

fn scene(rules: Rules) -> Scene {
    let gpus = ("n1".parse().unwrap(), "h100-80".parse().unwrap());
    let terms = BTreeMap::from([(gpus, Terms { pool: "all".to_owned(), notice: NOTICE })]);
    let survey = Survey { ages: BTreeMap::new(), holes: false, terms };
    Scene {
        me: member("bilbao"),
        spec: Arc::new(
            serde_json::from_value(json!({"id": "", "member": "bilbao",
            "site": {"name": "main", "region": "eu-south", "jurisdiction": "ES"}}))
            .unwrap(),
        ),
        rules: Some(rules),
        peers: Arc::default(),
        survey: Arc::new(survey),
        sick: Sick::default(),
        ending: false,
        now: Now { unix: T0, monotonic: Duration::ZERO },
    }
}

/// Why aarhus' copy at bilbao ends.
fn ends(rules: Rules) -> Option<RefusalReason> {
    end_of(&member("aarhus"), &scene(rules), &copy(), None).map(|end| end.reason)
}

/// The rules of bilbao with its owner's limits and what was voted.
fn limited(limits: serde_json::Value, vote: Option<Action>) -> Rules {
    Rules::of(Arc::new(view_with("bilbao", limits, vote)), &[], &[], T0)
}

#[test]
fn what_runs_ends_where_a_vote_or_the_owner_no_longer_lets_it_be() {
    assert_eq!(ends(limited(json!({}), None)), None);
    let only = |jurisdiction: &str| {
        let there = BTreeSet::from([jurisdiction.parse().unwrap()]);
        let residency = BTreeMap::from([(digest(), there)]);
        Some(Action::SetPlacementRules(PlacementRules { residency, ..PlacementRules::default() }))
    };
    assert_eq!(ends(limited(json!({}), only("ES"))), None);
    assert_eq!(ends(limited(json!({}), only("ZZ"))), Some(RefusalReason::OutsideRules));
    assert_eq!(ends(limited(json!({"jurisdictions": ["ES"]}), None)), None);
    assert_eq!(ends(limited(json!({"jurisdictions": ["ZZ"]}), None)), Some(RefusalReason::DeniedByOwner));
    assert_eq!(ends(limited(json!({"licenses": ["Apache-2.0"]}), None)), None);
    assert_eq!(ends(limited(json!({"licenses": ["MIT"]}), None)), Some(RefusalReason::DeniedByOwner));
    // Limits are about others: what the owner serves to itself goes on.
    let own = |rules: Rules| end_of(&member("bilbao"), &scene(rules), &copy(), None).map(|end| end.reason);
    assert_eq!(own(limited(json!({"jurisdictions": ["ZZ"]}), only("ZZ"))), None);
}

#[test]
fn what_runs_ends_with_its_release_and_with_its_engine() {
    let release = WithdrawModelRelease { manifest_digest: digest() };
    let withdrawn = limited(json!({}), Some(Action::WithdrawModelRelease(release)));
    assert_eq!(ends(withdrawn), Some(RefusalReason::NotApproved));
    let engine = RemoveEngine { name: "llama-cpp".parse().unwrap() };
    assert_eq!(ends(limited(json!({}), Some(Action::RemoveEngine(engine)))), Some(RefusalReason::EngineNotApproved));
}

#[test]
fn what_runs_for_a_member_that_may_not_work_ends_and_so_does_what_one_runs_for_others() {
    let stop = || Stop::Member("cork".parse().unwrap());
    let now = Seconds(0);
    let reason = |me: &str, home: &str| halted(&member(home), &rules_stopping(me, stop()), now).map(|end| end.reason);
    assert_eq!(reason("bilbao", "cork"), Some(RefusalReason::HomeHalted));
    assert_eq!(reason("cork", "bilbao"), Some(RefusalReason::HostHalted));
    assert_eq!(reason("bilbao", "aarhus"), None);
    assert_eq!(halted(&member("porto"), &rules("bilbao"), now).unwrap().reason, RefusalReason::HomeNotActive);
    // A frozen release ends nothing that runs.
    let frozen = rules_stopping("bilbao", Stop::Release(digest()));
    assert_eq!(halted(&member("aarhus"), &frozen, now), None);
}

#[test]
fn what_runs_for_a_quarantined_member_or_at_one_has_the_notice_of_its_pool() {
    let long = |by: i64| UnixSeconds(T0.0 - NOTICE.0 + by);
    for (accused, reason) in [("aarhus", RefusalReason::HomeHalted), ("bilbao", RefusalReason::HostHalted)] {
        // What was proved a moment ago is not written on the member yet.
        assert_eq!(ends(rules_accusing("bilbao", accused, None)), None);
        assert_eq!(ends(rules_accusing("bilbao", accused, Some(long(1)))), None);
        assert_eq!(ends(rules_accusing("bilbao", accused, Some(long(0)))), Some(reason));
    }
    assert_eq!(ends(rules_accusing("bilbao", "cork", Some(long(-9)))), None, "a third one");
}

/// A copy of aarhus' with these annotations beside its node.
fn asked(annotations: &[(&str, &str)]) -> Placement {
    let mut copy = copy();
    copy.annotations_mut().extend(annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    copy
}

/// Whether the copy is ended so many seconds after T0.
fn ended_at(copy: &Placement, seconds: i64) -> Option<End> {
    let mut scene = scene(rules("bilbao"));
    scene.now.unix = UnixSeconds(T0.0 + seconds);
    end_of(&member("aarhus"), &scene, copy, None)
}

fn t0() -> String {
    koinon_api::time::from_unix(T0.0).unwrap().0.to_string()
}

#[test]
fn a_copy_that_its_owner_reclaims_runs_on_so_long_that_it_can_have_left_within_the_notice() {
    let copy = asked(&[(labels::RECLAIM, &t0())]);
    assert_eq!(ended_at(&copy, NOTICE.0 - 46), None);
    let end = ended_at(&copy, NOTICE.0 - 45).unwrap();
    assert_eq!(
        (end.reason, end.message.as_str()),
        (RefusalReason::Reclaimed, "the owner takes the GPUs back: somebody set koinon.dev/reclaim")
    );
    assert_eq!(ended_at(&asked(&[(labels::RECLAIM, "now")]), 0).unwrap().reason, RefusalReason::Reclaimed);
    assert_eq!(ended_at(&asked(&[]), 10_000), None);
}

#[test]
fn a_mark_of_the_operators_tells_the_numbers_and_keeps_its_notice_where_the_pool_is_gone() {
    let mark =
        Mark { cause: Cause::Limit, pool: Some("all".to_owned()), notice_seconds: 4, most: Some(2), held: Some(6) };
    let change = mark.put(T0);
    let value = |name: &str| change["metadata"]["annotations"][name].as_str().unwrap().to_owned();
    let mut copy =
        asked(&[(labels::RECLAIM, &value(labels::RECLAIM)), (labels::RECLAIM_WHY, &value(labels::RECLAIM_WHY))]);
    let end = ended_at(&copy, NOTICE.0).unwrap();
    assert_eq!(
        end.message,
        "the owner takes the GPUs back: spec.limits of pool all lets others hold 2 h100-80, and they held 6"
    );
    assert_eq!(end.numbers, [("held".to_owned(), 6), ("limit".to_owned(), 2)].into());
    // On a node of no pool any more, four seconds were promised, half of them to the copy.
    copy.annotations_mut().insert(labels::NODE.to_owned(), "n9".to_owned());
    assert_eq!((ended_at(&copy, 1), ended_at(&copy, 2).map(|end| end.reason)), (None, Some(RefusalReason::Reclaimed)));
}

#[test]
fn what_the_host_decided_is_not_undone_by_a_higher_epoch() {
    for reason in RefusalReason::ALL {
        let homes_own = matches!(reason, RefusalReason::NoLongerRequested | RefusalReason::LeaseLapsed);
        assert_eq!(End::new(*reason, "").may_be_taken_over(), homes_own, "{reason}");
    }
}
