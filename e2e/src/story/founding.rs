//! The story's first steps: three datacenters, one cooperative.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Narrator;
use super::look::{items, name, poll, text};
use super::stage::{MEMBERS, RELEASE_NAMESPACE, Stage};
use crate::wait::Poll;

/// Who owns which datacenter, and where it stands.
const OWNERS: [(&str, &str, &str, &str); 3] = [
    ("aarhus", "Aarhus Data", "eu-north", "DK"),
    ("bilbao", "Bilbao Compute", "eu-south", "ES"),
    ("cork", "Cork Machines", "eu-west", "IE"),
];

/// Step 1: what runs in each datacenter after `helm install`.
pub async fn datacenters(stage: &Stage, narrator: &Narrator) -> Result<()> {
    narrator.step("Three datacenters, each a cluster of its own, each with Koinon installed by Helm");
    let installs = MEMBERS.map(|member| stage.install(member));
    futures::future::try_join_all(installs).await?;
    for member in MEMBERS {
        let datacenter = stage.member(member)?;
        narrator.kubectl(datacenter, ["get", "nodes", "-o", "wide"]).await?;
        narrator.helm(datacenter, ["list", "--namespace", RELEASE_NAMESPACE]).await?;
        narrator.kubectl(datacenter, ["get", "pods", "--all-namespaces"]).await?;
    }
    narrator
        .observed("three clusters with their own etcd, API server, kubelet and containerd; Koinon's pods are ready");
    Ok(())
}

/// Step 2: founding and joining.
pub async fn cooperative(stage: &Stage, narrator: &Narrator) -> Result<()> {
    narrator.step("aarhus founds the cooperative; bilbao and cork join with an invite and a vote each");
    found(stage, narrator, "aarhus").await?;
    for (position, member) in MEMBERS.iter().enumerate().skip(1) {
        let invite = stage.run_koinon(narrator, "aarhus", ["invite", member]).await?;
        let line = invite.lines().find(|line| line.starts_with("koinon-invite-1.")).context("no invite was printed")?;
        let mut join = vec!["join".to_owned(), "--invite".into(), line.to_owned()];
        join.extend(member_flags(stage, member)?);
        stage.run_koinon(narrator, member, join).await?;
        let draft = format!("admit-{member}");
        let aarhus = stage.member("aarhus")?;
        narrator
            .wait_until(&format!("the application of {member} at its sponsor"), Duration::from_secs(60), || {
                poll(aarhus, &["kprop", &draft, "--namespace", RELEASE_NAMESPACE], |_| Poll::Ready(()))
            })
            .await?;
        stage.run_koinon(narrator, "aarhus", ["propose", "--from", &draft, "--vote", "yes"]).await?;
        // Whoever is a member already votes too: the box closes as soon as all have.
        for voter in &MEMBERS[1..position] {
            let proposal = open_proposal(stage, narrator, voter, member).await?;
            stage.run_koinon(narrator, voter, ["vote", &proposal, "yes"]).await?;
        }
        joined(stage, narrator, &MEMBERS[..=position]).await?;
    }
    for member in MEMBERS {
        narrator.kubectl(stage.member(member)?, ["get", "kmem", "--namespace", RELEASE_NAMESPACE]).await?;
    }
    narrator.observed("each of the three lists three members as Active");
    Ok(())
}

/// A member founds the cooperative, and is alone in it so far.
pub async fn found(stage: &Stage, narrator: &Narrator, founder: &str) -> Result<()> {
    let engine = engine_entry(stage, founder)?;
    let mut found = vec!["found".to_owned(), "--preset".into(), "trial".into(), "--engine".into(), engine];
    found.extend(member_flags(stage, founder)?);
    stage.run_koinon(narrator, founder, found).await?;
    joined(stage, narrator, &[founder]).await
}

/// The flags with which a member presents itself.
fn member_flags(stage: &Stage, member: &str) -> Result<Vec<String>> {
    let (_, owner, region, jurisdiction) =
        OWNERS.iter().find(|(name, ..)| *name == member).with_context(|| format!("nobody owns {member}"))?;
    let mut flags: Vec<String> = [
        "--member",
        member,
        "--owner",
        owner,
        "--region",
        region,
        "--jurisdiction",
        jurisdiction,
        // The demo's CNI plugins enforce no NetworkPolicy; each owner accepts that openly, and every offer says so.
        "--accept-unenforced-network-policy",
    ]
    .map(str::to_owned)
    .to_vec();
    flags.extend(["--peer-endpoint".to_owned(), stage.peer_endpoint(member)?]);
    flags.extend(["--gateway-endpoint".to_owned(), stage.gateway_endpoint(member)?]);
    flags.extend(["--source".to_owned(), format!("hf://koinon-test/={}/", stage.mirror.url())]);
    if member != "cork" {
        flags.push("--no-passphrase".to_owned());
    }
    Ok(flags)
}

/// The catalogue's entry for llama.cpp, as a file on the founder's desk.
fn engine_entry(stage: &Stage, founder: &str) -> Result<String> {
    let entry = serde_json::json!({
        "name": "llama-cpp",
        "image": stage.materials.engine.pinned(),
        "args": [
            "--model", "{modelPath}", "--served-name", "{servedName}", "--host", "0.0.0.0", "--port", "{port}",
            "--ctx", "{maxModelLen}", "--parallel", "{maxConcurrency}",
        ],
        "options": {"threads": {"type": "integer", "min": 1, "max": 64, "flag": "--threads"}},
        "port": 8000,
        "healthPath": "/health",
        "resources": {"cpu": "500m", "memory": "512Mi", "shm": "64Mi"},
    });
    let desk = stage.desk(founder);
    fs::create_dir_all(&desk).with_context(|| format!("making {}", desk.display()))?;
    let path = desk.join("llama-cpp.yaml");
    fs::write(&path, serde_yaml::to_string(&entry)?).with_context(|| format!("writing {}", path.display()))?;
    Ok(path.display().to_string())
}

/// The name, at `voter`, of the open proposal to admit `applicant`.
async fn open_proposal(stage: &Stage, narrator: &Narrator, voter: &str, applicant: &str) -> Result<String> {
    let datacenter = stage.member(voter)?;
    narrator
        .wait_until(&format!("the proposal to admit {applicant} at {voter}"), Duration::from_secs(60), || {
            poll(datacenter, &["kprop", "--namespace", RELEASE_NAMESPACE], |list| {
                let open = items(list).iter().find(|proposal| {
                    let admits = proposal["spec"]["action"]["admit"].is_object();
                    admits && matches!(text(&proposal["status"], "state"), "Open" | "Pending")
                });
                match open {
                    Some(proposal) => Poll::Ready(name(proposal).to_owned()),
                    None => Poll::not_yet(format!("{} proposals, none of them open", items(list).len())),
                }
            })
        })
        .await
}

/// Waits until each of `members` lists exactly these as Active.
async fn joined(stage: &Stage, narrator: &Narrator, members: &[&str]) -> Result<()> {
    for member in members {
        let datacenter = stage.member(member)?;
        let what = format!("{member} to list {} as Active", members.join(", "));
        narrator
            .wait_until(&what, Duration::from_secs(90), || {
                poll(datacenter, &["kmem", "--namespace", RELEASE_NAMESPACE], |list| {
                    let active: Vec<&str> = items(list)
                        .iter()
                        .filter(|member| text(&member["status"], "state") == "Active")
                        .map(name)
                        .collect();
                    Poll::<()>::when(active == members, format!("Active: {}", active.join(", ")))
                })
            })
            .await?;
    }
    ensure!(!members.is_empty(), "a cooperative has members");
    Ok(())
}
