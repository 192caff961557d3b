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
use crate::output::{Output, age, print_table, print_yaml};

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
    ///
    /// Applications send it as `Authorization: Bearer kk-…`. Whoever has it may call the jobs of those namespaces.
    Create {
        /// A name to revoke it by.
        name: String,
        /// A namespace whose jobs it may call; may be given several times.
        // Strings, because the id is also that of the shared flag, whose value clap hands to every level.
        #[arg(id = "namespace", long, short, required = true, value_name = "NAMESPACE")]
        namespaces: Vec<String>,
        /// Print the Secret instead of applying it, for git (the key goes to standard error); needs no cluster.
        #[arg(short, long, value_enum)]
        output: Option<Output>,
    },
    /// List the keys.
    List,
    /// Revoke a key.
    Revoke {
        /// Its name, as apikey list shows it.
        name: String,
    },
}

impl Args {
    /// Whether it makes a key.
    pub fn creates(&self) -> bool {
        matches!(self.command, Command::Create { .. })
    }

    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        match self.command {
            Command::Create { name, namespaces, output } => {
                let named =
                    namespaces.iter().map(|name| name.parse().with_context(|| format!("read --namespace {name}")));
                create(access, &name, &named.collect::<anyhow::Result<Vec<Namespace>>>()?, output).await
            }
            Command::List => list(&Cluster::connect(access).await?).await,
            Command::Revoke { name } => revoke(&Cluster::connect(access).await?, &name).await,
        }
    }
}

async fn create(access: &Access, name: &str, namespaces: &[Namespace], output: Option<Output>) -> anyhow::Result<()> {
    let key = format!("{PREFIX}{}", random_text()?);
    let secret = secret(access.release(), name, &key, namespaces);
    if output == Some(Output::Yaml) {
        print_yaml(&[secret])?;
        eprintln!("{key}");
    } else {
        let cluster = Cluster::connect(access).await?;
        if cluster.api::<Secret>().get_opt(&secret_name(name)).await?.is_some() {
            bail!("there is a key {name} already: revoke it first, or choose another name");
        }
        cluster.apply(&secret).await?;
        println!("{key}");
    }
    let names: Vec<&str> = namespaces.iter().map(Namespace::as_str).collect();
    eprintln!("this is the only time the key is shown; it may call jobs in {}", names.join(", "));
    Ok(())
}

/// The Secret of a key: its hash, never the key.
fn secret(release: &str, name: &str, key: &str, namespaces: &[Namespace]) -> Secret {
    let names: Vec<&str> = namespaces.iter().map(Namespace::as_str).collect();
    let mut secret = Secret {
        type_: Some("koinon.dev/apikey".to_owned()),
        data: Some(BTreeMap::from([
            ("hash".to_owned(), ByteString(Digest::of(key.as_bytes()).hex().into_bytes())),
            ("namespaces".to_owned(), ByteString(names.join(",").into_bytes())),
        ])),
        ..Secret::default()
    };
    secret.metadata.name = Some(secret_name(name));
    secret.metadata.namespace = Some(release.to_owned());
    secret.metadata.labels = Some(BTreeMap::from([(labels::API_KEY.to_owned(), labels::TRUE.to_owned())]));
    secret
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_of_a_key_holds_its_hash_and_never_the_key() {
        let key = format!("{PREFIX}{}", random_text().unwrap());
        let made = secret("koinon-system", "web", &key, &["team".parse().unwrap(), "other".parse().unwrap()]);
        let data = made.data.clone().unwrap();
        assert_eq!(data["hash"].0, Digest::of(key.as_bytes()).hex().into_bytes());
        assert_eq!(data["namespaces"].0, b"team,other");
        assert!(!serde_json::to_string(&made).unwrap().contains(&key));
        assert_eq!(made.metadata.labels.unwrap()[labels::API_KEY], labels::TRUE);
    }

    #[test]
    fn the_sample_is_no_key_before_somebody_makes_one() {
        let text = include_str!("../../../manifests/samples/apikey.yaml");
        let sample: Secret = serde_yaml::from_str(text).unwrap();
        let data = sample.string_data.unwrap();
        let hash = &data["hash"];
        // The gateway leaves out what is not 64 hex digits.
        assert!(hash.len() != 64 || !hash.chars().all(|c| c.is_ascii_hexdigit()), "{hash} could be a key's hash");
    }
}
