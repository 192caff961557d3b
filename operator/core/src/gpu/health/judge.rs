//! From findings to verdicts.

use std::collections::{BTreeMap, BTreeSet};

use super::events::{self, Told};
use super::history::{Clean, DriverSeen, Ends, Finding, MAX_DEVICES, Steady, Tick};
use super::input::{Inputs, LostDevice, Survey, SurveyFailure};
use super::rules::{self, Like, Observed};
use super::weigh::weigh;
use super::{DeviceHistory, History, Judgement, MAX_NOTICES, NodeVerdict};
use crate::capacity::Health;
use crate::gpu::device::Device;
use crate::gpu::words::{Action, Cause, Offer, Reason, Work};
use crate::ids::{Bytes, DeviceId, Line, UnixSeconds};

/// Judges the devices of one node by everything that is known of them. The order of devices, reports and resets is of no
/// effect. Total: a history of any content gives a judgement.
#[must_use]
pub fn judge(mut history: History, inputs: &Inputs<'_>) -> Judgement {
    let tick = history.tick(inputs.node);
    let read = Read::of(inputs.survey);
    enter(&mut history, &read, inputs.now, tick);
    restarted(&mut history, inputs, tick);
    clear(&mut history, inputs);
    let tick = Tick { young: in_grace(&mut history, inputs, tick), ..tick };
    let mut told = events::hear(&mut history, inputs, &read.single, tick);
    answered(&mut history, inputs, tick);
    if let Survey::Read { .. } = inputs.survey {
        look(&mut history, inputs, &read, tick, &mut told);
    }
    let moment = Moment { inputs, read: &read, tick };
    for (id, device) in &mut history.devices {
        moment.expire(id, device, &told);
    }
    let mut judgement = Judgement {
        devices: BTreeMap::new(),
        instances: BTreeMap::new(),
        node: NodeVerdict { unidentified: read.unidentified(&history), ..NodeVerdict::default() },
        notices: told.notices.into_iter().take(MAX_NOTICES).collect(),
        evidence_dropped: told.evidence_dropped,
        history: History::default(),
    };
    for (id, device) in &mut history.devices {
        moment.conclude(id, device, &mut judgement);
    }
    of_node(&mut judgement, &mut history, &moment);
    judgement.history = history;
    judgement
}

/// What a survey read, by id.
struct Read<'a> {
    /// Those of all devices; an instance is no device of its own.
    ids: BTreeSet<&'a DeviceId>,
    /// Devices that no other thing shares its id with.
    single: BTreeMap<&'a DeviceId, &'a Device>,
    /// Ids that two devices or instances gave.
    twice: BTreeSet<&'a DeviceId>,
    /// Devices that gave none.
    nameless: usize,
    /// Those of them that the driver no longer reaches.
    lost: usize,
}

impl<'a> Read<'a> {
    fn of(survey: Survey<'a>) -> Self {
        let Survey::Read { devices, lost } = survey else {
            return Self {
                ids: BTreeSet::new(),
                single: BTreeMap::new(),
                twice: BTreeSet::new(),
                nameless: 0,
                lost: 0,
            };
        };
        let (mut once, mut twice) = (BTreeSet::new(), BTreeSet::new());
        let ids = |device: &'a Device| {
            std::iter::once(&device.id).chain(device.instances.iter().map(|instance| &instance.id))
        };
        for id in devices.iter().flat_map(ids) {
            if !once.insert(id) {
                twice.insert(id);
            }
        }
        let single = devices.iter().filter(|device| !twice.contains(&device.id)).map(|device| (&device.id, device));
        let ids = devices.iter().map(|device| &device.id).collect();
        let gone = |one: &&LostDevice| rules::is_lost(one.gap);
        Self { ids, single: single.collect(), twice, nameless: lost.len(), lost: lost.iter().filter(gone).count() }
    }

    fn sees(&self, id: &DeviceId) -> bool {
        self.ids.contains(id)
    }

    /// Devices that gave no id and that none of the missing can be.
    fn unidentified(&self, history: &History) -> u32 {
        let missing = history.devices.keys().filter(|id| !self.sees(id)).count();
        u32::try_from(self.nameless.saturating_sub(missing)).unwrap_or(u32::MAX)
    }
}

/// Enters devices that are seen for the first time, and forgets the missing ones where there is no room.
fn enter(history: &mut History, read: &Read<'_>, now: UnixSeconds, tick: Tick) {
    for id in &read.ids {
        if !history.devices.contains_key(*id) {
            let device = DeviceHistory { since: now, seen: tick.now, ..DeviceHistory::default() };
            history.devices.insert((*id).clone(), device);
        }
    }
    while history.devices.len() > MAX_DEVICES {
        let worth =
            |(id, device): (&DeviceId, &DeviceHistory)| (read.sees(id), device.is_condemned(), device.seen, id.clone());
        let Some((.., id)) = history.devices.iter().map(worth).min() else { return };
        history.devices.remove(&id);
    }
}

/// A reboot or a reset begins what may clear an unhealthy device, and ends what only that boot could tell.
fn restarted(history: &mut History, inputs: &Inputs<'_>, tick: Tick) {
    let resets: BTreeSet<&DeviceId> = inputs.resets.iter().map(|reset| &reset.device).collect();
    for (id, device) in &mut history.devices {
        let reset = resets.contains(id);
        if !(tick.rebooted || reset) {
            continue;
        }
        for finding in &mut device.findings {
            if let Ends::Reset { armed } = &mut finding.ends {
                *armed = true;
            }
        }
        device.clean = None;
        device.conditions = super::history::Conditions::default();
        device.baseline.memory_total = None;
        if tick.rebooted {
            // The driver counts from zero. A reset that was only reported proves no such thing.
            device.baseline.volatile_uncorrected = None;
        }
    }
}

/// A reset answers what was reported before it, also where both are heard of only now.
fn answered(history: &mut History, inputs: &Inputs<'_>, tick: Tick) {
    for reset in inputs.resets {
        let Some(device) = history.devices.get_mut(&reset.device) else { continue };
        let at = events::steady(reset.at, inputs.now, tick);
        for finding in device.findings.iter_mut().filter(|one| one.last < at) {
            if let Ends::Reset { armed } = &mut finding.ends {
                *armed = true;
            }
        }
    }
}

/// The owner's word takes everything back that stands. What is still so will be found again.
fn clear(history: &mut History, inputs: &Inputs<'_>) {
    for (id, clear) in inputs.clears {
        let Some(device) = history.devices.get_mut(id) else { continue };
        if clear.reason.is_empty() || device.cleared == Some(clear.at) {
            continue;
        }
        device.cleared = Some(clear.at);
        device.findings.clear();
        device.faults.clear();
        device.changes.clear();
        (device.pinned, device.clean) = (None, None);
        let counted = device.baseline.volatile_uncorrected;
        device.baseline = super::history::Baseline { volatile_uncorrected: counted, ..Default::default() };
    }
}

/// Whether the node is so young that what is not certain does not yet condemn a device (R15).
fn in_grace(history: &mut History, inputs: &Inputs<'_>, tick: Tick) -> bool {
    if let Some(version) = &inputs.node.driver {
        let changed = history.driver.as_ref().is_some_and(|seen| seen.version != *version);
        if changed || history.driver.is_none() {
            history.driver = Some(DriverSeen { version: version.clone(), since: changed.then_some(tick.now) });
        }
    }
    let grace = inputs.limits.grace;
    let since_change = history.driver.as_ref().and_then(|driver| driver.since);
    let changed = since_change.is_some_and(|since| !tick.now.is_after(since, grace));
    let ready = inputs.node.ready_since.is_some_and(|since| {
        let age = inputs.now.since(since).0;
        // A moment that lies ahead excuses nothing.
        (0..grace.0).contains(&age)
    });
    changed || ready
}

/// Takes in what the readings say.
fn look(history: &mut History, inputs: &Inputs<'_>, read: &Read<'_>, tick: Tick, told: &mut Told) {
    let limits = inputs.limits;
    let mut braked = BTreeSet::new();
    let mut steady_power = BTreeSet::new();
    for (id, device) in &read.single {
        let like = like(device, read, inputs);
        let Some(memory) = history.devices.get_mut(*id) else { continue };
        memory.seen = tick.now;
        let DeviceHistory { baseline, conditions, .. } = memory;
        let said = rules::observe(device, like, baseline, conditions, limits, tick.now);
        match rules::is_braked(device, conditions, limits, tick.now) {
            Some(true) => drop(braked.insert(*id)),
            Some(false) => drop(steady_power.insert(*id)),
            None => {}
        }
        for (reason, observed) in said {
            if take(memory, reason, observed, inputs, tick) {
                told.condemned.insert((*id).clone());
            }
        }
    }
    let limit = usize::try_from(limits.brake_devices.max(1)).unwrap_or(usize::MAX);
    let enough = braked.len() >= limit;
    // One that was braked when it was last read may still be: until that is known nothing is taken back for lack of others.
    let perhaps = |(id, memory): &(&DeviceId, &DeviceHistory)| {
        memory.conditions.brake.is_some() && !braked.contains(id) && !steady_power.contains(id)
    };
    let too_few = braked.len().saturating_add(history.devices.iter().filter(perhaps).count()) < limit;
    for (id, memory) in &mut history.devices {
        if enough && braked.contains(id) {
            take(memory, Cause::NodePower, rules::node_power(), inputs, tick);
        } else if steady_power.contains(id) || (too_few && braked.contains(id)) {
            take(memory, Cause::NodePower, Observed::Clear, inputs, tick);
        }
    }
    for id in &read.twice {
        if let Some(memory) = history.devices.get_mut(*id) {
            memory.seen = tick.now;
        }
    }
    if read.lost == 0 {
        return;
    }
    // Which of the missing ones it is that is lost nobody can tell, so it may be any of them; but not more of them than are
    // lost, where so many are known to be. One that gave no id for another reason is not known to be worse than missing.
    let known = |device: &DeviceHistory| device.findings.iter().any(|one| one.reason == Reason::Known(Cause::GpuLost));
    let missing = || history.devices.iter().filter(|(id, _)| !read.sees(id));
    let explained = missing().filter(|(_, device)| known(device)).count() >= read.lost;
    let missing = history.devices.iter_mut().filter(|(id, _)| !read.sees(id));
    for (id, memory) in missing.filter(|(_, device)| !explained || known(device)) {
        let (state, action, work, offer) = (Health::Unhealthy, Action::RebootNode, Work::Drain, Offer::Nothing);
        let fault = rules::Fault { state, action, work, offer, certain: true };
        if take(memory, Cause::GpuLost, Observed::Raised(fault), inputs, tick) {
            told.condemned.insert(id.clone());
        }
    }
}

/// What a device is compared with: its product as it is sold, or most of its like on the node.
fn like(device: &Device, read: &Read<'_>, inputs: &Inputs<'_>) -> Like {
    let mut like = Like { canary: inputs.canary.get(&device.id).copied(), ..Like::default() };
    let Some(product) = device.identity.product.known() else { return like };
    let peers = || read.single.values().filter(|peer| peer.identity.product.known() == Some(product));
    like.nvlink = most(peers().filter_map(|peer| peer.nvlink.active.get())).map(|(active, _)| active);
    let usual = most(peers().filter_map(|peer| peer.memory.total.get()));
    // Half of them against the other half proves nothing.
    let majority = usual.filter(|(_, votes)| *votes * 2 > peers().count()).map(|(total, _)| total);
    like.memory = nominal(product, inputs).or(majority);
    like
}

fn nominal(product: &Line, inputs: &Inputs<'_>) -> Option<Bytes> {
    inputs.nominal.get(product).copied()
}

/// The value that most have, the largest of them where several are as frequent; and how many have it.
fn most<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<(T, usize)> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(value, count)| (*count, *value))
}

/// Takes in what one rule says. Answers whether it condemns the device.
fn take(memory: &mut DeviceHistory, reason: Cause, observed: Observed, inputs: &Inputs<'_>, tick: Tick) -> bool {
    let fault = match observed {
        Observed::Unknown => return false,
        Observed::Clear => {
            memory.findings.retain(|one| one.reason != Reason::Known(reason) || one.ends != Ends::Reading);
            return false;
        }
        Observed::Raised(fault) => fault,
    };
    let stands = memory.findings.iter().find(|one| one.reason == Reason::Known(reason) && one.place.is_none());
    let too_long =
        reason == Cause::Thermal && stands.is_some_and(|one| tick.now.is_after(one.raised, inputs.limits.hot_limit));
    let state = if too_long { Health::Unhealthy } else { fault.state };
    let unhealthy = state == Health::Unhealthy;
    memory.raise(Finding {
        reason: reason.into(),
        state,
        action: fault.action,
        work: if unhealthy { fault.work.max(Work::Drain) } else { fault.work },
        offer: fault.offer,
        place: None,
        ends: if unhealthy { Ends::Reset { armed: false } } else { Ends::Reading },
        since: inputs.now,
        raised: tick.now,
        last: tick.now,
        young: unhealthy && tick.young && !fault.certain,
        xid: None,
    });
    if fault.certain {
        let same = memory.findings.iter_mut().filter(|one| one.reason == Reason::Known(reason));
        same.for_each(|one| one.young = false);
    }
    unhealthy
}

/// One judgement's moment.
struct Moment<'a> {
    inputs: &'a Inputs<'a>,
    read: &'a Read<'a>,
    tick: Tick,
}

impl Moment<'_> {
    /// Ends what has come to its end.
    fn expire(&self, id: &DeviceId, device: &mut DeviceHistory, told: &Told) {
        let (now, limits) = (self.tick.now, self.inputs.limits);
        for one in &mut device.findings {
            // What a reset has answered before the grace was over does not condemn any more.
            let answered = one.ends == Ends::Reset { armed: true };
            one.young &= answered || (self.tick.young && !now.is_after(one.raised, limits.grace));
        }
        device.findings.retain(|one| match one.ends {
            Ends::Quiet(hold) => !now.is_after(one.last, hold),
            Ends::Reading | Ends::Reset { .. } => true,
        });
        if let Survey::Failed { .. } = self.inputs.survey {
            // Nothing was seen: neither clean nor the contrary.
            device.cut();
            return;
        }
        let clean = self.read.single.get(id).is_some_and(|seen| rules::is_complete(seen))
            && !device.is_condemned()
            && !told.condemned.contains(id);
        if !clean {
            device.clean = None;
        } else if device.findings.iter().any(|one| matches!(one.ends, Ends::Reset { .. })) {
            let run = device.clean.get_or_insert(Clean { count: 0, first: now });
            run.count = run.count.saturating_add(1);
            if run.count >= limits.clean_surveys.max(1) && now.is_after(run.first, limits.clean_period) {
                device.clean = None;
                device.findings.retain_mut(|one| {
                    let reset = matches!(one.ends, Ends::Reset { .. });
                    if reset && one.last == now {
                        // No longer so bad, and not well yet.
                        (one.state, one.work) = (Health::Degraded, Work::Keep);
                        one.ends = Ends::Quiet(limits.fault_hold);
                    }
                    !matches!(one.ends, Ends::Reset { .. })
                });
            }
        } else {
            device.clean = None;
        }
        device.cut();
    }

    /// What stands in the way of calling a device anything better than unknown.
    fn doubt(&self, id: &DeviceId) -> Option<Cause> {
        match self.inputs.survey {
            Survey::Failed { failure, in_a_row } => {
                let sure = match failure {
                    SurveyFailure::Stuck | SurveyFailure::Unavailable => true,
                    SurveyFailure::Deadline | SurveyFailure::Crashed => {
                        in_a_row >= self.inputs.limits.missed_surveys.max(1)
                    }
                };
                sure.then_some(Cause::SurveyFailed)
            }
            Survey::Read { .. } if self.read.twice.contains(id) => Some(Cause::DuplicateUuid),
            Survey::Read { .. } => match self.read.single.get(id) {
                None => Some(Cause::DeviceMissing),
                Some(seen) if !rules::is_complete(seen) => Some(Cause::IncompleteReading),
                Some(_) => None,
            },
        }
    }

    /// A device's verdict and those of its instances. Changes are remembered.
    fn conclude(&self, id: &DeviceId, device: &mut DeviceHistory, judgement: &mut Judgement) {
        let instances = self.read.single.get(id).map(|seen| seen.instances.as_slice()).unwrap_or_default();
        let mut doubt = self.doubt(id);
        if let (Survey::Failed { .. }, None) = (self.inputs.survey, doubt) {
            // Missed once: what was unknown before stays so.
            doubt = (device.state == Health::Unknown).then_some(Cause::SurveyFailed);
        }
        let places: BTreeSet<_> = instances.iter().filter_map(|instance| instance.place.get()).collect();
        // What concerns an instance that is no longer there concerns the device that had it.
        let of_device = |one: &&Finding| one.place.is_none_or(|place| !places.contains(&place));
        let findings = device.findings.clone();
        let common: Vec<&Finding> = findings.iter().filter(of_device).collect();
        let mut weighed = weigh(&common, doubt);
        let pinned = self.flaps(device, weighed.state);
        if let Some(reason) = pinned {
            weighed.add(Health::Degraded, Action::Investigate, Work::Keep, Offer::Nothing, reason.into());
        }
        let silent = matches!(self.inputs.survey, Survey::Failed { .. });
        let now = self.inputs.now;
        let mut verdict = weighed.verdict(silent);
        if verdict.state != device.state {
            (device.state, device.since) = (verdict.state, now);
        }
        verdict.since = device.since;
        for instance in instances {
            let own = findings.iter().filter(|one| one.place.is_some() && one.place == instance.place.get());
            let all: Vec<&Finding> = common.iter().copied().chain(own.filter(|one| !of_device(one))).collect();
            let unread = instance.memory.total.known().is_none() || instance.place.gap().is_some();
            let doubt = match doubt {
                _ if self.read.twice.contains(&instance.id) => Some(Cause::DuplicateUuid),
                None if unread => Some(Cause::IncompleteReading),
                doubt => doubt,
            };
            let mut weighed = weigh(&all, doubt);
            if let Some(reason) = pinned {
                weighed.add(Health::Degraded, Action::Investigate, Work::Keep, Offer::Nothing, reason.into());
            }
            let mut own = weighed.verdict(silent);
            let first = all.iter().filter(|one| one.place.is_some()).map(|one| one.since).min();
            own.since = if own.state == verdict.state { verdict.since } else { first.unwrap_or(verdict.since) };
            judgement.instances.insert(instance.id.clone(), own);
        }
        judgement.devices.insert(id.clone(), verdict);
    }

    /// Counts changes between healthy and degraded, also those with an unknown state between them, and says whether there
    /// were too many of them.
    fn flaps(&self, device: &mut DeviceHistory, state: Health) -> Option<Cause> {
        let (now, limits) = (self.tick.now, self.inputs.limits);
        let latest = now.plus(limits.flap_hold);
        device.pinned = device.pinned.map(|until| until.min(latest)).filter(|until| now < *until);
        if device.pinned.is_some() {
            device.settled = Some(Health::Degraded);
            return Some(Cause::Flapping);
        }
        if !matches!(state, Health::Healthy | Health::Degraded) {
            return None;
        }
        if device.settled.replace(state).is_some_and(|before| before != state) {
            device.changes.push(now);
        }
        device.changes.retain(|at| !now.is_after(*at, limits.flap_period));
        if u32::try_from(device.changes.len()).unwrap_or(u32::MAX) <= limits.flap_changes {
            return None;
        }
        device.changes.clear();
        device.settled = Some(Health::Degraded);
        device.pinned = Some(latest);
        Some(Cause::Flapping)
    }
}

/// The node's own verdict; and what is no longer shown is forgotten.
fn of_node(judgement: &mut Judgement, history: &mut History, moment: &Moment<'_>) {
    let (limits, tick) = (moment.inputs.limits, moment.tick);
    let several = judgement.devices.len() >= 2;
    let fallen = |one: &Finding| one.work == Work::DrainNode && !one.young;
    let has = |reason: Cause| {
        let reason = Reason::Known(reason);
        judgement.devices.values().any(|verdict| verdict.reasons.contains(&reason))
    };
    judgement.node.cordon = several && history.devices.values().any(|device| device.findings.iter().any(fallen));
    judgement.node.power = has(Cause::NodePower);
    judgement.node.reboot = judgement.devices.values().any(|verdict| verdict.action == Action::RebootNode);
    let over = |last: Steady| !last.is_near(tick.now, limits.incident_silence);
    if history.incident.as_ref().is_some_and(|incident| over(incident.last)) {
        history.incident = None;
    }
    judgement.node.incident.clone_from(&history.incident);
    if let Survey::Failed { .. } = moment.inputs.survey {
        // Who cannot be asked is not missing.
        return;
    }
    let devices = &mut judgement.devices;
    history.devices.retain(|id, device| {
        // What was condemned is remembered until its node was rebooted: it might come back without.
        let long = tick.now.is_after(device.seen, limits.missing_hold);
        let gone = long && !moment.read.sees(id) && !device.is_condemned();
        if gone {
            devices.remove(id);
        }
        !gone
    });
}
