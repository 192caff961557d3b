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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(10_000);

    fn copy(epoch: u64, host: &str, hearing: Hearing, state: Option<GrantState>) -> CopyView {
        CopyView {
            epoch: Epoch(epoch),
            host: host.parse().unwrap(),
            hearing,
            renewal_stopped_at: None,
            routable: false,
            answer: state.map(|state| Answer { state, reason: None }),
            unanswered: false,
        }
    }

    fn view(copies: Vec<CopyView>, on_partition: OnPartition) -> ReplicaView {
        let highest = copies.iter().map(|copy| copy.epoch).max().unwrap_or(Epoch(0));
        ReplicaView { wanted: true, copies, highest, on_partition, lease: Seconds(60), margin: Seconds(10) }
    }

    fn routed(mut copy: CopyView) -> CopyView {
        copy.routable = true;
        copy
    }

    fn stopped(mut copy: CopyView, at: i64) -> CopyView {
        copy.renewal_stopped_at = Some(UnixSeconds(at));
        copy
    }

    #[test]
    fn a_host_that_never_answers_is_given_up_and_another_is_asked() {
        let mut ignored = copy(1, "bilbao", Hearing::Fresh, None);
        assert_eq!(next(&view(vec![ignored.clone()], OnPartition::KeepServing), NOW, false), [], "it has its time");
        ignored.unanswered = true;
        let steps = next(&view(vec![ignored.clone()], OnPartition::KeepServing), NOW, false);
        assert_eq!(steps, [Step::StopRenewing { epoch: Epoch(1), because: Because::NoAnswer }]);
        ignored.renewal_stopped_at = Some(NOW);
        let steps = next(&view(vec![ignored], OnPartition::KeepServing), NOW, false);
        assert_eq!(steps.last(), Some(&Step::Mint { epoch: Epoch(2), take_over: None }));
    }

    #[test]
    fn a_copy_that_must_not_run_twice_is_remembered_until_its_lease_has_lapsed() {
        // Nobody wants it for a while, as when a job is scaled to zero and back: its Lost host may run it all the same.
        let mut unwanted = view(
            vec![stopped(copy(1, "bilbao", Hearing::Lost, Some(GrantState::Ready)), 9_950)],
            OnPartition::StopWhenLeaseLapses,
        );
        unwanted.wanted = false;
        assert_eq!(next(&unwanted, NOW, false), []);
        assert_eq!(next(&unwanted, NOW.plus(Seconds(20)), false), [Step::Forget { epoch: Epoch(1) }]);
        unwanted.on_partition = OnPartition::KeepServing;
        assert_eq!(next(&unwanted, NOW, false), [Step::Forget { epoch: Epoch(1) }]);
        // A host whose log forked is no member to be placed at, and still runs what it was granted.
        let forked = stopped(copy(1, "bilbao", Hearing::Gone, Some(GrantState::Ready)), 9_950);
        let forked = view(vec![forked], OnPartition::StopWhenLeaseLapses);
        assert_eq!(next(&forked, NOW, false), []);
        let later = next(&forked, NOW.plus(Seconds(20)), false);
        assert_eq!(later, [Step::Forget { epoch: Epoch(1) }, Step::Mint { epoch: Epoch(2), take_over: None }]);
    }

    #[test]
    fn a_replica_without_a_copy_gets_epoch_one() {
        let steps = next(&view(vec![], OnPartition::KeepServing), NOW, false);
        assert_eq!(steps, [Step::Mint { epoch: Epoch(1), take_over: None }]);
    }

    #[test]
    fn a_copy_is_routed_when_its_host_calls_it_ready_and_not_before() {
        let loading =
            view(vec![copy(1, "bilbao", Hearing::Fresh, Some(GrantState::Loading))], OnPartition::KeepServing);
        assert_eq!(next(&loading, NOW, false), []);
        let ready = view(vec![copy(1, "bilbao", Hearing::Fresh, Some(GrantState::Ready))], OnPartition::KeepServing);
        assert_eq!(next(&ready, NOW, false), [Step::Route { epoch: Epoch(1) }]);
    }

    #[test]
    fn a_suspect_host_keeps_its_route() {
        let copies = vec![routed(copy(1, "bilbao", Hearing::Suspect, Some(GrantState::Ready)))];
        assert_eq!(next(&view(copies, OnPartition::KeepServing), NOW, false), []);
    }

    #[test]
    fn a_lost_host_is_withdrawn_and_no_longer_renewed_before_anybody_else_is_asked() {
        let copies = vec![routed(copy(1, "bilbao", Hearing::Lost, Some(GrantState::Ready)))];
        let because = Because::HostLost;
        assert_eq!(
            next(&view(copies, OnPartition::KeepServing), NOW, false),
            [Step::Withdraw { epoch: Epoch(1), because }, Step::StopRenewing { epoch: Epoch(1), because }]
        );
        let given_up = vec![stopped(copy(1, "bilbao", Hearing::Lost, Some(GrantState::Ready)), NOW.0)];
        let steps = next(&view(given_up, OnPartition::KeepServing), NOW, false);
        assert_eq!(steps, [Step::Mint { epoch: Epoch(2), take_over: None }]);
    }

    #[test]
    fn a_job_that_must_not_run_twice_waits_for_the_old_lease_and_a_margin() {
        let copies = vec![stopped(copy(1, "bilbao", Hearing::Lost, Some(GrantState::Ready)), 9_931)];
        let waiting = view(copies, OnPartition::StopWhenLeaseLapses);
        assert_eq!(next(&waiting, NOW, false), []);
        assert_eq!(next(&waiting, UnixSeconds(10_001), false), [Step::Mint { epoch: Epoch(2), take_over: None }]);
    }

    #[test]
    fn an_isolated_home_keeps_what_it_has_and_places_nothing_new() {
        let copies = vec![routed(copy(1, "bilbao", Hearing::Lost, Some(GrantState::Ready)))];
        assert_eq!(next(&view(copies, OnPartition::KeepServing), NOW, true), []);
        assert_eq!(next(&view(vec![], OnPartition::KeepServing), NOW, true), []);
    }

    #[test]
    fn an_old_copy_that_is_back_before_the_new_one_is_ready_is_taken_over_under_a_new_epoch() {
        let old = stopped(copy(1, "bilbao", Hearing::Fresh, Some(GrantState::Ready)), 9_000);
        let new = copy(2, "cork", Hearing::Fresh, Some(GrantState::Loading));
        let steps = next(&view(vec![old.clone(), new.clone()], OnPartition::KeepServing), NOW, false);
        assert_eq!(steps, [Step::StopRenewing { epoch: Epoch(2), because: Because::OldCopyBack }]);
        let after = view(vec![old, stopped(new, NOW.0)], OnPartition::KeepServing);
        let bilbao = Some("bilbao".parse().unwrap());
        assert_eq!(next(&after, NOW, false), [Step::Mint { epoch: Epoch(3), take_over: bilbao }]);
    }

    #[test]
    fn an_old_copy_that_is_back_too_late_is_left_to_drain_and_then_forgotten() {
        let old = stopped(copy(1, "bilbao", Hearing::Fresh, Some(GrantState::Draining)), 9_000);
        let new = routed(copy(2, "cork", Hearing::Fresh, Some(GrantState::Ready)));
        assert_eq!(next(&view(vec![old, new.clone()], OnPartition::KeepServing), NOW, false), []);
        let released = stopped(copy(1, "bilbao", Hearing::Fresh, Some(GrantState::Released)), 9_000);
        let steps = next(&view(vec![released, new], OnPartition::KeepServing), NOW, false);
        assert_eq!(steps, [Step::Forget { epoch: Epoch(1) }]);
    }

    #[test]
    fn a_refusal_is_followed_by_another_try_under_a_higher_epoch() {
        let refused = copy(4, "bilbao", Hearing::Fresh, Some(GrantState::Refused));
        let because = Because::Refused(RefusalReason::Other);
        let steps = next(&view(vec![refused.clone()], OnPartition::KeepServing), NOW, false);
        assert_eq!(steps, [Step::StopRenewing { epoch: Epoch(4), because }]);
        let steps = next(&view(vec![stopped(refused, NOW.0)], OnPartition::KeepServing), NOW, false);
        assert_eq!(steps, [Step::Forget { epoch: Epoch(4) }, Step::Mint { epoch: Epoch(5), take_over: None }]);
    }

    #[test]
    fn an_unwanted_replica_ends_and_is_forgotten_without_waiting_for_its_host() {
        let mut ending =
            view(vec![routed(copy(1, "bilbao", Hearing::Lost, Some(GrantState::Ready)))], OnPartition::KeepServing);
        ending.wanted = false;
        let because = Because::NotWanted;
        assert_eq!(
            next(&ending, NOW, false),
            [Step::Withdraw { epoch: Epoch(1), because }, Step::StopRenewing { epoch: Epoch(1), because }]
        );
        ending.copies = vec![stopped(copy(1, "bilbao", Hearing::Lost, None), NOW.0)];
        assert_eq!(next(&ending, NOW, false), [Step::Forget { epoch: Epoch(1) }]);
    }

    #[test]
    fn a_host_that_may_not_work_is_left_and_the_replica_moves_though_nobody_hears_that_it_ended() {
        let because = Because::Halted;
        let serving = routed(copy(1, "bilbao", Hearing::Halted, Some(GrantState::Ready)));
        let steps = next(&view(vec![serving.clone()], OnPartition::KeepServing), NOW, true);
        assert_eq!(
            steps,
            [Step::Withdraw { epoch: Epoch(1), because }, Step::StopRenewing { epoch: Epoch(1), because }],
            "what was decided is known also by whoever is cut off"
        );
        let left = stopped(copy(1, "bilbao", Hearing::Halted, Some(GrantState::Ready)), NOW.0);
        let moved = [Step::Forget { epoch: Epoch(1) }, Step::Mint { epoch: Epoch(2), take_over: None }];
        assert_eq!(next(&view(vec![left.clone()], OnPartition::KeepServing), NOW, false), moved);
        let once = view(vec![left], OnPartition::StopWhenLeaseLapses);
        assert_eq!(next(&once, NOW.plus(Seconds(69)), false), []);
        assert_eq!(next(&once, NOW.plus(Seconds(70)), false), moved);
    }

    fn apply(view: &mut ReplicaView, steps: &[Step], now: UnixSeconds) {
        for step in steps {
            match step {
                Step::Withdraw { epoch, .. } => each(view, *epoch, |copy| copy.routable = false),
                Step::StopRenewing { epoch, .. } => each(view, *epoch, |copy| copy.renewal_stopped_at = Some(now)),
                Step::Route { epoch } => each(view, *epoch, |copy| copy.routable = true),
                Step::Forget { epoch } => view.copies.retain(|copy| copy.epoch != *epoch),
                Step::Mint { epoch, take_over } => {
                    assert!(*epoch > view.highest, "an epoch was minted twice");
                    assert!(view.copies.iter().all(|copy| !copy.renewing()), "two copies would be renewed");
                    view.highest = *epoch;
                    let host = take_over.clone().unwrap_or_else(|| "cork".parse().unwrap());
                    let mut new = copy(epoch.0, "cork", Hearing::Fresh, None);
                    new.host = host;
                    view.copies.push(new);
                }
            }
        }
    }

    fn each(view: &mut ReplicaView, epoch: Epoch, change: impl Fn(&mut CopyView)) {
        view.copies.iter_mut().filter(|copy| copy.epoch == epoch).for_each(change);
    }

    fn any_answer() -> impl Strategy<Value = Option<GrantState>> {
        use GrantState::{Draining, Granted, Loading, Ready, Refused, Released};
        prop::option::of(prop::sample::select(vec![Granted, Loading, Ready, Draining, Released, Refused]))
    }

    fn any_hearing() -> impl Strategy<Value = Hearing> {
        prop::sample::select(vec![
            Hearing::Local,
            Hearing::Fresh,
            Hearing::Suspect,
            Hearing::Lost,
            Hearing::Halted,
            Hearing::Gone,
        ])
    }

    proptest! {
        /// Whatever hosts say and however they are heard, in whatever order.
        #[test]
        fn at_no_time_are_two_copies_routable_or_renewed(
            story in prop::collection::vec((0_u64..6, any_hearing(), any_answer(), any::<bool>(), any::<bool>()), 1..60)
        ) {
            let mut view = view(vec![], OnPartition::KeepServing);
            let mut now = NOW;
            for (which, hearing, answer, isolated, wanted) in story {
                now = now.plus(Seconds(7));
                view.wanted = wanted || view.copies.is_empty();
                let count = view.copies.len() as u64;
                if count > 0 {
                    let at = usize::try_from(which % count).unwrap();
                    view.copies[at].hearing = hearing;
                    view.copies[at].answer = answer.map(|state| Answer { state, reason: None });
                }
                let steps = next(&view, now, isolated);
                apply(&mut view, &steps, now);
                prop_assert!(view.copies.iter().filter(|copy| copy.routable).count() <= 1);
                prop_assert!(view.copies.iter().filter(|copy| copy.renewing()).count() <= 1);
            }
        }
    }
}
