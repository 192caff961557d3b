//! Which key speaks for a member while a vote is open.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use koinon_e2e::Fleet;
use koinon_e2e::ground::{Ground, ground, refused};
use koinon_e2e::story::look::{get, items, name, text};
use koinon_e2e::story::{MEMBERS, RELEASE_NAMESPACE};
use serde_json::Value;

use crate::decisions::{ends_as, proposed, tally, vote};

/// Bilbao votes on two changes of the charter, replaces its key, and thinks again about the second. Whoever finds the old key
/// votes with it on the first. Of each of the four votes it depends on what is decided.
pub async fn rotated(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let bilbao = ground.member("bilbao")?;
    let kept = proposed(ground, "aarhus", &["propose", "change-charter", "--set", "parameters.sponsors=2"]).await?;
    let changed = proposed(ground, "cork", &["propose", "change-charter", "--set", "parameters.sponsors=3"]).await?;
    for proposal in [&kept, &changed] {
        vote(ground, "bilbao", proposal, "yes").await?;
    }
    let said = ground.koinon("bilbao", &["keys", "rotate", "--yes"]).await?;
    ensure!(said.contains("in force: "), "the rotation is not in force: {said}");
    vote(ground, "bilbao", &changed, "no").await?;
    let stolen = with_the_old_key(ground, &kept).await?;
    for (member, [on_kept, on_changed]) in [("aarhus", ["yes", "no"]), ("cork", ["no", "yes"])] {
        vote(ground, member, &kept, on_kept).await?;
        vote(ground, member, &changed, on_changed).await?;
    }
    let why = refused(bilbao, &["kvote", &stolen, "--namespace", RELEASE_NAMESPACE], "Anchored", "KeyReplaced").await?;
    ensure!(why.contains("which its author has replaced"), "{why}");
    for member in MEMBERS {
        let seen = ends_as(ground, member, &changed, "Rejected").await?;
        ensure!(tally(&seen) == [1, 2, 0], "{member} counts for the second {}", seen["status"]["tally"]);
        // It waits for its time lock now; what it comes to is decided.
        let seen = ends_as(ground, member, &kept, "Queued").await?;
        ensure!(tally(&seen) == [2, 1, 0], "{member} counts for the first {}", seen["status"]["tally"]);
    }
    explained(ground, &kept, &changed, &stolen).await
}

/// A vote against `proposal` with the key that was replaced, signed without asking a cluster; the name of the Vote.
async fn with_the_old_key(ground: &Ground, proposal: &str) -> Result<String> {
    let bilbao = ground.member("bilbao")?;
    let desk = ground.stage.desk("bilbao");
    let (keys, file) = (desk.join("old-keys"), desk.join("proposal.yaml"));
    std::fs::create_dir_all(&keys).with_context(|| format!("making {}", keys.display()))?;
    let old = desk.join("keys/governance.old-1.pem");
    std::fs::copy(&old, keys.join("governance.pem")).with_context(|| format!("copying {}", old.display()))?;
    let signed = bilbao.kubectl(["get", "kprop", proposal, "--namespace", RELEASE_NAMESPACE, "-o", "yaml"]).await?;
    std::fs::write(&file, signed).with_context(|| format!("writing {}", file.display()))?;
    let [keys, file] = [&keys, &file].map(|path: &PathBuf| path.display().to_string());
    let args = ["--keys", &keys, "vote", "--proposal-file", &file, "--member", "bilbao", "--vseq", "1", "no"];
    let printed = ground.koinon("bilbao", &[args.as_slice(), &["--output", "yaml"]].concat()).await?;
    let vote: Value = serde_yaml::from_str(&printed).context("the vote is no YAML")?;
    bilbao.apply(&printed).await?;
    Ok(name(&vote).to_owned())
}

/// Each vote is explained: by which key, and whether it counts.
async fn explained(ground: &Ground, kept: &str, changed: &str, stolen: &str) -> Result<()> {
    let said = ground.koinon("bilbao", &["explain", &format!("vote/{stolen}")]).await?;
    ensure!(said.contains("it does not count") && said.contains("which its author has replaced"), "{said}");
    let votes = get(ground.member("bilbao")?, &["kvote", "--namespace", RELEASE_NAMESPACE]).await?;
    for (proposal, number, says) in [
        (kept, 0, ["no key of bilbao that is in force now", "It counts."]),
        (changed, 0, ["no key of bilbao that is in force now", "It does not count: "]),
        (changed, 1, ["a governance key of bilbao", "It counts."]),
    ] {
        let on = get(ground.member("bilbao")?, &["kprop", proposal, "--namespace", RELEASE_NAMESPACE]).await?;
        // Mirrors of the others' votes are listed too; what was refused has no author to show.
        let fits = |vote: &&Value| {
            let on_it = text(&vote["spec"], "proposal") == text(&on["status"], "id");
            on_it && vote["spec"]["vseq"] == number && text(&vote["status"], "author") == "bilbao"
        };
        let cast = items(&votes).iter().find(fits).with_context(|| format!("no vote {number} on {proposal}"))?;
        let said = ground.koinon("bilbao", &["explain", &format!("vote/{}", name(cast))]).await?;
        ensure!(says.iter().all(|part| said.contains(part)), "vote {number} on {proposal} is not {says:?}: {said}");
    }
    Ok(())
}
