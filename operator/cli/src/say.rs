//! What people sign that has no resource of its own: it is applied as a `Statement`, which the operator anchors.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use koinon_api::conditions::{self, ConditionType};
use koinon_api::{Statement as Resource, labels, names};
use koinon_core::body::Body;
use koinon_core::dsse::{SeedSigner, Signer};
use koinon_core::ids::UnixSeconds;
use koinon_core::policy::{KeyProblem, NotAnchored, State};
use koinon_core::statement::{Draft, Position, Statement};

use crate::access::Access;
use crate::cluster::{Cluster, Membership, now, to_api};
use crate::keyfile;
use crate::output::{Output, print_yaml};

/// Signs `body` with the governance key and applies it, or prints it; whether it was applied.
///
/// # Errors
/// Where the key cannot be read, the operator would refuse the statement, or the API server refuses the resource.
pub async fn say(
    access: &Access,
    cluster: &Cluster,
    membership: &Membership,
    state: &State,
    body: Body,
    output: Option<Output>,
) -> anyhow::Result<bool> {
    let signer = keyfile::read(&access.governance_key()?)?;
    let statement = signed(membership, body, &[&signer])?;
    check(state, membership, &statement)?;
    submit(cluster, &statement, output).await
}

/// `body` as this member's, signed by each of `signers`; the first one's key stands in the header.
///
/// # Errors
/// Where there is no signer, or the body is not one that can be signed.
pub fn signed(membership: &Membership, body: Body, signers: &[&SeedSigner]) -> anyhow::Result<Statement> {
    let (first, others) = signers.split_first().context("no key signs it")?;
    let draft = Draft {
        coop: Some(membership.coop),
        author: membership.member.clone(),
        site: membership.site.clone(),
        issued_at: now(),
        position: Position::Human,
        body,
    };
    let others: Vec<&dyn Signer> = others.iter().map(|signer| *signer as &dyn Signer).collect();
    draft.sign(*first, &others).context("cannot sign")
}

/// Asks the rules that the operator will ask.
///
/// # Errors
/// Where it would not give the statement a place in its log, with what to do.
pub fn check(state: &State, membership: &Membership, statement: &Statement) -> anyhow::Result<()> {
    check_at(state, membership, statement, now())
}

/// The same at another time.
///
/// # Errors
/// See [`check`].
pub fn check_at(state: &State, membership: &Membership, statement: &Statement, now: UnixSeconds) -> anyhow::Result<()> {
    match state.may_anchor(&membership.member, statement, now) {
        Ok(()) => Ok(()),
        Err(NotAnchored::UnknownProposal) => {
            eprintln!("this cluster's log does not hold what it is about yet: the operator waits for it");
            Ok(())
        }
        Err(why) => match fix(&why) {
            Some(fix) => bail!("the operator would refuse it: {why}\n  fix: {fix}"),
            None => bail!("the operator would refuse it: {why}"),
        },
    }
}

/// What to do about a refusal.
fn fix(why: &NotAnchored) -> Option<&'static str> {
    Some(match why {
        NotAnchored::WrongKeyRole(_) | NotAnchored::KeyReplaced(_) => {
            "sign with a governance key that is in force: give its directory with --keys DIR, and compare with kubectl koinon keys show"
        }
        NotAnchored::FromTheFuture { .. } => "set this machine's clock",
        NotAnchored::ProposalOver(_) => "see where it stands: kubectl koinon proposal",
        NotAnchored::Keys(KeyProblem::NotAllowed) => {
            "sign with a governance key that is in force (--keys DIR), or with more than half of the recovery keys"
        }
        NotAnchored::Keys(KeyProblem::Used(_)) => "make a new key: move the file away and run the command again",
        NotAnchored::Keys(KeyProblem::KeyCount) => "drop a key that nobody uses any more: --drop KEY",
        NotAnchored::Keys(KeyProblem::NotNext { .. }) => {
            "wait until the last update is in force, and run the command again"
        }
        NotAnchored::Keys(KeyProblem::NotInForce(_)) => "see which keys there are: kubectl koinon keys show",
        NotAnchored::OrderOver => "see which orders hold: kubectl koinon emergencies",
        _ => return None,
    })
}

/// The resource that carries a statement.
///
/// # Errors
/// Never in practice: the envelope has the same JSON on both sides.
pub fn resource(statement: &Statement, namespace: &str) -> anyhow::Result<Resource> {
    let spec = koinon_api::statement::StatementSpec { envelope: to_api(statement.envelope())? };
    let mut resource = Resource::new(&names::statement(&statement.id().to_string()), spec);
    resource.metadata.namespace = Some(namespace.to_owned());
    resource.metadata.labels = Some(BTreeMap::from([(labels::KIND.to_owned(), statement.kind().to_string())]));
    Ok(resource)
}

/// Applies a statement, or prints it; whether it was applied.
///
/// # Errors
/// Where the API server refuses the resource.
pub async fn submit(cluster: &Cluster, statement: &Statement, output: Option<Output>) -> anyhow::Result<bool> {
    let resource = resource(statement, &cluster.namespace)?;
    if output == Some(Output::Yaml) {
        print_yaml(&[resource])?;
        return Ok(false);
    }
    cluster.apply(&resource).await?;
    Ok(true)
}

/// Between two looks at what the operator makes of a statement.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Waits until the operator says what it makes of an applied statement: how it is in effect, or nothing if it has not said so
/// in time.
///
/// # Errors
/// Where it has no effect.
pub async fn settled(cluster: &Cluster, statement: &Statement, patience: Duration) -> anyhow::Result<Option<String>> {
    let name = names::statement(&statement.id().to_string());
    let begun = tokio::time::Instant::now();
    loop {
        let found = cluster.api::<Resource>().get_opt(&name).await.context("cannot read the Statement")?;
        let conditions = found.and_then(|found| found.status).unwrap_or_default().conditions;
        match conditions::find(&conditions, ConditionType::Effective) {
            Some(effective) if effective.status == "True" => return Ok(Some(effective.message.clone())),
            Some(effective) if effective.status == "False" => {
                bail!("it has no effect ({}): {}", effective.reason, effective.message)
            }
            _ if begun.elapsed() >= patience => return Ok(None),
            _ => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}
