//! What Koinon signs and what an independent implementation signs: each is understood by the other; and two audits of one
//! history, which share no code, agree on every outcome.

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

/// What an example of the core prints.
fn example(name: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    let made = Command::new(env!("CARGO"))
        .current_dir(checkout())
        .args(["run", "--quiet", "--package", "koinon-core", "--features", "testkit", "--example", name, "--"])
        .args(arguments)
        .output()
        .with_context(|| format!("running the example {name}"))?;
    ensure!(made.status.success(), "the example {name} failed: {}", String::from_utf8_lossy(&made.stderr));
    Ok(made.stdout)
}

fn audit() -> Result<Command> {
    let mut audit = Command::new(python()?.program());
    audit.arg("-B").arg(checkout().join("e2e/audit/verify.py"));
    Ok(audit)
}

#[test]
fn the_committed_vectors_are_what_the_independent_implementation_makes() -> Result<()> {
    let mut make = Command::new(python()?.program());
    make.arg("-B").arg(vectors().join("make.py")).arg("--check").arg(checkout().join("operator/core/testdata/vectors"));
    command::run(&mut make).map(drop)
}

#[test]
fn what_koinon_signs_is_verified_by_the_independent_implementation() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("statements.json");
    std::fs::write(&file, example("statements", &[])?)?;
    let mut check = Command::new(python()?.program());
    check.arg("-B").arg(vectors().join("check.py")).arg(&file);
    command::run(&mut check).map(drop)
}

#[test]
fn the_audit_of_its_own_understands_the_committed_vectors() -> Result<()> {
    command::run(audit()?.arg("--vectors").arg(checkout().join("operator/core/testdata/vectors"))).map(drop)
}

#[test]
fn two_audits_agree_on_every_outcome_of_generated_histories() -> Result<()> {
    // Half a minute's worth; another seed and `--count 10000` are for whoever changes a rule.
    let made = String::from_utf8(example("histories", &["--count", "240"])?)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("histories.jsonl");
    std::fs::write(&file, &made)?;
    let told = command::run(audit()?.arg("--histories").arg(&file))?;
    ensure!(told.contains("240 histories with "), "not all histories were compared: {told}");
    for rule in [
        "proposals Enacted",
        "proposals Cancelled",
        "votes NotInBox",
        "votes Equivocation",
        "votes Revoked",
        "keys update Holds",
        "logs replaced",
        "notices Tried",
        "orders Lapsed",
        "proofs: fork",
        "fork",
        "fails: Gap",
    ] {
        ensure!(told.contains(rule), "no history shows {rule}: {told}");
    }
    // One other outcome among them is found.
    std::fs::write(&file, made.replacen(" Counted", " NotInBox", 1))?;
    let told = audit()?.arg("--histories").arg(&file).output()?;
    ensure!(!told.status.success() && String::from_utf8_lossy(&told.stdout).contains("differ"), "it was not found");
    Ok(())
}

#[test]
fn two_audits_agree_on_what_remains_at_checkpoints_true_and_false() -> Result<()> {
    let made = String::from_utf8(example("histories", &["--often", "settled", "--count", "40"])?)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("histories.jsonl");
    std::fs::write(&file, &made)?;
    let told = command::run(audit()?.arg("--histories").arg(&file))?;
    ensure!(told.contains("40 histories with "), "not all histories were compared: {told}");
    for rule in [" checkpoints\n", "fails: Checkpoint"] {
        ensure!(told.contains(rule), "no history shows {rule}: {told}");
    }
    Ok(())
}
