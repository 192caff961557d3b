//! `GPUPool`: its status, from the inventory. Pure but for [`write`].

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use koinon_api::GPUPool;
use koinon_api::common::Evidence;
use koinon_api::conditions::{self, ConditionType, Reason, Verdict};
use koinon_api::gpu_pool::{GPUPoolStatus, GpuAccess, PoolClass};
use koinon_core::capacity::{Closed, Disagreement};
use koinon_core::gpu::breaker::BreakerVerdict;
use koinon_core::ids::{DeviceId, Digest, GpuClass, NodeName, Seconds};
use kube::ResourceExt;
use kube::api::Api;

use crate::placement::inventory::{Inventory, PoolView};
use crate::placement::reclaim::Reclaiming;
use crate::placement::writer::{WriteError, Writer};

/// Figures that still hold are said again this often, so that their age in `kubectl get` means something.
const REPEAT_SECONDS: i64 = 300;

/// What of a pool's work ends, and whether devices that fail take work along.
#[derive(Clone, Debug, Default)]
pub struct Leaving {
    /// What the owner takes back.
    pub reclaiming: Reclaiming,
    /// What the fleet breaker says.
    pub breaker: Option<BreakerVerdict>,
    /// What is said of taints; nothing where the owner asks for none.
    pub tainting: Option<Verdict>,
}

/// After a restart of a kubelet its GPUs are gone until their plugin registers them anew: it offers nothing, and is no fault yet.
const REREGISTERS: Seconds = Seconds(120);
/// A GPU that was just put in, or that has just recovered, is known to NVML first.
const REGISTERS: Seconds = Seconds(600);

/// The digests of the pools' devices, which take longer to compute than all else of a large pool's status and rarely change.
#[derive(Clone, Debug, Default)]
pub struct Digests(BTreeMap<String, (Vec<DeviceId>, Digest)>);

impl Digests {
    /// The digest of a pool's devices; computed anew where they are others than at the last look.
    pub fn of(&mut self, view: &PoolView, inventory: &Inventory) -> Digest {
        let name = name(view);
        match self.0.get(&name) {
            Some((known, digest)) if devices(view, inventory).eq(known) => *digest,
            _ => {
                let known: Vec<DeviceId> = devices(view, inventory).cloned().collect();
                let digest = digest(&known);
                self.0.insert(name, (known, digest));
                digest
            }
        }
    }

    /// Forgets pools that are gone.
    pub fn keep(&mut self, pools: &BTreeMap<String, PoolView>) {
        self.0.retain(|name, _| pools.contains_key(name));
    }
}

/// The status of a pool whose devices have this digest.
#[must_use]
pub fn status(view: &PoolView, inventory: &Inventory, digest: Digest, leaving: &Leaving, now: &Time) -> GPUPoolStatus {
    let generation = view.pool.metadata.generation;
    let before = view.pool.status.clone().unwrap_or_default();
    let figures = &view.capacity;
    let total = |count: fn(&koinon_core::capacity::PoolClass) -> u32| {
        figures.classes.values().fold(0_u32, |sum, class| sum.saturating_add(count(class)))
    };
    let mut next = GPUPoolStatus {
        observed_generation: generation,
        nodes: Some(whole(figures.nodes)),
        stale_nodes: Some(whole(figures.stale_nodes)),
        installed: Some(whole(total(|class| class.installed))),
        leased: Some(whole(total(|class| class.leased))),
        offered: Some(whole(total(|class| class.offered))),
        classes: figures.classes.keys().map(|class| pool_class(view, inventory, class)).collect(),
        digest: Some(digest.to_string()),
        as_of_time: Some(now.clone()),
        conditions: before.conditions,
    };
    let verdicts = [
        (ConditionType::Exclusive, exclusive(view)),
        (ConditionType::Fresh, fresh(view, inventory)),
        (ConditionType::Quarantining, quarantining(leaving.breaker)),
        (ConditionType::Reclaiming, reclaiming(&leaving.reclaiming)),
        (ConditionType::SchedulerConsistent, consistent(view, inventory)),
        (ConditionType::Ready, ready(view, inventory, &next)),
    ];
    next.conditions.retain(|one| leaving.tainting.is_some() || one.type_ != ConditionType::Tainting.as_str());
    let tainting = leaving.tainting.clone().map(|verdict| (ConditionType::Tainting, verdict));
    for (type_, verdict) in verdicts.into_iter().chain(tainting) {
        let _ = conditions::set(&mut next.conditions, type_, verdict, generation, now);
    }
    next
}

/// Writes the status if it says something new, or has not been said for long.
///
/// # Errors
/// See [`WriteError`].
pub async fn write(writer: &Writer, api: &Api<GPUPool>, pool: &GPUPool, next: GPUPoolStatus) -> Result<(), WriteError> {
    let said = pool.status.as_ref();
    let age = |time: &Option<Time>| time.as_ref().map(koinon_api::time::to_unix);
    let old = said.and_then(|said| age(&said.as_of_time)).zip(age(&next.as_of_time)).map(|(then, now)| now - then);
    let same = said.is_some_and(|said| conditions::same_ignoring_times(said, &next));
    if same && old.is_some_and(|old| old < REPEAT_SECONDS) {
        return Ok(());
    }
    let object = GPUPool { status: Some(next), ..pool.clone() };
    writer.replace_status(api, &object).await.map(|_| ())
}

fn pool_class(view: &PoolView, inventory: &Inventory, class: &GpuClass) -> PoolClass {
    let figures = view.capacity.classes.get(class).copied().unwrap_or_default();
    let product = view.nodes.iter().find_map(|node| inventory.nodes.get(node)?.product(class));
    PoolClass {
        class: class.to_string(),
        product: product.as_ref().map_or_else(String::new, |product| product.name.to_string()),
        memory_bytes: product.map_or(0, |product| i64::try_from(product.memory.0).unwrap_or(i64::MAX)),
        evidence: evidence(view, inventory, class),
        installed: whole(figures.installed),
        healthy: whole(figures.healthy),
        degraded: whole(figures.degraded),
        unhealthy: whole(figures.unhealthy),
        unknown: whole(figures.unknown),
        owner_requested: whole(figures.owner_requested),
        owner_reserve: whole(figures.owner_reserve),
        leased: whole(figures.leased),
        orphaned: whole(figures.orphaned),
        stranded: whole(figures.stranded),
        limit: view.limits.get(class).copied().map(whole),
        offered: whole(figures.offered),
        largest_node: whole(figures.largest_node),
    }
}

/// The devices of this pool.
fn devices<'a>(view: &'a PoolView, inventory: &'a Inventory) -> impl Iterator<Item = &'a DeviceId> {
    let name = name(view);
    let mine = inventory.owner.iter().filter(move |((node, _), pool)| **pool == name && view.nodes.contains(node));
    let nodes = mine.filter_map(|((node, class), _)| Some((inventory.nodes.get(node)?, class)));
    nodes.flat_map(|(node, class)| node.devices_of(class))
}

/// Of devices, each by a digest of its name, so that nobody learns the names.
fn digest(devices: &[DeviceId]) -> Digest {
    let digests: BTreeSet<Digest> = devices.iter().map(|id| Digest::of(id.as_str().as_bytes())).collect();
    let lines: String = digests.iter().map(|digest| format!("{digest}\n")).collect();
    Digest::of(lines.as_bytes())
}

/// Two sources that agree support a figure better than one: the driver and the scheduler count the same devices, and the
/// kubelet between them says which those are and who holds them. Two numbers alone may be equal by chance.
pub(crate) fn evidence(view: &PoolView, inventory: &Inventory, class: &GpuClass) -> Evidence {
    let with_class =
        view.nodes.iter().filter_map(|node| Some((inventory.nodes.get(node)?, inventory.capacities.get(node)?)));
    let mut nodes = with_class.filter(|(_, capacity)| capacity.classes.contains_key(class)).peekable();
    let any = nodes.peek().is_some();
    let agree = nodes.all(|(node, capacity)| {
        let unknown = matches!(capacity.closed, Some(Closed::AgentSilent { .. } | Closed::SchedulerUnknown));
        !unknown && node.names_its_devices() && capacity.disagreement.is_none()
    });
    if any && agree { Evidence::SchedulerConsistent } else { Evidence::Claimed }
}

fn reclaiming(reclaiming: &Reclaiming) -> Verdict {
    let Reclaiming { copies, gpus, held, until } = reclaiming;
    if *copies == 0 {
        return Verdict::no(Reason::NothingReclaimed, format!("nobody has to leave; {held} GPUs are held"));
    }
    let until = until.and_then(|until| koinon_api::time::from_unix(until.0));
    let until = until.map_or_else(|| "now".to_owned(), |until| format!("by {}", until.0));
    let message = format!("{gpus} of {held} GPUs that are held come back {until}, as {copies} copies end");
    Verdict::yes(Reason::Reclaimed, message)
}

fn quarantining(breaker: Option<BreakerVerdict>) -> Verdict {
    let Some(breaker) = breaker else {
        return Verdict::unknown(Reason::Starting, "the membership is being read");
    };
    let BreakerVerdict { open, quarantined, healthy } = breaker;
    if open {
        let message = format!(
            "{quarantined} of {healthy} GPUs of this member failed in the last minutes: rather a driver, a rule or power than so \
             many GPUs. Nothing more is drained for their sake; look at them, then kubectl koinon gpus reset-breaker"
        );
        return Verdict::no(Reason::BreakerOpen, message);
    }
    Verdict::yes(Reason::BreakerClosed, "work of others leaves devices that fail")
}

fn exclusive(view: &PoolView) -> Verdict {
    if view.overlaps.is_empty() {
        if let Some(verdict) = counted_otherwise(view) {
            return verdict;
        }
        return Verdict::yes(Reason::Exclusive, "no other pool has these devices");
    }
    let with: Vec<String> = view.overlaps.iter().map(|(pool, class)| format!("{class} with {pool}")).collect();
    let with = with.join(", ");
    Verdict::no(
        Reason::Overlaps,
        format!("devices belong to an older pool: {with}; narrow nodeSelector or classes of one of them"),
    )
}

/// A node's GPUs are counted in one way, that of the oldest pool that selects it.
fn counted_otherwise(view: &PoolView) -> Option<Verdict> {
    let mine = view.pool.spec.pod.gpus();
    let told: Vec<String> = view
        .counted_otherwise
        .iter()
        .map(|(node, (pool, access))| format!("{node} as {access} for pool {pool}"))
        .collect();
    (!told.is_empty()).then(|| {
        let message = format!(
            "this pool asks for {mine}, and an older one has its nodes counted otherwise: {}; this pool has nothing there: give \
             the two different nodes by nodeSelector",
            shorten(&told)
        );
        Verdict::no(Reason::CountedOtherwise, message)
    })
}

fn fresh(view: &PoolView, inventory: &Inventory) -> Verdict {
    let silent: Vec<String> = view.nodes.iter().filter_map(|node| silent(inventory, node)).collect();
    match (view.nodes.len(), silent.len()) {
        (0, _) => Verdict::unknown(Reason::NoMatchingNodes, "no node with GPUs matches nodeSelector"),
        (nodes, 0) => Verdict::yes(Reason::Fresh, format!("{nodes} of {nodes} agents are heard")),
        (nodes, stale) => Verdict::no(
            Reason::StaleNodes,
            format!("{stale} of {nodes} agents are silent, their GPUs are not offered: {}", shorten(&silent)),
        ),
    }
}

fn silent(inventory: &Inventory, node: &NodeName) -> Option<String> {
    match inventory.capacities.get(node)?.closed {
        Some(Closed::AgentSilent { age: Some(age), limit }) => {
            Some(format!("{node} for {age} s, {limit} s are allowed"))
        }
        Some(Closed::AgentSilent { age: None, .. }) => Some(format!("{node} was never heard")),
        _ => None,
    }
}

fn consistent(view: &PoolView, inventory: &Inventory) -> Verdict {
    let mut fewer_registered = Vec::new();
    let mut fewer_for_now = Vec::new();
    let mut reregistering = Vec::new();
    let mut fewer_seen = Vec::new();
    for node in &view.nodes {
        match inventory.capacities.get(node).and_then(|capacity| capacity.disagreement) {
            Some(Disagreement::SchedulerKnowsFewer { allocatable, healthy }) => {
                let told = format!("{node} has {healthy} healthy GPUs, {allocatable} are allocatable");
                // Where nobody keeps count it has lasted.
                match inventory.disagreeing.get(node).copied() {
                    Some(age) if allocatable == 0 && age < REREGISTERS => reregistering.push(told),
                    Some(age) if allocatable > 0 && age < REGISTERS => fewer_for_now.push(told),
                    _ => fewer_registered.push(told),
                }
            }
            Some(Disagreement::NvmlKnowsFewer { allocatable, healthy }) => {
                fewer_seen.push(format!("{node} has {allocatable} allocatable GPUs, NVML calls {healthy} healthy"));
            }
            None => {}
        }
    }
    if let Some(verdict) = closed(view, inventory) {
        return verdict;
    }
    if !fewer_seen.is_empty() {
        return Verdict::no(Reason::FewerInNVML, format!("{}; the smaller number is offered", shorten(&fewer_seen)));
    }
    if !fewer_registered.is_empty() {
        let hint = match view.pool.spec.pod.gpus() {
            GpuAccess::Resource(resource) => {
                format!("check the device plugin of {resource}; where DRA gives them out, set pod.deviceClassName")
            }
            GpuAccess::DeviceClass(class) => format!("check the driver of {class}, and taints of its devices"),
        };
        return Verdict::no(Reason::ResourceNotRegistered, format!("{}; {hint}", shorten(&fewer_registered)));
    }
    if !reregistering.is_empty() {
        let message = format!("{}; their plugin has {REREGISTERS} s to register anew", shorten(&reregistering));
        return Verdict::unknown(Reason::PluginReregistering, message);
    }
    if !fewer_for_now.is_empty() {
        let message = format!("{}; a new GPU has {REGISTERS} s to be registered", shorten(&fewer_for_now));
        return Verdict::unknown(Reason::RegistrationPending, message);
    }
    if view.nodes.is_empty() {
        return Verdict::unknown(Reason::NoMatchingNodes, "no node with GPUs matches nodeSelector");
    }
    let silent = |name: &&NodeName| inventory.nodes.get(*name).is_some_and(|node| !node.names_its_devices());
    let unnamed: Vec<String> = view.nodes.iter().filter(silent).map(ToString::to_string).collect();
    if !unnamed.is_empty() {
        let message = format!(
            "NVML and the scheduler count the same GPUs, and on {} nobody says which those are; see the condition HoldersKnown \
             of those GPUNodes",
            shorten(&unnamed)
        );
        return Verdict::unknown(Reason::KubeletSilent, message);
    }
    Verdict::yes(Reason::Consistent, "NVML and the scheduler count the same GPUs")
}

/// Nodes that take nothing new for what is on them, the gravest kind first.
fn closed(view: &PoolView, inventory: &Inventory) -> Option<Verdict> {
    let nodes = |reason: fn(Closed) -> Option<String>| {
        let closed = view.nodes.iter().filter_map(|node| Some((node, inventory.capacities.get(node)?.closed?)));
        let told: Vec<String> =
            closed.filter_map(|(node, closed)| Some(format!("{node}{}", reason(closed)?))).collect();
        (!told.is_empty()).then(|| shorten(&told))
    };
    let intruded = nodes(|closed| (closed == Closed::Intruder).then(String::new));
    if let Some(nodes) = intruded {
        let message = format!(
            "on {nodes} a pod computes on a GPU that it does not hold, so nothing new comes there; \
             see kubectl koinon gpus --why, and take NVIDIA_VISIBLE_DEVICES and privileges from that pod"
        );
        return Some(Verdict::no(Reason::Intruder, message));
    }
    let shared = nodes(|closed| match closed {
        Closed::Shared(sharing) => Some(format!(" ({sharing:?})")),
        _ => None,
    });
    if let Some(nodes) = shared {
        let message = format!("pods share the GPUs of {nodes}; only whole GPUs and MIG instances are offered");
        return Some(Verdict::no(Reason::SharedDevices, message));
    }
    let unfit = nodes(|closed| match closed {
        Closed::UnfitGivenOut { unfit } => Some(format!(" ({unfit})")),
        _ => None,
    });
    unfit.map(|nodes| {
        let message = format!(
            "the scheduler may give out GPUs that are not fit to be shared on {nodes}, and nobody can choose which a pod gets, \
             so nothing new comes there; see kubectl koinon gpus --why, and restart the device plugin, so that it lists \
             them no more"
        );
        Verdict::no(Reason::UnfitGivenOut, message)
    })
}

fn ready(view: &PoolView, inventory: &Inventory, status: &GPUPoolStatus) -> Verdict {
    let (installed, offered) = (status.installed.unwrap_or(0), status.offered.unwrap_or(0));
    let reserved = status.classes.iter().fold(0_i32, |sum, class| sum.saturating_add(class.owner_reserve));
    if view.nodes.is_empty() {
        return Verdict::no(
            Reason::NoMatchingNodes,
            "no node with GPUs matches nodeSelector; see kubectl get gpunodes and the labels of those nodes",
        );
    }
    if view.shut {
        return Verdict::no(Reason::OutsideHours, "outside spec.hours nothing new comes; what runs stays");
    }
    if installed == 0 && !view.overlaps.is_empty() {
        return Verdict::no(Reason::Overlaps, "all devices of this pool belong to an older one");
    }
    if offered == 0 {
        let leased = status.leased.unwrap_or(0);
        let limited: Vec<String> = view
            .limits
            .iter()
            .filter(|(class, most)| view.foreign_of(class) >= **most && view.capacity.classes.contains_key(*class))
            .map(|(class, most)| {
                format!("; spec.limits lets others hold {most} {class}, and they hold {}", view.foreign_of(class))
            })
            .collect();
        let drained: Vec<String> = inventory
            .nodes
            .iter()
            .filter(|(name, node)| view.nodes.contains(*name) && node.is_drained())
            .map(|(name, _)| name.to_string())
            .collect();
        let emptied =
            if drained.is_empty() { String::new() } else { format!("; spec.drain empties {}", shorten(&drained)) };
        let limited = format!("{}{emptied}", limited.concat());
        let note = format!(
            "0 of {installed} GPUs are offered: {leased} are leased, {reserved} are kept for the owner{limited}"
        );
        return Verdict::yes(Reason::NothingFree, note);
    }
    Verdict::yes(Reason::Sharing, format!("{offered} of {installed} GPUs are offered"))
}

/// A list that fits a condition: the first few, and how many more there are.
fn shorten(items: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if items.len() > SHOWN { format!("{shown}; and {} more", items.len() - SHOWN) } else { shown }
}

fn whole(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The name of the pool, for logs.
#[must_use]
pub fn name(view: &PoolView) -> String {
    view.pool.name_any()
}

#[cfg(test)]
#[path = "gpupool_tests.rs"]
mod tests;
