//! Taints of what must not be used, on a real API server.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::api::resource::v1alpha3::DeviceTaintRule;
use koinon_api::GPUPool;
use koinon_e2e::{Fleet, Poll, wait_until};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use crate::cases::host;
use crate::host::Shared;
use crate::operator::{Operator, SOON};

const ADMINS: &str = "example.com/maintenance";

fn own(host: &Shared, effect: &str) -> String {
    format!("koinon.dev/gpu-unhealthy={}:{effect}", host.name)
}

fn admins() -> String {
    format!("{ADMINS}=:PreferNoSchedule")
}

async fn until_tainted(host: &Shared, wanted: &[String]) -> Result<()> {
    wait_until(&format!("the taints {wanted:?}"), SOON, || async {
        match host.taints().await {
            Ok(mut taints) => {
                taints.sort();
                if taints == wanted {
                    return Poll::Ready(());
                }
                Poll::not_yet(format!("{taints:?}; the pool says {:?}", host.pool_says("Tainting").await))
            }
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}

/// Nothing changes for some looks.
async fn stays(host: &Shared, wanted: &[String], why: &str) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut taints = host.taints().await?;
    taints.sort();
    ensure!(taints == wanted, "{why}: {taints:?}");
    Ok(())
}

fn needs_restart() -> Value {
    json!({"state": "Unhealthy", "reasons": ["FallenOffBus"], "action": "RebootNode", "guestWork": "DrainNode"})
}

pub async fn comes_and_goes(fleet: Arc<Fleet>) -> Result<()> {
    let host = host(&fleet, "tainted", 8).await?;
    host.admin_taints(ADMINS).await?;
    let operator = Operator::start(&host, "Accept")?;
    host.surveys(&[(needs_restart(), None)]).await?;
    stays(&host, &[admins()], "no pool asks for a taint").await?;
    host.wants(json!({"taint": {"nodes": {"effect": "NoSchedule"}}})).await?;
    let both = [admins(), own(&host, "NoSchedule")];
    until_tainted(&host, &both).await?;
    wait_until("the pool's word", SOON, || async {
        match host.pool_says("Tainting").await {
            Ok((value, message)) if value == "True" && message.contains("must not be used (FallenOffBus)") => {
                Poll::Ready(())
            }
            other => Poll::not_yet(format!("{other:?}")),
        }
    })
    .await?;
    // Unknown is not well, and neither is a word that nobody renews.
    host.surveys(&[(json!({"state": "Unknown", "reasons": ["DeviceMissing"]}), None)]).await?;
    stays(&host, &both, "the device is Unknown").await?;
    // An operator that begins has nothing to go by but the age of the heartbeat.
    drop(operator);
    host.silence().await?;
    host.surveys(&[]).await?;
    let _operator = Operator::start(&host, "Accept")?;
    stays(&host, &both, "the agent is silent").await?;
    host.speak().await?;
    until_tainted(&host, &[admins()]).await?;
    // What needs no restart of the node taints it only where the owner says any.
    host.surveys(&[(
        json!({"state": "Unhealthy", "reasons": ["DoubleBitError"], "action": "ResetGPU", "guestWork": "Drain"}),
        None,
    )])
    .await?;
    stays(&host, &[admins()], "the fault is the device's own").await?;
    host.wants(json!({"taint": {"nodes": {"when": "AnyDevice"}}})).await?;
    until_tainted(&host, &both).await?;
    host.wants(json!({"taint": {"nodes": {"effect": "NoExecute"}}})).await?;
    until_tainted(&host, &[admins(), own(&host, "NoExecute")]).await
}

pub async fn undone(fleet: Arc<Fleet>) -> Result<()> {
    let host = host(&fleet, "undone", 8).await?;
    let _operator = Operator::start(&host, "Accept")?;
    host.surveys(&[(needs_restart(), None)]).await?;
    let wish = json!({"taint": {"nodes": {"effect": "NoSchedule"}}});
    host.wants(wish.clone()).await?;
    until_tainted(&host, &[own(&host, "NoSchedule")]).await?;
    host.wants(json!({"taint": null})).await?;
    until_tainted(&host, &[]).await?;
    host.wants(wish).await?;
    until_tainted(&host, &[own(&host, "NoSchedule")]).await?;
    let pools = Api::<GPUPool>::namespaced(host.client.clone(), &host.name);
    pools.delete("all", &DeleteParams::default()).await?;
    until_tainted(&host, &[]).await
}

/// The rules that the operator of `host` made, by what they are about.
async fn rules(host: &Shared) -> Result<Vec<(String, String)>> {
    let rules = Api::<DeviceTaintRule>::all(host.client.clone()).list(&ListParams::default()).await?.items;
    let own = rules.into_iter().filter(|rule| rule.spec.taint.value.as_deref() == Some(host.name.as_str()));
    own.map(|rule| {
        let selector = rule.spec.device_selector.context("a rule about every device")?;
        Ok((selector.device.context("a rule about every device")?, rule.spec.taint.effect))
    })
    .collect()
}

async fn until_ruled(host: &Shared, wanted: &[(&str, &str)]) -> Result<()> {
    wait_until(&format!("the rules {wanted:?}"), SOON, || async {
        match rules(host).await {
            Ok(rules) => {
                let same =
                    rules.iter().map(|(device, effect)| (device.as_str(), effect.as_str())).eq(wanted.iter().copied());
                if same {
                    return Poll::Ready(());
                }
                Poll::not_yet(format!("{rules:?}; the pool says {:?}", host.pool_says("Tainting").await))
            }
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}

pub async fn by_name(fleet: Arc<Fleet>) -> Result<()> {
    let host = host(&fleet, "by-name", 2).await?;
    let name = host.name.clone();
    let device = |at: usize| json!({"name": format!("gpu-{at}"), "attributes": {"uuid": {"string": format!("GPU-{name}-{at}")}}});
    let slice: ResourceSlice =
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"driver": "gpu.nvidia.com",
        "nodeName": name, "devices": [device(0), device(1)],
        "pool": {"name": name, "generation": 1, "resourceSliceCount": 1}}}))?;
    Api::<ResourceSlice>::all(host.client.clone()).create(&PostParams::default(), &slice).await?;
    host.wants(json!({"pod": {"deviceClassName": "gpu.nvidia.com"}, "taint": {"devices": {"effect": "NoSchedule"}}}))
        .await?;
    let _operator = Operator::start(&host, "Accept")?;
    let failed =
        json!({"state": "Unhealthy", "reasons": ["DoubleBitError"], "action": "ResetGPU", "guestWork": "Drain"});
    host.surveys(&[(json!({"state": "Healthy"}), None), (failed, None)]).await?;
    until_ruled(&host, &[("gpu-1", "NoSchedule")]).await?;
    ensure!(host.taints().await?.is_empty(), "its node was tainted");
    host.surveys(&[(json!({"state": "Healthy"}), None), (json!({"state": "Unknown"}), None)]).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    until_ruled(&host, &[("gpu-1", "NoSchedule")]).await?;
    host.surveys(&[]).await?;
    until_ruled(&host, &[]).await
}
