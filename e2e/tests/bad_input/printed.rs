//! What is made on one machine and used on another: signed resources for git, and the backup of the operator's key.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use koinon_core::dsse::Signer as _;
use koinon_e2e::story::look::{get, name, poll};
use koinon_e2e::story::{MEMBERS, MODEL_URI, QUANTIZATION, RELEASE_NAMESPACE, REVISION, SERVED_NAME, TEAM};
use koinon_e2e::{Fleet, Poll, wait_until};

use crate::gateway::{Door, call};
use crate::people::operator_key;
use crate::restore::{Log, decide, log, no_fork_is_known, signs};
use koinon_e2e::ground::{Ground, REPLACED, and_then_cleaned, delete, ground, operators_ready, settled};
use koinon_e2e::said::{check, refused, rows, said};

/// The Secret of every operator's key.
const KEY: &str = "koinon-operator-key";

/// A proposal, its votes and an API key, each printed and then applied with `kubectl apply`.
pub async fn applied(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    proposal(ground).await?;
    api_key(ground).await
}

/// Nothing is applied by whoever prints; what is printed is what the operators take.
async fn proposal(ground: &Ground) -> Result<()> {
    let digest = format!("sha256:{}", "c2".repeat(32));
    let action = ["--revision", REVISION, "--manifest-digest", &digest, "--quantization", QUANTIZATION];
    let propose = ["propose", "-o", "yaml", "add-model-release", "--uri", MODEL_URI, "--license", "MIT"];
    let yaml = ground.koinon("aarhus", &[&propose[..], &action].concat()).await?;
    let aarhus = ground.member("aarhus")?;
    let made: serde_json::Value = serde_yaml::from_str(yaml.trim_start_matches("---\n"))?;
    let proposal = name(&made).to_owned();
    let there = aarhus.kubectl(["get", "kprop", &proposal, "--namespace", RELEASE_NAMESPACE, "--ignore-not-found"]);
    ensure!(there.await?.is_empty(), "printing {proposal} applied it too");
    aarhus.apply(&yaml).await?;
    for (member, choice) in [("aarhus", "no"), ("bilbao", "yes"), ("cork", "no")] {
        ground.proposal_is(member, &proposal, "Open").await?;
        let vote = ground.koinon(member, &["vote", &proposal, choice, "-o", "yaml", "--reason", "from git"]).await?;
        let made: serde_json::Value = serde_yaml::from_str(vote.trim_start_matches("---\n"))?;
        let at = ground.member(member)?;
        let there = ["get", "kvote", name(&made), "--namespace", RELEASE_NAMESPACE, "--ignore-not-found"];
        ensure!(at.kubectl(there).await?.is_empty(), "printing a vote of {member} applied it too");
        at.apply(&vote).await?;
    }
    for member in MEMBERS {
        let seen = ground.proposal_is(member, &proposal, "Rejected").await?;
        let tally = &seen["status"]["tally"];
        let counted = (tally["approve"].as_i64(), tally["reject"].as_i64());
        ensure!(counted == (Some(1), Some(2)), "{member} counts {tally}, not one for and two against");
    }
    refused(ground, "aarhus", &["vote", &proposal, "yes"], "the operator would refuse the vote").await.map(drop)
}

/// A key whose Secret came from git opens the gateway until it is revoked.
async fn api_key(ground: &Ground) -> Result<()> {
    let create = said(ground, "aarhus", &["apikey", "create", "from-git", "--namespace", TEAM, "-o", "yaml"]).await?;
    let key = create.err.lines().find(|line| line.starts_with("kk-")).context("no key was shown")?.to_owned();
    ensure!(create.done && !create.out.contains(&key), "the Secret for git holds the key: {}", create.out);
    let listed = ground.koinon("aarhus", &["apikey", "list"]).await?;
    ensure!(!listed.contains("from-git"), "printing a key made it: {listed}");
    ground.member("aarhus")?.apply(&create.out).await?;
    let listed = ground.koinon("aarhus", &["apikey", "list"]).await?;
    let row = rows(&listed).into_iter().find(|row| row.first() == Some(&"from-git"));
    ensure!(row.as_ref().and_then(|row| row.get(1)) == Some(&TEAM), "{listed}");
    refused(
        ground,
        "aarhus",
        &["apikey", "create", "from-git", "--namespace", TEAM],
        "there is a key from-git already",
    )
    .await?;
    let door = Door::open(ground).await?;
    answers(&door, &key, 200).await?;
    ground.koinon("aarhus", &["apikey", "revoke", "from-git"]).await?;
    answers(&door, &key, 401).await?;
    refused(ground, "aarhus", &["apikey", "revoke", "from-git"], "see kubectl koinon apikey list").await.map(drop)
}

async fn answers(door: &Door, key: &str, status: u16) -> Result<()> {
    wait_until(&format!("the gateway to answer {status}"), Duration::from_secs(30), || async {
        match door.post(Some(key), call(SERVED_NAME)).send().await {
            Ok(answer) => Poll::<()>::when(answer.status().as_u16() == status, answer.status()),
            Err(error) => Poll::not_yet(error),
        }
    })
    .await
}

/// The key's Secret is lost and the operator starts anew: it makes no other key, says what to do, and goes on as the same
/// member once the backup is back.
pub async fn key_lost(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let (member, at) = (ground.idle.as_str(), ground.member(&ground.idle)?);
    let key = operator_key(at).await?.public_key().to_string();
    let before = log(at, member).await?;
    let file = ground.stage.desk(member).join("operator-key.pem");
    let backup = file.to_str().context("the desk's path is not text")?;
    let printed = ground.koinon(member, &["keys", "backup", "--out", backup]).await?;
    ensure!(printed.contains(&key), "the backup names another key than {key}: {printed}");
    protected(&file)?;
    refused(ground, member, &["keys", "backup", "--out", backup], "exists already").await?;
    let there = ground.koinon(member, &["keys", "restore", backup]).await?;
    ensure!(there.contains(&format!("{key} is there already")), "{there}");

    at.kubectl(["delete", "secret", KEY, "--namespace", RELEASE_NAMESPACE]).await?;
    let operator = ["--namespace", RELEASE_NAMESPACE, "--selector", "app.kubernetes.io/component=operator"];
    at.kubectl([&["delete", "pod"], operator.as_slice()].concat()).await?;
    let found = lost(ground).await;
    // Whatever was found, the member needs its key: one that somebody made meanwhile is in the way.
    if found.is_err() {
        delete(at, &["secret", KEY, "--namespace", RELEASE_NAMESPACE]).await?;
    }
    let restored = ground.koinon(member, &["keys", "restore", backup]).await.map(drop);
    std::fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    and_then_cleaned(found, restored)?;
    same(ground, &key, &before).await
}

fn protected(file: &Path) -> Result<()> {
    let mode = std::fs::metadata(file)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "the backup may be read by others: {mode:o}");
    let text = std::fs::read_to_string(file)?;
    ensure!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "the backup is not encrypted");
    Ok(())
}

/// What an operator says that finds a membership and no key, and what the doctor makes of it.
async fn lost(ground: &Ground) -> Result<()> {
    let (member, at) = (ground.idle.as_str(), ground.member(&ground.idle)?);
    let cooperative = ["kcoop", "cooperative", "--namespace", RELEASE_NAMESPACE];
    let said_why = settled(at, &cooperative, "Joined", "False", "KeyMissing", REPLACED).await?;
    ensure!(said_why.contains("kubectl koinon keys restore"), "the Cooperative should say what to do: {said_why}");
    let secret = ["get", "secret", KEY, "--namespace", RELEASE_NAMESPACE, "--ignore-not-found"];
    ensure!(at.kubectl(secret).await?.is_empty(), "a member without its key made another one");
    let doctor = said(ground, member, &["doctor"]).await?;
    for what in ["operator key", "Joined"] {
        let found = check(&doctor, what)?;
        ensure!(found.mark == "BAD" && found.fix.contains("kubectl koinon keys restore"), "{what}: {found:?}");
    }
    ensure!(!doctor.done, "the doctor finds nothing wrong with a member without a key");
    Ok(())
}

/// The same key, the same log, which grows; and nobody knows of a fork.
async fn same(ground: &Ground, key: &str, before: &Log) -> Result<()> {
    let (member, at) = (ground.idle.as_str(), ground.member(&ground.idle)?);
    operators_ready(at, 1).await?;
    signs(at).await?;
    ground.all_fresh().await?;
    let now = operator_key(at).await?.public_key().to_string();
    ensure!(now == key, "the restored key is {now}, the lost one was {key}");
    decide(ground, "c3").await?;
    let after = log(ground.member("aarhus")?, member).await?;
    ensure!(
        before.iter().all(|(seq, id)| after.get(seq) == Some(id)) && after.len() > before.len(),
        "the log went another way: {} entries before, {} after",
        before.len(),
        after.len()
    );
    resumed(ground).await?;
    no_fork_is_known(ground).await?;
    ground.story_still_served().await
}

/// `resume` says what it would do, and does it only when told to; an operator that signs already takes the word off again.
async fn resumed(ground: &Ground) -> Result<()> {
    let (member, at) = (ground.idle.as_str(), ground.member(&ground.idle)?);
    let cooperative = ["kcoop", "cooperative", "--namespace", RELEASE_NAMESPACE];
    let said = ground.koinon(member, &["resume"]).await?;
    ensure!(said.contains("run again with --yes"), "{said}");
    let seen = get(at, &cooperative).await?;
    ensure!(seen["metadata"]["annotations"]["koinon.dev/resume"].is_null(), "resume did it without being told to");
    ground.koinon(member, &["resume", "--yes"]).await?;
    wait_until("the word to resume to be taken off", Duration::from_secs(30), || {
        poll(at, &cooperative, |seen| {
            let word = &seen["metadata"]["annotations"]["koinon.dev/resume"];
            Poll::<()>::when(word.is_null(), word)
        })
    })
    .await
}
