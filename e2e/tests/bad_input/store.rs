//! Objects in the store that nobody can read.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use koinon_e2e::story::RELEASE_NAMESPACE;
use koinon_e2e::story::look::get;
use koinon_e2e::{Datacenter, Fleet, Poll, wait_until};
use serde_json::{Value, json};

use koinon_e2e::ground::{and_then_cleaned, delete, ground, kill_operators, metrics, operator_metric, operators_ready};

const VOTES: &str = "votes.koinon.dev";
const BAD_VOTE: &str = "bad-undecodable";
const BAD_STATEMENT: &str = "s-0000000000000000000000000000000000000000";

/// Lets the API server take any choice, as an older or newer definition might, or only the known ones again.
async fn any_choice(datacenter: &Datacenter, known: &Value) -> Result<()> {
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/choice/enum";
    let patch = match known {
        Value::Null => json!([{"op": "remove", "path": path}]),
        known => json!([{"op": "add", "path": path, "value": known}]),
    };
    let args = ["patch", "crd", VOTES, "--type=json", "--patch", &patch.to_string()];
    datacenter.kubectl(args).await.map(drop)
}

/// Waits until the operator, which had counted nothing when it started, says that a stored statement does not hold.
async fn noticed(datacenter: &Datacenter) -> Result<()> {
    let sample = "koinon_statements_refused_total{reason=\"Spoilt\"}";
    wait_until("the rubbish statement to be noticed", Duration::from_secs(45), || async {
        match metrics(datacenter, "operator", 9090).await {
            // Once at each attempt to begin.
            Ok(found) => Poll::<()>::when(found.get(sample).is_some_and(|count| *count >= 1.0), found.len()),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}

/// A vote that no version can read, and a statement of rubbish, lie among the good ones; the operator starts with them too.
pub async fn undecodable(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let aarhus = ground.member("aarhus")?;
    let definition = get(aarhus, &["crd", VOTES]).await?;
    let known = definition
        .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/choice/enum")
        .context("the definition lists no choices")?
        .clone();
    let vote = json!({
        "apiVersion": "koinon.dev/v1alpha1", "kind": "Vote",
        "metadata": {"name": BAD_VOTE, "namespace": RELEASE_NAMESPACE},
        "spec": {"proposal": format!("sha256:{}", "c3".repeat(32)), "choice": "Perhaps"},
    });
    let rubbish = json!({
        "apiVersion": "koinon.dev/v1alpha1", "kind": "Statement",
        "metadata": {
            "name": BAD_STATEMENT, "namespace": RELEASE_NAMESPACE,
            "labels": {"koinon.dev/author": "bilbao", "koinon.dev/kind": "anchor"},
        },
        "spec": {"envelope": {
            "payloadType": "application/vnd.koinon.anchor.v1+json", "payload": "bm90aGluZw==",
            "signatures": [{"keyid": format!("ed25519:{}", "11".repeat(32)), "sig": "A".repeat(86) + "=="}],
        }},
    });
    any_choice(aarhus, &Value::Null).await?;
    let result = beside_the_good(ground, aarhus, &vote, &rubbish).await;
    // However it went: the next case finds the definitions and the store as they were.
    let cleaned = async {
        any_choice(aarhus, &known).await?;
        delete(aarhus, &["kvote", "--namespace", RELEASE_NAMESPACE, BAD_VOTE]).await?;
        delete(aarhus, &["kstmt", "--namespace", RELEASE_NAMESPACE, BAD_STATEMENT]).await?;
        operator_metric(aarhus, "koinon_undecodable_objects{kind=\"Vote\"}", 0.0).await
    };
    and_then_cleaned(result, cleaned.await)
}

async fn beside_the_good(
    ground: &koinon_e2e::ground::Ground,
    aarhus: &Datacenter,
    vote: &Value,
    rubbish: &Value,
) -> Result<()> {
    wait_until("the API server to take any choice", Duration::from_secs(20), || async {
        match aarhus.apply(&vote.to_string()).await {
            Ok(_) => Poll::Ready(()),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await?;
    aarhus.apply(&rubbish.to_string()).await?;
    operator_metric(aarhus, "koinon_undecodable_objects{kind=\"Vote\"}", 1.0).await?;
    // It also begins with them in the store.
    kill_operators(aarhus).await?;
    operators_ready(aarhus, 1).await?;
    operator_metric(aarhus, "koinon_undecodable_objects{kind=\"Vote\"}", 1.0).await?;
    // Statements are read at the start, and what the rubbish is worth is noticed then.
    noticed(aarhus).await?;
    let left = get(aarhus, &["kstmt", BAD_STATEMENT, "--namespace", RELEASE_NAMESPACE]).await?;
    ensure!(left["spec"]["envelope"] == rubbish["spec"]["envelope"], "the rubbish was not left as it is: {left}");
    let proposal = ground.propose_release("aarhus", &format!("sha256:{}", "a3".repeat(32))).await?;
    for member in ["aarhus", "bilbao", "cork"] {
        ground.proposal_is(member, &proposal, "Open").await?;
        ground.koinon(member, &["vote", &proposal, "no"]).await?;
    }
    let seen = ground.proposal_is("aarhus", &proposal, "Rejected").await?;
    ensure!(seen["status"]["tally"]["reject"] == 3, "not all good votes count: {}", seen["status"]["tally"]);
    ground.all_fresh().await
}
