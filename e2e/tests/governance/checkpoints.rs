//! What is settled by a vote, and whether whoever has no part in it can check that.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use koinon_core::dsse::Envelope;
use koinon_core::statement::Statement;
use koinon_e2e::cache::Cache;
use koinon_e2e::ground::{Ground, ground, operators_ready, settled};
use koinon_e2e::python::Python;
use koinon_e2e::story::look::{get, items, text};
use koinon_e2e::story::{MEMBERS, RELEASE_NAMESPACE};
use koinon_e2e::toolchain::checkout;
use koinon_e2e::{Datacenter, Fleet, Poll, command, wait_until};
use serde_json::Value;

use crate::decisions::{all_vote, ends_as, proposed};

/// How many of the three members make a quorum.
const QUORUM: usize = 2;

/// The states in which a proposal goes on by itself.
const UNDER_WAY: [&str; 5] = ["Submitted", "Pending", "Open", "Closing", "Queued"];

/// Everything up to now is settled, by the seals of a quorum; two audits that share no code agree on what that is.
pub async fn voted(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let proposal = proposed(ground, "bilbao", &["propose", "checkpoint", "--keep-days", "0"]).await?;
    all_vote(ground, &proposal, &["yes", "yes", "yes"]).await?;
    for member in MEMBERS {
        ends_as(ground, member, &proposal, "Enacted").await?;
    }
    let told = audited(ground, "cork").await?;
    ensure!(told.lines().any(|line| line.starts_with("version checkpoints 1 ")), "cork's audit shows no checkpoint");
    let sealed = sealers(ground, &told).await?;
    // Two of three are a quorum: whether the third was in time for the certificate is a matter of load. That it found the
    // same is shown below, since an operator lets go only of what it settles to the same digest.
    ensure!(sealed.len() >= QUORUM, "it was sealed by {sealed:?} alone");
    for member in MEMBERS {
        let_go(ground, member).await?;
    }
    begun_again(ground, "cork").await
}

/// Waits until a member's operator has noted what remains of the entries that it holds in its store alone.
async fn let_go(ground: &Ground, member: &str) -> Result<()> {
    let member = ground.member(member)?;
    let what = format!("{} to let go of what is settled", member.name());
    wait_until(&what, Duration::from_secs(30), || async {
        match get(member, &["configmap", "koinon-settled", "--namespace", RELEASE_NAMESPACE]).await {
            Ok(map) => {
                let text = text(&map["data"], "settled.json");
                Poll::<()>::when(text.contains("\"versions\""), format!("it notes {text:?}"))
            }
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}

/// An operator that let go begins again without it, shows what it showed, and its history is whole.
async fn begun_again(ground: &Ground, name: &str) -> Result<()> {
    let member = ground.member(name)?;
    let before = come_to_rest(member).await?;
    let restart = ["rollout", "restart", "deployment/koinon-operator", "--namespace", RELEASE_NAMESPACE];
    member.kubectl(restart).await?;
    member
        .kubectl(["rollout", "status", "deployment/koinon-operator", "--namespace", RELEASE_NAMESPACE, "--timeout=90s"])
        .await?;
    operators_ready(member, 1).await?;
    let cooperative = ["kcoop", "cooperative", "--namespace", RELEASE_NAMESPACE];
    settled(member, &cooperative, "Signing", "True", "Signing", Duration::from_secs(90)).await?;
    ground.all_fresh().await?;
    let after = states(member).await?;
    ensure!(before == after, "before it began again {name} showed {before:?}, and now {after:?}");
    audited(ground, name).await?;
    let archive = ground.stage.desk(name).join("archive.jsonl");
    let path = archive.to_str().context("the desk's path is not text")?;
    let told = ground.koinon(name, &["archive", path, "--dry-run"]).await?;
    // The budget of a log is counted by the day, so nothing of today may go.
    ensure!(told.starts_with("0 of ") && !archive.exists(), "of entries of today the archive would take: {told}");
    Ok(())
}

/// What the member shows of each proposal.
async fn states(member: &Datacenter) -> Result<BTreeMap<String, String>> {
    let state = |one: &Value| (text(&one["metadata"], "name").to_owned(), text(&one["status"], "state").to_owned());
    let list = get(member, &["kprop", "--namespace", RELEASE_NAMESPACE]).await?;
    Ok(items(&list).iter().map(state).collect())
}

/// The same once nothing is under way any more, so that whatever differs later is no progress.
async fn come_to_rest(member: &Datacenter) -> Result<BTreeMap<String, String>> {
    wait_until("every proposal to be decided", Duration::from_secs(60), || async {
        match states(member).await {
            Ok(states) if states.values().any(|state| UNDER_WAY.contains(&state.as_str())) => {
                Poll::not_yet(format!("{states:?}"))
            }
            Ok(states) => Poll::Ready(states),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}

/// Who signed the close of the first checkpoint, as its audit names the entries.
async fn sealers(ground: &Ground, told: &str) -> Result<Vec<String>> {
    let mut lines = told.lines().skip_while(|line| !line.starts_with("version checkpoints 1 "));
    let settled = lines.nth(1).context("the audit does not say how the checkpoint was settled")?;
    let close = settled.split_whitespace().nth(3).context("the audit names no close seals")?;
    let kind = ["kstmt", "--namespace", RELEASE_NAMESPACE, "--selector", "koinon.dev/kind=close-seal"];
    let list = get(ground.member("cork")?, &kind).await?;
    let mut sealed = Vec::new();
    for one in items(&list) {
        let envelope: Envelope = serde_json::from_value(one["spec"]["envelope"].clone()).context("no envelope")?;
        let entry = Statement::verify(envelope)?;
        if close.split(',').any(|id| id == entry.id().to_string()) {
            sealed.push(entry.author().to_string());
        }
    }
    sealed.sort();
    Ok(sealed)
}

/// Exports what `member` holds, has it audited by both implementations, and returns what both say.
pub async fn audited(ground: &Ground, member: &str) -> Result<String> {
    let file = ground.stage.desk(member).join("history.jsonl");
    let path = file.to_str().context("the desk's path is not text")?.to_owned();
    ground.koinon(member, &["audit", "export", "--output", &path]).await?;
    let told = ground.koinon(member, &["audit", &path, "--output", "canonical"]).await?;
    let found = tokio::task::spawn_blocking(move || by_the_other(&file)).await??;
    ensure!(told.trim_end() == found.trim_end(), "the audits differ; one says:\n{told}\nthe other:\n{found}");
    ensure!(told.trim_end().ends_with("holds"), "the history does not hold: {told}");
    Ok(told)
}

fn by_the_other(file: &Path) -> Result<String> {
    let requirements = checkout().join("e2e/vectors/requirements.txt");
    let python = Python::with_requirements(&Cache::from_env()?, &requirements, &|what| println!("  {what}"))?;
    let mut audit = Command::new(python.program());
    command::run(audit.arg("-B").arg(checkout().join("e2e/audit/verify.py")).arg(file))
}
