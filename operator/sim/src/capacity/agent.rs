//! One node's agent: it surveys, judges, writes what others decide by, and renews its heartbeat while that holds.

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::gpu::device::Device;
use koinon_core::gpu::health::{
    self, DeviceReset, History, Inputs, Judgement, Limits, LostDevice, NodeContext, OwnerClear, Survey, SurveyFailure,
};
use koinon_core::gpu::usage::{self, Evidence, Found as Who, Kubelet, NodeUse, Owner, Pods, Relevant, Standing};
use koinon_core::gpu::xid::policy::XidPolicy;
use koinon_core::gpu::xid::{XidEvent, XidSource};
use koinon_core::ids::{DeviceId, UnixSeconds};

use super::driver::{self, Mood};
use super::hardware::{Ailment, Machine};
use super::name;
use super::plan::Second;
use super::status::{self, Found, LogRead, Row, Status};
use crate::dice::Dice;

/// From the end of one survey to the next.
const INTERVAL: Second = 10;
/// For how long a status that was written is vouched for: three rounds and a survey's deadline.
const VOUCHED: Second = 40;

/// An agent.
#[derive(Clone, Debug, Default)]
pub(super) struct Agent {
    memory: Memory,
    /// When it surveys next.
    pub next: Second,
    next_beat: Second,
    vouched: Option<Second>,
    /// Until when it does nothing.
    pub silent_until: Second,
    /// Until when the API server takes nothing from it.
    pub mute_until: Second,
    /// Until when surveys fail, and how.
    pub failing: Option<(Second, SurveyFailure)>,
    pub mood: Mood,
}

/// What it remembers between two rounds; nothing of it survives its end.
#[derive(Clone, Debug, Default)]
struct Memory {
    /// None before the status was read.
    history: Option<History>,
    failed: u32,
    energy: BTreeMap<DeviceId, (u64, UnixSeconds)>,
    standing: Option<Standing>,
    /// Lines of the kernel's log that it has read, of which boot; none before the status was read, which says how far an agent
    /// before this one got.
    read: Option<LogRead>,
}

/// Everything that one round is judged by.
#[derive(Clone, Debug)]
pub(super) struct Round {
    pub survey: Result<(Vec<Device>, Vec<LostDevice>), (SurveyFailure, u32)>,
    pub node: NodeContext,
    pub events: Vec<XidEvent>,
    pub resets: Vec<DeviceReset>,
    pub clears: BTreeMap<DeviceId, OwnerClear>,
    pub kubelet: Kubelet,
    pub pods: Pods,
    pub processes: BTreeMap<u32, Who>,
    pub now: UnixSeconds,
    pub history: History,
    pub standing: Option<Standing>,
    pub previous: Vec<Row>,
}

impl Round {
    /// Judges it: health, use, and the rows that follow.
    pub fn judge(&self) -> (Judgement, Option<NodeUse>, Vec<Row>) {
        let (policy, limits) = (XidPolicy::builtin(), Limits::default());
        let survey = match &self.survey {
            Ok((devices, lost)) => Survey::Read { devices, lost },
            Err((failure, in_a_row)) => Survey::Failed { failure: *failure, in_a_row: *in_a_row },
        };
        let judgement = health::judge(
            self.history.clone(),
            &Inputs {
                survey,
                node: &self.node,
                events: &self.events,
                resets: &self.resets,
                clears: &self.clears,
                canary: &BTreeMap::new(),
                nominal: &BTreeMap::new(),
                policy: &policy,
                limits: &limits,
                now: self.now,
            },
        );
        let usage = self.survey.as_ref().ok().map(|(devices, _)| {
            let evidence = Evidence {
                devices,
                processes: &self.processes,
                kubelet: &self.kubelet,
                pods: &self.pods,
                slices: &BTreeMap::new(),
                relevant: &Relevant::default(),
                shared: &BTreeSet::new(),
                uptime_milliseconds: self.node.uptime_milliseconds,
                limits: usage::Limits::default(),
            };
            usage::judge(&evidence, self.standing.as_ref())
        });
        let devices = self.survey.as_ref().ok().map(|(devices, _)| devices.as_slice());
        let found = Found { devices, judgement: &judgement, usage: usage.as_ref() };
        let rows = status::rows(&self.previous, &found);
        (judgement, usage, rows)
    }
}

/// What the agent needs from outside for a round.
pub(super) struct Around<'a> {
    pub machine: &'a Machine,
    pub status: Option<&'a Status>,
    pub clears: BTreeMap<DeviceId, OwnerClear>,
    pub kubelet: Kubelet,
    pub pods: Pods,
    pub now: Second,
}

impl Agent {
    /// Its process ends and another one starts.
    pub fn restart(&mut self, now: Second) {
        self.memory = Memory::default();
        (self.vouched, self.next, self.next_beat) = (None, now, now);
    }

    pub fn is_due(&self, machine: &Machine, now: Second) -> bool {
        if now < self.silent_until || now < self.mute_until || !machine.is_up(now) {
            return false;
        }
        // An error hastens the next survey.
        let heard = self.memory.read.is_some_and(|(boot, read)| boot == machine.boots && read < machine.log.len());
        now >= self.next || heard && self.memory.failed == 0
    }

    /// Whether its heartbeat goes out now.
    pub fn beats(&mut self, machine: &Machine, now: Second, dice: &mut Dice) -> bool {
        let awake = now >= self.silent_until && now >= self.mute_until && machine.is_up(now);
        if !awake || now < self.next_beat || self.vouched.is_none_or(|at| now.saturating_sub(at) > VOUCHED) {
            return false;
        }
        self.next_beat = now + INTERVAL - dice.below(2) as u64;
        true
    }

    /// Collects what a round is judged by.
    pub fn look(&mut self, around: &Around<'_>, dice: &mut Dice) -> Round {
        let Around { machine, now, .. } = *around;
        let unix = machine.unix(now);
        let of_this_boot = |read: &LogRead| read.0 == machine.boots;
        if self.memory.read.is_some_and(|read| !of_this_boot(&read)) {
            self.memory = Memory::default();
        }
        let written = around.status.map(|status| status.read).filter(of_this_boot);
        let (_, read) = *self.memory.read.get_or_insert(written.unwrap_or((machine.boots, 0)));
        let hung = machine.gpus.iter().any(|gpu| gpu.listed && gpu.ailment == Some(Ailment::Hung));
        let failing = self.failing.filter(|(until, _)| now < *until).map(|(_, failure)| failure);
        let failure = failing.or(hung.then_some(SurveyFailure::Deadline));
        let survey = match failure {
            None => Ok(driver::read(machine, &self.mood, now, dice)),
            Some(failure) => Err((failure, self.memory.failed.saturating_add(1))),
        };
        let line = |line: &super::hardware::LogLine| XidEvent {
            at: line.at,
            device: line.device.clone(),
            xid: line.xid,
            source: XidSource::KernelLog,
            place: None,
            detail: None,
            workload: None,
        };
        let resets = survey.as_ref().map(|(devices, _)| self.resets(devices, unix)).unwrap_or_default();
        let started = |process: &super::hardware::Process| {
            machine.uptime_milliseconds(now).saturating_sub(now.saturating_sub(process.started) * 1_000)
        };
        let processes = machine.processes.iter().map(|process| {
            let owner = match &process.pod {
                Some(uid) => Owner::Pod { uid: uid.clone(), container: None },
                None => Owner::Host,
            };
            (process.pid, Who { started_milliseconds: Some(started(process)), owner })
        });
        Round {
            survey,
            node: NodeContext {
                boot: machine.boot(),
                uptime_milliseconds: machine.uptime_milliseconds(now),
                driver: Some(name("580.95.05")),
                ready_since: None,
            },
            events: machine.log.iter().skip(read).map(line).collect(),
            resets,
            clears: around.clears.clone(),
            kubelet: around.kubelet.clone(),
            pods: around.pods.clone(),
            processes: processes.collect(),
            now: unix,
            history: self
                .memory
                .history
                .clone()
                .or(around.status.map(|status| status.history.clone()))
                .unwrap_or_default(),
            standing: self.memory.standing.clone(),
            previous: around.status.map(|status| status.rows.clone()).unwrap_or_default(),
        }
    }

    /// Remembers what a round came to; the status that follows, if it is worth a write.
    pub fn conclude(
        &mut self,
        round: &Round,
        judged: (Judgement, Option<NodeUse>, Vec<Row>),
        around: &Around<'_>,
        dice: &mut Dice,
    ) -> Option<Status> {
        let (judgement, usage, rows) = judged;
        let now = around.now;
        self.memory.failed = round.survey.as_ref().err().map_or(0, |(_, in_a_row)| *in_a_row);
        let read = (around.machine.boots, around.machine.log.len());
        self.memory.read = Some(read);
        self.memory.history = Some(judgement.history.clone());
        if let Some(usage) = usage {
            self.memory.standing = Some(usage.standing);
        }
        // A driver that fails is asked ever less often.
        let doubled = INTERVAL << self.memory.failed.saturating_sub(1).min(5);
        self.next = now + doubled - dice.below(2) as u64;
        self.vouched = Some(now);
        let next = Status { rows, history: judgement.history, read, written: now };
        status::is_due(around.status, &next).then_some(next)
    }

    /// While surveys are far apart what was found last is vouched for.
    pub fn vouch(&mut self, machine: &Machine, now: Second) {
        let awake = now >= self.silent_until && now >= self.mute_until && machine.is_up(now);
        if awake && self.memory.failed > 1 && self.vouched.is_some_and(|at| now >= at + INTERVAL) {
            self.vouched = Some(now);
        }
    }

    /// Devices whose driver counts anew what they draw.
    fn resets(&mut self, devices: &[Device], now: UnixSeconds) -> Vec<DeviceReset> {
        let mut resets = Vec::new();
        for device in devices {
            let Some(drawn) = device.power.millijoules.get() else { continue };
            if let Some((before, at)) = self.memory.energy.insert(device.id.clone(), (drawn, now))
                && drawn < before
            {
                resets.push(DeviceReset { device: device.id.clone(), at });
            }
        }
        resets
    }
}
