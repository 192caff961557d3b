use koinon_core::body::catalogue::ModelRelease;
use koinon_core::body::charter::Preset;
use koinon_core::body::{self, Body, Cause, CoSignature, EmergencyOrder, Stop};
use koinon_core::ids::{Digest, ManifestDigest};
use koinon_core::log::{Limits, Replica};
use koinon_core::policy::Commons;
use koinon_core::presets;
use koinon_core::testkit::{Person, T0, Writer, charter, found, person};
use serde_json::json;

use super::*;

fn digest() -> ManifestDigest {
    ManifestDigest(Digest([0xab; 32]))
}

fn release() -> ModelRelease {
    serde_json::from_value(json!({"uri": "https://models.example/tiny.gguf", "revision": "1",
        "manifestDigest": digest().to_string(), "quantization": "f32", "license": "Apache-2.0", "engines": []}))
    .unwrap()
}

fn engine() -> Engine {
    serde_json::from_value(json!({"name": "llama-cpp", "port": 8000, "healthPath": "/health", "writablePaths": [],
        "image": format!("registry.example/llama@sha256:{}", "01".repeat(32)),
        "args": ["--model", "{modelPath}", "--served-name", "{servedName}"],
        "options": {"threads": {"type": "integer", "min": 1, "max": 64, "values": [], "flag": "--threads"}},
        "resources": {"cpu": "500m", "memory": "1Gi", "shm": "64Mi"}}))
    .unwrap()
}

/// A cooperative of three, with what its charter approves.
fn decided(releases: Vec<ModelRelease>, engines: Vec<Engine>) -> State {
    let people = ["aarhus", "bilbao", "cork"].map(person);
    let everybody: Vec<&Person> = people.iter().collect();
    let mut charter = charter(&everybody, Preset::Trial);
    charter.releases = releases;
    charter.engines = engines;
    let founding = found(&everybody, charter);
    State::fold(&founding, &Replica::new(&founding, Limits::default()))
}

fn usual() -> State {
    decided(vec![release()], vec![engine()])
}

fn job(change: impl FnOnce(&mut serde_json::Value)) -> InferenceJob {
    let mut value = json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "InferenceJob",
        "metadata": {"name": "tiny", "namespace": "team", "uid": "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11"},
        "spec": {"servedName": "tiny", "maxModelLen": 512,
            "model": {"uri": "https://models.example/tiny.gguf", "revision": "1", "manifestDigest": digest().to_string(),
                "quantization": "f32"},
            "engine": {"name": "llama-cpp", "options": {"threads": 2}},
            "gpu": {"class": "h100-80", "count": 2}}});
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn look(job: &InferenceJob, decided: &State) -> Checked {
    let around = Surroundings {
        namespace_allowed: true,
        namesake: None,
        decided: Some(decided),
        smallest_memory: Some(Bytes(80 << 30)),
        owner: Some(OwnerRules::default()),
        now: T0,
    };
    check(job, &around)
}

fn told(verdict: &Verdict) -> (&'static str, Reason, &str) {
    (verdict.status.as_str(), verdict.reason, verdict.message.as_str())
}

#[test]
fn a_good_job_for_an_approved_model_is_both_accepted_and_approved() {
    let checked = look(&job(|_| ()), &usual());
    assert_eq!(checked.accepted.reason, Reason::Valid);
    assert_eq!(checked.approved.reason, Reason::ReleaseEnacted);
    let work = checked.work.unwrap();
    assert_eq!((work.need.gpu.count, work.resolved.gpus), (2, 2));
    assert_eq!(work.max_concurrency, 16);
}

#[test]
fn a_namespace_that_no_admin_allowed_is_refused_with_the_command_that_allows_it() {
    let decided = usual();
    let around = Surroundings {
        namespace_allowed: false,
        namesake: None,
        decided: Some(&decided),
        smallest_memory: None,
        owner: Some(OwnerRules::default()),
        now: T0,
    };
    let checked = check(&job(|_| ()), &around);
    let (status, reason, message) = told(&checked.accepted);
    assert_eq!((status, reason), ("False", Reason::NamespaceNotAllowed));
    assert!(message.ends_with("kubectl label namespace team koinon.dev/jobs=allowed"), "{message}");
    assert_eq!(checked.work, None);
}

#[test]
fn a_served_name_belongs_to_the_older_job() {
    let older = job(|job| {
        job["metadata"]["name"] = json!("first");
        job["metadata"]["uid"] = json!("1c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11");
        job["metadata"]["creationTimestamp"] = json!("2026-11-20T00:00:00Z");
    });
    let younger = job(|job| job["metadata"]["creationTimestamp"] = json!("2026-11-21T00:00:00Z"));
    let elsewhere = job(|job| {
        job["metadata"]["namespace"] = json!("other");
        job["metadata"]["uid"] = json!("2c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11");
    });
    let all = [&older, &younger, &elsewhere];
    assert_eq!(namesake(&younger, all), Some("first".to_owned()));
    assert_eq!(namesake(&older, all), None);
    assert_eq!(namesake(&elsewhere, all), None);
    let around = Surroundings {
        namespace_allowed: true,
        namesake: namesake(&younger, all),
        decided: None,
        smallest_memory: None,
        owner: Some(OwnerRules::default()),
        now: T0,
    };
    assert_eq!(check(&younger, &around).accepted.reason, Reason::ServedNameTaken);
}

#[test]
fn a_licence_that_the_owner_leaves_out_is_not_served_and_limits_that_cannot_be_read_let_nothing_pass() {
    let decided = usual();
    let look = |owner: Option<OwnerRules>| {
        let around = Surroundings {
            namespace_allowed: true,
            namesake: None,
            decided: Some(&decided),
            smallest_memory: None,
            owner,
            now: T0,
        };
        check(&job(|_| ()), &around)
    };
    let only = |license: &str| OwnerRules { licenses: [license.parse().unwrap()].into(), ..OwnerRules::default() };
    assert!(look(Some(only("Apache-2.0"))).work.is_some());
    assert_eq!(look(Some(only("MIT"))).approved.reason, Reason::LicenseNotAllowed);
    assert_eq!((look(None).accepted.reason, look(None).work), (Reason::InvalidRequest, None));
}

#[test]
fn a_model_that_nobody_approved_says_how_to_propose_it() {
    let checked = look(&job(|_| ()), &decided(vec![], vec![engine()]));
    assert_eq!(checked.accepted.status.as_str(), "True");
    let (status, reason, message) = told(&checked.approved);
    assert_eq!((status, reason), ("False", Reason::ReleaseNotEnacted));
    let command = format!(
        "kubectl koinon propose add-model-release --uri https://models.example/tiny.gguf --revision 1 --manifest-digest {} --quantization f32",
        digest()
    );
    assert!(message.contains(&command), "{message}");
    assert_eq!(checked.work, None);
}

#[test]
fn the_same_digest_under_other_words_is_not_what_was_approved() {
    for (field, value) in
        [("quantization", "q4-k-m"), ("revision", "2"), ("uri", "https://elsewhere.example/tiny.gguf")]
    {
        let checked = look(&job(|job| job["spec"]["model"][field] = json!(value)), &usual());
        assert_eq!(checked.approved.reason, Reason::ReleaseNotEnacted, "{field}");
        assert!(checked.approved.message.contains(value), "{}", checked.approved.message);
    }
}

#[test]
fn a_local_job_needs_no_approval() {
    let decided = decided(vec![], vec![engine()]);
    let checked = look(&job(|job| job["spec"]["placement"] = json!({"scope": "Local"})), &decided);
    assert_eq!(checked.approved.reason, Reason::LocalScope);
    assert_eq!(checked.work.unwrap().scope, Scope::Local);
}

#[test]
fn an_engine_outside_of_the_catalogue_is_refused_with_what_there_is() {
    let checked = look(&job(|job| job["spec"]["engine"] = json!({"name": "vllm"})), &usual());
    let (status, reason, message) = told(&checked.accepted);
    assert_eq!((status, reason), ("False", Reason::EngineUnknown));
    assert!(message.contains("no engine vllm: it has llama-cpp"), "{message}");
}

#[test]
fn an_engine_option_outside_of_the_catalogue_is_refused_with_the_bounds() {
    let with = |options: serde_json::Value| {
        let checked = look(&job(|job| job["spec"]["engine"]["options"] = options), &usual());
        (checked.accepted.reason, checked.accepted.message)
    };
    let (reason, message) = with(json!({"trustRemoteCode": "true"}));
    assert_eq!(reason, Reason::EngineOptionUnknown);
    assert!(message.contains("it has threads"), "{message}");
    let (reason, message) = with(json!({"threads": 65}));
    assert_eq!(reason, Reason::EngineOptionInvalid);
    assert!(message.contains("from 1 to 64"), "{message}");
}

#[test]
fn a_job_that_asks_for_what_nobody_can_find_out_is_told_so() {
    let with =
        |level: &str| look(&job(|job| job["spec"]["placement"] = json!({"minEvidence": level})), &usual()).accepted;
    assert_eq!(with("Challenged").reason, Reason::Valid);
    let (status, reason, message) = (with("Attested").status, with("Attested").reason, with("Attested").message);
    assert_eq!((status, reason), (ConditionStatus::False, Reason::EvidenceNotAvailable));
    assert!(message.contains("not available here") && message.contains("ask for Challenged"), "{message}");
}

#[test]
fn a_release_may_name_the_engines_that_serve_it() {
    let mut release = release();
    release.engines = vec!["vllm".parse::<EngineName>().unwrap()];
    let mut vllm = engine();
    vllm.name = "vllm".parse().unwrap();
    let decided = decided(vec![release], vec![engine(), vllm]);
    let checked = look(&job(|_| ()), &decided);
    assert_eq!((checked.approved.reason, checked.work), (Reason::EngineNotAllowed, None));
    let other = look(&job(|job| job["spec"]["engine"] = json!({"name": "vllm"})), &decided);
    assert_eq!(other.approved.reason, Reason::ReleaseEnacted);
}

#[test]
fn gpus_are_computed_from_the_release_where_the_job_does_not_state_them() {
    let stated = |memory: Option<u64>, smallest: Option<u64>| {
        count(0, memory.map(Bytes), smallest.map(Bytes)).map(|(count, _)| count).map_err(|verdict| verdict.reason)
    };
    assert_eq!(stated(Some(61 << 30), Some(80 << 30)), Ok(2));
    assert_eq!(stated(Some(1 << 30), Some(80 << 30)), Ok(1));
    assert_eq!(stated(None, Some(80 << 30)), Ok(1));
    assert_eq!(stated(Some(2_000 << 30), Some(80 << 30)), Err(Reason::ExceedsLargestNode));
    assert_eq!(count(3, Some(Bytes(1)), None).unwrap().0, 3);
}

#[test]
fn before_there_is_a_cooperative_nothing_is_decided() {
    let around = Surroundings {
        namespace_allowed: true,
        namesake: None,
        decided: None,
        smallest_memory: None,
        owner: Some(OwnerRules::default()),
        now: T0,
    };
    let checked = check(&job(|_| ()), &around);
    assert_eq!((checked.accepted.status.as_str(), checked.accepted.reason), ("Unknown", Reason::NotAdmitted));
}

#[test]
fn a_member_that_may_not_be_named_so_is_refused_rather_than_left_out() {
    let checked = look(&job(|job| job["spec"]["placement"] = json!({"members": ["Not A Member"]})), &usual());
    assert_eq!((checked.accepted.reason, checked.work), (Reason::InvalidRequest, None));
}

#[test]
fn the_smallest_gpu_of_the_class_is_what_counts() {
    let class = |class: &str, gib: i64| {
        json!({"class": class, "product": "H100", "memoryBytes": gib << 30, "offered": 1, "largestBlock": 1,
            "evidence": "Claimed"})
    };
    let offer = |classes: Vec<serde_json::Value>| {
        let status = json!({"classes": classes, "jurisdiction": "ES"});
        super::super::offer(&serde_json::from_value(status).unwrap()).unwrap()
    };
    let offers = [offer(vec![class("h100-80", 80), class("l4-24", 24)]), offer(vec![class("h100-80", 79)])];
    assert_eq!(smallest_memory("h100-80", &offers), Some(Bytes(79 << 30)));
    assert_eq!(smallest_memory("a100-40", &offers), None);
}

#[test]
fn the_planner_sees_every_member_of_the_state_and_for_a_local_job_the_own_one_alone() {
    let (decided, me) = (usual(), "bilbao".parse().unwrap());
    let see = |member: &MemberId| Seen { cordoned: member.as_str() != "cork", ..Seen::default() };
    let all = candidates(&decided, &me, Scope::Cooperative, T0, see);
    let told: Vec<_> = all.iter().map(|c| (c.member.as_str(), c.liveness, c.cordoned, c.halted.is_none())).collect();
    let unheard = Some(Liveness::Suspect);
    assert_eq!(
        told,
        [("aarhus", unheard, true, true), ("bilbao", None, false, true), ("cork", unheard, false, true)],
        "the own member is heard and never cordoned"
    );
    let local = candidates(&decided, &me, Scope::Local, T0, see);
    assert_eq!(local.iter().map(|c| c.member.as_str()).collect::<Vec<_>>(), ["bilbao"]);
}

/// The same cooperative while an order of aarhus and bilbao holds.
fn stopping(stop: Stop) -> State {
    let people = ["aarhus", "bilbao", "cork"].map(person);
    let everybody: Vec<&Person> = people.iter().collect();
    let mut charter = charter(&everybody, Preset::Trial);
    (charter.releases, charter.engines) = (vec![release()], vec![engine()]);
    charter.parameters.deliberation = Some(presets::deliberation());
    let founding = found(&everybody, charter);
    let coop = founding.coop();
    let mut commons = Commons::new(founding, Limits::default());
    let (membership, charter) =
        (commons.state().head(body::Scope::Membership), commons.state().head(body::Scope::Charter));
    let order = EmergencyOrder { stop, cause: Cause::Fraud, membership, charter, text: Default::default() };
    let order = people[0].human(coop, T0, Body::EmergencyOrder(Box::new(order)));
    let second = people[1].human(coop, T0, Body::CoSignature(CoSignature { order: order.id() }));
    let entries = [Writer::new(&people[0], coop).anchor(T0, &order), Writer::new(&people[1], coop).anchor(T0, &second)];
    assert!(commons.insert_all(entries).is_empty());
    (**commons.state()).clone()
}

#[test]
fn a_suspended_member_is_no_host_to_others_and_others_are_none_to_it_until_the_order_lapses() {
    let decided = stopping(Stop::Member("cork".parse().unwrap()));
    let until = decided.next_lapse(T0).unwrap();
    let stopped = |me: &str, now| -> Vec<(String, bool, bool)> {
        let all = candidates(&decided, &me.parse().unwrap(), Scope::Cooperative, now, |_| Seen::default());
        all.into_iter().map(|c| (c.member.to_string(), c.halted.is_some(), c.home_halted.is_some())).collect()
    };
    let row = |name: &str, halted, home| (name.to_owned(), halted, home);
    let bilbao_s = [row("aarhus", false, false), row("bilbao", false, false), row("cork", true, false)];
    assert_eq!(stopped("bilbao", T0), bilbao_s);
    let cork_s = [row("aarhus", false, true), row("bilbao", false, true), row("cork", false, false)];
    assert_eq!(stopped("cork", T0), cork_s, "an own job may run on own GPUs");
    assert!(stopped("cork", until).iter().all(|(_, halted, home)| !halted && !home));
}

#[test]
fn a_frozen_release_stays_approved_for_what_runs_and_says_until_when_nothing_new_begins() {
    let decided = stopping(Stop::Release(digest()));
    let frozen = |change: fn(&mut serde_json::Value), now| {
        let around = Surroundings {
            namespace_allowed: true,
            namesake: None,
            decided: Some(&decided),
            smallest_memory: None,
            owner: Some(OwnerRules::default()),
            now,
        };
        let checked = check(&job(change), &around);
        assert_eq!(checked.approved.status, ConditionStatus::True);
        checked.work.unwrap().frozen
    };
    let until = decided.next_lapse(T0).unwrap();
    assert!(matches!(frozen(|_| (), T0), Some(Suspension::Ordered { until: told, .. }) if told == until));
    assert_eq!(frozen(|_| (), until), None);
    assert_eq!(frozen(|job| job["spec"]["placement"] = json!({"scope": "Local"}), T0), None);
}
