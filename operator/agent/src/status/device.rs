//! The rows of a status: one a device, and one an instance of a divided one.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use koinon_api::gpu_node::{
    Allocation, AllocationState, Confidential, Device, DeviceHealth, DeviceMemory, Ecc, GuestWork, HealthAction,
    HealthState, Holder, Mig, MigMode, NotShareableReason, NvLink, Pcie, Processes, RecoveryAction, Remap, SharingMode,
    Xid, XidSource,
};
use koinon_core::capacity::{
    self, DeviceFacts, Dirt, Division, Health, Hold, NotShareable, Registration, Sharing, class_of, class_of_instance,
};
use koinon_core::gpu::device::{self as read, ConfidentialMode, Instance, ProcessKind};
use koinon_core::gpu::health::{DeviceHistory, Verdict};
use koinon_core::gpu::reading::Reading;
use koinon_core::gpu::usage::{Attribution, DeviceUse, Use};
use koinon_core::gpu::words::{Action, Offer, Work};
use koinon_core::gpu::xid as reported;
use koinon_core::ids::{Bytes, DeviceId, Digest, GpuClass};

use super::{Found, memory};
use crate::survey;

/// As many as the resource may hold.
const MAX_ROWS: usize = survey::MAX_DEVICES as usize;
/// As many as the resource may name.
const MAX_HOLDERS: usize = 16;

/// The devices that answered, and those that did until lately.
pub(super) fn rows(previous: &[Device], found: &Found<'_>, now: &Time) -> Vec<Device> {
    let mut rows: BTreeMap<String, Device> = BTreeMap::new();
    for device in &found.survey.devices {
        // Of two with one UUID, both of them unknown, the first stands for both.
        let described = describe(device, found, now);
        for instance in &device.instances {
            rows.entry(instance.id.to_string())
                .or_insert_with(|| describe_instance(&described, device, instance, found, now));
        }
        rows.entry(device.id.to_string()).or_insert(described);
    }
    for device in previous.iter().filter(|device| !rows.contains_key(&device.uuid)).collect::<Vec<_>>() {
        if let Some(kept) = absent(device, found, now) {
            rows.insert(kept.uuid.clone(), kept);
        }
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

/// A device that the survey does not name, as it was: for as long as it is judged. An instance goes with its parent's next
/// reading.
fn absent(device: &Device, found: &Found<'_>, now: &Time) -> Option<Device> {
    let failed = found.survey.failure().is_some();
    let id: DeviceId = device.parent.as_ref().unwrap_or(&device.uuid).parse().ok()?;
    if device.parent.is_some() && !failed {
        return None;
    }
    let verdict = found.judgement.devices.get(&id)?;
    // A survey that failed says nothing about whether the device is still there.
    let missing = (!failed).then(|| now.clone());
    let mut kept = Device {
        missing_since_time: device.missing_since_time.clone().or(missing),
        // Nothing that was found now speaks of it.
        allocation: device.allocation.clone().map(|allocation| Allocation {
            registered: None,
            // Its holders are told for those whose work ends; that they still hold it nobody may count on.
            state: match allocation.state {
                AllocationState::Free | AllocationState::Held => AllocationState::Unknown,
                found => found,
            },
            ..allocation
        }),
        ..device.clone()
    };
    let history = found.judgement.history.devices.get(&id).filter(|_| device.parent.is_none());
    judge(&mut kept, verdict, history);
    Some(kept)
}

fn describe(device: &read::Device, found: &Found<'_>, now: &Time) -> Device {
    let identity = &device.identity;
    let text = |reading: &Reading<koinon_core::ids::Line>| reading.known().map(ToString::to_string);
    let product = text(&identity.product);
    let history = found.judgement.history.devices.get(&device.id);
    let used = found.observed.and_then(|observed| observed.usage.devices.get(&device.id));
    let serial = identity.serial.known().map(|serial| Digest::of(format!("{serial}\n{}", device.id).as_bytes()));
    let mut row = Device {
        uuid: device.id.to_string(),
        index: whole(device.index),
        class: class(device).map(|class| class.to_string()),
        product,
        brand: text(&identity.brand),
        architecture: text(&identity.architecture),
        compute_capability: identity.compute_capability.get().map(|(major, minor)| format!("{major}.{minor}")),
        minor: identity.minor.get().map(whole),
        pci_bus_id: text(&identity.pci_bus_id),
        serial_hash: serial.map(|serial| serial.to_string()),
        memory: device_memory(&device.memory, used),
        mig: mig(device),
        ecc: ecc(&device.ecc),
        remap: remap(&device.remap),
        recovery_action: device.recovery.get().map(recovery),
        xids: history.map(xids).unwrap_or_default(),
        nvlink: device.nvlink.active.get().map(|active| NvLink {
            expected: whole(history.and_then(|history| history.baseline.nvlink).unwrap_or(active)),
            active: whole(active),
        }),
        pcie: device
            .pcie
            .max_generation
            .get()
            .zip(device.pcie.max_width.get())
            .map(|(generation, width)| Pcie { max_generation: whole(generation), max_width: whole(width) }),
        confidential_compute: confidential(&device.confidential),
        processes: used.and_then(|used| processes(used, now)),
        ..Device::default()
    };
    if let Some(verdict) = found.judgement.devices.get(&device.id) {
        judge(&mut row, verdict, history);
    }
    share(&mut row, &device.id, division(device), found);
    row
}

fn describe_instance(
    parent: &Device,
    device: &read::Device,
    instance: &Instance,
    found: &Found<'_>,
    now: &Time,
) -> Device {
    let used = found.observed.and_then(|observed| observed.usage.devices.get(&instance.id));
    let place = instance.place.get();
    let class = class(device)
        .zip(instance.slices.get().zip(instance.memory.total.get()))
        .and_then(|(parent, (slices, memory))| class_of_instance(&parent, slices, memory));
    let mut row = Device {
        uuid: instance.id.to_string(),
        index: parent.index,
        parent: Some(parent.uuid.clone()),
        class: class.map(|class| class.to_string()),
        product: parent.product.clone(),
        architecture: parent.architecture.clone(),
        compute_capability: parent.compute_capability.clone(),
        memory: device_memory(&instance.memory, used),
        mig: Some(Mig {
            mode: MigMode::Instance,
            pending_mode: None,
            gpu_instance: place.map(|place| whole(place.gpu_instance)),
            compute_instance: place.map(|place| whole(place.compute_instance)),
            slices: instance.slices.get().map(whole),
        }),
        processes: used.and_then(|used| processes(used, now)),
        ..Device::default()
    };
    let verdicts = &found.judgement;
    if let Some(verdict) = verdicts.instances.get(&instance.id).or_else(|| verdicts.devices.get(&device.id)) {
        judge(&mut row, verdict, None);
    }
    share(&mut row, &instance.id, Division::Instance, found);
    row
}

fn judge(row: &mut Device, verdict: &Verdict, history: Option<&DeviceHistory>) {
    let state = match verdict.state {
        Health::Healthy => HealthState::Healthy,
        Health::Degraded => HealthState::Degraded,
        Health::Unhealthy => HealthState::Unhealthy,
        Health::Unknown => HealthState::Unknown,
    };
    row.health = DeviceHealth {
        state,
        reasons: verdict.reasons.iter().map(|reason| reason.as_str().to_owned()).collect(),
        action: action(verdict.action),
        guest_work: (state != HealthState::Healthy).then(|| guest_work(verdict.work)),
        since_time: koinon_api::time::from_unix(verdict.since.0),
        memory: history.and_then(memory::of_device),
    };
    row.shareable = false;
    row.not_shareable_reason = Some(match (state, verdict.offer) {
        (HealthState::Healthy, Offer::Any) => NotShareableReason::UsageUnknown,
        (HealthState::Healthy, _) => NotShareableReason::SurveyMissed,
        _ => NotShareableReason::NotHealthy,
    });
}

/// Who holds a device, and whether it could be given to others.
fn share(row: &mut Device, id: &DeviceId, division: Division, found: &Found<'_>) {
    let usage = found.observed.map(|observed| &observed.usage);
    let used = usage.and_then(|usage| usage.devices.get(id));
    // None listed is a device plugin that registers anew, or none at all: the scheduler's own numbers tell which.
    let listed = usage.and_then(|usage| usage.allocatable.as_ref()).filter(|devices| !devices.is_empty());
    let registered = listed.map(|devices| devices.contains(id));
    let (state, dirt) = used.map_or((AllocationState::Unknown, None), use_of);
    let holders = used.and_then(|used| used.holders.as_ref());
    row.allocation = used.map(|_| Allocation {
        state,
        // Where two devices go by one id, or two pods seem to have one, nobody's work is ended for what they say.
        holders: holders
            .into_iter()
            .flatten()
            .filter(|_| state != AllocationState::Unknown)
            .take(MAX_HOLDERS)
            .map(holder)
            .collect(),
        registered,
    });
    let facts = DeviceFacts {
        id: id.clone(),
        class: row.class.as_ref().and_then(|class| class.parse().ok()),
        health: match row.health.state {
            HealthState::Healthy => Health::Healthy,
            HealthState::Degraded => Health::Degraded,
            HealthState::Unhealthy => Health::Unhealthy,
            HealthState::Unknown => Health::Unknown,
        },
        division,
        hold: match holders {
            None => Hold::Unknown,
            Some(pods) if pods.is_empty() => Hold::Free,
            Some(_) => Hold::Other,
        },
        dirt,
        registration: match registered {
            Some(true) => Registration::Yes,
            Some(false) => Registration::No,
            None => Registration::Unknown,
        },
    };
    row.sharing = used.and_then(|used| shown_sharing(used, division));
    let sharing = if used.is_some_and(|used| used.shared) { Sharing::TimeSliced } else { Sharing::Exclusive };
    if row.not_shareable_reason == Some(NotShareableReason::SurveyMissed) {
        return;
    }
    if found.judgement.node.cordon && row.health.state == HealthState::Healthy {
        row.not_shareable_reason = Some(NotShareableReason::NodeFault);
        return;
    }
    row.not_shareable_reason = capacity::shareable(&facts, sharing).err().map(not_shareable);
    row.shareable = row.not_shareable_reason.is_none();
}

/// How many may be on a device, where the kubelet says what it gives out.
fn shown_sharing(used: &DeviceUse, division: Division) -> Option<koinon_api::gpu_node::Sharing> {
    let replicas = used.replicas?;
    let mode = match division {
        _ if used.shared || replicas > 1 => SharingMode::Shared,
        Division::Instance => SharingMode::MIG,
        Division::Whole | Division::Divided | Division::Unknown => SharingMode::Exclusive,
    };
    Some(koinon_api::gpu_node::Sharing { mode, replicas: (replicas > 1).then(|| whole(replicas)) })
}

/// How a device is used, and what keeps it from being free.
fn use_of(used: &DeviceUse) -> (AllocationState, Option<Dirt>) {
    let dirt = used.dirt();
    let held = used.holders.as_ref().is_some_and(|pods| !pods.is_empty());
    let state = match (&used.state, dirt) {
        _ if !used.is_told() && !matches!(dirt, Some(Dirt::Intruder | Dirt::Orphan | Dirt::Leak)) => {
            AllocationState::Unknown
        }
        (_, Some(Dirt::Intruder)) => AllocationState::Intruder,
        (_, Some(Dirt::Orphan)) => AllocationState::Orphaned,
        (_, Some(Dirt::Leak)) => AllocationState::Leaked,
        (Use::Held { .. }, _) => AllocationState::Held,
        _ if held => AllocationState::Held,
        _ => AllocationState::Free,
    };
    (state, dirt)
}

fn not_shareable(why: NotShareable) -> NotShareableReason {
    match why {
        NotShareable::NoClass => NotShareableReason::NoClass,
        NotShareable::Health(_) => NotShareableReason::NotHealthy,
        NotShareable::Divided => NotShareableReason::Divided,
        NotShareable::DivisionUnknown => NotShareableReason::DivisionUnknown,
        NotShareable::Shared(_) => NotShareableReason::Shared,
        NotShareable::NotRegistered => NotShareableReason::NotRegistered,
        NotShareable::Held => NotShareableReason::Held,
        NotShareable::Dirty(Dirt::Intruder) => NotShareableReason::Intruder,
        NotShareable::Dirty(Dirt::Orphan) => NotShareableReason::Orphaned,
        NotShareable::Dirty(Dirt::Leak) => NotShareableReason::Leaked,
        NotShareable::Dirty(Dirt::Unknown) => NotShareableReason::UsageUnknown,
    }
}

fn class(device: &read::Device) -> Option<GpuClass> {
    let product = device.identity.product.known()?;
    class_of(product.as_str(), device.memory.total.get()?)
}

fn division(device: &read::Device) -> Division {
    match &device.mig {
        Reading::Known(mig) if mig.current => Division::Divided,
        Reading::Known(_) | Reading::Unsupported => Division::Whole,
        Reading::Unknown(_) => Division::Unknown,
    }
}

fn mig(device: &read::Device) -> Option<Mig> {
    let mode = |on| if on { MigMode::Enabled } else { MigMode::Disabled };
    match &device.mig {
        Reading::Known(mig) => Some(Mig {
            mode: mode(mig.current),
            pending_mode: (mig.pending != mig.current).then(|| mode(mig.pending)),
            ..Mig::default()
        }),
        Reading::Unsupported => Some(Mig::default()),
        Reading::Unknown(_) => None,
    }
}

fn device_memory(memory: &read::Memory, used: Option<&DeviceUse>) -> Option<DeviceMemory> {
    Some(DeviceMemory {
        total_bytes: bytes(memory.total.get()?),
        reserved_bytes: memory.reserved.get().map(bytes),
        unattributed_bytes: used.and_then(DeviceUse::unattributed_in_steps).map(bytes),
    })
}

fn ecc(ecc: &read::Ecc) -> Option<Ecc> {
    let mode = ecc.mode.get()?;
    Some(Ecc {
        enabled: mode.current,
        pending: (mode.pending != mode.current).then_some(mode.pending),
        volatile_uncorrected: ecc.volatile_uncorrected.get().map(long),
        aggregate_uncorrected: ecc.aggregate_uncorrected.get().map(long),
        sram_threshold_exceeded: ecc.sram_threshold_exceeded.get(),
    })
}

fn remap(remap: &read::Remap) -> Option<Remap> {
    let known = Remap {
        correctable: remap.correctable.get().map(long),
        uncorrectable: remap.uncorrectable.get().map(long),
        pending: remap.pending.get(),
        failed: remap.failed.get(),
    };
    (known != Remap::default()).then_some(known)
}

fn recovery(action: read::RecoveryAction) -> RecoveryAction {
    match action {
        read::RecoveryAction::None => RecoveryAction::None,
        read::RecoveryAction::GpuReset => RecoveryAction::GPUReset,
        read::RecoveryAction::NodeReboot => RecoveryAction::NodeReboot,
        read::RecoveryAction::DrainP2p => RecoveryAction::DrainP2P,
        read::RecoveryAction::DrainAndReset => RecoveryAction::DrainAndReset,
        read::RecoveryAction::Other(_) => RecoveryAction::Unknown,
    }
}

fn xids(history: &DeviceHistory) -> Vec<Xid> {
    let mut records: Vec<_> = history.xids.iter().collect();
    records.sort_by_key(|record| (std::cmp::Reverse(record.last), record.code));
    let of = |record: &koinon_core::gpu::health::history::XidRecord| {
        Some(Xid {
            code: i64::from(record.code.0),
            count: long(record.count).max(1),
            first_seen_time: koinon_api::time::from_unix(record.first.0)?,
            last_seen_time: koinon_api::time::from_unix(record.last.0)?,
            source: match record.source {
                reported::XidSource::Nvml => XidSource::NVML,
                reported::XidSource::KernelLog => XidSource::KernelLog,
                reported::XidSource::RecoveryAction => XidSource::RecoveryAction,
            },
            gpu_instance: record.place.map(|place| whole(place.gpu_instance)),
            compute_instance: record.place.map(|place| whole(place.compute_instance)),
        })
    };
    records.into_iter().filter_map(of).collect()
}

fn confidential(confidential: &read::Confidential) -> Option<Confidential> {
    let mode = confidential.mode.get().filter(|_| confidential.capable.get() == Some(true))?;
    Some(Confidential {
        enabled: mode != ConfidentialMode::Off,
        dev_tools: mode == ConfidentialMode::DevTools,
        ready: confidential.ready.get() == Some(true),
    })
}

fn processes(used: &DeviceUse, now: &Time) -> Option<Processes> {
    let processes = used.processes.as_ref()?;
    let of = |wanted: &dyn Fn(&(ProcessKind, Attribution)) -> bool| {
        whole(processes.iter().filter(|(key, _)| wanted(key)).fold(0_u32, |sum, (_, count)| sum.saturating_add(*count)))
    };
    let unattributed = of(&|(_, whose)| *whose != Attribution::Pod);
    let since = used.oldest_unattributed_seconds.filter(|_| unattributed > 0);
    let since = since.and_then(|age| now.0.checked_sub(SignedDuration::from_secs(i64::try_from(age).ok()?)).ok());
    Some(Processes {
        compute: of(&|(kind, _)| *kind == ProcessKind::Compute),
        graphics: of(&|(kind, _)| *kind == ProcessKind::Graphics),
        mps: of(&|(kind, _)| *kind == ProcessKind::Mps),
        unattributed,
        unattributed_since_time: since.map(Time),
    })
}

fn holder(pod: &koinon_core::gpu::usage::PodRef) -> Holder {
    Holder { namespace: pod.namespace.to_string(), name: pod.name.to_string() }
}

fn action(action: Action) -> Option<HealthAction> {
    Some(match action {
        Action::None => return None,
        Action::Watch => HealthAction::Watch,
        Action::RestartWorkload => HealthAction::RestartWorkload,
        Action::ApplyConfig => HealthAction::ApplyConfig,
        Action::CheckCooling => HealthAction::CheckCooling,
        Action::Investigate => HealthAction::Investigate,
        Action::DrainP2p => HealthAction::DrainP2P,
        Action::ResetWhenIdle => HealthAction::ResetWhenIdle,
        Action::RestartVm => HealthAction::RestartVM,
        Action::ResetGpu => HealthAction::ResetGPU,
        Action::RebootNode => HealthAction::RebootNode,
        Action::Replace => HealthAction::Replace,
    })
}

fn guest_work(work: Work) -> GuestWork {
    match work {
        Work::Keep => GuestWork::Keep,
        Work::RestartWorkload => GuestWork::RestartWorkload,
        Work::Drain => GuestWork::Drain,
        Work::DrainNode => GuestWork::DrainNode,
    }
}

fn bytes(bytes: Bytes) -> i64 {
    long(bytes.0)
}

fn long(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn whole(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
