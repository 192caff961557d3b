//! What a home's complete list means for what this host holds. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use koinon_api::Placement;
use koinon_api::placement::{PlacementSpec, PlacementState, Side};
use koinon_core::body::latest::Request;
use koinon_core::ids::{Epoch, MemberId, NodeName, ReplicaIndex};
use koinon_core::placement::ReplicaKey;
use koinon_core::placement::reservations::{NodeReservations, Reservation};

/// What a host has of one replica.
#[derive(Clone, Debug, Default)]
pub struct Holding {
    /// What is reserved, and where. More than one only after two operators reserved at once.
    pub reserved: Vec<(NodeName, Reservation)>,
    /// Its Placements, the newest epoch last.
    pub placements: Vec<Arc<Placement>>,
    /// The highest epoch that any record remembers.
    pub highest: Option<Epoch>,
}

impl Holding {
    /// The Placement that is not over.
    #[must_use]
    pub fn live(&self) -> Option<&Arc<Placement>> {
        self.placements.iter().rev().find(|placement| !is_over(placement))
    }

    /// Whether GPUs are reserved for this epoch.
    pub(super) fn reserved_under(&self, epoch: Epoch) -> bool {
        self.reserved.iter().any(|(_, held)| held.epoch == epoch)
    }
}

/// Whether a Placement holds nothing any more.
#[must_use]
pub fn is_over(placement: &Placement) -> bool {
    matches!(state(placement), PlacementState::Released | PlacementState::Refused)
}

/// Whether a Placement ends.
#[must_use]
pub fn is_ending(placement: &Placement) -> bool {
    state(placement) == PlacementState::Draining
}

/// Where a Placement stands.
#[must_use]
pub fn state(placement: &Placement) -> PlacementState {
    placement.status.as_ref().and_then(|status| status.state).unwrap_or(PlacementState::Granted)
}

/// The epoch of a Placement.
#[must_use]
pub fn epoch(placement: &Placement) -> Epoch {
    Epoch(u64::try_from(placement.spec.epoch).unwrap_or(0))
}

/// The replica of a Placement at the host.
#[must_use]
pub fn key(placement: &Placement) -> Option<ReplicaKey> {
    let spec = &placement.spec;
    (spec.side == Side::Host).then_some(())?;
    Some(ReplicaKey {
        home: spec.home.parse().ok()?,
        job: spec.job.uid.parse().ok()?,
        replica: ReplicaIndex(u32::try_from(spec.replica).ok()?),
    })
}

/// Everything that this host holds, by replica.
#[must_use]
pub fn holdings(
    records: &BTreeMap<NodeName, NodeReservations>,
    placements: &[Arc<Placement>],
) -> BTreeMap<ReplicaKey, Holding> {
    let mut holdings: BTreeMap<ReplicaKey, Holding> = BTreeMap::new();
    for (node, record) in records {
        for held in record.held() {
            holdings.entry(held.replica.clone()).or_default().reserved.push((node.clone(), held.clone()));
        }
    }
    for placement in placements {
        if let Some(key) = key(placement) {
            holdings.entry(key).or_default().placements.push(placement.clone());
        }
    }
    for (key, holding) in &mut holdings {
        holding.placements.sort_by_key(|placement| placement.spec.epoch);
        holding.highest = records.values().filter_map(|record| record.highest(key)).max();
    }
    holdings
}

/// Whether this host holds nothing any more, of others or of its own: nobody would clear up after a membership that is gone.
#[must_use]
pub fn nothing_left(records: &BTreeMap<NodeName, NodeReservations>, placements: &[Arc<Placement>]) -> bool {
    placements.is_empty() && records.values().all(|record| record.held().is_empty())
}

/// What a request means here.
#[derive(Clone, Debug)]
pub enum Meaning {
    /// It is what runs; nothing is to be decided.
    Known,
    /// It was reserved, and its Placement is not there: the operator was killed in between.
    Unfinished {
        /// Where.
        node: NodeName,
    },
    /// The running copy becomes this epoch's.
    TakeOver {
        /// The running copy.
        placement: Arc<Placement>,
    },
    /// Another copy of the replica has to end first.
    Wait,
    /// A higher epoch was seen, or this one is over.
    Stale {
        /// The highest that was seen.
        highest: Epoch,
    },
    /// It is to be judged.
    New,
}

/// Reads one request against what is held of its replica.
#[must_use]
pub fn meaning(request: &Request, holding: Option<&Holding>, highest: Option<Epoch>) -> Meaning {
    let asked = request.epoch;
    if let Some(highest) = highest.filter(|highest| *highest > asked) {
        return Meaning::Stale { highest };
    }
    let Some(holding) = holding else {
        return if highest == Some(asked) { Meaning::Stale { highest: asked } } else { Meaning::New };
    };
    let live = holding.live();
    match live {
        Some(placement) if epoch(placement) == asked => return Meaning::Known,
        Some(placement) if is_ending(placement) => return Meaning::Wait,
        Some(placement) => {
            // Also where the reservation has been taken over already and the operator was killed before it said so here.
            return if same_work(&placement.spec, request) {
                Meaning::TakeOver { placement: placement.clone() }
            } else {
                Meaning::Wait
            };
        }
        None => {}
    }
    if let Some((node, _)) = holding.reserved.iter().find(|(_, held)| held.epoch == asked) {
        return Meaning::Unfinished { node: node.clone() };
    }
    let over = holding.placements.iter().any(|placement| epoch(placement) == asked);
    if over || (highest == Some(asked) && !holding.reserved_under(asked)) {
        return if over { Meaning::Known } else { Meaning::Stale { highest: asked } };
    }
    Meaning::New
}

/// Whether a running copy is what the request asks for, but for its epoch.
fn same_work(running: &PlacementSpec, request: &Request) -> bool {
    let Ok(asked) = PlacementSpec::of(request, Side::Host, &running.home, &running.host) else { return false };
    PlacementSpec {
        epoch: running.epoch,
        request: running.request.clone(),
        template: running.template.clone(),
        claim: running.claim.clone(),
        lease: running.lease.clone(),
        ..asked
    } == *running
}

/// The copies of a home that run here, and those that its list speaks of: what it leaves out is no longer wanted.
#[must_use]
pub fn compared(home: &MemberId, holdings: &BTreeMap<ReplicaKey, Holding>, requests: &[Request]) -> (Copies, Copies) {
    let held: Copies = holdings
        .iter()
        .filter(|(key, _)| &key.home == home)
        .filter_map(|(key, holding)| {
            let live = holding.live().filter(|placement| !is_ending(placement))?;
            Some((key.clone(), epoch(live)))
        })
        .collect();
    let mut listed = Copies::new();
    for request in requests {
        let key = ReplicaKey { home: home.clone(), job: request.job.uid.clone(), replica: request.replica };
        let running = holdings.get(&key).and_then(Holding::live);
        if let Some(running) =
            running.filter(|running| request.epoch > epoch(running) && same_work(&running.spec, request))
        {
            // The same copy under a new epoch is not left out.
            listed.insert((key.clone(), epoch(running)));
        }
        listed.insert((key, request.epoch));
    }
    (held, listed)
}

/// Copies by replica and epoch.
pub type Copies = std::collections::BTreeSet<koinon_core::placement::host::Copy>;

#[cfg(test)]
#[path = "placement_host_list_tests.rs"]
mod tests;
