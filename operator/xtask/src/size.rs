//! `cargo xtask size`: how the operator does in clusters of thousands of GPUs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use koinon_e2e::size::{self, Options, figures, member::Programs};
use koinon_e2e::suite::{Ended, interruptible};

use crate::progress::Progress;

/// Arguments of `size`.
#[derive(Debug, Args)]
pub struct Size {
    /// How many nodes of eight GPUs each, one measurement after the other; the growth is told from all of them.
    #[arg(long, value_delimiter = ',', default_values_t = [500, 1000, 5000])]
    nodes: Vec<usize>,
    /// Minutes of each measurement.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=60))]
    minutes: u32,
    /// Nodes of a thousand that change within a minute, besides the failures that are timed.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    changing: u32,
    /// Seconds from one heartbeat of an agent to the next. Agents take 1 to 15; more is for machines whose API server cannot
    /// take so many, and from 30 on nothing would be offered.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=25))]
    heartbeat: u32,
    /// A folder with other builds of koinon and kubectl-koinon, to compare with.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Add the figures of each size to this file, a line of JSON each.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Size {
    /// Measures and prints.
    pub async fn run(self) -> Result<()> {
        let progress = std::sync::Arc::new(Progress::begin());
        let report = |what: &str| progress.say(what);
        let programs = match &self.programs {
            Some(folder) => Programs { koinon: folder.join("koinon"), kubectl_koinon: folder.join("kubectl-koinon") },
            None => size::programs(&report)?,
        };
        let options = Options {
            length: Duration::from_secs(u64::from(self.minutes) * 60),
            changing: usize::try_from(self.changing)?,
            heartbeat: Duration::from_secs(self.heartbeat.into()),
            programs,
        };
        let mut all = Vec::new();
        for nodes in self.nodes {
            progress.say(&format!("{nodes} nodes"));
            let (options, inner) = (options.clone(), progress.clone());
            let measured =
                interruptible(async move { size::measure(nodes, &options, &|what| inner.say(what)).await }).await;
            let measured = match measured {
                Ok(measured) => measured,
                Err(Ended::Failed(error)) => return Err(error.context(format!("measuring {nodes} nodes"))),
                Err(Ended::Interrupted) => {
                    koinon_e2e::fleet::down()?;
                    anyhow::bail!("interrupted; what was made is removed");
                }
            };
            let line = serde_json::to_string(&measured)?;
            eprintln!("{line}");
            if let Some(path) = &self.out {
                use std::io::Write as _;
                let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path);
                let file = file.as_mut().map_err(|error| anyhow::anyhow!("{error}"));
                writeln!(file.with_context(|| format!("opening {}", path.display()))?, "{line}")?;
            }
            all.push(measured);
        }
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        println!("{}", figures::table(&all));
        println!("{cores} cores, shared with etcd, two API servers, kwok and whatever stands for agents and kubelets.");
        Ok(())
    }
}
