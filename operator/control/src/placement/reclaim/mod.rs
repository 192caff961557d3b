//! What the owner takes back: who is told to go for what `GPUPool.spec` says, and which copies a device that failed takes along.
//! Pure.
//!
//! ```text
//! spec.limits, spec.drain ─▶ core::placement::reclaim ─▶ marks on Placements ─▶ (notice) ─▶ ends
//! GPUNode.status.devices ──▶ sick ──────────────────────────────────────────────────────▶ ends
//! ```
//!
//! A mark is what makes a decision outlive the operator that took it. The wish itself stands in the owner's own objects, so it
//! is read again at every look, and a mark that no wish asks for any more is taken away.

pub mod metrics;
pub mod sick;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use koinon_api::reclaim::{Asked, Cause, Mark, limits, node_of, running};
use koinon_api::{GPUPool, Placement};
use koinon_core::ids::{GpuClass, MemberId, NodeName, Seconds, UnixSeconds};
use koinon_core::placement::host::Copy;
use koinon_core::placement::reclaim::{Chosen, Running, Standing, Why, Wish, choose};
use kube::ResourceExt;

use crate::kinds::placement_host_list as list;
use crate::placement::lean::Node;

/// What holds for GPUs of one class on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The pool that has them.
    pub pool: String,
    /// How long work goes on after the owner asks for them.
    pub notice: Seconds,
}

/// The terms of all GPUs, by node and class.
pub type AllTerms = BTreeMap<(NodeName, GpuClass), Terms>;

/// The terms of the GPUs that a Placement holds; none where no pool has them.
#[must_use]
pub fn terms_of<'a>(terms: &'a AllTerms, placement: &Placement) -> Option<&'a Terms> {
    terms.get(&(node_of(placement)?, placement.spec.gpu.class.parse().ok()?))
}

/// What of a pool is to be given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaiming {
    /// Copies that go.
    pub copies: u32,
    /// GPUs that they hold.
    pub gpus: u32,
    /// GPUs that all copies hold.
    pub held: u32,
    /// When the last of them begins to end; none where all do at once.
    pub until: Option<UnixSeconds>,
}

/// What is to be given back of each pool.
#[must_use]
pub fn reclaiming(me: &MemberId, placements: &[Arc<Placement>], terms: &AllTerms) -> BTreeMap<String, Reclaiming> {
    let mut pools: BTreeMap<String, Reclaiming> = BTreeMap::new();
    let here =
        placements.iter().filter(|placement| list::key(placement).is_some() && placement.spec.host == me.as_str());
    for placement in here.filter(|placement| !list::is_over(placement)) {
        let Some(terms) = terms_of(terms, placement) else { continue };
        let pool = pools.entry(terms.pool.clone()).or_default();
        let gpus = u32::try_from(placement.spec.gpu.count).unwrap_or(0);
        pool.held = pool.held.saturating_add(gpus);
        if let Some(asked) = Asked::of(placement) {
            pool.copies = pool.copies.saturating_add(1);
            pool.gpus = pool.gpus.saturating_add(gpus);
            pool.until = pool.until.max(asked.ends_at(Some(terms.notice)));
        }
    }
    pools
}

/// What is decided upon.
pub struct Inputs<'a> {
    /// This member.
    pub me: &'a MemberId,
    /// What runs here.
    pub placements: &'a [Arc<Placement>],
    /// Whose pool's GPUs it runs on.
    pub terms: &'a AllTerms,
    /// What the owner wants.
    pub pools: &'a [Arc<GPUPool>],
    /// Whether those are all of them: else a wish that is not read would seem to be taken back.
    pub complete: bool,
    /// The nodes, for the pools' selectors.
    pub nodes: &'a [Arc<Node>],
    /// Whether the rules favour a home.
    pub favours: &'a dyn Fn(&MemberId) -> bool,
}

/// What becomes of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is told to go.
    Tell(Mark),
    /// It was told, and stays after all.
    Keep(Mark),
}

/// What is to be done now, in the order in which copies go.
#[must_use]
pub fn decide(inputs: &Inputs<'_>) -> Vec<(Arc<Placement>, Step)> {
    let wanted = inputs.pools.iter().any(|pool| !pool.spec.limits.is_empty() || !pool.spec.drain.is_empty());
    let told = inputs.placements.iter().any(|placement| Asked::of(placement).is_some_and(|asked| asked.ours));
    if !wanted && !told {
        return Vec::new();
    }
    let mut by_copy: BTreeMap<Copy, &Arc<Placement>> = BTreeMap::new();
    let mut by_pool: BTreeMap<Option<&str>, Vec<Running>> = BTreeMap::new();
    for placement in inputs.placements {
        let favours = |home: &MemberId| home == inputs.me || (inputs.favours)(home);
        let favoured = placement.spec.home.parse().is_ok_and(|home| favours(&home));
        let standing = if favoured { Standing::Favoured } else { Standing::Disfavoured };
        let Some(running) = running(placement, standing) else { continue };
        by_copy.insert(running.copy.clone(), placement);
        let pool = terms_of(inputs.terms, placement).map(|terms| terms.pool.as_str());
        by_pool.entry(pool).or_default().push(running);
    }
    let drained = drained(inputs);
    let mut steps = Vec::new();
    let mut goes: BTreeSet<Copy> = BTreeSet::new();
    for (name, running) in by_pool {
        let pool = inputs.pools.iter().find(|pool| Some(pool.name_any().as_str()) == name);
        let limits = pool.map(|pool| limits(pool)).unwrap_or_default();
        for chosen in choose(inputs.me, &running, &Wish { limits, drained: drained.clone() }) {
            let Some(placement) = by_copy.get(&chosen.copy) else { continue };
            if Asked::of(placement).is_none() {
                steps.push(((*placement).clone(), Step::Tell(mark(&chosen, placement, name, inputs.terms))));
            }
            goes.insert(chosen.copy);
        }
    }
    if inputs.complete {
        for (copy, placement) in
            by_copy.iter().filter(|(copy, placement)| !goes.contains(copy) && !list::is_ending(placement))
        {
            if let Some(asked) = Asked::of(placement).filter(|asked| asked.ours) {
                tracing::debug!(?copy, "no wish asks for it any more");
                steps.push(((*placement).clone(), Step::Keep(asked.mark.unwrap_or_default())));
            }
        }
    }
    steps
}

fn mark(chosen: &Chosen, placement: &Placement, pool: Option<&str>, terms: &AllTerms) -> Mark {
    let (cause, most, held) = match chosen.why {
        Why::Drained => (Cause::Drain, None, None),
        Why::Limit { most, held } => (Cause::Limit, Some(most), Some(held)),
    };
    Mark {
        cause,
        pool: pool.map(ToOwned::to_owned),
        notice_seconds: terms_of(terms, placement).map_or(0, |terms| terms.notice.0),
        most,
        held,
    }
}

/// The nodes that some pool empties, of those that it selects: as the inventory sees it.
fn drained(inputs: &Inputs<'_>) -> BTreeSet<NodeName> {
    let mut drained = BTreeSet::new();
    for pool in inputs.pools {
        for name in &pool.spec.drain.nodes {
            let Ok(name) = name.parse::<NodeName>() else { continue };
            let node = inputs.nodes.iter().find(|node| node.name.as_ref() == Some(&name));
            if node.is_some_and(|node| node.labels.have(&pool.spec.node_selector)) {
                drained.insert(name);
            }
        }
    }
    drained
}

#[cfg(test)]
mod tests;
