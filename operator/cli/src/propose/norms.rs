//! What a subcommand of `propose` can set for all work. A vote replaces each of these as a whole; a flag changes only its own
//! part of what is in force.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use koinon_core::body::charter::Fraction;
use koinon_core::body::latest::EvidenceLevel;
use koinon_core::body::{Action, AuditRate, Challenges, OperatorRelease, PlacementRules, Prices, Shares};
use koinon_core::ids::{Digest, GpuClass, Jurisdiction, Line, ManifestDigest, Seconds};
use koinon_core::policy::{Commons, State};

use super::xids::{self, XidChange};
use crate::cluster::now;
use crate::inputs::read_yaml;

/// A day, in which the ages of entries are given.
const DAY: i64 = 86_400;

#[derive(Debug, Subcommand)]
pub enum NormCommand {
    /// Set where work for other members may run; what is not given stays as it is.
    SetPlacementRules {
        /// The jurisdictions, such as DK,SE; or any.
        #[arg(long, value_name = "CC,CC|any")]
        jurisdictions: Option<Places>,
        /// Of one model, the jurisdictions among them; any lifts it.
        #[arg(long, value_name = "DIGEST=CC,CC|any")]
        residency: Vec<Residency>,
        /// The weakest evidence of capacity that counts: Claimed, SchedulerConsistent or Challenged. Attested is not available
        /// in this release.
        #[arg(long, value_name = "LEVEL", value_parser = level)]
        min_evidence: Option<EvidenceLevel>,
        /// Most replicas of one job at one member, or none.
        #[arg(long, value_name = "N|none")]
        max_replicas_per_member: Option<Limit>,
        /// What an error of GPUs means from now on, stricter than in the table of the release: 94=Unhealthy, or
        /// 94=Degraded,hold=7200,reason=Contained,action=Investigate,work=Keep; 94=none takes the vote's word back.
        #[arg(long, value_name = "CODE=STATE[,KEY=VALUE]|none")]
        xid: Vec<XidChange>,
        /// How members test each other's GPUs, as YAML; or none. manifests/challenges of the repository has an example.
        #[arg(long, value_name = "FILE|none")]
        challenges: Option<PathBuf>,
    },
    /// Set how much of the others' GPUs one member may hold; what is not given stays as it is.
    SetShares {
        /// The part of what a host offers, such as 1/3.
        #[arg(long, value_name = "FRACTION", value_parser = fraction)]
        host_share: Option<Fraction>,
        /// The most GPUs at one host, or none.
        #[arg(long, value_name = "N|none")]
        most_gpus: Option<Limit>,
    },
    /// Set what a GPU costs for a second, by class; classes that are not given stay as they are.
    ///
    /// Example: propose set-prices h100-80=1200 a100-40=700
    SetPrices {
        /// In millionths of a compute unit; 0 takes the price away.
        #[arg(required = true, value_name = "CLASS=MICROS")]
        prices: Vec<Price>,
    },
    /// Set how much of what is served is computed once more by another member.
    SetAuditRate {
        /// Of ten thousand requests.
        #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000))]
        per_ten_thousand: u32,
    },
    /// Name the release of the operator that members are asked to run; each owner upgrades its own.
    AdviseOperatorRelease {
        /// Its version, such as 1.4.0.
        version: Line,
        /// The digest of its image.
        #[arg(long, value_name = "DIGEST")]
        image: Digest,
    },
    /// Settle what is old for good: operators may move the entries below to an archive.
    Checkpoint {
        /// Leave the entries of the last so many days as they are.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(i64).range(0..=3650))]
        keep_days: i64,
    },
}

/// A limit, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(Option<u32>);

impl FromStr for Limit {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            number => number.parse().map(|number| Self(Some(number))).map_err(|_| "write a number, or none".to_owned()),
        }
    }
}

/// Jurisdictions; an empty set is any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places(BTreeSet<Jurisdiction>);

impl FromStr for Places {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "any" {
            return Ok(Self(BTreeSet::new()));
        }
        let one = |word: &str| word.trim().parse().map_err(|error: koinon_core::ids::IdError| error.to_string());
        text.split(',').map(one).collect::<Result<_, _>>().map(Self)
    }
}

/// Where one model may be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residency(ManifestDigest, Places);

impl FromStr for Residency {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (model, places) = text.split_once('=').ok_or("write DIGEST=CC,CC or DIGEST=any")?;
        let model = model.parse().map_err(|error: koinon_core::ids::IdError| error.to_string())?;
        Ok(Self(model, places.parse()?))
    }
}

/// What one class costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price(GpuClass, u64);

impl FromStr for Price {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (class, price) = text.split_once('=').ok_or("write CLASS=MICROS, such as h100-80=1200")?;
        let class = class.parse().map_err(|error: koinon_core::ids::IdError| error.to_string())?;
        Ok(Self(class, price.parse().map_err(|_| format!("{price:?} is no whole number"))?))
    }
}

fn level(text: &str) -> Result<EvidenceLevel, String> {
    let known = || EvidenceLevel::ALL.iter().map(|level| level.as_str()).collect::<Vec<_>>().join(", ");
    let found = EvidenceLevel::ALL.iter().copied().find(|level| level.as_str().eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("must be one of {}", known()))
}

fn fraction(text: &str) -> Result<Fraction, String> {
    let read = text.split_once('/').and_then(|(num, den)| Some((num.trim().parse().ok()?, den.trim().parse().ok()?)));
    read.map(|(num, den)| Fraction { num, den }).ok_or_else(|| "write a fraction, such as 1/3".to_owned())
}

/// Rules of challenges that can be carried out as things are.
fn read_challenges(file: &Path, state: &State) -> anyhow::Result<Challenges> {
    let challenges: Challenges = read_yaml(file, "rules of challenges")?;
    let Challenges { engine, model, .. } = &challenges;
    if !state.engines().contains_key(engine) {
        bail!("the catalogue has no engine {engine}: propose it first, with add-engine");
    }
    let Some(release) = state.releases().get(model).filter(|release| release.withdrawn.is_none()) else {
        bail!("no release {model} is approved: propose it first, with add-model-release");
    };
    let engines = &release.release.engines;
    if !engines.is_empty() && !engines.contains(engine) {
        bail!("release {model} may not be served with {engine}: propose it anew, with --engine {engine} as well");
    }
    challenges.validate().with_context(|| format!("the rules in {} do not hold", file.display()))?;
    Ok(challenges)
}

impl NormCommand {
    /// What it proposes to the cooperative as `commons` has it.
    ///
    /// # Errors
    /// Where it would change nothing, or nothing can be settled.
    pub fn action(self, commons: &Commons) -> anyhow::Result<Action> {
        let norms = commons.state().norms();
        Ok(match self {
            Self::SetPlacementRules {
                jurisdictions,
                residency,
                min_evidence,
                max_replicas_per_member,
                xid,
                challenges,
            } => {
                let mut rules: PlacementRules = norms.placement.clone();
                if let Some(Places(places)) = jurisdictions {
                    rules.jurisdictions = places;
                }
                for Residency(model, Places(places)) in residency {
                    if places.is_empty() {
                        rules.residency.remove(&model)
                    } else {
                        rules.residency.insert(model, places)
                    };
                }
                rules.min_evidence = min_evidence.unwrap_or(rules.min_evidence);
                if let Some(Limit(most)) = max_replicas_per_member {
                    rules.max_replicas_per_member = most;
                }
                xids::apply(&mut rules.xids, xid)?;
                if let Some(file) = challenges {
                    let none = file.as_os_str() == "none";
                    rules.challenges = if none { None } else { Some(read_challenges(&file, commons.state())?) };
                }
                if rules.min_evidence == EvidenceLevel::Challenged && rules.challenges.is_none() {
                    bail!(
                        "nothing would count as Challenged, so nothing could be placed: set --challenges FILE as well"
                    );
                }
                // So that it is refused here and not by everybody who reads the proposal.
                rules.validate()?;
                Action::SetPlacementRules(rules)
            }
            Self::SetShares { host_share, most_gpus } => {
                if host_share.is_none() && most_gpus.is_none() {
                    bail!("say what to set: --host-share or --most-gpus");
                }
                let before: Shares = norms.shares;
                Action::SetShares(Shares {
                    host_share: host_share.unwrap_or(before.host_share),
                    most_gpus: most_gpus.map_or(before.most_gpus, |Limit(most)| most),
                })
            }
            Self::SetPrices { prices } => {
                let mut all: Prices = norms.prices.clone();
                for Price(class, price) in prices {
                    if price == 0 {
                        all.gpu_second_micros.remove(&class);
                    } else {
                        all.gpu_second_micros.insert(class, price);
                    }
                }
                Action::SetPrices(all)
            }
            Self::SetAuditRate { per_ten_thousand } => Action::SetAuditRate(AuditRate { per_ten_thousand }),
            Self::AdviseOperatorRelease { version, image } => {
                Action::AdviseOperatorRelease(OperatorRelease { version, image })
            }
            Self::Checkpoint { keep_days } => {
                let before = now().minus(Seconds(keep_days.saturating_mul(DAY)));
                let checkpoint = commons.draft_checkpoint(before).context("nothing can be settled now")?;
                if checkpoint.logs.is_empty() {
                    bail!("no log has an entry older than {keep_days} days: nothing is to be settled");
                }
                Action::Checkpoint(checkpoint)
            }
        })
    }
}

#[cfg(test)]
#[path = "norms_tests.rs"]
mod tests;
