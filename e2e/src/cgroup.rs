//! Control groups of a run, on cgroup v1 and v2.
//!
//! Everything of a run lives below `/<prefix>` in every hierarchy: `/<prefix>/<datacenter>/system` holds the control
//! plane and containerd with its shims, and the kubelet makes `/<prefix>/<datacenter>/kubepods` beside it. So the
//! members of that tree are exactly the processes that the run started, also those that outlived their parent.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Where the kernel's hierarchies are mounted.
#[derive(Debug, Clone)]
pub struct Hierarchies {
    roots: Vec<PathBuf>,
    version: Version,
}

/// Which interface the kernel offers at `/sys/fs/cgroup`; kubelet and runc decide by the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy a controller.
    V1,
    /// The unified hierarchy.
    V2,
}

const MOUNT_POINT: &str = "/sys/fs/cgroup";

impl Hierarchies {
    /// Reads from the mount table what this machine has.
    pub fn detect() -> Result<Self> {
        let table = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
        Self::from_mounts(&table)
    }

    fn from_mounts(table: &str) -> Result<Self> {
        let mounts: Vec<(&str, &str)> = table
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ').skip(1);
                Some((fields.next()?, fields.next()?))
            })
            .collect();
        if mounts.contains(&(MOUNT_POINT, "cgroup2")) {
            return Ok(Self { roots: vec![PathBuf::from(MOUNT_POINT)], version: Version::V2 });
        }
        let roots: Vec<PathBuf> = mounts
            .iter()
            // A v2 hierarchy that stands beside the others holds no controllers, but runc makes groups in it all the same.
            .filter(|(path, kind)| kind.starts_with("cgroup") && path.starts_with(MOUNT_POINT))
            .map(|(path, _)| PathBuf::from(path))
            .collect();
        for needed in ["cpu", "memory", "cpuset", "pids"] {
            let mounted = |root: &PathBuf| {
                root.file_name()
                    .is_some_and(|name| name.to_string_lossy().split(',').any(|controller| controller == needed))
            };
            if !roots.iter().any(mounted) {
                bail!(
                    "the cgroup v1 controller `{needed}` is not mounted below {MOUNT_POINT}, and no cgroup v2 is mounted there; \
                     mount it (`mkdir -p {MOUNT_POINT}/{needed} && mount -t cgroup -o {needed} cgroup {MOUNT_POINT}/{needed}`)"
                );
            }
        }
        Ok(Self { roots, version: Version::V1 })
    }

    /// Which interface this is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Makes a group (`prefix/datacenter/system`) in every hierarchy.
    pub fn create(&self, group: &str) -> Result<()> {
        for root in &self.roots {
            let mut dir = root.clone();
            for part in group.split('/') {
                if self.version == Version::V2 {
                    delegate(&dir)?;
                }
                let parent = dir.clone();
                dir.push(part);
                if !dir.is_dir() {
                    fs::create_dir(&dir).with_context(|| format!("making the control group {}", dir.display()))?;
                }
                inherit_cpuset(&parent, &dir)?;
            }
        }
        Ok(())
    }

    /// The files into which a process writes its id to join a group.
    pub fn join_files(&self, group: &str) -> Vec<PathBuf> {
        self.roots.iter().map(|root| root.join(group).join("cgroup.procs")).collect()
    }

    /// Every process in a group and the groups below it.
    pub fn processes(&self, group: &str) -> Vec<u32> {
        let mut found: Vec<u32> =
            self.roots.iter().flat_map(|root| groups_below(&root.join(group))).flat_map(|dir| members(&dir)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Removes a group and the groups below it, which must be empty by now.
    pub fn remove(&self, group: &str) -> Result<()> {
        for root in &self.roots {
            let mut dirs = groups_below(&root.join(group));
            dirs.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
            for dir in dirs {
                remove_when_empty(&dir)?;
            }
        }
        Ok(())
    }

    /// Whether the group is there in any hierarchy.
    pub fn exists(&self, group: &str) -> bool {
        self.roots.iter().any(|root| root.join(group).is_dir())
    }
}

/// Lets children of a v2 group use every controller that the group has.
fn delegate(dir: &Path) -> Result<()> {
    let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let wanted: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
    let file = dir.join("cgroup.subtree_control");
    fs::write(&file, wanted.join(" ")).with_context(|| {
        format!(
            "enabling controllers in {}; inside a container the group's own processes must first move into a child: \
             `mkdir -p {dir}/init && for p in $(cat {dir}/cgroup.procs); do echo $p > {dir}/init/cgroup.procs; done`",
            file.display(),
            dir = dir.display()
        )
    })
}

/// A v1 cpuset group starts without processors and memory nodes, and nothing can join it until it has both.
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(file), dir.join(file));
        let empty = fs::read_to_string(&to).is_ok_and(|value| value.trim().is_empty());
        if let (true, Ok(value)) = (empty, fs::read_to_string(&from))
            && !value.trim().is_empty()
        {
            fs::write(&to, value.trim()).with_context(|| format!("copying {file} into {}", dir.display()))?;
        }
    }
    Ok(())
}

fn groups_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found = vec![dir.to_owned()];
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(groups_below(&entry.path()));
        }
    }
    found
}

fn members(dir: &Path) -> Vec<u32> {
    let listed = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    listed.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

fn remove_when_empty(dir: &Path) -> Result<()> {
    // The kernel lets go of a group a moment after its last process was reaped.
    for _ in 0..50 {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
        }
    }
    bail!("the control group {} is still in use by processes {:?}", dir.display(), members(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unified_mount_is_version_two() {
        let found = Hierarchies::from_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n").unwrap();
        assert_eq!(found.version(), Version::V2);
        assert_eq!(found.join_files("koinon/a"), [PathBuf::from("/sys/fs/cgroup/koinon/a/cgroup.procs")]);
    }

    #[test]
    fn separate_and_joined_controllers_are_version_one() {
        let table = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw 0 0\n\
                     cgroup /sys/fs/cgroup/cpuset cgroup rw 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw 0 0\n\
                     cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = Hierarchies::from_mounts(table).unwrap();
        assert_eq!(found.version(), Version::V1);
        assert!(found.join_files("k").contains(&PathBuf::from("/sys/fs/cgroup/unified/k/cgroup.procs")));
        assert_eq!(found.roots.len(), 5);
    }

    #[test]
    fn a_missing_controller_is_named_with_the_mount_command() {
        let error = Hierarchies::from_mounts("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n").unwrap_err().to_string();
        assert!(error.contains("`memory`") && error.contains("mount -t cgroup -o memory"), "{error}");
    }

    #[test]
    fn a_version_two_parent_delegates_its_controllers_before_a_child_is_made() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let groups = Hierarchies { roots: vec![root.path().to_owned()], version: Version::V2 };
        groups.create("koinon").unwrap();
        assert_eq!(fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap(), "+cpu +memory +pids");
        assert!(groups.exists("koinon"));
    }
}
