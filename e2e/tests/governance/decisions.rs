//! What becomes of proposals.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use koinon_e2e::ground::{Ground, conditions, ground};
use koinon_e2e::said::refused;
use koinon_e2e::story::look::{poll, text};
use koinon_e2e::story::{MEMBERS, RELEASE_NAMESPACE};
use koinon_e2e::{Fleet, Poll, wait_until};
use serde_json::Value;

/// Longer than any period and time lock of the suite's charter.
const DECIDED: Duration = Duration::from_secs(150);

/// What `kubectl koinon propose …` proposed.
pub async fn proposed(ground: &Ground, by: &str, args: &[&str]) -> Result<String> {
    let printed = ground.koinon(by, args).await?;
    let line = printed.lines().find_map(|line| line.strip_prefix("proposed ")).context("nothing was proposed")?;
    Ok(line.split_whitespace().next().context("the proposal has no name")?.to_owned())
}

/// Every member votes, once its cluster knows the proposal.
pub async fn all_vote(ground: &Ground, proposal: &str, choices: &[&str; 3]) -> Result<()> {
    let votes = MEMBERS.iter().zip(choices).map(|(member, choice)| vote(ground, member, proposal, choice));
    futures::future::try_join_all(votes).await.map(drop)
}

/// One member votes, once its cluster knows the proposal.
pub async fn vote(ground: &Ground, member: &str, proposal: &str, choice: &str) -> Result<()> {
    ground.proposal_is(member, proposal, "Open").await?;
    ground.koinon(member, &["vote", proposal, choice]).await.map(drop)
}

/// Waits until `member` shows the proposal in a state, however long the charter takes for it.
pub async fn ends_as(ground: &Ground, member: &str, proposal: &str, state: &str) -> Result<Value> {
    let datacenter = ground.member(member)?;
    wait_until(&format!("{proposal} to be {state} at {member}"), DECIDED, || {
        poll(datacenter, &["kprop", proposal, "--namespace", RELEASE_NAMESPACE], |seen| {
            match text(&seen["status"], "state") {
                now if now == state => Poll::Ready(seen.clone()),
                now => Poll::not_yet(format!("{now} {}", conditions(seen))),
            }
        })
    })
    .await
}

/// How many said yes and no, and how many abstained.
pub fn tally(proposal: &Value) -> [i64; 3] {
    ["approve", "reject", "abstain"].map(|count| proposal["status"]["tally"][count].as_i64().unwrap_or(-1))
}

/// It had passed and waited for its time lock; a second vote stops it.
pub async fn cancelled(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let proposal =
        proposed(ground, "aarhus", &["propose", "change-charter", "--set", "parameters.inviteHours=70"]).await?;
    all_vote(ground, &proposal, &["yes", "yes", "yes"]).await?;
    ends_as(ground, "bilbao", &proposal, "Queued").await?;
    let cancel = proposed(ground, "bilbao", &["propose", "cancel", &proposal]).await?;
    all_vote(ground, &cancel, &["no", "yes", "yes"]).await?;
    for member in MEMBERS {
        let seen = ends_as(ground, member, &proposal, "Cancelled").await?;
        ensure!(conditions(&seen).contains(&cancel), "it does not say what stopped it: {}", conditions(&seen));
        ends_as(ground, member, &cancel, "Enacted").await?;
    }
    // The slot that it held is given up by all, and the next proposal is decided in the next term.
    let again = proposed(ground, "cork", &["propose", "change-charter", "--set", "parameters.inviteHours=71"]).await?;
    all_vote(ground, &again, &["yes", "yes", "yes"]).await?;
    for member in MEMBERS {
        ends_as(ground, member, &again, "Enacted").await?;
    }
    Ok(())
}

/// Its author thinks again while the vote is open.
pub async fn withdrawn(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let proposal = ground.propose_release("bilbao", &format!("sha256:{}", "d4".repeat(32))).await?;
    all_vote(ground, &proposal, &["yes", "yes", "yes"]).await?;
    refused(ground, "cork", &["withdraw", &proposal], "only its author takes it back").await?;
    ground.koinon("bilbao", &["withdraw", &proposal]).await?;
    for member in MEMBERS {
        ends_as(ground, member, &proposal, "Withdrawn").await?;
    }
    Ok(())
}

/// Aarhus has an interest, cork is away and trusts bilbao.
pub async fn stood_in(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    ground.koinon("cork", &["delegate", "bilbao", "--class", "Routine", "--days", "2"]).await?;
    // A delegation counts for what opens after it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let proposal = ground.propose_release("bilbao", &format!("sha256:{}", "d5".repeat(32))).await?;
    vote(ground, "bilbao", &proposal, "no").await?;
    vote(ground, "aarhus", &proposal, "yes").await?;
    ground.koinon("aarhus", &["recuse", &proposal]).await?;
    for member in MEMBERS {
        let seen = ends_as(ground, member, &proposal, "Rejected").await?;
        ensure!(tally(&seen) == [0, 2, 1], "{member} counts {}", seen["status"]["tally"]);
    }
    ground.koinon("cork", &["delegate", "--end"]).await.map(drop)
}
