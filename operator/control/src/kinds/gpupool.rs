//! `GPUPool`: its status, from the inventory. Pure but for [`write`].

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use koinon_api::GPUPool;
use koinon_api::common::Evidence;
use koinon_api::conditions::{self, ConditionType, Reason, Verdict};
use koinon_api::gpu_pool::{GPUPoolStatus, PoolClass};
use koinon_core::capacity::{Closed, Disagreement};
use koinon_core::ids::{GpuClass, NodeName};
use kube::ResourceExt;
use kube::api::Api;

use crate::placement::inventory::{Inventory, PoolView};
use crate::placement::writer::{WriteError, Writer};

/// Figures that still hold are said again this often, so that their age in `kubectl get` means something.
const REPEAT_SECONDS: i64 = 300;

/// The status of a pool.
#[must_use]
pub fn status(view: &PoolView, inventory: &Inventory, now: &Time) -> GPUPoolStatus {
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
        as_of_time: Some(now.clone()),
        conditions: before.conditions,
    };
    let verdicts = [
        (ConditionType::Exclusive, exclusive(view)),
        (ConditionType::Fresh, fresh(view, inventory)),
        (ConditionType::SchedulerConsistent, consistent(view, inventory)),
        (ConditionType::Ready, ready(view, &next)),
    ];
    for (type_, verdict) in verdicts {
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
    // Each device is counted at most once by use; what two sources count twice is taken from the owner's pods, whose
    // number is shown and never decided by.
    let rest = figures.installed.saturating_sub(figures.offered).saturating_sub(figures.leased);
    PoolClass {
        class: class.to_string(),
        product: product.map_or_else(String::new, |product| product.name.to_string()),
        memory_bytes: product.map_or(0, |product| i64::try_from(product.memory.0).unwrap_or(i64::MAX)),
        evidence: evidence(view, inventory, class),
        installed: whole(figures.installed),
        healthy: whole(figures.healthy),
        degraded: whole(figures.degraded),
        unhealthy: whole(figures.unhealthy),
        unknown: whole(figures.unknown),
        owner_requested: whole(figures.owner_requested.min(rest)),
        owner_reserve: whole(figures.owner_reserve),
        leased: whole(figures.leased),
        orphaned: 0,
        offered: whole(figures.offered),
        largest_node: whole(figures.largest_node),
    }
}

/// Two sources that agree support a figure better than one.
pub(super) fn evidence(view: &PoolView, inventory: &Inventory, class: &GpuClass) -> Evidence {
    let with_class = view.nodes.iter().filter_map(|node| inventory.capacities.get(node));
    let mut nodes = with_class.filter(|capacity| capacity.classes.contains_key(class)).peekable();
    let any = nodes.peek().is_some();
    let agree = nodes.all(|capacity| {
        let unknown = matches!(capacity.closed, Some(Closed::AgentSilent { .. } | Closed::SchedulerUnknown));
        !unknown && capacity.disagreement.is_none()
    });
    if any && agree { Evidence::SchedulerConsistent } else { Evidence::Claimed }
}

fn exclusive(view: &PoolView) -> Verdict {
    if view.overlaps.is_empty() {
        return Verdict::yes(Reason::Exclusive, "no other pool has these devices");
    }
    let with: Vec<String> = view.overlaps.iter().map(|(pool, class)| format!("{class} with {pool}")).collect();
    let with = with.join(", ");
    Verdict::no(
        Reason::Overlaps,
        format!("devices belong to an older pool: {with}; narrow nodeSelector or classes of one of them"),
    )
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
    let mut fewer_seen = Vec::new();
    for node in &view.nodes {
        match inventory.capacities.get(node).and_then(|capacity| capacity.disagreement) {
            Some(Disagreement::SchedulerKnowsFewer { allocatable, healthy }) => {
                fewer_registered.push(format!("{node} has {healthy} healthy GPUs, {allocatable} are allocatable"));
            }
            Some(Disagreement::NvmlKnowsFewer { allocatable, healthy }) => {
                fewer_seen.push(format!("{node} has {allocatable} allocatable GPUs, NVML calls {healthy} healthy"));
            }
            None => {}
        }
    }
    let resource = &view.pool.spec.pod.resource_name;
    if !fewer_seen.is_empty() {
        return Verdict::no(Reason::FewerInNVML, format!("{}; the smaller number is offered", shorten(&fewer_seen)));
    }
    if !fewer_registered.is_empty() {
        let hint = format!("check the device plugin of {resource}");
        return Verdict::no(Reason::ResourceNotRegistered, format!("{}; {hint}", shorten(&fewer_registered)));
    }
    if view.nodes.is_empty() {
        return Verdict::unknown(Reason::NoMatchingNodes, "no node with GPUs matches nodeSelector");
    }
    Verdict::yes(Reason::Consistent, "NVML and the scheduler count the same GPUs")
}

fn ready(view: &PoolView, status: &GPUPoolStatus) -> Verdict {
    let (installed, offered) = (status.installed.unwrap_or(0), status.offered.unwrap_or(0));
    let reserve = view.pool.spec.reserve;
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
        let note =
            format!("0 of {installed} GPUs are free: {leased} are leased, {reserve} a class are kept for the owner");
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
