//! From objects to the table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use koinon_api::common::GuestMode;
use koinon_api::conditions::{ConditionType, Reason, find, is_true};
use koinon_api::member::MemberState;
use koinon_api::placement::{PlacementState, Side};
use koinon_api::{Cooperative, InferenceJob, Member, Placement, names};
use koinon_core::ids::{Endpoint, Epoch, MemberId, Namespace, ObjectUid, PublicKey, ReplicaIndex, ServedName};
use koinon_core::placement::ReplicaKey;

use super::{EngineUrl, Facts, Hosted, Model, Own, Route, RoutingTable, Target};

/// Another member, as far as routing needs it.
struct Peer {
    key: PublicKey,
    addresses: Vec<Endpoint>,
}

/// Who is known, and who of them may not work.
struct Known {
    peers: BTreeMap<MemberId, Peer>,
    halted: BTreeMap<MemberId, String>,
}

impl Known {
    /// Why a copy at `host` is not called for this member.
    fn stops(&self, own: &MemberId, host: &MemberId) -> Option<&String> {
        // Own copies on own GPUs are nobody else's business.
        (own != host).then(|| self.halted.get(host).or_else(|| self.halted.get(own))).flatten()
    }
}

pub(super) fn build(facts: &Facts) -> RoutingTable {
    let oldest = Cooperative::chosen(&facts.cooperatives);
    let own =
        oldest.and_then(|coop| Some(Own { coop: coop.spec.id.parse().ok()?, member: coop.spec.member.parse().ok()? }));
    let Some(own) = own else {
        return RoutingTable::default();
    };
    let peers: BTreeMap<MemberId, Peer> = facts
        .members
        .iter()
        .filter_map(|member| Some((member.metadata.name.as_deref()?.parse().ok()?, peer(member)?)))
        .filter(|(member, _)| *member != own.member)
        .collect();
    let halted = facts
        .members
        .iter()
        .filter_map(|member| Some((member.metadata.name.as_deref()?.parse().ok()?, halted(member)?)));
    let known = Known { peers, halted: halted.collect() };
    let stopped = oldest.is_some_and(|coop| coop.spec.guests.mode == GuestMode::Stop);
    let held = held(facts, &own.member);
    let models = models(facts, &own.member, &known, &held);
    // The owner's stop works here too, and at once, even if the operator is down.
    let hosted = held.into_iter().filter(|(replica, _)| replica.home == own.member || !stopped).collect();
    let pins = known.peers.into_iter().map(|(member, peer)| (peer.key, member)).collect();
    RoutingTable { own: Some(own), models, hosted, pins, halted: known.halted }
}

/// A member that is known: one that may not work is told so. Nobody is told anything under a key that may be in wrong hands.
fn peer(member: &Member) -> Option<Peer> {
    let status = member.status.as_ref()?;
    let is_known = match status.state? {
        MemberState::Active
        | MemberState::Probationary
        | MemberState::Dormant
        | MemberState::Leaving
        | MemberState::Suspended
        | MemberState::Quarantined => true,
        MemberState::Applying | MemberState::Left | MemberState::Expelled => false,
    };
    let may_work = find(&status.conditions, ConditionType::MayWork);
    if !is_known || may_work.is_some_and(|said| said.reason == Reason::KeyBlocked.as_str()) {
        return None;
    }
    let key = status.keys.as_ref()?.operator.parse().ok()?;
    let urls = status.endpoints.iter().flat_map(|endpoints| &endpoints.gateway);
    Some(Peer { key, addresses: urls.filter_map(|url| gateway_address(url)).collect() })
}

/// Why a member is neither called nor answered.
fn halted(member: &Member) -> Option<String> {
    let status = member.status.as_ref()?;
    let said = find(&status.conditions, ConditionType::MayWork).filter(|said| said.status == "False");
    if said.is_some_and(|said| said.reason == Reason::Quarantined.as_str()) {
        // What runs has its notice, and serves until then.
        return None;
    }
    // The state alone says enough: what wrote it may have had no words for the rest.
    let stopped = status.state == Some(MemberState::Suspended);
    let plain = || format!("{} may not work", member.metadata.name.as_deref().unwrap_or("it"));
    (said.is_some() || stopped).then(|| said.map_or_else(plain, |said| said.message.clone()))
}

/// The copies that run here, for whatever home: the highest epoch of each replica.
fn held(facts: &Facts, own: &MemberId) -> BTreeMap<ReplicaKey, Hosted> {
    let mut held: BTreeMap<ReplicaKey, Hosted> = BTreeMap::new();
    for placement in &facts.placements {
        let Some((replica, hosted)) = hosted(placement, own) else { continue };
        match held.get(&replica) {
            Some(known) if known.epoch >= hosted.epoch => {}
            _ => {
                held.insert(replica, hosted);
            }
        }
    }
    held
}

fn hosted(placement: &Placement, own: &MemberId) -> Option<(ReplicaKey, Hosted)> {
    let spec = &placement.spec;
    if spec.side != Side::Host || spec.host != own.as_str() {
        return None;
    }
    // A namespace is what a home's work is confined to: an object elsewhere speaks for nobody.
    let namespace = placement.metadata.namespace.as_deref()?;
    let own_job = spec.home == own.as_str() && namespace == spec.job.namespace;
    if namespace != names::guest_namespace(&spec.home) && !own_job {
        return None;
    }
    let (replica, epoch) = identity(placement)?;
    let digest = spec.model.manifest_digest.parse().ok()?;
    let status = placement.status.as_ref();
    let answers = placement.metadata.deletion_timestamp.is_none()
        && status.is_some_and(|status| {
            let ending = [PlacementState::Draining, PlacementState::Released, PlacementState::Refused];
            is_true(&status.conditions, ConditionType::Ready) && !status.state.is_some_and(|now| ending.contains(&now))
        });
    let engine = status.filter(|_| answers).and_then(|status| engine_url(status.gateway.as_deref()?));
    Some((replica, Hosted { epoch, digest, concurrency: concurrency(placement), engine }))
}

fn models(
    facts: &Facts,
    own: &MemberId,
    known: &Known,
    held: &BTreeMap<ReplicaKey, Hosted>,
) -> BTreeMap<(Namespace, ServedName), Model> {
    let jobs: BTreeMap<&str, &Arc<InferenceJob>> =
        facts.jobs.iter().filter_map(|job| Some((job.metadata.uid.as_deref()?, job))).collect();
    // Highest routable epoch of each replica.
    let mut copies: BTreeMap<ReplicaKey, (Epoch, &Placement)> = BTreeMap::new();
    for placement in &facts.placements {
        let Some((replica, epoch)) = routable(placement, own) else { continue };
        match copies.get(&replica) {
            Some((known, _)) if *known >= epoch => {}
            _ => {
                copies.insert(replica, (epoch, placement));
            }
        }
    }
    // By name, then by job: two jobs of one name must never answer for each other.
    let mut by_name: BTreeMap<(Namespace, ServedName), BTreeMap<(i64, ObjectUid), Model>> = BTreeMap::new();
    for job in &facts.jobs {
        let Some((name, uid, model)) = known_job(job) else { continue };
        by_name.entry(name).or_default().insert((model.created, uid), model);
    }
    for (replica, (epoch, placement)) in copies {
        let Some(route) = route(placement, &replica, epoch, own, &known.peers, held) else { continue };
        let spec = &placement.spec;
        let (Ok(namespace), Ok(served)) = (spec.job.namespace.parse(), spec.served_name.parse()) else { continue };
        // A job that cannot be read, or is gone from a store that lags, comes after those that are known.
        let created = jobs.get(spec.job.uid.as_str()).map_or(i64::MAX, |job| created(&job.metadata));
        let models = by_name.entry((namespace, served)).or_default();
        let model = models.entry((created, replica.job.clone())).or_insert_with(|| Model {
            digest: route.digest,
            created: 0,
            routes: Vec::new(),
            halted: BTreeSet::new(),
        });
        if let Some(why) = known.stops(own, &route.member) {
            model.halted.insert(why.clone());
            continue;
        }
        // A model is never swapped: a copy of other weights is a mistake, whoever made it.
        if model.digest == route.digest {
            model.routes.push(Arc::new(route));
        }
    }
    // The operator takes the route away as soon as it knows; what it wrote says why until the copy is forgotten.
    for placement in facts.placements.iter().filter(|placement| placement.spec.home == own.as_str()) {
        let spec = &placement.spec;
        let (Some(why), Ok(uid)) = (left_behind(placement), spec.job.uid.parse::<ObjectUid>()) else { continue };
        let (Ok(namespace), Ok(served)) = (spec.job.namespace.parse(), spec.served_name.parse()) else { continue };
        let models = by_name.get_mut(&(namespace, served)).into_iter().flatten();
        models.filter(|((_, job), _)| *job == uid).for_each(|(_, model)| {
            model.halted.insert(why.clone());
        });
    }
    by_name
        .into_iter()
        .filter_map(|(name, jobs)| {
            // The first that asked for the name has it.
            let (_, model) = jobs.into_iter().next()?;
            Some((name, model))
        })
        .collect()
}

fn known_job(job: &InferenceJob) -> Option<((Namespace, ServedName), ObjectUid, Model)> {
    let name = (job.metadata.namespace.as_deref()?.parse().ok()?, job.spec.served_name.parse().ok()?);
    let digest = job.spec.model.manifest_digest.parse().ok()?;
    let model = Model { digest, created: created(&job.metadata), routes: Vec::new(), halted: BTreeSet::new() };
    Some((name, job.metadata.uid.as_deref()?.parse().ok()?, model))
}

/// Why the home left a copy, if its host or this home may not work.
fn left_behind(placement: &Placement) -> Option<String> {
    let status = placement.status.as_ref().filter(|_| placement.spec.side == Side::Home)?;
    let said = find(&status.conditions, ConditionType::Routable).filter(|said| said.status == "False")?;
    let halts = [Reason::Suspended, Reason::Quarantined, Reason::KeyBlocked, Reason::Expelled, Reason::Left];
    halts.iter().any(|halt| said.reason == halt.as_str()).then(|| said.message.clone())
}

fn routable(placement: &Placement, own: &MemberId) -> Option<(ReplicaKey, Epoch)> {
    let spec = &placement.spec;
    let beside_its_job = placement.metadata.namespace.as_deref() == Some(spec.job.namespace.as_str());
    let status = placement.status.as_ref()?;
    let routable = spec.side == Side::Home
        && spec.home == own.as_str()
        && beside_its_job
        && placement.metadata.deletion_timestamp.is_none()
        && is_true(&status.conditions, ConditionType::Routable);
    routable.then(|| identity(placement)).flatten()
}

fn route(
    placement: &Placement,
    replica: &ReplicaKey,
    epoch: Epoch,
    own: &MemberId,
    peers: &BTreeMap<MemberId, Peer>,
    held: &BTreeMap<ReplicaKey, Hosted>,
) -> Option<Route> {
    let spec = &placement.spec;
    let told = placement.status.as_ref().and_then(|status| status.gateway.as_deref());
    let member: MemberId = spec.host.parse().ok()?;
    let target = if member == *own {
        let hosted = held.get(replica).filter(|hosted| hosted.epoch == epoch)?;
        Target::Engine(hosted.engine.clone()?)
    } else {
        let peer = peers.get(&member)?;
        // What the grant says is newer than what the log says; both lead to the same key or nowhere.
        let mut addresses: Vec<Endpoint> = told.and_then(gateway_address).into_iter().collect();
        addresses.extend(
            peer.addresses.iter().filter(|known| told.and_then(gateway_address).as_ref() != Some(*known)).cloned(),
        );
        if addresses.is_empty() {
            return None;
        }
        Target::Gateway { key: peer.key, addresses }
    };
    Some(Route {
        replica: replica.clone(),
        epoch,
        member,
        digest: spec.model.manifest_digest.parse().ok()?,
        concurrency: concurrency(placement),
        target,
    })
}

fn concurrency(placement: &Placement) -> u32 {
    u32::try_from(placement.spec.max_concurrency).unwrap_or(1).max(1)
}

fn identity(placement: &Placement) -> Option<(ReplicaKey, Epoch)> {
    let spec = &placement.spec;
    let replica = ReplicaKey {
        home: spec.home.parse().ok()?,
        job: spec.job.uid.parse().ok()?,
        replica: ReplicaIndex(u32::try_from(spec.replica).ok()?),
    };
    Some((replica, Epoch(u64::try_from(spec.epoch).ok()?)))
}

fn gateway_address(url: &str) -> Option<Endpoint> {
    url.trim_end_matches('/').parse().ok()
}

/// Only what the own operator writes comes here, and yet it must be nothing but a host and a port.
fn engine_url(url: &str) -> Option<EngineUrl> {
    let authority = url.strip_prefix("http://")?.trim_end_matches('/');
    let plain = authority.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
    (plain && !authority.is_empty()).then(|| EngineUrl(authority.to_owned()))
}

fn created(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(i64::MAX, koinon_api::time::to_unix)
}
