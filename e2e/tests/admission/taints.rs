//! What an operator that may taint can do with that right.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use koinon_e2e::{Datacenter, Fleet};
use serde_json::{Value, json};

use crate::lifecycle::permit_taints;
use crate::operator::as_operator;
use crate::server::{RELEASE, Server, all_held};

const NODE: &str = "tainted-node";
const SHARED: &str = "shared-node";

fn taint(key: &str, value: &str, effect: &str) -> Value {
    json!({"key": key, "value": value, "effect": effect})
}

fn own(effect: &str) -> Value {
    taint("koinon.dev/gpu-unhealthy", RELEASE, effect)
}

/// Its own taint comes and goes; every other change of a node, and every other rule about devices, is refused.
pub async fn own_alone(fleet: Arc<Fleet>) -> Result<()> {
    let datacenter = fleet.get("aarhus")?;
    let admin = Server::admin(datacenter).await?;
    permit_taints(datacenter).await?;
    let tainted = |name: &str, taint: Value| {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"hall": "1"}},
            "spec": {"taints": [taint]}})
    };
    let node = tainted(NODE, taint("example.com/maintenance", "x", "NoSchedule"));
    // There can be one taint of a key and an effect, so what another release set is on another node.
    let shared = tainted(SHARED, taint("koinon.dev/gpu-unhealthy", "another-release", "NoExecute"));
    admin.create(&node).await?;
    admin.create(&shared).await?;
    let there = settled(datacenter).await?;
    let with = |more: &[Value]| json!({"spec": {"taints": there.iter().chain(more).cloned().collect::<Vec<_>>()}});
    let operator = as_operator(datacenter).await?;
    let only = "no taint of a node but its own";
    let nothing = "nothing of a node but its taint";
    let mut failures = Vec::new();
    let mut count = 0;
    for (what, change, words) in [
        ("its own taint", with(&[own("NoSchedule")]), None),
        ("its own taint that evicts", with(&[own("NoExecute")]), None),
        ("a hint", with(&[own("PreferNoSchedule")]), Some("NoSchedule or NoExecute")),
        ("another key", with(&[taint("example.com/mine", RELEASE, "NoSchedule")]), Some(only)),
        ("another release's", with(&[taint("koinon.dev/gpu-unhealthy", "third", "NoSchedule")]), Some(only)),
        (
            "one without a value",
            with(&[json!({"key": "koinon.dev/gpu-unhealthy", "effect": "NoSchedule"})]),
            Some(only),
        ),
        ("all taints off", json!({"spec": {"taints": null}}), Some(only)),
        ("an admin's taint in exchange", json!({"spec": {"taints": [own("NoSchedule")]}}), Some(only)),
        ("a cordon", json!({"spec": {"unschedulable": true}}), Some(nothing)),
        ("a label", json!({"metadata": {"labels": {"hall": "2"}}}), Some(nothing)),
        ("an annotation", json!({"metadata": {"annotations": {"x": "y"}}}), Some(nothing)),
        ("a finalizer", json!({"metadata": {"finalizers": ["example.com/x"]}}), Some(nothing)),
        (
            "an owner",
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]}}),
            Some(nothing),
        ),
        ("a provider", json!({"spec": {"providerID": "x"}}), Some(nothing)),
    ] {
        count += 1;
        let answer = operator.try_patch(&node, change).await?;
        check(&mut failures, what, &answer, words);
    }
    count += 1;
    let off = operator.try_patch(&shared, json!({"spec": {"taints": null}})).await?;
    check(&mut failures, "another release's taint off", &off, Some(only));
    for (what, answer) in [
        ("a node ended", operator.try_delete(&node).await?),
        ("a node made", {
            let made = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "another"}});
            operator.try_create(&made).await?
        }),
    ] {
        count += 1;
        // It has no right to, before any gate is asked.
        check(&mut failures, what, &answer, Some("cannot"));
    }
    let rule = |name: &str, selector: Value, taint: Value| {
        json!({"apiVersion": "resource.k8s.io/v1alpha3", "kind": "DeviceTaintRule", "metadata": {"name": name},
            "spec": {"deviceSelector": selector, "taint": taint}})
    };
    let one = || json!({"driver": "gpu.nvidia.com", "pool": NODE, "device": "gpu-0"});
    let name = format!("{RELEASE}.gpu-unhealthy.0a");
    for (what, rule, words) in [
        ("its own rule", rule(&name, one(), own("NoSchedule")), None),
        ("a rule by another name", rule("mine", one(), own("NoSchedule")), Some("of koinon.dev/gpu-unhealthy only")),
        (
            "a rule with another key",
            rule(&name, one(), taint("example.com/x", RELEASE, "NoSchedule")),
            Some("of koinon.dev/gpu-unhealthy only"),
        ),
        (
            "a rule of another release",
            rule(&name, one(), taint("koinon.dev/gpu-unhealthy", "x", "NoSchedule")),
            Some("of koinon.dev/gpu-unhealthy only"),
        ),
        (
            "a rule about a whole pool",
            rule(&name, json!({"driver": "gpu.nvidia.com", "pool": NODE}), own("NoSchedule")),
            Some("one GPU at a time"),
        ),
        ("a rule about everything", rule(&name, json!({}), own("NoSchedule")), Some("one GPU at a time")),
        (
            "a rule about a network card",
            rule(&name, json!({"driver": "nic.example.com", "pool": "p", "device": "d"}), own("NoSchedule")),
            Some("one GPU at a time"),
        ),
    ] {
        count += 1;
        check(&mut failures, what, &operator.try_create(&rule).await?, words);
    }
    let foreign = rule("maintenance", one(), taint("example.com/maintenance", "x", "NoSchedule"));
    admin.create(&foreign).await?;
    count += 1;
    check(
        &mut failures,
        "an admin's rule ended",
        &operator.try_delete(&foreign).await?,
        Some("of koinon.dev/gpu-unhealthy only"),
    );
    let mine = rule(&name, one(), own("NoSchedule"));
    operator.create(&mine).await?;
    count += 1;
    check(&mut failures, "its own rule ended", &operator.try_delete(&mine).await?, None);
    datacenter.kubectl(["delete", "node", NODE, SHARED]).await?;
    all_held(failures, count)
}

/// The node's taints, once the cluster has put and taken its own of a node that is new.
async fn settled(datacenter: &Datacenter) -> Result<Vec<Value>> {
    let (mut before, mut same) = (Vec::new(), 0);
    for _ in 0..100 {
        let node = datacenter.kubectl(["get", "node", NODE, "--output", "json"]).await?;
        let node: Value = serde_json::from_str(&node).context("reading the node")?;
        let now = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        same = if now == before { same + 1 } else { 0 };
        if same == 8 {
            return Ok(now);
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    bail!("the taints of a new node still change: {before:?}")
}

fn check(failures: &mut Vec<String>, what: &str, answer: &Result<(), String>, words: Option<&str>) {
    match (answer, words) {
        (Ok(()), None) => {}
        (Err(said), Some(words)) if said.contains(words) => {}
        _ => failures.push(format!("{what}: {answer:?}")),
    }
}
