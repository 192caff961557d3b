//! `cargo xtask demo`: checks the machine, builds what is missing, tells the story, cleans up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use koinon_e2e::story::{self, Chapter, Narrator, Stage};
use koinon_e2e::suite::{Ended, interruptible};
use koinon_e2e::{Run, Tool, fleet, preflight, run};
use tokio::sync::Mutex;

use crate::clusters::Down;
use crate::progress::Progress;

/// Arguments of `demo`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Demo {
    #[command(subcommand)]
    action: Option<Action>,
    /// Leave everything running at the end, also after a failure, and print how to go on.
    #[arg(long)]
    keep: bool,
    /// End the story after this chapter.
    #[arg(long, value_enum, default_value_t = Until::Stop)]
    until: Until,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Remove exactly what a demo made, also after Ctrl-C or a crash.
    Down(Down),
}

/// How far the story is told.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Until {
    /// Three datacenters with Koinon installed.
    Datacenters,
    /// Founding and joining.
    Cooperative,
    /// GPUs and offers.
    Offers,
    /// The job, the proposal, the votes.
    Approval,
    /// The grant, the weights, the engine.
    Serving,
    /// The application's calls.
    Calling,
    /// The cut and the mend.
    Partition,
    /// The owner's stop and the evidence: all of it.
    Stop,
}

impl From<Until> for Chapter {
    fn from(until: Until) -> Self {
        match until {
            Until::Datacenters => Self::Datacenters,
            Until::Cooperative => Self::Cooperative,
            Until::Offers => Self::Offers,
            Until::Approval => Self::Approval,
            Until::Serving => Self::Serving,
            Until::Calling => Self::Calling,
            Until::Partition => Self::Partition,
            Until::Stop => Self::Stop,
        }
    }
}

impl Demo {
    /// Tells the story, or removes what one left.
    pub async fn run(self) -> Result<()> {
        let Self { action, keep, until } = self;
        if let Some(Action::Down(down)) = action {
            return down.run();
        }
        preflight::check()?;
        let began = Instant::now();
        let prepared = interruptible(async {
            let progress = Progress::begin();
            progress.say("preparing: about 15 min on a machine that never did, about 20 s on one that did");
            story::prepare(&|what: &str| progress.say(what)).await
        });
        let stage = match prepared.await {
            Ok(stage) => Arc::new(Mutex::new(stage)),
            Err(ended) => return end_badly(ended, false),
        };
        let told = {
            let stage = stage.clone();
            interruptible(
                async move { story::tell(&mut *stage.lock().await, &Narrator::on_stdout(), until.into()).await },
            )
        };
        let told = told.await;
        if let Err(ended) = told {
            if keep {
                leave_running(&*stage.lock().await);
            }
            return end_badly(ended, keep);
        }
        println!("\nEvery step was observed, in {}.", minutes(began.elapsed()));
        let stage = stage.lock().await;
        if keep {
            leave_running(&stage);
            return Ok(());
        }
        stage.fleet.down().context("cleaning up")?;
        println!("Everything that the demo made is removed.");
        Ok(())
    }
}

/// Cleans up after a failure or an interruption, and fails.
fn end_badly(ended: Ended, keep: bool) -> Result<()> {
    if !keep && Run::folder()?.join(run::LIST).exists() {
        let standing = Run::open()?;
        if matches!(ended, Ended::Failed(_))
            && let Some(logs) = fleet::keep_logs(&standing)
        {
            println!("\nThe datacenters' logs are kept in {logs} until `cargo xtask demo down`.");
        }
        standing.down().context("cleaning up; run `cargo xtask demo down`")?;
    }
    match ended {
        Ended::Failed(error) => Err(error),
        Ended::Interrupted => bail!("interrupted; what was made is {}", if keep { "still there" } else { "removed" }),
    }
}

/// Says how to go on by hand; each line works as it is printed, at a shell of root.
fn leave_running(stage: &Stage) {
    println!("\nEverything keeps running. Look around, as root. The programs:");
    println!("export PATH={}:$PATH", programs(stage));
    println!("An owner's cluster, and the keys on the owner's own desk:");
    // The home is last: whoever pastes all of it stands there for the lines that follow.
    for datacenter in stage.fleet.datacenters().iter().rev() {
        let (kubeconfig, keys) = (datacenter.kubeconfig(), stage.desk(datacenter.name()).join("keys"));
        println!("export KUBECONFIG={} KOINON_KEYS={}   # {}", kubeconfig.display(), keys.display(), datacenter.name());
    }
    println!("What it knows, and why the team's job is where it is (at home, in aarhus):");
    for line in LOOK_AROUND {
        println!("  {line}");
    }
    println!("  kubectl koinon explain {} --namespace {}", story::JOB, story::TEAM);
    if let (Some(application), Ok(aarhus)) = (&stage.application, stage.member("aarhus")) {
        println!("The gateway of aarhus is {}; a call of the team's application:", application.gateway());
        println!("  {}", application.typed_call(aarhus));
    }
    if let Some(prometheus) = &stage.prometheus {
        println!("Prometheus: {}", prometheus.url());
    }
    println!("Remove it all: cargo xtask demo down");
}

/// What anybody asks first.
const LOOK_AROUND: [&str; 3] =
    ["kubectl get koinon --all-namespaces", "kubectl koinon members", "kubectl koinon offers"];

/// The folders of `kubectl` and of its plugin, as `PATH` lists them.
fn programs(stage: &Stage) -> String {
    let programs = [stage.fleet.toolchain().path(Tool::Kubectl), &stage.materials.kubectl_koinon];
    let folders: Vec<String> =
        programs.iter().filter_map(|program| Some(program.parent()?.display().to_string())).collect();
    folders.join(":")
}

fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 120 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}
