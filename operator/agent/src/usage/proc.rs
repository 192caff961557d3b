//! What `/proc` tells of the processes that the driver lists.
//!
//! A number may pass to another process at any time. So the start time is read before and after the control group, and one
//! that began after the survey is not the one that the survey saw.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use koinon_core::gpu::usage::{Found, Owner};

use super::cgroup;

/// At most so many processes are looked up in one survey; the rest stays unknown.
pub const MAX_PROCESSES: usize = 10_240;
/// One line with a name of at most 64 bytes and 52 numbers.
const MAX_STAT: u64 = 4096;
/// `USER_HZ`: in what `/proc` counts time on every architecture that Linux has today, whatever its clock does.
const TICK_MILLISECONDS: u64 = 10;
/// The inode of the first pid namespace, `PROC_PID_INIT_INO` of the kernel's `include/linux/proc_ns.h`.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Why no process of the node can be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blind {
    /// Nobody gave it a `/proc` of the host.
    #[error("the processes of the node cannot be seen: no --host-proc is given; set agent.hostPID in the chart")]
    NotGiven,
    /// It shows this container alone.
    #[error("looking up processes in {}: it shows only those of the agent's own container; the pod needs hostPID", .0.display())]
    OwnOnly(PathBuf),
    /// It hides other users' processes.
    #[error("looking up processes in {}: process 1 cannot be read ({kind}); is it mounted with hidepid, or not at all?", root.display())]
    Hidden {
        /// What was to be the host's /proc.
        root: PathBuf,
        /// What the system said.
        kind: ErrorKind,
    },
    /// It does not answer.
    #[error("looking up processes: an earlier look has not come back; look at the kernel's log for hung tasks")]
    Stuck,
    /// The system is out of threads.
    #[error("looking up processes: no thread could be started ({0}); look at the agent's limits")]
    NoThread(ErrorKind),
}

/// A `/proc` that shows every process of the node by the numbers that the driver uses.
#[derive(Debug, Clone)]
pub struct HostProc {
    root: PathBuf,
}

impl HostProc {
    /// Looks whether `root` is one.
    ///
    /// # Errors
    /// If it does not show the node's processes: then one that it does not show may run all the same.
    pub fn open(root: Option<&Path>) -> Result<Self, Blind> {
        let root = root.ok_or(Blind::NotGiven)?;
        let namespace = std::fs::read_link(root.join("self/ns/pid"));
        let first = namespace.is_ok_and(|target| target.as_os_str() == FIRST_PID_NAMESPACE);
        // A node may itself be a container, so that not being in the first namespace proves nothing. Being process 1 does.
        let itself = std::fs::read_link(root.join("self")).is_ok_and(|target| target.as_os_str() == "1");
        if itself && !first {
            return Err(Blind::OwnOnly(root.to_owned()));
        }
        let proc = Self { root: root.to_owned() };
        // With hidepid the processes of others look as if they were gone.
        match proc.started(1) {
            Ok(Some(_)) => Ok(proc),
            Ok(None) => Err(Blind::Hidden { root: root.to_owned(), kind: ErrorKind::InvalidData }),
            Err(kind) => Err(Blind::Hidden { root: root.to_owned(), kind }),
        }
    }

    /// What is found out of each process, which a survey saw at `surveyed` milliseconds after the node booted. Blocks.
    pub fn look_up(&self, pids: &BTreeSet<u32>, surveyed: u64) -> BTreeMap<u32, Found> {
        pids.iter().take(MAX_PROCESSES).map(|pid| (*pid, self.find(*pid, surveyed))).collect()
    }

    fn find(&self, pid: u32, surveyed: u64) -> Found {
        self.find_with(pid, surveyed, || {})
    }

    /// [`Self::find`], with something to do between the first look and the last.
    fn find_with(&self, pid: u32, surveyed: u64, meanwhile: impl FnOnce()) -> Found {
        let gone = Found { started_milliseconds: None, owner: Owner::Gone };
        let unreadable = |started_milliseconds| Found { started_milliseconds, owner: Owner::Unreadable };
        let started = match self.started(pid) {
            Ok(Some(started)) => started,
            Ok(None) => return unreadable(None),
            Err(kind) if is_gone(kind) => return gone,
            Err(_) => return unreadable(None),
        };
        // Times are counted in ticks, so one that started within the survey's own tick may have been seen by it.
        if started > surveyed.saturating_add(TICK_MILLISECONDS) {
            return gone;
        }
        let owner = match self.read(pid, "cgroup", cgroup::MAX_BYTES) {
            Ok(Some(text)) => cgroup::owner(&text),
            Ok(None) => Owner::Unreadable,
            Err(kind) if is_gone(kind) => return gone,
            Err(_) => Owner::Unreadable,
        };
        meanwhile();
        match self.started(pid) {
            Ok(Some(still)) if still == started => Found { started_milliseconds: Some(started), owner },
            Ok(Some(_)) => gone,
            Err(kind) if is_gone(kind) => gone,
            Ok(None) | Err(_) => unreadable(Some(started)),
        }
    }

    /// When a process started, in milliseconds since the node booted; none if its line is not as it should be.
    fn started(&self, pid: u32) -> Result<Option<u64>, ErrorKind> {
        Ok(self.read(pid, "stat", MAX_STAT)?.as_deref().and_then(start_time))
    }

    /// One small file of a process; none if it is larger than such a file is.
    fn read(&self, pid: u32, name: &str, max: u64) -> Result<Option<Vec<u8>>, ErrorKind> {
        let file = File::open(self.root.join(pid.to_string()).join(name)).map_err(|error| kind(&error))?;
        let mut text = Vec::new();
        file.take(max + 1).read_to_end(&mut text).map_err(|error| kind(&error))?;
        Ok((u64::try_from(text.len()).unwrap_or(u64::MAX) <= max).then_some(text))
    }
}

/// The kernel answers a read of a process that ends with ESRCH, which has no kind of its own.
fn kind(error: &std::io::Error) -> ErrorKind {
    let gone = error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
    if gone { ErrorKind::NotFound } else { error.kind() }
}

fn is_gone(kind: ErrorKind) -> bool {
    kind == ErrorKind::NotFound
}

/// The 22nd field. The second is a name in brackets that may itself hold brackets, spaces and newlines.
fn start_time(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let ticks: u64 = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
    ticks.checked_mul(TICK_MILLISECONDS)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    const POD: &str = "0::/kubepods/pod8f1c2a34-5b6d-4e7f-8a90-b1c2d3e4f506/4fa6e0f0c6786287\n";

    /// A `/proc` with process 1 and whatever else a test writes.
    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new() -> Self {
            let fake = Self(tempfile::tempdir().unwrap());
            fake.process(1, 0, "0::/init.scope\n");
            fs::create_dir_all(fake.0.path().join("99/ns")).unwrap();
            symlink("99", fake.0.path().join("self")).unwrap();
            fake
        }

        fn process(&self, pid: u32, ticks: u64, cgroup: &str) {
            let folder = self.0.path().join(pid.to_string());
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("stat"), stat("python3", ticks)).unwrap();
            fs::write(folder.join("cgroup"), cgroup).unwrap();
        }

        fn end(&self, pid: u32) {
            fs::remove_dir_all(self.0.path().join(pid.to_string())).unwrap();
        }

        fn open(&self) -> Result<HostProc, Blind> {
            HostProc::open(Some(self.0.path()))
        }

        fn find(&self, pid: u32) -> Found {
            self.open().unwrap().find(pid, 1_000_000)
        }
    }

    fn stat(name: &str, ticks: u64) -> Vec<u8> {
        let numbers = vec!["7"; 18].join(" ");
        format!("42 ({name}) S {numbers} {ticks} 1000 200\n").into_bytes()
    }

    #[test]
    fn a_process_is_its_pods_by_its_group_and_started_when_it_says() {
        let fake = Fake::new();
        fake.process(42, 12_345, POD);
        let found = fake.find(42);
        assert_eq!(found.started_milliseconds, Some(123_450));
        assert!(matches!(found.owner, Owner::Pod { container: Some(_), .. }), "{found:?}");
    }

    #[test]
    fn a_number_that_passed_on_while_it_was_read_is_not_believed() {
        let fake = Fake::new();
        fake.process(42, 100, POD);
        let proc = fake.open().unwrap();
        let again = proc.find_with(42, 1_000_000, || fake.process(42, 101, POD));
        assert_eq!((again.owner, again.started_milliseconds), (Owner::Gone, None));
        let ended = proc.find_with(42, 1_000_000, || fake.end(42));
        assert_eq!(ended.owner, Owner::Gone);
    }

    #[test]
    fn a_process_that_began_after_the_survey_is_not_the_one_that_the_survey_saw() {
        let fake = Fake::new();
        fake.process(42, 5_002, POD);
        let proc = fake.open().unwrap();
        assert_eq!(proc.find(42, 50_000).owner, Owner::Gone);
        assert!(matches!(proc.find(42, 50_010).owner, Owner::Pod { .. }), "the same tick, rounded");
    }

    #[test]
    fn one_that_has_ended_is_gone_and_one_that_may_not_be_read_is_unreadable() {
        let fake = Fake::new();
        assert_eq!(fake.find(42).owner, Owner::Gone);
        fake.process(42, 100, POD);
        fs::write(fake.0.path().join("42/stat"), "42 (x) S 1 2").unwrap();
        assert_eq!(fake.find(42).owner, Owner::Unreadable);
        fake.process(42, 100, &"0::/kubepods\n".repeat(10_000));
        let found = fake.find(42);
        assert_eq!(
            (found.owner, found.started_milliseconds),
            (Owner::Unreadable, Some(1000)),
            "longer than any such file"
        );
        fs::remove_file(fake.0.path().join("42/cgroup")).unwrap();
        fs::create_dir(fake.0.path().join("42/cgroup")).unwrap();
        assert_eq!(fake.find(42).owner, Owner::Unreadable);
    }

    #[test]
    fn no_more_than_ten_thousand_processes_are_looked_up() {
        let fake = Fake::new();
        let pids: BTreeSet<u32> = (2..20_000).collect();
        assert_eq!(fake.open().unwrap().look_up(&pids, 0).len(), MAX_PROCESSES);
    }

    #[test]
    fn a_proc_that_hides_processes_or_shows_the_container_alone_is_refused() {
        assert_eq!(HostProc::open(None).unwrap_err(), Blind::NotGiven);
        let fake = Fake::new();
        fake.end(1);
        assert_eq!(
            fake.open().unwrap_err(),
            Blind::Hidden { root: fake.0.path().to_owned(), kind: ErrorKind::NotFound }
        );
        let fake = Fake::new();
        fs::remove_file(fake.0.path().join("self")).unwrap();
        symlink("1", fake.0.path().join("self")).unwrap();
        assert_eq!(fake.open().unwrap_err(), Blind::OwnOnly(fake.0.path().to_owned()));
        // Of the first namespace it is the host's, whatever the number.
        fs::create_dir_all(fake.0.path().join("1/ns")).unwrap();
        symlink(FIRST_PID_NAMESPACE, fake.0.path().join("1/ns/pid")).unwrap();
        assert!(fake.open().is_ok());
    }

    #[test]
    fn this_machines_own_proc_is_read() {
        let itself = std::process::id();
        let proc = HostProc { root: "/proc".into() };
        let found = proc.find(itself, u64::MAX - 1000);
        assert!(found.started_milliseconds.is_some() && found.owner != Owner::Gone, "{found:?}");
        assert_ne!(found.owner, Owner::Unreadable);
    }

    proptest! {
        #[test]
        fn whatever_a_process_calls_itself_its_start_is_read(name in ".{0,64}", ticks in 0_u64..u64::MAX / 10) {
            prop_assert_eq!(start_time(&stat(&name, ticks)), Some(ticks * 10));
        }

        #[test]
        fn a_line_that_is_none_is_read_without_harm(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = start_time(&line);
        }
    }
}
