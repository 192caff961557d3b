//! What this machine must have before anything is made on it, each lack with its fix.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::cache::Cache;
use crate::cgroup::Hierarchies;
use crate::command;
use crate::run::{Instance, Run};
use crate::toolchain::{Toolchain, checkout, which};

/// One thing that was looked at.
#[derive(Debug)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// What was found, or what is wrong and how to fix it.
    pub result: Result<String, String>,
}

/// A run of three datacenters takes 2.1 GiB at its peak, two compilers at once the rest. The README says it too.
const MEMORY_MIB: u64 = 6 * 1024;
/// Three nodes that unpack their images: 1200 MiB at the most while the story's job is served, and 4 MiB more in a minute.
const RUN_MIB: u64 = 2 * 1024;
/// Everything in the cache comes to 1.2 GiB; a later start adds an image of Koinon of 72 MiB, and what it is packed from.
const CACHE_MIB: Need = Need { built: 512, missing: 2 * 1024 };
/// The programs of the images come to 3.0 GiB, tools and tests to 3.5 GiB; a later start compiles again what has changed.
const TARGET_MIB: Need = Need { built: 1024, missing: 7 * 1024 };
/// Go's own caches, by one build of everything in `e2e/tools`: 5.1 GiB of objects and 1.7 GiB of sources.
const GO_MIB: Need = Need { built: 0, missing: 7 * 1024 };
/// What Kubernetes' own sources are built with.
const GO: Version = Version(1, 24);
/// From this version on Go fetches the newer toolchain that a module asks for by itself, unless it is told not to.
const GO_FETCHES: Version = Version(1, 21);

/// How much room something takes, whether it was built before or has to be.
#[derive(Debug, Clone, Copy)]
struct Need {
    built: u64,
    missing: u64,
}

impl Need {
    fn mib(self, is_built: bool) -> u64 {
        if is_built { self.built } else { self.missing }
    }
}

/// The room that a folder must have.
#[derive(Debug)]
struct Room {
    /// The variable that moves it.
    variable: &'static str,
    folder: PathBuf,
    mib: u64,
}

/// The part of a version that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    /// The first two numbers of `1.24.3` or `1.89.0-nightly`; a missing second one is zero.
    fn parse(text: &str) -> Option<Self> {
        let digits = |part: &str| part.split(|c: char| !c.is_ascii_digit()).next().and_then(|part| part.parse().ok());
        let mut parts = text.trim().split('.');
        Some(Self(digits(parts.next()?)?, parts.next().map_or(Some(0), digits)?))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Looks at everything and returns all findings, so that a person can fix them in one go.
pub fn look() -> Vec<Finding> {
    vec![
        Finding { what: "privileges", result: privileges() },
        Finding { what: "control groups", result: control_groups() },
        Finding { what: "memory", result: memory() },
        Finding { what: "disk", result: disk() },
        Finding { what: "Go", result: go() },
        Finding { what: "Rust", result: rust() },
        Finding { what: "packages", result: packages() },
        Finding { what: "addresses", result: addresses() },
        Finding { what: "earlier run", result: earlier_run() },
    ]
}

/// Fails with every finding that stands in the way.
pub fn check() -> Result<()> {
    let problems: Vec<String> = look()
        .into_iter()
        .filter_map(|finding| finding.result.err().map(|problem| format!("{}: {problem}", finding.what)))
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    bail!("this machine is not ready:\n  {}", problems.join("\n  "))
}

fn privileges() -> Result<String, String> {
    if !rustix::process::geteuid().is_root() {
        return Err(
            "network namespaces, mounts and containers need root; run it as root (`sudo -E cargo xtask …`)".into()
        );
    }
    // A container without the capability is root in name only.
    match command::words("unshare --net --mount true") {
        Ok(_) => Ok("root".into()),
        Err(error) => Err(format!("root may not make namespaces here ({error}); in a container add `--privileged`")),
    }
}

fn control_groups() -> Result<String, String> {
    let groups = Hierarchies::detect().map_err(|error| error.to_string())?;
    Ok(format!("{:?}", groups.version()).to_lowercase())
}

fn memory() -> Result<String, String> {
    let text = fs::read_to_string("/proc/meminfo").map_err(|error| format!("reading /proc/meminfo: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = line
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .ok_or("/proc/meminfo does not say how much memory is available")?;
    let mib = kib / 1024;
    if mib < MEMORY_MIB {
        return Err(format!(
            "{mib} MiB are available and {MEMORY_MIB} are needed; end other programs or use a larger machine"
        ));
    }
    Ok(format!("{mib} MiB available"))
}

fn disk() -> Result<String, String> {
    let run = Run::folder().map_err(|error| error.to_string())?;
    let cache = Cache::folder().map_err(|error| error.to_string())?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from);
    let rooms = rooms(run, cache, target);
    // Folders of one disk share what is free on it.
    let mut disks: BTreeMap<u64, (u64, Vec<&Room>)> = BTreeMap::new();
    for room in &rooms {
        let there = room.folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let problem = |error: String| format!("{}: {error}", there.display());
        let device = fs::metadata(there).map_err(|error| problem(error.to_string()))?.dev();
        let stat = rustix::fs::statvfs(there).map_err(|error| problem(error.to_string()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize) >> 20;
        disks.entry(device).or_insert((free, Vec::new())).1.push(room);
    }
    let found: Result<Vec<String>, String> = disks.values().map(|(free, rooms)| enough(*free, rooms)).collect();
    Ok(found?.join(", "))
}

/// The room that a start takes, by what it finds built.
fn rooms(run: PathBuf, cache: PathBuf, target: PathBuf) -> Vec<Room> {
    // Looking must not make the folder.
    let kept = cache.is_dir().then(|| Cache::at(cache.clone()).ok()).flatten();
    let tools = kept.is_some_and(|cache| Toolchain::is_built(&cache));
    let programs = ["koinon", "kubectl-koinon"].iter().all(|name| target.join("image").join(name).is_file());
    let go = command::words("go env GOCACHE").map_or_else(|_| cache.clone(), |path| PathBuf::from(path.trim()));
    vec![
        Room { variable: "KOINON_RUN", folder: run, mib: RUN_MIB },
        Room { variable: "KOINON_CACHE", folder: cache, mib: CACHE_MIB.mib(tools) },
        Room { variable: "CARGO_TARGET_DIR", folder: target, mib: TARGET_MIB.mib(programs) },
        Room { variable: "GOCACHE", folder: go, mib: GO_MIB.mib(tools) },
    ]
}

/// Whether a disk has the room for all folders on it, and what else may be done if not.
fn enough(free: u64, rooms: &[&Room]) -> Result<String, String> {
    let needed: u64 = rooms.iter().map(|room| room.mib).sum();
    let of = |room: &Room| format!("{} at {} ({})", room.mib, room.folder.display(), room.variable);
    let named: Vec<String> = rooms.iter().filter(|room| room.mib > 0).map(|room| of(room)).collect();
    if free < needed {
        return Err(format!(
            "{free} MiB are free and {needed} are needed: {}; free some, or set one of these variables to a folder of a larger disk",
            named.join(", ")
        ));
    }
    Ok(format!("{free} MiB free, of which {needed} are needed"))
}

fn go() -> Result<String, String> {
    if which("go").is_none() {
        return Err(format!(
            "Go is not on PATH; install {GO} or newer from https://go.dev/dl/ (Debian 12's own 1.19 is too old)"
        ));
    }
    let version = command::words("go env GOVERSION").map_err(|error| error.to_string())?;
    let toolchain = command::words("go env GOTOOLCHAIN").map_err(|error| error.to_string())?;
    new_enough_go(version.trim(), toolchain.trim())
}

/// Judges what `go env GOVERSION` and `go env GOTOOLCHAIN` print.
fn new_enough_go(version: &str, toolchain: &str) -> Result<String, String> {
    let fix = format!("install Go {GO} or newer from https://go.dev/dl/");
    // A development version is `devel go1.25-…`.
    let number = version.split_whitespace().find_map(|word| word.strip_prefix("go"));
    let Some(found) = number.and_then(Version::parse) else {
        return Err(format!("`go env GOVERSION` says {version:?}, which is no version; {fix}"));
    };
    // `local`, or a version without `+auto` or `+path`, is the one that is there and no other.
    let fetches = found >= GO_FETCHES && toolchain.ends_with("auto");
    match (found >= GO, fetches) {
        (true, _) => Ok(version.to_owned()),
        (false, true) => Ok(format!("{version}, which fetches {GO} or newer by itself when it is first needed")),
        (false, false) if found >= GO_FETCHES => Err(format!(
            "{version} is older than {GO} and GOTOOLCHAIN={toolchain} keeps it from fetching a newer one; {fix}, or set \
             GOTOOLCHAIN=auto"
        )),
        (false, false) => {
            Err(format!("{version} is older than {GO}, and older than {GO_FETCHES} it fetches none; {fix}"))
        }
    }
}

fn rust() -> Result<String, String> {
    let Ok(version) = command::words("rustc --version") else {
        return Err("rustc is not on PATH; install it with https://rustup.rs".into());
    };
    new_enough_rust(version.trim(), env!("CARGO_PKG_RUST_VERSION"))
}

/// Judges what `rustc --version` prints by the workspace's `rust-version`.
fn new_enough_rust(printed: &str, wanted: &str) -> Result<String, String> {
    let fix = format!("update it: `rustup update stable`, or install {wanted} or newer with https://rustup.rs");
    let found = printed.strip_prefix("rustc ").and_then(Version::parse);
    match (found, Version::parse(wanted)) {
        (Some(found), Some(least)) if found >= least => Ok(printed.to_owned()),
        (Some(_), _) => Err(format!("{printed} is older than {wanted}; {fix}")),
        (None, _) => Err(format!("`rustc --version` says {printed:?}, which is no version; {fix}")),
    }
}

fn packages() -> Result<String, String> {
    if which("apt-get").is_some() {
        return Ok("apt-get installs what is missing".into());
    }
    let missing =
        ["ip", "nft", "iptables", "nsenter", "cc", "runc"].into_iter().filter(|program| which(program).is_none());
    let missing: Vec<&str> = missing.collect();
    if missing.is_empty() {
        Ok("all there".into())
    } else {
        Err(format!("there is no apt-get; install by your own means: {}", missing.join(", ")))
    }
}

/// The wire's subnet must not be one that this machine already uses.
fn addresses() -> Result<String, String> {
    let instance = Instance::from_env().map_err(|error| error.to_string())?;
    let ours = u32::from(instance.address(0));
    let own_link = format!("{}-root", instance.prefix());
    let routes = command::words("ip -4 -o route show table all").unwrap_or_default();
    for line in routes.lines().filter(|line| !line.contains(&format!(" dev {own_link} "))) {
        let Some(destination) = line.split_whitespace().find_map(parse_subnet) else { continue };
        let (address, bits) = destination;
        // A route wider than a /8 is a default in all but name.
        if bits >= 8 && covers(address, bits, ours) {
            return Err(format!(
                "the route `{}` covers our wire {}/24; set KOINON_INSTANCE to another number (0 to 9) to move the wire",
                line.trim(),
                instance.address(0)
            ));
        }
    }
    Ok(format!("{}/24 is free", instance.address(0)))
}

fn parse_subnet(word: &str) -> Option<(u32, u8)> {
    let (address, bits) = word.split_once('/').unwrap_or((word, "32"));
    Some((u32::from(address.parse::<Ipv4Addr>().ok()?), bits.parse().ok().filter(|bits| *bits <= 32)?))
}

/// Whether two subnets, one of them our /24, overlap.
fn covers(address: u32, bits: u8, ours: u32) -> bool {
    let shared = bits.min(24);
    let mask = u32::MAX.checked_shl(32 - u32::from(shared)).unwrap_or(0);
    address & mask == ours & mask
}

fn earlier_run() -> Result<String, String> {
    let folder = Run::folder().map_err(|error| error.to_string())?;
    if folder.join("made.jsonl").exists() {
        return Err(format!("one stands in {}; remove it: `cargo xtask demo down`", folder.display()));
    }
    let netns = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let prefix = format!("{}-", Instance::from_env().map_err(|error| error.to_string())?.prefix());
    let strangers: Vec<String> = netns
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    if !strangers.is_empty() {
        return Err(format!(
            "the network namespaces {} are not ours to remove; delete them (`ip netns delete NAME`) or set KOINON_INSTANCE",
            strangers.join(", ")
        ));
    }
    Ok("none".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> (u32, u8) {
        parse_subnet(text).unwrap()
    }

    #[test]
    fn a_route_over_our_wire_is_seen_whether_wider_or_narrower() {
        let ours = u32::from(Ipv4Addr::new(10, 250, 0, 0));
        for (route, clash) in [
            ("10.0.0.0/8", true),
            ("10.250.0.0/24", true),
            ("10.250.0.7", true),
            ("10.250.1.0/24", false),
            ("192.168.0.0/16", false),
        ] {
            let (address, bits) = subnet(route);
            assert_eq!(covers(address, bits, ours), clash, "{route}");
        }
    }

    #[test]
    fn versions_are_read_from_what_programs_print() {
        for (text, version) in [
            ("1.24.3", Some(Version(1, 24))),
            ("1.89.0-nightly (abc 2026-01-01)", Some(Version(1, 89))),
            ("1.25rc1", Some(Version(1, 25))),
            ("2", Some(Version(2, 0))),
            ("1.", None),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(text), version, "{text:?}");
        }
        assert!(Version(1, 9) < Version(1, 24) && Version(2, 0) > Version(1, 99), "numbers, not text");
    }

    #[test]
    fn an_old_rust_is_refused_with_the_fix() {
        assert!(new_enough_rust("rustc 1.89.0 (abc 2025-08-01)", "1.89").is_ok());
        assert!(new_enough_rust("rustc 1.100.0 (abc 2027-01-01)", "1.89").is_ok());
        for printed in ["rustc 1.88.0 (abc 2025-06-01)", "rustc", "something else"] {
            let problem = new_enough_rust(printed, "1.89").unwrap_err();
            assert!(problem.contains("rustup update") && problem.contains("1.89"), "{problem}");
        }
        assert!(
            Version::parse(env!("CARGO_PKG_RUST_VERSION")).is_some(),
            "the workspace names the version that it needs"
        );
    }

    #[test]
    fn an_old_go_passes_only_if_it_fetches_a_newer_one_and_then_says_so() {
        assert_eq!(new_enough_go("go1.24.0", "local").unwrap(), "go1.24.0");
        assert_eq!(new_enough_go("go1.26.1", "auto").unwrap(), "go1.26.1");
        assert!(new_enough_go("devel go1.25-abcdef Mon Jan 5", "local").is_ok());
        assert!(new_enough_go("go1.21.4", "auto").unwrap().contains("fetches 1.24"));
        assert!(new_enough_go("go1.22.0", "go1.22.0+auto").is_ok());
        for (version, toolchain) in
            [("go1.23.9", "local"), ("go1.22.0", "path"), ("go1.19.8", ""), ("go1.20", "auto"), ("", "auto")]
        {
            let problem = new_enough_go(version, toolchain).unwrap_err();
            assert!(problem.contains("install Go 1.24"), "{problem}");
        }
    }

    #[test]
    fn a_full_disk_is_told_with_the_variables_that_move_the_folders() {
        let room = |variable, folder: &str, mib| Room { variable, folder: folder.into(), mib };
        let (run, cache) = (room("KOINON_RUN", "/somewhere", 2000), room("KOINON_CACHE", "/cache", 500));
        assert!(enough(2500, &[&run, &cache]).is_ok(), "folders of one disk are added up");
        let problem = enough(2499, &[&run, &cache]).unwrap_err();
        for part in ["2499", "2500", "/somewhere", "/cache", "KOINON_RUN", "KOINON_CACHE"] {
            assert!(problem.contains(part), "{problem}");
        }
        assert!(enough(2499, &[&run]).is_ok());
    }

    #[test]
    fn only_what_is_missing_has_to_be_built() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let needed = || rooms(at("run"), at("cache"), at("target")).iter().map(|room| room.mib).sum::<u64>();
        let cold = needed();
        assert_eq!(cold, RUN_MIB + CACHE_MIB.missing + TARGET_MIB.missing + GO_MIB.missing);
        assert!(!at("cache").exists(), "looking makes nothing");
        fs::create_dir_all(at("target/image")).unwrap();
        ["koinon", "kubectl-koinon"].iter().for_each(|name| fs::write(at("target/image").join(name), "").unwrap());
        assert_eq!(needed(), cold - TARGET_MIB.missing + TARGET_MIB.built);
        Toolchain::pretend_built(&Cache::at(at("cache")).unwrap());
        assert_eq!(needed(), RUN_MIB + CACHE_MIB.built + TARGET_MIB.built + GO_MIB.built);
    }

    #[test]
    fn the_readme_says_what_is_checked() {
        let readme = fs::read_to_string(checkout().join("README.md")).unwrap();
        let memory = MEMORY_MIB / 1024;
        let disk = |is_built: bool| {
            let needs = [CACHE_MIB, TARGET_MIB, GO_MIB].map(|need| need.mib(is_built));
            (RUN_MIB + needs.iter().sum::<u64>()).div_ceil(1024)
        };
        for said in [
            format!("{memory} GiB of free memory"),
            format!("{} GiB of free disk", disk(false)),
            format!("once all is built {} GiB", disk(true)),
            format!("Rust {} or newer", env!("CARGO_PKG_RUST_VERSION")),
            format!("Go {GO} or newer"),
        ] {
            assert!(
                readme.split_whitespace().collect::<Vec<_>>().join(" ").contains(&said),
                "the README says not {said:?}"
            );
        }
    }

    #[test]
    fn every_problem_is_told_and_not_only_the_first() {
        assert_eq!(look().len(), 9);
        assert!(
            look().iter().all(|finding| finding.result.as_ref().map_or_else(|e| !e.is_empty(), |ok| !ok.is_empty()))
        );
    }
}
