//! Flags and files from which several commands read the same things.

use std::path::Path;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use koinon_api::common::{Endpoints, GuestMode, Site};
use koinon_api::cooperative::{Guests, NetworkPolicyDemand, Source};
use koinon_core::body::member::{self, Member, MemberKeys};
use koinon_core::dsse::{SeedSigner, Signer as _};
use koinon_core::ids::{Endpoint, Jurisdiction, Line, MemberId, PublicKey, Region, SiteName};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;

use crate::access::Access;
use crate::keyfile::{self, Protection};

/// Largest file that is read from a person, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// How this member presents itself, when it founds or joins.
#[derive(Debug, clap::Args)]
pub struct MemberFlags {
    /// This member's id: a DNS label of at most 30 characters, never reused.
    #[arg(long, value_name = "ID")]
    pub member: MemberId,
    /// The legal owner of this datacenter.
    #[arg(long, value_name = "NAME")]
    pub owner: Line,
    /// Who owns it in the end: members of one such owner cast one vote together; default: the member's id.
    #[arg(long, value_name = "NAME")]
    pub control_group: Option<String>,
    /// The name of the site.
    #[arg(long, default_value = "main")]
    pub site: SiteName,
    /// The region of the machines, such as eu-north; all members see it.
    #[arg(long, value_name = "REGION")]
    pub region: Region,
    /// The country whose law holds there, as two capital letters (DK); jobs may ask for it.
    #[arg(long, value_name = "CC")]
    pub jurisdiction: Jurisdiction,
    /// Where peers reach this cluster's operator (https://host:7443); none means outbound only.
    #[arg(long = "peer-endpoint", value_name = "URL")]
    pub peer_endpoints: Vec<Endpoint>,
    /// Where peers' gateways reach this cluster's gateway (https://host:7444); none means it hosts nothing.
    #[arg(long = "gateway-endpoint", value_name = "URL")]
    pub gateway_endpoints: Vec<Endpoint>,
    /// Whether foreign work is accepted.
    #[arg(long, value_enum, default_value = "accept")]
    pub guests: GuestsFlag,
    /// Accept guests although the cluster's network does not enforce NetworkPolicies; every offer will say so.
    #[arg(long)]
    pub accept_unenforced_network_policy: bool,
    /// Where model weights are fetched instead of their origin, as PREFIX=MIRROR (hf://=https://mirror/hf/).
    #[arg(long = "source", value_name = "PREFIX=MIRROR", value_parser = parse_source)]
    pub sources: Vec<Source>,
    /// Make key files without a passphrase, for machines that protect the files themselves.
    #[arg(long)]
    pub no_passphrase: bool,
}

/// Whether foreign work is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GuestsFlag {
    /// Accept foreign work.
    Accept,
    /// Take nothing new.
    Drain,
    /// Take none.
    Stop,
}

fn parse_source(text: &str) -> Result<Source, String> {
    let (prefix, mirror) = text.split_once('=').ok_or("write PREFIX=MIRROR, such as hf://=https://mirror.example/")?;
    Ok(Source { match_: prefix.to_owned(), mirror: mirror.to_owned(), secret_ref: None, ca_bundle_ref: None })
}

impl MemberFlags {
    /// The member's description with its keys.
    ///
    /// # Errors
    /// Where a name breaks its rule.
    pub fn describe(&self, operator: PublicKey, keys: &PersonKeys) -> anyhow::Result<Member> {
        let control_group = match &self.control_group {
            Some(name) => name.parse()?,
            None => self.member.as_str().parse()?,
        };
        let member = Member {
            id: self.member.clone(),
            owner: self.owner.clone(),
            control_group,
            site: member::Site {
                name: self.site.clone(),
                region: self.region.clone(),
                jurisdiction: self.jurisdiction.clone(),
            },
            keys: MemberKeys {
                recovery: vec![keys.recovery.public_key()],
                governance: vec![keys.governance.public_key()],
                operator,
            },
            endpoints: member::Endpoints { peer: self.peer_endpoints.clone(), gateway: self.gateway_endpoints.clone() },
        };
        member.validate()?;
        Ok(member)
    }

    /// The site as the Cooperative resource carries it.
    pub fn api_site(&self) -> Site {
        Site {
            name: self.site.to_string(),
            region: self.region.to_string(),
            jurisdiction: self.jurisdiction.to_string(),
        }
    }

    /// The endpoints as the Cooperative resource carries them.
    pub fn api_endpoints(&self) -> Endpoints {
        Endpoints {
            peer: self.peer_endpoints.iter().map(ToString::to_string).collect(),
            gateway: self.gateway_endpoints.iter().map(ToString::to_string).collect(),
        }
    }

    /// What the Cooperative resource says about guests.
    pub fn api_guests(&self) -> Guests {
        Guests {
            mode: match self.guests {
                GuestsFlag::Accept => GuestMode::Accept,
                GuestsFlag::Drain => GuestMode::Drain,
                GuestsFlag::Stop => GuestMode::Stop,
            },
            network_policy: if self.accept_unenforced_network_policy {
                NetworkPolicyDemand::AcceptUnenforced
            } else {
                NetworkPolicyDemand::Required
            },
        }
    }
}

/// The keys that a person holds.
pub struct PersonKeys {
    /// Votes, and signs applications and proposals.
    pub governance: SeedSigner,
    /// Replaces the others.
    pub recovery: SeedSigner,
}

impl PersonKeys {
    /// Reads the two key files, making those that are not there.
    ///
    /// # Errors
    /// See [`keyfile::Error`].
    pub fn read_or_create(access: &Access, no_passphrase: bool) -> anyhow::Result<Self> {
        let protection = if no_passphrase { Protection::Plain } else { Protection::Passphrase };
        let open = |path: &Path| -> anyhow::Result<SeedSigner> {
            if path.exists() {
                return Ok(keyfile::read(path)?);
            }
            let signer = keyfile::create(path, protection)?;
            eprintln!("made {} ({}); keep it, no cluster has a copy", path.display(), signer.public_key());
            Ok(signer)
        };
        Ok(Self { governance: open(&access.governance_key()?)?, recovery: open(&access.recovery_key()?)? })
    }
}

/// Reads a YAML or JSON file; `-` is standard input.
///
/// # Errors
/// Where it cannot be read, is too large or has another shape.
pub fn read_yaml<T: DeserializeOwned>(path: &Path, what: &str) -> anyhow::Result<T> {
    let text = read_text(path)?;
    // By way of JSON, as kubectl reads YAML: YAML of its own would want a tag (`!addEngine`) for an action.
    serde_yaml::from_str::<serde_json::Value>(&text)
        .map_err(anyhow::Error::new)
        .and_then(|value| Ok(serde_json::from_value(value)?))
        .with_context(|| format!("{} is not {what}", path.display()))
}

/// Reads every document of a YAML file; `-` is standard input.
///
/// # Errors
/// As [`read_yaml`].
pub fn read_yaml_documents<T: DeserializeOwned>(path: &Path, what: &str) -> anyhow::Result<Vec<T>> {
    let text = read_text(path)?;
    serde_yaml::Deserializer::from_str(&text)
        .map(|document| {
            let value = serde_json::Value::deserialize(document).map_err(anyhow::Error::new);
            value
                .and_then(|value| Ok(serde_json::from_value(value)?))
                .with_context(|| format!("{} is not {what}", path.display()))
        })
        .collect()
}

/// Reads a file as text; `-` is standard input.
///
/// # Errors
/// Where it cannot be read or is too large.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_FILE + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path)
            .with_context(|| format!("cannot open {}", path.display()))?
            .take(MAX_FILE + 1)
            .read_to_string(&mut text)
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    if text.len() as u64 > MAX_FILE {
        bail!("{} is larger than {MAX_FILE} bytes", path.display());
    }
    Ok(text)
}
