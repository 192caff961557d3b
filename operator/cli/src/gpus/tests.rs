use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use koinon_api::{GPUNode, GPUOffer, GPUPool};
use koinon_core::ids::UnixSeconds;
use serde_json::{Value, json};

use super::obstacles::{Site, rows};
use super::*;

const NOW: UnixSeconds = UnixSeconds(1_795_000_000);

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn device(number: u32, more: Value) -> Value {
    let mut device = json!({"uuid": format!("GPU-{number}"), "index": number, "product": "NVIDIA H100 80GB HBM3",
        "class": "h100-80", "memory": {"totalBytes": 85_520_809_984_i64}, "mig": {"mode": "Disabled"},
        "health": {"state": "Healthy", "sinceTime": "2026-11-18T10:06:40Z"}, "shareable": true,
        "allocation": {"state": "Free", "registered": true}});
    for (key, value) in more.as_object().unwrap() {
        device[key] = value.clone();
    }
    device
}

struct Objects {
    gpu_node: Value,
    node: Value,
    lease: Value,
    pools: Vec<Value>,
}

impl Objects {
    fn of(devices: Value) -> Self {
        Self {
            gpu_node: json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": "n1"}, "spec": {},
                "status": {"nvml": {"state": "Available"}, "driver": {"version": "580.95.05"}, "devices": devices}}),
            node: json!({"metadata": {"name": "n1", "labels": {"pool": "shared"}},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
            lease: json!({"metadata": {"name": "n1"}, "spec": {"renewTime": "2026-11-18T11:06:35.000000Z"}}),
            pools: vec![json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUPool", "metadata": {"name": "all"},
                "spec": {"nodeSelector": {"pool": "shared"}}})],
        }
    }

    fn rows(&self) -> Vec<Row> {
        rows(&Site::new(
            vec![read::<GPUNode>(self.gpu_node.clone())],
            vec![read::<Node>(self.node.clone())],
            &[read::<Lease>(self.lease.clone())],
            self.pools.iter().cloned().map(read::<GPUPool>).collect(),
            NOW,
        ))
    }

    /// What keeps the first device from being shared.
    fn told(&self) -> Vec<String> {
        self.rows()[0].obstacles.iter().map(|obstacle| obstacle.what.clone()).collect()
    }
}

#[test]
fn a_device_that_nothing_speaks_against_is_shared_and_shown_in_one_line() {
    let rows = Objects::of(json!([device(0, json!({}))])).rows();
    assert!(rows[0].shared, "{:?}", rows[0].obstacles);
    let text = text::table(&rows, NOW);
    assert!(text.contains("n1     0     h100-80   Healthy   -        -         60m     yes"), "{text}");
    assert!(text.ends_with("1 of 1 could be given to others now\n"), "{text}");
}

#[test]
fn everything_that_keeps_a_device_is_told_with_what_to_do() {
    let sick = json!({"shareable": false, "notShareableReason": "NotHealthy", "xids": [{"code": 79, "count": 1,
        "firstSeenTime": "2026-11-18T11:04:40Z", "lastSeenTime": "2026-11-18T11:04:40Z", "source": "KernelLog"}],
        "health": {"state": "Unhealthy", "reasons": ["Xid79"], "action": "RebootNode", "sinceTime": "2026-11-18T11:04:40Z"}});
    let mut objects = Objects::of(json!([device(0, sick)]));
    objects.node["spec"] = json!({"unschedulable": true});
    objects.lease["spec"]["renewTime"] = json!("2026-11-18T11:00:00.000000Z");
    objects.pools.clear();
    let told = objects.told().join("\n");
    for part in ["Unhealthy: Xid79", "silent for 6m40s", "n1 is cordoned", "no GPUPool shares it"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let text = text::why(&objects.rows(), NOW);
    assert!(text.starts_with("n1 GPU 0 (h100-80, GPU-0): Unhealthy for 2m\n"), "{text}");
    assert!(text.contains("to do: drain its node and restart it"), "{text}");
    assert!(text::wide(&objects.rows(), NOW).contains("79×1"));
}

#[test]
fn who_holds_a_device_is_named() {
    let held = json!({"shareable": false, "notShareableReason": "Held",
        "allocation": {"state": "Held", "holders": [{"namespace": "team", "name": "train-0"}], "registered": true}});
    let objects = Objects::of(json!([device(0, held)]));
    assert_eq!(objects.told(), ["team/train-0 holds it"]);
    assert!(text::table(&objects.rows(), NOW).contains("team/train-0"));
}

#[test]
fn what_the_owner_keeps_free_is_told_only_where_nothing_else_keeps_it() {
    let mut objects = Objects::of(json!([device(0, json!({}))]));
    objects.pools[0]["status"] = json!({"classes": [{"class": "h100-80", "product": "", "memoryBytes": 0,
        "evidence": "Claimed", "installed": 1, "healthy": 1, "degraded": 0, "unhealthy": 0, "unknown": 0,
        "ownerRequested": 0, "ownerReserve": 1, "leased": 0, "orphaned": 0, "offered": 0, "largestNode": 0}]});
    assert_eq!(objects.told(), ["the last 1 free of h100-80 are kept for the owner"]);
}

#[test]
fn instances_stand_for_the_device_that_they_divide() {
    let parent = device(0, json!({"mig": {"mode": "Enabled"}, "shareable": false, "notShareableReason": "Divided"}));
    let instance = device(
        0,
        json!({"uuid": "MIG-1", "parent": "GPU-0", "class": "h100-80-1g-10gb",
        "mig": {"mode": "Instance", "gpuInstance": 7, "computeInstance": 0}}),
    );
    let rows = Objects::of(json!([parent, instance])).rows();
    assert_eq!(rows.len(), 1);
    assert!(text::table(&rows, NOW).contains("0/7/0"));
}

#[test]
fn every_reason_that_an_agent_can_give_has_something_to_do() {
    for reason in [
        "NotHealthy",
        "SurveyMissed",
        "Divided",
        "DivisionUnknown",
        "Shared",
        "NotRegistered",
        "Held",
        "Intruder",
        "Orphaned",
        "Leaked",
        "UsageUnknown",
        "NoClass",
    ] {
        let objects = Objects::of(json!([device(0, json!({"shareable": false, "notShareableReason": reason}))]));
        let rows = objects.rows();
        assert_eq!(rows[0].obstacles.len(), 1, "{reason}");
        assert!(!rows[0].obstacles[0].remedy.is_empty(), "{reason}");
    }
}

#[test]
fn an_offer_past_its_time_offers_nothing_and_says_how_old_it_is() {
    let offer = |until: &str| -> String {
        let offer: GPUOffer = read(
            json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUOffer", "metadata": {"name": "cork"},
            "spec": {}, "status": {"asOfTime": "2026-11-18T11:05:00Z", "notAfterTime": until, "classes": [{"class": "h100-80",
            "product": "NVIDIA H100", "memoryBytes": 85_899_345_920_i64, "offered": 5, "largestBlock": 4, "largestNode": 8,
            "evidence": "SchedulerConsistent"}]}}),
        );
        text::offer(&"cork".parse().unwrap(), &offer, NOW)
    };
    let fresh = offer("2026-11-18T11:08:00Z");
    assert!(fresh.contains("80 GiB   5         4             8              SchedulerConsistent"), "{fresh}");
    assert!(fresh.contains("cork said so 100s ago. "), "{fresh}");
    let stale = offer("2026-11-18T11:06:00Z");
    assert!(stale.contains("80 GiB   0         4"), "{stale}");
    assert!(stale.contains("past its time, so it offers nothing"), "{stale}");
}

#[test]
fn what_owner_and_vote_have_set_stands_below_the_device_that_is_judged_by_it() {
    let sick = json!({"shareable": false, "health": {"state": "Degraded", "reasons": ["Thermal"]}});
    let mut objects = Objects::of(json!([device(0, sick)]));
    assert!(!text::why(&objects.rows(), NOW).contains("limits of its owner"));
    let digest = format!("sha256:{}", "1".repeat(64));
    objects.gpu_node["status"]["agent"] =
        json!({"version": "0", "bootID": "b", "limits": {"hotPeriod": 600, "later": 7}, "xidTable": digest});
    let text = text::why(&objects.rows(), NOW);
    assert!(text.contains("  limits of its owner: hotPeriod 600 (300 by the rules, R8), later 7\n"), "{text}");
    assert!(text.contains(&format!("  voted table of XIDs: {digest}\n")), "{text}");
}

#[test]
fn a_taint_keeps_every_device_of_its_node() {
    let mut objects = Objects::of(json!([device(0, json!({}))]));
    assert_eq!(objects.told(), Vec::<String>::new());
    objects.node["spec"] =
        json!({"taints": [{"key": "koinon.dev/gpu-unhealthy", "value": "koinon-system", "effect": "NoSchedule"}]});
    assert_eq!(objects.told().len(), 1);
    assert!(objects.told()[0].starts_with("n1 is tainted"), "{:?}", objects.told());
}
