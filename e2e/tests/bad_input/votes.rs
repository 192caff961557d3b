//! Votes and proposals that somebody applied and that do not hold.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use koinon_core::body::proposal::Choice;
use koinon_core::dsse::{Envelope, SeedSigner, Signer as _};
use koinon_core::ids::{CoopId, Digest, StatementId};
use koinon_core::kind::Kind;
use koinon_e2e::Fleet;
use koinon_e2e::story::RELEASE_NAMESPACE;
use koinon_e2e::story::look::get;
use serde_json::{Value, json};

use crate::people::{anchored, ballot, coop, envelope_of, governance_key, id_of, operator_key, vote_resource};
use koinon_e2e::ground::{Ground, delete, ground, refused, settled};

/// A vote that must not count.
struct Bad {
    /// The resource's name.
    name: &'static str,
    /// What was signed.
    envelope: Envelope,
    /// The choice that the typed field shows.
    shown: &'static str,
    /// The reason for which it is not accepted.
    reason: &'static str,
    /// Words of the message.
    says: &'static str,
}

/// Replaces a piece of a payload that occurs once.
fn changed(payload: &[u8], from: &str, to: &str) -> Result<Vec<u8>> {
    let text = std::str::from_utf8(payload)?;
    ensure!(text.matches(from).count() == 1, "{from} occurs {} times in {text}", text.matches(from).count());
    Ok(text.replace(from, to).into_bytes())
}

async fn bad_votes(ground: &Ground, coop: CoopId, proposal: StatementId) -> Result<Vec<Bad>> {
    let bilbao = governance_key(ground, "bilbao")?;
    let stranger = SeedSigner::from_seed(&[7; 32]);
    let operator = operator_key(ground.member("bilbao")?).await?;
    // Each has another number, so that each is another statement.
    let signed = |vseq| ballot(coop, "bilbao", proposal, Choice::Yes, vseq);
    let payload_type = Kind::Vote.payload_type();

    let mut forged = signed(10)?.envelope(&bilbao)?;
    forged.signatures[0].sig =
        Envelope::sign(&payload_type, &STANDARD.decode(&forged.payload)?, &stranger).signatures[0].sig.clone();
    let mut one_byte = signed(11)?.envelope(&bilbao)?;
    one_byte.payload = STANDARD.encode(changed(&STANDARD.decode(&one_byte.payload)?, "\"yes\"", "\"no\" ")?);
    let (_, payload) = signed(12)?.payload(bilbao.public_key())?;
    let twice = changed(&payload, "\"choice\":\"yes\"", "\"choice\":\"no\",\"choice\":\"yes\"")?;
    let elsewhere = ballot(CoopId(Digest([9; 32])), "bilbao", proposal, Choice::Yes, 13)?;
    let outsider = ballot(coop, "dublin", proposal, Choice::Yes, 14)?;
    let unknown_key = signed(15)?;
    Ok(vec![
        Bad {
            name: "bad-forged",
            envelope: forged,
            shown: "Approve",
            reason: "InvalidSignature",
            says: "does not verify",
        },
        Bad {
            name: "bad-one-byte",
            envelope: one_byte,
            shown: "Reject",
            reason: "InvalidSignature",
            says: "the payload or its type was changed",
        },
        Bad {
            name: "bad-duplicate-keys",
            envelope: Envelope::sign(&payload_type, &twice, &bilbao),
            shown: "Approve",
            reason: "PayloadMalformed",
            says: "choice",
        },
        Bad {
            name: "bad-foreign",
            envelope: elsewhere.envelope(&bilbao)?,
            shown: "Approve",
            reason: "ForeignCooperative",
            says: "sha256:0909",
        },
        Bad {
            name: "bad-operator-key",
            envelope: signed(16)?.envelope(&operator)?,
            shown: "Approve",
            reason: "OperatorKeyNotAllowed",
            says: "an operator key cannot vote",
        },
        Bad {
            name: "bad-unknown-key",
            envelope: unknown_key.envelope(&stranger)?,
            shown: "Approve",
            reason: "UnknownKey",
            says: "no governance key",
        },
        Bad {
            name: "bad-outsider",
            envelope: outsider.envelope(&stranger)?,
            shown: "Approve",
            reason: "NotElector",
            says: "dublin",
        },
        Bad {
            name: "bad-mismatch",
            envelope: signed(17)?.envelope(&bilbao)?,
            shown: "Reject",
            reason: "EnvelopeMismatch",
            says: "spec.choice",
        },
    ])
}

/// Eight bad votes of bilbao among three good ones.
pub async fn votes(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let bilbao = ground.member("bilbao")?;
    let coop = coop(bilbao).await?;
    let digest = format!("sha256:{}", "a1".repeat(32));
    let name = ground.propose_release("aarhus", &digest).await?;
    let proposal = ground.proposal_is("bilbao", &name, "Open").await?;
    let id = id_of(&envelope_of(&proposal)?)?;
    let bad = bad_votes(ground, coop, id).await?;
    for vote in &bad {
        bilbao
            .apply(&vote_resource(vote.name, id, vote.shown, vseq(&vote.envelope)?, &vote.envelope)?.to_string())
            .await?;
    }
    for Bad { name, reason, says, .. } in &bad {
        let message = refused(bilbao, &["kvote", name, "--namespace", RELEASE_NAMESPACE], "Accepted", reason).await?;
        ensure!(message.contains(says), "{name} should say {says}, it says: {message}");
    }
    // The good ones among them still count, and decide.
    for (member, choice) in [("aarhus", "no"), ("bilbao", "no"), ("cork", "yes")] {
        ground.proposal_is(member, &name, "Open").await?;
        ground.koinon(member, &["vote", &name, choice]).await?;
    }
    for member in ["aarhus", "bilbao", "cork"] {
        let seen = ground.proposal_is(member, &name, "Rejected").await?;
        let tally = &seen["status"]["tally"];
        ensure!(
            (tally["approve"].as_i64(), tally["reject"].as_i64()) == (Some(1), Some(2)),
            "{member} counts {tally}, not one for and two against"
        );
        let anchored = anchored(ground.member(member)?).await?;
        for vote in &bad {
            let id = id_of(&vote.envelope)?;
            ensure!(!anchored.contains(&id), "{member} holds an anchor of {}", vote.name);
        }
        ensure!(anchored.contains(&id), "{member} holds no anchor of the proposal itself");
    }
    let names: Vec<&str> = bad.iter().map(|vote| vote.name).collect();
    delete(bilbao, &[&["kvote", "--namespace", RELEASE_NAMESPACE], names.as_slice()].concat()).await
}

/// The number that stands in a vote's payload, whether or not that is strict JSON.
fn vseq(envelope: &Envelope) -> Result<u32> {
    let payload: Value = serde_json::from_slice(&STANDARD.decode(&envelope.payload)?)?;
    u32::try_from(payload["body"]["vseq"].as_i64().context("the vote has no number")?).context("reading its number")
}

/// Proposals are judged by the same gate: a changed title, a forged signature, one for another cooperative.
pub async fn proposals(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let aarhus = ground.member("aarhus")?;
    let digest = format!("sha256:{}", "a2".repeat(32));
    let good = ground.propose_release("aarhus", &digest).await?;
    let resource = ground.proposal_is("aarhus", &good, "Open").await?;
    let applied = |name: &str, spec: Value| {
        json!({
            "apiVersion": "koinon.dev/v1alpha1", "kind": "Proposal",
            "metadata": {"name": name, "namespace": RELEASE_NAMESPACE}, "spec": spec,
        })
    };
    let with = |path: &str, value: Value| -> Result<Value> {
        let mut spec = resource["spec"].clone();
        *spec.pointer_mut(path).with_context(|| format!("the proposal has no {path}"))? = value;
        Ok(spec)
    };
    let stranger = SeedSigner::from_seed(&[7; 32]);
    let payload = STANDARD.decode(&envelope_of(&resource)?.payload)?;
    let forged = Envelope::sign(&Kind::Proposal.payload_type(), &payload, &stranger).signatures[0].sig.clone();
    let cases = [
        ("bad-title", with("/title", json!("Free ice cream"))?, "EnvelopeMismatch", "spec.title"),
        ("bad-signature", with("/envelope/signatures/0/sig", json!(forged))?, "InvalidSignature", "does not verify"),
    ];
    for (name, spec, reason, says) in cases {
        aarhus.apply(&applied(name, spec).to_string()).await?;
        let message = refused(aarhus, &["kprop", name, "--namespace", RELEASE_NAMESPACE], "Accepted", reason).await?;
        ensure!(message.contains(says), "{name} should say {says}, it says: {message}");
        let shown = get(aarhus, &["kprop", name, "--namespace", RELEASE_NAMESPACE]).await?;
        ensure!(shown["status"]["state"] != "Open", "{name} is open for votes");
        delete(aarhus, &["kprop", name, "--namespace", RELEASE_NAMESPACE]).await?;
    }
    // What it was made from is as good as before.
    let args = ["kprop", good.as_str(), "--namespace", RELEASE_NAMESPACE];
    settled(aarhus, &args, "Anchored", "True", "Anchored", Duration::from_secs(30)).await?;
    for member in ["aarhus", "bilbao", "cork"] {
        ground.proposal_is(member, &good, "Open").await?;
        ground.koinon(member, &["vote", &good, "no"]).await?;
    }
    ground.proposal_is("aarhus", &good, "Rejected").await.map(drop)
}
