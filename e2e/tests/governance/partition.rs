//! A vote that closes while one member is cut off.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Result, ensure};
use koinon_e2e::Fleet;
use koinon_e2e::ground::{and_then_cleaned, ground};
use koinon_e2e::story::look::get;
use koinon_e2e::story::{MEMBERS, RELEASE_NAMESPACE};
use serde_json::Value;

use crate::decisions::{ends_as, vote};
use crate::work::served;

/// Cork votes alone, on the far side of a cut, and hears of the decision later; all three then show the same one.
pub async fn across_a_close(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let cork = ground.member("cork")?;
    let proposal = ground.propose_release("aarhus", &format!("sha256:{}", "d2".repeat(32))).await?;
    ground.proposal_is("cork", &proposal, "Open").await?;
    cork.cut()?;
    let result = async {
        for (member, choice) in [("aarhus", "yes"), ("bilbao", "yes"), ("cork", "no")] {
            vote(ground, member, &proposal, choice).await?;
        }
        for member in ["aarhus", "bilbao"] {
            ends_as(ground, member, &proposal, "Enacted").await?;
        }
        // Alone, cork seals nothing: it still has the vote closing, and its own vote in its own log.
        let alone = get(cork, &["kprop", &proposal, "--namespace", RELEASE_NAMESPACE]).await?;
        let state = alone["status"]["state"].as_str().unwrap_or_default();
        ensure!(["Closing", "Stalled"].contains(&state), "cork alone says {state}: {}", alone["status"]);
        Ok(())
    };
    let result = result.await;
    let cleaned = async {
        cork.mend()?;
        ground.all_fresh().await
    };
    and_then_cleaned(result, cleaned.await)?;
    let mut seen = BTreeSet::new();
    for member in MEMBERS {
        let enacted = ends_as(ground, member, &proposal, "Enacted").await?;
        let version = enacted["status"]["policyVersion"].clone();
        let all = get(ground.member(member)?, &["kpol", "--namespace", RELEASE_NAMESPACE]).await?;
        let made = all["items"].as_array().into_iter().flatten().find(|one| one["status"]["version"] == version);
        let root = made.map(|one| one["status"]["root"].clone()).unwrap_or(Value::Null);
        ensure!(root.is_string(), "{member} shows no root for {version}");
        seen.insert((version.to_string(), root.to_string()));
    }
    ensure!(seen.len() == 1, "the members show different boxes: {seen:?}");
    // If cork hosts the job, it was cut off for about as long as the charter lets a host be silent.
    served(ground).await.map(drop)
}
