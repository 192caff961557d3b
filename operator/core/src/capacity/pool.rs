//! A pool: what the owner shares of its nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Closed, NodeCapacity, NodeClass};
use crate::ids::GpuClass;

/// What the owner says of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolRules {
    /// GPUs of each class that stay free for the owner; none said means [`least_reserve`].
    pub reserve: Option<u32>,
    /// The classes that are shared; none listed means all.
    pub classes: BTreeSet<GpuClass>,
    /// Outside the owner's hours, so that nothing new may come.
    pub shut: bool,
    /// How many more GPUs of a class others may hold, where the owner limits that.
    pub room: BTreeMap<GpuClass, u32>,
}

/// The devices of one class in a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolClass {
    /// All of them.
    pub installed: u32,
    /// Those that work.
    pub healthy: u32,
    /// Those that work, and should be looked at.
    pub degraded: u32,
    /// Those that must not be used.
    pub unhealthy: u32,
    /// Those of which nobody can tell.
    pub unknown: u32,
    /// Of those that work: held by pods without a reservation.
    pub owner_requested: u32,
    /// Of those that work: held by reservations.
    pub leased: u32,
    /// Of those that work: used by something that no pod accounts for.
    pub orphaned: u32,
    /// Held by pods or reservations, and not known to work.
    pub stranded: u32,
    /// Kept free for the owner: the reserve, or what is left of it.
    pub owner_reserve: u32,
    /// What others may ask for.
    pub offered: u32,
    /// The most of these on one node: the largest single job that fits.
    pub largest_node: u32,
}

/// What a pool has to give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolCapacity {
    /// By class.
    pub classes: BTreeMap<GpuClass, PoolClass>,
    /// Its nodes.
    pub nodes: u32,
    /// Those of them whose agent is not heard.
    pub stale_nodes: u32,
}

/// What stays free for the owner where it does not say: one in twenty of the healthy devices, at least one of them. Of 1,056
/// A100 and H100 over 11.7 million GPU-hours, about 5 % had to be spare for jobs to survive (arXiv 2503.11901).
#[must_use]
pub fn least_reserve(healthy: u32) -> u32 {
    healthy.div_ceil(20)
}

/// What a pool has to give, from what its nodes have.
#[must_use]
pub fn of_pool(nodes: &[NodeCapacity], rules: &PoolRules) -> PoolCapacity {
    let mut pool = PoolCapacity::default();
    for node in nodes {
        pool.nodes = pool.nodes.saturating_add(1);
        if matches!(node.closed, Some(Closed::AgentSilent { .. })) {
            pool.stale_nodes = pool.stale_nodes.saturating_add(1);
        }
        let shared = |class: &GpuClass| rules.classes.is_empty() || rules.classes.contains(class);
        for (class, counts) in node.classes.iter().filter(|(class, _)| shared(class)) {
            pool.classes.entry(class.clone()).or_default().add(counts);
        }
    }
    for (name, class) in &mut pool.classes {
        let reserve = rules.reserve.unwrap_or_else(|| least_reserve(class.healthy));
        class.owner_reserve = reserve.min(class.offered);
        class.offered = if rules.shut { 0 } else { class.offered - class.owner_reserve };
        class.offered = rules.room.get(name).map_or(class.offered, |room| class.offered.min(*room));
        class.largest_node = class.largest_node.min(class.offered);
    }
    pool
}

impl PoolClass {
    fn add(&mut self, node: &NodeClass) {
        let NodeClass {
            installed,
            healthy,
            degraded,
            unhealthy,
            unknown,
            owner_requested,
            leased,
            orphaned,
            stranded,
            free,
        } = *node;
        let add = |sum: &mut u32, more: u32| *sum = sum.saturating_add(more);
        add(&mut self.installed, installed);
        add(&mut self.healthy, healthy);
        add(&mut self.degraded, degraded);
        add(&mut self.unhealthy, unhealthy);
        add(&mut self.unknown, unknown);
        add(&mut self.owner_requested, owner_requested);
        add(&mut self.leased, leased);
        add(&mut self.orphaned, orphaned);
        add(&mut self.stranded, stranded);
        add(&mut self.offered, free);
        self.largest_node = self.largest_node.max(free);
    }
}
