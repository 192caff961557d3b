//! An operator that forgot: an etcd put back to an earlier day, and a release that was uninstalled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use koinon_core::dsse::Signer as _;
use koinon_core::ids::{Seq, StatementId};
use koinon_e2e::story::look::get;
use koinon_e2e::story::{MEMBERS, RELEASE_NAMESPACE};
use koinon_e2e::{Datacenter, Fleet, Poll, wait_until};

use crate::people::{entries, operator_key};
use koinon_e2e::ground::{Ground, ground, metrics, operators_ready, settled};

/// Policies over guests: what may be there at all, namespaces, network policies, workloads, pods and what connects to them,
/// services, and claims with their templates.
const GATES: usize = 10;

/// One log, by position.
pub type Log = BTreeMap<Seq, StatementId>;

/// The log of an operator, as a cluster holds it; two entries at one position are a fork.
pub async fn log(datacenter: &Datacenter, author: &str) -> Result<Log> {
    let mut log = Log::new();
    for entry in entries(datacenter).await?.iter().filter(|entry| entry.author().as_str() == author) {
        let seq = entry.log_seq().context("an entry without a position")?;
        let before = log.insert(seq, entry.id());
        ensure!(before.is_none_or(|id| id == entry.id()), "{} holds a fork of {author} at {seq:?}", datacenter.name());
    }
    Ok(log)
}

/// Proposes as the idle member and lets all three vote no; the idle member's log grows.
pub async fn decide(ground: &Ground, mark: &str) -> Result<()> {
    let proposal = ground.propose_release(&ground.idle, &format!("sha256:{}", mark.repeat(32))).await?;
    for member in MEMBERS {
        ground.proposal_is(member, &proposal, "Open").await?;
        ground.koinon(member, &["vote", &proposal, "no"]).await?;
    }
    for member in MEMBERS {
        ground.proposal_is(member, &proposal, "Rejected").await?;
    }
    Ok(())
}

/// Waits until a member's operator signs.
pub async fn signs(datacenter: &Datacenter) -> Result<()> {
    let args = ["kcoop", "cooperative", "--namespace", RELEASE_NAMESPACE];
    settled(datacenter, &args, "Signing", "True", "Signing", Duration::from_secs(90)).await.map(drop)
}

/// Fails if any member has a proof of a fork.
pub async fn no_fork_is_known(ground: &Ground) -> Result<()> {
    for member in MEMBERS {
        let forks: Vec<_> = metrics(ground.member(member)?, "operator", 9090)
            .await?
            .into_iter()
            .filter(|(name, value)| name.starts_with("koinon_forks_total") && *value > 0.0)
            .collect();
        ensure!(forks.is_empty(), "{member} knows of forks: {forks:?}");
    }
    Ok(())
}

/// Entries that a backup does not have come back from peers, and the next entry follows the last one ever signed.
pub async fn from_backup(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let (aarhus, idle) = (ground.member("aarhus")?, ground.member(&ground.idle)?);
    let backup = idle.snapshot_etcd().await?;
    operators_ready(idle, 1).await?;
    ground.all_fresh().await?;
    let then = log(idle, &ground.idle).await?;
    decide(ground, "b1").await?;
    let forgotten = log(aarhus, &ground.idle).await?;
    ensure!(forgotten.len() > then.len(), "the log of {} did not grow: {} entries", ground.idle, then.len());

    idle.restore_etcd_snapshot(&backup).await?;
    wait_until(&format!("{} to hold again what it forgot", ground.idle), Duration::from_secs(120), || async {
        match log(idle, &ground.idle).await {
            Ok(now) => {
                let held = forgotten.iter().filter(|(seq, id)| now.get(seq) == Some(id)).count();
                Poll::<()>::when(held == forgotten.len(), format!("{held} of {} entries", forgotten.len()))
            }
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await?;
    signs(idle).await?;
    println!("  {} entries were forgotten and taken back", forgotten.len() - then.len());
    decide(ground, "b2").await?;
    let after = log(aarhus, &ground.idle).await?;
    ensure!(
        forgotten.iter().all(|(seq, id)| after.get(seq) == Some(id)) && after.len() > forgotten.len(),
        "the log went another way after the restore: {} entries before, {} after",
        forgotten.len(),
        after.len()
    );
    no_fork_is_known(ground).await?;
    ground.all_fresh().await
}

/// `helm uninstall` leaves what is somebody's, and installing again finds the same member.
pub async fn uninstalled(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let idle = ground.member(&ground.idle)?;
    let key = operator_key(idle).await?.public_key();
    let before = log(idle, &ground.idle).await?;
    idle.helm(["uninstall", "koinon", "--namespace", RELEASE_NAMESPACE, "--wait"]).await?;
    idle.helm(["uninstall", "koinon-crds", "--namespace", RELEASE_NAMESPACE]).await?;
    let kept = kept(idle).await;
    // Whatever was found, the next case needs the member back.
    ground.stage.install(&ground.idle).await?;
    kept?;
    ensure!(operator_key(idle).await?.public_key() == key, "another key was made");
    ground.all_fresh().await?;
    signs(idle).await?;
    decide(ground, "b3").await?;
    let after = log(idle, &ground.idle).await?;
    ensure!(before.iter().all(|(seq, id)| after.get(seq) == Some(id)), "the log began anew");
    no_fork_is_known(ground).await
}

/// Definitions, objects, the key, and the gates over guests.
async fn kept(datacenter: &Datacenter) -> Result<()> {
    let definitions = datacenter.kubectl(["get", "crd", "--output", "name"]).await?;
    let ours = definitions.lines().filter(|line| line.contains("koinon.dev")).count();
    ensure!(ours == 12, "{ours} of 12 definitions are left");
    operator_key(datacenter).await.context("the operator's key is gone")?;
    let membership = get(datacenter, &["kcoop", "cooperative", "--namespace", RELEASE_NAMESPACE]).await?;
    ensure!(membership["metadata"]["deletionTimestamp"].is_null(), "the membership is being deleted");
    let statements = entries(datacenter).await?;
    ensure!(!statements.is_empty(), "the log is gone");
    let policies = datacenter.kubectl(["get", "validatingadmissionpolicies", "--output", "name"]).await?;
    let release = format!(".{RELEASE_NAMESPACE}");
    let gates = policies.lines().filter(|line| line.contains("/koinon-guest-") && line.ends_with(&release)).count();
    ensure!(gates == GATES, "{gates} of {GATES} gates over guests are left: {policies}");
    Ok(())
}
