//! Which copies end when an owner takes GPUs back, and in which order.
//!
//! ```text
//! told before, in that order ─▶ homes that the rules no longer favour ─▶ the home that holds most ─▶ its youngest grant
//! ```
//!
//! Whoever was told first goes first also when the order would be another by now: a copy that is told anew gets the whole
//! notice anew, and the owner would wait longer than it declared. No more is taken than is needed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::host::Copy;
use crate::ids::{GpuClass, MemberId, NodeName, UnixSeconds};

/// Whether the cooperative's rules and the owner's still favour a copy's home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// No: it is no active member, may not work, or is cordoned here.
    Disfavoured,
    /// Yes.
    Favoured,
}

/// Whether a copy goes already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Going {
    /// It ends, or a person has said that it shall: nothing is decided about it, and its GPUs count as free soon.
    Ends,
    /// It was chosen here at that time.
    Told(UnixSeconds),
    /// No.
    Stays,
}

/// A copy that holds GPUs of a pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Running {
    /// Which one.
    pub copy: Copy,
    /// The class of its GPUs.
    pub class: GpuClass,
    /// How many they are.
    pub gpus: u32,
    /// Where they are.
    pub node: NodeName,
    /// Since when it has had them.
    pub granted_at: UnixSeconds,
    /// How its home stands.
    pub standing: Standing,
    /// Whether it goes already.
    pub going: Going,
}

impl Running {
    fn home(&self) -> &MemberId {
        &self.copy.0.home
    }
}

/// What an owner wants back of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The most GPUs of a class that others may hold.
    pub limits: BTreeMap<GpuClass, u32>,
    /// Nodes that are to become empty, of own work too.
    pub drained: BTreeSet<NodeName>,
}

impl Wish {
    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty() && self.drained.is_empty()
    }
}

/// Why a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its node is to become empty.
    Drained,
    /// Others hold more of its class than the owner lets them.
    Limit {
        /// How many they may hold.
        most: u32,
        /// How many they hold, without what goes for another reason.
        held: u32,
    },
}

/// A copy that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Which one.
    pub copy: Copy,
    /// How many GPUs it frees.
    pub gpus: u32,
    /// Why.
    pub why: Why,
}

/// The copies of one pool that go for the owner's `wish`, in the order in which they do.
///
/// # Guarantees
/// - No work of `me` goes for a limit; on a drained node all work goes.
/// - What stays is within every limit, or nothing foreign of the class stays.
/// - No copy chosen for a limit could stay without breaking it.
/// - The order of `running` does not matter, and who was told is chosen again while the wish stands.
#[must_use]
pub fn choose(me: &MemberId, running: &[Running], wish: &Wish) -> Vec<Chosen> {
    let all: BTreeSet<&Running> = running.iter().filter(|one| one.going != Going::Ends).collect();
    let (drained, staying): (Vec<&Running>, Vec<&Running>) =
        all.into_iter().partition(|one| wish.drained.contains(&one.node));
    let mut chosen: Vec<Chosen> = in_order(drained).into_iter().map(|one| taken(one, Why::Drained)).collect();
    for (class, most) in &wish.limits {
        let foreign = staying.iter().copied().filter(|one| one.class == *class && one.home() != me);
        chosen.extend(above(foreign.collect(), *most));
    }
    chosen
}

fn taken(one: &Running, why: Why) -> Chosen {
    Chosen { copy: one.copy.clone(), gpus: one.gpus, why }
}

/// Of `foreign` copies those without which the others hold `most`.
fn above(foreign: Vec<&Running>, most: u32) -> Vec<Chosen> {
    let held = foreign.iter().fold(0_u64, |sum, one| sum.saturating_add(one.gpus.into()));
    let excess = held.saturating_sub(most.into());
    let mut freed = 0_u64;
    let mut goes: Vec<&Running> = Vec::new();
    for one in in_order(foreign) {
        if freed >= excess {
            break;
        }
        // What holds nothing frees nothing.
        if one.gpus > 0 {
            freed = freed.saturating_add(one.gpus.into());
            goes.push(one);
        }
    }
    // A large copy at the end may have made earlier ones needless; whoever would have gone last is spared first.
    let mut kept: BTreeSet<&Copy> = BTreeSet::new();
    for one in goes.iter().rev() {
        let without = freed.saturating_sub(one.gpus.into());
        if without >= excess {
            freed = without;
            kept.insert(&one.copy);
        }
    }
    let held = u32::try_from(held).unwrap_or(u32::MAX);
    let goes = goes.into_iter().filter(|one| !kept.contains(&one.copy));
    goes.map(|one| taken(one, Why::Limit { most, held })).collect()
}

/// All of `copies`, in the order in which they go.
fn in_order(copies: Vec<&Running>) -> Vec<&Running> {
    let mut holds: BTreeMap<&MemberId, u64> = BTreeMap::new();
    // One round for each time at which copies were told, then one for each standing of the others.
    let mut rounds: BTreeMap<(Going, Standing), BTreeMap<&MemberId, Vec<&Running>>> = BTreeMap::new();
    for one in copies {
        let sum = holds.entry(one.home()).or_default();
        *sum = sum.saturating_add(one.gpus.into());
        rounds.entry((one.going, one.standing)).or_default().entry(one.home()).or_default().push(one);
    }
    let mut order = Vec::new();
    for mut homes in rounds.into_values() {
        for copies in homes.values_mut() {
            // The next to go is last.
            copies.sort_by_key(|one| (one.granted_at, Reverse(&one.copy)));
        }
        loop {
            let next = homes.iter().filter_map(|(home, copies)| {
                let youngest = copies.last()?;
                let share = holds.get(home).copied().unwrap_or(0);
                Some(((share, youngest.granted_at, Reverse(&youngest.copy)), *home))
            });
            let Some((_, home)) = next.max() else { break };
            let Some(one) = homes.get_mut(home).and_then(Vec::pop) else { break };
            if let Some(sum) = holds.get_mut(home) {
                *sum = sum.saturating_sub(one.gpus.into());
            }
            order.push(one);
        }
    }
    order
}

#[cfg(test)]
#[path = "reclaim_tests.rs"]
mod tests;
