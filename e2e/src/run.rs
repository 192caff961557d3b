//! What a run has made on this machine, written down before it is made, so that `down` removes exactly that.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cgroup::Hierarchies;
use crate::command;
use crate::mount_points;
use crate::process;

/// The variable that gives a run its number.
pub const INSTANCE: &str = "KOINON_INSTANCE";

/// Several runs can stand beside each other on one machine; each has its own number, from `$KOINON_INSTANCE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Instance(u8);

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Instance {
    /// The instance that the environment names; 0 if none.
    pub fn from_env() -> Result<Self> {
        match std::env::var(INSTANCE) {
            Err(_) => Ok(Self(0)),
            Ok(text) => match text.parse() {
                Ok(number) if number < 10 => Ok(Self(number)),
                _ => bail!("KOINON_INSTANCE is {text:?}; give a number from 0 to 9"),
            },
        }
    }

    /// Another one, for a second run beside this. The last number is left to the test of the harness that makes a run of
    /// its own.
    #[must_use]
    pub fn beside(self) -> Self {
        Self((self.0 + 1) % 9)
    }

    /// The beginning of every name that the run gives to something on this machine.
    pub fn prefix(self) -> String {
        if self.0 == 0 { "koinon".to_owned() } else { format!("koinon{}", self.0) }
    }

    /// An address on this run's wire, `10.250.<instance>.<host>`.
    pub fn address(self, host: u8) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::new(10, 250, self.0, host)
    }
}

/// One thing that a run made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "made", rename_all = "camelCase")]
pub enum Made {
    /// A process that was started, known by its id and by when it started, since ids are used again.
    Process {
        /// The process id.
        pid: u32,
        /// Clock ticks between boot and start.
        started: u64,
        /// What it is, for people.
        name: String,
    },
    /// A network namespace in `/run/netns`.
    NetworkNamespace {
        /// Its name.
        name: String,
    },
    /// An interface in the root namespace.
    Link {
        /// Its name.
        name: String,
    },
    /// A mount, also one that holds a mount namespace.
    Mount {
        /// Where.
        path: PathBuf,
    },
    /// A control group in every hierarchy.
    ControlGroup {
        /// Its path below the hierarchies' roots.
        group: String,
    },
    /// A datacenter, so that another process can attach to it.
    Datacenter {
        /// What it was started with.
        spec: Box<crate::spec::DatacenterSpec>,
    },
}

/// A run: its folder and the list of what it made.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    instance: Instance,
    groups: Hierarchies,
}

/// Name of the list of what was made, in the run's folder.
pub const LIST: &str = "made.jsonl";
/// The kernel takes socket paths of 107 bytes; `/<name of 30>/kubelet/device-plugins/kubelet.sock` is the longest below.
const MAX_FOLDER_LENGTH: usize = 34;
const MAX_LIST_BYTES: u64 = 16 << 20;

impl Run {
    /// The folder of this instance's run: `$KOINON_RUN`, else `/var/lib/<prefix>-run`. Not on a tmpfs, because three nodes
    /// unpack their images in it.
    pub fn folder() -> Result<PathBuf> {
        Ok(match std::env::var_os("KOINON_RUN") {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(format!("/var/lib/{}-run", Instance::from_env()?.prefix())),
        })
    }

    /// Begins a run; fails if one stands already.
    pub fn begin() -> Result<Self> {
        let dir = Self::folder()?;
        if dir.join(LIST).exists() {
            bail!("a run stands in {}; remove it first: `cargo xtask demo down`", dir.display());
        }
        if dir.as_os_str().len() > MAX_FOLDER_LENGTH {
            bail!(
                "{} is too long: sockets lie below it; set KOINON_RUN to at most {MAX_FOLDER_LENGTH} characters",
                dir.display()
            );
        }
        fs::create_dir_all(&dir).with_context(|| format!("making the run's folder {}", dir.display()))?;
        // Keys of every cluster lie below.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))?;
        let run = Self::at(dir)?;
        OpenOptions::new().create_new(true).append(true).open(run.list_path()).context("beginning the run's list")?;
        run.remove_kept_logs()?;
        Ok(run)
    }

    /// The run that stands, begun by another process.
    pub fn open() -> Result<Self> {
        let dir = Self::folder()?;
        if !dir.join(LIST).exists() {
            bail!("no run stands in {}; start one: `cargo xtask up`", dir.display());
        }
        Self::at(dir)
    }

    fn at(dir: PathBuf) -> Result<Self> {
        let dir = dir.canonicalize().with_context(|| format!("resolving {}", dir.display()))?;
        Ok(Self { dir, instance: Instance::from_env()?, groups: Hierarchies::detect()? })
    }

    /// The run's own folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Which instance it is.
    pub fn instance(&self) -> Instance {
        self.instance
    }

    /// The control groups of this machine.
    pub fn groups(&self) -> &Hierarchies {
        &self.groups
    }

    fn list_path(&self) -> PathBuf {
        self.dir.join(LIST)
    }

    /// Writes down what is about to be made.
    pub fn note(&self, made: &Made) -> Result<()> {
        let mut line = serde_json::to_string(made)?;
        line.push('\n');
        let path = self.list_path();
        // One write of one line in append mode: datacenters that start at the same time do not mix their lines.
        let mut file =
            OpenOptions::new().append(true).open(&path).with_context(|| format!("opening {}", path.display()))?;
        file.write_all(line.as_bytes()).with_context(|| format!("writing {}", path.display()))
    }

    /// Everything that was written down, oldest first. A last line that a crash cut short is left out.
    pub fn made(&self) -> Result<Vec<Made>> {
        let path = self.list_path();
        if fs::metadata(&path)?.len() > MAX_LIST_BYTES {
            bail!("{} is larger than {MAX_LIST_BYTES} bytes; is it ours?", path.display());
        }
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("reading {}: {line}", path.display())))
            .collect()
    }

    /// Stops and removes everything that the run made, then its folder. What fails is told at the end; the rest is still removed.
    pub fn down(self) -> Result<()> {
        let made = self.made()?;
        let mut problems = Vec::new();
        let mut attempt = |what: String, result: Result<()>| {
            if let Err(error) = result {
                problems.push(format!("{what}: {error:#}"));
            }
        };
        attempt("processes".into(), self.kill_all(&made));
        for item in made.iter().rev() {
            match item {
                Made::Process { .. } | Made::Datacenter { .. } => {}
                Made::Mount { path } => attempt(path.display().to_string(), unmount(path)),
                Made::NetworkNamespace { name } => attempt(name.clone(), delete_network_namespace(name)),
                Made::Link { name } => attempt(name.clone(), delete_link(name)),
                Made::ControlGroup { group } => attempt(group.clone(), self.groups.remove(group)),
            }
        }
        attempt("mount points".into(), mount_points::release(self.instance));
        if problems.is_empty() {
            problems = self.remains(&made);
        }
        if problems.is_empty() {
            return self.remove_folder();
        }
        bail!("not everything could be removed; run `cargo xtask demo down` again:\n  {}", problems.join("\n  "))
    }

    /// Where the logs of a run that failed are kept when the run is removed.
    pub fn kept_logs(&self) -> PathBuf {
        kept_logs(&self.dir)
    }

    /// Removes the logs of an earlier run that failed.
    pub fn remove_kept_logs(&self) -> Result<()> {
        let kept = self.kept_logs();
        if kept.exists() {
            fs::remove_dir_all(&kept).with_context(|| format!("removing {}", kept.display()))?;
        }
        Ok(())
    }

    /// What is still there of all that was made.
    fn remains(&self, made: &[Made]) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut found: Vec<String> = made
            .iter()
            .filter_map(|item| match item {
                Made::Process { pid, started, name } => {
                    process::is_running(*pid, *started).then(|| format!("process {pid} ({name})"))
                }
                Made::NetworkNamespace { name } => {
                    Path::new("/run/netns").join(name).exists().then(|| format!("network namespace {name}"))
                }
                Made::Link { name } => {
                    Path::new("/sys/class/net").join(name).exists().then(|| format!("interface {name}"))
                }
                Made::ControlGroup { group } => self.groups.exists(group).then(|| format!("control group {group}")),
                Made::Mount { path } => {
                    let there = mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str());
                    there.then(|| format!("mount {}", path.display()))
                }
                Made::Datacenter { .. } => None,
            })
            .collect();
        found.dedup();
        found
    }

    /// Kills what the list names and whatever lives in the run's control groups, until nothing is left.
    fn kill_all(&self, made: &[Made]) -> Result<()> {
        let groups: Vec<&str> = made
            .iter()
            .filter_map(|item| if let Made::ControlGroup { group } = item { Some(group.as_str()) } else { None })
            .collect();
        // A shim or a container may be forked while we look, so look again until nobody is left.
        for _ in 0..100 {
            let mut left: Vec<u32> = groups.iter().flat_map(|group| self.groups.processes(group)).collect();
            for item in made {
                if let Made::Process { pid, started, .. } = item
                    && process::is_running(*pid, *started)
                {
                    left.push(*pid);
                }
            }
            left.retain(|pid| *pid != std::process::id() && !process::is_dead(*pid));
            if left.is_empty() {
                return Ok(());
            }
            for pid in left {
                process::kill(pid, process::Signal::Kill);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("processes of this run do not end although they were killed; see {}", self.list_path().display())
    }

    /// Removes the run's folder, but never through a mount that is still in it.
    fn remove_folder(&self) -> Result<()> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
        let inside = format!("{}/", self.dir.display());
        if let Some(line) =
            mounts.lines().find(|line| line.split(' ').nth(1).is_some_and(|path| path.starts_with(&inside)))
        {
            bail!("something is still mounted in it: {line}");
        }
        fs::remove_dir_all(&self.dir).with_context(|| format!("removing {}", self.dir.display()))
    }
}

/// Takes every mount away from a path; one without any is fine.
pub fn unmount(path: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mounts")?;
    let mounted = |path: &Path| table.lines().filter(|line| line.split(' ').nth(1) == path.to_str()).count();
    for _ in 0..mounted(path) {
        command::run(std::process::Command::new("umount").arg("--lazy").arg(path))?;
    }
    Ok(())
}

fn delete_network_namespace(name: &str) -> Result<()> {
    if Path::new("/run/netns").join(name).exists() {
        command::words(&format!("ip netns delete {name}"))?;
    }
    Ok(())
}

fn delete_link(name: &str) -> Result<()> {
    if Path::new("/sys/class/net").join(name).exists() {
        // It may go by itself in this moment: the other end of the pair went with its namespace.
        if command::words(&format!("ip link delete {name}")).is_err() && Path::new("/sys/class/net").join(name).exists()
        {
            bail!("the link {name} cannot be deleted; try `ip link delete {name}`");
        }
    }
    Ok(())
}

/// Where the logs of a run with this folder are kept if it fails.
pub fn kept_logs(folder: &Path) -> PathBuf {
    folder.with_extension("logs")
}

/// Held by the one process that begins or ends a run, so that two of them do not interleave.
pub fn lock() -> Result<File> {
    let path = format!("/run/lock/{}-e2e.lock", Instance::from_env()?.prefix());
    fs::create_dir_all("/run/lock")?;
    let file = File::create(&path).with_context(|| format!("opening {path}; are you root?"))?;
    if file.try_lock().is_err() {
        bail!(
            "another process is using this run (it holds {path}); wait for it to end, or set KOINON_INSTANCE to another number"
        );
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_do_not_share_names_or_addresses() {
        assert_eq!(Instance(0).prefix(), "koinon");
        assert_eq!(Instance(3).prefix(), "koinon3");
        assert_eq!(Instance(3).address(11).to_string(), "10.250.3.11");
    }

    #[test]
    fn a_list_cut_short_by_a_crash_is_read_up_to_its_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let whole = r#"{"made":"link","name":"koinon-root"}"#;
        fs::write(dir.path().join(LIST), format!("{whole}\n{{\"made\":\"li")).unwrap();
        let run = Run { dir: dir.path().to_owned(), instance: Instance(0), groups: Hierarchies::detect().unwrap() };
        assert_eq!(run.made().unwrap(), [Made::Link { name: "koinon-root".into() }]);
    }
}
