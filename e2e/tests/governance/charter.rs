//! Rules and numbers.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use koinon_core::body::Class;
use koinon_core::body::proposal::ChangeCharter;
use koinon_core::ids::Seconds;
use koinon_e2e::Fleet;
use koinon_e2e::ground::{Ground, ground};
use koinon_e2e::said::refused;
use koinon_e2e::story::look::{get, items, text};
use koinon_e2e::story::{MEMBERS, RELEASE_NAMESPACE};

use crate::decisions::{all_vote, proposed};

/// Votes stay open this long, and operators then have a grace twice. Three people vote within 3 s, 8 s beside another suite.
const PERIOD: Seconds = Seconds(12);
const GRACE: Seconds = Seconds(2);
/// The same for what is voted of class Charter: within it a key is rotated.
const LONG_PERIOD: Seconds = Seconds(20);
/// From the close of a Charter vote to its effect: it is sealed after two graces, and a vote to cancel it closes three
/// graces before.
const TIMELOCK: Seconds = Seconds(30);

/// From the close of a vote to expel to its effect: within it the member appeals.
const APPEAL: Seconds = Seconds(20);

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

/// Longer time locks and shorter periods, by a vote of class Charter.
pub async fn changed(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let (_, mut numbers) = charter(ground, "cork").await?;
    numbers.parameters.grace_seconds = GRACE;
    numbers.parameters.close_when_all_voted = false;
    if let Some(deliberation) = &mut numbers.parameters.deliberation {
        // What is younger is needed to tell who is silent: with 30 days a checkpoint would have nothing to let go.
        deliberation.members.dormant_after_seconds = Seconds(60);
    }
    for (class, rules) in &mut numbers.classes {
        (rules.period_seconds, rules.timelock_seconds) = match class {
            Class::Charter => (LONG_PERIOD, TIMELOCK),
            Class::Expel => (PERIOD, APPEAL),
            _ => (PERIOD, Seconds(0)),
        };
    }
    let file = ground.stage.desk("cork").join("charter.yaml");
    std::fs::write(&file, serde_yaml::to_string(&serde_json::to_value(&numbers)?)?)
        .with_context(|| format!("writing {}", file.display()))?;
    let file = file.to_str().context("the desk's path is not text")?;
    let change = proposed(ground, "cork", &["propose", "change-charter", file]).await?;
    all_vote(ground, &change, &["yes", "yes", "yes"]).await?;
    for member in MEMBERS {
        ground.proposal_is(member, &change, "Enacted").await?;
        let (_, now) = charter(ground, member).await?;
        ensure!(now == numbers, "{member} has other numbers: {now:?}");
    }
    let seen = get(ground.member("bilbao")?, &["kcoop", "cooperative", "--namespace", RELEASE_NAMESPACE]).await?;
    let heads = seen["status"]["policyHeads"].as_array().context("bilbao shows no policy heads")?;
    let shown = heads.iter().find(|head| head["scope"] == "charter").map(|head| text(head, "version"));
    let enacted = get(ground.member("bilbao")?, &["kprop", &change, "--namespace", RELEASE_NAMESPACE]).await?;
    ensure!(shown == enacted["status"]["policyVersion"].as_str(), "{shown:?} is not {}", enacted["status"]);
    // What leaves the charter's bounds is refused before anybody votes on it.
    numbers.parameters.fresh_seconds = numbers.parameters.lost_seconds;
    let bad = ground.stage.desk("cork").join("bad-charter.yaml");
    std::fs::write(&bad, serde_yaml::to_string(&serde_json::to_value(&numbers)?)?)?;
    let bad = bad.to_str().context("the desk's path is not text")?;
    let says = "lostSeconds must be greater than freshSeconds";
    refused(ground, "cork", &["propose", "change-charter", bad], says).await?;
    let shown = get(ground.member("aarhus")?, &["kprop", &change, "--namespace", RELEASE_NAMESPACE]).await?;
    ensure!(text(&shown["spec"], "class") == "Charter", "{}", shown["spec"]);
    Ok(())
}
