//! Pinned TLS and identity, the peer endpoint and its client.
//!
//! A node *serves* its commons to those whom [`Commons::access`] allows, and *reads* from its peers. Nobody pushes: the
//! reader sets the pace. Both happen over one connection, whoever dialled it:
//!
//! ```text
//!   dialler                                                acceptor
//!   Dialler ── TLS 1.3, both leaves under operator keys ──▶ PeerEndpoint
//!      │  HTTP/2 client ───────── asks ─────────▶ HTTP/2 server  │
//!      │     └─ CONNECT koinon-reverse ─────────────────┐        │
//!      │  HTTP/2 server ◀──────── asks ───────── HTTP/2 client   │   (inside that stream)
//! ```
//!
//! Depends on `koinon-core` only. It knows no Kubernetes; what is stored, and who may read, is behind [`Commons`].

pub mod client;
mod clock;
pub mod commons;
pub mod endpoint;
pub mod limits;
pub mod metrics;
mod service;
pub mod tls;
pub mod wire;

pub use clock::Clock;
pub use commons::{Access, Commons, Heads};
pub use service::PeerService;
