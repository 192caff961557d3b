//! The people's and the machines' keys, and what can be signed with them by somebody who does not play by the rules.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use koinon_core::body::Body;
use koinon_core::body::proposal::{Choice, Vote};
use koinon_core::dsse::{Envelope, SeedSigner};
use koinon_core::ids::{CoopId, Digest, StatementId, UnixSeconds};
use koinon_core::statement::{Draft, Position, Statement};
use koinon_e2e::Datacenter;
use koinon_e2e::story::RELEASE_NAMESPACE;
use koinon_e2e::story::look::{get, items};
use serde_json::{Value, json};

use koinon_e2e::ground::Ground;

/// Now.
pub fn now() -> Result<UnixSeconds> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(UnixSeconds(i64::try_from(since.as_secs())?))
}

/// The governance key of a person who keeps it without a passphrase: aarhus' and bilbao's.
pub fn governance_key(ground: &Ground, member: &str) -> Result<SeedSigner> {
    let path = ground.stage.desk(member).join("keys/governance.pem");
    let pem = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    signer(&pem).with_context(|| format!("reading {}", path.display()))
}

/// The operator's key, which whoever administers the cluster can read.
pub async fn operator_key(datacenter: &Datacenter) -> Result<SeedSigner> {
    let secret = get(datacenter, &["secret", "koinon-operator-key", "--namespace", RELEASE_NAMESPACE]).await?;
    let pem = STANDARD.decode(secret["data"]["key.pem"].as_str().context("the Secret has no key.pem")?)?;
    signer(std::str::from_utf8(&pem)?).context("reading the operator's key")
}

/// An Ed25519 key in PKCS#8 (RFC 8410): the seed is the 32 bytes behind a header of 16.
fn signer(pem: &str) -> Result<SeedSigner> {
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(text.trim()).context("the key is not PEM")?;
    ensure!(der.len() >= 48 && der[14..16] == [4, 32], "this is no Ed25519 key without a passphrase");
    let seed: [u8; 32] = der[16..48].try_into()?;
    Ok(SeedSigner::from_seed(&seed))
}

/// The cooperative's id, as a member's own resource has it.
pub async fn coop(datacenter: &Datacenter) -> Result<CoopId> {
    let cooperative = get(datacenter, &["kcoop", "cooperative", "--namespace", RELEASE_NAMESPACE]).await?;
    let id = cooperative["spec"]["id"].as_str().context("the Cooperative has no id")?;
    id.parse().with_context(|| format!("reading the cooperative's id {id}"))
}

/// What `author` would sign to vote.
pub fn ballot(coop: CoopId, author: &str, proposal: StatementId, choice: Choice, vseq: u32) -> Result<Draft> {
    let vote = Vote { proposal, choice, vseq, ground: None, reason: None };
    Ok(Draft {
        coop: Some(coop),
        author: author.parse()?,
        site: "main".parse()?,
        issued_at: now()?,
        position: Position::Human,
        body: Body::Vote(vote),
    })
}

/// A `Vote` as people apply it.
pub fn vote_resource(name: &str, proposal: StatementId, choice: &str, vseq: u32, envelope: &Envelope) -> Result<Value> {
    Ok(json!({
        "apiVersion": "koinon.dev/v1alpha1",
        "kind": "Vote",
        "metadata": {"name": name, "namespace": RELEASE_NAMESPACE},
        "spec": {
            "proposal": proposal.to_string(), "choice": choice, "vseq": vseq,
            "envelope": serde_json::to_value(envelope)?,
        },
    }))
}

/// The id of an envelope's payload, whoever signed it.
pub fn id_of(envelope: &Envelope) -> Result<StatementId> {
    Ok(StatementId(Digest::of(&STANDARD.decode(&envelope.payload)?)))
}

/// The envelope of a resource that people applied or the operator mirrored.
pub fn envelope_of(resource: &Value) -> Result<Envelope> {
    serde_json::from_value(resource["spec"]["envelope"].clone()).context("the resource carries no envelope")
}

/// Every log entry that a member's cluster holds, verified.
pub async fn entries(datacenter: &Datacenter) -> Result<Vec<Statement>> {
    let list = get(datacenter, &["kstmt", "--namespace", RELEASE_NAMESPACE]).await?;
    let statements = items(&list).iter().filter_map(|item| Statement::verify(envelope_of(item).ok()?).ok());
    Ok(statements.filter(|statement| statement.log_seq().is_some()).collect())
}

/// The ids of the human statements that are anchored in any log that the cluster holds.
pub async fn anchored(datacenter: &Datacenter) -> Result<BTreeSet<StatementId>> {
    let entries = entries(datacenter).await?;
    Ok(entries.iter().filter_map(|entry| entry.nested().map(Statement::id)).collect())
}
