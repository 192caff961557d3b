//! Connections to engines (plain HTTP inside the cluster) and to other members' gateways (pinned mutual TLS, HTTP/2).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use koinon_core::ids::{Endpoint, PublicKey};
use koinon_net::client::{Proxies, dial_gateway};
use koinon_net::tls::{Pins, TlsIdentity};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::routing::Target;

/// A connection to a gateway is replaced after this: leaves are renewed at half of their day, so none is outlived.
const CONNECTION_AGE: Duration = Duration::from_secs(3600);
/// A connection to a gateway that was not used for so long is replaced: the other end closes it soon.
pub const IDLE: Duration = Duration::from_secs(240);
/// How often a connection to a gateway is asked whether it lives, and how long that may take. A cut wire is then noticed
/// before the third call that would wait for it.
const ALIVE: Duration = Duration::from_secs(5);

/// What of an engine's answer is read before the client has taken what came before it; each call can hold as much.
const READ_AHEAD: usize = 64 << 10;
/// An address that could not be reached is not dialled again before this.
const REDIAL: Duration = Duration::from_millis(500);

/// Why nothing could be sent.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// There is no connection, so nothing was sent.
    #[error("{0}")]
    Connect(String),
    /// It broke off before the answer began.
    #[error("the connection broke off before the answer: {0}")]
    Broken(String),
    /// This gateway has no certificate yet.
    #[error("this gateway has no certificate of the cooperative yet; see the operator's log")]
    NoIdentity,
}

type Sender = SendRequest<Full<Bytes>>;
type Slot = Arc<AsyncMutex<Line>>;

/// The line to one address of a gateway.
#[derive(Default)]
enum Line {
    #[default]
    Idle,
    Open(Open),
    /// Those who waited for the same attempt share its outcome: one after another they would wait for hours.
    Failed {
        at: Instant,
        why: String,
    },
}

struct Open {
    sender: Sender,
    since: Instant,
    used: Instant,
    /// Ends the connection with all that runs on it.
    cut: CancellationToken,
}

/// All connections to where calls go; clones share them.
#[derive(Clone)]
pub struct Upstreams {
    engines: Client<HttpConnector, Full<Bytes>>,
    gateways: Arc<Mutex<HashMap<(PublicKey, Endpoint), Slot>>>,
    identity: watch::Receiver<Option<TlsIdentity>>,
    proxies: Proxies,
    connect: Duration,
}

impl Upstreams {
    /// No connections yet. `connect` bounds the making of one.
    pub fn new(identity: watch::Receiver<Option<TlsIdentity>>, proxies: Proxies, connect: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(connect));
        connector.set_nodelay(true);
        let engines = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            // Shorter than any engine's own: a connection that the engine closes under a request costs a retry.
            .pool_idle_timeout(Duration::from_secs(3))
            .http1_max_buf_size(READ_AHEAD)
            .build(connector);
        Self { engines, gateways: Arc::default(), identity, proxies, connect }
    }

    /// Sends a request and waits for the beginning of the answer. Dropping the future, or later the body of the answer, ends
    /// the work at the other end.
    ///
    /// # Errors
    /// Nothing came back.
    pub async fn send(
        &self,
        target: &Target,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        match target {
            Target::Engine(_) => self.engines.request(request).await.map_err(|error| {
                let why = whole_story(&error);
                if error.is_connect() { UpstreamError::Connect(why) } else { UpstreamError::Broken(why) }
            }),
            Target::Gateway { key, addresses } => {
                let mut sender = self.gateway(*key, addresses).await?;
                sender.send_request(request).await.map_err(|error| UpstreamError::Broken(whole_story(&error)))
            }
        }
    }

    /// The first of a gateway's addresses that answers under its key.
    async fn gateway(&self, key: PublicKey, addresses: &[Endpoint]) -> Result<Sender, UpstreamError> {
        let mut last = UpstreamError::Connect("the member has no gateway address".to_owned());
        for address in addresses {
            match self.gateway_at(key, address).await {
                Ok(sender) => return Ok(sender),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn gateway_at(&self, key: PublicKey, address: &Endpoint) -> Result<Sender, UpstreamError> {
        let slot = self.lock().entry((key, address.clone())).or_default().clone();
        // One dial at a time for each address: a member that comes back is not met by a thousand handshakes.
        let mut line = slot.lock().await;
        let lives = match &mut *line {
            Line::Open(known)
                if !known.sender.is_closed()
                    && known.since.elapsed() < CONNECTION_AGE
                    && known.used.elapsed() < IDLE =>
            {
                matches!(timeout(self.connect, known.sender.ready()).await, Ok(Ok(())))
            }
            Line::Failed { at, why } if at.elapsed() < REDIAL => return Err(UpstreamError::Connect(why.clone())),
            _ => false,
        };
        if lives && let Line::Open(known) = &mut *line {
            known.used = Instant::now();
            return Ok(known.sender.clone());
        }
        *line = Line::Idle;
        match self.dial(key, address).await {
            Ok(made) => {
                let sender = made.sender.clone();
                *line = Line::Open(made);
                Ok(sender)
            }
            Err(error) => {
                *line = Line::Failed { at: Instant::now(), why: error.to_string() };
                Err(error)
            }
        }
    }

    async fn dial(&self, key: PublicKey, address: &Endpoint) -> Result<Open, UpstreamError> {
        let identity = self.identity.borrow().clone().ok_or(UpstreamError::NoIdentity)?;
        let (stream, _) = dial_gateway(address, key, &identity, &self.proxies, self.connect)
            .await
            .map_err(|error| UpstreamError::Connect(whole_story(&error)))?;
        let handshake = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(ALIVE)
            .keep_alive_timeout(ALIVE)
            .keep_alive_while_idle(true)
            .adaptive_window(true)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = timeout(self.connect, handshake)
            .await
            .map_err(|_| UpstreamError::Connect(format!("{address} does not speak HTTP/2 in time")))?
            .map_err(|error| UpstreamError::Connect(whole_story(&error)))?;
        let cut = CancellationToken::new();
        let cut_here = cut.clone();
        let address = address.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = cut_here.cancelled() => {}
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%address, %error, "connection to a gateway ended");
                    }
                }
            }
        });
        let now = Instant::now();
        Ok(Open { sender, since: now, used: now, cut })
    }

    /// Cuts connections to keys that are no longer pinned, with what runs on them.
    pub async fn keep_only(&self, pins: &Pins) {
        let mut gone = Vec::new();
        self.lock().retain(|(key, _), slot| {
            let stays = pins.member(key).is_some();
            if !stays {
                gone.push(slot.clone());
            }
            stays
        });
        for slot in gone {
            if let Line::Open(open) = std::mem::take(&mut *slot.lock().await) {
                open.cut.cancel();
            }
        }
    }

    // A panic under the lock cannot leave the map half changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<(PublicKey, Endpoint), Slot>> {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with its causes, each told once.
pub(crate) fn whole_story(error: &dyn std::error::Error) -> String {
    let mut story = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !story.contains(&text) {
            story = format!("{story}: {text}");
        }
        cause = error.source();
    }
    story
}
