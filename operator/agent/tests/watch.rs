//! What is heard between two surveys: the real watching process, the real library calls, events and faults from the scenario.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // clippy knows tests by their attribute, not their helpers.

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::api::{FakeApi, GPU_NODE};
use common::{Node, PATIENT, library};
use fake_nvml::{Behaviour, Device, DeviceState, Event, Fault, Scenario};
use koinon_agent::AgentArgs;
use koinon_agent::events::{Mailbox, News, Report};
use koinon_agent::survey::{Failure, Processes, Watch, WatchState, Watcher};
use koinon_core::gpu::xid::{Xid, XidSource};
use koinon_core::ids::DeviceId;
use koinon_telemetry::{HealthArgs, Process, Role};
use serde_json::json;
use tokio::io::AsyncBufReadExt;
use tokio::sync::watch;

const FIRST: &str = "GPU-fa4e0000-0000-4000-8000-000000000001";
const SECOND: &str = "GPU-fa4e0000-0000-4000-8000-000000000002";

fn two_gpus() -> Scenario {
    Scenario::known(vec![Device::h100(1), Device::h100(2)])
}

fn devices(ids: &[&str]) -> Option<BTreeSet<DeviceId>> {
    Some(ids.iter().map(|id| id.parse().unwrap()).collect())
}

struct Watched {
    mailbox: Mailbox,
    processes: Processes,
    found: watch::Sender<Option<BTreeSet<DeviceId>>>,
    state: watch::Receiver<WatchState>,
    task: tokio::task::JoinHandle<()>,
}

fn start(node: &Node, silence: Duration) -> Watched {
    let mut command = node.command(&library()).watching();
    command.arguments.extend(["--wait-milliseconds".into(), "200".into()]);
    let (mailbox, processes) = (Mailbox::default(), Processes::default());
    let (found, receiver) = watch::channel(devices(&[FIRST, SECOND]));
    let watch = Watch { command, processes: processes.clone(), mailbox: mailbox.clone(), devices: receiver };
    let watcher = Watcher::new(watch).with_silence(silence);
    let state = watcher.state();
    let task = tokio::spawn(async move {
        let _ = watcher.run().await;
    });
    Watched { mailbox, processes, found, state, task }
}

impl Watched {
    async fn listens(&mut self, devices: u32, of: u32) {
        let listening = WatchState::Listening { devices, of };
        let state = self.state.wait_for(|state| *state == listening);
        tokio::time::timeout(PATIENT, state).await.expect("it does not listen").unwrap();
    }

    async fn fails(&mut self) -> (Failure, String) {
        let state = self.state.wait_for(|state| matches!(state, WatchState::Failed { .. }));
        let state = tokio::time::timeout(PATIENT, state).await.expect("it does not fail").unwrap().clone();
        let WatchState::Failed { failure, message } = state else { panic!("{state:?}") };
        (failure, message)
    }

    async fn news(&self) -> News {
        tokio::time::timeout(PATIENT, self.mailbox.news()).await.expect("nothing was heard")
    }

    /// What is heard until this many errors were.
    async fn reports(&self, errors: u64) -> Vec<Report> {
        let mut reports: Vec<Report> = Vec::new();
        while reports.iter().map(|report| report.count).sum::<u64>() < errors {
            reports.extend(self.news().await.reports);
        }
        reports
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn an_error_is_heard_of_its_device_and_its_instance() {
    let node = Node::with(&two_gpus());
    let mut watched = start(&node, PATIENT);
    watched.listens(2, 2).await;
    let event = Event::xid(1, 94).but(|event| (event.gi, event.ci) = (Some(7), Some(0)));
    let started = Instant::now();
    node.becomes(&two_gpus().but(|scenario| scenario.events = vec![event]));
    let reports = watched.reports(1).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let [report] = reports.as_slice() else { panic!("{reports:?}") };
    assert_eq!((report.device.as_ref().map(DeviceId::as_str), report.xid), (Some(SECOND), Xid(94)));
    assert_eq!(report.place.map(|place| (place.gpu_instance, place.compute_instance)), Some((7, 0)));
    assert_eq!(report.sources.iter().copied().collect::<Vec<_>>(), [XidSource::Nvml]);
}

#[tokio::test]
async fn what_an_event_does_not_say_a_survey_must_find_out() {
    let unknown_bit = Event { types: 0x8000, data: 2, unasked: true, ..Event::xid(0, 0) };
    let no_type = Event { types: 0, unasked: true, ..Event::xid(0, 0) };
    let double_bit = Event { types: 0x2, ..Event::xid(0, 0) };
    for event in [unknown_bit, no_type, double_bit] {
        let node = Node::with(&two_gpus());
        let mut watched = start(&node, PATIENT);
        watched.listens(2, 2).await;
        node.becomes(&two_gpus().but(|scenario| scenario.events = vec![event.clone()]));
        let news = watched.news().await;
        assert!(news.resurvey && news.reports.is_empty(), "{event:?}: {news:?}");
    }
    let nobody = Event { device: None, ..Event::xid(0, 79) };
    let node = Node::with(&two_gpus().but(|scenario| scenario.events = vec![nobody]));
    let watched = start(&node, PATIENT);
    let reports = watched.reports(1).await;
    assert_eq!((&reports[0].device, reports[0].xid), (&None, Xid(79)));
}

/// Corrected errors come at a million a minute, and each survey reads their counter.
#[tokio::test]
async fn corrected_errors_wake_nobody() {
    let node = Node::with(&two_gpus());
    let mut watched = start(&node, PATIENT);
    watched.listens(2, 2).await;
    let corrected = Event { types: 0x1, times: u32::MAX, every_milliseconds: 1, ..Event::xid(0, 0) };
    node.becomes(&two_gpus().but(|scenario| scenario.events = vec![corrected, Event::xid(1, 92)]));
    assert_eq!(watched.reports(1).await[0].xid, Xid(92));
    let more = tokio::time::timeout(Duration::from_secs(1), watched.mailbox.news()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn a_device_without_events_says_nothing_of_the_others() {
    let node = Node::with(&Scenario::known(vec![Device::bare(1), Device::h100(2)]));
    let mut watched = start(&node, PATIENT);
    watched.listens(1, 2).await;
    node.becomes(&Scenario::known(vec![Device::bare(1), Device::h100(2)]).but(|s| s.events = vec![Event::xid(1, 48)]));
    assert_eq!(watched.reports(1).await[0].device.as_ref().map(DeviceId::as_str), Some(SECOND));
}

#[tokio::test]
async fn a_device_that_comes_later_is_watched_as_well() {
    let node = Node::with(&Scenario::known(vec![Device::h100(1)]));
    let mut watched = start(&node, PATIENT);
    watched.listens(1, 1).await;
    node.becomes(&two_gpus());
    watched.found.send_replace(devices(&[SECOND]));
    watched.listens(2, 2).await;
    node.becomes(&two_gpus().but(|scenario| scenario.events = vec![Event::xid(1, 63)]));
    assert_eq!(watched.reports(1).await[0].device.as_ref().map(DeviceId::as_str), Some(SECOND));
    assert_eq!(watched.processes.stuck(), 0);
}

#[tokio::test]
async fn a_driver_that_hangs_or_crashes_while_it_is_waited_for_is_waited_for_again() {
    for (symbol, behaviour, failure) in [
        ("nvmlInit_v2", Behaviour::Hang, Failure::Hung),
        ("nvmlDeviceRegisterEvents", Behaviour::Hang, Failure::Hung),
        ("nvmlEventSetWait_v2", Behaviour::Hang, Failure::Hung),
        ("nvmlEventSetWait_v2", Behaviour::Crash, Failure::Crashed),
        ("nvmlInit_v2", Behaviour::Return(9), Failure::DriverNotLoaded),
        ("nvmlEventSetCreate", Behaviour::Return(999), Failure::Error),
        ("nvmlDeviceRegisterEvents", Behaviour::Return(999), Failure::Error),
    ] {
        let node = Node::with(&two_gpus().with_fault(symbol, None, behaviour));
        let mut watched = start(&node, Duration::from_secs(1));
        let (seen, message) = watched.fails().await;
        assert_eq!(seen, failure, "{symbol}: {message}");
        assert!(watched.news().await.resurvey);
        node.becomes(&two_gpus());
        watched.listens(2, 2).await;
        assert_eq!(watched.processes.stuck(), 0);
    }
}

#[tokio::test]
async fn a_wait_that_fails_is_no_reason_to_stop_listening() {
    let node = Node::with(&two_gpus());
    let mut watched = start(&node, PATIENT);
    watched.listens(2, 2).await;
    let lost = Fault {
        symbol: "nvmlEventSetWait_v2".to_owned(),
        device: None,
        after_calls: 0,
        behaviour: Behaviour::Return(15),
    };
    node.becomes(&two_gpus().but(|scenario| scenario.faults = vec![lost]));
    assert!(watched.news().await.resurvey);
    node.becomes(&two_gpus().but(|scenario| scenario.events = vec![Event::xid(0, 79)]));
    assert_eq!(watched.reports(1).await[0].xid, Xid(79));
    assert_eq!(*watched.state.borrow(), WatchState::Listening { devices: 2, of: 2 });
}

/// A process ends when nobody listens any more, so that no agent that died leaves one behind.
#[tokio::test]
async fn the_watching_process_ends_with_its_agent() {
    let node = Node::with(&two_gpus());
    let command = node.command(&library()).watching();
    let mut child = std::process::Command::new(&command.program)
        .args(&command.arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it ended while somebody listened");
    drop(child.stdin.take());
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < PATIENT, "it goes on for nobody");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A thousand events a second of one kind are told five times a second, as numbers.
#[tokio::test]
async fn the_watching_process_says_little_of_a_storm() {
    let storm = Event { times: u32::MAX, every_milliseconds: 1, ..Event::xid(0, 13) };
    let node = Node::with(&two_gpus().but(|scenario| scenario.events = vec![storm]));
    let command = node.command(&library()).watching();
    let mut child = tokio::process::Command::new(&command.program)
        .args(&command.arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut told, mut heard) = (Vec::new(), 0);
    while told.len() < 10 {
        let line = tokio::time::timeout(PATIENT, lines.next_line()).await.expect("it fell silent").unwrap().unwrap();
        let Some(said) = line.strip_prefix("koinon-watch/1 ") else { continue };
        let said: serde_json::Value = serde_json::from_str(said).unwrap();
        if let Some(times) = said.pointer("/event/times").and_then(serde_json::Value::as_u64) {
            told.push(Instant::now());
            heard += times;
        }
    }
    // Nine times 200 ms lie between them; the first may have been read late.
    let between = told[9].duration_since(told[0]);
    assert!(between > Duration::from_secs(1), "ten lines within {between:?}");
    assert!(heard >= 50, "only {heard} events were heard");
}

/// 40 codes of 25 events a second each, and one that comes once.
#[tokio::test]
async fn a_storm_of_events_is_told_in_numbers_and_hides_nothing() {
    let node = Node::with(&two_gpus());
    let mut watched = start(&node, PATIENT);
    watched.listens(2, 2).await;
    let storm = |code| Event { times: 50, every_milliseconds: 40, ..Event::xid(0, code) };
    let mut events: Vec<Event> = (100..140).map(storm).collect();
    events.push(Event { after_milliseconds: 1000, ..Event::xid(1, 79) });
    node.becomes(&two_gpus().but(|scenario| scenario.events = events));
    let started = Instant::now();
    let (mut heard, mut fetches, mut surveys, mut worst) = (0, 0, 0, false);
    while heard < 2001 && started.elapsed() < PATIENT {
        let news = watched.news().await;
        fetches += 1;
        surveys += u32::from(news.resurvey);
        for report in news.reports {
            heard += report.count;
            worst |= report.xid == Xid(79) && report.device.as_ref().map(DeviceId::as_str) == Some(SECOND);
        }
    }
    assert_eq!((heard, worst), (2001, true));
    let seconds = started.elapsed().as_secs_f64();
    assert!(f64::from(fetches) <= 5.0 * seconds + 2.0, "{fetches} fetches in {seconds} s");
    assert!(surveys <= 4, "{surveys} of {fetches} ask for a survey");
}

struct Agent {
    process: Process,
    task: tokio::task::JoinHandle<Result<(), koinon_agent::Error>>,
}

/// An agent that surveys by itself only every fifteen seconds.
fn agent(api: &FakeApi, node: &Node, kernel_log: Option<PathBuf>) -> Agent {
    agent_with(api, node, kernel_log, None)
}

/// The same, that looks every second for a voted table of XIDs in this namespace.
fn agent_with(api: &FakeApi, node: &Node, kernel_log: Option<PathBuf>, xid_table: Option<String>) -> Agent {
    let args = AgentArgs {
        node_name: Some("bilbao-1".parse().unwrap()),
        namespace: "koinon-agent".to_owned(),
        nvml_lib: "/lib/libnvidia-ml.so.1".into(),
        survey_interval: Duration::from_secs(15),
        survey_deadline: Duration::from_secs(10),
        kernel_log,
        usage: koinon_agent::UsageArgs::default(),
        dcgm_metrics: false,
        limits: None,
        xid_table,
        xid_table_interval: Duration::from_secs(1),
        command: None,
    };
    let health = HealthArgs { health_listen: Some(([127, 0, 0, 1], 0).into()) };
    let process = Process::start(Role::Agent, &health).unwrap();
    let task = tokio::spawn(koinon_agent::run_with(args, process.clone(), api.client(), node.command(&library())));
    Agent { process, task }
}

impl Agent {
    fn metric(&self, line: &str) -> Option<f64> {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.process.registry.gather()).unwrap();
        let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        value.map(|value| value.parse().unwrap())
    }

    async fn stop(self) {
        self.process.stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), self.task).await.expect("it did not end").unwrap().unwrap();
    }
}

async fn until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < within, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn says_lost(api: &FakeApi) -> bool {
    let Some(found) = api.object(GPU_NODE) else { return false };
    let devices = found["status"]["devices"].as_array().cloned().unwrap_or_default();
    let Some(device) = devices.iter().find(|device| device["uuid"] == FIRST) else { return false };
    let reasons = device["health"]["reasons"].as_array().cloned().unwrap_or_default();
    // What the driver reported, and what the survey for which that was the cause found.
    device["health"]["state"] == "Unhealthy"
        && ["FallenOffBus", "GPULost"].iter().all(|said| reasons.contains(&json!(said)))
}

fn healthy(api: &FakeApi) -> bool {
    api.object(GPU_NODE).is_some_and(|found| found["status"]["healthy"] == 2)
}

fn lost() -> Vec<Device> {
    vec![Device { state: DeviceState::Lost, ..Device::h100(1) }, Device::h100(2)]
}

fn surveys(node: &Node) -> usize {
    node.trace().lines().filter(|line| line.starts_with("nvmlSystemGetNVMLVersion")).count()
}

#[tokio::test]
async fn a_device_that_falls_off_the_bus_is_unhealthy_long_before_the_next_survey_is_due() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    let agent = agent(&api, &node, None);
    until("a sound node", PATIENT, || healthy(&api)).await;
    // The watching process starts once the survey has found something to watch.
    until("the watch", PATIENT, || {
        node.trace().contains("nvmlEventSetWait_v2") || node.trace().contains("RegisterEvents 1")
    })
    .await;
    node.becomes(&Scenario::known(lost()).but(|scenario| scenario.events = vec![Event::xid(0, 79)]));
    until("the lost device", Duration::from_secs(8), || says_lost(&api)).await;
    let counted =
        format!("koinon_gpu_xid_events_total{{uuid=\"{FIRST}\",xid=\"79\",class=\"reboot\",source=\"nvml\"}}");
    assert_eq!(agent.metric(&counted), Some(1.0));
    assert_eq!(agent.metric("koinon_agent_driver_events_heard"), Some(1.0));
    assert_eq!(agent.metric("koinon_agent_kernel_log_readable"), None, "nobody asked for it");
    agent.stop().await;
}

#[tokio::test]
async fn the_kernels_log_is_heard_where_it_is_given() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    let path = node.folder.path().join("kmsg");
    std::fs::write(&path, "6,1,1,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module\n").unwrap();
    let agent = agent(&api, &node, Some(path.clone()));
    until("a sound node", PATIENT, || healthy(&api)).await;
    node.becomes(&Scenario::known(lost()));
    let mut log = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    writeln!(log, "4,2,2,-;NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.").unwrap();
    until("the lost device", Duration::from_secs(8), || says_lost(&api)).await;
    let counted =
        format!("koinon_gpu_xid_events_total{{uuid=\"{FIRST}\",xid=\"79\",class=\"reboot\",source=\"kmsg\"}}");
    assert_eq!(agent.metric(&counted), Some(1.0));
    assert_eq!(agent.metric("koinon_agent_kernel_log_readable"), Some(1.0));
    agent.stop().await;
}

#[tokio::test]
async fn a_kernels_log_that_cannot_be_read_is_said_and_the_agent_goes_on() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    let agent = agent(&api, &node, Some(Path::new("/nonexistent/kmsg").to_owned()));
    until("a sound node", PATIENT, || healthy(&api)).await;
    // It is said with the next survey, which an event brings.
    until("the watch", PATIENT, || node.trace().contains("RegisterEvents 1")).await;
    node.becomes(&two_gpus().but(|scenario| scenario.events = vec![Event::xid(0, 13)]));
    until("the metric", Duration::from_secs(8), || agent.metric("koinon_agent_kernel_log_readable") == Some(0.0)).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_storm_brings_no_more_than_one_survey_a_second() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    let agent = agent(&api, &node, None);
    until("a sound node", PATIENT, || healthy(&api)).await;
    until("the watch", PATIENT, || node.trace().contains("RegisterEvents 1")).await;
    let before = surveys(&node);
    // Each of these is a fresh error: the worst for who surveys for each.
    let events = (0..100).map(|code| Event { after_milliseconds: 30 * code, ..Event::xid(0, code) }).collect();
    node.becomes(&two_gpus().but(|scenario| scenario.events = events));
    tokio::time::sleep(Duration::from_secs(4)).await;
    let brought = surveys(&node) - before;
    assert!((2..=5).contains(&brought), "{brought} surveys in four seconds");
    agent.stop().await;
}

#[tokio::test]
async fn a_changed_recovery_action_is_an_error_of_its_own() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    let agent = agent(&api, &node, None);
    until("a sound node", PATIENT, || healthy(&api)).await;
    until("the watch", PATIENT, || node.trace().contains("RegisterEvents 1")).await;
    let reset = Device::h100(2).but(|device| device.errors.recovery_action = Some(1));
    // The driver's own event for it has a bit that says nothing to clients of its time.
    let event = Event { types: 0x8000, unasked: true, ..Event::xid(1, 0) };
    node.becomes(&Scenario::known(vec![Device::h100(1), reset]).but(|scenario| scenario.events = vec![event]));
    let counted =
        format!("koinon_gpu_xid_events_total{{uuid=\"{SECOND}\",xid=\"154\",class=\"workflow\",source=\"field230\"}}");
    until("the error", Duration::from_secs(8), || agent.metric(&counted) == Some(1.0)).await;
    agent.stop().await;
}

const TABLE: &str = "/api/v1/namespaces/koinon-system/configmaps/koinon-xids";

fn table(text: &str) -> serde_json::Value {
    serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "koinon-xids"}, "data": {"xids.json": text}})
}

/// A field of the GPUNode's status.
fn says(api: &FakeApi, pointer: &str) -> Option<serde_json::Value> {
    api.object(GPU_NODE)?["status"].pointer(pointer).cloned()
}

#[tokio::test]
async fn an_error_that_the_release_only_notes_condemns_a_device_once_it_was_voted_to() {
    let node = Node::with(&two_gpus());
    let api = FakeApi::with_node();
    let agent = agent_with(&api, &node, None, Some("koinon-system".to_owned()));
    until("a sound node", PATIENT, || healthy(&api)).await;
    until("the watch", PATIENT, || node.trace().contains("RegisterEvents 1")).await;
    let reported = |class: &str| {
        let line =
            format!("koinon_gpu_xid_events_total{{uuid=\"{FIRST}\",xid=\"43\",class=\"{class}\",source=\"nvml\"}}");
        agent.metric(&line)
    };
    node.becomes(&two_gpus().but(|scenario| scenario.events = vec![Event::xid(0, 43)]));
    until("the first report", PATIENT, || reported("info") == Some(1.0)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(says(&api, "/devices/0/health/state"), Some("Healthy".into()), "the built-in table only notes it");
    assert_eq!(says(&api, "/agent/xidTable"), None);
    // A table that is no table changes nothing.
    api.put(TABLE, table("{"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let row = serde_json::json!({"code": 43, "class": "reset", "state": "Unhealthy", "reason": "VotedReason", "action": "ResetGPU",
        "offer": "Nothing", "work": "Drain"});
    api.put(TABLE, table(&serde_json::json!({"rows": [row]}).to_string()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.becomes(&two_gpus().but(|scenario| {
        scenario.events = vec![Event { after_milliseconds: 100, ..Event::xid(0, 43) }];
    }));
    let condemned = || says(&api, "/devices/0/health/state") == Some("Unhealthy".into());
    until("the vote to count", PATIENT, condemned).await;
    until("the report to be counted by the voted sort", PATIENT, || reported("reset") == Some(1.0)).await;
    assert_eq!(says(&api, "/devices/0/health/reasons/0"), Some("VotedReason".into()));
    assert_eq!(says(&api, "/devices/1/health/state"), Some("Healthy".into()));
    let digest =
        says(&api, "/agent/xidTable").and_then(|digest| digest.as_str().map(str::to_owned)).unwrap_or_default();
    assert!(digest.starts_with("sha256:"), "{digest}");
    // The last good table holds when it is gone, and when nobody answers.
    api.delete(TABLE);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(says(&api, "/agent/xidTable"), Some(digest.into()));
    agent.stop().await;
}
