//! The listener for other members' gateways: mutual TLS under pinned operator keys, and one exact epoch for each replica.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Extension, Router};
use http_body_util::Full;
use koinon_core::ids::{Epoch, MemberId, ObjectUid, PublicKey, ReplicaIndex};
use koinon_core::placement::ReplicaKey;
use koinon_net::Clock;
use koinon_net::endpoint::Lobby;
use koinon_net::tls::{Alpn, PeerIdentity, Pins, peer_of, refusal_in};
use koinon_telemetry::{CancellationToken, listen};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{DropGuard, WaitForCancellationFutureOwned};

use crate::connections::Connections;
use crate::dispatch::{EPOCH, MEMBER, MODEL_DIGEST, PLACEMENT, REQUEST_ID, first_bytes};
use crate::idle;
use crate::intake::{Caller as Sharer, Intake};
use crate::metrics::{Counted, Metrics, Side};
use crate::openai::{ApiError, Call};
use crate::relay::{Account, Relay, form_of};
use crate::routing::{RoutingTable, Target};
use crate::shares::{Share, Shares, Sum};
use crate::unread;
use crate::upstream::Upstreams;

/// What calls of other members are answered with.
#[derive(Clone)]
pub struct Members {
    /// What is held here at this moment.
    pub table: watch::Receiver<Arc<RoutingTable>>,
    /// The operator keys that may call.
    pub pins: Pins,
    /// Judges how long a certificate may be used.
    pub clock: Clock,
    /// Connections to engines.
    pub upstreams: Upstreams,
    /// Bounds calls.
    pub intake: Intake,
    /// Counters.
    pub metrics: Metrics,
    /// From a whole request to the first byte of its answer.
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
}

/// Serves until `stop`. While `tls` is empty every connection is closed: there is no certificate yet.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    members: Members,
    listener: TcpListener,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    limits: listen::Limits,
    connections: Connections,
    stop: CancellationToken,
) -> io::Result<()> {
    let app = router(members.clone());
    let (lobby, known) = (Lobby::new(connections.unknown), Shares::default());
    listen::serve_with(listener, limits, stop, move |stream, _| {
        let (config, members, app) = (tls.borrow().clone(), members.clone(), app.clone());
        let ((place, pushed_out), known) = (lobby.enter(), known.clone());
        async move {
            let (stream, caller) = tokio::select! {
                greeted = members.greet(stream, config, &known, connections.of_one_member) => greeted?,
                () = pushed_out.cancelled() => return Err(io::Error::other("newer connections needed its place")),
            };
            drop(place);
            Ok(idle::bounded(stream, app.layer(Extension(caller)), connections.idle))
        }
    })
    .await
}

/// What an answer says of the copy that gave it: headers and their values.
type Evidence = [(&'static str, String); 3];

/// A copy that answers here.
struct Copy {
    target: Target,
    concurrency: u32,
    evidence: Evidence,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
struct Caller {
    key: PublicKey,
    member: MemberId,
}

fn router(members: Members) -> Router {
    let call = |call: Call| {
        post(move |State(members): State<Members>, Extension(caller): Extension<Caller>, request: Request| async move {
            members.answer(call, &caller, request).await
        })
    };
    let most = members.intake.limit();
    let routes = Call::ALL
        .into_iter()
        .fold(Router::new(), |router, each| router.route(each.path(), call(each)))
        .fallback(not_served)
        .method_not_allowed_fallback(not_served)
        .with_state(members);
    unread::read_on(routes, most)
}

async fn not_served(method: Method) -> ApiError {
    ApiError::NotServed(format!("{method} of that path"))
}

impl Members {
    /// The handshake, a place among the `most` of the member, and a watch over the connection for as long as it lives.
    async fn greet(
        &self,
        stream: TcpStream,
        config: Option<Arc<ServerConfig>>,
        known: &Shares<MemberId>,
        most: usize,
    ) -> io::Result<(Watched<TlsStream<TcpStream>>, Caller)> {
        let config = config.ok_or_else(|| io::Error::other("this gateway has no certificate yet"))?;
        let stream = TlsAcceptor::from(config).accept(stream).await.map_err(|error| match refusal_in(&error) {
            Some(refusal) => {
                tracing::warn!(%refusal, "refused another gateway");
                io::Error::other(refusal)
            }
            None => error,
        })?;
        let state = stream.get_ref().1;
        if Alpn::agreed(state) != Some(Alpn::Http2) {
            return Err(io::Error::other("the other gateway does not speak HTTP/2"));
        }
        let peer = peer_of(state).map_err(io::Error::other)?;
        // The key's member as it is pinned; the certificate only claims one.
        let member = self.pins.member(&peer.key).ok_or_else(|| io::Error::other("no longer a member"))?;
        let place = known.take(&member, 1, |Sum { own, .. }| {
            if own < most {
                return Ok(());
            }
            tracing::warn!(%member, most, "refused another gateway's connection: it has as many as one member may have");
            Err(io::Error::other(format!("{member} has the {most} connections that one member may have")))
        })?;
        let cut = CancellationToken::new();
        let caller = Caller { key: peer.key, member };
        let watcher = self.clone().watch(peer, cut.clone());
        let gone = CancellationToken::new();
        let ended = gone.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = watcher => {}
            }
        });
        let cut = Box::pin(cut.cancelled_owned());
        Ok((Watched { stream, cut, _gone: gone.drop_guard(), _place: place }, caller))
    }

    /// Cuts a connection when its key is no longer pinned for its member, or its certificate has ended.
    async fn watch(self, peer: PeerIdentity, cut: CancellationToken) {
        let mut pins = self.pins.subscribe();
        loop {
            let left = peer.not_after.0.saturating_sub(self.clock.now().0);
            if left <= 0 || self.pins.member(&peer.key).as_ref() != Some(&peer.name.member) {
                tracing::info!(member = %peer.name.member, "cutting a connection: its key or certificate no longer counts");
                return cut.cancel();
            }
            // Looked at again at least each minute: a clock may be set.
            let pause = Duration::from_secs(left.unsigned_abs().min(60));
            if matches!(timeout(pause, pins.changed()).await, Ok(Err(_))) {
                return;
            }
        }
    }

    async fn answer(&self, call: Call, caller: &Caller, request: Request) -> Response<Body> {
        let mut counted = Counted::new(&self.metrics, Side::Member);
        counted.member = Some(caller.member.clone());
        let response = match self.call(call, caller, request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::info!(member = %caller.member, code = error.code(), %error, "refused another gateway's call");
                error.into_response()
            }
        };
        counted.code = response.status().as_u16();
        response
    }

    async fn call(&self, call: Call, caller: &Caller, request: Request) -> Result<Response<Body>, ApiError> {
        if self.pins.member(&caller.key).as_ref() != Some(&caller.member) {
            return Err(ApiError::Forbidden(caller.member.to_string()));
        }
        self.may_work(caller)?;
        let (parts, body) = request.into_parts();
        let (replica, epoch) = asked(&parts.headers, caller)?;
        // Looked up before the body is read, so that a fenced caller hears of it at once …
        let Copy { concurrency, .. } = self.copy(caller, &replica, epoch)?;
        let share = Sharer::Member(caller.member.clone());
        let mut admitted = self.intake.admit(&self.metrics, &share)?;
        self.intake.admit_to(&replica, concurrency, &mut admitted.places)?;
        let taken = self.intake.read(&share, &parts.headers, body).await?;
        admitted.begun = tokio::time::Instant::now();
        // … and again after it, for what changed meanwhile.
        self.may_work(caller)?;
        let Copy { target, evidence, .. } = self.copy(caller, &replica, epoch)?;
        let Target::Engine(url) = &target else {
            return Err(ApiError::NotReady { replica: named(&replica) });
        };
        let mut onward = hyper::Request::post(format!("http://{}{}", url.authority(), call.path()))
            .header(header::CONTENT_TYPE, "application/json");
        for name in ["accept", REQUEST_ID, "traceparent", "tracestate"] {
            if let Some(value) = parts.headers.get(name) {
                onward = onward.header(name, value);
            }
        }
        let onward =
            onward.body(Full::new(taken.bytes.clone())).map_err(|error| ApiError::InvalidRequest(error.to_string()))?;
        let begin = async {
            let mut answer = self.upstreams.send(&target, onward).await.map_err(|error| error.to_string())?;
            let first = first_bytes(answer.body_mut()).await?;
            Ok::<_, String>((answer, first))
        };
        let late = |_| ApiError::TimedOut { seconds: self.first_byte.as_secs() };
        let (answer, first) = timeout(self.first_byte, begin).await.map_err(late)?.map_err(ApiError::UpstreamFailed)?;
        let form = form_of(&answer, false);
        let (head, rest) = answer.into_parts();
        let account = Account::new(self.metrics.clone(), Side::Member, caller.member.clone(), admitted);
        let relay = Relay::new(rest, first, form, self.idle, account);
        let mut response = Response::new(relay.into_body());
        *response.status_mut() = head.status;
        for name in [header::CONTENT_TYPE, header::RETRY_AFTER] {
            if let Some(value) = head.headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        for (name, value) in evidence {
            // Ids and numbers are always header values.
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        Ok(response)
    }

    /// Whether the caller and this member may work with each other. What is being answered already is answered to its end.
    fn may_work(&self, caller: &Caller) -> Result<(), ApiError> {
        let table = self.table.borrow();
        let own = table.own.as_ref().and_then(|own| table.halted.get(&own.member));
        match table.halted.get(&caller.member).or(own) {
            Some(why) => Err(ApiError::MemberHalted(why.clone())),
            None => Ok(()),
        }
    }

    /// Exactly the copy that is asked for.
    fn copy(&self, caller: &Caller, replica: &ReplicaKey, asked: Epoch) -> Result<Copy, ApiError> {
        let table = self.table.borrow().clone();
        let missing = || ApiError::PlacementNotFound { replica: named(replica), home: caller.member.to_string() };
        let own = table.own.as_ref().ok_or_else(missing)?;
        let hosted = table.hosted.get(replica).ok_or_else(missing)?;
        if hosted.epoch != asked {
            let (asked, held) = (asked.0, hosted.epoch.0);
            return Err(ApiError::EpochFenced { replica: named(replica), asked, held });
        }
        let engine = hosted.engine.clone().ok_or_else(|| ApiError::NotReady { replica: named(replica) })?;
        let evidence = [
            (MEMBER, own.member.to_string()),
            (MODEL_DIGEST, hosted.digest.to_string()),
            (EPOCH, hosted.epoch.to_string()),
        ];
        Ok(Copy { target: Target::Engine(engine), concurrency: hosted.concurrency, evidence })
    }
}

fn named(replica: &ReplicaKey) -> String {
    format!("{}/{}", replica.job, replica.replica)
}

/// Which copy a call is for. Its home is the caller: no member can call another's placement.
fn asked(headers: &HeaderMap, caller: &Caller) -> Result<(ReplicaKey, Epoch), ApiError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let read = || {
        let (job, replica) = text(PLACEMENT)?.split_once('/')?;
        let job: ObjectUid = job.parse().ok()?;
        let replica = ReplicaIndex(replica.parse().ok()?);
        let epoch = Epoch(text(EPOCH)?.parse().ok()?);
        Some((ReplicaKey { home: caller.member.clone(), job, replica }, epoch))
    };
    read().ok_or_else(|| {
        ApiError::InvalidRequest(format!(
            "a call between gateways carries {PLACEMENT}: <job uid>/<replica> and {EPOCH}: <n>"
        ))
    })
}

/// A stream that ends when it is cut from outside.
struct Watched<S> {
    stream: S,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Ends the watch with the stream.
    _gone: DropGuard,
    /// Its place among the member's connections.
    _place: Share<MemberId>,
}

impl<S> Watched<S> {
    fn is_cut(&mut self, context: &mut Context<'_>) -> Option<io::Error> {
        let cut = self.cut.as_mut().poll(context).is_ready();
        cut.then(|| {
            io::Error::new(io::ErrorKind::ConnectionAborted, "the connection's key or certificate no longer counts")
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.is_cut(context) {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut this.stream).poll_read(context, buffer),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.is_cut(context) {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut this.stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
