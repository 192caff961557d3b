//! The demo: the whole story on real clusters.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use koinon_e2e::story::{self, Chapter, MEMBERS, RELEASE_NAMESPACE, Stage};
use koinon_e2e::suite::{Ended, interruptible};
use koinon_e2e::{Narrator, fleet};

use crate::progress::Progress;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Leave everything running at the end, and say how to look at it.
    #[arg(long, global = true)]
    keep: bool,
    #[command(subcommand)]
    command: Option<DemoCommand>,
}

#[derive(Debug, Subcommand)]
enum DemoCommand {
    /// Remove exactly what the demo made, also after Ctrl-C or a crash.
    Down,
}

impl Demo {
    /// Tells the story, or removes what an earlier one left.
    pub async fn run(self) -> Result<()> {
        let Self { keep, command } = self;
        let progress = Progress::begin();
        if matches!(command, Some(DemoCommand::Down)) {
            progress.say(if fleet::down()? {
                "everything of the demo is removed"
            } else {
                "there was nothing to remove"
            });
            return Ok(());
        }
        progress.say("the first time everything is built: about 20 min; later runs take about 2 min");
        let told = interruptible(async move {
            let report = Arc::new(progress);
            let told = tell(report.clone()).await;
            if told.is_err() {
                report.say("the story broke off; what each cluster last said:");
            }
            told
        })
        .await;
        match told {
            Ok(stage) if keep => {
                explain(&stage)?;
                Ok(())
            }
            Ok(stage) => {
                drop(stage);
                fleet::down().map(drop)
            }
            Err(Ended::Interrupted) => {
                fleet::down()?;
                anyhow::bail!("interrupted; everything of the demo is removed")
            }
            Err(Ended::Failed(error)) => {
                if keep {
                    eprintln!("left running for a look; remove it with `cargo xtask demo down`");
                } else {
                    fleet::down().context("removing what the demo made")?;
                }
                Err(error)
            }
        }
    }
}

async fn tell(progress: Arc<Progress>) -> Result<Stage> {
    let mut stage = story::prepare(&|what: &str| progress.say(what)).await?;
    let narrator = Narrator::on_stdout();
    story::tell(&mut stage, &narrator, Chapter::Stop).await?;
    narrator.observed(&format!("the whole story, in {} s", narrator.elapsed().as_secs()));
    Ok(stage)
}

/// How to look at what was left running.
fn explain(stage: &Stage) -> Result<()> {
    println!("\nEverything is left running. Remove it with: cargo xtask demo down\n");
    for member in MEMBERS {
        let datacenter = stage.member(member)?;
        println!("export KUBECONFIG={}   # the owner of {member}", datacenter.kubeconfig().display());
    }
    if let Some(prometheus) = &stage.prometheus {
        println!("Prometheus: {}", prometheus.url());
    }
    println!("\nFirst commands to try:");
    println!("  export PATH=$PATH:{}", stage.materials.kubectl_koinon.parent().unwrap_or("".as_ref()).display());
    for command in ["members", "offers", "proposals", "doctor", "explain tiny-llama --namespace team"] {
        println!("  kubectl koinon {command}");
    }
    println!("  kubectl get koinon --namespace {RELEASE_NAMESPACE}");
    Ok(())
}
