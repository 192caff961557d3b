//! What clients that hold connections and do nothing with them cost a gateway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // the lint's exception for tests does not see helpers of tests

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo};
use koinon_gateway::connections::Connections;
use koinon_net::Clock;
use koinon_net::tls::CertUse;
use koinon_telemetry::{CancellationToken, listen};
use support::engine::{Engine, Manner};
use support::peer::{call, connect};
use support::{JOB, Site, chat, leaf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

#[tokio::test]
async fn of_answers_that_are_not_taken_no_more_is_made_than_may_wait() {
    const PIECE: usize = 4096;
    const MAY_WAIT: usize = 32 << 10;
    const STREAMS: usize = 200;
    // What the two ends of a socket hold at most with the usual settings of a kernel.
    const SOCKET: usize = 16 << 20;
    let (made, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, waits) = (made.clone(), gate.clone());
    let endless = move || {
        let (counted, waits) = (counted.clone(), waits.clone());
        async move {
            let pieces = stream::repeat_with(move || {
                counted.fetch_add(PIECE, Ordering::SeqCst);
                std::io::Result::Ok(vec![0; PIECE])
            });
            let opened = stream::once(async move {
                waits.acquire().await.unwrap().forget();
                std::io::Result::Ok(Vec::new())
            });
            Body::from_stream(opened.chain(pieces))
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = listen::Limits { send_buffer: MAY_WAIT, ..listen::Limits::default() };
    let app = Router::new().fallback(endless);
    tokio::spawn(listen::serve(listener, app, limits, CancellationToken::new()));
    let stream = TcpStream::connect(address).await.unwrap();
    // A client that says it has room for all of it …
    let mut client = Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(1 << 30).initial_connection_window_size(1 << 30);
    let (sender, mut connection) = client.handshake(TokioIo::new(stream)).await.unwrap();
    let heads = join_all((0..STREAMS).map(|_| {
        let request = Request::get(format!("http://{address}/")).body(Empty::<Bytes>::new()).unwrap();
        sender.clone().send_request(request)
    }));
    let _answers = tokio::select! {
        _ = &mut connection => panic!("the connection ended"),
        heads = heads => heads,
    };
    // … and then reads no more.
    gate.add_permits(STREAMS);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let made = made.load(Ordering::SeqCst);
    assert!(made <= STREAMS * (MAY_WAIT + 2 * PIECE) + SOCKET, "{made} bytes were made for a client that takes none");
    assert!(made > 0);
}

const SOON: Duration = Duration::from_secs(4);

/// bilbao, host of replica 0 for aarhus and for cork.
async fn host(manner: Manner, connections: Connections) -> (Site, Engine) {
    let host = Site::start_within("bilbao", &[], Clock::system(), connections).await;
    host.certify(&leaf("bilbao", "bilbao", CertUse::Gateway));
    let engine = Engine::start(manner).await;
    for home in ["aarhus", "cork"] {
        host.know(home, SocketAddr::from(([127, 0, 0, 1], 9)));
        host.host(home, 0, 1, engine.address);
    }
    host.settles("koinon_gateway_hosted", &[], 2.0).await;
    // The certificate is taken before the table is made; connections are welcome when a good one was.
    for _ in 0..200 {
        if ask(&host, "aarhus").await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (host, engine)
}

/// One connection of a member's gateway, and whether one call on it was answered.
async fn ask(host: &Site, member: &str) -> Result<support::peer::Sender, String> {
    let mut sender = connect(host, &leaf(member, member, CertUse::Gateway)).await?;
    let answered = call(&mut sender, &format!("{JOB}/0"), "1").await;
    let (status, body) = answered.map_err(|error| error.to_string())?;
    if status == 200 { Ok(sender) } else { Err(body.to_string()) }
}

/// Waits for the end of a connection on which nothing comes.
async fn ends(stream: &mut TcpStream) -> bool {
    let mut sink = [0; 1024];
    let to_the_end = async { while matches!(stream.read(&mut sink).await, Ok(read) if read > 0) {} };
    timeout(SOON, to_the_end).await.is_ok()
}

#[tokio::test]
async fn connections_that_never_say_who_they_are_push_out_themselves_and_keep_no_member_out() {
    let bounds = Connections { unknown: 3, ..Connections::default() };
    let (host, _engine) = host(Manner::Friendly, bounds).await;
    let mut known = ask(&host, "aarhus").await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(host.peers).await.unwrap());
    }
    // Long before the time of a handshake is over.
    for stream in &mut silent[..7] {
        assert!(ends(stream).await, "a silent connection was not pushed out");
    }
    ask(&host, "cork").await.expect("a member was kept out");
    assert_eq!(call(&mut known, &format!("{JOB}/0"), "1").await.unwrap().0, 200, "who is known is not pushed out");
}

#[tokio::test]
async fn one_member_has_so_many_connections_and_the_others_come_in() {
    let bounds = Connections { of_one_member: 2, ..Connections::default() };
    let (host, _engine) = host(Manner::Friendly, bounds).await;
    // The connection of the start is gone, or goes in a moment.
    let mut held = Vec::new();
    for _ in 0..200 {
        if held.len() == 2 {
            break;
        }
        held.extend(ask(&host, "aarhus").await.ok());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(held.len(), 2);
    assert!(ask(&host, "aarhus").await.is_err(), "a third connection was let in");
    ask(&host, "cork").await.expect("another member was kept out");
    drop(held);
    for _ in 0..200 {
        if ask(&host, "aarhus").await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the places of closed connections were not given back");
}

#[tokio::test]
async fn a_connection_of_a_member_on_which_nothing_is_asked_is_closed_and_one_that_waits_is_not() {
    let bounds = Connections { idle: Duration::from_secs(1), ..Connections::default() };
    let (host, engine) = host(Manner::Friendly, bounds).await;
    let idle = ask(&host, "aarhus").await.unwrap();
    let waits = ask(&host, "cork").await.unwrap();
    engine.behave(Manner::Silent);
    let mut asking = waits.clone();
    let waiting = tokio::spawn(async move { call(&mut asking, &format!("{JOB}/0"), "1").await });
    engine.works_on(1).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(idle.is_closed(), "an idle connection stays");
    assert!(!waits.is_closed() && !waiting.is_finished(), "a connection was closed under a call");
    engine.works_on(1).await;
    waiting.abort();
}

#[tokio::test]
async fn a_connection_of_an_application_on_which_nothing_is_asked_is_closed() {
    let bounds = Connections { idle: Duration::from_secs(1), ..Connections::default() };
    let site = Site::start_within("aarhus", &[], Clock::system(), bounds).await;
    let engine = Engine::start(Manner::Friendly).await;
    site.job();
    site.local(0, 1, engine.address);
    assert_eq!(site.ask(&chat()).await.status(), 200);
    // HTTP/1.1, kept alive after an answer …
    let mut plain = TcpStream::connect(site.app).await.unwrap();
    plain.write_all(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // … and HTTP/2, which answers every ping.
    let stream = TcpStream::connect(site.app).await.unwrap();
    let (mut sender, connection) = Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(site.url("/v1/models")).body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 401);
    assert!(!sender.is_closed());
    assert!(ends(&mut plain).await, "an idle connection of HTTP/1.1 stays");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(sender.is_closed(), "an idle connection of HTTP/2 stays");
}

#[tokio::test]
async fn a_request_whose_headers_never_end_is_given_up() {
    let site = Site::start("aarhus", &[]).await;
    let mut slow = TcpStream::connect(site.app).await.unwrap();
    slow.write_all(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let (mut reads, mut writes) = slow.into_split();
    let drips = tokio::spawn(async move {
        while writes.write_all(b"x-more: 1\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let mut sink = Vec::new();
    let ended = timeout(Duration::from_secs(15), reads.read_to_end(&mut sink)).await;
    assert!(ended.is_ok(), "headers may take as long as they like");
    drips.abort();
}
