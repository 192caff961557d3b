//! The words of the peer protocol, version 1.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/heads` | [`HeadsMessage`] |
//! | `GET /v1/logs/{operator key}?from=N&limit=M` | envelopes, one a line, in the order of the log |
//! | `GET /v1/documents/{statement id}` | one envelope |
//! | `POST /v1/stream` with a [`HeadsMessage`] | [`StreamLine`]s without end |
//! | `POST /v1/join` with a [`JoinRequest`], only over `koinon-join/1` | [`JoinAccepted`] or [`JoinRefused`] |
//! | `POST /v1/dial-back` | [`DialBackMessage`]: whether the asked node reaches the asking one |
//! | `CONNECT koinon-reverse` | an HTTP/2 connection inside the stream, in which the accepting side asks |
//!
//! Whatever is refused is refused with an [`ErrorMessage`] or, for a limit, with
//! [`LimitExceeded`]. Readers skip fields and lines that they do not know, so that a
//! newer peer can say more.

use std::fmt;

use koinon_core::dsse::Envelope;
use koinon_core::ids::{Endpoint, StatementId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::commons::Heads;
use crate::limits::LimitExceeded;

/// Authority of the `CONNECT` request that turns a connection around.
pub(crate) const REVERSE_AUTHORITY: &str = "koinon-reverse:7443";

/// Where every log ends: what a node has, or what a reader has already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadsMessage {
    /// The last entry of each log.
    pub heads: Heads,
}

/// What came of dialling the asking member's endpoints, as the asked member has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialBackMessage {
    /// One an endpoint.
    pub dialled: Vec<DialledBack>,
}

/// What came of dialling one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DialledBack {
    /// What was dialled.
    pub endpoint: Endpoint,
    /// Why the asking member did not answer there under its key; absent if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One line of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamLine {
    /// An entry of some log.
    Entry(Envelope),
    /// A Latest statement of the node that is being read.
    Latest(Envelope),
    /// Where the logs of the node that is being read end.
    Heads(Heads),
    /// Nothing new; the connection lives.
    Ping,
    /// The last line: why the stream ends.
    Bye(Bye),
    /// Something that a newer peer says.
    Unknown,
}

/// Why a node ends a stream or a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Bye {
    /// A limit was met.
    Limit(LimitExceeded),
    /// What this key may read has changed; a new connection is judged anew.
    AccessChanged,
    /// The leaf certificate of one side has expired; a new connection presents the next one.
    LeafExpired,
    /// The node stops.
    Stopping,
    /// A reason of a newer peer.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Bye {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bye::Limit(limit) => limit.fmt(f),
            Bye::AccessChanged => f.write_str("what our key may read there has changed"),
            Bye::LeafExpired => f.write_str("a leaf certificate has expired"),
            Bye::Stopping => f.write_str("it stops"),
            Bye::Unknown => f.write_str("a reason that this version does not know"),
        }
    }
}

/// A line with every field optional: what JSON says, before it means something.
#[derive(Default, Serialize, Deserialize)]
struct RawLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry: Option<Envelope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latest: Option<Envelope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heads: Option<Heads>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ping: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bye: Option<Bye>,
}

impl StreamLine {
    /// Reads one line.
    ///
    /// # Errors
    /// When it is not strict JSON, or a known field holds something else than it should.
    pub fn parse(line: &[u8], limit: usize) -> Result<Self, koinon_core::json::JsonError> {
        let raw: RawLine = koinon_core::json::from_slice(line, limit, "a line of the stream")?;
        Ok(match raw {
            RawLine { entry: Some(entry), .. } => StreamLine::Entry(entry),
            RawLine { latest: Some(latest), .. } => StreamLine::Latest(latest),
            RawLine { heads: Some(heads), .. } => StreamLine::Heads(heads),
            RawLine { bye: Some(bye), .. } => StreamLine::Bye(bye),
            RawLine { ping: Some(_), .. } => StreamLine::Ping,
            _ => StreamLine::Unknown,
        })
    }

    /// The line with its end.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut raw = RawLine::default();
        match self.clone() {
            StreamLine::Entry(envelope) => raw.entry = Some(envelope),
            StreamLine::Latest(envelope) => raw.latest = Some(envelope),
            StreamLine::Heads(heads) => raw.heads = Some(heads),
            StreamLine::Bye(bye) => raw.bye = Some(bye),
            StreamLine::Ping => raw.ping = Some(0),
            StreamLine::Unknown => {}
        }
        let mut bytes = to_json(&raw);
        bytes.push(b'\n');
        bytes
    }
}

/// What somebody with an invite sends.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    /// The one-time secret of the invite.
    pub secret: String,
    /// The application, signed by the applicant's governance key and by its operator key.
    pub application: Envelope,
}

impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest").field("application", &self.application).finish_non_exhaustive()
    }
}

/// The sponsor holds the application; members vote on it next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinAccepted {
    /// The id of the application that was taken.
    pub application: StatementId,
}

/// Why an application was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("the sponsor refused the application ({}): {message}", reason.as_str())]
#[serde(rename_all = "camelCase")]
pub struct JoinRefused {
    /// The reason, for programs.
    pub reason: JoinRefusal,
    /// The reason, for people.
    pub message: String,
}

/// The reasons for which an application is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JoinRefusal {
    /// Somebody has used the invite already.
    InviteUsed,
    /// The invite's time is over.
    InviteExpired,
    /// The sponsor knows no invite with this secret: it is another sponsor's or cooperative's, or mistyped.
    InviteUnknown,
    /// The invite was made for another member.
    WrongMember,
    /// The application is for another cooperative.
    WrongCooperative,
    /// The application is not one: its signatures, its form or its content.
    ApplicationInvalid,
    /// The connection was not made with the operator key that the application names.
    WrongKey,
    /// The member id or one of the keys is taken.
    Taken,
    /// The sponsor cannot judge it now.
    Unavailable,
    /// A reason of a newer sponsor.
    #[serde(other)]
    Unknown,
}

impl JoinRefusal {
    /// The name as it stands on the wire and in labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            JoinRefusal::InviteUsed => "inviteUsed",
            JoinRefusal::InviteExpired => "inviteExpired",
            JoinRefusal::InviteUnknown => "inviteUnknown",
            JoinRefusal::WrongMember => "wrongMember",
            JoinRefusal::WrongCooperative => "wrongCooperative",
            JoinRefusal::ApplicationInvalid => "applicationInvalid",
            JoinRefusal::WrongKey => "wrongKey",
            JoinRefusal::Taken => "taken",
            JoinRefusal::Unavailable => "unavailable",
            JoinRefusal::Unknown => "unknown",
        }
    }
}

/// The answer to a request that is refused for another reason than a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct ErrorMessage {
    /// The reason, for programs.
    pub error: ErrorCode,
    /// The reason, for people.
    pub message: String,
}

/// The reasons for which a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorCode {
    /// The key belongs to no member and to no applicant.
    UnknownKey,
    /// The key may read, but not this.
    NotAllowed,
    /// There is no such path, log or document.
    NotFound,
    /// The request is not one.
    BadRequest,
    /// The node cannot answer now.
    Unavailable,
    /// A reason of a newer peer.
    #[serde(other)]
    Unknown,
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    // The types of this module have string keys and no floats, so writing them cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_they_were_sent() {
        let envelope = Envelope { payload_type: "t".into(), payload: String::new(), signatures: Vec::new() };
        for line in [
            StreamLine::Entry(envelope.clone()),
            StreamLine::Latest(envelope),
            StreamLine::Heads(Heads::new()),
            StreamLine::Ping,
            StreamLine::Bye(Bye::AccessChanged),
        ] {
            let bytes = line.to_bytes();
            assert_eq!(bytes.last(), Some(&b'\n'));
            assert_eq!(StreamLine::parse(&bytes, 1000).unwrap(), line);
        }
    }

    #[test]
    fn a_newer_peer_may_say_more() {
        assert_eq!(StreamLine::parse(br#"{"weather":"fair"}"#, 100).unwrap(), StreamLine::Unknown);
        assert_eq!(StreamLine::parse(br#"{"ping":7,"weather":"fair"}"#, 100).unwrap(), StreamLine::Ping);
        assert_eq!(StreamLine::parse(br#"{"bye":"bored"}"#, 100).unwrap(), StreamLine::Bye(Bye::Unknown));
        let refusal: JoinRefused = serde_json::from_str(r#"{"reason":"mercury","message":"retrograde"}"#).unwrap();
        assert_eq!(refusal.reason, JoinRefusal::Unknown);
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        assert!(StreamLine::parse(br#"{"ping":1,"ping":2}"#, 100).is_err());
        assert!(StreamLine::parse(br#"{"ping":1} {"ping":2}"#, 100).is_err());
        assert!(StreamLine::parse(br#"{"ping":1}"#, 5).is_err());
    }
}
