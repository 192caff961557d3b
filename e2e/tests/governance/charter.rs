//! Rules and numbers.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use koinon_core::body::proposal::ChangeCharter;
use koinon_e2e::Fleet;
use koinon_e2e::ground::{Ground, ground};
use koinon_e2e::said::refused;
use koinon_e2e::story::look::{get, items};
use koinon_e2e::story::{MEMBERS, RELEASE_NAMESPACE};

use crate::decisions::{all_vote, proposed};

/// What a member says of the charter that is in force: the rules and their version.
async fn charter(ground: &Ground, member: &str) -> Result<(String, ChangeCharter)> {
    let printed = ground.koinon(member, &["charter"]).await?;
    let first = printed.lines().next().context("nothing was printed")?.to_owned();
    let numbers: serde_json::Value = serde_yaml::from_str(&printed).context("the charter is no YAML")?;
    Ok((first, serde_json::from_value(numbers).context("the charter cannot be read back")?))
}

/// The step itself is a vote under the rules before.
pub async fn complete_rules(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    ensure!(
        charter(ground, "aarhus").await?.0.starts_with("# rules 1;"),
        "the cooperative does not begin with rules 1"
    );
    refused(ground, "bilbao", &["delegate", "cork"], "decides by rules 1").await?;
    let step = proposed(ground, "aarhus", &["propose", "set-rules"]).await?;
    all_vote(ground, &step, &["yes", "yes", "yes"]).await?;
    for member in MEMBERS {
        ground.proposal_is(member, &step, "Enacted").await?;
        let (said, _) = charter(ground, member).await?;
        ensure!(said.starts_with("# rules 2;"), "{member} decides by {said}");
    }
    // The first decision by them, with offers and seals that name them.
    let release = ground.propose_release("bilbao", &format!("sha256:{}", "d1".repeat(32))).await?;
    all_vote(ground, &release, &["yes", "yes", "no"]).await?;
    for member in MEMBERS {
        ground.proposal_is(member, &release, "Enacted").await?;
    }
    for kind in ["box-offer", "close-seal", "enact-seal"] {
        let selector = format!("koinon.dev/kind={kind}");
        let list =
            get(ground.member("cork")?, &["kstmt", "--namespace", RELEASE_NAMESPACE, "--selector", &selector]).await?;
        ensure!(items(&list).len() >= 2, "cork holds {} {kind} entries", items(&list).len());
    }
    Ok(())
}
