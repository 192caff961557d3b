//! Where a copy stands at its host, from its weights and its pods. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use koinon_api::Placement;
use koinon_api::conditions::{self, ConditionType, Reason, Verdict};
use koinon_api::labels;
use koinon_api::placement::{PlacementState, PlacementStatus};
use koinon_api::reclaim::DRAIN;
use koinon_core::body::latest::RefusalReason;
use koinon_core::ids::{Seconds, UnixSeconds};

use super::placement_home::Now;
use crate::placement::weights::{self, Failure, Weights};

/// An engine that ended this often without ever answering will not do better the next time.
const MOST_RESTARTS: i32 = 5;
/// A source that fails for this long is given up: another host may reach another one.
const WEIGHTS_PATIENCE: Duration = Duration::from_secs(60);
/// An engine that ran for this long works.
const LONG_RUN: Seconds = Seconds(600);

/// Why a copy ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// In the words of the wire.
    pub reason: RefusalReason,
    /// For a person.
    pub message: String,
    /// The numbers that decided, by name: all that its home learns of them.
    pub numbers: BTreeMap<String, i64>,
}

impl End {
    /// An end.
    #[must_use]
    pub fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), numbers: BTreeMap::new() }
    }

    /// The same with a number that decided.
    #[must_use]
    pub fn with(mut self, name: &str, number: impl Into<i64>) -> Self {
        self.numbers.insert(name.to_owned(), number.into());
        self
    }

    /// Whether the copy may run on under a higher epoch after all. What the host itself decided no epoch undoes: a home that
    /// raises it at every look would keep the GPUs for ever.
    #[must_use]
    pub fn may_be_taken_over(&self) -> bool {
        matches!(self.reason, RefusalReason::NoLongerRequested | RefusalReason::LeaseLapsed)
    }

    /// How long its pod may run on.
    fn drain(reason: RefusalReason) -> Seconds {
        match reason {
            RefusalReason::NoLongerRequested
            | RefusalReason::HomeNotActive
            | RefusalReason::HomeHalted
            | RefusalReason::HostHalted
            | RefusalReason::Reclaimed
            | RefusalReason::DeviceUnhealthy
            | RefusalReason::NotApproved => DRAIN,
            // The owner wants everybody out now, the lease is over, or nothing answers anyway.
            _ => Seconds(0),
        }
    }
}

/// What is known about a copy's pods and weights at this moment.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// What the weights cache says of its model; `None` where it does not answer.
    pub weights: Option<&'a Weights>,
    /// For how long it has said nothing but that it fails.
    pub failing: Duration,
    /// Its pods.
    pub pods: &'a [&'a Pod],
    /// Why no pod could be made, in the words of admission.
    pub refused: Option<&'a str>,
    /// Whether the Deployment was asked to run it.
    pub started: bool,
}

/// What a copy is like.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Weights are on their way, or the engine starts.
    Loading {
        /// Why it is not ready.
        reason: Reason,
        /// With the numbers.
        message: String,
        /// Bytes of weights that are here, and in all.
        bytes: (Option<u64>, Option<u64>),
        /// Whether the weights are complete.
        loaded: bool,
    },
    /// The engine answers.
    Ready {
        /// Bytes of weights.
        bytes: Option<u64>,
    },
    /// It will never be.
    Failed(End),
}

/// Looks at a copy that is to run.
#[must_use]
pub fn progress(placement: &Placement, facts: &Facts<'_>) -> Progress {
    let running = facts.pods.iter().find(|pod| is_ready(pod));
    let known = placement.status.as_ref().and_then(|status| status.total_bytes).and_then(|b| u64::try_from(b).ok());
    if running.is_some() {
        // An engine that answers has its weights, whatever the cache has forgotten since.
        let bytes = match facts.weights {
            Some(Weights::Ready { bytes }) => Some(*bytes),
            _ => known,
        };
        return Progress::Ready { bytes };
    }
    let loading = |reason, message: String, bytes, loaded| Progress::Loading { reason, message, bytes, loaded };
    // Once started, the pod has what it needs or waits for it itself.
    match facts.weights {
        _ if facts.started => engine(placement, facts, known),
        None => loading(Reason::CacheUnreachable, "the weights cache does not answer".to_owned(), (None, None), false),
        Some(Weights::Absent) => {
            loading(Reason::WeightsLoading, "the weights cache was asked for the model".to_owned(), (None, None), false)
        }
        Some(Weights::Fetching { bytes, total }) => {
            let of = total.map_or_else(|| "an unknown number of".to_owned(), |total| total.to_string());
            let message = format!("{bytes} of {of} bytes are here");
            loading(Reason::WeightsLoading, message, (Some(*bytes), *total), false)
        }
        Some(Weights::Ready { bytes }) => {
            let bytes = (Some(*bytes), Some(*bytes));
            loading(Reason::EngineStarting, "the weights are complete".to_owned(), bytes, true)
        }
        Some(Weights::Failed(failure)) => failed(failure, facts.failing),
    }
}

fn failed(failure: &Failure, failing: Duration) -> Progress {
    let reason = weights::shown(failure.reason);
    let refusal = match reason {
        Reason::DigestMismatch => RefusalReason::DigestMismatch,
        _ => RefusalReason::WeightsFailed,
    };
    let end = || Progress::Failed(End::new(refusal, failure.message.clone()));
    if weights::is_final(failure.reason) {
        return end();
    }
    // A source that fails once, hours into a download, has earned the same patience: what came is kept.
    if failing > WEIGHTS_PATIENCE {
        return end();
    }
    Progress::Loading { reason, message: failure.message.clone(), bytes: (None, None), loaded: false }
}

fn engine(placement: &Placement, facts: &Facts<'_>, bytes: Option<u64>) -> Progress {
    let bytes = (bytes, bytes);
    let loading = |reason, message: String| Progress::Loading { reason, message, bytes, loaded: true };
    let Some(pod) = facts.pods.iter().find(|pod| pod.metadata.deletion_timestamp.is_none()) else {
        return match facts.refused {
            Some(why) => loading(Reason::PodRefused, why.to_owned()),
            None => loading(Reason::EngineStarting, "its pod is being made".to_owned()),
        };
    };
    let status = pod.status.as_ref();
    let containers = || {
        let init = status.and_then(|status| status.init_container_statuses.as_ref());
        let main = status.and_then(|status| status.container_statuses.as_ref());
        init.into_iter().chain(main).flatten()
    };
    let engine = containers().find(|container| container.name == labels::ENGINE_CONTAINER);
    if let Some(engine) = engine.filter(|engine| engine.restart_count >= MOST_RESTARTS && !ran_long(engine)) {
        let message =
            format!("the engine ended {} times without answering{}", engine.restart_count, last_words(engine));
        return Progress::Failed(End::new(RefusalReason::EngineFailed, message));
    }
    let weights = containers().find(|container| container.name == labels::WEIGHTS_CONTAINER);
    if let Some(weights) = weights.filter(|weights| weights.restart_count >= MOST_RESTARTS) {
        let message = format!("copying the weights failed {} times{}", weights.restart_count, last_words(weights));
        return Progress::Failed(End::new(RefusalReason::WeightsFailed, message));
    }
    for container in containers() {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        let Some(waiting) = waiting else { continue };
        let message = format!("{}: {}", container.name, waiting.message.clone().unwrap_or_default());
        match waiting.reason.as_deref() {
            Some("ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull") => {
                return loading(Reason::ImagePullFailed, message);
            }
            Some("CrashLoopBackOff" | "CreateContainerError" | "CreateContainerConfigError" | "RunContainerError") => {
                return loading(Reason::EngineFailed, format!("{message}{}", last_words(container)));
            }
            _ => {}
        }
    }
    let scheduled = status.and_then(|status| status.conditions.as_ref()).and_then(|conditions| {
        conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
    });
    if let Some(scheduled) = scheduled {
        return loading(Reason::Unschedulable, scheduled.message.clone().unwrap_or_default());
    }
    let was_ready = placement.status.as_ref().is_some_and(|s| conditions::is_true(&s.conditions, ConditionType::Ready));
    if was_ready {
        return loading(Reason::NotReady, "the engine no longer answers its probe".to_owned());
    }
    loading(Reason::EngineStarting, "the engine starts".to_owned())
}

/// Whether a container ran for so long before it last ended that its earlier ends no longer count. The kubelet forgets its
/// back-off after the same time.
fn ran_long(container: &ContainerStatus) -> bool {
    let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let times = ended.and_then(|ended| ended.started_at.as_ref().zip(ended.finished_at.as_ref()));
    times.is_some_and(|(began, ended)| {
        koinon_api::time::to_unix(ended).saturating_sub(koinon_api::time::to_unix(began)) >= LONG_RUN.0
    })
}

fn last_words(container: &ContainerStatus) -> String {
    let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    match ended {
        Some(ended) => {
            let said = ended.message.clone().or_else(|| ended.reason.clone()).unwrap_or_default();
            // A guest's words stand in the owner's status: a line of them is enough.
            let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
            format!(", last with code {}: {said}", ended.exit_code)
        }
        None => String::new(),
    }
}

/// Whether the pod serves.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.is_some_and(|all| all.iter().any(|ready| ready.type_ == "Ready" && ready.status == "True"))
}

/// When the copy was granted under its present epoch, by this host's clock.
#[must_use]
pub fn granted_at(status: &PlacementStatus) -> Option<UnixSeconds> {
    let granted =
        conditions::find(&status.conditions, ConditionType::Granted).filter(|granted| granted.status == "True");
    granted.map(|granted| UnixSeconds(koinon_api::time::to_unix(&granted.last_transition_time)))
}

/// Why it ends, in the words of the wire.
#[must_use]
pub fn ending(status: &PlacementStatus) -> Option<RefusalReason> {
    let reason: Reason = status.reason.as_ref()?.parse().ok()?;
    RefusalReason::ALL.iter().copied().find(|refusal| Reason::from(*refusal) == reason)
}

/// When it began to end.
#[must_use]
pub fn ended_at(status: &PlacementStatus) -> Option<UnixSeconds> {
    let granted =
        conditions::find(&status.conditions, ConditionType::Granted).filter(|granted| granted.status == "False");
    granted.map(|granted| UnixSeconds(koinon_api::time::to_unix(&granted.last_transition_time)))
}

/// Whether its pod has had its time.
#[must_use]
pub fn drained(status: &PlacementStatus, now: Now) -> bool {
    let since = ended_at(status);
    let drain = End::drain(ending(status).unwrap_or(RefusalReason::Other));
    since.is_none_or(|since| now.unix.since(since) >= drain)
}

/// The status of a copy that was just granted, or granted anew under a higher epoch.
#[must_use]
pub fn granted(before: Option<&PlacementStatus>, lease: Seconds, generation: Option<i64>, now: Now) -> PlacementStatus {
    let mut next = before.cloned().unwrap_or_default();
    // The lease counts from this grant, so its time must be new even where the condition was true before.
    next.conditions.retain(|condition| condition.type_ != ConditionType::Granted.as_str());
    next.state = before.and_then(|status| status.state).or(Some(PlacementState::Granted));
    let verdict = Verdict::yes(Reason::Granted, format!("its GPUs are reserved, for {lease} s from each renewal"));
    let _ = conditions::set(&mut next.conditions, ConditionType::Granted, verdict, generation, &now.time());
    next
}

/// The status of a copy that is to run.
#[must_use]
pub fn running(placement: &Placement, progress: &Progress, gateway: Option<String>, now: Now) -> PlacementStatus {
    let mut next = placement.status.clone().unwrap_or_default();
    let generation = placement.metadata.generation;
    next.observed_generation = generation;
    let whole = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let (state, loaded, ready) = match progress {
        Progress::Loading { reason, message, bytes, loaded } => {
            next.loaded_bytes = bytes.0.map(whole).or(next.loaded_bytes);
            next.total_bytes = bytes.1.map(whole).or(next.total_bytes);
            let weights = if *loaded {
                Verdict::yes(Reason::WeightsVerified, "the weights are complete and verified")
            } else {
                Verdict::no(*reason, message.clone())
            };
            next.reason = Some(reason.as_str().to_owned());
            (PlacementState::Loading, weights, Verdict::no(*reason, message.clone()))
        }
        Progress::Ready { bytes } => {
            next.loaded_bytes = bytes.map(whole).or(next.loaded_bytes);
            next.total_bytes = bytes.map(whole).or(next.total_bytes);
            next.reason = None;
            let weights = Verdict::yes(Reason::WeightsVerified, "the weights are complete and verified");
            (PlacementState::Ready, weights, Verdict::yes(Reason::EngineReady, "the engine answers"))
        }
        Progress::Failed(end) => return ended(placement, end, now),
    };
    next.state = Some(state);
    next.gateway = gateway.or(next.gateway);
    for (type_, verdict) in [(ConditionType::Loaded, loaded), (ConditionType::Ready, ready)] {
        let _ = conditions::set(&mut next.conditions, type_, verdict, generation, &now.time());
    }
    next
}

/// The status of a copy that begins to end.
#[must_use]
pub fn ended(placement: &Placement, end: &End, now: Now) -> PlacementStatus {
    let mut next = placement.status.clone().unwrap_or_default();
    let generation = placement.metadata.generation;
    next.observed_generation = generation;
    next.state = Some(PlacementState::Draining);
    let reason = Reason::from(end.reason);
    next.reason = Some(reason.as_str().to_owned());
    next.numbers = end.numbers.clone();
    for type_ in [ConditionType::Granted, ConditionType::Ready] {
        let _ = conditions::set(
            &mut next.conditions,
            type_,
            Verdict::no(reason, end.message.clone()),
            generation,
            &now.time(),
        );
    }
    next
}

/// An end that is announced to a copy that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// When it begins to end.
    pub at: UnixSeconds,
    /// Why, with the numbers.
    pub why: String,
}

/// Says in the status of a copy that runs whether its owner takes the GPUs back, and by when.
pub fn announce(next: &mut PlacementStatus, announced: Option<&Announced>, generation: Option<i64>, now: Now) {
    let verdict = match announced {
        Some(announced) => {
            next.ends_time = koinon_api::time::from_unix(announced.at.0);
            let until = next.ends_time.as_ref().map_or_else(|| "now".to_owned(), |time| time.0.to_string());
            Verdict::yes(
                Reason::Reclaimed,
                format!("the owner takes its GPUs back, it runs until {until}: {}", announced.why),
            )
        }
        // Whoever was never told need not hear that it stays.
        None if !conditions::is_true(&next.conditions, ConditionType::Reclaiming) => return,
        None => {
            next.ends_time = None;
            Verdict::no(Reason::NothingReclaimed, "the owner no longer takes its GPUs back: it stays")
        }
    };
    let _ = conditions::set(&mut next.conditions, ConditionType::Reclaiming, verdict, generation, &now.time());
}

/// The status of a copy that holds nothing any more.
#[must_use]
pub fn released(placement: &Placement, now: Now) -> PlacementStatus {
    let mut next = placement.status.clone().unwrap_or_default();
    let generation = placement.metadata.generation;
    next.observed_generation = generation;
    next.state = Some(PlacementState::Released);
    let verdict = Verdict::yes(Reason::Released, "its pods are gone and its GPUs are free");
    let _ = conditions::set(&mut next.conditions, ConditionType::Released, verdict, generation, &now.time());
    next
}

/// Since when a copy has held nothing.
#[must_use]
pub fn released_at(placement: &Placement) -> Option<UnixSeconds> {
    let released = conditions::find(&placement.status.as_ref()?.conditions, ConditionType::Released)?;
    (released.status == "True").then(|| UnixSeconds(koinon_api::time::to_unix(&released.last_transition_time)))
}

#[cfg(test)]
#[path = "placement_host_state_tests.rs"]
mod tests;
