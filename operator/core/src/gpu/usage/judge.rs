//! From the evidence to who uses each device.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{Meant, Names, ids_of, is_uuid};
use super::{
    Attribution, ClaimRef, Clean, DeviceUse, Evidence, Found, Holding, Kubelet, NodeUse, Owner, PodRef, Pods, Standing,
    Use, Why, in_steps,
};
use crate::gpu::device::{Device, Memory, Process, ProcessKind};
use crate::gpu::reading::{Gap, Reading};
use crate::ids::{Bytes, DeviceId, ObjectUid};

/// A driver that makes up new ids with every survey must not make the agent's memory grow.
const MAX_STANDING: usize = 32_768;

/// Judges each device and instance. `previous` is what this gave the last time, in the same boot of the node.
pub fn judge(evidence: &Evidence<'_>, previous: Option<&Standing>) -> NodeUse {
    let view = View::of(evidence, previous);
    let mut devices = BTreeMap::new();
    let mut standing = Standing { at: evidence.uptime_milliseconds, ..Standing::default() };
    for unit in evidence.devices.iter().flat_map(units) {
        if !devices.contains_key(unit.id) {
            let found = view.judge(&unit, &mut standing);
            devices.insert(unit.id.clone(), found);
        }
    }
    view.carry_over(&devices, &mut standing);
    let allocatable = view.allocatable.map(|given_out| given_out.into_keys().collect());
    NodeUse { devices, unnamed: view.unnamed, allocatable, standing }
}

/// A device or an instance, with what the driver says of it.
struct Unit<'a> {
    id: &'a DeviceId,
    memory: &'a Memory,
    /// Its memory is the node's, and so is the count of what is in use.
    memory_is_the_nodes: bool,
    processes: Reading<Vec<&'a Process>>,
    /// Processes of the device, of which it cannot be told whether they use this instance.
    unplaced: Vec<&'a Process>,
    /// It is divided into instances.
    divided: bool,
    /// Those that go by its id, or by that of the device that it is part of.
    called: Vec<&'a DeviceId>,
}

fn units(device: &Device) -> Vec<Unit<'_>> {
    let memory_is_the_nodes = memory_is_the_nodes(device);
    let all: Reading<Vec<&Process>> = match &device.processes {
        Reading::Known(processes) => Reading::Known(processes.iter().collect()),
        Reading::Unsupported => Reading::Unsupported,
        Reading::Unknown(gap) => Reading::Unknown(*gap),
    };
    let place_is_known = |process: &Process| {
        device.instances.iter().any(|one| process.place.is_some() && one.place.get() == process.place)
    };
    let mut units = vec![Unit {
        id: &device.id,
        memory: &device.memory,
        memory_is_the_nodes,
        processes: all.clone(),
        unplaced: Vec::new(),
        divided: !device.instances.is_empty(),
        called: ids_of(device).collect(),
    }];
    for instance in &device.instances {
        let of = |wanted: &dyn Fn(&Process) -> bool| {
            all.known().into_iter().flatten().copied().filter(|process| wanted(process)).collect::<Vec<_>>()
        };
        let unplaced = of(&|process| !place_is_known(process));
        let mine = of(&|process| process.place.is_some() && instance.place.get() == process.place);
        units.push(Unit {
            id: &instance.id,
            memory: &instance.memory,
            memory_is_the_nodes,
            processes: all.clone().map(|_| mine),
            unplaced,
            divided: false,
            called: vec![&instance.id, &device.id],
        });
    }
    units
}

/// Where the GPU's memory is a NUMA node of the machine, the system counts it and keeps pages after their process ended, so
/// that nothing follows from how much is in use (NVML, known issues).
fn memory_is_the_nodes(device: &Device) -> bool {
    let product = device.identity.product.known();
    product.is_some_and(|name| ["GH200", "GB200", "GB300"].iter().any(|chip| name.as_str().contains(chip)))
}

/// A holder of one device.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Holder {
    pod: PodRef,
    claim: Option<ClaimRef>,
}

/// The evidence, looked up by device and pod.
struct View<'a> {
    evidence: &'a Evidence<'a>,
    previous: Option<&'a Standing>,
    duplicates: BTreeSet<&'a DeviceId>,
    holders: BTreeMap<DeviceId, BTreeSet<Holder>>,
    shared: BTreeSet<DeviceId>,
    unnamed: BTreeSet<Holding>,
    /// What the kubelet gives out, and as how many devices each.
    allocatable: Option<BTreeMap<DeviceId, u32>>,
    /// The pods that live by both the kubelet and the API server. None: one of them did not say.
    living: Option<BTreeMap<&'a ObjectUid, &'a PodRef>>,
}

impl<'a> View<'a> {
    fn of(evidence: &'a Evidence<'a>, previous: Option<&'a Standing>) -> Self {
        let (mut seen, mut duplicates) = (BTreeSet::new(), BTreeSet::new());
        for id in evidence.devices.iter().flat_map(ids_of) {
            if !seen.insert(id) {
                duplicates.insert(id);
            }
        }
        let mut view = Self {
            evidence,
            // Times of another boot mean nothing in this one.
            previous: previous.filter(|standing| standing.at <= evidence.uptime_milliseconds),
            duplicates,
            holders: BTreeMap::new(),
            shared: evidence.shared.clone(),
            unnamed: BTreeSet::new(),
            allocatable: None,
            living: None,
        };
        let Kubelet::Said(allocation) = evidence.kubelet else { return view };
        let names = Names::of(evidence);
        for holding in &allocation.holdings {
            match names.meant(&holding.device) {
                Some(meant) => {
                    if meant.share {
                        view.shared.insert(meant.device.clone());
                    }
                    let holder = Holder { pod: holding.pod.clone(), claim: holding.claim.clone() };
                    view.holders.entry(meant.device).or_default().insert(holder);
                }
                None if evidence.relevant.has(&holding.device) && !is_uuid(&holding.device) => {
                    view.unnamed.insert(holding.clone());
                }
                None => {}
            }
        }
        if let Some(allocatable) = &allocation.allocatable {
            let meant: Vec<_> = allocatable.iter().filter_map(|name| names.meant(name)).collect();
            view.shared.extend(meant.iter().filter(|meant| meant.share).map(|meant| meant.device.clone()));
            let given_out = view.allocatable.get_or_insert_default();
            for Meant { device, .. } in meant {
                let count = given_out.entry(device).or_insert(0);
                *count = count.saturating_add(1);
            }
        }
        if let Pods::Known(pods) = evidence.pods {
            let active = pods.iter().filter(|(pod, _)| allocation.pods.contains(*pod));
            view.living = Some(active.flat_map(|(pod, uids)| uids.iter().map(move |uid| (uid, pod))).collect());
        }
        view
    }

    fn judge(&self, unit: &Unit<'a>, standing: &mut Standing) -> DeviceUse {
        let now = self.evidence.uptime_milliseconds;
        let duplicate = self.duplicates.contains(unit.id);
        // Of several that go by one id the first stands for all, so nothing may be said that holds for it alone.
        let called: &[&DeviceId] = if duplicate { &[unit.id] } else { &unit.called };
        let holders: BTreeSet<&Holder> = called.iter().filter_map(|id| self.holders.get(*id)).flatten().collect();
        let shared = called.iter().any(|id| self.shared.contains(*id));
        let census = match (&unit.processes, duplicate) {
            (Reading::Known(processes), false) => Some(self.census(unit, processes, &holders, shared, standing)),
            _ => None,
        };
        let limit = self.limit(unit.memory);
        let quiet = match unit.memory_is_the_nodes || duplicate {
            true => None,
            false => unit.memory.used.get().map(|used| used <= limit),
        };
        let unattributed = match (&census, unit.memory_is_the_nodes || duplicate) {
            (Some(census), false) => {
                census.used.zip(unit.memory.used.get()).map(|(by, all)| Bytes(all.0.saturating_sub(by.0)))
            }
            _ => None,
        };
        let leaking = unattributed.filter(|bytes| *bytes > limit);
        if leaking.is_some() {
            let since = self.previous.and_then(|previous| previous.memory.get(unit.id)).copied().unwrap_or(now);
            standing.memory.insert(unit.id.clone(), since);
        }
        let clean = self.clean(unit, census.as_ref(), unattributed, leaking);
        let state = self.state(unit, duplicate, &holders, shared, census.as_ref(), leaking, standing);
        let state = self.unless_worse(unit.id, state, census.as_ref());
        let since_milliseconds = self.since(unit.id, &state, standing);
        let idle_seconds = self.idle(unit.id, &holders, census.as_ref(), standing);
        DeviceUse {
            state,
            since_milliseconds,
            holders: matches!(self.evidence.kubelet, Kubelet::Said(_))
                .then(|| holders.iter().map(|holder| holder.pod.clone()).collect()),
            shared,
            replicas: self.allocatable.as_ref().map(|given_out| given_out.get(unit.id).copied().unwrap_or(0)),
            oldest_unattributed_seconds: census
                .as_ref()
                .and_then(|census| census.oldest)
                .map(|since| now.saturating_sub(since) / 1000),
            processes: census.map(|census| census.counts),
            unattributed,
            clean,
            quiet,
            idle_seconds,
        }
    }

    #[allow(clippy::too_many_arguments)] // What was found out of one device; the order of the questions is the point.
    fn state(
        &self,
        unit: &Unit<'_>,
        duplicate: bool,
        holders: &BTreeSet<&Holder>,
        shared: bool,
        census: Option<&Census>,
        leaking: Option<Bytes>,
        standing: &Standing,
    ) -> Use {
        let now = self.evidence.uptime_milliseconds;
        let old = |since: u64| now.saturating_sub(since) > self.evidence.limits.grace_milliseconds;
        if duplicate {
            return Use::Unknown(Why::DuplicateId);
        }
        if matches!(self.evidence.kubelet, Kubelet::Unknown) {
            return Use::Unknown(self.without_the_kubelet(unit));
        }
        if let Some(census) = census.filter(|census| !census.intruders.is_empty()) {
            return Use::Intruder { pods: census.intruders.clone() };
        }
        if !holders.is_empty() {
            let pods = if shared || unit.divided { pods(holders) } else { self.exclusive(holders) };
            return pods.map_or(Use::Unknown(Why::SeveralHolders), |pods| Use::Held { pods });
        }
        if !self.unnamed.is_empty() {
            return Use::Unknown(Why::UnnamedHolding);
        }
        let Some(census) = census else {
            return Use::Unknown(unit.processes.gap().map_or(Why::ProcessesUnsupported, Why::Processes));
        };
        if let Some(since_milliseconds) = census.oldest_host.filter(|since| old(*since)) {
            return Use::Orphaned { since_milliseconds, processes: census.host };
        }
        if !unit.unplaced.is_empty() {
            return Use::Unknown(Why::Unplaced);
        }
        if census.unknown > 0 {
            return Use::Unknown(Why::ProcessOwner);
        }
        if census.host > 0 {
            return Use::Unknown(Why::Settling);
        }
        if unit.memory.used.get().is_none() && !unit.memory_is_the_nodes {
            return Use::Unknown(Why::Memory);
        }
        match leaking {
            Some(bytes) if standing.memory.get(unit.id).is_some_and(|since| old(*since)) => {
                Use::Leaked { bytes: in_steps(bytes) }
            }
            Some(_) => Use::Unknown(Why::Settling),
            None => Use::Free,
        }
    }

    /// Pods are counted by the operator then. What may be no pod's is in the way, also where only that it may be is known. Where
    /// nobody is ever shown the node's processes, memory tells whether there is anything.
    fn without_the_kubelet(&self, unit: &Unit<'_>) -> Why {
        let of_no_pod = |process: &&Process| {
            let owner = self.evidence.processes.get(&process.pid).map(|found| &found.owner);
            !matches!(owner, Some(Owner::Pod { .. }))
        };
        let unread = |process: &&Process| {
            let owner = self.evidence.processes.get(&process.pid).map(|found| &found.owner);
            matches!(owner, None | Some(Owner::Unreadable))
        };
        match &unit.processes {
            Reading::Unknown(gap) if *gap != Gap::NoPermission => Why::Processes(*gap),
            _ if unit.unplaced.iter().any(of_no_pod) => Why::Unplaced,
            Reading::Known(processes) if processes.iter().any(unread) => Why::ProcessOwner,
            _ if unit.memory.used.get().is_none() && !unit.memory_is_the_nodes => Why::Memory,
            _ => Why::KubeletUnknown,
        }
    }

    /// What was found before, where less is known now: to know less makes no device better. Without the kubelet's word one
    /// that was not free is not taken for free, and without a view of the processes no intruder is taken for gone.
    fn unless_worse(&self, id: &DeviceId, state: Use, census: Option<&Census>) -> Use {
        let Some((before, _)) = self.previous.and_then(|previous| previous.states.get(id)) else { return state };
        let silent = matches!(self.evidence.kubelet, Kubelet::Unknown);
        let blind = silent || census.is_none_or(|census| census.unknown > 0);
        match (before, &state) {
            (Use::Free | Use::Held { .. } | Use::Unknown(Why::KubeletUnknown), _) => state,
            // Which of the two it was nobody can tell.
            (_, Use::Unknown(Why::DuplicateId)) => state,
            // What was missing then is known now.
            (
                Use::Unknown(Why::Processes(_) | Why::ProcessOwner | Why::Unplaced | Why::Memory),
                Use::Unknown(Why::KubeletUnknown),
            ) => state,
            (_, Use::Unknown(_)) if silent => before.clone(),
            (Use::Intruder { .. }, Use::Free | Use::Held { .. } | Use::Unknown(_)) if blind => before.clone(),
            _ => state,
        }
    }

    /// The holders of a device that only one may hold. Several pods may share one claim; and before 1.34 a kubelet lists pods
    /// that have ended, whose device is another's by then.
    fn exclusive(&self, holders: &BTreeSet<&Holder>) -> Option<BTreeSet<PodRef>> {
        let one_claim = |holders: &BTreeSet<&Holder>| {
            let claims: BTreeSet<_> = holders.iter().map(|holder| holder.claim.as_ref()).collect();
            claims.len() == 1 && !claims.contains(&None)
        };
        let few_enough = |holders: &BTreeSet<&Holder>| match pods(holders) {
            Some(pods) if pods.len() == 1 || one_claim(holders) => Some(pods),
            _ => None,
        };
        few_enough(holders).or_else(|| {
            let Pods::Known(known) = self.evidence.pods else { return None };
            few_enough(&holders.iter().filter(|holder| known.contains_key(&holder.pod)).copied().collect())
        })
    }

    fn clean(
        &self,
        unit: &Unit<'_>,
        census: Option<&Census>,
        unattributed: Option<Bytes>,
        leaking: Option<Bytes>,
    ) -> Clean {
        let Some(census) = census else { return Clean::Unknown };
        let now = self.evidence.uptime_milliseconds;
        let old = |since: &u64| now.saturating_sub(*since) > self.evidence.limits.grace_milliseconds;
        if !census.intruders.is_empty() || census.oldest_host.as_ref().is_some_and(old) || leaking.is_some() {
            return Clean::No;
        }
        let memory_is_known = unattributed.is_some() || unit.memory_is_the_nodes;
        if census.unknown > 0 || !unit.unplaced.is_empty() || !memory_is_known { Clean::Unknown } else { Clean::Yes }
    }

    /// Whose the processes of a unit are.
    fn census(
        &self,
        unit: &Unit<'_>,
        processes: &[&Process],
        holders: &BTreeSet<&Holder>,
        shared: bool,
        standing: &mut Standing,
    ) -> Census {
        let now = self.evidence.uptime_milliseconds;
        let mut census = Census { used: Some(Bytes(0)), ..Census::default() };
        let (mut hosts, mut unknown, mut used) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        for process in processes {
            let found = self.evidence.processes.get(&process.pid);
            let (attribution, intruder) = self.attribute(found, holders, shared);
            let count = census.counts.entry((process.kind, attribution)).or_insert(0);
            *count = count.saturating_add(1);
            // One that computes and draws stands in two lists with all its memory in each.
            let most: &mut Option<Bytes> = used.entry((process.pid, process.place)).or_insert(Some(Bytes(0)));
            *most = most.zip(process.used.get()).map(|(one, other)| one.max(other));
            if attribution == Attribution::Pod {
                continue;
            }
            let started = found.and_then(|found| found.started_milliseconds);
            let key = (unit.id.clone(), process.pid, started);
            // After a restart of the agent nobody knows since when. At most since it runs.
            let since = match self.previous {
                Some(previous) => previous.processes.get(&key).copied().unwrap_or(now),
                None => started.unwrap_or(now),
            };
            let since = since.min(now);
            standing.processes.insert(key, since);
            census.oldest = Some(census.oldest.map_or(since, |oldest| oldest.min(since)));
            match attribution {
                Attribution::Host => {
                    hosts.insert(process.pid);
                    census.oldest_host = Some(census.oldest_host.map_or(since, |oldest| oldest.min(since)));
                }
                Attribution::Unknown => {
                    unknown.insert(process.pid);
                }
                Attribution::Pod | Attribution::PodMismatch => {}
            }
            census.intruders.extend(intruder);
        }
        census.host = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        census.unknown = unknown.len();
        let sum = used.values().try_fold(0_u64, |sum, bytes| bytes.map(|bytes| sum.saturating_add(bytes.0)));
        census.used = sum.map(Bytes).filter(|_| unit.unplaced.is_empty());
        census
    }

    fn attribute(
        &self,
        found: Option<&Found>,
        holders: &BTreeSet<&Holder>,
        shared: bool,
    ) -> (Attribution, Option<(PodRef, ObjectUid)>) {
        let uid = match found.map(|found| &found.owner) {
            None | Some(Owner::Unreadable) => return (Attribution::Unknown, None),
            // The driver may know a process longer than the kernel does. One that has just ended is gone from its list soon.
            Some(Owner::Host | Owner::Gone) => return (Attribution::Host, None),
            Some(Owner::Pod { uid, .. }) => uid,
        };
        let (Kubelet::Said(_), Pods::Known(pods)) = (self.evidence.kubelet, self.evidence.pods) else {
            return (Attribution::Unknown, None);
        };
        let uids = |holder: &&Holder| pods.get(&holder.pod);
        if holders.iter().filter_map(uids).any(|uids| uids.contains(uid)) {
            return (Attribution::Pod, None);
        }
        if holders.iter().any(|holder| uids(holder).is_none()) {
            // A holder that the API server does not know may be this one.
            return (Attribution::Unknown, None);
        }
        match self.living.as_ref().and_then(|living| living.get_key_value(uid)) {
            None => (Attribution::Host, None),
            // The server that lets several share a device runs in a pod that holds none.
            Some(_) if shared => (Attribution::Unknown, None),
            Some((uid, pod)) => (Attribution::PodMismatch, Some(((*pod).clone(), (*uid).clone()))),
        }
    }

    fn limit(&self, memory: &Memory) -> Bytes {
        let limits = &self.evidence.limits;
        let share = memory.total.get().map_or(0, |total| total.0 / 100);
        limits.unattributed.max(Bytes(share.saturating_mul(limits.unattributed_percent)))
    }

    fn since(&self, id: &DeviceId, state: &Use, standing: &mut Standing) -> u64 {
        let before = self.previous.and_then(|previous| previous.states.get(id));
        let since = match before {
            Some((before, since)) if same(before, state) => *since,
            _ => self.evidence.uptime_milliseconds,
        };
        standing.states.insert(id.clone(), (state.clone(), since));
        since
    }

    fn idle(
        &self,
        id: &DeviceId,
        holders: &BTreeSet<&Holder>,
        census: Option<&Census>,
        standing: &mut Standing,
    ) -> Option<u64> {
        let now = self.evidence.uptime_milliseconds;
        if holders.is_empty() || !census?.counts.is_empty() {
            return None;
        }
        let since = self.previous.and_then(|previous| previous.idle.get(id)).copied().unwrap_or(now);
        standing.idle.insert(id.clone(), since);
        Some(now.saturating_sub(since) / 1000)
    }

    /// Keeps what was known of devices that could not be judged this time: one survey that fails does not make an old
    /// process young.
    fn carry_over(&self, judged: &BTreeMap<DeviceId, DeviceUse>, standing: &mut Standing) {
        let Some(previous) = self.previous else { return };
        let unseen = |id: &DeviceId| judged.get(id).is_none_or(|found| found.processes.is_none());
        let unmeasured = |id: &DeviceId| judged.get(id).is_none_or(|found| found.unattributed.is_none());
        for (key, since) in previous.processes.iter().filter(|((id, ..), _)| unseen(id)) {
            if standing.processes.len() < MAX_STANDING {
                standing.processes.entry(key.clone()).or_insert(*since);
            }
        }
        for (id, since) in previous.memory.iter().filter(|(id, _)| unmeasured(id)) {
            if standing.memory.len() < MAX_STANDING {
                standing.memory.entry(id.clone()).or_insert(*since);
            }
        }
    }
}

/// What the processes of a unit come to.
#[derive(Default)]
struct Census {
    counts: BTreeMap<(ProcessKind, Attribution), u32>,
    intruders: BTreeSet<(PodRef, ObjectUid)>,
    /// Processes of no living pod, and since when the oldest has been seen.
    host: u32,
    oldest_host: Option<u64>,
    unknown: usize,
    /// Since when the oldest of all that no holder accounts for has been seen.
    oldest: Option<u64>,
    /// What they use together; none if that of one is unknown.
    used: Option<Bytes>,
}

fn pods(holders: &BTreeSet<&Holder>) -> Option<BTreeSet<PodRef>> {
    (!holders.is_empty()).then(|| holders.iter().map(|holder| holder.pod.clone()).collect())
}

/// Whether two states are one, whose figures changed.
fn same(one: &Use, other: &Use) -> bool {
    match (one, other) {
        (Use::Orphaned { .. }, Use::Orphaned { .. }) | (Use::Leaked { .. }, Use::Leaked { .. }) => true,
        _ => one == other,
    }
}
