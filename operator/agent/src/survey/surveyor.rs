//! The agent's side: starts a surveying process, waits no longer than the deadline, and believes no more than it must.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use koinon_core::gpu::device::Taken;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::clock;
use super::failure::Failure;
use super::judge::{Nvml, Survey, judge, readable};
use super::process::{NotStarted, Processes, SurveyCommand, Worker, complaint, last_line};
use super::wire::{MAX_OUTPUT_BYTES, code};

/// So many surveys in a row prove that it is no passing error.
const ESTRANGED: u32 = 3;

/// Runs surveys, one at a time.
#[derive(Debug)]
pub struct Surveyor {
    command: SurveyCommand,
    deadline: Duration,
    processes: Processes,
    /// Whether NVML ever answered.
    answered: bool,
    /// Surveys in a row in which it returned an unknown error after it had answered.
    estranged: u32,
}

impl Surveyor {
    /// One that waits for each survey at most for `deadline`.
    pub fn new(command: SurveyCommand, deadline: Duration) -> Self {
        Self { command, deadline, processes: Processes::default(), answered: false, estranged: 0 }
    }

    /// The processes that do not end, to be shared with others that call the driver.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// Processes that were killed and have not gone.
    pub fn stuck(&self) -> usize {
        self.processes.stuck()
    }

    /// Whether this container has probably lost its devices, which only a new one gets back. Not before NVML answered, so that
    /// an agent that ends for this does so once.
    pub fn has_lost_its_devices(&self) -> bool {
        self.estranged >= ESTRANGED
    }

    /// Surveys once. Returns within the deadline and two seconds, whatever the driver does.
    pub async fn survey(&mut self) -> Survey {
        let mut survey = self.attempt(clock::now()).await;
        self.answered |= survey.failure().is_none();
        let estranged = std::mem::take(&mut self.estranged);
        if let Nvml::Failed { code: Some(code::UNKNOWN), message, .. } = &mut survey.nvml
            && self.answered
        {
            self.estranged = estranged.saturating_add(1);
            // What a running container sees after a reload of systemd has rewritten its control group.
            message
                .push_str("; it answered before, so the container has probably lost its devices and must be made anew");
        }
        survey
    }

    async fn attempt(&mut self, taken: Taken) -> Survey {
        let mut worker = match self.processes.start(&self.command) {
            Ok(worker) => worker,
            Err(why) => {
                let failure = match why {
                    NotStarted::TooManyStuck(_) => Failure::Unresponsive,
                    NotStarted::Io { .. } => Failure::NotStarted,
                };
                return Survey::failed(taken, failure, None, &why.to_string());
            }
        };
        let ended = tokio::time::timeout(self.deadline, answer(&mut worker)).await;
        let survey = match ended {
            Ok(Ok(Answered { status, output, complaint })) if status.success() => {
                if !complaint.is_empty() {
                    tracing::debug!(complaint = readable(&complaint, 512), "the surveying process complained");
                }
                judge(&output, taken)
            }
            Ok(Ok(Answered { status, complaint, .. })) => {
                let message = format!("the surveying process ended with {status}: {}", last_line(&complaint));
                Survey::failed(taken, Failure::Crashed, None, &message)
            }
            Ok(Err(AnswerError::TooLong)) => {
                let message = format!("the surveying process printed more than {MAX_OUTPUT_BYTES} bytes");
                Survey::failed(taken, Failure::Garbled, None, &message)
            }
            Ok(Err(AnswerError::Io(error))) => {
                Survey::failed(taken, Failure::Garbled, None, &format!("reading from the surveying process: {error}"))
            }
            Err(_) => {
                let message = format!("NVML did not answer within {} ms", self.deadline.as_millis());
                Survey::failed(taken, Failure::Hung, None, &message)
            }
        };
        worker.end().await;
        survey
    }
}

struct Answered {
    status: ExitStatus,
    output: Vec<u8>,
    complaint: String,
}

enum AnswerError {
    TooLong,
    Io(io::Error),
}

impl From<io::Error> for AnswerError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

async fn answer(worker: &mut Worker) -> Result<Answered, AnswerError> {
    let (stdout, stderr) = worker.output()?;
    // Both at once: a process that fills the one pipe must not wait for us to empty the other.
    let (output, complaint) = tokio::try_join!(whole(stdout), async { Ok(complaint(stderr).await?) })?;
    let status = worker.ended().await?;
    Ok(Answered { status, output, complaint })
}

async fn whole(mut stdout: impl AsyncRead + Unpin) -> Result<Vec<u8>, AnswerError> {
    let mut output = Vec::new();
    let limit = MAX_OUTPUT_BYTES as u64 + 1;
    (&mut stdout).take(limit).read_to_end(&mut output).await?;
    if output.len() > MAX_OUTPUT_BYTES { Err(AnswerError::TooLong) } else { Ok(output) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rustix::process::{Pid, Signal, kill_process_group};

    use super::*;

    const PATIENT: Duration = Duration::from_secs(20);

    fn shell(script: &str, deadline: Duration) -> Surveyor {
        let arguments = vec!["-c".into(), script.into()];
        Surveyor::new(SurveyCommand { program: "/bin/sh".into(), arguments }, deadline)
    }

    fn alive(pid: i32) -> bool {
        // A zombie that init has not yet taken counts as gone.
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
    }

    #[tokio::test]
    async fn a_process_that_hangs_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        let script = format!("sleep 600 & echo $$ $! > {}; wait", pids.display());
        let mut surveyor = shell(&script, Duration::from_millis(500));
        let started = Instant::now();
        assert_eq!(surveyor.survey().await.failure(), Some(Failure::Hung));
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        let pids = std::fs::read_to_string(pids).unwrap();
        for pid in pids.split_whitespace() {
            let pid = pid.parse().unwrap();
            let gone = (0..100).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                !alive(pid)
            });
            assert!(gone, "process {pid} is still there");
        }
        assert_eq!(surveyor.stuck(), 0);
    }

    #[tokio::test]
    async fn output_beyond_the_limit_is_not_read() {
        let mut surveyor = shell("yes", PATIENT);
        assert_eq!(surveyor.survey().await.failure(), Some(Failure::Garbled));
    }

    #[tokio::test]
    async fn complaints_without_end_neither_block_nor_fill_the_memory() {
        let mut surveyor = shell("head -c 3000000 /dev/zero >&2; exit 3", PATIENT);
        assert_eq!(surveyor.survey().await.failure(), Some(Failure::Crashed));
    }

    #[tokio::test]
    async fn the_last_that_a_dying_process_said_is_in_the_message() {
        let script = r"head -c 9000 /dev/zero | tr '\0' '\n' >&2; echo NVRM: fell off the bus >&2; exit 3";
        let mut surveyor = shell(script, PATIENT);
        let survey = surveyor.survey().await;
        let super::super::Nvml::Failed { failure: Failure::Crashed, message, .. } = survey.nvml else {
            panic!("{survey:?}");
        };
        assert!(message.contains("exit status: 3") && message.ends_with("NVRM: fell off the bus"), "{message}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_said_so() {
        let command = SurveyCommand { program: "/nonexistent/koinon".into(), arguments: vec![] };
        let survey = Surveyor::new(command, Duration::from_secs(1)).survey().await;
        assert_eq!(survey.failure(), Some(Failure::NotStarted));
    }

    /// A process inside a faulty driver ignores even SIGKILL. Here the kill does nothing instead.
    #[tokio::test]
    async fn after_three_processes_that_cannot_be_killed_no_more_are_started_until_they_go() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        let script = format!("echo $$ >> {}; exec sleep 600", pids.display());
        let mut surveyor = shell(&script, Duration::from_millis(300));
        surveyor.processes.kill = |_| Ok(());
        for attempt in 1..=3 {
            assert_eq!(surveyor.survey().await.failure(), Some(Failure::Hung));
            assert_eq!(surveyor.stuck(), attempt);
        }
        assert_eq!(surveyor.survey().await.failure(), Some(Failure::Unresponsive));
        let started = std::fs::read_to_string(&pids).unwrap();
        assert_eq!(started.lines().count(), 3, "a fourth process was started: {started}");

        for pid in started.lines() {
            let group = Pid::from_raw(pid.parse().unwrap()).unwrap();
            kill_process_group(group, Signal::KILL).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        surveyor.processes.kill = |group| kill_process_group(group, Signal::KILL);
        assert_eq!(surveyor.survey().await.failure(), Some(Failure::Hung), "it did not try again");
        assert_eq!(surveyor.stuck(), 0);
    }
}
