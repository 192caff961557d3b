//! `kubectl koinon invite`: one line for one applicant.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use koinon_api::{labels, names};
use koinon_core::body::{Class, Scope};
use koinon_core::ids::{Endpoint, MemberId, Seconds};
use koinon_core::invite::Invite;
use koinon_core::policy::State;

use crate::access::Access;
use crate::cluster::{Cluster, now};
use crate::output::{Output, print_yaml};

/// Invite a datacenter to apply for membership.
///
/// Prints one line that the applicant gives to `kubectl koinon join`. It works once and ends by itself; this cluster
/// keeps only a digest of its secret.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The id under which the applicant may apply: a DNS label of at most 30 characters, never reused.
    member: MemberId,
    /// How many hours the invite is good; default: what the charter says.
    #[arg(long, value_name = "HOURS")]
    hours: Option<u32>,
    /// Where the applicant reaches this cluster's operator, if not at its own endpoints.
    #[arg(long = "endpoint", value_name = "URL")]
    endpoints: Vec<Endpoint>,
    /// Print the Secret instead of applying it (the invite goes to standard error).
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { member, hours, endpoints, output } = self;
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let commons = cluster.commons(&membership).await?;
        if commons.state().membership().is_some_and(|version| version.used_ids.contains(&member)) {
            bail!("the id {member} belongs or belonged to a member, and none is given twice: invite under another one");
        }
        let endpoints = if endpoints.is_empty() { own_endpoints(&membership.resource)? } else { endpoints };
        if endpoints.is_empty() {
            bail!("this member has no peer endpoint that an applicant could reach: give --endpoint URL");
        }
        let hours = hours.unwrap_or(commons.state().parameters().invite_hours).clamp(1, 720);
        let invite = Invite {
            coop: membership.coop,
            sponsor: membership.member.clone(),
            operator_key: cluster.operator_key().await?,
            endpoints,
            membership_head: commons.state().head(Scope::Membership),
            member: member.clone(),
            secret: crate::apikey::random_text()?,
            expires_at: now().plus(Seconds(i64::from(hours) * 3600)),
        };
        let mut secret = Secret {
            type_: Some("koinon.dev/invite".to_owned()),
            data: Some(BTreeMap::from([
                ("secretHash".to_owned(), ByteString(invite.secret_digest().hex().into_bytes())),
                ("member".to_owned(), ByteString(member.to_string().into_bytes())),
                ("expiresAt".to_owned(), ByteString(invite.expires_at.to_string().into_bytes())),
            ])),
            ..Secret::default()
        };
        secret.metadata.name = Some(names::invite(member.as_str()));
        secret.metadata.namespace = Some(cluster.namespace.clone());
        secret.metadata.labels = Some(BTreeMap::from([(labels::INVITE.to_owned(), labels::TRUE.to_owned())]));
        if output == Some(Output::Yaml) {
            print_yaml(&[secret])?;
            eprintln!("{}", invite.to_line());
            return Ok(());
        }
        let api = cluster.api::<Secret>();
        if let Some(earlier) = api.get_opt(&names::invite(member.as_str())).await? {
            let name = earlier.metadata.name.unwrap_or_default();
            api.delete(&name, &kube::api::DeleteParams::default())
                .await
                .with_context(|| format!("cannot replace the earlier invite {name}"))?;
        }
        cluster.apply(&secret).await?;
        println!("{}", invite.to_line());
        eprintln!("good for {member}, once, for {hours} h; the applicant runs: kubectl koinon join --invite LINE …");
        eprintln!(
            "when its application is here (kubectl koinon proposals), run here: {}",
            admission(commons.state(), &member)
        );
        Ok(())
    }
}

/// The command that proposes the admission under the charter in force.
fn admission(state: &State, member: &MemberId) -> String {
    let sponsors = (state.parameters().sponsors as usize).min(state.active().count());
    let propose = format!("kubectl koinon propose --from admit-{member}");
    if sponsors > 1 {
        format!(
            "{propose} --out admit-{member}.yaml (the charter wants {sponsors} sponsors; it says how the next one signs)"
        )
    } else if state.class(Class::Admit).is_some_and(|rules| rules.delay_seconds.0 > 0) {
        propose
    } else {
        format!("{propose} --vote yes")
    }
}

fn own_endpoints(resource: &koinon_api::Cooperative) -> anyhow::Result<Vec<Endpoint>> {
    resource.spec.endpoints.peer.iter().map(|url| url.parse().context("cannot read spec.endpoints.peer")).collect()
}

#[cfg(test)]
mod tests {
    use koinon_core::body::charter::Preset;
    use koinon_core::log::Limits;
    use koinon_core::policy::Commons;
    use koinon_core::testkit::{Person, charter, found, person};

    use super::*;

    #[test]
    fn the_next_command_is_the_one_that_the_charter_in_force_lets_through() {
        let people = ["aarhus", "bilbao"].map(person);
        let everybody: Vec<&Person> = people.iter().collect();
        let said = |founders: &[&Person], preset| {
            let commons = Commons::new(found(founders, charter(founders, preset)), Limits::default());
            admission(commons.state(), &"cork".parse().unwrap())
        };
        assert_eq!(said(&everybody, Preset::Trial), "kubectl koinon propose --from admit-cork --vote yes");
        assert_eq!(said(&everybody[..1], Preset::Standard), "kubectl koinon propose --from admit-cork");
        let two = said(&everybody, Preset::Standard);
        assert!(two.contains("--out admit-cork.yaml") && two.contains("2 sponsors"), "{two}");
    }
}
