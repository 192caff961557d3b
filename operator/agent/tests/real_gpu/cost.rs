//! What the whole agent costs while it surveys this machine's GPUs every ten seconds.

use std::time::Duration;

use koinon_agent::{AgentArgs, UsageArgs};
use koinon_telemetry::{HealthArgs, Process, Role};
use tokio::runtime::Runtime;

use crate::common::api::FakeApi;
use crate::real;

/// The ticks of `/proc/PID/stat` in a second; Linux tells every user space program of a hundred.
const TICKS: f64 = 100.0;

pub fn measured(runtime: &Runtime) -> Result<(), String> {
    let minutes = std::env::var("KOINON_GPU_MINUTES").map_err(|error| format!("KOINON_GPU_MINUTES: {error}"))?;
    let minutes: u64 =
        minutes.parse().map_err(|error| format!("KOINON_GPU_MINUTES is no number of minutes: {error}"))?;
    println!("{}", runtime.block_on(run(Duration::from_secs(60 * minutes)))?);
    Ok(())
}

async fn run(long: Duration) -> Result<String, String> {
    let args = AgentArgs {
        node_name: Some("bilbao-1".parse().map_err(|error| format!("{error}"))?),
        namespace: "koinon-agent".to_owned(),
        nvml_lib: "libnvidia-ml.so.1".into(),
        survey_interval: Duration::from_secs(10),
        survey_deadline: Duration::from_secs(10),
        usage: UsageArgs::default(),
        kernel_log: None,
        dcgm_metrics: false,
        limits: None,
        xid_table: None,
        xid_table_interval: Duration::from_secs(120),
        command: None,
    };
    let health = HealthArgs { health_listen: Some(([127, 0, 0, 1], 0).into()) };
    let process = Process::start(Role::Agent, &health).map_err(|error| error.to_string())?;
    let api = FakeApi::with_node();
    let agent = tokio::spawn(koinon_agent::run_with(args, process.clone(), api.client(), real(None)));
    let before = used()?;
    tokio::time::sleep(long).await;
    let after = used()?;
    process.stop.cancel();
    agent.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let [own, children] = [0, 1].map(|at| (after.ticks[at] - before.ticks[at]) / TICKS);
    let core = (own + children) / long.as_secs_f64() * 100.0;
    Ok(format!(
        "  {} s: {own:.2} s of processor time and {children:.2} s of the surveys' ({core:.2} % of a core), {} KiB resident",
        long.as_secs(),
        after.resident_kib
    ))
}

struct Used {
    /// Of this process, and of its children that have ended.
    ticks: [f64; 2],
    resident_kib: u64,
}

fn used() -> Result<Used, String> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("reading {path}: {error}"));
    let stat = read("/proc/self/stat")?;
    // The name in brackets may hold anything; utime, stime, cutime, cstime are the 14th to 17th field.
    let (_, rest) = stat.rsplit_once(')').ok_or("/proc/self/stat names no program")?;
    let times: Vec<f64> = rest.split_whitespace().skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    let [user, system, child_user, child_system] = times[..] else { return Err(format!("no times in {stat:?}")) };
    let status = read("/proc/self/status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    let resident_kib = resident.ok_or("/proc/self/status tells no VmRSS")?;
    Ok(Used { ticks: [user + system, child_user + child_system], resident_kib })
}
