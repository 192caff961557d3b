//! What clients that hold connections and do nothing with them cost a gateway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // the lint's exception for tests does not see helpers of tests

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
use koinon_telemetry::{CancellationToken, listen};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

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
