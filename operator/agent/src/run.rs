//! The agent's two tasks: to survey and say what was found, and to renew the Lease while that holds.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use koinon_telemetry::{Awaited, CancellationToken, Process, TaskError, Tasks};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::args::AgentArgs;
use crate::metrics::{Beat, Metrics};
use crate::publish::{PublishError, Publisher, Standing};
use crate::status::{self, Observer};
use crate::survey::{Failure, Survey, SurveyCommand, Surveyor};

/// A driver that crashes or hangs is asked ever less often: each try may make it worse.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
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
    let AgentArgs { node_name, namespace, nvml_lib, survey_interval, survey_deadline, command: _ } = args;
    let node = node_name.ok_or(Error::NoNode)?;
    let metrics = Metrics::register(&process.registry)?;
    let publisher = Publisher::new(client, &namespace, node.clone());
    let (vouch, vouched) = watch::channel(None);
    let survey = SurveyTask {
        surveyor: Surveyor::new(command, survey_deadline),
        publisher: publisher.clone(),
        observer: observer(nvml_lib),
        interval: survey_interval,
        metrics: metrics.clone(),
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
    Ok(tasks.run(process.stop, DRAIN).await?)
}

fn observer(library: PathBuf) -> Observer {
    // Of a kernel without it no two boots can be told apart, which changes nothing else.
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot_id = boot_id.trim();
    Observer {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: if boot_id.is_empty() { "unknown".to_owned() } else { boot_id.to_owned() },
        library: library.display().to_string(),
    }
}

/// When the status in the API server was last known to be what the last survey found, and which Node it belongs to.
#[derive(Debug, Clone)]
struct Vouch {
    at: Instant,
    owner: OwnerReference,
}

struct SurveyTask {
    surveyor: Surveyor,
    publisher: Publisher,
    observer: Observer,
    interval: Duration,
    metrics: Metrics,
    vouch: watch::Sender<Option<Vouch>>,
    surveyed: Awaited,
    written: Awaited,
}

impl SurveyTask {
    async fn run(mut self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        // Dropping a round kills the surveying process.
        let _ = stop.run_until_cancelled(self.rounds()).await;
        Ok(())
    }

    async fn rounds(&mut self) -> std::convert::Infallible {
        let mut failures = 0;
        loop {
            let survey = self.survey().await;
            failures = if harmful(&survey) { failures + 1 } else { 0 };
            let next = Instant::now() + jittered(pause(self.interval, failures));
            // Also while surveys are far apart the status is vouched for: it is what is known.
            while Instant::now() < next {
                self.publish(&survey).await;
                tokio::time::sleep_until(next.min(Instant::now() + self.interval)).await;
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
        self.surveyed.met();
        survey
    }

    async fn publish(&self, survey: &Survey) {
        match self.say(survey).await {
            Ok(owner) => {
                self.written.met();
                // Nobody listens any more only while the process ends.
                let _ = self.vouch.send(Some(Vouch { at: Instant::now(), owner }));
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "the GPUNode does not say what the survey found");
                self.written.again(chain(&error));
            }
        }
    }

    async fn say(&self, survey: &Survey) -> Result<OwnerReference, PublishError> {
        let Standing { owner, generation, status: before } = self.publisher.gpu_node().await?;
        let now = Time(Timestamp::now());
        let next = status::next(&before, survey, &self.observer, generation, &now);
        if let Some(status) = &next {
            let written = self.publisher.write(status).await;
            self.metrics.wrote(written.is_ok());
            written?;
            tracing::info!(installed = status.installed, healthy = status.healthy, "the GPUNode changed");
        }
        self.metrics.devices(&next.unwrap_or(before).devices);
        Ok(owner)
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

/// Whether asking again soon may make it worse.
fn harmful(survey: &Survey) -> bool {
    matches!(survey.failure(), Some(Failure::Hung | Failure::Crashed | Failure::Unresponsive))
}

/// From the end of one survey to the next: doubled with each harmful failure in a row after the first.
fn pause(interval: Duration, failures: u32) -> Duration {
    let doubled = interval.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(LONGEST_PAUSE.max(interval))
}

/// Up to a tenth shorter, so that the agents of a thousand nodes that started together do not stay in step.
fn jittered(interval: Duration) -> Duration {
    // Without randomness they stay in step, which is only less well.
    let share = getrandom::u32().unwrap_or(0) % 1000;
    interval - interval / 10 * share / 1000
}

/// The error with those of its causes that it does not already tell.
fn chain(error: &PublishError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
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
    fn a_driver_that_fails_harmfully_is_asked_ever_less_often_up_to_five_minutes() {
        let ten = Duration::from_secs(10);
        let pauses: Vec<u64> = (0..8).map(|failures| pause(ten, failures).as_secs()).collect();
        assert_eq!(pauses, [10, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(pause(ten, u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn the_jitter_never_makes_an_interval_longer_and_shortens_it_by_a_tenth_at_most() {
        for _ in 0..1000 {
            let length = jittered(Duration::from_secs(10));
            assert!((Duration::from_secs(9)..=Duration::from_secs(10)).contains(&length), "{length:?}");
        }
    }
}
