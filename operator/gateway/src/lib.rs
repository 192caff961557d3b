//! The OpenAI-compatible gateway of a member.
//!
//! ```text
//!                 ┌──────────────── watches: Placements, InferenceJobs, Members, Cooperative, two Secrets
//!                 ▼
//!           RoutingTable (a pure function of them) ─────────────┐
//!                 │                                             │
//! application ─▶ app ─▶ dispatch ─▶ engine of this cluster      │
//!   API key        └──────────────▶ another member's gateway ─▶ member ─▶ engine
//!                                   mutual TLS, placement, epoch
//! ```
//!
//! It writes nothing to the API server and goes on with its last table while that is down. It never answers with another
//! model, never routes to two epochs of one replica, and makes no second attempt after the first byte of an answer.

pub mod app;
mod args;
pub mod connections;
pub mod dispatch;
pub mod idle;
pub mod intake;
pub mod keys;
pub mod load;
pub mod member;
pub mod metrics;
pub mod openai;
pub mod relay;
pub mod routing;
pub mod run;
pub mod shares;
pub mod sse;
mod unread;
pub mod upstream;
pub mod usage;
mod watch;

pub use args::GatewayArgs;
pub use run::{Gateway, GatewayError, run};
