//! `InferenceJob`: from a team's wish to copies at hosts.
//!
//! ```text
//! job ─▶ check ─▶ replicas ─▶ core::placement::home::next ─▶ steps ─▶ Placements (Home) ─▶ lists of requests
//!          ▲                        ▲                          │
//!      catalogue,            grants, liveness                  └─▶ planner for a new copy
//!      releases
//! ```
//!
//! A look at all jobs never depends on why it was woken. Every status is written in the version that was read, so that a
//! look at a lagging cache changes nothing; a new epoch is the name of a new object, so that two looks mint it once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use koinon_api::conditions::{self, Change, ConditionType};
use koinon_api::inference_job::Scope;
use koinon_api::placement::{PlacementState, Side};
use koinon_api::{InferenceJob, Placement, labels};
use koinon_core::ids::{Bytes, MemberId, ObjectUid};
use kube::api::Api;
use kube::{Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::inferencejob_check::{self as check, Surroundings};
use super::inferencejob_replicas::{self as replicas, Outcome, Turn};
use super::inferencejob_room::Asked;
use super::inferencejob_status::{self as status, Picture};
use super::placement_home::Now;
use crate::challenges;
use crate::context::{Context, WindUp};
use crate::events::Severity;
use crate::peers::PeersSnapshot;
use crate::placement::metrics::{JobState, Part, PlacementMetrics};
use crate::placement::own::Own;
use crate::placement::publish::{self, Published};
use crate::placement::refusals::Refusals;
use crate::placement::rules::Rules;
use crate::placement::stores::Stores;
use crate::placement::wake::Bell;
use crate::placement::writer::{WriteError, Writer};

/// Without any change everything is looked at this often: leases are renewed, deadlines pass.
const EVERY: Duration = Duration::from_secs(2);
/// Jobs that are worked on at a time: a slow write for one must not hold up the others.
const AT_ONCE: usize = 8;

/// The controller of jobs.
#[derive(Debug)]
pub struct Jobs {
    pub(super) ctx: Context,
    pub(super) stores: Stores,
    pub(super) own: Own,
    pub(super) writer: Writer,
    pub(super) metrics: PlacementMetrics,
    pub(super) refusals: Mutex<Refusals>,
}

/// What one look at all jobs rests on.
#[derive(Debug)]
pub struct Look {
    /// What was decided; `None` while this cluster belongs to no cooperative.
    pub rules: Option<Rules>,
    /// What is heard.
    pub peers: Arc<PeersSnapshot>,
    /// When it is.
    pub now: Now,
    /// Whether everything is wound up.
    pub ending: bool,
    /// How much each host is asked for.
    pub asked: Asked,
}

impl Jobs {
    /// A controller over `stores`.
    #[must_use]
    pub fn new(ctx: Context, stores: Stores, own: Own, metrics: PlacementMetrics) -> Self {
        let writer = Writer::new(&ctx, "inferencejob");
        Self { ctx, stores, own, writer, metrics, refusals: Mutex::default() }
    }

    /// Follows jobs until `stop`.
    ///
    /// # Errors
    /// Never; what fails is tried again.
    pub async fn run(self, bell: Bell, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = self.stores.synced() => {}
        }
        loop {
            self.look().await;
            if !bell.wait(EVERY, &stop).await {
                return Ok(());
            }
        }
    }

    async fn look(&self) {
        let (jobs, placements) = (self.stores.jobs.all(), self.stores.placements.all());
        let look = Look {
            rules: Rules::now(&self.ctx),
            peers: self.ctx.peers.borrow().clone(),
            now: Now { unix: self.ctx.clock.unix(), monotonic: self.ctx.clock.monotonic() },
            ending: self.ctx.ending.requested(),
            asked: Asked::of(&placements),
        };
        let known: BTreeSet<ObjectUid> = jobs.iter().filter_map(|job| job.uid()?.parse().ok()).collect();
        self.refusals().retain(|job| known.contains(job));
        let copies = by_job(&placements);
        let done: Vec<(Arc<InferenceJob>, Result<Reconciled, WriteError>)> = futures::stream::iter(jobs.clone())
            .map(|job| {
                let (look, jobs, copies) = (&look, &jobs, copies.get(job.uid().as_deref().unwrap_or_default()));
                async move {
                    let done = self.reconcile(&job, look, jobs, copies.map_or(&[], Vec::as_slice)).await;
                    (job, done)
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut states = Vec::new();
        let mut leaving = Vec::new();
        for (job, done) in done {
            match done {
                Ok(reconciled) => {
                    states.push(reconciled.state);
                    leaving.extend(reconciled.leaves.then_some(job));
                }
                Err(error) => self.report(&job, &error),
            }
        }
        self.metrics.jobs(&states);
        let home = placements.iter().filter(|placement| placement.spec.side == Side::Home);
        self.metrics.placements(Side::Home, home.map(|placement| state_of(placement)));
        self.publish(&look, &leaving).await;
    }

    /// Says to every host what is asked of it, and then lets go of what was waiting for that.
    async fn publish(&self, look: &Look, leaving: &[Arc<InferenceJob>]) {
        let Some(rules) = &look.rules else {
            // Without a membership nobody is told anything, and nobody waits for it.
            for job in leaving {
                self.let_go(job).await;
            }
            let renewed = |placement: &Arc<Placement>| {
                placement.spec.side == Side::Home && super::placement_home::renewal_stopped(placement).is_none()
            };
            self.ctx.ending.report(WindUp::Placements, !self.stores.placements.all().iter().any(renewed));
            return;
        };
        match publish::requests(&self.ctx, rules, &self.own, &self.local_jobs()).await {
            Ok(Published { asked }) => {
                for job in leaving {
                    self.let_go(job).await;
                }
                self.ctx.ending.report(WindUp::Placements, look.ending && asked == 0);
            }
            Err(error) => {
                self.metrics.failed(Part::Jobs);
                tracing::warn!(%error, "the lists of requests could not be published; the former ones run on");
            }
        }
    }

    fn local_jobs(&self) -> BTreeSet<ObjectUid> {
        let local = |job: &&Arc<InferenceJob>| job.spec.placement.scope == Scope::Local;
        self.stores.jobs.all().iter().filter(local).filter_map(|job| job.uid()?.parse().ok()).collect()
    }

    async fn reconcile(
        &self,
        job: &Arc<InferenceJob>,
        look: &Look,
        jobs: &[Arc<InferenceJob>],
        copies: &[Arc<Placement>],
    ) -> Result<Reconciled, WriteError> {
        let namespace = job.namespace().unwrap_or_default();
        let around = Surroundings {
            namespace_allowed: self.namespace_allowed(&namespace) || self.is_challenge(job, look),
            namesake: check::namesake(job, jobs.iter().map(|other| &**other)),
            decided: look.rules.as_ref().map(|rules| &*rules.view().state),
            smallest_memory: self.smallest_memory(&job.spec.gpu.class, look),
            owner: look.rules.as_ref().and_then(|rules| rules.owner().cloned()),
            now: look.now.unix,
        };
        let checked = check::check(job, &around);
        let deleting = job.metadata.deletion_timestamp.is_some();
        let Some(rules) = &look.rules else {
            // While the membership is being read nothing is known to have changed.
            let none = BTreeMap::new();
            let next = status::status(job, &Picture { checked: &checked, copies: &[], unplaced: &none }, look.now);
            if job.status.is_none() {
                self.write_status(job, next.clone()).await?;
            }
            let state = status::state(job.status.as_ref().unwrap_or(&next));
            return Ok(Reconciled { state, leaves: deleting });
        };
        let held = job.finalizers().iter().any(|finalizer| finalizer == labels::FINALIZER);
        if !deleting && checked.work.is_some() && !held {
            self.hold(job).await?;
            // The object has a new version now; the next look has it.
            return Ok(Reconciled { state: JobState::Unplaced, leaves: false });
        }
        let turn =
            Turn { jobs: self, job, look, rules, work: checked.work.as_ref(), wanted: !deleting && !look.ending };
        let Outcome { shown, unplaced, forget, renewing } = replicas::turn(&turn, copies).await?;
        let picture = Picture { checked: &checked, copies: &shown, unplaced: &unplaced };
        let next = status::status(job, &picture, look.now);
        let state = status::state(&next);
        self.write_status(job, next).await?;
        // Only now: the status remembers the epochs of what is deleted here.
        let api = Api::<Placement>::namespaced(self.ctx.client.clone(), &namespace);
        for placement in forget {
            self.writer.delete(&api, placement.as_ref()).await?;
        }
        Ok(Reconciled { state, leaves: deleting && held && renewing == 0 })
    }

    async fn write_status(
        &self,
        job: &InferenceJob,
        next: koinon_api::inference_job::InferenceJobStatus,
    ) -> Result<(), WriteError> {
        if job.status.as_ref().is_some_and(|said| conditions::same_ignoring_times(said, &next)) {
            return Ok(());
        }
        let before = job.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
        for type_ in [
            ConditionType::Accepted,
            ConditionType::Approved,
            ConditionType::Placed,
            ConditionType::Reclaiming,
            ConditionType::Ready,
        ] {
            self.tell(job, &before, &next.conditions, type_);
        }
        let api = Api::<InferenceJob>::namespaced(self.ctx.client.clone(), &job.namespace().unwrap_or_default());
        self.writer.replace_status(&api, &InferenceJob { status: Some(next), ..job.clone() }).await.map(|_| ())
    }

    /// An event for a condition that changed, or whose reason did.
    pub(super) fn tell<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        before: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
        after: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
        type_: ConditionType,
    ) {
        let Some(now) = conditions::find(after, type_) else { return };
        let old = conditions::find(before, type_);
        let change = match old {
            Some(old) if old.status == now.status && old.reason == now.reason => Change::None,
            _ => Change::Transition,
        };
        let Ok(reason) = now.reason.parse() else { return };
        if change == Change::Transition {
            let severity = Severity::of_condition(now);
            self.ctx.events.tell(object.object_ref(&()), severity, reason, now.message.clone());
        }
    }

    async fn hold(&self, job: &InferenceJob) -> Result<(), WriteError> {
        let mut held = job.clone();
        held.finalizers_mut().push(labels::FINALIZER.to_owned());
        self.replace(held).await
    }

    /// The hosts were told; the job may go, whether they have heard it or not.
    async fn let_go(&self, job: &InferenceJob) {
        let mut free = job.clone();
        free.finalizers_mut().retain(|finalizer| finalizer != labels::FINALIZER);
        match self.replace(free).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => self.report(job, &error),
            _ => {}
        }
    }

    async fn replace(&self, job: InferenceJob) -> Result<(), WriteError> {
        let api = Api::<InferenceJob>::namespaced(self.ctx.client.clone(), &job.namespace().unwrap_or_default());
        self.writer.replace(&api, &job).await.map(|_| ())
    }

    fn namespace_allowed(&self, name: &str) -> bool {
        let namespace = self.stores.namespaces.get("", name);
        namespace
            .is_some_and(|namespace| namespace.labels().get(labels::JOBS).is_some_and(|v| v == labels::JOBS_ALLOWED))
    }

    /// A challenge runs at another member alone, so the namespace that it is kept in runs nothing.
    fn is_challenge(&self, job: &InferenceJob, look: &Look) -> bool {
        let Some(rules) = &look.rules else { return false };
        let voted = rules.view().state.norms().placement.challenges.as_ref();
        challenges::job::is_challenge(job, &self.ctx.namespace, rules.me().as_str(), voted)
    }

    fn smallest_memory(&self, class: &str, look: &Look) -> Option<Bytes> {
        let current = look.peers.members.values().filter_map(|peer| peer.offer.as_ref());
        let theirs = current.filter(|offer| offer.is_current(look.now.monotonic)).map(|offer| offer.body.clone());
        let ours = self.own.offer.borrow().as_ref().map(|own| own.offer.clone());
        let offers: Vec<_> = theirs.chain(ours).collect();
        check::smallest_memory(class, offers.iter().map(|offer| &**offer))
    }

    fn report(&self, job: &InferenceJob, error: &WriteError) {
        if error.is_conflict() {
            // Somebody wrote in between; the next look sees it.
            tracing::debug!(job = %job.name_any(), %error, "looked at an older version");
            return;
        }
        self.metrics.failed(Part::Jobs);
        let namespace = job.namespace().unwrap_or_default();
        tracing::warn!(%namespace, job = %job.name_any(), %error, "a job is looked at again");
    }

    pub(super) fn refusals(&self) -> std::sync::MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this cluster says about its own copies, with when it said so.
    pub(super) fn own_grants(&self) -> Option<crate::placement::own::OwnGrants> {
        self.own.grants.borrow().clone()
    }

    /// The gateways of a member, for copies of which no grant names one.
    pub(super) fn gateway_of(rules: &Rules, host: &MemberId) -> Option<String> {
        let member = rules.view().state.member(host)?;
        member.member.endpoints.gateway.first().map(ToString::to_string)
    }
}

#[derive(Debug)]
struct Reconciled {
    state: JobState,
    /// It is being deleted and nothing of it is asked for any more: it goes once that is published.
    leaves: bool,
}

fn by_job(placements: &[Arc<Placement>]) -> BTreeMap<String, Vec<Arc<Placement>>> {
    let mut copies: BTreeMap<String, Vec<Arc<Placement>>> = BTreeMap::new();
    for placement in placements.iter().filter(|placement| placement.spec.side == Side::Home) {
        // Beside its job, or it is no copy of it.
        if placement.namespace().as_deref() == Some(placement.spec.job.namespace.as_str()) {
            copies.entry(placement.spec.job.uid.clone()).or_default().push(placement.clone());
        }
    }
    copies
}

fn state_of(placement: &Placement) -> PlacementState {
    placement.status.as_ref().and_then(|status| status.state).unwrap_or_default()
}
