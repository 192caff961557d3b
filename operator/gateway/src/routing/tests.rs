use serde_json::{Value, json};

use super::choose::{Load, order};
use super::*;

const KEY: &str = "ed25519:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const OTHER_DIGEST: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";
const JOB: &str = "11111111-1111-1111-1111-111111111111";
const OTHER_JOB: &str = "22222222-2222-2222-2222-222222222222";

fn object<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn cooperative(mode: &str) -> Arc<Cooperative> {
    object(json!({
        "apiVersion": "koinon.dev/v1alpha1", "kind": "Cooperative",
        "metadata": {"name": "cooperative", "namespace": "koinon-system"},
        "spec": {"id": DIGEST, "member": "aarhus", "site": {"name": "main", "region": "eu", "jurisdiction": "DK"},
            "guests": {"mode": mode}},
    }))
}

fn member(name: &str, state: &str) -> Arc<Member> {
    object(json!({
        "apiVersion": "koinon.dev/v1alpha1", "kind": "Member", "metadata": {"name": name, "namespace": "koinon-system"},
        "spec": {},
        "status": {"state": state, "keys": {"recovery": [], "governance": [], "operator": key(name)},
            "endpoints": {"gateway": [format!("https://{name}.example:7444")]}},
    }))
}

/// A key for each member: the first letter's code, over and over.
fn key(name: &str) -> String {
    KEY.replace("aa", &format!("{:02x}", name.as_bytes()[0]))
}

/// A Placement of job 1, replica 0, in namespace `team`, asked for by aarhus.
fn placement(side: &str, host: &str, epoch: i64, change: impl FnOnce(&mut Value)) -> Arc<Placement> {
    let (namespace, condition, gateway) = match side {
        "Home" => ("team", "Routable", format!("https://{host}.example:7444")),
        _ => ("koinon-guest-aarhus", "Ready", format!("http://engine-{epoch}.guests.svc:8000")),
    };
    let mut value = json!({
        "apiVersion": "koinon.dev/v1alpha1", "kind": "Placement",
        "metadata": {"name": format!("p-{epoch}"), "namespace": namespace},
        "spec": {"side": side, "home": "aarhus", "host": host, "job": {"namespace": "team", "name": "job", "uid": JOB},
            "replica": 0, "epoch": epoch, "servedName": "tiny",
            "model": {"uri": "hf://o/m", "revision": "r", "manifestDigest": DIGEST, "quantization": "bf16"},
            "engine": {"name": "llama"}, "gpu": {"class": "h100-80", "count": 1}, "maxModelLen": 1024, "maxConcurrency": 4,
            "lease": {"seconds": 20}},
        "status": {"state": "Ready", "gateway": gateway, "conditions": [{"type": condition, "status": "True", "reason": "Ready",
            "message": "", "lastTransitionTime": "2026-11-21T00:00:00Z"}]},
    });
    change(&mut value);
    object(value)
}

fn home(host: &str, epoch: i64) -> Arc<Placement> {
    placement("Home", host, epoch, |_| {})
}

fn job(uid: &str, made: &str, digest: &str) -> Arc<InferenceJob> {
    object(json!({
        "apiVersion": "koinon.dev/v1alpha1", "kind": "InferenceJob",
        "metadata": {"name": format!("job-{made}"), "namespace": "team", "uid": uid, "creationTimestamp": made},
        "spec": {"servedName": "tiny", "model": {"uri": "hf://o/m", "revision": "r", "manifestDigest": digest, "quantization": "bf16"},
            "engine": {"name": "llama"}, "maxModelLen": 1024, "gpu": {"class": "h100-80"}},
    }))
}

fn facts(placements: Vec<Arc<Placement>>) -> Facts {
    Facts {
        cooperatives: vec![cooperative("Accept")],
        members: vec![member("aarhus", "Active"), member("bilbao", "Active"), member("cork", "Active")],
        placements,
        jobs: vec![job(JOB, "2026-11-01T00:00:00Z", DIGEST)],
    }
}

fn allowed(names: &[&str]) -> BTreeSet<Namespace> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// (member, epoch) of every route.
fn routes(table: &RoutingTable) -> Vec<(String, u64)> {
    table.routes().map(|route| (route.member.to_string(), route.epoch.0)).collect()
}

#[test]
fn a_routable_placement_is_routed_to_its_host_under_the_key_that_the_log_names() {
    let table = RoutingTable::build(&facts(vec![home("bilbao", 1)]));
    assert_eq!(routes(&table), [("bilbao".to_owned(), 1)]);
    let route = table.routes().next().unwrap();
    let expected = "https://bilbao.example:7444".parse().unwrap();
    let key = key("bilbao").parse().unwrap();
    assert_eq!(route.target, Target::Gateway { key, addresses: vec![expected] });
}

#[test]
fn of_one_replica_only_the_highest_routable_epoch_is_routed() {
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
        let placements = order.map(|epoch| home(if epoch == 3 { "cork" } else { "bilbao" }, epoch));
        let table = RoutingTable::build(&facts(placements.to_vec()));
        assert_eq!(routes(&table), [("cork".to_owned(), 3)]);
    }
}

#[test]
fn a_higher_epoch_that_is_not_routable_yet_leaves_the_route_where_it_is() {
    let loading = placement("Home", "cork", 2, |p| p["status"]["conditions"][0]["status"] = json!("False"));
    let table = RoutingTable::build(&facts(vec![home("bilbao", 1), loading]));
    assert_eq!(routes(&table), [("bilbao".to_owned(), 1)]);
}

#[test]
fn replicas_of_one_job_are_routed_beside_each_other() {
    let second = placement("Home", "cork", 1, |p| p["spec"]["replica"] = json!(1));
    let table = RoutingTable::build(&facts(vec![home("bilbao", 4), second]));
    assert_eq!(routes(&table), [("bilbao".to_owned(), 4), ("cork".to_owned(), 1)]);
}

#[test]
fn no_random_set_of_placements_ever_yields_two_epochs_of_one_replica() {
    // A small generator of our own: the same numbers each time, all sorts of sets.
    let mut state = 7_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..200 {
        let placements = (0..next(8)).map(|_| {
            let (host, epoch, replica) = (["bilbao", "cork", "aarhus"][next(3) as usize], next(4) as i64 + 1, next(2));
            let side = ["Home", "Home", "Host"][next(3) as usize];
            placement(side, host, epoch, |p| p["spec"]["replica"] = json!(replica))
        });
        let table = RoutingTable::build(&facts(placements.collect()));
        let replicas: Vec<_> = table.routes().map(|route| &route.replica).collect();
        let distinct: BTreeSet<_> = replicas.iter().collect();
        assert_eq!(replicas.len(), distinct.len());
    }
}

#[test]
fn what_is_not_routable_not_ours_or_going_is_not_routed() {
    let changes: [fn(&mut Value); 6] = [
        |p| p["status"]["conditions"][0]["status"] = json!("Unknown"),
        |p| p["status"] = Value::Null,
        |p| p["spec"]["home"] = json!("bilbao"),
        |p| p["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z"),
        |p| p["metadata"]["namespace"] = json!("elsewhere"),
        |p| p["spec"]["host"] = json!("stranger"),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let table = RoutingTable::build(&facts(vec![placement("Home", "bilbao", 1, change)]));
        assert_eq!(routes(&table), [], "change {number}");
    }
}

/// A member as the operator shows it that may not work.
fn halted(name: &str, state: &str, reason: &str) -> Arc<Member> {
    let mut member = (*member(name, state)).clone();
    let condition = json!({"type": "MayWork", "status": "False", "reason": reason, "message": format!("{name}: {reason}"),
        "lastTransitionTime": "2026-11-21T00:00:00Z"});
    member.status.as_mut().unwrap().conditions = vec![serde_json::from_value(condition).unwrap()];
    Arc::new(member)
}

fn pinned(table: &RoutingTable) -> Vec<&str> {
    table.pins.values().map(MemberId::as_str).collect()
}

#[test]
fn a_member_that_may_not_work_is_not_called_and_known_only_to_be_told_so() {
    let mut suspended = facts(vec![home("bilbao", 1)]);
    suspended.members[1] = halted("bilbao", "Suspended", "Suspended");
    let table = RoutingTable::build(&suspended);
    assert_eq!((routes(&table), pinned(&table)), (vec![], vec!["bilbao", "cork"]));
    assert_eq!(table.halted[&"bilbao".parse().unwrap()], "bilbao: Suspended");
    let model = table.models.values().next().unwrap();
    assert_eq!(model.halted.iter().collect::<Vec<_>>(), ["bilbao: Suspended"]);
    // Whatever wrote the state had no words for the rest.
    suspended.members[1] = member("bilbao", "Suspended");
    assert_eq!(routes(&RoutingTable::build(&suspended)), []);
    for state in ["Probationary", "Dormant", "Leaving", "Quarantined"] {
        let mut facts = facts(vec![home("bilbao", 1)]);
        facts.members[1] = member("bilbao", state);
        assert_eq!(routes(&RoutingTable::build(&facts)), [("bilbao".to_owned(), 1)], "{state}");
    }
    // What runs there has its notice.
    let mut facts = facts(vec![home("bilbao", 1)]);
    facts.members[1] = halted("bilbao", "Quarantined", "Quarantined");
    let table = RoutingTable::build(&facts);
    assert_eq!((routes(&table), table.halted.len()), (vec![("bilbao".to_owned(), 1)], 0));
}

#[test]
fn a_blocked_key_and_whoever_is_gone_are_not_known_at_all() {
    for gone in [halted("bilbao", "Suspended", "KeyBlocked"), member("bilbao", "Expelled"), member("bilbao", "Left")] {
        let mut facts = facts(vec![home("bilbao", 1)]);
        facts.members[1] = gone;
        let table = RoutingTable::build(&facts);
        assert_eq!((routes(&table), pinned(&table)), (vec![], vec!["cork"]));
    }
}

#[test]
fn a_suspended_member_calls_nobody_and_serves_itself() {
    let own = placement("Home", "aarhus", 1, |p| p["spec"]["replica"] = json!(1));
    let held = placement("Host", "aarhus", 1, |p| p["spec"]["replica"] = json!(1));
    let mut facts = facts(vec![home("bilbao", 1), own, held]);
    facts.members[0] = halted("aarhus", "Suspended", "Suspended");
    let table = RoutingTable::build(&facts);
    assert_eq!(routes(&table), [("aarhus".to_owned(), 1)]);
    assert!(table.halted.contains_key(&"aarhus".parse().unwrap()));
}

#[test]
fn why_the_home_left_a_copy_is_told_where_no_other_is_routed() {
    let left = placement("Home", "bilbao", 1, |p| {
        let why = json!({"type": "Routable", "status": "False", "reason": "Suspended", "message": "bilbao is suspended",
            "lastTransitionTime": "2026-11-21T00:00:00Z"});
        p["status"]["conditions"][0] = why;
    });
    let table = RoutingTable::build(&facts(vec![left]));
    let model = table.models.values().next().unwrap();
    assert!(model.routes.is_empty());
    assert_eq!(model.halted.iter().collect::<Vec<_>>(), ["bilbao is suspended"]);
}

#[test]
fn one_object_that_makes_no_sense_costs_itself_alone() {
    let bad = placement("Home", "cork", 1, |p| {
        p["spec"]["job"]["uid"] = json!("NOT A UID");
        p["spec"]["replica"] = json!(-1);
    });
    let mut facts = facts(vec![bad, home("bilbao", 1)]);
    let mut spoilt = (*member("cork", "Active")).clone();
    spoilt.status.as_mut().unwrap().keys.as_mut().unwrap().operator = "rsa:77".to_owned();
    facts.members[2] = Arc::new(spoilt);
    assert_eq!(routes(&RoutingTable::build(&facts)), [("bilbao".to_owned(), 1)]);
}

#[test]
fn a_copy_of_other_weights_never_answers_for_a_model() {
    let other = placement("Home", "cork", 1, |p| {
        p["spec"]["replica"] = json!(1);
        p["spec"]["model"]["manifestDigest"] = json!(OTHER_DIGEST);
    });
    let table = RoutingTable::build(&facts(vec![home("bilbao", 1), other]));
    assert_eq!(routes(&table), [("bilbao".to_owned(), 1)]);
}

#[test]
fn of_two_jobs_with_one_name_the_older_has_it() {
    let younger = placement("Home", "cork", 9, |p| {
        p["spec"]["job"]["uid"] = json!(OTHER_JOB);
        p["spec"]["model"]["manifestDigest"] = json!(OTHER_DIGEST);
    });
    let mut facts = facts(vec![younger, home("bilbao", 1)]);
    facts.jobs.push(job(OTHER_JOB, "2026-11-02T00:00:00Z", OTHER_DIGEST));
    assert_eq!(routes(&RoutingTable::build(&facts)), [("bilbao".to_owned(), 1)]);
}

#[test]
fn a_local_copy_is_called_at_its_service_if_this_host_holds_that_very_epoch() {
    let table = RoutingTable::build(&facts(vec![home("aarhus", 2), placement("Host", "aarhus", 2, |_| {})]));
    let route = table.routes().next().unwrap();
    assert!(matches!(&route.target, Target::Engine(url) if url.authority() == "engine-2.guests.svc:8000"));
    let table = RoutingTable::build(&facts(vec![home("aarhus", 3), placement("Host", "aarhus", 2, |_| {})]));
    assert_eq!(routes(&table), []);
}

/// What cork's table holds for aarhus, with these Placements in it.
fn hosted(mode: &str, placements: Vec<Arc<Placement>>) -> Vec<(u64, Option<String>)> {
    let mut coop = (*cooperative(mode)).clone();
    coop.spec.member = "cork".to_owned();
    let facts = Facts { cooperatives: vec![Arc::new(coop)], ..facts(placements) };
    let held = RoutingTable::build(&facts).hosted;
    held.into_values().map(|held| (held.epoch.0, held.engine.map(|url| url.authority().to_owned()))).collect()
}

#[test]
fn a_host_answers_for_the_highest_epoch_that_it_holds_even_while_that_is_not_ready() {
    let loading = placement("Host", "cork", 2, |p| p["status"]["conditions"][0]["status"] = json!("False"));
    assert_eq!(hosted("Accept", vec![placement("Host", "cork", 1, |_| {}), loading]), [(2, None)]);
}

#[test]
fn a_host_answers_neither_for_what_drains_nor_from_a_namespace_that_is_not_the_homes() {
    let draining = placement("Host", "cork", 1, |p| p["status"]["state"] = json!("Draining"));
    assert_eq!(hosted("Accept", vec![draining]), [(1, None)]);
    for namespace in ["koinon-guest-bilbao", "team", "default"] {
        let forged = placement("Host", "cork", 1, |p| p["metadata"]["namespace"] = json!(namespace));
        assert_eq!(hosted("Accept", vec![forged]), [], "{namespace}");
    }
}

#[test]
fn the_owners_stop_ends_all_calls_of_others() {
    let ready = placement("Host", "cork", 1, |_| {});
    assert_eq!(hosted("Accept", vec![ready.clone()]).len(), 1);
    assert_eq!(hosted("Drain", vec![ready.clone()]).len(), 1);
    assert_eq!(hosted("Stop", vec![ready]), []);
}

#[test]
fn an_engine_address_is_a_host_and_a_port_and_nothing_else() {
    for (url, good) in [
        ("http://engine.ns.svc:8000", true),
        ("http://10.0.0.7:8000/", true),
        ("http://user@engine:8000", false),
        ("http://engine:8000/path", false),
        ("https://engine:8000", false),
        ("http://", false),
    ] {
        let told = placement("Host", "cork", 1, |p| p["status"]["gateway"] = json!(url));
        assert_eq!(hosted("Accept", vec![told])[0].1.is_some(), good, "{url}");
    }
}

#[test]
fn a_model_is_found_by_its_name_and_by_its_namespace_where_the_name_alone_says_too_little() {
    let mut second = (*home("cork", 1)).clone();
    second.metadata.namespace = Some("other".to_owned());
    second.spec.job.namespace = "other".to_owned();
    second.spec.job.uid = OTHER_JOB.to_owned();
    let table = RoutingTable::build(&facts(vec![home("bilbao", 1), Arc::new(second)]));
    let both = allowed(&["team", "other"]);
    assert!(matches!(table.find("tiny", &both), Found::Several(names) if names.len() == 2));
    assert!(matches!(table.find("other/tiny", &both), Found::One { namespace, .. } if namespace.as_str() == "other"));
    assert!(matches!(table.find("tiny", &allowed(&["team"])), Found::One { .. }));
    assert_eq!(table.find("other/tiny", &allowed(&["team"])), Found::None);
    assert_eq!(table.find("none", &both), Found::None);
    let shown = |allowed| table.callable(allowed).into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
    assert_eq!(shown(&both), ["other/tiny", "team/tiny"]);
    assert_eq!(shown(&allowed(&["team"])), ["tiny"]);
}

#[test]
fn a_job_without_a_route_is_known_and_not_listed() {
    let table = RoutingTable::build(&facts(Vec::new()));
    let team = allowed(&["team"]);
    assert!(matches!(table.find("tiny", &team), Found::One { model, .. } if model.routes.is_empty()));
    assert!(table.callable(&team).is_empty());
}

#[test]
fn without_a_cooperative_nobody_is_known_and_nothing_is_routed() {
    let table = RoutingTable::build(&Facts { cooperatives: Vec::new(), ..facts(vec![home("bilbao", 1)]) });
    assert_eq!(table, RoutingTable::default());
}

#[test]
fn the_least_loaded_copy_comes_first_and_failed_ones_last() {
    let second = placement("Home", "cork", 1, |p| p["spec"]["replica"] = json!(1));
    let local = placement("Home", "aarhus", 1, |p| p["spec"]["replica"] = json!(2));
    let held = placement("Host", "aarhus", 1, |p| p["spec"]["replica"] = json!(2));
    let table = RoutingTable::build(&facts(vec![home("bilbao", 1), second, local, held]));
    let routes: Vec<&Route> = table.routes().map(Arc::as_ref).collect();
    let ordered = |loads: [(u32, bool); 3], turn| {
        let loaded = loads.map(|(in_flight, ejected)| Load { in_flight, ejected });
        let with: Vec<_> = routes.iter().copied().zip(loaded).collect();
        order(&with, turn).into_iter().map(|at| routes[at].member.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ordered([(0, false), (0, false), (0, false)], 0), ["aarhus", "bilbao", "cork"]);
    assert_eq!(ordered([(0, false), (0, false), (0, false)], 1), ["aarhus", "cork", "bilbao"]);
    assert_eq!(ordered([(1, false), (0, false), (2, false)], 0), ["cork", "bilbao", "aarhus"]);
    assert_eq!(ordered([(3, false), (0, true), (9, false)], 0), ["bilbao", "aarhus", "cork"]);
}
