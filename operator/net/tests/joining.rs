//! Joining: one application, one answer, then the commons on the same key.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy knows tests by their attribute, not their helpers.

mod kit;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use hyper::{Method, StatusCode};
use koinon_core::ids::{Digest, Seq, StatementId};
use koinon_core::statement::Audience;
use koinon_core::testkit::{Person, T0, person};
use koinon_net::client::{JoinError, JoinSession, Proxies, SessionError, Sponsor};
use koinon_net::commons::Access;
use koinon_net::limits::Limits;
use koinon_net::tls::{Alpn, CertUse};
use koinon_net::wire::{ErrorCode, JoinRefusal, JoinRequest};

use kit::{Invite, League, Node, a_while, identity, key_of, raw, until};

fn sponsor(node: &Node) -> Sponsor {
    Sponsor { endpoints: vec![node.endpoint()], key: node.key() }
}

async fn connect(node: &Node, league: &League, who: &Person) -> JoinSession {
    let identity = identity(who, league.coop, CertUse::Peer, &Arc::new(AtomicI64::new(T0.0)));
    JoinSession::connect(&sponsor(node), &identity, &Proxies::none(), Limits::default(), kit::timing()).await.unwrap()
}

fn request(league: &League, who: &Person, secret: &str) -> JoinRequest {
    let application = who.application(league.coop, T0).envelope().clone();
    JoinRequest { secret: secret.to_owned(), application }
}

fn invite(node: &Node, secret: &str, invite: Invite) {
    node.store.invites.lock().unwrap().insert(secret.to_owned(), invite);
}

#[tokio::test]
async fn an_applicant_applies_reads_along_and_becomes_a_member() {
    let league = League::new(&["aarhus", "bilbao"]);
    let a = Node::start(&league, "aarhus").await;
    let cork = Node::start(&league, "cork").await;
    a.append(3);
    invite(&a, "secret", Invite::Open);
    let session = connect(&a, &league, &cork.person).await;

    let early = session.heads().await.unwrap_err();
    assert!(matches!(early, SessionError::Refused(refused) if refused.error == ErrorCode::UnknownKey));
    let application = cork.person.application(league.coop, T0);
    let accepted = session.apply(&request(&league, &cork.person, "secret")).await.unwrap();
    assert_eq!(accepted.application, application.id());

    // The answer may be lost on the way: the same request again gets the same answer.
    let session = connect(&a, &league, &cork.person).await;
    assert_eq!(session.apply(&request(&league, &cork.person, "secret")).await.unwrap(), accepted);
    let session = connect(&a, &league, &cork.person).await;
    assert_eq!(session.heads().await.unwrap()[&a.key()].seq, Seq(2));
    assert_eq!(session.range(&a.key(), Seq(1), 10).await.unwrap().len(), 2);
    assert_eq!(session.document(&StatementId(Digest([1; 32]))).await.unwrap(), None);

    // It follows the sponsor until it is admitted, and hears no Latest statements until then.
    a.beacon(1, Audience::Everyone);
    cork.dialler.set_peers(sponsor(&a).as_peer());
    a.append(1);
    until("the applicant follows", || cork.store.len_of(&a.key()) == 4).await;
    a_while().await;
    assert_eq!(cork.heard(&a.key()), []);
    a.knows(&cork);
    cork.reads(&[&a], &[]);
    until("the member hears beacons", || cork.heard(&a.key()).len() == 1).await;
}

#[tokio::test]
async fn each_refusal_arrives_as_what_it_is() {
    let league = League::new(&["aarhus", "bilbao"]);
    let a = Node::start(&league, "aarhus").await;
    let cork = person("cork");
    invite(&a, "used", Invite::UsedBy(key_of(&person("dublin"))));
    for (secret, reason) in [
        ("expired", JoinRefusal::InviteExpired),
        ("member", JoinRefusal::WrongMember),
        ("taken", JoinRefusal::Taken),
        ("down", JoinRefusal::Unavailable),
    ] {
        invite(&a, secret, Invite::Refused(reason));
    }
    invite(&a, "open", Invite::Open);
    let refusal = async |request: JoinRequest, who: &Person| match connect(&a, &league, who)
        .await
        .apply(&request)
        .await
        .unwrap_err()
    {
        JoinError::Refused(refused) => refused.reason,
        other => panic!("{other}"),
    };
    for (secret, reason) in [
        ("used", JoinRefusal::InviteUsed),
        ("expired", JoinRefusal::InviteExpired),
        ("of another sponsor", JoinRefusal::InviteUnknown),
        ("member", JoinRefusal::WrongMember),
        ("taken", JoinRefusal::Taken),
        ("down", JoinRefusal::Unavailable),
    ] {
        assert_eq!(refusal(request(&league, &cork, secret), &cork).await, reason);
    }
    let foreign = League::new(&["bilbao"]);
    assert_eq!(refusal(request(&foreign, &cork, "open"), &cork).await, JoinRefusal::WrongCooperative);
    assert_eq!(refusal(request(&league, &cork, "open"), &person("eve")).await, JoinRefusal::WrongKey);
    let mut forged = request(&league, &cork, "open");
    forged.application.signatures.pop();
    assert_eq!(refusal(forged, &cork).await, JoinRefusal::ApplicationInvalid);
    assert!(a.store.access.lock().unwrap().is_empty(), "nobody got in");
}

#[tokio::test]
async fn more_than_32_kib_is_refused_on_both_sides() {
    let league = League::new(&["aarhus", "bilbao"]);
    let a = Node::start(&league, "aarhus").await;
    let cork = person("cork");
    let mut large = request(&league, &cork, "open");
    large.secret = "x".repeat(33 * 1024);
    let told = connect(&a, &league, &cork).await.apply(&large).await.unwrap_err();
    assert!(matches!(told, JoinError::TooLarge { allowed: 32_768, .. }), "{told}");

    let mut http = raw::http(&a, league.coop, &cork, Alpn::Join).await;
    let body = serde_json::to_vec(&large).unwrap();
    let length = body.len();
    let (status, answer) = raw::ask(&mut http, Method::POST, "/v1/join", body).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer, serde_json::json!({"limit": "joinBytes", "allowed": 32_768, "seen": length}));
    let (status, answer) = raw::ask(&mut http, Method::POST, "/v1/join", "hello").await;
    assert_eq!((status, answer["error"].as_str()), (StatusCode::BAD_REQUEST, Some("badRequest")));
}

#[tokio::test]
async fn guessing_secrets_is_slow() {
    let league = League::new(&["aarhus", "bilbao"]);
    let limits = Limits { joins_per_minute: 5, ..Limits::default() };
    let a = Node::start_with(&league, "aarhus", limits, kit::timing(), Proxies::none()).await;
    let mut limited = 0;
    for guess in 0..10 {
        // A new key each time costs the guesser nothing.
        let eve = person(&format!("eve-{guess}"));
        let guessed = connect(&a, &league, &eve).await.apply(&request(&league, &eve, "guess")).await.unwrap_err();
        if let JoinError::Session(SessionError::Limited(limit)) = guessed {
            assert_eq!(limit.limit.as_str(), "joinsPerMinute");
            limited += 1;
        }
    }
    assert_eq!(limited, 5);
}

#[tokio::test]
async fn a_sponsor_with_another_key_gets_no_secret() {
    let league = League::new(&["aarhus", "bilbao"]);
    let a = Node::start(&league, "aarhus").await;
    let wrong = Sponsor { key: key_of(&person("bilbao")), ..sponsor(&a) };
    let identity = identity(&person("cork"), league.coop, CertUse::Peer, &Arc::new(AtomicI64::new(T0.0)));
    let refused = JoinSession::connect(&wrong, &identity, &Proxies::none(), Limits::default(), kit::timing())
        .await
        .err()
        .unwrap();
    assert_eq!(refused.category(), "WrongCertificate");
}

#[tokio::test]
async fn an_application_that_fails_ends_the_reading() {
    let league = League::new(&["aarhus", "bilbao"]);
    let a = Node::start(&league, "aarhus").await;
    let cork = Node::start(&league, "cork").await;
    a.append(1);
    a.store.allow(cork.key(), Access::Applicant);
    cork.dialler.set_peers(sponsor(&a).as_peer());
    until("the applicant follows", || cork.store.len_of(&a.key()) == 1).await;
    a.store.allow(cork.key(), Access::Unknown);
    a.append(1);
    until("the applicant is told", || cork.downs(&a.key()).iter().any(|told| told.starts_with("Refused"))).await;
    assert_eq!(cork.store.len_of(&a.key()), 1);
}
