//! A cluster that was copied with its operator's key: two of it would fork one log.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use koinon_e2e::story::look::{get, poll, text};
use koinon_e2e::story::{MEMBERS, RELEASE_NAMESPACE};
use koinon_e2e::{Datacenter, Fleet, Poll, wait_until};
use serde_json::Value;

use crate::restore::{decide, log, no_fork_is_known, signs};
use koinon_e2e::ground::{Ground, REPLACED, and_then_cleaned, ground, refused, scale_operator, settled};

/// The Secret of an operator's key.
const KEY: [&str; 4] = ["secret", "koinon-operator-key", "--namespace", RELEASE_NAMESPACE];
/// Where it records the cluster.
const RECORDED: &str = "koinon.dev/cluster-uid";
/// A cluster that is not this one.
const ORIGINAL: &str = "00000000-0000-4000-8000-00000000c10e";
/// How long a clone is given to sign what it may not: several of its turns and beacons.
const TEMPTED: Duration = Duration::from_secs(15);
/// A peer that is connected is asked to dial back within a minute.
const DIALLED: Duration = Duration::from_secs(120);

/// For which cluster the key's Secret says that it was made.
async fn recorded(datacenter: &Datacenter) -> Result<String> {
    let secret = get(datacenter, &KEY).await?;
    Ok(text(&secret["metadata"]["annotations"], RECORDED).to_owned())
}

/// Says that the key was made in a cluster.
async fn record(datacenter: &Datacenter, uid: &str) -> Result<()> {
    let mut args = vec!["annotate", "--overwrite"];
    args.extend(KEY);
    let annotation = format!("{RECORDED}={uid}");
    args.push(&annotation);
    datacenter.kubectl(args).await.map(drop)
}

/// An operator whose key was made in another cluster reads and serves, and signs nothing; its owner's word ends that.
pub async fn cloned(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let idle = ground.member(&ground.idle)?;
    let here = recorded(idle).await?;
    let system = get(idle, &["namespace", "kube-system"]).await?;
    ensure!(here == text(&system["metadata"], "uid"), "the key's Secret records {here:?}, not this cluster");
    scale_operator(idle, 0).await?;
    record(idle, ORIGINAL).await?;
    let found = clone_then_adopt(ground, idle, &here).await;
    let cleaned = async {
        // Adopted or not, the next case needs a member that signs.
        record(idle, &here).await?;
        scale_operator(idle, 1).await?;
        signs(idle).await?;
        ground.all_fresh().await
    };
    and_then_cleaned(found, cleaned.await)?;
    decide(ground, "c2").await?;
    no_fork_is_known(ground).await?;
    ground.story_still_served().await
}

async fn clone_then_adopt(ground: &Ground, idle: &Datacenter, here: &str) -> Result<()> {
    let aarhus = ground.member("aarhus")?;
    let before = log(idle, &ground.idle).await?;
    scale_operator(idle, 1).await?;
    let coop = ["kcoop", "cooperative", "--namespace", RELEASE_NAMESPACE];
    let said = refused(idle, &coop, "Signing", "ClusterCloned").await?;
    for named in [ORIGINAL, here, "kubectl koinon adopt"] {
        ensure!(said.contains(named), "{} should name {named}: {said}", ground.idle);
    }

    // It reads: what others propose arrives. And the others decide, as two of three may.
    let proposal = ground.propose_release("aarhus", &format!("sha256:{}", "c1".repeat(32))).await?;
    for member in MEMBERS {
        ground.proposal_is(member, &proposal, "Open").await?;
    }
    ground.koinon(&ground.idle, &["vote", &proposal, "no"]).await?;
    for member in MEMBERS.into_iter().filter(|member| *member != ground.idle) {
        ground.koinon(member, &["vote", &proposal, "no"]).await?;
    }
    counted(aarhus, &proposal, 2).await?;
    wait_until(&format!("aarhus to miss the beacons of {}", ground.idle), Duration::from_secs(60), || {
        poll(aarhus, &["kmem", &ground.idle, "--namespace", RELEASE_NAMESPACE], |member| {
            let seen = text(&member["status"], "liveness");
            Poll::<()>::when(seen == "Suspect" || seen == "Lost", seen)
        })
    })
    .await?;
    tokio::time::sleep(TEMPTED).await;
    for member in MEMBERS {
        let now = log(ground.member(member)?, &ground.idle).await?;
        ensure!(now == before, "{member} holds {} entries of the clone, before {}", now.len(), before.len());
    }
    counted(aarhus, &proposal, 2).await?;
    // It serves: the others are heard, and whoever dials its endpoint is answered.
    settled(idle, &coop, "PeersReachable", "True", "AllReachable", REPLACED).await?;
    settled(idle, &coop, "EndpointReachable", "True", "EndpointReached", DIALLED).await?;
    ground.story_still_served().await?;
    println!("  cloned, it signed none of its {} entries anew: {said}", before.len());

    // Without --yes the command explains and changes nothing.
    let explained = ground.koinon(&ground.idle, &["adopt"]).await?;
    ensure!(explained.contains(ORIGINAL) && explained.contains("--yes"), "adopt does not explain: {explained}");
    refused(idle, &coop, "Signing", "ClusterCloned").await?;
    ensure!(recorded(idle).await? == ORIGINAL, "it adopted without being told to");
    ground.koinon(&ground.idle, &["adopt", "--yes"]).await?;
    signs(idle).await?;
    ensure!(recorded(idle).await? == here, "the adoption was not recorded");
    let secret = get(idle, &KEY).await?;
    let left = &secret["metadata"]["annotations"]["koinon.dev/adopt"];
    ensure!(*left == Value::Null, "the word to adopt was not taken off: {left}");
    // What people signed meanwhile counts now.
    for member in MEMBERS {
        ground.proposal_is(member, &proposal, "Rejected").await?;
    }
    let after = log(aarhus, &ground.idle).await?;
    ensure!(
        before.iter().all(|(seq, id)| after.get(seq) == Some(id)) && after.len() > before.len(),
        "the log did not go on from its head: {} entries before, {} after",
        before.len(),
        after.len()
    );
    no_fork_is_known(ground).await?;
    ground.all_fresh().await
}

/// Waits until exactly so many votes against a proposal are counted.
async fn counted(datacenter: &Datacenter, proposal: &str, votes: u64) -> Result<()> {
    let what = format!("{votes} votes against {proposal} at {}", datacenter.name());
    wait_until(&what, Duration::from_secs(60), || {
        poll(datacenter, &["kprop", proposal, "--namespace", RELEASE_NAMESPACE], |seen| {
            let tally = &seen["status"]["tally"];
            Poll::<()>::when(tally["reject"] == votes, tally)
        })
    })
    .await
}
