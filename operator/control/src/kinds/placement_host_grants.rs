//! The complete list of what a host holds or refused for one home. Pure.

use std::collections::BTreeMap;

use koinon_api::Placement;
use koinon_api::conditions::{self, ConditionType};
use koinon_api::placement::{PlacementState, PlacementStatus};
use koinon_core::body::latest::{Ending, Grant, GrantState, Grants, RefusalReason, Request};
use koinon_core::ids::{Bytes, Digest, Endpoint, Epoch, Seconds, StatementId, UnixSeconds};
use koinon_core::placement::ReplicaKey;

use super::placement_host_judge::Refused;
use super::placement_host_list::{epoch, key, state};
use super::placement_host_state::ending;

/// What was reserved a moment ago and has no Placement yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// Of which replica.
    pub replica: ReplicaKey,
    /// Under which epoch.
    pub epoch: Epoch,
    /// For how long.
    pub lease: Seconds,
}

/// Everything that a home is to be told.
#[derive(Clone, Debug)]
pub struct Telling<'a> {
    /// The home's Placements here.
    pub placements: &'a [std::sync::Arc<Placement>],
    /// What was reserved a moment ago.
    pub fresh: &'a [Fresh],
    /// What was refused and is still listed.
    pub refused: &'a BTreeMap<(ReplicaKey, Epoch), Refused>,
    /// The statement that is answered.
    pub request: StatementId,
    /// Where the home's gateway finds this host.
    pub gateway: Option<&'a Endpoint>,
}

/// The list.
#[must_use]
pub fn grants(telling: &Telling<'_>) -> Grants {
    let mut grants: BTreeMap<(ReplicaKey, Epoch), Grant> = BTreeMap::new();
    for placement in telling.placements {
        let Some(replica) = key(placement) else { continue };
        let grant = of_placement(&replica, placement, telling);
        grants.insert((replica, epoch(placement)), grant);
    }
    for fresh in telling.fresh {
        let plain = plain(&fresh.replica, fresh.epoch, GrantState::Granted, fresh.lease, telling);
        grants.entry((fresh.replica.clone(), fresh.epoch)).or_insert(plain);
    }
    for ((replica, epoch), refused) in telling.refused {
        let mut grant = plain(replica, *epoch, GrantState::Refused, Seconds(0), telling);
        grant.reason = Some(refused.reason);
        grant.numbers = refused.numbers.clone();
        grant.gateway = None;
        grants.entry((replica.clone(), *epoch)).or_insert(grant);
    }
    Grants { grants: grants.into_values().collect() }
}

fn plain(
    replica: &ReplicaKey,
    epoch: Epoch,
    state: GrantState,
    lease_seconds: Seconds,
    telling: &Telling<'_>,
) -> Grant {
    Grant {
        job_uid: replica.job.clone(),
        replica: replica.replica,
        epoch,
        request: telling.request,
        state,
        reason: None,
        ending: None,
        numbers: BTreeMap::new(),
        loaded_bytes: None,
        total_bytes: None,
        lease_seconds,
        gateway: telling.gateway.cloned(),
    }
}

fn of_placement(replica: &ReplicaKey, placement: &Placement, telling: &Telling<'_>) -> Grant {
    let spec = &placement.spec;
    let lease = Seconds(spec.lease.seconds.into());
    let mut grant = plain(replica, epoch(placement), GrantState::Granted, lease, telling);
    grant.request = spec.request.as_ref().and_then(|id| id.parse().ok()).unwrap_or(telling.request);
    grant.state = match state(placement) {
        PlacementState::Requested | PlacementState::Granted => GrantState::Granted,
        PlacementState::Loading => GrantState::Loading,
        PlacementState::Ready => GrantState::Ready,
        PlacementState::Draining => GrantState::Draining,
        PlacementState::Released => GrantState::Released,
        PlacementState::Refused => GrantState::Refused,
    };
    let Some(status) = &placement.status else { return grant };
    let bytes = |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok()).map(Bytes);
    grant.loaded_bytes = bytes(status.loaded_bytes);
    grant.total_bytes = bytes(status.total_bytes);
    grant.numbers = status.numbers.clone();
    grant.reason = match grant.state {
        GrantState::Draining | GrantState::Released | GrantState::Refused => {
            Some(ending(status).unwrap_or(RefusalReason::Other))
        }
        // What holds loading up, where the wire has a word for it.
        GrantState::Loading => ending(status),
        GrantState::Granted | GrantState::Ready => None,
    };
    if matches!(grant.state, GrantState::Granted | GrantState::Loading | GrantState::Ready) {
        grant.ending = announced(status);
    }
    grant
}

/// The end that a copy's owner has announced.
fn announced(status: &PlacementStatus) -> Option<Ending> {
    let reclaiming = conditions::is_true(&status.conditions, ConditionType::Reclaiming);
    let ends = status.ends_time.as_ref().filter(|_| reclaiming)?;
    Some(Ending { ends_at: UnixSeconds(koinon_api::time::to_unix(ends)), reason: RefusalReason::Reclaimed })
}

/// What stands for the statement of a list that never was one: the own jobs' own list.
#[must_use]
pub fn own_statement(requests: &[Request]) -> StatementId {
    StatementId(Digest::of(&serde_json::to_vec(requests).unwrap_or_default()))
}
