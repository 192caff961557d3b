//! The survey on a real GPU, and the fake library held against what real drivers answered.
//!
//! `traces/PRODUCT.trace` is what a driver answered on a node with such devices, without any value. A node with a GPU whose
//! product has none yet writes it to `$KOINON_TRACES`. `$KOINON_GPU_MINUTES` is for how long the agent's own cost is measured
//! (default: not at all). `KOINON_REAL_GPU=required` makes it an error that there is none.

#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, not their programs.

#[path = "../common/mod.rs"]
mod common;
mod cost;
mod golden;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Node, PATIENT};
use fake_nvml::{Device, Scenario};
use golden::Calls;
use koinon_agent::survey::{Failure, Nvml, Survey, SurveyCommand, Surveyor};
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

/// Surveys whose time is told.
const SURVEYS: usize = 20;
/// A device that is asked more costs its node more than a survey may.
const MOST_CALLS: usize = 60;
/// What is asked of the library as a whole, beside the devices.
const CALLS_OF_ALL: usize = 16;

fn main() -> ExitCode {
    // One at a time: what is measured is the survey, not how several get on.
    let args = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let runtime = Arc::new(tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap());
    let trial = |name, skipped: Option<&'static str>, case: fn(&Runtime) -> Result<(), String>| {
        let runtime = runtime.clone();
        let trial = Trial::test(name, move || Ok(case(&runtime)?));
        match skipped {
            Some(why) => trial.with_kind(format!("skipped: {why}")).with_ignored_flag(true),
            None => trial,
        }
    };
    let no_gpu = runtime.block_on(here(None)).is_none().then_some("no GPU");
    assert!(no_gpu.is_none() || !required(), "KOINON_REAL_GPU is required, and this machine has no GPU");
    let no_trace = stored().is_empty().then_some("no driver's trace is stored");
    let no_time = std::env::var_os("KOINON_GPU_MINUTES").is_none().then_some("KOINON_GPU_MINUTES names no time");
    let trials = vec![
        trial("a_trace_is_read_and_what_is_none_is_refused", None, |_| traces_are_read()),
        trial("a_library_that_answers_otherwise_is_told_symbol_by_symbol", None, |_| differences_are_told()),
        trial("the_fake_answers_as_real_drivers_did", no_trace, fake_as_real),
        trial("a_real_gpu_is_surveyed_whole", no_gpu, surveyed),
        trial("the_agents_own_cost_beside_a_real_gpu", no_gpu.or(no_time), cost::measured),
    ];
    libtest_mimic::run(&args, trials).exit_code()
}

/// Whether a machine without a GPU is an error, as on one that was lent for these tests.
fn required() -> bool {
    std::env::var("KOINON_REAL_GPU").as_deref() == Ok("required")
}

fn traces() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real_gpu/traces")
}

/// The surveying process on this machine's own driver.
pub fn real(trace: Option<&Path>) -> SurveyCommand {
    let mut arguments: Vec<std::ffi::OsString> =
        ["agent", "survey", "--nvml-lib", "libnvidia-ml.so.1"].map(Into::into).into();
    if let Some(trace) = trace {
        arguments.extend(["--nvml-trace".into(), trace.into()]);
    }
    SurveyCommand { program: common::agent(), arguments }
}

/// What this machine's GPUs say, if it has any.
pub async fn here(trace: Option<&Path>) -> Option<Survey> {
    let survey = Surveyor::new(real(trace), PATIENT).survey().await;
    // Any other failure is one of the case: a driver that does not answer is no missing GPU.
    (!matches!(&survey.nvml, Nvml::Failed { failure: Failure::LibraryMissing | Failure::DriverNotLoaded, .. }))
        .then_some(survey)
}

fn traces_are_read() -> Result<(), String> {
    let read = Calls::read("nvmlInit_v2 0 0\nnvmlDeviceGetName 0 96\nnvmlDeviceGetName 0 96\n");
    let bad =
        ["nvmlInit_v2 0", "nvmlInit_v2 0 0 0", "nvmlInit_v2 0 -1", ""].map(|line| Calls::read(&format!("{line}\n")));
    match (read.map(|calls| calls.count()), bad.iter().all(Result::is_err)) {
        (Ok(3), true) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn differences_are_told() -> Result<(), String> {
    let driver = Calls::read("a 0 8\na 0 8\nb 3 4\nc absent 4\n").unwrap_or_default();
    let same = Calls::read("c absent 4\nb 3 4\na 0 8\n").unwrap_or_default();
    let other = Calls::read("a 0 16\nb 0 4\nb 3 4\nd 0 1\n").unwrap_or_default();
    let told = driver.differences("the driver", &other, "the fake");
    let expected = [
        "a: the driver answers 0 (8 bytes), the fake 0 (16 bytes)",
        "b: the driver answers 3 (4 bytes), the fake 0 (4 bytes) or 3 (4 bytes)",
        "c: the driver answers absent (4 bytes), the fake nothing, it is not asked",
        "d: the driver answers nothing, it is not asked, the fake 0 (1 bytes)",
    ];
    let none = driver.differences("x", &same, "y");
    if told == expected && none.is_empty() { Ok(()) } else { Err(format!("{told:#?} and {none:#?}")) }
}

/// The fake's device for a product, as its trace is named.
fn preset(product: &str) -> Option<Device> {
    match product {
        product if product.contains("H100") || product.contains("H200") => Some(Device::h100(1)),
        product if product.contains("A100") => Some(Device::a100(1)),
        product if product.contains("L4") => Some(Device::l4(1)),
        _ => None,
    }
}

async fn of_fake(product: &str) -> Result<Calls, String> {
    let device = preset(product).ok_or_else(|| format!("the fake has no device like {product}: add one"))?;
    let node = Node::with(&Scenario::known(vec![device]));
    let trace = node.folder.path().join("calls");
    let mut command = node.command(&common::library());
    command.arguments.extend(["--nvml-trace".into(), trace.clone().into()]);
    Surveyor::new(command, PATIENT).survey().await;
    Calls::read(&std::fs::read_to_string(&trace).map_err(|error| format!("reading the fake's trace: {error}"))?)
}

/// The stored traces, each with the product that it is named after.
fn stored() -> Vec<(String, PathBuf)> {
    let folder = std::fs::read_dir(traces()).into_iter().flatten().flatten().map(|entry| entry.path());
    let traces = folder.filter(|path| path.extension().is_some_and(|end| end == "trace"));
    traces.map(|path| (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path)).collect()
}

fn fake_as_real(runtime: &Runtime) -> Result<(), String> {
    let mut differing = Vec::new();
    for (product, path) in stored() {
        let read = |error: std::io::Error| format!("reading {}: {error}", path.display());
        let driver = Calls::read(&std::fs::read_to_string(&path).map_err(read)?)?;
        let told = driver.differences("the driver", &runtime.block_on(of_fake(&product))?, "the fake");
        // What is known to differ, with the reason for it above each line.
        let known = std::fs::read_to_string(path.with_extension("differences")).unwrap_or_default();
        differing.extend(told.into_iter().filter(|line| !known.lines().any(|known| known == line)));
    }
    if differing.is_empty() { Ok(()) } else { Err(differing.join("\n")) }
}

fn surveyed(runtime: &Runtime) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("calls");
    let survey = runtime.block_on(here(Some(&trace))).ok_or("no GPU")?;
    println!("{}", judged(runtime, &survey, &trace)?);
    Ok(())
}

fn judged(runtime: &Runtime, survey: &Survey, trace: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(trace).map_err(|error| format!("reading the trace: {error}"))?;
    let calls = Calls::read(&text)?;
    if survey.nvml != Nvml::Available || survey.devices.is_empty() {
        return Err(format!("NVML is {:?} and tells of {} devices", survey.nvml, survey.devices.len()));
    }
    let most = survey.devices.len() * MOST_CALLS + CALLS_OF_ALL;
    if calls.count() > most {
        return Err(format!("{} calls for {} devices, {most} are allowed", calls.count(), survey.devices.len()));
    }
    for device in &survey.devices {
        let known = [
            device.identity.product.known().is_some(),
            device.identity.pci_bus_id.known().is_some(),
            device.memory.total.known().is_some(),
        ];
        if known != [true; 3] {
            return Err(format!("product, PCI address or memory of {} is not known: {device:?}", device.id));
        }
    }
    let product = survey.devices[0].identity.product.known().map(ToString::to_string).unwrap_or_default();
    let name = product.replace([' ', '/'], "-");
    let stored = traces().join(format!("{name}.trace"));
    let told = match std::fs::read_to_string(&stored) {
        Ok(text) => calls.differences("this driver", &Calls::read(&text)?, "the stored one"),
        Err(_) => store(&name, &text)?,
    };
    let times = times(runtime);
    let [least, middle, most] = [0, times.len() / 2, times.len() - 1].map(|at| times[at].as_secs_f64() * 1000.0);
    let health = common::health(survey);
    Ok(format!(
        "  {} x {product}, {} calls; {SURVEYS} surveys: {least:.1} / {middle:.1} / {most:.1} ms\n  {health:?}\n  {}",
        survey.devices.len(),
        calls.count(),
        told.join("\n  ")
    ))
}

fn store(name: &str, text: &str) -> Result<Vec<String>, String> {
    let Some(folder) = std::env::var_os("KOINON_TRACES") else {
        return Ok(vec![format!("no trace of {name} is stored: set KOINON_TRACES to a folder to have it written")]);
    };
    let path = PathBuf::from(folder).join(format!("{name}.trace"));
    std::fs::write(&path, text).map_err(|error| format!("writing {}: {error}", path.display()))?;
    Ok(vec![format!("wrote {}", path.display())])
}

fn times(runtime: &Runtime) -> Vec<Duration> {
    let mut times: Vec<Duration> = (0..SURVEYS)
        .map(|_| {
            let began = Instant::now();
            runtime.block_on(Surveyor::new(real(None), PATIENT).survey());
            began.elapsed()
        })
        .collect();
    times.sort();
    times
}
