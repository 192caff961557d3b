//! Step 3: every owner's GPUs, and what the others see of them.

use std::time::Duration;

use anyhow::Result;

use super::Narrator;
use super::look::{condition, items, name, poll, text};
use super::stage::{MEMBERS, RELEASE_NAMESPACE, Stage};
use crate::wait::Poll;

/// What each member has, and how many of them it offers: each owner keeps one in reserve.
pub const GPUS: [(&str, &str, i64, i64); 2] = [("bilbao", "bilbao.json", 8, 7), ("cork", "cork.json", 4, 3)];

/// A pool of all GPUs of a cluster.
const POOL: &str = r#"
apiVersion: koinon.dev/v1alpha1
kind: GPUPool
metadata: {name: all, namespace: koinon-system}
spec:
  reserve: 1
"#;

/// Agents read the GPUs, kubelets allocate them, owners share them, everybody sees the offers.
pub async fn offers(stage: &Stage, narrator: &Narrator) -> Result<()> {
    narrator.step("Agents read the GPUs through NVML, kubelets allocate them, owners share them");
    for (member, _, installed, _) in GPUS {
        let datacenter = stage.member(member)?;
        narrator
            .wait_until(&format!("{installed} GPUs allocatable in {member}"), Duration::from_secs(60), || {
                poll(datacenter, &["node", member], |node| {
                    let seen = node["status"]["allocatable"]["nvidia.com/gpu"].as_str().unwrap_or("none");
                    Poll::<()>::when(seen == installed.to_string(), format!("nvidia.com/gpu: {seen}"))
                })
            })
            .await?;
        narrator
            .wait_until(
                &format!("the agent of {member} to report {installed} devices"),
                Duration::from_secs(60),
                || {
                    poll(datacenter, &["kgnode", member], |node| {
                        let seen = node["status"]["devices"].as_array().map_or(0, Vec::len);
                        Poll::<()>::when(i64::try_from(seen) == Ok(installed), format!("{seen} devices"))
                    })
                },
            )
            .await?;
        narrator.kubectl(datacenter, ["get", "kgnode"]).await?;
        datacenter.apply(POOL).await?;
        narrator.say(&format!("the owner of {member} applies a GPUPool that keeps one GPU in reserve"));
    }
    for viewer in MEMBERS {
        let datacenter = stage.member(viewer)?;
        narrator
            .wait_until(&format!("{viewer} to see the offers"), Duration::from_secs(90), || {
                poll(datacenter, &["koffer", "--namespace", RELEASE_NAMESPACE], |list| {
                    let offered = |member: &str| {
                        let found = items(list).iter().find(|offer| name(offer) == member);
                        found.and_then(|offer| offer["status"]["offered"].as_i64())
                    };
                    let seen = GPUS.map(|(member, _, _, _)| offered(member));
                    Poll::<()>::when(
                        seen == GPUS.map(|(_, _, _, free)| Some(free)),
                        format!("bilbao and cork offer {seen:?}"),
                    )
                })
            })
            .await?;
        stage.run_koinon(narrator, viewer, ["offers"]).await?;
    }
    narrator.observed("bilbao offers 7 of 8, cork 3 of 4, aarhus none; each member sees it, with its age");
    for (member, ..) in GPUS {
        // The demo's network has nothing that enforces NetworkPolicies; its owners accepted that, and offers say so.
        let datacenter = stage.member(member)?;
        let probed = narrator
            .wait_until(&format!("{member} to have probed its network"), Duration::from_secs(90), || {
                poll(datacenter, &["kcoop", "cooperative", "--namespace", RELEASE_NAMESPACE], |cooperative| {
                    match condition(cooperative, "NetworkPolicyEnforced") {
                        Some(found) if found["status"] != "Unknown" => {
                            Poll::Ready(format!("{} ({})", text(found, "message"), text(found, "reason")))
                        }
                        seen => Poll::not_yet(format!("{seen:?}")),
                    }
                })
            })
            .await?;
        narrator.say(&format!("NetworkPolicies in {member}: {probed}"));
    }
    Ok(())
}
