//! How the command reaches the member's cluster and the person's keys.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// Where a Koinon release is installed unless somebody says otherwise.
const RELEASE_NAMESPACE: &str = "koinon-system";

/// Options that every command shares.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Access {
    /// The kubeconfig file; default as for kubectl: the files of $KUBECONFIG, else ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig context to use; default: the current one.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Of plan and explain, the job's namespace (default: the context's); of all others, as --release-namespace.
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The namespace of the Koinon release; default: koinon-system.
    #[arg(long, global = true, value_name = "NAMESPACE", env = "KOINON_NAMESPACE")]
    pub release_namespace: Option<String>,
    /// The directory with this person's key files, governance.pem and recovery.pem; default: ~/.koinon.
    #[arg(long, global = true, value_name = "DIR", env = "KOINON_KEYS")]
    pub keys: Option<PathBuf>,
}

impl Access {
    /// For a command that has no job to find, `--namespace` can only mean the release's.
    #[must_use]
    pub fn about_the_release(self) -> Self {
        let Self { kubeconfig, context, namespace, release_namespace, keys } = self;
        Self { release_namespace: namespace.or(release_namespace), namespace: None, kubeconfig, context, keys }
    }

    /// The namespace of the Koinon release.
    pub fn release(&self) -> &str {
        self.release_namespace.as_deref().unwrap_or(RELEASE_NAMESPACE)
    }

    /// The namespace of a job: as asked, else the context's as for kubectl.
    pub fn job_namespace(&self, client: &Client) -> String {
        self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned())
    }

    /// A client for the member's API server.
    ///
    /// # Errors
    /// Where there is no usable kubeconfig.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let config = self.config(std::env::var_os("KUBECONFIG").as_deref()).await?;
        Client::try_from(config).context("cannot make a client for the cluster")
    }

    /// `files` are those of `$KUBECONFIG`; an explicit file stands alone, as for kubectl.
    async fn config(&self, files: Option<&OsStr>) -> anyhow::Result<Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let read = |path: &Path| {
            Kubeconfig::read_from(path).with_context(|| format!("cannot read the kubeconfig {}", path.display()))
        };
        let kubeconfig = match (&self.kubeconfig, files.filter(|files| !files.is_empty())) {
            (Some(path), _) => read(path)?,
            (None, Some(files)) => merged(files)?,
            (None, None) => {
                let home = home().context("cannot find a cluster: set KUBECONFIG or give --kubeconfig")?;
                read(&home.join(".kube").join("config"))
                    .context("cannot find a cluster: set KUBECONFIG or give --kubeconfig")?
            }
        };
        Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .context("the kubeconfig leads to no cluster (see kubectl config get-contexts, and --context)")
    }

    /// The directory with the key files.
    ///
    /// # Errors
    /// Where neither `--keys` nor a home directory is known.
    pub fn keys_dir(&self) -> anyhow::Result<PathBuf> {
        match &self.keys {
            Some(dir) => Ok(dir.clone()),
            None => home().map(|home| home.join(".koinon")).context("no home directory: give --keys DIR"),
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

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from)
}

/// The files of a list as kubectl reads them: what an earlier one says counts, and one that is not there is passed over.
fn merged(files: &OsStr) -> anyhow::Result<Kubeconfig> {
    let mut merged: Option<Kubeconfig> = None;
    for path in std::env::split_paths(files).filter(|path| !path.as_os_str().is_empty()) {
        let next = match Kubeconfig::read_from(&path) {
            Ok(next) => next,
            Err(KubeconfigError::ReadConfig(error, _)) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {} of KUBECONFIG", path.display()));
            }
        };
        merged = Some(match merged {
            Some(before) => before
                .merge(next)
                .with_context(|| format!("cannot read {} of KUBECONFIG with those before it", path.display()))?,
            None => next,
        });
    }
    merged.with_context(|| format!("none of the files of KUBECONFIG is there: {}", OsString::from(files).display()))
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
