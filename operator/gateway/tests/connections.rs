//! What clients that hold connections and do nothing with them cost a gateway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // the lint's exception for tests does not see helpers of tests

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo};
use koinon_telemetry::{CancellationToken, listen};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn of_an_answer_that_is_not_taken_no_more_is_made_than_may_wait() {
    const PIECE: usize = 4096;
    const MAY_WAIT: usize = 32 << 10;
    const WINDOW: u32 = 16 << 10;
    let made = Arc::new(AtomicUsize::new(0));
    let counted = made.clone();
    let endless = move || {
        let counted = counted.clone();
        async move {
            Body::from_stream(stream::repeat_with(move || {
                counted.fetch_add(PIECE, Ordering::SeqCst);
                std::io::Result::Ok(vec![0; PIECE])
            }))
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = listen::Limits { send_buffer: MAY_WAIT, ..listen::Limits::default() };
    let app = Router::new().fallback(endless);
    tokio::spawn(listen::serve(listener, app, limits, CancellationToken::new()));
    let stream = TcpStream::connect(address).await.unwrap();
    let mut client = Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(WINDOW);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://{address}/")).body(Empty::<Bytes>::new()).unwrap();
    let _never_read = sender.send_request(request).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let made = made.load(Ordering::SeqCst);
    // What may wait, what the client has room for, and a piece at each border.
    assert!(made <= MAY_WAIT + WINDOW as usize + 4 * PIECE, "{made} bytes were made for a client that takes none");
    assert!(made > 0);
}
