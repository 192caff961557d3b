//! One look at one home: what its list asks, what ends, what is granted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use koinon_api::Placement;
use koinon_api::conditions::Reason;
use koinon_api::reclaim::node_of;
use koinon_core::body::latest::{GuestsMode, RefusalReason, Request};
use koinon_core::ids::{MemberId, NodeName, Seconds};
use koinon_core::placement::ReplicaKey;
use koinon_core::placement::host::{Lease, LeaseState, Omitted, omitted};
use koinon_core::placement::reservations::NodeReservations;
use kube::{Resource, ResourceExt};

use super::placement_host::{GuestError, Guests, List, Scene};
use super::placement_host_grants::{self as grants, Fresh, Telling};
use super::placement_host_life::Birth;
use super::placement_host_list::{self as list, Holding};
use super::placement_host_reclaim as reclaim;
use super::placement_host_state::{self as state, End};
use crate::events::Severity;
use crate::placement::metrics::Part;
use crate::placement::own::{self, OwnGrants};
use crate::placement::reservations::ReservationError;
use crate::placement::rules::{Approval, Rules};

/// The longest that a copy that was left out waits for its home to think again, before it drains.
const SECOND_THOUGHTS: Seconds = Seconds(10);
/// A cache shows what was written within this time.
const LAG: Duration = Duration::from_secs(5);
/// How long grants hold without being confirmed, in leases.
const GRANTS_HOLD: u32 = 1;

/// What one look decided.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    /// Reserved, to be written down.
    pub(super) born: Vec<Birth>,
    /// Running copies that get a higher epoch.
    pub(super) raised: Vec<(Arc<Placement>, Request, Seconds)>,
    /// Copies that end.
    pub(super) ended: BTreeMap<String, End>,
}

impl Guests {
    /// Does for one home what is due now. `records` are those of the beginning of the look.
    pub(super) async fn home(
        &mut self,
        home: &MemberId,
        scene: &Scene,
        records: &BTreeMap<NodeName, NodeReservations>,
        holdings: &BTreeMap<ReplicaKey, Holding>,
    ) -> Result<(), GuestError> {
        self.load_renewals(home, scene).await;
        let list = self.list(home, scene);
        let mut decisions = Decisions { ended: self.ends(home, scene, holdings), ..Decisions::default() };
        if let (Some(list), Some(rules)) = (&list, &scene.rules) {
            self.left_out(home, scene, rules, list, holdings, &mut decisions);
            if self.has_news(home, list, records, holdings) {
                self.requests(home, scene, rules, list, holdings, &mut decisions).await?;
            }
        }
        self.tell(home, scene, list.as_ref(), holdings, &decisions);
        // What fails for one copy must not let the leases of the others lapse, nor keep GPUs that nobody asks for.
        let mut first = self.carry_out(home, scene, holdings, decisions).await.err();
        if let (Some(list), Some(rules)) = (&list, &scene.rules) {
            first = first.or(self.done(home, scene, rules, list).await.err());
        }
        first = first.or(self.unclaimed(home, scene, list.as_ref(), holdings).await.err());
        // What was just written is told when it is read back, at the next look.
        first.map_or(Ok(()), Err)
    }

    /// What may be done while nobody knows what is reserved: nothing new, and what ends is ended. Its reservations are
    /// given back once they can be read. An owner's stop waits for no record.
    pub(super) async fn home_without_records(
        &mut self,
        home: &MemberId,
        scene: &Scene,
        holdings: &BTreeMap<ReplicaKey, Holding>,
    ) -> Result<(), GuestError> {
        self.load_renewals(home, scene).await;
        let decisions = Decisions { ended: self.ends(home, scene, holdings), ..Decisions::default() };
        self.carry_out(home, scene, holdings, decisions).await
    }

    /// A home's stored renewal is read once. Until it is, its leases are not judged.
    async fn load_renewals(&mut self, home: &MemberId, scene: &Scene) {
        if home == &scene.me {
            return;
        }
        if let Err(error) = self.renewals.load(home).await {
            tracing::warn!(%home, %error, "its last renewal could not be read; its leases are not judged yet");
        }
    }

    /// The copies that end, whatever the home's list says.
    fn ends(&self, home: &MemberId, scene: &Scene, holdings: &BTreeMap<ReplicaKey, Holding>) -> BTreeMap<String, End> {
        let mut ends = BTreeMap::new();
        let mut shortest: Option<i64> = None;
        for (_, holding) in Self::holding(holdings, home) {
            let Some(placement) = holding.live().filter(|placement| !list::is_ending(placement)) else { continue };
            let lease = self.lease(home, scene, placement);
            if let Some(LeaseState::Held { remaining }) = lease {
                shortest = Some(shortest.map_or(remaining.0, |known| known.min(remaining.0)));
            }
            if let Some(end) = end_of(home, scene, placement, lease) {
                ends.insert(placement.name_any(), end);
            }
        }
        self.metrics.lease_remaining(home, shortest);
        ends
    }

    /// How a foreign copy's lease stands; `None` where it has none, or what was stored about it is not known.
    fn lease(&self, home: &MemberId, scene: &Scene, placement: &Placement) -> Option<LeaseState> {
        if home == &scene.me || !self.renewals.knows(home) {
            return None;
        }
        let granted_at = placement.status.as_ref().and_then(state::granted_at)?;
        // A list that came before the grant renews nothing: it is the one that asked.
        let renewed_at = self.renewals.last(home, scene.now).filter(|renewed| *renewed > granted_at);
        let longest_silence = scene.rules.as_ref()?.parameters().keep_serving_max_seconds;
        let lease = Lease {
            granted_at,
            renewed_at,
            period: Seconds(placement.spec.lease.seconds.into()),
            on_partition: placement.spec.lease.on_partition.into(),
            longest_silence,
        };
        Some(lease.state(scene.now.unix))
    }

    /// The copies that the list no longer names.
    fn left_out(
        &mut self,
        home: &MemberId,
        scene: &Scene,
        rules: &Rules,
        list: &List,
        holdings: &BTreeMap<ReplicaKey, Holding>,
        decisions: &mut Decisions,
    ) {
        let (held, listed) = list::compared(home, holdings, &list.requests.requests);
        let lease = rules.parameters().lease_seconds;
        let ago = scene.now.monotonic.saturating_sub(list.heard).as_secs();
        let heard = scene.now.unix.minus(Seconds(i64::try_from(ago).unwrap_or(i64::MAX)));
        let memory = self.memory.entry(home.clone()).or_default();
        let missing = match omitted(&held, &listed, memory.doubted, heard, lease) {
            Omitted::Drain(missing) => {
                memory.doubted = None;
                missing
            }
            Omitted::Doubtful(missing) => {
                let first = memory.doubted.is_none();
                memory.doubted.get_or_insert(heard);
                if first {
                    self.doubts(home, missing.len());
                }
                return;
            }
        };
        memory.left_out.retain(|copy, _| missing.contains(copy));
        // A home that comes back from a cut left the copy before it could know that it still serves.
        let grace =
            if home == &scene.me { Seconds(0) } else { rules.parameters().lease_margin_seconds.min(SECOND_THOUGHTS) };
        let grace = Duration::from_secs(u64::try_from(grace.0).unwrap_or(0));
        for copy in missing {
            let since = *memory.left_out.entry(copy.clone()).or_insert(scene.now.monotonic);
            let Some(placement) = holdings.get(&copy.0).and_then(Holding::live) else { continue };
            if scene.now.monotonic.saturating_sub(since) >= grace {
                let end = || End::new(RefusalReason::NoLongerRequested, format!("{home} no longer lists it"));
                decisions.ended.entry(placement.name_any()).or_insert_with(end);
            }
        }
    }

    /// Says that a list is not believed yet.
    fn doubts(&self, home: &MemberId, missing: usize) {
        let note =
            format!("its list leaves out most of its copies here ({missing}); kept until a later one says the same");
        tracing::warn!(%home, "{note}");
        let members = self.ctx.caches.members.all();
        if let Some(member) = members.iter().find(|member| member.name_any() == home.as_str()) {
            self.ctx.events.tell(member.object_ref(&()), Severity::Warning, Reason::MassLossGuard, note);
        }
    }

    /// Tells the home what is held and refused for it. What was reserved a moment ago is granted here, before anything is
    /// made of it.
    fn tell(
        &self,
        home: &MemberId,
        scene: &Scene,
        list: Option<&List>,
        holdings: &BTreeMap<ReplicaKey, Holding>,
        decisions: &Decisions,
    ) {
        let Some(rules) = &scene.rules else { return };
        let raised =
            decisions.raised.iter().map(|(placement, request, lease)| (placement.name_any(), (request, *lease)));
        let raised: BTreeMap<String, (&Request, Seconds)> = raised.collect();
        let placements: Vec<Arc<Placement>> = Self::holding(holdings, home)
            .flat_map(|(_, holding)| &holding.placements)
            .map(|placement| match raised.get(&placement.name_any()) {
                Some((request, _)) => {
                    let mut raised = placement.as_ref().clone();
                    raised.spec.epoch = i64::try_from(request.epoch.0).unwrap_or(i64::MAX);
                    Arc::new(raised)
                }
                None => placement.clone(),
            })
            .collect();
        let fresh: Vec<Fresh> = decisions
            .born
            .iter()
            .map(|birth| Fresh { replica: birth.key.clone(), epoch: birth.request.epoch, lease: birth.allowed.lease })
            .collect();
        let empty = BTreeMap::new();
        let gateways = super::gpupool_offer::gateways(&scene.spec);
        let telling = Telling {
            placements: &placements,
            fresh: &fresh,
            refused: self.memory.get(home).map_or(&empty, |memory| &memory.refused),
            request: list.map_or_else(|| grants::own_statement(&[]), |list| list.id),
            gateway: gateways.first(),
        };
        let grants = grants::grants(&telling);
        if home == &scene.me {
            own::send(&self.own.grants, OwnGrants { grants: Arc::new(grants), at: scene.now.monotonic });
            return;
        }
        let lease = Duration::from_secs(u64::try_from(rules.parameters().lease_seconds.0).unwrap_or(1).max(1));
        if let Err(error) = self.ctx.publisher.grants(home, grants, lease * GRANTS_HOLD) {
            self.metrics.failed(Part::Guests);
            tracing::warn!(%home, %error, "what is granted could not be said");
        }
    }

    async fn carry_out(
        &mut self,
        home: &MemberId,
        scene: &Scene,
        holdings: &BTreeMap<ReplicaKey, Holding>,
        decisions: Decisions,
    ) -> Result<(), GuestError> {
        // What fails for one copy is tried again at the next look and holds up no other.
        let mut first = None;
        for (placement, request, lease) in &decisions.raised {
            first = first.or(self.raise(placement, request, *lease, scene).await.err());
        }
        match self.confine(home, scene, holdings, &decisions.born).await {
            // Nothing new begins in a namespace that does not confine it.
            Err(error) => first = first.or(Some(error)),
            Ok(()) => {
                for birth in decisions.born {
                    first = first.or(self.bear(home, scene, birth).await.err());
                }
            }
        }
        for (_, holding) in Self::holding(holdings, home) {
            for placement in &holding.placements {
                if decisions.raised.iter().any(|(raised, _, _)| raised.name_any() == placement.name_any()) {
                    continue;
                }
                let end = decisions.ended.get(&placement.name_any());
                first = first.or(self.attend(scene, holding, placement, end).await.err());
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// The list was carried out: it renews everything that it names.
    async fn done(&mut self, home: &MemberId, scene: &Scene, rules: &Rules, list: &List) -> Result<(), GuestError> {
        let memory = self.memory.entry(home.clone()).or_default();
        let news = memory.done != Some(list.id);
        memory.done = Some(list.id);
        if home != &scene.me && news {
            self.renewals.renewed(home, list.heard, rules.parameters().lease_seconds, scene.now).await?;
        }
        Ok(())
    }

    /// Gives back what is reserved and neither runs nor is asked for: the operator was killed before it wrote a Placement
    /// and the home has thought again, somebody deleted a Placement, or two operators reserved at once.
    async fn unclaimed(
        &mut self,
        home: &MemberId,
        scene: &Scene,
        list: Option<&List>,
        holdings: &BTreeMap<ReplicaKey, Holding>,
    ) -> Result<(), GuestError> {
        // A cache that lags may not show the Placement yet. A home that is not heard may still ask for what was granted,
        // for as long as a grant lasts that is never renewed.
        let lease = scene.rules.as_ref().map_or(Seconds(0), |rules| rules.parameters().lease_seconds);
        let silent = Duration::from_secs(u64::try_from(lease.0).unwrap_or(0)).max(LAG);
        let mut unclaimed = BTreeMap::new();
        for (key, holding) in Self::holding(holdings, home) {
            let runs_on = holding.live().and_then(|live| node_of(live));
            for (node, held) in &holding.reserved {
                let patience = match (&runs_on, list) {
                    (Some(runs_on), _) if runs_on == node => continue,
                    (Some(_), _) => LAG,
                    (None, _) if holding.live().is_some() => continue,
                    (None, Some(list)) => {
                        let asked = |request: &Request| {
                            request.job.uid == key.job && request.replica == key.replica && request.epoch == held.epoch
                        };
                        if list.requests.requests.iter().any(asked) {
                            continue;
                        }
                        LAG
                    }
                    (None, None) => silent,
                };
                unclaimed.insert((node.clone(), key.clone(), held.epoch), patience);
            }
        }
        let memory = self.memory.entry(home.clone()).or_default();
        memory.unclaimed.retain(|held, _| unclaimed.contains_key(held));
        let mut due = Vec::new();
        for (held, patience) in unclaimed {
            let since = *memory.unclaimed.entry(held.clone()).or_insert(scene.now.monotonic);
            if scene.now.monotonic.saturating_sub(since) >= patience {
                due.push(held);
            }
        }
        for (node, key, epoch) in due {
            if self.realiser.pods_on(&key, &node, home == &scene.me).await? > 0 {
                continue;
            }
            match self.reservations.release(&node, &key, epoch).await {
                Ok(true) => tracing::info!(replica = %key, %epoch, %node, "gave back what nobody asks for"),
                Ok(false)
                | Err(ReservationError::Contended(_) | ReservationError::NoNode | ReservationError::Refused(_)) => {}
                Err(ReservationError::Store(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Why a copy ends whatever its home's list says.
fn end_of(home: &MemberId, scene: &Scene, placement: &Placement, lease: Option<LeaseState>) -> Option<End> {
    let foreign = home != &scene.me;
    if foreign && scene.guests() == GuestsMode::Stop {
        return Some(End::new(
            RefusalReason::GuestsNotAccepted,
            "the owner stopped all foreign work (guests.mode: Stop)",
        ));
    }
    if foreign && scene.ending {
        return Some(End::new(RefusalReason::GuestsNotAccepted, "this cluster leaves the cooperative"));
    }
    if let Some(end) = reclaim::due(placement, scene) {
        return Some(end);
    }
    // What a device that failed takes along is others' work: the owner's own it may use as it likes.
    if let Some(end) = scene.sick.end_of(placement).filter(|_| foreign) {
        return Some(end);
    }
    if let Some(LeaseState::Lapsed { since }) = lease {
        let ago = scene.now.unix.since(since);
        return Some(End::new(
            RefusalReason::LeaseLapsed,
            format!("its home did not renew it; the lease lapsed {ago} s ago"),
        ));
    }
    let rules = scene.rules.as_ref()?;
    let notice = scene.survey.notice(placement).unwrap_or(Seconds(0));
    if foreign && let Some(end) = halted(home, rules, notice) {
        return Some(end);
    }
    let local = !foreign && placement.namespace().as_deref() == Some(placement.spec.job.namespace.as_str());
    if local {
        return None;
    }
    let digest = placement.spec.model.manifest_digest.parse().ok()?;
    if let Some((reason, why)) = rules.outside(home, &digest).filter(|_| foreign) {
        return Some(End::new(reason, why));
    }
    if rules.denied(&digest) {
        return Some(End::new(RefusalReason::DeniedByOwner, format!("the owner denies release {digest}")));
    }
    if !matches!(rules.approval(&digest), Approval::Enacted(_)) {
        return Some(End::new(RefusalReason::NotApproved, format!("release {digest} was withdrawn")));
    }
    let engine = placement.spec.engine.name.as_str();
    if !rules.engines().keys().any(|name| name.as_str() == engine) {
        return Some(End::new(
            RefusalReason::EngineNotApproved,
            format!("engine {engine} was removed from the catalogue"),
        ));
    }
    None
}

/// Why a foreign copy ends because its home or this member may not work. Calls end with the decision, so the GPUs are free as
/// soon as those in flight are answered. A proof is no decision: what runs then gets the `notice` of its pool.
fn halted(home: &MemberId, rules: &Rules, notice: Seconds) -> Option<End> {
    let ends = |member: &MemberId| {
        let due = rules.quarantined_for(member).is_some_and(|known| known >= notice);
        rules.halted(member).filter(|halted| due || halted.ends_what_runs())
    };
    if let Some(halted) = ends(home) {
        let reason = if halted.is_gone() { RefusalReason::HomeNotActive } else { RefusalReason::HomeHalted };
        return Some(End::new(reason, format!("{home} {halted}")));
    }
    let halted = ends(rules.me())?;
    Some(End::new(RefusalReason::HostHalted, format!("this member {halted}")))
}

#[cfg(test)]
#[path = "placement_host_home_tests.rs"]
mod tests;
