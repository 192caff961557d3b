//! Programs from Debian packages: unpacked into the cache, or installed when they must be on the machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Report, which};
use crate::cache::{Cache, Key};
use crate::command;

/// Programs that must be on the machine itself, and the package that has each.
const SYSTEM: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("cc", "gcc"),
    ("curl", "curl"),
    ("python3", "python3"),
];

/// The packages of [`SYSTEM`] whose program is missing.
pub fn missing_system_packages() -> Vec<&'static str> {
    SYSTEM.iter().filter(|(program, _)| which(program).is_none()).map(|(_, package)| *package).collect()
}

/// Installs what is missing, without removing anything and without letting anything start.
pub fn ensure_system_packages(report: Report<'_>) -> Result<()> {
    let mut missing = missing_system_packages();
    // A compiler without the C library's headers and archive cannot make the static pause program.
    if !Path::new("/usr/include/stdlib.h").exists() {
        missing.push("libc6-dev");
    }
    install(&missing, report)
}

/// Installs what Debian leaves out of its Python: without `ensurepip` no environment can be made.
pub fn ensure_python(report: Report<'_>) -> Result<()> {
    let interpreter = if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
    let complete = command::run(Command::new(interpreter).args(["-c", "import ensurepip, venv"])).is_ok();
    if complete { Ok(()) } else { install(&["python3-venv"], report) }
}

fn install(packages: &[&str], report: Report<'_>) -> Result<()> {
    let Some(first) = packages.first() else { return Ok(()) };
    need_apt(&packages.join(" "))?;
    report(&format!("installing {} (about 1 min)", packages.join(", ")));
    update_lists_if_unknown(first)?;
    let _guard = NoServices::set()?;
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive").args([
        "install",
        "-y",
        "-q",
        "--no-remove",
        "--no-install-recommends",
    ]);
    command::run(install.args(packages)).map(drop)
}

/// While it lives, no package that is installed may start a service.
struct NoServices(Option<PathBuf>);

impl NoServices {
    fn set() -> Result<Self> {
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        if path.exists() {
            // Somebody's own rule; it stays, and ours is not needed where a policy stands.
            return Ok(Self(None));
        }
        fs::write(&path, "#!/bin/sh\nexit 101\n").with_context(|| format!("writing {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(Some(path)))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

fn need_apt(what: &str) -> Result<()> {
    if which("apt-get").is_none() || which("dpkg").is_none() {
        bail!("this is not Debian (no apt-get); install by your own means: {what}");
    }
    Ok(())
}

/// Asks apt for its lists only if it has none for the package: a machine that is set up needs no network.
fn update_lists_if_unknown(package: &str) -> Result<()> {
    if candidate(package)?.is_none() {
        command::run(Command::new("apt-get").args(["update", "-q"]))?;
    }
    Ok(())
}

fn candidate(package: &str) -> Result<Option<String>> {
    let policy = command::run(Command::new("apt-cache").args(["policy", package]))?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(version.filter(|version| *version != "(none)").map(str::to_owned))
}

/// Unpacks a package into the cache without installing it; returns the root of what was in it.
///
/// A version that is there already is used without asking the mirror.
pub fn download(cache: &Cache, package: &str, report: Report<'_>) -> Result<PathBuf> {
    let shelf = format!("debian/{package}");
    if let Some(newest) = newest_entry(&cache.root().join(&shelf)) {
        return Ok(newest);
    }
    need_apt(&format!("the programs of the package {package}"))?;
    report(&format!("downloading the Debian package {package}"));
    update_lists_if_unknown(package)?;
    let version =
        candidate(package)?.with_context(|| format!("apt knows no package {package}; check /etc/apt/sources.list"))?;
    cache.get_or_make(&shelf, &Key::of([("version", version.as_bytes())]), |draft| {
        let from = tempfile::tempdir().context("making a temporary folder")?;
        let mut fetch = Command::new("apt-get");
        // As root: the unprivileged download user cannot write into our folder, and apt would only warn.
        fetch.current_dir(from.path()).args(["download", "-q", "-o", "APT::Sandbox::User=root"]);
        command::run(fetch.arg(format!("{package}={version}")))?;
        for file in fs::read_dir(from.path())? {
            command::run(Command::new("dpkg").arg("--extract").arg(file?.path()).arg(draft))?;
        }
        Ok(())
    })
}

fn newest_entry(shelf: &Path) -> Option<PathBuf> {
    let finished = |path: &PathBuf| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
    let entries = fs::read_dir(shelf).ok()?.flatten().map(|entry| entry.path()).filter(finished);
    entries.max_by_key(|path| path.metadata().and_then(|meta| meta.modified()).ok())
}

/// The machine's own runc, else Debian's.
pub fn runc(cache: &Cache, report: Report<'_>) -> Result<PathBuf> {
    match which("runc") {
        Some(own) => Ok(own),
        None => Ok(download(cache, "runc", report)?.join("usr/sbin/runc")),
    }
}
