//! The commons side of a term: the key, the one `Cooperative` that counts, its session, and what is shown of it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use koinon_api::conditions::Reason;
use koinon_api::cooperative::CooperativeSpec;
use koinon_api::{Cooperative, Statement, labels};
use koinon_core::ids::{PublicKey, UnixSeconds};
use koinon_core::kind::{Kind, Place};
use koinon_core::recovery::CloneVerdict;
use koinon_telemetry::{TaskError, Tasks};
use kube::ResourceExt;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::candidate::{Candidate, Refusal};
use super::desk;
use super::ending::{self, WindingUp};
use super::engine::Controls;
use super::gauges::Gauges;
use super::inputs::{self, Reader};
use super::session::{Running, Session, Stage};
use super::view::{CommonsView, Signing, Standing};
use crate::cache::{self, Cache};
use crate::context::{Context, CooperativeView};
use crate::keys::{KeyStore, OperatorKey};
use crate::kinds::{ballots, cooperative, projections, statement};
use crate::metrics::CommonsPart;
use crate::peers::PeersSnapshot;

/// How often everything is looked at when nothing changes.
const TICK: Duration = Duration::from_secs(1);
/// How often the key's Secret is read while it cannot be used: somebody is about to repair it.
const KEY_AGAIN: Duration = Duration::from_secs(5);
/// How often a leaf that could not be stored is tried again.
const LEAF_AGAIN: i64 = 30;
/// How long, at most, what was published last is still served after everything is wound up.
const LONGEST_LINGER: Duration = Duration::from_secs(10);
/// How long parts may take to end.
const GRACE: Duration = Duration::from_secs(8);

/// What operators write, by the label that they give it: the charter and everything that stands in a log.
fn by_operators() -> Vec<Kind> {
    Kind::known().filter(|kind| *kind == Kind::Charter || kind.place() == Some(Place::Log)).collect()
}

/// Why the commons side ended.
#[derive(Debug, Error)]
pub enum CommonsError {
    /// A part failed.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Runs the commons side for one term.
///
/// # Errors
/// When a part fails.
pub async fn run(
    ctx: Context,
    cooperative: watch::Sender<Option<Arc<CooperativeView>>>,
    peers: watch::Sender<Arc<PeersSnapshot>>,
    stop: CancellationToken,
) -> Result<(), CommonsError> {
    let mut tasks = Tasks::new();
    let invites =
        follow::<Secret>(&ctx, &mut tasks, &stop, "watch of invites", format!("{}={}", labels::INVITE, labels::TRUE));
    // What operators write is labelled with its kind. What people apply has no label, or the one of what they sign.
    let by_operators: Vec<String> = by_operators().iter().map(ToString::to_string).collect();
    let by_people = format!("{} notin ({})", labels::KIND, by_operators.join(","));
    let statements = follow::<Statement>(&ctx, &mut tasks, &stop, "watch of statements", by_people);
    let (running_sender, running) = watch::channel(None);
    let office = Office {
        keys: KeyStore::new(ctx.client.clone(), &ctx.namespace, ctx.lease.clone(), ctx.write_timeout()),
        key: Err(Refusal::new(Reason::Starting, "the operator key is being read")),
        key_due: Duration::ZERO,
        session: None,
        reader: Reader::default(),
        people: watch::Sender::new(Arc::default()),
        controls: watch::Sender::new(Controls::default()),
        invites,
        statements,
        leaf_due: UnixSeconds(0),
        winding_up: WindingUp::default(),
        gauges: Gauges::new(ctx.metrics.clone()),
        cooperative,
        peers,
        running: running_sender,
        view: None,
        ctx: ctx.clone(),
    };
    tasks.spawn("membership", office.work(stop.clone()));
    tasks.spawn("ballots", ballots::run(ctx.clone(), running, stop.clone()));
    tasks.spawn("projections", projections::run(ctx, stop.clone()));
    Ok(tasks.run(stop, GRACE).await?)
}

fn follow<K>(
    ctx: &Context,
    tasks: &mut Tasks,
    stop: &CancellationToken,
    name: &'static str,
    selector: String,
) -> Cache<K>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let (cache, feeder) = cache::cache();
    let api: Api<DeserializeGuard<K>> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let config = watcher::Config::default().labels(&selector);
    let (metrics, stop) = (ctx.metrics.watch(), stop.clone());
    let report = cache::report(cache.clone(), ctx.events.clone(), ctx.lease.clone());
    tasks.spawn(name, async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = cache::follow(api, config, feeder, metrics) => {}
            () = report => {}
        }
        Ok::<(), std::convert::Infallible>(())
    });
    cache
}

/// A session that was begun for one `Cooperative`.
struct Live {
    names: Names,
    stage: watch::Receiver<Stage>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

/// What a session was begun with; another of these is another session.
#[derive(Clone, PartialEq)]
struct Names {
    uid: Option<String>,
    key: PublicKey,
    spec: CooperativeSpec,
}

impl Names {
    fn of(object: &Cooperative, key: PublicKey) -> Self {
        // What the owner changes while the engine runs is no reason to begin anew.
        let spec = CooperativeSpec {
            endpoints: Default::default(),
            guests: Default::default(),
            weights: Default::default(),
            sources: Vec::new(),
            images: Default::default(),
            limits: Default::default(),
            ..object.spec.clone()
        };
        Names { uid: object.uid(), key, spec }
    }
}

struct Office {
    ctx: Context,
    keys: KeyStore,
    key: Result<OperatorKey, Refusal>,
    key_due: Duration,
    session: Option<Live>,
    reader: Reader,
    people: watch::Sender<Arc<Vec<Candidate>>>,
    controls: watch::Sender<Controls>,
    invites: Cache<Secret>,
    statements: Cache<Statement>,
    leaf_due: UnixSeconds,
    winding_up: WindingUp,
    gauges: Gauges,
    cooperative: watch::Sender<Option<Arc<CooperativeView>>>,
    peers: watch::Sender<Arc<PeersSnapshot>>,
    running: watch::Sender<Option<Running>>,
    view: Option<watch::Receiver<Option<Arc<CommonsView>>>>,
}

impl Office {
    async fn work(mut self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        self.ctx.caches.cooperatives.synced().await;
        // Until these have come, "nobody was Lost" would be a guess.
        self.ctx.caches.members.synced().await;
        let mut cooperatives = self.ctx.caches.cooperatives.changes();
        let (mut proposals, mut votes) = (self.ctx.caches.proposals.changes(), self.ctx.caches.votes.changes());
        let (mut invites, mut statements) = (self.invites.changes(), self.statements.changes());
        let mut host = self.ctx.host.subscribe();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.look(&stop).await;
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => {}
                Ok(()) = cooperatives.changed() => {}
                Ok(()) = proposals.changed() => {}
                Ok(()) = votes.changed() => {}
                Ok(()) = invites.changed() => {}
                Ok(()) = statements.changed() => {}
                Ok(()) = host.changed() => {}
                () = changed(self.session.as_mut().map(|live| &mut live.stage)) => {}
                () = changed(self.view.as_mut()) => {}
            }
        }
        self.end_session().await;
        self.gauges.clear();
        Ok(())
    }

    /// One look at everything.
    async fn look(&mut self, stop: &CancellationToken) {
        self.look_at_key().await;
        let all = self.ctx.caches.cooperatives.all();
        let chosen = Cooperative::chosen(&all).cloned();
        let names = chosen.as_ref().and_then(|object| Some(Names::of(object, self.key.as_ref().ok()?.public())));
        if self.session.as_ref().is_some_and(|live| Some(&live.names) != names.as_ref()) {
            self.end_session().await;
        }
        let Some(object) = chosen else {
            self.winding_up = WindingUp::default();
            self.publish(None, None);
            return;
        };
        if let (None, Some(names), Ok(key), true) = (&self.session, names, &self.key, ending::is_spoken_for(&object)) {
            self.session = Some(self.begin(&object, names, key.clone(), stop));
        }
        let view = self.current_view();
        self.tell_engine(&object, view.as_deref());
        self.publish(Some(&object), view.as_deref());
        self.look_at_leaf(view.as_deref()).await;
        self.look_at_object(&object, view.as_deref()).await;
        self.write_status(&all, &object, view.as_deref()).await;
    }

    async fn look_at_key(&mut self) {
        let now = self.ctx.clock.monotonic();
        let settled = matches!(&self.key, Ok(key) if key.clone.may_sign());
        if settled || now < self.key_due {
            return;
        }
        self.key_due = now + KEY_AGAIN;
        match self.keys.ensure().await {
            Ok(key) => self.key = Ok(key),
            Err(error) => {
                let message = koinon_net::client::one_line(&error);
                self.ctx.metrics.commons_failed(CommonsPart::Key);
                tracing::warn!(%message, "there is no operator key to use");
                // One that was read stays in use: an API server that does not answer takes no key away.
                if self.key.is_err() {
                    self.key = Err(Refusal::new(Reason::KeyMissing, message));
                }
            }
        }
    }

    fn begin(&self, object: &Cooperative, names: Names, key: OperatorKey, stop: &CancellationToken) -> Live {
        let (stage_sender, stage) = watch::channel(Stage::Starting);
        let stop = stop.child_token();
        let session = Session {
            ctx: self.ctx.clone(),
            key,
            spec: object.spec.clone(),
            people: self.people.subscribe(),
            controls: self.controls.subscribe(),
            stage: stage_sender,
            peers: self.peers.clone(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(session.run(stop.clone())));
        Live { names, stage, stop, task }
    }

    async fn end_session(&mut self) {
        self.view = None;
        if let Some(live) = self.session.take() {
            live.stop.cancel();
            if tokio::time::timeout(GRACE, live.task).await.is_err() {
                tracing::warn!("the session did not end in time and was dropped");
            }
            self.publish(None, None);
            self.peers.send_replace(Arc::default());
            self.ctx.publisher.bind(None);
        }
    }

    /// The commons as the engine last showed them.
    fn current_view(&mut self) -> Option<Arc<CommonsView>> {
        let live = self.session.as_mut()?;
        let stage = live.stage.borrow_and_update();
        let Stage::Running(running) = &*stage else { return None };
        let view = self.view.get_or_insert_with(|| running.view.clone());
        view.borrow_and_update().clone()
    }

    /// What the engine decides by, from resources.
    fn tell_engine(&mut self, object: &Cooperative, view: Option<&CommonsView>) {
        let caches = &self.ctx.caches;
        if self.statements.is_synced() && caches.proposals.is_synced() && caches.votes.is_synced() {
            let candidates = self.reader.read(&caches.proposals, &caches.votes, &self.statements);
            inputs::publish(&self.people, candidates);
        }
        let cloned = match &self.key {
            Ok(OperatorKey { clone: CloneVerdict::Cloned { recorded, seen }, .. }) => Some(format!(
                "the operator key was made in the cluster {recorded}, this one is {seen}: if the other one is gone, \
                 kubectl koinon adopt"
            )),
            _ => None,
        };
        let resume = object.annotations().get(labels::RESUME).and_then(|key| key.parse().ok());
        let applicants = view.map(|view| desk::applicants(&self.invites.all(), &view.state, self.ctx.clock.unix()));
        let controls = Controls { cloned, resume, applicants: applicants.unwrap_or_default() };
        self.controls.send_if_modified(|current| {
            let differs = *current != controls;
            *current = controls;
            differs
        });
    }

    /// Tells everybody what this cluster belongs to.
    fn publish(&self, object: Option<&Arc<Cooperative>>, view: Option<&CommonsView>) {
        let running = self.session.as_ref().and_then(|live| match &*live.stage.borrow() {
            Stage::Running(running) => Some(running.clone()),
            _ => None,
        });
        self.running.send_if_modified(|current| {
            let differs = current.is_some() != running.is_some();
            *current = running;
            differs
        });
        // Whoever has left still winds up, and has to know what.
        let belongs = object.zip(view.filter(|view| matches!(view.standing, Standing::Member | Standing::Left)));
        let next = belongs.map(|(object, view)| CooperativeView {
            me: view.me.clone(),
            coop: view.coop,
            state: view.state.clone(),
            charter: view.charter.clone(),
            spec: Arc::new(object.spec.clone()),
            logs: view.logs.clone(),
            may_sign: view.signing == Signing::Yes,
        });
        self.cooperative.send_if_modified(|current| {
            let same = match (&*current, &next) {
                (None, None) => true,
                (Some(old), Some(new)) => {
                    Arc::ptr_eq(&old.state, &new.state)
                        && (&old.spec, &old.logs, old.may_sign) == (&new.spec, &new.logs, new.may_sign)
                }
                _ => false,
            };
            if !same {
                *current = next.map(Arc::new);
            }
            !same
        });
    }

    async fn look_at_leaf(&mut self, view: Option<&CommonsView>) {
        let now = self.ctx.clock.unix();
        let member = view.filter(|view| view.standing == Standing::Member);
        // A clone gets no leaf: its gateway would answer for the member in the original's place.
        if let (Some(view), Ok(key)) = (member, &self.key)
            && key.clone.may_sign()
            && now >= self.leaf_due
        {
            self.leaf_due = match self.keys.gateway_leaf(key, view.coop, &view.me, now).await {
                // Looked at every minute all the same: somebody may delete the Secret.
                Ok(due) => due.min(UnixSeconds(now.0.saturating_add(60))),
                Err(error) => {
                    self.ctx.metrics.commons_failed(CommonsPart::Leaf);
                    tracing::warn!(error = %koinon_net::client::one_line(&error), "the gateway's leaf is not renewed");
                    UnixSeconds(now.0.saturating_add(LEAF_AGAIN))
                }
            };
        }
    }

    /// The finalizer, the end, and the word to resume.
    async fn look_at_object(&mut self, object: &Cooperative, view: Option<&CommonsView>) {
        let deleting = object.metadata.deletion_timestamp.is_some();
        let has_left = view.is_some_and(|view| view.standing == Standing::Left);
        self.ctx.ending.request(deleting || has_left);
        let has_finalizer = ending::has_finalizer(object);
        if !deleting {
            self.winding_up = WindingUp::default();
            if !has_finalizer && self.session.is_some() {
                let mut finalizers = object.finalizers().to_vec();
                finalizers.push(labels::FINALIZER.to_owned());
                self.patch(object, serde_json::json!({"finalizers": finalizers}), "adding the finalizer").await;
            } else if view.is_some_and(|view| view.resumed) && object.annotations().contains_key(labels::RESUME) {
                let annotations = serde_json::json!({"annotations": {labels::RESUME: null}});
                self.patch(object, annotations, "taking the word to resume off").await;
            }
            return;
        }
        // What is not spoken for any more is about to go, or was never a member and has nothing to wind up.
        if !has_finalizer {
            return;
        }
        // Nobody else is waited for: what this member publishes last is served for a moment to whoever listens, and no
        // peer has to.
        let linger = view.map_or(Duration::ZERO, |view| {
            let beacons = u64::try_from(view.state.parameters().beacon_seconds.0).unwrap_or(0).saturating_mul(2);
            Duration::from_secs(beacons).min(LONGEST_LINGER)
        });
        let left = self.ctx.ending.left();
        if self.winding_up.is_over(&left, linger, self.ctx.clock.monotonic()) {
            if !left.is_empty() {
                tracing::warn!(?left, "the membership ends although not everything was wound up in time");
            }
            let keep: Vec<&String> = object.finalizers().iter().filter(|name| *name != labels::FINALIZER).collect();
            self.patch(object, serde_json::json!({"finalizers": keep}), "removing the finalizer").await;
        }
    }

    async fn patch(&self, object: &Cooperative, mut metadata: serde_json::Value, doing: &str) {
        // Decided about exactly this version: a list that somebody else has changed meanwhile must not be overwritten.
        metadata["resourceVersion"] = serde_json::json!(object.resource_version());
        let api: Api<Cooperative> = Api::namespaced(self.ctx.client.clone(), &self.ctx.namespace);
        let patch = kube::api::Patch::Merge(serde_json::json!({"metadata": metadata}));
        let Ok(fence) = self.ctx.lease.guard() else { return };
        let (params, name) = (kube::api::PatchParams::default(), object.name_any());
        let patched = tokio::time::timeout(self.ctx.write_timeout(), fence.within(api.patch(&name, &params, &patch)));
        match patched.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::info!(%error, "{doing} is tried again"),
            Err(_) => tracing::info!("{doing} was not answered in time and is tried again"),
        }
    }

    async fn write_status(&mut self, all: &[Arc<Cooperative>], object: &Cooperative, view: Option<&CommonsView>) {
        let Some(time) = koinon_api::time::from_unix(self.ctx.clock.unix().0) else { return };
        let moment = projections::Moment { now: self.ctx.clock.unix(), time, monotonic: self.ctx.clock.monotonic() };
        let peers = self.peers.borrow().clone();
        let held = self.session.as_ref().and_then(|live| match &*live.stage.borrow() {
            Stage::Held(refusal) => Some(refusal.clone()),
            _ => None,
        });
        let left = object.metadata.deletion_timestamp.as_ref().map(|_| self.ctx.ending.left());
        let host = self.ctx.host.borrow().clone();
        let reach = self.running.borrow().as_ref().map(|running| running.reach.borrow().clone()).unwrap_or_default();
        let facts = cooperative::Facts {
            key: self.key.as_ref(),
            held: held.as_ref(),
            view,
            peers: &peers,
            reach: &reach,
            host: &host,
            ending: left.as_deref(),
        };
        let statuses = all.iter().map(|other| {
            let status = if other.uid() == object.uid() {
                cooperative::status(other, &facts, &moment)
            } else {
                cooperative::status_of_another(other, &object.name_any(), &moment)
            };
            (other.name_any(), status)
        });
        projections::write_existing(&self.ctx, &self.ctx.caches.cooperatives, statuses.collect()).await;
        if let Some(view) = view {
            let statuses = statement::statuses(view, &self.statements.all(), &moment);
            projections::write_existing(&self.ctx, &self.statements, statuses).await;
        }
        let net = self.running.borrow().as_ref().map(|running| running.net.clone());
        if let (Some(view), Some(net)) = (view, net) {
            self.gauges.show(view, &peers, &net, self.ctx.clock.as_ref());
        }
    }
}

/// Completes at the next change that was not looked at; never, where there is nothing to change.
async fn changed<T>(watched: Option<&mut watch::Receiver<T>>) {
    if let Some(receiver) = watched
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
