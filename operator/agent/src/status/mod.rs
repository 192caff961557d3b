//! From what was found out of a node to the status of its `GPUNode`. Pure: what was said before, what was found, and the time.
//!
//! ```text
//!  survey ─┬─▶ judgement (core::gpu::health) ─┬─▶ rows (a device each) ─▶ status, if it says something new
//!          └─▶ use (core::gpu::usage) ────────┘
//! ```

mod device;
pub mod memory;
mod pace;
mod sight;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use koinon_api::conditions::{self, ConditionStatus, ConditionType, Reason, Verdict};
use koinon_api::gpu_node::{
    AgentInfo, Device, Driver, GPUNodeStatus, HealthState, Nvml, NvmlState, PodResources, Scheduler, SchedulerResource,
    SchedulerSource,
};
use koinon_core::gpu::health::Judgement;
use koinon_core::ids::Digest;

use crate::events::KernelLogState;
use crate::survey::{self, Failure, Survey};
use crate::usage::Observed;

/// As many as the resource may name.
const MAX_RESOURCES: usize = 32;

/// Who surveyed.
#[derive(Debug, Clone)]
pub struct Observer {
    /// The agent's version.
    pub version: String,
    /// The node's boot.
    pub boot_id: String,
    /// The NVML library that is loaded.
    pub library: String,
    /// What the owner has set by which devices are judged.
    pub limits: BTreeMap<String, i64>,
    /// The voted table of XIDs by which they are.
    pub xid_table: Option<Digest>,
}

/// What was found out of a node in one round.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// What its driver says.
    pub survey: &'a Survey,
    /// What that amounts to.
    pub judgement: &'a Judgement,
    /// Who uses its devices. None where nothing was read that could be used.
    pub observed: Option<&'a Observed>,
    /// Whether the kernel's log is read. None if nobody was asked to.
    pub kernel_log: Option<&'a KernelLogState>,
    /// The record of that log after the last one that was judged.
    pub log_judged: u64,
}

/// The status to write, or none if it would say the same as what stands there, or so nearly that it can wait.
pub fn next(
    previous: &GPUNodeStatus,
    found: &Found<'_>,
    observer: &Observer,
    generation: Option<i64>,
    now: &Time,
) -> Option<GPUNodeStatus> {
    let survey = found.survey;
    let devices = device::rows(&previous.devices, found, now);
    let read = survey.failure().is_none();
    let healthy =
        devices.iter().filter(|device| device.health.state == HealthState::Healthy && device.parent.is_none());
    let healthy = count(healthy.count());
    let before = previous.agent.as_ref().filter(|agent| agent.boot_id == observer.boot_id);
    let mut status = GPUNodeStatus {
        agent: Some(AgentInfo {
            version: observer.version.clone(),
            boot_id: observer.boot_id.clone(),
            sequence: before.map_or(0, |agent| agent.sequence).saturating_add(1),
            memory: memory::of_node(&found.judgement.history, found.log_judged),
            limits: observer.limits.clone(),
            xid_table: observer.xid_table.map(|digest| digest.to_string()),
        }),
        nvml: Some(nvml(survey, observer)),
        driver: survey.driver.known().map(|version| Driver {
            version: version.as_str().to_owned(),
            nvml_version: survey.library.known().map(|version| version.as_str().to_owned()),
            cuda_version: survey.cuda.known().copied(),
        }),
        scheduler: found.observed.map(scheduler).or_else(|| previous.scheduler.clone()),
        survey_time: Some(now.clone()),
        installed: read.then(|| count(installed(survey))),
        healthy: read.then_some(healthy),
        devices,
        conditions: previous.conditions.clone(),
    };
    let available = available(survey, observer);
    let sound = sound(survey, &status.devices);
    let ready = match (available.status, sound.status) {
        (ConditionStatus::True, ConditionStatus::True) => Verdict::yes(Reason::Ready, sound.message.clone()),
        (ConditionStatus::True, _) => sound.clone(),
        _ => available.clone(),
    };
    let seen = [
        (ConditionType::HoldersKnown, found.observed.map(sight::holders)),
        (ConditionType::ProcessesKnown, found.observed.map(sight::processes)),
        (ConditionType::KernelLogRead, sight::kernel_log(found.kernel_log)),
    ];
    let all = [
        (ConditionType::NVMLAvailable, available),
        (ConditionType::DevicesHealthy, sound),
        (ConditionType::Ready, ready),
    ];
    // What was not asked this time is as it was.
    let seen = seen.into_iter().filter_map(|(type_, verdict)| Some((type_, verdict?)));
    for (type_, verdict) in all.into_iter().chain(seen) {
        // Whether anything but times changed is asked of the whole status below.
        let _ = conditions::set(&mut status.conditions, type_, verdict, generation, now);
    }
    pace::is_due(previous, &status, now).then_some(status)
}

fn scheduler(observed: &Observed) -> Scheduler {
    let pod_resources = match &observed.kubelet {
        None => PodResources::Available,
        Some(crate::usage::KubeletError::NotGiven) => PodResources::NotConfigured,
        Some(_) => PodResources::Unavailable,
    };
    let source = match &observed.usage.allocatable {
        Some(devices) if !devices.is_empty() => SchedulerSource::DevicePlugin,
        _ if observed.usage.devices.values().any(|used| used.holders.as_ref().is_some_and(|pods| !pods.is_empty())) => {
            SchedulerSource::DRA
        }
        _ => SchedulerSource::None,
    };
    let resources = observed.resources.iter().take(MAX_RESOURCES).map(|(name, given)| SchedulerResource {
        name: name.clone(),
        allocatable: i32::try_from(given.allocatable).unwrap_or(i32::MAX),
        held: i32::try_from(given.held).unwrap_or(i32::MAX),
    });
    Scheduler { source, pod_resources, resources: resources.collect() }
}

fn installed(survey: &Survey) -> usize {
    survey.devices.len().saturating_add(usize::try_from(survey.lost_unidentified).unwrap_or(0))
}

fn count(devices: usize) -> i32 {
    i32::try_from(devices).unwrap_or(i32::MAX)
}

fn nvml(survey: &Survey, observer: &Observer) -> Nvml {
    let (state, code) = match &survey.nvml {
        survey::Nvml::Available => (NvmlState::Available, None),
        survey::Nvml::Failed { failure, code, .. } => (state(*failure), *code),
    };
    let last_return_code = code.and_then(|code| i32::try_from(code).ok());
    Nvml { state, last_return_code, library_path: Some(observer.library.clone()) }
}

fn state(failure: Failure) -> NvmlState {
    match failure {
        Failure::LibraryMissing => NvmlState::LibraryMissing,
        Failure::SymbolMissing => NvmlState::SymbolMissing,
        Failure::DriverNotLoaded => NvmlState::DriverNotLoaded,
        Failure::NoPermission => NvmlState::PermissionDenied,
        Failure::VersionMismatch => NvmlState::VersionMismatch,
        Failure::Hung | Failure::Unresponsive => NvmlState::Unresponsive,
        Failure::Crashed => NvmlState::Crashed,
        Failure::Error | Failure::Garbled | Failure::NotStarted => NvmlState::Error,
    }
}

fn available(survey: &Survey, observer: &Observer) -> Verdict {
    let survey::Nvml::Failed { failure, code, message } = &survey.nvml else {
        return Verdict::yes(Reason::NVMLAnswers, format!("{} answers", observer.library));
    };
    let (reason, advice) = match failure {
        Failure::LibraryMissing => (
            Reason::LibraryMissing,
            "install the NVIDIA driver, or mount its libraries into the agent; on a node without GPUs keep the agent away",
        ),
        Failure::SymbolMissing => (Reason::SymbolMissing, "check that --nvml-lib names NVIDIA's NVML"),
        Failure::DriverNotLoaded => (Reason::DriverNotLoaded, "load the nvidia kernel module"),
        Failure::NoPermission => (
            Reason::PermissionDenied,
            "check that the agent's container may use the NVIDIA devices; after a reload of systemd it must be made anew",
        ),
        Failure::VersionMismatch => (Reason::VersionMismatch, "the driver was upgraded: restart the node"),
        Failure::Hung | Failure::Unresponsive => (
            Reason::Unresponsive,
            "look for Xid messages in the node's kernel log; a node that stays so needs a restart",
        ),
        Failure::Crashed | Failure::Garbled | Failure::NotStarted | Failure::Error => {
            (Reason::NVMLError, "look at the agent's log and the node's kernel log")
        }
    };
    let code = code.map(|code| format!(" (return code {code})")).unwrap_or_default();
    Verdict::no(reason, format!("asking {}: {message}{code}; {advice}", observer.library))
}

fn sound(survey: &Survey, devices: &[Device]) -> Verdict {
    if survey.failure().is_some() {
        return Verdict::unknown(Reason::NVMLError, "NVML does not answer, so nothing is known of the devices");
    }
    let known = installed(survey).max(devices.len());
    if known == 0 && survey.other_unidentified == 0 {
        return Verdict::yes(Reason::NoDevices, "NVML lists no device");
    }
    let mut complaints: Vec<String> = devices
        .iter()
        .filter(|device| device.health.state != HealthState::Healthy)
        .map(|device| format!("{} is {:?}: {}", device.uuid, device.health.state, device.health.reasons.join(", ")))
        .collect();
    if survey.lost_unidentified > 0 {
        complaints.push(format!("{} lost without saying their UUID", survey.lost_unidentified));
    }
    if survey.other_unidentified > 0 {
        let (odd, of) = (survey.other_unidentified, survey.count.unwrap_or(0));
        complaints.push(format!("{odd} of {of} counted did not say a usable UUID"));
    }
    if complaints.is_empty() {
        return Verdict::yes(Reason::AllHealthy, format!("{known} of {known} devices are healthy"));
    }
    let healthy = devices.iter().filter(|device| device.health.state == HealthState::Healthy).count();
    let message = format!("{healthy} of {known} devices are healthy; {}", complaints.join("; "));
    let certain = survey.lost_unidentified > 0
        || devices.iter().any(|device| matches!(device.health.state, HealthState::Unhealthy | HealthState::Degraded));
    if certain {
        Verdict::no(Reason::DeviceUnhealthy, message)
    } else {
        Verdict::unknown(Reason::DeviceUnhealthy, message)
    }
}

#[cfg(test)]
mod tests;
