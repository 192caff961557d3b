//! `Placement` at home: what one copy looks like to its home, and what its status says. Pure.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use koinon_api::Placement;
use koinon_api::conditions::{self, ConditionType, Reason, Verdict};
use koinon_api::placement::{PlacementState, PlacementStatus, Side};
use koinon_core::body::latest::{Grant, GrantState, Grants, RefusalReason};
use koinon_core::ids::{Epoch, MemberId, ObjectUid, ReplicaIndex, Seconds, UnixSeconds};
use koinon_core::placement::home::{Answer, Because, CopyView, Hearing};
use koinon_core::policy::Halted;

use crate::peers::{Heard, Liveness, PeersSnapshot};
use crate::placement::rules::Rules;

/// What a host last said, and when that was heard.
#[derive(Clone, Copy, Debug)]
pub struct Word<'a> {
    /// The complete list.
    pub grants: &'a Grants,
    /// When it was heard, by the own monotonic clock.
    pub heard_at: Duration,
}

impl<'a> Word<'a> {
    /// What was heard of a member.
    #[must_use]
    pub fn of(heard: &'a Heard<Grants>) -> Self {
        Self { grants: &heard.body, heard_at: heard.heard_at }
    }

    /// What it says of one copy.
    #[must_use]
    pub fn about(&self, job: &ObjectUid, replica: ReplicaIndex, epoch: Epoch) -> Option<&'a Grant> {
        let mut grants = self.grants.grants.iter();
        grants.find(|grant| &grant.job_uid == job && grant.replica == replica && grant.epoch == epoch)
    }
}

/// Both clocks of one moment.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The time of day.
    pub unix: UnixSeconds,
    /// Time since an arbitrary start.
    pub monotonic: Duration,
}

impl Now {
    /// The time of day as Kubernetes writes it.
    #[must_use]
    pub fn time(&self) -> Time {
        koinon_api::time::from_unix(self.unix.0).unwrap_or_else(|| Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH))
    }
}

/// A copy, its Placement, and what its host says.
#[derive(Clone, Debug)]
pub struct Copy<'a> {
    /// The object.
    pub placement: &'a Placement,
    /// Which replica.
    pub replica: ReplicaIndex,
    /// What its host says of it now; `None` if it says nothing, or nothing was heard.
    pub grant: Option<&'a Grant>,
    /// Whether the host's list was heard, and says nothing of it.
    pub unlisted: bool,
    /// What ends it, if the cooperative lets its host or this home do no work.
    pub halt: Option<Halt>,
    /// How the protocol sees it.
    pub view: CopyView,
}

/// Looks at one copy. `None` for an object that is no copy of ours: at home only this operator writes Placements, so
/// that would be a person's.
#[must_use]
pub fn copy<'a>(
    placement: &'a Placement,
    rules: &Rules,
    peers: &PeersSnapshot,
    word: Option<Word<'a>>,
    progress_deadline: Seconds,
    now: Now,
) -> Option<Copy<'a>> {
    let spec = &placement.spec;
    if spec.side != Side::Home || spec.home != rules.me().as_str() {
        return None;
    }
    let host: MemberId = spec.host.parse().ok()?;
    let job: ObjectUid = spec.job.uid.parse().ok()?;
    let replica = ReplicaIndex(u32::try_from(spec.replica).ok()?);
    let epoch = Epoch(u64::try_from(spec.epoch).ok()?);
    let stopped = renewal_stopped(placement);
    let grant = word.and_then(|word| word.about(&job, replica, epoch));
    let answer = match word {
        Some(_) => grant.map(|grant| Answer { state: grant.state, reason: grant.reason }),
        // Nothing heard since this replica leads: what was heard before it stands in the status.
        None => remembered(placement),
    };
    let halt = Halt::between(&host, rules);
    let mut hearing = hearing(&host, halt.as_ref(), rules, peers, now);
    if let Some(stopped) = stopped
        && matches!(hearing, Hearing::Local | Hearing::Fresh)
        && !word.is_some_and(|word| heard_after(word, stopped, now))
    {
        // What it said before it was left out says nothing about whether it has noticed.
        hearing = Hearing::Suspect;
    }
    let answer = match answer {
        Some(answer) if stopped.is_none() && overdue(placement, answer, progress_deadline, now) => {
            Some(Answer { state: GrantState::Draining, reason: Some(RefusalReason::EngineFailed) })
        }
        answer => answer,
    };
    let routable =
        placement.status.as_ref().is_some_and(|s| conditions::is_true(&s.conditions, ConditionType::Routable));
    let unanswered = answer.is_none() && stopped.is_none() && is_ignored(placement, &host, rules, peers, now);
    let unlisted = word.is_some() && grant.is_none();
    let view = CopyView { epoch, host, hearing, renewal_stopped_at: stopped, routable, answer, unanswered };
    Some(Copy { placement, replica, grant, unlisted, halt, view })
}

/// For how long copies stay at a host that is quarantined: the notice that a pool gives unless its owner says otherwise.
const PATIENCE: Seconds = Seconds(3600);

/// Why a copy that runs, or was asked for, ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// Who may not work.
    pub member: MemberId,
    /// Why.
    pub why: Halted,
}

impl Halt {
    /// What ends copies of this home at `host`, if anything does.
    fn between(host: &MemberId, rules: &Rules) -> Option<Self> {
        let me = rules.me();
        let of = |member: &MemberId| rules.halted(member).map(|why| Self { member: member.clone(), why });
        if host == me {
            // An own copy on own GPUs is nobody else's business, for as long as this is a member at all.
            return of(me).filter(|halt| halt.why.is_gone());
        }
        let ends = |halt: &Self| halt.why.ends_what_runs();
        // A host that is quarantined gives its pool's notice. One that does not is not waited for.
        let due = |halt: &Self| rules.quarantined_for(host).is_some_and(|known| known >= PATIENCE) || ends(halt);
        of(host).filter(due).or_else(|| of(me).filter(ends))
    }
}

/// Whether the host was heard for long enough to answer and has not: it may be unable to, or not want to say so.
fn is_ignored(placement: &Placement, host: &MemberId, rules: &Rules, peers: &PeersSnapshot, now: Now) -> bool {
    let parameters = rules.parameters();
    let deadline = Seconds(parameters.lease_seconds.0.saturating_add(parameters.lease_margin_seconds.0));
    let long = Duration::from_secs(u64::try_from(deadline.0).unwrap_or(u64::MAX));
    // A host that was silent until a moment ago has not had its time.
    let heard = host == rules.me()
        || peers
            .members
            .get(host)
            .is_some_and(|peer| peer.liveness == Liveness::Fresh && now.monotonic.saturating_sub(peer.since) > long);
    let status = placement.status.as_ref();
    let granted = status.and_then(|status| conditions::find(&status.conditions, ConditionType::Granted));
    let asked = granted
        .filter(|granted| granted.status == "Unknown")
        .map(|granted| koinon_api::time::to_unix(&granted.last_transition_time));
    heard && asked.is_some_and(|asked| now.unix.since(UnixSeconds(asked)) > deadline)
}

fn hearing(host: &MemberId, halt: Option<&Halt>, rules: &Rules, peers: &PeersSnapshot, now: Now) -> Hearing {
    match halt {
        Some(halt) if halt.why.is_gone() => return Hearing::Gone,
        Some(_) => return Hearing::Halted,
        None if host == rules.me() => return Hearing::Local,
        None => {}
    }
    let Some(peer) = peers.members.get(host) else { return Hearing::Suspect };
    match peer.liveness {
        Liveness::Own => Hearing::Local,
        Liveness::Fresh => Hearing::Fresh,
        Liveness::Suspect => Hearing::Suspect,
        // When our own cut is mended, whoever is heard second seems lost until it is heard too.
        Liveness::Lost if now.monotonic.saturating_sub(peer.since) < settled(rules) => Hearing::Suspect,
        Liveness::Lost => Hearing::Lost,
    }
}

/// How long a loss must have lasted before anything is placed anew for it: as long as a member may be silent and Fresh.
fn settled(rules: &Rules) -> Duration {
    Duration::from_secs(u64::try_from(rules.parameters().fresh_seconds.0).unwrap_or(0))
}

/// Since when the home durably no longer renews it.
#[must_use]
pub fn renewal_stopped(placement: &Placement) -> Option<UnixSeconds> {
    let renewed = conditions::find(&placement.status.as_ref()?.conditions, ConditionType::Renewed)?;
    (renewed.status == "False").then(|| UnixSeconds(koinon_api::time::to_unix(&renewed.last_transition_time)))
}

fn heard_after(word: Word<'_>, stopped: UnixSeconds, now: Now) -> bool {
    let ago = now.monotonic.saturating_sub(word.heard_at).as_secs();
    let heard = now.unix.minus(Seconds(i64::try_from(ago).unwrap_or(i64::MAX)));
    heard > stopped
}

/// Whether the copy has had its time to become Ready. It counts from when it last was not.
fn overdue(placement: &Placement, answer: Answer, deadline: Seconds, now: Now) -> bool {
    if !matches!(answer.state, GrantState::Granted | GrantState::Loading) {
        return false;
    }
    let status = placement.status.as_ref();
    let ready = status.and_then(|status| conditions::find(&status.conditions, ConditionType::Ready));
    let since = ready
        .filter(|ready| ready.status != "True")
        .map(|ready| koinon_api::time::to_unix(&ready.last_transition_time));
    since.is_some_and(|since| now.unix.since(UnixSeconds(since)) > deadline)
}

fn remembered(placement: &Placement) -> Option<Answer> {
    let state = match placement.status.as_ref()?.state? {
        PlacementState::Requested => return None,
        PlacementState::Granted => GrantState::Granted,
        PlacementState::Loading => GrantState::Loading,
        PlacementState::Ready => GrantState::Ready,
        PlacementState::Draining => GrantState::Draining,
        PlacementState::Released => GrantState::Released,
        PlacementState::Refused => GrantState::Refused,
    };
    Some(Answer { state, reason: None })
}

/// What a home decided about a copy in one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// Take the route away.
    pub withdraw: Option<Because>,
    /// Leave it out of the lists.
    pub stop: Option<Because>,
    /// Let the gateways route to it.
    pub route: bool,
}

/// The reason that a condition shows for why something was done.
#[must_use]
pub fn reason(because: Because) -> Reason {
    match because {
        Because::NotWanted => Reason::NoLongerWanted,
        Because::HostLost => Reason::HostLost,
        Because::HostGone | Because::Halted => Reason::MemberNotUsable,
        Because::NoAnswer => Reason::HostDoesNotAnswer,
        Because::Refused(reason) | Because::EndedByHost(reason) => reason.into(),
        Because::KeptAway => RefusalReason::OutsideRules.into(),
        Because::NotReady => Reason::NotReady,
        Because::Superseded | Because::OldCopyBack => Reason::EpochFenced,
        Because::Ready => Reason::Routable,
        Because::NoCopy => Reason::AwaitingGrant,
    }
}

/// The status of a copy after one look.
#[must_use]
pub fn status(copy: &Copy<'_>, decided: Decided, gateway: Option<String>, now: Now) -> PlacementStatus {
    let time = now.time();
    let generation = copy.placement.metadata.generation;
    let mut next = copy.placement.status.clone().unwrap_or_default();
    let host = &copy.view.host;
    next.observed_generation = generation;
    if let Some(grant) = copy.grant {
        next.state = Some(grant.state.into());
        next.reason = grant.reason.map(|reason| Reason::from(reason).as_str().to_owned());
        next.numbers = told_numbers(grant).map(|(name, number)| (name.to_owned(), number)).collect();
        next.loaded_bytes = grant.loaded_bytes.map(|bytes| i64::try_from(bytes.0).unwrap_or(i64::MAX));
        next.total_bytes = grant.total_bytes.map(|bytes| i64::try_from(bytes.0).unwrap_or(i64::MAX));
    } else if next.state.is_none() {
        next.state = Some(PlacementState::Requested);
    }
    if let Some(gateway) = gateway {
        next.gateway = Some(gateway);
    }
    let was_foretold = conditions::is_true(&next.conditions, ConditionType::Reclaiming);
    let mut set = |type_, verdict| {
        let _ = conditions::set(&mut next.conditions, type_, verdict, generation, &time);
    };
    match copy.grant {
        Some(grant) => {
            for (type_, verdict) in told(host, grant) {
                set(type_, verdict);
            }
            if let Some((ends_time, verdict)) = foretold(host, grant, was_foretold) {
                set(ConditionType::Reclaiming, verdict);
                next.ends_time = ends_time;
            }
        }
        None if copy.placement.status.is_none() => {
            set(ConditionType::Granted, Verdict::unknown(Reason::AwaitingGrant, format!("{host} was asked")));
            set(ConditionType::Ready, Verdict::no(Reason::AwaitingGrant, format!("{host} has not answered")));
        }
        None if copy.unlisted && copy.view.renewal_stopped_at.is_none() => {
            let silent = format!("{host} says nothing of it");
            set(ConditionType::Granted, Verdict::unknown(Reason::AwaitingGrant, silent.clone()));
            set(ConditionType::Ready, Verdict::no(Reason::AwaitingGrant, silent));
        }
        None => {}
    }
    if let Some(because) = decided.stop {
        set(ConditionType::Renewed, stopped(copy, because));
    } else if copy.view.renewal_stopped_at.is_none() {
        set(ConditionType::Renewed, Verdict::yes(Reason::Renewing, format!("{host} is asked for it in every list")));
    }
    if decided.route {
        set(ConditionType::Routable, Verdict::yes(Reason::Routable, format!("calls go to {host}")));
    } else if let Some(because) = decided.withdraw {
        set(ConditionType::Routable, stopped(copy, because));
    } else if !copy.view.routable && decided.stop.is_none() && copy.view.renewal_stopped_at.is_none() {
        set(ConditionType::Routable, Verdict::no(Reason::NotReady, format!("{host} does not call it Ready yet")));
    }
    next
}

/// What the host's word amounts to.
fn told(host: &MemberId, grant: &Grant) -> Vec<(ConditionType, Verdict)> {
    let why = match grant.reason {
        Some(reason) => (Reason::from(reason), format!("{host} says {reason}{}", numbers(grant))),
        None => (Reason::Other, format!("{host} gives no reason{}", numbers(grant))),
    };
    let granted =
        || Verdict::yes(Reason::Granted, format!("{host} granted it for {} s at a time", grant.lease_seconds));
    let no = || Verdict::no(why.0, why.1.clone());
    match grant.state {
        GrantState::Granted => vec![
            (ConditionType::Granted, granted()),
            (ConditionType::Ready, Verdict::no(Reason::EngineStarting, format!("{host} has reserved its GPUs"))),
        ],
        GrantState::Loading => {
            let loaded = grant.loaded_bytes.unwrap_or_default();
            let of = grant.total_bytes.map_or_else(|| "an unknown number of".to_owned(), |total| total.to_string());
            let progress = format!("{host} has {loaded} of {of} bytes");
            let complete = grant.total_bytes.is_some_and(|total| loaded >= total);
            let verdict = match grant.reason {
                Some(reason) => Verdict::no(reason.into(), format!("{progress}; {reason}{}", numbers(grant))),
                None if complete => Verdict::yes(Reason::WeightsVerified, progress.clone()),
                None => Verdict::no(Reason::WeightsLoading, progress.clone()),
            };
            let not_ready = if complete { Reason::EngineStarting } else { Reason::WeightsLoading };
            vec![
                (ConditionType::Granted, granted()),
                (ConditionType::Loaded, verdict),
                (ConditionType::Ready, Verdict::no(not_ready, progress)),
            ]
        }
        GrantState::Ready => vec![
            (ConditionType::Granted, granted()),
            (ConditionType::Loaded, Verdict::yes(Reason::WeightsVerified, format!("{host} has all weights"))),
            (ConditionType::Ready, Verdict::yes(Reason::EngineReady, format!("the engine at {host} answers"))),
        ],
        GrantState::Draining => vec![(ConditionType::Granted, no()), (ConditionType::Ready, no())],
        GrantState::Released => vec![
            (ConditionType::Granted, no()),
            (ConditionType::Ready, no()),
            (ConditionType::Released, Verdict::yes(Reason::Released, format!("{host} holds nothing of it any more"))),
        ],
        GrantState::Refused => vec![(ConditionType::Granted, no()), (ConditionType::Ready, no())],
    }
}

/// What a host says of the end of a copy that runs: when, and what the condition says. None where it never spoke of one, or where
/// it has come.
fn foretold(host: &MemberId, grant: &Grant, before: bool) -> Option<(Option<Time>, Verdict)> {
    if !matches!(grant.state, GrantState::Granted | GrantState::Loading | GrantState::Ready) {
        return None;
    }
    let Some(ending) = &grant.ending else {
        let stays = || Verdict::no(Reason::NothingReclaimed, format!("{host} no longer ends it: it stays"));
        return before.then(|| (None, stays()));
    };
    // A time that no calendar has is a word about nothing.
    let time = koinon_api::time::from_unix(ending.ends_at.0);
    let when = time.as_ref().map_or_else(|| "soon".to_owned(), |time| format!("at {}", time.0));
    let message = format!("{host} ends it {when} ({}); another host is asked then", ending.reason);
    Some((time, Verdict::yes(ending.reason.into(), message)))
}

/// The numbers of a refusal, as ` (asked 4, largestNode 2)`.
#[must_use]
pub fn numbers(grant: &Grant) -> String {
    let numbers: Vec<String> = told_numbers(grant).map(|(name, number)| format!("{name} {number}")).collect();
    if numbers.is_empty() { String::new() } else { format!(" ({})", numbers.join(", ")) }
}

/// The numbers of a host whose names are names: they come to stand in conditions, events and terminals.
fn told_numbers(grant: &Grant) -> impl Iterator<Item = (&str, i64)> {
    let is_name = |name: &str| (1..=40).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let named = grant.numbers.iter().map(|(name, number)| (name.as_str(), *number));
    named.filter(move |(name, _)| is_name(name)).take(16)
}

/// How far a host's word may raise an epoch at once. A home restored from a backup is behind by as many as it minted since;
/// a host that lies could otherwise name the last number there is, after which no epoch can follow.
const MOST_EPOCHS_AT_ONCE: u64 = 1_000_000;

/// The highest epoch, after a host has named one.
#[must_use]
pub fn believed_highest(most: u64, told: i64) -> u64 {
    let told = u64::try_from(told).unwrap_or(0);
    if told.saturating_sub(most) <= MOST_EPOCHS_AT_ONCE { most.max(told) } else { most }
}

/// Why something ended, with who may not work where that is why.
fn stopped(copy: &Copy<'_>, because: Because) -> Verdict {
    match &copy.halt {
        Some(Halt { member, why }) if matches!(because, Because::Halted | Because::HostGone) => {
            Verdict::no((*why).into(), format!("{member} {why}"))
        }
        _ => Verdict::no(reason(because), stopped_because(&copy.view.host, because)),
    }
}

fn stopped_because(host: &MemberId, because: Because) -> String {
    match because {
        Because::NotWanted => "the job does not want this replica any more".to_owned(),
        Because::HostLost => format!("{host} was silent for so long that the replica is placed elsewhere"),
        Because::HostGone => format!("{host} is no longer a member that hosts"),
        Because::Halted => format!("{host} and this member may not work with each other"),
        Because::KeptAway => {
            format!("the cooperative's placement rules or this owner's limits keep it away from {host}")
        }
        Because::NoAnswer => format!("{host} is heard, had a lease's time to answer, and says nothing of it"),
        Because::Refused(reason) => format!("{host} refused: {reason}"),
        Because::EndedByHost(reason) => format!("{host} ended it: {reason}"),
        Because::NotReady => format!("{host} does not call it Ready any more"),
        Because::Superseded => "a copy with a higher epoch is renewed instead".to_owned(),
        Because::OldCopyBack => "the older copy was back before this one was Ready".to_owned(),
        Because::Ready | Because::NoCopy => String::new(),
    }
}

#[cfg(test)]
#[path = "placement_home_tests.rs"]
mod tests;
