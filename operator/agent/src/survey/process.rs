//! Processes that call the driver's library, and may hang in it: each is started in a group of its own, killed with its group
//! if it does not end, and remembered if even that does not end it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::judge::readable;

/// With so many processes that a kill does not end, the driver is not coming back by itself.
const MAX_STUCK: usize = 3;
/// How long a process may take to go once it was told to. One inside a faulty driver may never.
const REAP: Duration = Duration::from_secs(2);
/// What a library says on standard error explains a crash; the end of it is enough.
const MAX_COMPLAINT_BYTES: usize = 4 * 1024;

/// How a process that calls the library is started.
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

    /// The same as `agent watch`.
    #[must_use]
    pub fn watching(mut self) -> Self {
        if let Some(survey) = self.arguments.iter_mut().find(|argument| *argument == "survey") {
            *survey = "watch".into();
        }
        self
    }
}

/// The processes of one agent that do not end, whatever started them.
#[derive(Debug, Clone)]
pub struct Processes {
    pub(super) kill: fn(Pid) -> rustix::io::Result<()>,
    /// Killed, and still there.
    stuck: Arc<Mutex<Vec<Child>>>,
}

/// Why no process was started.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotStarted {
    #[error("{0} processes hang in the driver and cannot be killed; restart the node")]
    TooManyStuck(usize),
    #[error("starting {}: {source}", program.display())]
    Io { program: PathBuf, source: io::Error },
}

impl Default for Processes {
    fn default() -> Self {
        Self { kill: |group| kill_process_group(group, Signal::KILL), stuck: Arc::default() }
    }
}

impl Processes {
    /// Those that were killed and have not gone.
    pub fn stuck(&self) -> usize {
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        // One that can be waited for, or about which nothing can be learnt any more, is gone.
        stuck.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        stuck.len()
    }

    /// Starts one, unless too many hang.
    pub(super) fn start(&self, command: &SurveyCommand) -> Result<Worker, NotStarted> {
        let stuck = self.stuck();
        if stuck >= MAX_STUCK {
            return Err(NotStarted::TooManyStuck(stuck));
        }
        let child = Command::new(&command.program)
            .args(&command.arguments)
            // Its end tells one that waits that it is no longer wanted.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that whatever the library starts goes with it.
            .process_group(0)
            .spawn()
            .map_err(|source| NotStarted::Io { program: command.program.clone(), source })?;
        Ok(Worker { child: Some(child), processes: self.clone() })
    }
}

/// One process; dropping it kills its group.
pub(super) struct Worker {
    child: Option<Child>,
    processes: Processes,
}

impl Worker {
    /// What it prints, to be taken once.
    pub(super) fn output(&mut self) -> io::Result<(ChildStdout, ChildStderr)> {
        let child = self.child.as_mut();
        child
            .and_then(|child| child.stdout.take().zip(child.stderr.take()))
            .ok_or_else(|| io::Error::other("the process has no output"))
    }

    /// Waits until it ends by itself.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        match self.child.as_mut() {
            Some(child) => child.wait().await,
            None => Err(io::Error::other("the process was already taken away")),
        }
    }

    /// Lets it end by itself, by telling it that nobody listens, and kills it if it does not.
    pub(super) async fn dismiss(mut self) {
        if let Some(child) = self.child.as_mut() {
            drop(child.stdin.take());
            if tokio::time::timeout(REAP, child.wait()).await.is_ok() {
                return;
            }
        }
        self.end().await;
    }

    /// Kills it if it has not ended, and remembers it if it does not go.
    pub(super) async fn end(mut self) {
        self.kill_group();
        let Some(mut child) = self.child.take() else { return };
        if tokio::time::timeout(REAP, child.wait()).await.is_err() {
            tracing::warn!(pid = child.id(), "a process hangs in the driver and does not die when killed");
            self.processes.stuck.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        }
    }

    fn kill_group(&self) {
        // Without an id the process was waited for, and its group's number may by now belong to another.
        let id = self.child.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw)
            && let Err(error) = (self.processes.kill)(group)
        {
            tracing::warn!(%error, ?group, "killing a process that calls the driver");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// The end of what a process complains of.
pub(super) async fn complaint(mut stderr: impl AsyncRead + Unpin) -> io::Result<String> {
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

/// The last line of a complaint.
pub(super) fn last_line(complaint: &str) -> String {
    let said = complaint.lines().rev().map(|line| readable(line, 160)).find(|line| !line.is_empty());
    said.unwrap_or_else(|| "it said nothing".to_owned())
}
