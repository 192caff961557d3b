//! `kubectl koinon keys`, `adopt`, `resume`: the operator's key through loss, cloning and restored backups.

mod revoke;
mod rotate;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use koinon_api::{Cooperative, labels};
use koinon_core::body::member::MemberKeys;
use koinon_core::dsse::{SeedSigner, Signer as _};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::access::Access;
use crate::cluster::Cluster;
use crate::inputs::PersonKeys;
use crate::keyfile::{self, Protection};

/// Rotate and take back one's own keys, and back up and restore the operator's.
#[derive(Debug, clap::Args)]
#[command(after_help = FILES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What the files are, and which key does what.
const FILES: &str = "\
Three keys speak for a member, each kept apart from the others:
  governance  DIR/governance.pem, a person's: signs proposals, votes and whatever else people
              say. In no cluster. `keys rotate` replaces it.
  recovery    DIR/recovery.pem, offline: takes a governance key back (`keys revoke`), and gives
              another (`keys rotate --recovery`). Move it away from this machine once it is made.
  operator    the Secret koinon-operator-key of the release: signs seals, offers and grants.
              It cannot vote.
DIR is --keys, else $KOINON_KEYS, else ~/.koinon; `found` and `join` make both files there.
A file is PKCS#8 in PEM, encrypted with its passphrase (scrypt and AES-256), which is asked for
at the terminal or read from $KOINON_PASSPHRASE; `found --no-passphrase` and
`join --no-passphrase` make plain ones. openssl reads them:
  openssl pkey -in ~/.koinon/governance.pem -noout -text_pub";

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the public keys of this person's key files; asks for the passphrase of encrypted ones.
    Show,
    /// Make the key files that are not there, and print this member's three public keys.
    ///
    /// For a member that lost its keys: another one proposes them with kubectl koinon propose reset-keys.
    New {
        /// Make key files without a passphrase, for machines that protect the files themselves.
        #[arg(long)]
        no_passphrase: bool,
    },
    Rotate(rotate::Args),
    Revoke(revoke::Args),
    CoSign(revoke::CoSignArgs),
    /// Write the operator's key to an encrypted file.
    Backup {
        /// Where to.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Write it without a passphrase, for a place that protects the file itself.
        #[arg(long)]
        no_passphrase: bool,
    },
    /// Give a new release the operator's key from a backup, before its operator has made one.
    Restore {
        /// The backup.
        file: PathBuf,
    },
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        match self.command {
            Command::Show => show(access),
            Command::New { no_passphrase } => new(access, no_passphrase).await,
            Command::Rotate(args) => args.run(access).await,
            Command::Revoke(args) => args.run(access).await,
            Command::CoSign(args) => args.run(access).await,
            Command::Backup { out, no_passphrase } => {
                let protection = if no_passphrase { Protection::Plain } else { Protection::Passphrase };
                backup(access, &out, protection).await
            }
            Command::Restore { file } => restore(access, &file).await,
        }
    }
}

async fn new(access: &Access, no_passphrase: bool) -> anyhow::Result<()> {
    let cluster = Cluster::connect(access).await?;
    let operator = cluster.operator_key().await?;
    let PersonKeys { governance, recovery } = PersonKeys::read_or_create(access, no_passphrase)?;
    let keys =
        MemberKeys { recovery: vec![recovery.public_key()], governance: vec![governance.public_key()], operator };
    print!("{}", serde_yaml::to_string(&keys)?);
    Ok(())
}

/// The recovery keys in `files`, or the one of the keys' directory.
fn recovery_signers(access: &Access, files: &[PathBuf]) -> anyhow::Result<Vec<SeedSigner>> {
    if files.is_empty() {
        return Ok(vec![keyfile::read(&access.recovery_key()?)?]);
    }
    files.iter().map(|file| Ok(keyfile::read(file)?)).collect()
}

fn show(access: &Access) -> anyhow::Result<()> {
    for (role, path) in [("governance", access.governance_key()?), ("recovery", access.recovery_key()?)] {
        if path.exists() {
            println!("{role}\t{}\t{}", keyfile::read(&path)?.public_key(), path.display());
        } else {
            println!("{role}\t-\t{} (not there)", path.display());
        }
    }
    Ok(())
}

async fn backup(access: &Access, out: &std::path::Path, protection: Protection) -> anyhow::Result<()> {
    let cluster = Cluster::connect(access).await?;
    let secret = cluster
        .api::<Secret>()
        .get(labels::OPERATOR_KEY_SECRET)
        .await
        .context("cannot read the operator's key Secret")?;
    let entry = secret.data.as_ref().and_then(|data| data.get(labels::OPERATOR_KEY_ENTRY));
    let pem = entry.with_context(|| format!("the Secret lacks {}", labels::OPERATOR_KEY_ENTRY))?;
    let key = keyfile::store_pem(out, &pem.0, protection)?;
    println!("wrote {} ({}); whoever has it can speak for this member's operator", out.display(), key.public_key());
    Ok(())
}

async fn restore(access: &Access, file: &std::path::Path) -> anyhow::Result<()> {
    let cluster = Cluster::connect(access).await?;
    let (signer, pem) = keyfile::read_with_pem(file)?;
    let mut secret = Secret {
        type_: Some("koinon.dev/operator-key".to_owned()),
        data: Some(BTreeMap::from([(labels::OPERATOR_KEY_ENTRY.to_owned(), ByteString(pem.as_bytes().to_vec()))])),
        ..Secret::default()
    };
    secret.metadata.name = Some(labels::OPERATOR_KEY_SECRET.to_owned());
    secret.metadata.namespace = Some(cluster.namespace.clone());
    secret.metadata.annotations = Some(BTreeMap::from([
        (labels::PUBLIC_KEY.to_owned(), signer.public_key().to_string()),
        (labels::CLUSTER_UID.to_owned(), cluster_uid(&cluster).await?),
    ]));
    match cluster.api::<Secret>().create(&PostParams::default(), &secret).await {
        Ok(_) => println!("restored {}", signer.public_key()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let there = cluster.operator_key().await?;
            if there == signer.public_key() {
                println!("{there} is there already");
                return Ok(());
            }
            bail!(
                "namespace {} has another operator key already, {there}: whatever names it as its operator would lose it",
                cluster.namespace
            )
        }
        Err(error) => return Err(error).context("cannot create the Secret"),
    }
    println!("the old cluster must never run again with this key: two operators with one key fork its log");
    Ok(())
}

async fn cluster_uid(cluster: &Cluster) -> anyhow::Result<String> {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let system = namespaces.get("kube-system").await.context("cannot read namespace kube-system")?;
    system.metadata.uid.context("namespace kube-system has no uid")
}

/// Let the operator of a cloned or restored cluster sign again.
///
/// An operator that finds its key in another cluster than the one that it was made in serves but does not sign, because
/// the original may still run. Adopt only when it does not.
#[derive(Debug, clap::Args)]
pub struct AdoptArgs {
    /// Do it; without this flag the command only says what would happen.
    #[arg(long)]
    yes: bool,
}

impl AdoptArgs {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let cluster = Cluster::connect(access).await?;
        let secrets = cluster.api::<Secret>();
        let secret = secrets.get(labels::OPERATOR_KEY_SECRET).await.context("cannot read the operator's key Secret")?;
        let here = cluster_uid(&cluster).await?;
        let annotations = secret.metadata.annotations.unwrap_or_default();
        let recorded = annotations.get(labels::CLUSTER_UID).cloned().unwrap_or_default();
        if recorded == here {
            println!("the key belongs to this cluster already");
            return Ok(());
        }
        println!("the key was made in cluster {recorded}; this is {here}");
        if !self.yes {
            println!(
                "If the other cluster still runs, its log forks as soon as both sign. If it does not, run again with --yes."
            );
            return Ok(());
        }
        let patch = json!({"metadata": {"annotations": {labels::ADOPT: here}}});
        secrets
            .patch(labels::OPERATOR_KEY_SECRET, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .context("cannot change the operator's key Secret")?;
        println!("adopted; the operator signs again once a quorum has told it its own head");
        Ok(())
    }
}

/// Let the operator sign although no quorum has told it its own log's head.
///
/// After a start the operator waits until a seal quorum has told it the head of its own log, so that a restored backup
/// cannot make it sign the same position twice. Where the others are gone for good, this ends the wait.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// Do it; without this flag the command only says what would happen.
    #[arg(long)]
    yes: bool,
}

impl ResumeArgs {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let name = membership.resource.metadata.name.clone().unwrap_or_default();
        if !self.yes {
            println!(
                "{} would sign from the head that this cluster remembers. If a peer holds later entries of this log, they\n\
                 fork it, and the others hold no new placement with a forked log. If no peer can answer, run again with --yes.",
                membership.member
            );
            return Ok(());
        }
        // The value names the log, so that a stray annotation cannot resume another one later.
        let log = cluster.operator_key().await?.to_string();
        let patch = json!({"metadata": {"annotations": {labels::RESUME: log}}});
        cluster
            .api::<Cooperative>()
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .context("cannot annotate the Cooperative")?;
        println!("{} resumes", membership.member);
        Ok(())
    }
}
