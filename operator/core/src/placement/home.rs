//! What a home does about one replica of a job: route, withdraw, stop renewing, ask elsewhere, forget.
//!
//! The order is what keeps two copies from being routed to: the route is withdrawn and renewing has durably stopped
//! before anybody else is asked. Two copies may run; only the highest epoch that the home renews is ever routed.

use crate::body::latest::{GrantState, OnPartition, RefusalReason};
use crate::ids::{Epoch, MemberId, Seconds, UnixSeconds};

/// How the home hears a copy's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hearing {
    /// The home is the host.
    Local,
    /// Heard lately.
    Fresh,
    /// Silent for a while: the copy keeps its route, because unreachable is not dead.
    Suspect,
    /// Silent for so long that the replica is placed elsewhere.
    Lost,
    /// It does no work with this home, or this home none with others: what it runs ends, and what it says of it is not heard.
    Halted,
    /// No longer a member.
    Gone,
}

/// What the host last said of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Where it stands.
    pub state: GrantState,
    /// Why, when refused or ended.
    pub reason: Option<RefusalReason>,
}

/// One copy as the home's own objects and the host's last word show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyView {
    /// Its epoch.
    pub epoch: Epoch,
    /// Who hosts it.
    pub host: MemberId,
    /// How that host is heard.
    pub hearing: Hearing,
    /// When the home durably stopped renewing it.
    pub renewal_stopped_at: Option<UnixSeconds>,
    /// Whether the home's gateways may route to it.
    pub routable: bool,
    /// What the host last said; `None` before its first answer and after it no longer lists the copy.
    pub answer: Option<Answer>,
    /// The host is heard, had its time to answer, and says nothing of the copy.
    pub unanswered: bool,
}

impl CopyView {
    fn renewing(&self) -> bool {
        self.renewal_stopped_at.is_none()
    }

    fn answered(&self, state: GrantState) -> bool {
        self.answer.is_some_and(|answer| answer.state == state)
    }

    fn reachable(&self) -> bool {
        matches!(self.hearing, Hearing::Local | Hearing::Fresh)
    }

    /// Why the home must give this copy up, if it must.
    fn given_up(&self) -> Option<Because> {
        if matches!(self.hearing, Hearing::Lost) {
            return Some(Because::HostLost);
        }
        if matches!(self.hearing, Hearing::Gone) {
            return Some(Because::HostGone);
        }
        if matches!(self.hearing, Hearing::Halted) {
            return Some(Because::Halted);
        }
        let Some(answer) = self.answer else { return self.unanswered.then_some(Because::NoAnswer) };
        match answer.state {
            GrantState::Refused => Some(Because::Refused(answer.reason.unwrap_or(RefusalReason::Other))),
            GrantState::Draining | GrantState::Released => {
                Some(Because::EndedByHost(answer.reason.unwrap_or(RefusalReason::Other)))
            }
            GrantState::Granted | GrantState::Loading | GrantState::Ready => None,
        }
    }
}

/// One replica and all its copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaView {
    /// Whether the job still wants this replica.
    pub wanted: bool,
    /// Its copies in any order.
    pub copies: Vec<CopyView>,
    /// The highest epoch that the home ever minted or a host ever named for it.
    pub highest: Epoch,
    /// What the job says about partitions.
    pub on_partition: OnPartition,
    /// The lease time.
    pub lease: Seconds,
    /// What the home waits beyond it.
    pub margin: Seconds,
}

/// Why a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Because {
    /// The job no longer wants the replica.
    NotWanted,
    /// The host is Lost.
    HostLost,
    /// The host is no longer a member.
    HostGone,
    /// The host or the home may not work.
    Halted,
    /// A vote or the home's owner no longer lets its work be there.
    KeptAway,
    /// The host refused.
    Refused(RefusalReason),
    /// The host ended it.
    EndedByHost(RefusalReason),
    /// The host had its time to answer and says nothing of it.
    NoAnswer,
    /// The host does not call it Ready any more.
    NotReady,
    /// A copy with a higher epoch is renewed.
    Superseded,
    /// The copy that was given up is back before this one was Ready.
    OldCopyBack,
    /// The host calls it Ready.
    Ready,
    /// No copy is renewed.
    NoCopy,
}

/// One thing to do, in the order given. Each is idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Take the route away, durably.
    Withdraw {
        /// From which copy.
        epoch: Epoch,
        /// Why.
        because: Because,
    },
    /// Leave the copy out of every further list, durably.
    StopRenewing {
        /// Which copy.
        epoch: Epoch,
        /// Why.
        because: Because,
    },
    /// Let the gateways route to the copy.
    Route {
        /// Which copy.
        epoch: Epoch,
    },
    /// Store a new epoch and ask a host for a copy under it.
    Mint {
        /// The epoch to store.
        epoch: Epoch,
        /// The host whose running copy is taken over, where there is one; otherwise the planner chooses.
        take_over: Option<MemberId>,
    },
    /// Delete the home's object of a copy that is over.
    Forget {
        /// Which copy.
        epoch: Epoch,
    },
}

/// What to do now.
///
/// # Guarantees
/// - At most one copy is routable after the steps, if at most one was before.
/// - A new epoch is minted only when no copy is renewed, and higher than any seen.
/// - Nothing is minted while `isolated`; what runs is kept.
/// - For `StopWhenLeaseLapses` a new epoch waits one lease and margin after renewing stopped, unless the host said
///   that the old copy is gone.
#[must_use]
pub fn next(view: &ReplicaView, now: UnixSeconds, isolated: bool) -> Vec<Step> {
    let mut copies: Vec<&CopyView> = view.copies.iter().collect();
    copies.sort_by_key(|copy| copy.epoch);
    let mut steps = Vec::new();
    if !view.wanted {
        for copy in copies {
            end(copy, Because::NotWanted, &mut steps);
            if !copy.renewing() && (over(copy) || may_be_forgotten(view, copy, now)) {
                steps.push(Step::Forget { epoch: copy.epoch });
            }
        }
        return steps;
    }
    let current = copies.iter().rev().find(|copy| copy.renewing()).copied();
    for copy in copies.iter().filter(|copy| Some(copy.epoch) != current.map(|current| current.epoch)) {
        end(copy, Because::Superseded, &mut steps);
        // From whoever is no member, or may not work, no word of an end is heard.
        let silenced = matches!(copy.hearing, Hearing::Gone | Hearing::Halted);
        let is_over = over(copy) || silenced && may_be_forgotten(view, copy, now);
        if !copy.renewing() && is_over {
            steps.push(Step::Forget { epoch: copy.epoch });
        }
    }
    match current {
        Some(copy) => follow(&copies, copy, isolated, &mut steps),
        None => {
            if !isolated && steps.iter().all(|step| matches!(step, Step::Forget { .. })) {
                mint(view, &copies, now, &mut steps);
            }
        }
    }
    steps
}

fn follow(copies: &[&CopyView], copy: &CopyView, isolated: bool, steps: &mut Vec<Step>) {
    // A cut-off home cannot tell a lost host from its own cut; it keeps the route that it has.
    let given_up = copy.given_up().filter(|because| !(isolated && matches!(because, Because::HostLost)));
    if let Some(because) = given_up {
        end(copy, because, steps);
        return;
    }
    if copy.answered(GrantState::Ready) {
        if !copy.routable && !copies.iter().any(|other| other.routable) {
            steps.push(Step::Route { epoch: copy.epoch });
        }
        return;
    }
    if copy.routable && copy.reachable() {
        steps.push(Step::Withdraw { epoch: copy.epoch, because: Because::NotReady });
    }
    // The round after this one mints: renewing must have stopped durably before the next epoch exists.
    if !isolated && copies.iter().any(|old| is_back(old, copy)) {
        end(copy, Because::OldCopyBack, steps);
    }
}

/// Whether `old` runs at a host that is heard again, and could serve sooner than `newer`.
fn is_back(old: &CopyView, newer: &CopyView) -> bool {
    old.epoch < newer.epoch && old.host != newer.host && old.reachable() && old.answered(GrantState::Ready)
}

fn mint(view: &ReplicaView, copies: &[&CopyView], now: UnixSeconds, steps: &mut Vec<Step>) {
    let running = copies.iter().rev().find(|old| old.reachable() && old.answered(GrantState::Ready));
    if let Some(old) = running {
        steps.push(Step::Mint { epoch: view.highest.next(), take_over: Some(old.host.clone()) });
        return;
    }
    if copies.iter().all(|copy| over(copy) || may_be_forgotten(view, copy, now)) {
        steps.push(Step::Mint { epoch: view.highest.next(), take_over: None });
    }
}

/// Whether the host itself said that nothing of the copy is left.
fn over(copy: &CopyView) -> bool {
    copy.answered(GrantState::Released)
        || copy.answered(GrantState::Refused)
        || (copy.answer.is_none() && copy.reachable())
}

/// Whether another copy may run although nobody said that this one does not: always, unless the job wants one only; then
/// when its lease must have lapsed. A host that is no member any more, as one whose log forked, may run it until then too.
fn may_be_forgotten(view: &ReplicaView, copy: &CopyView, now: UnixSeconds) -> bool {
    view.on_partition != OnPartition::StopWhenLeaseLapses
        || copy.renewal_stopped_at.is_none_or(|stopped| now >= stopped.plus(view.lease).plus(view.margin))
}

fn end(copy: &CopyView, because: Because, steps: &mut Vec<Step>) {
    if copy.routable {
        steps.push(Step::Withdraw { epoch: copy.epoch, because });
    }
    if copy.renewing() {
        steps.push(Step::StopRenewing { epoch: copy.epoch, because });
    }
}

#[cfg(test)]
#[path = "home_tests.rs"]
mod tests;
