//! Long-running processes of a run: started inside its namespaces and control groups, known by id and start time.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, kill_process};

use crate::command;
use crate::run::{Made, Run};

/// How a process is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Politely.
    Terminate,
    /// At once.
    Kill,
}

/// Signals one process; one that is gone already is fine.
pub fn kill(pid: u32, signal: Signal) {
    let signal = match signal {
        Signal::Terminate => rustix::process::Signal::TERM,
        Signal::Kill => rustix::process::Signal::KILL,
    };
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The fields of `/proc/<pid>/stat` after the command's name, which may itself hold blanks and parentheses.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.get(text.rfind(')')? + 2..)?.split_whitespace().map(str::to_owned).collect())
}

/// State letter and start time (clock ticks since boot) of a process.
fn stat(pid: u32) -> Option<(char, u64)> {
    let fields = stat_fields(pid)?;
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

/// Processor time of a process and of its children that have ended, in clock ticks.
pub fn cpu_ticks(pid: u32) -> Option<u64> {
    let fields = stat_fields(pid)?;
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(ticks(11)? + ticks(12)? + ticks(13)? + ticks(14)?)
}

/// When a process started, in clock ticks since boot.
pub fn start_time(pid: u32) -> Option<u64> {
    stat(pid).map(|(_, started)| started)
}

/// Whether no process has this id, or only one that waits to be reaped.
pub fn is_dead(pid: u32) -> bool {
    stat(pid).is_none_or(|(state, _)| state == 'Z' || state == 'X')
}

/// Whether the very process that started then still runs; another one may have its id by now.
pub fn is_running(pid: u32, started: u64) -> bool {
    !is_dead(pid) && start_time(pid) == Some(started)
}

/// Where a process lives.
#[derive(Debug, Clone, Default)]
pub struct Home {
    /// Name of its network namespace; none means the caller's.
    pub network: Option<String>,
    /// File that holds its mount namespace; none means the caller's.
    pub mounts: Option<PathBuf>,
    /// Its control group below the hierarchies' roots.
    pub group: Option<String>,
}

impl Home {
    /// A command that runs in this home. The shell in front joins the control groups before the program exists, so that no
    /// child of it can ever be outside.
    pub fn command(&self, run: &Run, program: impl AsRef<OsStr>) -> Command {
        let mut entered = Command::new("/bin/sh");
        let mut script = String::new();
        for file in self.group.iter().flat_map(|group| run.groups().join_files(group)) {
            script.push_str(&format!("echo $$ > {} && ", file.display()));
        }
        script.push_str(command::BECOME);
        entered.args([OsString::from("-c"), script.into(), "sh".into()]);
        if self.network.is_some() || self.mounts.is_some() {
            entered.arg("nsenter");
            if let Some(name) = &self.network {
                // Not `ip netns exec`: it mounts /sys anew, which hides the control groups.
                entered.arg(format!("--net=/run/netns/{name}"));
            }
            if let Some(file) = &self.mounts {
                entered.arg(format!("--mount={}", file.display()));
            }
            entered.arg("--");
        }
        entered.arg(program);
        entered
    }
}

/// A process to be started and watched.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What it is, also the name of its log file.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment on top of ours.
    pub env: Vec<(String, String)>,
    /// Where it lives.
    pub home: Home,
    /// The file that its output is appended to.
    pub log: PathBuf,
}

/// A process that was started.
#[derive(Debug)]
pub struct Daemon {
    launch: Launch,
    pid: u32,
    started: u64,
    /// None if another process of ours started it.
    child: Option<Child>,
}

impl Launch {
    /// Starts it, apart from our terminal: Ctrl-C reaches us alone, and we stop it in order.
    pub fn spawn(self, run: &Run) -> Result<Daemon> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening the log {}", self.log.display()))?;
        let child = self
            .home
            .command(run, &self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {} ({})", self.name, self.program.display()))?;
        let pid = child.id();
        let Some(started) = start_time(pid) else {
            bail!("{} ended as soon as it was started; see {}", self.name, self.log.display());
        };
        run.note(&Made::Process { pid, started, name: self.name.clone() })?;
        Ok(Daemon { launch: self, pid, started, child: Some(child) })
    }

    /// Takes over the process of this name that another process of ours started last, if it still runs.
    pub fn attach(self, run: &Run) -> Result<Option<Daemon>> {
        let last = run.made()?.into_iter().rev().find_map(|made| match made {
            Made::Process { pid, started, name } if name == self.name => Some((pid, started)),
            _ => None,
        });
        Ok(last.filter(|(pid, started)| is_running(*pid, *started)).map(|(pid, started)| Daemon {
            launch: self,
            pid,
            started,
            child: None,
        }))
    }
}

impl Daemon {
    /// What it is.
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        if let Some(child) = &mut self.child {
            return matches!(child.try_wait(), Ok(None));
        }
        is_running(self.pid, self.started)
    }

    /// Fails with the end of its log if it does not run any more.
    pub fn check(&mut self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        bail!("{} ended; the end of {}:\n{}", self.launch.name, self.launch.log.display(), self.log_tail(12))
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        log_tail(&self.launch.log, lines)
    }

    /// Signals it, if it is still the process that was started.
    pub fn signal(&self, signal: Signal) {
        if is_running(self.pid, self.started) {
            kill(self.pid, signal);
        }
    }

    /// Asks it to end, and kills it if it has not done so after `grace`; without any grace it is killed unasked.
    ///
    /// An API server that is asked first takes its own address from its Service. A kube-proxy that sees that and is then
    /// restarted finds the emptied chain, takes it for a written one, and no pod reaches the API server any more
    /// (Kubernetes 1.34, nftables).
    pub fn stop(&mut self, grace: Duration) {
        if !grace.is_zero() {
            self.signal(Signal::Terminate);
        }
        let asked = Instant::now();
        while self.is_running() {
            if asked.elapsed() >= grace {
                self.signal(Signal::Kill);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it and starts it again with the same arguments.
    pub fn restart(&mut self, run: &Run, grace: Duration) -> Result<()> {
        self.stop(grace);
        *self = self.launch.clone().spawn(run)?;
        Ok(())
    }
}

/// The last lines of a log file; an unreadable one says so instead.
pub fn log_tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time_and_not_by_its_id_alone() {
        let pid = std::process::id();
        let started = start_time(pid).unwrap();
        assert!(is_running(pid, started));
        assert!(!is_running(pid, started + 1));
    }

    #[test]
    fn a_killed_child_that_nobody_reaped_counts_as_dead() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!is_dead(child.id()));
        kill(child.id(), Signal::Kill);
        let killed = Instant::now();
        while !is_dead(child.id()) && killed.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(is_dead(child.id()));
        child.wait().unwrap();
    }
}
