//! Founding alone, and joining with an invite and a vote.

use koinon_api::conditions::Reason;
use koinon_core::body::Action;
use koinon_core::body::proposal::{Admit, Choice};

use super::kit::{Operator, enacted, quick};
use crate::commons::view::{Signing, Standing};

/// Admits whoever applied last at `sponsor`; all of `voters` vote yes.
async fn admit(sponsor: &Operator, voters: &[&Operator]) -> koinon_core::ids::StatementId {
    let taken = sponsor.up().desk.taken.lock().unwrap().last().unwrap().clone();
    let proposal = sponsor.proposal(Action::Admit(Admit { application: taken.application }));
    let id = proposal.id();
    sponsor.apply(&format!("admit-{}", taken.member.id), &proposal);
    for voter in voters {
        voter.until("the proposal is here", |view| view.state.proposals().contains_key(&id)).await;
        voter.apply(&format!("v-{id}"), &voter.vote(id, Choice::Yes));
    }
    for voter in voters {
        voter.until("admitted", |view| enacted(view, &id).is_some()).await;
    }
    id
}

async fn until_member(operator: &Operator, members: usize) {
    operator
        .until("a member among the others, and signing", |view| {
            view.standing == Standing::Member && view.signing == Signing::Yes && view.state.active().count() == members
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_founds_and_two_join_each_with_one_invite_and_one_vote() {
    let [mut aarhus, mut bilbao, mut cork] = ["aarhus", "bilbao", "cork"].map(Operator::new);
    aarhus.start(&quick(&[&aarhus]), None).await;
    aarhus.until_signing().await;

    let invite = aarhus.invite("bilbao");
    bilbao.join(&invite).await.unwrap();
    assert!(matches!(bilbao.until("an applicant", |_| true).await.standing, Standing::Applicant));
    // Longer than `lostSeconds`: an applicant hears nobody, and must not conclude anything from that.
    tokio::time::sleep(std::time::Duration::from_secs(9)).await;
    assert!(bilbao.up().peers.borrow().members.is_empty());
    admit(&aarhus, &[&aarhus]).await;
    until_member(&aarhus, 2).await;
    until_member(&bilbao, 2).await;

    let invite = bilbao.invite("cork");
    cork.join(&invite).await.unwrap();
    admit(&bilbao, &[&bilbao, &aarhus]).await;
    for operator in [&aarhus, &bilbao, &cork] {
        until_member(operator, 3).await;
    }
    let heads = [&aarhus, &bilbao, &cork].map(|operator| operator.state().heads());
    assert!(heads[0] == heads[1] && heads[1] == heads[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_works_once_and_for_whom_it_was_made() {
    let [mut aarhus, bilbao, cork] = ["aarhus", "bilbao", "cork"].map(Operator::new);
    aarhus.start(&quick(&[&aarhus]), None).await;
    aarhus.until_signing().await;
    let invite = aarhus.invite("bilbao");

    let reason = |trouble: crate::commons::joining::JoinTrouble| trouble.refusal().reason;
    assert_eq!(reason(cork.ask(&invite).await.unwrap_err()), Reason::InviteForeign, "made for bilbao");
    bilbao.ask(&invite).await.unwrap();
    bilbao.ask(&invite).await.unwrap();
    let mut copy = Operator::new("bilbao");
    copy.person.operator = koinon_core::testkit::person("thief").operator;
    // The thief's leaf is under its own key, and the invite is bound to the key that used it first.
    let mut author = copy.author();
    author.key = std::sync::Arc::new(koinon_core::testkit::person("thief").operator);
    let name = crate::commons::node::PeerName::new(author.clone(), invite.coop).unwrap();
    let mut member = copy.person.member.clone();
    member.keys.operator = koinon_core::dsse::Signer::public_key(&copy.person.operator);
    copy.person.member = member;
    let application = copy.person.application(invite.coop, super::kit::now());
    let proxies = koinon_net::client::Proxies::none();
    let used = crate::commons::joining::apply(&name, &author, &invite, application.envelope().clone(), &proxies).await;
    assert_eq!(reason(used.unwrap_err()), Reason::InviteUsed);

    let mistyped = koinon_core::invite::Invite { secret: "guessed".into(), ..invite.clone() };
    assert_eq!(reason(bilbao.ask(&mistyped).await.unwrap_err()), Reason::InviteRefused);
    let foreign = koinon_core::ids::CoopId(koinon_core::ids::Digest::of(b"another"));
    let elsewhere = koinon_core::invite::Invite { coop: foreign, ..invite };
    assert_eq!(reason(bilbao.ask(&elsewhere).await.unwrap_err()), Reason::InviteForeign, "of another cooperative");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_lacks_the_invites_head_is_not_believed() {
    let [mut aarhus, mut bilbao] = ["aarhus", "bilbao"].map(Operator::new);
    aarhus.start(&quick(&[&aarhus]), None).await;
    aarhus.until_signing().await;
    let mut invite = aarhus.invite("bilbao");
    invite.membership_head = koinon_core::ids::PolicyHash(koinon_core::ids::Digest::of(b"a later version"));
    bilbao.join(&invite).await.unwrap();
    let truncated = Standing::Truncated(invite.membership_head);
    bilbao.until("refused", |view| view.standing == truncated).await;
    admit(&aarhus, &[&aarhus]).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(bilbao.view().standing, truncated, "also when that history admits it");
    assert!(matches!(bilbao.view().signing, Signing::No(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_invite_ends_and_an_unknown_key_reads_nothing() {
    let [mut aarhus, bilbao] = ["aarhus", "bilbao"].map(Operator::new);
    aarhus.start(&quick(&[&aarhus]), None).await;
    aarhus.until_signing().await;
    let invite = aarhus.invite("bilbao");
    let author = bilbao.author();
    let name = crate::commons::node::PeerName::new(author, invite.coop).unwrap();
    let session = koinon_net::client::JoinSession::connect(
        &crate::commons::node::sponsor(&invite),
        &name.identity,
        &koinon_net::client::Proxies::none(),
        koinon_net::limits::Limits::default(),
        koinon_net::limits::Timing::default(),
    )
    .await
    .unwrap();
    assert!(session.heads().await.is_err(), "before it has applied");
}
