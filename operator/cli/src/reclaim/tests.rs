use koinon_api::labels;
use koinon_core::ids::UnixSeconds;

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_795_219_200);

/// Copy `number` of `home` on `node`, made `number` minutes before now.
fn copy(home: &str, number: i64, gpus: i64, node: &str) -> Placement {
    let copy = json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "Placement",
        "metadata": {"name": format!("{home}-{number}"), "annotations": {labels::NODE: node},
            "creationTimestamp": koinon_api::time::from_unix(NOW.0 - 60 * number)},
        "spec": {"side": "Host", "home": home, "host": "bilbao", "replica": number, "epoch": 1, "servedName": "t",
            "job": {"namespace": "team", "name": "tiny", "uid": "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11"},
            "model": {"uri": "https://m.example/t", "revision": "1", "manifestDigest": "", "quantization": "f32"},
            "engine": {"name": "e"}, "gpu": {"class": "h100-80", "count": gpus}, "maxModelLen": 1, "maxConcurrency": 1,
            "lease": {"seconds": 20}, "template": "{}"}});
    serde_json::from_value(copy).unwrap()
}

fn pool(name: &str, created: i64, spec: Value) -> GPUPool {
    let figures = json!({"class": "h100-80", "product": "", "memoryBytes": 0, "evidence": "Claimed", "installed": 9,
        "healthy": 7, "degraded": 1, "unhealthy": 1, "unknown": 0, "ownerRequested": 0, "ownerReserve": 0, "leased": 0,
        "orphaned": 0, "offered": 0, "largestNode": 0});
    let pool = json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUPool",
        "metadata": {"name": name, "creationTimestamp": koinon_api::time::from_unix(created)}, "spec": spec,
        "status": {"classes": [figures]}});
    serde_json::from_value(pool).unwrap()
}

fn house(placements: Vec<Placement>) -> House {
    let node =
        |name: &str, hall: &str| serde_json::from_value(json!({"metadata": {"name": name, "labels": {"hall": hall}}}));
    let nodes: Vec<Node> = vec![node("n1", "1").unwrap(), node("n2", "1").unwrap(), node("n3", "2").unwrap()];
    let pools = vec![
        pool("young", 2, json!({"reclaimNoticeSeconds": 60})),
        pool("hall-1", 1, json!({"nodeSelector": {"hall": "1"}, "reclaimNoticeSeconds": 7200})),
    ];
    House::new("bilbao".parse().unwrap(), pools, &nodes, placements, ["porto".to_owned()].into())
}

fn said(house: &House, wanted: &Wanted) -> String {
    text(house, &leaves(house, wanted), NOW)
}

fn limit(pool: &str, most: u32) -> Wanted {
    Wanted::Limit { pool: pool.to_owned(), class: "h100-80".parse().unwrap(), most }
}

#[test]
fn who_leaves_for_a_limit_is_told_in_order_with_the_notice_and_by_when() {
    let house = house(vec![
        copy("aarhus", 1, 2, "n1"),
        copy("aarhus", 9, 2, "n2"),
        copy("porto", 5, 1, "n1"),
        copy("cork", 2, 1, "n3"),
    ]);
    let text = said(&house, &limit("hall-1", 2));
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(&lines[1][..7], ["1", "porto", "team/tiny", "5", "1", "h100-80", "n1"], "{text}");
    assert_eq!(&lines[2][..4], ["2", "aarhus", "team/tiny", "1"], "{text}");
    assert!(text.contains("2026-11-21T02:00:00Z"), "two hours of notice: {text}");
    assert!(text.ends_with("3 GPUs come back as 2 copies leave\n"), "{text}");
    assert_eq!(said(&house, &limit("hall-1", 5)), "nobody has to leave\n");
    assert!(said(&house, &limit("young", 0)).contains("cork"), "its node is not of the older pool");
}

#[test]
fn a_drained_node_loses_own_work_too_and_says_so() {
    let house = house(vec![copy("bilbao", 1, 1, "n1"), copy("aarhus", 2, 1, "n1"), copy("cork", 3, 1, "n2")]);
    let text = said(&house, &Wanted::Drain("n1".parse().unwrap()));
    assert!(text.contains("bilbao (own)") && text.contains("aarhus") && !text.contains("cork"), "{text}");
}

#[test]
fn a_copy_that_was_told_before_is_free_by_then() {
    let mut told = copy("aarhus", 1, 1, "n1");
    told.annotations_mut().insert(labels::RECLAIM.to_owned(), "2026-11-20T23:00:00Z".to_owned());
    told.annotations_mut().insert(labels::RECLAIM_WHY.to_owned(), "{}".to_owned());
    assert!(said(&house(vec![told]), &limit("hall-1", 0)).contains("2026-11-21T01:00:00Z"));
}

#[test]
fn a_wish_about_a_node_goes_to_the_pool_that_has_it_or_to_one_that_could() {
    let house = house(vec![]);
    let chosen = |node: &str, pool| house.pool_for(&node.parse().unwrap(), pool).map(|pool| pool.name_any());
    assert_eq!(chosen("n1", None).unwrap(), "hall-1");
    assert_eq!(chosen("n3", None).unwrap(), "young");
    assert_eq!(chosen("n1", Some("young")).unwrap(), "young");
    for (node, pool, why) in [
        ("n9", None, "there is no node n9"),
        ("n1", Some("nowhere"), "there is no pool nowhere"),
        ("n3", Some("hall-1"), "does not select n3"),
    ] {
        let error = chosen(node, pool).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn what_works_is_what_can_be_divided_and_an_unknown_class_names_those_that_are_there() {
    let pool = pool("all", 1, json!({}));
    assert_eq!(prospect::working(&pool, &"h100-80".parse().unwrap()).unwrap(), 8);
    let error = prospect::working(&pool, &"a100-40".parse().unwrap()).unwrap_err().to_string();
    assert_eq!(error, "pool all has no GPUs of class a100-40; it has h100-80");
}
