//! From a request to its answer.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError};

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use koinon_core::ids::{PublicKey, Seq, StatementId};
use tokio::sync::mpsc;

use super::answer::{self, Answer, BodyProblem};
use super::connection::{Connection, Role};
use super::stream;
use super::table::Ticket;
use crate::client::reverse;
use crate::commons::Access;
use crate::limits::LimitKind;
use crate::tls::Alpn;
use crate::wire::{ErrorCode, HeadsMessage, JoinRefusal, JoinRefused, JoinRequest, REVERSE_AUTHORITY};

pub(super) async fn answer(connection: Arc<Connection>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let service = connection.service.clone();
    service.metrics.request();
    let busy = connection.busy();
    let joining = connection.role == Role::Accepted(Alpn::Join)
        && request.method() == Method::POST
        && request.uri().path() == "/v1/join";
    if joining {
        return Ok(join(&connection, request).await);
    }
    if connection.access == Access::Unknown {
        let key = connection.peer.key;
        let message = format!(
            "{key} is not an operator key of a member here, nor of an open application: has the admission been \
             enacted, and was the key replaced?"
        );
        return Ok(answer::error(ErrorCode::UnknownKey, message));
    }
    if !connection.still_allowed() {
        return Ok(answer::error(ErrorCode::NotAllowed, "what this key may read has just changed: connect again"));
    }
    let ticket = match service.table.begin(&connection.peer.key, &service.limits) {
        Ok(ticket) => ticket,
        Err(limit) => {
            service.metrics.limit(limit.limit);
            return Ok(answer::limited(limit));
        }
    };
    let answer = route(&connection, request, ticket).await;
    drop(busy);
    Ok(answer)
}

async fn route(connection: &Arc<Connection>, request: Request<Incoming>, ticket: Ticket) -> Answer {
    let path = request.uri().path().to_owned();
    match *request.method() {
        Method::CONNECT => turn_around(connection, request),
        Method::GET if path == "/v1/heads" => {
            let heads = connection.access.cut(connection.service.commons.heads());
            answer::json(StatusCode::OK, &HeadsMessage { heads }, Some(ticket))
        }
        Method::POST if path == "/v1/stream" => open_stream(connection, request, ticket).await,
        Method::POST if path == "/v1/dial-back" => dial_back(connection, ticket).await,
        Method::GET => {
            if let Some(log) = path.strip_prefix("/v1/logs/") {
                range(connection, log, request.uri().query().unwrap_or_default(), ticket).await
            } else if let Some(id) = path.strip_prefix("/v1/documents/") {
                document(connection, id, ticket).await
            } else {
                not_found()
            }
        }
        _ => not_found(),
    }
}

fn not_found() -> Answer {
    answer::error(ErrorCode::NotFound, "there is no such path: see the peer protocol, version 1")
}

async fn range(connection: &Connection, log: &str, query: &str, ticket: Ticket) -> Answer {
    let service = &connection.service;
    let Ok(log) = log.parse::<PublicKey>() else {
        return answer::error(ErrorCode::BadRequest, "a log is named by an operator key, ed25519:<64 hex digits>");
    };
    let (Ok(from), Ok(limit)) = (number(query, "from", 0), number(query, "limit", u64::MAX)) else {
        return answer::error(ErrorCode::BadRequest, "`from` and `limit` are whole numbers that do not go below zero");
    };
    let Some(last) = connection.access.last_seq(&log) else {
        return answer::error(ErrorCode::NotAllowed, "this log is not served to this key");
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).clamp(1, service.limits.range_entries);
    let entries = match service.commons.range(&log, Seq(from), limit).await {
        Ok(entries) => entries,
        Err(error) => return answer::error(ErrorCode::Unavailable, error.to_string()),
    };
    let mut bytes = BytesMut::new();
    for entry in entries.iter().take_while(|entry| entry.seq <= last) {
        // The reader asks on from the last position that it got, so an answer may end anywhere.
        if bytes.len() > service.limits.range_bytes {
            break;
        }
        bytes.extend_from_slice(&entry.envelope.to_json());
        bytes.extend_from_slice(b"\n");
    }
    service.metrics.served(bytes.len());
    answer::json_lines(bytes.freeze(), ticket)
}

/// A query parameter; the queries of this protocol have no escapes.
fn number(query: &str, name: &str, default: u64) -> Result<u64, std::num::ParseIntError> {
    let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    found.map_or(Ok(default), str::parse)
}

async fn document(connection: &Connection, id: &str, ticket: Ticket) -> Answer {
    let service = &connection.service;
    if !connection.access.reads_documents() {
        return answer::error(ErrorCode::NotAllowed, "documents are not served to this key");
    }
    let Ok(id) = id.parse::<StatementId>() else {
        return answer::error(ErrorCode::BadRequest, "a document is named by its id, sha256:<64 hex digits>");
    };
    match service.commons.document(&id).await {
        Ok(Some(envelope)) => {
            let bytes = Bytes::from(envelope.to_json());
            service.metrics.served(bytes.len());
            answer::json_lines(bytes, ticket)
        }
        Ok(None) => answer::error(ErrorCode::NotFound, format!("{id} is not here")),
        Err(error) => answer::error(ErrorCode::Unavailable, error.to_string()),
    }
}

/// Dials the asking member's endpoints. Only those that its membership names: nobody can have us dial anything else.
async fn dial_back(connection: &Connection, ticket: Ticket) -> Answer {
    let (service, key) = (&connection.service, &connection.peer.key);
    if !matches!(connection.access, Access::Member(_)) {
        return answer::error(ErrorCode::NotAllowed, "only members are dialled back");
    }
    if let Err(limit) = service.table.may_be_dialled_back(key, &service.limits) {
        service.metrics.limit(limit.limit);
        return answer::limited(limit);
    }
    answer::json(StatusCode::OK, &service.addresses.dial_back(service, *key).await, Some(ticket))
}

async fn open_stream(connection: &Arc<Connection>, request: Request<Incoming>, ticket: Ticket) -> Answer {
    let service = connection.service.clone();
    let ticket = match ticket.into_stream(&service.limits) {
        Ok(ticket) => ticket,
        Err(limit) => {
            service.metrics.limit(limit.limit);
            return answer::limited(limit);
        }
    };
    let body = match answer::read_body(request, service.limits.body_bytes, service.timing.body).await {
        Ok(body) => body,
        Err(problem) => return refuse_body(connection, problem, LimitKind::BodyBytes, service.limits.body_bytes),
    };
    let heads = match koinon_core::json::from_slice::<HeadsMessage>(&body, service.limits.body_bytes, "heads") {
        Ok(message) => message.heads,
        Err(error) => return answer::error(ErrorCode::BadRequest, error.to_string()),
    };
    // Room for one line: the reader's pace is the writer's.
    let (lines, receiver) = mpsc::channel(1);
    tokio::spawn(stream::write(connection.clone(), heads, lines));
    answer::endless(receiver, ticket)
}

fn refuse_body(connection: &Connection, problem: BodyProblem, kind: LimitKind, allowed: usize) -> Answer {
    let service = &connection.service;
    match problem {
        BodyProblem::TooLarge(seen) => answer::limited(service.limited(kind, allowed as u64, seen)),
        BodyProblem::TooSlow => {
            let allowed = service.timing.body.as_secs();
            answer::limited(service.limited(LimitKind::BodySeconds, allowed, allowed + 1))
        }
        BodyProblem::Broken => answer::error(ErrorCode::BadRequest, "the request's body broke off"),
    }
}

async fn join(connection: &Connection, request: Request<Incoming>) -> Answer {
    let service = &connection.service;
    if !service.joins.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let allowed = u64::from(service.limits.joins_per_minute);
        return answer::limited(service.limited(LimitKind::JoinsPerMinute, allowed, allowed + 1));
    }
    let body = match answer::read_body(request, service.limits.join_bytes, service.timing.body).await {
        Ok(body) => body,
        Err(problem) => return refuse_body(connection, problem, LimitKind::JoinBytes, service.limits.join_bytes),
    };
    let request = match koinon_core::json::from_slice::<JoinRequest>(&body, service.limits.join_bytes, "a join request")
    {
        Ok(request) => request,
        Err(error) => return answer::error(ErrorCode::BadRequest, error.to_string()),
    };
    let judged = tokio::time::timeout(service.timing.answer, service.commons.join(&connection.peer.key, request)).await;
    match judged {
        Ok(Ok(accepted)) => answer::json(StatusCode::ACCEPTED, &accepted, None),
        Ok(Err(refused)) => answer::json(StatusCode::CONFLICT, &refused, None),
        Err(_) => {
            let refused = JoinRefused {
                reason: JoinRefusal::Unavailable,
                message: "the sponsor's operator did not reach its own API server in time: try again".to_owned(),
            };
            answer::json(StatusCode::CONFLICT, &refused, None)
        }
    }
}

fn turn_around(connection: &Arc<Connection>, request: Request<Incoming>) -> Answer {
    let wanted = request.uri().authority().is_some_and(|authority| authority.as_str() == REVERSE_AUTHORITY);
    if !wanted || connection.role != Role::Accepted(Alpn::Peer) {
        return answer::error(ErrorCode::BadRequest, "only a member's own connection can be turned around");
    }
    if !matches!(connection.access, Access::Member(_)) {
        return answer::error(ErrorCode::NotAllowed, "only members are read from");
    }
    let Some(turned) = connection.turn() else {
        return answer::limited(connection.service.limited(LimitKind::Reversals, 1, 2));
    };
    let (service, peer, ending) = (connection.service.clone(), connection.peer.clone(), connection.ending());
    tokio::spawn(async move {
        reverse::read_back(service, peer, hyper::upgrade::on(request), ending).await;
        drop(turned);
    });
    answer::connected()
}
