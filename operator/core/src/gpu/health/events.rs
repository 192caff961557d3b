//! What XIDs do to what is remembered of the devices that they name.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{
    DeviceHistory, Ends, Faults, Finding, History, Incident, MAX_FAULTS, MAX_TIMES, MAX_XIDS, Steady, Tick, XidRecord,
};
use super::input::Inputs;
use super::limits::Limits;
use super::{Notice, NoticeKind};
use crate::capacity::Health;
use crate::gpu::device::{Device, InstancePlace, RecoveryAction};
use crate::gpu::words::{Action, Cause, Offer, Reason, Work};
use crate::gpu::xid::catalogue::{Meaning, Special};
use crate::gpu::xid::policy::XidPolicy;
use crate::gpu::xid::{Xid, XidClass, XidEvent};
use crate::ids::{DeviceId, UnixSeconds};

/// The XID that only says that another one had consequences.
const FOLLOWER: Xid = Xid(45);

/// What the reports of one judgement come to beside findings.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub notices: BTreeSet<Notice>,
    pub evidence_dropped: BTreeSet<DeviceId>,
    /// Devices about which something unhealthy was told.
    pub condemned: BTreeSet<DeviceId>,
}

/// A report of a device that is known.
struct Heard<'a> {
    event: &'a XidEvent,
    at: Steady,
    place: Option<InstancePlace>,
    /// Whether another report within the minute explains it.
    explained: bool,
}

/// Takes the reports in. `read` are the devices that this survey names once.
pub(super) fn hear(
    history: &mut History,
    inputs: &Inputs<'_>,
    read: &BTreeMap<&DeviceId, &Device>,
    tick: Tick,
) -> Told {
    let mut told = Told::default();
    // Their order is that of whoever collected them.
    let events: BTreeSet<&XidEvent> = inputs.events.iter().collect();
    let counted = inputs.events.iter().fold(BTreeMap::<&XidEvent, u64>::new(), |mut counts, event| {
        *counts.entry(event).or_default() += 1;
        counts
    });
    let mut by_device: BTreeMap<DeviceId, Vec<Heard<'_>>> = BTreeMap::new();
    for event in events {
        let at = steady(event.at, inputs.now, tick);
        match owner(event, history, read) {
            Some((id, place)) => {
                by_device.entry(id).or_default().push(Heard { event, at, place, explained: false });
            }
            None => unattributed(history, inputs, event, at),
        }
    }
    for (id, mut heard) in by_device {
        let Some(device) = history.devices.get_mut(&id) else { continue };
        let recovery = read.get(&id).and_then(|device| device.recovery.get());
        explain(device, &mut heard, inputs.limits);
        for one in &heard {
            let count = counted.get(one.event).copied().unwrap_or(1);
            apply(&id, device, one, count, recovery, inputs, tick, &mut told);
            if inputs.policy.meaning(one.event, recovery).work == Work::DrainNode {
                join(&mut history.incident, &id, one, inputs.limits);
            }
        }
        device.cut();
    }
    told
}

/// When something was heard, on the node's own scale: within what nobody has judged yet, whatever the clocks say.
pub(super) fn steady(at: UnixSeconds, now: UnixSeconds, tick: Tick) -> Steady {
    let ago = now.since(at).0.saturating_mul(1_000).clamp(0, tick.reach.max(0));
    Steady(tick.now.0.saturating_sub(ago))
}

/// The device that a report is about, and the instance if it is about one. A report may name an instance by its own id.
fn owner(
    event: &XidEvent,
    history: &History,
    read: &BTreeMap<&DeviceId, &Device>,
) -> Option<(DeviceId, Option<InstancePlace>)> {
    let named = event.device.as_ref()?;
    if history.devices.contains_key(named) {
        return Some((named.clone(), event.place));
    }
    read.values().find_map(|device| {
        let instance = device.instances.iter().find(|instance| instance.id == *named)?;
        Some((device.id.clone(), instance.place.get().or(event.place)))
    })
}

/// A report that names no device may be about any of them: none takes new work, none loses any.
fn unattributed(history: &mut History, inputs: &Inputs<'_>, event: &XidEvent, at: Steady) {
    let meaning = inputs.policy.meaning(event, None);
    if meaning.state == Health::Healthy {
        return;
    }
    for device in history.devices.values_mut() {
        device.raise(Finding {
            reason: Cause::UnattributedXid.into(),
            state: Health::Degraded,
            action: Action::Investigate,
            work: Work::Keep,
            offer: Offer::Nothing,
            place: None,
            ends: Ends::Quiet(meaning.hold.max(inputs.limits.fault_hold)),
            since: inputs.now,
            raised: at,
            last: at,
            young: false,
            xid: Some(event.xid),
        });
    }
}

/// Finds the reports that only tell of a consequence, and takes back what was concluded before their cause was heard.
fn explain(device: &mut DeviceHistory, heard: &mut [Heard<'_>], limits: &Limits) {
    let near = |one: Steady, other: Steady| one.is_near(other, limits.cause_period);
    let mut causes: BTreeSet<Steady> = heard.iter().filter(|one| one.event.xid != FOLLOWER).map(|one| one.at).collect();
    device.findings.retain(|one| {
        one.reason != Reason::Known(Cause::ChannelRemoved) || !causes.iter().any(|cause| near(*cause, one.last))
    });
    causes.extend(device.xids.iter().filter(|one| one.code != FOLLOWER).map(|one| one.heard));
    for one in heard.iter_mut().filter(|one| one.event.xid == FOLLOWER) {
        one.explained = causes.iter().any(|cause| near(*cause, one.at));
    }
}

#[allow(clippy::too_many_arguments)] // each of them is one thing, and a struct for one caller would hide that
fn apply(
    id: &DeviceId,
    device: &mut DeviceHistory,
    heard: &Heard<'_>,
    count: u64,
    recovery: Option<RecoveryAction>,
    inputs: &Inputs<'_>,
    tick: Tick,
    told: &mut Told,
) {
    let event = heard.event;
    record(device, heard, count, inputs.policy);
    let (special, meaning) = (inputs.policy.special(event.xid), inputs.policy.meaning(event, recovery));
    if special == Special::DropsEvidence {
        told.evidence_dropped.insert(id.clone());
    }
    if meaning.class == XidClass::App {
        told.notices.insert(notice(id, heard, NoticeKind::Restart));
        if count_faults(device, heard, inputs, tick) == Some(NoticeKind::TenantFault) {
            told.notices.insert(notice(id, heard, NoticeKind::TenantFault));
        }
    }
    // A voted row is meant for the code as such.
    if heard.explained && special == Special::FollowsAnother && !inputs.policy.is_voted(event.xid) {
        return;
    }
    if meaning.state == Health::Unhealthy {
        told.condemned.insert(id.clone());
    }
    if meaning.state != Health::Healthy {
        device.raise(finding(&meaning, heard, inputs.now, tick));
    }
    doubled(device);
}

fn notice(id: &DeviceId, heard: &Heard<'_>, kind: NoticeKind) -> Notice {
    let (place, workload) = (heard.place, heard.event.workload.clone());
    Notice { device: id.clone(), place, workload, kind, xid: heard.event.xid }
}

fn finding(meaning: &Meaning, heard: &Heard<'_>, now: UnixSeconds, tick: Tick) -> Finding {
    let unhealthy = meaning.state == Health::Unhealthy;
    Finding {
        reason: meaning.reason.clone(),
        state: meaning.state,
        action: meaning.action,
        work: meaning.work,
        offer: meaning.offer,
        place: None,
        ends: if unhealthy { Ends::Reset { armed: false } } else { Ends::Quiet(meaning.hold) },
        since: now,
        raised: heard.at,
        last: heard.at,
        // A device that fell off the bus is as certain as one that the library calls lost (R6).
        young: unhealthy && tick.young && meaning.reason != Reason::Known(Cause::FallenOffBus),
        xid: Some(heard.event.xid),
    }
}

/// A double bit error whose row cannot be remapped: a reset would not help for long.
fn doubled(device: &mut DeviceHistory) {
    let has = |reason: Cause| device.findings.iter().any(|one| one.reason == Reason::Known(reason));
    if has(Cause::DoubleBitError) && has(Cause::RemapFailed) {
        let failed = device.findings.iter_mut().filter(|one| one.reason == Reason::Known(Cause::RemapFailed));
        failed.for_each(|one| one.action = Action::Replace);
    }
}

/// Remembers a report. Where there are too many codes the mildest is forgotten, and of those the one heard longest ago.
fn record(device: &mut DeviceHistory, heard: &Heard<'_>, count: u64, policy: &XidPolicy) {
    let event = heard.event;
    let same = |one: &&mut XidRecord| one.code == event.xid && one.source == event.source && one.place == heard.place;
    if let Some(known) = device.xids.iter_mut().find(same) {
        known.count = known.count.saturating_add(count);
        (known.first, known.last) = (known.first.min(event.at), known.last.max(event.at));
        known.heard = known.heard.max(heard.at);
        return;
    }
    device.xids.push(XidRecord {
        code: event.xid,
        count,
        first: event.at,
        last: event.at,
        heard: heard.at,
        source: event.source,
        place: heard.place,
    });
    let rank =
        |one: &XidRecord| (std::cmp::Reverse((policy.class(one.code), one.heard)), one.code, one.source, one.place);
    device.xids.sort_by_key(rank);
    device.xids.truncate(MAX_XIDS);
}

/// Counts an application's fault, and says whose fault many of them are. Workloads that nobody could name may be any, so
/// only faults that are all known to be of one workload speak against that workload.
fn count_faults(device: &mut DeviceHistory, heard: &Heard<'_>, inputs: &Inputs<'_>, tick: Tick) -> Option<NoticeKind> {
    let (event, limits) = (heard.event, inputs.limits);
    for faults in &mut device.faults {
        faults.times.retain(|at| !tick.now.is_after(*at, limits.fault_period));
    }
    device.faults.retain(|faults| !faults.times.is_empty());
    if tick.now.is_after(heard.at, limits.fault_period) {
        return None;
    }
    let key = |one: &Faults| (one.source, one.place, one.workload.clone());
    let mine = (event.source, heard.place, event.workload.clone());
    let at = device.faults.iter().position(|one| key(one) == mine).unwrap_or_else(|| {
        let (source, place, workload) = mine;
        device.faults.push(Faults { source, place, workload, times: Vec::new() });
        device.faults.len() - 1
    });
    // One process that dies writes a line for each of the units on which it ran.
    let burst = |faults: &Faults| faults.times.iter().any(|before| before.is_near(heard.at, limits.fault_burst));
    if let Some(faults) = device.faults.get_mut(at).filter(|faults| !burst(faults)) {
        faults.times.push(heard.at);
        faults.times.sort_unstable();
        let surplus = faults.times.len().saturating_sub(MAX_TIMES);
        faults.times.drain(..surplus);
    }
    let here = device.faults.iter().filter(|one| one.source == event.source && one.place == heard.place);
    let (mut total, mut workloads) = (0_u32, BTreeSet::new());
    for faults in here {
        total = total.saturating_add(u32::try_from(faults.times.len()).unwrap_or(u32::MAX));
        workloads.insert(faults.workload.clone());
    }
    device.faults.sort_by_key(|one| (std::cmp::Reverse(one.times.last().copied()), key(one)));
    device.faults.truncate(MAX_FAULTS);
    if total < limits.faults.clamp(1, u32::try_from(MAX_TIMES).unwrap_or(1)) {
        return None;
    }
    if workloads.len() == 1 && workloads.first().is_some_and(Option::is_some) {
        return Some(NoticeKind::TenantFault);
    }
    device.raise(Finding {
        reason: Cause::ApplicationFaults.into(),
        state: Health::Degraded,
        action: Action::Investigate,
        work: Work::Keep,
        offer: Offer::Nothing,
        place: heard.place,
        ends: Ends::Quiet(limits.fault_hold),
        since: inputs.now,
        raised: heard.at,
        last: heard.at,
        young: false,
        xid: Some(event.xid),
    });
    None
}

/// Adds a report to the node's incident, or begins another after a long silence.
fn join(incident: &mut Option<Incident>, id: &DeviceId, heard: &Heard<'_>, limits: &Limits) {
    match incident {
        Some(open) if open.last.is_near(heard.at, limits.incident_silence) => {
            open.devices.insert(id.clone());
            open.last = open.last.max(heard.at);
            open.since = open.since.min(heard.event.at);
        }
        _ => {
            let devices = [id.clone()].into();
            *incident = Some(Incident { since: heard.event.at, last: heard.at, devices });
        }
    }
}
