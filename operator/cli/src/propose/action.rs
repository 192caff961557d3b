//! The changes that a subcommand of `propose` can name.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use koinon_core::body::proposal::{AddEngine, CancelProposal, RemoveEngine, SetRules, WithdrawModelRelease};
use koinon_core::body::{Action, Engine, ModelRelease};
use koinon_core::ids::{Bytes, EngineName, License, ManifestDigest, ModelUri, Quantization, Revision};
use koinon_core::policy::Commons;
use koinon_core::presets;
use kube::ResourceExt as _;

use crate::charter;
use crate::cluster::Cluster;
use crate::inputs::{read_yaml, read_yaml_documents};
use crate::propose::member::MemberCommand;
use crate::propose::norms::NormCommand;
use crate::settings::{self, Setting};

#[derive(Debug, Subcommand)]
pub enum ActionCommand {
    /// Approve a model for placement on each other's GPUs.
    ///
    /// Download the weights first and let `kubectl koinon digest PATH` compute --manifest-digest: hosts load what has that
    /// digest, and nothing else.
    AddModelRelease {
        /// Where its weights come from: https://…, or hf://ORG/REPO/FILE.gguf, which each host maps to a mirror of its own.
        #[arg(long)]
        uri: ModelUri,
        /// Which revision there, such as the commit.
        #[arg(long)]
        revision: Revision,
        /// Its identity, sha256:… over its manifest; `kubectl koinon digest PATH` computes it of downloaded weights.
        #[arg(long)]
        manifest_digest: ManifestDigest,
        /// How its weights are quantised, such as f16 or q4-k-m.
        #[arg(long)]
        quantization: Quantization,
        /// Its licence, best as an SPDX identifier such as Apache-2.0.
        #[arg(long)]
        license: License,
        /// With which engines it may be served; none means any of the catalogue.
        #[arg(long = "engine", value_name = "NAME")]
        engines: Vec<EngineName>,
        /// GPU memory that it needs, in bytes; jobs that state no number of GPUs are sized with it.
        #[arg(long)]
        memory_bytes: Option<u64>,
    },
    /// Withdraw the approval of a model.
    WithdrawModelRelease {
        /// Its identity, sha256:…, as `kubectl get modelreleases -o yaml` shows it.
        manifest_digest: ManifestDigest,
    },
    /// Add an engine to the catalogue, or replace it.
    AddEngine {
        /// The entry, as YAML; manifests/engines of the repository has examples.
        file: PathBuf,
    },
    /// Remove an engine from the catalogue.
    RemoveEngine {
        /// Its name in the catalogue.
        name: EngineName,
    },
    /// Decide by later rules from here on: rules 2 let more than three members decide, and tolerate some that lie.
    SetRules {
        /// The version; what this program can decide by is the most that it proposes.
        #[arg(default_value_t = 2)]
        rules: u32,
    },
    /// Change the charter's periods, limits and classes.
    ///
    /// Either single numbers with --set, or all of them in a file as `kubectl koinon charter` prints the present ones; with
    /// both, --set changes what the file says. A number outside the bounds of every charter is refused here.
    /// Example: propose change-charter --set parameters.graceSeconds=30 --set classes.Routine.periodSeconds=60
    ChangeCharter {
        /// All parameters and classes, as YAML; default: those in force.
        #[arg(required_unless_present = "set")]
        file: Option<PathBuf>,
        /// One number, by its path in `kubectl koinon charter`.
        ///
        /// Fractions as 1/3; a threshold as "moreThan 1/2" or "atLeast 2/3"; a least yes as "ceil 1/4" or "floorPlusOne 1/2";
        /// veto=none where no share of vetoes shall block.
        #[arg(long, value_name = "PATH=VALUE")]
        set: Vec<Setting>,
    },
    /// Stop a proposal that has passed and is not in force yet.
    Cancel {
        /// Its name or id, or the beginning of either.
        proposal: String,
    },
    #[command(flatten)]
    Member(MemberCommand),
    #[command(flatten)]
    Norm(NormCommand),
}

impl ActionCommand {
    /// What it proposes to the cooperative as `commons` has it.
    ///
    /// # Errors
    /// Where a file cannot be read, or a number leaves its bounds.
    pub async fn action(self, cluster: &Cluster, commons: &Commons) -> anyhow::Result<Action> {
        let state = commons.state();
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
            Self::SetRules { rules } => {
                let deliberation = presets::deliberation_of(commons.founding().charter().preset);
                Action::SetRules(SetRules { rules, deliberation })
            }
            Self::ChangeCharter { file, set } => {
                let base = match file {
                    Some(file) => read_yaml(&file, "the charter's parameters and classes")?,
                    None => charter::in_force(state),
                };
                Action::ChangeCharter(Box::new(settings::apply(&base, &set)?))
            }
            Self::Cancel { proposal } => {
                let found = cluster.proposal(&proposal).await?;
                let id = found.status.as_ref().and_then(|status| status.id.clone());
                let id = id.with_context(|| format!("{} is not signed: delete the draft", found.name_any()))?;
                Action::CancelProposal(CancelProposal { proposal: id.parse()? })
            }
            Self::Member(command) => command.action(state)?,
            Self::Norm(command) => command.action(commons)?,
        })
    }
}

/// A title made of the action.
pub fn describe(action: &Action) -> String {
    let text = match action {
        Action::AddModelRelease(release) => format!("Approve {} {}", release.uri, release.quantization),
        Action::WithdrawModelRelease(release) => format!("Withdraw model {}", release.manifest_digest),
        Action::AddEngine(add) => format!("Add engine {}", add.engine.name),
        Action::RemoveEngine(remove) => format!("Remove engine {}", remove.name),
        Action::Admit(_) => "Admit a member".to_owned(),
        Action::SetRules(set) => format!("Decide by rules {}", set.rules),
        Action::ChangeCharter(_) => "Change the charter".to_owned(),
        Action::CancelProposal(cancel) => format!("Cancel proposal {}", cancel.proposal),
        Action::Expel(expel) if expel.appeal.is_some() => format!("Expel {}, after its appeal", expel.member),
        Action::Expel(expel) => format!("Expel {}", expel.member),
        Action::ResetKeys(reset) => format!("Give {} other keys", reset.member),
        Action::Confirm(confirm) => format!("Confirm {}", confirm.member),
        Action::MarkDormant(mark) => format!("Count {} no more", mark.member),
        Action::Reactivate(wake) => format!("Count {} again", wake.member),
        Action::Suspend(suspend) => format!("Suspend {}", suspend.member),
        Action::Reinstate(reinstate) => format!("Reinstate {}", reinstate.member),
        Action::LiftQuarantine(lift) => format!("Let {} work again", lift.member),
        Action::SetPlacementRules(_) => "Change where work may run".to_owned(),
        Action::SetShares(_) => "Change how much one member may hold".to_owned(),
        Action::SetPrices(_) => "Change the prices".to_owned(),
        Action::SetAuditRate(rate) => format!("Check {} of 10000 requests", rate.per_ten_thousand),
        Action::AdviseOperatorRelease(release) => format!("Ask members to run {}", release.version),
        Action::Checkpoint(checkpoint) => format!("Settle {} logs", checkpoint.logs.len()),
    };
    text.chars().take(200).collect()
}
