//! What becomes of proposals.

use anyhow::{Context as _, Result};
use koinon_e2e::ground::Ground;
use koinon_e2e::story::MEMBERS;

/// What `kubectl koinon propose …` proposed.
pub async fn proposed(ground: &Ground, by: &str, args: &[&str]) -> Result<String> {
    let printed = ground.koinon(by, args).await?;
    let line = printed.lines().find_map(|line| line.strip_prefix("proposed ")).context("nothing was proposed")?;
    Ok(line.split_whitespace().next().context("the proposal has no name")?.to_owned())
}

/// Every member votes, once its cluster knows the proposal.
pub async fn all_vote(ground: &Ground, proposal: &str, choices: &[&str; 3]) -> Result<()> {
    for (member, choice) in MEMBERS.iter().zip(choices) {
        vote(ground, member, proposal, choice).await?;
    }
    Ok(())
}

/// One member votes, once its cluster knows the proposal.
pub async fn vote(ground: &Ground, member: &str, proposal: &str, choice: &str) -> Result<()> {
    ground.proposal_is(member, proposal, "Open").await?;
    ground.koinon(member, &["vote", proposal, choice]).await.map(drop)
}
