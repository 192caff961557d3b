//! What people say beside proposals and votes, anchored by their own operator and heard by the others.

use koinon_core::body::emergency::{Cause, CoSignature, EmergencyOrder, Stop};
use koinon_core::body::keys::KeyUpdate;
use koinon_core::body::proposal::{Choice, Recusal};
use koinon_core::body::{Body, Scope, Vote};
use koinon_core::dsse::{SeedSigner, Signer as _};
use koinon_core::statement::{Draft, Position, Statement};
use koinon_core::testkit;

use super::kit::{Operator, now, release, three_complete};
use crate::commons::candidate::Source;
use crate::commons::people::Verdict;

fn signed(operator: &Operator, body: Body, signers: &[&SeedSigner]) -> Statement {
    let person = &operator.person;
    let draft = Draft {
        coop: Some(operator.state().coop()),
        author: person.id(),
        site: person.member.site.name.clone(),
        issued_at: now(),
        position: Position::Human,
        body,
    };
    let others: Vec<&dyn koinon_core::dsse::Signer> = signers[1..].iter().map(|signer| *signer as _).collect();
    draft.sign(signers[0], &others).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_rotated_while_a_vote_is_open_and_the_new_one_votes() {
    let operators = three_complete().await;
    let [aarhus, bilbao, cork] = &operators;
    let proposal = bilbao.proposal(release("tiny"));
    bilbao.apply("p", &proposal);
    aarhus.until("the proposal is here", |view| view.state.proposals().contains_key(&proposal.id())).await;
    let (old, new) = (&aarhus.person.governance, testkit::person("aarhus-next").governance);
    let update = |key: &SeedSigner| Body::KeyUpdate(KeyUpdate { number: 1, governance: vec![key.public_key()] });
    aarhus.apply("unproved", &signed(aarhus, update(&testkit::person("stranger").governance), &[old]));
    aarhus.apply("rotate", &signed(aarhus, update(&new), &[old, &new]));
    let me = aarhus.person.id();
    for operator in &operators {
        operator.until("the new key is in force", |view| view.state.key_set(&me).unwrap().number == 1).await;
    }
    let vote = || Vote { proposal: proposal.id(), choice: Choice::Yes, vseq: 0, ground: None, reason: None };
    aarhus.apply("old", &signed(aarhus, Body::Vote(vote()), &[old]));
    let late = signed(aarhus, Body::Vote(vote()), &[&new]);
    aarhus.apply("new", &late);
    cork.until("the vote with the new key", |view| view.state.vote(&late.id()).is_some()).await;
    let view = aarhus.until("verdicts", |view| view.verdicts.len() == 4).await;
    let refused = |source: Source| matches!(view.verdicts.get(&source), Some(Verdict::Refused(_)));
    assert!(refused(Source::Statement("unproved".into())), "{:?}", view.verdicts);
    assert!(refused(Source::Vote("old".into())), "{:?}", view.verdicts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_and_a_signature_under_it_stop_a_member_everywhere() {
    let operators = three_complete().await;
    let [aarhus, bilbao, cork] = &operators;
    let state = aarhus.state();
    let (membership, charter) = (state.head(Scope::Membership), state.head(Scope::Charter));
    let stop = Stop::Member(cork.person.id());
    let order = EmergencyOrder { stop, cause: Cause::Safety, membership, charter, text: Default::default() };
    let order = signed(aarhus, Body::EmergencyOrder(Box::new(order)), &[&aarhus.person.governance]);
    let sign = Body::CoSignature(CoSignature { order: order.id() });
    // It may be applied before the order is known there: it waits.
    bilbao.apply("second", &signed(bilbao, sign, &[&bilbao.person.governance]));
    bilbao.until("it waits", |view| matches!(view.verdicts.values().next(), Some(Verdict::Waiting(_)))).await;
    aarhus.apply("order", &order);
    for operator in &operators {
        operator.until("cork is stopped", |view| !view.state.may_work(&cork.person.id(), now())).await;
    }
    let recusal = Body::Recusal(Recusal { proposal: order.id() });
    cork.apply("recusal", &signed(cork, recusal, &[&cork.person.governance]));
    cork.until("what is about nothing waits", |view| {
        matches!(view.verdicts.values().next(), Some(Verdict::Waiting(_)))
    })
    .await;
}
