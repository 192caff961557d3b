//! `kubectl koinon join`: an application, signed by the applicant's governance key.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use koinon_api::common::LocalRef;
use koinon_api::{Cooperative, cooperative};
use koinon_core::body::{Application, Body};
use koinon_core::invite::Invite;
use koinon_core::statement::{Draft, Position};

use crate::access::Access;
use crate::cluster::{Cluster, now, time, to_api};
use crate::inputs::{MemberFlags, PersonKeys};
use crate::output::{Output, print_yaml};

/// The Secret that carries the invite until the member is admitted.
const INVITE_SECRET: &str = "koinon-invite";

/// Apply for membership with an invite.
///
/// The operator brings the application to the sponsor, whose people propose the admission (kubectl koinon propose --from
/// admit-ID; a second sponsor signs too where the charter wants it). The members then vote, each for itself.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The line that the sponsor's `kubectl koinon invite` printed.
    #[arg(long, value_name = "LINE", required_unless_present = "invite_file")]
    invite: Option<String>,
    /// The same in a file.
    #[arg(long, value_name = "FILE", conflicts_with = "invite")]
    invite_file: Option<PathBuf>,
    #[command(flatten)]
    member: MemberFlags,
    /// Print the resources instead of applying them.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { invite, invite_file, member, output } = self;
        let line = match (invite, invite_file) {
            (Some(line), _) => line,
            (None, Some(path)) => {
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?
            }
            (None, None) => bail!("give --invite LINE or --invite-file FILE"),
        };
        let invite = Invite::from_line(&line)?;
        if invite.member != member.member {
            bail!("the invite is for {}, not for {}: ask the sponsor for another", invite.member, member.member);
        }
        if invite.expires_at <= now() {
            bail!("the invite ended at {}: ask {} for another", time(invite.expires_at), invite.sponsor);
        }
        let cluster = Cluster::connect(access).await?;
        if let Some(existing) = cluster.find_cooperative().await? {
            bail!(
                "this release belongs to {} already; a second cooperative is a second release in a namespace of its own",
                existing.spec.id
            );
        }
        let operator = cluster.operator_key().await?;
        let keys = PersonKeys::read_or_create(access, member.no_passphrase)?;
        let draft = Draft {
            coop: Some(invite.coop),
            author: member.member.clone(),
            site: member.site.clone(),
            issued_at: now(),
            position: Position::Human,
            body: Body::Application(Box::new(Application { member: member.describe(operator, &keys)? })),
        };
        let application = draft.envelope(&keys.governance).context("cannot sign the application")?;
        let mut secret = Secret {
            type_: Some("koinon.dev/invite".to_owned()),
            data: Some(BTreeMap::from([("invite".to_owned(), ByteString(invite.to_line().into_bytes()))])),
            ..Secret::default()
        };
        secret.metadata.name = Some(INVITE_SECRET.to_owned());
        secret.metadata.namespace = Some(cluster.namespace.clone());
        let mut resource = Cooperative::new(
            "cooperative",
            cooperative::CooperativeSpec {
                id: invite.coop.to_string(),
                member: member.member.to_string(),
                site: member.api_site(),
                charter: None,
                application: Some(to_api(&application)?),
                invite_secret_ref: Some(LocalRef { name: INVITE_SECRET.to_owned() }),
                endpoints: member.api_endpoints(),
                guests: member.api_guests(),
                weights: cooperative::Weights::default(),
                sources: member.sources.clone(),
                images: cooperative::Images::default(),
                limits: cooperative::Limits::default(),
            },
        );
        resource.metadata.namespace = Some(cluster.namespace.clone());
        if output == Some(Output::Yaml) {
            print_yaml(&[secret])?;
            return print_yaml(&[resource]);
        }
        cluster.apply(&secret).await?;
        cluster.apply(&resource).await?;
        println!("applied to {} as {}; sponsor {}", invite.coop, member.member, invite.sponsor);
        // The charter is not known here before the admission: the command says at the sponsor what its preset asks for.
        let draft = format!("admit-{}", member.member);
        println!("next, at {}: kubectl koinon propose --from {draft} --vote yes", invite.sponsor);
        println!(
            "or, where the charter wants two sponsors (preset standard): kubectl koinon propose --from {draft} --out {draft}.yaml, which says how the second one signs"
        );
        Ok(())
    }
}
