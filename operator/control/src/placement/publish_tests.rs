use serde_json::{Value, json};

use super::*;
use crate::placement::fixture::{digest, member, rules};

fn placement(epoch: i64, host: &str, change: impl FnOnce(&mut Value)) -> DynamicObject {
    let mut value = json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "Placement",
        "metadata": {"name": format!("tiny-0-{epoch}"), "namespace": "team"},
        "spec": {"side": "Home", "home": "aarhus", "host": host, "replica": 0, "epoch": epoch, "servedName": "tiny",
            "job": {"namespace": "team", "name": "tiny", "uid": "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11"},
            "model": {"uri": "https://models.example/tiny.gguf", "revision": "1",
                "manifestDigest": digest().to_string(), "quantization": "f32"},
            "engine": {"name": "llama-cpp", "options": {"threads": 4}}, "gpu": {"class": "h100-80", "count": 2},
            "maxModelLen": 512, "maxConcurrency": 4, "lease": {"seconds": 20}}});
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn look(objects: Vec<DynamicObject>) -> Result<Lists, ListError> {
    lists(objects, &rules("aarhus"))
}

fn epochs(lists: &Lists, host: &str) -> Vec<u64> {
    lists
        .complete
        .get(&member(host))
        .map(|list| list.iter().map(|request| request.epoch.0).collect())
        .unwrap_or_default()
}

#[test]
fn each_host_is_asked_for_its_own_copies_in_an_order_that_does_not_change() {
    let objects = || vec![placement(3, "bilbao", |_| ()), placement(1, "bilbao", |_| ()), placement(2, "cork", |_| ())];
    let lists = look(objects()).unwrap();
    assert_eq!((epochs(&lists, "bilbao"), epochs(&lists, "cork")), (vec![1, 3], vec![2]));
    assert_eq!(look(objects().into_iter().rev().collect()).unwrap(), lists);
}

#[test]
fn a_copy_that_is_no_longer_renewed_or_goes_is_left_out() {
    let stopped = |value: &mut Value| {
        let renewed = json!({"type": "Renewed", "status": "False", "reason": "HostLost", "message": "",
            "lastTransitionTime": "2026-11-21T00:00:00Z"});
        value["status"] = json!({"conditions": [renewed]});
    };
    let deleted = |value: &mut Value| value["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z");
    let objects =
        vec![placement(1, "bilbao", stopped), placement(2, "bilbao", deleted), placement(3, "bilbao", |_| ())];
    assert_eq!(epochs(&look(objects).unwrap(), "bilbao"), [3]);
}

#[test]
fn what_others_own_is_no_business_of_ours_even_if_it_cannot_be_read() {
    let host = |value: &mut Value| {
        value["spec"]["side"] = json!("Host");
        value["spec"]["epoch"] = json!("garbage");
    };
    let foreign = |value: &mut Value| {
        value["spec"]["home"] = json!("cork");
        value["spec"]["model"] = json!(7);
    };
    let elsewhere = |value: &mut Value| value["metadata"]["namespace"] = json!("other");
    let objects =
        vec![placement(1, "bilbao", host), placement(2, "bilbao", foreign), placement(3, "bilbao", elsewhere)];
    assert_eq!(look(objects).unwrap(), Lists::default());
}

#[test]
fn one_object_that_cannot_be_read_silences_its_own_host_alone() {
    let broken = |value: &mut Value| value["spec"]["epoch"] = json!("garbage");
    let lists = look(vec![placement(1, "bilbao", broken), placement(2, "cork", |_| ())]).unwrap();
    assert_eq!(lists.incomplete.keys().collect::<Vec<_>>(), [&member("bilbao")]);
    assert_eq!(epochs(&lists, "cork"), [2]);
}

#[test]
fn an_object_whose_host_cannot_be_read_could_be_anybodys() {
    let broken = |value: &mut Value| value["spec"] = json!({"side": "Home", "home": "aarhus"});
    let error = look(vec![placement(1, "bilbao", broken), placement(2, "cork", |_| ())]).unwrap_err();
    assert!(error.to_string().contains("Placement team/tiny-0-1"), "{error}");
}

#[test]
fn options_keep_the_type_that_the_catalogue_gives_them() {
    let lists = look(vec![placement(1, "bilbao", |_| ())]).unwrap();
    let options = &lists.complete[&member("bilbao")][0].engine.options;
    assert_eq!(serde_json::to_value(options).unwrap(), json!({"threads": 4}));
}
