use koinon_api::{Placement, labels};
use koinon_core::ids::Seconds;
use serde_json::json;

use super::*;
use crate::placement::inventory::fixture::{self, pool};

const T0: i64 = 1_795_000_000;

/// Copy `number` of `home` with `gpus` on `node`, made `number` seconds after the start.
fn copy(home: &str, number: i64, gpus: i64, node: &str) -> Arc<Placement> {
    let spec = json!({"side": "Host", "home": home, "host": "bilbao", "replica": number, "epoch": 1, "servedName": "t",
        "job": {"namespace": "team", "name": "t", "uid": "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11"},
        "model": {"uri": "https://m.example/t", "revision": "1", "manifestDigest": "", "quantization": "f32"},
        "engine": {"name": "e"}, "gpu": {"class": "h100-80", "count": gpus}, "maxModelLen": 1, "maxConcurrency": 1,
        "lease": {"seconds": 20}, "template": "{}"});
    let mut copy = Placement::new(&format!("{home}-{number}"), serde_json::from_value(spec).unwrap());
    copy.metadata.creation_timestamp = koinon_api::time::from_unix(T0 + number);
    copy.metadata.annotations = Some([(labels::NODE.to_owned(), node.to_owned())].into());
    Arc::new(copy)
}

fn annotated(copy: &Arc<Placement>, annotations: &[(&str, String)]) -> Arc<Placement> {
    let mut told = copy.as_ref().clone();
    told.annotations_mut().extend(annotations.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    Arc::new(told)
}

/// As it is after the operator has told it.
fn told(copy: &Arc<Placement>, mark: &Mark) -> Arc<Placement> {
    let change = mark.put(UnixSeconds(T0));
    let value = |name: &'static str| (name, change["metadata"]["annotations"][name].as_str().unwrap().to_owned());
    annotated(copy, &[value(labels::RECLAIM), value(labels::RECLAIM_WHY)])
}

struct Host {
    pools: Vec<Arc<GPUPool>>,
    placements: Vec<Arc<Placement>>,
    complete: bool,
    disfavoured: &'static str,
}

impl Host {
    /// Two nodes of one pool.
    fn new(spec: serde_json::Value, placements: Vec<Arc<Placement>>) -> Self {
        Self { pools: vec![pool("all", 1, spec)], placements, complete: true, disfavoured: "" }
    }

    fn decide(&self) -> Vec<(Arc<Placement>, Step)> {
        let terms = |node: &str| {
            let gpus = (node.parse().unwrap(), "h100-80".parse().unwrap());
            (gpus, Terms { pool: "all".to_owned(), notice: Seconds(60) })
        };
        let node = |name| Arc::new(serde_json::from_value(fixture::node(name, 8)).unwrap());
        decide(&Inputs {
            me: &"bilbao".parse().unwrap(),
            placements: &self.placements,
            terms: &[terms("n1"), terms("n2")].into(),
            pools: &self.pools,
            complete: self.complete,
            nodes: &[node("n1"), node("n2")],
            favours: &|home| home.as_str() != self.disfavoured,
        })
    }

    fn steps(&self) -> Vec<(String, &'static str)> {
        let word = |step: &Step| if matches!(step, Step::Tell(_)) { "tell" } else { "keep" };
        self.decide().iter().map(|(placement, step)| (placement.name_any(), word(step))).collect()
    }
}

fn limits(gpus: i64) -> serde_json::Value {
    json!({"limits": [{"class": "h100-80", "gpus": gpus}]})
}

fn three() -> Vec<Arc<Placement>> {
    vec![copy("aarhus", 1, 2, "n1"), copy("aarhus", 2, 2, "n2"), copy("cork", 3, 2, "n1")]
}

#[test]
fn what_is_above_the_owners_limit_is_told_with_the_numbers_in_the_order_in_which_it_goes() {
    assert!(Host::new(json!({}), three()).decide().is_empty());
    assert!(Host::new(limits(6), three()).decide().is_empty());
    let decided = Host::new(limits(1), three()).decide();
    let names: Vec<String> = decided.iter().map(|(placement, _)| placement.name_any()).collect();
    assert_eq!(names, ["aarhus-2", "cork-3", "aarhus-1"]);
    let (most, held) = (Some(1), Some(6));
    let mark = Mark { cause: Cause::Limit, pool: Some("all".to_owned()), notice_seconds: 60, most, held };
    assert_eq!(decided[0].1, Step::Tell(mark));
    let disfavoured = Host { disfavoured: "cork", ..Host::new(limits(4), three()) };
    assert_eq!(disfavoured.steps(), [("cork-3".to_owned(), "tell")]);
}

#[test]
fn a_node_that_is_emptied_loses_own_work_too_and_no_other_node_anything() {
    let mut placements = three();
    placements.push(copy("bilbao", 4, 1, "n1"));
    let mut told = Host::new(json!({"drain": {"nodes": ["n1", "n9"]}}), placements.clone()).steps();
    told.sort();
    assert_eq!(told, [("aarhus-1".to_owned(), "tell"), ("bilbao-4".to_owned(), "tell"), ("cork-3".to_owned(), "tell")]);
    // A pool empties only nodes that it selects.
    let elsewhere = json!({"nodeSelector": {"no": "such"}, "drain": {"nodes": ["n1"]}});
    assert!(Host::new(elsewhere, placements).decide().is_empty());
}

#[test]
fn who_was_told_is_told_once_and_stays_when_the_owner_wants_less() {
    let mark = Mark { cause: Cause::Limit, ..Mark::default() };
    let mut placements = three();
    placements[1] = told(&placements[1], &mark);
    assert!(Host::new(limits(4), placements.clone()).decide().is_empty());
    assert_eq!(Host::new(limits(2), placements.clone()).steps(), [("cork-3".to_owned(), "tell")]);
    for taken_back in [limits(6), json!({})] {
        assert_eq!(Host::new(taken_back, placements.clone()).steps(), [("aarhus-2".to_owned(), "keep")]);
    }
    // A pool that cannot be read may still want it.
    let unread = Host { pools: vec![], complete: false, ..Host::new(json!({}), placements) };
    assert!(unread.decide().is_empty());
}

#[test]
fn a_mark_that_cannot_be_read_is_still_the_operators_to_take_away() {
    let later =
        annotated(&three()[0], &[(labels::RECLAIM, "2026-11-22T00:00:00Z".into()), (labels::RECLAIM_WHY, "{".into())]);
    assert_eq!(Host::new(json!({}), vec![later]).steps(), [("aarhus-1".to_owned(), "keep")]);
    let word = serde_json::from_str::<Mark>(r#"{"cause": "Lunch", "more": 1}"#).unwrap();
    assert_eq!(word.cause, Cause::Other);
}

#[test]
fn what_a_person_marked_or_what_ends_anyway_is_left_alone_and_counts_as_gone() {
    let mut placements = three();
    placements[0] = annotated(&placements[0], &[(labels::RECLAIM, "now".to_owned())]);
    let mut ending = placements[1].as_ref().clone();
    ending.status = Some(serde_json::from_value(json!({"state": "Draining"})).unwrap());
    placements[1] = told(&Arc::new(ending), &Mark::default());
    assert!(Host::new(limits(2), placements.clone()).decide().is_empty());
    assert_eq!(Host::new(limits(0), placements.clone()).steps(), [("cork-3".to_owned(), "tell")]);
    assert!(Host::new(json!({}), placements).decide().is_empty());
}
