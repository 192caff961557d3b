//! What a peer endpoint and a reader do with peers that misbehave: a clear answer, and nobody else notices.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy knows tests by their attribute, not their helpers.

mod kit;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use koinon_core::ids::{Endpoint, PublicKey};
use koinon_core::statement::Audience;
use koinon_core::testkit::person;
use koinon_net::client::{PeerAddress, Proxies};
use koinon_net::commons::Access;
use koinon_net::limits::{Limits, Timing};
use koinon_net::tls::{Alpn, CertUse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use kit::{League, Node, a_while, key_of, raw, until};

const MIB: usize = 1024 * 1024;

struct Scene {
    league: League,
    node: Node,
    /// A member that behaves and reads from the node all the while.
    friend: Node,
}

impl Scene {
    async fn with(limits: Limits, timing: Timing) -> Scene {
        let league = League::new(&["aarhus", "bilbao", "cork"]);
        let node = Node::start_with(&league, "aarhus", limits, timing, Proxies::none()).await;
        let friend = Node::start(&league, "bilbao").await;
        node.knows(&friend);
        friend.knows(&node);
        node.store.allow(key_of(&person("cork")), Access::Member("cork".parse().unwrap()));
        friend.reads(&[&node], &[]);
        until("the friend reads", || friend.ups(&node.key()) == 1).await;
        Scene { league, node, friend }
    }

    async fn new() -> Scene {
        Scene::with(Limits::default(), kit::timing()).await
    }

    /// The friend still gets what is new, over the connection that it had.
    async fn the_friend_noticed_nothing(&self) {
        self.node.append(1);
        let wanted = self.node.store.len_of(&self.node.key());
        let asked = Instant::now();
        until("the friend gets what is new", || self.friend.store.len_of(&self.node.key()) == wanted).await;
        assert!(asked.elapsed() < Duration::from_secs(2), "it took {:?}", asked.elapsed());
        assert_eq!((self.friend.ups(&self.node.key()), self.friend.downs(&self.node.key()).len()), (1, 0));
    }

    fn limited(&self, limit: &str) -> u64 {
        self.node.service.metrics().snapshot().limits[limit]
    }

    fn failed(&self, kind: &str) -> u64 {
        self.node.service.metrics().snapshot().handshake_failures[kind]
    }

    async fn cork(&self) -> hyper::client::conn::http2::SendRequest<http_body_util::Full<Bytes>> {
        raw::http(&self.node, self.league.coop, &person("cork"), Alpn::Peer).await
    }
}

#[tokio::test]
async fn two_mebibytes_of_garbage_at_the_port_are_dropped_at_the_first_bytes() {
    let scene = Scene::new().await;
    for first in
        [b"\x00".as_slice(), b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\xff\xff"]
    {
        let mut tcp = TcpStream::connect(scene.node.address).await.unwrap();
        let mut garbage = first.to_vec();
        garbage.resize(2 * MIB, 0xa5);
        // The endpoint closes long before everything is written.
        let _ = tokio::time::timeout(Duration::from_secs(5), tcp.write_all(&garbage)).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.len() < 100, "an alert at most");
    }
    until("all are counted", || scene.failed("protocol") + scene.failed("timeout") == 4).await;
    scene.the_friend_noticed_nothing().await;
}

#[tokio::test]
async fn two_mebibytes_of_garbage_from_a_member_are_refused_with_the_limit() {
    let scene = Scene::new().await;
    let mut http = scene.cork().await;
    let (status, answer) = raw::ask(&mut http, Method::POST, "/v1/stream", vec![0xa5; 2 * MIB]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer, serde_json::json!({"limit": "bodyBytes", "allowed": 262_144, "seen": 2 * MIB}));

    // Without a length it is counted as it comes.
    let frames = futures::stream::iter(
        (0..32).map(|_| Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(Bytes::from(vec![0xa5; MIB / 16])))),
    );
    let tls = raw::tls(&scene.node, scene.league.coop, &person("cork"), CertUse::Peer, Alpn::Peer).await.unwrap();
    let (mut http, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("https://node/v1/stream").body(StreamBody::new(frames)).unwrap();
    let answer = http.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let answer: serde_json::Value =
        serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
    let seen = answer["seen"].as_u64().unwrap();
    assert!(seen > 262_144 && seen < 400_000, "it stops at the limit and says {seen}");
    assert_eq!(scene.limited("bodyBytes"), 2);
    scene.the_friend_noticed_nothing().await;
}

#[tokio::test]
async fn headers_without_measure_are_refused() {
    let scene = Scene::new().await;
    let mut http = scene.cork().await;
    let mut request = raw::request(Method::GET, "/v1/heads", "");
    request.headers_mut().insert("x-long", "x".repeat(40 * 1024).parse().unwrap());
    match http.send_request(request).await {
        Ok(answer) => assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Err(error) => assert!(!error.is_timeout(), "closed at once is as good: {error}"),
    }
    scene.the_friend_noticed_nothing().await;
}

#[tokio::test]
async fn whoever_connects_and_says_nothing_is_dropped() {
    let scene = Scene::new().await;
    let begun = Instant::now();
    // Nothing at all; half a TLS record; a whole handshake and then nothing.
    let mut silent = TcpStream::connect(scene.node.address).await.unwrap();
    let mut half = TcpStream::connect(scene.node.address).await.unwrap();
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
    let mut mute = raw::tls(&scene.node, scene.league.coop, &person("cork"), CertUse::Peer, Alpn::Peer).await.unwrap();
    let mut bytes = Vec::new();
    for tcp in [&mut silent, &mut half] {
        let _ = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut bytes)).await.unwrap();
    }
    let _ = tokio::time::timeout(Duration::from_secs(10), mute.read_to_end(&mut bytes)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(12));
    assert_eq!(scene.failed("timeout"), 2);
    assert_eq!(scene.limited("idleSeconds"), 1);
    scene.the_friend_noticed_nothing().await;
}

#[tokio::test]
async fn a_body_that_drips_is_not_waited_for() {
    let scene = Scene::new().await;
    let tls = raw::tls(&scene.node, scene.league.coop, &person("cork"), CertUse::Peer, Alpn::Peer).await.unwrap();
    let (mut http, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let (drops, body) = tokio::sync::mpsc::channel(1);
    let drip = tokio::spawn(async move {
        while drops.send(Bytes::from_static(b" ")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let request = Request::post("https://node/v1/stream").body(raw::Dripping(body)).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(5), http.send_request(request)).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    let answer = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&answer[..], br#"{"limit":"bodySeconds","allowed":1,"seen":2}"#);
    drip.abort();
    scene.the_friend_noticed_nothing().await;
}

#[tokio::test]
async fn a_crowd_at_the_door_keeps_no_member_out() {
    let limits = Limits { pending_connections: 8, ..Limits::default() };
    let scene = Scene::with(limits, kit::timing()).await;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(scene.node.address).await.unwrap());
    }
    let mut http = scene.cork().await;
    assert_eq!(raw::ask(&mut http, Method::GET, "/v1/heads", "").await.0, StatusCode::OK);
    assert!(scene.failed("pushed_out") >= 92, "the oldest of the crowd had to go");
    scene.the_friend_noticed_nothing().await;
}

#[tokio::test]
async fn who_asks_too_fast_is_told_the_rate() {
    let limits = Limits { requests_per_second: 5, request_burst: 10, ..Limits::default() };
    let scene = Scene::with(limits, kit::timing()).await;
    let mut http = scene.cork().await;
    let mut answers = Vec::new();
    for _ in 0..30 {
        answers.push(raw::ask(&mut http, Method::GET, "/v1/heads", "").await);
    }
    let refused: Vec<_> = answers.iter().filter(|(status, _)| *status == StatusCode::TOO_MANY_REQUESTS).collect();
    assert!(refused.len() >= 15, "{} of 30 were refused", refused.len());
    assert_eq!(refused[0].1, serde_json::json!({"limit": "requestsPerSecond", "allowed": 5, "seen": 6}));
    assert_eq!(scene.limited("requestsPerSecond"), refused.len() as u64);
    scene.the_friend_noticed_nothing().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(raw::ask(&mut http, Method::GET, "/v1/heads", "").await.0, StatusCode::OK, "and may ask again later");
}

#[tokio::test]
async fn streams_and_connections_of_one_key_are_bounded() {
    let limits = Limits { streams: 2, connections_per_peer: 2, ..Limits::default() };
    let scene = Scene::with(limits, kit::timing()).await;
    let mut first = scene.cork().await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let request = raw::request(Method::POST, "/v1/stream", r#"{"heads":{}}"#);
        let answer = first.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        streams.push(answer.into_body());
    }
    let (status, answer) = raw::ask(&mut first, Method::POST, "/v1/stream", r#"{"heads":{}}"#).await;
    assert_eq!((status, answer["limit"].as_str()), (StatusCode::TOO_MANY_REQUESTS, Some("streams")));

    let mut second = scene.cork().await;
    let mut third = scene.cork().await;
    for http in [&mut second, &mut third] {
        assert_eq!(raw::ask(http, Method::GET, "/v1/heads", "").await.0, StatusCode::OK);
    }
    until("the oldest connection had to go", || first.is_closed()).await;
    let said = streams.remove(0).collect().await.unwrap().to_bytes();
    let last = said.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap();
    let last: serde_json::Value = serde_json::from_slice(last).unwrap();
    assert_eq!(last["bye"]["limit"], serde_json::json!({"limit": "connectionsPerPeer", "allowed": 2, "seen": 3}));
    scene.the_friend_noticed_nothing().await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_cut_off_and_held_in_bounds() {
    let scene = Scene::new().await;
    scene.node.append(3000);
    until("the friend has it all", || scene.friend.store.len_of(&scene.node.key()) == 3000).await;
    let before = scene.node.service.metrics().snapshot().bytes_served;
    let mut http = scene.cork().await;
    let request = raw::request(Method::POST, "/v1/stream", r#"{"heads":{}}"#);
    let _unread = http.send_request(request).await.unwrap().into_body();
    a_while().await;
    let written = scene.node.service.metrics().snapshot().bytes_served - before;
    let whole = 3000 * 800;
    assert!(written < whole, "not all of {whole} bytes was produced for a reader that takes none: {written}");
    until("the connection is closed", || http.is_closed()).await;
    assert_eq!(scene.limited("readerSeconds"), 1);
    scene.the_friend_noticed_nothing().await;
}

#[tokio::test]
async fn a_flood_of_requests_that_are_taken_back_ends_that_connection_alone() {
    let scene = Scene::new().await;
    let http = scene.cork().await;
    for _ in 0..2000 {
        let mut http = http.clone();
        let asked = tokio::spawn(async move {
            let _ = http.send_request(raw::request(Method::GET, "/v1/heads", "")).await;
        });
        tokio::task::yield_now().await;
        asked.abort();
    }
    scene.the_friend_noticed_nothing().await;
}

#[tokio::test]
async fn a_connection_is_turned_around_once_and_nowhere_else() {
    let scene = Scene::new().await;
    let connect = |to: &str| {
        let mut request = raw::request(Method::CONNECT, "/", "");
        *request.uri_mut() = to.parse().unwrap();
        request
    };
    let mut http = scene.cork().await;
    let turned = http.send_request(connect("koinon-reverse:7443")).await.unwrap();
    assert_eq!(turned.status(), StatusCode::OK);
    let again = http.send_request(connect("koinon-reverse:7443")).await.unwrap();
    assert_eq!(again.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(scene.limited("reversals"), 1);
    let tunnel = http.send_request(connect("127.0.0.1:6443")).await.unwrap();
    assert_eq!(tunnel.status(), StatusCode::BAD_REQUEST, "the endpoint is no proxy");

    let mut joining = raw::http(&scene.node, scene.league.coop, &person("cork"), Alpn::Join).await;
    let refused = joining.send_request(connect("koinon-reverse:7443")).await.unwrap();
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    scene.the_friend_noticed_nothing().await;
}

/// Reads from a fake peer `cork` at `endpoint`.
fn read_from(node: &Node, endpoint: Endpoint) -> PublicKey {
    let key = key_of(&person("cork"));
    let mut peers = BTreeMap::new();
    peers.insert(key, PeerAddress { endpoints: vec![endpoint], gateways: vec![], protocol: Alpn::Peer });
    node.dialler.set_peers(peers);
    key
}

#[tokio::test]
async fn a_peer_that_accepts_and_answers_nothing_costs_the_others_nothing() {
    let scene = Scene::new().await;
    let (league, node) = (&scene.league, &scene.node);
    // Three ways of silence: no TLS, TLS and no HTTP/2, HTTP/2 and no answers.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deaf_endpoint: Endpoint = format!("https://{}", deaf.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((tcp, _)) = deaf.accept().await {
            kept.push(tcp);
        }
    });
    let mute = raw::fake_server(&person("cork"), league.coop, |tls| async move {
        let _kept = tls;
        std::future::pending::<()>().await;
    })
    .await;
    let stuck = raw::fake_server(&person("cork"), league.coop, |tls| async move {
        let never = |_: Request<hyper::body::Incoming>| async {
            std::future::pending::<Result<hyper::Response<http_body_util::Empty<Bytes>>, std::io::Error>>().await
        };
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(tls), hyper::service::service_fn(never))
            .await;
    })
    .await;
    for (endpoint, category) in [(deaf_endpoint, "Unreachable"), (mute, "Silent"), (stuck, "Silent")] {
        let key = read_from(node, endpoint.clone());
        until("the silence is named", || node.downs(&key).last().is_some_and(|told| told.starts_with(category))).await;
        let told = node.downs(&key).pop().unwrap();
        assert!(told.contains("3 s"), "with the seconds that were waited: {told}");
        scene.the_friend_noticed_nothing().await;
        node.events.lock().unwrap().clear();
        node.dialler.set_peers(BTreeMap::new());
    }
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_given_up() {
    let scene = Scene::new().await;
    let lines = Arc::new(vec![Bytes::from_static(b"{\"ping\":1}\n")]);
    let endpoint =
        raw::fake_server(&person("cork"), scene.league.coop, move |tls| raw::serve_lines(tls, lines.clone())).await;
    let key = read_from(&scene.node, endpoint);
    until("it came up", || scene.node.ups(&key) > 0).await;
    until("the silence is named", || scene.node.downs(&key).iter().any(|told| told.contains("silent for 3 s"))).await;
    scene.the_friend_noticed_nothing().await;
}

#[tokio::test]
async fn a_line_without_end_is_not_collected() {
    let scene = Scene::new().await;
    let lines = Arc::new(vec![Bytes::from(vec![b'x'; MIB / 8]); 16]);
    let endpoint =
        raw::fake_server(&person("cork"), scene.league.coop, move |tls| raw::serve_lines(tls, lines.clone())).await;
    let key = read_from(&scene.node, endpoint);
    until("the limit is named", || scene.node.downs(&key).iter().any(|told| told.contains("answerBytes"))).await;
    scene.the_friend_noticed_nothing().await;
}

#[tokio::test]
async fn one_bad_statement_is_skipped_and_a_stream_of_them_is_ended() {
    let scene = Scene::new().await;
    let cork = Node::start(&scene.league, "cork").await;
    let good = cork.entry();
    let mut bad = cork.entry_at(1, good.id().0, 1).envelope().clone();
    bad.signatures[0].keyid = scene.node.key();
    let line = |envelope: &koinon_core::dsse::Envelope| {
        let mut line = serde_json::to_vec(&serde_json::json!({"entry": envelope})).unwrap();
        line.push(b'\n');
        Bytes::from(line)
    };
    let mut lines = vec![line(&bad), line(good.envelope())];
    lines.extend((0..100).map(|_| line(&bad)));
    let lines = Arc::new(lines);
    let endpoint =
        raw::fake_server(&cork.person, scene.league.coop, move |tls| raw::serve_lines(tls, lines.clone())).await;
    let key = read_from(&scene.node, endpoint);
    until("the good one behind a bad one is stored", || scene.node.store.len_of(&key) == 1).await;
    until("64 are enough", || scene.node.downs(&key).iter().any(|told| told.contains("64 statements"))).await;
    scene.the_friend_noticed_nothing().await;
}

#[tokio::test]
async fn a_latest_statement_for_somebody_else_is_not_taken() {
    let scene = Scene::new().await;
    let cork = person("cork");
    let beacon = |seq, to| {
        let statement = kit::beacon(&cork, scene.league.coop, seq, to);
        let mut line = serde_json::to_vec(&serde_json::json!({"latest": statement.envelope()})).unwrap();
        line.push(b'\n');
        (statement.id(), Bytes::from(line))
    };
    let (_, foreign) = beacon(1, Audience::Member("bilbao".parse().unwrap()));
    let (ours, own) = beacon(2, Audience::Member("aarhus".parse().unwrap()));
    let lines = Arc::new(vec![foreign, own]);
    let endpoint = raw::fake_server(&cork, scene.league.coop, move |tls| raw::serve_lines(tls, lines.clone())).await;
    let key = read_from(&scene.node, endpoint);
    until("the own one is heard", || !scene.node.heard(&key).is_empty()).await;
    assert_eq!(scene.node.heard(&key), [ours]);
}

#[tokio::test]
async fn a_peer_that_talks_nonsense_is_named() {
    let scene = Scene::new().await;
    let lines = Arc::new(vec![Bytes::from_static(b"{\"entry\": 7}\n")]);
    let endpoint =
        raw::fake_server(&person("cork"), scene.league.coop, move |tls| raw::serve_lines(tls, lines.clone())).await;
    let key = read_from(&scene.node, endpoint);
    until("it is named", || scene.node.downs(&key).iter().any(|told| told.starts_with("Garbage"))).await;
    scene.the_friend_noticed_nothing().await;
}
