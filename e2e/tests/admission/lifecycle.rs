//! Installing and uninstalling.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use koinon_e2e::toolchain::checkout;
use koinon_e2e::{Datacenter, Fleet, Poll, wait_until};
use serde_json::json;

use crate::server::{GUEST, JOBS, RELEASE, Server};

async fn helm(datacenter: &Datacenter, verb: &str, chart: &str) -> Result<String> {
    let folder = checkout().join("charts").join(chart);
    let folder = folder.to_str().context("the checkout's path is not text")?;
    match verb {
        "install" => {
            let install = ["install", chart, folder, "--namespace", RELEASE, "--create-namespace"];
            // The chart installs no image that nobody named.
            let image = ["--set", "image.repository=registry.example/koinon"];
            let named = if chart == "koinon" { &image[..] } else { &[] };
            datacenter.helm(install.iter().chain(named).copied()).await
        }
        _ => datacenter.helm([verb, chart, "--namespace", RELEASE]).await,
    }
}

/// Lets the operator taint nodes and devices.
pub async fn permit_taints(datacenter: &Datacenter) -> Result<()> {
    let folder = checkout().join("charts/koinon");
    let folder = folder.to_str().context("the checkout's path is not text")?;
    let upgrade = ["upgrade", "koinon", folder, "--namespace", RELEASE, "--reuse-values"];
    let values = ["--set", "operator.taints.nodes=true,operator.taints.devices=true"];
    datacenter.helm(upgrade.into_iter().chain(values)).await?;
    no_warnings(datacenter).await
}

/// A namespace that still ends takes nothing new.
async fn agents_are_gone(datacenter: &Datacenter) -> Result<()> {
    let ended = ["wait", "--for=delete", "namespace/koinon-agent", "--timeout=60s"];
    datacenter.kubectl(ended).await.map(drop)
}

/// First the definitions and then the rest, and the other way round.
pub async fn install(fleet: Arc<Fleet>) -> Result<()> {
    let datacenter = fleet.get("aarhus")?;
    let server = Server::admin(datacenter).await?;
    // Made before the gates, which would ask for Pod Security, and with an account that they would refuse.
    server
        .create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": GUEST, "labels": {"koinon.dev/guest-of": "aarhus"}}}))
        .await?;
    server
        .create(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "koinon-operator", "namespace": GUEST}}))
        .await?;
    server
        .create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": JOBS, "labels": {"koinon.dev/jobs": "allowed"}}}))
        .await?;
    default_account(datacenter, GUEST).await?;

    helm(datacenter, "install", "koinon-crds").await?;
    helm(datacenter, "install", "koinon").await?;
    datacenter.definitions_served().await?;
    helm(datacenter, "uninstall", "koinon").await?;
    helm(datacenter, "uninstall", "koinon-crds").await?;
    datacenter.kubectl(["delete", "crd", "--all"]).await?;
    agents_are_gone(datacenter).await?;
    helm(datacenter, "install", "koinon").await?;
    helm(datacenter, "install", "koinon-crds").await?;
    datacenter.definitions_served().await?;
    server.gates_hold(true).await?;
    no_warnings(datacenter).await
}

/// Pods are refused for want of an account until the controller has made it.
async fn default_account(datacenter: &Datacenter, namespace: &str) -> Result<()> {
    wait_until("the default service account", Duration::from_secs(60), || async {
        match datacenter.kubectl(["--namespace", namespace, "get", "serviceaccount", "default"]).await {
            Ok(_) => Poll::Ready(()),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}

/// The server checks expressions against the schemas of what they are about; a field that it does not know would never match.
async fn no_warnings(datacenter: &Datacenter) -> Result<()> {
    let read = || async {
        let text = datacenter.kubectl(["get", "validatingadmissionpolicies", "--output", "json"]).await?;
        serde_json::from_str::<serde_json::Value>(&text).context("reading the policies")
    };
    let policies = wait_until("the server to check the policies", Duration::from_secs(60), || async {
        match read().await {
            Ok(list) => {
                let items = list["items"].as_array().cloned().unwrap_or_default();
                let unchecked =
                    items.iter().filter(|p| p["status"]["observedGeneration"] != p["metadata"]["generation"]).count();
                if unchecked == 0 && !items.is_empty() {
                    Poll::Ready(items)
                } else {
                    Poll::not_yet(format!("{unchecked} to go"))
                }
            }
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await?;
    for policy in &policies {
        let warnings = &policy["status"]["typeChecking"]["expressionWarnings"];
        ensure!(warnings.is_null(), "{}: {warnings}", policy["metadata"]["name"]);
    }
    println!("  {} policies without warnings", policies.len());
    Ok(())
}

/// What is somebody's stays: definitions, objects, and what confines guests that may still run.
pub async fn uninstall(fleet: Arc<Fleet>) -> Result<()> {
    let datacenter = fleet.get("aarhus")?;
    let server = Server::admin(datacenter).await?;
    helm(datacenter, "uninstall", "koinon").await?;
    helm(datacenter, "uninstall", "koinon-crds").await?;
    let definitions = datacenter.kubectl(["get", "crd", "--output", "name"]).await?;
    ensure!(
        definitions.lines().filter(|line| line.contains("koinon.dev")).count() == 12,
        "definitions went: {definitions}"
    );
    let jobs = datacenter.kubectl(["get", "kjob", "--namespace", "default", "--output", "name"]).await?;
    ensure!(jobs.contains("chat"), "the job went with the definitions");
    let policies = datacenter.kubectl(["get", "validatingadmissionpolicies", "--output", "name"]).await?;
    ensure!(
        policies.lines().filter(|line| line.contains("/koinon-guest-")).count() == 10,
        "gates over guests went: {policies}"
    );
    ensure!(!policies.contains("koinon-operator"), "the gate over an operator that is gone stayed: {policies}");
    server.gates_hold(true).await?;
    agents_are_gone(datacenter).await?;
    // And what was kept does not stand in the way of coming back.
    helm(datacenter, "install", "koinon-crds").await?;
    helm(datacenter, "install", "koinon").await?;
    server.gates_hold(true).await
}
