//! Who gets in, who is told why not, and what each may read.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy knows tests by their attribute, not their helpers.

mod kit;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use koinon_core::body::entry::Head;
use koinon_core::ids::{Digest, MemberId, Seq, StatementId, UnixSeconds};
use koinon_core::statement::Audience;
use koinon_core::testkit::{Person, person};
use koinon_net::client::{PeerAddress, Proxies};
use koinon_net::commons::{Access, Commons};
use koinon_net::limits::{Limits, Timing};
use koinon_net::tls::{Alpn, CertUse, LeafName, issue};

use kit::{League, Node, a_while, key_of, raw, until};

async fn pair() -> (League, Node, Node) {
    let league = League::new(&["aarhus", "bilbao", "cork"]);
    let (a, b) = (Node::start(&league, "aarhus").await, Node::start(&league, "bilbao").await);
    a.knows(&b);
    b.knows(&a);
    (league, a, b)
}

fn failures(node: &Node, kind: &str) -> u64 {
    node.service.metrics().snapshot().handshake_failures[kind]
}

#[tokio::test]
async fn an_address_with_another_key_behind_it_is_named() {
    let (_league, a, b) = pair().await;
    let cork = key_of(&person("cork"));
    let address = PeerAddress { endpoints: vec![b.endpoint()], gateways: vec![], protocol: Alpn::Peer };
    a.dialler.set_peers(BTreeMap::from([(cork, address)]));
    until("the failure is told", || !a.downs(&cork).is_empty()).await;
    let told = a.downs(&cork).remove(0);
    assert!(told.starts_with("WrongCertificate") && told.contains(&b.key().to_string()), "{told}");
    a_while().await;
    assert_eq!(a.downs(&cork).len(), 1, "and told once, however often it is tried");
}

#[tokio::test]
async fn a_server_whose_leaf_has_expired_is_not_read() {
    let (_league, a, b) = pair().await;
    a.clock.fetch_add(25 * 3600, Ordering::Relaxed);
    a.reads(&[&b], &[]);
    until("the failure is told", || !a.downs(&b.key()).is_empty()).await;
    let told = a.downs(&b.key()).remove(0);
    assert!(told.starts_with("WrongCertificate") && told.contains("expired"), "{told}");
}

#[tokio::test]
async fn a_client_whose_leaf_has_expired_is_refused() {
    let (_league, a, b) = pair().await;
    let expiry = a.service.identity().unwrap().not_after.0;
    // By bilbao's clock it is over, by aarhus' not yet; bilbao's own leaf is fresh.
    b.clock.store(expiry + 10, Ordering::Relaxed);
    a.clock.store(expiry - 10, Ordering::Relaxed);
    let name = LeafName { coop: b.store.coop, member: b.person.id(), cert_use: CertUse::Peer };
    b.service.renew(&issue(&b.person.operator, &name, UnixSeconds(expiry + 10)).unwrap()).unwrap();
    a.reads(&[&b], &[]);
    until("bilbao counts it", || failures(&b, "certificate") > 0).await;
    until("aarhus is told", || !a.downs(&b.key()).is_empty()).await;
    let told = a.downs(&b.key()).remove(0);
    assert!(told.starts_with("CertificateRefused"), "{told}");
    assert_eq!(a.ups(&b.key()), 0);
}

#[tokio::test]
async fn a_leaf_made_for_gateways_opens_no_peer_endpoint() {
    let (league, a, b) = pair().await;
    let tls = raw::tls(&a, league.coop, &b.person, CertUse::Gateway, Alpn::Peer).await;
    // The client's side of the handshake is over before the server has seen its certificate.
    drop(tls);
    until("it is refused by its certificate", || failures(&a, "certificate") == 1).await;
}

#[tokio::test]
async fn an_unknown_key_is_told_so_and_then_shown_the_door() {
    let league = League::new(&["aarhus", "bilbao", "cork"]);
    let a = Node::start(&league, "aarhus").await;
    a.append(1);
    let eve = person("eve");
    let mut http = raw::http(&a, league.coop, &eve, Alpn::Peer).await;
    for path in ["/v1/heads", &format!("/v1/logs/{}", a.key()), "/v1/documents/x", "/anything"] {
        let (status, answer) = raw::ask(&mut http, Method::GET, path, "").await;
        assert_eq!((status, answer["error"].as_str()), (StatusCode::FORBIDDEN, Some("unknownKey")), "{path}");
        assert!(answer["message"].as_str().unwrap().contains(&key_of(&eve).to_string()));
    }
    until("the connection is closed", || http.is_closed()).await;
    assert_eq!(failures(&a, "unknown_key"), 1);
}

#[tokio::test]
async fn a_peer_that_does_not_know_us_yet_is_tried_until_it_does() {
    let (_league, a, b) = pair().await;
    b.store.allow(a.key(), Access::Unknown);
    b.append(2);
    a.reads(&[&b], &[]);
    until("a is refused", || a.downs(&b.key()).iter().any(|reason| reason.starts_with("Refused"))).await;
    b.knows(&a);
    until("a reads b", || a.store.len_of(&b.key()) == 2).await;
}

#[tokio::test]
async fn a_key_that_is_removed_loses_its_connections_at_once_in_both_directions() {
    let (_league, a, b) = pair().await;
    a.append(1);
    b.append(1);
    b.reads(&[&a], &[]);
    a.reads(&[], &[&b]);
    until("both read", || a.store.len_of(&b.key()) == 1 && b.store.len_of(&a.key()) == 1).await;
    // Aarhus expels bilbao: bilbao's reading ends, and so does aarhus' own over bilbao's connection.
    a.store.allow(b.key(), Access::Unknown);
    until("bilbao hears why", || b.downs(&a.key()).iter().any(|reason| reason.starts_with("Ended"))).await;
    until("aarhus keeps no connection", || a.service.metrics().snapshot().peers[&b.key()].connections == 0).await;
    a.append(1);
    b.append(1);
    a_while().await;
    assert_eq!((a.store.len_of(&b.key()), b.store.len_of(&a.key())), (1, 1));
}

#[tokio::test]
async fn a_key_that_is_removed_where_it_was_dialled_is_not_answered_any_more() {
    let (_league, a, b) = pair().await;
    a.append(1);
    a.reads(&[&b], &[]);
    b.reads(&[], &[&a]);
    until("b reads on a's connection", || b.store.len_of(&a.key()) == 1).await;
    // What comes after the removal in the same instant is not served either.
    a.store.allow(b.key(), Access::Unknown);
    a.append(1);
    until("b's reading ends", || b.downs(&a.key()).iter().any(|reason| reason.starts_with("Ended"))).await;
    a_while().await;
    assert_eq!(b.store.len_of(&a.key()), 1);
}

#[tokio::test]
async fn a_connection_ends_with_the_leaf_under_which_it_was_made() {
    let (_league, a, b) = pair().await;
    b.reads(&[&a], &[]);
    until("b reads a", || b.ups(&a.key()) == 1).await;
    // A day passes, in which both have renewed their leaves.
    for node in [&a, &b] {
        let now = UnixSeconds(node.clock.fetch_add(24 * 3600, Ordering::Relaxed) + 24 * 3600);
        let name = LeafName { coop: node.store.coop, member: node.person.id(), cert_use: CertUse::Peer };
        node.service.renew(&issue(&node.person.operator, &name, now).unwrap()).unwrap();
    }
    until("a new connection follows", || b.ups(&a.key()) == 2).await;
    assert!(b.downs(&a.key())[0].contains("expired"), "{:?}", b.downs(&a.key()));
}

#[tokio::test]
async fn a_connection_without_a_stream_ends_as_promptly() {
    let league = League::new(&["aarhus", "bilbao", "cork"]);
    let patient = Timing { idle: Duration::from_secs(8), ..kit::timing() };
    let cork = person("cork");
    for expires in [false, true] {
        let a = Node::start_with(&league, "aarhus", Limits::default(), patient.clone(), Proxies::none()).await;
        a.store.allow(key_of(&cork), Access::Member(cork.id()));
        let mut http = raw::http(&a, league.coop, &cork, Alpn::Peer).await;
        assert_eq!(raw::ask(&mut http, Method::GET, "/v1/heads", "").await.0, StatusCode::OK);
        let since = Instant::now();
        if expires {
            a.clock.fetch_add(25 * 3600, Ordering::Relaxed);
        } else {
            a.store.allow(key_of(&cork), Access::Unknown);
        }
        until("the connection is closed", || http.is_closed()).await;
        assert!(since.elapsed() < Duration::from_secs(7), "before it counts as idle");
    }
}

#[tokio::test]
async fn only_members_are_dialled_back_and_asked_back() {
    let league = League::new(&["aarhus", "bilbao", "cork"]);
    let (a, cork) = (Node::start(&league, "aarhus").await, person("cork"));
    for access in [Access::Applicant, Access::FormerPin(cork.id())] {
        a.store.allow(key_of(&cork), access);
        let mut http = raw::http(&a, league.coop, &cork, Alpn::Peer).await;
        let (status, answer) = raw::ask(&mut http, Method::POST, "/v1/dial-back", "").await;
        assert_eq!((status, answer["error"].as_str()), (StatusCode::FORBIDDEN, Some("notAllowed")));
        let mut turn = raw::request(Method::CONNECT, "/", "");
        *turn.uri_mut() = "koinon-reverse:7443".parse().unwrap();
        assert_eq!(http.send_request(turn).await.unwrap().status(), StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn former_keys_and_applicants_read_the_commons_and_no_latest_statements() {
    let league = League::new(&["aarhus", "bilbao", "cork"]);
    for access in [Access::Applicant, Access::FormerPin("bilbao".parse().unwrap())] {
        let (a, b) = (Node::start(&league, "aarhus").await, Node::start(&league, "bilbao").await);
        a.append(2);
        a.beacon(1, Audience::Everyone);
        a.store.allow(b.key(), access.clone());
        b.knows(&a);
        b.append(1);
        b.reads(&[&a], &[]);
        a.reads(&[], &[&b]);
        until("the log is read", || b.store.len_of(&a.key()) == 2).await;
        a_while().await;
        assert_eq!(b.heard(&a.key()), []);
        assert_eq!(a.store.len_of(&b.key()), 0, "{} is not read from", access.as_str());
    }
}

#[tokio::test]
async fn an_expelled_key_reads_the_log_up_to_its_expulsion_and_nothing_else() {
    let league = League::new(&["aarhus", "bilbao", "cork"]);
    let (a, c) = (Node::start(&league, "aarhus").await, person("cork"));
    a.append(5);
    a.beacon(1, Audience::Everyone);
    let at = a.store.range(&a.key(), Seq(2), 1).await.unwrap().remove(0);
    let until = BTreeMap::from([(a.key(), Head { seq: at.seq, id: at.id })]);
    a.store.allow(key_of(&c), Access::Expelled { until });

    let mut http = raw::http(&a, league.coop, &c, Alpn::Peer).await;
    let (_, heads) = raw::ask(&mut http, Method::GET, "/v1/heads", "").await;
    assert_eq!(heads["heads"][a.key().to_string()]["seq"], 2);
    let log = http.send_request(raw::request(Method::GET, &format!("/v1/logs/{}?from=0", a.key()), "")).await.unwrap();
    let log = http_body_util::BodyExt::collect(log.into_body()).await.unwrap().to_bytes();
    assert_eq!(log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count(), 3);
    let (status, _) = raw::ask(&mut http, Method::GET, &format!("/v1/logs/{}", key_of(&person("bilbao"))), "").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, _) = raw::ask(&mut http, Method::GET, &format!("/v1/documents/{}", at.id), "").await;
    assert_eq!(status, StatusCode::FORBIDDEN);

    // The same over a stream.
    let cork = Node::start(&league, "cork").await;
    cork.knows(&a);
    cork.reads(&[&a], &[]);
    kit::until("three entries", || cork.store.len_of(&a.key()) == 3).await;
    a.append(3);
    a_while().await;
    assert_eq!((cork.store.len_of(&a.key()), cork.heard(&a.key()).len()), (3, 0));
}

#[tokio::test]
async fn what_is_no_request_of_the_protocol_is_named() {
    let (league, a, b) = pair().await;
    let mut http = raw::http(&a, league.coop, &b.person, Alpn::Peer).await;
    let id = StatementId(Digest([1; 32]));
    for (method, path, body, status, error) in [
        (Method::GET, "/v2/heads".to_owned(), "", StatusCode::NOT_FOUND, "notFound"),
        (Method::DELETE, "/v1/heads".to_owned(), "", StatusCode::NOT_FOUND, "notFound"),
        (Method::GET, "/v1/logs/me".to_owned(), "", StatusCode::BAD_REQUEST, "badRequest"),
        (Method::GET, format!("/v1/logs/{}?from=-1", a.key()), "", StatusCode::BAD_REQUEST, "badRequest"),
        (Method::GET, format!("/v1/logs/{}?limit=many", a.key()), "", StatusCode::BAD_REQUEST, "badRequest"),
        (Method::GET, format!("/v1/documents/{id}"), "", StatusCode::NOT_FOUND, "notFound"),
        (Method::POST, "/v1/stream".to_owned(), "hello", StatusCode::BAD_REQUEST, "badRequest"),
        (Method::POST, "/v1/stream".to_owned(), r#"{"heads":{},"heads":{}}"#, StatusCode::BAD_REQUEST, "badRequest"),
        // Joining has a protocol of its own.
        (Method::POST, "/v1/join".to_owned(), "{}", StatusCode::NOT_FOUND, "notFound"),
    ] {
        let (seen, answer) = raw::ask(&mut http, method, &path, body).await;
        assert_eq!((seen, answer["error"].as_str()), (status, Some(error)), "{path} {body}");
    }
}

#[tokio::test]
async fn members_read_only_the_commons_over_the_joining_protocol() {
    let (league, a, b) = pair().await;
    a.beacon(1, Audience::Everyone);
    a.append(1);
    let address = PeerAddress { endpoints: vec![a.endpoint()], gateways: vec![], protocol: Alpn::Join };
    b.dialler.set_peers(BTreeMap::from([(a.key(), address)]));
    until("the log is read", || b.store.len_of(&a.key()) == 1).await;
    a_while().await;
    assert_eq!(b.heard(&a.key()), []);
    // Asking for the full protocol restarts the session.
    b.reads(&[&a], &[]);
    until("the beacon is heard", || b.heard(&a.key()).len() == 1).await;
    let _ = league;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_reading_one_is_not() {
    let league = League::new(&["aarhus", "bilbao", "cork"]);
    let quick = Timing { idle: Duration::from_millis(400), ..kit::timing() };
    let a = Node::start_with(&league, "aarhus", Limits::default(), quick, Proxies::none()).await;
    let b = Node::start(&league, "bilbao").await;
    a.knows(&b);
    a.store.allow(key_of(&person("cork")), Access::Member("cork".parse::<MemberId>().unwrap()));
    b.knows(&a);
    b.reads(&[&a], &[]);
    let mut idle = raw::http(&a, league.coop, &person("cork"), Alpn::Peer).await;
    assert_eq!(raw::ask(&mut idle, Method::GET, "/v1/heads", "").await.0, StatusCode::OK);
    until("the idle one is closed", || idle.is_closed()).await;
    a_while().await;
    assert_eq!((b.ups(&a.key()), b.downs(&a.key()).len()), (1, 0));
}

/// A29: the expected result is that only a key makes a member, whatever name its certificate claims.
#[tokio::test]
async fn a29_a_member_that_calls_itself_another_is_that_other_to_nobody() {
    let league = League::new(&["aarhus", "bilbao", "cork"]);
    let (a, b, c) = (
        Node::start(&league, "aarhus").await,
        Node::start(&league, "bilbao").await,
        Node::start(&league, "cork").await,
    );
    // As a server under bilbao's name: whoever dials bilbao wants bilbao's key.
    let impostor = Person { operator: person("cork").operator, ..person("bilbao") };
    let endpoint = raw::fake_server(&impostor, league.coop, |_| async {}).await;
    let address = PeerAddress { endpoints: vec![endpoint], gateways: vec![], protocol: Alpn::Peer };
    a.dialler.set_peers(BTreeMap::from([(b.key(), address)]));
    until("the failure is told", || !a.downs(&b.key()).is_empty()).await;
    let told = a.downs(&b.key()).remove(0);
    assert!(told.starts_with("WrongCertificate") && told.contains(&c.key().to_string()), "{told}");
    assert_eq!(a.ups(&b.key()), 0);
    // As a client, where bilbao is known and cork is not, it reads nothing.
    a.knows(&b);
    let mut http = raw::http(&a, league.coop, &impostor, Alpn::Peer).await;
    let (status, answer) = raw::ask(&mut http, Method::GET, "/v1/heads", "").await;
    assert_eq!((status, answer["error"].as_str()), (StatusCode::FORBIDDEN, Some("unknownKey")));
    // Where cork is known as well it is cork, and what is for bilbao is not for it.
    a.knows(&c);
    c.knows(&a);
    let name = LeafName { coop: league.coop, member: b.person.id(), cert_use: CertUse::Peer };
    let leaf = issue(&c.person.operator, &name, UnixSeconds(c.clock.load(Ordering::Relaxed))).unwrap();
    c.service.renew(&leaf).unwrap();
    let [all, for_bilbao] =
        [(1, Audience::Everyone), (2, Audience::Member(b.person.id()))].map(|(seq, to)| a.beacon(seq, to));
    c.reads(&[&a], &[]);
    until("what is for all is read", || c.heard(&a.key()).contains(&all.id())).await;
    a_while().await;
    assert!(!c.heard(&a.key()).contains(&for_bilbao.id()));
    b.knows(&a);
    b.reads(&[&a], &[]);
    until("bilbao reads what is for it", || b.heard(&a.key()).contains(&for_bilbao.id())).await;
}
