//! The one image of Koinon: its two programs and the libraries that they load.
//!
//! Nothing of the tests is in it, the fake NVML library least of all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{USER, add_system_files, copy_program};
use crate::cache::{Cache, Key};
use crate::command;
use crate::image::{Image, Settings};
use crate::toolchain::{Report, checkout, download_package};

/// The programs as built: `koinon` and `kubectl-koinon`.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The operator, agent, gateway and weights cache.
    pub koinon: PathBuf,
    /// The command line for people.
    pub kubectl_koinon: PathBuf,
}

/// What cargo said of its work, one JSON object a line.
#[derive(Debug)]
pub(super) struct Built(String);

impl Built {
    /// The program of that name.
    pub(super) fn program(&self, name: &str) -> Result<PathBuf> {
        let executables = self.0.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut paths = executables.filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)));
        paths
            .find(|path| path.file_name().is_some_and(|file| file == name))
            .with_context(|| format!("cargo built no program {name}"))
    }
}

/// Builds the programs of these packages with cargo, which does nothing if they are up to date.
pub(super) fn build(packages: &[&str]) -> Result<Built> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(checkout()).args(["build", "--quiet", "--profile", "image"]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    cargo.args(["--bins", "--message-format", "json-render-diagnostics"]);
    command::run(&mut cargo).map(Built)
}

/// The two programs of the image.
pub fn programs(report: Report<'_>) -> Result<Programs> {
    report("building koinon and kubectl-koinon (about 5 min the first time)");
    let built = build(&["koinon", "koinon-cli"])?;
    Ok(Programs { koinon: built.program("koinon")?, kubectl_koinon: built.program("kubectl-koinon")? })
}

/// The image of these programs.
pub fn koinon(cache: &Cache, report: Report<'_>) -> Result<Image> {
    let programs = programs(report)?;
    let mut files = Vec::new();
    for program in [&programs.koinon, &programs.kubectl_koinon] {
        let name = program.file_name().context("a program without name")?;
        files.push((Path::new("usr/bin").join(name), program.clone()));
        for library in libraries(program)? {
            files.push((library.strip_prefix("/")?.to_owned(), library));
        }
    }
    files.sort();
    files.dedup();
    let authorities = authorities(cache, report)?;
    let contents = files.iter().map(|(_, from)| fs::read(from)).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<String> = files.iter().map(|(to, _)| to.display().to_string()).collect();
    let parts = names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice));
    // The recipe itself counts too: what this file adds changes the image.
    let recipe = [("authorities", authorities.as_bytes()), ("recipe", include_bytes!("koinon.rs").as_slice())];
    let settings = Settings {
        user: USER.into(),
        entrypoint: vec!["/usr/bin/koinon".into()],
        env: vec![
            "PATH=/usr/bin".into(),
            "HOME=/tmp".into(),
            "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt".into(),
        ],
        ..Settings::default()
    };
    Image::get_or_make(cache, "koinon", &Key::of(parts.chain(recipe)), &settings, |root| {
        report("building the image koinon");
        for (to, from) in &files {
            copy_program(from, &root.join(to))?;
        }
        add_system_files(root)?;
        let certs = root.join("etc/ssl/certs");
        fs::create_dir_all(&certs)?;
        fs::write(certs.join("ca-certificates.crt"), &authorities).context("writing the authorities")
    })
}

/// The libraries that a program loads, by the paths at which its loader looks for them.
pub(super) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = command::run(Command::new("ldd").arg(program))?;
    let mut found = Vec::new();
    for line in listed.lines().map(str::trim) {
        // `libc.so.6 => /lib/…/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`, or the kernel's own without a path.
        if line.contains("not found") {
            bail!("{} needs a library that this machine lacks: {line}", program.display());
        }
        let path = line.split("=>").last().unwrap_or(line).split_whitespace().next().unwrap_or_default();
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

/// Debian's list of certificate authorities, not this machine's own, which may hold more.
fn authorities(cache: &Cache, report: Report<'_>) -> Result<String> {
    let package = download_package(cache, "ca-certificates", report)?;
    let files = crate::cache::contents(&package.join("usr/share/ca-certificates"), &[])?;
    let mut all = String::new();
    for (_, bytes) in files {
        all.push_str(String::from_utf8_lossy(&bytes).trim_end());
        all.push('\n');
    }
    Ok(all)
}
