//! The member that gets other keys proves that it holds them: it signs the proposal with each of them.

use std::path::Path;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Secret;
use koinon_api::labels;
use koinon_core::body::standing::ResetKeys;
use koinon_core::body::{Action, Body};
use koinon_core::dsse::{SeedSigner, Signer as _};
use koinon_core::statement::Statement;

use super::{read_signed, write_envelope};
use crate::access::Access;
use crate::cluster::Cluster;
use crate::confirm::confirm;
use crate::keyfile;

/// The keys that a proposal would give a member.
pub fn of(statement: &Statement) -> Option<&ResetKeys> {
    match statement.body() {
        Body::Proposal(body) => match &body.action {
            Action::ResetKeys(reset) => Some(reset),
            _ => None,
        },
        _ => None,
    }
}

/// Signs the proposal in a file with those of its new keys that are held here. The cluster need not know the cooperative: it
/// may have lost everything.
///
/// # Errors
/// Where none of the keys is held here.
pub async fn co_sign(access: &Access, cluster: &Cluster, path: &Path, yes: bool) -> anyhow::Result<()> {
    let statement = read_signed(path)?;
    let reset = of(&statement).context("the proposal resets no keys")?;
    println!("{} proposes to give {} these keys:", statement.author(), reset.member);
    print!("{}", serde_yaml::to_string(&reset.keys)?);
    let governance = access.governance_key()?;
    let mut held = Vec::new();
    if governance.exists() {
        held.push(keyfile::read(&governance)?);
    }
    held.extend(operator(cluster).await?);
    confirm("Sign this with the keys that are held here?", yes)?;
    let signed = add(path, &held)?;
    println!("signed {} with {}", path.display(), signed.join(" and "));
    println!("send it back to {}, who runs: kubectl koinon propose --signed {}", statement.author(), path.display());
    Ok(())
}

/// Adds the signatures of the new keys among `held`.
pub(super) fn add(path: &Path, held: &[SeedSigner]) -> anyhow::Result<Vec<String>> {
    let statement = read_signed(path)?;
    let reset = of(&statement).context("the proposal resets no keys")?;
    let new = |signer: &&SeedSigner| {
        let key = signer.public_key();
        reset.keys.governance.contains(&key) || reset.keys.operator == key
    };
    let (mut envelope, mut signed) = (statement.envelope().clone(), Vec::new());
    for signer in held.iter().filter(new) {
        envelope.co_sign(signer).context("cannot sign the proposal")?;
        signed.push(signer.public_key().to_string());
    }
    if signed.is_empty() {
        bail!(
            "neither the governance key nor the operator key here is one of the new keys: give the key's directory with \
             --keys DIR, and compare with kubectl koinon keys new"
        );
    }
    write_envelope(path, &Statement::verify(envelope).context("the proposal does not hold")?)?;
    Ok(signed)
}

async fn operator(cluster: &Cluster) -> anyhow::Result<Option<SeedSigner>> {
    let found = cluster.api::<Secret>().get_opt(labels::OPERATOR_KEY_SECRET).await;
    let secret = found.context("cannot read the operator's key Secret")?;
    let pem = secret.and_then(|secret| secret.data?.remove(labels::OPERATOR_KEY_ENTRY));
    let name = Path::new(labels::OPERATOR_KEY_SECRET);
    Ok(pem.map(|pem| keyfile::from_pem(name, &pem.0)).transpose()?)
}
