//! The life of a copy at its host: born from a reservation, attended to, raised to a higher epoch, ended, released.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use koinon_api::conditions::{self, ConditionType};
use koinon_api::gpu_pool::{GpuAccess, PoolPod};
use koinon_api::placement::{PlacedNode, PlacementSpec, PlacementStatus, Side};
use koinon_api::reclaim::node_of;
use koinon_api::{Placement, labels, names};
use koinon_core::body::latest::{RefusalReason, Request};
use koinon_core::ids::{MemberId, NodeName, Seconds, StatementId};
use koinon_core::placement::ReplicaKey;
use kube::api::Api;
use kube::{Resource, ResourceExt};

use super::placement_host::{GuestError, Guests, Scene};
use super::placement_host_judge::{Allowed, Refused};
use super::placement_host_list::{self as list, Holding};
use super::placement_host_reclaim as reclaim;
use super::placement_host_state::{self as state, End, Facts, Progress};
use crate::events::Severity;
use crate::placement::inventory::node::Product;
use crate::placement::lean;
use crate::placement::reader::read;
use crate::placement::reservations::ReservationError;
use crate::render::guest::Granted;
use crate::render::workload::Scale;
use crate::render::{HostSettings, RenderError, ValidatedPlacement, claim, pod};

/// A Placement is kept for people to see for this long after it has ended.
const KEEP_RELEASED: Seconds = Seconds(300);
/// The same where the membership ends: for its home to hear of it. Nobody would take it away later.
const KEEP_LAST: Seconds = Seconds(10);
/// A pod that is not there after this long has been refused by somebody.
const POD_DUE: Duration = Duration::from_secs(3);

/// A granted request that has no Placement yet.
#[derive(Clone, Debug)]
pub struct Birth {
    /// Which replica.
    pub key: ReplicaKey,
    /// What was asked.
    pub request: Request,
    /// Where its GPUs are reserved.
    pub node: NodeName,
    /// What the scheduler knows that node by.
    pub hostname: String,
    /// What the rules made of it.
    pub allowed: Allowed,
    /// What the pool's nodes demand of pods.
    pub pod: PoolPod,
    /// What the devices of its class are on that node.
    pub product: Option<Product>,
    /// Whether it runs in its team's namespace.
    pub local: bool,
    /// The statement that asked.
    pub asked_in: StatementId,
}

impl Birth {
    fn placement(&self, me: &MemberId, settings: &HostSettings) -> Result<Placement, RenderError> {
        let guest = names::guest_namespace(self.key.home.as_str());
        let namespace = if self.local { self.request.job.namespace.to_string() } else { guest };
        let validated = ValidatedPlacement {
            replica: self.key.clone(),
            epoch: self.request.epoch,
            namespace: namespace
                .parse()
                .map_err(|error: koinon_core::ids::IdError| RenderError::Json(error.to_string()))?,
            served_name: self.request.served_name.clone(),
            model: self.allowed.model.clone(),
            model_bytes: self.allowed.model_bytes,
            engine: self.allowed.engine.clone(),
            options: self.request.engine.options.clone(),
            max_model_len: self.request.max_model_len,
            max_concurrency: self.request.max_concurrency,
            gpu: self.request.gpu.clone(),
            node: self
                .hostname
                .parse()
                .map_err(|error: koinon_core::ids::IdError| RenderError::Json(error.to_string()))?,
        };
        let template = pod::text(&pod::template(&validated, settings)?)?;
        let claim = claim::granted(&validated, settings, self.product.as_ref())?;
        let asked = Request { lease_seconds: self.allowed.lease, ..self.request.clone() };
        let mut spec = PlacementSpec::of(&asked, Side::Host, self.key.home.as_str(), me.as_str())
            .map_err(|error| RenderError::Json(error.to_string()))?;
        spec.request = Some(self.asked_in.to_string());
        spec.template = Some(template);
        spec.claim = claim.as_ref().map(claim::text).transpose()?;
        let mut placement = Placement::new(&validated.name(), spec);
        placement.metadata.namespace = Some(namespace);
        placement.metadata.annotations = Some(BTreeMap::from([(labels::NODE.to_owned(), self.node.to_string())]));
        placement.metadata.labels = Some(
            [
                (labels::JOB_UID, self.key.job.to_string()),
                (labels::REPLICA, self.key.replica.0.to_string()),
                ("app.kubernetes.io/managed-by", crate::render::MANAGED_BY.to_owned()),
            ]
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
        );
        Ok(placement)
    }
}

impl Guests {
    /// Makes sure that the home's namespace stands and holds no more than what is granted.
    pub(super) async fn confine(
        &mut self,
        home: &MemberId,
        scene: &Scene,
        holdings: &BTreeMap<ReplicaKey, Holding>,
        born: &[Birth],
    ) -> Result<(), GuestError> {
        let guest = names::guest_namespace(home.as_str());
        let mut granted = Granted::default();
        // Without a figure a resource would not be limited at all.
        for pool in self.stores.pools.all() {
            granted.gpus.insert(pool.spec.pod.gpus().quota_key(), 0);
        }
        granted.gpus.entry(GpuAccess::Resource(labels::GPU_RESOURCE).quota_key()).or_insert(0);
        let mut any = false;
        let mut add = |key: String, gpus: u32| {
            granted.placements = granted.placements.saturating_add(1);
            let sum = granted.gpus.entry(key).or_insert(0);
            *sum = sum.saturating_add(gpus);
        };
        for (_, holding) in Self::holding(holdings, home) {
            for placement in holding.placements.iter().filter(|one| one.namespace().as_deref() == Some(guest.as_str()))
            {
                any = true;
                // The objects of one that is over stand for as long as it is shown; its GPUs are free.
                let over = list::is_over(placement);
                let gpus = if over { 0 } else { u32::try_from(placement.spec.gpu.count).unwrap_or(0) };
                add(quota_key(placement), gpus);
            }
        }
        for birth in born.iter().filter(|birth| !birth.local) {
            any = true;
            add(birth.pod.gpus().quota_key(), birth.request.gpu.count);
        }
        if any {
            self.realiser.confine(home, &granted, scene.now).await?;
        }
        Ok(())
    }

    /// Writes down what was reserved and granted.
    pub(super) async fn bear(&mut self, home: &MemberId, scene: &Scene, birth: Birth) -> Result<(), GuestError> {
        let settings = self.realiser.settings(&scene.spec, birth.pod.clone(), scene.now).await?;
        let placement = match birth.placement(&scene.me, &settings) {
            Ok(placement) => placement,
            Err(error) => {
                let reason = match error {
                    RenderError::Catalogue(_) => RefusalReason::EngineNotApproved,
                    _ => RefusalReason::InvalidRequest,
                };
                return self.stillborn(home, birth, reason, error.to_string()).await;
            }
        };
        let api = Api::<Placement>::namespaced(self.ctx.client.clone(), &placement.namespace().unwrap_or_default());
        let created = match self.writer.create(&api, &placement).await {
            Ok(created) => created,
            Err(error) if error.is_conflict() => {
                let there = read("a Placement", api.get_opt(&placement.name_any())).await?;
                // Another operator of ours, or this one before it was killed; or another job whose UID begins alike.
                if there.is_some_and(|there| there.spec.job.uid != birth.key.job.as_str()) {
                    let why = "another job's Placement has this name".to_owned();
                    return self.stillborn(home, birth, RefusalReason::InvalidRequest, why).await;
                }
                return Ok(());
            }
            Err(error) => {
                return match error.refusal() {
                    Some(why) => {
                        let why = why.to_owned();
                        self.stillborn(home, birth, RefusalReason::InvalidRequest, why).await
                    }
                    None => Err(error.into()),
                };
            }
        };
        let lease = Seconds(created.spec.lease.seconds.into());
        let mut status = state::granted(None, lease, created.metadata.generation, scene.now);
        status.nodes = vec![PlacedNode { node: birth.node.to_string(), gpus: created.spec.gpu.count }];
        self.write(&created, status).await
    }

    /// What was reserved cannot become a Placement: it is given back and refused after all.
    async fn stillborn(
        &mut self,
        home: &MemberId,
        birth: Birth,
        reason: RefusalReason,
        why: String,
    ) -> Result<(), GuestError> {
        match self.reservations.release(&birth.node, &birth.key, birth.request.epoch).await {
            Err(ReservationError::Store(error)) => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
        let refused = Refused { reason, numbers: BTreeMap::new(), message: why };
        self.refuse(home, birth.key, &birth.request, refused);
        Ok(())
    }

    /// The running copy becomes a higher epoch's: the reservation is taken over already.
    pub(super) async fn raise(
        &self,
        placement: &Arc<Placement>,
        request: &Request,
        lease: Seconds,
        scene: &Scene,
    ) -> Result<(), GuestError> {
        let api = Api::<Placement>::namespaced(self.ctx.client.clone(), &placement.namespace().unwrap_or_default());
        let mut raised = placement.as_ref().clone();
        raised.spec.epoch = i64::try_from(request.epoch.0).unwrap_or(i64::MAX);
        raised.spec.lease.seconds = i32::try_from(lease.0).unwrap_or(i32::MAX);
        raised.spec.lease.on_partition = request.on_partition.into();
        let raised = self.writer.replace(&api, &raised).await?;
        let status = state::granted(raised.status.as_ref(), lease, raised.metadata.generation, scene.now);
        self.write(&raised, status).await
    }

    /// Does for one Placement what is due now.
    pub(super) async fn attend(
        &mut self,
        scene: &Scene,
        holding: &Holding,
        placement: &Arc<Placement>,
        end: Option<&End>,
    ) -> Result<(), GuestError> {
        if list::is_over(placement) {
            return self.bury(scene, placement).await;
        }
        if list::is_ending(placement) {
            return self.wind_down(scene, holding, placement).await;
        }
        if let Some(end) = end {
            return self.write(placement, state::ended(placement, end, scene.now)).await;
        }
        let Some(template) = template(placement) else {
            let end = End::new(RefusalReason::InvalidRequest, "its template cannot be read by this version");
            return self.write(placement, state::ended(placement, &end, scene.now)).await;
        };
        if placement.status.as_ref().and_then(state::granted_at).is_none() {
            // Killed between the Placement and its status.
            let lease = Seconds(placement.spec.lease.seconds.into());
            let status = state::granted(placement.status.as_ref(), lease, placement.metadata.generation, scene.now);
            return self.write(placement, status).await;
        }
        let gateway = self.realiser.serve(placement, scene.now).await?;
        let weights = self.realiser.weights(placement, &scene.spec, scene.now).await;
        let (namespace, name) = (placement.namespace().unwrap_or_default(), placement.name_any());
        let all = self.stores.pods.all();
        let of_copy = |pod: &&Arc<lean::Pod>| *pod.namespace == *namespace && pod.placement.as_deref() == Some(&name);
        let pods: Vec<&Pod> = all.iter().filter(of_copy).filter_map(|pod| pod.copy.as_deref()).collect();
        let complete = matches!(weights, Some(crate::placement::weights::Weights::Ready { .. }));
        // What ran before this operator started runs on, whatever the cache has forgotten since.
        if complete || !pods.is_empty() {
            self.realiser.deploy(placement, template, Scale::Up, scene.now).await?;
        }
        let deployed = self.realiser.deployed(placement, scene.now);
        let refused = match deployed {
            Some(since) if pods.is_empty() && since >= POD_DUE => self.realiser.refusal(placement).await?,
            _ => None,
        };
        let facts = Facts {
            weights: weights.as_ref(),
            failing: self.realiser.failing(placement, scene.now),
            pods: &pods,
            refused: refused.as_deref(),
            started: deployed.is_some(),
        };
        let progress = state::progress(placement, &facts);
        if let Progress::Failed(end) = &progress {
            tracing::warn!(placement = %name, reason = %end.reason, why = %end.message, "a copy failed");
        }
        let mut next = state::running(placement, &progress, gateway, scene.now);
        if !matches!(progress, Progress::Failed(_)) {
            let announced = reclaim::announced(placement, scene);
            state::announce(&mut next, announced.as_ref(), placement.metadata.generation, scene.now);
        }
        self.write(placement, next).await
    }

    /// Frees the GPUs of a copy that ends: first its pods, then the reservation.
    async fn wind_down(
        &mut self,
        scene: &Scene,
        holding: &Holding,
        placement: &Arc<Placement>,
    ) -> Result<(), GuestError> {
        let Some(status) = placement.status.as_ref().filter(|status| state::drained(status, scene.now)) else {
            return Ok(());
        };
        // Without a template nothing was ever deployed from it.
        if let Some(template) = template(placement) {
            self.realiser.deploy(placement, template, Scale::Down, scene.now).await?;
        }
        if self.realiser.pods_left(placement).await? > 0 {
            return Ok(());
        }
        if let (Some(key), Some(node)) = (list::key(placement), node_of(placement)) {
            let epochs = holding.reserved.iter().filter(|(on, _)| *on == node).map(|(_, held)| held.epoch);
            for epoch in epochs.collect::<Vec<_>>() {
                match self.reservations.release(&node, &key, epoch).await {
                    Ok(_) => {}
                    Err(ReservationError::Store(error)) => return Err(error.into()),
                    // Another writer was faster; the next look releases.
                    Err(_) => return Ok(()),
                }
            }
        }
        tracing::info!(placement = %placement.name_any(), reason = ?status.reason, "released");
        self.write(placement, state::released(placement, scene.now)).await?;
        self.metrics.reclaim.released(placement, scene.survey.notice(placement), scene.now.unix);
        Ok(())
    }

    async fn bury(&mut self, scene: &Scene, placement: &Arc<Placement>) -> Result<(), GuestError> {
        let released = state::released_at(placement);
        let keep = if scene.ending { KEEP_LAST } else { KEEP_RELEASED };
        if released.is_some_and(|released| scene.now.unix.since(released) < keep) {
            return Ok(());
        }
        let api = Api::<Placement>::namespaced(self.ctx.client.clone(), &placement.namespace().unwrap_or_default());
        self.writer.delete(&api, placement.as_ref()).await?;
        self.realiser.forget(placement);
        Ok(())
    }

    /// Writes a status if it says something new, with the events that go with it.
    async fn write(&self, placement: &Placement, next: PlacementStatus) -> Result<(), GuestError> {
        if placement.status.as_ref().is_some_and(|said| conditions::same_ignoring_times(said, &next)) {
            return Ok(());
        }
        let api = Api::<Placement>::namespaced(self.ctx.client.clone(), &placement.namespace().unwrap_or_default());
        let object = Placement { status: Some(next.clone()), ..placement.clone() };
        match self.writer.replace_status(&api, &object).await {
            Ok(_) => {}
            // Somebody deleted it; what it held is found by its reservation.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let before = placement.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
        for type_ in [
            ConditionType::Granted,
            ConditionType::Loaded,
            ConditionType::Ready,
            ConditionType::Reclaiming,
            ConditionType::Released,
        ] {
            self.announce(placement, &before, &next, type_);
        }
        Ok(())
    }

    fn announce(
        &self,
        placement: &Placement,
        before: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
        next: &PlacementStatus,
        type_: ConditionType,
    ) {
        let Some(now) = conditions::find(&next.conditions, type_) else { return };
        let same =
            conditions::find(before, type_).is_some_and(|old| old.status == now.status && old.reason == now.reason);
        let Ok(reason) = now.reason.parse() else { return };
        if !same {
            let severity = Severity::of_condition(now);
            self.ctx.events.tell(placement.object_ref(&()), severity, reason, now.message.clone());
        }
    }
}

/// The pod template as it was granted.
fn template(placement: &Placement) -> Option<PodTemplateSpec> {
    serde_json::from_str(placement.spec.template.as_ref()?).ok()
}

/// What the quota calls a copy's GPUs, from what was granted.
fn quota_key(placement: &Placement) -> String {
    if let Some(class) = claim::of(placement).as_ref().and_then(claim::class) {
        return GpuAccess::DeviceClass(class).quota_key();
    }
    let template = template(placement).and_then(|template| template.spec);
    let requests =
        template.and_then(|spec| spec.containers.into_iter().next()?.resources?.requests).unwrap_or_default();
    let gpu = requests.into_keys().find(|resource| resource.contains('/'));
    GpuAccess::Resource(gpu.as_deref().unwrap_or(labels::GPU_RESOURCE)).quota_key()
}
