//! What this machine must have before anything is made on it, each lack with its fix.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Result, bail};

use crate::cgroup::Hierarchies;
use crate::command;
use crate::run::{Instance, Run};
use crate::toolchain::which;

/// One thing that was looked at.
#[derive(Debug)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// What was found, or what is wrong and how to fix it.
    pub result: Result<String, String>,
}

/// How much a run of three datacenters needs at its peak.
const MEMORY_MIB: u64 = 6 * 1024;
/// Built programs, Go's build cache, images, and three nodes that unpack them.
const DISK_MIB: u64 = 12 * 1024;

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
    let kib: u64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    let mib = kib / 1024;
    if mib < MEMORY_MIB {
        return Err(format!(
            "{mib} MiB are available and {MEMORY_MIB} are needed; end other programs or use a larger machine"
        ));
    }
    Ok(format!("{mib} MiB available"))
}

fn disk() -> Result<String, String> {
    let wanted = Run::folder().map_err(|error| error.to_string())?;
    let there = wanted.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(there).map_err(|error| format!("{}: {error}", there.display()))?;
    let mib = stat.f_bavail.saturating_mul(stat.f_frsize) >> 20;
    if mib < DISK_MIB {
        return Err(format!(
            "{mib} MiB are free at {} and {DISK_MIB} are needed; free some, or set KOINON_RUN and KOINON_CACHE",
            there.display()
        ));
    }
    Ok(format!("{mib} MiB free at {}", there.display()))
}

fn go() -> Result<String, String> {
    if which("go").is_none() {
        return Err(
            "Go is not on PATH; install 1.24 or newer from https://go.dev/dl/ (Debian 12's own 1.19 is too old)".into(),
        );
    }
    let version = command::words("go env GOVERSION").map_err(|error| error.to_string())?;
    let version = version.trim();
    let minor = version.strip_prefix("go1.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    // From 1.21 on Go fetches the newer toolchain that a module asks for by itself.
    match minor {
        Some(minor) if minor >= 21 => Ok(version.to_owned()),
        _ => Err(format!("{version} is too old; install Go 1.24 or newer from https://go.dev/dl/")),
    }
}

fn rust() -> Result<String, String> {
    match command::words("rustc --version") {
        Ok(version) => Ok(version.trim().to_owned()),
        Err(_) => Err("rustc is not on PATH; install it with https://rustup.rs".into()),
    }
}

fn packages() -> Result<String, String> {
    if which("apt-get").is_some() {
        return Ok("apt-get installs what is missing".into());
    }
    let missing = ["ip", "nft", "iptables", "nsenter", "cc", "containerd", "runc"]
        .into_iter()
        .filter(|program| which(program).is_none());
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
    fn every_problem_is_told_and_not_only_the_first() {
        assert_eq!(look().len(), 9);
        assert!(
            look().iter().all(|finding| finding.result.as_ref().map_or_else(|e| !e.is_empty(), |ok| !ok.is_empty()))
        );
    }
}
