//! `kubectl koinon apikey`: keys with which applications call this member's gateway.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Subcommand;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use koinon_api::labels;
use koinon_core::ids::{Digest, Namespace};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};

use crate::access::Access;
use crate::cluster::Cluster;
use crate::output::{age, print_table};

/// What every API key begins with.
const PREFIX: &str = "kk-";

/// Make, list and revoke the keys with which applications call the gateway.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key and print it once; the cluster keeps only its digest.
    Create {
        /// A name to revoke it by.
        name: String,
        /// A namespace whose jobs it may call; may be given several times.
        // Strings, because the id is also that of the shared flag, whose value clap hands to every level.
        #[arg(id = "namespace", long, short, required = true, value_name = "NAMESPACE")]
        namespaces: Vec<String>,
    },
    /// List the keys.
    List,
    /// Revoke a key.
    Revoke {
        /// Its name.
        name: String,
    },
}

impl Args {
    /// Whether it makes a key.
    pub fn creates(&self) -> bool {
        matches!(self.command, Command::Create { .. })
    }

    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let cluster = Cluster::connect(access).await?;
        match self.command {
            Command::Create { name, namespaces } => {
                let named =
                    namespaces.iter().map(|name| name.parse().with_context(|| format!("read --namespace {name}")));
                create(&cluster, &name, &named.collect::<anyhow::Result<Vec<Namespace>>>()?).await
            }
            Command::List => list(&cluster).await,
            Command::Revoke { name } => revoke(&cluster, &name).await,
        }
    }
}

async fn create(cluster: &Cluster, name: &str, namespaces: &[Namespace]) -> anyhow::Result<()> {
    let resource_name = secret_name(name);
    if cluster.api::<Secret>().get_opt(&resource_name).await?.is_some() {
        bail!("there is a key {name} already: revoke it first, or choose another name");
    }
    let key = format!("{PREFIX}{}", random_text()?);
    let names: Vec<String> = namespaces.iter().map(ToString::to_string).collect();
    let mut secret = Secret {
        type_: Some("koinon.dev/apikey".to_owned()),
        data: Some(BTreeMap::from([
            ("hash".to_owned(), ByteString(Digest::of(key.as_bytes()).hex().into_bytes())),
            ("namespaces".to_owned(), ByteString(names.join(",").into_bytes())),
        ])),
        ..Secret::default()
    };
    secret.metadata.name = Some(resource_name);
    secret.metadata.namespace = Some(cluster.namespace.clone());
    secret.metadata.labels = Some(BTreeMap::from([(labels::API_KEY.to_owned(), labels::TRUE.to_owned())]));
    cluster.apply(&secret).await?;
    println!("{key}");
    eprintln!("this is the only time the key is shown; it may call jobs in {}", names.join(", "));
    Ok(())
}

async fn list(cluster: &Cluster) -> anyhow::Result<()> {
    let params = ListParams::default().labels(&format!("{}={}", labels::API_KEY, labels::TRUE));
    let found = cluster.api::<Secret>().list(&params).await.context("cannot list the keys")?;
    let now = crate::cluster::now().0;
    let rows: Vec<Vec<String>> = found
        .items
        .iter()
        .map(|secret| {
            let data = |entry: &str| {
                let bytes = secret.data.as_ref().and_then(|data| data.get(entry));
                bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
            };
            let made = secret.creation_timestamp().map_or(now, |time| koinon_api::time::to_unix(&time));
            let name = secret.name_any();
            vec![name.strip_prefix("apikey-").unwrap_or(&name).to_owned(), data("namespaces"), age(now - made)]
        })
        .collect();
    print_table(&["NAME", "NAMESPACES", "AGE"], &rows);
    Ok(())
}

async fn revoke(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    cluster
        .api::<Secret>()
        .delete(&secret_name(name), &DeleteParams::default())
        .await
        .with_context(|| format!("cannot revoke key {name}; see kubectl koinon apikey list"))?;
    println!("revoked {name}");
    Ok(())
}

fn secret_name(name: &str) -> String {
    format!("apikey-{name}")
}

/// 32 random bytes as 43 characters that need no quoting anywhere.
///
/// # Errors
/// Where the operating system gives no random bytes.
pub fn random_text() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("the operating system gave no random bytes: {error}"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
