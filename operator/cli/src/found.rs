//! `kubectl koinon found`: the founding charter, signed by every founder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use koinon_api::{Cooperative, cooperative};
use koinon_core::body::charter::{Charter, Preset};
use koinon_core::body::{Body, Engine, Member, ModelRelease};
use koinon_core::dsse::{Envelope, SeedSigner, Signer as _};
use koinon_core::founding::Founding;
use koinon_core::ids::Line;
use koinon_core::presets;
use koinon_core::statement::{Draft, Position, Statement};

use crate::access::Access;
use crate::cluster::{Cluster, now, to_api};
use crate::inputs::{MemberFlags, PersonKeys, read_yaml, read_yaml_documents};
use crate::keyfile;
use crate::output::{Output, print_yaml};

/// How one founder and how several begin.
const EXAMPLES: &str = "\
Example, one founder:
  kubectl koinon found --member aarhus --owner \"Aarhus Data\" \\
      --region eu-north --jurisdiction DK \\
      --peer-endpoint https://koinon.aarhus.example:7443 \\
      --gateway-endpoint https://koinon.aarhus.example:7444 \\
      --engine manifests/engines/llama-server.yaml
Example, several founders, each with such flags of its own in place of FLAGS:
  1. Each other founder describes itself, and sends the file to the first:
       kubectl koinon found FLAGS --describe > bilbao.yaml
  2. The first writes the charter:
       kubectl koinon found FLAGS --with bilbao.yaml --out charter.yaml
  3. Each other founder signs it in place, and passes it on:
       kubectl koinon found --co-sign charter.yaml
  4. Every founder applies it:
       kubectl koinon found FLAGS --charter charter.yaml";

/// Found a cooperative: make its charter, sign it, and make this cluster its first member.
///
/// One founder needs one command. Several founders pass the charter round: see the examples of --help.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = EXAMPLES,
    // What the shape of the flags cannot say: who only signs gives no others.
    override_usage = "kubectl koinon found --member <ID> --owner <NAME> --region <REGION> --jurisdiction <CC> [OPTIONS]\n       kubectl koinon found --co-sign <FILE>",
    mut_arg("member", |arg| arg.required(false).required_unless_present("co_sign")),
    mut_arg("owner", |arg| arg.required(false).required_unless_present("co_sign")),
    mut_arg("region", |arg| arg.required(false).required_unless_present("co_sign")),
    mut_arg("jurisdiction", |arg| arg.required(false).required_unless_present("co_sign")),
)]
pub struct Args {
    // Who only signs has said who it is in its description.
    #[command(flatten)]
    member: Option<MemberFlags>,
    /// Where the charter's numbers come from.
    #[arg(long, value_enum, default_value = "standard")]
    preset: PresetFlag,
    /// What people call the cooperative.
    #[arg(long, default_value = "A Koinon cooperative")]
    name: Line,
    /// Engines of the first catalogue, as YAML documents; manifests/engines of the repository has examples.
    #[arg(long = "engine", value_name = "FILE")]
    engines: Vec<PathBuf>,
    /// Models that are approved from the start, as YAML documents with the fields of propose add-model-release.
    #[arg(long = "release", value_name = "FILE")]
    releases: Vec<PathBuf>,
    /// Print this founder's description for the one who writes the charter, and stop.
    #[arg(long, conflicts_with_all = ["with", "out", "co_sign", "charter"])]
    describe: bool,
    /// Another founder's description; may be given several times.
    #[arg(long, value_name = "FILE")]
    with: Vec<PathBuf>,
    /// Write the charter with this founder's signature to a file for the others to sign, and stop.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["co_sign", "charter"])]
    out: Option<PathBuf>,
    /// Add this founder's signature to a charter in a file, and stop.
    #[arg(long, value_name = "FILE", conflicts_with = "charter")]
    co_sign: Option<PathBuf>,
    /// Apply a charter that every founder has signed.
    #[arg(long, value_name = "FILE")]
    charter: Option<PathBuf>,
    /// Print the Cooperative instead of applying it.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PresetFlag {
    /// For trying it out: a vote lasts two minutes at most, and one sponsor is enough.
    Trial,
    /// For real owners: a vote lasts days, and two members sponsor an admission.
    Standard,
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { member, preset, name, engines, releases, describe, with, out, co_sign, charter, output } = self;
        if let Some(path) = co_sign {
            return add_signature(&keyfile::read(&access.governance_key()?)?, &path);
        }
        let member = member.context("say who this member is: --member, --owner, --region and --jurisdiction")?;
        let cluster = Cluster::connect(access).await?;
        if let Some(existing) = cluster.find_cooperative().await? {
            bail!(
                "this release is a member of {} already; a second cooperative is a second release in a namespace of its own",
                existing.spec.id
            );
        }
        let operator = cluster.operator_key().await?;
        if let Some(path) = charter {
            let founding = Founding::verify(read_yaml(&path, "a charter's envelope")?)
                .context("the charter does not hold (has every founder signed it?)")?;
            return apply(&cluster, &member, &founding, output).await;
        }
        let keys = PersonKeys::read_or_create(access, member.no_passphrase)?;
        let me = member.describe(operator, &keys)?;
        if describe {
            return print_yaml(&[me]);
        }
        let mut founders: Vec<Member> = vec![me];
        for path in &with {
            founders.push(read_yaml(path, "a founder's description (kubectl koinon found --describe)")?);
        }
        let preset = match preset {
            PresetFlag::Trial => Preset::Trial,
            PresetFlag::Standard => Preset::Standard,
        };
        let charter = Charter {
            name,
            preset,
            founders,
            parameters: presets::parameters(preset),
            classes: presets::classes(preset),
            releases: read_all::<ModelRelease>(&releases, "a model release")?,
            engines: read_all::<Engine>(&engines, "an engine")?,
        };
        charter.validate()?;
        let several = charter.founders.len() > 1;
        let draft = Draft {
            coop: None,
            author: member.member.clone(),
            site: member.site.clone(),
            issued_at: now(),
            position: Position::Human,
            body: Body::Charter(Box::new(charter)),
        };
        let envelope = draft.envelope(&keys.governance).context("cannot sign the charter")?;
        if let Some(path) = out {
            std::fs::write(&path, serde_yaml::to_string(&envelope)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
            println!("wrote {}; next, each other founder runs: kubectl koinon found --co-sign {0}", path.display());
            return Ok(());
        }
        if several {
            bail!("a charter with several founders needs all their signatures: write it with --out FILE first");
        }
        let founding = Founding::verify(envelope).context("the charter does not hold")?;
        apply(&cluster, &member, &founding, output).await
    }
}

/// Signs, as a further founder, the charter in a file.
fn add_signature(signer: &SeedSigner, path: &Path) -> anyhow::Result<()> {
    let envelope: Envelope = read_yaml(path, "a charter's envelope")?;
    let statement = Statement::verify(envelope).with_context(|| format!("{} does not hold", path.display()))?;
    let Body::Charter(charter) = statement.body() else {
        bail!("{} holds a {}, not a charter", path.display(), statement.kind());
    };
    let key = signer.public_key();
    // A charter that anybody else has signed holds nowhere.
    if !charter.founders.iter().any(|founder| founder.keys.governance.contains(&key)) {
        bail!("{key} is no founder's governance key, and would spoil the charter: give its directory with --keys DIR");
    }
    let mut envelope = statement.envelope().clone();
    envelope.co_sign(signer).context("cannot sign the charter")?;
    std::fs::write(path, serde_yaml::to_string(&envelope)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let has_signed = |founder: &&Member| founder.keys.governance.iter().any(|key| envelope.signed_by(key));
    let missing: Vec<&str> = charter.founders.iter().filter(|f| !has_signed(f)).map(|f| f.id.as_str()).collect();
    let file = path.display();
    match missing.as_slice() {
        [] => println!("signed {file} with {key}; next, every founder runs: kubectl koinon found … --charter {file}"),
        missing => println!("signed {file} with {key}; it still needs the signatures of {}", missing.join(", ")),
    }
    Ok(())
}

fn read_all<T: serde::de::DeserializeOwned>(paths: &[PathBuf], what: &str) -> anyhow::Result<Vec<T>> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(read_yaml_documents::<T>(path, what)?);
    }
    Ok(all)
}

async fn apply(
    cluster: &Cluster,
    member: &MemberFlags,
    founding: &Founding,
    output: Option<Output>,
) -> anyhow::Result<()> {
    if !founding.charter().founders.iter().any(|founder| founder.id == member.member) {
        bail!("{} is not among the charter's founders", member.member);
    }
    let resource = Cooperative::new(
        "cooperative",
        cooperative::CooperativeSpec {
            id: founding.coop().to_string(),
            member: member.member.to_string(),
            site: member.api_site(),
            charter: Some(to_api(founding.statement().envelope())?),
            application: None,
            invite_secret_ref: None,
            endpoints: member.api_endpoints(),
            guests: member.api_guests(),
            weights: cooperative::Weights::default(),
            sources: member.sources.clone(),
            images: cooperative::Images::default(),
            limits: cooperative::Limits::default(),
        },
    );
    let mut resource = resource;
    resource.metadata.namespace = Some(cluster.namespace.clone());
    if output == Some(Output::Yaml) {
        return print_yaml(&[resource]);
    }
    cluster.apply(&resource).await?;
    println!("founded {} as {}", founding.coop(), member.member);
    println!("next: kubectl koinon invite MEMBER, for each datacenter that shall join");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_signs_the_charter_has_said_before_who_it_is() {
        use clap::Parser as _;
        let parse = |flags: &[&str]| crate::Cli::try_parse_from(["kubectl-koinon", "found"].iter().chain(flags));
        assert!(parse(&["--co-sign", "charter.yaml"]).is_ok());
        for flags in [&["--charter", "charter.yaml"][..], &["--member", "aarhus"], &[]] {
            let error = parse(flags).map(drop).unwrap_err().to_string();
            assert!(error.contains("--owner"), "{flags:?}: {error}");
        }
    }

    #[test]
    fn every_sample_engine_is_a_valid_entry_of_the_catalogue_and_says_which_image_it_fits() {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/engines"));
        let mut seen = Vec::new();
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let text = std::fs::read_to_string(&path).unwrap();
            let engines = read_all::<Engine>(&[path], "an engine").unwrap();
            assert_eq!(engines.len(), 1);
            engines[0].validate().unwrap();
            assert!(text.contains("# It fits the image"), "{} does not say which image it fits", engines[0].name);
            seen.push(engines[0].name.to_string());
        }
        seen.sort();
        assert_eq!(seen, ["koinon-challenge", "llama-cpp", "llama-server"]);
        let built = include_str!("../../../e2e/images/llama-cpp/requirements.txt");
        let version = built.split("xllamacpp==").nth(1).unwrap().split_whitespace().next().unwrap();
        let sample = include_str!("../../../manifests/engines/llama-cpp.yaml");
        assert!(sample.contains(&format!("xllamacpp {version}")), "the sample names another version than {version}");
    }

    #[test]
    fn the_sample_proposal_adds_a_valid_engine() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/samples/proposal-engine.yaml");
        let draft: koinon_api::Proposal = read_yaml(path.as_ref(), "a Proposal").unwrap();
        let action: koinon_core::body::Action = (&draft.spec.action.unwrap()).try_into().unwrap();
        let koinon_core::body::Action::AddEngine(add) = action else { panic!("it adds no engine") };
        add.engine.validate().unwrap();
    }
}
