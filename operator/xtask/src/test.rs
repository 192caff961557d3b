//! `cargo xtask test`: every test of the project, in stages from quick to slow, with one count at the end.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use koinon_e2e::run::{INSTANCE, Instance};
use koinon_e2e::toolchain::{Report, checkout};
use koinon_e2e::{preflight, toolchain};

use crate::progress::Progress;
use crate::{charts, generate};

/// Arguments of `test`.
#[derive(Debug, Args)]
pub struct Test {
    /// Run this stage alone; may be given more than once.
    #[arg(long, value_enum)]
    only: Vec<Stage>,
}

/// A group of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Formatting, unit and property tests of every crate, and those of the Go programs.
    Unit,
    /// Generated files are what the code generates.
    Generated,
    /// Helm lint, value schemas, and a real API server's opinion of the rendered charts and the samples.
    Charts,
    /// Real clusters.
    E2e,
}

const ALL: [Stage; 4] = [Stage::Unit, Stage::Generated, Stage::Charts, Stage::E2e];

/// How many tests passed and which failed.
#[derive(Debug, Default)]
pub struct Tally {
    passed: u64,
    failed: u64,
    failures: Vec<String>,
}

impl Tally {
    /// Counts one check and says how it went.
    pub fn record(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("test {name} ... ok");
            }
            Err(error) => {
                println!("test {name} ... FAILED\n{error:#}");
                self.fail(name);
            }
        }
    }

    fn fail(&mut self, what: &str) {
        self.failed += 1;
        self.failures.push(what.to_owned());
    }

    /// Counts the summary line of a test program, `test result: ok. 3 passed; 0 failed; …`, and remembers which tests failed.
    fn read_line(&mut self, line: &str) {
        if let Some((name, _)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... FAILED")) {
            self.failures.push(name.to_owned());
        }
        let Some(rest) = line.trim().strip_prefix("test result: ") else { return };
        let count = |label: &str| -> u64 {
            let before = rest.split(label).next().unwrap_or_default();
            before.rsplit([' ', '.', ';']).find(|word| !word.is_empty()).and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        self.passed += count(" passed");
        self.failed += count(" failed");
    }
}

impl Test {
    /// Runs the stages and fails if any test did.
    pub async fn run(self) -> Result<()> {
        let Self { only } = self;
        let stages: Vec<Stage> = ALL.into_iter().filter(|stage| only.is_empty() || only.contains(stage)).collect();
        if stages.iter().any(|stage| *stage != Stage::Unit) {
            preflight::check()?;
        }
        let progress = Progress::begin();
        let report = |what: &str| progress.say(what);
        toolchain::ensure_system_packages(&report)?;
        let mut tally = Tally::default();
        for stage in stages {
            progress.say(&format!("stage {stage:?}").to_lowercase());
            match stage {
                Stage::Unit => unit(&mut tally)?,
                Stage::Generated => {
                    tally.record("generated::every_file_is_what_the_code_generates", generated(&report))
                }
                Stage::Charts => {
                    let checked = charts::check(&mut tally, &report).await;
                    if let Err(error) = checked {
                        tally.record("charts::checks_run_to_their_end", Err(error));
                    }
                }
                Stage::E2e => end_to_end(&mut tally, &progress)?,
            }
        }
        progress.say("done");
        for failure in &tally.failures {
            println!("failed: {failure}");
        }
        println!("{} passed, {} failed", tally.passed, tally.failed);
        if tally.failed > 0 || tally.passed == 0 {
            bail!("{} of {} tests failed", tally.failed, tally.passed + tally.failed);
        }
        Ok(())
    }
}

fn unit(tally: &mut Tally) -> Result<()> {
    let formatted =
        koinon_e2e::command::run(Command::new("cargo").current_dir(checkout()).args(["fmt", "--all", "--check"]));
    tally.record("format::every_file_is_formatted", formatted.map(drop));
    cargo_test(tally, "unit tests", &["--workspace", "--exclude", "koinon-e2e"])?;
    // Of the harness only its own unit tests: what needs clusters is a stage of its own.
    cargo_test(tally, "unit tests of the harness", &["--package", "koinon-e2e", "--lib"])?;
    GO_PROGRAMS.iter().try_for_each(|program| go_test(tally, program))
}

fn generated(report: Report<'_>) -> Result<()> {
    let differences = generate::differences(report)?;
    if differences.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = differences.iter().map(|(path, _)| path.display().to_string()).collect();
    bail!("out of date: {}; run `cargo xtask generate`", names.join(", "))
}

/// The suite that takes as long as all others together, on the same two cores mostly waiting for clusters.
const LONGEST: &str = "bad_input";

/// Runs the suites on real clusters in two lanes, each with clusters of its own. What the second prints is shown when both
/// are done, so that either reads as a whole.
fn end_to_end(tally: &mut Tally, progress: &Progress) -> Result<()> {
    let suites = suites()?;
    let (longest, others): (Vec<&String>, Vec<&String>) = suites.iter().partition(|suite| *suite == LONGEST);
    if !stream(cargo_of(&suites.iter().collect::<Vec<_>>()).arg("--no-run"), |_| ())? {
        tally.fail("the end-to-end tests did not build");
        return Ok(());
    }
    let mut second = cargo_of(&others);
    second.env(INSTANCE, Instance::from_env()?.beside().to_string());
    let second = std::thread::spawn(move || second.stdin(Stdio::null()).output());
    progress.say("the other suites run beside this one, and are shown after it");
    let before = tally.failed;
    let succeeded = stream(&mut cargo_of(&longest), |line| tally.read_line(line))?;
    if !succeeded && tally.failed == before {
        tally.fail("the first lane ended without a result");
    }
    let before = tally.failed;
    let output = second.join().map_err(|_| anyhow::anyhow!("the second lane panicked"))?.context("starting cargo")?;
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("{line}");
        tally.read_line(line);
    }
    if !output.status.success() && tally.failed == before {
        tally.fail("the second lane ended without a result");
    }
    Ok(())
}

/// Every suite on real clusters, by its file or folder.
fn suites() -> Result<Vec<String>> {
    let folder = checkout().join("e2e/tests");
    let mut suites = Vec::new();
    for entry in folder.read_dir().with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").exists() {
            suites.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    suites.sort();
    Ok(suites)
}

fn cargo_of(suites: &[&String]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(checkout()).args(["test", "--no-fail-fast", "--package", "koinon-e2e"]);
    suites.iter().for_each(|suite| {
        cargo.args(["--test", suite.as_str()]);
    });
    cargo
}

/// Runs `cargo test`, shows what it prints and counts it. A program that ends badly without a summary counts as one failure.
fn cargo_test(tally: &mut Tally, name: &str, args: &[&str]) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(checkout()).args(["test", "--no-fail-fast"]).args(args);
    let before = tally.failed;
    let succeeded = stream(&mut cargo, |line| tally.read_line(line))?;
    if !succeeded && tally.failed == before {
        tally.fail(&format!("{name} did not build or ended without a result"));
    }
    Ok(())
}

/// Our own programs in Go, by their folders.
const GO_PROGRAMS: [&str; 2] = ["deviceplugin", "dradriver"];

fn go_test(tally: &mut Tally, program: &str) -> Result<()> {
    let mut go = Command::new("go");
    go.current_dir(checkout().join("e2e").join(program)).args(["test", "-v", "./..."]);
    let (mut passed, mut failed) = (0, Vec::new());
    let succeeded = stream(&mut go, |line| match line.split_once("--- ") {
        // Subtests are indented; the test that holds them is counted once.
        Some(("", rest)) if rest.starts_with("PASS") => passed += 1,
        Some(("", rest)) if rest.starts_with("FAIL") => failed.push(rest.to_owned()),
        _ => {}
    })?;
    tally.passed += passed;
    for failure in &failed {
        tally.fail(&format!("{program}: {failure}"));
    }
    if !succeeded && failed.is_empty() {
        tally.fail(&format!("the tests of {program} did not build"));
    }
    Ok(())
}

/// Runs a command, passes its standard output through line by line, and says whether it succeeded.
fn stream(command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<bool> {
    let line = koinon_e2e::command::command_line(command);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| format!("starting `{line}`"))?;
    if let Some(out) = child.stdout.take() {
        for line in BufReader::new(out).split(b'\n') {
            let line = line.context("reading what the tests print")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            on_line(&line);
        }
    }
    Ok(child.wait().with_context(|| format!("waiting for `{line}`"))?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_test_programs_are_added_up() {
        let mut tally = Tally::default();
        tally.read_line(
            "test result: ok. 25 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.44s",
        );
        tally.read_line("test result: FAILED. 9 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.read_line("test result of something else: 100 passed");
        assert_eq!((tally.passed, tally.failed), (34, 2));
        tally.read_line("test relay::tests::bytes_pass ... ok");
        tally.read_line("test a_cut_datacenter ... FAILED (3.0 s)");
        assert_eq!(tally.failures, ["a_cut_datacenter"]);
    }

    #[test]
    fn every_suite_is_in_one_of_the_lanes() {
        let suites = suites().unwrap();
        assert!(
            ["admission", LONGEST, "harness", "kills", "story", "vectors"]
                .iter()
                .all(|s| suites.iter().any(|t| t == s))
        );
    }

    #[test]
    fn every_suite_with_a_folder_has_the_runner_that_counts_its_cases() {
        let manifest = std::fs::read_to_string(checkout().join("e2e/Cargo.toml")).unwrap();
        for suite in suites().unwrap() {
            if checkout().join("e2e/tests").join(&suite).is_dir() {
                // Otherwise cargo finds no test in it, and says that all of none have passed.
                let declared = format!("path = \"tests/{suite}/main.rs\"\nharness = false");
                assert!(manifest.contains(&declared), "{suite} is not declared with harness = false");
            }
        }
    }

    #[test]
    fn a_failed_check_is_counted_and_named() {
        let mut tally = Tally::default();
        tally.record("charts::koinon::lint", Err(anyhow::anyhow!("no icon")));
        assert_eq!((tally.passed, tally.failed), (0, 1));
        assert_eq!(tally.failures, ["charts::koinon::lint"]);
    }
}
