//! Setting up, starting and removing datacenters.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use koinon_e2e::cache::Cache;
use koinon_e2e::fleet::{self, Fleet};
use koinon_e2e::story::Materials;
use koinon_e2e::{Image, Toolchain, image, preflight, toolchain};

use crate::progress::Progress;

/// Arguments of `setup`.
#[derive(Debug, Args)]
pub struct Setup {}

impl Setup {
    /// Checks the machine, then makes what is missing.
    pub fn run(self) -> Result<()> {
        let Self {} = self;
        let progress = Progress::begin();
        for finding in preflight::look() {
            match finding.result {
                Ok(found) => progress.say(&format!("{}: {found}", finding.what)),
                Err(problem) => progress.say(&format!("{}: NOT READY: {problem}", finding.what)),
            }
        }
        preflight::check()?;
        progress.say("a first run takes about 15 minutes on two cores, a later one seconds");
        let cache = Cache::from_env()?;
        let report = |what: &str| progress.say(what);
        toolchain::ensure_system_packages(&report)?;
        Toolchain::ensure(&cache, &report)?;
        // What does not change with the code comes first: it is there even if the code does not compile.
        image::pause(&cache, &report)?;
        image::busybox(&cache, &report)?;
        image::llama_cpp(&cache, &report)?;
        Materials::ensure(&cache, &report)?;
        progress.say(&format!("everything is there, in {}", cache.root().display()));
        Ok(())
    }
}

/// Arguments of `images`.
#[derive(Debug, Args)]
pub struct Images {
    /// Also copy the OCI archives into this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Images {
    /// Builds every image.
    pub fn run(self) -> Result<()> {
        let Self { out } = self;
        let progress = Progress::begin();
        let report = |what: &str| progress.say(what);
        let cache = Cache::from_env()?;
        toolchain::ensure_system_packages(&report)?;
        let made: [Image; 5] = [
            image::pause(&cache, &report)?,
            image::busybox(&cache, &report)?,
            image::llama_cpp(&cache, &report)?,
            image::koinon(&cache, &report)?,
            image::challenge(&cache, &report)?,
        ];
        for image in made {
            println!("{}", image.pinned());
            if let Some(folder) = &out {
                std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
                let name = image.repository().rsplit('/').next().unwrap_or_default().to_owned();
                let to = folder.join(format!("{name}.tar"));
                std::fs::copy(image.archive(), &to).with_context(|| format!("copying to {}", to.display()))?;
            }
        }
        Ok(())
    }
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Their names, at most nine.
    #[arg(default_values_t = ["aarhus", "bilbao", "cork"].map(String::from))]
    names: Vec<String>,
    /// Start API servers only, without nodes: ready in a few seconds.
    #[arg(long)]
    no_nodes: bool,
}

impl Up {
    /// Starts the datacenters and prints how to reach them.
    pub async fn run(self) -> Result<()> {
        let Self { names, no_nodes } = self;
        let progress = Progress::begin();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        progress.say(&format!("starting {} (about 15 s once everything is built)", names.join(", ")));
        let adjust = |spec: koinon_e2e::DatacenterSpec| if no_nodes { spec.without_node() } else { spec };
        let fleet = Fleet::start_with(&names, &|what: &str| progress.say(what), adjust).await?;
        progress.say("running; remove with `cargo xtask down`");
        print_kubeconfigs(&fleet);
        Ok(())
    }
}

/// Prints how a person reaches each datacenter.
pub fn print_kubeconfigs(fleet: &Fleet) {
    for datacenter in fleet.datacenters() {
        println!("export KUBECONFIG={}   # {}", datacenter.kubeconfig().display(), datacenter.name());
    }
}

/// Arguments of `down`.
#[derive(Debug, Args)]
pub struct Down {}

impl Down {
    /// Removes what stands.
    pub fn run(self) -> Result<()> {
        let Self {} = self;
        let progress = Progress::begin();
        progress.say(if fleet::down()? { "everything of the run is removed" } else { "there was nothing to remove" });
        Ok(())
    }
}
