use std::collections::BTreeSet;
use std::sync::Arc;

use koinon_core::body::charter::Fraction;
use koinon_core::body::latest::{EngineChoice, JobRef, OnPartition};
use koinon_core::body::{Action, PlacementRules, Shares, Stop};
use koinon_core::ids::{Epoch, ReplicaIndex};
use koinon_core::testkit::T0;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::placement::fixture::{digest, engine, member, release, rules, rules_stopping, view, view_with};
use crate::placement::inventory::fixture::{Cluster, pool, record};
use crate::render::{HostSettings, ValidatedPlacement, pod};

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
            uri: release().uri,
            revision: release().revision,
            manifest_digest: digest(),
            quantization: release().quantization,
        },
        engine: EngineChoice { name: "llama-cpp".parse().unwrap(), options: BTreeMap::new() },
        max_model_len: 512,
        max_concurrency: 4,
        gpu: GpuNeed { class: "h100-80".parse().unwrap(), count: 2 },
        lease_seconds: Seconds(20),
        on_partition: OnPartition::KeepServing,
    }
}

struct Court {
    rules: Rules,
    cluster: Cluster,
    inventory: Inventory,
}

impl Court {
    fn of(mut pool_spec: serde_json::Value) -> Self {
        if pool_spec.get("reserve").is_none() {
            pool_spec["reserve"] = json!(0);
        }
        Self::over(Cluster::of(&[("n1", 8)], vec![pool("all", 1, pool_spec)]))
    }

    fn over(cluster: Cluster) -> Self {
        Court { rules: rules("bilbao"), inventory: cluster.look(), cluster }
    }

    fn bench(&self) -> Bench<'_> {
        Bench {
            rules: &self.rules,
            isolated: false,
            guests: GuestsMode::Accept,
            network_policy: NetworkPolicyState::Enforced,
            reachable: true,
            on_probation: false,
            inventory: &self.inventory,
            records: &self.cluster.records,
        }
    }
}

fn why(refused: Result<impl std::fmt::Debug, Refused>) -> RefusalReason {
    refused.unwrap_err().reason
}

fn numbers(refused: &Refused) -> Vec<(&str, i64)> {
    refused.numbers.iter().map(|(name, number)| (name.as_str(), *number)).collect()
}

#[test]
fn an_approved_request_of_an_active_member_is_allowed_and_finds_room() {
    let (court, home) = (Court::of(json!({})), member("aarhus"));
    let allowed = allow(&request(), Asker::Foreign(&home), &court.bench(), false).unwrap();
    assert_eq!((allowed.engine, allowed.lease), (engine(), Seconds(20)));
    let room = room(&request().gpu, Asker::Foreign(&home), &court.bench()).unwrap();
    assert_eq!((room[0].node.as_str(), room[0].free), ("n1", 8));
}

#[test]
fn each_rule_of_the_cooperative_and_the_owner_refuses_for_its_own_reason() {
    let (court, home, porto) = (Court::of(json!({})), member("aarhus"), member("porto"));
    let refuse = |asker, change: &dyn Fn(&mut Bench<'_>)| {
        let mut bench = court.bench();
        change(&mut bench);
        why(allow(&request(), asker, &bench, false))
    };
    let foreign = Asker::Foreign(&home);
    assert_eq!(refuse(Asker::Foreign(&porto), &|_| ()), RefusalReason::HomeNotActive);
    assert_eq!(refuse(foreign, &|b| b.guests = GuestsMode::Drain), RefusalReason::GuestsNotAccepted);
    assert_eq!(refuse(foreign, &|b| b.guests = GuestsMode::Stop), RefusalReason::GuestsNotAccepted);
    assert_eq!(refuse(foreign, &|b| b.reachable = false), RefusalReason::GuestsNotAccepted);
    assert_eq!(refuse(foreign, &|b| b.isolated = true), RefusalReason::HostIsolated);
    for state in [NetworkPolicyState::Unenforced, NetworkPolicyState::Unknown] {
        assert_eq!(refuse(foreign, &|b| b.network_policy = state), RefusalReason::NetworkPolicyUnenforced);
    }
}

#[test]
fn a_suspended_home_and_a_suspended_host_are_refused_with_the_order_also_for_what_runs() {
    let judge = |me: &str, asker: Asker<'_>, running| {
        let mut court = Court::of(json!({}));
        court.rules = rules_stopping(me, Stop::Member("cork".parse().unwrap()));
        allow(&request(), asker, &court.bench(), running)
    };
    let (aarhus, cork) = (member("aarhus"), member("cork"));
    for running in [false, true] {
        let refused = judge("bilbao", Asker::Foreign(&cork), running).unwrap_err();
        assert_eq!(refused.reason, RefusalReason::HomeHalted);
        assert!(refused.message.starts_with("cork is suspended by order sha256:"), "{}", refused.message);
        assert_eq!(why(judge("cork", Asker::Foreign(&aarhus), running)), RefusalReason::HostHalted);
        assert!(judge("bilbao", Asker::Foreign(&aarhus), running).is_ok());
        // An owner's own work on its own GPUs is nobody else's business.
        assert!(judge("cork", Asker::Own, running).is_ok() && judge("cork", Asker::Local, running).is_ok());
    }
}

#[test]
fn of_a_host_on_probation_all_homes_together_use_a_quarter() {
    let cluster = Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({"reserve": 0}))]);
    let (aarhus, cork) = (member("aarhus"), member("cork"));
    let one = GpuNeed { count: 1, ..request().gpu };
    let ask = |cluster: Cluster, gpu: &GpuNeed, asker| {
        let court = Court::over(cluster);
        room(gpu, asker, &Bench { on_probation: true, ..court.bench() }).map(|room| room.len())
    };
    assert_eq!(ask(cluster, &request().gpu, Asker::Foreign(&aarhus)), Ok(1));
    let held =
        || Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({"reserve": 0}))]).with(record("n1", "aarhus", 2));
    let refused = ask(held(), &one, Asker::Foreign(&cork)).unwrap_err();
    assert_eq!(
        (refused.reason, numbers(&refused)),
        (RefusalReason::HostOnProbation, vec![("asked", 1), ("held", 2), ("limit", 2)])
    );
    assert_eq!(ask(held(), &one, Asker::Own), Ok(1), "its own work uses what is its own");
    let own = Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({"reserve": 0}))]).with(record("n1", "bilbao", 2));
    assert_eq!(ask(own, &one, Asker::Foreign(&cork)), Ok(1), "what it uses itself is not what others use");
}

#[test]
fn no_new_copy_of_a_frozen_release_begins_and_what_runs_goes_on() {
    let mut court = Court::of(json!({}));
    court.rules = rules_stopping("bilbao", Stop::Release(digest()));
    let home = member("aarhus");
    for asker in [Asker::Foreign(&home), Asker::Own] {
        assert_eq!(why(allow(&request(), asker, &court.bench(), false)), RefusalReason::ReleaseFrozen);
        assert!(allow(&request(), asker, &court.bench(), true).is_ok());
    }
    assert!(allow(&request(), Asker::Local, &court.bench(), false).is_ok());
}

#[test]
fn an_owner_that_accepts_unenforced_policies_openly_takes_guests() {
    let (court, home) = (Court::of(json!({})), member("aarhus"));
    let bench = Bench { network_policy: NetworkPolicyState::AcceptedUnenforced, ..court.bench() };
    assert!(allow(&request(), Asker::Foreign(&home), &bench, false).is_ok());
}

#[test]
fn what_runs_already_may_be_granted_anew_while_nothing_new_is_taken_but_not_against_a_stop() {
    let (court, home) = (Court::of(json!({})), member("aarhus"));
    let with = |guests| allow(&request(), Asker::Foreign(&home), &Bench { guests, ..court.bench() }, true);
    assert!(with(GuestsMode::Drain).is_ok());
    assert_eq!(why(with(GuestsMode::Stop)), RefusalReason::GuestsNotAccepted);
}

#[test]
fn a_release_that_is_not_in_force_or_in_other_words_is_not_approved() {
    let (court, home) = (Court::of(json!({})), member("aarhus"));
    let ask = |change: &dyn Fn(&mut Request)| {
        let mut request = request();
        change(&mut request);
        why(allow(&request, Asker::Foreign(&home), &court.bench(), false))
    };
    let other = koinon_core::ids::ManifestDigest(koinon_core::ids::Digest([1; 32]));
    assert_eq!(ask(&|r| r.model.manifest_digest = other), RefusalReason::NotApproved);
    assert_eq!(ask(&|r| r.model.uri = "https://evil.example/tiny.gguf".parse().unwrap()), RefusalReason::NotApproved);
    assert_eq!(ask(&|r| r.model.quantization = "q4-k-m".parse().unwrap()), RefusalReason::NotApproved);
    assert_eq!(ask(&|r| r.engine.name = "vllm".parse().unwrap()), RefusalReason::EngineNotApproved);
    let option = ("evil".parse().unwrap(), koinon_core::body::catalogue::OptionValue::Boolean(true));
    assert_eq!(ask(&|r| r.engine.options = BTreeMap::from([option.clone()])), RefusalReason::EngineNotApproved);
}

#[test]
fn a_release_that_the_owner_denies_is_refused_though_it_was_voted_for() {
    let denied: koinon_api::ModelRelease = serde_json::from_value(json!({"apiVersion": "koinon.dev/v1alpha1",
        "kind": "ModelRelease", "metadata": {"name": koinon_api::names::model_release(&digest().to_string())},
        "spec": {"denied": true}}))
    .unwrap();
    let mut court = Court::of(json!({}));
    court.rules = Rules::of(Arc::new(view("bilbao", vec![release()], vec![engine()])), &[Arc::new(denied)], &[], T0);
    let refused = allow(&request(), Asker::Foreign(&member("aarhus")), &court.bench(), false);
    assert_eq!(why(refused), RefusalReason::DeniedByOwner);
}

#[test]
fn a_member_that_the_owner_cordoned_gets_nothing_new() {
    let cordoned: koinon_api::Member = serde_json::from_value(json!({"apiVersion": "koinon.dev/v1alpha1",
        "kind": "Member", "metadata": {"name": "aarhus"}, "spec": {"cordoned": true}}))
    .unwrap();
    let mut court = Court::of(json!({}));
    court.rules = Rules::of(Arc::new(view("bilbao", vec![release()], vec![engine()])), &[], &[Arc::new(cordoned)], T0);
    let home = member("aarhus");
    assert_eq!(why(allow(&request(), Asker::Foreign(&home), &court.bench(), false)), RefusalReason::DeniedByOwner);
    assert!(allow(&request(), Asker::Foreign(&home), &court.bench(), true).is_ok());
}

#[test]
fn a_local_job_needs_no_release_and_the_owner_s_rules_for_guests_do_not_concern_it() {
    let mut court = Court::of(json!({"members": {"allow": ["cork"]}, "reserve": 8}));
    court.rules = Rules::of(Arc::new(view("bilbao", vec![], vec![engine()])), &[], &[], T0);
    let bench = Bench { guests: GuestsMode::Stop, isolated: true, reachable: false, ..court.bench() };
    assert!(allow(&request(), Asker::Local, &bench, false).is_ok());
    assert_eq!(room(&request().gpu, Asker::Local, &bench).unwrap().len(), 1);
    assert_eq!(why(allow(&request(), Asker::Own, &court.bench(), false)), RefusalReason::NotApproved);
}

#[test]
fn more_gpus_than_any_node_has_are_refused_with_how_many_the_largest_has() {
    let (court, home) = (Court::of(json!({})), member("aarhus"));
    let refused = room(&GpuNeed { count: 9, ..request().gpu }, Asker::Foreign(&home), &court.bench()).unwrap_err();
    assert_eq!(refused.reason, RefusalReason::InsufficientGPUs);
    assert_eq!(numbers(&refused), [("asked", 9), ("largestBlock", 8), ("largestNode", 8)]);
    let court = Court::over(
        Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({"reserve": 0}))]).with(record("n1", "cork", 7)),
    );
    let refused = room(&request().gpu, Asker::Foreign(&home), &court.bench()).unwrap_err();
    assert_eq!(numbers(&refused), [("asked", 2), ("largestBlock", 1), ("largestNode", 8)]);
}

#[test]
fn a_class_that_nobody_has_here_is_unknown() {
    let (court, home) = (Court::of(json!({})), member("aarhus"));
    let need = GpuNeed { class: "b200-192".parse().unwrap(), count: 1 };
    assert_eq!(why(room(&need, Asker::Foreign(&home), &court.bench())), RefusalReason::UnknownClass);
}

#[test]
fn a_pool_serves_only_whom_its_owner_allows_when_and_how_much() {
    let home = member("aarhus");
    let refused = |spec: serde_json::Value| {
        let cluster = Cluster::of(&[("n1", 8)], vec![pool("all", 1, spec)]).with(record("n1", "aarhus", 3));
        let court = Court::over(cluster);
        room(&request().gpu, Asker::Foreign(&home), &court.bench())
    };
    assert_eq!(why(refused(json!({"members": {"allow": ["cork"]}}))), RefusalReason::DeniedByOwner);
    let limit = refused(json!({"members": {"maxGPUsEach": 4}})).unwrap_err();
    assert_eq!(
        (limit.reason, numbers(&limit)),
        (RefusalReason::MemberLimit, vec![("asked", 2), ("held", 3), ("limit", 4)])
    );
    assert!(refused(json!({"members": {"maxGPUsEach": 5, "allow": ["aarhus"]}})).is_ok());
    // The fixture's moment is a Wednesday in November, a quarter past four in the morning or so.
    let shut = refused(json!({"hours": [{"days": ["Saturday"], "from": "20:00", "to": "21:00"}]}));
    assert_eq!(why(shut), RefusalReason::GuestsNotAccepted);
}

#[test]
fn a_request_that_no_resource_could_keep_is_invalid() {
    let (court, home) = (Court::of(json!({})), member("aarhus"));
    let ask = |change: &dyn Fn(&mut Request)| {
        let mut request = request();
        change(&mut request);
        why(allow(&request, Asker::Foreign(&home), &court.bench(), false))
    };
    assert_eq!(ask(&|r| r.gpu.count = 0), RefusalReason::InvalidRequest);
    assert_eq!(ask(&|r| r.gpu.count = u32::MAX), RefusalReason::InvalidRequest);
    assert_eq!(ask(&|r| r.max_model_len = u32::MAX), RefusalReason::InvalidRequest);
    assert_eq!(ask(&|r| r.epoch = Epoch(u64::MAX)), RefusalReason::InvalidRequest);
    assert_eq!(ask(&|r| r.epoch = Epoch(0)), RefusalReason::InvalidRequest);
    assert_eq!(ask(&|r| r.job.uid = "0c1f".parse().unwrap()), RefusalReason::InvalidRequest);
    assert_eq!(ask(&|r| r.lease_seconds = Seconds(0)), RefusalReason::InvalidRequest);
}

#[test]
fn a_grant_never_lasts_longer_than_the_charter_s_lease() {
    let (court, home) = (Court::of(json!({})), member("aarhus"));
    let mut long = request();
    long.lease_seconds = Seconds(86_400);
    assert_eq!(allow(&long, Asker::Foreign(&home), &court.bench(), false).unwrap().lease, Seconds(20));
}

proptest! {
    /// From the bytes of a foreign list to the pod: whatever strings a home sends, image, command, environment, mounts
    /// and security are those of the catalogue and this host.
    #[test]
    fn no_string_of_a_foreign_request_reaches_image_command_or_environment(
        names in prop::collection::vec("[ -~]{0,40}", 8),
        option in "[a-zA-Z-]{1,12}",
        numbers in prop::array::uniform4(any::<u32>()),
    ) {
        let mut wire = serde_json::to_value(request()).unwrap();
        let paths = ["/servedName", "/model/uri", "/model/revision", "/model/quantization", "/engine/name",
            "/job/name", "/job/namespace", "/gpu/class"];
        // One field at a time is hostile, or all the refusals would hide each other.
        let at = numbers[3] as usize % (paths.len() + 1);
        if at < paths.len() {
            *wire.pointer_mut(paths[at]).unwrap() = json!(names[at]);
        } else {
            wire["engine"]["options"] = json!({option: names[0]});
        }
        wire["maxModelLen"] = json!(numbers[0]);
        wire["maxConcurrency"] = json!(numbers[1]);
        let Ok(request) = serde_json::from_value::<Request>(wire) else { return Ok(()) };
        let (court, home) = (Court::of(json!({})), member("aarhus"));
        let Ok(allowed) = allow(&request, Asker::Foreign(&home), &court.bench(), false) else { return Ok(()) };
        let placement = ValidatedPlacement {
            replica: koinon_core::placement::ReplicaKey { home, job: request.job.uid.clone(), replica: request.replica },
            epoch: request.epoch,
            namespace: "koinon-guest-aarhus".parse().unwrap(),
            served_name: request.served_name.clone(),
            model: allowed.model,
            model_bytes: allowed.model_bytes,
            engine: allowed.engine,
            options: request.engine.options.clone(),
            max_model_len: request.max_model_len,
            max_concurrency: request.max_concurrency,
            gpu: request.gpu.clone(),
            node: "n1".parse().unwrap(),
        };
        let host = HostSettings { koinon_image: "koinon".into(), ..HostSettings::default() };
        let spec = pod::template(&placement, &host).unwrap().spec.unwrap();
        let container = &spec.containers[0];
        let voted = engine().image;
        prop_assert_eq!(container.image.as_deref(), Some(voted.as_str()));
        prop_assert_eq!(&container.command, &None);
        let env: Vec<_> = container.env.iter().flatten().map(|env| env.value.as_deref()).collect();
        prop_assert_eq!(env, [Some("/home/koinon"), Some("/tmp")]);
        let args = container.args.clone().unwrap();
        let expected = ["--model", "/models/tiny.gguf", "--served-name", request.served_name.as_str()];
        prop_assert_eq!(&args[..4], &expected[..]);
        prop_assert!(args.len() == 4 || (args.len() == 6 && args[4] == "--threads"));
    }
}

/// The rules of bilbao with its owner's limits and what was voted.
fn limited(limits: serde_json::Value, vote: Option<Action>) -> Rules {
    Rules::of(Arc::new(view_with("bilbao", limits, vote)), &[], &[], T0)
}

#[test]
fn a_placement_rule_of_the_cooperative_and_an_owners_limits_refuse_and_can_only_narrow() {
    let (mut court, home) = (Court::of(json!({})), member("aarhus"));
    let mut refused = |rules: Rules| {
        court.rules = rules;
        allow(&request(), Asker::Foreign(&home), &court.bench(), true).map(drop).map_err(|refused| refused.reason)
    };
    assert_eq!(refused(limited(json!({}), None)), Ok(()));
    let here = view("bilbao", vec![], vec![]).state.member(&member("bilbao")).unwrap().member.site.jurisdiction.clone();
    let only = |jurisdiction: &str| PlacementRules {
        residency: BTreeMap::from([(digest(), BTreeSet::from([jurisdiction.parse().unwrap()]))]),
        ..PlacementRules::default()
    };
    let voted = |jurisdiction: &str| Some(Action::SetPlacementRules(only(jurisdiction)));
    assert_eq!(refused(limited(json!({}), voted(here.as_str()))), Ok(()));
    assert_eq!(refused(limited(json!({}), voted("ZZ"))), Err(RefusalReason::OutsideRules));
    assert_eq!(refused(limited(json!({"jurisdictions": ["ZZ"]}), None)), Err(RefusalReason::DeniedByOwner));
    assert_eq!(refused(limited(json!({"licenses": ["MIT"]}), None)), Err(RefusalReason::DeniedByOwner));
    assert_eq!(refused(limited(json!({"licenses": ["Apache-2.0"]}), None)), Ok(()));
    assert_eq!(refused(limited(json!({"licenses": ["no word"]}), None)), Err(RefusalReason::DeniedByOwner));
    // An owner allows to itself what it allows to nobody else: nothing more than the cooperative.
    let wide = limited(json!({"jurisdictions": ["ZZ", here.as_str()]}), voted("ZZ"));
    assert_eq!(refused(wide), Err(RefusalReason::OutsideRules));
}

#[test]
fn a_home_leaves_what_runs_where_a_vote_or_its_owner_no_longer_lets_it_be() {
    let keeps = |limits, vote, host: &str| {
        let rules = Rules::of(Arc::new(view_with("aarhus", limits, vote)), &[], &[], T0);
        rules.keeps_from(&member(host), &digest())
    };
    let only = |jurisdiction: &str| {
        let there = BTreeSet::from([jurisdiction.parse().unwrap()]);
        let residency = BTreeMap::from([(digest(), there)]);
        Some(Action::SetPlacementRules(PlacementRules { residency, ..PlacementRules::default() }))
    };
    assert!(!keeps(json!({"jurisdictions": ["ES"]}), only("ES"), "bilbao"));
    assert!(keeps(json!({"jurisdictions": ["ZZ"]}), None, "bilbao"));
    assert!(keeps(json!({}), only("ZZ"), "bilbao"));
    // At home it is nobody's business.
    assert!(!keeps(json!({"jurisdictions": ["ZZ"]}), only("ZZ"), "aarhus"));
}

#[test]
fn one_home_holds_no_larger_share_of_a_host_than_the_cooperative_lets_it() {
    let cluster = Cluster::of(&[("n1", 8)], vec![pool("all", 1, json!({"reserve": 0}))]);
    let mut court = Court::over(cluster);
    let shares = Shares { host_share: Fraction { num: 1, den: 4 }, most_gpus: None };
    court.rules = limited(json!({}), Some(Action::SetShares(shares)));
    let home = member("aarhus");
    assert!(room(&GpuNeed { count: 2, ..request().gpu }, Asker::Foreign(&home), &court.bench()).is_ok());
    let refused = room(&GpuNeed { count: 3, ..request().gpu }, Asker::Foreign(&home), &court.bench()).unwrap_err();
    assert_eq!(
        (refused.reason, numbers(&refused)),
        (RefusalReason::ShareLimit, vec![("asked", 3), ("held", 0), ("limit", 2)])
    );
    // The owner's own work is nobody's share.
    assert!(room(&GpuNeed { count: 3, ..request().gpu }, Asker::Own, &court.bench()).is_ok());
}
