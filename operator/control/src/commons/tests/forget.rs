//! What a checkpoint has settled leaves the memory and is served from the store.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use koinon_api::proposal::ProposalStatus;
use koinon_core::body::charter::{Deliberation, MemberPeriods};
use koinon_core::body::proposal::{Action, Choice};
use koinon_core::founding::Founding;
use koinon_core::ids::{PublicKey, Seconds, Seq, StatementId};
use koinon_core::policy::Phase;
use koinon_core::presets;
use koinon_core::statement::Statement;
use koinon_net::commons::Commons as _;
use kube::ResourceExt as _;

use super::kit::{Operator, enacted, quick_with, release};
use crate::commons::candidate::Source;
use crate::commons::people::Verdict;
use crate::commons::store::memory::MemoryStore;
use crate::commons::view::CommonsView;
use crate::kinds::projections::Moment;
use crate::kinds::proposal;

/// How long ago the first decisions were made, and how long ago a later one. What is less than a minute older than the last
/// entries that were settled may still show that its author is there, and is kept.
const AGO: [Duration; 2] = [Duration::from_secs(7200), Duration::from_secs(3600)];

async fn start(operators: &mut [Operator; 3], founding: &Founding, behind: Duration) {
    for operator in operators.iter_mut() {
        operator.behind = behind;
        operator.start(founding, None).await;
    }
    for operator in operators.iter() {
        operator.until_signing().await;
    }
}

async fn stop(operators: &mut [Operator; 3]) {
    for operator in operators.iter_mut() {
        operator.stop().await;
    }
}

async fn decide(operators: &[Operator; 3], name: &str, action: Action) -> Statement {
    let proposal = operators[0].proposal(action);
    let id = proposal.id();
    operators[0].apply(&format!("p-{name}"), &proposal);
    for operator in operators {
        operator.until("the proposal is here", |view| view.state.proposals().contains_key(&id)).await;
        operator.apply(&format!("v-{name}"), &operator.vote(id, Choice::Yes));
    }
    for operator in operators {
        operator.until("it is enacted", |view| enacted(view, &id).is_some()).await;
    }
    proposal
}

fn logs(operator: &Operator) -> Vec<PublicKey> {
    operator.up().shelf.read(|commons| commons.replica().logs().map(|(log, _)| *log).collect())
}

fn forgotten(operator: &Operator) -> usize {
    let logs = logs(operator);
    operator.up().shelf.read(|commons| logs.iter().map(|log| commons.replica().past_count(log)).sum())
}

/// How a proposal is shown that was shown as `before` until now.
fn shown(operator: &Operator, statement: &Statement, before: Option<ProposalStatus>) -> ProposalStatus {
    let mirror = operator.up().shelf.read(|commons| proposal::mirror(commons, statement.id()));
    let mut object = mirror.unwrap();
    object.status = before;
    let now = operator.now();
    let moment = Moment { now, time: koinon_api::time::from_unix(now.0).unwrap(), monotonic: Duration::ZERO };
    let name = object.name_any();
    proposal::statuses(&operator.view(), &[std::sync::Arc::new(object)], &moment).remove(&name).unwrap()
}

async fn until_forgotten(operator: &Operator) {
    let seen = operator.until("settled entries are let go", |_| forgotten(operator) > 0);
    seen.await;
}

/// Every log as a peer reads it.
async fn served(operator: &Operator) -> BTreeSet<(PublicKey, Seq, StatementId)> {
    let mut all = BTreeSet::new();
    for log in logs(operator) {
        let range = operator.up().shelf.range(&log, Seq(0), 10_000).await.unwrap();
        all.extend(range.iter().map(|entry| (entry.log, entry.seq, entry.id)));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_checkpoint_settled_is_let_go_and_still_served_remembered_and_taken_back() {
    let mut operators = ["aarhus", "bilbao", "cork"].map(Operator::new);
    let founding = quick_with(&operators.each_ref(), |parameters| {
        let members = MemberPeriods { dormant_after_seconds: Seconds(60), ..MemberPeriods::default() };
        parameters.deliberation = Some(Deliberation { members, ..presets::deliberation() });
    });
    start(&mut operators, &founding, AGO[0]).await;
    let tiny = decide(&operators, "tiny", release("tiny")).await;
    let huge = operators[0].proposal(release("huge"));
    operators[0].apply("p-huge", &huge);
    let against = operators[0].vote(huge.id(), Choice::No);
    for operator in &operators {
        operator.until("it is here", |view| view.state.proposals().contains_key(&huge.id())).await;
        operator.apply("v-huge", &operator.vote(huge.id(), Choice::No));
    }
    let refused = |view: &CommonsView| view.state.phase(&view.state.proposals()[&huge.id()], operators[0].now());
    let seen = operators[0].until("it is rejected", |view| refused(view) == Phase::Rejected);
    seen.await;
    let rejected = shown(&operators[0], &huge, None);
    stop(&mut operators).await;
    start(&mut operators, &founding, AGO[1]).await;
    decide(&operators, "small", release("small")).await;
    stop(&mut operators).await;
    start(&mut operators, &founding, Duration::ZERO).await;
    let first = shown(&operators[0], &tiny, None);
    let counted = first.tally.clone().expect("three have voted");
    assert_eq!((counted.approve, counted.turnout), (3, 3));
    let drafted = operators[0].up().shelf.read(|commons| commons.draft_checkpoint(super::kit::now())).unwrap();
    let everything = served(&operators[0]).await;
    decide(&operators, "checkpoint", Action::Checkpoint(drafted)).await;
    for operator in &operators {
        until_forgotten(operator).await;
    }

    // A reader gets all of it, in order, and does not see where it comes from.
    let fetched = |operator: &Operator| operator.store.fetched.load(Ordering::SeqCst);
    assert_eq!(fetched(&operators[0]), 0);
    assert!(served(&operators[0]).await.is_superset(&everything));
    assert!(fetched(&operators[0]) >= forgotten(&operators[0]));
    let past =
        operators[0].up().shelf.read(|commons| commons.replica().past(&operators[0].log(), Seq(0)).next().unwrap());
    assert!(operators[0].up().shelf.document(&past.id).await.unwrap().is_some());

    // After a start it is not read into memory again, and what people applied then is not anchored a second time.
    operators[0].stop().await;
    operators[0].start(&founding, None).await;
    assert!(forgotten(&operators[0]) > 0, "from the first moment on");
    operators[0].until_signing().await;
    for (name, statement) in [("p-tiny", &tiny), ("p-huge", &huge), ("v-huge", &against)] {
        operators[0].apply(name, statement);
    }
    let on_huge = Source::Vote("v-huge".into());
    let view = operators[0].until("it is judged", |view| view.verdicts.contains_key(&on_huge)).await;
    assert!(matches!(view.verdicts.get(&on_huge), Some(Verdict::Settled { .. })), "{:?}", view.verdicts);
    let proposed = ["p-tiny", "p-huge"].map(|name| view.verdicts.get(&Source::Proposal(name.into())));
    assert!(proposed.iter().all(|of| matches!(of, Some(Verdict::Anchored { .. }))), "what was proposed is held");
    assert!(enacted(&view, &tiny.id()).is_some() && view.state.proposals()[&huge.id()].forgotten);

    // What is in force is shown as it was counted, and never as if nobody had voted.
    let after = shown(&operators[0], &tiny, Some(first.clone()));
    assert_eq!((after.tally, after.state), (first.tally, first.state.clone()));
    let anew = shown(&operators[0], &tiny, None);
    assert_eq!((anew.tally, anew.state), (None, first.state), "unknown is not zero");
    let after = shown(&operators[0], &huge, Some(rejected.clone()));
    assert_eq!((after.tally.as_ref(), after.state.as_ref()), (rejected.tally.as_ref(), rejected.state.as_ref()));
    assert_eq!(rejected.tally.map(|tally| tally.reject), Some(3));
    assert_eq!(shown(&operators[0], &huge, None).tally, None);

    // A member that lost its store gets everything from those who forgot, and decides as they do.
    operators[2].kill().await;
    operators[2].store = MemoryStore::default();
    operators[2].start(&founding, None).await;
    operators[2].until_signing().await;
    until_forgotten(&operators[2]).await;
    assert!(served(&operators[2]).await.is_superset(&everything));
    let later = decide(&operators, "later", release("later")).await;
    let heads = operators.each_ref().map(|operator| {
        assert!(enacted(&operator.view(), &later.id()).is_some());
        operator.state().head(koinon_core::body::Scope::Releases)
    });
    assert!(heads[0] == heads[1] && heads[1] == heads[2]);

    // What was moved to an archive ends what is served of its log there, and holds nobody up.
    operators[1].stop().await;
    let own = operators[1].log();
    let gone = koinon_api::names::own_entry(&own.to_string(), 1);
    let mut objects = operators[1].store.snapshot();
    assert!(objects.remove(&gone).is_some());
    operators[1].store.restore(objects);
    operators[1].start(&founding, None).await;
    operators[1].until_signing().await;
    assert!(forgotten(&operators[1]) > 0);
    assert!(operators[1].up().shelf.range(&own, Seq(0), 10).await.unwrap().len() <= 1);
    assert!(!operators[1].store.snapshot().contains_key(&gone), "nor is it put back");
}
