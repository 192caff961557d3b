//! What can go wrong with a peer that is being read.

use std::fmt;
use std::io;

use koinon_core::ids::{Endpoint, PublicKey};
use koinon_core::json::JsonError;
use thiserror::Error;

use crate::limits::LimitExceeded;
use crate::tls::{PeerRefusal, TlsError};
use crate::wire::{Bye, ErrorMessage};

/// Why a peer could not be reached.
#[derive(Debug, Error)]
pub enum DialError {
    /// The name has no address.
    #[error("looking up {target} failed: check the member's endpoint and this cluster's DNS")]
    Name {
        /// What was dialled.
        target: Target,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nothing answers there.
    #[error("connecting to {target} failed: check the route, the firewalls and the load balancer on the way")]
    Connect {
        /// What was dialled.
        target: Target,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The wait was over before this was done.
    #[error("{doing} {target} took longer than {seconds} s")]
    Timeout {
        /// What was being done.
        doing: &'static str,
        /// What was dialled.
        target: Target,
        /// How long it might have taken.
        seconds: u64,
    },
    /// The proxy does not connect.
    #[error("no tunnel to {target}: {answer} (allow it in the proxy, or name the host in NO_PROXY)")]
    Proxy {
        /// What was dialled.
        target: Target,
        /// What it said, cut.
        answer: String,
    },
    /// Whoever answers is not the peer.
    #[error("whoever answers at {target} is not the peer: {refusal}")]
    Certificate {
        /// What was dialled.
        target: Target,
        /// Why its certificate was not taken.
        refusal: PeerRefusal,
    },
    /// The handshake failed otherwise.
    #[error(
        "the TLS handshake with {target} failed: either it refuses our certificate, or something on the way \
         terminates TLS 1.3 (ask for TLS passthrough)"
    )]
    Handshake {
        /// What was dialled.
        target: Target,
        /// What TLS said.
        #[source]
        source: io::Error,
    },
    /// It speaks TLS under the right key and not our protocol.
    #[error("{target} does not speak {wanted}: is its operator older than version 1 of the protocol?")]
    Protocol {
        /// What was dialled.
        target: Target,
        /// The protocol that was offered.
        wanted: String,
    },
    /// TLS could not be set up on this side.
    #[error("setting up TLS to dial a peer failed")]
    Setup(#[from] TlsError),
    /// The member names no address.
    #[error("the peer names no endpoint: it can only be read when it dials us")]
    NoEndpoint,
}

/// What was dialled, and through which proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The peer's endpoint.
    pub endpoint: Endpoint,
    /// Host and port of the proxy on the way, without credentials.
    pub proxy: Option<String>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.proxy {
            Some(proxy) => write!(f, "{} through the proxy {proxy}", self.endpoint),
            None => self.endpoint.fmt(f),
        }
    }
}

/// Why a session that reads from a peer ended, or none began.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The peer could not be reached.
    #[error(transparent)]
    Dial(Box<DialError>),
    /// The connection is there, and a question has no answer.
    #[error("{path} was not answered within {seconds} s, although the peer accepts connections")]
    NoAnswer {
        /// What was asked.
        path: String,
        /// How long we waited.
        seconds: u64,
    },
    /// The stream has stopped saying that it lives.
    #[error("the stream was silent for {seconds} s")]
    Silent {
        /// How long we waited.
        seconds: u64,
    },
    /// The peer's TLS turned our certificate down.
    #[error("the peer refuses our certificate ({alert}): compare the clocks, and see its logs for the reason")]
    CertificateRefused {
        /// The alert that it sent.
        alert: String,
    },
    /// The connection broke off.
    #[error("the connection broke off: {0}")]
    Broken(String),
    /// The peer refuses.
    #[error("the peer refuses: {0}")]
    Refused(ErrorMessage),
    /// We met a limit of the peer.
    #[error("the peer limits us: {0}")]
    Limited(LimitExceeded),
    /// The peer said goodbye.
    #[error("the peer ended the stream: {0}")]
    Ended(Bye),
    /// What the peer says cannot be read.
    #[error("what the peer says on {path} cannot be read")]
    Garbage {
        /// What was asked.
        path: String,
        /// What is wrong with it.
        #[source]
        source: JsonError,
    },
    /// The peer answers with more than any answer may have.
    #[error("an answer of the peer is too large: {0}")]
    TooLarge(LimitExceeded),
    /// The peer delivers statements that do not hold, again and again.
    #[error("the peer delivered {count} statements that do not hold, the last one because {last}")]
    BadStatements {
        /// How many.
        count: u32,
        /// What is wrong with the last one.
        last: String,
    },
    /// The leaf certificate under which the connection was made has expired.
    #[error("the leaf certificate of {0} has expired: the next connection needs a new one")]
    LeafExpired(PublicKey),
    /// This side wants a new session.
    #[error("the session was ended on this side: {0}")]
    Dropped(String),
}

impl From<DialError> for SessionError {
    fn from(error: DialError) -> Self {
        SessionError::Dial(Box::new(error))
    }
}

impl SessionError {
    /// A closed set of words for metrics, events and conditions.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            SessionError::Dial(error) => match **error {
                DialError::Certificate { .. } => "WrongCertificate",
                DialError::Proxy { .. } => "ProxyRefuses",
                DialError::NoEndpoint => "NoEndpoint",
                DialError::Handshake { .. } | DialError::Protocol { .. } => "HandshakeFailed",
                DialError::Name { .. }
                | DialError::Connect { .. }
                | DialError::Timeout { .. }
                | DialError::Setup(_) => "Unreachable",
            },
            SessionError::NoAnswer { .. } | SessionError::Silent { .. } => "Silent",
            SessionError::CertificateRefused { .. } => "CertificateRefused",
            SessionError::Broken(_) => "Broken",
            SessionError::Refused(_) => "Refused",
            SessionError::Limited(_) => "Limited",
            SessionError::Ended(_) => "Ended",
            SessionError::Garbage { .. } | SessionError::TooLarge(_) | SessionError::BadStatements { .. } => "Garbage",
            SessionError::LeafExpired(_) => "LeafExpired",
            SessionError::Dropped(_) => "Dropped",
        }
    }
}

/// Longest text about a foreign error that goes into conditions and logs.
const MAX_SHOWN_CHARS: usize = 500;

/// The error and what caused it, in one line for conditions and logs.
#[must_use]
pub fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    // Chains are short; the bound keeps a foreign error that is its own source from hanging us.
    for _ in 0..16 {
        let Some(source) = next else { break };
        let said = source.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = source.source();
    }
    shown(&text)
}

/// What a peer has a hand in, safe to print.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_CHARS).collect()
}
