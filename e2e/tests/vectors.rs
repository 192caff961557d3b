//! What Koinon signs and what an independent implementation signs: each is understood by the other.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use koinon_e2e::cache::Cache;
use koinon_e2e::command;
use koinon_e2e::python::Python;
use koinon_e2e::toolchain::checkout;

fn vectors() -> PathBuf {
    checkout().join("e2e/vectors")
}

fn python() -> Result<Python> {
    Python::with_requirements(&Cache::from_env()?, &vectors().join("requirements.txt"), &|what| eprintln!("{what}"))
}

#[test]
fn the_committed_vectors_are_what_the_independent_implementation_makes() -> Result<()> {
    let mut make = Command::new(python()?.program());
    make.arg("-B").arg(vectors().join("make.py")).arg("--check").arg(checkout().join("operator/core/testdata/vectors"));
    command::run(&mut make).map(drop)
}

#[test]
fn what_koinon_signs_is_verified_by_the_independent_implementation() -> Result<()> {
    let made = Command::new(env!("CARGO"))
        .current_dir(checkout())
        .args(["run", "--quiet", "--package", "koinon-core", "--features", "testkit", "--example", "statements"])
        .output()
        .context("running the example that signs")?;
    ensure!(made.status.success(), "the example failed: {}", String::from_utf8_lossy(&made.stderr));
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("statements.json");
    std::fs::write(&file, &made.stdout)?;
    let mut check = Command::new(python()?.program());
    check.arg("-B").arg(vectors().join("check.py")).arg(&file);
    command::run(&mut check).map(drop)
}
