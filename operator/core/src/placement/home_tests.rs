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
    let loading = view(vec![copy(1, "bilbao", Hearing::Fresh, Some(GrantState::Loading))], OnPartition::KeepServing);
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
