//! Two members' gateways, and connections to one of them with a certificate of the test's choice.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use koinon_net::Clock;
use koinon_net::client::{Proxies, dial_gateway};
use koinon_net::tls::{Leaf, LeafResolver, TlsIdentity};
use serde_json::Value;

use super::engine::{Engine, Manner};
use super::{COOP, Site, chat, public_key};

/// Calls over one connection.
pub type Sender = SendRequest<Full<Bytes>>;

/// aarhus is the home, bilbao the host of replica 0 in epoch 1.
pub async fn two(manner: Manner, flags: &[&str]) -> (Site, Site, Engine) {
    let (home, host) = (Site::start("aarhus", flags).await, Site::start("bilbao", flags).await);
    let engine = Engine::start(manner).await;
    home.know("bilbao", host.peers);
    host.know("aarhus", home.peers);
    home.job();
    home.route("bilbao", 0, 1, Some(host.peers));
    host.host("aarhus", 0, 1, engine.address);
    home.settles("koinon_gateway_routes", &[], 1.0).await;
    host.settles("koinon_gateway_hosted", &[], 1.0).await;
    (home, host, engine)
}

/// A connection to a gateway with a certificate of the test's choice.
pub async fn connect(to: &Site, leaf: &Leaf) -> Result<Sender, String> {
    connect_to_send(to, leaf).await
}

/// The same for bodies of the test's choice.
pub async fn connect_to_send<B>(to: &Site, leaf: &Leaf) -> Result<SendRequest<B>, String>
where
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let identity = TlsIdentity {
        resolver: LeafResolver::with(leaf).unwrap(),
        coop: COOP.parse().unwrap(),
        clock: Clock::system(),
    };
    let address = format!("https://localhost:{}", to.peers.port()).parse().unwrap();
    let limit = Duration::from_secs(5);
    let dialled = dial_gateway(&address, public_key(&to.member), &identity, &Proxies::none(), limit).await;
    let (stream, _) = dialled.map_err(|error| error.to_string())?;
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

/// What a call to a placement comes to: its status and its body.
pub async fn call(sender: &mut Sender, placement: &str, epoch: &str) -> Result<(u16, Value), hyper::Error> {
    let request = Request::post("https://gateway/v1/chat/completions")
        .header("koinon-placement", placement)
        .header("koinon-epoch", epoch)
        .body(Full::from(chat().to_string()))
        .unwrap();
    let answer: Response<hyper::body::Incoming> = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}
