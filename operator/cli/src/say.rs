//! What people sign that has no resource of its own: it is applied as a `Statement`, which the operator anchors.

use std::collections::BTreeMap;

use anyhow::Context as _;
use koinon_api::{labels, names};
use koinon_core::body::Body;
use koinon_core::statement::{Draft, Position};

use crate::access::Access;
use crate::cluster::{Cluster, Membership, now, to_api};
use crate::keyfile;
use crate::output::{Output, print_yaml};

/// Signs `body` with the governance key and applies it, or prints it; whether it was applied.
///
/// # Errors
/// Where the key cannot be read or the API server refuses the resource.
pub async fn say(
    access: &Access,
    cluster: &Cluster,
    membership: &Membership,
    body: Body,
    output: Option<Output>,
) -> anyhow::Result<bool> {
    let signer = keyfile::read(&access.governance_key()?)?;
    let draft = Draft {
        coop: Some(membership.coop),
        author: membership.member.clone(),
        site: membership.site.clone(),
        issued_at: now(),
        position: Position::Human,
        body,
    };
    let statement = draft.sign(&signer, &[]).context("cannot sign")?;
    let mut resource = koinon_api::Statement::new(
        &names::statement(&statement.id().to_string()),
        koinon_api::statement::StatementSpec { envelope: to_api(statement.envelope())? },
    );
    resource.metadata.namespace = Some(cluster.namespace.clone());
    let kind = statement.kind().as_str().to_owned();
    resource.metadata.labels = Some(BTreeMap::from([(labels::KIND.to_owned(), kind)]));
    if output == Some(Output::Yaml) {
        print_yaml(&[resource])?;
        return Ok(false);
    }
    cluster.apply(&resource).await?;
    Ok(true)
}
