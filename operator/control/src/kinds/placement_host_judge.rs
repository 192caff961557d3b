//! Whether a host takes a request: the cooperative's rules, the owner's own, and what is free. Pure.

use std::collections::BTreeMap;

use koinon_core::body::catalogue::Engine;
use koinon_core::body::latest::{GpuNeed, GuestsMode, ModelRef, NetworkPolicyState, RefusalReason, Request};
use koinon_core::ids::{Bytes, MemberId, NodeName, Seconds};
use koinon_core::placement::reservations::NodeReservations;
use koinon_core::policy::{Halted, usable_on_probation};

use crate::placement::inventory::{Inventory, NodeView, PoolView, Room};
use crate::placement::rules::{Approval, Rules};

/// What a host knows when it judges.
#[derive(Clone, Debug)]
pub struct Bench<'a> {
    /// The cooperative's rules.
    pub rules: &'a Rules,
    /// Whether fewer than a quorum are heard.
    pub isolated: bool,
    /// What the owner does with foreign work.
    pub guests: GuestsMode,
    /// Whether foreign work can be confined.
    pub network_policy: NetworkPolicyState,
    /// Whether others can reach this host's gateway.
    pub reachable: bool,
    /// Whether others may use only a part of what is offered here.
    pub on_probation: bool,
    /// What there is.
    pub inventory: &'a Inventory,
    /// What is reserved.
    pub records: &'a BTreeMap<NodeName, NodeReservations>,
}

impl Bench<'_> {
    /// Whether a pool shares GPUs of the request's class on `node`.
    ///
    /// # Errors
    /// The refusal, if none does.
    pub fn shares(&self, node: &NodeName, request: &Request) -> Result<(), Refused> {
        let class = &request.gpu.class;
        if self.inventory.nodes.get(node).is_some_and(NodeView::is_drained) {
            let message = format!("the owner empties {node}, where it is reserved");
            return Err(Refused::new(RefusalReason::Reclaimed, message));
        }
        if self.inventory.owner.contains_key(&(node.clone(), class.clone())) {
            return Ok(());
        }
        Err(Refused::new(
            RefusalReason::UnknownClass,
            format!("no pool has GPUs of class {class} where it is reserved"),
        ))
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker<'a> {
    /// Another member.
    Foreign(&'a MemberId),
    /// An own job that may run at any member.
    Own,
    /// An own job that stays here.
    Local,
}

/// A refusal, with the numbers that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: RefusalReason,
    /// The numbers, by name.
    pub numbers: BTreeMap<String, i64>,
    /// For this host's own log: what was attempted on what.
    pub message: String,
}

impl Refused {
    fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self { reason, numbers: BTreeMap::new(), message: message.into() }
    }

    fn with(mut self, name: &str, number: impl Into<i64>) -> Self {
        self.numbers.insert(name.to_owned(), number.into());
        self
    }

    /// A request whose epoch is not the highest any more.
    #[must_use]
    pub fn stale(asked: u64, highest: u64) -> Self {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Self::new(RefusalReason::StaleEpoch, format!("epoch {asked} is fenced, {highest} was seen here"))
            .with("asked", number(asked))
            .with("highest", number(highest))
    }
}

/// A request that may be granted as far as rules go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The engine, as the catalogue has it.
    pub engine: Engine,
    /// The model, in the words of the release.
    pub model: ModelRef,
    /// What the release says that the model takes.
    pub model_bytes: Option<Bytes>,
    /// The lease time of the grant.
    pub lease: Seconds,
}

/// The bounds that the resource sets for what it keeps.
const MOST_GPUS: u32 = 1024;
const MOST_REPLICAS: u32 = 1024;
const MOST_MODEL_LEN: u32 = 16_777_216;
const MOST_CONCURRENCY: u32 = 65_536;
const MOST_EPOCH: u64 = i64::MAX as u64;

/// Whether the rules allow the request, whatever is free. `running`: the copy runs here already, so that the owner's
/// wish to take nothing new does not concern it.
///
/// # Errors
/// The refusal.
pub fn allow(request: &Request, asker: Asker<'_>, bench: &Bench<'_>, running: bool) -> Result<Allowed, Refused> {
    well_formed(request)?;
    let rules = bench.rules;
    if let Asker::Foreign(home) = asker {
        foreign(home, bench, running)?;
        if let Some((reason, why)) = rules.outside(home, &request.model.manifest_digest) {
            return Err(Refused::new(reason, why));
        }
    }
    if asker != Asker::Local && bench.isolated && !running {
        return Err(Refused::new(RefusalReason::HostIsolated, "fewer than a quorum of members are heard"));
    }
    let digest = request.model.manifest_digest;
    if let Some(frozen) = rules.frozen(&digest).filter(|_| asker != Asker::Local && !running) {
        let message = format!("no new copy of release {digest} begins, by {frozen}");
        return Err(Refused::new(RefusalReason::ReleaseFrozen, message));
    }
    if rules.denied(&digest) && asker != Asker::Local {
        return Err(Refused::new(RefusalReason::DeniedByOwner, format!("the owner denies release {digest}")));
    }
    let (model, model_bytes, engines) = match (asker, rules.approval(&digest)) {
        (_, Approval::Enacted(release)) if asker != Asker::Local => {
            let same = release.uri == request.model.uri
                && release.revision == request.model.revision
                && release.quantization == request.model.quantization;
            if !same {
                return Err(Refused::new(
                    RefusalReason::NotApproved,
                    format!("release {digest} is approved in other words than the request's"),
                ));
            }
            (request.model.clone(), release.memory_bytes, release.engines.as_slice())
        }
        (Asker::Local, Approval::Enacted(release)) => (request.model.clone(), release.memory_bytes, &[][..]),
        (Asker::Local, _) => (request.model.clone(), None, &[][..]),
        _ => return Err(Refused::new(RefusalReason::NotApproved, format!("no release {digest} is in force"))),
    };
    let name = &request.engine.name;
    let engine = rules.engines().get(name);
    let engine = engine.filter(|_| engines.is_empty() || engines.contains(name)).ok_or_else(|| {
        Refused::new(RefusalReason::EngineNotApproved, format!("engine {name} is not approved for release {digest}"))
    })?;
    if let Err(error) = engine.validate().and_then(|()| engine.check_options(&request.engine.options)) {
        return Err(Refused::new(RefusalReason::EngineNotApproved, error.to_string()));
    }
    // The host never grants for longer than the charter says, whatever is asked.
    let lease = request.lease_seconds.min(rules.parameters().lease_seconds);
    Ok(Allowed { engine: engine.clone(), model, model_bytes, lease })
}

fn foreign(home: &MemberId, bench: &Bench<'_>, running: bool) -> Result<(), Refused> {
    let rules = bench.rules;
    // Whoever leaves goes in its own time: what runs for it, or here, may run on.
    let stops = |halted: &Halted| halted.ends_what_runs() || !running;
    if let Some(halted) = rules.halted(home).filter(stops) {
        let reason = if halted.is_gone() { RefusalReason::HomeNotActive } else { RefusalReason::HomeHalted };
        return Err(Refused::new(reason, format!("{home} {halted}")));
    }
    if let Some(halted) = rules.own_halted().filter(stops) {
        return Err(Refused::new(RefusalReason::HostHalted, format!("this member {halted}")));
    }
    let closed = bench.guests == GuestsMode::Stop || (bench.guests == GuestsMode::Drain && !running);
    if closed {
        return Err(Refused::new(RefusalReason::GuestsNotAccepted, format!("guests.mode is {}", bench.guests)));
    }
    if !bench.reachable {
        return Err(Refused::new(RefusalReason::GuestsNotAccepted, "this member has no gateway endpoint: a home only"));
    }
    let confined =
        matches!(bench.network_policy, NetworkPolicyState::Enforced | NetworkPolicyState::AcceptedUnenforced);
    if !confined && !running {
        return Err(Refused::new(
            RefusalReason::NetworkPolicyUnenforced,
            format!("network policies are {} here, and the owner has not accepted that", bench.network_policy),
        ));
    }
    if bench.rules.cordoned(home) && !running {
        return Err(Refused::new(RefusalReason::DeniedByOwner, format!("the owner cordoned {home}")));
    }
    Ok(())
}

/// What the types alone cannot say, and the resource could not keep.
fn well_formed(request: &Request) -> Result<(), Refused> {
    let invalid = |what: &str, least: i64, most: i64, seen: i64| {
        let message = format!("{what} is {seen}: between {least} and {most} is allowed");
        Refused::new(RefusalReason::InvalidRequest, message).with("seen", seen).with("least", least).with("most", most)
    };
    let bounds = [
        ("maxModelLen", 1, i64::from(MOST_MODEL_LEN), i64::from(request.max_model_len)),
        ("maxConcurrency", 1, i64::from(MOST_CONCURRENCY), i64::from(request.max_concurrency)),
        ("gpu.count", 1, i64::from(MOST_GPUS), i64::from(request.gpu.count)),
        ("replica", 0, i64::from(MOST_REPLICAS - 1), i64::from(request.replica.0)),
        ("leaseSeconds", 1, 86_400, request.lease_seconds.0),
    ];
    for (what, least, most, seen) in bounds {
        if !(least..=most).contains(&seen) {
            return Err(invalid(what, least, most, seen));
        }
    }
    if request.epoch.0 == 0 || request.epoch.0 >= MOST_EPOCH {
        return Err(Refused::new(RefusalReason::InvalidRequest, "epoch is out of range"));
    }
    if !is_uid(request.job.uid.as_str()) {
        return Err(Refused::new(RefusalReason::InvalidRequest, "job.uid is no UID of an API server"));
    }
    Ok(())
}

fn is_uid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The nodes that could take the request now, the tightest first.
///
/// # Errors
/// The refusal: what of the class there is, and what stands in the way.
pub fn room(gpu: &GpuNeed, asker: Asker<'_>, bench: &Bench<'_>) -> Result<Vec<Room>, Refused> {
    let with_class: Vec<&PoolView> =
        bench.inventory.pools.values().filter(|pool| pool.capacity.classes.contains_key(&gpu.class)).collect();
    if with_class.is_empty() {
        return Err(Refused::new(RefusalReason::UnknownClass, format!("no pool has GPUs of class {}", gpu.class)));
    }
    if matches!(asker, Asker::Foreign(_)) {
        within_probation(gpu, bench)?;
    }
    let refused = match asker {
        Asker::Foreign(home) => pools_refuse(home, gpu, &with_class, bench),
        Asker::Own | Asker::Local => BTreeMap::new(),
    };
    let usable = |pool: &PoolView| !refused.contains_key(&pool_name(pool));
    let own = !matches!(asker, Asker::Foreign(_));
    let room = bench.inventory.room(&gpu.class, gpu.count, own, usable, bench.records);
    if !room.is_empty() {
        return match asker {
            Asker::Foreign(home) => within_share(home, gpu, bench).map(|()| room),
            Asker::Own | Asker::Local => Ok(room),
        };
    }
    // The most hopeful pool's reason: one that could serve the asker at another time.
    if refused.len() == with_class.len()
        && let Some(refusal) =
            refused.into_values().max_by_key(|refusal| refusal.reason != RefusalReason::DeniedByOwner)
    {
        return Err(refusal);
    }
    let largest = |of: fn(&PoolView, &GpuNeed) -> u32| with_class.iter().map(|pool| of(pool, gpu)).max().unwrap_or(0);
    let largest_node = largest(|pool, gpu| pool.largest_installed.get(&gpu.class).copied().unwrap_or(0));
    let largest_block =
        largest(|pool, gpu| pool.capacity.classes.get(&gpu.class).map_or(0, |class| class.largest_node));
    let message = format!(
        "asks for {} {} on one node; the largest has {largest_node}, {largest_block} are free on one",
        gpu.count, gpu.class
    );
    Err(Refused::new(RefusalReason::InsufficientGPUs, message)
        .with("asked", gpu.count)
        .with("largestNode", largest_node)
        .with("largestBlock", largest_block))
}

/// Whether others may use that much more of what this member offers, if it is a new one. Each home sees only what it holds
/// itself; here all of it is known.
fn within_probation(gpu: &GpuNeed, bench: &Bench<'_>) -> Result<(), Refused> {
    if !bench.on_probation {
        return Ok(());
    }
    let inventory = bench.inventory;
    let of_class = inventory.pools.values().filter_map(|pool| pool.capacity.classes.get(&gpu.class));
    let offered: u64 = of_class.map(|class| u64::from(class.offered)).sum();
    let has_class = |node: &NodeName| inventory.owner.contains_key(&(node.clone(), gpu.class.clone()));
    let held = bench.records.iter().filter(|(node, _)| has_class(node)).flat_map(|(_, record)| record.held());
    let foreign = held.filter(|held| held.replica.home != *bench.rules.me());
    let held: u64 = foreign.map(|held| u64::from(held.gpus)).sum();
    let usable = usable_on_probation(offered.saturating_add(held));
    if held.saturating_add(gpu.count.into()) <= usable {
        return Ok(());
    }
    let message = format!(
        "this member is on probation: others may use {usable} of its {} and hold {held}, {} more are asked for",
        gpu.class, gpu.count
    );
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let refused = Refused::new(RefusalReason::HostOnProbation, message);
    Err(refused.with("asked", gpu.count).with("held", number(held)).with("limit", number(usable)))
}

/// Whether one home may hold that many more of what this member offers, of whatever class.
fn within_share(home: &MemberId, gpu: &GpuNeed, bench: &Bench<'_>) -> Result<(), Refused> {
    let inventory = bench.inventory;
    let offered = inventory.pools.values().flat_map(|pool| pool.capacity.classes.values());
    let offered: u64 = offered.map(|class| u64::from(class.offered)).sum();
    let foreign = bench.records.values().flat_map(|record| record.held());
    let foreign: Vec<_> = foreign.filter(|held| held.replica.home != *bench.rules.me()).collect();
    let all: u64 = foreign.iter().map(|held| u64::from(held.gpus)).sum();
    let held: u64 = foreign.iter().filter(|held| held.replica.home == *home).map(|held| u64::from(held.gpus)).sum();
    let most = bench.rules.norms().shares.most(offered.saturating_add(all));
    if held.saturating_add(gpu.count.into()) <= most {
        return Ok(());
    }
    let message = format!("the cooperative lets one member hold {most} GPUs here, and {home} holds {held}");
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let refused = Refused::new(RefusalReason::ShareLimit, message);
    Err(refused.with("asked", gpu.count).with("held", number(held)).with("limit", number(most)))
}

/// The pools that the owner keeps this home out of, and why.
fn pools_refuse(home: &MemberId, gpu: &GpuNeed, pools: &[&PoolView], bench: &Bench<'_>) -> BTreeMap<String, Refused> {
    let mut refused = BTreeMap::new();
    for pool in pools {
        let name = pool_name(pool);
        if !pool.allows(home) {
            let message = format!("pool {name} is not shared with {home}");
            refused.insert(name, Refused::new(RefusalReason::DeniedByOwner, message));
            continue;
        }
        if pool.shut {
            let message = format!("pool {name} is outside its hours");
            refused.insert(name, Refused::new(RefusalReason::GuestsNotAccepted, message));
            continue;
        }
        let (limit, foreign) = (pool.limits.get(&gpu.class).copied(), pool.foreign_of(&gpu.class));
        if let Some(limit) = limit.filter(|limit| foreign.saturating_add(gpu.count) > *limit) {
            let class = &gpu.class;
            let message = format!("the owner lets others hold {limit} {class} of pool {name}, and they hold {foreign}");
            let refusal = Refused::new(RefusalReason::InsufficientGPUs, message);
            refused.insert(name, refusal.with("asked", gpu.count).with("held", foreign).with("limit", limit));
            continue;
        }
        let Some(most) = pool.pool.spec.members.max_gpus_each.and_then(|most| u32::try_from(most).ok()) else {
            continue;
        };
        let held = bench.inventory.held_by(home, pool, bench.records);
        if held.saturating_add(gpu.count) > most {
            let message = format!("{home} holds {held} GPUs of pool {name} and may hold {most}");
            let refusal = Refused::new(RefusalReason::MemberLimit, message);
            refused.insert(name, refusal.with("asked", gpu.count).with("held", held).with("limit", most));
        }
    }
    refused
}

fn pool_name(pool: &PoolView) -> String {
    super::gpupool::name(pool)
}

#[cfg(test)]
#[path = "placement_host_judge_tests.rs"]
mod tests;
