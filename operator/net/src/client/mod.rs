//! Reading from peers: one task each, so that no peer can slow down another.

mod dial;
pub(crate) mod dial_back;
mod dialler;
mod error;
mod join;
mod lines;
pub(crate) mod reverse;
mod session;
pub(crate) mod transport;

use std::sync::Arc;

use koinon_core::ids::{Endpoint, PublicKey};
use koinon_core::statement::Statement;

use crate::commons::Heads;
use crate::tls::Alpn;

pub use dial::{Proxies, dial_gateway};
pub use dialler::Dialler;
pub use error::{DialError, SessionError, Target, one_line};
pub use join::{JoinError, JoinSession, Sponsor};

/// Something that a peer said, or that happened to the connection with it.
#[derive(Debug, Clone)]
pub struct PeerEvent {
    /// The operator key that the connection has proven.
    pub from: PublicKey,
    /// What.
    pub news: News,
}

/// What a peer said, or what happened to the connection with it.
#[derive(Debug, Clone)]
pub enum News {
    /// A session has begun: the peer answers.
    Up,
    /// The session has ended, or none could begin; told once until the reason's category changes.
    Down {
        /// Why.
        reason: Arc<SessionError>,
    },
    /// Where the peer's logs end.
    Heads(Heads),
    /// An entry of any log, that was not held when it came. Its signature and form hold; its place in the log is for
    /// the consumer to judge.
    Entry(Box<Statement>),
    /// A Latest statement, signed by `from` and addressed to this member.
    Latest(Box<Statement>),
}

/// How a peer is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// Where to dial; empty for a member that only dials itself.
    pub endpoints: Vec<Endpoint>,
    /// Where its gateway answers. Dialled only for a peer that asks to be dialled back.
    pub gateways: Vec<Endpoint>,
    /// [`Alpn::Peer`] among members, [`Alpn::Join`] while this node waits to be admitted.
    pub protocol: Alpn,
}
