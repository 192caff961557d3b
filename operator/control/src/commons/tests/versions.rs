//! What a later release says travels through this one.

use koinon_core::body::Body;
use koinon_core::body::entry::Head;
use koinon_core::body::proposal::Choice;
use koinon_core::ids::Seq;

use super::kit::{Operator, enacted, now, quick, release};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_understands_reaches_a_third_through_a_second_and_decisions_go_on() {
    // Neither bilbao nor cork can be dialled: what bilbao says reaches cork through aarhus, which does not understand it.
    let mut aarhus = Operator::new("aarhus");
    let mut bilbao = Operator::outbound_only("bilbao");
    let mut cork = Operator::outbound_only("cork");
    let founding = quick(&[&aarhus, &bilbao, &cork]);
    let coop = founding.coop();
    let strange = bilbao.person.of_the_future(coop, now(), (0, coop.0), "oracle", 1);
    let later = bilbao.person.of_the_future(coop, now(), (1, strange.id().0), "close-seal", 3);
    let mut objects = bilbao.store.snapshot();
    for entry in [&strange, &later] {
        objects.insert(koinon_api::names::statement(&entry.id().to_string()), entry.envelope().clone());
    }
    bilbao.store.restore(objects);
    for operator in [&mut aarhus, &mut bilbao, &mut cork] {
        operator.start(&founding, None).await;
    }
    for operator in [&aarhus, &bilbao, &cork] {
        operator.until_signing().await;
    }
    // It stands in bilbao's log, and bilbao goes on behind it.
    let proposal = bilbao.proposal(release("tiny"));
    bilbao.apply("p", &proposal);
    for operator in [&aarhus, &bilbao, &cork] {
        operator.until("the proposal is here", |view| view.state.proposals().contains_key(&proposal.id())).await;
        operator.apply("v", &operator.vote(proposal.id(), Choice::Yes));
    }
    for operator in [&aarhus, &bilbao, &cork] {
        let view = operator.until("enacted", |view| enacted(view, &proposal.id()).is_some()).await;
        assert!(view.state.members().values().all(|member| member.may_work()));
        let held = operator.up().shelf.read(|commons| {
            let entries = [&strange, &later].map(|entry| commons.replica().get(&entry.id()));
            let kept = entries.iter().flatten().filter(|held| matches!(held.statement.body(), Body::Opaque(_))).count();
            (kept, commons.replica().head(&bilbao.log()).map(|Head { seq, .. }| seq > Seq(1)))
        });
        assert_eq!(held, (2, Some(true)), "{}", operator.person.id());
    }
}
