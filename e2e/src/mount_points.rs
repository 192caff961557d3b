//! Empty folders outside the run's own, on which every node mounts its own (`/var/lib/kubelet`, …), and the one that
//! holds network namespaces.
//!
//! They are shared by all runs on the machine, and removing one would take the mount of another run's node away with it,
//! so they are listed in one place, and only the last run to go removes them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::run::{Instance, unmount};

/// The folders that runs made, one path a line. A folder that was there before is not listed and stays.
const LIST: &str = "/var/lib/koinon-e2e.mount-points";

/// Makes a folder, with the parents it lacks.
pub fn make(path: &Path) -> Result<()> {
    make_listed(&mut open(Path::new(LIST))?, path)
}

fn make_listed(list: &mut File, path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_listed(list, parent)?;
    }
    writeln!(list, "{}", path.display())?;
    fs::create_dir(path).with_context(|| format!("making {}", path.display()))
}

/// Removes the listed folders unless another run still stands.
pub fn release(instance: Instance) -> Result<()> {
    if !Path::new(LIST).exists() {
        return Ok(());
    }
    let list = open(Path::new(LIST))?;
    if another_run_stands(Path::new("/run/netns"), instance) {
        return Ok(());
    }
    remove_listed(list)?;
    fs::remove_file(LIST).with_context(|| format!("removing {LIST}"))
}

fn remove_listed(mut list: File) -> Result<()> {
    let mut text = String::new();
    list.read_to_string(&mut text).context("reading the list of mount points")?;
    // Children were listed after their parents. One that somebody else has put something into stays: it is theirs now.
    for path in text.lines().rev().map(PathBuf::from) {
        if fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none()) {
            // `ip netns` mounts its folder on itself.
            unmount(&path)?;
            let _ = fs::remove_dir(path);
        }
    }
    Ok(())
}

/// Opens the list for this process alone.
fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))?;
    file.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}

/// Every run has its wire from before its first mount until after its last.
fn another_run_stands(namespaces: &Path, instance: Instance) -> bool {
    let ours = format!("{}-wan", instance.prefix());
    let names = fs::read_dir(namespaces)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.into_iter().any(|name| name.starts_with("koinon") && name.ends_with("-wan") && name != ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_removed_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (list, before) = (dir.path().join("list"), dir.path().join("etc"));
        fs::create_dir(&before).unwrap();
        make_listed(&mut open(&list).unwrap(), &before.join("cni/net.d")).unwrap();
        assert!(before.join("cni/net.d").is_dir());
        remove_listed(open(&list).unwrap()).unwrap();
        assert!(before.is_dir() && !before.join("cni").exists());
    }

    #[test]
    fn a_folder_that_somebody_uses_by_now_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (list, made) = (dir.path().join("list"), dir.path().join("kubelet"));
        make_listed(&mut open(&list).unwrap(), &made).unwrap();
        fs::write(made.join("theirs"), "").unwrap();
        remove_listed(open(&list).unwrap()).unwrap();
        assert!(made.join("theirs").exists());
    }

    #[test]
    fn another_run_is_known_by_its_wire() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::default();
        fs::write(dir.path().join("koinon-wan"), "").unwrap();
        assert!(!another_run_stands(dir.path(), instance));
        fs::write(dir.path().join("koinon5-wan"), "").unwrap();
        assert!(another_run_stands(dir.path(), instance));
    }
}
