use koinon_core::body::challenges::ClassChallenge;
use koinon_core::challenge::{Size, Window};
use koinon_core::ids::{Digest, ManifestDigest, Seconds};
use serde_json::json;

use super::*;

fn rules() -> Challenges {
    let window = |least, most| Window { least, most };
    let asked = ClassChallenge { size: Size::new(128, 64).unwrap(), compute: window(40, 50), recall: window(1, 10) };
    Challenges {
        engine: "koinon-challenge".parse().unwrap(),
        model: ManifestDigest(Digest::of(b"nothing")),
        every_seconds: Seconds(24_000),
        challengers: 1,
        fresh_seconds: Seconds(86_400),
        most_seconds: Seconds(60),
        classes: [("h100-80".parse().unwrap(), asked)].into(),
    }
}

fn made() -> InferenceJob {
    let release = json!({"uri": "https://models.example/nothing", "revision": "1", "quantization": "none",
        "manifestDigest": rules().model, "license": "Apache-2.0"});
    let target = Target { host: "cork".parse().unwrap(), class: "h100-80".parse().unwrap() };
    job("koinon-system", &target, 8, &rules(), &serde_json::from_value(release).unwrap(), "0badcafe")
}

#[test]
fn a_challenge_is_a_job_for_one_member_that_says_nothing_of_what_will_be_asked() {
    let made = made();
    let spec = serde_json::to_value(&made.spec).unwrap();
    assert_eq!((&spec["gpu"]["count"], &spec["placement"]["members"]), (&json!(8), &json!(["cork"])));
    assert_eq!(spec["engine"], json!({"name": "koinon-challenge"}));
    let is = |job: &InferenceJob, me: &str| is_challenge(job, "koinon-system", me, Some(&rules()));
    assert!(is(&made, "aarhus"));
    assert!(!is(&made, "cork"), "at home it would run in the release namespace");
    assert!(!is_challenge(&made, "koinon-system", "aarhus", None), "the vote is over");
    for change in [
        |job: &mut InferenceJob| job.metadata.namespace = Some("team".to_owned()),
        |job: &mut InferenceJob| job.metadata.labels = None,
        |job: &mut InferenceJob| job.spec.placement.members.clear(),
        |job: &mut InferenceJob| job.spec.placement.members.push("aarhus".to_owned()),
        |job: &mut InferenceJob| job.spec.placement.scope = Scope::Local,
        |job: &mut InferenceJob| job.spec.model.manifest_digest = format!("sha256:{}", "0".repeat(64)),
        |job: &mut InferenceJob| job.spec.engine.name = "llama-cpp".to_owned(),
    ] {
        let mut other = made.clone();
        change(&mut other);
        assert!(!is(&other, "aarhus"), "{other:?}");
    }
}

fn placement(uid: &str, side: &str, state: &str, routable: bool) -> Placement {
    let status = if routable { "True" } else { "False" };
    let condition = json!({"type": "Routable", "status": status, "reason": "Routable", "message": "",
        "lastTransitionTime": "2026-11-21T00:00:00Z"});
    serde_json::from_value(json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "Placement", "metadata": {"name": "c"},
        "spec": {"side": side, "home": "aarhus", "host": "cork", "replica": 0, "epoch": 1, "servedName": "c",
            "job": {"namespace": "koinon-system", "name": "c", "uid": uid},
            "model": {"uri": "https://models.example/nothing", "revision": "1", "quantization": "none",
                "manifestDigest": format!("sha256:{}", "0".repeat(64))},
            "engine": {"name": "koinon-challenge"}, "gpu": {"class": "h100-80", "count": 8},
            "maxModelLen": 1, "maxConcurrency": 1, "lease": {"seconds": 20}},
        "status": {"state": state, "reason": "NoCapacity", "numbers": {"asked": 8}, "conditions": [condition]}}))
    .unwrap()
}

#[test]
fn a_challenge_stands_where_its_copy_at_home_does() {
    let stage = |placements: &[Placement]| stage("uid-1", placements);
    assert_eq!(stage(&[]), Stage::Asked);
    assert_eq!(stage(&[placement("uid-1", "Home", "Requested", false)]), Stage::Asked);
    assert!(matches!(stage(&[placement("uid-1", "Home", "Loading", false)]), Stage::Granted(_)));
    assert_eq!(stage(&[placement("uid-1", "Home", "Ready", true)]), Stage::Routable);
    let refused = stage(&[placement("uid-1", "Home", "Refused", false)]);
    assert_eq!(refused, Stage::Ended("Refused NoCapacity asked 8".to_owned()));
    for other in [placement("uid-2", "Home", "Ready", true), placement("uid-1", "Host", "Ready", true)] {
        assert_eq!(stage(&[other]), Stage::Asked, "another's");
    }
}
