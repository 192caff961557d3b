//! One node and its agent: the real parts of the agent, the fake library below them, a fake API server above, and a clock that
//! only the stage moves.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use koinon_agent::events::{KernelLog, Mailbox};
use koinon_agent::rounds::Rounds;
use koinon_agent::survey::{Nvml, SurveyCommand, Surveyor, Watch, WatchState, Watcher};
use koinon_agent::usage::Observer;
use koinon_agent::{Publisher, UsageArgs};
use koinon_api::gpu_node::GPUNodeStatus;
use koinon_core::gpu::device::Taken;
use koinon_core::ids::{UnixMicros, UnixSeconds};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::common::api::{FakeApi, GPU_NODE};
use crate::common::{Node, PATIENT};
use crate::kubelet::Kubelet;
use crate::scene::{HostProcess, IDLE_POD, POD, Scene};

/// Ten years after the first GPU with a memory of 80 GB, and a day after the node booted.
const BEGIN: i64 = 1_900_000_000;
const BOOTED: u64 = 86_400_000;
/// From one round to the next, as the agent is shipped.
const INTERVAL: u64 = 10;
/// What the agent may take for a round before nobody vouches for its status any more: three intervals and a deadline.
const VOUCHED: Duration = Duration::from_secs(40);
const MOST_CALLS: usize = 60;
/// Longer than any fault of the catalogue may stay unheard.
const HEARD: Duration = Duration::from_secs(15);

pub struct Stage {
    pub node: Node,
    api: FakeApi,
    kubelet: Kubelet,
    proc: tempfile::TempDir,
    rounds: Rounds,
    surveyor: Surveyor,
    deadline: Duration,
    mailbox: Mailbox,
    listening: Option<Listening>,
    /// Seconds since the stage began.
    elapsed: u64,
    clock: i64,
    logged: usize,
    traced: usize,
    /// What no cell allows, whatever its fault is.
    pub broken: Vec<String>,
}

struct Listening {
    tasks: Vec<JoinHandle<()>>,
    state: watch::Receiver<WatchState>,
}

/// What a cell needs beside the surveys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The watching process and the reader of the kernel's log run.
    pub listens: bool,
    /// A driver hangs, so that surveys are given up sooner.
    pub hangs: bool,
}

impl Stage {
    pub fn new(scene: &Scene, needs: Needs) -> Self {
        let node = Node::with(&scene.scenario);
        let api = FakeApi::with_node();
        let pod = |(name, uid): (&str, &str)| json!({"metadata": {"name": name, "namespace": "team", "uid": uid}});
        api.put(
            "/api/v1/pods",
            json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": [pod(POD), pod(IDLE_POD)]}),
        );
        let (kubelet, proc, mailbox) = (Kubelet::start(), tempfile::tempdir().unwrap(), Mailbox::default());
        let deadline = if needs.hangs { Duration::from_millis(2_500) } else { PATIENT };
        let path = library_of(&node);
        let surveyor = Surveyor::new(node.command(&path), deadline);
        let rounds = rounds(&api, &kubelet, &proc, mailbox.clone());
        let mut stage = Self {
            node,
            api,
            kubelet,
            proc,
            rounds,
            surveyor,
            deadline,
            mailbox,
            listening: None,
            elapsed: 0,
            clock: 0,
            logged: 0,
            traced: 0,
            broken: Vec::new(),
        };
        stage.becomes(scene);
        if needs.listens {
            stage.listen();
        }
        stage
    }

    /// The node is as the scene says, from now on.
    pub fn becomes(&mut self, scene: &Scene) {
        self.clock = scene.clock;
        self.kubelet.says(scene.kubelet.clone());
        let path = library_of(&self.node);
        // A rename, so that there is a library at every moment if there was one before.
        let fresh = path.with_extension("fresh");
        let _ = std::fs::remove_file(&fresh);
        match &scene.library {
            Some(target) => {
                std::os::unix::fs::symlink(target, &fresh).unwrap();
                std::fs::rename(fresh, &path).unwrap();
            }
            None => drop(std::fs::remove_file(&path)),
        }
        for entry in std::fs::read_dir(self.proc.path()).unwrap().flatten() {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
        scene.processes.iter().for_each(|process| self.runs(process));
        self.node.becomes(&scene.scenario);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.node.folder.path().join("kmsg"));
        let mut log = log.unwrap();
        for line in &scene.kernel_log[self.logged.min(scene.kernel_log.len())..] {
            writeln!(log, "{line}").unwrap();
        }
        self.logged = scene.kernel_log.len();
    }

    fn runs(&self, process: &HostProcess) {
        let HostProcess { pid, started, cgroup } = process;
        let folder = self.proc.path().join(pid.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let (numbers, ticks) = (vec!["0"; 18].join(" "), started / 10);
        std::fs::write(folder.join("stat"), format!("{pid} (x) S {numbers} {ticks} 0 0\n")).unwrap();
        std::fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
    }

    fn listen(&mut self) {
        let mut command = self.node.command(&library_of(&self.node)).watching();
        command.arguments.extend(["--wait-milliseconds".into(), "100".into()]);
        // Its calls are no survey's.
        for argument in &mut command.arguments {
            if argument.to_string_lossy().starts_with("FAKE_NVML_TRACE=") {
                *argument = format!("FAKE_NVML_TRACE={}", self.node.folder.path().join("heard").display()).into();
            }
        }
        let watcher = Watcher::new(Watch {
            command,
            processes: self.surveyor.processes().clone(),
            mailbox: self.mailbox.clone(),
            devices: self.rounds.devices(),
        })
        .with_silence(Duration::from_secs(4));
        let log = KernelLog::new(self.node.folder.path().join("kmsg"), self.mailbox.clone());
        let state = watcher.state();
        let mut devices = self.rounds.devices();
        let watching = tokio::spawn(async move {
            let _ = watcher.run().await;
        });
        let reading = tokio::spawn(async move {
            let _ = devices.wait_for(Option::is_some).await;
            let _ = log.run().await;
        });
        self.listening = Some(Listening { tasks: vec![watching, reading], state });
    }

    /// Waits until events are heard.
    pub async fn listens(&mut self) {
        let Some(listening) = &mut self.listening else { return };
        // A driver that names fewer devices is watched anew.
        let there = self.rounds.devices().borrow().as_ref().map_or(0, std::collections::BTreeSet::len);
        let all =
            |state: &WatchState| matches!(state, WatchState::Listening { devices, .. } if *devices as usize == there);
        let heard = listening.state.wait_for(all);
        tokio::time::timeout(PATIENT, heard).await.expect("events are never heard").unwrap();
    }

    /// What is said of whether events are heard.
    pub fn watch_state(&self) -> Option<WatchState> {
        self.listening.as_ref().map(|listening| listening.state.borrow().clone())
    }

    /// Waits until events are no longer heard.
    pub async fn goes_deaf(&mut self) {
        let Some(listening) = &mut self.listening else { return };
        let deaf = listening.state.wait_for(|state| matches!(state, WatchState::Failed { .. }));
        if tokio::time::timeout(PATIENT, deaf).await.is_err() {
            self.broken.push("that nothing is heard is not noticed".to_owned());
        }
    }

    /// Takes in what is still to be heard of what was before.
    pub async fn settles(&mut self) {
        while self.listening.is_some()
            && let Ok(news) = tokio::time::timeout(Duration::from_millis(400), self.mailbox.news()).await
        {
            self.rounds.hear(&news);
        }
    }

    /// Hears until so many errors were reported, or a survey is asked for if that is all that is waited for.
    pub async fn hears(&mut self, errors: u64) {
        let mut heard = 0;
        loop {
            let Ok(mut news) = tokio::time::timeout(HEARD, self.mailbox.news()).await else {
                self.broken.push(format!("of {errors} errors {heard} are heard, and no more"));
                return;
            };
            let now = UnixSeconds(self.now());
            for report in &mut news.reports {
                // Heard by the machine's clock, and now by the stage's.
                (report.first, report.last) = (now, now);
                heard += report.count;
            }
            self.rounds.hear(&news);
            if heard >= errors && (errors > 0 || news.resurvey) {
                return;
            }
        }
    }

    /// The agent ends and starts again, with nothing but what it wrote.
    pub fn restarts(&mut self) {
        self.rounds = rounds(&self.api, &self.kubelet, &self.proc, self.mailbox.clone());
        self.surveyor = Surveyor::new(self.command(), self.deadline);
    }

    pub fn command(&self) -> SurveyCommand {
        self.node.command(&library_of(&self.node))
    }

    fn now(&self) -> i64 {
        BEGIN + i64::try_from(self.elapsed).unwrap() + self.clock
    }

    pub fn passes(&mut self, seconds: u64) {
        self.elapsed += seconds;
    }

    /// A round after the usual time.
    pub async fn round(&mut self) -> GPUNodeStatus {
        self.round_after(INTERVAL).await
    }

    /// One round of the agent, so many seconds after the one before.
    pub async fn round_after(&mut self, seconds: u64) -> GPUNodeStatus {
        self.passes(seconds);
        let began = Instant::now();
        let mut survey = self.surveyor.survey().await;
        let took = began.elapsed();
        survey.taken =
            Taken { at: UnixMicros(self.now() * 1_000_000), uptime_milliseconds: BOOTED + self.elapsed * 1_000 };
        if took > self.deadline + Duration::from_secs(3) {
            self.broken.push(format!("a survey took {took:?}"));
        }
        let available = survey.nvml == Nvml::Available;
        let mut round = self.rounds.begin(survey.clone()).await;
        // A machine that compiles beside may keep the kubelet longer than it is waited for; that is another fault than this one.
        for _ in 0..5 {
            if !round.misses_the_kubelet() {
                break;
            }
            round = self.rounds.begin(survey.clone()).await;
        }
        let now = Time(Timestamp::from_second(self.now()).unwrap());
        if let Err(error) = self.rounds.say(&mut round, now).await {
            self.broken.push(format!("nobody vouches for the status: {error}"));
        }
        if began.elapsed() > VOUCHED {
            self.broken.push(format!("a round took {:?}, in which nobody vouches for the status", began.elapsed()));
        }
        self.counts_calls();
        let status = self.status();
        crate::observed::invariants(&status, available, &mut self.broken);
        status
    }

    fn counts_calls(&mut self) {
        let trace = self.node.trace();
        let mut calls = std::collections::BTreeMap::<&str, usize>::new();
        for line in trace.lines().skip(self.traced) {
            let mut words = line.split(' ');
            let (symbol, device) = (words.next().unwrap_or_default(), words.next().unwrap_or("-"));
            if !(symbol.contains("Get") || ["nvmlInit_v2", "nvmlShutdown"].contains(&symbol)) {
                self.broken.push(format!("a survey calls {symbol}"));
            }
            // Instances are devices of their own, also where they are looked up.
            if device != "-" && symbol != "nvmlDeviceGetMigDeviceHandleByIndex" {
                *calls.entry(device).or_default() += 1;
            }
        }
        let over = calls.iter().filter(|(_, calls)| **calls > MOST_CALLS);
        self.broken.extend(over.map(|(device, calls)| format!("a survey asks device {device} {calls} times")));
        self.traced = trace.lines().count();
    }

    /// How often the status was written.
    pub fn writes(&self) -> usize {
        self.api.asked(&format!("PATCH {GPU_NODE}/status"))
    }

    /// How long the agent would now wait before the next survey.
    pub fn pause(&self) -> u64 {
        self.rounds.pause(Duration::from_secs(INTERVAL)).as_secs()
    }

    pub fn status(&self) -> GPUNodeStatus {
        let object = self.api.object(GPU_NODE).unwrap_or_default();
        let status = object.get("status").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        serde_json::from_value(status).expect("the API server holds a status that is none")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for task in self.listening.iter().flat_map(|listening| &listening.tasks) {
            task.abort();
        }
    }
}

fn library_of(node: &Node) -> PathBuf {
    node.folder.path().join("libnvidia-ml.so.1")
}

fn rounds(api: &FakeApi, kubelet: &Kubelet, proc: &tempfile::TempDir, mailbox: Mailbox) -> Rounds {
    let name: koinon_core::ids::NodeName = "bilbao-1".parse().unwrap();
    let args = UsageArgs {
        pod_resources: Some(kubelet.socket()),
        host_proc: Some(proc.path().to_owned()),
        ..UsageArgs::default()
    };
    let usage = Observer::new(&args, name.clone(), api.client());
    let publisher = Publisher::new(api.client(), "koinon-agent", name);
    let library = PathBuf::from("/lib/libnvidia-ml.so.1");
    Rounds::new(publisher, &library, "boot-1".parse().unwrap(), usage, mailbox)
}
