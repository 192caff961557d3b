//! Kills, restored backups, forged and forked statements, members that reach each other only through a third.

use std::sync::atomic::Ordering;
use std::time::Duration;

use koinon_core::body::proposal::Choice;
use koinon_core::body::{Anchor, Body};
use koinon_core::ids::Seq;

use super::kit::{Operator, enacted, quick, release, three};
use crate::commons::view::{CommonsView, Signing};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_is_killed_at_every_step_decides_the_same_in_the_end() {
    let mut operators = three().await;
    let founding = quick(&operators.each_ref());
    let proposal = operators[0].proposal(release("tiny"));
    let id = proposal.id();
    let votes = operators.each_ref().map(|operator| operator.vote(id, Choice::Yes));
    operators[0].apply("p", &proposal);
    for operator in &operators {
        operator.until("the proposal is here", |view| view.state.proposals().contains_key(&id)).await;
    }
    for (operator, vote) in operators.iter().zip(&votes) {
        operator.apply("v", vote);
    }
    // The second one is killed again and again while the others go on, at ever later moments; what it had been told
    // is applied again after each start, as resources that stay would be.
    for millis in [5, 20, 60, 150, 400, 900] {
        operators[1].kill().await;
        operators[1].start(&founding, None).await;
        operators[1].apply("v", &votes[1]);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
    let mut roots = Vec::new();
    for operator in &operators {
        let view = operator.until("enacted", |view| enacted(view, &id).is_some()).await;
        roots.push(view.state.proposals()[&id].enacted.as_ref().unwrap().root);
        assert!(view.logs.values().all(|log| log.forked_at.is_none()), "{:?}", view.logs);
    }
    assert!(roots[0] == roots[1] && roots[1] == roots[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_of_the_store_makes_no_second_entry() {
    let mut operators = three().await;
    let founding = quick(&operators.each_ref());
    let proposal = operators[0].proposal(release("tiny"));
    operators[0].store.lose_answers.store(true, Ordering::SeqCst);
    operators[0].apply("p", &proposal);
    operators[0].until("trouble", |view| view.store_trouble.is_some()).await;
    operators[0].kill().await;
    operators[0].store.lose_answers.store(false, Ordering::SeqCst);
    operators[0].start(&founding, None).await;
    operators[0].apply("p", &proposal);
    operators[0].until_signing().await;
    for operator in &operators {
        let view = operator.until("anchored", |view| view.state.proposals().contains_key(&proposal.id())).await;
        assert_eq!(view.logs[&operators[0].person.id()].entries, 1);
        assert!(view.logs.values().all(|log| log.forked_at.is_none()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_restored_from_an_older_snapshot_takes_back_what_it_forgot() {
    let mut operators = three().await;
    let founding = quick(&operators.each_ref());
    let snapshot = operators[1].store.snapshot();
    let ids: Vec<_> = ["a", "b", "c"].map(|name| operators[1].proposal(release(name))).into();
    for (index, proposal) in ids.iter().enumerate() {
        operators[1].apply(&format!("p{index}"), proposal);
    }
    for operator in &operators {
        operator.until("all three are here", |view| view.state.proposals().len() == 3).await;
    }
    let log = operators[1].person.id();
    // Something new is wanted at once: without its old entries it would be signed at a number that is taken.
    let next = operators[1].proposal(release("d"));
    operators[1].kill().await;
    operators[1].store.restore(snapshot);
    operators[1].start(&founding, None).await;
    operators[1].apply("d", &next);
    operators[1].until_anchored(&next).await;
    for operator in &operators {
        let view = operator.until("it is everywhere", |view| view.state.proposals().contains_key(&next.id())).await;
        assert!(view.logs.values().all(|log| log.forked_at.is_none()), "{:?}", view.logs);
        assert_eq!(view.logs[&log].entries, 4);
    }
    let kept = operators[1].store.snapshot();
    assert!(kept.contains_key(&koinon_api::names::own_entry(&operators[1].log().to_string(), 2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_hears_no_quorum_signs_nothing_until_a_person_says_so() {
    let [mut aarhus, bilbao, cork] = ["aarhus", "bilbao", "cork"].map(Operator::new);
    let founding = quick(&[&aarhus, &bilbao, &cork]);
    aarhus.start(&founding, None).await;
    let alone = aarhus.until("awaiting", |view| matches!(view.signing, Signing::No(_))).await;
    let proposal = {
        let _ = alone;
        aarhus.proposal(release("tiny"))
    };
    aarhus.apply("p", &proposal);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(aarhus.view().logs[&aarhus.person.id()].entries, 0);
    aarhus.up().controls.send_modify(|controls| controls.resume = Some(aarhus.log()));
    aarhus.until_anchored(&proposal).await;
    let view = aarhus.view();
    assert!(view.resumed);
    assert_eq!(view.logs[&aarhus.person.id()].entries, 2, "the resumption and the anchor");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloned_operator_serves_and_signs_nothing() {
    let operators = three().await;
    operators[0].up().controls.send_modify(|controls| controls.cloned = Some("another cluster's".into()));
    let proposal = operators[0].proposal(release("tiny"));
    operators[0].apply("p", &proposal);
    operators[0].until("not signing", |view| matches!(view.signing, Signing::No(_))).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(operators[0].state().proposals().is_empty());
    assert!(operators[0].up().publisher.served_to(&operators[1].person.id()).is_empty(), "not even a beacon");
    let other = operators[1].proposal(release("other"));
    operators[1].apply("p", &other);
    operators[0].until("still reads", |view| view.state.proposals().contains_key(&other.id())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_reach_each_other_only_through_a_third_hold_the_same() {
    // Neither bilbao nor cork can be dialled: both dial aarhus, and everything between them goes through it.
    let mut aarhus = Operator::new("aarhus");
    let mut bilbao = Operator::outbound_only("bilbao");
    let mut cork = Operator::outbound_only("cork");
    let founding = quick(&[&aarhus, &bilbao, &cork]);
    for operator in [&mut aarhus, &mut bilbao, &mut cork] {
        operator.start(&founding, None).await;
    }
    for operator in [&aarhus, &bilbao, &cork] {
        operator.until_signing().await;
    }
    let proposal = bilbao.proposal(release("tiny"));
    bilbao.apply("p", &proposal);
    for operator in [&aarhus, &bilbao, &cork] {
        operator.until("the proposal is here", |view| view.state.proposals().contains_key(&proposal.id())).await;
        operator.apply("v", &operator.vote(proposal.id(), Choice::Yes));
    }
    for operator in [&aarhus, &bilbao, &cork] {
        operator.until("enacted", |view| enacted(view, &proposal.id()).is_some()).await;
    }
    let peers = cork.up().peers.borrow().clone();
    assert_ne!(peers.members[&bilbao.person.id()].liveness, crate::peers::Liveness::Fresh, "never heard directly");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_is_shown_to_everybody_and_its_log_counts_no_further() {
    let mut operators = three().await;
    let founding = quick(&operators.each_ref());
    let coop = founding.coop();
    // Somebody with cork's operator key signs two entries at position 0 and gives each of the others one of them.
    operators[2].stop().await;
    let anchor = |name: &str| {
        let action = release(name);
        let proposal = operators[0].proposal(action);
        Body::Anchor(Box::new(Anchor { statement: proposal.envelope().clone() }))
    };
    let forged = ["one", "two"].map(|name| operators[2].person.entry(coop, super::kit::now(), 0, coop.0, anchor(name)));
    for (operator, entry) in operators[..2].iter_mut().zip(&forged) {
        operator.kill().await;
        let name = koinon_api::names::statement(&entry.id().to_string());
        let mut objects = operator.store.snapshot();
        objects.insert(name, entry.envelope().clone());
        operator.store.restore(objects);
    }
    for operator in &mut operators[..2] {
        operator.start(&founding, None).await;
    }
    let cork = operators[2].person.id();
    for operator in &operators[..2] {
        let view = operator.until("the fork is known", |view| view.logs[&cork].forked_at == Some(Seq(0))).await;
        assert!(!view.state.member(&cork).unwrap().may_work());
        let store = operator.store.clone();
        let both = forged.each_ref().map(|entry| koinon_api::names::statement(&entry.id().to_string()));
        // One report is enough, whoever was first.
        let reporters = operators[..2].iter().map(|operator| operator.person.id()).collect::<Vec<_>>();
        let reported = |view: &CommonsView| reporters.iter().any(|member| view.logs[member].entries >= 1);
        operator.until("the evidence is in a log", reported).await;
        let kept = store.snapshot();
        assert!(both.iter().all(|name| kept.contains_key(name)), "both payloads are stored");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_somebody_deleted_are_put_back() {
    use crate::commons::logs;

    let operators = three().await;
    for (operator, name) in operators.iter().zip(["a", "b", "c"]) {
        operator.apply("p", &operator.proposal(release(name)));
    }
    operators[0].until("all three are here", |view| view.state.proposals().len() == 3).await;
    let (author, shelf) = (operators[0].author(), operators[0].up().shelf.clone());
    while !shelf.unstored().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(logs::audit(&author, &shelf).await.unwrap(), 0);
    let before = operators[0].store.snapshot();
    assert_eq!(before.len(), 4);
    operators[0].store.restore(Default::default());
    assert_eq!(logs::audit(&author, &shelf).await.unwrap(), 4, "three entries and the charter");
    operators[0].until_signing().await;
    logs::flush(&author, &shelf).await.unwrap();
    let after = operators[0].store.snapshot();
    assert!(before.keys().all(|name| after.contains_key(name)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_author_over_its_budget_says_so_and_the_others_go_on() {
    use koinon_api::conditions::Reason;

    let mut operators = ["aarhus", "bilbao", "cork"].map(Operator::new);
    let founding = super::kit::quick_with(&operators.each_ref(), |parameters| parameters.budgets.entries_per_day = 16);
    for operator in &mut operators {
        operator.start(&founding, None).await;
    }
    for operator in &operators {
        operator.until_signing().await;
    }
    let [aarhus, bilbao, _] = &operators;
    for number in 0..18 {
        aarhus.apply(&format!("p{number}"), &aarhus.proposal(release(&format!("model-{number}"))));
    }
    let is_over = |view: &CommonsView| matches!(&view.signing, Signing::No(why) if why.reason == Reason::OverBudget);
    let view = aarhus.until("over its budget", is_over).await;
    assert_eq!(view.logs[&aarhus.person.id()].entries, 16, "what nobody would count is not signed");
    let proposal = bilbao.proposal(release("another"));
    bilbao.apply("p", &proposal);
    for operator in &operators {
        operator.until("bilbao's proposal is here", |view| view.state.proposals().contains_key(&proposal.id())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_the_api_server_refuses_stops_neither_the_operator_nor_the_others_entries() {
    let operators = three().await;
    let _founding = quick(&operators.each_ref());
    let author = operators[0].person.id();
    *operators[1].store.refuses.lock().unwrap() = Some(author);
    let proposal = operators[0].proposal(release("tiny"));
    let id = proposal.id();
    operators[0].apply("p", &proposal);
    for operator in &operators {
        operator.until("the proposal is here", |view| view.state.proposals().contains_key(&id)).await;
        operator.apply("v", &operator.vote(id, Choice::Yes));
    }
    for operator in &operators {
        let view = operator.until("enacted", |view| enacted(view, &id).is_some()).await;
        assert_eq!(view.store_trouble, None);
    }
}
