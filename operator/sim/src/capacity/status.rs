//! What an agent writes of its node, and what of it reaches a decision.
//!
//! The same steps as in the agent, whose own are bound to the resource's types: a row a device, the gravest reason why it is
//! not for others, and a write only if it says something new.

use koinon_core::capacity::{
    self, DeviceFacts, Dirt, Division, Health, Hold, NotShareable, Registration, Sharing, class_of, class_of_instance,
};
use koinon_core::gpu::device::{Device, Instance};
use koinon_core::gpu::health::{History, Judgement, Verdict};
use koinon_core::gpu::reading::Reading;
use koinon_core::gpu::usage::{DeviceUse, NodeUse, PodRef};
use koinon_core::gpu::words::{Offer, Work};
use koinon_core::ids::{DeviceId, GpuClass, UnixSeconds};

use super::plan::Second;

/// What nobody decides by is written at most so often.
const MINOR: Second = 60;

/// Who holds a device, as a row says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Allocation {
    /// None: that is not known.
    pub holders: Option<Vec<PodRef>>,
    /// What was found on it, whoever holds it.
    pub found: Option<Dirt>,
    pub registered: Option<bool>,
    /// It is what an earlier survey found: good to tell whose work ends, and no proof that anybody still holds the device.
    pub stale: bool,
}

impl Allocation {
    /// The holders, as far as a count of what is free may rely on them.
    pub fn relied(&self) -> Option<&Vec<PodRef>> {
        self.holders.as_ref().filter(|_| !self.stale || self.found.is_some())
    }
}

/// Why a device is not for others, as far as it decides anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Not(NotShareable),
    SurveyMissed,
    UsageUnknown,
}

/// One device or instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub id: DeviceId,
    pub parent: Option<DeviceId>,
    pub class: Option<GpuClass>,
    pub division: Division,
    pub health: Health,
    pub work: Work,
    pub since: UnixSeconds,
    pub allocation: Option<Allocation>,
    pub why: Option<Why>,
}

/// Lines of the kernel's log that were judged, and of which boot.
pub(super) type LogRead = (u32, usize);

/// What stands in the API server.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Status {
    pub rows: Vec<Row>,
    pub history: History,
    /// How far into the kernel's log that goes.
    pub read: LogRead,
    /// When the agent wrote it.
    pub written: Second,
}

/// What was found in one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    /// None: the survey failed.
    pub devices: Option<&'a [Device]>,
    pub judgement: &'a Judgement,
    pub usage: Option<&'a NodeUse>,
}

/// The rows that follow from what was found.
pub(super) fn rows(previous: &[Row], found: &Found<'_>) -> Vec<Row> {
    let mut rows: std::collections::BTreeMap<DeviceId, Row> = std::collections::BTreeMap::new();
    for device in found.devices.into_iter().flatten() {
        for instance in &device.instances {
            rows.entry(instance.id.clone()).or_insert_with(|| of_instance(device, instance, found));
        }
        rows.entry(device.id.clone()).or_insert_with(|| of_device(device, found));
    }
    for row in previous.iter().filter(|row| !rows.contains_key(&row.id)).collect::<Vec<_>>() {
        if let Some(kept) = absent(row, found) {
            rows.insert(kept.id.clone(), kept);
        }
    }
    rows.into_values().collect()
}

fn blank(id: &DeviceId) -> Row {
    Row {
        id: id.clone(),
        parent: None,
        class: None,
        division: Division::Unknown,
        health: Health::Unknown,
        work: Work::Keep,
        since: UnixSeconds(0),
        allocation: None,
        why: Some(Why::Not(NotShareable::Health(Health::Unknown))),
    }
}

fn class(device: &Device) -> Option<GpuClass> {
    class_of(device.identity.product.known()?.as_str(), device.memory.total.get()?)
}

fn of_device(device: &Device, found: &Found<'_>) -> Row {
    let division = match &device.mig {
        Reading::Known(mig) if mig.current => Division::Divided,
        Reading::Known(_) | Reading::Unsupported => Division::Whole,
        Reading::Unknown(_) => Division::Unknown,
    };
    let mut row = Row { class: class(device), division, ..blank(&device.id) };
    if let Some(verdict) = found.judgement.devices.get(&device.id) {
        judge(&mut row, verdict);
    }
    share(&mut row, found);
    row
}

fn of_instance(device: &Device, instance: &Instance, found: &Found<'_>) -> Row {
    let class = class(device)
        .zip(instance.slices.get().zip(instance.memory.total.get()))
        .and_then(|(parent, (slices, memory))| class_of_instance(&parent, slices, memory));
    let parent = Some(device.id.clone());
    let mut row = Row { class, parent, division: Division::Instance, ..blank(&instance.id) };
    let verdicts = found.judgement;
    if let Some(verdict) = verdicts.instances.get(&instance.id).or_else(|| verdicts.devices.get(&device.id)) {
        judge(&mut row, verdict);
    }
    share(&mut row, found);
    row
}

/// A device that the survey does not name, as it was: for as long as it is judged.
fn absent(row: &Row, found: &Found<'_>) -> Option<Row> {
    if row.parent.is_some() && found.devices.is_some() {
        return None;
    }
    let verdict = found.judgement.devices.get(row.parent.as_ref().unwrap_or(&row.id))?;
    let mut kept = row.clone();
    if let Some(allocation) = &mut kept.allocation {
        (allocation.registered, allocation.stale) = (None, true);
    }
    judge(&mut kept, verdict);
    Some(kept)
}

fn judge(row: &mut Row, verdict: &Verdict) {
    (row.health, row.work, row.since) = (verdict.state, verdict.work, verdict.since);
    row.why = Some(match (verdict.state, verdict.offer) {
        (Health::Healthy, Offer::Any) => Why::UsageUnknown,
        (Health::Healthy, _) => Why::SurveyMissed,
        (state, _) => Why::Not(NotShareable::Health(state)),
    });
}

fn share(row: &mut Row, found: &Found<'_>) {
    let used = found.usage.and_then(|usage| usage.devices.get(&row.id));
    let listed = found.usage.and_then(|usage| usage.allocatable.as_ref()).filter(|devices| !devices.is_empty());
    let registered = listed.map(|devices| devices.contains(&row.id));
    let dirt = used.and_then(DeviceUse::dirt);
    let holders = used.and_then(|used| used.holders.as_ref());
    row.allocation = used.map(|used| Allocation {
        holders: used.is_told().then(|| holders.into_iter().flatten().cloned().collect()),
        found: dirt.filter(|dirt| *dirt != Dirt::Unknown),
        registered,
        stale: false,
    });
    let facts = DeviceFacts {
        id: row.id.clone(),
        class: row.class.clone(),
        health: row.health,
        division: row.division,
        hold: match holders {
            None => Hold::Unknown,
            Some(pods) if pods.is_empty() => Hold::Free,
            Some(_) => Hold::Other,
        },
        dirt,
        registration: registration(registered),
    };
    let sharing = if used.is_some_and(|used| used.shared) { Sharing::TimeSliced } else { Sharing::Exclusive };
    if row.why != Some(Why::SurveyMissed) {
        row.why = capacity::shareable(&facts, sharing).err().map(Why::Not);
    }
}

fn registration(registered: Option<bool>) -> Registration {
    match registered {
        Some(true) => Registration::Yes,
        Some(false) => Registration::No,
        None => Registration::Unknown,
    }
}

impl Row {
    /// What an operator reads from it; who of the holders has a reservation is only known there.
    pub fn facts(&self) -> DeviceFacts {
        let allocation = self.allocation.as_ref();
        DeviceFacts {
            id: self.id.clone(),
            class: self.class.clone(),
            health: self.health,
            division: self.division,
            hold: Hold::Unknown,
            dirt: allocation.and_then(|allocation| allocation.found).or(match self.why {
                Some(Why::SurveyMissed | Why::UsageUnknown | Why::Not(NotShareable::Dirty(Dirt::Unknown))) => {
                    Some(Dirt::Unknown)
                }
                _ => None,
            }),
            registration: registration(allocation.and_then(|allocation| allocation.registered)),
        }
    }
}

/// Whether `next` is worth a write.
pub(super) fn is_due(previous: Option<&Status>, next: &Status) -> bool {
    let Some(previous) = previous else { return true };
    let waited = next.written.saturating_sub(previous.written) >= MINOR;
    let minor = || previous.read != next.read || without_ticks(&previous.history) != without_ticks(&next.history);
    previous.rows != next.rows || waited && minor()
}

/// Without what moves on with each survey.
fn without_ticks(history: &History) -> History {
    let mut history = History { clock: None, ..history.clone() };
    for device in history.devices.values_mut() {
        device.seen = Default::default();
        device.findings.iter_mut().for_each(|one| one.last = Default::default());
        device.xids.iter_mut().for_each(|one| (one.heard, one.last) = (Default::default(), UnixSeconds(0)));
        let conditions = &mut device.conditions;
        let spans = [&mut conditions.gpu_hot, &mut conditions.memory_hot, &mut conditions.brake, &mut conditions.pcie];
        spans.into_iter().flatten().for_each(|span| span.last = Default::default());
    }
    history
}
