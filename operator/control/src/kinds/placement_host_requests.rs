//! What one home's list asks for: each request is judged, reserved for, or refused with the numbers.

use std::collections::BTreeMap;

use koinon_api::reclaim::node_of;
use koinon_core::body::latest::{GpuNeed, GuestsMode, RefusalReason, Request};
use koinon_core::ids::{MemberId, NodeName};
use koinon_core::placement::ReplicaKey;
use koinon_core::placement::reservations::{NodeReservations, Refusal, Reserved};
use kube::ResourceExt;

use super::placement_host::{GuestError, Guests, List, Scene};
use super::placement_host_home::Decisions;
use super::placement_host_judge::{self as judge, Allowed, Asker, Bench, Refused};
use super::placement_host_life::Birth;
use super::placement_host_list::{self as list, Holding, Meaning};
use crate::placement::metrics::Part;
use crate::placement::reservations::{Ask, ReservationError};
use crate::placement::rules::Rules;

impl Guests {
    /// Whether the list asks for anything that is not settled. Only then are the records read anew: a look follows every
    /// change of a pod, and a quorum read for each home would be felt by the API server.
    pub(super) fn has_news(
        &mut self,
        home: &MemberId,
        list: &List,
        records: &BTreeMap<NodeName, NodeReservations>,
        holdings: &BTreeMap<ReplicaKey, Holding>,
    ) -> bool {
        let listed = keyed(home, list);
        let memory = self.memory.entry(home.clone()).or_default();
        memory.refused.retain(|(key, epoch), _| listed.iter().any(|(k, request)| k == key && request.epoch == *epoch));
        listed.iter().any(|(key, request)| {
            let highest = records.values().filter_map(|record| record.highest(key)).max();
            let is_settled =
                matches!(list::meaning(request, holdings.get(key), highest), Meaning::Known | Meaning::Wait);
            !is_settled && !memory.refused.contains_key(&(key.clone(), request.epoch))
        })
    }

    /// What the list asks for.
    pub(super) async fn requests(
        &mut self,
        home: &MemberId,
        scene: &Scene,
        rules: &Rules,
        list: &List,
        holdings: &BTreeMap<ReplicaKey, Holding>,
        decisions: &mut Decisions,
    ) -> Result<(), GuestError> {
        let mut records = self.reservations.records().await?;
        let mut inventory = self.inventory(scene, &records);
        for (key, request) in keyed(home, list) {
            let refused_before =
                self.memory.get(home).is_some_and(|m| m.refused.contains_key(&(key.clone(), request.epoch)));
            // The records are read anew here. What another operator has reserved since the holdings were read is its to
            // finish, and the next look sees what became of it.
            let mut held = records.values().flat_map(|record| record.held());
            let reserved = held.any(|held| held.replica == key && held.epoch == request.epoch);
            if reserved && !holdings.get(&key).is_some_and(|holding| holding.reserved_under(request.epoch)) {
                continue;
            }
            let highest = records.values().filter_map(|record| record.highest(&key)).max();
            let asker = match () {
                () if home != &scene.me => Asker::Foreign(home),
                () if list.local.contains(&request.job.uid) => Asker::Local,
                () => Asker::Own,
            };
            let bench = Bench {
                rules,
                isolated: scene.peers.isolated || !scene.peers.heard_quorum,
                guests: if scene.ending && scene.guests() == GuestsMode::Accept {
                    GuestsMode::Drain
                } else {
                    scene.guests()
                },
                network_policy: self.ctx.host.borrow().network_policy,
                reachable: !scene.spec.endpoints.gateway.is_empty(),
                on_probation: rules.on_probation(),
                inventory: &inventory,
                records: &records,
            };
            let outcome = match list::meaning(request, holdings.get(&key), highest) {
                Meaning::Known | Meaning::Wait => continue,
                _ if refused_before => continue,
                Meaning::Stale { highest } => Err(Refused::stale(request.epoch.0, highest.0)),
                Meaning::Unfinished { node } => {
                    // The list may ask for something else by now than what was reserved.
                    let again = match judge::allow(request, asker, &bench, true)
                        .and_then(|allowed| bench.shares(&node, request).map(|()| allowed))
                    {
                        Ok(allowed) => self
                            .reserve(&key, request, std::slice::from_ref(&node), &bench)
                            .await
                            .map(|held| held.map(|node| (node, allowed, None))),
                        Err(refused) => Err(refused),
                    };
                    if again.is_err() {
                        // Nothing of it runs yet, so its GPUs are free again at once.
                        self.give_back(&node, &key, request).await?;
                    }
                    again
                }
                Meaning::TakeOver { placement }
                    if decisions.ended.get(&placement.name_any()).is_some_and(|end| !end.may_be_taken_over()) =>
                {
                    continue;
                }
                Meaning::TakeOver { placement } => match judge::allow(request, asker, &bench, true) {
                    Ok(allowed) => {
                        let nodes: Vec<NodeName> = node_of(&placement).into_iter().collect();
                        self.reserve(&key, request, &nodes, &bench)
                            .await
                            .map(|held| held.map(|node| (node, allowed, Some(placement))))
                    }
                    Err(refused) => Err(refused),
                },
                Meaning::New => match judge::allow(request, asker, &bench, false)
                    .and_then(|allowed| Ok((allowed, judge::room(&request.gpu, asker, &bench)?)))
                {
                    Ok((allowed, room)) => {
                        let mut nodes: Vec<NodeName> = room.into_iter().map(|room| room.node).collect();
                        // What the replica itself holds there leaves no room for anybody else.
                        let holds = holdings.get(&key).into_iter().flat_map(|holding| &holding.reserved);
                        nodes.extend(
                            holds.map(|(node, _)| node).filter(|node| bench.shares(node, request).is_ok()).cloned(),
                        );
                        self.reserve(&key, request, &nodes, &bench)
                            .await
                            .map(|held| held.map(|node| (node, allowed, None)))
                    }
                    Err(refused) => Err(refused),
                },
            };
            match outcome {
                Ok(None) => {}
                Ok(Some((_, Allowed { lease, .. }, Some(placement)))) => {
                    decisions.ended.remove(&placement.name_any());
                    decisions.raised.push((placement, request.clone(), lease));
                }
                Ok(Some((node, allowed, None))) => {
                    let pod = inventory
                        .owner
                        .get(&(node.clone(), request.gpu.class.clone()))
                        .and_then(|pool| inventory.pools.get(pool))
                        .map(|pool| pool.pool.spec.pod.clone())
                        .unwrap_or_default();
                    let hostname =
                        inventory.nodes.get(&node).map_or_else(|| node.to_string(), |view| view.hostname().to_owned());
                    let product = inventory.nodes.get(&node).and_then(|view| view.product(&request.gpu.class));
                    let (key, request) = (key.clone(), request.clone());
                    let (local, asked_in) = (asker == Asker::Local, list.id);
                    let birth = Birth { key, request, node, hostname, allowed, pod, product, local, asked_in };
                    decisions.born.push(birth);
                    // The next request finds these GPUs taken.
                    records = self.reservations.records().await?;
                    inventory = self.inventory(scene, &records);
                }
                Err(refused) => self.refuse(home, key, request, refused),
            }
        }
        Ok(())
    }

    /// The one durable write before a grant. `None`: another writer was faster too often, the next look tries again.
    async fn reserve(
        &self,
        key: &ReplicaKey,
        request: &Request,
        nodes: &[NodeName],
        bench: &Bench<'_>,
    ) -> Result<Option<NodeName>, Refused> {
        let ask = Ask { replica: key.clone(), epoch: request.epoch, gpus: request.gpu.count };
        let reservable = |record: &NodeReservations| {
            bench.inventory.nodes.get(record.node()).map_or(0, |view| view.reservable(record))
        };
        match self.reservations.reserve(&ask, nodes, reservable).await {
            Ok(held) => {
                if held.how != Reserved::Already {
                    tracing::info!(replica = %key, epoch = %request.epoch, node = %held.node, gpus = ask.gpus, how = ?held.how, "reserved");
                }
                Ok(Some(held.node))
            }
            Err(ReservationError::Refused(refusal)) => Err(refused(&request.gpu, request, refusal)),
            Err(ReservationError::Contended(_) | ReservationError::NoNode) => Ok(None),
            Err(ReservationError::Store(error)) => {
                self.metrics.failed(Part::Guests);
                tracing::warn!(replica = %key, %error, "a reservation could not be written; the next look tries again");
                Ok(None)
            }
        }
    }

    async fn give_back(&self, node: &NodeName, key: &ReplicaKey, request: &Request) -> Result<(), GuestError> {
        match self.reservations.release(node, key, request.epoch).await {
            Ok(_) | Err(ReservationError::Contended(_) | ReservationError::NoNode | ReservationError::Refused(_)) => {
                Ok(())
            }
            Err(ReservationError::Store(error)) => Err(error.into()),
        }
    }

    pub(super) fn refuse(&mut self, home: &MemberId, key: ReplicaKey, request: &Request, refused: Refused) {
        tracing::info!(replica = %key, epoch = %request.epoch, reason = %refused.reason, why = %refused.message, "refused");
        self.metrics.refused(refused.reason);
        self.memory.entry(home.clone()).or_default().refused.insert((key, request.epoch), refused);
    }
}

/// The requests of a list, by the replica that they are for.
fn keyed<'a>(home: &MemberId, list: &'a List) -> Vec<(ReplicaKey, &'a Request)> {
    let requests = list.requests.requests.iter();
    let keyed = requests.map(|request| {
        (ReplicaKey { home: home.clone(), job: request.job.uid.clone(), replica: request.replica }, request)
    });
    keyed.collect()
}

fn refused(gpu: &GpuNeed, request: &Request, refusal: Refusal) -> Refused {
    let message = refusal.to_string();
    let plain = |reason| Refused { reason, numbers: BTreeMap::new(), message: message.clone() };
    match refusal {
        Refusal::EpochFenced { highest, .. } => Refused::stale(request.epoch.0, highest.0),
        Refusal::EpochEnded { epoch, .. } => Refused::stale(request.epoch.0, epoch.0),
        Refusal::NotEnough { asked, free, capacity, .. } => Refused {
            numbers: [("asked", asked), ("largestBlock", free), ("largestNode", capacity)]
                .map(|(name, number)| (name.to_owned(), i64::from(number)))
                .into(),
            ..plain(RefusalReason::InsufficientGPUs)
        },
        Refusal::Changed { held, .. } => Refused {
            numbers: [("asked", gpu.count), ("held", held)].map(|(n, number)| (n.to_owned(), i64::from(number))).into(),
            ..plain(RefusalReason::InvalidRequest)
        },
    }
}
