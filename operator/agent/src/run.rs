//! The agent's two tasks: to survey and say what was found, and to renew the Lease while that holds.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use koinon_core::gpu::health::BootId;
use koinon_core::ids::DeviceId;
use koinon_telemetry::{Awaited, CancellationToken, Process, TaskError, Tasks};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::args::AgentArgs;
use crate::events::{KernelLog, KernelLogState, Mailbox, News};
use crate::metrics::{Beat, DcgmNames, Library, Metrics};
use crate::publish::Publisher;
use crate::rounds::{Round, Rounds, Unsaid};
use crate::status::memory::UNKNOWN_BOOT;
use crate::survey::{Survey, SurveyCommand, Surveyor, Watch, WatchState, Watcher};
use crate::usage;
use crate::xid_table::XidTable;

/// Errors come by the thousand; so often at most the node is surveyed for them.
const SOONEST: Duration = Duration::from_secs(1);
/// The kernel's log is read once a survey knows which device sits where, or after so long.
const PLACES_KNOWN: Duration = Duration::from_secs(30);
/// How long the agent may take to end: a write that is under way, and the killing of a surveying process.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No node.
    #[error("starting the agent: no node is named; set --node-name or KOINON_NODE_NAME, as the chart's DaemonSet does")]
    NoNode,
    /// It does not know its own program.
    #[error("finding the agent's own program, which it starts for each survey: {0}")]
    OwnProgram(std::io::Error),
    /// No API server is configured.
    #[error("finding the API server: {0}; outside a cluster set KUBECONFIG")]
    Config(#[from] kube::config::InferConfigError),
    /// No client.
    #[error("making a client of the API server: {0}")]
    Client(#[from] kube::Error),
    /// The kernel's id of its boot is not one.
    #[error("telling this boot of the node from the next: {0}; see /proc/sys/kernel/random/boot_id")]
    Boot(#[from] koinon_core::ids::IdError),
    /// The container no longer has the devices.
    #[error(
        "asking {} for the GPUs: an unknown error, survey after survey, although it answered before; ending, because only a new container gets its devices back",
        library.display()
    )]
    LostDevices {
        /// The library.
        library: PathBuf,
    },
    /// A metric was registered twice.
    #[error("registering the agent's metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A part of it ended.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Runs the agent until the process is asked to stop.
///
/// # Errors
/// If it cannot start, or a part of it ends. Whatever driver and API server do, it goes on.
pub async fn run(args: AgentArgs, process: Process) -> Result<(), Error> {
    let mut config = kube::Config::infer().await?;
    // Its retries, of up to minutes, would outlive the heartbeat; the agent's own next round comes sooner.
    config.default_retry = false;
    let client = kube::Client::try_from(config)?;
    let command = SurveyCommand::of_this_program(&args.nvml_lib).map_err(Error::OwnProgram)?;
    run_with(args, process, client, command).await
}

/// [`run`] against a given API server and with a given surveying process.
pub async fn run_with(
    args: AgentArgs,
    process: Process,
    client: kube::Client,
    command: SurveyCommand,
) -> Result<(), Error> {
    let AgentArgs {
        node_name,
        namespace,
        nvml_lib,
        survey_interval,
        survey_deadline,
        kernel_log,
        usage,
        dcgm_metrics,
        limits,
        xid_table,
        xid_table_interval,
        command: _,
    } = args;
    let node = node_name.ok_or(Error::NoNode)?;
    let dcgm = if dcgm_metrics { DcgmNames::Of(node.clone()) } else { DcgmNames::Off };
    let metrics = Metrics::register(&process.registry, dcgm)?;
    let publisher = Publisher::new(client.clone(), &namespace, node.clone());
    let (vouch, vouched) = watch::channel(None);
    let mailbox = Mailbox::default();
    let usage = usage::Observer::new(&usage, node.clone(), client.clone());
    let rounds = Rounds::new(publisher.clone(), &nvml_lib, boot()?, usage, mailbox.clone());
    let mut xid_table = xid_table.map(|namespace| XidTable::new(client, namespace, xid_table_interval));
    // Before the first judgement: a report that comes right at the start is to mean what was voted.
    if let Some(table) = &mut xid_table {
        table.look().await;
    }
    let mut rounds = rounds.by(limits.unwrap_or_default().0, xid_table.as_ref().map(XidTable::voted));
    let devices = rounds.devices();
    let kernel_log = kernel_log.map(|path| KernelLog::new(path, mailbox.clone()).from(rounds.log_judged()));
    if let Some(kernel_log) = &kernel_log {
        rounds.listen(kernel_log.state());
    }
    let surveyor = Surveyor::new(command.clone(), survey_deadline);
    let watcher = Watcher::new(Watch {
        command: command.watching(),
        processes: surveyor.processes().clone(),
        mailbox: mailbox.clone(),
        devices: devices.clone(),
    });
    let survey = SurveyTask {
        surveyor,
        rounds,
        mailbox,
        watching: watcher.state(),
        reading: kernel_log.as_ref().map(KernelLog::state),
        library_path: nvml_lib,
        interval: survey_interval,
        metrics: metrics.clone(),
        library: Library::default(),
        vouch,
        surveyed: process.readiness.awaiting("survey", "the first survey"),
        written: process.readiness.awaiting("gpunode", "the first status"),
    };
    let heartbeat = HeartbeatTask {
        publisher,
        interval: survey_interval,
        // A round takes at most the survey's deadline, its two seconds of grace and two writes; two rounds may fail.
        vouched_for: 3 * survey_interval + survey_deadline,
        metrics,
        vouched,
        beaten: process.readiness.awaiting("heartbeat", "the first renewal of the Lease"),
    };
    tracing::info!(%node, namespace, interval = ?survey_interval, deadline = ?survey_deadline, "surveying");
    process.started();
    let mut tasks = Tasks::new();
    tasks.spawn("survey", survey.run(process.stop.clone()));
    tasks.spawn("heartbeat", heartbeat.run(process.stop.clone()));
    tasks.spawn("watch", until_stopped(process.stop.clone(), watcher.run()));
    if let Some(table) = xid_table {
        tasks.spawn("voted XIDs", until_stopped(process.stop.clone(), table.run()));
    }
    if let Some(kernel_log) = kernel_log {
        tasks.spawn("kernel log", until_stopped(process.stop.clone(), read(kernel_log, devices)));
    }
    Ok(tasks.run(process.stop, DRAIN).await?)
}

fn boot() -> Result<BootId, Error> {
    // Of a kernel without it no two boots can be told apart, which changes nothing else.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot = boot.trim();
    Ok(if boot.is_empty() { UNKNOWN_BOOT.parse()? } else { boot.parse()? })
}

/// Runs what never ends by itself.
async fn until_stopped(
    stop: CancellationToken,
    task: impl Future<Output = std::convert::Infallible>,
) -> Result<(), std::convert::Infallible> {
    let _ = stop.run_until_cancelled(task).await;
    Ok(())
}

async fn read(log: KernelLog, mut devices: watch::Receiver<Option<BTreeSet<DeviceId>>>) -> std::convert::Infallible {
    // If no survey comes to an end the log is read all the same: its errors may be of any device.
    let _ = tokio::time::timeout(PLACES_KNOWN, devices.wait_for(Option::is_some)).await;
    log.run().await
}

/// When the status in the API server was last known to be what the last survey found, and which Node it belongs to.
#[derive(Debug, Clone)]
struct Vouch {
    at: Instant,
    owner: OwnerReference,
}

struct SurveyTask {
    surveyor: Surveyor,
    rounds: Rounds,
    mailbox: Mailbox,
    watching: watch::Receiver<WatchState>,
    reading: Option<watch::Receiver<KernelLogState>>,
    library_path: PathBuf,
    interval: Duration,
    metrics: Metrics,
    library: Library,
    vouch: watch::Sender<Option<Vouch>>,
    surveyed: Awaited,
    written: Awaited,
}

impl SurveyTask {
    async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        // Dropping a round kills the surveying process.
        match stop.run_until_cancelled(self.rounds()).await {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// One round after the other. Ends only where another container is needed.
    async fn rounds(&mut self) -> Error {
        loop {
            let started = Instant::now();
            let survey = self.survey().await;
            self.metrics.library(self.library.look(survey.library_file.as_deref()).await.as_ref());
            let mut round = self.rounds.begin(survey).await;
            self.metrics.gpus.seen(round.survey(), round.usage());
            if self.surveyor.has_lost_its_devices() {
                self.publish(&mut round).await;
                return Error::LostDevices { library: self.library_path.clone() };
            }
            let next = Instant::now() + jittered(self.rounds.pause(self.interval));
            // Nothing hastens the next question to a driver that each question may harm.
            let soonest = if self.rounds.is_harmful() { next } else { started + SOONEST };
            self.rest(round, soonest, next).await;
        }
    }

    /// Until the next survey is due: at `next`, or not before `soonest` if something happened.
    async fn rest(&mut self, mut round: Round, soonest: Instant, next: Instant) {
        let mut until = next;
        // Also while surveys are far apart the status is vouched for: it is what is known.
        self.publish(&mut round).await;
        let mut again = Instant::now() + self.interval;
        while Instant::now() < until {
            tokio::select! {
                () = tokio::time::sleep_until(until.min(again)) => {
                    if Instant::now() >= again && again < until {
                        self.publish(&mut round).await;
                        again = Instant::now() + self.interval;
                    }
                }
                news = self.mailbox.news() => {
                    self.hear(&news);
                    if news.resurvey {
                        until = until.min(soonest);
                    }
                }
            }
        }
    }

    /// Tells of errors, and keeps them for the next judgement.
    fn hear(&mut self, news: &News) {
        self.rounds.hear(news);
        for report in &news.reports {
            self.metrics.gpus.reported(report, self.rounds.class(report.xid));
            let device = report.device.as_ref().map_or("unknown", |device| device.as_str());
            let (xid, count, detail) = (report.xid.0, report.count, report.detail.as_deref());
            if report.fresh {
                tracing::warn!(device, xid, count, detail, sources = ?report.sources, "the driver reports an error");
            } else {
                tracing::debug!(device, xid, count, sources = ?report.sources, "the driver reports an error again");
            }
        }
    }

    async fn survey(&mut self) -> Survey {
        let started = Instant::now();
        let survey = self.surveyor.survey().await;
        let took = started.elapsed();
        self.metrics.surveyed(&survey, took, self.surveyor.stuck(), Timestamp::now().as_second());
        if let crate::survey::Nvml::Failed { failure, code, message } = &survey.nvml {
            tracing::warn!(failure = failure.name(), code, message, ?took, "the survey found nothing out");
        }
        let reading = self.reading.as_ref().map(|reading| reading.borrow().clone()).unwrap_or_default();
        self.metrics.listening(&self.watching.borrow(), &reading, self.mailbox.counts());
        self.surveyed.met();
        survey
    }

    async fn publish(&mut self, round: &mut Round) {
        let said = self.rounds.say(round, Time(Timestamp::now())).await;
        if let Some(judgement) = round.judgement() {
            self.metrics.gpus.judged(judgement);
        }
        match said {
            Ok(said) => {
                if said.written {
                    self.metrics.wrote(true);
                }
                self.metrics.devices(&said.devices);
                self.written.met();
                // Nobody listens any more only while the process ends.
                let _ = self.vouch.send(Some(Vouch { at: Instant::now(), owner: said.owner }));
            }
            Err(error) => {
                if let Unsaid::Unwritten(_) = &error {
                    self.metrics.wrote(false);
                }
                tracing::warn!(error = chain(&error), "the GPUNode does not say what the survey found");
                self.written.again(chain(&error));
            }
        }
    }
}

struct HeartbeatTask {
    publisher: Publisher,
    interval: Duration,
    vouched_for: Duration,
    metrics: Metrics,
    vouched: watch::Receiver<Option<Vouch>>,
    beaten: Awaited,
}

impl HeartbeatTask {
    async fn run(mut self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        let _ = stop.run_until_cancelled(self.beats()).await;
        Ok(())
    }

    async fn beats(&mut self) -> std::convert::Infallible {
        // The first beat follows the first status at once. Its sender lives as long as the survey, whose end ends all.
        let _ = self.vouched.wait_for(Option::is_some).await;
        loop {
            self.beat().await;
            tokio::time::sleep(jittered(self.interval)).await;
        }
    }

    async fn beat(&self) {
        let vouch = self.vouched.borrow().clone();
        let Some(vouch) = vouch.filter(|vouch| vouch.at.elapsed() <= self.vouched_for) else {
            self.metrics.beat(Beat::Withheld);
            self.beaten.again("nobody vouches for the GPUNode's status: see gpunode and survey");
            return;
        };
        match self.publisher.beat(&vouch.owner, Timestamp::now()).await {
            Ok(()) => {
                self.metrics.beat(Beat::Renewed);
                self.beaten.met();
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "the heartbeat was not taken");
                self.metrics.beat(Beat::Failed);
                self.beaten.again(chain(&error));
            }
        }
    }
}

/// Up to a tenth shorter, so that the agents of a thousand nodes that started together do not stay in step.
pub(crate) fn jittered(interval: Duration) -> Duration {
    // Without randomness they stay in step, which is only less well.
    let share = getrandom::u32().unwrap_or(0) % 1000;
    interval - interval / 10 * share / 1000
}

/// The error with those of its causes that it does not already tell.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let told = cause.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_is_given_longer_to_stop_than_the_agent_takes() {
        let chart = include_str!("../../../charts/koinon/templates/agent/daemonset.yaml");
        let grace = chart.lines().find_map(|line| line.trim().strip_prefix("terminationGracePeriodSeconds: "));
        assert!(Duration::from_secs(grace.unwrap().parse().unwrap()) >= DRAIN + Duration::from_secs(5));
    }

    #[test]
    fn the_jitter_never_makes_an_interval_longer_and_shortens_it_by_a_tenth_at_most() {
        for _ in 0..1000 {
            let length = jittered(Duration::from_secs(10));
            assert!((Duration::from_secs(9)..=Duration::from_secs(10)).contains(&length), "{length:?}");
        }
    }
}
