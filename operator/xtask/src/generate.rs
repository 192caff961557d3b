//! Files in the repository that are made from the code, and the check that they still say the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use koinon_e2e::cache::{Cache, contents};
use koinon_e2e::toolchain::{Report, checkout};
use koinon_e2e::{Tool, Toolchain, command};

use crate::charts;
use crate::progress::Progress;

/// Folders of which every YAML file is generated: one that nothing generates any more is a leftover.
const OWNED: &[&str] = &["crds", "charts/koinon-crds/templates"];
/// The install for those who do not use Helm: both charts, rendered.
const INSTALL: &str = "manifests/install.yaml";
const RELEASE_NAMESPACE: &str = "koinon-system";

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// Write nothing; fail if a file differs from what would be written.
    #[arg(long)]
    check: bool,
}

impl Generate {
    /// Writes or checks.
    pub fn run(self) -> Result<()> {
        let Self { check } = self;
        let progress = Progress::begin();
        let report = |what: &str| progress.say(what);
        let differences = differences(&report)?;
        if differences.is_empty() {
            progress.say("every generated file is up to date");
            return Ok(());
        }
        if check {
            let names: Vec<String> = differences.iter().map(|(path, _)| path.display().to_string()).collect();
            bail!("out of date: {}; run `cargo xtask generate` and commit what it writes", names.join(", "));
        }
        for (path, text) in differences {
            let target = checkout().join(&path);
            match text {
                Some(text) => write(&target, &text)?,
                None => fs::remove_file(&target).with_context(|| format!("removing {}", target.display()))?,
            }
            progress.say(&format!("wrote {}", path.display()));
        }
        Ok(())
    }
}

/// Every generated file that is not as it should be, with what it should hold; `None` if it should not be there.
pub fn differences(report: Report<'_>) -> Result<Vec<(PathBuf, Option<Vec<u8>>)>> {
    let wanted = generated(report)?;
    let mut found = Vec::new();
    for (path, text) in &wanted {
        if fs::read(checkout().join(path)).ok().as_ref() != Some(text) {
            found.push((path.clone(), Some(text.clone())));
        }
    }
    for folder in OWNED {
        let here = checkout().join(folder);
        if !here.is_dir() {
            continue;
        }
        for (name, _) in contents(&here, &[])? {
            let path = Path::new(folder).join(name);
            if path.extension().is_some_and(|extension| extension == "yaml") && !wanted.contains_key(&path) {
                found.push((path, None));
            }
        }
    }
    Ok(found)
}

/// Everything that is generated, by its path in the repository.
fn generated(report: Report<'_>) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let into = tempfile::tempdir().context("making a temporary folder")?;
    report("generating the resource definitions from the types");
    // A program of its own: this one must build, and start clusters, while the types do not compile.
    let mut cargo = Command::new("cargo");
    cargo.current_dir(into.path()).args([
        "run",
        "--quiet",
        "--package",
        "koinon-api",
        "--example",
        "crds",
        "--manifest-path",
    ]);
    command::run(cargo.arg(checkout().join("Cargo.toml")))?;
    let files = contents(into.path(), &[])?;
    let mut all: BTreeMap<PathBuf, Vec<u8>> =
        files.into_iter().map(|(name, bytes)| (PathBuf::from(name), bytes)).collect();
    all.insert(PathBuf::from(INSTALL), install(into.path(), report)?.into_bytes());
    Ok(all)
}

/// Both charts rendered with their default values. The definitions come from what was just generated.
fn install(fresh: &Path, report: Report<'_>) -> Result<String> {
    report("rendering the charts");
    let helm = Toolchain::ensure(&Cache::from_env()?, report)?.path(Tool::Helm).to_owned();
    let render = |name: &str, chart: &Path| {
        let mut template = Command::new(&helm);
        template.args(["template", "koinon"]).arg(chart).args(charts::example(name)).args([
            "--namespace",
            RELEASE_NAMESPACE,
            "--kube-version",
            "1.34.0",
        ]);
        command::run(&mut template)
    };
    // The chart of definitions is its own files with the fresh templates.
    let definitions = tempfile::tempdir().context("making a temporary folder")?;
    for from in [checkout().join("charts/koinon-crds"), fresh.join("charts/koinon-crds")] {
        let mut copy = Command::new("cp");
        command::run(copy.args(["--recursive", "--no-target-directory"]).arg(from).arg(definitions.path()))?;
    }
    let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {RELEASE_NAMESPACE}\n");
    let parts =
        [namespace, render("koinon-crds", definitions.path())?, render("koinon", &checkout().join("charts/koinon"))?];
    let parts = parts.map(|part| part.trim_start_matches("---\n").trim_end().to_owned());
    Ok(format!("# Generated by `cargo xtask generate`; do not edit.\n{}\n", parts.join("\n---\n")))
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
