//! The agent's side: starts a surveying process, waits no longer than the deadline, and believes no more than it must.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::judge::{Survey, judge, readable};
use super::wire::{Failure, MAX_OUTPUT_BYTES};

/// With so many processes that a kill does not end, the driver is not coming back by itself.
const MAX_STUCK: usize = 3;
/// How long a killed process may take to go. One inside a faulty driver may never.
const REAP: Duration = Duration::from_secs(2);
/// What a library says on standard error explains a crash; the end of it is enough.
const MAX_COMPLAINT_BYTES: usize = 4 * 1024;

/// How a surveying process is started.
#[derive(Debug, Clone)]
pub struct SurveyCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl SurveyCommand {
    /// This very program, as `agent survey --nvml-lib <library>`.
    pub fn of_this_program(library: &std::path::Path) -> io::Result<Self> {
        let arguments = ["agent".into(), "survey".into(), "--nvml-lib".into(), library.as_os_str().to_owned()];
        Ok(Self { program: std::env::current_exe()?, arguments: arguments.into() })
    }
}

/// Runs surveys, one at a time.
#[derive(Debug)]
pub struct Surveyor {
    command: SurveyCommand,
    deadline: Duration,
    kill: fn(Pid) -> rustix::io::Result<()>,
    /// Killed, and still there.
    stuck: Vec<Child>,
}

impl Surveyor {
    /// One that waits for each survey at most for `deadline`.
    pub fn new(command: SurveyCommand, deadline: Duration) -> Self {
        Self { command, deadline, kill: |group| kill_process_group(group, Signal::KILL), stuck: Vec::new() }
    }

    /// Surveying processes that were killed and have not gone.
    pub fn stuck(&self) -> usize {
        self.stuck.len()
    }

    /// Surveys once. Returns within the deadline and two seconds, whatever the driver does.
    pub async fn survey(&mut self) -> Survey {
        // One that can be waited for, or about which nothing can be learnt any more, is gone.
        self.stuck.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        if self.stuck.len() >= MAX_STUCK {
            let message = format!(
                "{} surveying processes hang in the driver and cannot be killed; restart the node",
                self.stuck.len()
            );
            return Survey::failed(Failure::Unresponsive, None, &message);
        }
        let mut worker = match self.start() {
            Ok(worker) => worker,
            Err(error) => {
                let message = format!("starting {}: {error}", self.command.program.display());
                return Survey::failed(Failure::NotStarted, None, &message);
            }
        };
        let ended = tokio::time::timeout(self.deadline, worker.answer()).await;
        let survey = match ended {
            Ok(Ok(Answered { status, output, complaint })) if status.success() => {
                if !complaint.is_empty() {
                    tracing::debug!(complaint = readable(&complaint, 512), "the surveying process complained");
                }
                judge(&output)
            }
            Ok(Ok(Answered { status, complaint, .. })) => {
                let message = format!("the surveying process ended with {status}: {}", last_line(&complaint));
                Survey::failed(Failure::Crashed, None, &message)
            }
            Ok(Err(AnswerError::TooLong)) => {
                let message = format!("the surveying process printed more than {MAX_OUTPUT_BYTES} bytes");
                Survey::failed(Failure::Garbled, None, &message)
            }
            Ok(Err(AnswerError::Io(error))) => {
                Survey::failed(Failure::Garbled, None, &format!("reading from the surveying process: {error}"))
            }
            Err(_) => {
                let message = format!("NVML did not answer within {} ms", self.deadline.as_millis());
                Survey::failed(Failure::Hung, None, &message)
            }
        };
        self.stuck.extend(worker.end().await);
        survey
    }

    fn start(&self) -> io::Result<Worker> {
        let child = Command::new(&self.command.program)
            .args(&self.command.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that whatever the library starts goes with it.
            .process_group(0)
            .spawn()?;
        Ok(Worker { child: Some(child), kill: self.kill })
    }
}

/// One surveying process; dropping it kills its group.
struct Worker {
    child: Option<Child>,
    kill: fn(Pid) -> rustix::io::Result<()>,
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

impl Worker {
    async fn answer(&mut self) -> Result<Answered, AnswerError> {
        let Some(child) = self.child.as_mut() else {
            return Err(AnswerError::Io(io::Error::other("the process was already taken away")));
        };
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(AnswerError::Io(io::Error::other("the process has no output")));
        };
        // Both at once: a process that fills the one pipe must not wait for us to empty the other.
        let (output, complaint) = tokio::try_join!(whole(stdout), async { Ok(last_of(stderr).await?) })?;
        let status = child.wait().await?;
        Ok(Answered { status, output, complaint })
    }

    /// Ends the process if it has not ended; gives it back if it does not go.
    async fn end(mut self) -> Option<Child> {
        self.kill_group();
        let mut child = self.child.take()?;
        match tokio::time::timeout(REAP, child.wait()).await {
            Ok(_) => None,
            Err(_) => {
                tracing::warn!(
                    pid = child.id(),
                    "a surveying process hangs in the driver and does not die when killed"
                );
                Some(child)
            }
        }
    }

    fn kill_group(&self) {
        // Without an id the process was waited for, and its group's number may by now belong to another.
        let id = self.child.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw)
            && let Err(error) = (self.kill)(group)
        {
            tracing::warn!(%error, ?group, "killing a surveying process");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill_group();
    }
}

async fn whole(mut stdout: impl AsyncRead + Unpin) -> Result<Vec<u8>, AnswerError> {
    let mut output = Vec::new();
    let limit = MAX_OUTPUT_BYTES as u64 + 1;
    (&mut stdout).take(limit).read_to_end(&mut output).await?;
    if output.len() > MAX_OUTPUT_BYTES { Err(AnswerError::TooLong) } else { Ok(output) }
}

async fn last_of(mut stderr: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let read = stderr.read(&mut buffer).await?;
        if read == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        kept.extend(buffer.iter().take(read));
        kept.drain(..kept.len().saturating_sub(MAX_COMPLAINT_BYTES));
    }
}

fn last_line(complaint: &str) -> String {
    let said = complaint.lines().rev().map(|line| readable(line, 160)).find(|line| !line.is_empty());
    said.unwrap_or_else(|| "it said nothing".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

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
        surveyor.kill = |_| Ok(());
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
        surveyor.kill = |group| kill_process_group(group, Signal::KILL);
        assert_eq!(surveyor.survey().await.failure(), Some(Failure::Hung), "it did not try again");
        assert_eq!(surveyor.stuck(), 0);
    }
}
