//! A client that does what no client of ours would.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use koinon_core::ids::{CoopId, Endpoint};
use koinon_core::testkit::{Person, T0};
use koinon_net::tls::{Alpn, CertUse, Trust, client_config, server_config};
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Node, identity};

pub async fn tls(
    node: &Node,
    coop: CoopId,
    person: &Person,
    cert_use: CertUse,
    alpn: Alpn,
) -> std::io::Result<TlsStream<TcpStream>> {
    let identity = identity(person, coop, cert_use, &Arc::new(AtomicI64::new(T0.0)));
    let config = client_config(&identity, CertUse::Peer, Trust::Exactly(node.key()), &[alpn]).unwrap();
    let tcp = TcpStream::connect(node.address).await?;
    TlsConnector::from(config).connect(ServerName::try_from("127.0.0.1").unwrap(), tcp).await
}

/// An HTTP/2 connection as `person`.
pub async fn http(node: &Node, coop: CoopId, person: &Person, alpn: Alpn) -> SendRequest<Full<Bytes>> {
    let tls = tls(node, coop, person, CertUse::Peer, alpn).await.unwrap();
    let (requests, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    requests
}

pub fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(format!("https://node{path}")).body(Full::new(body.into())).unwrap()
}

/// Asks and reads the whole answer.
pub async fn ask(
    requests: &mut SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
) -> (StatusCode, serde_json::Value) {
    let answer = requests.send_request(request(method, path, body)).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(serde_json::Value::Null))
}

/// A server under `person`'s key that finishes the handshake and then does what `serve` does.
pub async fn fake_server<F, Fut>(person: &Person, coop: CoopId, serve: F) -> Endpoint
where
    F: Fn(tokio_rustls::server::TlsStream<TcpStream>) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let identity = identity(person, coop, CertUse::Peer, &Arc::new(AtomicI64::new(T0.0)));
    let config = server_config(&identity, CertUse::Peer, Trust::Proven, &[Alpn::Peer]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(tls) = TlsAcceptor::from(config.clone()).accept(tcp).await {
                tokio::spawn(serve(tls));
            }
        }
    });
    format!("https://127.0.0.1:{port}").parse().unwrap()
}

/// A body that sends what it is given and then stays open.
pub struct Dripping(pub tokio::sync::mpsc::Receiver<Bytes>);

impl hyper::body::Body for Dripping {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }
}

/// Answers `/v1/heads` with no heads, and everything else with `lines`, which then stay open.
pub async fn serve_lines(tls: tokio_rustls::server::TlsStream<TcpStream>, lines: Arc<Vec<Bytes>>) {
    let answer = move |request: Request<hyper::body::Incoming>| {
        let lines = lines.clone();
        async move {
            let (sender, receiver) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                if request.uri().path() == "/v1/heads" {
                    let _ = sender.send(Bytes::from_static(br#"{"heads":{}}"#)).await;
                    return;
                }
                for line in lines.iter() {
                    if sender.send(line.clone()).await.is_err() {
                        return;
                    }
                }
                sender.closed().await;
            });
            Ok::<_, Infallible>(Response::new(Dripping(receiver)))
        }
    };
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(tls), hyper::service::service_fn(answer))
        .await;
}
