//! `kubectl koinon propose`: a change for the cooperative to vote about, signed by a governance key.

mod action;
mod member;
mod norms;
mod reset;
mod xids;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use koinon_api::{Proposal, names, proposal as api};
use koinon_core::body::{Action, Body, Proposal as CoreProposal};
use koinon_core::dsse::{Envelope, SeedSigner, Signer as _};
use koinon_core::ids::{Line, MemberId, Prose, UnixSeconds};
use koinon_core::policy::{Commons, State};
use koinon_core::statement::{Draft, Position, Statement};
use kube::ResourceExt as _;
use kube::api::DeleteParams;

use self::action::{ActionCommand, describe};
use crate::access::Access;
use crate::change::before_signing;
use crate::cluster::{Cluster, now, time, to_api};
use crate::confirm::confirm;
use crate::inputs::read_yaml;
use crate::keyfile;
use crate::output::{Output, one_line, print_yaml};
use crate::precheck;
use crate::vote::{self, ChoiceFlag};

/// How a proposal with two sponsors is made.
const EXAMPLES: &str = "\
Example, a model; --vote only where votes open at once (preset trial):
  kubectl koinon propose --vote yes add-model-release \\
      --uri https://models.example/tiny.gguf --revision 1 \\
      --manifest-digest sha256:... --quantization q4-k-m --license Apache-2.0
Example, an applicant, where one sponsor is enough (preset trial):
  kubectl koinon propose --from admit-theirs --vote yes
Example, an applicant, where the charter wants two (preset standard):
  1. The first member writes the signed proposal, and sends it to a second:
       kubectl koinon propose --from admit-theirs --out admit-theirs.yaml
  2. The second signs it in place, and sends it back:
       kubectl koinon propose --co-sign admit-theirs.yaml
  3. The first applies it; only its author's operator makes it known:
       kubectl koinon propose --signed admit-theirs.yaml";

/// Propose a change; the members then vote about it.
///
/// Shows first what would change, as a diff of what is in force, who decides it and when, and asks at a terminal before it
/// signs; in a script it does not ask. Checks what the operators will check, and refuses with the fix where they would.
/// Say what to propose with --from, with --file or with one of the subcommands; options come before the subcommand.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Sign the draft of this name, such as admit-ID, which the operator makes of ID's application.
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    from: Option<String>,
    /// Sign the draft in this file: a Proposal, or only its action; `-` is standard input.
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// One line that says what is proposed; default: made of the action.
    #[arg(long)]
    title: Option<Line>,
    /// The case for it.
    #[arg(long)]
    text: Option<Prose>,
    /// Vote right away with the same key, if the charter lets the vote open at once.
    #[arg(long, value_enum, value_name = "CHOICE")]
    vote: Option<ChoiceFlag>,
    /// Write the signed proposal to this file for a second sponsor to sign, and apply nothing.
    ///
    /// Example: kubectl koinon propose --from admit-theirs --out admit-theirs.yaml
    #[arg(long, value_name = "FILE", conflicts_with = "vote")]
    out: Option<PathBuf>,
    /// At the second sponsor: add this member's signature to the file that --out wrote, in place, and apply nothing.
    ///
    /// The file goes back to its author, who applies it with --signed.
    /// Example: kubectl koinon propose --co-sign admit-theirs.yaml
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "file", "out", "vote", "title", "text", "output"])]
    co_sign: Option<PathBuf>,
    /// Back at its author: apply the file that the second sponsor has signed.
    ///
    /// Only the author's own operator makes a proposal known, so it is applied there and nowhere else.
    /// Example: kubectl koinon propose --signed admit-theirs.yaml
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "file", "out", "co_sign", "title", "text"])]
    signed: Option<PathBuf>,
    /// Show what would change, who decides it and when; sign and apply nothing.
    #[arg(long, conflicts_with_all = ["co_sign", "out", "vote", "output"])]
    dry_run: bool,
    /// Sign without asking.
    #[arg(short = 'y', long)]
    yes: bool,
    /// Print the signed Proposal instead of applying it; the diff goes to standard error.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    #[command(subcommand)]
    action: Option<ActionCommand>,
}

/// What is to be proposed, before its times and parents are known.
struct Plan {
    action: Action,
    title: Line,
    text: Prose,
    draft: Option<String>,
}

impl Plan {
    fn drafted(&self, state: &State, at: UnixSeconds) -> anyhow::Result<CoreProposal> {
        let class = self.action.class();
        let drafted = state.draft_proposal(self.action.clone(), self.title.clone(), self.text.clone(), at);
        drafted.with_context(|| format!("the charter has no class {class}"))
    }
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { from, file, title, text, vote, out, co_sign, signed, dry_run, yes, output, action } = self;
        if action.is_some() && (co_sign.is_some() || signed.is_some()) {
            bail!("--co-sign and --signed take the proposal from their file: leave the subcommand out");
        }
        let cluster = Cluster::connect(access).await?;
        if let Some(path) = co_sign.as_ref()
            && reset::of(&read_signed(path)?).is_some()
        {
            return reset::co_sign(access, &cluster, path, yes).await;
        }
        let membership = cluster.membership().await?;
        let commons = cluster.commons(&membership).await?;
        let state = commons.state();
        if let Some(path) = co_sign {
            let statement = read_signed(&path)?;
            print!("{}", before_signing(state, statement.author(), body_of(&statement)?));
            confirm("Sign this as a further sponsor?", yes)?;
            return add_signature(state, &membership.member, &keyfile::read(&access.governance_key()?)?, &path);
        }
        let show = |body: &CoreProposal| {
            let shown = before_signing(state, &membership.member, body);
            if output.is_some() { eprint!("{shown}") } else { print!("{shown}") }
        };
        let (statement, drafts) = match signed {
            Some(path) => {
                let statement = read_signed(&path)?;
                if *statement.author() != membership.member {
                    bail!(
                        "{} is {}'s: send the file there, only its author's own operator makes a proposal known",
                        path.display(),
                        statement.author()
                    );
                }
                show(body_of(&statement)?);
                if dry_run {
                    return Ok(());
                }
                confirm("Propose this?", yes)?;
                let drafts = drafts_of(&cluster, &statement).await?;
                (statement, drafts)
            }
            None => {
                let plan = plan(&cluster, &commons, from, file, action, title, text).await?;
                show(&plan.drafted(state, now())?);
                if dry_run {
                    return Ok(());
                }
                confirm("Sign and propose this?", yes)?;
                let signer = keyfile::read(&access.governance_key()?)?;
                // Anew: its times count from the signature, and somebody may have thought about it for long.
                let body = plan.drafted(state, now())?;
                let draft = Draft {
                    coop: Some(membership.coop),
                    author: membership.member.clone(),
                    site: membership.site.clone(),
                    issued_at: now(),
                    position: Position::Human,
                    body: Body::Proposal(Box::new(body)),
                };
                let statement = draft.sign(&signer, &[]).context("cannot sign the proposal")?;
                (statement, plan.draft.into_iter().collect())
            }
        };
        let judged = precheck::proposal(state, &statement);
        if let Some(path) = out {
            let next = match judged {
                Ok(()) => format!(
                    "it has all signatures that it needs; apply it here with: kubectl koinon propose --signed {}",
                    path.display()
                ),
                Err(refused) if refused.lacks_sponsors() => format!(
                    "the charter wants another sponsor: send the file to another member, who runs: kubectl koinon propose --co-sign {}",
                    path.display()
                ),
                Err(refused) if refused.lacks_proof() => format!(
                    "the member that gets the keys proves that it holds them: send it the file, and it runs: kubectl koinon propose --co-sign {}",
                    path.display()
                ),
                Err(refused) => return Err(refused.into()),
            };
            write_envelope(&path, &statement)?;
            println!("wrote {}; {next}", path.display());
            return Ok(());
        }
        judged?;
        let resource = resource(&statement, &cluster.namespace)?;
        if output == Some(Output::Yaml) {
            return print_yaml(&[resource]);
        }
        cluster.apply(&resource).await?;
        for draft in drafts {
            let gone = cluster.api::<Proposal>().delete(&draft, &DeleteParams::default()).await;
            if let Err(error) = gone {
                eprintln!("the draft {draft} stays: {error}");
            }
        }
        let name = resource.name_any();
        println!("proposed {name} ({})", statement.id());
        println!("signed with {}", statement.header().key);
        let body = body_of(&statement)?;
        match vote {
            Some(choice) if precheck::too_early(state, body, now()) => {
                println!("not voted {choice:?} yet: a vote that is dated before the vote opens would not count");
            }
            Some(choice) => {
                let signer = keyfile::read(&access.governance_key()?)?;
                vote::cast(&cluster, &signer, &membership, statement.id(), choice).await?;
            }
            None => {}
        }
        let (opens, closes) = (time(body.opens_at), time(body.closes_at));
        println!("the vote is open from {opens} to {closes}; each member votes with: kubectl koinon vote {name} yes");
        Ok(())
    }
}

/// Signs, as a further sponsor, the proposal in a file.
fn add_signature(state: &State, me: &MemberId, signer: &SeedSigner, path: &Path) -> anyhow::Result<()> {
    let statement = read_signed(path)?;
    if statement.author() == me {
        bail!("{} is this member's own proposal: another member has to sign it", path.display());
    }
    let key = signer.public_key();
    if !state.member(me).is_some_and(|member| member.member.keys.governance.contains(&key)) {
        bail!(
            "{key} is no governance key of {me}, so its signature would not count: give its directory with --keys DIR"
        );
    }
    let body = body_of(&statement)?;
    println!("{} proposes: {}", statement.author(), one_line(&body.title));
    if let Some(id) = precheck::admitted(&statement) {
        println!("it admits {id}; both sponsors vouch for it");
    }
    let mut envelope = statement.envelope().clone();
    envelope.co_sign(signer).context("cannot sign the proposal")?;
    let statement = Statement::verify(envelope).context("the proposal does not hold")?;
    let next = match precheck::proposal(state, &statement) {
        Ok(()) => format!(
            "send the file back to {}, who runs: kubectl koinon propose --signed {}",
            statement.author(),
            path.display()
        ),
        Err(refused) if refused.lacks_sponsors() => {
            "the charter wants another sponsor: send the file to one more member, who signs it in the same way"
                .to_owned()
        }
        Err(refused) => return Err(refused.into()),
    };
    write_envelope(path, &statement)?;
    println!("signed {} with {key}; {next}", path.display());
    Ok(())
}

fn read_signed(path: &Path) -> anyhow::Result<Statement> {
    let envelope: Envelope = read_yaml(path, "a proposal that kubectl koinon propose --out wrote")?;
    let statement = Statement::verify(envelope).with_context(|| format!("{} does not hold", path.display()))?;
    match statement.body() {
        Body::Proposal(_) => Ok(statement),
        _ => bail!("{} holds a {}, not a proposal", path.display(), statement.kind()),
    }
}

fn body_of(statement: &Statement) -> anyhow::Result<&CoreProposal> {
    match statement.body() {
        Body::Proposal(body) => Ok(body),
        _ => bail!("the envelope holds a {}, not a proposal", statement.kind()),
    }
}

fn write_envelope(path: &Path, statement: &Statement) -> anyhow::Result<()> {
    std::fs::write(path, serde_yaml::to_string(statement.envelope())?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The drafts here that a proposal with the same action makes needless.
async fn drafts_of(cluster: &Cluster, statement: &Statement) -> anyhow::Result<Vec<String>> {
    let Body::Proposal(body) = statement.body() else { return Ok(Vec::new()) };
    let same = |draft: &&Proposal| {
        let action = draft.spec.action.as_ref().and_then(|action| to_core_action(action).ok());
        draft.spec.envelope.is_none() && action.as_ref() == Some(&body.action)
    };
    Ok(cluster.list::<Proposal>("proposals").await?.iter().filter(same).map(|draft| draft.name_any()).collect())
}

async fn plan(
    cluster: &Cluster,
    commons: &Commons,
    from: Option<String>,
    file: Option<PathBuf>,
    command: Option<ActionCommand>,
    title: Option<Line>,
    text: Option<Prose>,
) -> anyhow::Result<Plan> {
    let (action, written, draft) = match (command, from, file) {
        (Some(command), _, _) => (command.action(cluster, commons).await?, None, None),
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

fn to_core_action(action: &koinon_api::catalogue::Action) -> anyhow::Result<Action> {
    action.try_into().context("the draft's action is not valid")
}

/// The resource that carries a signed proposal, with its typed copy.
fn resource(statement: &Statement, namespace: &str) -> anyhow::Result<Proposal> {
    let body = body_of(statement)?;
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
#[path = "propose_tests.rs"]
mod tests;
