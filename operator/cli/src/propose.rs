//! `kubectl koinon propose`: a change for the cooperative to vote about, signed by a governance key.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use koinon_api::{Proposal, names, proposal as api};
use koinon_core::body::proposal::{self, AddEngine, RemoveEngine, WithdrawModelRelease};
use koinon_core::body::{Action, Body, Engine, ModelRelease, Scope};
use koinon_core::dsse::{Envelope, Signer as _};
use koinon_core::ids::{
    Bytes, EngineName, License, Line, ManifestDigest, ModelUri, Prose, Quantization, Revision, UnixSeconds,
};
use koinon_core::policy::State;
use koinon_core::sealing;
use koinon_core::statement::{Draft, Position, Statement};
use kube::ResourceExt as _;
use kube::api::DeleteParams;

use crate::access::Access;
use crate::cluster::{Cluster, now, to_api};
use crate::inputs::{read_yaml, read_yaml_documents};
use crate::keyfile;
use crate::output::{Output, print_yaml};
use crate::vote::{self, ChoiceFlag};

/// Propose a change; the members then vote about it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sign the draft of this name, such as the one that the operator makes of an application.
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    from: Option<String>,
    /// Sign the draft in this file: a Proposal, or only its action.
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// One line that says what is proposed; default: made of the action.
    #[arg(long)]
    title: Option<Line>,
    /// The case for it.
    #[arg(long)]
    text: Option<Prose>,
    /// Vote right away with the same key.
    #[arg(long, value_enum, value_name = "CHOICE")]
    vote: Option<ChoiceFlag>,
    /// Write the signed envelope to a file for a further sponsor to sign, and stop.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Add this member's signature as a further sponsor to the envelope in a file, and apply it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "file", "out"])]
    co_sign: Option<PathBuf>,
    /// Print the signed Proposal instead of applying it.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    #[command(subcommand)]
    action: Option<ActionCommand>,
}

#[derive(Debug, Subcommand)]
enum ActionCommand {
    /// Approve a model for placement on each other's GPUs.
    AddModelRelease {
        /// Where its weights come from.
        #[arg(long)]
        uri: ModelUri,
        /// Which revision there.
        #[arg(long)]
        revision: Revision,
        /// Its identity: sha256 over its manifest.
        #[arg(long)]
        manifest_digest: ManifestDigest,
        /// How its weights are quantised.
        #[arg(long)]
        quantization: Quantization,
        /// Its licence.
        #[arg(long)]
        license: License,
        /// With which engines it may be served; none means any of the catalogue.
        #[arg(long = "engine", value_name = "NAME")]
        engines: Vec<EngineName>,
        /// GPU memory that it needs, in bytes, if known.
        #[arg(long)]
        memory_bytes: Option<u64>,
    },
    /// Approve a model no longer.
    WithdrawModelRelease {
        /// Its identity.
        manifest_digest: ManifestDigest,
    },
    /// Add an engine to the catalogue, or replace it.
    AddEngine {
        /// The entry, as YAML.
        file: PathBuf,
    },
    /// Remove an engine from the catalogue.
    RemoveEngine {
        /// Its name.
        name: EngineName,
    },
}

/// What is to be proposed, before its times and parents are known.
struct Plan {
    action: Action,
    title: Line,
    text: Prose,
    draft: Option<String>,
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { from, file, title, text, vote, out, co_sign, output, action } = self;
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let signer = keyfile::read(&access.governance_key()?)?;
        let (statement, draft_name) = match co_sign {
            Some(path) => {
                let mut envelope: Envelope = read_yaml(&path, "a proposal's envelope")?;
                envelope.co_sign(&signer).context("cannot sign the proposal")?;
                (Statement::verify(envelope).context("the proposal does not hold")?, None)
            }
            None => {
                let plan = plan(&cluster, from, file, action, title, text).await?;
                let commons = cluster.commons(&membership).await?;
                let body = complete(commons.state(), plan.action, plan.title, plan.text, now())?;
                let draft = Draft {
                    coop: Some(membership.coop),
                    author: membership.member.clone(),
                    site: membership.site.clone(),
                    issued_at: now(),
                    position: Position::Human,
                    body: Body::Proposal(Box::new(body)),
                };
                (draft.sign(&signer, &[]).context("cannot sign the proposal")?, plan.draft)
            }
        };
        if let Some(path) = out {
            std::fs::write(&path, serde_yaml::to_string(statement.envelope())?)
                .with_context(|| format!("cannot write {}", path.display()))?;
            println!("wrote {}; a further sponsor runs: kubectl koinon propose --co-sign {0}", path.display());
            return Ok(());
        }
        let resource = resource(&statement, &cluster.namespace)?;
        if output == Some(Output::Yaml) {
            return print_yaml(&[resource]);
        }
        cluster.apply(&resource).await?;
        if let Some(draft) = draft_name {
            let gone = cluster.api::<Proposal>().delete(&draft, &DeleteParams::default()).await;
            if let Err(error) = gone {
                eprintln!("the draft {draft} stays: {error}");
            }
        }
        println!("proposed {} ({})", resource.name_any(), statement.id());
        if let Some(choice) = vote {
            vote::cast(&cluster, &signer, &membership, statement.id(), choice).await?;
        }
        println!("each member votes with: kubectl koinon vote {} yes", resource.name_any());
        println!("signed with {}", signer.public_key());
        Ok(())
    }
}

async fn plan(
    cluster: &Cluster,
    from: Option<String>,
    file: Option<PathBuf>,
    command: Option<ActionCommand>,
    title: Option<Line>,
    text: Option<Prose>,
) -> anyhow::Result<Plan> {
    let (action, written, draft) = match (command, from, file) {
        (Some(command), _, _) => (command.action()?, None, None),
        (None, Some(name), _) => {
            let found = cluster.proposal(&name).await?;
            if found.spec.envelope.is_some() {
                bail!("{} is signed already; vote about it: kubectl koinon vote {0} yes", found.name_any());
            }
            let action = found.spec.action.clone().with_context(|| format!("{name} has no action"))?;
            (to_core_action(&action)?, Some(found.spec.clone()), Some(found.name_any()))
        }
        (None, None, Some(path)) => match read_yaml::<Proposal>(&path, "a Proposal") {
            Ok(found) => {
                let action = found.spec.action.clone().context("the Proposal has no action")?;
                (to_core_action(&action)?, Some(found.spec), None)
            }
            Err(not_a_proposal) => {
                let action = read_yaml::<Action>(&path, "an action").map_err(|not_an_action| {
                    anyhow::anyhow!("{not_an_action:#}, and not a Proposal either: {not_a_proposal:#}")
                })?;
                (action, None, None)
            }
        },
        (None, None, None) => bail!("say what to propose: --from NAME, --file FILE or one of the subcommands"),
    };
    let written_title = written.as_ref().map(|spec| spec.title.parse()).transpose()?;
    let written_text = written.as_ref().map(|spec| spec.text.parse()).transpose()?;
    let title = match title.or(written_title) {
        Some(title) => title,
        None => describe(&action).parse()?,
    };
    let text = match text.or(written_text) {
        Some(text) => text,
        None => "".parse()?,
    };
    Ok(Plan { action, title, text, draft })
}

impl ActionCommand {
    fn action(self) -> anyhow::Result<Action> {
        Ok(match self {
            Self::AddModelRelease { uri, revision, manifest_digest, quantization, license, engines, memory_bytes } => {
                Action::AddModelRelease(ModelRelease {
                    uri,
                    revision,
                    manifest_digest,
                    quantization,
                    license,
                    engines,
                    memory_bytes: memory_bytes.map(Bytes),
                })
            }
            Self::WithdrawModelRelease { manifest_digest } => {
                Action::WithdrawModelRelease(WithdrawModelRelease { manifest_digest })
            }
            Self::AddEngine { file } => {
                let mut engines: Vec<Engine> = read_yaml_documents(&file, "an engine")?;
                match (engines.pop(), engines.is_empty()) {
                    (Some(engine), true) => Action::AddEngine(AddEngine { engine }),
                    _ => bail!("{} must hold exactly one engine", file.display()),
                }
            }
            Self::RemoveEngine { name } => Action::RemoveEngine(RemoveEngine { name }),
        })
    }
}

/// A title made of the action.
fn describe(action: &Action) -> String {
    let text = match action {
        Action::AddModelRelease(release) => format!("Approve {} {}", release.uri, release.quantization),
        Action::WithdrawModelRelease(release) => format!("Withdraw model {}", release.manifest_digest),
        Action::AddEngine(add) => format!("Add engine {}", add.engine.name),
        Action::RemoveEngine(remove) => format!("Remove engine {}", remove.name),
        Action::Admit(_) => "Admit a member".to_owned(),
    };
    text.chars().take(200).collect()
}

/// Fills in what the current policy says: parents, term, and the earliest times that the class allows.
fn complete(
    state: &State,
    action: Action,
    title: Line,
    text: Prose,
    issued: UnixSeconds,
) -> anyhow::Result<proposal::Proposal> {
    let (class, scope) = (action.class(), action.scope());
    let rules = state.class(class).with_context(|| format!("the charter has no class {class}"))?;
    let parameters = state.parameters();
    let opens_at = issued.plus(rules.delay_seconds);
    let closes_at = opens_at.plus(rules.period_seconds);
    let eta = closes_at.plus(parameters.grace_seconds).plus(rules.timelock_seconds);
    Ok(proposal::Proposal {
        class,
        scope,
        parent: state.head(scope),
        membership: state.head(Scope::Membership),
        action,
        opens_at,
        closes_at,
        eta,
        expires_at: eta.plus(parameters.enact_window_seconds),
        term: sealing::next_term(state, scope, issued),
        subject: None,
        title,
        text,
    })
}

fn to_core_action(action: &koinon_api::catalogue::Action) -> anyhow::Result<Action> {
    action.try_into().context("the draft's action is not valid")
}

/// The resource that carries a signed proposal, with its typed copy.
fn resource(statement: &Statement, namespace: &str) -> anyhow::Result<Proposal> {
    let Body::Proposal(body) = statement.body() else { bail!("the envelope holds no proposal") };
    let spec = api::ProposalSpec {
        title: body.title.to_string(),
        text: body.text.to_string(),
        class: body.class.into(),
        action: Some((&body.action).try_into()?),
        envelope: Some(to_api(statement.envelope())?),
    };
    let mut resource = Proposal::new(&names::proposal(&statement.id().to_string()), spec);
    resource.metadata.namespace = Some(namespace.to_owned());
    Ok(resource)
}

#[cfg(test)]
mod tests {
    use koinon_core::body::charter::Preset;
    use koinon_core::body::member::{Endpoints, MemberKeys, Site};
    use koinon_core::body::{Charter, Member};
    use koinon_core::dsse::SeedSigner;
    use koinon_core::founding::Founding;
    use koinon_core::ids::Seconds;
    use koinon_core::log::Limits;
    use koinon_core::policy::Commons;
    use koinon_core::presets;

    use super::*;

    fn commons() -> Commons {
        let signer = SeedSigner::from_seed(&[1; 32]);
        let founder = Member {
            id: "aarhus".parse().unwrap(),
            owner: "Aarhus Data".parse().unwrap(),
            control_group: "aarhus".parse().unwrap(),
            site: Site {
                name: "main".parse().unwrap(),
                region: "eu-north".parse().unwrap(),
                jurisdiction: "DK".parse().unwrap(),
            },
            keys: MemberKeys {
                recovery: vec![],
                governance: vec![signer.public_key()],
                operator: SeedSigner::from_seed(&[2; 32]).public_key(),
            },
            endpoints: Endpoints::default(),
        };
        let charter = Charter {
            name: "test".parse().unwrap(),
            preset: Preset::Standard,
            founders: vec![founder],
            parameters: presets::parameters(Preset::Standard),
            classes: presets::classes(Preset::Standard),
            releases: vec![],
            engines: vec![],
        };
        let draft = Draft {
            coop: None,
            author: "aarhus".parse().unwrap(),
            site: "main".parse().unwrap(),
            issued_at: UnixSeconds(1_000),
            position: Position::Human,
            body: Body::Charter(Box::new(charter)),
        };
        let founding = Founding::verify(draft.envelope(&signer).unwrap()).unwrap();
        Commons::new(founding, Limits::default())
    }

    #[test]
    fn times_are_the_earliest_that_the_class_allows() {
        let issued = UnixSeconds(1_000_000);
        let action = Action::RemoveEngine(RemoveEngine { name: "vllm".parse().unwrap() });
        let commons = commons();
        let body = complete(commons.state(), action, "t".parse().unwrap(), "".parse().unwrap(), issued).unwrap();
        assert_eq!(body.opens_at.since(issued), Seconds(3600));
        assert_eq!(body.closes_at.since(body.opens_at), Seconds(72 * 3600));
        assert_eq!(body.eta.since(body.closes_at), Seconds(3600 + 24 * 3600));
        assert_eq!(body.expires_at.since(body.eta), Seconds(72 * 3600));
        assert_eq!((body.parent, body.term), (commons.state().head(Scope::Engines), 0));
    }
}
