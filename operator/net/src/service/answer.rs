//! Bodies: reading those of requests within limits, writing those of answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;

use super::table::Ticket;
use crate::limits::{LimitExceeded, LimitKind};
use crate::wire::{ErrorCode, ErrorMessage, to_json};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const JSON_LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// The body of an answer; holds the request's ticket until it is sent or given up.
pub(super) struct AnswerBody {
    content: Content,
    _ticket: Option<Ticket>,
}

enum Content {
    Whole(Option<Bytes>),
    Lines(mpsc::Receiver<Bytes>),
}

pub(super) type Answer = Response<AnswerBody>;

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.content {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Lines(lines) => lines.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Content::Lines(_) => SizeHint::default(),
        }
    }
}

pub(super) fn whole(status: StatusCode, content_type: HeaderValue, bytes: Bytes, ticket: Option<Ticket>) -> Answer {
    let bytes = (!bytes.is_empty()).then_some(bytes);
    let mut answer = Response::new(AnswerBody { content: Content::Whole(bytes), _ticket: ticket });
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

pub(super) fn json<T: Serialize>(status: StatusCode, value: &T, ticket: Option<Ticket>) -> Answer {
    whole(status, JSON, to_json(value).into(), ticket)
}

pub(super) fn json_lines(bytes: Bytes, ticket: Ticket) -> Answer {
    whole(StatusCode::OK, JSON_LINES, bytes, Some(ticket))
}

pub(super) fn endless(lines: mpsc::Receiver<Bytes>, ticket: Ticket) -> Answer {
    let mut answer = Response::new(AnswerBody { content: Content::Lines(lines), _ticket: Some(ticket) });
    answer.headers_mut().insert(CONTENT_TYPE, JSON_LINES);
    answer
}

/// An empty 200, with which a `CONNECT` turns into a connection.
pub(super) fn connected() -> Answer {
    Response::new(AnswerBody { content: Content::Whole(None), _ticket: None })
}

pub(super) fn error(error: ErrorCode, message: impl Into<String>) -> Answer {
    let status = match error {
        ErrorCode::UnknownKey | ErrorCode::NotAllowed => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::Unavailable | ErrorCode::Unknown => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(status, &ErrorMessage { error, message: message.into() }, None)
}

pub(super) fn limited(limit: LimitExceeded) -> Answer {
    let status = match limit.limit {
        LimitKind::BodyBytes | LimitKind::JoinBytes => StatusCode::PAYLOAD_TOO_LARGE,
        LimitKind::BodySeconds => StatusCode::REQUEST_TIMEOUT,
        _ => StatusCode::TOO_MANY_REQUESTS,
    };
    json(status, &limit, None)
}

/// Why a request's body was not read.
pub(super) enum BodyProblem {
    /// Too many bytes; how many were announced or seen.
    TooLarge(u64),
    /// Too slow.
    TooSlow,
    /// The peer gave up.
    Broken,
}

/// Reads a body of at most `limit` bytes within `deadline`. A length that is announced above the limit is refused
/// before a byte is read.
pub(super) async fn read_body(
    request: Request<Incoming>,
    limit: usize,
    deadline: Duration,
) -> Result<Bytes, BodyProblem> {
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(announced) = announced
        && announced > limit as u64
    {
        return Err(BodyProblem::TooLarge(announced));
    }
    let mut body = request.into_body();
    let read = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| BodyProblem::Broken)?.into_data() else { continue };
            if bytes.len() + data.len() > limit {
                return Err(BodyProblem::TooLarge((bytes.len() + data.len()) as u64));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    };
    tokio::time::timeout(deadline, read).await.unwrap_or(Err(BodyProblem::TooSlow))
}
