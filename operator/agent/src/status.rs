//! From a survey to the status of the node's `GPUNode`. Pure: what was said before, what was found, and the time.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use koinon_api::conditions::{self, ConditionStatus, ConditionType, Reason, Verdict, same_ignoring_times};
use koinon_api::gpu_node::{
    AgentInfo, Device, DeviceHealth, DeviceMemory, Driver, GPUNodeStatus, HealthState, Mig, MigMode, Nvml, NvmlState,
};
use koinon_core::capacity::class_of;
use koinon_core::ids::Bytes;

use crate::survey::{self, Failure, Health, HealthReason, Reading, Survey};

/// How long a device that is no longer found stays listed, so that nobody misses that it went.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);
/// As many as the resource may hold.
const MAX_ROWS: usize = survey::MAX_DEVICES as usize;

/// Who surveyed.
#[derive(Debug, Clone)]
pub struct Observer {
    /// The agent's version.
    pub version: String,
    /// The node's boot.
    pub boot_id: String,
    /// The NVML library that is loaded.
    pub library: String,
}

/// The status to write, or none if it would say the same as what stands there.
pub fn next(
    previous: &GPUNodeStatus,
    survey: &Survey,
    observer: &Observer,
    generation: Option<i64>,
    now: &Time,
) -> Option<GPUNodeStatus> {
    let devices = rows(&previous.devices, survey, now);
    let found = survey.failure().is_none();
    let healthy = devices.iter().filter(|device| device.health.state == HealthState::Healthy).count();
    let mut status = GPUNodeStatus {
        agent: Some(AgentInfo { version: observer.version.clone(), boot_id: observer.boot_id.clone() }),
        nvml: Some(nvml(survey, observer)),
        driver: survey.driver.known().map(|version| Driver {
            version: version.as_str().to_owned(),
            nvml_version: survey.library.known().map(|version| version.as_str().to_owned()),
            cuda_version: survey.cuda.known().copied(),
        }),
        survey_time: Some(now.clone()),
        installed: found.then(|| count(installed(survey))),
        healthy: found.then(|| count(healthy)),
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
    for (type_, verdict) in [
        (ConditionType::NVMLAvailable, available),
        (ConditionType::DevicesHealthy, sound),
        (ConditionType::Ready, ready),
    ] {
        // Whether anything but times changed is asked of the whole status below.
        let _ = conditions::set(&mut status.conditions, type_, verdict, generation, now);
    }
    (!same_ignoring_times(previous, &status)).then_some(status)
}

/// The devices that answered, and those that did until lately.
fn rows(previous: &[Device], survey: &Survey, now: &Time) -> Vec<Device> {
    let mut rows: BTreeMap<String, Device> = BTreeMap::new();
    for device in &survey.devices {
        // Of two with one UUID, both of them unknown, the first stands for both.
        rows.entry(device.uuid.as_str().to_owned()).or_insert_with(|| row(device));
    }
    let absent: Vec<&Device> = previous
        .iter()
        .filter(|device| !rows.contains_key(&device.uuid))
        .filter(|device| {
            let since = device.missing_since_time.as_ref();
            since.is_none_or(|since| now.0.duration_since(since.0) < REMEMBERED)
        })
        .collect();
    let health = if survey.failure().is_some() {
        unhealthy(HealthState::Unknown, HealthReason::SurveyFailed)
    } else if absent.len() <= usize::try_from(survey.lost_unidentified).unwrap_or(usize::MAX) {
        // A lost device cannot say its UUID; but these are all that did not, and so many are lost.
        unhealthy(HealthState::Unhealthy, HealthReason::GpuLost)
    } else {
        unhealthy(HealthState::Unknown, HealthReason::DeviceMissing)
    };
    for device in absent {
        // A survey that failed says nothing about whether the device is still there.
        let missing = survey.failure().is_none().then(|| now.clone());
        let missing_since_time = device.missing_since_time.clone().or(missing);
        let kept = Device { health: health.clone(), missing_since_time, ..device.clone() };
        rows.insert(device.uuid.clone(), kept);
    }
    let mut rows: Vec<Device> = rows.into_values().collect();
    // If there are too many, those that are gone make place.
    rows.sort_by(|a, b| {
        let order = |device: &Device| (device.missing_since_time.is_some(), device.index, device.uuid.clone());
        order(a).cmp(&order(b))
    });
    rows.truncate(MAX_ROWS);
    rows
}

fn row(device: &survey::Device) -> Device {
    let product = device.product.known().map(|product| product.as_str().to_owned());
    let memory = device.memory.known().map(|memory| memory.bytes());
    let class = product.as_deref().zip(memory.and_then(|bytes| u64::try_from(bytes).ok()));
    Device {
        uuid: device.uuid.as_str().to_owned(),
        index: i32::try_from(device.index).unwrap_or(i32::MAX),
        class: class.and_then(|(product, bytes)| class_of(product, Bytes(bytes))).map(|class| class.to_string()),
        product,
        pci_bus_id: None,
        memory: memory.map(|total_bytes| DeviceMemory { total_bytes, reserved_bytes: None }),
        mig: match &device.mig {
            Reading::Known(mig) if mig.enabled => Some(Mig { mode: MigMode::Enabled }),
            Reading::Known(_) => Some(Mig { mode: MigMode::Disabled }),
            Reading::Unsupported => Some(Mig { mode: MigMode::NotSupported }),
            Reading::Unknown(_) => None,
        },
        health: match device.health {
            Health::Healthy => DeviceHealth { state: HealthState::Healthy, reasons: Vec::new() },
            Health::Unhealthy(reason) => unhealthy(HealthState::Unhealthy, reason),
            Health::Unknown(reason) => unhealthy(HealthState::Unknown, reason),
        },
        missing_since_time: None,
    }
}

fn unhealthy(state: HealthState, reason: HealthReason) -> DeviceHealth {
    let reason = match reason {
        HealthReason::GpuLost => "GPULost",
        HealthReason::ResetRequired => "ResetRequired",
        HealthReason::DuplicateUuid => "DuplicateUUID",
        HealthReason::ReadFailed => "ReadFailed",
        HealthReason::DeviceMissing => "DeviceMissing",
        HealthReason::SurveyFailed => "SurveyFailed",
    };
    DeviceHealth { state, reasons: vec![reason.to_owned()] }
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
#[path = "status_tests.rs"]
mod tests;
