//! Taints of nodes and devices that must not be used, where their owner asked for them.
//!
//! ```text
//! GPUPool.spec.taint ─┐
//! GPUNode (agents) ───┼─▶ nodes, devices (pure) ─▶ changes ─▶ apply ─▶ Node.spec.taints, DeviceTaintRules
//! fleet breaker ──────┘                         └▶ what each pool says of it
//! ```
//!
//! A taint keeps the owner's own work away too, so it is set only on what a heard agent says now, never beyond the fleet breaker's
//! share, and never while that is open. It goes only once a heard agent calls everything well again, or when nobody asks for it any
//! more. Nothing is remembered here: what is tainted is read from the API server.

pub mod apply;
pub mod devices;
pub mod nodes;
pub mod said;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use koinon_api::gpu_node::HealthState;
use koinon_core::capacity::is_fresh;
use koinon_core::gpu::breaker::{BreakerLimits, BreakerVerdict};
use koinon_core::ids::{NodeName, Seconds};

use super::inventory::scheduler::dra;
use super::inventory::{Inventory, PoolView};
use super::lean::{Device, GpuNode, Node};
pub use said::PoolTaints;

/// Most reasons of a device that are told.
const TOLD_REASONS: usize = 3;

/// Everything from which it is decided what is tainted. All of it must be complete sets.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The release namespace: the value of its taints.
    pub release: &'a str,
    /// The pools, and which of them has what.
    pub inventory: &'a Inventory,
    /// Whether some pool could not be read, so that its wish is not known.
    pub pools_have_holes: bool,
    /// The agents' surveys.
    pub gpu_nodes: &'a [Arc<GpuNode>],
    /// How old their heartbeats are.
    pub ages: &'a BTreeMap<NodeName, Seconds>,
    /// The nodes, with their taints.
    pub nodes: &'a [Arc<Node>],
    /// The devices that are given out by name, and the rules that taint them.
    pub dra: dra::Objects<'a>,
    /// What the fleet breaker says; none while that is not known.
    pub breaker: Option<BreakerVerdict>,
    /// The membership is over or about to be: nothing is tainted for it any more.
    pub ending: bool,
}

/// What is to change, and what each pool says of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Nodes whose taint changes.
    pub nodes: Vec<nodes::Change>,
    /// Rules about devices that come or go.
    pub devices: Vec<devices::Change>,
    /// By pool; only those that ask for taints.
    pub pools: BTreeMap<String, PoolTaints>,
}

/// Decides what is to change.
#[must_use]
pub fn plan(inputs: &Inputs<'_>) -> Plan {
    if inputs.inventory.pools.values().all(|view| view.pool.spec.taint.is_off()) && !is_any_left(inputs) {
        return Plan::default();
    }
    let asks = |view: &PoolView| !inputs.ending && !view.pool.spec.taint.is_off();
    let asking = inputs.inventory.pools.iter().filter(|(_, view)| asks(view));
    let mut pools = asking.map(|(name, _)| (name.clone(), PoolTaints::default())).collect();
    let facts = Facts::of(inputs);
    let nodes = nodes::changes(inputs, &facts, &mut pools);
    let devices = devices::changes(inputs, &facts, &mut pools);
    Plan { nodes, devices, pools }
}

/// Whether something is tainted by this release.
fn is_any_left(inputs: &Inputs<'_>) -> bool {
    inputs.nodes.iter().any(|node| node.taints.iter().any(|taint| nodes::is_own(taint, inputs.release)))
        || inputs.dra.taint_rules.iter().any(|rule| devices::is_own(rule, inputs.release))
}

/// What agents say, by node.
struct Facts<'a> {
    nodes: BTreeMap<&'a NodeName, &'a GpuNode>,
    inputs: &'a Inputs<'a>,
}

/// What speaks for a taint.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    /// The agent says why it is to be there.
    Needed(String),
    /// It may still be needed: what is there stays, and nothing comes for it.
    Unsure(String),
    /// The agent says that it is not needed.
    Well,
}

impl<'a> Facts<'a> {
    fn of(inputs: &'a Inputs<'a>) -> Self {
        let named = inputs.gpu_nodes.iter().filter_map(|node| Some((node.name.as_ref()?, node.as_ref())));
        Self { nodes: named.collect(), inputs }
    }

    /// What a node's agent says of those of its devices that `of` picks; `bad` tells which failures count.
    fn word(&self, node: &NodeName, of: impl Fn(&Device) -> bool, bad: impl Fn(&Device) -> bool) -> Word {
        let Some(gpu_node) = self.nodes.get(node) else {
            return Word::Unsure(format!("{node}: there is no GPUNode of it"));
        };
        // What a silent agent said last may be over, and so may what it had not seen yet.
        if !is_fresh(self.inputs.ages.get(node).copied()) {
            return Word::Unsure(format!("{node}: its agent is not heard"));
        }
        let mut unknown = None;
        for device in gpu_node.devices.iter().filter(|device| of(device)) {
            match device.state {
                HealthState::Unhealthy if bad(device) => return Word::Needed(wrong(node, device)),
                HealthState::Unknown => {
                    unknown.get_or_insert_with(|| format!("{node}: {} is Unknown", device.shown()));
                }
                HealthState::Healthy | HealthState::Degraded | HealthState::Unhealthy => {}
            }
        }
        unknown.map_or(Word::Well, Word::Unsure)
    }

    /// Whether a device is the pool's. One whose class nobody knows is everybody's who selects its node.
    fn is_of(&self, pool: &str, node: &NodeName, device: &Device) -> bool {
        device.class().is_none_or(|class| {
            self.inputs.inventory.owner.get(&(node.clone(), class.clone())).is_none_or(|owner| owner == pool)
        })
    }
}

/// Why nothing new is tainted, if so.
fn held_back(breaker: Option<BreakerVerdict>) -> Option<said::HeldBack> {
    match breaker {
        None => Some(said::HeldBack::Starting),
        Some(verdict) if verdict.open => Some(said::HeldBack::BreakerOpen),
        Some(_) => None,
    }
}

fn most_of(all: usize) -> usize {
    let most = BreakerLimits::default().most_of(u32::try_from(all).unwrap_or(u32::MAX));
    usize::try_from(most).unwrap_or(usize::MAX)
}

fn wrong(node: &NodeName, device: &Device) -> String {
    let reasons: Vec<&str> = device.reasons().take(TOLD_REASONS).collect();
    let reasons = if reasons.is_empty() { "no reason is given".to_owned() } else { reasons.join(", ") };
    format!("{node}: {} must not be used ({reasons})", device.shown())
}
