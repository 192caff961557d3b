//! One look at the replicas of one job: what each copy's Placement says next, and where a new copy goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use koinon_api::conditions::{self, ConditionType, Reason};
use koinon_api::inference_job::{InferenceJob, JobPlacement, Scope};
use koinon_api::placement::{PlacementSpec, PlacementState, PlacementStatus, Side};
use koinon_api::planning::check::{self as planning, Seen};
use koinon_api::{Placement, labels};
use koinon_core::body::latest::{GrantState, RefusalReason};
use koinon_core::ids::{Epoch, MemberId, ReplicaIndex, Seconds};
use koinon_core::liveness;
use koinon_core::placement::home::{Because, ReplicaView, Step, next};
use koinon_core::planner::{Candidate, plan};
use kube::api::Api;
use kube::{Resource, ResourceExt};

use super::inferencejob::{Jobs, Look};
use super::inferencejob_check::{Work, placement_name};
use super::inferencejob_status::{Shown, Unplaced, highest};
use super::placement_home::{self as home, Copy, Decided, Word, believed_highest};
use crate::peers::Liveness;
use crate::placement::rules::Rules;
use crate::placement::writer::WriteError;

/// What one look at one job rests on.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The controller.
    pub jobs: &'a Jobs,
    /// The job.
    pub job: &'a Arc<InferenceJob>,
    /// The look at all jobs of which this is a part.
    pub look: &'a Look,
    /// What was decided.
    pub rules: &'a Rules,
    /// What a replica is; `None` where the job is not acceptable or not approved.
    pub work: Option<&'a Work>,
    /// Whether any replica is wanted.
    pub wanted: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The copies as the job's status shows them.
    pub shown: Vec<Shown>,
    /// Replicas for which nobody is asked.
    pub unplaced: BTreeMap<u32, Unplaced>,
    /// Placements that are over.
    pub forget: Vec<Arc<Placement>>,
    /// Copies that are still asked for.
    pub renewing: usize,
}

/// Does what is due now.
///
/// # Errors
/// When a write fails; what was written before stays, and the next look goes on from there.
pub async fn turn(turn: &Turn<'_>, placements: &[Arc<Placement>]) -> Result<Outcome, WriteError> {
    let words = Words::of(turn);
    let deadline = Seconds(turn.job.spec.rollout.progress_deadline_seconds.into());
    let mut replicas: BTreeMap<ReplicaIndex, Vec<(Arc<Placement>, Copy<'_>)>> = BTreeMap::new();
    for placement in placements {
        let word = placement.spec.host.parse().ok().and_then(|host: MemberId| words.about(&host));
        let (rules, peers, now) = (turn.rules, &turn.look.peers, turn.look.now);
        if let Some(copy) = home::copy(placement, rules, peers, word, deadline, now) {
            replicas.entry(copy.replica).or_default().push((placement.clone(), copy));
        }
    }
    let desired = u32::try_from(turn.job.spec.replicas).unwrap_or(0);
    for replica in 0..desired {
        replicas.entry(ReplicaIndex(replica)).or_default();
    }
    let mut rollout = Rollout::of(turn, &replicas);
    let mut outcome = Outcome::default();
    let mut hosts = hosts_of(&replicas);
    for (replica, copies) in &replicas {
        let wanted = turn.wanted && turn.work.is_some() && replica.0 < desired;
        one(turn, *replica, copies, wanted, &mut rollout, &mut hosts, &mut outcome).await?;
    }
    Ok(outcome)
}

/// How many replicas of this job each member hosts or was asked for.
fn hosts_of(replicas: &BTreeMap<ReplicaIndex, Vec<(Arc<Placement>, Copy<'_>)>>) -> BTreeMap<MemberId, u32> {
    let mut hosts = BTreeMap::new();
    let renewed = replicas.values().flatten().filter(|(_, copy)| copy.view.renewal_stopped_at.is_none());
    for (_, copy) in renewed {
        *hosts.entry(copy.view.host.clone()).or_default() += 1;
    }
    hosts
}

async fn one(
    turn: &Turn<'_>,
    replica: ReplicaIndex,
    copies: &[(Arc<Placement>, Copy<'_>)],
    wanted: bool,
    rollout: &mut Rollout,
    hosts: &mut BTreeMap<MemberId, u32>,
    outcome: &mut Outcome,
) -> Result<(), WriteError> {
    let parameters = turn.rules.parameters();
    let local = turn.job.spec.placement.scope == Scope::Local;
    // Before a quorum was ever heard, silence may be ours. A job that stays here needs nobody.
    let isolated = !local && (turn.look.peers.isolated || !turn.look.peers.heard_quorum);
    let view = ReplicaView {
        wanted,
        copies: copies.iter().map(|(_, copy)| copy.view.clone()).collect(),
        highest: highest_of(turn, replica, copies),
        on_partition: turn.job.spec.placement.on_partition.into(),
        lease: parameters.lease_seconds,
        margin: parameters.lease_margin_seconds,
    };
    let mut decided: BTreeMap<Epoch, Decided> = BTreeMap::new();
    let (mut mint, mut forget) = (None, BTreeSet::new());
    let mut steps = next(&view, turn.look.now.unix, isolated);
    if let Some((epoch, because)) = rollout.outdated(turn, copies, wanted) {
        // The next look mints the new copy, once this one is durably left.
        steps = vec![Step::Withdraw { epoch, because }, Step::StopRenewing { epoch, because }];
    }
    for step in &steps {
        match step {
            Step::Withdraw { epoch, because } => decided.entry(*epoch).or_default().withdraw = Some(*because),
            Step::StopRenewing { epoch, because } => decided.entry(*epoch).or_default().stop = Some(*because),
            Step::Route { epoch } => decided.entry(*epoch).or_default().route = true,
            Step::Mint { epoch, take_over } => mint = Some((*epoch, take_over.clone())),
            Step::Forget { epoch } => {
                forget.insert(*epoch);
            }
        }
    }
    for (placement, copy) in copies {
        let decided = decided.get(&copy.view.epoch).copied().unwrap_or_default();
        let shown = write(turn, replica, placement, copy, decided).await?;
        outcome.renewing += usize::from(shown.renewed);
        if forget.contains(&copy.view.epoch) {
            outcome.forget.push(placement.clone());
        }
        outcome.shown.push(shown);
    }
    match mint {
        Some((epoch, take_over)) => ask(turn, replica, epoch, take_over, hosts, outcome).await?,
        None if turn.look.ending && replica.0 < u32::try_from(turn.job.spec.replicas).unwrap_or(0) => {
            outcome.unplaced.insert(replica.0, Unplaced::Ending);
        }
        None if wanted && copies.iter().all(|(_, copy)| copy.view.renewal_stopped_at.is_some()) => {
            let why = if isolated { Unplaced::Isolated } else { Unplaced::AwaitingOldLease };
            outcome.unplaced.insert(replica.0, why);
        }
        None => {}
    }
    Ok(())
}

/// The highest epoch that was ever minted for the replica, or named by a host that has seen more than we remember.
fn highest_of(turn: &Turn<'_>, replica: ReplicaIndex, copies: &[(Arc<Placement>, Copy<'_>)]) -> Epoch {
    let mut most = highest(turn.job.status.as_ref(), replica.0);
    for (placement, copy) in copies {
        most = most.max(copy.view.epoch.0);
        let stale = copy.grant.filter(|grant| grant.reason == Some(RefusalReason::StaleEpoch));
        let told = stale.and_then(|grant| grant.numbers.get("highest").copied());
        let kept = placement.status.as_ref().filter(|s| s.reason.as_deref() == Some(Reason::StaleEpoch.as_str()));
        let kept = kept.and_then(|status| status.numbers.get("highest").copied());
        most = [told, kept].into_iter().flatten().fold(most, believed_highest);
    }
    Epoch(most)
}

/// Writes what is new about a copy.
async fn write(
    turn: &Turn<'_>,
    replica: ReplicaIndex,
    placement: &Arc<Placement>,
    copy: &Copy<'_>,
    decided: Decided,
) -> Result<Shown, WriteError> {
    let jobs = turn.jobs;
    note_refusal(turn, replica, copy);
    let gateway = copy.grant.and_then(|grant| grant.gateway.as_ref()).map(ToString::to_string);
    let gateway = gateway.or_else(|| Jobs::gateway_of(turn.rules, &copy.view.host));
    let next = home::status(copy, decided, gateway, turn.look.now);
    let same = placement.status.as_ref().is_some_and(|said| conditions::same_ignoring_times(said, &next));
    if !same {
        let before = placement.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
        let namespace = placement.namespace().unwrap_or_default();
        let api = Api::<Placement>::namespaced(jobs.ctx.client.clone(), &namespace);
        let object = Placement { status: Some(next.clone()), ..placement.as_ref().clone() };
        if decided.stop.is_some() {
            // Or the list that still names it could begin a lease after the time from which the next copy waits.
            jobs.ctx.publisher.hold_back_requests(&copy.view.host);
        }
        jobs.writer.replace_status(&api, &object).await?;
        jobs.metrics.starts.changed(&before, &next.conditions, turn.look.now.unix);
        for type_ in [ConditionType::Granted, ConditionType::Ready, ConditionType::Reclaiming, ConditionType::Routable]
        {
            jobs.tell(placement.as_ref(), &before, &next.conditions, type_);
        }
    }
    let ready = conditions::find(&next.conditions, ConditionType::Ready).filter(|ready| ready.status != "True");
    let waiting = ready.and_then(|ready| Some((ready.reason.parse().ok()?, ready.message.clone())));
    Ok(Shown {
        entry: JobPlacement {
            replica: placement.spec.replica,
            epoch: placement.spec.epoch,
            member: placement.spec.host.clone(),
            state: next.state.unwrap_or_default(),
            reason: next.reason.clone(),
        },
        routable: conditions::is_true(&next.conditions, ConditionType::Routable),
        renewed: conditions::is_true(&next.conditions, ConditionType::Renewed),
        waiting,
        ending: ending(&next),
    })
}

/// When a copy's host ends it, where it has said so and the copy runs.
fn ending(status: &PlacementStatus) -> Option<String> {
    let over =
        matches!(status.state, Some(PlacementState::Draining | PlacementState::Released | PlacementState::Refused));
    let foretold = conditions::is_true(&status.conditions, ConditionType::Reclaiming) && !over;
    foretold.then(|| status.ends_time.as_ref().map_or_else(|| "soon".to_owned(), |time| format!("at {}", time.0)))
}

fn note_refusal(turn: &Turn<'_>, replica: ReplicaIndex, copy: &Copy<'_>) {
    let Ok(job) = copy.placement.spec.job.uid.parse() else { return };
    let (host, now) = (&copy.view.host, turn.look.now.monotonic);
    if copy.view.unanswered {
        let why = "it was asked and does not answer".to_owned();
        turn.jobs.refusals().note(&job, host, (replica, copy.view.epoch), RefusalReason::Other, why, now);
    }
    let Some(answer) = copy.view.answer else { return };
    match answer.state {
        GrantState::Ready => turn.jobs.refusals().forgive(&job, host),
        GrantState::Refused | GrantState::Draining | GrantState::Released => {
            let reason = answer.reason.unwrap_or(RefusalReason::Other);
            let numbers = copy.grant.map(home::numbers).unwrap_or_default();
            let why = format!("{reason}{numbers}");
            turn.jobs.refusals().note(&job, host, (replica, copy.view.epoch), reason, why, now);
        }
        GrantState::Granted | GrantState::Loading => {}
    }
}

/// Stores a new epoch, which asks its host for a copy.
async fn ask(
    turn: &Turn<'_>,
    replica: ReplicaIndex,
    epoch: Epoch,
    take_over: Option<MemberId>,
    hosts: &mut BTreeMap<MemberId, u32>,
    outcome: &mut Outcome,
) -> Result<(), WriteError> {
    let Some(work) = turn.work else { return Ok(()) };
    let request = work.request(replica, epoch, turn.rules.parameters().lease_seconds);
    let bytes = serde_json::to_string(&request).map_or(0, |request| request.len());
    let host = match take_over {
        Some(host) => host,
        None => {
            if let Some(frozen) = work.frozen {
                outcome.unplaced.insert(replica.0, Unplaced::Frozen(frozen));
                return Ok(());
            }
            let report = plan(&work.need, &candidates(turn, work, hosts, bytes));
            let Some(host) = report.chosen.clone() else {
                outcome.unplaced.insert(replica.0, Unplaced::NoHost(report));
                return Ok(());
            };
            host
        }
    };
    let spec = match PlacementSpec::of(&request, Side::Home, turn.rules.me().as_str(), host.as_str()) {
        Ok(spec) => spec,
        Err(error) => {
            tracing::error!(%error, job = %turn.job.name_any(), "a copy cannot be written down");
            return Ok(());
        }
    };
    let mut placement = Placement::new(&placement_name(turn.job, replica, epoch), spec);
    placement.metadata.namespace = turn.job.namespace();
    placement.metadata.labels = Some(
        [
            (labels::JOB, turn.job.name_any()),
            (labels::JOB_UID, turn.job.uid().unwrap_or_default()),
            (labels::REPLICA, replica.0.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
    );
    placement.metadata.owner_references = turn.job.controller_owner_ref(&()).map(|owner| {
        // The job's own end withdraws its copies; the garbage collector only sweeps up behind it.
        vec![OwnerReference { block_owner_deletion: None, ..owner }]
    });
    let api = Api::<Placement>::namespaced(turn.jobs.ctx.client.clone(), &turn.job.namespace().unwrap_or_default());
    match turn.jobs.writer.create(&api, &placement).await {
        Ok(_) => {}
        // A look at a lagging cache minted it a moment ago.
        Err(error) if error.is_conflict() => {}
        Err(error) => return Err(error),
    }
    *hosts.entry(host.clone()).or_default() += 1;
    turn.look.asked.take(&host, bytes, &work.need.gpu);
    outcome.renewing += 1;
    outcome.shown.push(Shown {
        entry: JobPlacement {
            replica: placement.spec.replica,
            epoch: placement.spec.epoch,
            member: host.to_string(),
            state: PlacementState::Requested,
            reason: None,
        },
        routable: false,
        renewed: true,
        waiting: None,
        ending: None,
    });
    Ok(())
}

/// The members as the planner sees them.
fn candidates(turn: &Turn<'_>, work: &Work, hosts: &BTreeMap<MemberId, u32>, bytes: usize) -> Vec<Candidate> {
    let (me, now) = (turn.rules.me(), turn.look.now.monotonic);
    let refusals = turn.jobs.refusals();
    let unix = turn.look.now.unix;
    planning::candidates(&turn.rules.view().state, me, work.scope, unix, |member| {
        let own = member == me;
        let peer = turn.look.peers.members.get(member);
        let heard = peer.and_then(|peer| peer.offer.as_ref()).filter(|offer| offer.is_current(now));
        let mut offer = if own {
            turn.jobs.own.offer.borrow().as_ref().map(|own| (own.offer.as_ref().clone(), Seconds(0)))
        } else {
            heard.map(|offer| {
                let age = now.saturating_sub(offer.heard_at).as_secs();
                (offer.body.as_ref().clone(), Seconds(i64::try_from(age).unwrap_or(i64::MAX)))
            })
        };
        if let Some((offer, _)) = &mut offer {
            let beliefs = turn.jobs.ctx.beliefs.borrow();
            for class in &mut offer.classes {
                let belief = beliefs.of(member, &class.class, class.evidence, turn.jobs.ctx.clock.micros());
                class.evidence = belief.of_count(work.need.gpu.count);
            }
        }
        Seen {
            liveness: Some(heard_as(peer.map(|peer| peer.liveness))),
            cordoned: turn.rules.cordoned(member),
            offer,
            replicas_here: hosts.get(member).copied().unwrap_or(0),
            gpus_held: turn.look.asked.gpus(member, &work.need.gpu.class),
            refused_lately: if own || turn.look.asked.has_room(member, bytes) {
                refusals.lately(&work.job.uid, member, now).map(ToOwned::to_owned)
            } else {
                Some("it is asked for as much as one list carries".to_owned())
            },
        }
    })
}

fn heard_as(liveness: Option<Liveness>) -> liveness::Liveness {
    match liveness {
        Some(Liveness::Own | Liveness::Fresh) => liveness::Liveness::Fresh,
        Some(Liveness::Suspect) | None => liveness::Liveness::Suspect,
        Some(Liveness::Lost) => liveness::Liveness::Lost,
    }
}

/// What every host says about this job's copies.
struct Words<'a> {
    own: Option<(MemberId, crate::placement::own::OwnGrants)>,
    look: &'a Look,
}

impl<'a> Words<'a> {
    fn of(turn: &Turn<'a>) -> Self {
        let own = turn.jobs.own_grants().map(|grants| (turn.rules.me().clone(), grants));
        Self { own, look: turn.look }
    }

    fn about(&self, host: &MemberId) -> Option<Word<'_>> {
        match &self.own {
            Some((me, grants)) if me == host => Some(Word { grants: &grants.grants, heard_at: grants.at }),
            _ => self.look.peers.members.get(host)?.grants.as_ref().map(Word::of),
        }
    }
}

/// Replacing copies whose job was changed, a few at a time.
struct Rollout {
    /// How many more may be taken away now.
    left: u32,
}

impl Rollout {
    fn of(turn: &Turn<'_>, replicas: &BTreeMap<ReplicaIndex, Vec<(Arc<Placement>, Copy<'_>)>>) -> Self {
        // A replica has one copy that is asked for, so one has to go before another comes, whatever maxSurge says.
        let allowed = u32::try_from(turn.job.spec.rollout.max_unavailable).unwrap_or(0).max(1);
        let away = replicas.values().filter(|copies| !copies.iter().any(|(_, copy)| copy.view.routable)).count();
        Self { left: allowed.saturating_sub(u32::try_from(away).unwrap_or(u32::MAX)) }
    }

    /// The copy that is asked for in words that the job no longer uses, or where it may not be any more, if one may be
    /// taken away now. One that nobody is routed to costs nothing.
    fn outdated(
        &mut self,
        turn: &Turn<'_>,
        copies: &[(Arc<Placement>, Copy<'_>)],
        wanted: bool,
    ) -> Option<(Epoch, Because)> {
        let (placement, copy) = copies.iter().find(|(_, copy)| copy.view.renewal_stopped_at.is_none())?;
        let digest = placement.spec.model.manifest_digest.parse().ok()?;
        let away = turn.rules.keeps_from(&copy.view.host, &digest);
        // The copy that would follow could not begin.
        let work = turn.work.filter(|work| wanted && (away || work.frozen.is_none()))?;
        let lease = Seconds(placement.spec.lease.seconds.into());
        let request = work.request(copy.replica, copy.view.epoch, lease);
        let asked = PlacementSpec::of(&request, Side::Home, &placement.spec.home, &placement.spec.host).ok()?;
        if asked == placement.spec && !away {
            return None;
        }
        if copy.view.routable {
            self.left = self.left.checked_sub(1)?;
        }
        Some((copy.view.epoch, if away { Because::KeptAway } else { Because::Superseded }))
    }
}
