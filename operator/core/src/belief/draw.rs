//! Who measures whom, and when.
//!
//! A lottery draws for each period, from a seed that all members compute alike, a few members for each class of each host;
//! nobody has to agree with anybody, because each acts on its own lot alone. A host can know who measures it, and not when:
//! the moment is each challenger's own secret.

use std::collections::{BTreeMap, BTreeSet};

use crate::body::challenges::{Challenges, MOST_DRAWN, SPARE_CHALLENGERS};
use crate::ids::{ControlGroup, CoopId, Digest, GpuClass, MemberId, PolicyHash, Seconds, UnixSeconds};

/// A class of a host's GPUs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Whose.
    pub host: MemberId,
    /// Which.
    pub class: GpuClass,
}

/// The number of the period in which `now` is: each lasts [`Challenges::fresh_seconds`].
#[must_use]
pub fn period(rules: &Challenges, now: UnixSeconds) -> i64 {
    now.0.div_euclid(rules.fresh_seconds.0.max(1))
}

/// The seed of one period's lots. It changes with each period and with each decision about placing, so that nobody
/// measures the same hosts for ever.
#[must_use]
pub fn seed(coop: CoopId, placement: PolicyHash, period: i64) -> Digest {
    Digest::of(format!("koinon/challenges {coop} {placement} {period}").as_bytes())
}

/// Draws for each target as many members of different owners as `rules` need, and one to spare; nobody measures its own
/// owner's GPUs, or more than [`MOST_DRAWN`] targets. Where there are too few members the later targets get fewer.
#[must_use]
pub fn draw(
    seed: &Digest,
    rules: &Challenges,
    members: &BTreeMap<MemberId, ControlGroup>,
    targets: &BTreeSet<Target>,
) -> BTreeMap<Target, BTreeSet<MemberId>> {
    let lot = |words: &[&str]| Digest::of(format!("{seed} {}", words.join(" ")).as_bytes());
    let mut order: Vec<&Target> = targets.iter().filter(|target| members.contains_key(&target.host)).collect();
    order.sort_by_cached_key(|target| lot(&[target.host.as_str(), target.class.as_str()]).0);
    let mut load: BTreeMap<&MemberId, usize> = BTreeMap::new();
    let mut drawn: BTreeMap<Target, BTreeSet<MemberId>> = BTreeMap::new();
    // Everybody's first challenger before anybody's second.
    for _ in 0..rules.challengers + SPARE_CHALLENGERS {
        for target in &order {
            let taken = drawn.entry((*target).clone()).or_default();
            let own = members.get(&target.host);
            let has_one = |group: &ControlGroup| taken.iter().any(|other| members.get(other) == Some(group));
            let free = members.iter().filter(|(member, group)| {
                Some(*group) != own && !has_one(group) && load.get(member).copied().unwrap_or(0) < MOST_DRAWN
            });
            let first = free.map(|(member, _)| member).min_by_key(|member| {
                // Of those with the least to do, so that the last targets find somebody, too.
                let tied = lot(&[target.host.as_str(), target.class.as_str(), member.as_str()]).0;
                (load.get(*member).copied().unwrap_or(0), tied)
            });
            if let Some(member) = first {
                taken.insert(member.clone());
                *load.entry(member).or_default() += 1;
            }
        }
    }
    drawn
}

/// A member's last measurement of a target, as it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// When it began.
    pub at: UnixSeconds,
    /// Whether the host had granted it GPUs, so that it cost something.
    pub granted: bool,
    /// Whether it shows anything, under the rules in force.
    pub counts: bool,
}

/// When a member that is drawn in the period that begins at `begins` measures next. `dice` is its own secret, from 0 to
/// 65,535, and another one for each target and each time.
#[must_use]
pub fn due(rules: &Challenges, begins: UnixSeconds, dice: u16, last: Option<Last>) -> UnixSeconds {
    let part = |of: Seconds| Seconds(of.0.saturating_mul(i64::from(dice)) / i64::from(u16::MAX));
    let (fresh, every) = (rules.fresh_seconds, rules.every_seconds);
    // In the first half: what was measured in the period before counts until then.
    let first = begins.plus(part(Seconds(fresh.0 / 2)));
    match last {
        None => first,
        // It cost no GPU anything, so it may be tried again sooner, and not so often that hosts are asked for nothing else.
        Some(Last { at, granted: false, .. }) => first.max(at.plus(Seconds(every.0 / 10))),
        Some(Last { at, counts: false, .. }) => first.max(at.plus(every)),
        // Before it ends, at a time that nobody else can know.
        Some(Last { at, .. }) => at.plus(every.max(Seconds(fresh.0 / 2 + part(Seconds(fresh.0 / 10 * 4)).0))),
    }
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
