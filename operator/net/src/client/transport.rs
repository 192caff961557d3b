//! Asking a peer over one HTTP/2 connection, whoever dialled it.

use std::error::Error;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::{Read, Write};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use koinon_core::dsse::Envelope;
use koinon_core::ids::{PublicKey, Seq, StatementId};
use rustls::AlertDescription;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::{SessionError, shown};
use crate::commons::Heads;
use crate::limits::{LimitExceeded, LimitKind, Limits, Timing};
use crate::tls::PeerIdentity;
use crate::wire::{DialBackMessage, DialledBack, ErrorMessage, HeadsMessage};

/// A connection on which a peer is asked. Clones share it; it closes when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Transport {
    pub(crate) peer: PeerIdentity,
    requests: SendRequest<Full<Bytes>>,
    closed: CancellationToken,
    why: Arc<OnceLock<hyper::Error>>,
    end: CancellationToken,
    _end_with_last: Arc<DropGuard>,
}

impl Transport {
    /// Speaks HTTP/2 over `io`.
    pub(crate) async fn over<I>(
        io: I,
        peer: PeerIdentity,
        limits: &Limits,
        timing: &Timing,
    ) -> Result<Self, SessionError>
    where
        I: Read + Write + Unpin + Send + 'static,
    {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(limits.header_bytes)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_send_buf_size(64 * 1024)
            // Peers do not push, and a reverse connection is one stream among few.
            .max_concurrent_reset_streams(20)
            .keep_alive_interval(timing.ping)
            .keep_alive_timeout(timing.silence)
            .keep_alive_while_idle(true);
        let handshake = timeout(timing.answer, builder.handshake(io)).await.map_err(|_| no_answer("HTTP/2", timing))?;
        let (requests, connection) = handshake.map_err(|error| broken(&error))?;
        let (end, closed) = (CancellationToken::new(), CancellationToken::new());
        let why = Arc::new(OnceLock::new());
        let (ended, tell, because) = (end.clone(), closed.clone(), why.clone());
        tokio::spawn(async move {
            tokio::select! {
                outcome = connection => if let Err(error) = outcome {
                    let _ = because.set(error);
                },
                () = ended.cancelled() => {}
            }
            tell.cancel();
        });
        Ok(Transport { peer, requests, closed, why, end: end.clone(), _end_with_last: Arc::new(end.drop_guard()) })
    }

    /// Completes when the connection is gone, and says why.
    pub(crate) async fn closed(&self) -> SessionError {
        self.closed.cancelled().await;
        match self.why.get() {
            Some(error) => broken(error),
            None => SessionError::Broken("the peer closed it".to_owned()),
        }
    }

    /// Ends the connection for all who share it.
    pub(crate) fn close(&self) {
        self.end.cancel();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled() || self.requests.is_closed()
    }

    /// Sends a request and waits for the beginning of its answer, whatever its status.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        timing: &Timing,
    ) -> Result<Response<Incoming>, SessionError> {
        let path = request.uri().path().to_owned();
        let mut requests = self.requests.clone();
        tokio::select! {
            // First, because the last answer and the end of the connection may arrive together.
            biased;
            answer = timeout(timing.answer, requests.send_request(request)) => {
                answer.map_err(|_| no_answer(&path, timing))?.map_err(|error| broken(&error))
            }
            error = self.closed() => Err(error),
        }
    }

    /// Asks, and turns every refusal into an error.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        limits: &Limits,
        timing: &Timing,
    ) -> Result<Response<Incoming>, SessionError> {
        let answer = self.send(request(method, path, body)?, timing).await?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refusal(path, answer, limits, timing).await) }
    }

    /// What an answer other than success means.
    pub(crate) async fn refusal(
        &self,
        path: &str,
        answer: Response<Incoming>,
        limits: &Limits,
        timing: &Timing,
    ) -> SessionError {
        let status = answer.status();
        let body = match self.whole(path, answer, limits, timing).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        if let Ok(limit) = serde_json::from_slice::<LimitExceeded>(&body) {
            return SessionError::Limited(limit);
        }
        match serde_json::from_slice::<ErrorMessage>(&body) {
            Ok(mut message) => {
                message.message = shown(&message.message);
                SessionError::Refused(message)
            }
            Err(_) => SessionError::Broken(format!("{path} was answered with {status}")),
        }
    }

    /// Reads a whole answer within the limits.
    pub(crate) async fn whole(
        &self,
        path: &str,
        answer: Response<Incoming>,
        limits: &Limits,
        timing: &Timing,
    ) -> Result<Bytes, SessionError> {
        let allowed = limits.answer_bytes.max(2 * limits.range_bytes);
        let mut body = answer.into_body();
        let read = async {
            let mut bytes = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
                let seen = bytes.len() + data.len();
                if seen > allowed {
                    return Err(SessionError::TooLarge(LimitExceeded {
                        limit: LimitKind::AnswerBytes,
                        allowed: allowed as u64,
                        seen: seen as u64,
                    }));
                }
                bytes.extend_from_slice(&data);
            }
            Ok(bytes.freeze())
        };
        timeout(timing.answer, read).await.map_err(|_| no_answer(path, timing))?
    }

    async fn get(&self, path: &str, limits: &Limits, timing: &Timing) -> Result<Bytes, SessionError> {
        let answer = self.ask(Method::GET, path, Vec::new(), limits, timing).await?;
        self.whole(path, answer, limits, timing).await
    }

    /// Where the peer's logs end.
    pub(crate) async fn heads(&self, limits: &Limits, timing: &Timing) -> Result<Heads, SessionError> {
        let path = "/v1/heads";
        let body = self.get(path, limits, timing).await?;
        Ok(parse::<HeadsMessage>(path, &body, limits)?.heads)
    }

    /// Entries of a log.
    pub(crate) async fn range(
        &self,
        log: &PublicKey,
        from: Seq,
        limit: usize,
        limits: &Limits,
        timing: &Timing,
    ) -> Result<Vec<Envelope>, SessionError> {
        let path = format!("/v1/logs/{log}?from={from}&limit={limit}");
        let body = self.get(&path, limits, timing).await?;
        body.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| parse::<Envelope>(&path, line, limits))
            .collect()
    }

    /// Whether the peer reaches us.
    pub(crate) async fn dial_back(&self, limits: &Limits, timing: &Timing) -> Result<Vec<DialledBack>, SessionError> {
        let path = "/v1/dial-back";
        let answer = self.ask(Method::POST, path, Vec::new(), limits, timing).await?;
        let body = self.whole(path, answer, limits, timing).await?;
        let mut dialled = parse::<DialBackMessage>(path, &body, limits)?.dialled;
        dialled.truncate(2 * super::dial_back::MAX_ENDPOINTS);
        for one in &mut dialled {
            one.error = one.error.take().map(|error| shown(&error));
        }
        Ok(dialled)
    }

    /// A document; `None` if the peer has it not.
    pub(crate) async fn document(
        &self,
        id: &StatementId,
        limits: &Limits,
        timing: &Timing,
    ) -> Result<Option<Envelope>, SessionError> {
        let path = format!("/v1/documents/{id}");
        match self.get(&path, limits, timing).await {
            Ok(body) => parse::<Envelope>(&path, &body, limits).map(Some),
            Err(SessionError::Refused(message)) if message.error == crate::wire::ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A request to the peer. The authority is a formality: the connection says who is asked.
pub(super) fn request(method: Method, path: &str, body: Vec<u8>) -> Result<Request<Full<Bytes>>, SessionError> {
    Request::builder()
        .method(method)
        .uri(format!("https://koinon{path}"))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| SessionError::Broken(format!("{path} is no path: {error}")))
}

fn parse<T: DeserializeOwned>(path: &str, bytes: &[u8], limits: &Limits) -> Result<T, SessionError> {
    koinon_core::json::from_slice(bytes, limits.answer_bytes, "an answer")
        .map_err(|source| SessionError::Garbage { path: path.to_owned(), source })
}

fn no_answer(path: &str, timing: &Timing) -> SessionError {
    SessionError::NoAnswer { path: path.to_owned(), seconds: timing.answer.as_secs() }
}

pub(super) fn broken(error: &hyper::Error) -> SessionError {
    match alert_in(error) {
        Some(alert) => SessionError::CertificateRefused { alert: format!("{alert:?}") },
        None => SessionError::Broken(super::error::one_line(error)),
    }
}

/// The TLS alert with which the peer refused our certificate. In TLS 1.3 the client's handshake is over before the
/// server has judged its certificate, so the refusal arrives inside an error of the first request.
fn alert_in(error: &hyper::Error) -> Option<AlertDescription> {
    const REFUSALS: [AlertDescription; 9] = [
        AlertDescription::CertificateUnknown,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateRequired,
        AlertDescription::CertificateRevoked,
        AlertDescription::BadCertificate,
        AlertDescription::UnsupportedCertificate,
        AlertDescription::UnknownCA,
        AlertDescription::AccessDenied,
        AlertDescription::DecryptError,
    ];
    // HTTP/2 keeps of an error of the connection below it nothing but its words.
    let words = error.source()?.to_string();
    REFUSALS.into_iter().find(|alert| words.contains(&rustls::Error::AlertReceived(*alert).to_string()))
}
