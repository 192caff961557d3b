//! The agent's side: keeps one watching process alive, and puts what it hears into the mailbox.

use std::collections::BTreeSet;
use std::time::Duration;

use koinon_core::gpu::device::InstancePlace;
use koinon_core::gpu::xid::Xid;
use koinon_core::ids::DeviceId;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::clock;
use super::super::failure::Failure;
use super::super::judge::{gpu_id, readable};
use super::super::process::{Processes, SurveyCommand, Worker, complaint, last_line};
use super::wire::{Line, MARK, MAX_LINE_BYTES, RawEvent, kind};
use crate::events::{Heard, Mailbox, Voice};

/// The first pause before another process is started, doubled with each that ends early.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// A driver that crashes or hangs is asked ever less often: each try may make it worse.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A process that ran so long was well.
const LONG_LIVED: Duration = Duration::from_secs(60);
/// The process tells each five seconds that it lives. Three times that, and the start, without a word means that it hangs.
const SILENCE: Duration = Duration::from_secs(20);
/// What NVML writes for an instance that there is none.
const NONE: u32 = u32::MAX;

/// Whether NVML's events are heard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum WatchState {
    /// Not yet.
    #[default]
    Starting,
    /// From so many of so many devices.
    Listening {
        /// Those that tell.
        devices: u32,
        /// All.
        of: u32,
    },
    /// Not at the moment.
    Failed {
        /// In what way.
        failure: Failure,
        /// For people; cleaned and cut.
        message: String,
    },
}

/// What is watched, and how.
#[derive(Debug, Clone)]
pub struct Watch {
    /// How a watching process is started.
    pub command: SurveyCommand,
    /// Shared with the surveys: together they hang in the driver only so often.
    pub processes: Processes,
    /// Where what is heard is left.
    pub mailbox: Mailbox,
    /// The devices that the last survey found; other devices need another registration. None before the first survey.
    pub devices: watch::Receiver<Option<BTreeSet<DeviceId>>>,
}

/// Keeps a watching process alive.
#[derive(Debug)]
pub struct Watcher {
    watch: Watch,
    silence: Duration,
    state: watch::Sender<WatchState>,
}

/// How one watching process ended.
enum Ended {
    /// The node has other devices now.
    Outdated,
    Failed(Failure, String),
}

impl Watcher {
    /// One that is not yet running.
    pub fn new(watch: Watch) -> Self {
        Self { watch, silence: SILENCE, state: watch::Sender::default() }
    }

    /// The same, which takes a process for hung after another time.
    #[must_use]
    pub fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// Whether events are heard, and each change of that.
    pub fn state(&self) -> watch::Receiver<WatchState> {
        self.state.subscribe()
    }

    /// Watches for ever, from when there is something to watch. Dropping it kills the process.
    pub async fn run(mut self) -> std::convert::Infallible {
        if self.watch.devices.wait_for(|found| found.as_ref().is_some_and(|found| !found.is_empty())).await.is_err() {
            std::future::pending::<()>().await;
        }
        let mut pause = SHORTEST_PAUSE;
        loop {
            let started = Instant::now();
            let ended = self.once().await;
            if started.elapsed() >= LONG_LIVED {
                pause = SHORTEST_PAUSE;
            }
            match ended {
                Ended::Outdated => {
                    tracing::debug!("the node has other devices: watching them");
                    self.state.send_replace(WatchState::Starting);
                }
                Ended::Failed(failure, message) => {
                    let message = readable(&message, 256);
                    tracing::warn!(failure = failure.name(), message, ?pause, "GPU events are not heard");
                    self.state.send_replace(WatchState::Failed { failure, message });
                    // Of what happened meanwhile only a survey tells.
                    self.watch.mailbox.resurvey();
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn once(&mut self) -> Ended {
        self.watch.devices.mark_unchanged();
        let mut worker = match self.watch.processes.start(&self.watch.command) {
            Ok(worker) => worker,
            Err(why) => return Ended::Failed(Failure::Unresponsive, why.to_string()),
        };
        let ended = self.listen(&mut worker).await;
        match &ended {
            // It waits in the driver and may be told to go; one that hangs must be killed.
            Ended::Outdated => worker.dismiss().await,
            Ended::Failed(..) => worker.end().await,
        }
        ended
    }

    async fn listen(&mut self, worker: &mut Worker) -> Ended {
        let (stdout, stderr) = match worker.output() {
            Ok(output) => output,
            Err(error) => return Ended::Failed(Failure::NotStarted, error.to_string()),
        };
        let complaint = tokio::spawn(complaint(stderr));
        let mut lines = Lines::new(stdout);
        loop {
            let line = tokio::select! {
                line = tokio::time::timeout(self.silence, lines.next()) => line,
                changed = self.watch.devices.changed() => match changed {
                    Ok(()) => return Ended::Outdated,
                    // Nobody surveys any more: the agent ends.
                    Err(_) => std::future::pending().await,
                },
            };
            let line = match line {
                Err(_) => {
                    let silence = self.silence.as_millis();
                    return Ended::Failed(Failure::Hung, format!("the watching process said nothing for {silence} ms"));
                }
                Ok(Ok(Some(line))) => line,
                Ok(Ok(None)) => {
                    let status =
                        worker.ended().await.map_or_else(|error| error.to_string(), |status| status.to_string());
                    let said = complaint.await.ok().and_then(Result::ok).unwrap_or_default();
                    let message = format!("the watching process ended with {status}: {}", last_line(&said));
                    return Ended::Failed(Failure::Crashed, message);
                }
                Ok(Err(why)) => return Ended::Failed(Failure::Garbled, why),
            };
            match line {
                Line::Failed(failed) => return Ended::Failed(failed.failure, failed.message),
                Line::Registered { devices, of } => {
                    tracing::debug!(devices, of, "hearing GPU events");
                    self.state.send_replace(WatchState::Listening { devices, of });
                }
                Line::Event(event) => self.hear(event),
                Line::Error(code) => {
                    tracing::warn!(code, "waiting for GPU events");
                    self.watch.mailbox.resurvey();
                }
                Line::Beat => {}
            }
        }
    }

    fn hear(&self, event: RawEvent) {
        let device = event.uuid.as_deref().and_then(gpu_id);
        if event.kind & kind::XID == 0 {
            // Of no type, of one that nobody knows, or of one that says only that something changed.
            self.watch.mailbox.resurvey();
            return;
        }
        let place = (event.gpu_instance != NONE)
            .then_some(InstancePlace { gpu_instance: event.gpu_instance, compute_instance: event.compute_instance });
        let heard = Heard {
            at: clock::now().at.seconds(),
            device,
            // NVIDIA's numbers are small; one that does not fit is one that nobody knows.
            xid: Xid(u32::try_from(event.data).unwrap_or(u32::MAX)),
            voice: Voice::Nvml,
            place,
            detail: None,
        };
        self.watch.mailbox.hear(heard, event.times.clamp(1, 1_000_000));
    }
}

/// The lines of a watching process. Whatever a driver's library prints beside them is passed over.
struct Lines<R> {
    from: R,
    rest: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(from: R) -> Self {
        Self { from, rest: Vec::new() }
    }

    /// The next line; none if there are no more. May be dropped and called again without losing any.
    async fn next(&mut self) -> Result<Option<Line>, String> {
        loop {
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                if let Some(line) = line.strip_prefix(MARK.as_bytes()) {
                    let read = serde_json::from_slice(line);
                    return read.map(Some).map_err(|error| format!("reading the watching process's line: {error}"));
                }
            }
            if self.rest.len() > MAX_LINE_BYTES {
                return Err(format!("the watching process printed a line of more than {MAX_LINE_BYTES} bytes"));
            }
            let read = self.from.read_buf(&mut self.rest).await;
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) => return Err(format!("reading from the watching process: {error}")),
            }
        }
    }
}

#[cfg(test)]
#[path = "watcher_tests.rs"]
mod tests;
