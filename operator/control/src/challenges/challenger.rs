//! Challenging others: one challenge at a time, when its lot and the vote say so or a person asks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use koinon_api::conditions::Reason;
use koinon_api::{InferenceJob, labels};
use koinon_core::body::challenge_report::{ChallengeReport, Outcome};
use koinon_core::body::challenges::Challenges;
use koinon_core::body::{Body, ModelRelease};
use koinon_core::challenge::{Asking, Check, Nonce, Occasion, Secret, Transcript};
use koinon_core::ids::{Digest, StatementId, UnixMicros, UnixSeconds};
use koinon_core::statement::Audience;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::call::{CallError, Caller};
use super::choose::{self, Wanted};
use super::job::{self, Stage};
use super::metrics::ChallengeMetrics;
use super::records::{CONFIG_MAP, Record, Records};
use crate::context::{Context, CooperativeView};
use crate::events::Severity;
use crate::placement::rules::Rules;
use crate::placement::stores::Stores;
use crate::placement::writer::{WriteError, Writer};

/// How often it is looked whether something is due.
const EVERY: Duration = Duration::from_secs(2);
/// How often a challenge looks where it stands.
const LOOK: Duration = Duration::from_millis(250);
/// How long a host may take to grant GPUs, which it does not hold for this meanwhile.
const GRANT: Duration = Duration::from_secs(60);
/// Rows of each device that the challenger computes again before it tells anybody.
const ROWS: usize = 2;

/// The challenger of this member.
#[derive(Debug)]
pub struct Challenger {
    ctx: Context,
    stores: Stores,
    writer: Writer,
    caller: Caller,
    metrics: ChallengeMetrics,
    own: watch::Sender<Arc<Vec<ChallengeReport>>>,
    /// From which all moments come that nobody else may know.
    secret: [u8; 32],
    records: Records,
    /// The rules that are in force, by their digest, and since when this process has known them.
    since: Option<(Digest, UnixSeconds)>,
    /// Whether the gateway was told of the key, and what an earlier process left is gone.
    ready: bool,
}

/// How one challenge went.
struct Done {
    outcome: Outcome,
    /// For how long the host had granted GPUs; `None` where it never did.
    held: Option<Duration>,
    /// From the first question to the roots: meanwhile every device computed or held its matrix.
    span: Option<Span>,
}

/// From when to when, by the own clock.
#[derive(Clone, Copy)]
struct Span {
    began: UnixMicros,
    ended: UnixMicros,
}

impl Done {
    fn unanswered(why: impl Into<String>, held: Option<Duration>) -> Self {
        Self { outcome: Outcome::Unanswered { why: why.into() }, held, span: None }
    }
}

impl Challenger {
    /// A challenger that calls through `caller`, and says on `own` what it measured. `secret` is random and kept to itself.
    #[must_use]
    pub fn new(
        ctx: Context,
        stores: Stores,
        caller: Caller,
        metrics: ChallengeMetrics,
        own: watch::Sender<Arc<Vec<ChallengeReport>>>,
        secret: [u8; 32],
    ) -> Self {
        let writer = Writer::new(&ctx, "challenges");
        Self {
            ctx,
            stores,
            writer,
            caller,
            metrics,
            own,
            secret,
            records: Records::default(),
            since: None,
            ready: false,
        }
    }

    /// Works until `stop`.
    ///
    /// # Errors
    /// Never; what fails is tried again.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = self.stores.synced() => {}
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.look() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    async fn look(&mut self) {
        let Some(rules) = Rules::now(&self.ctx) else { return };
        let view = rules.view();
        let voted = view.state.norms().placement.challenges.clone();
        if !self.ready {
            if voted.is_none() && self.leftovers().is_empty() {
                return;
            }
            if let Err(error) = self.begin().await {
                tracing::warn!(%error, "challenges wait");
                return;
            }
            self.ready = true;
        }
        self.say(voted.as_ref());
        let Some(voted) = voted else { return };
        if self.ctx.ending.requested() || view.state.halted(&view.me, self.ctx.clock.unix()).is_some() {
            return;
        }
        let (digest, unix) = (voted.digest(), self.ctx.clock.unix());
        let (_, since) = *self.since.insert(self.since.filter(|(known, _)| *known == digest).unwrap_or((digest, unix)));
        let moment = choose::Moment { unix, monotonic: self.ctx.clock.monotonic() };
        let members = self.ctx.caches.members.all();
        let peers = self.ctx.peers.borrow().clone();
        let lots = choose::Lots {
            rules: &rules,
            voted: &voted,
            peers: &peers,
            records: &self.records,
            secret: &self.secret,
            since,
        };
        let chosen = match choose::asked(&lots, &members, moment) {
            Some(Ok(wanted)) => Some(wanted),
            Some(Err(refused)) => {
                self.ctx.events.tell(refused.member, Severity::Warning, Reason::ChallengeRefused, refused.why.clone());
                self.records.refuse(refused.asked);
                None
            }
            None => choose::due(&lots, moment),
        };
        if let Some(wanted) = chosen {
            self.challenge(view, &voted, wanted).await;
            self.say(Some(&voted));
        }
    }

    /// Reads what was measured before, removes what an earlier process left, and makes the key known.
    async fn begin(&mut self) -> Result<(), WriteError> {
        let api = Api::<ConfigMap>::namespaced(self.ctx.client.clone(), &self.ctx.namespace);
        let read = crate::placement::reader::read("what was measured before", api.get_opt(CONFIG_MAP)).await;
        match read {
            Ok(Some(map)) => self.records = Records::read(&map),
            Ok(None) => {}
            Err(error) => return Err(WriteError::NoAnswer { what: error.to_string() }),
        }
        for job in self.leftovers() {
            self.remove(&job).await?;
        }
        self.caller.register(&self.ctx, &self.writer).await
    }

    fn leftovers(&self) -> Vec<Arc<InferenceJob>> {
        let ours = |job: &Arc<InferenceJob>| {
            job.namespace().as_deref() == Some(&self.ctx.namespace)
                && job.labels().contains_key(labels::CHALLENGE)
                && job.metadata.deletion_timestamp.is_none()
        };
        self.stores.jobs.all().into_iter().filter(ours).collect()
    }

    async fn remove(&self, job: &InferenceJob) -> Result<(), WriteError> {
        let api = Api::<InferenceJob>::namespaced(self.ctx.client.clone(), &self.ctx.namespace);
        self.writer.delete(&api, job).await
    }

    /// Says to everybody what was measured, for as long as it counts.
    fn say(&self, rules: Option<&Challenges>) {
        let now = self.ctx.clock.unix();
        let mut own = Vec::new();
        for (number, record) in self.records.all() {
            let Ok(subject) = format!("challenge/{number}").parse() else { continue };
            let left = rules.and_then(|rules| record.left(rules, now)).and_then(|left| u64::try_from(left.0).ok());
            let Some(left) = left else {
                self.ctx.publisher.withdraw(&subject);
                continue;
            };
            own.push(record.report.clone());
            let body = Body::Challenge(Box::new(record.report.clone()));
            if let Err(error) = self.ctx.publisher.set(subject, Audience::Everyone, body, Duration::from_secs(left)) {
                tracing::warn!(%error, host = %record.report.host, "what was measured could not be said");
            }
        }
        self.own.send_if_modified(|held| {
            let news = **held != own;
            if news {
                *held = Arc::new(own);
            }
            news
        });
    }

    async fn challenge(&mut self, view: &CooperativeView, rules: &Challenges, wanted: Wanted) {
        let began = self.ctx.clock.micros();
        tracing::info!(host = %wanted.target.host, class = %wanted.target.class, devices = wanted.devices, "challenging");
        let done = self.measure(view, rules, &wanted).await;
        let Span { began, ended } = done.span.unwrap_or_else(|| Span { began, ended: self.ctx.clock.micros() });
        let report = ChallengeReport {
            host: wanted.target.host.clone(),
            class: wanted.target.class.clone(),
            rules: rules.digest(),
            devices: wanted.devices,
            began,
            ended,
            outcome: done.outcome,
        };
        let shows = report.shows(&view.me, rules).map_or("Nothing", koinon_core::belief::Finding::name);
        self.metrics.made(shows, done.held);
        tracing::info!(host = %report.host, class = %report.class, shows, "challenged");
        self.records.note(Record { report, granted: done.held.is_some(), asked: wanted.asked });
        let api = Api::<ConfigMap>::namespaced(self.ctx.client.clone(), &self.ctx.namespace);
        if let Err(error) = self.writer.apply(&api, &self.records.written()).await {
            tracing::warn!(%error, "what was measured is not kept; a restart forgets it");
        }
    }

    async fn measure(&self, view: &CooperativeView, rules: &Challenges, wanted: &Wanted) -> Done {
        let release = view.state.releases().get(&rules.model).filter(|release| release.withdrawn.is_none());
        let Some(release) = release.map(|release| release.release.clone()) else {
            return Done::unanswered("the release that challenges run under is not approved", None);
        };
        let Some(asking) = self.asking(view, rules, wanted) else {
            return Done::unanswered("the system gave no randomness, or no entry of a log is known", None);
        };
        let job = match self.create(wanted, rules, &release).await {
            Ok(job) => job,
            Err(error) => return Done::unanswered(error.to_string(), None),
        };
        let measured = self.ask(&job, rules, asking).await;
        if let Err(error) = self.remove(&job).await {
            tracing::warn!(%error, "the job of a challenge is still there; it goes with the next leader");
            self.remove(&job).await.ok();
        }
        match measured {
            Err(done) => done,
            // Only now: GPUs are not held while a processor here is at work.
            Ok((transcript, held, span)) => {
                let shown = transcript.clone();
                let choice = self.secret;
                let check =
                    tokio::task::spawn_blocking(move || Check::sample(&shown, ROWS, &choice).and_then(Check::finish));
                let outcome = match check.await {
                    Ok(Ok(_)) => Outcome::Answered(Box::new(transcript)),
                    Ok(Err(refuted)) => Outcome::Refuted { why: refuted.to_string() },
                    Err(error) => Outcome::Unanswered { why: error.to_string() },
                };
                Done { outcome, held: Some(held), span: Some(span) }
            }
        }
    }

    fn asking(&self, view: &CooperativeView, rules: &Challenges, wanted: &Wanted) -> Option<Asking> {
        let random = || {
            let mut bytes = [0_u8; 32];
            getrandom::fill(&mut bytes).ok().map(|()| bytes)
        };
        let occasion = Occasion {
            coop: view.coop,
            challenger: view.me.clone(),
            host: wanted.target.host.clone(),
            class: wanted.target.class.clone(),
            after: self.newest_entry()?,
            nonce: Nonce(random()?),
        };
        let size = rules.classes.get(&wanted.target.class)?.size;
        Some(Asking { occasion, size, devices: wanted.devices, secret: Secret(random()?) })
    }

    /// An entry that some log ended with a moment ago, as its keeper said.
    fn newest_entry(&self) -> Option<StatementId> {
        let peers = self.ctx.peers.borrow();
        let beacons = peers.members.values().filter_map(|peer| peer.beacon.as_ref());
        let newest = beacons.max_by_key(|beacon| beacon.heard_at)?;
        newest.body.heads.values().max_by_key(|head| (head.seq, head.id)).map(|head| head.id)
    }

    async fn create(
        &self,
        wanted: &Wanted,
        rules: &Challenges,
        release: &ModelRelease,
    ) -> Result<InferenceJob, WriteError> {
        let mut bytes = [0_u8; 4];
        getrandom::fill(&mut bytes).map_err(|error| WriteError::NoAnswer { what: error.to_string() })?;
        let nonce = format!("{:08x}", u32::from_be_bytes(bytes));
        let job = job::job(&self.ctx.namespace, &wanted.target, wanted.devices, rules, release, &nonce);
        let api = Api::<InferenceJob>::namespaced(self.ctx.client.clone(), &self.ctx.namespace);
        self.writer.create(&api, &job).await
    }

    /// The answer to the three questions, once the host lets them through, for how long it held GPUs, and when they worked.
    async fn ask(
        &self,
        job: &InferenceJob,
        rules: &Challenges,
        asking: Asking,
    ) -> Result<(Transcript, Duration, Span), Done> {
        let uid = job.uid().unwrap_or_default();
        let began = Instant::now();
        let mut granted: Option<Instant> = None;
        let most = Duration::from_secs(u64::try_from(rules.most_seconds.0).unwrap_or(0));
        let held = |granted: Option<Instant>| granted.map(|granted| granted.elapsed());
        loop {
            let stage = job::stage(&uid, self.stores.placements.all().iter().map(|placement| &**placement));
            match &stage {
                Stage::Asked if granted.is_none() && began.elapsed() > GRANT => {
                    let why = self.why_unplaced(job).await;
                    return Err(Done::unanswered(format!("no GPUs were granted: {why}"), None));
                }
                Stage::Ended(why) => return Err(Done::unanswered(format!("the host ended it: {why}"), held(granted))),
                Stage::Granted(why) => {
                    let since = *granted.get_or_insert_with(Instant::now);
                    if since.elapsed() > most {
                        let why = format!("it was not ready after {} s: {why}", most.as_secs());
                        return Err(Done::unanswered(why, held(granted)));
                    }
                }
                Stage::Routable => break,
                Stage::Asked => {}
            }
            tokio::time::sleep(LOOK).await;
        }
        let deadline = *granted.get_or_insert_with(Instant::now) + most;
        let model = format!("{}/{}", self.ctx.namespace, job.spec.served_name);
        let unanswered = |why: CallError| Done::unanswered(why.to_string(), held(granted));
        let refuted = |why: String| Done { outcome: Outcome::Refuted { why }, held: held(granted), span: None };
        let (computing, question) =
            asking.begin().map_err(|error| Done::unanswered(error.to_string(), held(granted)))?;
        let (reply, millis) = self.timed(&model, &question.text(), deadline, true).await.map_err(unanswered)?;
        let computed = self.ctx.clock.micros();
        let (recalling, question) = computing.computed(&reply, millis).map_err(|error| refuted(error.to_string()))?;
        let (reply, millis) = self.timed(&model, &question.text(), deadline, false).await.map_err(unanswered)?;
        let ended = self.ctx.clock.micros();
        let (opening, question) = recalling.recalled(&reply, millis).map_err(|error| refuted(error.to_string()))?;
        let (reply, _) = self.timed(&model, &question.text(), deadline, false).await.map_err(unanswered)?;
        let transcript = opening.opened(&reply).map_err(|error| refuted(error.to_string()))?;
        let began = UnixMicros(computed.0.saturating_sub(i64::from(transcript.timing.compute_millis) * 1000));
        Ok((transcript, held(granted).unwrap_or_default(), Span { began, ended }))
    }

    /// An answer, and the milliseconds that it took. Only the first question waits until it can be sent.
    async fn timed(
        &self,
        model: &str,
        question: &str,
        deadline: Instant,
        may_wait: bool,
    ) -> Result<(String, u32), CallError> {
        loop {
            let sent = Instant::now();
            let answer = self.caller.ask(model, question, deadline.saturating_duration_since(sent)).await;
            let millis = u32::try_from(sent.elapsed().as_millis()).unwrap_or(u32::MAX);
            match answer {
                Err(CallError::NotYet(_)) if may_wait && Instant::now() + LOOK < deadline => {
                    tokio::time::sleep(LOOK).await;
                }
                answer => return answer.map(|answer| (answer, millis)),
            }
        }
    }

    /// What the job itself says, for people.
    async fn why_unplaced(&self, job: &InferenceJob) -> String {
        let named = ListParams::default().fields(&format!("metadata.name={}", job.name_any()));
        let api = Api::<InferenceJob>::namespaced(self.ctx.client.clone(), &self.ctx.namespace);
        let read = crate::placement::reader::read("the job of a challenge", api.list(&named)).await;
        let status = read.ok().and_then(|list| list.items.into_iter().next()).and_then(|job| job.status);
        let conditions = status.map(|status| status.conditions).unwrap_or_default();
        let failing = conditions.iter().find(|condition| condition.status != "True");
        failing.map_or_else(|| "it was not answered".to_owned(), |condition| condition.message.clone())
    }
}
