//! Joining: one application to the sponsor that an invite names, then its commons on the same key.

use std::collections::BTreeMap;

use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use koinon_core::dsse::Envelope;
use koinon_core::ids::{Endpoint, PublicKey, Seq, StatementId};
use thiserror::Error;

use super::PeerAddress;
use super::dial::{Proxies, dial};
use super::error::{DialError, SessionError, shown};
use super::transport::{Transport, request};
use crate::commons::Heads;
use crate::limits::{Limits, Timing};
use crate::tls::{Alpn, TlsIdentity};
use crate::wire::{JoinAccepted, JoinRefused, JoinRequest, to_json};

/// The sponsor as an invite names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sponsor {
    /// Where it is dialled.
    pub endpoints: Vec<Endpoint>,
    /// The operator key that must answer there.
    pub key: PublicKey,
}

impl Sponsor {
    /// How a [`Dialler`](super::Dialler) follows the sponsor's commons while the members vote.
    #[must_use]
    pub fn as_peer(&self) -> BTreeMap<PublicKey, PeerAddress> {
        let address = PeerAddress { endpoints: self.endpoints.clone(), gateways: Vec::new(), protocol: Alpn::Join };
        BTreeMap::from([(self.key, address)])
    }
}

/// Why an application did not arrive.
#[derive(Debug, Error)]
pub enum JoinError {
    /// The sponsor took the request and refused it.
    #[error(transparent)]
    Refused(#[from] JoinRefused),
    /// The request is larger than any sponsor takes.
    #[error("the application has {seen} bytes with its secret, and a sponsor takes {allowed}: shorten its texts")]
    TooLarge {
        /// What a sponsor takes.
        allowed: usize,
        /// What this request has.
        seen: usize,
    },
    /// The sponsor could not be asked.
    #[error("asking the sponsor failed")]
    Session(#[from] SessionError),
}

/// A connection over which a newcomer applies and reads.
pub struct JoinSession {
    transport: Transport,
    limits: Limits,
    timing: Timing,
}

impl JoinSession {
    /// Connects to the sponsor; nobody but the holder of its key is believed.
    ///
    /// # Errors
    /// When no endpoint answers with the sponsor's key; the error is the last endpoint's.
    pub async fn connect(
        sponsor: &Sponsor,
        identity: &TlsIdentity,
        proxies: &Proxies,
        limits: Limits,
        timing: Timing,
    ) -> Result<Self, SessionError> {
        let mut last = DialError::NoEndpoint;
        for endpoint in &sponsor.endpoints {
            match dial(endpoint, sponsor.key, Alpn::Join, identity, proxies, &timing).await {
                Ok((tls, peer)) => {
                    let transport = Transport::over(TokioIo::new(tls), peer, &limits, &timing).await?;
                    return Ok(JoinSession { transport, limits, timing });
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    /// Applies. The same application may be sent again with the same secret, should the answer be lost.
    ///
    /// # Errors
    /// When the sponsor refuses or cannot be asked.
    pub async fn apply(&self, application: &JoinRequest) -> Result<JoinAccepted, JoinError> {
        let path = "/v1/join";
        let body = to_json(application);
        if body.len() > self.limits.join_bytes {
            return Err(JoinError::TooLarge { allowed: self.limits.join_bytes, seen: body.len() });
        }
        // The sponsor writes to its own API server before it answers.
        let patient = Timing { answer: self.timing.answer * 2, ..self.timing.clone() };
        let answer = self.transport.send(request(Method::POST, path, body)?, &patient).await?;
        match answer.status() {
            StatusCode::ACCEPTED => Ok(self.read(path, answer).await?),
            StatusCode::CONFLICT => {
                let refused: JoinRefused = self.read(path, answer).await?;
                Err(JoinError::Refused(JoinRefused { message: shown(&refused.message), ..refused }))
            }
            _ => {
                let refusal = self.transport.refusal(path, answer, &self.limits, &self.timing).await;
                Err(JoinError::Session(refusal))
            }
        }
    }

    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        answer: hyper::Response<hyper::body::Incoming>,
    ) -> Result<T, SessionError> {
        let body = self.transport.whole(path, answer, &self.limits, &self.timing).await?;
        koinon_core::json::from_slice(&body, self.limits.answer_bytes, "the sponsor's answer")
            .map_err(|source| SessionError::Garbage { path: path.to_owned(), source })
    }

    /// Where the sponsor's logs end. Whoever joins checks here that the history holds the invite's head.
    ///
    /// # Errors
    /// When the sponsor does not answer, or the key may not read yet.
    pub async fn heads(&self) -> Result<Heads, SessionError> {
        self.transport.heads(&self.limits, &self.timing).await
    }

    /// Entries of a log, unverified.
    ///
    /// # Errors
    /// When the sponsor does not answer, or the key may not read yet.
    pub async fn range(&self, log: &PublicKey, from: Seq, limit: usize) -> Result<Vec<Envelope>, SessionError> {
        self.transport.range(log, from, limit, &self.limits, &self.timing).await
    }

    /// A document, unverified; `None` if the sponsor has it not.
    ///
    /// # Errors
    /// When the sponsor does not answer, or the key may not read yet.
    pub async fn document(&self, id: &StatementId) -> Result<Option<Envelope>, SessionError> {
        self.transport.document(id, &self.limits, &self.timing).await
    }
}
