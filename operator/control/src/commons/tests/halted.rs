//! What is said to and taken from members that may not work, and what an expelled key may read.

use std::time::Duration;

use koinon_core::body::latest::{Grants, Requests};
use koinon_core::body::proposal::Choice;
use koinon_core::body::{Body, Cause, CoSignature, EmergencyOrder, Leave, Scope, Stop};
use koinon_core::ids::Seq;
use koinon_core::log::Limits;
use koinon_core::policy::{self, MemberStanding};
use koinon_core::statement::Statement;
use koinon_net::commons::{Access, Commons as _};

use super::kit::{Operator, enacted, now, release, three_complete};
use crate::commons::engine::follow;
use crate::peers::Liveness;

const MINUTE: Duration = Duration::from_secs(60);

/// Aarhus orders and bilbao co-signs, each in its own log.
async fn order(operators: &[Operator; 3], stop: Stop) {
    let state = operators[0].state();
    let (membership, charter) = (state.head(Scope::Membership), state.head(Scope::Charter));
    let order = EmergencyOrder { stop, cause: Cause::Safety, membership, charter, text: Default::default() };
    let order = operators[0].person.human(state.coop(), now(), Body::EmergencyOrder(Box::new(order)));
    let second = operators[1].person.human(state.coop(), now(), Body::CoSignature(CoSignature { order: order.id() }));
    operators[0].apply("order", &order);
    operators[1].until("the order is here", |view| view.state.emergencies().contains_key(&order.id())).await;
    operators[1].apply("second", &second);
    for operator in operators {
        let holds = |view: &crate::commons::view::CommonsView| view.state.next_lapse(now()).is_some();
        operator.until("the order is known and holds", holds).await;
    }
}

/// How many Latest statements `from` has for `to`.
fn served(from: &Operator, to: &Operator) -> usize {
    from.up().publisher.served_to(&to.person.id()).len()
}

async fn settles(what: &str, good: impl Fn() -> bool) {
    for _ in 0..400 {
        if good() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never came to this: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_member_asks_and_grants_nothing_and_still_votes_seals_and_is_heard() {
    let operators = three_complete().await;
    let [aarhus, bilbao, cork] = &operators;
    let (a, c) = (aarhus.person.id(), cork.person.id());
    for (from, to) in [(aarhus, &c), (cork, &a)] {
        from.up().publisher.requests(to, Requests::default(), MINUTE).unwrap();
        from.up().publisher.grants(to, Grants::default(), MINUTE).unwrap();
    }
    bilbao.up().publisher.requests(&a, Requests::default(), MINUTE).unwrap();
    settles("each has heard the other", || {
        let asked = |by: &Operator, of| by.up().peers.borrow().members[of].requests.is_some();
        asked(aarhus, &c) && asked(cork, &a)
    })
    .await;
    order(&operators, Stop::Member(c.clone())).await;
    // Signs of life alone remain, in both directions, and bilbao is not concerned.
    settles("nothing but beacons", || {
        (served(aarhus, cork), served(cork, aarhus), served(bilbao, aarhus)) == (1, 1, 2)
    })
    .await;
    let proposal = cork.proposal(release("tiny"));
    cork.apply("p", &proposal);
    for operator in &operators {
        operator.until("its proposal is here", |view| view.state.proposals().contains_key(&proposal.id())).await;
        operator.apply("v", &operator.vote(proposal.id(), Choice::Yes));
    }
    for operator in &operators {
        let view = operator.until("enacted", |view| enacted(view, &proposal.id()).is_some()).await;
        let counted = view.state.proposals()[&proposal.id()].ballot.tally.counts.yes;
        assert_eq!(counted, 3, "its vote counts");
    }
    assert_eq!(aarhus.up().peers.borrow().members[&c].liveness, Liveness::Fresh);
    assert_eq!(aarhus.up().shelf.access(&cork.log()), Access::Member(c));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_expelled_reads_how_it_came_to_that_and_nothing_later() {
    let operators = super::kit::three().await;
    let [aarhus, bilbao, cork] = &operators;
    let gone = cork.person.id();
    let leave = cork.person.human(cork.state().coop(), now(), Body::Leave(Leave::default()));
    cork.apply("leave", &leave);
    // It leaves, which ends a membership as an expulsion does and needs no day of notice.
    for operator in [aarhus, bilbao] {
        operator.until("it has left", |view| view.state.member(&gone).unwrap().standing == MemberStanding::Left).await;
    }
    let key = cork.log();
    assert_eq!(aarhus.up().shelf.access(&key), Access::FormerPin(gone.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let later = bilbao.proposal(release("later"));
    bilbao.apply("p", &later);
    aarhus.until("a later entry is here", |view| view.state.proposals().contains_key(&later.id())).await;
    let (until, mut expelled, own) = aarhus.up().shelf.read(|commons| {
        (follow::last_words(commons, &gone), commons.state().member(&gone).unwrap().clone(), commons.replica().heads())
    });
    assert!(until[&bilbao.log()].seq < own[&bilbao.log()].seq, "what came later is not served");
    expelled.standing = MemberStanding::Expelled;
    let access = follow::may_read(&expelled, &key, &[(gone.clone(), until.clone())].into());
    assert_eq!(access, Access::Expelled { until: until.clone() });
    assert_eq!(
        follow::may_read(&expelled, &aarhus.log(), &Default::default()),
        Access::Expelled { until: Default::default() }
    );
    // Exactly what it is served tells it that it is no member any more.
    let founding = super::kit::quick(&operators.each_ref());
    let mut told = policy::Commons::new(founding, Limits::default());
    for (log, head) in &until {
        let entries = aarhus.up().shelf.range(log, Seq(0), 1000).await.unwrap();
        for entry in entries.into_iter().filter(|entry| entry.seq <= head.seq) {
            told.insert(Statement::verify((*entry.envelope).clone()).unwrap()).unwrap();
        }
    }
    assert_eq!(told.state().member(&gone).unwrap().standing, MemberStanding::Left);
    assert!(!told.state().proposals().contains_key(&later.id()));
}

#[test]
fn a_key_that_was_replaced_reads_what_replaced_it_and_nothing_that_is_addressed() {
    let rules = crate::placement::fixture::rules("aarhus");
    let cork = rules.view().state.member(&"cork".parse().unwrap()).unwrap();
    let (id, now) = (cork.member.id.clone(), cork.member.keys.operator);
    let before = koinon_core::ids::PublicKey([7; 32]);
    assert_eq!(follow::may_read(cork, &now, &Default::default()), Access::Member(id.clone()));
    assert_eq!(follow::may_read(cork, &before, &Default::default()), Access::FormerPin(id));
}
