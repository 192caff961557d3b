//! What this cluster has to give, put together from the agents' surveys, the scheduler's accounts, the reservations and
//! what the owner says. Pure.

pub mod disagreements;
pub mod heartbeat;
pub mod held;
pub mod node;
pub mod requests;
pub mod scheduler;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use koinon_api::{GPUPool, Placement};
use koinon_core::capacity::{self, NodeCapacity, PoolCapacity, PoolRules};
use koinon_core::ids::{GpuClass, MemberId, NodeName, Seconds, UnixSeconds};
use koinon_core::placement::reservations::NodeReservations;
use kube::ResourceExt;

pub use node::NodeView;

use super::lean::{GpuNode, Node, Pod};
use super::reclaim::{AllTerms, Terms};

/// Everything from which an inventory is taken. All of it must be complete sets.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// This member: its own reservations are the owner's use, not foreign.
    pub me: Option<&'a MemberId>,
    /// The owner's pools.
    pub pools: &'a [Arc<GPUPool>],
    /// The agents' surveys.
    pub gpu_nodes: &'a [Arc<GpuNode>],
    /// The scheduler's view of the nodes.
    pub nodes: &'a [Arc<Node>],
    /// All pods.
    pub pods: &'a [Arc<Pod>],
    /// What is given out by name; empty where the cluster knows no dynamic resource allocation.
    pub dra: scheduler::dra::Objects<'a>,
    /// How old each agent's heartbeat is.
    pub heartbeat_ages: &'a BTreeMap<NodeName, Seconds>,
    /// The reservations.
    pub records: &'a BTreeMap<NodeName, NodeReservations>,
    /// What the reservations are for: the Placements of this side.
    pub placements: &'a [Arc<Placement>],
    /// Whether some node, pod, slice or claim could not be read, so that what the scheduler gives out is not known.
    pub holes: bool,
    /// For the owner's hours.
    pub now: UnixSeconds,
}

/// One pool and what it has.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// The pool.
    pub pool: Arc<GPUPool>,
    /// Its figures.
    pub capacity: PoolCapacity,
    /// Its nodes.
    pub nodes: BTreeSet<NodeName>,
    /// Devices that it selects and an older pool has: by pool and class.
    pub overlaps: BTreeSet<(String, GpuClass)>,
    /// Nodes whose GPUs are counted as an older pool asks for them, which is not how this one does: by which, and how.
    pub counted_otherwise: BTreeMap<NodeName, (String, String)>,
    /// The most devices of each class that one node has, free or not.
    pub largest_installed: BTreeMap<GpuClass, u32>,
    /// The owner's hours let nothing new in now.
    pub shut: bool,
    /// GPUs that reservations of others hold, by class.
    pub foreign: BTreeMap<GpuClass, u32>,
    /// The most that they may, where the owner limits it.
    pub limits: BTreeMap<GpuClass, u32>,
}

impl PoolView {
    /// Whether `member` may use it.
    #[must_use]
    pub fn allows(&self, member: &MemberId) -> bool {
        let allow = &self.pool.spec.members.allow;
        allow.is_empty() || allow.iter().any(|allowed| allowed == member.as_str())
    }

    /// GPUs of `class` that reservations of others hold here.
    #[must_use]
    pub fn foreign_of(&self, class: &GpuClass) -> u32 {
        self.foreign.get(class).copied().unwrap_or(0)
    }
}

/// What this cluster has to give.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// The nodes with GPUs.
    pub nodes: BTreeMap<NodeName, NodeView>,
    /// The pools, by name.
    pub pools: BTreeMap<String, PoolView>,
    /// Which pool has the devices of a class on a node.
    pub owner: BTreeMap<(NodeName, GpuClass), String>,
    /// What each node has to give.
    pub capacities: BTreeMap<NodeName, NodeCapacity>,
    /// For how long NVML and the scheduler have told different stories of a node, where somebody keeps count.
    pub disagreeing: BTreeMap<NodeName, Seconds>,
}

/// Takes the inventory.
#[must_use]
pub fn take(inputs: &Inputs<'_>) -> Inventory {
    let mut pools: Vec<&Arc<GPUPool>> = inputs.pools.iter().collect();
    // The older wins; of two that came in one instant, the one whose name sorts first, so that every look agrees.
    pools.sort_by_key(|pool| (pool.creation_timestamp().map(|time| time.0), pool.name_any()));
    let nodes = node::views(inputs, &pools);
    let capacities: BTreeMap<NodeName, NodeCapacity> =
        nodes.iter().map(|(name, view)| (name.clone(), view.capacity(inputs.records.get(name)))).collect();
    let foreign = held::foreign(inputs, &capacities);
    let mut inventory = Inventory::default();
    for pool in pools {
        let view = pool_view(inputs, pool, &nodes, &capacities, &foreign, &mut inventory.owner);
        inventory.pools.insert(pool.name_any(), view);
    }
    inventory.nodes = nodes;
    inventory.capacities = capacities;
    inventory
}

fn pool_view(
    inputs: &Inputs<'_>,
    pool: &Arc<GPUPool>,
    nodes: &BTreeMap<NodeName, NodeView>,
    capacities: &BTreeMap<NodeName, NodeCapacity>,
    foreign: &BTreeMap<(NodeName, GpuClass), u32>,
    owner: &mut BTreeMap<(NodeName, GpuClass), String>,
) -> PoolView {
    let name = pool.name_any();
    let classes: BTreeSet<GpuClass> = pool.spec.classes.iter().filter_map(|class| class.parse().ok()).collect();
    let shared = |class: &GpuClass| classes.is_empty() || classes.contains(class);
    let mut view = PoolView {
        pool: pool.clone(),
        capacity: PoolCapacity::default(),
        nodes: BTreeSet::new(),
        overlaps: BTreeSet::new(),
        counted_otherwise: BTreeMap::new(),
        largest_installed: BTreeMap::new(),
        shut: !pool.spec.open_at(inputs.now.0),
        foreign: BTreeMap::new(),
        limits: koinon_api::reclaim::limits(pool),
    };
    let mut own = Vec::new();
    for (node, seen) in nodes.iter().filter(|(_, node)| node.selected_by(pool)) {
        if let Some((other, access)) =
            seen.counted_as().filter(|(_, access)| *access != pool.spec.pod.gpus().to_string())
        {
            view.counted_otherwise.insert(node.clone(), (other.clone(), access.clone()));
        }
        let Some(capacity) = capacities.get(node) else { continue };
        let mut mine = capacity.clone();
        mine.classes.retain(|class, _| {
            if !shared(class) {
                return false;
            }
            let holder = owner.entry((node.clone(), class.clone())).or_insert_with(|| name.clone());
            if *holder != name {
                view.overlaps.insert((holder.clone(), class.clone()));
            }
            *holder == name
        });
        for (class, counts) in &mine.classes {
            let largest = view.largest_installed.entry(class.clone()).or_default();
            *largest = (*largest).max(counts.installed);
            let held = foreign.get(&(node.clone(), class.clone())).copied().unwrap_or(0);
            let sum = view.foreign.entry(class.clone()).or_default();
            *sum = sum.saturating_add(held);
        }
        view.nodes.insert(node.clone());
        own.push(mine);
    }
    let room = view.limits.iter().map(|(class, most)| (class.clone(), most.saturating_sub(view.foreign_of(class))));
    let rules = PoolRules {
        reserve: pool.spec.reserve.and_then(|reserve| u32::try_from(reserve).ok()),
        classes,
        shut: view.shut,
        room: room.collect(),
    };
    view.capacity = capacity::of_pool(&own, &rules);
    view
}

/// Where a placement could go, and how many GPUs may be reserved there in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// The node.
    pub node: NodeName,
    /// Its pool.
    pub pool: String,
    /// What is free there for the asker.
    pub free: u32,
}

impl Inventory {
    /// What holds for the GPUs of each class on each node that some pool has.
    #[must_use]
    pub fn terms(&self) -> AllTerms {
        let terms = |pool: &String| {
            let notice = self.pools.get(pool).map_or(0, |view| view.pool.spec.reclaim_notice_seconds);
            Terms { pool: pool.clone(), notice: Seconds(notice.into()) }
        };
        self.owner.iter().map(|(gpus, pool)| (gpus.clone(), terms(pool))).collect()
    }

    /// The nodes with room for `count` GPUs of `class`, the tightest first, so that large blocks stay whole.
    ///
    /// `own` work may use what the owner keeps free and is not bound to pools' rules for others.
    #[must_use]
    pub fn room(
        &self,
        class: &GpuClass,
        count: u32,
        own: bool,
        usable: impl Fn(&PoolView) -> bool,
        records: &BTreeMap<NodeName, NodeReservations>,
    ) -> Vec<Room> {
        let mut room: Vec<Room> = Vec::new();
        for (name, view) in &self.pools {
            let Some(figures) = view.capacity.classes.get(class) else { continue };
            if !(own || (!view.shut && usable(view))) {
                continue;
            }
            for node in &view.nodes {
                if self.owner.get(&(node.clone(), class.clone())) != Some(name) {
                    continue;
                }
                let Some(node_view) = self.nodes.get(node) else { continue };
                let here = node_view.capacity(records.get(node)).classes.get(class).map_or(0, |counts| counts.free);
                let free = if own { here } else { here.min(figures.offered) };
                if free >= count && count > 0 {
                    room.push(Room { node: node.clone(), pool: name.clone(), free });
                }
            }
        }
        room.sort_by(|a, b| (a.free, &a.node).cmp(&(b.free, &b.node)));
        room
    }

    /// GPUs that `member` holds by reservations on the nodes of `pool`.
    #[must_use]
    pub fn held_by(&self, member: &MemberId, pool: &PoolView, records: &BTreeMap<NodeName, NodeReservations>) -> u32 {
        let on_its_nodes = records.iter().filter(|(node, _)| pool.nodes.contains(*node));
        let held = on_its_nodes.flat_map(|(_, record)| record.held());
        held.filter(|held| &held.replica.home == member).fold(0, |sum, held| sum.saturating_add(held.gpus))
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
