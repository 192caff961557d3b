//! Votes, seals and enactment among three.

use koinon_core::body::Scope;
use koinon_core::body::proposal::Choice;

use super::kit::{Operator, enacted, release, three};
use crate::commons::candidate::Source;
use crate::commons::people::Verdict;

async fn decide(operators: &[Operator; 3], name: &str) -> koinon_core::ids::StatementId {
    let proposal = operators[0].proposal(release(name));
    let id = proposal.id();
    operators[0].apply(&format!("p-{name}"), &proposal);
    for operator in operators {
        operator.until("the proposal is here", |view| view.state.proposals().contains_key(&id)).await;
        operator.apply(&format!("v-{name}"), &operator.vote(id, Choice::Yes));
    }
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_three_vote_for_is_enacted_by_all_of_them_on_the_same_root() {
    let operators = three().await;
    let id = decide(&operators, "tiny").await;
    let mut versions = Vec::new();
    for operator in &operators {
        let view = operator.until("enacted", |view| enacted(view, &id).is_some()).await;
        let root = view.state.proposals()[&id].enacted.as_ref().unwrap().root;
        versions.push((enacted(&view, &id).unwrap(), root, view.state.head(Scope::Releases)));
        assert!(view.verdicts.values().all(|verdict| matches!(verdict, Verdict::Anchored { .. })));
    }
    assert_eq!(versions[0], versions[1]);
    assert_eq!(versions[1], versions[2]);
    // Once everything is said, nobody says more: a log that grows by itself would use up its author's budget.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let entries = |operator: &Operator| operator.view().logs.values().map(|log| log.entries).sum::<u64>();
    let before = operators.each_ref().map(entries);
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(operators.each_ref().map(entries), before);
    assert_eq!((before[0], before[1]), (before[1], before[2]), "everybody holds the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_decide_while_the_third_is_away_and_it_learns_the_result() {
    let mut operators = three().await;
    let founding = super::kit::quick(&operators.each_ref());
    operators[2].stop().await;
    let proposal = operators[0].proposal(release("tiny"));
    let id = proposal.id();
    operators[0].apply("p", &proposal);
    for operator in &operators[..2] {
        operator.until("the proposal is here", |view| view.state.proposals().contains_key(&id)).await;
        operator.apply("v", &operator.vote(id, Choice::Yes));
    }
    // The third never votes, so the box closes only with the poll, two minutes later: here it is its absence that
    // matters, not the result.
    operators[1].until("both votes are here", |view| view.state.proposals()[&id].votes.len() == 2).await;
    operators[2].start(&founding, None).await;
    operators[2].until_signing().await;
    let third = &operators[2];
    third
        .until("the votes arrived", |view| {
            view.state.proposals().get(&id).is_some_and(|proposal| proposal.votes.len() == 2)
        })
        .await;
    third.apply("v", &third.vote(id, Choice::No));
    for operator in &operators {
        operator.until("enacted against one vote", |view| enacted(view, &id).is_some()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_count_is_refused_with_its_reason_and_never_anchored() {
    use koinon_api::conditions::Reason;
    use koinon_core::body::{Body, Vote};

    let operators = three().await;
    let [aarhus, bilbao, _] = &operators;
    let proposal = aarhus.proposal(release("tiny"));
    aarhus.apply("p", &proposal);
    bilbao.until("the proposal is here", |view| view.state.proposals().contains_key(&proposal.id())).await;
    let coop = bilbao.state().coop();
    let vote =
        || Body::Vote(Vote { proposal: proposal.id(), choice: Choice::Yes, vseq: 0, ground: None, reason: None });
    let by_operator = koinon_core::testkit::Person {
        governance: koinon_core::testkit::person("bilbao").operator,
        ..koinon_core::testkit::person("bilbao")
    };
    let stranger = koinon_core::testkit::Person {
        governance: koinon_core::testkit::person("dublin").governance,
        ..koinon_core::testkit::person("bilbao")
    };
    let foreign = koinon_core::ids::CoopId(koinon_core::ids::Digest::of(b"another"));
    let ahead = koinon_core::ids::UnixSeconds(super::kit::now().0 + 3600);
    let dublin = koinon_core::testkit::person("dublin");
    let cases = [
        ("outsider", dublin.human(coop, super::kit::now(), vote()), Reason::NotElector),
        ("operator", by_operator.human(coop, super::kit::now(), vote()), Reason::OperatorKeyNotAllowed),
        ("stranger", stranger.human(coop, super::kit::now(), vote()), Reason::UnknownKey),
        ("foreign", bilbao.person.human(foreign, super::kit::now(), vote()), Reason::ForeignCooperative),
        ("seat", aarhus.person.human(coop, super::kit::now(), vote()), Reason::NotSeat),
        ("future", bilbao.person.human(coop, ahead, vote()), Reason::TimesInvalid),
    ];
    for (name, statement, _) in &cases {
        bilbao.apply(name, statement);
    }
    for (name, _, reason) in &cases {
        let source = Source::Vote((*name).to_owned());
        let view = bilbao.until("judged", |view| view.verdicts.contains_key(&source)).await;
        match &view.verdicts[&source] {
            Verdict::Refused(refusal) => assert_eq!(refusal.reason, *reason, "{name}: {}", refusal.message),
            other => panic!("{name}: {other:?}"),
        }
    }
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(bilbao.view().logs[&bilbao.person.id()].entries, 0, "nothing of it is in the log");
}
