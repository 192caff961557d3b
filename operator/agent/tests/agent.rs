//! The whole agent against an API server: what it writes, what it goes on doing when something fails, how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy knows tests by their attribute, not their helpers.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::api::{FakeApi, GPU_NODE, LEASE, NODE};
use common::{Node, library};
use fake_nvml::{Behaviour, Device, Scenario};
use koinon_agent::survey::SurveyCommand;
use koinon_agent::{AgentArgs, Error, UsageArgs};
use koinon_telemetry::{HealthArgs, Process, Role};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// Surveys every second, each for at most three: a machine that compiles beside may be slow.
struct Agent {
    process: Process,
    task: JoinHandle<Result<(), Error>>,
}

fn start(api: &FakeApi, command: SurveyCommand) -> Agent {
    let args = AgentArgs {
        node_name: Some("bilbao-1".parse().unwrap()),
        namespace: "koinon-agent".to_owned(),
        nvml_lib: "/lib/libnvidia-ml.so.1".into(),
        survey_interval: Duration::from_secs(1),
        survey_deadline: Duration::from_secs(3),
        usage: UsageArgs::default(),
        kernel_log: None,
        dcgm_metrics: false,
        limits: None,
        xid_table: None,
        xid_table_interval: Duration::from_secs(120),
        command: None,
    };
    let health = HealthArgs { health_listen: Some(([127, 0, 0, 1], 0).into()) };
    let process = Process::start(Role::Agent, &health).unwrap();
    let task = tokio::spawn(koinon_agent::run_with(args, process.clone(), api.client(), command));
    Agent { process, task }
}

fn start_on(api: &FakeApi, node: &Node) -> Agent {
    start(api, node.command(&library()))
}

impl Agent {
    async fn ready(&self) {
        until("readiness", || self.process.readiness.is_ready().then_some(())).await;
    }

    async fn awaits(&self, name: &str, part: &str) {
        until(&format!("{name} to await {part:?}"), || {
            let pending = self.process.readiness.pending();
            pending.get(name).filter(|why| why.contains(part)).map(drop)
        })
        .await;
    }

    async fn stop(self) {
        self.process.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(5), self.task).await;
        ended.expect("it did not end").expect("it panicked").expect("it failed");
    }

    fn scrape(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.process.registry.gather()).unwrap()
    }

    /// How many series of the metric have `part` in them.
    fn series(&self, name: &str, part: &str) -> usize {
        let text = self.scrape();
        text.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(part)).count()
    }

    fn metric(&self, line: &str) -> Option<f64> {
        let text = self.scrape();
        let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        value.map(|value| value.parse().unwrap())
    }
}

async fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a field of the GPUNode's status has this value.
async fn status(api: &FakeApi, pointer: &str, wanted: Value) -> Value {
    let mut last = Value::Null;
    let what = format!("{pointer} to be {wanted}");
    until(&what, || {
        last = api.object(GPU_NODE)?["status"].clone();
        (last.pointer(pointer) == Some(&wanted)).then(|| last.clone())
    })
    .await
}

/// What the status says of a device's health to others.
fn health(status: &Value, index: usize) -> (Value, Value) {
    let health = &status["devices"][index]["health"];
    (health["state"].clone(), health["reasons"].clone())
}

fn two_gpus() -> Scenario {
    Scenario::of(vec![Device::h100(1), Device::h100(2)])
}

#[tokio::test]
async fn it_writes_its_nodes_gpunode_and_lease_and_nothing_else() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    let agent = start_on(&api, &node);
    agent.ready().await;
    let gpu_node = api.object(GPU_NODE).unwrap();
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "bilbao-1", "uid": "node-uid"}]);
    assert_eq!(gpu_node["metadata"]["ownerReferences"], owner);
    assert_eq!(gpu_node["status"]["installed"], 2);
    assert_eq!(gpu_node["status"]["devices"][0]["class"], "h100-80");
    let lease = api.object(LEASE).unwrap();
    assert_eq!(
        (&lease["spec"]["leaseDurationSeconds"], &lease["spec"]["holderIdentity"]),
        (&json!(30), &json!("bilbao-1"))
    );
    assert_eq!(lease["metadata"]["ownerReferences"], owner);
    assert_eq!(agent.metric(r#"koinon_node_devices{state="healthy"}"#), Some(2.0));
    let marked = agent.series("koinon_agent_nvml_library_info", "fake_nvml.so\",sha256=\"");
    assert_eq!(marked, 1, "it does not say which library answered");
    assert_eq!(agent.metric(r#"koinon_agent_nvml_up{reason="Available"}"#), Some(1.0));
    assert_eq!((agent.series("koinon_gpu_power_watts", ""), agent.series("koinon_gpu_info", "H100")), (2, 2));
    assert_eq!(agent.series("koinon_gpu_health_state", "state=\"healthy\"} 1"), 2);

    agent.stop().await;
    let status = format!("{GPU_NODE}/status");
    for asked in api.everything_asked() {
        let allowed = [
            format!("GET {NODE}"),
            format!("GET {GPU_NODE}"),
            format!("PATCH {GPU_NODE}"),
            format!("PATCH {status}"),
            format!("PATCH {LEASE}"),
        ];
        assert!(allowed.contains(&asked), "{asked}");
    }
}

#[tokio::test]
async fn a_status_that_would_say_the_same_is_not_written_again_while_heartbeats_go_on() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    let agent = start_on(&api, &node);
    agent.ready().await;
    let first = api.object(LEASE).unwrap()["spec"]["renewTime"].clone();
    until("four heartbeats", || (api.asked(&format!("PATCH {LEASE}")) >= 4).then_some(())).await;
    assert_eq!(api.asked(&format!("PATCH {GPU_NODE}/status")), 1);
    assert_ne!(api.object(LEASE).unwrap()["spec"]["renewTime"], first);
    assert!(node.trace().matches("nvmlInit_v2").count() >= 3, "it stopped surveying");
    agent.stop().await;
}

#[tokio::test]
async fn while_the_driver_hangs_the_devices_are_unknown_and_the_heart_beats() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    let agent = start_on(&api, &node);
    status(&api, "/healthy", json!(2)).await;
    node.becomes(&two_gpus().with_fault("nvmlInit_v2", None, Behaviour::Hang));
    let said = status(&api, "/nvml/state", json!("Unresponsive")).await;
    assert_eq!(said["devices"][1]["notShareableReason"], json!("SurveyMissed"));
    let said = status(&api, "/devices/1/health/state", json!("Unknown")).await;
    assert_eq!(health(&said, 1), (json!("Unknown"), json!(["SurveyFailed"])));
    assert_eq!(said.get("healthy"), None, "unknown is not zero");
    let beats = api.asked(&format!("PATCH {LEASE}"));
    until("three heartbeats", || (api.asked(&format!("PATCH {LEASE}")) >= beats + 3).then_some(())).await;
    assert!(agent.process.readiness.is_ready(), "the agent does its work");
    assert!(agent.metric(r#"koinon_agent_survey_failures_total{reason="Hung"}"#) >= Some(1.0));

    node.becomes(&two_gpus());
    let said = status(&api, "/healthy", json!(2)).await;
    assert_eq!(health(&said, 1), (json!("Healthy"), Value::Null));
    agent.stop().await;
}

#[tokio::test]
async fn a_crashing_driver_does_not_crash_the_agent() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus().with_fault("nvmlInit_v2", None, Behaviour::Crash)));
    let agent = start_on(&api, &node);
    status(&api, "/nvml/state", json!("Crashed")).await;
    node.becomes(&two_gpus());
    status(&api, "/nvml/state", json!("Available")).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_node_without_the_library_says_so_and_its_agent_lives() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    let agent = start(&api, node.command(Path::new("/nonexistent/libnvidia-ml.so.1")));
    let said = status(&api, "/nvml/state", json!("LibraryMissing")).await;
    assert_eq!(said.get("installed"), None);
    agent.ready().await;
    agent.stop().await;
}

#[tokio::test]
async fn a_missing_definition_is_awaited_by_name_and_nothing_beats() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    api.fail("gpunodes", 404, "NotFound", "the server could not find the requested resource");
    let agent = start_on(&api, &node);
    agent.awaits("gpunode", "koinon-crds").await;
    assert_eq!(api.object(LEASE), None);
    api.mend();
    agent.ready().await;
    agent.stop().await;
}

#[tokio::test]
async fn an_older_definition_is_told_from_a_missing_one() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    api.fail("gpunodes/bilbao-1/status", 500, "", ".status.devices: field not declared in schema");
    let agent = start_on(&api, &node);
    agent.awaits("gpunode", "field not declared in schema; upgrade the koinon-crds chart").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_policys_refusal_is_not_taken_for_an_older_definition() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    api.fail("gpunodes/bilbao-1/status", 422, "Invalid", "ValidatingAdmissionPolicy 'own-node' denied request");
    let agent = start_on(&api, &node);
    agent.awaits("gpunode", "check that this agent runs as a pod of the DaemonSet").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_status_that_another_version_wrote_and_this_one_cannot_read_is_written_anew() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    let agent = start_on(&api, &node);
    status(&api, "/healthy", json!(2)).await;
    let mut later = api.object(GPU_NODE).unwrap();
    later["status"]["devices"][0]["health"] = json!("splendid");
    api.put(GPU_NODE, later);
    status(&api, "/devices/0/health/state", json!("Healthy")).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_name_that_no_node_has_is_named() {
    let (api, node) = (FakeApi::default(), Node::with(&two_gpus()));
    let agent = start_on(&api, &node);
    agent.awaits("gpunode", "check --node-name").await;
    assert_eq!(api.object(GPU_NODE), None);
    agent.stop().await;
}

#[tokio::test]
async fn a_refusal_names_the_role_to_check() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    api.fail("leases", 403, "Forbidden", "cannot patch resource leases");
    let agent = start_on(&api, &node);
    agent.awaits("heartbeat", "service account").await;
    assert!(agent.metric(r#"koinon_heartbeats_total{result="failed"}"#) >= Some(1.0));
    agent.stop().await;
}

#[tokio::test]
async fn the_heart_stops_when_nobody_can_vouch_for_the_status() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    let agent = start_on(&api, &node);
    agent.ready().await;
    api.fail("gpunodes", 500, "InternalError", "etcd is gone");
    agent.awaits("heartbeat", "vouches").await;
    let beats = api.asked(&format!("PATCH {LEASE}"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(api.asked(&format!("PATCH {LEASE}")), beats);
    api.mend();
    agent.ready().await;
    agent.stop().await;
}

#[tokio::test]
async fn a_deleted_gpunode_is_made_again() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    let agent = start_on(&api, &node);
    status(&api, "/healthy", json!(2)).await;
    api.delete(GPU_NODE);
    status(&api, "/healthy", json!(2)).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_restarted_agent_remembers_the_devices_that_it_wrote() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus()));
    let agent = start_on(&api, &node);
    status(&api, "/healthy", json!(2)).await;
    agent.stop().await;
    node.becomes(&Scenario::of(vec![Device::h100(2)]));
    let agent = start_on(&api, &node);
    let said = status(&api, "/healthy", json!(1)).await;
    assert_eq!(health(&said, 1), (json!("Unknown"), json!(["DeviceMissing"])));
    agent.stop().await;
}

#[tokio::test]
async fn it_ends_at_once_also_in_the_middle_of_a_survey_and_leaves_no_process() {
    let (api, node) = (FakeApi::with_node(), Node::with(&two_gpus().with_fault("nvmlInit_v2", None, Behaviour::Hang)));
    let agent = start_on(&api, &node);
    until("the hang", || node.trace().contains("hang").then_some(())).await;
    agent.stop().await;
    let folder = node.folder.path().display().to_string();
    let left = until("the end of the surveying process", || {
        let surveying = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            String::from_utf8_lossy(&environment).contains(&format!("FAKE_NVML_SCENARIO={folder}"))
        });
        (surveying.count() == 0).then_some(0)
    })
    .await;
    assert_eq!(left, 0);
}
