//! `cargo xtask mutants`: the agent without its handling of a fault must fail the fault table in that fault's lines.
//!
//! Each patch in `operator/agent/tests/fault_table/mutants` takes one handling away where the variable below names it. All of
//! them are applied to one copy of the checkout, so that one build serves every mutant.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use koinon_e2e::toolchain::checkout;

use crate::progress::Progress;

const PATCHES: &str = "operator/agent/tests/fault_table/mutants";
/// Where every patched crate finds the switch.
const SWITCHED: &str = "operator/core/src/lib.rs";
const SWITCH: &str = r#"
/// Whether this mutant is the one that is tested.
pub fn mutated(id: &str) -> bool {
    std::env::var("KOINON_MUTANT").is_ok_and(|mutant| mutant == id)
}
"#;

const TEST: [&str; 6] = ["test", "--quiet", "-p", "koinon-agent", "--test", "fault_table"];

/// Arguments of `mutants`.
#[derive(Debug, Args)]
pub struct Mutants {
    /// Test this fault's mutant alone, such as F06; may be given more than once.
    #[arg(long)]
    only: Vec<String>,
    /// Where the copy is built; `target/mutants` of this checkout if it is not given.
    #[arg(long)]
    target_dir: Option<PathBuf>,
}

impl Mutants {
    /// Applies the patches to a copy, builds it once, and runs the table without any mutant and with each of them.
    pub fn run(self) -> Result<()> {
        let Self { only, target_dir } = self;
        let progress = Progress::begin();
        let known = patches()?;
        if let Some(unknown) = only.iter().find(|one| !known.iter().any(|(id, _)| id == *one)) {
            bail!("there is no mutant of {unknown}: see {PATCHES}");
        }
        let copy = tempfile::tempdir().context("making a folder for the copy")?;
        copy_to(copy.path())?;
        apply(&known, copy.path())?;
        let switched = copy.path().join(SWITCHED);
        let text = fs::read_to_string(&switched).with_context(|| format!("reading {}", switched.display()))?;
        fs::write(&switched, text + SWITCH).with_context(|| format!("writing {}", switched.display()))?;
        let table = Table {
            copy: copy.path().to_owned(),
            target: target_dir.unwrap_or_else(|| checkout().join("target/mutants")),
        };
        progress.say("building the agent with every mutant in it");
        table.build()?;
        let wanted: BTreeSet<&str> = if only.is_empty() {
            known.iter().map(|(id, _)| id.as_str()).collect()
        } else {
            only.iter().map(String::as_str).collect()
        };
        let mut survivors = Vec::new();
        for id in &wanted {
            if !table.failing(id, None)?.is_empty() {
                bail!("the table fails for {id} without a mutant: mend that first");
            }
            let failing = table.failing(id, Some(id))?;
            progress.say(&match failing.first() {
                Some(first) => format!("{id} killed in {} lines, first: {first}", failing.len()),
                None => format!("{id} SURVIVED"),
            });
            if failing.is_empty() {
                survivors.push(*id);
            }
        }
        progress.say(&format!("{} of {} mutants killed", wanted.len() - survivors.len(), wanted.len()));
        if survivors.is_empty() { Ok(()) } else { bail!("survived: {}", survivors.join(", ")) }
    }
}

/// Every patch by its fault, in the order in which they fit.
fn patches() -> Result<Vec<(String, PathBuf)>> {
    let folder = checkout().join(PATCHES);
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        if let (Some(id), Some("patch")) = (stem, path.extension().and_then(|end| end.to_str())) {
            found.push((id, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Puts all of them into a copy of the checkout.
fn apply(patches: &[(String, PathBuf)], copy: &Path) -> Result<()> {
    for (id, patch) in patches {
        let applied = Command::new("git").args(["apply", "-p0"]).arg(patch).current_dir(copy).status();
        if !applied.context("starting git")?.success() {
            bail!("the mutant of {id} no longer fits the code: write {} anew", patch.display());
        }
    }
    Ok(())
}

/// The files of the checkout that git knows or would, as they stand.
fn copy_to(folder: &Path) -> Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(checkout())
        .output()
        .context("listing the checkout's files with git")?;
    for name in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (checkout().join(name), folder.join(name));
        if !from.is_file() {
            continue;
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        }
        fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
    }
    Ok(())
}

/// The fault table in the copy.
struct Table {
    copy: PathBuf,
    target: PathBuf,
}

impl Table {
    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.args(arguments).current_dir(&self.copy).env("CARGO_TARGET_DIR", &self.target);
        cargo
    }

    /// The table, and the surveying process that it starts, which is mutated as well.
    fn build(&self) -> Result<()> {
        let table = [&TEST[..], &["--no-run"]].concat();
        for arguments in [&["build", "--quiet", "-p", "koinon-agent", "--examples"][..], &table] {
            if !self.cargo(arguments).status().context("starting cargo")?.success() {
                bail!("the mutants do not build: look above");
            }
        }
        Ok(())
    }

    /// The lines of one fault that are not as expected, with a mutant or without.
    fn failing(&self, fault: &str, mutant: Option<&str>) -> Result<Vec<String>> {
        let mut cargo = self.cargo(&TEST);
        cargo.args(["--", "--nocapture"]).env("KOINON_FAULT", fault).stderr(Stdio::piped());
        if let Some(mutant) = mutant {
            cargo.env("KOINON_MUTANT", mutant);
        }
        let output = cargo.output().context("starting cargo")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<String> =
            text.lines().filter_map(|line| line.split_once("NOT OK ")).map(|(_, line)| line.to_owned()).collect();
        if lines.is_empty() && !output.status.success() {
            bail!("the table of {fault} failed and named no line: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_fits_the_code() {
        let (copy, patches) = (tempfile::tempdir().unwrap(), patches().unwrap());
        assert!(!patches.is_empty(), "there are none in {PATCHES}");
        copy_to(copy.path()).unwrap();
        apply(&patches, copy.path()).unwrap();
    }
}
