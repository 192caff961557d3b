//! A member that the others no longer want, and what it can say to that.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use koinon_e2e::Fleet;
use koinon_e2e::ground::{Ground, ground, settled};
use koinon_e2e::said::refused;
use koinon_e2e::story::RELEASE_NAMESPACE;

use crate::checkpoints::audited;
use crate::decisions::{ends_as, proposed, tally, vote};
use crate::hosts::{Hosts, SHOWN, as_its_gateway};

const REMAIN: [&str; 2] = ["aarhus", "bilbao"];

/// Cork is to go, replies, appeals with something new, and has to go all the same; its keys then open nothing.
pub async fn after_an_appeal(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let meters = evidence(ground, "aarhus", "meters.csv", "what the meters showed")?;
    let first = proposed(ground, "aarhus", &["propose", "expel", "cork", "--evidence", &meters]).await?;
    ground.proposal_is("cork", &first, "Open").await?;
    ground.koinon("cork", &["reply", &first, "--text", "The meters are wrong"]).await?;
    decide(ground, &first).await?;
    for member in ["cork", "aarhus"] {
        ends_as(ground, member, &first, "Queued").await?;
    }
    let repair = evidence(ground, "cork", "repair.txt", "the meters were repaired in May")?;
    ground.koinon("cork", &["appeal", &first, "--evidence", &repair, "--text", "They were broken"]).await?;
    ends_as(ground, "aarhus", &first, "Appealed").await?;
    let shown = ground.koinon("bilbao", &["proposal", &first]).await?;
    ensure!(["The meters are wrong", "They were broken"].iter().all(|said| shown.contains(said)), "{shown}");
    // The one appeal that there is.
    let second = proposed(ground, "aarhus", &["propose", "expel", "cork", "--appeal", "sha256:"]).await?;
    decide(ground, &second).await?;
    for member in REMAIN {
        let seen = ends_as(ground, member, &second, "Enacted").await?;
        ensure!(tally(&seen) == [2, 0, 0], "{member} counts {}", seen["status"]["tally"]);
        let shown = ["kmem", "cork", "--namespace", RELEASE_NAMESPACE];
        settled(ground.member(member)?, &shown, "MayWork", "False", "Expelled", SHOWN).await?;
        // Two are left, and both audits tell the whole way, across the checkpoint.
        let told = audited(ground, member).await?;
        ensure!(told.contains("member cork Expelled "), "{member}'s audit does not show cork as expelled");
    }
    nothing_opens(ground).await?;
    // The two go on deciding.
    let release = ground.propose_release("bilbao", &format!("sha256:{}", "e1".repeat(32))).await?;
    decide(ground, &release).await?;
    for member in REMAIN {
        ends_as(ground, member, &release, "Enacted").await?;
    }
    Ok(())
}

/// A document at the desk of `member`, with what it shows.
fn evidence(ground: &Ground, member: &str, name: &str, shows: &str) -> Result<String> {
    let file = ground.stage.desk(member).join(name);
    std::fs::write(&file, shows).with_context(|| format!("writing {}", file.display()))?;
    Ok(format!("{}:{shows}", file.display()))
}

async fn decide(ground: &Ground, proposal: &str) -> Result<()> {
    let votes = REMAIN.map(|member| vote(ground, member, proposal, "yes"));
    futures::future::try_join_all(votes).await.map(drop)
}

/// Cork knows what was decided, proposes nothing any more, and no gateway lets its own in.
async fn nothing_opens(ground: &Ground) -> Result<()> {
    let own = ["kcoop", "cooperative", "--namespace", RELEASE_NAMESPACE];
    settled(ground.member("cork")?, &own, "Ready", "False", "Expelled", SHOWN).await?;
    let args = ["propose", "change-charter", "--set", "parameters.inviteHours=60"];
    refused(ground, "cork", &args, "cork").await?;
    let hosts = Hosts { suspended: "cork".to_owned(), other: "bilbao".to_owned() };
    let let_in = as_its_gateway(ground, &hosts).await;
    ensure!(let_in.is_err(), "bilbao's gateway answers cork's: {let_in:?}");
    Ok(())
}
