//! Reads the kernel's log, which tells of every error, where NVML tells only of the last of several.
//!
//! It begins with the oldest record that the kernel still has and that no agent of this boot has judged: an error from before
//! the agent started has its true time, and none counts again because the agent was started again.

use std::path::PathBuf;
use std::time::Duration;

use koinon_core::ids::UnixSeconds;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use super::line;
use super::mailbox::Mailbox;
use crate::survey::clock;

/// How often it is looked for new records. Opening and reading it costs no more than this is worth.
const LOOK: Duration = Duration::from_millis(250);
/// How often it is tried to open a log that cannot be read.
const RETRY: Duration = Duration::from_secs(60);
/// A record has at most 8 KiB; one that does not fit would not be given at all.
const BUFFER_BYTES: usize = 16 * 1024;
/// So many reads at a time: a storm does not keep the agent's other tasks waiting.
const READS: usize = 256;

/// Whether the log is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum KernelLogState {
    /// Not yet, or nobody asked for it.
    #[default]
    NotAsked,
    /// It is.
    Reading,
    /// It cannot be, and why. Errors are heard from NVML alone.
    Unreadable(String),
}

/// The reader.
#[derive(Debug)]
pub struct KernelLog {
    path: PathBuf,
    mailbox: Mailbox,
    state: watch::Sender<KernelLogState>,
    from: Option<watch::Receiver<Option<u64>>>,
}

impl KernelLog {
    /// One of this log; usually `/dev/kmsg`.
    pub fn new(path: PathBuf, mailbox: Mailbox) -> Self {
        Self { path, mailbox, state: watch::Sender::default(), from: None }
    }

    /// Waits until it is known up to which record an earlier agent has judged this boot's log, and begins there.
    #[must_use]
    pub fn from(self, record: watch::Receiver<Option<u64>>) -> Self {
        Self { from: Some(record), ..self }
    }

    /// Whether it is read, and each change of that.
    pub fn state(&self) -> watch::Receiver<KernelLogState> {
        self.state.subscribe()
    }

    /// Reads for ever. A log that cannot be read is tried again each minute.
    pub async fn run(mut self) -> std::convert::Infallible {
        let mut next = match &mut self.from {
            None => 0,
            // Whoever would say ends with the agent.
            Some(from) => from.wait_for(Option::is_some).await.map_or(0, |record| record.unwrap_or(0)),
        };
        loop {
            let why = match self.open() {
                Ok(log) => {
                    self.state.send_replace(KernelLogState::Reading);
                    self.read(&log, &mut next).await
                }
                Err(why) => why,
            };
            let path = self.path.display();
            let why = format!("reading the kernel's log {path}: {why}; mount it into the agent and let it be read");
            if self.state.send_replace(KernelLogState::Unreadable(why.clone()))
                != KernelLogState::Unreadable(why.clone())
            {
                tracing::warn!("{why}; until then errors of GPUs are heard from NVML alone, which loses some");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn open(&self) -> Result<OwnedFd, Errno> {
        rustix::fs::open(&self.path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
    }

    /// Reads from record `next` on, until that fails.
    async fn read(&self, log: &OwnedFd, next: &mut u64) -> Errno {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut records = Records::default();
        let mut reads = 0;
        loop {
            match rustix::io::read(log, &mut buffer) {
                Ok(0) | Err(Errno::AGAIN) => tokio::time::sleep(LOOK).await,
                Ok(length) => records.take(buffer.get(..length).unwrap_or_default(), |record| {
                    if record.number >= *next {
                        *next = record.number.saturating_add(1);
                        self.hear(&record);
                    }
                }),
                // The kernel overwrote what was to be read next. The next record's number says how much that was.
                Err(Errno::PIPE) => self.mailbox.lost(0),
                // A record that does not fit, or a signal: the next is asked for.
                Err(Errno::INVAL | Errno::INTR) => {}
                Err(why) => return why,
            }
            if records.lost > 0 {
                self.mailbox.lost(std::mem::take(&mut records.lost));
            }
            reads += 1;
            if reads % READS == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn hear(&self, record: &Record<'_>) {
        if let Some(said) = line::parse(record.text) {
            self.mailbox.hear_line(said, wall(record.since_boot), record.number);
        }
    }
}

/// One record of the log.
struct Record<'a> {
    /// By which the kernel counts them from its start.
    number: u64,
    /// In microseconds.
    since_boot: u64,
    text: &'a str,
}

/// The node's time of something that happened so many microseconds after its boot; not in the future, whoever wrote that.
fn wall(since_boot: u64) -> UnixSeconds {
    let now = clock_gettime(ClockId::Monotonic);
    let now = u64::try_from(now.tv_sec).unwrap_or(0).saturating_mul(1_000_000);
    let ago = i64::try_from(now.saturating_sub(since_boot) / 1_000_000).unwrap_or(i64::MAX);
    UnixSeconds(clock::now().at.seconds().0.saturating_sub(ago).max(0))
}

/// Cuts what was read into records. The device gives one a read; a file or pipe gives what it has.
#[derive(Default)]
struct Records {
    rest: Vec<u8>,
    /// Whether the rest was too long for a record, and what follows up to the next line is its end.
    skipping: bool,
    next: Option<u64>,
    lost: u64,
}

impl Records {
    fn take(&mut self, bytes: &[u8], mut hear: impl FnMut(Record<'_>)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let whole = piece.last() == Some(&b'\n');
            if !self.skipping {
                self.rest.extend_from_slice(piece);
            }
            if self.rest.len() > BUFFER_BYTES {
                self.rest.clear();
                self.skipping = true;
            }
            if whole {
                if !std::mem::take(&mut self.skipping) {
                    let rest = std::mem::take(&mut self.rest);
                    self.record(&String::from_utf8_lossy(&rest), &mut hear);
                }
                self.rest.clear();
            }
        }
    }

    fn record(&mut self, text: &str, hear: &mut impl FnMut(Record<'_>)) {
        // Lines with a blank before belong to the record above, and say which device of the kernel wrote it.
        let Some((number, since_boot, text)) = line::record(text.trim_end_matches('\n')) else { return };
        if let Some(expected) = self.next {
            self.lost = self.lost.saturating_add(number.saturating_sub(expected));
        }
        self.next = Some(number.saturating_add(1));
        hear(Record { number, since_boot, text });
    }
}

#[cfg(test)]
#[path = "kernel_log_tests.rs"]
mod tests;
