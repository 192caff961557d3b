//! What a job's status says. Pure.

use std::collections::{BTreeMap, BTreeSet};

use koinon_api::conditions::{self, ConditionStatus, ConditionType, Reason, Verdict};
use koinon_api::inference_job::{InferenceJob, InferenceJobStatus, JobPlacement};
use koinon_api::labels;
use koinon_api::placement::PlacementState;
use koinon_core::planner::{Finding, PlanReport, Rejection};
use koinon_core::policy::Suspension;
use kube::ResourceExt;

use super::inferencejob_check::Checked;
use super::placement_home::Now;
use crate::placement::metrics::JobState;

/// One copy, as far as the job's status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The entry of `status.placements`.
    pub entry: JobPlacement,
    /// Whether calls go there.
    pub routable: bool,
    /// Whether it is still asked for.
    pub renewed: bool,
    /// Why it is not ready, in the words of its Ready condition.
    pub waiting: Option<(Reason, String)>,
    /// When its host ends it although it runs, where that is announced.
    pub ending: Option<String>,
}

impl Shown {
    fn placed(&self) -> bool {
        self.renewed
            && matches!(self.entry.state, PlacementState::Granted | PlacementState::Loading | PlacementState::Ready)
    }
}

/// Why nothing was asked for a replica that has no copy.
#[derive(Clone, Debug, PartialEq)]
pub enum Unplaced {
    /// No member can host it.
    NoHost(PlanReport),
    /// Fewer than a quorum of members are heard.
    Isolated,
    /// A copy that might still run has to end first.
    AwaitingOldLease,
    /// This cluster's membership is being wound up.
    Ending,
    /// An order lets no new copy of the model begin.
    Frozen(Suspension),
}

/// Everything that a job's status is made of.
#[derive(Clone, Debug)]
pub struct Picture<'a> {
    /// What was found about the job itself.
    pub checked: &'a Checked,
    /// Its copies.
    pub copies: &'a [Shown],
    /// Replicas without a copy, and why.
    pub unplaced: &'a BTreeMap<u32, Unplaced>,
}

/// The status.
#[must_use]
pub fn status(job: &InferenceJob, picture: &Picture<'_>, now: Now) -> InferenceJobStatus {
    let before = job.status.clone().unwrap_or_default();
    let generation = job.metadata.generation;
    let time = now.time();
    let placed: BTreeSet<i32> = picture.copies.iter().filter(|copy| copy.placed()).map(|c| c.entry.replica).collect();
    let routable: BTreeSet<i32> = picture.copies.iter().filter(|copy| copy.routable).map(|c| c.entry.replica).collect();
    let mut next = InferenceJobStatus {
        observed_generation: generation,
        replicas: count(placed.len()),
        ready_replicas: count(routable.len()),
        selector: job.uid().map(|uid| format!("{}={uid}", labels::JOB_UID)),
        placements: entries(&before.placements, picture.copies),
        resolved: picture.checked.work.as_ref().map(|work| work.resolved.clone()).or(before.resolved),
        conditions: before.conditions,
    };
    let placed_verdict = placed_verdict(job, picture, placed.len());
    let ready = ready_verdict(job, picture, routable.len(), &placed_verdict);
    let foretold = conditions::find(&next.conditions, ConditionType::Reclaiming).is_some();
    let reclaiming = reclaiming_verdict(job, picture, foretold).map(|verdict| (ConditionType::Reclaiming, verdict));
    for (type_, verdict) in reclaiming.into_iter().chain([
        (ConditionType::Accepted, picture.checked.accepted.clone()),
        (ConditionType::Approved, picture.checked.approved.clone()),
        (ConditionType::Placed, placed_verdict),
        (ConditionType::Ready, ready),
    ]) {
        let _ = conditions::set(&mut next.conditions, type_, verdict, generation, &time);
    }
    next
}

/// What the metric counts the job as.
#[must_use]
pub fn state(status: &InferenceJobStatus) -> JobState {
    let is = |type_| conditions::is_true(&status.conditions, type_);
    if is(ConditionType::Ready) {
        JobState::Ready
    } else if !is(ConditionType::Accepted) {
        JobState::NotAccepted
    } else if !is(ConditionType::Approved) {
        JobState::NotApproved
    } else if !is(ConditionType::Placed) {
        JobState::Unplaced
    } else {
        JobState::Loading
    }
}

/// The entries: every copy, and of each replica the highest epoch that was ever minted, for an epoch is never used twice
/// and its Placement may be gone.
fn entries(before: &[JobPlacement], copies: &[Shown]) -> Vec<JobPlacement> {
    /// The schema's limit.
    const MOST: usize = 256;
    let mut entries: BTreeMap<(i32, i64), JobPlacement> =
        copies.iter().map(|copy| ((copy.entry.replica, copy.entry.epoch), copy.entry.clone())).collect();
    let mut last: BTreeMap<i32, &JobPlacement> = BTreeMap::new();
    for entry in before {
        let kept = last.entry(entry.replica).or_insert(entry);
        if entry.epoch > kept.epoch {
            *kept = entry;
        }
    }
    for (replica, entry) in last {
        let newest = entries.range((replica, i64::MIN)..=(replica, i64::MAX)).next_back().map(|((_, epoch), _)| *epoch);
        if newest.is_none_or(|newest| newest < entry.epoch) {
            let over = matches!(entry.state, PlacementState::Released | PlacementState::Refused);
            let state = if over { entry.state } else { PlacementState::Released };
            entries.insert((replica, entry.epoch), JobPlacement { state, ..entry.clone() });
        }
    }
    // Of too many, the oldest copies go; the newest of a replica carries its epoch.
    while entries.len() > MOST {
        let Some(key) = entries.keys().copied().find(|(replica, epoch)| {
            entries.range((*replica, epoch.saturating_add(1))..=(*replica, i64::MAX)).next().is_some()
        }) else {
            break;
        };
        entries.remove(&key);
    }
    entries.into_values().collect()
}

/// The highest epoch that a job's status remembers for a replica.
#[must_use]
pub fn highest(status: Option<&InferenceJobStatus>, replica: u32) -> u64 {
    let entries = status.map(|status| status.placements.as_slice()).unwrap_or_default();
    let of_replica = entries.iter().filter(|entry| u32::try_from(entry.replica).ok() == Some(replica));
    of_replica.filter_map(|entry| u64::try_from(entry.epoch).ok()).max().unwrap_or(0)
}

fn placed_verdict(job: &InferenceJob, picture: &Picture<'_>, placed: usize) -> Verdict {
    let wanted = usize::try_from(job.spec.replicas).unwrap_or(0);
    for verdict in [&picture.checked.accepted, &picture.checked.approved] {
        if verdict.status != ConditionStatus::True {
            return Verdict::no(verdict.reason, verdict.message.clone());
        }
    }
    if wanted == 0 {
        return Verdict::yes(Reason::ScaledToZero, "no replica is wanted");
    }
    if placed >= wanted {
        let hosts: BTreeSet<&str> =
            picture.copies.iter().filter(|c| c.placed()).map(|c| c.entry.member.as_str()).collect();
        let hosts = hosts.into_iter().collect::<Vec<_>>().join(", ");
        return Verdict::yes(Reason::AllPlaced, format!("{placed} of {wanted} replicas have their GPUs: {hosts}"));
    }
    let mut verdict = picture.unplaced.values().next().map_or_else(|| asked(picture), unplaced);
    let refused: Vec<&Shown> =
        picture.copies.iter().filter(|copy| copy.entry.state == PlacementState::Refused && !copy.renewed).collect();
    if verdict.reason == Reason::NoCapacity && !refused.is_empty() {
        verdict.reason = Reason::RefusedByHosts;
    }
    if placed > 0 {
        verdict = Verdict::no(
            Reason::PartlyPlaced,
            format!("{placed} of {wanted} replicas have their GPUs; {}", verdict.message),
        );
    }
    verdict
}

fn asked(picture: &Picture<'_>) -> Verdict {
    let waiting = picture.copies.iter().find(|copy| copy.renewed && !copy.placed());
    match waiting {
        Some(copy) => {
            let entry = &copy.entry;
            let replacing =
                picture.copies.iter().any(|old| old.entry.replica == entry.replica && old.entry.epoch < entry.epoch);
            let reason = if replacing { Reason::Replacing } else { Reason::AwaitingGrant };
            Verdict::no(
                reason,
                format!("{} was asked for replica {} under epoch {}", entry.member, entry.replica, entry.epoch),
            )
        }
        None => Verdict::no(Reason::Replacing, "the former host is left before another one is asked"),
    }
}

fn unplaced(why: &Unplaced) -> Verdict {
    match why {
        Unplaced::Isolated => Verdict::no(
            Reason::Isolated,
            "fewer than a quorum of members are heard: what runs goes on, nothing new is placed; check the own network",
        ),
        Unplaced::AwaitingOldLease => Verdict::no(
            Reason::Replacing,
            "onPartition is StopWhenLeaseLapses: the lease of the former copy and a margin pass before another is asked",
        ),
        Unplaced::Frozen(by) => {
            Verdict::no(Reason::ReleaseFrozen, format!("no new copy of the model begins, by {by}; what runs goes on"))
        }
        Unplaced::Ending => Verdict::no(Reason::Deleting, "this cluster's membership is being wound up"),
        Unplaced::NoHost(report) => Verdict::no(no_host(report), report.to_string()),
    }
}

fn no_host(report: &PlanReport) -> Reason {
    let rejections: Vec<&Rejection> = report
        .findings
        .values()
        .filter_map(|finding| match finding {
            Finding::Rejected(rejection) => Some(rejection),
            Finding::Fits(_) => None,
        })
        .collect();
    let all = |is: fn(&Rejection) -> bool| !rejections.is_empty() && rejections.iter().all(|rejection| is(rejection));
    let any = |is: fn(&Rejection) -> bool| rejections.iter().any(|rejection| is(rejection));
    // Of a member that may not work with others nothing else matters.
    if let Some(Rejection::HomeHalted(halted)) = rejections.iter().find(|r| matches!(r, Rejection::HomeHalted(_))) {
        return (*halted).into();
    }
    if report.larger_than_any_node() {
        Reason::ExceedsLargestNode
    } else if any(|r| matches!(r, Rejection::RefusedLately(_))) {
        Reason::RefusedByHosts
    } else if any(|r| matches!(r, Rejection::TooFewFree { .. } | Rejection::OnProbation { .. })) {
        Reason::NoCapacity
    } else if all(|r| matches!(r, Rejection::NoOffer)) {
        Reason::NoOffers
    } else if all(|r| matches!(r, Rejection::NoClass | Rejection::NoOffer)) {
        Reason::ClassUnknown
    } else {
        Reason::NoEligibleMember
    }
}

/// Which copies their hosts take the GPUs from. Nothing is said where that was never so.
fn reclaiming_verdict(job: &InferenceJob, picture: &Picture<'_>, foretold: bool) -> Option<Verdict> {
    let ending = picture.copies.iter().filter(|copy| copy.renewed);
    let ending: Vec<String> = ending
        .filter_map(|copy| Some((&copy.entry, copy.ending.as_ref()?)))
        .map(|(entry, when)| format!("{} ends replica {} {when}", entry.member, entry.replica))
        .collect();
    if ending.is_empty() {
        return foretold.then(|| Verdict::no(Reason::NothingReclaimed, "no host takes GPUs back from this job"));
    }
    let (count, wanted) = (ending.len(), job.spec.replicas);
    let message =
        format!("{count} of {wanted} replicas lose their GPUs and are placed anew then: {}", ending.join(", "));
    Some(Verdict::yes(Reason::Reclaimed, message))
}

fn ready_verdict(job: &InferenceJob, picture: &Picture<'_>, routable: usize, placed: &Verdict) -> Verdict {
    let wanted = usize::try_from(job.spec.replicas).unwrap_or(0);
    if routable > 0 {
        let hosts: BTreeSet<&str> =
            picture.copies.iter().filter(|c| c.routable).map(|c| c.entry.member.as_str()).collect();
        let hosts = hosts.into_iter().collect::<Vec<_>>().join(", ");
        return Verdict::yes(Reason::Routable, format!("{routable} of {wanted} replicas are routable: {hosts}"));
    }
    if placed.status != ConditionStatus::True || wanted == 0 {
        return Verdict::no(placed.reason, placed.message.clone());
    }
    let waiting = picture.copies.iter().filter(|copy| copy.placed()).find_map(|copy| copy.waiting.clone());
    let (reason, message) = waiting.unwrap_or((Reason::NotReady, "no replica is routable yet".to_owned()));
    Verdict::no(reason, message)
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
#[path = "inferencejob_status_tests.rs"]
mod tests;
