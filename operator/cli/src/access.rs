//! How the command reaches the member's cluster and the person's keys.

use std::path::PathBuf;

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Options that every command shares.
#[derive(Debug, clap::Args)]
pub struct Access {
    /// The kubeconfig file; default as for kubectl.
    #[arg(long, global = true, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig context to use.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace of the Koinon release.
    #[arg(long, global = true, value_name = "NAMESPACE", env = "KOINON_NAMESPACE", default_value = "koinon-system")]
    pub release_namespace: String,
    /// The directory with this person's key files: governance.pem and recovery.pem.
    #[arg(long, global = true, value_name = "DIR", env = "KOINON_KEYS")]
    pub keys: Option<PathBuf>,
}

impl Access {
    /// A client for the member's API server.
    ///
    /// # Errors
    /// Where there is no usable kubeconfig.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)
                    .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
                Config::from_custom_kubeconfig(file, &options).await?
            }
            None => Config::from_kubeconfig(&options)
                .await
                .context("cannot find a cluster: set KUBECONFIG or give --kubeconfig")?,
        };
        Client::try_from(config).context("cannot make a client for the cluster")
    }

    /// The directory with the key files.
    ///
    /// # Errors
    /// Where neither `--keys` nor a home directory is known.
    pub fn keys_dir(&self) -> anyhow::Result<PathBuf> {
        match &self.keys {
            Some(dir) => Ok(dir.clone()),
            None => std::env::var_os("HOME")
                .map(|home| PathBuf::from(home).join(".koinon"))
                .context("no home directory: give --keys DIR"),
        }
    }

    /// The governance key file.
    ///
    /// # Errors
    /// See [`Access::keys_dir`].
    pub fn governance_key(&self) -> anyhow::Result<PathBuf> {
        Ok(self.keys_dir()?.join("governance.pem"))
    }

    /// The recovery key file.
    ///
    /// # Errors
    /// See [`Access::keys_dir`].
    pub fn recovery_key(&self) -> anyhow::Result<PathBuf> {
        Ok(self.keys_dir()?.join("recovery.pem"))
    }
}
