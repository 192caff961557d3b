//! A test runner for cases that share one fleet: clusters take ten seconds to start, most cases take one.
//!
//! Cases run one after the other, in the order in which they are written. A case that fails or panics does not keep the
//! others from running. The output and the filters are those of `cargo test`.

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use crate::fleet::{self, Fleet};
use crate::spec::DatacenterSpec;

/// Set to anything, it leaves the datacenters of a suite that failed running, for a person to look around.
const KEEP: &str = "KOINON_KEEP";

type Body = Box<dyn Fn(Arc<Fleet>) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>>;

/// What a suite wants of its datacenters that is not usual.
type Adjust = fn(DatacenterSpec) -> DatacenterSpec;

/// Cases over one fleet.
pub struct Suite {
    datacenters: Vec<&'static str>,
    adjust: Adjust,
    cases: Vec<(&'static str, Kind, Body)>,
}

/// When a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Unless it is filtered out.
    Test,
    /// Only where it is named in full: it measures, and takes its time.
    Measurement,
}

/// What the command line asks for.
#[derive(Debug, Default)]
struct Selection {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    list: bool,
}

impl Suite {
    /// A suite over datacenters of these names, which are started before the first case.
    pub fn over(datacenters: &[&'static str]) -> Self {
        Self { datacenters: datacenters.to_vec(), adjust: |spec| spec, cases: Vec::new() }
    }

    /// Without nodes: for what the API servers alone decide.
    #[must_use]
    pub fn without_nodes(self) -> Self {
        self.with(DatacenterSpec::without_node)
    }

    /// With datacenters that differ from the usual ones.
    #[must_use]
    pub fn with(self, adjust: fn(DatacenterSpec) -> DatacenterSpec) -> Self {
        Self { adjust, ..self }
    }

    /// Adds a case.
    #[must_use]
    pub fn case<F, Fut>(mut self, name: &'static str, body: F) -> Self
    where
        F: Fn(Arc<Fleet>) -> Fut + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.cases.push((name, Kind::Test, Box::new(move |fleet| Box::pin(body(fleet)))));
        self
    }

    /// Adds a measurement, which runs only where it is named in full.
    #[must_use]
    pub fn measurement<F, Fut>(mut self, name: &'static str, body: F) -> Self
    where
        F: Fn(Arc<Fleet>) -> Fut + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.cases.push((name, Kind::Measurement, Box::new(move |fleet| Box::pin(body(fleet)))));
        self
    }

    /// Starts the fleet, runs what the command line selects, takes the fleet down and says what happened.
    pub fn main(self) -> ExitCode {
        let selection = Selection::parse(std::env::args().skip(1));
        let cases = self.cases.into_iter().filter(|(name, kind, _)| selection.takes(name, *kind));
        let selected: Vec<_> = cases.map(|(name, _, body)| (name, body)).collect();
        if selection.list {
            for (name, _) in &selected {
                println!("{name}: test");
            }
            return ExitCode::SUCCESS;
        }
        let runtime = match tokio::runtime::Runtime::new() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("error: starting the runtime: {error}");
                return ExitCode::FAILURE;
            }
        };
        runtime.block_on(run(&self.datacenters, self.adjust, selected))
    }
}

async fn run(datacenters: &[&str], adjust: Adjust, cases: Vec<(&'static str, Body)>) -> ExitCode {
    println!("\nrunning {} tests", cases.len());
    if cases.is_empty() {
        println!("\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n");
        return ExitCode::SUCCESS;
    }
    let started = Instant::now();
    let mut failures: Vec<(&str, anyhow::Error)> = Vec::new();
    let mut passed = 0;
    match Fleet::start_with(datacenters, &|what| println!("  {what}"), adjust).await {
        // No fleet is a failure of every case, never a reason to leave them out.
        Err(error) => {
            failures.extend(cases.iter().map(|(name, _)| (*name, anyhow!("the datacenters did not start: {error:#}"))))
        }
        Ok(fleet) => {
            println!("  {} up after {:.1} s", datacenters.join(", "), started.elapsed().as_secs_f32());
            let fleet = Arc::new(fleet);
            for (name, body) in &cases {
                let began = Instant::now();
                let result = interruptible(body(fleet.clone())).await;
                let took = began.elapsed().as_secs_f32();
                match result {
                    Ok(()) => {
                        passed += 1;
                        println!("test {name} ... ok ({took:.1} s)");
                    }
                    Err(Ended::Failed(error)) => {
                        println!("test {name} ... FAILED ({took:.1} s): {error:#}");
                        failures.push((name, error));
                    }
                    Err(Ended::Interrupted) => {
                        failures.push((name, anyhow!("interrupted")));
                        break;
                    }
                }
            }
            if !failures.is_empty() {
                println!("  the datacenters' logs are kept in {}", fleet::keep_logs(fleet.run()).unwrap_or_default());
            }
            if !failures.is_empty() && std::env::var_os(KEEP).is_some() {
                println!("  the datacenters keep running; remove them with: cargo xtask down");
            } else if let Err(error) = fleet.down() {
                failures.push(("taking the datacenters down", error));
            }
        }
    }
    report(passed, &failures, started)
}

fn report(passed: usize, failures: &[(&str, anyhow::Error)], started: Instant) -> ExitCode {
    if !failures.is_empty() {
        println!("\nfailures:");
        for (name, error) in failures {
            println!("\n---- {name} ----\n{error:#}");
        }
    }
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
        failures.len(),
        started.elapsed().as_secs_f32()
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Why something ended without a result.
#[derive(Debug)]
pub enum Ended {
    /// It failed.
    Failed(anyhow::Error),
    /// A person or a supervisor asked us to end.
    Interrupted,
}

/// Runs to the end, or until Ctrl-C or a request to terminate, so that the caller can still clean up. A panic is a failure.
pub async fn interruptible<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T, Ended> {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return Err(Ended::Failed(anyhow!("cannot watch for signals")));
    };
    let mut work = tokio::spawn(work);
    tokio::select! {
        done = &mut work => match done {
            Ok(result) => result.map_err(Ended::Failed),
            Err(panicked) => Err(Ended::Failed(anyhow!("panicked: {}", panic_text(panicked)))),
        },
        _ = interrupt.recv() => { stop(work).await; Err(Ended::Interrupted) }
        _ = terminate.recv() => { stop(work).await; Err(Ended::Interrupted) }
    }
}

/// Ends a task and waits until it has let go of what it held.
async fn stop<T>(work: tokio::task::JoinHandle<T>) {
    work.abort();
    let _ = work.await;
}

fn panic_text(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => {
            let text = payload.downcast_ref::<String>().cloned();
            text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "without a message".into())
        }
        Err(error) => error.to_string(),
    }
}

impl Selection {
    fn parse(args: impl Iterator<Item = String>) -> Self {
        let mut selection = Self::default();
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--list" => selection.list = true,
                "--exact" => selection.exact = true,
                "--skip" => selection.skips.extend(args.next()),
                // Options of the standard runner that take a value; they mean nothing here.
                "--test-threads" | "--format" | "--color" | "--logfile" => drop(args.next()),
                flag if flag.starts_with('-') => {}
                name => selection.filters.push(name.to_owned()),
            }
        }
        selection
    }

    fn takes(&self, name: &str, kind: Kind) -> bool {
        if kind == Kind::Measurement {
            return self.filters.iter().any(|wanted| wanted == name);
        }
        let matches = |wanted: &String| if self.exact { name == wanted } else { name.contains(wanted.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(matches)) && !self.skips.iter().any(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(line: &str) -> Selection {
        Selection::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn names_are_selected_as_by_cargo_test() {
        assert!(selection("").takes("a cut member", Kind::Test));
        assert!(
            selection("cut").takes("a_cut_member", Kind::Test)
                && !selection("cut").takes("a_mended_member", Kind::Test)
        );
        assert!(!selection("cut --exact").takes("a_cut_member", Kind::Test));
        assert!(!selection("--skip cut").takes("a_cut_member", Kind::Test));
        assert!(selection("--nocapture --test-threads 1 cut").takes("a_cut_member", Kind::Test));
    }

    #[test]
    fn a_measurement_runs_only_where_it_is_named_in_full() {
        assert!(
            !selection("").takes("how_long", Kind::Measurement)
                && !selection("long").takes("how_long", Kind::Measurement)
        );
        assert!(selection("how_long").takes("how_long", Kind::Measurement));
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_with_its_message() {
        let ended = interruptible::<()>(async { panic!("two epochs at once") }).await;
        assert!(matches!(ended, Err(Ended::Failed(error)) if error.to_string().contains("two epochs at once")));
    }
}
