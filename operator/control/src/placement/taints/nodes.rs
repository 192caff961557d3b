//! Nodes.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Taint;
use koinon_api::gpu_node::{GuestWork, HealthAction};
use koinon_api::gpu_pool::{TaintEffect, TaintWhen};
use koinon_api::labels;
use koinon_core::ids::NodeName;

use super::said::{HeldBack, PoolTaints};
use super::{Facts, Inputs, Word, held_back, most_of};
use crate::placement::lean::{Device, Node};

/// A node whose taint changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub node: NodeName,
    /// What its taint does from now on; none takes it off.
    pub effect: Option<TaintEffect>,
    /// Why.
    pub why: String,
    /// The pools that are told.
    pub pools: Vec<String>,
}

/// What is asked of one node.
#[derive(Default)]
struct Asked {
    effect: Option<TaintEffect>,
    why: Vec<String>,
    /// What is there stays.
    unsure: Vec<String>,
    pools: Vec<String>,
}

pub(super) fn changes(inputs: &Inputs<'_>, facts: &Facts<'_>, pools: &mut BTreeMap<String, PoolTaints>) -> Vec<Change> {
    let nodes: BTreeMap<&NodeName, &Node> =
        inputs.nodes.iter().filter_map(|node| Some((node.name.as_ref()?, node.as_ref()))).collect();
    let mut asked: BTreeMap<NodeName, Asked> = BTreeMap::new();
    for (pool, view) in inputs.inventory.pools.iter().filter(|(name, _)| pools.contains_key(*name)) {
        let Some(wish) = view.pool.spec.taint.nodes else { continue };
        for node in view.nodes.iter().filter(|node| nodes.contains_key(*node)) {
            let whole = |device: &Device| device.parent.is_none() && facts.is_of(pool, node, device);
            let asked = asked.entry(node.clone()).or_default();
            asked.pools.push(pool.clone());
            match facts.word(node, whole, |device| is_for(wish.when, device)) {
                Word::Needed(why) => {
                    asked.effect = asked.effect.max(Some(wish.effect));
                    asked.why.push(why);
                }
                Word::Unsure(why) => asked.unsure.push(why),
                Word::Well => {}
            }
        }
    }
    let mut changes = Vec::new();
    let mut tainted: BTreeSet<NodeName> = BTreeSet::new();
    let mut wanting: Vec<(NodeName, TaintEffect, Asked)> = Vec::new();
    for (name, node) in nodes {
        let now = own_effects(node, inputs.release);
        let asked = asked.remove(name).unwrap_or_default();
        match (now.iter().max().copied(), asked.effect) {
            (None, None) => {}
            (None, Some(effect)) => wanting.push((name.clone(), effect, asked)),
            (Some(_), Some(effect)) => {
                tainted.insert(name.clone());
                tell(pools, &asked.pools, |said| said.tainted.extend(asked.why.iter().cloned()));
                if now != BTreeSet::from([effect]) {
                    changes.push(change(name, Some(effect), &asked));
                }
            }
            (Some(_), None) if !asked.unsure.is_empty() => {
                tainted.insert(name.clone());
                tell(pools, &asked.pools, |said| said.kept.extend(asked.unsure.iter().cloned()));
            }
            // Somebody may ask for it whose wish cannot be read.
            (Some(_), None) if inputs.pools_have_holes => {}
            (Some(_), None) => changes.push(change(name, None, &asked)),
        }
    }
    for (name, effect, asked) in wanting {
        let room = |pool: &String| {
            let Some(view) = inputs.inventory.pools.get(pool) else { return false };
            view.nodes.intersection(&tainted).count() < most_of(view.nodes.len())
        };
        let limit = || (!asked.pools.iter().all(room)).then_some(HeldBack::Limit);
        match held_back(inputs.breaker).or_else(limit) {
            Some(reason) => {
                tell(pools, &asked.pools, |said| said.hold_back(reason, &asked.why));
            }
            None => {
                tainted.insert(name.clone());
                tell(pools, &asked.pools, |said| said.tainted.extend(asked.why.iter().cloned()));
                changes.push(change(&name, Some(effect), &asked));
            }
        }
    }
    // What is taken off makes room, and nothing waits for it.
    changes.sort_by_key(|change| change.effect.is_some());
    changes
}

fn tell(pools: &mut BTreeMap<String, PoolTaints>, names: &[String], say: impl Fn(&mut PoolTaints)) {
    for name in names {
        if let Some(said) = pools.get_mut(name) {
            say(said);
        }
    }
}

fn change(node: &NodeName, effect: Option<TaintEffect>, asked: &Asked) -> Change {
    let why = match effect {
        Some(_) => asked.why.join("; "),
        None if asked.pools.is_empty() => format!("{node}: no pool asks for it"),
        None => format!("{node}: no device of it calls for a taint any more"),
    };
    Change { node: node.clone(), effect, why, pools: asked.pools.clone() }
}

/// Whether a device that must not be used calls for a taint of its node.
fn is_for(when: TaintWhen, device: &Device) -> bool {
    let of_node = matches!(device.action(), Some(HealthAction::RebootNode | HealthAction::RestartVM))
        || device.guest_work() == Some(GuestWork::DrainNode);
    match when {
        TaintWhen::NodeFault => of_node,
        TaintWhen::AnyDevice => true,
    }
}

/// Whether a taint is one that the operator of `release` set.
#[must_use]
pub fn is_own(taint: &Taint, release: &str) -> bool {
    taint.key == labels::UNHEALTHY_TAINT && taint.value.as_deref() == Some(release)
}

fn own_effects(node: &Node, release: &str) -> BTreeSet<TaintEffect> {
    let effect = |taint: &Taint| match taint.effect.as_str() {
        "NoExecute" => TaintEffect::NoExecute,
        _ => TaintEffect::NoSchedule,
    };
    node.taints.iter().filter(|taint| is_own(taint, release)).map(effect).collect()
}
