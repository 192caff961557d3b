//! Some of the faults with the whole agent: its tasks, its pace, its heartbeat.

use std::time::{Duration, Instant};

use fake_nvml::{Behaviour, DeviceState, EVERY_SYMBOL};
use koinon_agent::{AgentArgs, UsageArgs};
use koinon_api::gpu_node::GPUNodeStatus;
use koinon_telemetry::{HealthArgs, Process, Role};

use crate::cell::Line;
use crate::common::api::{FakeApi, GPU_NODE, LEASE};
use crate::common::{Node, library};
use crate::observed;
use crate::random::Seed;
use crate::scene::{Phase, Scene, TARGET};

/// No fault of the catalogue allows more, and the agent here surveys every second.
const WITHIN: Duration = Duration::from_secs(15);

#[derive(Clone, Copy)]
pub struct Whole {
    pub fault: &'static str,
    variant: &'static str,
    strike: fn(&mut Scene),
    expected: &'static str,
    /// The agent ends, for a new container to take its place.
    ends: bool,
}

pub fn all() -> Vec<Whole> {
    // Nobody told the agent of a kubelet, so that it cannot say who uses a device.
    let unasked =
        "target Unknown(SurveyFailed) Keep NotHealthy; others Unknown(SurveyFailed) Keep NotHealthy; the heart beats";
    let whole = |fault, variant, strike, nvml: &str, rest: &str| {
        let expected: &'static str = format!("NVML {nvml}; {rest}").leak();
        Whole { fault, variant, strike, expected, ends: false }
    };
    vec![
        whole(
            "F02",
            "the driver is not loaded",
            |scene| scene.fails("nvmlInit_v2", Behaviour::Return(9)),
            "DriverNotLoaded 9",
            unasked,
        ),
        Whole {
            ends: true,
            ..whole(
                "F02",
                "an unknown error after a good time, three times",
                |scene| scene.fails("nvmlInit_v2", Behaviour::Return(999)),
                "Error 999",
                "target Unknown(SurveyFailed) Keep NotHealthy; others Unknown(SurveyFailed) Keep NotHealthy; the agent ends",
            )
        },
        whole(
            "F06",
            "fallen off the bus, and the driver tells",
            |scene| {
                scene.xid(79);
                scene.target().state = DeviceState::Lost;
            },
            "Available",
            "target Unhealthy(GPULost, FallenOffBus, DeviceMissing) RebootNode DrainNode NotHealthy; others Healthy NodeFault; the heart beats",
        ),
        whole(
            "F14",
            "initialisation hangs",
            |scene| scene.fails("nvmlInit_v2", Behaviour::Hang),
            "Unresponsive",
            unasked,
        ),
        whole(
            "F28",
            "every call returns 1",
            |scene| scene.fails(EVERY_SYMBOL, Behaviour::Return(1)),
            "Error 1",
            unasked,
        ),
        whole("F30", "the library crashes", |scene| scene.fails("nvmlInit_v2", Behaviour::Crash), "Crashed", unasked),
    ]
}

impl Whole {
    pub async fn run(&self) -> Line {
        let (observed, complaints) = self.observe().await;
        let fault = format!("{} {}", self.fault, self.variant);
        Line { fault, phase: "the whole agent", observed, expected: self.expected.to_owned(), complaints }
    }

    async fn observe(&self) -> (String, Vec<String>) {
        let mut scene = Scene::sound(Phase::Steady, Seed(0));
        let (api, node) = (FakeApi::with_node(), Node::with(&scene.scenario));
        let args = AgentArgs {
            node_name: Some("bilbao-1".parse().unwrap()),
            namespace: "koinon-agent".to_owned(),
            nvml_lib: "/lib/libnvidia-ml.so.1".into(),
            survey_interval: Duration::from_secs(1),
            survey_deadline: Duration::from_secs(2),
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
        let agent = tokio::spawn(koinon_agent::run_with(args, process.clone(), api.client(), node.command(&library())));
        until(WITHIN, || status(&api).healthy == Some(3)).await;
        until(WITHIN, || node.trace().contains("RegisterEvents")).await;
        (self.strike)(&mut scene);
        node.becomes(&scene.scenario);
        until(WITHIN, || self.expected.starts_with(&text(&api))).await;
        let seen = text(&api);
        if self.ends {
            let ended = tokio::time::timeout(WITHIN, agent).await;
            let said = match ended {
                Ok(Ok(Err(error))) if error.to_string().contains("only a new container") => "the agent ends".to_owned(),
                other => format!("the agent does not end for its devices: {other:?}"),
            };
            return (format!("{seen}; {said}"), Vec::new());
        }
        let before = beats(&api);
        let heart = if until(Duration::from_secs(5), || beats(&api) > before).await {
            "the heart beats"
        } else {
            "no heartbeat"
        };
        let mut complaints = Vec::new();
        node.becomes(&Scene::sound(Phase::Steady, Seed(0)).scenario);
        if !until(WITHIN, || observed::nvml(&status(&api)) == "Available").await {
            complaints.push("it does not go on once the fault has gone".to_owned());
        }
        if agent.is_finished() {
            complaints.push("the agent has ended".to_owned());
        }
        process.stop.cancel();
        if tokio::time::timeout(WITHIN, agent).await.is_err() {
            complaints.push("the agent does not end when it is told to".to_owned());
        }
        (format!("{seen}; {heart}"), complaints)
    }
}

fn status(api: &FakeApi) -> GPUNodeStatus {
    let object = api.object(GPU_NODE).unwrap_or_default();
    object.get("status").cloned().map(|status| serde_json::from_value(status).unwrap()).unwrap_or_default()
}

fn text(api: &FakeApi) -> String {
    let status = status(api);
    let (target, others) = (observed::text(&status, TARGET), observed::others(&status, false));
    format!("NVML {}; target {target}; others {others}", observed::nvml(&status))
}

fn beats(api: &FakeApi) -> usize {
    api.asked(&format!("PATCH {LEASE}"))
}

async fn until(within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < within {
        if holds() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    holds()
}
